"""probe(): a head on frozen embeddings, fitted as a logistic regression."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from harness.data import Example
from harness.errors import RunFailed
from harness.recipe import Recipe

from .cache import EmbeddingCache
from .classifier import Classifier
from .fit import Fit
from .predict import embed, log_loss, softmax

PROBE_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
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
    """Embed every example once and fit the head as a logistic regression.

    Its inverse regularisation strength (scikit-learn's ``C``) is the one of PROBE_STRENGTHS with the lowest validation
    log_loss. Dense embeddings are standardised on the training split first; sparse ones (counts) keep their scale. A class
    that the training split lacks gets a probability of about 0, and an event says so.

    Raises:
        RunFailed: an embedding is not finite, or the training split has one class only.
    """
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

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
    labels, held_out_labels = (np.array([example.label for example in split]) for split in (train, validation))
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
    there = np.unique(labels)
    if len(there) < 2:
        raise RunFailed("the training split has one class only: choose another split, or give more windows")
    if len(there) < linear.out_features:
        lacking = linear.out_features - len(there)
        fitted.events.append(f"the training split lacks {lacking} of {linear.out_features} classes; they are never predicted")
    for strength in PROBE_STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000).fit(features, labels)
        # For two classes scikit-learn has one row of weights: the logit of the second class against zero.
        binary = len(model.classes_) == 2
        weight = np.concatenate([np.zeros_like(model.coef_), model.coef_]) if binary else model.coef_
        bias = np.concatenate([np.zeros_like(model.intercept_), model.intercept_]) if binary else model.intercept_
        weight = weight / scale
        bias = bias - weight @ mean
        if len(there) < linear.out_features:
            some, some_bias = weight, bias
            weight = np.zeros((linear.out_features, some.shape[1]))
            bias = np.full(linear.out_features, some_bias.min() - UNLIKELY)
            weight[there], bias[there] = some, some_bias
        loss = log_loss(softmax(held_out @ weight.T + bias), held_out_labels)
        fitted.history.append({"strength": strength, "validation_log_loss": loss})
        if loss < best_loss:
            best_loss, best = loss, (weight, bias)
    assert best is not None
    if best_loss == fitted.history[-1]["validation_log_loss"]:
        fitted.events.append(f"the best strength, {PROBE_STRENGTHS[-1]:g}, is the largest tried: a larger one may be better")
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(best[0]))
        linear.bias.copy_(torch.from_numpy(best[1]))
    fitted.examples_per_second = len(train) / seconds
    return fitted
