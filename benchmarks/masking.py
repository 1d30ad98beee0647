"""Does it matter how k-mers are hidden? DNABERT's spans, GeneMask's PMI by content, and by position as it was released.

    python benchmarks/masking.py --genome FOLDER --out masking [--tasks QKI PTBP1 …] [--steps 1500] [--seeds 5]

A tiny 6-mer BERT is pretrained from the same initial weights on the same number of letters of FOLDER, a genome or stretches of
one, once per objective, and with spans a second time, drawn by another seed: what these two differ by is noise. Each is then
fine-tuned on the tasks (in HARNESS_DATA), as are the initial weights, and `harness compare` says what can be told apart. The
same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from safetensors.torch import save_file

ROOT = Path(__file__).parents[1]
# Name of the folder → objective, its options, and the seed of what is drawn.
ARMS = {
    "span": ("span", {}, 0),
    "span-again": ("span", {}, 1),
    "pmi-content": ("pmi", {"ranks": "content"}, 0),
    "pmi-position": ("pmi", {"ranks": "position"}, 0),
}


def initial(folder: Path) -> Path:
    """The initial weights, as a checkpoint."""
    import torch

    from harness.adapters.genemask import GeneMask

    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        model = GeneMask.from_checkpoint(size="tiny")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in model.checkpoint_files().items():
            (folder / name).write_text(text, encoding="utf-8")
        save_file({name: it.clone().contiguous() for name, it in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genome", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("masking"))
    parser.add_argument("--tasks", nargs="+", default=["rbp"])
    for name, value in (("steps", 1500), ("tokens-per-step", 8192), ("context", 128), ("seeds", 5), ("epochs", 8), ("jobs", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    given = parser.parse_args()

    from harness.engine.pretrain import pretrain
    from harness.progress import Reporter

    start = initial(given.out / "untrained")
    table = given.out / "pmi.csv"
    if not table.exists():
        subprocess.run([*harness(), "data", "pmi", str(given.genome), "--out", str(table)], check=True)
    for name, (objective, options, seed) in ARMS.items():
        folder = pretrain(
            "genemask",
            given.genome,
            objective=objective,
            options=options | ({"pmi": str(table)} if objective == "pmi" else {}),
            checkpoint=str(start),
            context=given.context,
            steps=given.steps,
            tokens_per_step=given.tokens_per_step,
            evaluate_every=max(given.steps // 10, 1),
            settings={"learning_rate": given.learning_rate, "batch_size": 32},
            seed=seed,
            out=given.out / name,
            reporter=Reporter(),
        )
        scores = json.loads((folder / "pretrain.json").read_text())["scores"]
        print(name, json.dumps(scores), flush=True)
    study = given.out / "study.toml"
    lines = [f"tasks = {json.dumps(given.tasks)}", f'seeds = "0..{given.seeds - 1}"', f"budget = {{max_epochs = {given.epochs}}}"]
    lines += ["recipe = {learning_rate = 1e-3, batch_size = 32}", "model = ["]  # what so small a model needs
    for name in ("untrained", *ARMS):
        lines.append(f'  {{name = "genemask", checkpoint = "{given.out / name}", options = {{pooling = "mean"}}}},')
    study.write_text("\n".join([*lines, "]", ""]))
    results = given.out / "results"
    subprocess.run([*harness(), "sweep", str(study), "--jobs", str(given.jobs), "--results", str(results)], check=True)
    for command in ("table", "compare"):
        subprocess.run([*harness(), command, "--results", str(results)], check=True)


def harness() -> list[str]:
    os.environ["PYTHONPATH"] = str(ROOT)
    return [sys.executable, "-m", "harness"]


if __name__ == "__main__":
    main()
