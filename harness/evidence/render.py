"""How tables are shown: on a terminal, in Markdown, in HTML. Text only; what is in a table is :mod:`.tables`' business."""

from __future__ import annotations

import io
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from .cells import BELOW, COLLAPSED, FAILED, UNDEFINED, Cell, CrossTable, Listing, Table
from .metrics import METRICS

if TYPE_CHECKING:
    from rich.console import Console

SYMBOLS = {COLLAPSED: "!", BELOW: "↓"}


@dataclass(frozen=True)
class Grid:
    """A table as text. ``notes`` begin with those of the whole table; the numbered ones follow."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def as_text(table: Table) -> Grid:
    """A table's labels, cells and notes as text. Notes are numbered in reading order, and equal ones share a number."""
    title = METRICS[table.metric].label
    if isinstance(table, Listing):
        lines = table.frame.itertuples(index=False, name=None)
        return Grid(title, tuple(table.frame.columns), tuple(tuple(map(_value, line)) for line in lines))
    assert isinstance(table, CrossTable)
    numbers: dict[str, int] = {}
    rows = []
    for row, label in table.rows.items():
        texts = [label]
        for column, name in table.columns.items():
            cell = table.cells.get((row, column))
            if cell is None:
                texts.append("")
                continue
            where = "" if row.source else f"{label}, {name}: "
            notes = [numbers.setdefault(where + note, len(numbers) + 1) for note in cell.notes]
            texts.append(_cell(cell, notes))
        rows.append(tuple(texts))
    footnotes = (f"[{number}] {note}" for note, number in numbers.items())
    return Grid(title, ("model", *table.columns.values()), tuple(rows), (*table.notes, *footnotes))


def markdown(table: Table) -> str:
    """A table as Markdown, its notes below it."""
    grid = as_text(table)
    lines = [grid.header, ("---",) * len(grid.header), *grid.rows]
    body = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]
    return "\n".join([*body, *(f"\n{note}" for note in grid.notes)]) + "\n"


def csv(table: Table) -> str:
    """A table in tidy form as CSV; numbers are not rounded. See :meth:`.cells.CrossTable.to_frame` for the columns."""
    return table.to_frame().to_csv(index=False, lineterminator="\n")


def html(table: Table) -> str:
    """A table as an HTML fragment, its notes below it."""
    grid = as_text(table)
    lines = [
        "<table>",
        f"<caption>{escape(grid.title)}</caption>",
        "<thead><tr>" + "".join(f"<th>{escape(text)}</th>" for text in grid.header) + "</tr></thead>",
        "<tbody>",
        *("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in grid.rows),
        "</tbody>",
        "</table>",
        *(f"<p><small>{escape(note)}</small></p>" for note in grid.notes),
    ]
    return "\n".join(lines) + "\n"


def show(table: Table, console: Console) -> None:
    """Print a table to a terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = as_text(table)
    shown = RichTable(title=Text(grid.title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(grid.header):  # as Text: rich would read "QKI [published]" as markup
        shown.add_column(Text(column), justify="right" if number else "left")
    for row in grid.rows:
        shown.add_row(*map(Text, row))
    console.print(shown)
    for note in grid.notes:
        console.print(Text(note, style="dim"))


def plain_text(table: Table) -> str:
    """What :func:`show` prints, as text without colours."""
    from rich.console import Console

    text = io.StringIO()
    show(table, Console(file=text, width=1000, color_system=None))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def spread(mean: str, sd: str, n: str | int | None) -> str:
    """``mean ± sd (n=…)``, without the parts that are not known."""
    return mean + (f" ± {sd}" if sd else "") + ("" if n in ("", None) else f" (n={n})")


def _cell(cell: Cell, notes: list[int]) -> str:
    if cell.mean is None:
        text = FAILED if FAILED in cell.marks else UNDEFINED
    else:
        text = cell.printed or spread(f"{cell.mean:.4f}", "" if cell.sd is None else f"{cell.sd:.4f}", cell.n)
    if cell.interval is not None:
        text += f" [{cell.interval[0]:.3f}, {cell.interval[1]:.3f}]"
    before = [SYMBOLS[COLLAPSED]] if COLLAPSED in cell.marks else []
    after = [SYMBOLS[BELOW]] if BELOW in cell.marks else []
    return " ".join([text, *before, *(f"[{number}]" for number in notes), *after])


def _value(value: Any) -> str:
    """A value of a listing: numbers to four places, nothing where there is none."""
    if value is None or value != value:  # NaN
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
