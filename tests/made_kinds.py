"""Made-up regression and multi-label tasks, whose labels follow from the windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from conftest import random_windows

from harness.data import Example, Window
from harness.task import MULTILABEL, REGRESSION, Splits, Task

MOTIFS = ("ACTAACT", "GGGCGGG", "TATAAAT")


def planted(count: int, motifs, seed: int = 0, length: int = 60) -> tuple[list[str], np.ndarray]:
    """Sequences, and which motifs (count, motifs) each holds: half of the sequences hold each, independently."""
    rng = np.random.default_rng(seed + 100)
    holds = rng.random((count, len(motifs))) < 0.5
    sequences = []
    for window, row in zip(random_windows(count, length, seed), holds, strict=True):
        sequence = window.sequence
        for number, motif in enumerate(motifs):
            if row[number]:
                start = 5 + number * (length // len(motifs))
                sequence = sequence[:start] + motif + sequence[start + len(motif) :]
        sequences.append(sequence)
    return sequences, holds


def regression_examples(count: int, seed: int = 0) -> list[Example]:
    """Expression 1000 + 50 × (motifs held) + noise of sd 5: far from 0, and far from unit variance."""
    sequences, holds = planted(count, MOTIFS[:2], seed)
    noise = np.random.default_rng(seed).normal(0, 5, count)
    numbers = 1000 + 50 * holds.sum(axis=1) + noise
    return [Example(f"w{i}", (Window(text),), float(number)) for i, (text, number) in enumerate(zip(sequences, numbers))]


def multilabel_examples(count: int, seed: int = 0) -> list[Example]:
    """A label for each of three motifs."""
    sequences, holds = planted(count, MOTIFS, seed)
    return [Example(f"w{i}", (Window(text),), tuple(map(int, row))) for i, (text, row) in enumerate(zip(sequences, holds))]


def regression_task(sizes=(300, 80, 80), **splits) -> tuple[Task, Splits]:
    return _task("expression", ("expression",), REGRESSION, [regression_examples(n, s) for s, n in enumerate(sizes)], splits)


def multilabel_task(sizes=(300, 80, 80), **splits) -> tuple[Task, Splits]:
    return _task(
        "motifs", ("act", "gc box", "tata"), MULTILABEL, [multilabel_examples(n, s) for s, n in enumerate(sizes)], splits
    )


def _task(name, classes, kind, parts, changes) -> tuple[Task, Splits]:
    splits = replace(Splits(*parts, files={"made": name}), **changes)
    return Task(name, "made", "made here", classes, lambda rule: splits, ("drawn",), kind=kind), splits


def with_labels(examples: list[Example], labels) -> list[Example]:
    return [replace(example, label=label) for example, label in zip(examples, labels, strict=True)]
