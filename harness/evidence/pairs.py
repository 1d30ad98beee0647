"""Two models on one test set, put into numbers: the difference, its interval, and the p of the permutation test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .answers import Answer, Answers, Test, of_seeds, shared_seeds
from .cells import Row
from .intervals import MIN_BLOCKS, MIN_EFFECTIVE_BLOCKS
from .statistics import Spread, mcnemar, permutation_p, shares_of, spread, swapped

MIN_DRAWS = 0.9  # share of bootstrap draws in which the metric must be defined


@dataclass(frozen=True, eq=False)
class Pair:
    """Two models on one test set. ``scores`` are means over the seeds; what is None could not be computed, see ``why``.

    ``constant``: no seed decides what either model answers.
    """

    models: tuple[Row, Row]
    seeds: tuple[int, ...]
    constant: bool
    scores: tuple[float, float]
    spread: Spread | None
    p: float | None
    mcnemar: float | None
    why: str = ""

    @property
    def difference(self) -> float:
        return self.scores[0] - self.scores[1]


def compared(test: Test, pairs: Sequence[tuple[Row, Row]], metric: str, swaps: int) -> tuple[list[Pair], list[tuple[Row, Row]]]:
    """Each pair's numbers, and the pairs that cannot be compared since they share no seed."""
    found, apart = list[Pair](), list[tuple[Row, Row]]()
    prepared = list[tuple[Pair, np.ndarray, np.ndarray, np.ndarray]]()
    for rows in pairs:
        models = test.of[rows[0]], test.of[rows[1]]
        seeds = shared_seeds(*models)
        if not seeds:
            apart.append(rows)
            continue
        runs = of_seeds(models[0], seeds), of_seeds(models[1], seeds)
        prepared.append(_prepared(test, models, seeds, runs, metric))
    able = [item for item in prepared if not item[0].why]
    if able:
        sums, exact = swapped(np.stack([shares for _, shares, _, _ in able], axis=1), swaps)
        tested = {
            item[0].models: permutation_p(sums[:, place], exact, *item[1:], test.sample.effective())
            for place, item in enumerate(able)
        }
    else:
        tested = {}
    for pair, *_ in prepared:
        found.append(replace(pair, p=tested.get(pair.models)))
    return found, apart


def _prepared(
    test: Test, models: tuple[Answers, Answers], seeds: Sequence[int], runs: tuple[list[Answer], list[Answer]], metric: str
) -> tuple[Pair, np.ndarray, np.ndarray, np.ndarray]:
    """A pair without its p; each block's share (M,) of the difference, its influence (M, S), and the differences (S,)."""
    sample = test.sample
    values = [np.array([run.measured.value for run in of_model]) for of_model in runs]
    differences = values[0] - values[1]
    influence = np.stack([a.measured.influence - b.measured.influence for a, b in zip(*runs)], axis=1)
    shares = shares_of(influence, differences, sample.sizes)
    why, found = "", None
    if not np.isfinite(differences).all():
        why = f"{metric} is undefined on these test examples or predictions"
    elif not np.isfinite(influence).all():
        why = f"{metric} is undefined without some of the {sample.blocks} {sample.units}"
    elif all(run.drawn is not None for of_model in runs for run in of_model):
        found = _spread(test, runs, differences)
    exact = None
    first, second = (of_model[0].right for of_model in runs)
    if metric == "accuracy" and sample.independent and first is not None and second is not None:
        exact = mcnemar(first, second)
    scores = float(values[0].mean()), float(values[1].mean())
    constant = models[0].repeats and models[1].repeats
    pair = Pair((models[0].row, models[1].row), tuple(seeds), constant, scores, found, None, exact, why)
    return pair, shares, influence, differences


def _spread(test: Test, runs: tuple[list[Answer], list[Answer]], differences: np.ndarray) -> Spread | None:
    sample = test.sample
    redrawn = np.stack([a.drawn - b.drawn for a, b in zip(*runs)], axis=1)  # type: ignore[operator]
    defined = np.isfinite(redrawn).all(axis=1).mean()
    if sample.blocks < MIN_BLOCKS or sample.effective() < MIN_EFFECTIVE_BLOCKS or defined < MIN_DRAWS:
        return None
    return spread(redrawn, differences, sample.blocks, sample.effective())
