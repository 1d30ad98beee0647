"""Confidence intervals of a classifier's scores, from its predictions on one test set. Nothing here is random.

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

``benchmarks/intervals.py`` measures the coverage: 92 to 98 % in most designs from 10 blocks or 20 examples on; 96 to 100 %, so
wider than need be, with 5 blocks, and for auroc and auprc with few examples of a class. With fewer still there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 0.95
MIN_BLOCKS = 5  # fewer say nothing about the spread between blocks
MIN_EFFECTIVE_BLOCKS = 3  # of unequal sizes, and holding a class that the metric needs
MIN_BLOCKS_WITH_ERROR = 2  # the log-loss of an accurate classifier lies in errors; without any, a sample cannot show it
MAX_CELLS = 20_000_000  # blocks × examples up to which auprc is computed anew without each block

Limits = tuple[float, float]


class _Sample(NamedTuple):
    """Checked predictions: probabilities (N, K), labels (N,) and member (N,), the number of each example's block."""

    probabilities: np.ndarray
    labels: np.ndarray
    member: np.ndarray
    blocks: int

    @property
    def classes(self) -> int:
        return self.probabilities.shape[1]

    @property
    def independent(self) -> bool:
        return self.blocks == len(self.labels)

    @property
    def scored(self) -> range:
        """The classes that a macro average runs over: of two, the second alone."""
        return range(1 if self.classes == 2 else 0, self.classes)

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


class _NoInterval(Exception):
    """Why a metric has no interval."""


def limits(probabilities: np.ndarray, labels: np.ndarray, blocks: Sequence[str]) -> tuple[dict[str, Limits], dict[str, str]]:
    """95 % intervals, metric → (low, high), and metric → reason for those of :data:`RULES` that have none.

    Probabilities (N, K) and labels (N,) have been checked; ``blocks`` names each example's block, and is empty where examples
    are independent.

    Raises:
        ValueError: the number of blocks is not that of the examples.
    """
    import numpy as np

    if len(blocks) not in (0, len(labels)):
        raise ValueError(f"{len(blocks)} blocks: expected one for each of {len(labels)} examples, or none at all")
    member = np.unique(np.asarray(blocks), return_inverse=True)[1] if len(blocks) else np.arange(len(labels))
    sample = _Sample(probabilities / probabilities.sum(axis=1, keepdims=True), labels, member, int(member.max()) + 1)
    found, reasons = {}, {}
    for metric, rule in RULES.items():
        try:
            if sample.blocks < MIN_BLOCKS:
                raise _NoInterval(f"{sample.blocks} {_units(sample)}: fewer than {MIN_BLOCKS} do not show how much they differ")
            if sample.effective() < MIN_EFFECTIVE_BLOCKS:
                raise _NoInterval(f"most examples are in one or two of the {sample.blocks} blocks")
            low, high = rule(sample)
            found[metric] = float(low), float(high)
        except _NoInterval as reason:
            reasons[metric] = str(reason)
    return found, reasons


# --- one rule per metric -------------------------------------------------------------------------------------------------


def _accuracy(sample: _Sample) -> Limits:
    correct = sample.probabilities.argmax(axis=1) == sample.labels
    theta, total = float(correct.mean()), len(correct)
    if sample.independent:
        return _wilson(theta, total, _quantile())
    right = sample.per_block(correct)
    without = (right.sum() - right) / (total - sample.sizes)
    number = _proportion_of(theta, _variance(without, theta), sample.effective(), total)
    return _wilson(theta, number, _quantile(sample.effective()))


def _f1(sample: _Sample) -> Limits:
    import numpy as np

    predicted = sample.probabilities.argmax(axis=1)
    counts = [
        [sample.per_block(mark) for mark in (t & p, t | p)]
        for k in sample.scored
        for t, p in [(sample.labels == k, predicted == k)]
    ]
    if sample.classes > 2:
        weakest = _weakest_class(sample)
        theta = float(np.mean([_dice(both.sum(), either.sum()) for both, either in counts]))
        without = np.mean([_dice(both.sum() - both, either.sum() - either) for both, either in counts], axis=0)
        number = _proportion_of(theta, _variance(without, theta), weakest, len(predicted))
        return _wilson(theta, number, _quantile(sample.effective()))
    both, either = counts[0]
    total = either.sum()
    if not total:
        raise _NoInterval("the positive class neither occurs nor is predicted")
    jaccard = float(both.sum() / total)
    if sample.independent:
        low, high = _wilson(jaccard, total, _quantile())
    else:
        marked = sample.effective((sample.labels == 1) | (predicted == 1))
        if marked < MIN_EFFECTIVE_BLOCKS:
            raise _NoInterval("nearly all positive examples and predictions are in one or two blocks")
        without = (both.sum() - both) / (total - either)
        number = _proportion_of(jaccard, _variance(without, jaccard), marked, total)
        low, high = _wilson(jaccard, number, _quantile(sample.effective()))
    return 2 * low / (1 + low), 2 * high / (1 + high)


def _log_loss(sample: _Sample) -> Limits:
    import numpy as np

    wrong = np.count_nonzero(sample.per_block(sample.probabilities.argmax(axis=1) != sample.labels))
    if wrong < MIN_BLOCKS_WITH_ERROR:
        errors = f"{wrong} of {sample.blocks} {_units(sample)}{'' if sample.independent else ' with examples'} misclassified"
        raise _NoInterval(f"{errors}: fewer than {MIN_BLOCKS_WITH_ERROR} do not show how large rare losses are")
    rounding = np.finfo(np.float64).eps
    losses = -np.log(np.clip(sample.probabilities[np.arange(len(sample.labels)), sample.labels], rounding, 1 - rounding))
    theta, totals = float(losses.mean()), sample.per_block(losses)
    without = (totals.sum() - totals) / (len(losses) - sample.sizes)
    error = _variance(without, theta) ** 0.5
    if error <= 1e-9 * theta:
        raise _NoInterval(f"all {_units(sample)} have the same loss")
    number = sample.effective()
    quantile = _quantile(number)
    values = without.mean() - without
    root, skewness = number**0.5, float((values**3).mean() / (values**2).mean() ** 1.5)
    low, high = theta * np.exp(-quantile * error / theta), theta * np.exp(quantile * error / theta)
    if abs(skewness) > 1e-6:
        cubic = [
            root * (np.cbrt(1 + skewness / root * (end - skewness / 6 / root)) - 1) * 3 / skewness
            for end in (quantile, -quantile)
        ]
        low, high = min(low, theta - error * cubic[0]), max(high, theta - error * cubic[1])
    return max(low, 0.0), high


def _auroc(sample: _Sample) -> Limits:
    return _ranked(sample, _auroc_without)


def _auprc(sample: _Sample) -> Limits:
    return _ranked(sample, _auprc_without)


RULES: dict[str, Callable[[_Sample], Limits]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "log_loss": _log_loss,
    "auroc": _auroc,
    "auprc": _auprc,
}


def _ranked(sample: _Sample, measure: Callable[[_Sample, np.ndarray, np.ndarray], tuple[float, np.ndarray]]) -> Limits:
    """Interval of a ranking metric, or of its mean over classes against the rest."""
    import numpy as np

    weakest = _weakest_class(sample)
    found = [measure(sample, sample.probabilities[:, k], sample.labels == k) for k in sample.scored]
    theta, without = float(np.mean([whole for whole, _ in found])), np.mean([parts for _, parts in found], axis=0)
    unseen = theta * (1 - theta) / np.bincount(sample.labels).min() ** 2
    return _wilson(theta, _proportion_of(theta, _variance(without, theta) + unseen, weakest), _quantile(weakest))


def _weakest_class(sample: _Sample) -> float:
    """Effective number of blocks that hold the class that has fewest; every class must have enough."""
    numbers = [sample.effective(sample.labels == k) for k in range(sample.classes)]
    for k, number in enumerate(numbers):
        if number < MIN_EFFECTIVE_BLOCKS:
            where = "" if sample.independent else ", or nearly all of them in one or two blocks"
            raise _NoInterval(f"{(sample.labels == k).sum()} examples of class {k}{where}: too few to show how much they differ")
    return min(numbers)


# --- metrics without each block ------------------------------------------------------------------------------------------


def _auroc_without(sample: _Sample, scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
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


def _auprc_without(sample: _Sample, scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
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


def _variance(without: np.ndarray, theta: float) -> float:
    """Jackknife variance of a metric theta from its values without each block (blocks,)."""
    return float(((without - theta) ** 2).sum() * (len(without) - 1) / len(without))


def _proportion_of(theta: float, variance: float, at_border: float, most: float = math.inf) -> float:
    """Number of examples of which a proportion theta would have this variance; at 0 and 1, where it has none, at_border."""
    spread = theta * (1 - theta)
    if spread <= 1e-12:
        return at_border
    return spread / max(variance, spread / most)


def _wilson(theta: float, number: float, quantile: float) -> Limits:
    """Wilson's score interval of a proportion."""
    square = quantile**2 / number
    centre, half = theta + square / 2, (square * theta * (1 - theta) + square**2 / 4) ** 0.5
    return max(0.0, min((centre - half) / (1 + square), theta)), min(1.0, max((centre + half) / (1 + square), theta))


def _quantile(blocks: float | None = None) -> float:
    """Two-sided quantile: Student's for an effective number of blocks, or the normal one."""
    from scipy.stats import norm, t

    tail = (1 + CONFIDENCE) / 2
    return float(norm.ppf(tail) if blocks is None else t.ppf(tail, blocks - 1))


def _dice(both: np.ndarray, either: np.ndarray) -> np.ndarray:
    import numpy as np

    return 2 * both / np.maximum(both + either, 1)


def _units(sample: _Sample) -> str:
    return "examples" if sample.independent else "blocks"
