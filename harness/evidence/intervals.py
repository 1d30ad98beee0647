"""Confidence intervals of scores, from a model's predictions on one test set. Nothing here is random.

What is covered is the limit of the metric as more and more blocks are drawn as these were, model and threshold fixed: the
example-weighted value in the population that the blocks stand for. Other seeds, training sets and populations are not in it.
Independent examples are blocks of one. Blocks may differ in size, class balance and difficulty.

* Each block is left out in turn; the spread of the metric gives its variance (delete-one jackknife, which errs on the wide
  side where blocks are few and unequal: MacKinnon, Nielsen & Webb 2023). For auroc with blocks of one, this is DeLong's
  variance but for terms of 1/n; with larger ones it is close to Obuchowski's (1997).
* Quantiles are Student's, with (Σ size)² / Σ size² - 1 degrees of freedom, sizes being examples per block (Kish's effective
  number). For auroc and auprc they are examples of the class that has fewest such blocks.
* accuracy, macro f1, auroc and auprc: Wilson's (1927) interval of a proportion out of θ(1 - θ) / variance examples, the effective
  sample size of Korn & Graubard (1998), but no more than there are. It stays in [0, 1] and has a width at 0 and 1, where the
  effective number of blocks takes the place of that size.
* f1 of two classes: the same for TP / (TP + FP + FN), a proportion of which f1 is a monotone function (Wilson "indirect",
  arXiv:2309.14621). accuracy and this f1 of independent examples are binomial, and have Wilson's own interval.
* auroc and auprc: θ(1 - θ) / m² is added to the variance, m being the examples of the rarest class, because a sample may lack
  the one example in m that is ranked worst, and then shows too small a spread.
* log_loss: the wider ends of two intervals, one on the log scale and one with Hall's (1992) cubic correction of skewness.
* Regressions and multi-label tasks: see :mod:`.regression` and :mod:`.multilabel`, whose rules are made of these.

``benchmarks/intervals.py`` measures the coverage: 92 to 98 % in most designs from 10 blocks or 20 examples on; 96 to 100 %, so
wider than need be, with 5 blocks, and for auroc and auprc with few examples of a class. With fewer still there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 0.95
MIN_BLOCKS = 5  # fewer say nothing about the spread between blocks
MIN_EFFECTIVE_BLOCKS = 3  # of unequal sizes, and holding a class that the metric needs
MIN_BLOCKS_WITH_ERROR = 2  # the log-loss of an accurate classifier lies in errors; without any, a sample cannot show it
MAX_CELLS = 20_000_000  # blocks × examples up to which auprc is computed anew without each block

Limits = tuple[float, float]
# The metric of scores (N,) of examples that are positive or not (N,), and (blocks,) without each block.
Measure = Callable[["Grouped", "np.ndarray", "np.ndarray"], tuple[float, "np.ndarray"]]
S = TypeVar("S", bound="Grouped")


@dataclass(frozen=True, eq=False)
class Grouped:
    """Examples in blocks: ``member`` (N,) is the number of each example's block, of ``blocks`` in all.

    ``rows``: how many rows, one below another, are of one example.
    """

    member: np.ndarray
    blocks: int
    rows: int = field(default=1, kw_only=True)

    @property
    def independent(self) -> bool:
        return self.blocks == len(self.member)

    @property
    def units(self) -> str:
        return "examples" if self.blocks * self.rows == len(self.member) else "blocks"

    @property
    def sizes(self) -> np.ndarray:
        import numpy as np

        return np.bincount(self.member, minlength=self.blocks)

    def per_block(self, values: np.ndarray) -> np.ndarray:
        """Sums (blocks,) of one value per example."""
        import numpy as np

        return np.bincount(self.member, values, self.blocks)

    def effective(self, of: np.ndarray | None = None) -> float:
        """Effective number of blocks that hold the examples, or those that ``of`` (N,) marks."""
        sizes = self.sizes.astype(float) if of is None else self.per_block(of)
        return float(sizes.sum() ** 2 / max((sizes**2).sum(), 1))

    def enough(self, marked: np.ndarray, words: str) -> float:
        """Effective number of blocks that hold the examples marked (N,), described by ``words``.

        Raises:
            NoInterval: there are too few.
        """
        number = self.effective(marked)
        if number < MIN_EFFECTIVE_BLOCKS:
            where = ", or nearly all of them in one or two blocks" if self.units == "blocks" else ""
            raise NoInterval(f"{marked.sum()} {words}{where}: too few to show how much they differ")
        return number


@dataclass(frozen=True, eq=False)
class Sample(Grouped):
    """Checked predictions of a classifier: probabilities (N, K) and labels (N,)."""

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def classes(self) -> int:
        return self.probabilities.shape[1]

    @property
    def scored(self) -> range:
        """The classes that a macro average runs over: of two, the second alone."""
        return range(1 if self.classes == 2 else 0, self.classes)


class NoInterval(Exception):
    """Why a metric has no interval."""


def members(examples: int, blocks: Sequence[str]) -> tuple[np.ndarray, int]:
    """The number (N,) of each example's block, and how many there are; each example is one where ``blocks`` is empty.

    Raises:
        ValueError: the number of blocks is not that of the examples.
    """
    import numpy as np

    if len(blocks) not in (0, examples):
        raise ValueError(f"{len(blocks)} blocks: expected one for each of {examples} examples, or none at all")
    member = np.unique(np.asarray(blocks), return_inverse=True)[1] if len(blocks) else np.arange(examples)
    return member, int(member.max()) + 1


def limits(rules: Mapping[str, Callable[[S], Limits]], sample: S) -> tuple[dict[str, Limits], dict[str, str]]:
    """95 % intervals, metric → (low, high), and metric → reason for those of the rules that have none."""
    found, reasons = {}, {}
    for metric, rule in rules.items():
        try:
            if sample.blocks < MIN_BLOCKS:
                raise NoInterval(f"{sample.blocks} {sample.units}: fewer than {MIN_BLOCKS} do not show how much they differ")
            if sample.effective() < MIN_EFFECTIVE_BLOCKS:
                raise NoInterval(f"most examples are in one or two of the {sample.blocks} blocks")
            low, high = rule(sample)
            found[metric] = float(low), float(high)
        except NoInterval as reason:
            reasons[metric] = str(reason)
    return found, reasons


# --- one rule per metric -------------------------------------------------------------------------------------------------


def accuracy(sample: Sample) -> Limits:
    correct = sample.probabilities.argmax(axis=1) == sample.labels
    theta, total = float(correct.mean()), len(correct)
    if sample.independent:
        return wilson(theta, total, quantile())
    right = sample.per_block(correct)
    without = (right.sum() - right) / (total - sample.sizes)
    number = proportion_of(theta, variance(without, theta), sample.effective(), total)
    return wilson(theta, number, quantile(sample.effective()))


def _f1(sample: Sample) -> Limits:
    predicted = sample.probabilities.argmax(axis=1)
    counts = [
        [sample.per_block(mark) for mark in (t & p, t | p)]
        for k in sample.scored
        for t, p in [(sample.labels == k, predicted == k)]
    ]
    if sample.classes > 2:
        return mean_f1(sample, counts, _weakest_class(sample), len(predicted))
    both, either = counts[0]
    total = either.sum()
    if not total:
        raise NoInterval("the positive class neither occurs nor is predicted")
    jaccard = float(both.sum() / total)
    if sample.independent:
        low, high = wilson(jaccard, total, quantile())
    else:
        marked = sample.effective((sample.labels == 1) | (predicted == 1))
        if marked < MIN_EFFECTIVE_BLOCKS:
            raise NoInterval("nearly all positive examples and predictions are in one or two blocks")
        without = (both.sum() - both) / (total - either)
        number = proportion_of(jaccard, variance(without, jaccard), marked, total)
        low, high = wilson(jaccard, number, quantile(sample.effective()))
    return 2 * low / (1 + low), 2 * high / (1 + high)


def _log_loss(sample: Sample) -> Limits:
    import numpy as np

    wrong = np.count_nonzero(sample.per_block(sample.probabilities.argmax(axis=1) != sample.labels))
    if wrong < MIN_BLOCKS_WITH_ERROR:
        errors = f"{wrong} of {sample.blocks} {sample.units}{' with examples' if sample.units == 'blocks' else ''} misclassified"
        raise NoInterval(f"{errors}: fewer than {MIN_BLOCKS_WITH_ERROR} do not show how large rare losses are")
    rounding = np.finfo(np.float64).eps
    losses = -np.log(np.clip(sample.probabilities[np.arange(len(sample.labels)), sample.labels], rounding, 1 - rounding))
    return mean_limits(sample, losses, "loss")


def _auroc(sample: Sample) -> Limits:
    return _ranked(sample, auroc_without)


def _auprc(sample: Sample) -> Limits:
    return _ranked(sample, auprc_without)


RULES: dict[str, Callable[[Sample], Limits]] = {
    "accuracy": accuracy,
    "f1": _f1,
    "log_loss": _log_loss,
    "auroc": _auroc,
    "auprc": _auprc,
}


def _ranked(sample: Sample, measure: Measure) -> Limits:
    """Interval of a ranking metric, or of its mean over classes against the rest."""
    import numpy as np

    weakest = _weakest_class(sample)
    found = [measure(sample, sample.probabilities[:, k], sample.labels == k) for k in sample.scored]
    theta = float(np.mean([whole for whole, _ in found]))
    return mean_ranked(found, weakest, theta * (1 - theta) / np.bincount(sample.labels).min() ** 2)


def mean_ranked(found: Sequence[tuple[float, np.ndarray]], effective: float, unseen: float) -> Limits:
    """Interval of the mean of ranking metrics from each one's value and those without each block (blocks,).

    ``effective`` is the number of blocks, ``unseen`` the variance that the sample is too small to show.
    """
    import numpy as np

    theta, without = float(np.mean([whole for whole, _ in found])), np.mean([parts for _, parts in found], axis=0)
    return wilson(theta, proportion_of(theta, variance(without, theta) + unseen, effective), quantile(effective))


def _weakest_class(sample: Sample) -> float:
    """Effective number of blocks that hold the class that has fewest; every class must have enough."""
    return min(sample.enough(sample.labels == k, f"examples of class {k}") for k in range(sample.classes))


def mean_f1(sample: Grouped, counts: Sequence[Sequence[np.ndarray]], weakest: float, most: int) -> Limits:
    """Interval of a mean of f1 from each one's numbers per block (blocks,) of true positives, and of these and all mistakes.

    ``weakest`` is the effective number of blocks of the class that has fewest, ``most`` that of all predictions.
    """
    import numpy as np

    theta = float(np.mean([dice(both.sum(), either.sum()) for both, either in counts]))
    without = np.mean([dice(both.sum() - both, either.sum() - either) for both, either in counts], axis=0)
    number = proportion_of(theta, variance(without, theta), weakest, most)
    return wilson(theta, number, quantile(sample.effective()))


def mean_limits(sample: Grouped, losses: np.ndarray, what: str) -> Limits:
    """Interval of a mean of losses (N,), none below 0."""
    import numpy as np

    theta, totals = float(losses.mean()), sample.per_block(losses)
    without = (totals.sum() - totals) / (len(losses) - sample.sizes)
    error = variance(without, theta) ** 0.5
    if error <= 1e-9 * theta:
        raise NoInterval(f"all {sample.units} have the same {what}")
    number = sample.effective()
    width = quantile(number)
    values = without.mean() - without
    root, skewness = number**0.5, float((values**3).mean() / (values**2).mean() ** 1.5)
    low, high = theta * np.exp(-width * error / theta), theta * np.exp(width * error / theta)
    if abs(skewness) > 1e-6:
        cubic = [
            root * (np.cbrt(1 + skewness / root * (end - skewness / 6 / root)) - 1) * 3 / skewness for end in (width, -width)
        ]
        low, high = min(low, theta - error * cubic[0]), max(high, theta - error * cubic[1])
    return max(low, 0.0), high


# --- metrics without each block ------------------------------------------------------------------------------------------


def auroc_without(sample: Grouped, scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """The area under the ROC curve, and (blocks,) without each block: won pairs less those that the block takes part in.

    Pairs are counted by midranks (Sun & Xu 2014), in O(N log N).
    """
    import numpy as np
    from scipy.stats import rankdata

    won = np.empty(len(scores))  # pairs that a positive wins against a negative, per example; ties count half
    ranks = rankdata(scores)
    won[positive] = ranks[positive] - rankdata(scores[positive])
    won[~positive] = positive.sum() - (ranks[~positive] - rankdata(scores[~positive]))
    positives, sizes = sample.per_block(positive), sample.sizes
    # The same within each block: ranks start anew where the block's number changes.
    inner = rankdata(sample.member * (len(scores) + 1.0) + rankdata(scores, "dense")) - (sizes.cumsum() - sizes)[sample.member]
    within = sample.per_block(inner * positive) - positives * (positives + 1) / 2
    total = won[positive].sum()
    pairs = (positive.sum() - positives) * ((~positive).sum() - (sizes - positives))
    without = (total - sample.per_block(won) + within) / pairs
    return float(total / (positive.sum() * (~positive).sum())), without


def auprc_without(sample: Grouped, scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """Average precision, and (blocks,) without each block.

    Blocks of one, in O(N log N): an example left out changes precision at its own score and below. Larger blocks: computed
    anew; above MAX_CELLS, the sum of what leaving out their examples one by one changes.
    """
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    ranked, hit, member = scores[order], positive[order], sample.member[order]
    first = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # where each group of equal scores begins
    last = np.r_[first[1:], len(ranked)] - 1
    true, called = hit.cumsum()[last], last + 1
    hits = np.diff(true, prepend=0)
    total, whole = true[-1], (hits * true / called).sum()
    if not sample.independent and sample.blocks * len(ranked) <= MAX_CELLS:
        without = np.array([_average_precision(kept, hit, last) for kept in (member != block for block in range(sample.blocks))])
        return float(whole / total), without
    others = np.maximum(called - 1, 1)  # 0 only where the example left out is alone, and then has no weight
    above = np.r_[0, (hits * true / called).cumsum()[:-1]]
    below, share = ((values / others)[::-1].cumsum()[::-1] for values in (hits * true, hits))
    change = above + below - whole  # (groups,) of the sum over positives, when a negative of the group is left out
    group = np.repeat(np.arange(len(first)), np.diff(first, append=len(ranked)))
    changes = np.where(hit, (change - share - (true - 1) / others)[group], change[group])
    sums = np.bincount(member, changes, sample.blocks)
    return float(whole / total), (whole + sums) / (total - np.bincount(member, hit, sample.blocks))


def _average_precision(kept: np.ndarray, hit: np.ndarray, last: np.ndarray) -> float:
    """Average precision of the examples kept, all in descending order of score; ``last`` ends each group of equal scores."""
    import numpy as np

    true, called = (kept & hit).cumsum()[last], kept.cumsum()[last]
    return float((np.diff(true, prepend=0) * true / np.maximum(called, 1)).sum() / true[-1])


# --- statistics ----------------------------------------------------------------------------------------------------------


def variance(without: np.ndarray, theta: float) -> float:
    """Jackknife variance of a metric theta from its values without each block (blocks,)."""
    return float(((without - theta) ** 2).sum() * (len(without) - 1) / len(without))


def proportion_of(theta: float, variance: float, at_border: float, most: float = math.inf) -> float:
    """Number of examples of which a proportion theta would have this variance; at 0 and 1, where it has none, at_border."""
    spread = theta * (1 - theta)
    if spread <= 1e-12:
        return at_border
    return spread / max(variance, spread / most)


def wilson(theta: float, number: float, quantile: float) -> Limits:
    """Wilson's score interval of a proportion."""
    square = quantile**2 / number
    centre, half = theta + square / 2, (square * theta * (1 - theta) + square**2 / 4) ** 0.5
    return max(0.0, min((centre - half) / (1 + square), theta)), min(1.0, max((centre + half) / (1 + square), theta))


def quantile(blocks: float | None = None) -> float:
    """Two-sided quantile: Student's for an effective number of blocks, or the normal one."""
    from scipy.stats import norm, t

    tail = (1 + CONFIDENCE) / 2
    return float(norm.ppf(tail) if blocks is None else t.ppf(tail, blocks - 1))


def dice(both: np.ndarray, either: np.ndarray) -> np.ndarray:
    import numpy as np

    return 2 * both / np.maximum(both + either, 1)
