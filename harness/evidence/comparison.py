"""Models against tasks: which runs stand in a cell, and what the cell says of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.task import CLASSIFICATION

from . import render
from .cells import (
    ALIGNED,
    BELOW,
    BEST,
    COLLAPSED,
    FAILED,
    NO_AUDIT,
    REFERENCE,
    TIED,
    UNDEFINED,
    Cell,
    Column,
    Costs,
    CrossTable,
    Row,
)
from .identity import Arranged, Runs, changes, column_labels, column_of, row_labels
from .metrics import METRICS
from .notes import Shown, listed, notes
from .published import Published
from .records import RunRecord
from .subsets import ALL, MAX_LEAKING, leaking_shares, scores_on, unknown_on
from .ties import tied_with_best

MAX_LISTED = 3  # other settings that a note spells out


def wide(
    records: Iterable[RunRecord] | Arranged,
    metric: str,
    published: Iterable[Published] = (),
    all_settings: bool = False,
    subset: str = ALL,
    results: Path | None = None,
) -> CrossTable:
    """Models down, tasks across; of each model its own recipe or, where that was not run, the newest setting that finished.

    The records are of one kind of task. Other settings are rows of their own with ``all_settings``, else counted in a note.
    Settings are never chosen by their scores. Published numbers are rows of their own, those of one adapter together. They
    stand in every column of their task and split, except that of simulated data. With another ``subset`` than ALL, scores
    are those on that part of the test examples, and no published numbers are shown, since papers score all. With the folder
    ``results`` of the records, models that cannot be told from the best of their column are marked.
    """
    arranged, published = Arranged.of(records), list(published)
    found, usual, texts = arranged.found, arranged.usual, arranged.texts
    cells, counted, floors = (
        dict[tuple[Row, Column], Cell](),
        dict[tuple[Row, Column], Sequence[RunRecord]](),
        dict[Column, float](),
    )
    for (row, column), settings in found.items():
        main = arranged.main[row, column]
        for setting in settings if all_settings else [main]:
            runs, key = settings[setting], row
            others = [texts[row, column, other] for other in settings if other != setting]
            if all_settings:
                key, others = replace(row, setting=texts[row, column, setting]), []
            cells[key, column] = cell = _cell(runs, metric, usual[row, column], others, subset)
            counted[key, column] = runs.counted
            if setting == main and cell.mean is not None and _is_reference(row, usual[row, column]):
                floors[column] = cell.mean
    tied, ties = tied_with_best(results, counted, cells, metric) if results is not None and subset == ALL else (set(), "")
    cells |= {place: replace(cells[place], marks=(*cells[place].marks, TIED)) for place in tied}
    members = [(key, run) for (key, _), runs in counted.items() for run in runs]
    rows, columns = row_labels(members), column_labels(run for _, run in members)
    printed = _published(published, metric, columns)
    if subset == ALL:
        cells |= {place: _published_cell(item) for place, item in printed.items()}
        rows |= {row: item.label for (row, _), item in printed.items()}
    cells = {key: _held_against(cell, floors.get(key[1]), metric) for key, cell in cells.items()}
    for _, run in members:
        if metric == "accuracy" and subset == ALL and (best := run.task.get("best_accuracy")) is not None:
            cells[BEST, column_of(run)] = Cell(best)
            rows[BEST] = BEST.model
    shares = leaking_shares((column, run) for (_, column), runs in counted.items() for run in runs)
    leaking = {column: shares[column] for column in columns if subset == ALL and shares.get(column, 0) > MAX_LEAKING}
    hides = subset != ALL and bool(printed)
    shown = Shown(metric, subset, rows, columns, cells, counted, floors, leaking, published, hides, ties)
    return CrossTable(metric, rows, columns, cells, notes(shown), subset=subset, leaking=tuple(leaking))


def _published(published: Iterable[Published], metric: str, columns: Iterable[Column]) -> dict[tuple[Row, Column], Published]:
    """Where published numbers stand: those of an adapter together, those of none last."""
    columns = list(columns)
    ordered = sorted(published, key=lambda item: (not item.adapter, item.adapter, item.label))
    return {
        (Row(item.model, source=item.source, adapter=item.adapter), column): item
        for item in ordered
        for column in columns
        if (item.metric, item.task, item.split, False) == (metric, column.task, column.split, column.simulated)
    }


def _cell(runs: Runs, metric: str, usual: Mapping[str, Any], others: Sequence[str], subset: str) -> Cell:
    """One cell from the runs of one setting; ``others`` are the texts of the settings that are not shown."""
    counted = runs.counted
    scores = [scores_on(run, subset) for run in counted]
    values = [value for metrics, _ in scores if (value := metrics.get(metric)) is not None]
    failed = [run for run in counted if not run.finished]
    unknown = sorted(run.seed for run in counted if run.finished and unknown_on(run, subset))
    limits = [intervals[metric] for _, intervals in scores if metric in intervals] if values else []
    marks, notes = [], []
    if not values:
        marks.append(FAILED if len(failed) == len(counted) else NO_AUDIT if unknown else UNDEFINED)
    elif unknown:
        notes.append(f"no audit, so not counted: seed {listed(unknown)}")
    if seeds := sorted(run.seed for run in counted if run.collapsed):
        marks.append(COLLAPSED)
        what = "every test example in one class" if counted[0].kind == CLASSIFICATION else "one answer to every test example"
        notes.append(f"collapsed, {what} (seed {listed(seeds)})")
    if any(run.alignment for run in counted):
        marks.append(ALIGNED)
    notes += [f"seed {run.seed} failed: {next(iter(str(run.error).strip().splitlines()), '')}" for run in failed]
    if changed := changes(runs, usual):
        differences = (f"{name} {value} (not {usual.get(name)})" for name, value in changed.items())
        notes.append(f"not the model's own recipe: {', '.join(differences)}")
    if others:
        more = "; …" if len(others) > MAX_LISTED else ""
        spelt = "; ".join(text or "the model's own recipe" for text in others[:MAX_LISTED])
        notes.append(f"{len(others)} other setting{'s' * (len(others) > 1)}, see --all-settings: {spelt}{more}")
    if runs.left_out:
        notes.append(f"not counted, run with another version of the code: seed {listed(runs.left_out)}")
    return Cell(
        mean=statistics.fmean(values) if values else None,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        interval=(min(low for low, _ in limits), max(high for _, high in limits)) if limits else None,
        marks=tuple(marks),
        notes=tuple(notes),
        costs=_costs(counted),
    )


def _costs(runs: Sequence[RunRecord]) -> Costs:
    seconds = [value for run in runs if (value := run.timing.get("seconds", {}).get("train")) is not None]
    parameters = [value for run in runs if (value := (run.model.get("parameters") or {}).get("trainable")) is not None]
    memory = [value for run in runs if (value := run.timing.get("peak_memory_bytes")) is not None]
    return Costs(
        statistics.fmean(seconds) if seconds else None,
        int(max(parameters)) if parameters else None,
        int(max(memory)) if memory else None,
    )


def _published_cell(item: Published) -> Cell:
    return Cell(
        mean=float(item.value),
        sd=float(item.sd) if item.sd else None,
        n=int(item.n) if item.n else None,
        notes=(item.note,) if item.note else (),
        printed=render.spread(item.value, item.sd, item.n, item.spread),
    )


def _is_reference(row: Row, usual: Mapping[str, Any]) -> bool:
    return row == Row(REFERENCE, tune=usual["tune"], floor=True)


def _held_against(cell: Cell, floor: float | None, metric: str) -> Cell:
    """A cell, marked if its mean is worse than the floor of its column."""
    sign = 1 if METRICS[metric].higher_is_better else -1
    worse = None not in (cell.mean, floor) and sign * cell.mean < sign * floor  # type: ignore[operator]
    return replace(cell, marks=(*cell.marks, BELOW)) if worse else cell
