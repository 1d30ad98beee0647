"""A small genome of repeats, in which letters tell each other, and models that learn to read it in seconds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from harness.engine.pretrain import pretrain
from harness.progress import Reporter


def repeats(letters: int = 4, unit: int = 12, length: int = 30_000, seed: int = 1) -> str:
    """A unit of random letters, of the first ``letters`` of ACGT, in tandem, broken by five random letters here and there."""
    rng = np.random.default_rng(seed)
    repeated, parts = rng.integers(letters, size=unit), []
    while sum(map(len, parts)) < length:
        parts += [np.tile(repeated, 30)[: rng.integers(100, 300)], rng.integers(4, size=5)]
    return "".join("ACGT"[letter] for letter in np.concatenate(parts))


def write_genome(path: Path, **how: Any) -> Path:
    path.write_text(f">chr1\n{repeats(**how)}\n")
    return path


class Interrupted(Reporter):
    """A user who presses Ctrl-C after a number of steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def report(self, progress):
        if progress.step == self.after:
            raise KeyboardInterrupt


def learned(model: str, data: Path, out: Path | None, **changes: Any) -> Path:
    """The folder of a pretraining of a tiny model on windows of 64 nt, 16 a step."""
    arguments = {"init": "random:tiny", "context": 64, "tokens_per_step": 1024, "device": "cpu", "reporter": Reporter()}
    settings = {"precision": "float32"} | changes.pop("settings", {})
    return pretrain(model, data, out=out, **(arguments | {"settings": settings} | changes))


def scores(folder: Path) -> dict[str, float]:
    return json.loads((folder / "pretrain.json").read_text())["scores"]


def curve(folder: Path) -> list[dict[str, str]]:
    """The rows of loss.csv without the time they took."""
    with open(folder / "loss.csv", newline="") as file:
        return [{name: value for name, value in row.items() if "seconds" not in name} for row in csv.DictReader(file)]
