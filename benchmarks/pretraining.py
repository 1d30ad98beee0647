"""MSAMamba pretrained on all rows, and with half of the auxiliary rows left out of each scan, side by side (Figure 5 of its paper).

    python benchmarks/pretraining.py [--msa FILE] [--rows N] [--context N] [--tokens-per-step N] [--steps N] [--rounds N] [--init random:base]

The settings take turns, each in a fresh process, so that each has its own peak memory. In one round they see the same windows
with the same bases hidden. Without --msa the alignment is simulated. Prints seconds a step, peak memory, held-out loss and
accuracy; writes the curves of all rounds to OUT/pretraining.csv and those of the first round to OUT/pretraining.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
sys.path.insert(0, str(Path(__file__).parents[1]))

SETTINGS = {"full": "0", "half of the rows": "0.5"}  # mask_rows


def simulate(folder: Path, rows: int, windows: int = 40, context: int = 512) -> Path:
    """A simulated alignment (tasks/_evolve.py): stretches of 512 nt, evolved independently, end to end."""
    from harness.tasks._evolve import Evolution, draw

    letters = draw(Evolution(rate=0.1, stretch=30, swapped=0, seed=0), windows, context).alignments[:, :rows]
    lines = letters.transpose(1, 0, 2).reshape(rows, -1)
    path = folder / f"simulated.chr1_0_{lines.shape[1]}.fa"
    path.write_text("".join(f">s{number}\n{line.tobytes().decode()}\n" for number, line in enumerate(lines)))
    return path


def train(given: argparse.Namespace, msa: Path, mask_rows: str, seed: int, out: Path) -> int:
    """Pretrain; return the peak memory of this process before it began, in bytes."""
    from harness.engine import hardware
    from harness.engine.pretrain import pretrain
    from harness.progress import Reporter

    device = hardware.pick_device("auto")
    before = hardware.peak_memory(device)
    pretrain(
        "msamamba",
        msa=msa,
        context=given.context,
        steps=given.steps,
        tokens_per_step=given.tokens_per_step,
        evaluate_every=max(given.steps // 4, 1),
        init=given.init,
        options={"mask_rows": mask_rows},
        settings={"learning_rate": given.learning_rate},
        seed=seed,
        out=out,
        reporter=Reporter(),
    )
    return before


def history(folder: Path) -> list[dict[str, float]]:
    with open(folder / "loss.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--msa", type=Path)
    for name, default in (("rows", 30), ("context", 128), ("tokens-per-step", 1024), ("steps", 20), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--init", default="random:tiny")
    parser.add_argument("--out", type=Path, default=Path())
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    curves: dict[str, list[list[dict[str, float]]]] = {name: [] for name in SETTINGS}
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as scratch:
        msa = given.msa or simulate(Path(scratch), given.rows)
        for number in range(given.rounds):
            for name, mask_rows in SETTINGS.items():
                folder = Path(scratch, f"{mask_rows}-{number}")
                with ProcessPoolExecutor(1, mp_context=spawn) as fresh:
                    before = fresh.submit(train, given, msa, mask_rows, number, folder).result()
                record = json.loads((folder / "pretrain.json").read_text())
                timing, scores = record["timing"], record["scores"]
                curves[name].append(history(folder))
                seconds[name].append(timing["seconds_per_step"])
                if not number and mask_rows == "0":
                    print(
                        f"{record['data']['rows']} rows, {given.tokens_per_step:,} letters a step in windows of {given.context}"
                    )
                print(
                    f"{name:>16}, round {number}: {timing['seconds_per_step']:.3f} s a step, peak memory "
                    f"{timing['peak_memory_bytes'] / 2**20:,.0f} MiB ({before / 2**20:,.0f} before it began), held-out loss "
                    f"{scores['validation_loss']:.4f}, accuracy {scores['validation_accuracy']:.4f} (vote {scores['yardstick_accuracy']:.4f})",
                    flush=True,
                )
    ratios = [full / half for full, half in zip(*seconds.values(), strict=True)]
    print(f"full takes {', '.join(f'{ratio:.2f}' for ratio in ratios)} times as long, round by round")
    write(given.out, curves)


def write(out: Path, curves: dict[str, list[list[dict[str, float]]]]) -> None:
    """Write the curves of all rounds as CSV, and those of the first round as PNG."""
    from harness.engine.pretrain_folder import COLUMNS, plot

    out.mkdir(parents=True, exist_ok=True)
    with open(out / "pretraining.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["setting", "round", *COLUMNS], lineterminator="\n")
        writer.writeheader()
        for name, rounds in curves.items():
            writer.writerows({"setting": name, "round": number} | row for number, rows in enumerate(rounds) for row in rows)
    plot(out / "pretraining.png", {name: rounds[0] for name, rounds in curves.items()})
    print(f"wrote {out / 'pretraining.csv'} and {out / 'pretraining.png'}")


if __name__ == "__main__":
    main()
