"""Scores of a classifier, computed from probabilities and labels alone. Definitions are scikit-learn's where it has them.

With two classes, class 1 is the positive one, and precision, recall, f1, auroc, auprc and brier refer to it. With more,
precision, recall, f1, auroc and auprc are unweighted means over all classes of the task, each against the rest.

Undefined cases: precision, recall and f1 of a class that is never predicted, or absent from the labels, are 0. mcc is 0 if
all predictions or all labels are of one class. auroc and auprc are NaN (``null`` in a record) if the labels lack a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import RunFailed

if TYPE_CHECKING:
    import numpy as np

ECE_BINS = 15
SUM_TOLERANCE = 1e-4  # allows for float32 rounding only
CONFIDENCE, REPLICATES = 0.95, 1000  # of a bootstrap interval
MIN_BLOCKS = 5  # fewer say nothing about the spread between blocks


@dataclass(frozen=True)
class Metric:
    """How a metric is shown, and whether higher values are better."""

    label: str
    higher_is_better: bool


METRICS = {
    "accuracy": Metric("accuracy", True),
    "precision": Metric("precision", True),
    "recall": Metric("recall", True),
    "f1": Metric("F1", True),
    "log_loss": Metric("log-loss", False),
    "hard_log_loss": Metric("log-loss of hard 0/1 predictions", False),
    "mcc": Metric("Matthews correlation", True),
    "auroc": Metric("area under the ROC curve", True),
    "auprc": Metric("average precision", True),
    "brier": Metric("Brier score", False),
    "ece": Metric("expected calibration error", False),
}


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every metric of :data:`METRICS`, from class probabilities (N, K) and labels (N,), the indices of the true classes.

    ``hard_log_loss`` is the log_loss of the predicted classes taken as certain, (1 - accuracy) × 36.04, which some papers
    print as "loss". ``brier`` is the mean of (p₁ - y)² for two classes, in [0, 1], and of Σₖ (pₖ - yₖ)² for more, in
    [0, 2]. ``ece`` is the mean of |accuracy - mean confidence| over 15 equal-width bins (a, b] of the predicted class's
    probability, weighted by the number of examples (Guo et al. 2017).

    Raises:
        RunFailed: a probability is not a number, so training broke down.
        ValueError: shapes do not fit, rows do not sum to 1, or labels are not class indices.
    """
    import numpy as np
    from sklearn import metrics

    probabilities, labels = _checked(probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    classes = np.arange(probabilities.shape[1])
    binary = len(classes) == 2
    one_hot = np.float64(labels[:, None] == classes)
    averaging = {"labels": [1] if binary else classes, "average": "macro", "zero_division": 0.0}
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(labels, predicted, **averaging)
    auroc = auprc = float("nan")
    if len(np.unique(labels)) == len(classes):
        truth, ranking = (labels, probabilities[:, 1]) if binary else (one_hot, probabilities)
        auroc = metrics.roc_auc_score(truth, ranking, average="macro")
        auprc = metrics.average_precision_score(truth, ranking, average="macro")
    normalised = probabilities / probabilities.sum(axis=1, keepdims=True)  # else log_loss warns about float32 rounding
    squared_error = ((probabilities - one_hot) ** 2).sum(axis=1).mean()  # scikit-learn before 1.7 takes two classes only
    found = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "log_loss": metrics.log_loss(labels, normalised, labels=classes),
        "hard_log_loss": metrics.log_loss(labels, np.float64(predicted[:, None] == classes), labels=classes),
        "mcc": metrics.matthews_corrcoef(labels, predicted),
        "auroc": auroc,
        "auprc": auprc,
        "brier": squared_error / 2 if binary else squared_error,
        "ece": _calibration_error(probabilities.max(axis=1), predicted == labels),
    }
    return {name: float(found[name]) for name in METRICS}


def intervals(
    probabilities: np.ndarray, labels: np.ndarray, blocks: Sequence[str], seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % intervals of auroc and auprc on a task of two classes, by the percentile block bootstrap.

    ``blocks`` (N,) names each example's block. Examples of one block depend on each other, so whole blocks are resampled
    (Cameron, Gelbach & Miller 2008): each of REPLICATES replicates draws, with replacement, as many blocks as there are.
    Replicates without examples of both classes are dropped.

    Returns metric → (low, high). It is empty with more than two classes, with only one class in the labels, and with fewer
    than MIN_BLOCKS blocks.

    Raises:
        RunFailed, ValueError: as :func:`scores`.
    """
    import numpy as np

    probabilities, labels = _checked(probabilities, labels)
    names, member = np.unique(np.asarray(blocks), return_inverse=True)
    if probabilities.shape[1] != 2 or len(np.unique(labels)) < 2 or len(names) < MIN_BLOCKS:
        return {}
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), REPLICATES)
    order = np.argsort(-probabilities[:, 1], kind="stable")
    ranked = probabilities[order, 1]
    ties = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # index where each group of equal scores begins
    member, positive = member[order], labels[order] == 1
    found = np.array([_ranking(weights[member], positive, ties) for weights in draws])
    found = found[np.isfinite(found).all(axis=1)]
    tails = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    return {name: tuple(np.quantile(column, tails)) for name, column in zip(("auroc", "auprc"), found.T)} if len(found) else {}


def _ranking(weights: np.ndarray, positive: np.ndarray, ties: np.ndarray) -> tuple[float, float]:
    """auroc and auprc of weighted examples in descending order of score; ``ties`` is where each group of equal scores begins."""
    import numpy as np

    hits, misses = (np.add.reduceat(weights * which, ties, dtype=np.float64) for which in (positive, ~positive))
    true, false = hits.cumsum(), misses.cumsum()
    if not true[-1] or not false[-1]:
        return np.nan, np.nan
    auroc = (misses * (true - hits / 2)).sum() / (true[-1] * false[-1])
    auprc = (hits * true / np.maximum(true + false, 1)).sum() / true[-1]  # a group of weight 0 has no hits
    return auroc, auprc


def collapsed(probabilities: np.ndarray) -> bool:
    """Whether a classifier put all of several examples into one class; probabilities are (N, K)."""
    predicted = probabilities.argmax(axis=1)
    return len(predicted) > 1 and bool((predicted == predicted[0]).all())


def _calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    import numpy as np

    borders = np.linspace(0, 1, ECE_BINS + 1)[1:-1]
    gaps = np.bincount(np.digitize(confidence, borders, right=True), correct - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or len(probabilities) == 0 or probabilities.shape[1] < 2:
        raise ValueError(f"probabilities {probabilities.shape}: expected (examples, classes), one or more by two or more")
    if not np.isfinite(probabilities).all():
        bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
        raise RunFailed(f"probabilities of {bad} of {len(probabilities)} examples are not numbers: lower the learning rate")
    if (probabilities < 0).any() or (np.abs(probabilities.sum(axis=1) - 1) > SUM_TOLERANCE).any():
        raise ValueError("probabilities: every row must be 0 or more and sum to 1; were logits given?")
    if labels.shape != (len(probabilities),) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels {labels.dtype} {labels.shape}: expected whole numbers ({len(probabilities)},)")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}: expected indices of {probabilities.shape[1]} classes")
    return probabilities, labels
