"""Scores of predicted numbers, computed from them and the labels alone.

spearman and pearson are SciPy's, r2 is scikit-learn's coefficient of determination (1 - MSE / variance of the labels, so
negative where the labels' mean predicts better); rmse and mae are in the labels' unit.

Undefined cases, NaN (``null`` in a record): spearman and pearson if all predictions or all labels are equal; r2 if all labels
are. Predictions that differ by less than a millionth of the labels' range are equal but for rounding.

Intervals (see :mod:`.intervals` for what is covered) go by how much each example moves a metric, its influence function: the
spread between the blocks' sums gives the variance (the infinitesimal jackknife), which is taken to be no less than that of
independent examples. Quantiles are Student's with the effective number of blocks. spearman and pearson are taken on Fisher's z
scale, 1 - r2 on the log scale; rmse, by the squared errors, and mae as log_loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def _correlation(influence: Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]) -> Callable[[Numbers], Limits]:
    def rule(sample: Numbers) -> Limits:
        import numpy as np

        _refuse_equal_labels(sample)
        if collapsed(sample.predicted, sample.labels):
            raise NoInterval("all predictions are equal")
        value, moves = influence(sample.predicted, sample.labels)
        rest = 1 - value**2
        if rest < 1e-9:
            raise NoInterval("predictions and labels agree without exception, which says nothing about exceptions")
        half = intervals.quantile(sample.effective()) * _standard_error(sample, moves) / rest
        return np.tanh(np.arctanh(value) - half), np.tanh(np.arctanh(value) + half)

    return rule


def _r2(sample: Numbers) -> Limits:
    import numpy as np

    _refuse_equal_labels(sample)
    squares, spread = (sample.predicted - sample.labels) ** 2, (sample.labels - sample.labels.mean()) ** 2
    rest = squares.mean() / spread.mean()
    if rest < 1e-9:
        raise NoInterval("every prediction is right, which says nothing about errors")
    error = _standard_error(sample, (squares - rest * spread) / spread.mean())
    factor = np.exp(intervals.quantile(sample.effective()) * error / rest)
    return 1 - rest * factor, 1 - rest / factor


def _rmse(sample: Numbers) -> Limits:
    low, high = intervals.mean_limits(sample, (sample.predicted - sample.labels) ** 2, "error")
    return low**0.5, high**0.5


def _mae(sample: Numbers) -> Limits:
    return intervals.mean_limits(sample, abs(sample.predicted - sample.labels), "error")


def _pearson_influence(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Pearson's correlation of x and y (N,), and each example's influence on it (N,) (Devlin, Gnanadesikan & Kettenring 1975)."""
    x, y = ((values - values.mean()) / values.std() for values in (x, y))
    value = float((x * y).mean())
    return value, x * y - value * (x**2 + y**2) / 2


def _spearman_influence(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
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
    "spearman": _correlation(_spearman_influence),
    "pearson": _correlation(_pearson_influence),
    "r2": _r2,
    "rmse": _rmse,
    "mae": _mae,
}


def _standard_error(sample: Numbers, influence: np.ndarray) -> float:
    """Standard error of a metric from each example's influence on it (N,), whose mean is 0."""
    number = len(influence)
    squares = (
        (sample.per_block(influence) ** 2).sum() * sample.blocks / (sample.blocks - 1),
        (influence**2).sum() * number / (number - 1),
    )
    return max(squares) ** 0.5 / number


def _refuse_equal_labels(sample: Numbers) -> None:
    import numpy as np

    if np.ptp(sample.labels) == 0:
        raise NoInterval("all labels are equal")
