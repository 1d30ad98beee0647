"""Runs as lines of a data frame: one line a run, or one a group of runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from harness.errors import UnknownName
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION

from .identity import Arranged, column_labels, column_of, row_labels, row_of, setting_code
from .metrics import METRICS
from .records import RunRecord
from .subsets import ALL, LEAKING, NOVEL, SUBSETS, examples_on, scores_on

if TYPE_CHECKING:
    import pandas as pd

MAIN = {  # metrics that are most looked at, by kind of task
    CLASSIFICATION: ("accuracy", "f1", "log_loss", "auroc", "auprc"),
    REGRESSION: ("spearman", "pearson", "r2", "rmse", "mae"),
    MULTILABEL: ("auroc", "auprc", "f1", "log_loss"),
}
WHOLE = tuple(f"{subset}_examples" for subset in SUBSETS)  # columns of whole numbers, where runs may have none
KEPT_APART = ("task", "simulated", "data", "setting")  # runs that differ in one of these are never averaged


def summary(records: Iterable[RunRecord] | Arranged) -> pd.DataFrame:
    """One line per run: what ran on what, every metric, costs, flags, all settings, and where the record lies.

    ``model`` and ``task`` are the labels of rows and columns in a table of the same records. ``counted`` is False for a run
    that a newer one of the same setting, data and seed replaces, or that another version of the code made. ``setting`` is
    the same for runs that differ in nothing but task, data, seed and version of the code; of a model that reads an
    alignment, also the task's files are the same.
    """
    import pandas as pd

    frame = pd.DataFrame(columns(records, missing=float("nan")))
    numbers = dict.fromkeys(METRICS, float) | dict.fromkeys(WHOLE, "Int64")
    return frame.astype({name: kind for name, kind in numbers.items() if name in frame})  # undefined in every run, too


def columns(records: Iterable[RunRecord] | Arranged, missing: Any = None) -> dict[str, list[Any]]:
    """The columns of :func:`summary` as lists; ``missing`` stands where a run has no such value."""
    arranged = Arranged.of(records)
    rows = row_labels((row_of(record), record) for record in arranged.records)
    columns = column_labels(arranged.records)
    settings, counted = {}, set()
    for (row, _), found in arranged.found.items():
        for setting, runs in found.items():
            counted |= set(map(id, runs.counted))
            settings |= dict.fromkeys(map(id, runs.all), setting_code(row, setting))
    lines = []
    for record in arranged.records:
        line = {"model": rows[row_of(record)], "task": columns[column_of(record)]}
        lines.append(line | _line(record, id(record) in counted, settings[id(record)]))
    names = dict.fromkeys(name for line in lines for name in line)
    return dict(zip(names, map(list, zip(*(map(line.get, names, repeat(missing)) for line in lines)))))


def long(records: Iterable[RunRecord] | Arranged, metric: str, by: Sequence[str], subset: str = ALL) -> pd.DataFrame:
    """Mean, sd and number of runs and of distinct seeds of a metric, grouped by any columns of :func:`summary`.

    Runs that differ in one of KEPT_APART are kept apart whatever the grouping. The metric is that on a ``subset`` of the
    test examples, one of :data:`.subsets.SUBSETS`; runs without an audit are counted on ALL only.

    Raises:
        UnknownName: a key that is no column of the summary.
    """
    arranged = Arranged.of(records)
    frame = summary(arranged)
    if unknown := [key for key in by if key not in frame]:
        raise UnknownName(f"--by {unknown[0]!r}: choose model,task or any of {', '.join(frame.columns)}")
    frame = frame.assign(**{metric: [scores_on(record, subset)[0].get(metric) for record in arranged.records]}).astype(
        {metric: float}
    )
    groups = frame[frame.counted].groupby(list(dict.fromkeys([*by, *KEPT_APART])), dropna=False, sort=True)
    values = groups[metric]
    return values.agg(mean="mean", sd="std", runs="count").assign(seeds=groups["seed"].nunique()).reset_index()


def _line(record: RunRecord, counted: bool, setting: str) -> dict[str, Any]:
    task, timing, parameters = record.task, record.timing, record.model.get("parameters") or {}
    checkpoint, metrics = record.model["checkpoint"] or {}, scores_on(record, ALL)[0]
    return {
        "family": task["family"],
        "kind": record.kind,
        "split": task["split"],
        "simulated": task["simulated"],
        "data": column_of(record).data,
        "seed": record.seed,
        "status": record.status,
        "counted": counted,
        **{name: metrics.get(name) for name in METRICS},
        **{
            f"{name}_{end}": limits[index]
            for name, limits in (record.intervals | record.beside.get("intervals", {})).items()
            for index, end in enumerate(("low", "high"))
        },
        **_on_subsets(record),
        "collapsed": record.collapsed,
        "best_accuracy": task.get("best_accuracy"),
        **{f"seconds_{name}": seconds for name, seconds in timing.get("seconds", {}).items()},
        "examples_per_second": timing.get("examples_per_second"),
        "peak_memory_bytes": timing.get("peak_memory_bytes"),
        "trainable_parameters": parameters.get("trainable"),
        "total_parameters": parameters.get("total"),
        "device": record.environment.get("device_name") or record.environment.get("device"),
        "computed_in": record.environment.get("precision"),
        "alignment": bool(record.alignment),
        "flags": "; ".join(record.flags),
        "error": record.error,
        "checkpoint": checkpoint.get("source"),
        "fingerprint": checkpoint.get("fingerprint"),
        "setting": setting,
        **{f"recipe_{name}": str(value) if isinstance(value, list) else value for name, value in record.recipe.items()},
        "code": record.code,
        "created": record.created,
        "run_id": record.run_id,
        "folder": record.folder.as_posix(),
    }


def _on_subsets(record: RunRecord) -> dict[str, Any]:
    """``novel_examples``, ``novel_accuracy`` and so on; nothing of a run without an audit."""
    found: dict[str, Any] = {}
    for subset in (NOVEL, LEAKING):
        if (examples := examples_on(record, subset)) is not None:
            metrics = scores_on(record, subset)[0]
            found[f"{subset}_examples"] = examples
            found |= {f"{subset}_{name}": metrics.get(name) for name in MAIN[record.kind]}
    return found
