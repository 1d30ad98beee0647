"""How a comparison is shown: on a terminal, in Markdown, HTML, CSV and JSON."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

from harness.files.fingerprint import plain
from harness.progress import figure, printable

from .compare import Comparison, Difference, Rank
from .metrics import METRICS
from .render import UNLIMITED, _line
from .statistics import MIN_TASKS
from .verdicts import amount, many, p_text, unit

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

HEADER = ("models", "scores", "difference", "95 % interval", "p", "McNemar", "verdict")
INDENT = "  "


def title(found: Comparison) -> str:
    """The metric, and which way is better."""
    metric = METRICS[found.metric]
    of = f" in{unit(found.metric)}" if unit(found.metric) else ""
    return f"{metric.label}, {'higher' if metric.higher_is_better else 'lower'} is better; differences{of}: first - second"


def _heading(one: Difference) -> str:
    blocks = f" in {many(one.blocks, 'block')}" if one.blocks < one.examples else ""
    return f"{one.label}: {many(one.examples, 'test example')}{blocks}"


def _numbers(one: Difference) -> str:
    scores = " - ".join(map(figure, one.scores))
    parts = [f"{scores} = {amount(one.metric, one.difference, signed=True)}{_interval(one)}"]
    if one.adjusted is not None:
        parts.append(f"p {p_text(one.adjusted)}")
    if one.mcnemar is not None:
        parts.append(f"McNemar {p_text(one.mcnemar)}")
    return ", ".join([*parts, f"seed{'s' * (len(one.seeds) > 1)} {_ranges(one.seeds)}"])


def _ranges(seeds: Iterable[int]) -> str:
    """Sorted seeds, neighbours joined: ``0-2, 5``."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _interval(one: Difference) -> str:
    if one.interval is None:
        return ""
    low, high = (amount(one.metric, limit, signed=True) for limit in one.interval)
    return f" [{low}, {high}]"


def _numbered(found: Comparison) -> dict[str, int]:
    """Notes of pairs, numbered in reading order; equal ones share a number."""
    numbers: dict[str, int] = {}
    for one in found.differences:
        for note in one.notes:
            numbers.setdefault(note, len(numbers) + 1)
    return numbers


def _marks(one: Difference, numbers: Mapping[str, int]) -> str:
    return "".join(f" [{numbers[note]}]" for note in one.notes)


def _all_notes(found: Comparison, numbers: Mapping[str, int]) -> Iterable[str]:
    return [*(f"[{number}] {note}" for note, number in numbers.items()), *found.notes]


def _by_column(found: Comparison) -> list[tuple[str, list[Difference]]]:
    return [(heading, list(group)) for heading, group in groupby(found.differences, key=_heading)]


def _rank_rows(ranks: Mapping[str, Rank]) -> list[tuple[str, ...]]:
    rows = []
    for name, rank in ranks.items():
        mean = "" if rank.mean is None else f"{rank.mean:.2f}"
        if rank.interval is not None:
            mean += f" [{rank.interval[0]:.2f}, {rank.interval[1]:.2f}]"
        rows.append((name, mean, str(rank.wins), str(rank.ties), str(rank.losses)))
    return rows


def _has_ranks(found: Comparison) -> bool:
    return len({one.column for one in found.differences}) > 1


def _ranks_title(found: Comparison) -> str:
    tasks = max((rank.tasks for rank in found.ranks.values()), default=0)
    return f"Across tasks ({tasks} with every model{'; no claim from fewer than ' + str(MIN_TASKS) if tasks < MIN_TASKS else ''})"


RANK_HEADER = ("model", "mean rank", "wins", "ties", "losses")


def show(found: Comparison, console: Console) -> None:
    """Print a comparison to a terminal: for each column a heading, and for each pair its sentence and its numbers."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    numbers = _numbered(found)
    console.print(Text(_line(title(found)), style="italic"))
    for heading, group in _by_column(found):
        console.print(Text(f"\n{_line(heading)}", style="bold"))
        for one in group:
            style = "" if one.better else "dim"
            console.print(Padding(Text(_line(one.sentence) + _marks(one, numbers), style=style), (0, 0, 0, len(INDENT))))
            console.print(Padding(Text(_numbers(one), style="dim"), (0, 0, 0, 2 * len(INDENT))))
    if _has_ranks(found):
        console.print(Text(f"\n{_ranks_title(found)}", style="bold"))
        table = Table(box=None, pad_edge=False, header_style="bold")
        for place, name in enumerate(RANK_HEADER):
            table.add_column(Text(name), justify="right" if place else "left", overflow="fold", no_wrap=place > 0)
        for row in _rank_rows(found.ranks):
            table.add_row(*(Text(_line(text)) for text in row))
        console.print(table)
    console.print()
    for note in _all_notes(found, numbers):
        console.print(Text(_line(note), style="dim"))


def plain_text(found: Comparison) -> str:
    """What :func:`show` prints on a terminal that is wide enough, without colours."""
    from rich.console import Console

    text = io.StringIO()
    show(found, Console(file=text, width=UNLIMITED, color_system=None))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _cells(one: Difference, numbers: Mapping[str, int]) -> tuple[str, ...]:
    return (
        " - ".join(one.names),
        " - ".join(map(figure, one.scores)),
        amount(one.metric, one.difference, signed=True) + unit(one.metric),
        _interval(one).strip(),
        p_text(one.adjusted),
        p_text(one.mcnemar),
        one.sentence + _marks(one, numbers),
    )


def markdown(found: Comparison) -> str:
    """The comparison as Markdown: a table for each column, one of ranks, and notes."""
    numbers = _numbered(found)
    blocks = [f"*{_cell(title(found))}*"]
    for heading, group in _by_column(found):
        blocks += [f"### {_cell(heading)}", _pipes(HEADER, (_cells(one, numbers) for one in group))]
    if _has_ranks(found):
        blocks += [f"### {_ranks_title(found)}", _pipes(RANK_HEADER, _rank_rows(found.ranks))]
    blocks.append("\n".join(f"- {_cell(note)}" for note in _all_notes(found, numbers)))
    return "\n\n".join(blocks) + "\n"


def _pipes(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *([list(map(_cell, row)) for row in rows])]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return escape(_line(text), quote=False).replace("|", "\\|")


def html(found: Comparison) -> str:
    """The comparison as an HTML fragment."""
    numbers = _numbered(found)
    parts = [f"<p><em>{escape(title(found))}</em></p>"]
    for heading, group in _by_column(found):
        parts += [f"<h4>{escape(printable(heading))}</h4>", _html_table(HEADER, (_cells(one, numbers) for one in group))]
    if _has_ranks(found):
        parts += [f"<h4>{escape(_ranks_title(found))}</h4>", _html_table(RANK_HEADER, _rank_rows(found.ranks))]
    parts += [f"<p><small>{escape(_line(note))}</small></p>" for note in _all_notes(found, numbers)]
    return "\n".join(parts) + "\n"


def _html_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(_line(text))}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def frame(found: Comparison) -> pd.DataFrame:
    """See :meth:`.compare.Comparison.to_frame`."""
    import pandas as pd

    lines = []
    for one in found.differences:
        low, high = one.interval or (None, None)
        column = one.column
        lines.append(
            {
                "first": one.names[0],
                "second": one.names[1],
                "task": one.task,
                "split": column.split,
                "simulated": column.simulated,
                "data": column.data,
                "kind": column.kind,
                "metric": one.metric,
                "first_score": one.scores[0],
                "second_score": one.scores[1],
                "difference": one.difference,
                "low": low,
                "high": high,
                "p": one.p,
                "adjusted_p": one.adjusted,
                "mcnemar_p": one.mcnemar,
                "detectable": one.detectable,
                "examples": one.examples,
                "blocks": one.blocks,
                "seeds": " ".join(map(str, one.seeds)),
                "better": one.better or "",
                "sentence": one.sentence,
                "notes": "; ".join(one.notes),
            }
        )
    numbers = ("first_score", "second_score", "difference", "low", "high", "p", "adjusted_p", "mcnemar_p", "detectable")
    return pd.DataFrame(lines).astype(dict.fromkeys(numbers, float))


def as_json(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON values: metric, kind, differences, ranks and notes."""
    lines = frame(found).to_dict("records")
    for line, one in zip(lines, found.differences, strict=True):
        line |= {"seeds": list(one.seeds), "better": one.better, "notes": list(one.notes), "label": one.label}
    ranks = {name: vars(rank) for name, rank in found.ranks.items()}
    return plain({"metric": found.metric, "kind": found.kind, "differences": lines, "ranks": ranks, "notes": found.notes})
