"""Evaluation: it leaves the model as found, keeps nothing but results, and makes smaller batches of larger examples."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from conftest import motif_examples
from test_fit import ACCELERATOR, build

from harness import registry
from harness.data import Example, Window
from harness.engine.predict import PREDICT_BATCH, embed, predict
from harness.recipe import Recipe


def test_evaluation_leaves_the_mode_as_found():
    classifier = build("cnn", registry.adapter_class("cnn").recipe).train()
    predict(classifier, motif_examples(4), ACCELERATOR)
    assert classifier.training


@pytest.mark.parametrize(("evaluate", "method"), [(predict, "forward"), (embed, "embed")])
def test_evaluation_keeps_only_results(evaluate, method, monkeypatch):
    """What a model gives back may be a view of all its hidden states, which must go with their batch."""
    classifier = build("gc", Recipe(tune="probe"))
    hidden_states = []

    def first_token(batch):
        hidden = np.ones((PREDICT_BATCH, 10, 2), np.float32)
        assert sum(earlier() is not None for earlier in hidden_states) <= 1
        hidden_states.append(weakref.ref(hidden))
        return torch.from_numpy(hidden)[:, 0]

    monkeypatch.setattr(classifier, method, first_token)
    evaluate(classifier, motif_examples(6 * PREDICT_BATCH), ACCELERATOR)
    assert len(hidden_states) == 6


def test_evaluation_takes_fewer_examples_at_once_where_they_are_large(monkeypatch):
    monkeypatch.setattr("harness.engine.predict.PREDICT_LETTERS", 1000)
    classifier = build("gc", Recipe(tune="probe"))
    collate, sizes = classifier.collate, []
    monkeypatch.setattr(classifier, "collate", lambda examples: sizes.append(len(examples)) or collate(examples))
    rows = np.full((5, 40), ord("A"), np.uint8)
    deep = [Example(str(number), (Window("A" * 40, None, rows),), 0) for number in range(12)]
    assert len(predict(classifier, deep, ACCELERATOR)) == 12
    assert sizes == [5, 5, 2]
    sizes.clear()
    predict(classifier, motif_examples(30, length=2000), ACCELERATOR)
    assert sizes == [1] * 30


def test_evaluation_out_of_memory_halves_its_batches(monkeypatch):
    classifier, examples = build("cnn", registry.adapter_class("cnn").recipe), motif_examples(PREDICT_BATCH, (30, 50))
    expected, forward, sizes = predict(classifier, examples, ACCELERATOR), classifier.forward, []

    def small_machine(batch):
        if len(batch["codes"]) > PREDICT_BATCH // 4:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(len(batch["codes"]))
        return forward(batch)

    monkeypatch.setattr(classifier, "forward", small_machine)
    np.testing.assert_allclose(predict(classifier, examples, ACCELERATOR), expected, atol=1e-6)
    assert sizes == [PREDICT_BATCH // 4] * 4
