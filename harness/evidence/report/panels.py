"""Figures of stored predictions, a panel for each task: ROC, precision against recall, reliability, predicted and observed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from harness.progress import figure as number
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION

from ..cells import Column, Row
from ..records import Predictions, RunRecord
from . import curves
from .draw import MUTED, Canvas, few_ticks, shortened, svg
from .figures import PANEL, Figure
from .gather import Gathered, Group

Lines = dict[Row, list[tuple[str, np.ndarray]]]  # a row's curves, each with what it is of ("seed 0")
ROC, PR, RELIABILITY, OBSERVED = "ROC", "precision and recall", "reliability", "predicted and observed"


def panels(gathered: Gathered, group: Group) -> list[Figure]:
    """The figures that a kind of task has, column by column; each of the stored predictions is read once."""
    found = list[Figure]()
    for column, label in group.table.columns.items():
        lines: dict[str, Lines] = defaultdict(lambda: defaultdict(list))
        for row in group.rows:
            pairs = [(run, read) for run in group.runs(row, column) if (read := gathered.predictions(run)) is not None]
            if pairs:
                _add(lines, row, pairs)
        found += [figure for name, of_rows in lines.items() for figure in _drawn(name, group, column, label, of_rows)]
    return found


def _add(lines: dict[str, Lines], row: Row, pairs: Sequence[tuple[RunRecord, Predictions]]) -> None:
    """A row's curves in one column."""
    if pairs[0][1].kind == REGRESSION:
        run, read = pairs[0]
        lines[OBSERVED][row].append((f"seed {run.seed}", curves.observed(read)))
        return
    for run, read in pairs:
        for name, curve in ((ROC, curves.roc), (PR, curves.precision_recall)):
            if len(points := curve(read)):
                lines[name][row].append((f"seed {run.seed}", points))
    if len(points := curves.reliability([read for _, read in pairs])):
        seeds = ", ".join(str(run.seed) for run, _ in pairs)
        lines[RELIABILITY][row].append((f"seed{'s' * (len(pairs) > 1)} {seeds}", points))


def _drawn(name: str, group: Group, column: Column, label: str, lines: Lines) -> list[Figure]:
    if name == OBSERVED:
        return [_scatter(group, column, label, row, *of[0]) for row, of in lines.items()]
    metric, draw = {ROC: ("auroc", _roc), PR: ("auprc", _precision), RELIABILITY: ("ece", _reliability)}[name]
    if column.kind == MULTILABEL and name == RELIABILITY:
        metric = ""
    words = draw.__doc__ or ""
    if metric in group.tables:
        words += f" {_means(group, metric, column, lines)}."
    picture = svg(*PANEL, f"{name} in {label}", words, lambda canvas: draw(canvas, group, label, lines))
    return [Figure(picture, label, topic=label, keys=[group.keys[row] for row in lines])]


def _means(group: Group, metric: str, column: Column, rows: Mapping[Row, object]) -> str:
    means = group.tables[metric].means(column)
    return f"{metric}: " + "; ".join(f"{group.rows[row]} {number(means[row])}" for row in rows if row in means)


def _plot(canvas: Canvas, axes, group: Group, lines: Lines, metric: str, column_label: str) -> None:
    column = next(column for column, label in group.table.columns.items() if label == column_label)
    means = group.tables[metric].means(column) if metric in group.tables else {}
    for row, of in lines.items():
        score = f", mean {metric} {number(means[row])}" if row in means else ""
        for which, points in of:
            (line,) = axes.plot(points[:, 0], points[:, 1], linewidth=1.3, alpha=0.85, clip_on=False, **group.looks[row].line)
            canvas.mark(line, group.keys[row], f"{group.rows[row]}, {which}{score}")


def _titled(label: str, name: str) -> str:
    return f"{shortened(label, 50 - len(name))}: {name}"


def _unit(canvas: Canvas, label: str, x: str, y: str):
    axes = canvas.axes(left=48)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=x, ylabel=y, title=label)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    return axes


def _roc(canvas: Canvas, group: Group, label: str, lines: Lines) -> None:
    """True against false positive rate, a line for each run; the diagonal is guessing."""
    axes = _unit(canvas, _titled(label, ROC), "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
    _plot(canvas, axes, group, lines, "auroc", label)


def _precision(canvas: Canvas, group: Group, label: str, lines: Lines) -> None:
    """Precision against recall, a line for each run."""
    _plot(canvas, _unit(canvas, _titled(label, PR), "recall", "precision"), group, lines, "auprc", label)


def _reliability(canvas: Canvas, group: Group, label: str, lines: Lines) -> None:
    """What happened against what was predicted, a line for each model, in ten bins; the diagonal is perfect calibration."""
    several = group.kind == CLASSIFICATION and any(
        len(run.task["classes"]) > 2 for row in lines for column in group.table.columns for run in group.runs(row, column)
        if group.table.columns[column] == label
    )  # fmt: skip
    x, y = (
        ("predicted class's probability", "share of right predictions")
        if several
        else ("predicted probability", "observed share")
    )
    axes = _unit(canvas, _titled(label, RELIABILITY), x, y)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
    for row, of in lines.items():
        style = group.looks[row]
        for which, points in of:
            (line,) = axes.plot(
                points[:, 0], points[:, 1], linewidth=1.3, marker=style.marker, markersize=4, markeredgewidth=0, clip_on=False,
                **style.line,
            )  # fmt: skip
            bins = f"{len(points)} of {curves.BINS} bins"
            canvas.mark(line, group.keys[row], f"{group.rows[row]}, {which}: {bins}, {int(points[:, 2].sum()):,} predictions")


def _scatter(group: Group, column: Column, label: str, row: Row, which: str, points: np.ndarray) -> Figure:
    """Predicted against observed numbers of one run; on the diagonal they are equal."""
    style, name = group.looks[row], group.rows[row]
    means = {metric: table.means(column).get(row) for metric, table in group.tables.items()}
    scores = ", ".join(f"{metric} {number(mean)}" for metric, mean in means.items() if mean is not None)

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes(left=56)
        low, high = float(points.min()), float(points.max())
        axes.plot([low, high], [low, high], color=MUTED, linewidth=0.8)
        axes.set(xlabel="observed", ylabel="predicted", title=shortened(f"{label}: {name}", 42))
        axes.ticklabel_format(useOffset=False)
        few_ticks(axes.xaxis, 5)
        (dots,) = axes.plot(*points.T, "o", color=style.colour, markersize=3, markeredgewidth=0, alpha=0.6)
        canvas.mark(dots, group.keys[row], f"{name}, {which}: {scores}")

    correlation = f"{len(points)} examples, observed from {points[:, 0].min():.4g} to {points[:, 0].max():.4g}"
    words = f"{correlation}, predicted from {points[:, 1].min():.4g} to {points[:, 1].max():.4g}; mean scores: {scores}."
    picture = svg(*PANEL, f"Predicted against observed in {label}, {name}, {which}", words, draw)
    return Figure(picture, f"{label}: {name}, {which}", topic=label, keys=[group.keys[row]])
