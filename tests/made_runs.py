"""Made-up runs with predictions in a results folder, for the tests of comparisons."""

from __future__ import annotations

import numpy as np
from made_records import record

from harness.evidence.metrics import scores
from harness.evidence.records import Predictions, RunRecord, write


def answers(labels, strength: float, seed: int) -> np.ndarray:
    """Probabilities (N, 2) that lean to the right class the more, the larger ``strength`` is."""
    noise = np.random.default_rng(seed).normal(size=len(labels))
    second = 1 / (1 + np.exp(-strength * (2 * np.asarray(labels) - 1) - noise))
    return np.stack([1 - second, second], axis=1)


def put(folder, probabilities, labels, blocks=(), ids=None, **changes) -> RunRecord:
    """Write a run of ``made_records.record`` with these predictions, and return its record."""
    labels = np.asarray(labels)
    ids = tuple(f"test:{number}" for number in range(len(labels))) if ids is None else tuple(ids)
    made = record(**({"metrics": scores(probabilities, labels)} | changes))
    write(made, Predictions(ids, labels, probabilities, ("unbound", "bound"), tuple(blocks)), folder)
    return made


def runs(folder, strengths: dict[str, float], seeds=range(3), tasks=("QKI",), examples=300, **changes) -> None:
    """Runs of several models, as strong as said, on the same tasks and seeds."""
    for number, task in enumerate(tasks):
        labels = np.random.default_rng(100 + number).integers(0, 2, examples)
        for place, (model, strength) in enumerate(strengths.items()):
            for seed in seeds:
                found = answers(labels, strength, 1000 * number + 100 * place + seed)
                put(folder, found, labels, model=model, task=task, seed=seed, files={"train.csv": task}, **changes)
