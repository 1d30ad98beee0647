"""Pairs of windows: variants judged zero-shot by a masked model, and what a head sees of a pair."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from conftest import planned_run, random_windows, variant_examples

from harness import registry
from harness.adapter import MaskedModel
from harness.data import Example, Window
from harness.engine.classifier import Classifier, ZeroShot, variant_position
from harness.engine.predict import predict
from harness.errors import BadData, UserError
from harness.recipe import Recipe
from harness.study.run import execute
from harness.task import Splits, Task

ACCELERATOR = Accelerator(cpu=True)
MODELS = [name for name in registry.model_cards() if issubclass(registry.adapter_class(name), MaskedModel)]


def tiny(name: str):
    torch.manual_seed(0)
    return registry.adapter_class(name).from_checkpoint(None, size="tiny").eval()


class TestZeroShot:
    @pytest.mark.parametrize("name", MODELS)
    def test_is_the_log_likelihood_ratio_of_the_masked_base(self, name):
        examples, adapter = variant_examples(3), tiny(name)
        probabilities = predict(ZeroShot(adapter).eval(), examples, ACCELERATOR)
        for example, (_, harmful) in zip(examples, probabilities, strict=True):
            with torch.inference_mode():
                masked = adapter.collate_masked([example.windows[0]], [20])
                logs = dict(zip("ACGT", adapter.base_log_probabilities(masked)[0].tolist(), strict=True))
            reference, alternate = (logs[window.sequence[20]] for window in example.windows)
            assert harmful == pytest.approx(math.exp(reference) / (math.exp(reference) + math.exp(alternate)), abs=1e-4)

    def test_needs_a_model_of_masked_bases_or_a_causal_one_and_a_pair(self):
        with pytest.raises(UserError, match=r"tune 'zero': cnn was not trained to fill in masked bases or to predict the next"):
            ZeroShot(tiny("cnn"))
        window, other = random_windows(2)
        for windows in ((window,), (window, window), (window, other), (window, Window("N" + window.sequence[1:]))):
            with pytest.raises(BadData, match="example 'x' is no variant"):
                variant_position(Example("x", windows, 0))

    def test_from_request_to_record(self, tmp_path):
        task, splits = variant_task()
        record = execute(planned_run("gpn_msa", task, splits, tune="zero"), tmp_path, opened=(task, splits))
        assert record.finished
        assert record.model["parameters"]["trainable"] == 0
        assert any(note.startswith("zero-shot") for note in record.model["notes"])
        assert record.intervals["auroc"][0] <= record.metrics["auroc"] <= record.intervals["auroc"][1]
        one = [replace(example, windows=example.windows[:1]) for example in variant_examples(20)]
        single, splits = replace(task, name="single"), Splits(one, one, one, {})
        with pytest.raises(UserError, match=r"tune 'zero': single is not a variant task"):
            execute(planned_run("gpn_msa", single, splits, tune="zero"), tmp_path, opened=(single, splits))


def variant_task() -> tuple[Task, Splits]:
    parts = [variant_examples(20, alignment=True, seed=seed) for seed in range(3)]
    splits = Splits(*parts, files={"made": "here"}, block=lambda name: name)
    return Task("pairs", "variants", "made here", ("benign", "pathogenic"), lambda rule: splits, ("position",)), splits


def test_the_head_sees_the_difference_of_a_pair():
    examples = variant_examples(4)
    classifier = Classifier(tiny("cnn"), 2, Recipe(tune="probe"), windows=2).eval()
    alone = Classifier(classifier.adapter, 2, Recipe(tune="probe")).eval()
    with torch.inference_mode():
        both = classifier.embed(classifier.collate(examples))
        first, second = (
            alone.embed(alone.collate([replace(example, windows=(example.windows[side],)) for example in examples]))
            for side in (0, 1)
        )
    torch.testing.assert_close(both, torch.cat([first, second - first], dim=1))
