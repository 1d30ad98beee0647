"""Curves of stored predictions as points: ROC, precision against recall, reliability, predicted against observed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness.task import MULTILABEL

from ..records import Predictions

if TYPE_CHECKING:
    import numpy as np

GRID = 200  # points on which curves of several classes are averaged, and the most that any curve keeps
TOLERANCE = 0.0015  # distance that a thinned curve may have from the whole one; a third of a px in a figure
BINS = 10  # of a reliability diagram, equally wide
LEAST = 10  # examples in a bin that is drawn
POINTS = 300  # of a scatter plot


def roc(predictions: Predictions) -> np.ndarray:
    """The ROC curve (P, 2): false and true positive rates, from (0, 0) to (1, 1); empty where undefined.

    Of two classes it is that of class 1. Of more classes, or several labels, it is the mean of each one's curve, whose area is
    the metric auroc.
    """
    return _mean(predictions, _roc)


def precision_recall(predictions: Predictions) -> np.ndarray:
    """Recall and precision (P, 2), from recall 0 to 1; empty where undefined. Several classes or labels as in :func:`roc`."""
    return _mean(predictions, _precision)


def reliability(runs: Sequence[Predictions]) -> np.ndarray:
    """Mean predicted probability, observed share, and number of examples (B, 3), by bin of the probability; runs are pooled.

    Of two classes the probability is that of class 1; of several labels, those of all labels. Of more classes it is that of the
    predicted class, and the share is that of right predictions. Bins with fewer than LEAST examples are left out.
    """
    import numpy as np

    both = [_calibrated(run) for run in runs]
    probability, happened = (np.concatenate(parts) for parts in zip(*both, strict=True))
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    kept = counts >= LEAST
    sums = [np.bincount(bins, values, minlength=BINS)[kept] / counts[kept] for values in (probability, happened)]
    return np.column_stack([*sums, counts[kept]])


def observed(predictions: Predictions) -> np.ndarray:
    """Observed and predicted numbers (P, 2) of at most POINTS examples, evenly spaced in the test split."""
    import numpy as np

    chosen = np.linspace(0, len(predictions.ids) - 1, min(len(predictions.ids), POINTS)).round().astype(int)
    return np.column_stack([predictions.labels[chosen], predictions.outputs[chosen, 0]])


def thinned(points: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Those of a curve's points (P, 2) that keep every other one within ``tolerance`` of a straight line; at most GRID.

    Douglas and Peucker 1973, with the distance to the line through two kept points.
    """
    import numpy as np

    kept, waiting = {0, len(points) - 1}, [(0, len(points) - 1)]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        start, end = points[first], points[last]
        along, inner = end - start, points[first + 1 : last] - start
        length = float(np.hypot(*along))
        away = abs(along[0] * inner[:, 1] - along[1] * inner[:, 0]) / length if length else np.hypot(*inner.T)
        if away.max() > tolerance:
            middle = first + 1 + int(away.argmax())
            kept.add(middle)
            waiting += [(first, middle), (middle, last)]
    chosen = np.array(sorted(kept))
    if len(chosen) > GRID:
        chosen = chosen[np.linspace(0, len(chosen) - 1, GRID).round().astype(int)]
    return points[chosen]


def _mean(predictions: Predictions, curve: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """The thinned curve of two classes, or the mean of those of several classes or labels that vary."""
    import numpy as np

    labels, outputs = predictions.labels, predictions.outputs
    if predictions.kind != MULTILABEL:
        labels = (labels[:, None] == np.arange(len(predictions.classes))).astype(np.int64)
        if len(predictions.classes) == 2:
            labels, outputs = labels[:, 1:], outputs[:, 1:]
        elif (np.ptp(labels, axis=0) == 0).any():
            return np.empty((0, 2))
    varied = np.flatnonzero(np.ptp(labels, axis=0) > 0)
    curves = [curve(labels[:, k], outputs[:, k]) for k in varied]
    if not curves:
        return np.empty((0, 2))
    if len(curves) == 1:
        return thinned(curves[0])
    grid = np.linspace(0, 1, GRID)
    mean = np.mean([np.interp(grid, *found.T) for found in curves], axis=0)
    points = np.column_stack([grid, mean])
    return thinned(np.concatenate([[[0.0, 0.0]], points]) if curve is _roc else points)


def _counts(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives at each distinct threshold, from the highest."""
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(labels[order])[ends]
    return true, ends + 1 - true


def _roc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    import numpy as np

    true, false = _counts(labels, scores)
    return np.concatenate([[[0.0, 0.0]], np.column_stack([false / false[-1], true / true[-1]])])


def _precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Steps, whose area is the average precision: at a recall, the precision of the threshold that reaches it."""
    import numpy as np

    true, false = _counts(labels, scores)
    recall, precision = true / true[-1], true / (true + false)
    before = np.concatenate([[0.0], recall[:-1]])
    return np.column_stack([np.column_stack([before, recall]).ravel(), np.repeat(precision, 2)])


def _calibrated(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and whether what they are of happened, one after another."""
    labels, outputs = predictions.labels, predictions.outputs
    if predictions.kind == MULTILABEL:
        return outputs.ravel(), labels.ravel()
    if len(predictions.classes) == 2:
        return outputs[:, 1], labels
    return outputs.max(axis=1), outputs.argmax(axis=1) == labels
