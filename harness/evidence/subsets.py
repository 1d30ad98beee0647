"""Scores on part of the test examples: on those that training examples leak into, and on the novel ones."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations

from . import schema
from .cells import Column, Row
from .metrics import METRICS
from .records import RunRecord

NOVEL, LEAKING = schema.SUBSETS
ALL = "all"
SUBSETS = (ALL, NOVEL, LEAKING)
MAX_LEAKING = 0.05  # share of a test split beyond which its column is marked

Scores = tuple[Mapping[str, float | None], Mapping[str, Sequence[float]]]  # metrics, and the intervals that are known


def audited(run: RunRecord) -> bool:
    """Whether a run says which of its test examples leak."""
    return bool(run.leakage.get("subsets"))


def scores_on(run: RunRecord, subset: str) -> Scores:
    """A run's metrics and intervals on a subset of its test examples; empty where the run was not audited.

    On ALL, with those that lie beside the record.
    """
    if subset != ALL:
        parts = [run.leakage.get("subsets", {}).get(subset) or {}]
    else:
        parts = [vars(run), run.beside] if run.beside else [vars(run)]
    metrics, limits = dict[str, float | None](), dict[str, Sequence[float]]()
    for part in parts:
        metrics |= part.get("metrics") or {}
        limits |= {name: found for name, found in (part.get("intervals") or {}).items() if found and None not in found}
    return metrics, limits


def examples_on(run: RunRecord, subset: str) -> int | None:
    """The number of a run's test examples in NOVEL or LEAKING; None if the run was not audited."""
    return (run.leakage.get("subsets", {}).get(subset) or {}).get("examples")


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
