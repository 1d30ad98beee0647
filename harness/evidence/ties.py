"""Which models of a table's column cannot be told from its best: the test of ``harness compare``, remembered by its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.files.fingerprint import remembered

from .cells import Cell, Column, Row
from .folders import PREDICTIONS
from .metrics import METRICS
from .records import RunRecord

MAX_RUNS = 400  # runs whose predictions a table reads, if they are not remembered; a few seconds
METHOD = 2  # to be counted up when the test changes, since what it found is remembered

Cells = Mapping[tuple[Row, Column], Cell]
Counted = Mapping[tuple[Row, Column], Sequence[RunRecord]]


def tied_with_best(results: Path, counted: Counted, cells: Cells, metric: str) -> tuple[set[tuple[Row, Column]], str]:
    """The cells that cannot be told from the best of their column, and a sentence on how, or why none are marked.

    Each model is compared with the one of the best mean; Holm's adjustment is over all of these comparisons.
    """
    columns = _contestants(counted, cells, metric)
    runs = sum(len(found) for rows in columns.values() for found in rows.values())
    if runs > MAX_RUNS:
        return set(), f"models that cannot be told from the best are marked for up to {MAX_RUNS} runs; here, see harness compare"
    places, p, left_out = [], [], 0
    for column, rows in columns.items():
        paths = [results / run.folder / PREDICTIONS for found in rows.values() for run in found]
        seeds = [[run.seed for run in found] for found in rows.values()]
        found = remembered(
            "ties", paths, [METHOD, metric, column.kind, seeds], lambda c=column, r=rows: _p(results, c, r, metric)
        )
        places += [(row, column) for row in list(rows)[1:]]
        p += found["p"]
        left_out += found["left_out"]
    if all(value is None for value in p):
        return set(), ""
    from .statistics import LEVEL, holm

    tied = {place for place, value in zip(places, holm(p), strict=True) if value is not None and value >= LEVEL}
    missing = sum(value is None for value in p)
    how = f"permutation test at {LEVEL}, Holm-adjusted over {len(p) - missing} comparisons with the best; see harness compare"
    how += f"; {missing} more could not be tested" if missing else ""
    how += (
        f"; without {left_out} run{'s' * (left_out > 1)} whose predictions are missing, damaged or of other examples"
        if left_out
        else ""
    )
    return tied, how


def _contestants(counted: Counted, cells: Cells, metric: str) -> dict[Column, dict[Row, list[RunRecord]]]:
    """By column, the finished runs of each row with a score, the best row first; columns of two rows or more."""
    sign = -1 if METRICS[metric].higher_is_better else 1
    columns: dict[Column, list[tuple[float, int, Row]]] = {}
    for number, (row, column) in enumerate(counted):
        if (mean := cells[row, column].mean) is not None:
            columns.setdefault(column, []).append((sign * mean, number, row))
    return {
        column: {row: [run for run in counted[row, column] if run.finished] for _, _, row in sorted(rows, key=lambda it: it[:2])}
        for column, rows in columns.items()
        if len(rows) > 1
    }


def _p(results: Path, column: Column, rows: Mapping[Row, Sequence[RunRecord]], metric: str) -> dict[str, Any]:
    """The p of each row but the first against the first, None where they cannot be compared; and how many runs are left out."""
    from .answers import read_test
    from .pairs import compared
    from .statistics import SWAPS

    test = read_test(column, rows, {row: row.model for row in rows}, lambda run: results / run.folder, metric)
    best, *others = rows
    if test is None:
        return {"p": [None] * len(others), "left_out": sum(map(len, rows.values()))}
    if best not in test.of:
        return {"p": [None] * len(others), "left_out": len(test.left_out)}
    pairs, _ = compared(test, [(best, row) for row in others if row in test.of], metric, SWAPS)
    found = {pair.models[1]: pair.p for pair in pairs}
    return {"p": [found.get(row) for row in others], "left_out": len(test.left_out)}
