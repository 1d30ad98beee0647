"""A metric on resampled test examples: its value, what each block contributes, and its values on drawn blocks.

Every metric of :mod:`.metrics` is one of three things:

* a function of sums over examples (accuracy, log_loss, f1, mcc, ece, rmse, pearson …): a draw of blocks is a sum of their sums;
* a ranking metric, or a mean of some (auroc, auprc, micro or macro): a draw weights the sorted scores;
* spearman: a draw weights the ranks.

So nothing is sorted twice, and no draw costs more than a pass over the examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION

from . import intervals, multilabel, regression
from .classification import ECE_BINS
from .intervals import Grouped

EPSILON = np.finfo(np.float64).eps
HARD_LOSS = -float(np.log(EPSILON))  # log-loss of a wrong prediction that is taken as certain
MAX_CELLS = 8_000_000  # examples × draws at once

Combined = Callable[[np.ndarray], np.ndarray]  # sums (Q, ...) → the metric (...)


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric's ``value`` on a test set of M blocks; NaN where it is undefined.

    ``influence`` (M,): how much each block moves the value; it sums to 0. For means of examples it is exact, for other metrics
    it is the jackknife's. NaN where the metric is undefined without some block.
    ``summed`` (Q, M) are sums over each block, from which ``draw`` makes the value: drawn sums (Q, R) → values (R,). Of a ranking
    it is None, and ``draw`` makes the values of weights of blocks (M, R).
    """

    value: float
    influence: np.ndarray
    draw: Combined
    summed: np.ndarray | None = None


def redrawn(found: Sequence[Measured], weights: np.ndarray) -> list[np.ndarray]:
    """Values (R,) of each metric with blocks weighted (M, R); NaN where a draw leaves a metric undefined."""
    sums = [each.summed for each in found if each.summed is not None]
    drawn = iter(
        np.split(np.concatenate(sums).astype(np.float32) @ weights, np.cumsum([len(rows) for rows in sums])[:-1]) if sums else ()
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return [each.draw(weights if each.summed is None else next(drawn).astype(np.float64)) for each in found]


def measured(metric: str, kind: str, outputs: np.ndarray, labels: np.ndarray, sample: Grouped) -> Measured:
    """A metric of checked outputs and labels (see :func:`.metrics.scores`) on examples in blocks."""
    if metric == "spearman":
        return _spearman(outputs[:, 0], labels, sample)
    if metric.removeprefix("micro_") in ("auroc", "auprc"):
        return _ranked(metric, kind, outputs, labels, sample)
    numerator, combine = _sums(metric, kind, outputs, labels)
    return _of_sums(numerator, combine, sample, mean=combine is _mean)


# --- functions of sums ---------------------------------------------------------------------------------------------------


def _of_sums(rows: np.ndarray, combine: Combined, sample: Grouped, mean: bool) -> Measured:
    """``rows`` (Q, N) are what is summed, the last of them ones."""
    sums = np.stack([sample.per_block(row) for row in rows])  # (Q, M)
    whole, blocks = sums.sum(axis=1), sample.blocks
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(combine(whole))
        if mean:
            influence = (sums[0] - value * sums[1]) / whole[1]
        else:
            influence = _centred(value - combine(whole[:, None] - sums)) * (blocks - 1) / blocks

    return Measured(value, influence, combine, sums)


def _centred(changes: np.ndarray) -> np.ndarray:
    return changes - changes.mean()


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[0] / sums[1]


def _sums(metric: str, kind: str, outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Combined]:
    """What is summed (Q, N), ones last, and how the metric follows from the sums."""
    ones = np.ones(len(labels))
    of = {CLASSIFICATION: _of_classes, REGRESSION: _of_numbers, MULTILABEL: _of_labels}[kind]
    rows, combine = of(metric, outputs, labels)
    return np.stack([*np.atleast_2d(np.asarray(rows, np.float64)), ones]), combine


def _of_classes(metric: str, outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Combined]:
    predicted, classes = outputs.argmax(axis=1), np.arange(outputs.shape[1])
    right = predicted == labels
    if metric == "accuracy":
        return right, _mean
    if metric == "hard_log_loss":
        return np.where(right, EPSILON, HARD_LOSS), _mean
    if metric == "log_loss":
        chosen = outputs[np.arange(len(labels)), labels] / outputs.sum(axis=1)
        return -np.log(np.clip(chosen, EPSILON, 1 - EPSILON)), _mean
    if metric == "brier":
        squared = ((outputs - (labels[:, None] == classes)) ** 2).sum(axis=1)
        return squared / (2 if len(classes) == 2 else 1), _mean
    if metric == "ece":
        confidence = outputs.max(axis=1)
        bins = np.digitize(confidence, np.linspace(0, 1, ECE_BINS + 1)[1:-1], right=True)
        return (bins == np.arange(ECE_BINS)[:, None]) * (right - confidence), lambda s: abs(s[:-1]).sum(axis=0) / s[-1]
    if metric == "mcc":
        called, true = (values == classes[:, None] for values in (predicted, labels))
        return np.concatenate([right[None], called, true]), _matthews
    scored = classes[1:] if len(classes) == 2 else classes
    called, true = (values == scored[:, None] for values in (predicted, labels))
    return np.concatenate([called & true, called, true]), _RATES[metric]


def _matthews(sums: np.ndarray) -> np.ndarray:
    right, total, classes = sums[0], sums[-1], (len(sums) - 2) // 2
    called, true = sums[1 : 1 + classes], sums[1 + classes : -1]
    spread = (total**2 - (called**2).sum(axis=0)) * (total**2 - (true**2).sum(axis=0))
    return np.where(spread > 0, (right * total - (called * true).sum(axis=0)) / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)


def _rate(counted: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Combined:
    """Mean over classes of a ratio of true positives, predictions and labels; 0 where there is nothing to divide by."""

    def combine(sums: np.ndarray) -> np.ndarray:
        above, below = counted(*np.split(sums[:-1], 3))
        return np.where(below > 0, above / np.where(below > 0, below, 1), 0.0).mean(axis=0)

    return combine


_RATES = {
    "precision": _rate(lambda both, called, true: (both, called)),
    "recall": _rate(lambda both, called, true: (both, true)),
    "f1": _rate(lambda both, called, true: (2 * both, called + true)),
}


def _of_labels(metric: str, outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Combined]:
    predicted, true = outputs > 0.5, labels == 1
    if metric == "exact_match":
        return (predicted == true).all(axis=1), _mean
    if metric == "log_loss":
        clipped = np.clip(outputs, EPSILON, 1 - EPSILON)
        return -np.log(np.where(true, clipped, 1 - clipped)).mean(axis=1), _mean
    rows = np.concatenate([(predicted & true).T, predicted.T, true.T])
    if metric == "micro_f1":
        rows = np.stack([part.sum(axis=0) for part in np.split(rows, 3)])
    return rows, _RATES["f1"]


def _of_numbers(metric: str, outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Combined]:
    predicted = outputs[:, 0]
    error = predicted - labels
    if metric == "mae":
        return abs(error), _mean
    if metric == "rmse":
        return error**2, lambda sums: np.sqrt(sums[0] / sums[1])
    unit = labels.std() or np.nan
    y = (labels - labels.mean()) / unit
    if metric == "r2":
        return np.stack([(error / unit) ** 2, y, y**2]), lambda s: 1 - s[0] / (s[2] - s[1] ** 2 / s[3])
    if regression.collapsed(predicted, labels):
        return np.full((5, len(labels)), np.nan), lambda sums: sums[0]
    x = (predicted - predicted.mean()) / predicted.std()
    return np.stack([x, y, x**2, y**2, x * y]), _correlation


def _correlation(sums: np.ndarray) -> np.ndarray:
    x, y, xx, yy, xy, n = sums
    return (xy - x * y / n) / np.sqrt((xx - x**2 / n) * (yy - y**2 / n))


# --- rankings ------------------------------------------------------------------------------------------------------------


def _ranked(metric: str, kind: str, outputs: np.ndarray, labels: np.ndarray, sample: Grouped) -> Measured:
    """A ranking metric, or the mean of several, one for each class or label that is scored."""
    name = metric.removeprefix("micro_")
    if name != metric:  # pairs of an example and a label; those of an example are in its block
        k = outputs.shape[1]
        sample, parts = Grouped(sample.member.repeat(k), sample.blocks), [(outputs.ravel(), labels.ravel() == 1)]
    elif kind == MULTILABEL:
        parts = [(outputs[:, k], labels[:, k] == 1) for k in np.flatnonzero(multilabel.varies(labels))]
    else:
        parts = [(outputs[:, k], labels == k) for k in range(1 if outputs.shape[1] == 2 else 0, outputs.shape[1])]
    if not parts or any(not 0 < positive.sum() < len(positive) for _, positive in parts):
        nothing = np.full(sample.blocks, np.nan)
        return Measured(np.nan, nothing, lambda weights: np.full(weights.shape[1], np.nan))
    without, draw = _RANKINGS[name]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [without(sample, scores, positive) for scores, positive in parts]
    value = float(np.mean([whole for whole, _ in found]))
    left = np.mean([rest for _, rest in found], axis=0)
    draws = [draw(sample, scores, positive) for scores, positive in parts]
    influence = _centred(value - left) * (sample.blocks - 1) / sample.blocks
    return Measured(
        value, influence, lambda weights: np.mean([_in_parts(one, weights, len(sample.member)) for one in draws], axis=0)
    )


def _in_parts(draw: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, rows: int) -> np.ndarray:
    """The draws of weights (M, R), as many at once as MAX_CELLS allows for so many rows."""
    step = max(MAX_CELLS // rows, 16)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [draw(np.ascontiguousarray(weights[:, at : at + step])) for at in range(0, weights.shape[1], step)]
    return np.concatenate(parts)


def _running(rows: np.ndarray) -> np.ndarray:
    """Sums of no, one, two … rows, (N + 1, R) from (N, R). Several times faster than cumsum along the first axis."""
    sums = np.zeros((len(rows) + 1, rows.shape[1]), rows.dtype)
    for place, row in enumerate(rows):
        np.add(sums[place], row, out=sums[place + 1])
    return sums


def _auroc_draws(sample: Grouped, scores: np.ndarray, positive: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Pairs won: for each positive, the weights of the negatives below it, and half of those of equal ones."""
    order = np.argsort(scores[~positive], kind="stable")
    losing, ranked = sample.member[~positive][order], scores[~positive][order]
    lower, upper = (np.searchsorted(ranked, scores[positive], side) for side in ("left", "right"))
    winning, tied = sample.member[positive], bool((lower < upper).any())

    def draw(weights: np.ndarray) -> np.ndarray:
        below = _running(weights[losing])  # whole numbers, which float32 holds exactly up to 2**24
        own = weights[winning]
        beaten = (below[lower] + below[upper]) / 2 if tied else below[lower]
        won = np.einsum("nr,nr->r", own, beaten, dtype=np.float64)
        return won / (own.sum(axis=0, dtype=np.float64) * below[-1])

    return draw


def _auprc_draws(sample: Grouped, scores: np.ndarray, positive: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Mean precision at each positive, counting all examples of its score and above."""
    order = np.argsort(-scores, kind="stable")
    ranked, hit, member = scores[order], positive[order], sample.member[order]
    last = np.r_[np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1]
    through = np.searchsorted(last, np.flatnonzero(hit))  # the group of equal scores of each positive
    hits_through = hit.cumsum()[last][through]

    def draw(weights: np.ndarray) -> np.ndarray:
        own = weights[member]
        called = _running(own)[last + 1][through]
        own = own[hit]
        true = _running(own)
        precision = true[hits_through] / np.maximum(called, 1)
        return np.einsum("nr,nr->r", own, precision, dtype=np.float64) / true[-1]

    return draw


_RANKINGS = {"auroc": (intervals.auroc_without, _auroc_draws), "auprc": (intervals.auprc_without, _auprc_draws)}


def _spearman(predicted: np.ndarray, labels: np.ndarray, sample: Grouped) -> Measured:
    if regression.collapsed(predicted, labels) or not np.ptp(labels):
        return Measured(np.nan, np.full(sample.blocks, np.nan), lambda weights: np.full(weights.shape[1], np.nan))
    value, influence = regression.spearman_influence(predicted, labels)
    ranks = [_weighted_ranks(values) for values in (predicted, labels)]

    def draw(weights: np.ndarray) -> np.ndarray:
        own = weights[sample.member].astype(np.float64)
        total = own.sum(axis=0)
        x, y = (rank(own) / total - 0.5 for rank in ranks)  # weighted midranks have the mean 1/2
        covariance, of_x, of_y = ((own * a * b).sum(axis=0) for a, b in ((x, y), (x, x), (y, y)))
        return covariance / np.sqrt(of_x * of_y)

    influence = _centred(sample.per_block(influence)) / len(labels)
    return Measured(value, influence, lambda weights: _in_parts(draw, weights, len(labels)))


def _weighted_ranks(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Weights (N, R) → for each value, the weights of all lower ones and half of those of equal ones."""
    order = np.argsort(values, kind="stable")
    lower, upper = (np.searchsorted(values[order], values, side) for side in ("left", "right"))

    def ranks(weights: np.ndarray) -> np.ndarray:
        below = _running(weights[order])
        return (below[lower] + below[upper]) / 2

    return ranks
