"""Comparison tables: functions of records, and of the numbers that papers print. Looks are :mod:`.render`'s business."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, UnknownName, UserError
from harness.files.atomic import atomic
from harness.progress import printable
from harness.task import CLASSIFICATION, MAIN_METRIC

from . import render
from .cells import BEST, CrossTable, Listing, Row, Table
from .comparison import MAX_LISTED, wide
from .folders import sweep
from .identity import Arranged, column_labels, column_of, model_label
from .metrics import METRICS, metrics_of
from .published import read_published
from .records import RunRecord, collection_paused, read_all
from .subsets import ALL, check_subset
from .summary import MAIN, WHOLE, columns, long, summary

__all__ = ["Table", "long", "make_table", "model_label", "print_table", "summary", "tables_by_metric", "wide", "write_tables"]

WIDE = MAIN[CLASSIFICATION]  # the tables kept in results/tables/, of classification tasks
FORMATS = ("terminal", "markdown", "csv")
RANK, MODEL = "rank", "model"  # words of --sort: by the mean rank; published rows below our own of the same model
MAX_MAJORITY = 0.7  # share of the test split's largest class beyond which accuracy is no headline


@dataclass(frozen=True, kw_only=True)
class View:
    """What a table is to show of the records.

    ``metric``, in any spelling of upper and lower case, is by default the main one of the tasks, or that of their kind where
    they differ; instead of accuracy, auroc where a class has more than MAX_MAJORITY of a test split. ``sort`` is a column's
    label, RANK (the best come first), or MODEL. ``all_settings`` gives each setting of a model a row of its own.
    ``published``: with the numbers that papers print. ``subset`` is the part of the test examples that is scored.
    ``results`` is the folder of the records, in which the predictions lie.
    """

    metric: str | None = None
    by: str = "model,task"
    sort: str | None = None
    all_settings: bool = False
    costs: bool = False
    published: bool = True
    subset: str = ALL
    results: Path | None = None

    @property
    def keys(self) -> list[str]:
        """The names in ``by``."""
        return [key.strip() for key in self.by.split(",")]


def tables_by_metric(records: Sequence[RunRecord], metric: str | None = None) -> dict[str, dict[str, CrossTable]]:
    """Of each kind of task, models against tasks by every metric that it has.

    The first table of a kind is the one that `harness table` shows: by ``metric`` where the kind has it, else by its main one.

    Raises:
        UnknownName, UserError: as :func:`print_table`.
    """
    by_kind, published = _by_kind(records), read_published()
    first = _tables(by_kind, View()) | (_tables(by_kind, View(metric=metric)) if metric else {})
    found = dict[str, dict[str, CrossTable]]()
    for kind, of_kind in by_kind.items():
        table = first[kind]
        assert isinstance(table, CrossTable)
        others = [name for name in metrics_of(kind) if name != table.metric]
        found[kind] = {table.metric: table} | {name: wide(of_kind, name, published) for name in others}
    return found


def make_table(results_dir: Path, metric: str | None = None, by: str = "model,task", **options: Any) -> Table:
    """The table of a results folder: models against tasks, or a flat list by other keys; ``options`` are those of
    :class:`View`.

    Tasks of different kinds share no table: of several kinds that have the metric, the table is that of the first of
    :data:`harness.task.KINDS`, and a note says what is not in it.

    Raises:
        UnknownName: a metric, grouping, subset or column that does not exist.
        UserError: no readable records, none of a kind that has the metric, or costs of a flat list.
    """
    by_kind = _by_kind(_read(results_dir))
    kind, table = next(iter(_tables(by_kind, View(metric=metric, by=by, results=Path(results_dir), **options)).items()))
    return _without(table, by_kind, [kind])


@collection_paused()
def print_table(results_dir: Path, metric: str | None, by: str, format: str, *, full_width: bool = False, **options: Any) -> None:
    """Print the tables of a results folder (see :func:`make_table`) to standard output, and write the CSV files.

    Of tasks of several kinds there is a table each, one below the other. On a terminal they are as wide as that, elsewhere
    80 columns wide or as COLUMNS says, unless ``full_width``. Where the files cannot be written, standard error says so.

    Raises:
        UnknownName: a metric, format, grouping, subset or column that does not exist.
        UserError: no readable records, none of a kind that has the metric, or costs of a flat list.
    """
    if format not in FORMATS:
        raise UnknownName(f"format {format!r}: choose one of {', '.join(FORMATS)}")
    arranged = Arranged.of(_read(results_dir))
    by_kind = arranged.by_kind()
    found = _tables(by_kind, View(metric=metric, by=by, results=Path(results_dir), **options))
    tables = {kind: _without(table, by_kind, found) for kind, table in found.items()}
    if format == "csv":
        print(_as_csv(list(tables.values())), end="")
    elif format == "markdown":
        heading = "## {} tasks\n\n" if len(tables) > 1 else ""
        print("\n".join(heading.format(kind) + render.markdown(table) for kind, table in tables.items()), end="")
    else:
        render.show_all(tables, render.UNLIMITED if full_width else None)
    try:
        write_tables(results_dir, arranged)
    except HarnessError as error:
        print(printable(str(error)), file=sys.stderr)


def write_tables(results_dir: Path, records: Sequence[RunRecord] | Arranged | None = None) -> list[Path]:
    """Write the CSV files of a results folder's ``tables/`` and return their paths. ``records`` are the folder's, if read.

    Files of kinds of task that have no records are removed. Those of other kinds than classification have it in their names.

    Raises:
        HarnessError: the files cannot be written.
    """
    arranged, published = Arranged.of(read_all(results_dir) if records is None else records), read_published()
    folder = Path(results_dir) / "tables"
    by_kind, texts, outdated = arranged.by_kind(), dict[str, str](), list[str]()
    for kind, metrics in MAIN.items():
        names = {f"{metric}.csv" if kind == CLASSIFICATION else f"{kind}_{metric}.csv": metric for metric in metrics}
        if kind in by_kind:
            texts |= {name: render.csv(wide(by_kind[kind], metric, published)) for name, metric in names.items()}
        else:
            outdated += names
    texts["summary.csv"] = render.columns_as_csv(columns(arranged), METRICS, WHOLE)
    try:
        sweep(results_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with atomic(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
        for name in outdated:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise HarnessError(f"{folder}: the CSV tables were not written ({error.strerror or error})") from error
    return [folder / name for name in texts]


def _as_csv(tables: Sequence[CrossTable | Listing]) -> str:
    """The lines of tables below one another; a flat list gets a column for the metric where there are several."""
    import pandas as pd

    frames = [table.to_frame() for table in tables]
    if len(tables) > 1 and isinstance(tables[0], Listing):
        frames = [frame.assign(metric=table.metric) for frame, table in zip(frames, tables)]
    return render.frame_as_csv(pd.concat(frames) if len(frames) > 1 else frames[0])


def _read(results_dir: Path) -> list[RunRecord]:
    records = read_all(results_dir)
    if not records:
        raise UserError(f"no records in {Path(results_dir)} to read: start with `harness run`, or point --results elsewhere")
    return records


def _by_kind(records: Iterable[RunRecord]) -> dict[str, Arranged]:
    return Arranged.of(records).by_kind()


def _tables(by_kind: Mapping[str, Arranged], view: View) -> dict[str, CrossTable | Listing]:
    """A table for each kind of task that has the metric."""
    check_subset(view.subset, (record for arranged in by_kind.values() for record in arranged.records))
    if view.metric is None:
        metrics = {kind: main_metric(arranged.records, kind) for kind, arranged in by_kind.items()}
    else:
        metric = metric_named(view.metric)
        metrics = {kind: (metric, "") for kind in by_kind if kind in METRICS[metric].kinds}
        if not metrics:
            of, instead = " or ".join(METRICS[metric].kinds), " or ".join(MAIN_METRIC[kind] for kind in by_kind)
            raise UserError(f"metric {metric}: only {of} has it, and the records are of {' and '.join(by_kind)}; try {instead}")
    return _sorted_all({kind: _table(by_kind[kind], *chosen, view) for kind, chosen in metrics.items()}, view.sort)


def _without(table: CrossTable | Listing, by_kind: Mapping[str, Arranged], shown: Collection[str]) -> CrossTable | Listing:
    """A table with a note on the columns of kinds of task that are not shown."""
    parts = []
    for kind, arranged in by_kind.items():
        if kind not in shown:
            columns = len(column_labels(arranged.records))
            parts.append(f"{columns} column{'s' * (columns > 1)} of {kind} (--metric {main_metric(arranged.records, kind)[0]})")
    return replace(table, notes=(*table.notes, f"not shown: {', '.join(parts)}")) if parts else table


def _table(records: Arranged, metric: str, why: str, view: View) -> CrossTable | Listing:
    """The table of records of one kind; ``why`` explains the choice of the metric."""
    notes = (why,) if why else ()
    if view.keys == ["model", "task"]:
        table = wide(records, metric, read_published() if view.published else (), view.all_settings, view.subset, view.results)
        return replace(table, notes=notes + table.notes, costs=view.costs)
    if view.costs:
        raise UserError(
            f"costs with --by {view.by}: they are columns of --by model,task only; summary.csv has those of every run"
        )
    frame, hidden = long(records, metric, view.keys, view.subset), tuple({"simulated", "data"} - set(view.keys))
    return Listing(metric, frame, len(set(view.keys)), hidden, notes, subset=view.subset)


# --- what to show --------------------------------------------------------------------------------------------------------


def metric_named(asked: str) -> str:
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


def main_metric(records: Sequence[RunRecord], kind: str) -> tuple[str, str]:
    """The main metric of tasks of one kind, and why it is another one than accuracy where it is."""
    tasks = {column_of(record): record.task for record in records}
    labels = column_labels(records)
    named = {name if (name := task.get("main_metric")) in metrics_of(kind) else MAIN_METRIC[kind] for task in tasks.values()}
    if (metric := named.pop() if len(named) == 1 else MAIN_METRIC[kind]) != "accuracy":
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


def _sorted_all(tables: Mapping[str, CrossTable | Listing], sort: str | None) -> dict[str, CrossTable | Listing]:
    """Tables in the order that ``sort`` asks for, which may name a column that only one of them has."""
    found, faults = dict[str, CrossTable | Listing](), list[UserError]()
    for kind, table in tables.items():
        try:
            found[kind] = table if sort is None else _sorted(table, sort)
        except UserError as error:
            found[kind] = table
            faults.append(error)
    if faults and len(faults) == len(tables):
        raise faults[0]
    return found


def _sorted(table: CrossTable | Listing, sort: str) -> CrossTable | Listing:
    """A table with the best rows first, by a column or by mean rank; those without a value follow in their order."""
    metric, word = METRICS[table.metric], sort.strip().lower()
    if isinstance(table, Listing):
        if sort not in table.frame:
            raise UnknownName(f"sort {sort!r}: choose one of {', '.join(table.frame.columns)}")
        rising = sort != "mean" or not metric.higher_is_better
        return replace(table, frame=table.frame.sort_values(sort, ascending=rising, ignore_index=True))
    if word == MODEL:
        values = _beside_own(table)
    elif word in (RANK, render.MEAN_RANK):
        values = table.mean_ranks()[0]
        if not values:
            raise UserError(f"sort {sort!r}: there is no column where every model has a score; sort by a column's label")
    else:
        named = [column for column, label in table.columns.items() if word == label.lower()]
        if not named:
            raise UnknownName(f"sort {sort!r}: choose {RANK} or one of {', '.join(table.columns.values())}, or {MODEL}")
        sign = -1 if metric.higher_is_better else 1
        values = {row: sign * mean for row, mean in table.means(named[0]).items() if row != BEST}
    ordered = sorted(table.rows, key=lambda row: values.get(row, float("inf")))
    return replace(table, rows={row: table.rows[row] for row in ordered})


def _beside_own(table: CrossTable) -> dict[Row, float]:
    """Each row's place if published rows follow our own of the same model; without an entry for what has none of our own."""
    places: dict[str, float] = {}
    for place, row in enumerate(table.rows):
        if row.own:
            places.setdefault(row.model, place)
    return {row: places[row.named] + (0 if row.own else 0.5) for row in table.rows if row.named in places}
