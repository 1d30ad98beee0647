"""Whether a model uses its alignment: made-up models whose answer is known, and MSAMamba."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from conftest import planned_run, variant_examples

from harness import registry
from harness.adapters.msamamba import MSAMamba
from harness.engine.classifier import Classifier, ZeroShot
from harness.engine.fit import fit
from harness.engine.predict import predict
from harness.evidence.metrics import scores
from harness.evidence.sensitivity import alignment_sensitivity, insensitive
from harness.recipe import Recipe
from harness.study.run import execute
from harness.task import Splits, Task

ACCELERATOR = Accelerator(cpu=True)


class TestSensitivity:
    examples = variant_examples(40, alignment=True)

    @staticmethod
    def share_of_reference(examples) -> np.ndarray:
        """A model that reads the alignment alone: the share of auxiliary rows that agree with the reference at the variant."""
        p = np.array([(rows[1:, 20] == rows[0, 20]).mean() for rows in (example.windows[0].alignment for example in examples)])
        return np.stack([1 - p, p], axis=1)

    def test_a_model_of_the_alignment_is_found_out_as_one(self):
        found = alignment_sensitivity(self.examples, self.share_of_reference(self.examples), self.share_of_reference)
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

        found = alignment_sensitivity(self.examples, first_letter(self.examples), first_letter)
        assert found["blanked"]["mean_change"] == found["shuffled"]["mean_change"] == 0
        assert insensitive(found)

    def test_shuffling_keeps_each_row_and_the_target(self):
        seen = []

        def look(examples):
            seen.append(examples)
            return np.full((len(examples), 2), 0.5)

        alignment_sensitivity(self.examples, look(self.examples), look)
        intact, blanked, shuffled = (example[0].windows for example in seen)
        assert (blanked[0].alignment[1:] == ord("-")).all()
        for before, after in zip(intact, shuffled, strict=True):
            assert before.sequence == after.sequence
            assert (np.sort(before.alignment[1:]) == np.sort(after.alignment[1:])).all()
            assert (before.alignment[1:] != after.alignment[1:]).any()
        assert (shuffled[0].alignment[1:] == shuffled[1].alignment[1:]).all()  # reference and alternate alike

    def test_a_record_says_so(self, tmp_path):
        splits = Splits(*(variant_examples(20, alignment=True, seed=seed) for seed in range(3)), files={"made": "here"})
        task = Task("pairs", "variants", "made here", ("benign", "pathogenic"), lambda rule: splits, ("position",))
        for model, kept in (("msamamba", {"examples", "intact", "blanked", "shuffled"}), ("kmer", set())):
            record = execute(planned_run(model, task, splits, tune="probe"), tmp_path, opened=(task, splits))
            assert set(record.alignment) == kept


class TestMSAMamba:
    def test_trained_on_columns_it_uses_them(self):
        """Variants are harmful where the column agrees with the reference; nothing else tells the classes apart."""
        train, validation, test = (variant_examples(count, 16, True, seed) for seed, count in enumerate((400, 100, 100)))
        torch.manual_seed(0)
        recipe = Recipe(epochs=6, learning_rate=3e-3, head="tanh")
        classifier = Classifier(MSAMamba.from_checkpoint(size="tiny", pooling="centre"), 2, recipe, windows=2)
        fit(classifier, train, validation, recipe, ACCELERATOR)
        ask = partial(predict, classifier, accelerator=ACCELERATOR)
        found = alignment_sensitivity(test, ask(test), ask)
        assert found["intact"]["auroc"] > 0.9
        assert found["blanked"]["auroc"] < 0.7
        assert found["shuffled"]["auroc"] < 0.7
        assert not insensitive(found)

    def test_the_official_weights_do_not(self, shared):
        """Their attention stays within a row. Only the last positions of row 0 see row 1, and the centre sees no other row."""
        model = registry.adapter_class("msamamba").from_checkpoint(shared / "weights/msamamba/msamamba.pt")
        examples = variant_examples(10, 128, True)
        ask = partial(predict, ZeroShot(model), accelerator=ACCELERATOR)
        found = alignment_sensitivity(examples, ask(examples), ask)
        assert found["blanked"]["mean_change"] == found["shuffled"]["mean_change"] == 0
        assert insensitive(found)
