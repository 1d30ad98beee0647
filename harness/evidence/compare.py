"""Pairs of models on the same test examples and seeds, with a verdict each: what can be told apart, and what cannot.

The statistics are :mod:`.statistics`' (see there for what is claimed), the words :mod:`.verdicts`'. A verdict goes by the p of
the permutation test, adjusted by Holm over all pairs and columns shown; the interval is that of one pair alone, unadjusted.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UnknownName, UserError
from harness.task import KINDS

from .cells import Column, Row
from .identity import column_labels, column_of, grouped, identified, main_setting, row_labels, usual_recipes
from .metrics import METRICS, metrics_of
from .records import RunRecord, read_all

if TYPE_CHECKING:
    import pandas as pd

    from .answers import Test

MAX_NAMED = 5  # of what is left out, one by one


@dataclass(frozen=True)
class Difference:
    """Two models on one column: the first's score less the second's, in the metric's own unit.

    ``names`` are the labels of the rows ``models``, ``label`` that of the column; ``scores`` are means over ``seeds``.
    ``interval`` is the 95 % interval of this difference alone; ``p`` is the permutation test's, ``adjusted`` Holm's over all
    differences of the comparison, ``mcnemar`` the exact p of the first seed, beside accuracy of independent examples. None where
    there is none. ``detectable`` is the smallest difference that this test would find four times in five. ``better`` names the
    better model, None if they cannot be told apart. ``notes`` are sentences.
    """

    metric: str
    column: Column
    task: str
    label: str
    models: tuple[Row, Row]
    names: tuple[str, str]
    scores: tuple[float, float]
    difference: float
    interval: tuple[float, float] | None
    p: float | None
    adjusted: float | None
    mcnemar: float | None
    examples: int
    blocks: int
    seeds: tuple[int, ...]
    detectable: float | None
    better: str | None
    sentence: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rank:
    """A model over ``tasks`` columns where every model compared has a score: its mean rank, 1 for the best, with a 95 % interval.

    ``wins``, ``ties`` and ``losses`` are verdicts against all other models, in all columns shown: the real ones if any are.
    """

    mean: float | None
    interval: tuple[float, float] | None
    wins: int
    ties: int
    losses: int
    tasks: int


@dataclass(frozen=True, repr=False)
class Comparison:
    """All differences of one metric on tasks of one kind. Prints itself, also in notebooks."""

    metric: str
    kind: str
    differences: tuple[Difference, ...]
    ranks: Mapping[str, Rank]
    notes: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One line per difference; numbers are not rounded, and NaN where there is none. ``seeds`` and ``notes`` are joined."""
        from .compare_render import frame

        return frame(self)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        from .compare_render import as_json

        return as_json(self)

    def __repr__(self) -> str:
        from .compare_render import plain_text

        return plain_text(self)

    def _repr_html_(self) -> str:
        from .compare_render import html

        return html(self)


def compare(
    results: str | Path | Sequence[str | Path],
    models: Sequence[str] = (),
    task: str | Sequence[str] = (),
    metric: str | None = None,
    split: str | Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> Comparison:
    """Compare models pair by pair. Of tasks of several kinds, those of the first that has the metric; a note names the others.

    Rows, and the setting that stands for each, are those of ``harness table``. ``models``: names or labels of rows; of one, its
    pairs with all others; of two, the pairs between them; of more, all pairs of them; of none, all pairs. ``task``: names of
    tasks or families, or labels of columns. ``metric`` is by default that of ``harness table``.

    Raises:
        UnknownName: a model, task, split or metric that the records do not have.
        UserError: no records, or nothing that can be compared; the message says why.
    """
    return next(iter(compare_all(results, models, task, metric, split, say).values()))


def compare_all(
    results: str | Path | Sequence[str | Path],
    models: Sequence[str] = (),
    task: str | Sequence[str] = (),
    metric: str | None = None,
    split: str | Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> dict[str, Comparison]:
    """The comparison of each kind of task that has the metric and something to compare; see :func:`compare`."""
    from .tables import main_metric, metric_named

    folders = [results] if isinstance(results, str | Path) else list(results)
    records, where = _read([Path(folder) for folder in folders], say)
    records = identified(records)
    wanted = None if metric is None else metric_named(metric)
    chosen = _on_columns(records, _words(task), _words(split))
    by_kind = {kind: of_kind for kind in KINDS if (of_kind := [record for record in chosen if record.kind == kind])}
    metrics = {kind: wanted or main_metric(of_kind, kind)[0] for kind, of_kind in by_kind.items()}
    able = [kind for kind in by_kind if metrics[kind] in metrics_of(kind)]
    if wanted and METRICS[wanted].beside:
        raise UserError(f"metric {wanted}: no prediction has it, so it cannot be compared; see harness table --metric {wanted}")
    if not able:
        raise UserError(f"metric {wanted}: only {' or '.join(METRICS[str(wanted)].kinds)} has it, not {' or '.join(by_kind)}")
    found, faults = dict[str, Comparison](), list[UserError]()
    for kind in able:
        others = [f"{other} (--metric {main_metric(by_kind[other], other)[0]})" for other in by_kind if other not in able]
        others += [f"{other} (compared on its own)" for other in able if other != kind]
        notes = [f"not mixed with tasks of another kind: {', '.join(others)}"] if others else []
        try:
            found[kind] = _compared(by_kind[kind], where, models, kind, metrics[kind], notes)
        except UserError as error:
            faults.append(error)
    if not found:
        raise faults[0]
    return found


# --- what is compared ----------------------------------------------------------------------------------------------------


def _read(folders: Sequence[Path], say: Callable[[str], None] | None) -> tuple[list[RunRecord], Callable[[RunRecord], Path]]:
    """The records of several folders, and where each one's run lies."""
    records, places = list[RunRecord](), dict[tuple[Path, str], Path]()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"results {folder}: no such folder; give one that `harness run` or `harness sweep` wrote to")
        for record in read_all(folder) if say is None else read_all(folder, say):
            records.append(record)
            places[record.folder, record.created] = folder
    if not records:
        raise UserError(f"no records in {' or '.join(map(str, folders))} to read: start with `harness run`, or give --results")
    return records, lambda record: places[record.folder, record.created] / record.folder


def _words(asked: str | Sequence[str]) -> list[str]:
    given = [asked] if isinstance(asked, str) else list(asked)
    return [word.strip() for text in given for word in text.split(",") if word.strip()]


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def _named(words: Sequence[str], names: Mapping[str, Iterable[Any]], what: str) -> list[set[Any]]:
    """What each word stands for, by a name in any case.

    Raises:
        UnknownName: a word that is no name.
    """
    known: dict[str, set[Any]] = defaultdict(set)
    for name, things in names.items():
        known[_plain(name)] |= set(things)
    for word in words:
        if _plain(word) not in known:
            spelt = {_plain(name): name for name in names}
            near = [spelt[name] for name in difflib.get_close_matches(_plain(word), spelt, n=3)]
            hint = f"did you mean {' or '.join(near)}?" if near else f"the records have {', '.join(sorted(names)[:10])}"
            raise UnknownName(f"{what} {word!r}: no record has it; {hint}")
    return [known[_plain(word)] for word in words]


def _on_columns(records: Sequence[RunRecord], tasks: Sequence[str], splits: Sequence[str]) -> list[RunRecord]:
    """The records on the tasks and splits asked for."""
    labels = column_labels(records)
    names: dict[str, set[Column]] = defaultdict(set)
    of_split: dict[str, set[Column]] = defaultdict(set)
    for record in records:
        column = column_of(record)
        for name in (record.task["name"], record.task["family"], record.task_label, labels[column]):
            names[name].add(column)
        of_split[column.split].add(column)
    wanted = set(labels)
    for words, known, what in ((tasks, names, "task"), (splits, of_split, "split")):
        if words:
            wanted &= set().union(*_named(words, known, what))
    if not wanted:
        raise UserError(f"task {', '.join(tasks)} with split {', '.join(splits)}: no record has both; leave one of them out")
    return [record for record in records if column_of(record) in wanted]


def _pairs_of(models: Sequence[str], names: Mapping[Row, str]) -> list[tuple[Row, Row]]:
    """Which rows are compared, in their order; other models come before floors, so that they are what is said to be better."""
    ordered = [row for floor in (False, True) for row in names if row.floor == floor]
    known: dict[str, set[Row]] = defaultdict(set)
    for row, name in names.items():
        known[name].add(row)
        known[row.model].add(row)
    sides = [[row for row in ordered if row in rows] for rows in _named(models, known, "model")]
    if not sides:
        return list(combinations(ordered, 2))
    if len(sides) == 1:
        pairs = [(row, other) for row in sides[0] for other in ordered if other != row]
    elif len(sides) == 2:
        pairs = [(row, other) for row in sides[0] for other in sides[1] if other != row]
    else:
        rows = dict.fromkeys(row for side in sides for row in side)
        pairs = list(combinations(rows, 2))
    once = {frozenset(pair): pair for pair in reversed(pairs)}
    return [pair for pair in pairs if once[frozenset(pair)] == pair]


def _compared(
    records: Sequence[RunRecord],
    where: Callable[[RunRecord], Path],
    models: Sequence[str],
    kind: str,
    metric: str,
    notes: Sequence[str],
) -> Comparison:
    """The comparison of records of one kind."""
    from . import verdicts
    from .answers import read_test
    from .pairs import compared
    from .statistics import REPLICATES, swaps_for

    found, usual = grouped(records), usual_recipes(records)
    counted = {key: settings[main_setting(settings, usual[key])].counted for key, settings in found.items()}
    names = row_labels((row, run) for (row, _), runs in counted.items() for run in runs)
    columns = column_labels(run for runs in counted.values() for run in runs)
    pairs = _pairs_of(models, names)
    finished = {key: [run for run in runs if run.finished] for key, runs in counted.items()}
    there = {key: runs for key, runs in finished.items() if runs}
    asked = {column: [pair for pair in pairs if all((row, column) in there for row in pair)] for column in columns}
    total = sum(map(len, asked.values()))
    if not total:
        raise UserError(_nothing(pairs, names, columns, counted))
    said, left_out, made = [*notes], list[str](), list[verdicts.Found]()
    tests: dict[Column, Test] = {}
    swaps = swaps_for(total)
    for column, wanted in asked.items():
        rows = {row: there[row, column] for row in names if any(row in pair for pair in wanted)}
        test = read_test(column, rows, names, where, metric, REPLICATES) if rows else None
        if test is None:
            continue
        left_out += [f"{columns[column]}, {text}" for text in test.left_out]
        numbers, apart = compared(test, [pair for pair in wanted if all(row in test.of for row in pair)], metric, swaps)
        left_out += [f"{columns[column]}, {names[a]} and {names[b]}: no seed in common" for a, b in apart]
        made += [verdicts.Found(pair, test, columns[column], counted) for pair in numbers]
        tests[column] = test
    if not made:
        raise UserError(f"nothing to compare: {'; '.join(left_out[:MAX_NAMED])}")
    differences = verdicts.judged(made, metric, names, swaps)
    ranks = _ranks(tests, differences, names, metric)
    failed = [
        f"{columns[column]}, {names[row]}, seed {run.seed}"
        for (row, column), runs in counted.items()
        for run in runs
        if not run.finished
    ]
    said += verdicts.notes(differences, ranks, swaps, left_out, failed)
    return Comparison(metric, kind, tuple(differences), ranks, tuple(said))


def _nothing(
    pairs: Sequence[tuple[Row, Row]],
    names: Mapping[Row, str],
    columns: Mapping[Column, str],
    counted: Mapping[tuple[Row, Column], Sequence[RunRecord]],
) -> str:
    """Why no pair can be compared."""
    if not pairs:
        if len(names) > 1:
            return (
                "nothing to compare: the models named are one and the same; name two, or only one for its pairs with all others"
            )
        return f"nothing to compare: the records are of one model, {', '.join(names.values())}; run another one on the same task"
    rows = dict.fromkeys(row for pair in pairs for row in pair)
    where = []
    for row in list(rows)[:MAX_NAMED]:
        on = [label for column, label in columns.items() if any(run.finished for run in counted.get((row, column), ()))]
        where.append(f"{names[row]}: {', '.join(on) or 'no score'}")
    return f"nothing to compare: no two of these models have scores on the same column ({'; '.join(where)}); run them on one task"


def _ranks(
    tests: Mapping[Column, Test], differences: Sequence[Difference], names: Mapping[Row, str], metric: str
) -> dict[str, Rank]:
    """Each model's rank over the columns, real ones where there are any, in which all have a score; the best first."""
    import numpy as np
    from scipy.stats import rankdata

    from .statistics import mean_ranks

    shown = {row for difference in differences for row in difference.models}
    rows = [row for row in names if row in shown]
    columns = [column for column in tests if not column.simulated] or list(tests)
    scores = [
        [test.of[row].mean for row in rows]
        for test in (tests[column] for column in columns)
        if all(row in test.of and np.isfinite(test.of[row].mean) for row in rows)
    ]
    judged = [one for one in differences if one.column in columns and one.adjusted is not None]
    sign = -1 if METRICS[metric].higher_is_better else 1
    ranked = mean_ranks(rankdata(sign * np.array(scores), axis=1)) if scores else [(None, None)] * len(rows)
    found = {}
    for row, (mean, interval) in zip(rows, ranked, strict=True):
        of = [one for one in judged if row in one.models]
        wins, ties = sum(one.better == names[row] for one in of), sum(one.better is None for one in of)
        found[names[row]] = Rank(mean, interval, wins, ties, len(of) - wins - ties, len(scores))
    return dict(sorted(found.items(), key=lambda item: (item[1].mean is None, item[1].mean or 0.0)))
