"""A model's answers on a test split, and predictions.csv, which holds them beside a record."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import BadData
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION

from .folders import PREDICTIONS, file_size, sync
from .schema import LEAKS

if TYPE_CHECKING:
    import numpy as np

BLOCK = "block"  # the column of predictions.csv that names dependent examples' blocks
LEAK_COLUMNS = ["leak", "leak_from"]
GROUP = "group_"  # what the columns begin with that hold examples' groups
PREDICTION, PROBABILITY = "prediction", "probability_"  # a number's column, and what a class's or label's begins with


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's answers on the test split, for a task of one kind.

    ``ids`` (N); ``labels``: class indices (N,), numbers (N,) of a regression, or 0 and 1 (N, K) of a multi-label task;
    ``outputs``: probabilities (N, K) of ``classes`` (K), or predicted numbers (N, 1), as float64. ``blocks`` (N) names each
    example's block, whose examples depend on each other; it is empty where examples are independent. ``leaks`` (N) says of each
    example what it has of the training data, one of :data:`.schema.LEAKS`, and of which of its examples, empty for none; it is
    empty where that was not looked for. ``groups`` maps what examples are grouped by (``gene``) to their words (N), empty for an
    example without one.

    Raises:
        ValueError: shapes that do not fit together, or an unknown leak.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    outputs: np.ndarray
    classes: tuple[str, ...]
    blocks: tuple[str, ...] = ()
    leaks: tuple[tuple[str, str], ...] = ()
    kind: str = CLASSIFICATION
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.classes))
        for name, column in (("blocks", self.blocks), ("leaks", self.leaks), *self.groups.items()):
            if len(column) not in (0, len(self.ids)):
                raise ValueError(f"{len(column)} {name}: expected {len(self.ids)}, one per example, or none")
        if unknown := {leak for leak, _ in self.leaks} - set(LEAKS):
            raise ValueError(f"leaks {sorted(unknown)}: expected {', '.join(LEAKS)}")
        if self.kind == REGRESSION:  # whole numbers among them, as they will be read back
            object.__setattr__(self, "labels", self.labels.astype("float64"))
        of_labels = shape if self.kind == MULTILABEL else shape[:1]
        if self.labels.shape != of_labels or self.outputs.shape != shape:
            found = f"labels {self.labels.shape}, outputs {self.outputs.shape}"
            raise ValueError(f"{found}: expected {of_labels}, {shape}")


def read_predictions(folder: Path) -> Predictions:
    """The stored predictions of a run, bit for bit as they were written. The name of a regression's number is not in them.

    Raises:
        BadData: the predictions are missing or damaged.
    """
    import numpy as np

    path = Path(folder) / PREDICTIONS
    try:
        file_size(path)
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        kind = MULTILABEL if header[1] == "labels" else REGRESSION if header[-1] == PREDICTION else CLASSIFICATION
        first = 2
        blocks, leaks = (), ()
        if header[first] == BLOCK:
            blocks, first = tuple(row[first] for row in rows), first + 1
        if header[first : first + 2] == LEAK_COLUMNS:
            leaks, first = tuple((row[first], row[first + 1]) for row in rows), first + 2
        groups = dict[str, tuple[str, ...]]()
        while header[first].startswith(GROUP):
            groups[header[first].removeprefix(GROUP)], first = tuple(row[first] for row in rows), first + 1
        classes = tuple(name.removeprefix(PROBABILITY) for name in header[first:])
        if kind == CLASSIFICATION:
            labels = np.array([classes.index(row[1]) for row in rows], np.int64)
        elif kind == REGRESSION:
            labels = np.array([float(row[1]) for row in rows], np.float64)
        else:
            labels = np.array([[("0", "1").index(cell) for cell in row[1].split(";")] for row in rows], np.int64)
            labels = labels.reshape(len(rows), len(classes))
        outputs = np.array([[float(cell) for cell in row[first:]] for row in rows], np.float64).reshape(len(rows), -1)
        return Predictions(tuple(row[0] for row in rows), labels, outputs, classes, blocks, leaks, kind, groups)
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise BadData(f"{path}: not readable predictions ({error}); delete the folder and run again") from None


def judge(predictions: Predictions) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """The metrics of predictions, and the intervals of those that have some (see :func:`.metrics.intervals`).

    ``judge(read_predictions(folder))`` computes again what a record says.

    Raises:
        RunFailed: an output is not a number.
    """
    from .metrics import intervals, scores

    outputs, labels, kind = predictions.outputs, predictions.labels, predictions.kind
    return scores(outputs, labels, kind), intervals(outputs, labels, predictions.blocks, kind)


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write predictions as CSV, so that they read back to the last bit."""
    kind, labels = predictions.kind, predictions.labels.tolist()
    columns: list[tuple[str, Sequence[Any]]] = [("id", predictions.ids)]
    if kind == MULTILABEL:
        columns.append(("labels", [";".join(map(str, row)) for row in labels]))
    else:
        columns.append(("label", labels if kind == REGRESSION else [predictions.classes[label] for label in labels]))
    if predictions.blocks:
        columns.append((BLOCK, predictions.blocks))
    if predictions.leaks:
        columns += zip(LEAK_COLUMNS, zip(*predictions.leaks, strict=True), strict=True)
    columns += ((GROUP + name, words) for name, words in predictions.groups.items())
    outputs = [PREDICTION] if kind == REGRESSION else [PROBABILITY + name for name in predictions.classes]
    columns += zip(outputs, predictions.outputs.T.tolist(), strict=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        # Unquoted, a "\r" in an id would end the line.
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow([name for name, _ in columns])
        # The csv module writes floats by repr, the shortest text that reads back as the same bits.
        writer.writerows(zip(*(column for _, column in columns), strict=True))
        sync(file)
