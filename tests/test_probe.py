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
from harness.errors import RunFailed
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


def test_a_class_that_training_lacks_is_never_predicted_and_said():
    examples = [replace(example, label=(0, 2)[number % 2]) for number, example in enumerate(motif_examples(60))]
    recipe = Recipe(tune="probe")
    classifier = Classifier(registry.adapter_class("gc").from_checkpoint(), 4, recipe)
    fitted = probe(classifier, examples, examples, recipe, ACCELERATOR)
    assert "the training split lacks 2 of 4 classes; they are never predicted" in fitted.events
    probabilities = predict(classifier, examples, ACCELERATOR)
    assert probabilities[:, [1, 3]].max() < 1e-12
    with pytest.raises(RunFailed, match="one class only"):
        probe(classifier, examples[::2], examples, recipe, ACCELERATOR)


def test_embeddings_that_are_not_finite_fail_the_run(monkeypatch):
    classifier = build("gc", Recipe(tune="probe"))
    monkeypatch.setattr(classifier, "embed", lambda batch: torch.full((len(batch["shares"]), 4), float("nan")))
    with pytest.raises(RunFailed, match="20 of 20 embeddings hold numbers that are not finite"):
        probe(classifier, motif_examples(20), motif_examples(20), Recipe(tune="probe"), ACCELERATOR)


def test_the_end_of_the_grid_is_said():
    examples = motif_examples(400, 60)
    classifier = build("kmer", Recipe(tune="probe"))
    fitted = probe(classifier, examples, examples, Recipe(tune="probe"), ACCELERATOR)
    assert fitted.events == ["the best strength, 100, is the largest tried: a larger one may be better"]
