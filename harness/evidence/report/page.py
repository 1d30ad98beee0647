"""Makes the page of a report from what was gathered."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from harness.errors import UserError
from harness.files.atomic import atomic, check_writable
from harness.progress import figure as number
from harness.progress import printable

from .. import render
from ..cells import BEST, FAILED, NO_AUDIT, UNDEFINED, Cell, Column, CrossTable, Row
from ..metrics import METRICS
from . import differences, facts, figures, panels, searches
from .draw import CLASSES, swatch
from .gather import Gathered, Group, gather

TEMPLATES = Path(__file__).parent / "templates"
PLACES = 4  # of a score, see harness.progress.figure
NOT_APART = "they cannot be told apart"
TITLE = "Comparison of genomic foundation models"


@dataclass(frozen=True)
class Part:
    """One kind of task on the page: its table by every metric, and its figures by section."""

    group: Group
    tables: Sequence[ScoreTable]
    ranks: figures.Figure | None
    costs: Sequence[figures.Figure]
    learning: Sequence[figures.Figure]
    panels: Sequence[figures.Figure]
    pairs: differences.Pairs
    legend: Sequence[tuple[str, str, Markup]]
    spent: render.Grid
    verdicts: Sequence[str]


@dataclass(frozen=True)
class ScoreTable:
    """A table by one metric, as it stands on the page. Of ``lines``, each has a row, its label, its cells and its mean rank;
    ``best`` are the highest means of our own rows by column."""

    metric: str
    label: str
    rising: bool
    table: CrossTable
    lines: Sequence[tuple[Row, str, Sequence[tuple[Column, Cell | None]], str]]
    best: Mapping[Column, float]
    notes: Sequence[str]
    ranked: bool

    @property
    def noted(self) -> bool:
        """Whether a cell of our own has a note."""
        return any(cell.notes for (row, _), cell in self.table.cells.items() if row.own)

    @property
    def first_printed(self) -> Row | None:
        """The first row below our own."""
        return next((row for row in self.table.rows if not row.own), None)


def report(
    results: str | Path | Sequence[str | Path] = "results",
    out: str | Path = "report.html",
    *,
    metric: str | None = None,
    title: str | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Write the report on the records of one or more results folders, as one HTML file, and return its path.

    The figures are about ``metric``, by default each kind of task's main one; the page's tables can be switched to any other.
    The same records give the same bytes. ``say`` hears what was skipped.

    Raises:
        UserError: no readable records, a results folder that does not exist, a metric that no task has, or an ``out`` that
            cannot be written.
        UnknownName: a metric that does not exist.
    """
    folders = [Path(results)] if isinstance(results, str | Path) else [Path(folder) for folder in results]
    out = Path(out)
    if os.path.isdir(out):
        raise UserError(f"out {out}: is a folder; name a file in it, such as {out / 'report.html'}")
    if os.path.exists(out) and not os.path.isfile(out):  # a device or a pipe would be replaced
        raise UserError(f"out {out}: is no ordinary file; choose another one with --out")
    if not os.path.isdir(out.absolute().parent):
        raise UserError(f"out {out}: there is no folder {out.parent}; make it, or choose another file with --out")
    check_writable(out.parent, "out")
    gathered = gather(folders, metric)
    text = html(gathered, title or TITLE)
    try:
        with atomic(out) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"out {out}: was not written ({reason}); choose another file with --out") from error
    for fault in gathered.faults:
        say(f"skipped: {fault}")
    if gathered.missing:
        say(f"{len(gathered.missing)} finished runs have no readable predictions; curves and differences lack them")
    return out


def html(gathered: Gathered, title: str) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    names = facts.targets(gathered.groups)
    pairs = differences.pairs(gathered)
    parts = [_part(gathered, group, pairs[group.kind]) for group in gathered.groups]
    found = searches.searches(gathered.results, gathered.faults)
    environments = list[dict[str, str]]()
    for group in gathered.groups:
        for runs in group.cells.values():
            environments += [of for run in runs.counted if (of := facts.environment(run)) not in environments]
    by_model: dict[str, list[facts.Entry]] = defaultdict(list)
    for group in gathered.groups:
        for entry in facts.entries(group, names, environments):
            by_model[entry.model].append(entry)
    style, dark, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "dark.css", "script.js"))
    pages = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    pages.globals |= {
        "number": number,
        "mark": _marks,
        "missing": _missing,
        "aside": _aside,
        "head": _head,
        "padding": _padding,
        "pair": differences.cells,
        "ranked": differences.rank_cells,
    }
    pages.globals |= {"METRICS": METRICS, "BEST": BEST, "COSTS": render.COSTS}
    return pages.get_template("page.html.j2").render(
        title=title,
        summary=_summary(gathered),
        parts=parts,
        warnings=facts.warnings(gathered),
        flags=[flag for group in gathered.groups for flag in facts.flags(group, names)],
        entries=by_model,
        data=[item for group in gathered.groups for item in facts.data(group)],
        environments=environments,
        searches=found,
        trial_value=searches.value,
        as_text=searches.as_text,
        names=names,
        style=Markup(style),
        classes=Markup("".join(f".{name}{{{rule}}}" for rule, name in CLASSES.items())),
        dark=Markup(dark),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _part(gathered: Gathered, group: Group, found: differences.Pairs) -> Part:
    grid = render.as_text(replace(group.table, costs=True))
    return Part(
        group,
        [_score_table(table) for table in group.tables.values()],
        figures.heat_map(group),
        figures.costs(group),
        figures.learning(group),
        panels.panels(gathered, group),
        found,
        [(group.keys[row], label, swatch(group.looks[row])) for row, label in group.rows.items()],
        replace(grid, header=grid.header[-3:], rows=tuple((row[0], *row[-3:]) for row in grid.rows)),
        _verdicts(group, found),
    )


def _score_table(table: CrossTable) -> ScoreTable:
    means, shared = table.mean_ranks()
    ranked = len(means) > 1 and shared > 1
    sign = 1 if METRICS[table.metric].higher_is_better else -1
    lines = [
        (
            row,
            label,
            [(column, table.cells.get((row, column))) for column in table.columns],
            f"{means[row]:.2f}" if row in means else "",
        )
        for row, label in table.rows.items()
    ]
    best = dict[Column, float]()
    for column in table.columns:
        if own := [mean for row, mean in table.means(column).items() if row.own]:
            best[column] = sign * max(sign * mean for mean in own)
    notes = list(table.notes)
    if ranked:
        every = f"over the {shared} of {len(table.columns)} tasks where every model has a score"
        notes.append(f"{render.MEAN_RANK}: {every}; 1 is best")
    return ScoreTable(table.metric, METRICS[table.metric].label, sign < 0, table, lines, best, notes, ranked)


def _verdicts(group: Group, found: differences.Pairs) -> list[str]:
    """What the table says first: the best mean rank, and in how many tasks the best can be told from the next."""
    means, shared = group.table.mean_ranks()
    means = {row: means[row] for row in group.rows if row in means}  # in one order
    label = METRICS[group.table.metric].label
    if len(means) < 2 or not shared:
        return []
    first, second = sorted(means, key=lambda row: means[row])[:2]
    names = group.rows[first], group.rows[second]
    equal = [group.rows[row] for row in means if means[row] == means[first]]
    if len(equal) > 1:
        where = "the one task where every model has a score" if shared == 1 else f"{shared} tasks"
        return [f"By {label}, {', '.join(equal[:-1])} and {equal[-1]} share the best mean rank in {where} ({means[first]:.2f})."]
    if shared == 1:
        said = [f"By {label}, {names[0]} scores best in the one task where every model has a score, followed by {names[1]}."]
    else:
        ranks = f"({means[first]:.2f}), followed by {names[1]} ({means[second]:.2f})"
        said = [f"By {label}, {names[0]} has the best mean rank in {shared} tasks {ranks}."]
    real = any(not column.simulated for column in group.table.columns)  # as of mean ranks
    tested = [item for item in found.differences if item.adjusted is not None and not (real and item.column.simulated)]
    both = [item for item in tested if set(item.models) == {first, second}]
    if len(both) == 1:
        better = both[0].better
        said.append(f"In the one task in which these two were tested, {f'{better} is better' if better else NOT_APART}.")
    elif both:
        apart = Counter(item.better for item in both if item.better)
        counts = [f"{name} is better in {apart[name]}" for name in names if apart[name]]
        alike = len(both) - sum(apart.values())
        counts += [f"{NOT_APART} in {alike}"] if alike else []
        said.append(f"Of the {len(both)} tasks in which these two were tested, {' and '.join(counts)}.")
    return said


def _summary(gathered: Gathered) -> list[tuple[str, str]]:
    """What the report is about, in numbers."""
    finished = sum(record.finished for record in gathered.records)
    rows = {row for group in gathered.groups for row in group.rows if row != BEST}
    created = sorted(record.created[:10] for record in gathered.records)
    versions = {(record.environment.get("versions") or {}).get("gfm-harness") for record in gathered.records} - {None}
    seeds = sorted({record.seed for record in gathered.records})
    return [
        (
            f"{len(gathered.records):,}",
            "runs" if finished == len(gathered.records) else f"runs, {len(gathered.records) - finished} failed",
        ),
        (str(len(rows)), "models"),
        (str(sum(len(group.table.columns) for group in gathered.groups)), "tasks"),
        (str(len(seeds)), f"seed{'s' * (len(seeds) > 1)}"),
        (created[0] if created[0] == created[-1] else f"{created[0]} to {created[-1]}", "recorded"),
        (", ".join(sorted(map(str, versions))) or "unknown", "version"),
    ]


def _marks(cell: Cell) -> list[tuple[str, str]]:
    """The symbols of a cell, each with what it means."""
    return [(render.SYMBOLS[mark], mark) for mark in cell.marks if mark in render.SYMBOLS]


def _missing(cell: Cell) -> str:
    """Why a cell has no mean."""
    return next((mark for mark in (FAILED, NO_AUDIT, UNDEFINED) if mark in cell.marks), UNDEFINED)


def _head(cell: Cell) -> str:
    """A mean, as a paper printed it where one did."""
    return cell.printed.split(" ")[0] or number(cell.mean or 0.0)


def _padding(cell: Cell) -> str:
    """Digits that a printed mean lacks, so that invisible ones put it below the others."""
    places = len(_head(cell).partition(".")[2])
    return "0" * (PLACES - places) if cell.printed and 0 < places < PLACES else ""


def _aside(cell: Cell) -> str:
    """What stands below a mean: its spread and the number of seeds, or the rest of what a paper printed."""
    if cell.printed:
        return cell.printed.partition(" ")[2]
    return ("" if cell.sd is None else f"± {number(cell.sd)}, ") + f"n={cell.n}" if cell.n else ""
