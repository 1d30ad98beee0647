"""probe(): a head on frozen embeddings, fitted as a logistic or ridge regression."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from harness.data import Example
from harness.errors import RunFailed
from harness.recipe import Recipe
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION

from .cache import EmbeddingCache
from .classifier import Classifier
from .fit import Fit
from .kinds import labels_of
from .predict import embed

PROBE_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
RIDGE_STRENGTHS = (1e-5, 1e-4, *PROBE_STRENGTHS)  # a weak signal in many features needs more restraint
Features = Any  # (N, D), dense or sparse
Head = tuple[np.ndarray, np.ndarray]  # weights (K, D) and biases (K,)
UNLIKELY = 50.0  # nats below the others: the logit of a class that was never seen


def probe(
    classifier: Classifier,
    train: Sequence[Example],
    validation: Sequence[Example],
    recipe: Recipe,
    accelerator: Accelerator,
    *,
    precision: str = "float32",
    cache: EmbeddingCache | None = None,
) -> Fit:
    """Embed every example once and fit the head: a logistic regression, one for each label, or a ridge regression.

    Its inverse regularisation strength (scikit-learn's ``C``, or ``1 / alpha``) is the one of PROBE_STRENGTHS, or
    RIDGE_STRENGTHS, with the lowest validation loss (see :mod:`.kinds`), the same for all labels. Dense embeddings are
    standardised on the training split first; sparse ones (counts) keep their scale. A class that the training split lacks gets a
    probability of about 0, a label that does not vary in it about its share, and an event says so.

    Raises:
        UserError: the training split's labels are all the same number.
        RunFailed: an embedding is not finite, or the training split has one class only, or no label that varies.
    """
    from scipy import sparse

    def embedded(examples: Sequence[Example]) -> np.ndarray:
        def compute() -> np.ndarray:
            return embed(classifier, examples, accelerator, precision=precision, batch_size=recipe.batch_size)

        return compute() if cache is None else cache.get(examples, compute)

    begun = time.perf_counter()
    features = embedded(train)
    seconds = time.perf_counter() - begun
    held_out = embedded(validation)
    for part in (features, held_out):
        if not np.isfinite(part).all():
            bad = int((~np.isfinite(part)).any(axis=1).sum())
            raise RunFailed(f"{bad:,} of {len(part):,} embeddings hold numbers that are not finite: try --precision float32")
    kind, labels, held_out_labels = classifier.kind, labels_of(train), labels_of(validation)
    kind.learn(labels)
    mean, scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
    if (features == 0).mean() > 0.5:
        features = sparse.csr_array(features)
    else:
        mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
        scale[scale == 0] = 1.0
        features = (features - mean) / scale

    linear = classifier.head[-1]
    assert isinstance(linear, nn.Linear)
    fitted, best_loss, best = Fit(recipe), math.inf, None
    solve, strengths = _SOLVERS[kind.name]
    there = _varied(kind.name, labels, linear.out_features, fitted.events)
    for strength in strengths:
        weight, bias = solve(features, kind.target(labels), strength)
        weight = weight / scale
        bias = bias - weight @ mean
        if len(weight) < linear.out_features:
            some, some_bias = weight, bias
            weight = np.zeros((linear.out_features, some.shape[1]))
            bias = np.full(linear.out_features, some_bias.min() - UNLIKELY)
            weight[there], bias[there] = some, some_bias
        loss = kind.judge(kind.outputs(held_out @ weight.T + bias), held_out_labels)[kind.measure]
        fitted.history.append({"strength": strength, f"validation_{kind.measure}": loss})
        if loss < best_loss:
            best_loss, best = loss, (weight, bias)
    assert best is not None
    if best_loss == fitted.history[-1][f"validation_{kind.measure}"]:
        fitted.events.append(f"the best strength, {strengths[-1]:g}, is the largest tried: a larger one may be better")
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(best[0]))
        linear.bias.copy_(torch.from_numpy(best[1]))
    fitted.examples_per_second = len(train) / seconds
    return fitted


def _varied(kind: str, labels: np.ndarray, outputs: int, events: list[str]) -> np.ndarray:
    """The classes that there are, or the labels that vary, as indices; what is missing is said in ``events``.

    Raises:
        RunFailed: there is nothing to tell apart.
    """
    if kind == REGRESSION:
        return np.arange(outputs)
    if kind == MULTILABEL:
        there = np.flatnonzero(np.ptp(labels, axis=0))
        if not len(there):
            raise RunFailed("no label varies in the training split: choose another split, or give more windows")
        if len(there) < outputs:
            events.append(
                f"{outputs - len(there)} of {outputs} labels do not vary in the training split; their share is predicted"
            )
        return there
    there = np.unique(labels)
    if len(there) < 2:
        raise RunFailed("the training split has one class only: choose another split, or give more windows")
    if len(there) < outputs:
        events.append(f"the training split lacks {outputs - len(there)} of {outputs} classes; they are never predicted")
    return there


def _logistic(features: Features, labels: np.ndarray, strength: float) -> Head:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=2000).fit(features, labels)
    if len(model.classes_) > 2:
        return model.coef_, model.intercept_
    # For two classes scikit-learn has one row of weights: the logit of the second class against zero.
    return (
        np.concatenate([np.zeros_like(model.coef_), model.coef_]),
        np.concatenate([np.zeros_like(model.intercept_), model.intercept_]),
    )


def _logistic_each(features: Features, labels: np.ndarray, strength: float) -> Head:
    """One for each label. Of one that does not vary, the share, half an example added to either side, is all there is."""
    rows = []
    for column in labels.T:
        if np.ptp(column) > 0:
            weight, bias = _logistic(features, column, strength)
            rows.append((weight[1], bias[1]))
        else:
            with_it = column.sum()
            rows.append((np.zeros(features.shape[1]), math.log((with_it + 0.5) / (len(column) - with_it + 0.5))))
    weights, biases = zip(*rows, strict=True)
    return np.stack(weights), np.array(biases)


def _ridge(features: Features, numbers: np.ndarray, strength: float) -> Head:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / strength, tol=1e-6).fit(features, np.float64(numbers))
    return model.coef_[None], np.array([model.intercept_])


_SOLVERS = {
    CLASSIFICATION: (_logistic, PROBE_STRENGTHS),
    MULTILABEL: (_logistic_each, PROBE_STRENGTHS),
    REGRESSION: (_ridge, RIDGE_STRENGTHS),
}
