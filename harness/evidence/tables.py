"""Comparison tables: functions of records, and of the numbers that papers print."""

from __future__ import annotations

import csv
import io
import os
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import BadData, UnknownName, UserError
from harness.files.fingerprint import digest

from .metrics import METRICS
from .records import RunRecord, check_writable, read_all

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

WIDE = ("accuracy", "f1", "log_loss", "auroc", "auprc")  # the tables kept in results/tables/
FORMATS = ("terminal", "markdown", "csv")
KMER = "kmer (floor)"
BEST = "best possible"
BELOW, COLLAPSED = "↓", "!"
PUBLISHED_COLUMNS = ("source", "table", "model", "task", "metric", "value", "sd", "n", "split", "note")

Column = tuple[str, str, str]  # task, split, digest of the data files


@dataclass(frozen=True)
class Table:
    """A table as it is shown: rows start with their label, and ``notes`` explain the marks in the cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A number that a paper prints; ``value``, ``sd`` and ``n`` keep its spelling, and are empty where it gives none."""

    source: str
    table: str
    model: str
    task: str
    metric: str
    value: str
    sd: str
    n: str
    split: str
    note: str

    @property
    def label(self) -> str:
        """The name of its row."""
        return f"{self.model} (published: {self.source})"


@dataclass
class _Grid:
    """A wide table in the making: text and mean of each cell by row and column, rows in order, footnotes once each."""

    texts: dict[str, dict[Column, str]] = field(default_factory=lambda: defaultdict(dict))
    means: dict[str, dict[Column, float]] = field(default_factory=lambda: defaultdict(dict))
    notes: list[str] = field(default_factory=list)

    def put(self, row: str, column: Column, text: str, mean: float | None = None) -> None:
        self.texts[row][column] = text
        if mean is not None:
            self.means[row][column] = mean

    def note(self, text: str) -> str:
        """The mark of a footnote."""
        if text not in self.notes:
            self.notes.append(text)
        return f"[{self.notes.index(text) + 1}]"

    def mark_below_floor(self, metric: str) -> bool:
        """Mark every cell whose mean is worse than the k-mer floor's in its column; whether there was one."""
        floor, sign = self.means.get(KMER, {}), 1 if METRICS[metric].higher_is_better else -1
        below = [
            (row, column)
            for row, means in self.means.items()
            for column, mean in means.items()
            if column in floor and sign * mean < sign * floor[column]
        ]
        for row, column in below:
            self.texts[row][column] += f" {BELOW}"
        return bool(below)


def model_label(record: RunRecord) -> str:
    """A model and what sets this use of it apart, e.g. ``kmer (floor)`` or ``msamamba (untrained, probe)``."""
    model, tune = record.model, record.recipe["tune"]
    usual = model["recipe"]["tune"]
    facts = ["floor"] if model["card"]["floor"] else []
    if model["checkpoint"]:
        facts.append(model["checkpoint"]["name"])
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


def summary(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row a run: what ran on what, every metric, costs, flags, all settings, and where the record lies.

    ``counted`` is False for a run that a newer one of the same setting and seed replaces. ``setting`` names runs that
    differ in nothing but task, data, seed and version of the code.
    """
    import pandas as pd

    records = list(records)
    counted = {record.folder for record in _newest(records)}
    frame = pd.DataFrame([_summary_row(record, record.folder in counted) for record in records])
    return frame.astype({name: float for name in METRICS if name in frame})  # undefined in every run is still a number


def wide(records: Iterable[RunRecord], metric: str, published: Iterable[Published] = ()) -> Table:
    """Models down, tasks across: ``mean ± sd (n=seeds)`` of the newest setting that finished.

    A column is one task, one split and the very same data files. Settings are never chosen by their scores.
    """
    counted = _newest(records)
    columns = _column_labels(counted)
    cells: dict[tuple[bool, str, Column], list[RunRecord]] = defaultdict(list)
    for record in counted:
        cells[not record.model["card"]["floor"], model_label(record), _column(record)].append(record)
    grid = _Grid()
    for (_, row, column), runs in sorted(cells.items()):  # floors first
        grid.put(row, column, *_cell(runs, metric, f"{row}, {columns[column]}", grid))
    for item in sorted(published, key=lambda item: item.label):
        for column in columns:
            if item.metric == metric and (item.task, item.split) == column[:2]:
                note = f" {grid.note(item.note)}" if item.note else ""
                grid.put(item.label, column, _spread(item.value, item.sd, item.n) + note, float(item.value))
    notes = [f"{BELOW} worse than {KMER}"] if grid.mark_below_floor(metric) else []
    for record in counted:
        if metric == "accuracy" and record.task.get("best_accuracy") is not None:
            grid.put(BEST, _column(record), f"{record.task['best_accuracy']:.4f}")
    if any(metric in record.intervals for record in counted):
        notes.append("[low, high]: 95 % block-bootstrap interval over the test split; of several seeds, the widest")
    if any(record.task["simulated"] for record in counted):
        notes.append("(sample): simulated data, which says nothing about the real set")
    return Table(
        METRICS[metric].label,
        ("model", *columns.values()),
        tuple((row, *(texts.get(column, "") for column in columns)) for row, texts in grid.texts.items()),
        (*notes, *(f"[{number}] {text}" for number, text in enumerate(grid.notes, start=1))),
    )


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


def render(table: Table, format: str) -> str:
    """A table as ``markdown`` or ``csv`` text; in csv the notes follow as lines that start with ``#``."""
    if format == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([table.columns, *table.rows])
        return text.getvalue() + "".join(f"# {note}\n" for note in table.notes)
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([*body, *(f"\n{note}" for note in table.notes)]) + "\n"


def show(table: Table, console: Console) -> None:
    """Print a table to a terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(title=Text(table.title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(table.columns):  # as Text: rich would read "QKI [published]" as markup
        grid.add_column(Text(column), justify="right" if number else "left")
    for row in table.rows:
        grid.add_row(*map(Text, row))
    console.print(grid)
    for note in table.notes:
        console.print(Text(note, style="dim"))


def make_table(results_dir: Path, metric: str | None, by: str = "model,task") -> Table:
    """The table of a results folder: models against tasks, or a flat list by other keys.

    ``metric`` is by default the main one of the tasks, and accuracy where these differ.

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
    return wide(records, shown, read_published()) if keys == ["model", "task"] else _flat(long(records, shown, keys), shown)


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

        show(table, Console(highlight=False, width=None if sys.stdout.isatty() else 1000))
    else:
        print(render(table, format), end="")


def write_tables(results_dir: Path) -> list[Path]:
    """Write ``tables/`` of a results folder; returns their paths."""
    records, published = read_all(results_dir), read_published()
    folder = Path(results_dir) / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {f"{metric}.csv": render(wide(records, metric, published), "csv") for metric in WIDE}
    texts["summary.csv"] = summary(records).to_csv(index=False, lineterminator="\n")
    for name, text in texts.items():
        temporary = folder / f".tmp-{os.getpid()}-{name}"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / name)
    return [folder / name for name in texts]


def published_folder() -> Path:
    """Where the papers' numbers lie: inside the package in a wheel, in ``results/published`` in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "published"
    return inside if inside.is_dir() else package.parent / "results" / "published"


def read_published(folder: Path | None = None) -> list[Published]:
    """The numbers of every ``*.csv`` in a folder (by default the project's own), see ``results/published/README.md``.

    Raises:
        BadData: a file with other columns, an unknown metric, an empty cell that must not be, no number, or a repetition.
    """
    found: dict[tuple[str, ...], Published] = {}
    for path in sorted((folder or published_folder()).glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, restkey="more", restval="")
            if tuple(rows.fieldnames or ()) != PUBLISHED_COLUMNS:
                raise BadData(f"{path}: expected the columns {','.join(PUBLISHED_COLUMNS)}")
            for number, row in enumerate(rows, start=2):
                if fault := _fault(row):
                    raise BadData(f"{path}, line {number}: {fault}")
                item = Published(**row)
                key = (item.source, item.model, item.task, item.metric, item.split)
                if key in found:
                    raise BadData(f"{path}, line {number}: repeats {', '.join(key)}")
                found[key] = item
    return list(found.values())


def _fault(row: dict[str, Any]) -> str | None:
    if "more" in row:
        return "has too many cells"
    if empty := [name for name in ("source", "table", "model", "task", "metric", "value", "split") if not row[name]]:
        return f"{empty[0]} is empty"
    if row["metric"] not in METRICS:
        return f"metric {row['metric']!r} is none of {', '.join(METRICS)}"
    for name in ("value", "sd", "n"):
        if row[name] and not re.fullmatch(r"\d+" if name == "n" else r"-?\d+(\.\d+)?", row[name]):
            return f"{name} {row[name]!r} is no number"
    return None


def _main_metric(records: Iterable[RunRecord]) -> str:
    found = {record.task.get("main_metric", "accuracy") for record in records}
    return found.pop() if len(found) == 1 else "accuracy"


def _setting(record: RunRecord) -> str:
    """What the user can choose for a model, apart from task and seed."""
    model = record.model
    weights = model["checkpoint"] and model["checkpoint"]["sha256"]
    return digest([model["name"], weights, model["size"], model["options"], record.recipe])[:8]


def _column(record: RunRecord) -> Column:
    task = record.task
    return record.task_label, task["split"], digest(task["files"])[:6]


def _column_labels(records: Iterable[RunRecord]) -> dict[Column, str]:
    """Columns in their order, real data before simulated, with no more in the label than sets them apart."""
    tasks = {_column(record): record.task for record in records}
    versions: dict[tuple[str, str], int] = defaultdict(int)
    for name, split, _ in tasks:
        versions[name, split] += 1
    labels = {}
    for column, task in sorted(tasks.items(), key=lambda item: (item[1]["simulated"], item[1]["family"], item[0])):
        name, split, data = column
        split_label = "" if split == task["default_split"] else f" [{split}]"
        labels[column] = name + split_label + (f" data {data}" if versions[name, split] > 1 else "")
    return labels


def _newest(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Of runs that share setting, data and seed, the newest, so that no seed counts twice."""
    latest: dict[tuple[Any, ...], RunRecord] = {}
    for record in sorted(records, key=lambda record: (record.created, record.run_id)):
        latest[_setting(record), _column(record), record.seed] = record
    return list(latest.values())


def _cell(found: list[RunRecord], metric: str, where: str, grid: _Grid) -> tuple[str, float | None]:
    """Text and mean of one cell from its runs, of which there may be several settings."""
    settings: dict[str, list[RunRecord]] = defaultdict(list)
    for record in found:
        settings[_setting(record)].append(record)
    newest = max(settings.values(), key=lambda runs: (any(run.finished for run in runs), max(run.created for run in runs)))
    values = [value for run in newest if (value := run.metrics.get(metric)) is not None]
    failed = [run for run in newest if not run.finished]
    marks = []
    mean = None
    if values:
        mean = statistics.fmean(values)
        sd = f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""
        text = _spread(f"{mean:.4f}", sd, str(len(values)))
        if limits := [run.intervals[metric] for run in newest if metric in run.intervals]:
            text += f" [{min(low for low, _ in limits):.3f}, {max(high for _, high in limits):.3f}]"
    else:
        text = "failed" if len(failed) == len(newest) else "undefined"
    if seeds := [run.seed for run in newest if run.collapsed]:
        marks += [COLLAPSED, grid.note(f"{where}: collapsed, every test example in one class (seed {_join(seeds)})")]
    for run in failed:
        first_line = str(run.error).strip().splitlines()[0]
        marks.append(grid.note(f"{where}: seed {run.seed} failed: {first_line}"))
    if changes := _changes(newest[0]):
        marks.append(grid.note(f"{where}: not the model's own recipe: {changes}"))
    if others := len(settings) - 1:
        marks.append(grid.note(f"{where}: the newest setting; {others} more in summary.csv"))
    return " ".join([text, *marks]), mean


def _changes(record: RunRecord) -> str:
    """How a recipe differs from the model's published one; how it is tuned is in the row's label already."""
    usual = record.model["recipe"]
    different = [name for name, value in record.recipe.items() if name != "tune" and value != usual.get(name)]
    return ", ".join(f"{name} {record.recipe[name]} (not {usual.get(name)})" for name in different)


def _spread(mean: str, sd: str, n: str) -> str:
    return mean + (f" ± {sd}" if sd else "") + (f" (n={n})" if n else "")


def _join(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _flat(frame: pd.DataFrame, metric: str) -> Table:
    """A frame as a table: numbers to four places, empty where there is none."""
    rows = [tuple(map(_text, row)) for row in frame.itertuples(index=False, name=None)]
    return Table(METRICS[metric].label, tuple(frame.columns), tuple(rows))


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _summary_row(record: RunRecord, counted: bool) -> dict[str, Any]:
    task, timing, parameters = record.task, record.timing, record.model.get("parameters") or {}
    return {
        "model": model_label(record),
        "task": _column_labels([record])[_column(record)],
        "family": task["family"],
        "split": task["split"],
        "simulated": task["simulated"],
        "data": _column(record)[2],
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
        "setting": _setting(record),
        **{f"recipe_{name}": str(value) if isinstance(value, list) else value for name, value in record.recipe.items()},
        "created": record.created,
        "run_id": record.run_id,
        "folder": record.folder.as_posix(),
    }
