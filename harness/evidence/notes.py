"""What explains a whole table: its marks, what its metric is about, and what its columns say of papers and of leaks."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from harness.task import CLASSIFICATION

from .cells import ALIGNED, BELOW, NO_AUDIT, REFERENCE, TIED, UNDEFINED, Cell, Column, Row
from .identity import column_of
from .metrics import METRICS
from .published import Published
from .records import RunRecord
from .render import INTERVAL, LEAKY, SYMBOLS
from .subsets import ALL, MIN_EXAMPLES, MIN_OF_A_CLASS, NOVEL, examples_on, order_changes

OF_POSITIVE = ("precision", "recall", "f1", "auroc", "auprc", "brier")  # metrics that refer to class 1 of two
SHARES = ("accuracy", "precision", "recall", "f1", "auroc", "auprc")  # metrics whose differences MAX_DIFFERENCE fits
MAX_DIFFERENCE = 0.05  # between published scores of one architecture on one task, beyond which a note says so
HARD_LOSS = -math.log(sys.float_info.epsilon)  # scikit-learn's log-loss of a wrong prediction that is taken as certain
ROUNDED = 0.00005  # error of an accuracy of four digits


@dataclass(frozen=True)
class Shown:
    """What is in a table: labels, cells, and the runs behind the cells of our own.

    ``floors`` has the k-mer floor's mean of each column, ``leaking`` the share of leaking test examples of the columns that
    are marked. ``published`` are all published numbers at hand. ``ties`` says how TIED was tested, or why it was not.
    """

    metric: str
    subset: str
    rows: Mapping[Row, str]
    columns: Mapping[Column, str]
    cells: Mapping[tuple[Row, Column], Cell]
    runs: Mapping[tuple[Row, Column], Sequence[RunRecord]]
    floors: Mapping[Column, float]
    leaking: Mapping[Column, float]
    published: Sequence[Published]
    hides_published: bool
    ties: str = ""

    @property
    def records(self) -> list[RunRecord]:
        """Every run that is counted."""
        return [run for runs in self.runs.values() for run in runs]


def notes(shown: Shown) -> tuple[str, ...]:
    """The notes of a whole table, in the order in which they stand below it."""
    return (*_marks(shown), *_of_leaks(shown), *_of_published(shown))


def listed(items: Iterable[Any]) -> str:
    """Items with commas between them."""
    return ", ".join(map(str, items))


def _marks(shown: Shown) -> Iterator[str]:
    marks = {mark for cell in shown.cells.values() for mark in cell.marks}
    if shown.ties:
        yield f"{SYMBOLS[TIED]} cannot be told from the best of its column ({shown.ties})" if TIED in marks else shown.ties
    if BELOW in marks:
        yield f"{SYMBOLS[BELOW]} worse than {REFERENCE} (floor)"
    if ALIGNED in marks:
        yield f"{SYMBOLS[ALIGNED]} read an alignment of each window; other models read the sequence alone"
    if NO_AUDIT in marks:
        yield f"{NO_AUDIT}: the record does not say which test examples leak; run it again with --force"
    if shown.metric in OF_POSITIVE and any(column.kind == CLASSIFICATION for column in shown.columns):
        yield _positive_classes(shown)
    if any(cell.interval for cell in shown.cells.values()):
        what = "the test split" if shown.subset == ALL else f"the {shown.subset} examples of the test split"
        yield f"{INTERVAL}: 95 % interval over {what}; of several seeds, the widest"
    if any(column.simulated for column in shown.columns):
        yield "(sample): simulated data, which says nothing about the real set"
    if searched := _searched(shown):
        yield f"settings were searched for some models and not for others of the same columns: {listed(searched)}"


def _searched(shown: Shown) -> list[str]:
    """The rows whose settings were searched beside rows without, or with another search, and the budgets."""
    budgets = {key: search_of(runs) for key, runs in shown.runs.items()}
    mixed = {column for column in shown.columns if len({found for (_, at), found in budgets.items() if at == column}) > 1}
    found = {row: budget for (row, column), budget in budgets.items() if column in mixed and budget}
    return [f"{shown.rows[row]} ({budget})" for row, budget in found.items()]


def search_of(records: Iterable[RunRecord]) -> str:
    """The budget of the search that found a model's settings, in words; empty if none did."""
    for record in records:
        if search := record.model.get("search"):
            trials, epochs = search.get("trials"), search.get("epochs")
            parts = [f"{trials} trials" if trials is not None else "", f"{epochs} epochs" if epochs is not None else ""]
            return " of ".join(part for part in parts if part) or "a search"
    return ""


def _positive_classes(shown: Shown) -> str:
    """Which class the metric is about, by column."""
    found: dict[str, list[str]] = defaultdict(list)
    classes = {column_of(record): record.task["classes"] for record in shown.records}
    for column, label in shown.columns.items():
        names = classes[column]
        found[f"the class {names[1]}" if len(names) == 2 else "all classes, each against the rest (mean)"].append(label)
    parts = [text if len(found) == 1 else f"{text} ({listed(labels)})" for text, labels in found.items()]
    return f"{METRICS[shown.metric].label}: of {'; of '.join(parts)}"


# --- leaks ---------------------------------------------------------------------------------------------------------------


def _of_leaks(shown: Shown) -> Iterator[str]:
    if shown.subset != ALL:
        yield f"scored on {shown.subset} test examples alone: {'; '.join(_numbers(shown))}"
        if "=" in shown.subset and any(UNDEFINED in cell.marks for cell in shown.cells.values()):
            yield f"{UNDEFINED}: a group needs {MIN_EXAMPLES} examples, and {MIN_OF_A_CLASS} of each class, to be scored"
        if shown.hides_published:
            yield f"published rows are not shown: their papers score all test examples, not the {shown.subset} ones"
        return
    if shown.leaking:
        shares = listed(f"{share:.1%} in {shown.columns[column]}" for column, share in shown.leaking.items())
        yield f"{LEAKY} many test examples repeat, overlap or resemble training examples ({shares}); see --subset {NOVEL}"
    for column, moved in order_changes(shown.runs, shown.columns, shown.metric).items():
        ranks = listed(f"{shown.rows[row]} {before} → {after}" for row, (before, after) in moved.items())
        yield f"order changes without leaking examples in {shown.columns[column]}: {ranks}"


def _numbers(shown: Shown) -> Iterator[str]:
    """How many examples of each column's test split are in the subset; more than one number where audits differ."""
    for column, label in shown.columns.items():
        found: set[tuple[int, int]] = set()
        for run in (run for (_, at), runs in shown.runs.items() if at == column for run in runs):
            if (examples := examples_on(run, shown.subset)) is not None:
                found.add((examples, sum(run.leakage.get("counts", {}).values())))
        texts = " or ".join(f"{examples:,} of {total:,}" for examples, total in sorted(found))
        yield f"{label} {texts or ('none' if '=' in shown.subset else NO_AUDIT)}"


# --- published numbers ---------------------------------------------------------------------------------------------------


def _of_published(shown: Shown) -> Iterator[str]:
    """What the floors, the sources and the printed accuracies say of published rows."""
    if below := [text for column in shown.columns if (text := _below_floor(shown, column))]:
        yield f"published rows worse than the {REFERENCE} floor: {'; '.join(below)}"
    if shown.metric in SHARES:
        different = [text for column in shown.columns for text in _different(shown, column)]
        if different:
            yield (
                f"published scores of one architecture that differ by more than {MAX_DIFFERENCE} between sources, whose "
                f"protocols or sizes differ: {'; '.join(different)}"
            )
    if shown.metric == "hard_log_loss":
        for source in sorted({row.source for row, _ in shown.cells if row.source}):
            equal, both = hard_losses(item for item in shown.published if item.source == source)
            if both and equal == both:
                what = f"(1 - accuracy) × {HARD_LOSS:.2f} in all {both} cells that it prints"
                yield f"{source}: the loss is {what}, so it says no more than accuracy does"


def _printed(shown: Shown, column: Column) -> list[tuple[Row, Cell]]:
    return [(row, cell) for (row, at), cell in shown.cells.items() if at == column and row.source]


def _below_floor(shown: Shown, column: Column) -> str:
    if not (printed := _printed(shown, column)) or column not in shown.floors:
        return ""
    below = sum(BELOW in cell.marks for _, cell in printed)
    return f"{below} of {len(printed)} in {shown.columns[column]} ({shown.floors[column]:.4f})"


def _different(shown: Shown, column: Column) -> Iterator[str]:
    """For each architecture, the two published scores of different sources that lie furthest apart, if further than allowed."""
    found: dict[str, list[tuple[float, str, str]]] = defaultdict(list)
    for row, cell in _printed(shown, column):
        if row.adapter and cell.mean is not None:
            found[row.adapter].append((cell.mean, row.model, row.source))
    for adapter, scores in sorted(found.items()):
        pairs = [(high[0] - low[0], low, high) for low, high in combinations(sorted(scores), 2) if low[2] != high[2]]
        difference, low, high = max(pairs, key=lambda pair: pair[0], default=(0.0, scores[0], scores[0]))
        if difference > MAX_DIFFERENCE:
            yield f"{shown.columns[column]}, {adapter} {low[0]:g} ({low[1]}, {low[2]}) to {high[0]:g} ({high[1]}, {high[2]})"


def hard_losses(items: Iterable[Published]) -> tuple[int, int]:
    """How many printed losses follow from the accuracy that is printed for the same model and task, and how many have one."""
    found: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for item in items:
        found[item.model, item.task, item.split][item.metric] = float(item.value)
    pairs = [both for both in found.values() if {"accuracy", "hard_log_loss"} <= set(both)]
    allowed = ROUNDED * HARD_LOSS + ROUNDED
    equal = [abs((1 - both["accuracy"]) * HARD_LOSS - both["hard_log_loss"]) <= allowed for both in pairs]
    return sum(equal), len(pairs)
