"""What a task's kind makes of a model's logits: the loss that training lowers, the outputs, and the loss that validation goes by.

Nothing else in the engine asks for the kind, but for :mod:`.probe`, whose head is fitted by another solver for each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.data import Example
from harness.errors import UserError
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION


class Kind(nn.Module, ABC):
    """One kind of task. K is the number of logits: of the classes, of the labels, or 1 of a regression.

    Labels are arrays as :func:`labels_of` makes them: class indices int64 (N,), numbers float64 (N,), or 0 and 1 int64 (N, K).
    """

    name: ClassVar[str]  # one of harness.task.KINDS
    measure: ClassVar[str]  # the validation loss that training goes by

    def learn(self, labels: np.ndarray) -> None:
        """Take from the training split's labels what targets and outputs need."""

    @abstractmethod
    def target(self, labels: np.ndarray) -> np.ndarray:
        """Labels as :meth:`loss` compares them with logits."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The training loss of logits (B, K), float32, summed over the examples."""

    @abstractmethod
    def outputs(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities, or numbers in the task's unit, (N, K) as float64, of logits (N, K)."""

    @abstractmethod
    def judge(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """What a history says of the validation split. ``measure`` is the loss that stops training and chooses a probe."""


class Classification(Kind):
    """One class of several: cross-entropy, softmax, and scikit-learn's log_loss."""

    name, measure = CLASSIFICATION, "log_loss"

    def target(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, reduction="sum")

    def outputs(self, logits: np.ndarray) -> np.ndarray:
        return softmax(logits)

    def judge(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {"log_loss": log_loss(outputs, labels), "accuracy": float((outputs.argmax(axis=1) == labels).mean())}


class Regression(Kind):
    """A number: mean squared error, of numbers standardised by the training split so that usual learning rates suit them.

    ``mean`` and ``scale`` are buffers, float32 (), part of the classifier's state; the same rounded values are taken off and put
    back. ``mse`` is in the task's unit, squared.
    """

    name, measure = REGRESSION, "mse"
    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def learn(self, labels: np.ndarray) -> None:
        """Take the mean and the standard deviation of the training split's numbers.

        Raises:
            UserError: they are all equal, to within float32, or too large or small for it.
        """
        mean, scale, float32 = float(labels.mean()), float(labels.std()), np.finfo(np.float32)
        if scale <= float(float32.eps) * abs(mean):
            raise UserError(f"every number of the training split is {mean:g}: nothing to learn; use another split or column")
        if not (abs(mean) < float(float32.max) and float(float32.tiny) < scale < float(float32.max)):
            raise UserError(f"numbers of mean {mean:g} and sd {scale:g} in the training split: use another unit")
        self.mean.fill_(mean)
        self.scale.fill_(scale)

    def target(self, labels: np.ndarray) -> np.ndarray:
        return ((labels - self.mean.item()) / self.scale.item()).astype(np.float32)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(logits[:, 0], target, reduction="sum")

    def outputs(self, logits: np.ndarray) -> np.ndarray:
        return logits.astype(np.float64) * self.scale.item() + self.mean.item()

    def judge(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {"mse": float(((outputs[:, 0] - labels) ** 2).mean())}


class Multilabel(Kind):
    """Several labels, each there or not: binary cross-entropy, averaged over the labels, and a sigmoid of each logit."""

    name, measure = MULTILABEL, "log_loss"

    def target(self, labels: np.ndarray) -> np.ndarray:
        return labels.astype(np.float32)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / logits.shape[1]

    def outputs(self, logits: np.ndarray) -> np.ndarray:
        from scipy.special import expit

        return expit(np.float64(logits))

    def judge(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The mean binary log-loss (nats) of all pairs of an example and a label, clipped as :func:`log_loss`."""
        right = np.where(labels == 1, outputs, 1 - outputs)
        return {"log_loss": float(-np.log(np.clip(right, np.finfo(np.float64).eps, None)).mean())}


_KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Classification, Regression, Multilabel)}


def kind_of(name: str) -> Kind:
    """A new value of a kind of task, one of :data:`harness.task.KINDS`."""
    return _KINDS[name]()


def labels_of(examples: Sequence[Example]) -> np.ndarray:
    """The examples' labels, (N,) or (N, K), in order."""
    return np.array([example.label for example in examples])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes) as float64 of logits (N, classes)."""
    exponentials = np.exp(np.float64(logits) - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """scikit-learn's log_loss (nats), clipped as there so that a single confident mistake does not make it infinite."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(chosen, np.finfo(np.float64).eps, None)).mean())
