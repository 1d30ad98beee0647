"""Figures of a table's own numbers: ranks, scores against costs, learning curves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from harness.progress import figure as number

from ..cells import Column, Row
from ..metrics import METRICS
from .draw import FONT, INK, MUTED, SENTINEL, STEPS, Canvas, cost_ticks, few_ticks, room, shortened, svg
from .gather import Group

PANEL = (330, 270)  # px; three stand beside each other on a desk, one on a telephone
LONGEST_LABEL = 34  # letters
CELL = (62, 26)  # px of the heat map
MOST_LABELS = 8  # points of a figure that are named in it


@dataclass(frozen=True)
class Figure:
    """A figure of the page. ``topic`` is the column that it is about, empty if it is about several; ``keys`` name the rows in
    it. ``wide`` ones are not scaled down but scroll."""

    svg: Markup
    caption: str
    topic: str = ""
    keys: Sequence[str] = field(default_factory=tuple)
    wide: bool = False


def ranks(group: Group) -> dict[tuple[Row, Column], float]:
    """The rank of each of our own rows in each column, 1 for the best; equal means share their mean rank."""
    found = {}
    for column in group.table.columns:
        means = {row: group.sign * mean for row, mean in group.table.means(column).items() if row.own}
        for row, mean in means.items():
            better, same = (sum(other > mean for other in means.values()), list(means.values()).count(mean))
            found[row, column] = better + (same + 1) / 2
    return found


def heat_map(group: Group) -> Figure | None:
    """Ranks of models (down, the best mean first) in tasks (across)."""
    found, columns = ranks(group), list(group.table.columns)
    per_row = {row: [found[row, column] for column in columns if (row, column) in found] for row in group.rows}
    rows = sorted((row for row, of in per_row.items() if of), key=lambda row: statistics.fmean(per_row[row]))
    if len(rows) < 2:
        return None
    labels = [shortened(group.rows[row], LONGEST_LABEL) for row in rows]
    heads = [shortened(group.table.columns[column], 24) for column in columns]
    slanted = max(map(len, heads)) > 9
    top = room(heads) * 0.72 + 14 if slanted else 30
    left, (wide, high) = room(labels), CELL
    width, height = left + wide * len(columns) + (room(heads[-1:]) * 0.6 if slanted else 8), top + high * len(rows) + 6

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes(left, 6, width - left - wide * len(columns), top)
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        axes.grid(False)
        axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False, bottom=False)
        turn = {"rotation": 35, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
        axes.set_xticks([place + (0.4 if slanted else 0.5) for place in range(len(columns))], heads, **turn)
        axes.set_yticks([place + 0.5 for place in range(len(rows))], labels)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for x, column in enumerate(columns):
            last = sum((row, column) in found for row in rows)
            for y, row in enumerate(rows):
                if (rank := found.get((row, column))) is None:
                    continue
                step = round((STEPS - 1) * (1 - (rank - 1) / max(last - 1, 1)))
                box = axes.fill_between([x + 0.02, x + 0.98], y + 0.04, y + 0.96, color=SENTINEL[f"h{step}"], linewidth=0)
                mean = number(group.table.cells[row, column].mean or 0.0)
                tip = f"{group.rows[row]}, {group.table.columns[column]}: rank {rank:g} of {last} ({mean})"
                canvas.mark(box, group.keys[row], tip)
                axes.text(x + 0.5, y + 0.53, f"{rank:g}", ha="center", va="center", color=SENTINEL[f"h{step}t"])

    metric = METRICS[group.table.metric].label
    means = "; ".join(f"{group.rows[row]} {statistics.fmean(per_row[row]):.2f} over {len(per_row[row])}" for row in rows)
    words = f"Mean rank by {metric}, over the tasks that each model has a score in: {means}."
    picture = svg(width, height, f"Ranks of {len(rows)} models in {len(columns)} tasks by {metric}", words, draw)
    caption = (
        f"Rank by {metric} in each task, 1 for the best of our own runs, by mean scores. Neighbouring ranks may differ by "
        "nothing but chance: see the differences."
    )
    return Figure(picture, caption, keys=[group.keys[row] for row in rows], wide=True)


def compared_columns(group: Group) -> list[Column]:
    """The columns over which scores can be averaged: real ones (all, if none is) in which every row has a score; else the one
    that most rows have a score in."""
    real = [column for column in group.table.columns if not column.simulated] or list(group.table.columns)
    means = {column: [row for row in group.table.means(column) if row.own] for column in real}
    scored = {row for rows in means.values() for row in rows}
    shared = [column for column in real if len(means[column]) == len(scored)]
    return shared or [max(real, key=lambda column: len(means[column]))]


def costs(group: Group) -> list[Figure]:
    """The mean score against seconds of training and against parameters; the staircase is what nothing cheaper beats."""
    columns = compared_columns(group)
    scores, spent = dict[Row, float](), {"seconds": dict[Row, float](), "parameters": dict[Row, float]()}
    for row in group.rows:
        cells = [group.table.cells.get((row, column)) for column in columns]
        means = [cell.mean for cell in cells if cell and cell.mean is not None]
        if len(means) < len(columns):
            continue
        scores[row] = statistics.fmean(means)
        seconds = [cell.costs.seconds for cell in cells if cell and cell.costs.seconds is not None]
        total = [parameters for run in group.runs(row, columns[0]) if (parameters := _parameters(run.model))]
        if seconds and (mean := statistics.fmean(seconds)) > 0:
            spent["seconds"][row] = mean
        if total:
            spent["parameters"][row] = max(total)
    names = ", ".join(group.table.columns[column] for column in columns)
    where = f"mean over the {len(columns)} tasks in which every model has a score" if len(columns) > 1 else f"in {names}"
    label = METRICS[group.table.metric].label
    titles = {
        "seconds": ("seconds of training a run", "Seconds are of whatever machine ran it."),
        "parameters": ("parameters", "All parameters, trained or not."),
    }
    return [
        _cost(group, scores, spent[name], title, f"{label[0].upper()}{label[1:]}, {where}, against {title}. {more}")
        for name, (title, more) in titles.items()
        if len(spent[name]) > 1
    ]


def _parameters(model: Mapping[str, Any]) -> float:
    counts = model.get("parameters") or {}
    return counts.get("total") or counts.get("trainable") or 0


def _cost(group: Group, scores: Mapping[Row, float], spent: Mapping[Row, float], title: str, caption: str) -> Figure:
    width, height = 430, 290
    best, front = -math.inf, list[Row]()
    for row in sorted(spent, key=lambda row: (spent[row], -group.sign * scores[row])):
        if group.sign * scores[row] > best:
            best = group.sign * scores[row]
            front.append(row)

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes(left=58, bottom=42, top=12)
        axes.set(xscale="log", xlabel=title, ylabel=METRICS[group.table.metric].label)
        axes.minorticks_off()
        cost_ticks(axes.xaxis, min(spent.values()), max(spent.values()), _short)
        axes.margins(0.12)
        axes.plot(
            [spent[row] for row in front],
            [scores[row] for row in front],
            drawstyle="steps-post",
            color=MUTED,
            linewidth=0.8,
            zorder=1,
        )
        for row, cost in spent.items():
            style = group.looks[row]
            (point,) = axes.plot([cost], [scores[row]], color=style.colour, marker=style.marker, markersize=8, markeredgewidth=0)
            canvas.mark(point, group.keys[row], f"{group.rows[row]}: {number(scores[row])}, {_short(cost)} {title}")
        if len(spent) <= MOST_LABELS:
            _name_points(canvas, axes, group, {row: (cost, scores[row]) for row, cost in spent.items()})

    words = "; ".join(f"{group.rows[row]}: {number(scores[row])} at {_short(cost)}" for row, cost in spent.items())
    picture = svg(width, height, f"{METRICS[group.table.metric].label} against {title}", f"{words}.", draw)
    return Figure(picture, caption, keys=[group.keys[row] for row in spent])


def _name_points(canvas: Canvas, axes: Any, group: Group, points: Mapping[Row, tuple[float, float]]) -> None:
    """Names beside points, on whichever side has room, moved apart where they would overlap."""
    axes.autoscale_view()
    taken: list[tuple[float, float, float]] = []
    for row, (x, y) in sorted(points.items(), key=lambda item: item[1][1]):
        name = shortened(group.rows[row], 24)
        across, up = axes.transData.transform((x, y))
        up += 10
        long = len(name) * FONT * 0.56
        left = across + 4 if across + 4 + long < canvas.width - 4 else across - 4 - long
        while hit := [at for start, end, at in taken if start < left + long and left < end and abs(at - up) < FONT + 2]:
            up = max(hit) + FONT + 2
        taken.append((left, left + long, up))
        axes.annotate(
            name, (left, up), xycoords="figure pixels", va="center", color=INK, fontsize=FONT - 1, annotation_clip=False
        )


def _short(value: float) -> str:
    """A count or a duration in three digits."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def learning(group: Group) -> list[Figure]:
    """The validation loss by epoch in each column, a line for each run; models without epochs have none."""
    found = []
    for column, label in group.table.columns.items():
        lines = {
            row: [(run.seed, points) for run in group.runs(row, column) if len(points := _epochs(run.history)) > 1]
            for row in group.rows
        }
        if lines := {row: of for row, of in lines.items() if of}:
            found.append(_learning(group, column, label, lines))
    return found


def _epochs(history: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Epoch and validation loss, of a history that has both."""
    if not history or "epoch" not in history[0]:
        return []
    measure = next((name for name in history[0] if name.startswith("validation_")), "")
    points = [(entry.get("epoch"), entry.get(measure)) for entry in history]
    return [(x, y) for x, y in points if isinstance(x, int | float) and isinstance(y, int | float)]


def _learning(group: Group, column: Column, label: str, lines: Mapping[Row, list[tuple[int, list]]]) -> Figure:
    history = next(run.history for row in lines for run in group.runs(row, column) if _epochs(run.history))
    measure = next(name for name in history[0] if name.startswith("validation_")).removeprefix("validation_").replace("_", "-")

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes(left=52)
        axes.set(xlabel="epoch", ylabel=f"validation {measure}", title=shortened(label, 40))
        few_ticks(axes.xaxis, whole=True)
        for row, runs in lines.items():
            for seed, points in runs:
                (line,) = axes.plot(*zip(*points), linewidth=1.4, alpha=0.85, **group.looks[row].line)
                lowest = min(points, key=lambda point: point[1])
                canvas.mark(
                    line, group.keys[row], f"{group.rows[row]}, seed {seed}: lowest {number(lowest[1])} at epoch {lowest[0]}"
                )

    parts = []
    for row, runs in lines.items():
        lows = [min(points, key=lambda point: point[1]) for _, points in runs]
        parts.append(
            f"{group.rows[row]} " + ", ".join(f"{number(low)} at epoch {at} (seed {s})" for (at, low), (s, _) in zip(lows, runs))
        )
    words = f"Lowest validation {measure}: {'; '.join(parts)}."
    picture = svg(*PANEL, f"Learning curves in {label}", words, draw)
    return Figure(picture, label, topic=label, keys=[group.keys[row] for row in lines])
