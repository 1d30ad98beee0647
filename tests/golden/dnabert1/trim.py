"""Cut folders of upstream outputs down to what the repository keeps.

    python tests/golden/dnabert1/trim.py FOLDER_OF_PARITY_FOLDERS

A few cases stay, and of the word embeddings the rows that these cases use; the other rows become zero, and logits are kept
for the used rows only (``rows.npy`` in ``weights.npz``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1]
KEPT = ("len7", "len41", "withN40", "short5", "batch_mixed", "alibi16")
READ = (
    "hidden_act",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
)
WORDS = "bert.embeddings.word_embeddings.weight"


def trim(folder: Path, target: Path) -> None:
    described = json.loads((folder / "cases.json").read_text())
    archive = np.load(folder / "arrays.npz")
    cases = [
        {key: case[key] for key in ("name", "kind", "sequences", "arrays") if key in case}
        for case in described["cases"]
        if case["name"] in KEPT
    ]
    for case in cases:
        case["arrays"] = {name: key for name, key in case["arrays"].items() if not name.startswith(("head_", "nomask_"))}
    rows = np.unique(np.concatenate([archive[case["arrays"]["input_ids"]].ravel() for case in cases if "sequences" in case]))
    arrays = {key: archive[key] for case in cases for key in case["arrays"].values()}
    arrays = {key: value[..., rows] if key.endswith(".logits") else value for key, value in arrays.items()}
    weights = torch.load(folder / "checkpoint" / "pytorch_model.bin", map_location="cpu", weights_only=True)
    words = torch.zeros_like(weights[WORDS])
    words[rows] = weights[WORDS][rows]
    kept = {name: tensor.numpy() for name, tensor in weights.items() if not name.startswith("cls.predictions.decoder.weight")}
    target.mkdir(exist_ok=True)
    np.savez_compressed(target / "arrays.npz", **arrays)
    np.savez_compressed(target / "weights.npz", **{**kept, WORDS: words.numpy(), "rows": rows})
    config = json.loads((folder / "checkpoint" / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({key: config[key] for key in READ}, indent=1) + "\n")
    (target / "cases.json").write_text(json.dumps({"upstream": described["upstream"], "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    for name in ("dnabert1", "genemask", "dnabert2"):
        trim(Path(sys.argv[1]) / name, GOLDEN / name)
