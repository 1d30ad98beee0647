"""How tables are shown: on a terminal, in Markdown, in HTML. Text only; what is in a table is :mod:`.tables`' business."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from csv import writer as csv_writer
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

from harness.progress import figure, printable

from .cells import (
    ALIGNED,
    BELOW,
    COLLAPSED,
    FAILED,
    FLOATS,
    NO_AUDIT,
    TIED,
    UNDEFINED,
    WHOLE,
    Cell,
    Costs,
    CrossTable,
    Listing,
    Row,
    Table,
)
from .metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

SYMBOLS = {COLLAPSED: "!", BELOW: "↓", ALIGNED: "≡", TIED: "≈"}
LEAKY = "‡"  # beside a column's label
MEAN_RANK = "mean rank"
INTERVAL = "[low, high]"
COSTS = (
    "costs of a row, over its columns: train s is the mean of the columns' mean seconds of training a run, whatever the machine; "
    "trainable (parameters) and peak MiB (memory of a run) are the largest"
)
UNLIMITED = 10_000  # columns of a terminal, where nothing is to be wrapped
_GAP = 2  # between columns
_FORMULA = tuple("=+-@\t")  # a spreadsheet takes text that begins so for a formula


@dataclass(frozen=True)
class Grid:
    """A table as text, without control characters. The first ``keys`` columns say what each line is about.

    ``notes`` begin with those of the whole table; the numbered ones follow.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    keys: int = 1


def as_text(table: Table, intervals: bool = True) -> Grid:
    """A table's labels, cells and notes as text. Notes are numbered in reading order, and equal ones share a number.

    Without ``intervals``, a note says where they are.
    """
    title = METRICS[table.metric].label + (f", {table.subset} test examples" if table.subset != "all" else "")
    if isinstance(table, Listing):
        frame = table.frame.drop(columns=list(table.hidden))
        return _grid(title, frame.columns, frame.itertuples(index=False, name=None), table.notes, table.keys)
    assert isinstance(table, CrossTable)
    numbers: dict[str, int] = {}
    names = [f"{label} {LEAKY}" if column in table.leaking else label for column, label in table.columns.items()]
    header, rows = ["model", *names], dict[Row, list[Any]]()
    notes = [note if intervals or not note.startswith(INTERVAL) else f"{INTERVAL} intervals: see --wide" for note in table.notes]
    for row, label in table.rows.items():
        rows[row] = [label]
        for column, name in table.columns.items():
            cell = table.cells.get((row, column))
            if cell is None:
                rows[row].append("")
                continue
            where = "" if row.source else f"{label}, {name}: "
            marks = [numbers.setdefault(where + note, len(numbers) + 1) for note in cell.notes]
            rows[row].append(_cell(cell if intervals else replace(cell, interval=None), marks))
    ranks, shared = table.mean_ranks()
    if len(ranks) > 1 and shared > 1:
        header.append(MEAN_RANK)
        notes.append(f"{MEAN_RANK}: over the {shared} of {len(table.columns)} columns where every model has a score; 1 is best")
        for row, texts in rows.items():
            texts.append(f"{ranks[row]:.2f}" if row in ranks else "")
    if table.costs:
        header += ["train s", "trainable", "peak MiB"]
        notes.append(COSTS)
        for row, texts in rows.items():
            texts += _costs([table.cells[row, column].costs for column in table.columns if (row, column) in table.cells])
    return _grid(title, header, rows.values(), [*notes, *(f"[{number}] {note}" for note, number in numbers.items())])


def markdown(table: Table) -> str:
    """A table as Markdown, its notes below it."""
    grid = as_text(table)
    lines = [grid.header, ("---",) * len(grid.header), *grid.rows]
    body = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]
    return "\n".join([*body, *(f"\n{note}" for note in grid.notes)]) + "\n"


def csv(table: CrossTable) -> str:
    """A table in tidy form as CSV; numbers are not rounded. See :meth:`.cells.CrossTable.to_frame` for the columns."""
    return columns_as_csv(table.to_columns(), FLOATS, WHOLE)


def frame_as_csv(frame: pd.DataFrame) -> str:
    """A data frame as CSV. In texts, control characters are shown as escapes, and a ``'`` stands before what begins like a
    spreadsheet's formula, with one of ``= + - @``."""
    texts = {name: frame[name].map(_safe) for name in frame.columns if frame[name].dtype.kind not in "biuf"}
    return frame.assign(**texts).to_csv(index=False, header=list(map(_safe, frame.columns)), lineterminator="\n")


def columns_as_csv(columns: Mapping[str, list[Any]], floats: Collection[str] = (), whole: Collection[str] = ()) -> str:
    """The same of columns as lists, several times faster. Numbers of a column are floats if it is one of ``floats``, if one is a
    float, or if a run has none; not if it is one of ``whole``."""
    shown = []
    for name, values in columns.items():
        kinds = set(map(type, values))
        if str in kinds:
            values = list(map(_safe, values))
        elif int in kinds and name not in whole and (name in floats or (len(kinds) > 1 and kinds <= {int, float, type(None)})):
            values = [None if value is None else float(value) for value in values]
        shown.append(values)
    text = io.StringIO()
    writer = csv_writer(text, lineterminator="\n")
    writer.writerow(map(_safe, columns))
    writer.writerows(zip(*shown))
    return text.getvalue()


def _safe(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return f"'{_line(value)}" if value.startswith(_FORMULA) else _line(value)


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
    """Print a table to a terminal. One that is too wide is shown without intervals and in blocks, narrow columns first."""
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = as_text(table)
    if len(blocks := _blocks(grid, console.width)) > 1:
        grid = as_text(table, intervals=False)
        blocks = _blocks(grid, console.width)
    console.print(Text(grid.title, style="italic"))
    for number, block in enumerate(blocks):
        shown = RichTable(box=None, pad_edge=False, header_style="bold")
        for place in block:  # as Text: rich would read "QKI [published]" as markup
            whole = place >= grid.keys and len(block) > grid.keys + 1
            side = "right" if place else "left"
            shown.add_column(Text(grid.header[place]), justify=side, overflow="fold", no_wrap=whole)
        for row in grid.rows:
            shown.add_row(*(Text(row[place]) for place in block))
        if number:
            console.print()
        console.print(shown)
    for note in grid.notes:
        console.print(Text(note, style="dim"))


def show_all(tables: Mapping[str, Table], width: int | None = None) -> None:
    """Print tables to standard output, each below the kind of its tasks if there are several; ``width`` as in a console."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, width=width)
    for number, (kind, table) in enumerate(tables.items()):
        if len(tables) > 1:
            console.print(Text(("\n" if number else "") + f"{kind} tasks", style="bold"))
        show(table, console)


def _blocks(grid: Grid, width: int) -> list[list[int]]:
    """The columns of each block that fits a width, narrow columns in the first ones.

    Every block begins with the key columns, which may be wrapped.
    """
    from rich.cells import cell_len

    widths = [max(map(cell_len, texts)) + _GAP for texts in zip(grid.header, *grid.rows)]
    keys, others = range(grid.keys), range(grid.keys, len(widths))
    if sum(widths) - _GAP <= width:
        return [[*keys, *others]]
    blocks, room = list[list[int]](), 0
    for place in sorted(others, key=lambda place: widths[place]):
        if not blocks or (room < widths[place] and len(blocks[-1]) > len(keys)):
            blocks.append([*keys])
            room = width - min(sum(widths[: grid.keys]), width // 2)
        blocks[-1].append(place)
        room -= widths[place]
    return [sorted(block) for block in blocks] or [[*keys]]


def plain_text(table: Table) -> str:
    """What :func:`show` prints on a terminal that is wide enough, as text without colours."""
    from rich.console import Console

    text = io.StringIO()
    show(table, Console(file=text, width=UNLIMITED, color_system=None))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def spread(mean: str, sd: str, n: str | int | None, other: str = "") -> str:
    """``mean ± sd (other, n=…)``, without the parts that are not known; ``other`` says how else the values spread."""
    aside = ", ".join([*([other] if other else []), *([] if n in ("", None) else [f"n={n}"])])
    return mean + (f" ± {sd}" if sd else "") + (f" ({aside})" if aside else "")


def _cell(cell: Cell, notes: list[int]) -> str:
    if cell.mean is None:
        text = next(mark for mark in (FAILED, NO_AUDIT, UNDEFINED) if mark in cell.marks)
    else:
        text = cell.printed or spread(figure(cell.mean), "" if cell.sd is None else figure(cell.sd), cell.n)
    if cell.interval is not None:
        text += f" [{cell.interval[0]:.3f}, {cell.interval[1]:.3f}]"
    before = [SYMBOLS[COLLAPSED]] if COLLAPSED in cell.marks else []
    after = [SYMBOLS[mark] for mark in (BELOW, ALIGNED, TIED) if mark in cell.marks]
    return " ".join([text, *before, *(f"[{number}]" for number in notes), *after])


def _costs(found: Sequence[Costs]) -> list[str]:
    """A row's costs: the mean of the seconds, the largest of the others."""
    seconds = [costs.seconds for costs in found if costs.seconds is not None]
    parameters = max((costs.parameters for costs in found if costs.parameters is not None), default=None)
    memory = max((costs.memory for costs in found if costs.memory is not None), default=None)
    return [
        f"{sum(seconds) / len(seconds):,.1f}" if seconds else "",
        "" if parameters is None else f"{parameters:,}",
        "" if memory is None else f"{memory / 2**20:,.0f}",
    ]


def _grid(title: str, header: Iterable[Any], rows: Iterable[Iterable[Any]], notes: Iterable[str], keys: int = 1) -> Grid:
    lines = tuple(tuple(map(_value, line)) for line in rows)
    return Grid(title, tuple(map(_value, header)), lines, tuple(map(_line, notes)), keys)


def _line(text: str) -> str:
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _value(value: Any) -> str:
    """A value as text: numbers to four places, nothing where there is none."""
    if value is None or value != value:  # NaN
        return ""
    return figure(value) if isinstance(value, float) else _line(str(value))
