"""What models answered on one test set: their predictions read once, put in one order, and measured."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.errors import BadData, RunFailed
from harness.task import CLASSIFICATION

from .cells import Column, Row
from .folders import PREDICTIONS
from .intervals import Grouped, members
from .metrics import OF_KIND
from .records import Predictions, RunRecord, read_predictions
from .resampling import Measured, measured, redrawn
from .statistics import drawn_blocks

SEEDLESS = ("probe", "zero")  # ways of tuning in which a seed decides nothing, given weights

Where = Callable[[RunRecord], Path]  # a run's folder


@dataclass(frozen=True, eq=False)
class Answer:
    """One run's metric, its values (R,) on drawn blocks if asked for, and which examples (N,) it has right, if classified."""

    measured: Measured
    drawn: np.ndarray | None
    right: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Answers:
    """A model's answers on a test set by seed. ``repeats``: they do not depend on the seed, so that one run stands for all."""

    row: Row
    runs: Mapping[int, Answer]
    records: Sequence[RunRecord]
    repeats: bool

    @property
    def mean(self) -> float:
        """The metric's mean over the seeds; NaN where it is undefined."""
        return float(np.mean([run.measured.value for run in self.runs.values()]))


@dataclass(frozen=True, eq=False)
class Test:
    """A column's test set and who answered it. ``sample`` has the block of each example; ``left_out`` are sentences."""

    column: Column
    sample: Grouped
    of: Mapping[Row, Answers]
    left_out: Sequence[str] = field(default=())

    @property
    def examples(self) -> int:
        return len(self.sample.member)


@dataclass(frozen=True, eq=False)
class _Read:
    """One run's predictions, ordered by id. ``asked`` is a digest of what was asked: ids, labels, blocks and classes."""

    row: Row
    record: RunRecord
    predictions: Predictions
    order: np.ndarray
    asked: str


def read_test(
    column: Column,
    runs: Mapping[Row, Sequence[RunRecord]],
    names: Mapping[Row, str],
    where: Where,
    metric: str,
    replicates: int = 0,
) -> Test | None:
    """Read the predictions of the runs on a column, and measure those that answer the same examples; None if none can be read.

    Runs whose examples, labels or blocks are not those of most are left out, and so are damaged or missing predictions.
    ``replicates`` is the number of bootstrap draws, the same for all.
    """
    left_out, read = list[str](), list[_Read]()
    orders: dict[tuple[str, ...], np.ndarray] = {}
    for row, records in runs.items():
        for record in records:
            try:
                read.append(_read(row, record, where(record), orders))
            except (BadData, ValueError) as error:
                left_out.append(f"{names[row]}, seed {record.seed}: {error}")
    if not read:
        return None
    usual = Counter(one.asked for one in read).most_common(1)[0][0]
    kept = [one for one in read if one.asked == usual]
    for one in read:
        if one.asked != usual:
            where_from = f"{names[one.row]}, seed {one.record.seed}"
            left_out.append(f"{where_from}: {_what_differs(one, kept[0])} are not those of {names[kept[0].row]}")
    first = kept[0]
    blocks = [first.predictions.blocks[place] for place in first.order] if first.predictions.blocks else ()
    sample = Grouped(*members(len(first.order), blocks))
    weights = drawn_blocks(sample.blocks, replicates) if replicates and sample.blocks > 1 else None
    found: dict[Row, dict[int, Answer]] = defaultdict(dict)
    outputs: dict[Row, set[bytes]] = defaultdict(set)
    of: dict[Row, list[RunRecord]] = defaultdict(list)
    scores = [_measured(one, metric, column.kind, sample) for one in kept]
    drawn = redrawn(scores, weights) if weights is not None else [None] * len(kept)
    for one, score, values in zip(kept, scores, drawn, strict=True):
        found[one.row][one.record.seed] = Answer(score, values, _right(one, column.kind))
        outputs[one.row].add(one.predictions.outputs[one.order].tobytes())
        of[one.row].append(one.record)
    answers = {
        row: Answers(row, answered, of[row], len(outputs[row]) == 1 and (len(answered) > 1 or _seedless(of[row][0])))
        for row, answered in found.items()
    }
    return Test(column, sample, answers, left_out)


def _seedless(record: RunRecord) -> bool:
    """Whether nothing that a run did was drawn: its weights were given, or it needs none, and its head has one solution."""
    tune = record.recipe["tune"]
    return tune in SEEDLESS and (record.model["checkpoint"] is not None or tune == record.model["recipe"]["tune"])


def _read(row: Row, record: RunRecord, folder: Path, orders: dict[tuple[str, ...], np.ndarray]) -> _Read:
    predictions = read_predictions(folder)
    if predictions.kind != record.kind:
        raise ValueError(f"its predictions are of a {predictions.kind}, its record of a {record.kind}")
    try:
        OF_KIND[record.kind].checked(predictions.outputs, predictions.labels)
    except RunFailed as error:  # its remedy is for training, but this run was written with numbers
        what, _, _ = str(error).rpartition(": ")
        raise BadData(f"{folder / PREDICTIONS}: damaged ({what or error}); delete the folder and run again") from error
    ids = predictions.ids
    if ids not in orders:
        orders[ids] = np.argsort(np.asarray(ids), kind="stable")
    return _Read(row, record, predictions, orders[ids], _asked(predictions, orders[ids]))


def _asked(predictions: Predictions, order: np.ndarray) -> str:
    classes = predictions.classes if predictions.kind == CLASSIFICATION else (str(len(predictions.classes)),)
    parts = _parts(predictions, order)
    found = hashlib.sha256(np.asarray(parts["blocks"], np.int64).tobytes() + predictions.labels[order].tobytes())
    for text in (*classes, "", *parts["examples"]):
        found.update(f"{len(text)} {text}".encode())
    return found.hexdigest()


def _parts(predictions: Predictions, order: np.ndarray) -> dict[str, list]:
    """What must be the same: ids, labels, and which examples are in one block whatever it is called."""
    numbers: dict[str, int] = {}
    blocks = [predictions.blocks[place] for place in order] if predictions.blocks else []
    return {
        "examples": [predictions.ids[place] for place in order],
        "labels": predictions.labels[order].tolist(),
        "blocks": [numbers.setdefault(block, len(numbers)) for block in blocks],
    }


def _what_differs(one: _Read, other: _Read) -> str:
    parts, others = (_parts(each.predictions, each.order) for each in (one, other))
    for name, values in parts.items():
        if values != others[name]:
            if name == "examples" and (own := set(values) ^ set(others[name])):
                return f"its test examples ({len(own):,} ids differ)"
            count = sum(a != b for a, b in zip(values, others[name]))
            return f"its {name}" + (f" ({count:,} of {len(values):,} differ)" if len(values) == len(others[name]) else "")
    return "its classes"


def _measured(one: _Read, metric: str, kind: str, sample: Grouped) -> Measured:
    return measured(metric, kind, one.predictions.outputs[one.order], one.predictions.labels[one.order], sample)


def _right(one: _Read, kind: str) -> np.ndarray | None:
    predictions = one.predictions
    return (predictions.outputs.argmax(axis=1) == predictions.labels)[one.order] if kind == CLASSIFICATION else None


def shared_seeds(first: Answers, second: Answers) -> list[int]:
    """The seeds on which two models are compared: those of both; those of the other where one does not depend on the seed."""
    if first.repeats and second.repeats:
        return [min(first.runs)]
    if first.repeats or second.repeats:
        return sorted((second if first.repeats else first).runs)
    return sorted(set(first.runs) & set(second.runs))


def of_seeds(answers: Answers, seeds: Iterable[int]) -> list[Answer]:
    """A model's answers with these seeds."""
    only = answers.runs[min(answers.runs)]
    return [only if answers.repeats else answers.runs[seed] for seed in seeds]
