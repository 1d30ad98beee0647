"""Write the checkpoints of this folder and what MSAMamba's plain definition makes of some alignments.

    python tests/golden/msamamba/make.py

``raw_reshape`` has the names and the layout of the authors' file, ``column`` those of the adapter. Both are random and small.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from harness.adapters import _msamamba_definition as definition
from harness.adapters.msamamba import MSAMamba

GOLDEN = Path(__file__).parent
BLOCKS, WIDTH = 2, 20
SIZES = {"one_row": (2, 1, 33), "few_rows": (2, 5, 16), "many_rows": (1, 12, 24)}  # B, S, L
# Our names → the authors'.
AUTHORS = (
    (r"^(embed|layers)\.", r"mamba.\1."),
    (r"^(mamba\.layers\.\d+)\.(mixer|norm)\.", r"\1.mamba.\2."),
    (r"\.attention\.qkv\.", ".att.qkv."),
    (r"\.attention\.out\.", ".att.o."),
    (r"\.mlp\.0\.", ".transition.lin1."),
    (r"\.mlp\.2\.", ".transition.lin2."),
    (r"\.scale$", ".norm.scale"),
    (r"^lm_head\.", "lmhead."),
)


def random_weights(layout: str) -> dict[str, torch.Tensor]:
    """Tensors by our names; norms and biases away from where they start, so that a wrong one shows."""
    torch.manual_seed(0)
    weights = MSAMamba(BLOCKS, WIDTH, layout, "last", 0.5).state_dict()
    for name, tensor in weights.items():
        if name.endswith(".scale") or ".norm.weight" in name:
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("bias") and "dt_proj" not in name:
            tensor.normal_(std=0.3)
    return weights


def authors_name(name: str) -> str:
    for pattern, replacement in AUTHORS:
        name = re.sub(pattern, replacement, name)
    return name


def main() -> None:
    rng = np.random.default_rng(0)
    arrays = {f"{case}.tokens": rng.integers(0, 6, size, dtype=np.int8) for case, size in SIZES.items()}
    for layout in ("raw_reshape", "column"):
        weights = random_weights(layout)
        for case in SIZES:
            hidden = definition.encode(weights, torch.from_numpy(arrays[f"{case}.tokens"]))
            arrays[f"{layout}.{case}.hidden_row0"] = hidden[:, 0].numpy()
            arrays[f"{layout}.{case}.logits_row0"] = definition.logits(weights, hidden[:, 0]).numpy()
        stored = {authors_name(name) if layout == "raw_reshape" else name: tensor for name, tensor in weights.items()}
        (GOLDEN / layout).mkdir(exist_ok=True)
        save_file(stored, GOLDEN / layout / "model.safetensors")
    np.savez_compressed(GOLDEN / "arrays.npz", **arrays)


if __name__ == "__main__":
    main()
