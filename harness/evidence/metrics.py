"""Scores of a model, computed from its outputs and the labels alone, by the kind of its task.

Their definitions and undefined cases are in :mod:`.classification`, :mod:`.regression` and :mod:`.multilabel`.
:func:`intervals` says how far a score may be from its value in the population that the test examples stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import BadData
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION, Splits, Task

from . import classification, multilabel, regression

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Metric:
    """How a metric is shown, whether higher values are better, and the kinds of task that have it.

    ``beside``: it does not follow from the predictions, and lies in a file beside the record (see :mod:`.attribution`).
    """

    label: str
    higher_is_better: bool
    kinds: tuple[str, ...] = (CLASSIFICATION,)
    beside: bool = False


METRICS = {
    "accuracy": Metric("accuracy", True),
    "precision": Metric("precision", True),
    "recall": Metric("recall", True),
    "f1": Metric("F1", True, (CLASSIFICATION, MULTILABEL)),
    "log_loss": Metric("log-loss", False, (CLASSIFICATION, MULTILABEL)),
    "hard_log_loss": Metric("log-loss of hard 0/1 predictions", False),
    "mcc": Metric("Matthews correlation", True),
    "auroc": Metric("area under the ROC curve", True, (CLASSIFICATION, MULTILABEL)),
    "auprc": Metric("average precision", True, (CLASSIFICATION, MULTILABEL)),
    "brier": Metric("Brier score", False),
    "ece": Metric("expected calibration error", False),
    "spearman": Metric("Spearman correlation", True, (REGRESSION,)),
    "pearson": Metric("Pearson correlation", True, (REGRESSION,)),
    "r2": Metric("R²", True, (REGRESSION,)),
    "rmse": Metric("root mean squared error", False, (REGRESSION,)),
    "mae": Metric("mean absolute error", False, (REGRESSION,)),
    "micro_auroc": Metric("area under the ROC curve, micro", True, (MULTILABEL,)),
    "micro_auprc": Metric("average precision, micro", True, (MULTILABEL,)),
    "micro_f1": Metric("F1, micro", True, (MULTILABEL,)),
    "exact_match": Metric("share of examples with all labels right", True, (MULTILABEL,)),
    "attribution_auroc": Metric("AUROC of planted letters by attribution", True, beside=True),
}
OF_KIND = {CLASSIFICATION: classification, REGRESSION: regression, MULTILABEL: multilabel}


def metrics_of(kind: str) -> list[str]:
    """The metrics that follow from predictions on tasks of a kind, in the order of :data:`METRICS`."""
    return [name for name, metric in METRICS.items() if kind in metric.kinds and not metric.beside]


def scores(outputs: np.ndarray, labels: np.ndarray, kind: str = CLASSIFICATION) -> dict[str, float]:
    """Every metric of a kind of task, from a model's outputs and the labels.

    Classification: class probabilities (N, K) and the indices (N,) of the true classes. Regression: predicted numbers (N, 1) and
    the true ones (N,). Multi-label: probabilities (N, K) and labels (N, K) of 0 and 1.

    Raises:
        RunFailed: an output is not a number, so training broke down.
        ValueError: shapes do not fit, or values are not those of the kind.
    """
    of = OF_KIND[kind]
    found = of.scores(*of.checked(outputs, labels))
    return {name: float(found[name]) for name in metrics_of(kind)}


def limits(
    outputs: np.ndarray, labels: np.ndarray, blocks: Sequence[str] = (), kind: str = CLASSIFICATION
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """95 % intervals, metric → (low, high), of those metrics that can have one; and metric → why another has none.

    These are accuracy, f1, log_loss, auroc and auprc; of a regression spearman, pearson, r2 and rmse; of a multi-label task all.
    ``blocks`` names each example's block, since examples of one block depend on each other; empty, examples are independent.
    See :mod:`.intervals` for what is covered and how.

    Raises:
        RunFailed, ValueError: as :func:`scores`; ValueError too if the number of blocks is not that of the examples.
    """
    of = OF_KIND[kind]
    return of.limits(*of.checked(outputs, labels), blocks)


def intervals(
    outputs: np.ndarray, labels: np.ndarray, blocks: Sequence[str] = (), kind: str = CLASSIFICATION
) -> dict[str, tuple[float, float]]:
    """The intervals of :func:`limits`."""
    return limits(outputs, labels, blocks, kind)[0]


def missing_intervals(
    outputs: np.ndarray, labels: np.ndarray, blocks: Sequence[str] = (), kind: str = CLASSIFICATION
) -> dict[str, str]:
    """The reasons of :func:`limits`."""
    return limits(outputs, labels, blocks, kind)[1]


def collapsed(outputs: np.ndarray, labels: np.ndarray, kind: str = CLASSIFICATION) -> bool:
    """Whether a model gave several examples all the same answer: one class, one number, or one set of labels."""
    of = OF_KIND[kind]
    return len(labels) > 1 and of.collapsed(*of.checked(outputs, labels))


def left_out(labels: np.ndarray, classes: Sequence[str], kind: str = CLASSIFICATION) -> list[str]:
    """Sentences on what the scores leave out: labels of a multi-label task that do not vary."""
    return multilabel.left_out(labels, classes) if kind == MULTILABEL else []


def check_labels(task: Task, splits: Splits) -> None:
    """Check that all labels are those of the task's kind and classes.

    Raises:
        BadData: some are not.
    """
    import numpy as np

    for name, part in splits.parts.items():
        try:
            labels = np.array([example.label for example in part])
            OF_KIND[task.kind].check_labels(labels, (len(part), len(task.classes)))
        except ValueError as error:
            raise BadData(f"{task.label}, {name}: not the labels of a {task.kind} ({error})") from None
