"""Pairs of models as a report shows them: forest plots against each task's best, and a line for every pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.progress import figure as number

from ..cells import Column, Row
from ..metrics import METRICS
from .draw import FONT, MUTED, PAPER, Canvas, few_ticks, room, shortened, svg
from .figures import LONGEST_LABEL, Figure
from .gather import Gathered, Group

if TYPE_CHECKING:
    from ..compare import Comparison, Difference, Rank

MOST_PAIRS = 600  # lines of a table
LINE = 24  # px of a row of a forest plot
PLOT = 220  # px of its axis


@dataclass(frozen=True)
class Pairs:
    """The differences of a kind of task, forest plots of those from each task's best model, notes, and why there are none.

    ``listed`` are those that the page has a line for: all, or where these are too many those from the best.
    """

    differences: Sequence[Difference] = ()
    forests: Sequence[Figure] = ()
    notes: Sequence[str] = ()
    ranks: Mapping[str, Rank] = field(default_factory=dict)
    fault: str = ""
    listed: Sequence[Difference] = ()


def pairs(gathered: Gathered) -> dict[str, Pairs]:
    """The differences between the rows of our own, by kind of task, which :mod:`harness.evidence.compare` finds."""
    from ..compare import compare_all

    compared: dict[str, Mapping[str, Comparison]] = {}
    faults: dict[str, str] = {}
    for metric in dict.fromkeys(group.table.metric for group in gathered.groups):
        try:
            compared[metric] = compare_all(list(gathered.results), metric=metric, say=lambda message: None)
        except HarnessError as error:
            faults[metric] = str(error)
    found = dict[str, Pairs]()
    for group in gathered.groups:
        comparison = compared.get(group.table.metric, {}).get(group.kind)
        fault = faults.get(group.table.metric, "nothing to compare: no two models share a task with scores and predictions")
        found[group.kind] = Pairs(fault=fault) if comparison is None else _pairs(group, comparison)
    return found


def _pairs(group: Group, comparison: Comparison) -> Pairs:
    known = [item for item in comparison.differences if item.column in group.table.columns]
    best = {column: _best(group, column, known) for column in group.table.columns}
    forests = [figure for column in group.table.columns if (figure := _forest(group, column, known))]
    few = known if len(known) <= MOST_PAIRS else [item for item in known if best[item.column] in item.models]
    return Pairs(known, forests, comparison.notes, comparison.ranks, listed=few)


def _forest(group: Group, column: Column, differences: Sequence[Difference]) -> Figure | None:
    """Differences from the best model of a column, most like it first: score of the other minus score of the best."""
    here = [item for item in differences if item.column == column]
    if (best := _best(group, column, here)) is None:
        return None
    rows = [_from_best(item, best) for item in here if best in item.models]
    rows.sort(key=lambda row: -group.sign * row.difference)
    label, metric = group.table.columns[column], METRICS[group.table.metric].label
    names = [shortened(row.name, LONGEST_LABEL) for row in rows]
    left = room(names)
    width, height = left + PLOT + 16, 72 + LINE * len(rows)

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes(left, 42, 16, 28)
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"difference in {metric}")
        title = shortened(f"{label}: against {group.rows[best]}", int((width - 8) / (FONT * 0.62)))
        axes.set_title(title, loc="left", x=(4 - left) / PLOT)  # from the figure's edge, where there is most room
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(rows)), names)
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.ticklabel_format(axis="x", useOffset=False)
        few_ticks(axes.xaxis, 4)
        for place, row in enumerate(rows):
            colour = group.looks[row.row].colour
            if row.interval:
                axes.plot(row.interval, [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            face = colour if row.told_apart else PAPER
            (point,) = axes.plot(
                [row.difference], [place], color=colour, marker="o", markersize=7, markerfacecolor=face, markeredgewidth=1.6
            )
            canvas.mark(point, group.keys[row.row], row.sentence)

    words = " ".join(row.sentence for row in rows)
    picture = svg(width, height, f"Differences in {metric} from {group.rows[best]} in {label}", words, draw)
    return Figure(picture, label, topic=label, keys=[group.keys[row.row] for row in rows], wide=True)


def _best(group: Group, column: Column, differences: Sequence[Difference]) -> Row | None:
    """The row with the best mean among those that are compared in a column."""
    compared = {row for item in differences if item.column == column for row in item.models}
    means = {row: mean for row, mean in group.table.means(column).items() if row in compared}
    return max(means, key=lambda row: group.sign * means[row], default=None)


@dataclass(frozen=True)
class _Line:
    row: Row
    name: str
    difference: float
    interval: tuple[float, float] | None
    told_apart: bool
    sentence: str


def _from_best(item: Difference, best: Row) -> _Line:
    """A difference as one from the best: turned round where the best comes first."""
    first = item.models[0] == best
    sign, row, name = (-1, item.models[1], item.names[1]) if first else (1, item.models[0], item.names[0])
    interval = None
    if item.interval:
        low, high = sorted(sign * end for end in item.interval)
        interval = low, high
    return _Line(row, name, sign * item.difference, interval, item.better is not None, item.sentence)


def rank_cells(rank: Rank) -> list[str]:
    """The numbers of a line on a model's rank: mean, interval, wins, ties, losses, tasks."""
    mean = "" if rank.mean is None else f"{rank.mean:.2f}"
    interval = f"{rank.interval[0]:.2f} to {rank.interval[1]:.2f}" if rank.interval else ""
    return [mean, interval, str(rank.wins), str(rank.ties), str(rank.losses), str(rank.tasks)]


def cells(item: Difference) -> list[str]:
    """The numbers of a line on a pair: the difference, its interval, p, corrected p, McNemar's p, what would be detectable."""
    interval = f"{item.interval[0]:+.4f} to {item.interval[1]:+.4f}" if item.interval else ""
    chances = [
        "" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}" for value in (item.p, item.adjusted, item.mcnemar)
    ]
    return [f"{item.difference:+.4f}", interval, *chances, "" if item.detectable is None else number(item.detectable)]
