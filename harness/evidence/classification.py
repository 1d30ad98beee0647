"""Scores of a classifier, computed from probabilities and labels alone. Definitions are scikit-learn's where it has them.

With two classes, class 1 is the positive one, and precision, recall, f1, auroc, auprc and brier refer to it. With more,
precision, recall, f1, auroc and auprc are unweighted means over all classes of the task, each against the rest.

Undefined cases: precision, recall and f1 of a class that is never predicted, or absent from the labels, are 0. mcc is 0 if
all predictions or all labels are of one class. auroc and auprc are NaN (``null`` in a record) if the labels lack a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import RunFailed

from . import intervals
from .intervals import RULES, Limits, Sample, members

if TYPE_CHECKING:
    import numpy as np

ECE_BINS = 15
SUM_TOLERANCE = 1e-4  # allows for float32 rounding only


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of a classification from checked probabilities (N, K) and labels (N,), the indices of the true classes.

    ``hard_log_loss`` is the log_loss of the predicted classes taken as certain, (1 - accuracy) × 36.04, which some papers
    print as "loss". ``brier`` is the mean of (p₁ - y)² for two classes, in [0, 1], and of Σₖ (pₖ - yₖ)² for more, in
    [0, 2]. ``ece`` is the mean of |accuracy - mean confidence| over 15 equal-width bins (a, b] of the predicted class's
    probability, weighted by the number of examples (Guo et al. 2017).
    """
    import numpy as np
    from sklearn import metrics

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
    several = len(np.unique([labels, predicted])) > 1  # of one class alone, MCC is 0, and scikit-learn would warn
    normalised = probabilities / probabilities.sum(axis=1, keepdims=True)  # else log_loss warns about float32 rounding
    squared_error = ((probabilities - one_hot) ** 2).sum(axis=1).mean()  # scikit-learn before 1.7 takes two classes only
    return {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "log_loss": metrics.log_loss(labels, normalised, labels=classes),
        "hard_log_loss": metrics.log_loss(labels, np.float64(predicted[:, None] == classes), labels=classes),
        "mcc": metrics.matthews_corrcoef(labels, predicted) if several else 0.0,
        "auroc": auroc,
        "auprc": auprc,
        "brier": squared_error / 2 if binary else squared_error,
        "ece": _calibration_error(probabilities.max(axis=1), predicted == labels),
    }


def collapsed(probabilities: np.ndarray, labels: np.ndarray) -> bool:
    """Whether all examples were put into one class."""
    predicted = probabilities.argmax(axis=1)
    return bool((predicted == predicted[0]).all())


def limits(probabilities: np.ndarray, labels: np.ndarray, blocks: Sequence[str]) -> tuple[dict[str, Limits], dict[str, str]]:
    """Intervals, and the reasons of metrics without one (see :func:`.intervals.limits`)."""
    sample = Sample(*members(len(labels), blocks), probabilities / probabilities.sum(axis=1, keepdims=True), labels)
    return intervals.limits(RULES, sample)


def _calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    import numpy as np

    borders = np.linspace(0, 1, ECE_BINS + 1)[1:-1]
    gaps = np.bincount(np.digitize(confidence, borders, right=True), correct - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) as float64, and labels (N,).

    Raises:
        RunFailed: a probability is not a number, so training broke down.
        ValueError: shapes do not fit, rows do not sum to 1, or labels are not class indices.
    """
    import numpy as np

    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or len(probabilities) == 0 or probabilities.shape[1] < 2:
        raise ValueError(f"probabilities {probabilities.shape}: expected (examples, classes), one or more by two or more")
    if not np.isfinite(probabilities).all():
        bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
        raise RunFailed(f"probabilities of {bad} of {len(probabilities)} examples are not numbers: lower the learning rate")
    if (probabilities < 0).any() or (np.abs(probabilities.sum(axis=1) - 1) > SUM_TOLERANCE).any():
        raise ValueError("probabilities: every row must be 0 or more and sum to 1; were logits given?")
    check_labels(labels, probabilities.shape)
    return probabilities, labels


def check_labels(labels: np.ndarray, shape: tuple[int, int]) -> None:
    """Check the labels of predictions of a shape (N, K).

    Raises:
        ValueError: they are not indices (N,) of K classes.
    """
    if labels.shape != shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"labels {labels.dtype} {labels.shape}: expected whole numbers ({shape[0]},)")
    if labels.min() < 0 or labels.max() >= shape[1]:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}: expected indices of {shape[1]} classes")
