"""Comparison tables: functions of records, and of the numbers that papers print. Looks are :mod:`.render`'s business."""

from __future__ import annotations

import difflib
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, UnknownName, UserError
from harness.files.atomic import atomic
from harness.progress import printable

from . import render
from .cells import ALIGNED, BELOW, BEST, COLLAPSED, FAILED, UNDEFINED, Cell, Column, Costs, CrossTable, Listing, Row, Table
from .folders import sweep
from .identity import (
    Runs,
    changes,
    column_labels,
    column_of,
    grouped,
    identified,
    main_setting,
    model_label,
    row_labels,
    setting_texts,
    usual_recipes,
)
from .metrics import METRICS
from .published import Published, read_published
from .records import RunRecord, read_all
from .summary import long, summary

__all__ = ["Table", "long", "make_table", "model_label", "print_table", "summary", "wide", "write_tables"]

WIDE = ("accuracy", "f1", "log_loss", "auroc", "auprc")  # the tables kept in results/tables/
FORMATS = ("terminal", "markdown", "csv")
REFERENCE = "kmer"  # the floor that other models are held against
RANK = "rank"  # the word of --sort for the mean rank
MAX_MAJORITY = 0.7  # share of the test split's largest class beyond which accuracy is no headline
OF_POSITIVE = ("precision", "recall", "f1", "auroc", "auprc", "brier")  # metrics that refer to class 1 of two
MAX_LISTED = 3  # other settings that a note spells out


def make_table(
    results_dir: Path,
    metric: str | None,
    by: str = "model,task",
    *,
    sort: str | None = None,
    all_settings: bool = False,
    costs: bool = False,
) -> Table:
    """The table of a results folder: models against tasks, or a flat list by other keys.

    ``metric``, in any spelling of upper and lower case, is by default the main one of the tasks, or accuracy where they
    differ; instead of accuracy, auroc where a class has more than MAX_MAJORITY of a test split. ``sort`` is a column's
    label, or RANK; the best come first. ``all_settings`` gives each setting of a model a row of its own.

    Raises:
        UnknownName: a metric, grouping or column that does not exist.
        UserError: no readable records, or costs of a flat list.
    """
    return _table(_read(results_dir), metric, by, sort, all_settings, costs)


def print_table(
    results_dir: Path,
    metric: str | None,
    by: str,
    format: str,
    *,
    sort: str | None = None,
    all_settings: bool = False,
    costs: bool = False,
    full_width: bool = False,
) -> None:
    """Print a table of a results folder (see :func:`make_table`) to standard output, and write the CSV files.

    On a terminal it is as wide as that, elsewhere 80 columns wide or as COLUMNS says, unless ``full_width``. Where the files
    cannot be written, standard error says so.

    Raises:
        UnknownName: a metric, format, grouping or column that does not exist.
        UserError: no readable records.
    """
    if format not in FORMATS:
        raise UnknownName(f"format {format!r}: choose one of {', '.join(FORMATS)}")
    records = _read(results_dir)
    table = _table(records, metric, by, sort, all_settings, costs)
    if format == "terminal":
        from rich.console import Console

        render.show(table, Console(highlight=False, width=render.UNLIMITED if full_width else None))
    else:
        print(render.csv(table) if format == "csv" else render.markdown(table), end="")
    try:
        write_tables(results_dir, records)
    except HarnessError as error:
        print(printable(str(error)), file=sys.stderr)


def write_tables(results_dir: Path, records: Sequence[RunRecord] | None = None) -> list[Path]:
    """Write the CSV files of a results folder's ``tables/`` and return their paths. ``records`` are the folder's, if read.

    Raises:
        HarnessError: the files cannot be written.
    """
    records, published = read_all(results_dir) if records is None else records, read_published()
    folder = Path(results_dir) / "tables"
    texts = {f"{metric}.csv": render.csv(wide(records, metric, published)) for metric in WIDE}
    texts["summary.csv"] = render.frame_as_csv(summary(records))
    try:
        sweep(results_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with atomic(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise HarnessError(f"{folder}: the CSV tables were not written ({error.strerror or error})") from error
    return [folder / name for name in texts]


def _read(results_dir: Path) -> list[RunRecord]:
    records = read_all(results_dir)
    if not records:
        raise UserError(f"no records in {Path(results_dir)} to read: start with `harness run`, or point --results elsewhere")
    return records


def _table(records: Sequence[RunRecord], metric: str | None, by: str, sort: str | None, all_settings: bool, costs: bool) -> Table:
    metric, why = (_metric(metric), "") if metric is not None else _main_metric(records)
    keys = [key.strip() for key in by.split(",")]
    notes = (why,) if why else ()
    if keys == ["model", "task"]:
        table = wide(records, metric, read_published(), all_settings)
        return _sorted(replace(table, notes=notes + table.notes, costs=costs), sort)
    if costs:
        raise UserError(f"costs with --by {by}: they are columns of --by model,task only; summary.csv has those of every run")
    frame, hidden = long(records, metric, keys), tuple({"simulated", "data"} - set(keys))
    if sort is not None:
        if sort not in frame:
            raise UnknownName(f"sort {sort!r}: choose one of {', '.join(frame.columns)}")
        frame = frame.sort_values(sort, ascending=sort != "mean" or not METRICS[metric].higher_is_better, ignore_index=True)
    return Listing(metric, frame, len(set(keys)), hidden, notes)


# --- models against tasks ------------------------------------------------------------------------------------------------


def wide(
    records: Iterable[RunRecord], metric: str, published: Iterable[Published] = (), all_settings: bool = False
) -> CrossTable:
    """Models down, tasks across; of each model its own recipe or, where that was not run, the newest setting that finished.

    Other settings are rows of their own with ``all_settings``, else counted in a note. Settings are never chosen by their
    scores. Published numbers are rows of their own. They stand in every column of their task and split, except that of
    simulated data.
    """
    records = identified(records)
    found, usual = grouped(records), usual_recipes(records)
    texts = setting_texts(found, usual)
    cells, members, floors = dict[tuple[Row, Column], Cell](), list[tuple[Row, RunRecord]](), dict[Column, float]()
    for (row, column), settings in found.items():
        main = main_setting(settings, usual[row, column])
        for setting in settings if all_settings else [main]:
            runs, key = settings[setting], row
            others = [texts[row, column, other] for other in settings if other != setting]
            if all_settings:
                key, others = replace(row, setting=texts[row, column, setting]), []
            cells[key, column] = cell = _cell(runs, metric, usual[row, column], others)
            members += [(key, record) for record in runs.counted]
            if setting == main and cell.mean is not None and _is_reference(row, usual[row, column]):
                floors[column] = cell.mean
    shown = [record for _, record in members]
    rows, columns = row_labels(members), column_labels(shown)
    for item in sorted(published, key=lambda item: item.label):
        row = Row(item.model, source=item.source)
        for column in columns:
            if (item.metric, item.task, item.split, False) == (metric, column.task, column.split, column.simulated):
                cells[row, column] = _published_cell(item)
                rows[row] = item.label
    cells = {key: _held_against(cell, floors.get(key[1]), metric) for key, cell in cells.items()}
    for record in shown:
        if metric == "accuracy" and (best := record.task.get("best_accuracy")) is not None:
            cells[BEST, column_of(record)] = Cell(best)
            rows[BEST] = BEST.model
    return CrossTable(metric, rows, columns, cells, tuple(_notes(cells.values(), columns, shown, metric)))


def _cell(runs: Runs, metric: str, usual: Mapping[str, Any], others: Sequence[str]) -> Cell:
    """One cell from the runs of one setting; ``others`` are the texts of the settings that are not shown."""
    counted = runs.counted
    values = [value for run in counted if (value := run.metrics.get(metric)) is not None]
    failed = [run for run in counted if not run.finished]
    limits = [run.intervals[metric] for run in counted if None not in run.intervals.get(metric, [None])] if values else []
    marks, notes = [], []
    if not values:
        marks.append(FAILED if len(failed) == len(counted) else UNDEFINED)
    if seeds := sorted(run.seed for run in counted if run.collapsed):
        marks.append(COLLAPSED)
        notes.append(f"collapsed, every test example in one class (seed {_listed(seeds)})")
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
        notes.append(f"not counted, run with another version of the code: seed {_listed(runs.left_out)}")
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
        printed=render.spread(item.value, item.sd, item.n),
    )


def _is_reference(row: Row, usual: Mapping[str, Any]) -> bool:
    return row == Row(REFERENCE, tune=usual["tune"], floor=True)


def _held_against(cell: Cell, floor: float | None, metric: str) -> Cell:
    """A cell, marked if its mean is worse than the floor of its column."""
    sign = 1 if METRICS[metric].higher_is_better else -1
    worse = None not in (cell.mean, floor) and sign * cell.mean < sign * floor  # type: ignore[operator]
    return replace(cell, marks=(*cell.marks, BELOW)) if worse else cell


def _notes(cells: Iterable[Cell], columns: Mapping[Column, str], records: Sequence[RunRecord], metric: str) -> list[str]:
    """What explains the whole table."""
    marks, notes = {mark for cell in cells for mark in cell.marks}, []
    if BELOW in marks:
        notes.append(f"{render.SYMBOLS[BELOW]} worse than {REFERENCE} (floor)")
    if ALIGNED in marks:
        notes.append(f"{render.SYMBOLS[ALIGNED]} read an alignment of each window; other models read the sequence alone")
    if metric in OF_POSITIVE:
        notes.append(_positive_classes(records, columns, metric))
    if any(metric in record.intervals for record in records):
        notes.append(f"{render.INTERVAL}: 95 % interval over the test split; of several seeds, the widest")
    if any(column.simulated for column in columns):
        notes.append("(sample): simulated data, which says nothing about the real set")
    return notes


def _positive_classes(records: Iterable[RunRecord], columns: Mapping[Column, str], metric: str) -> str:
    """Which class the metric is about, by column."""
    found: dict[str, list[str]] = defaultdict(list)
    classes = {column_of(record): record.task["classes"] for record in records}
    for column, label in columns.items():
        names = classes[column]
        found[f"the class {names[1]}" if len(names) == 2 else "all classes, each against the rest (mean)"].append(label)
    parts = [text if len(found) == 1 else f"{text} ({_listed(labels)})" for text, labels in found.items()]
    return f"{METRICS[metric].label}: of {'; of '.join(parts)}"


def _listed(items: Iterable[Any]) -> str:
    return ", ".join(map(str, items))


# --- what to show --------------------------------------------------------------------------------------------------------


def _metric(asked: str) -> str:
    """The metric's name from its name or label, in any case.

    Raises:
        UnknownName: there is none.
    """
    names = {
        spelling.lower(): name for name, metric in METRICS.items() for spelling in (name, name.replace("_", "-"), metric.label)
    }
    if (wanted := asked.strip().lower()) in names:
        return names[wanted]
    near = dict.fromkeys(names[word] for word in difflib.get_close_matches(wanted, names, n=3))
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UnknownName(f"metric {asked!r}: choose one of {', '.join(METRICS)}{hint}")


def _main_metric(records: Iterable[RunRecord]) -> tuple[str, str]:
    """The tasks' main metric, and why it is another one than accuracy where it is."""
    tasks = {column_of(record): record.task for record in records}
    labels = column_labels(records)
    named = {name if (name := task.get("main_metric")) in METRICS else "accuracy" for task in tasks.values()}
    if (metric := named.pop() if len(named) == 1 else "accuracy") != "accuracy":
        return metric, ""
    shares = dict[str, float]()
    for column, task in tasks.items():
        counts = list(task.get("counts", {}).get("test", {}).values())
        if sum(counts) and max(counts) > MAX_MAJORITY * sum(counts):
            shares[labels[column]] = max(counts) / sum(counts)
    if not shares:
        return "accuracy", ""
    majority = ", ".join(f"{share:.0%} of {label}" for label, share in list(shares.items())[:MAX_LISTED])
    return "auroc", f"shown because accuracy says little where most of a test split is one class ({majority}); --metric accuracy"


def _sorted(table: CrossTable, sort: str | None) -> CrossTable:
    """A table with the best rows first, by a column or by mean rank; those without a value follow in their order."""
    if sort is None:
        return table
    if sort.strip().lower() in (RANK, render.MEAN_RANK):
        values = table.mean_ranks()[0]
        if not values:
            raise UserError(f"sort {sort!r}: there is no column where every model has a score; sort by a column's label")
    else:
        named = [column for column, label in table.columns.items() if sort.strip().lower() == label.lower()]
        if not named:
            raise UnknownName(f"sort {sort!r}: choose {RANK} or one of {', '.join(table.columns.values())}")
        sign = -1 if METRICS[table.metric].higher_is_better else 1
        values = {row: sign * mean for row, mean in table.means(named[0]).items() if row != BEST}
    ordered = sorted(table.rows, key=lambda row: values.get(row, float("inf")))
    return replace(table, rows={row: table.rows[row] for row in ordered})
