"""Paired statistics of two models on the same test examples and seeds, and of many models on many tasks.

What is claimed. With three or more seeds: a difference in the population of test blocks and of seeds. With one or two: in the
population of test blocks, for these runs alone, since two numbers say next to nothing of their spread (Student's quantile for one
degree of freedom is 12.7). Examples of one block depend on each other, so blocks are drawn and swapped whole; independent
examples are blocks of one. The same blocks are drawn, or swapped, for both models and all seeds: the test set is one sample.

* Variance of a mean difference over S seeds. Examples and seeds are crossed, not nested. The variance from drawing blocks
  (bootstrap, times M / (M - 1) for M blocks) and that between seeds (over S) both contain the part that examples and seeds
  make together, which is therefore taken off once (two-way clustering: Cameron, Gelbach & Miller 2011; drawing both at once
  counts it three times: Owen 2007). Degrees of freedom are Welch's (1947), but for the exponent of the seeds' share: M' - 1
  for blocks (M' being their effective number, see :mod:`.intervals`) and S - 1 for seeds. Drawing five seeds with replacement
  and taking percentiles would make an interval too narrow by √(4/5) · 1.96 / 2.78 = 0.63. Few seeds that agree by chance still
  make one too narrow, as others make one too wide; it is over both that 94 to 96 % hold the difference.
* 95 % interval: the difference ± Student's quantile × the root of that variance.
* p: permutation test. If the models are exchangeable, so are their predictions for a block; each block's share of the difference
  then has either sign. Of a mean over examples a share is the block's sum; of another metric (auroc, f1 …) it is the block's part
  of the value plus its influence, by the jackknife, since scores of two models have no common scale on which to rank them.
  With three or more seeds, the runs at hand differ even if the models do not, by chance of their seeds, which cannot be
  swapped in the same way: five have 16 patterns, so no p below 0.06. The blocks' deviations are then swapped instead, and their
  spread is widened by that of the seeds: p = P(|Z| √(ν / χ²_ν) ≥ |difference| / √variance), Z being a swap's standardised sum and
  ν as above. So one swap holds for all seeds of a block, as one draw does.
* McNemar's exact test: the binomial test of the examples that one model alone has right (``scipy.stats.binomtest``).
* Several comparisons: Holm's (1979) step-down adjustment, which needs no assumption on their dependence.
* The smallest detectable difference: (t_.975 + t_.80) standard errors, which a test at 5 % finds four times in five.
* Mean rank over tasks: percentile bootstrap over tasks, at levels expanded to Student's quantiles (Hesterberg 2015).

scipy has distributions, the binomial test and ranks. It lacks Holm's adjustment, and its bootstrap and permutation test know
neither blocks nor crossed factors, and would draw anew for every pair. ``benchmarks/statistics.py`` measures what all this holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

LEVEL = 0.05
POWER = 0.8
REPLICATES = 999
SWAPS = 9_999
MAX_SWAPS = 99_999
MIN_SEEDS = 3  # from which the variance between seeds is estimated
MIN_TASKS = 6  # of five, even a model that is always first has p = 2 / 2**5 > 0.05 in a sign test
SWAPS_AT_ONCE = 1_000
CONFIDENT = 1 - LEVEL / 2


@dataclass(frozen=True)
class Spread:
    """How far a difference may be off: its standard error, and the degrees of freedom of Student's distribution."""

    error: float
    freedom: float

    def interval(self, difference: float) -> tuple[float, float]:
        """95 % interval."""
        half = float(stats.t.ppf(CONFIDENT, self.freedom)) * self.error
        return difference - half, difference + half

    @property
    def detectable(self) -> float:
        """The smallest difference that a single test at LEVEL finds with a probability of POWER."""
        return float(stats.t.ppf(CONFIDENT, self.freedom) + stats.t.ppf(POWER, self.freedom)) * self.error


def drawn_blocks(blocks: int, replicates: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """How often each block is in each bootstrap draw, (blocks, replicates) as float32."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(blocks, size=(replicates, blocks)) + np.arange(replicates)[:, None] * blocks
    return np.ascontiguousarray(
        np.bincount(chosen.ravel(), minlength=replicates * blocks).reshape(replicates, blocks).T, np.float32
    )


def spread(redrawn: np.ndarray, differences: np.ndarray, blocks: int, effective: float) -> Spread:
    """The spread of the mean difference.

    ``redrawn`` (R, S) are the differences of each seed on drawn blocks, rows of NaN where the metric is undefined;
    ``differences`` (S,) those on the test set. ``blocks`` were drawn from, ``effective`` is their effective number.
    """
    redrawn = redrawn[np.isfinite(redrawn).all(axis=1)]
    mean = redrawn.mean(axis=1)
    of_blocks = float(mean.var(ddof=1)) * blocks / (blocks - 1)
    seeds = len(differences)
    if seeds < MIN_SEEDS:
        return Spread(of_blocks**0.5, effective - 1)
    of_both = float((redrawn - mean[:, None]).var(axis=0, ddof=1).sum()) / (seeds * (seeds - 1)) * blocks / (blocks - 1)
    return _crossed(max(of_blocks - of_both, 0.0), float(differences.var(ddof=1)) / seeds, effective - 1, seeds - 1)


def _crossed(of_blocks: float, of_seeds: float, freedom: float, seeds: float) -> Spread:
    """The sum of two variances, with their degrees of freedom.

    The exponent of the seeds' share is chosen by simulation with normal variables: 4 to 6 % of verdicts are wrong from 3 seeds
    on, whatever the share; with Welch's, which is 2, up to 8 % with 3 seeds, since a variance that comes out small counts less.
    """
    variance = of_blocks + of_seeds
    if variance == 0:
        return Spread(0.0, freedom)
    below = (of_blocks / variance) ** 2 / freedom + (of_seeds / variance) ** (2 - 2.5 / (seeds + 1)) / seeds
    return Spread(variance**0.5, 1 / below if below else np.inf)


def swapped(shares: np.ndarray, swaps: int = SWAPS, seed: int = 0) -> tuple[np.ndarray, bool]:
    """Sums of the shares (M, pairs) with random signs, one for each of M blocks and the same for all pairs: (swaps, pairs).

    And whether these are all patterns, each once but for its mirror image, as they are where there are no more than ``swaps``.
    """
    blocks = len(shares)
    if blocks < 2 or 2 ** (blocks - 1) <= swaps:
        patterns = np.arange(2 ** max(blocks - 1, 0))[:, None] >> np.arange(blocks) & 1
        return (1.0 - 2.0 * patterns) @ shares, True
    rng, found = np.random.default_rng(seed), []
    shares = shares.astype(np.float32)
    for at in range(0, swaps, SWAPS_AT_ONCE):
        count = min(SWAPS_AT_ONCE, swaps - at)
        bits = np.unpackbits(
            np.frombuffer(rng.bytes(count * (-(-blocks // 8))), np.uint8).reshape(count, -1), axis=1, count=blocks
        )
        signs = bits.astype(np.float32)
        signs *= 2
        signs -= 1
        found.append(signs @ shares)
    return np.concatenate(found).astype(np.float64), False


def shares_of(influence: np.ndarray, differences: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """What is swapped, (M,): each block's share of the mean difference, or with MIN_SEEDS its deviation from that share.

    ``influence`` (M, S) is that of each block on each seed's difference, ``differences`` (S,) are those on the test set, and
    ``sizes`` (M,) the blocks' numbers of examples. Over a population of seeds, the runs at hand differ even if the models do not,
    so that shares do not lie about 0, but deviations do.
    """
    if len(differences) >= MIN_SEEDS:
        return influence.mean(axis=1)
    return (differences * (sizes / sizes.sum())[:, None] + influence).mean(axis=1)


def permutation_p(
    sums: np.ndarray, exact: bool, shares: np.ndarray, influence: np.ndarray, differences: np.ndarray, effective: float
) -> float:
    """Two-sided p of the mean difference.

    ``sums`` (swaps,) are those of :func:`swapped` for this pair, ``shares`` (M,) what was swapped (see :func:`shares_of` for it
    and the others), and ``effective`` is the effective number of blocks.
    """
    difference, seeds, swapping = abs(float(differences.mean())), len(differences), float((shares**2).sum())
    rounding = 1e-6 * (swapping**0.5 + difference)  # sums of float32, and equal sums added up in another order
    least = max(difference - rounding, 0.0)
    if seeds < MIN_SEEDS:
        beyond = (abs(sums) >= least).astype(float)
    else:
        more = len(shares) / (len(shares) - 1)
        of_both = float(((influence - shares[:, None]) ** 2).sum()) * more / (seeds * (seeds - 1))
        of_seeds = float(differences.var(ddof=1)) / seeds
        whole = _crossed(max(swapping * more - of_both, 0.0), of_seeds, effective - 1, seeds - 1)
        if whole.error == 0 or least == 0:
            return float(least == 0)
        if swapping == 0:
            return 2 * float(stats.t.sf(difference / whole.error, whole.freedom))
        half = whole.freedom / 2
        beyond = special.gammainc(half, half * sums**2 / swapping * (whole.error / least) ** 2)
    return float(beyond.mean()) if exact else float((1 + beyond.sum()) / (1 + len(beyond)))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p of two models' right answers (N,) of independent examples; 1 where they differ nowhere."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return float(stats.binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p of all comparisons that have one, in their order."""
    known = sorted((value, place) for place, value in enumerate(p) if value is not None)
    adjusted, largest = list[float | None]([None] * len(p)), 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        adjusted[place] = largest
    return adjusted


def swaps_for(comparisons: int) -> int:
    """How many swaps let an adjusted p reach half of LEVEL, of so many comparisons; no more than MAX_SWAPS."""
    return min(max(SWAPS, int(2 * comparisons / LEVEL)), MAX_SWAPS)


def mean_ranks(ranks: np.ndarray, replicates: int = 9_999, seed: int = 0) -> list[tuple[float, tuple[float, float] | None]]:
    """Mean and 95 % interval over tasks of each model's rank, from ranks (tasks, models); none of fewer than MIN_TASKS."""
    tasks = len(ranks)
    means = ranks.mean(axis=0)
    if tasks < MIN_TASKS:
        return [(float(mean), None) for mean in means]
    weights = drawn_blocks(tasks, replicates, seed)
    draws = weights.T @ ranks / tasks
    tail = float(stats.norm.cdf(stats.t.ppf(LEVEL / 2, tasks - 1) * (tasks / (tasks - 1)) ** 0.5))
    limits = np.quantile(draws, (tail, 1 - tail), axis=0).T
    return [(float(mean), (float(low), float(high))) for mean, (low, high) in zip(means, limits, strict=True)]
