"""Scores of predicted numbers, computed from them and the labels alone.

spearman and pearson are SciPy's, r2 is scikit-learn's coefficient of determination (1 - MSE / variance of the labels, so
negative where the labels' mean predicts better); rmse and mae are in the labels' unit.

Undefined cases, NaN (``null`` in a record): spearman and pearson if all predictions or all labels are equal; r2 if all labels
are. Predictions that differ by less than a millionth of the labels' range are equal but for rounding.

Intervals (see :mod:`.intervals` for what is covered) go by the spread of a metric when each block is left out in turn, which is
taken to be no less than that of independent examples. spearman and pearson are taken on Fisher's z scale and 1 - r2 on the log
scale, with Student's quantiles for the effective number of blocks; rmse, by the squared errors, and mae as log_loss. Without a
block all ranks change, so that the spread of spearman is that of its influence function (infinitesimal jackknife).

``benchmarks/intervals.py --kind regression`` measures the coverage: 92 to 98 % from 10 blocks or 1,000 examples on; of 100
examples 90 to 97 %, the least for pearson and r2 where errors are skewed or have heavy tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import RunFailed

from . import intervals
from .intervals import Grouped, Limits, NoInterval, members

if TYPE_CHECKING:
    import numpy as np

ROUNDING = 1e-6  # of the labels' range


def scores(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of a regression from checked predictions (N,) and labels (N,)."""
    import numpy as np
    from scipy.stats import rankdata

    error, varied = predicted - labels, np.ptp(labels) > 0
    ordered = varied and not collapsed(predicted, labels)
    return {
        "spearman": np.corrcoef(rankdata(predicted), rankdata(labels))[0, 1] if ordered else np.nan,
        "pearson": np.corrcoef(predicted, labels)[0, 1] if ordered else np.nan,
        "r2": 1 - (error**2).mean() / labels.var() if varied else np.nan,
        "rmse": (error**2).mean() ** 0.5,
        "mae": abs(error).mean(),
    }


def collapsed(predicted: np.ndarray, labels: np.ndarray) -> bool:
    """Whether all predictions (N,) are equal but for rounding."""
    import numpy as np

    return bool(np.ptp(predicted) <= ROUNDING * np.ptp(labels))


def checked(outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (N,) of outputs (N, 1), and labels (N,), both as float64.

    Raises:
        RunFailed: a prediction is not a number.
        ValueError: shapes do not fit, or a label is not a number.
    """
    import numpy as np

    outputs, labels = np.asarray(outputs, np.float64), np.asarray(labels, np.float64)
    if outputs.ndim != 2 or len(outputs) == 0 or outputs.shape[1] != 1:
        raise ValueError(f"predictions {outputs.shape}: expected (examples, 1), one or more")
    if not np.isfinite(outputs).all():
        bad = int((~np.isfinite(outputs)).sum())
        raise RunFailed(f"predictions of {bad} of {len(outputs)} examples are not numbers: lower the learning rate")
    check_labels(labels, outputs.shape)
    return outputs[:, 0], labels


def check_labels(labels: np.ndarray, shape: tuple[int, int]) -> None:
    """Check the labels of predictions of a shape (N, 1).

    Raises:
        ValueError: they are not finite numbers (N,).
    """
    import numpy as np

    if labels.shape != shape[:1] or labels.dtype.kind not in "iuf":
        raise ValueError(f"labels {labels.dtype} {labels.shape}: expected numbers ({shape[0]},)")
    if not np.isfinite(labels).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(labels))} of {len(labels)} labels: expected finite numbers")


@dataclass(frozen=True, eq=False)
class Numbers(Grouped):
    """Checked predictions (N,) of a regression, and labels (N,)."""

    predicted: np.ndarray
    labels: np.ndarray


def limits(predicted: np.ndarray, labels: np.ndarray, blocks: Sequence[str]) -> tuple[dict[str, Limits], dict[str, str]]:
    """Intervals, and the reasons of metrics without one (see :func:`.intervals.limits`)."""
    return intervals.limits(RULES, Numbers(*members(len(labels), blocks), predicted, labels))


def _spearman(sample: Numbers) -> Limits:
    _refuse_equal(sample)
    value, influence = spearman_influence(sample.predicted, sample.labels)
    _refuse_exact(1 - value**2)
    number = len(influence)
    sums = sample.per_block(influence), influence
    variance = max((each**2).sum() * len(each) / (len(each) - 1) for each in sums) / number**2
    return _on_fishers_scale(sample, math.atanh(value), variance**0.5 / (1 - value**2))


def _pearson(sample: Numbers) -> Limits:
    _refuse_equal(sample)
    x, y = ((values - values.mean()) / values.std() for values in (sample.predicted, sample.labels))
    return _on_fishers_scale(sample, *_jackknife(sample, x, y, _fishers_z))


def _r2(sample: Numbers) -> Limits:
    _refuse_equal(sample, predictions=False)
    unit = sample.labels.std()
    errors, y = (sample.predicted - sample.labels) / unit, (sample.labels - sample.labels.mean()) / unit
    value, error = _jackknife(sample, errors, y, _log_rest)
    half = intervals.quantile(sample.effective()) * error
    return 1 - math.exp(value + half), 1 - math.exp(value - half)


def _rmse(sample: Numbers) -> Limits:
    low, high = intervals.mean_limits(sample, (sample.predicted - sample.labels) ** 2, "error")
    return low**0.5, high**0.5


def _mae(sample: Numbers) -> Limits:
    return intervals.mean_limits(sample, abs(sample.predicted - sample.labels), "error")


def _on_fishers_scale(sample: Numbers, value: float, error: float) -> Limits:
    half = intervals.quantile(sample.effective()) * error
    return math.tanh(value - half), math.tanh(value + half)


Sums = Sequence[Any]  # of 1, x, y, x², y² and xy


def _fishers_z(sums: Sums) -> np.ndarray:
    """Fisher's z of Pearson's correlation of x and y."""
    import numpy as np

    n, x, y, xx, yy, xy = sums
    covariance, spreads = xy / n - x * y / n**2, (xx / n - (x / n) ** 2) * (yy / n - (y / n) ** 2)
    _refuse_exact(1 - covariance**2 / spreads)
    return np.arctanh(covariance / spreads**0.5)


def _log_rest(sums: Sums) -> np.ndarray:
    """Logarithm of 1 - R², where x are the errors of predictions of y."""
    import numpy as np

    n, _, y, xx, yy, _ = sums
    rest = xx / n / (yy / n - (y / n) ** 2)
    _refuse_exact(rest)
    return np.log(rest)


def _jackknife(sample: Numbers, x: np.ndarray, y: np.ndarray, measure: Callable[[Sums], np.ndarray]) -> tuple[float, float]:
    """A measure of x and y (N,), and its standard error by leaving out each block, or each example if that is larger."""
    import numpy as np

    rows = np.stack([np.ones_like(x), x, y, x**2, y**2, x * y])
    whole, parts = rows.sum(axis=1), (np.stack([sample.per_block(row) for row in rows]), rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(measure(whole))
        variance = max(intervals.variance(measure(whole[:, None] - part), value) for part in parts)
    if not math.isfinite(variance):
        raise NoInterval("nearly all differences are between one example, or one block, and the others")
    return value, variance**0.5


def spearman_influence(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Spearman's correlation of x and y (N,), and each example's influence on it (N,).

    It is Pearson's correlation of midranks, which an example moves by its own ranks and by shifting those of all above it
    (Croux & Dehon 2010, here with ties).
    """
    from scipy.stats import rankdata

    u, v = ((rankdata(values) - 0.5) / len(values) - 0.5 for values in (x, y))
    cross, of_u, of_v = (u * v).mean(), (u**2).mean(), (v**2).mean()
    moved = u * v - 3 * cross + _above(x, v) + _above(y, u)
    moved_u, moved_v = (w**2 - 3 * of + 2 * _above(values, w) for values, w, of in ((x, u, of_u), (y, v, of_v)))
    value = float(cross / (of_u * of_v) ** 0.5)
    return value, moved / (of_u * of_v) ** 0.5 - value / 2 * (moved_u / of_u + moved_v / of_v)


def _above(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """For each value (N,), the sum of the weights (N,) of all larger ones, and half of those of equal ones, over N."""
    import numpy as np

    _, group = np.unique(values, return_inverse=True)
    sums = np.bincount(group, weights)
    return ((sums[::-1].cumsum()[::-1] - sums / 2) / len(values))[group]


RULES: dict[str, Callable[[Numbers], Limits]] = {
    "spearman": _spearman,
    "pearson": _pearson,
    "r2": _r2,
    "rmse": _rmse,
    "mae": _mae,
}


def _refuse_equal(sample: Numbers, predictions: bool = True) -> None:
    import numpy as np

    if np.ptp(sample.labels) == 0:
        raise NoInterval("all labels are equal")
    if predictions and collapsed(sample.predicted, sample.labels):
        raise NoInterval("all predictions are equal")


def _refuse_exact(rest: Any) -> None:
    """Refuse where some of what is unexplained (a share) is nothing but rounding."""
    import numpy as np

    if np.min(rest) < 1e-9:
        raise NoInterval("predictions agree with the labels without exception, which says nothing about exceptions")
