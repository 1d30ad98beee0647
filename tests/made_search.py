"""A small task of the test's own, and searches of it that take a second."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from conftest import motif_examples

SIZES = {"train": 48, "validation": 24, "test": 24}
# A search of a few trials on the small task; settings that are not searched take their published values.
QUICK = {"init": "random:tiny", "epochs": 3, "device": "cpu", "seed": 0}
SPACE = {"space": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "batch_size": [8, 16]}}


def made_files(folder: Path) -> dict[str, Path]:
    """The parts of a task whose windows have a motif or not."""
    files = {}
    for number, (part, size) in enumerate(SIZES.items()):
        files[part] = folder / f"{part}.csv"
        with files[part].open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sequence", "label"])
            writer.writerows([it.windows[0].sequence, it.label] for it in motif_examples(size, seed=number))
    return files


def summary(results: Path, model: str = "cnn") -> dict[str, Any]:
    """The search.json of a model's only search."""
    (path,) = results.glob(f"search/*/{model}/*/search.json")
    return json.loads(path.read_text())


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    """A search.json without the seconds that things took."""
    trials = [{name: value for name, value in trial.items() if name != "seconds"} for trial in content["trials"]]
    cost = {name: value for name, value in content["cost"].items() if name != "seconds"}
    return {**content, "trials": trials, "cost": cost, "seconds": None}
