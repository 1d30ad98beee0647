"""The probe: its head is scikit-learn's logistic regression, and the model stays as it was."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import motif_examples
from test_fit import ACCELERATOR, build, labels

from harness import registry
from harness.engine.classifier import Classifier
from harness.engine.predict import embed, predict
from harness.engine.probe import probe
from harness.recipe import Recipe


@pytest.mark.parametrize("name", ["gc", "kmer", "msamamba"])
def test_head_equals_scikit_learn(name):
    """The head gives the probabilities of the chosen logistic regression, so one path serves prediction."""
    from sklearn.linear_model import LogisticRegression

    examples, held_out = motif_examples(120), motif_examples(60, seed=1)
    recipe = registry.adapter_class(name).recipe.override(tune="probe")
    classifier = build(name, recipe).eval()
    fitted = probe(classifier, examples, held_out, recipe, ACCELERATOR)
    chosen = min(fitted.history, key=lambda entry: entry["validation_log_loss"])
    features, other = (np.float64(embed(classifier, part, ACCELERATOR)) for part in (examples, held_out))
    if name != "kmer":
        mean, scale = features.mean(axis=0), features.std(axis=0)
        features, other = (features - mean) / scale, (other - mean) / scale
    reference = LogisticRegression(C=chosen["strength"], max_iter=2000).fit(features, labels(examples))
    np.testing.assert_allclose(
        predict(classifier, held_out, ACCELERATOR),
        reference.predict_proba(other),
        atol=2e-3 if name == "msamamba" else 1e-4,
    )


def test_three_classes():
    examples = [replace(example, label=number % 3) for number, example in enumerate(motif_examples(90))]
    recipe = Recipe(tune="probe")
    torch.manual_seed(0)
    classifier = Classifier(registry.adapter_class("gc").from_checkpoint(), 3, recipe)
    probe(classifier, examples, examples, recipe, ACCELERATOR)
    probabilities = predict(classifier, examples, ACCELERATOR)
    assert probabilities.shape == (90, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_body_is_left_alone():
    classifier = build("msamamba", Recipe(tune="probe"))
    before = copy.deepcopy(classifier.adapter.state_dict())
    probe(classifier, motif_examples(20), motif_examples(20, seed=1), Recipe(tune="probe"), ACCELERATOR)
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.adapter.state_dict().items())
