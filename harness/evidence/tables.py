"""Comparison tables: functions of records, and of the numbers that papers print. Looks are :mod:`.render`'s business."""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import UnknownName, UserError
from harness.files.atomic import atomic
from harness.files.fingerprint import digest

from . import render
from .cells import BELOW, COLLAPSED, FAILED, UNDEFINED, Cell, Column, CrossTable, Listing, Row, Table
from .metrics import METRICS
from .published import Published, read_published
from .records import RunRecord, check_writable, data_digest, read_all

if TYPE_CHECKING:
    import pandas as pd

WIDE = ("accuracy", "f1", "log_loss", "auroc", "auprc")  # the tables kept in results/tables/
FORMATS = ("terminal", "markdown", "csv")
REFERENCE = "kmer"  # the floor that other models are held against
BEST = Row("best possible")

Key = TypeVar("Key", bound=Hashable)


def make_table(results_dir: Path, metric: str | None, by: str = "model,task") -> Table:
    """The table of a results folder: models against tasks, or a flat list by other keys.

    ``metric`` is by default the main one of the tasks, or accuracy where they differ.

    Raises:
        UnknownName: a metric or grouping that does not exist.
        UserError: no records.
    """
    if metric not in (None, *METRICS):
        raise UnknownName(f"metric {metric!r}: choose one of {', '.join(METRICS)}")
    records = read_all(results_dir)
    if not records:
        raise UserError(f"no records in {Path(results_dir)}: start with `harness run`, or point --results elsewhere")
    shown = metric or _main_metric(records)
    keys = [key.strip() for key in by.split(",")]
    return wide(records, shown, read_published()) if keys == ["model", "task"] else Listing(shown, long(records, shown, keys))


def print_table(results_dir: Path, metric: str | None, by: str, format: str) -> None:
    """Write the tables of a results folder, and print one of them (see :func:`make_table`) to standard output.

    Raises:
        UnknownName: a metric, format or grouping that does not exist.
        UserError: no records, or a folder that cannot be written.
    """
    if format not in FORMATS:
        raise UnknownName(f"format {format!r}: choose one of {', '.join(FORMATS)}")
    table = make_table(results_dir, metric, by)
    check_writable(results_dir)
    write_tables(results_dir)
    if format == "terminal":
        from rich.console import Console

        render.show(table, Console(highlight=False, width=None if sys.stdout.isatty() else 1000))
    else:
        print(render.csv(table) if format == "csv" else render.markdown(table), end="")


def write_tables(results_dir: Path) -> list[Path]:
    """Write the CSV files of a results folder's ``tables/`` and return their paths."""
    records, published = read_all(results_dir), read_published()
    folder = Path(results_dir) / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {f"{metric}.csv": render.csv(wide(records, metric, published)) for metric in WIDE}
    texts["summary.csv"] = summary(records).to_csv(index=False, lineterminator="\n")
    for name, text in texts.items():
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in texts]


def wide(records: Iterable[RunRecord], metric: str, published: Iterable[Published] = ()) -> CrossTable:
    """Models down, tasks across; of each model, the newest setting that finished, over all its seeds.

    Settings are never chosen by their scores. Published numbers are rows of their own. They stand in every column of their
    task and split, except that of simulated data.
    """
    counted = _newest(_with_fingerprints(records))
    rows, columns = _row_labels(counted), _column_labels(counted)
    runs: dict[tuple[Row, Column], list[RunRecord]] = defaultdict(list)
    for record in counted:
        runs[_row(record), _column(record)].append(record)
    cells = {key: _cell(found, metric) for key, found in runs.items()}
    for item in sorted(published, key=lambda item: item.label):
        row = Row(item.model, source=item.source)
        for column in columns:
            if (item.metric, item.task, item.split, False) == (metric, column.task, column.split, column.simulated):
                cells[row, column] = _published_cell(item)
                rows[row] = item.label
    below = _below_reference(cells, {_row(record) for record in counted if _is_reference(record)}, metric)
    for key in below:
        cells[key] = replace(cells[key], marks=(*cells[key].marks, BELOW))
    for record in counted:
        if metric == "accuracy" and (best := record.task.get("best_accuracy")) is not None:
            cells[BEST, _column(record)] = Cell(best)
            rows[BEST] = BEST.model
    notes = []
    if below:
        notes.append(f"{render.SYMBOLS[BELOW]} worse than {REFERENCE} (floor)")
    if any(metric in record.intervals for record in counted):
        notes.append("[low, high]: 95 % block-bootstrap interval over the test split; of several seeds, the widest")
    if any(column.simulated for column in columns):
        notes.append("(sample): simulated data, which says nothing about the real set")
    return CrossTable(metric, rows, columns, cells, tuple(notes))


def long(records: Iterable[RunRecord], metric: str, by: Sequence[str]) -> pd.DataFrame:
    """Mean, sd and number of runs and of distinct seeds of a metric, grouped by any columns of :func:`summary`.

    Different settings, and simulated and real data, are kept apart whatever the grouping.

    Raises:
        UnknownName: a key that is no column of the summary.
    """
    frame = summary(records)
    if unknown := [key for key in by if key not in frame]:
        raise UnknownName(f"--by {unknown[0]!r}: choose model,task or any of {', '.join(frame.columns)}")
    keys = list(dict.fromkeys([*by, "simulated", "setting"]))
    groups = frame[frame.counted].groupby(keys, dropna=False, sort=True)
    values = groups[metric]
    return values.agg(mean="mean", sd="std", runs="count").assign(seeds=groups["seed"].nunique()).reset_index()


def summary(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One line per run: what ran on what, every metric, costs, flags, all settings, and where the record lies.

    ``model`` and ``task`` are the labels of rows and columns in a table of the same records. ``counted`` is False for a run
    that a newer one of the same setting, data and seed replaces. ``setting`` is the same for runs that differ in nothing
    but task, data, seed and version of the code.
    """
    import pandas as pd

    records = _with_fingerprints(records)
    counted = {record.folder for record in _newest(records)}
    rows, columns = _row_labels(records), _column_labels(records)
    frame = pd.DataFrame(
        [
            {"model": rows[_row(record)], "task": columns[_column(record)], **_summary_line(record, record.folder in counted)}
            for record in records
        ]
    )
    return frame.astype({name: float for name in METRICS if name in frame})  # undefined in every run is still a number


def model_label(record: RunRecord, checkpoint: str = "") -> str:
    """A model and what sets this use of it apart, e.g. ``kmer (floor)`` or ``msamamba (untrained, probe)``.

    ``checkpoint`` is what to call the weights, by default the name of their file.
    """
    model, tune = record.model, record.recipe["tune"]
    usual = model["recipe"]["tune"]
    facts = ["floor"] if model["card"]["floor"] else []
    if model["checkpoint"]:
        facts.append(checkpoint or model["checkpoint"]["name"])
    elif tune in ("probe", "zero") and tune != usual:
        facts.append("untrained")
    elif model["card"]["checkpoint"] or model["card"]["get"]:
        facts.append("from scratch")
    if tune != usual:
        facts.append(tune)
    if model["size"] != "base":
        facts.append(f"size {model['size']}")
    facts += [f"{name}={value}" for name, value in sorted(model["options"].items())]
    return f"{model['name']} ({', '.join(facts)})" if facts else model["name"]


# --- what is the same, and what it is called -----------------------------------------------------------------------------


def _with_fingerprints(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Records whose checkpoints are identified as well as can be.

    Records of version 0.1.0 know the sha256 of the weight file alone. They get the fingerprint that newer records hold for
    that file, if there is exactly one.
    """
    records = list(records)
    known: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if (checkpoint := record.model["checkpoint"]) and checkpoint["fingerprint"] != checkpoint["sha256"]:
            known[checkpoint["sha256"]].add(checkpoint["fingerprint"])

    def identified(record: RunRecord) -> RunRecord:
        checkpoint = record.model["checkpoint"]
        if not checkpoint or checkpoint["fingerprint"] != checkpoint["sha256"] or len(known[checkpoint["sha256"]]) != 1:
            return record
        (fingerprint,) = known[checkpoint["sha256"]]
        return replace(record, model=record.model | {"checkpoint": checkpoint | {"fingerprint": fingerprint}})

    return [identified(record) for record in records]


def _row(record: RunRecord) -> Row:
    model = record.model
    weights = model["checkpoint"] and model["checkpoint"]["fingerprint"]
    options = json.dumps(model["options"], sort_keys=True)
    return Row(model["name"], weights, model["size"], options, record.recipe["tune"], model["card"]["floor"])


def _column(record: RunRecord) -> Column:
    task = record.task
    return Column(task["name"], task.get("context"), task["simulated"], task["split"], data_digest(task["files"]))


def _setting(record: RunRecord) -> str:
    """What the user can choose for a model, apart from task and seed, as eight hex digits."""
    row = _row(record)
    return digest([row.model, row.weights, row.size, row.options, record.recipe])[:8]


def _row_labels(records: Iterable[RunRecord]) -> dict[Row, str]:
    """Rows in their order, floors first, and their labels.

    A checkpoint is called by its file's name; where that does not tell rows apart, by folder and file; else by file and a
    piece of the fingerprint. Of several copies of a checkpoint, the newest run's is named.
    """
    candidates = {}
    for record in sorted(records, key=_age):
        names = [""]
        if checkpoint := record.model["checkpoint"]:
            path = Path(*Path(checkpoint["source"]).parts[-2:])
            names = ["", path.as_posix(), f"{checkpoint['name']} {checkpoint['fingerprint'][:8]}"]
        candidates[_row(record)] = [model_label(record, name) for name in names]
    labels = _distinct(candidates)
    return dict(sorted(labels.items(), key=lambda item: (not item[0].floor, item[1])))


def _column_labels(records: Iterable[RunRecord]) -> dict[Column, str]:
    """Columns in their order, real data before simulated, and their labels, with no more in them than sets them apart."""
    tasks = {_column(record): record.task for record in sorted(records, key=_age)}
    ordered = sorted(
        tasks, key=lambda column: (column.simulated, tasks[column]["family"], column.task, column.split, column.data)
    )
    candidates = {}
    for column in ordered:
        split, data = f" [{column.split}]", f" data {column.data[:6]}"
        usual = column.task + ("" if column.split == tasks[column]["default_split"] else split)
        candidates[column] = [usual, usual + data, column.task + split + data]
    return _distinct(candidates)


def _distinct(candidates: Mapping[Key, Sequence[str]]) -> dict[Key, str]:
    """For each key, the first of its candidates that no other key has among its own; else its last."""
    found = Counter(text for texts in candidates.values() for text in dict.fromkeys(texts))
    return {key: next((text for text in texts if found[text] == 1), texts[-1]) for key, texts in candidates.items()}


def _age(record: RunRecord) -> tuple[str, str]:
    return record.created, record.run_id


def _newest(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Of runs that share setting, data and seed, the newest, so that no seed counts twice."""
    return list({(_setting(record), _column(record), record.seed): record for record in sorted(records, key=_age)}.values())


def _main_metric(records: Iterable[RunRecord]) -> str:
    found = {record.task.get("main_metric", "accuracy") for record in records}
    return found.pop() if len(found) == 1 else "accuracy"


# --- cells ---------------------------------------------------------------------------------------------------------------


def _cell(found: list[RunRecord], metric: str) -> Cell:
    """One cell from its runs, of which there may be several settings."""
    settings: dict[str, list[RunRecord]] = defaultdict(list)
    for record in found:
        settings[_setting(record)].append(record)
    newest = max(settings.values(), key=lambda runs: (any(run.finished for run in runs), max(run.created for run in runs)))
    values = [value for run in newest if (value := run.metrics.get(metric)) is not None]
    failed = [run for run in newest if not run.finished]
    limits = [run.intervals[metric] for run in newest if metric in run.intervals] if values else []
    marks, notes = [], []
    if not values:
        marks.append(FAILED if len(failed) == len(newest) else UNDEFINED)
    if seeds := sorted(run.seed for run in newest if run.collapsed):
        marks.append(COLLAPSED)
        notes.append(f"collapsed, every test example in one class (seed {', '.join(map(str, seeds))})")
    notes += [f"seed {run.seed} failed: {str(run.error).strip().splitlines()[0]}" for run in failed]
    if changes := _changes(newest[0]):
        notes.append(f"not the model's own recipe: {changes}")
    if others := len(settings) - 1:
        notes.append(f"the newest setting; {others} more in summary.csv")
    return Cell(
        mean=statistics.fmean(values) if values else None,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        interval=(min(low for low, _ in limits), max(high for _, high in limits)) if limits else None,
        marks=tuple(marks),
        notes=tuple(notes),
    )


def _published_cell(item: Published) -> Cell:
    return Cell(
        mean=float(item.value),
        sd=float(item.sd) if item.sd else None,
        n=int(item.n) if item.n else None,
        notes=(item.note,) if item.note else (),
        printed=render.spread(item.value, item.sd, item.n),
    )


def _changes(record: RunRecord) -> str:
    """How a recipe differs from the model's published one; how it is tuned is in the row's label already."""
    usual = record.model["recipe"]
    different = [name for name, value in record.recipe.items() if name != "tune" and value != usual.get(name)]
    return ", ".join(f"{name} {record.recipe[name]} (not {usual.get(name)})" for name in different)


def _is_reference(record: RunRecord) -> bool:
    model = record.model
    as_published = model["recipe"]["tune"] == record.recipe["tune"] and model["size"] == "base" and not model["options"]
    return model["name"] == REFERENCE and model["card"]["floor"] and not model["checkpoint"] and as_published


def _below_reference(cells: Mapping[tuple[Row, Column], Cell], reference: set[Row], metric: str) -> list[tuple[Row, Column]]:
    """The cells whose mean is worse than the reference's in the same column."""
    sign = 1 if METRICS[metric].higher_is_better else -1
    floor = {column: sign * cell.mean for (row, column), cell in cells.items() if row in reference and cell.mean is not None}
    return [key for key, cell in cells.items() if cell.mean is not None and sign * cell.mean < floor.get(key[1], float("-inf"))]


# --- the summary ---------------------------------------------------------------------------------------------------------


def _summary_line(record: RunRecord, counted: bool) -> dict[str, Any]:
    task, timing, parameters = record.task, record.timing, record.model.get("parameters") or {}
    checkpoint = record.model["checkpoint"] or {}
    return {
        "family": task["family"],
        "split": task["split"],
        "simulated": task["simulated"],
        "data": _column(record).data,
        "seed": record.seed,
        "status": record.status,
        "counted": counted,
        **{name: record.metrics.get(name) for name in METRICS},
        **{
            f"{name}_{end}": limits[index]
            for name, limits in record.intervals.items()
            for index, end in enumerate(("low", "high"))
        },
        "collapsed": record.collapsed,
        "best_accuracy": task.get("best_accuracy"),
        **{f"seconds_{name}": seconds for name, seconds in timing.get("seconds", {}).items()},
        "examples_per_second": timing.get("examples_per_second"),
        "peak_memory_bytes": timing.get("peak_memory_bytes"),
        "trainable_parameters": parameters.get("trainable"),
        "total_parameters": parameters.get("total"),
        "device": record.environment.get("device_name") or record.environment.get("device"),
        "computed_in": record.environment.get("precision"),
        "flags": "; ".join(record.flags),
        "error": record.error,
        "checkpoint": checkpoint.get("source"),
        "fingerprint": checkpoint.get("fingerprint"),
        "setting": _setting(record),
        **{f"recipe_{name}": str(value) if isinstance(value, list) else value for name, value in record.recipe.items()},
        "created": record.created,
        "run_id": record.run_id,
        "folder": record.folder.as_posix(),
    }
