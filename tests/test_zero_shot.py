"""What is asked of models beside a fit: variants judged zero-shot, and whether an alignment is used."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import random_windows

from harness import registry
from harness.adapter import MaskedModel
from harness.classifier import Classifier, ZeroShot, variant_position
from harness.data import Example, Window
from harness.errors import BadData, UserError
from harness.metrics import scores
from harness.recipe import Recipe
from harness.run import Request, run
from harness.screen import Screen
from harness.sensitivity import alignment_sensitivity, insensitive
from harness.task import Splits, Task
from harness.train import predict

ACCELERATOR = Accelerator(cpu=True)
ROWS = 6
MODELS = [name for name in registry.model_cards() if issubclass(registry.adapter_class(name), MaskedModel)]


def variants(count: int, length: int = 40, alignment: bool = False, seed: int = 0) -> list[Example]:
    """Pairs that differ at ``length // 2``; with an alignment, harmful (1) where the auxiliary rows all have the reference."""
    rng = np.random.default_rng(seed)
    examples = []
    for number, window in enumerate(random_windows(count, length, seed)):
        label, centre = number % 2, length // 2
        letters = np.frombuffer(window.sequence.encode(), np.uint8)
        alternate = letters.copy()
        alternate[centre] = rng.choice([base for base in b"ACGT" if base != letters[centre]])
        rows = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, (ROWS - 1, length))]
        if label:
            rows[:, centre] = letters[centre]
        pair = (np.vstack([target, rows]) if alignment else None for target in (letters, alternate))
        texts = (letters.tobytes().decode(), alternate.tobytes().decode())
        examples.append(
            Example(f"17:{number}:x:y", tuple(Window(*made) for made in zip(texts, (None, None), pair, strict=True)), label)
        )
    return examples


def tiny(name: str):
    torch.manual_seed(0)
    return registry.adapter_class(name).from_checkpoint(None, size="tiny").eval()


class TestZeroShot:
    @pytest.mark.parametrize("name", MODELS)
    def test_is_the_log_likelihood_ratio_of_the_masked_base(self, name):
        examples, adapter = variants(3), tiny(name)
        probabilities = predict(ZeroShot(adapter).eval(), examples, ACCELERATOR)
        for example, (_, harmful) in zip(examples, probabilities, strict=True):
            with torch.inference_mode():
                masked = adapter.collate_masked([example.windows[0]], [20])
                logs = dict(zip("ACGT", adapter.base_log_probabilities(masked)[0].tolist(), strict=True))
            reference, alternate = (logs[window.sequence[20]] for window in example.windows)
            assert harmful == pytest.approx(math.exp(reference) / (math.exp(reference) + math.exp(alternate)), abs=1e-4)

    def test_needs_a_model_of_masked_bases_and_a_pair(self):
        with pytest.raises(UserError, match=r"tune 'zero': hyenadna was not trained to fill in masked bases; use --tune"):
            ZeroShot(tiny("hyenadna"))
        window, other = random_windows(2)
        for windows in ((window,), (window, window), (window, other), (window, Window("N" + window.sequence[1:]))):
            with pytest.raises(BadData, match="example 'x' is no variant"):
                variant_position(Example("x", windows, 0))

    def test_from_request_to_record(self, tmp_path):
        task, splits = variant_task()
        record = run(request("gpn_msa", task, "zero"), splits, ACCELERATOR, tmp_path, False, Screen(quiet=True))
        assert record.finished
        assert record.model["parameters"]["trainable"] == 0
        assert any(note.startswith("zero-shot") for note in record.model["notes"])
        assert record.intervals["auroc"][0] <= record.metrics["auroc"] <= record.intervals["auroc"][1]
        one = [replace(example, windows=example.windows[:1]) for example in variants(20)]
        single = request("gpn_msa", replace(task, name="single"), "zero")
        with pytest.raises(UserError, match=r"tune 'zero': single is no task of variants"):
            run(single, Splits(one, one, one, {}), ACCELERATOR, tmp_path, False, Screen(quiet=True))


def variant_task() -> tuple[Task, Splits]:
    parts = [variants(20, alignment=True, seed=seed) for seed in range(3)]
    splits = Splits(*parts, files={"made": "here"}, block=lambda name: name)
    return Task("pairs", "variants", "made here", ("benign", "pathogenic"), lambda rule: splits, ("position",)), splits


def request(model: str, task: Task, tune: str) -> Request:
    return Request(model, task, "position", 0, Recipe(tune=tune, precision="float32"), size="tiny")


def test_the_head_sees_the_difference_of_a_pair():
    examples = variants(4)
    classifier = Classifier(tiny("cnn"), 2, Recipe(tune="probe"), windows=2).eval()
    alone = Classifier(classifier.adapter, 2, Recipe(tune="probe")).eval()
    with torch.inference_mode():
        both = classifier.embed(classifier.collate(examples))
        first, second = (
            alone.embed(alone.collate([replace(example, windows=(example.windows[side],)) for example in examples]))
            for side in (0, 1)
        )
    torch.testing.assert_close(both, torch.cat([first, second - first], dim=1))


class TestSensitivity:
    examples = variants(40, alignment=True)

    @staticmethod
    def share_of_reference(examples) -> np.ndarray:
        """A model of the alignment alone: how many auxiliary rows agree with the reference at the variant."""
        p = np.array([(rows[1:, 20] == rows[0, 20]).mean() for rows in (example.windows[0].alignment for example in examples)])
        return np.stack([1 - p, p], axis=1)

    def test_a_model_of_the_alignment_is_found_out_as_one(self):
        found = alignment_sensitivity(self.examples, self.share_of_reference)
        assert found["examples"] == 40
        assert found["intact"]["auroc"] == scores(self.share_of_reference(self.examples), np.arange(40) % 2)["auroc"] > 0.95
        assert found["blanked"]["auroc"] == 0.5
        assert found["shuffled"]["auroc"] < 0.8
        assert found["blanked"]["mean_change"] > 0.5
        assert not insensitive(found)

    def test_a_model_of_the_sequence_alone_too(self):
        def first_letter(examples):
            p = np.array([example.windows[0].sequence[0] in "AC" for example in examples]) * 1.0
            return np.stack([1 - p, p], axis=1)

        found = alignment_sensitivity(self.examples, first_letter)
        assert found["blanked"]["mean_change"] == found["shuffled"]["mean_change"] == 0
        assert insensitive(found)

    def test_shuffling_keeps_each_row_and_the_target(self):
        seen = []

        def look(examples):
            seen.append(examples)
            return np.full((len(examples), 2), 0.5)

        alignment_sensitivity(self.examples, look)
        intact, blanked, shuffled = (example[0].windows for example in seen)
        assert (blanked[0].alignment[1:] == ord("-")).all()
        for before, after in zip(intact, shuffled, strict=True):
            assert before.sequence == after.sequence
            assert (np.sort(before.alignment[1:]) == np.sort(after.alignment[1:])).all()
            assert (before.alignment[1:] != after.alignment[1:]).any()
        assert (shuffled[0].alignment[1:] == shuffled[1].alignment[1:]).all()  # reference and alternate alike

    def test_a_record_says_so(self, tmp_path):
        task, splits = variant_task()
        record = run(request("msamamba", task, "probe"), splits, ACCELERATOR, tmp_path, False, Screen(quiet=True))
        assert record.alignment["blanked"]["mean_change"] > 0.005
        record = run(request("kmer", task, "probe"), splits, ACCELERATOR, tmp_path, False, Screen(quiet=True))
        assert record.alignment == {}
