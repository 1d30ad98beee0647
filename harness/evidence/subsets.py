"""Scores on part of the test examples: those that training examples leak into, the novel ones, or a group such as a gene's."""

from __future__ import annotations

import difflib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

from harness.errors import UnknownName

from . import schema
from .cells import Column, Row
from .metrics import METRICS
from .records import RunRecord

NOVEL, LEAKING = schema.SUBSETS
ALL = "all"
SUBSETS = (ALL, NOVEL, LEAKING)
MIN_EXAMPLES, MIN_OF_A_CLASS = 20, 5  # of a group, below which a score says nothing
MAX_LISTED = 10  # groups that a message names
MAX_LEAKING = 0.05  # share of a test split beyond which its column is marked

Scores = tuple[Mapping[str, float | None], Mapping[str, Sequence[float]]]  # metrics, and the intervals that are known


def audited(run: RunRecord) -> bool:
    """Whether a run says which of its test examples leak."""
    return bool(run.leakage.get("subsets"))


def scores_on(run: RunRecord, subset: str) -> Scores:
    """A run's metrics and intervals on a subset of its test examples; empty where the record has none."""
    part = vars(run) if subset == ALL else _part(run, subset) or {}
    limits = {name: found for name, found in (part.get("intervals") or {}).items() if found and None not in found}
    return part.get("metrics") or {}, limits


def examples_on(run: RunRecord, subset: str) -> int | None:
    """The number of a run's test examples in a subset other than ALL; None if the record does not say."""
    return (_part(run, subset) or {}).get("examples")


def unknown_on(run: RunRecord, subset: str) -> bool:
    """Whether only an audit, which a run lacks, could say what it scores on a subset."""
    return subset in (NOVEL, LEAKING) and not audited(run)


def check_subset(subset: str, runs: Iterable[RunRecord]) -> None:
    """Refuse a subset that is none of SUBSETS and no group that a record has, such as ``gene=BRCA1``.

    Raises:
        UnknownName: with the groups that there are.
    """
    runs = list(runs)
    if subset in SUBSETS or any(_part(run, subset) for run in runs):
        return
    name, equals, word = subset.partition("=")
    groups = sorted({name for run in runs for name in run.groups})
    if equals and name in groups:
        known = sorted({word for run in runs for word in run.groups.get(name, {})})
        near = difflib.get_close_matches(word, known, n=3) or known[:MAX_LISTED]
        raise UnknownName(f"subset {subset!r}: no record has that {name}; they have {', '.join(near)}")
    ways = "".join(f", or {name}=…" for name in groups)
    raise UnknownName(f"subset {subset!r}: choose one of {', '.join(SUBSETS)}{ways}")


def _part(run: RunRecord, subset: str) -> Mapping[str, Any] | None:
    """What a record says of a subset other than ALL. ``consequence=missense`` is short for ``consequence=missense_variant``."""
    name, equals, word = subset.partition("=")
    if not equals:
        return run.leakage.get("subsets", {}).get(subset)
    words = run.groups.get(name, {})
    return words.get(word) or words.get(f"{word}_variant")


def leaking_share(run: RunRecord) -> float | None:
    """The share of a run's test examples that leak; None if it was not audited."""
    counts = run.leakage.get("counts") or {}
    total = sum(counts.values())
    return (total - counts["none"]) / total if total else None


def leaking_shares(runs: Iterable[tuple[Column, RunRecord]]) -> dict[Column, float]:
    """The share of the test examples that leak, by column, as the largest of its audits has it."""
    shares: dict[Column, float] = {}
    for column, run in runs:
        if (share := leaking_share(run)) is not None:
            shares[column] = max(share, shares.get(column, 0.0))
    return shares


def order_changes(
    runs: Mapping[tuple[Row, Column], Sequence[RunRecord]], columns: Iterable[Column], metric: str
) -> dict[Column, dict[Row, tuple[int, int]]]:
    """The rows whose rank on the novel examples is another one than on all: column → row → (rank on all, rank on novel).

    Ranks are among the rows with an audit, by means over their audited runs. Columns in which no two rows swap places are
    left out; from equal to different is no swap.
    """
    sign = -1 if METRICS[metric].higher_is_better else 1
    changed = {}
    for column in columns:
        means = {row: pair for (row, at), found in runs.items() if at == column and (pair := _means(found, metric))}
        signed = {row: (sign * both, sign * novel) for row, (both, novel) in means.items()}
        if not any(a[0] < b[0] and a[1] > b[1] for a, b in permutations(signed.values(), 2)):
            continue
        ranks = {
            row: tuple(1 + sum(other[i] < own[i] for other in signed.values()) for i in (0, 1)) for row, own in signed.items()
        }
        moved = {row: (ranks[row][0], ranks[row][1]) for row in ranks if ranks[row][0] != ranks[row][1]}
        changed[column] = dict(sorted(moved.items(), key=lambda item: item[1]))
    return changed


def _means(runs: Sequence[RunRecord], metric: str) -> tuple[float, float] | None:
    """A metric's means on all and on novel examples, over the runs that have both."""
    pairs = [(run.metrics.get(metric), scores_on(run, NOVEL)[0].get(metric)) for run in runs]
    known = [(both, novel) for both, novel in pairs if both is not None and novel is not None]
    return (statistics.fmean(both for both, _ in known), statistics.fmean(novel for _, novel in known)) if known else None
