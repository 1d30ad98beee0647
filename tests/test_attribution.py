"""Attributions with known answers: what each letter changes by, what gradients give, and what is refused."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import random_windows
from torch import nn

from harness.adapter import Adapter, BaseResolved
from harness.adapters.cnn import SmallCNN
from harness.adapters.gc import BaseComposition
from harness.adapters.kmer import KmerCounts
from harness.adapters.msamamba import MSAMamba
from harness.data import Example, Window, letter_table, letters
from harness.engine.classifier import Classifier
from harness.engine.predict import predict
from harness.errors import RunFailed, UserError
from harness.inference import gradients as steep
from harness.inference.attribution import Attribution, Score, mutagenesis
from harness.inference.gradients import gradients
from harness.recipe import Recipe
from harness.registry import adapter_class
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION

WEIGHTS = np.array([0.5, -1.0, 2.0, 0.25, 0.0])  # of A, C, G, T and N
CPU = torch.device("cpu")
ZOO = ("caduceus", "dnabert1", "dnabert2", "genemask", "gpn_msa", "hyenadna", "msamamba", "rnaernie", "rnafm")


def linear(examples):
    """A regression whose answer is known: letter weights, times the position from 1."""
    codes = [["ACGTN".index(letter) for letter in example.windows[0].sequence] for example in examples]
    return np.array([[sum(WEIGHTS[code] * (place + 1) for place, code in enumerate(row))] for row in codes])


class TestMutagenesis:
    def test_of_a_linear_model_gives_its_weights(self):
        (window,) = random_windows(1, 7)
        found = mutagenesis(linear, [window], Score(REGRESSION))
        own = WEIGHTS[found.codes[0]]
        expected = (WEIGHTS[None, :4] - own[:, None]) * np.arange(1, 8)[:, None]
        np.testing.assert_allclose(found.changes[0], expected, atol=1e-5)
        np.testing.assert_allclose(found.hypothetical[0], expected - expected.mean(axis=1, keepdims=True), atol=1e-5)
        np.testing.assert_allclose(found.actual[0], (own - WEIGHTS[:4].mean()) * np.arange(1, 8), atol=1e-5)
        np.testing.assert_allclose(found.scores, linear([Example("", (window,), 0)])[:, 0])

    def test_of_several_lengths_is_padded_and_of_n_tries_all_letters(self):
        found = mutagenesis(linear, [Window("ACNGT"), Window("GA")], Score(REGRESSION))
        np.testing.assert_allclose(found.changes[0, 2], WEIGHTS[:4] * 3, atol=1e-5)
        assert found.actual[0, 2] == 0
        assert np.isnan(found.changes[1, 2:]).all()
        assert np.isnan(found.actual[1, 2:]).all()
        assert np.isfinite(found.actual[1, :2]).all()

    def test_of_a_long_window_is_made_in_spans(self, monkeypatch):
        (window,) = random_windows(1, 50)
        whole = mutagenesis(linear, [window], Score(REGRESSION))
        monkeypatch.setattr("harness.inference.attribution.ONE_HOT_BYTES", 12 * 50 * 7)
        np.testing.assert_array_equal(mutagenesis(linear, [window], Score(REGRESSION)).changes, whole.changes)

    def test_of_kmer_equals_differences_of_coefficients(self):
        classifier = Classifier(KmerCounts.from_checkpoint(None), 2, Recipe(tune="probe")).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            classifier.head[-1].weight.copy_(torch.randn(classifier.head[-1].weight.shape, generator=generator))
        (window,), accelerator = random_windows(1, 12), Accelerator(cpu=True)
        found = mutagenesis(lambda examples: predict(classifier, examples, accelerator), [window], Score(CLASSIFICATION, 1))
        difference = (classifier.head[-1].weight[1] - classifier.head[-1].weight[0]).detach()

        def log_odds(sequence):
            return float(classifier.adapter(classifier.adapter.collate([Window(sequence)]))[0] @ difference)

        for position, letter in ((0, "A"), (5, "C"), (11, "T")):
            mutant = window.sequence[:position] + letter + window.sequence[position + 1 :]
            expected = log_odds(mutant) - log_odds(window.sequence)
            assert found.changes[0, position, "ACGT".index(letter)] == pytest.approx(expected, abs=1e-4)

    def test_of_an_alignment_changes_the_target_row_alone(self):
        window, seen = random_windows(1, 4)[0], []
        rows = np.array([list(window.sequence.encode()), list(b"AC-T")], np.uint8)

        def outputs(examples):
            seen.extend(example.windows[0].alignment for example in examples)
            return np.zeros((len(examples), 1))

        mutagenesis(outputs, [Window(window.sequence, alignment=rows)], Score(REGRESSION))
        assert len(seen) == 1 + 3 * 4
        assert all(bytes(one[1]) == b"AC-T" for one in seen)
        assert rows[0].tobytes().decode() == window.sequence, "the window itself is left as it is"

    def test_of_msamamba_agrees_with_asking_one_mutant_after_the_other(self):
        classifier, accelerator = (
            Classifier(MSAMamba.from_checkpoint(None, size="tiny"), 2, MSAMamba.recipe).eval(),
            Accelerator(cpu=True),
        )
        (window,), score = random_windows(1, 9), Score(CLASSIFICATION, 1)
        found = mutagenesis(lambda examples: predict(classifier, examples, accelerator), [window], score)
        mutant = Window(window.sequence[:3] + "G" + window.sequence[4:])
        pair = score.of_outputs(predict(classifier, [Example("", (one,), 0) for one in (window, mutant)], accelerator))
        assert found.changes[0, 3, 2] == pytest.approx(pair[1] - pair[0], abs=1e-5)

    @pytest.mark.parametrize("name", ZOO)
    def test_goes_through_letters_whatever_the_tokens(self, name):
        adapter, (window,), accelerator = adapter_class(name), random_windows(1, 20), Accelerator(cpu=True)
        torch.manual_seed(0)
        classifier = Classifier(adapter.from_checkpoint(None, size="tiny"), 2, adapter.recipe).eval()
        found = mutagenesis(lambda examples: predict(classifier, examples, accelerator), [window], Score(CLASSIFICATION, 1))
        assert found.changes is not None
        assert (np.take_along_axis(found.changes[0], found.codes[0][:, None].astype(int), axis=1) == 0).all()
        assert (np.abs(found.changes[0]).max(axis=1) > 0).all(), "every letter is read"

    def test_of_a_model_without_numbers_is_an_error(self):
        with pytest.raises(RunFailed, match="window 1: the model's answer to it, or to a mutant of it, is not a number"):
            mutagenesis(lambda examples: np.full((len(examples), 1), np.nan), random_windows(1, 4), Score(REGRESSION))


class TestScore:
    def test_is_the_difference_of_two_logits_where_probabilities_round_to_one(self):
        logits = np.array([[0.0, 60.0], [3.0, 1.0]])
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        outputs = exponentials / exponentials.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(Score(CLASSIFICATION, 1).of_outputs(outputs), [60.0, -2.0])
        np.testing.assert_allclose(Score(CLASSIFICATION, 1).of_logits(torch.tensor(logits)), [60.0, -2.0])

    def test_of_several_classes_is_against_the_others_together(self):
        outputs = np.array([[0.2, 0.3, 0.5]])
        np.testing.assert_allclose(Score(CLASSIFICATION, 0).of_outputs(outputs), np.log(0.2 / 0.8))
        np.testing.assert_allclose(Score(MULTILABEL, 1).of_outputs(outputs), np.log(0.3 / 0.7))
        np.testing.assert_allclose(Score(REGRESSION).of_outputs(np.array([[7.0]])), [7.0])


# --- gradients -----------------------------------------------------------------------------------------------------------

_CODES = letter_table({"A": 1, "C": 2, "G": 3, "T": 4}, default=5)


class Pairs(Adapter, BaseResolved):
    """Embedding: the sum over tokens of two letters each, after a special token; linear, so that gradients are known."""

    name: ClassVar[str] = "pairs"
    card, recipe, layers = SmallCNN.card, Recipe(dropout=0.0, head="linear"), 1

    def __init__(self, calls: int = 1) -> None:
        super().__init__()
        self.embed, self.calls, self.embedding_dim = nn.Embedding(36, 3), calls, 3

    @classmethod
    def from_checkpoint(cls, checkpoint=None, *, size="base"):
        return cls()

    def collate(self, windows):
        codes = torch.from_numpy(_CODES[letters(windows)])
        return {"tokens": torch.cat([torch.zeros(len(codes), 1, dtype=torch.long), codes[:, ::2] * 6 + codes[:, 1::2]], dim=1)}

    def hidden_states(self, batch, layer=None):
        return sum(self.embed(batch["tokens"]) for _ in range(self.calls)) / self.calls

    def forward(self, batch):
        return self.hidden_states(batch).sum(dim=1)

    def token_ranges(self, windows):
        first = torch.arange(len(windows[0])) // 2 + 1
        return torch.stack([first, first + 1], dim=1).repeat(len(windows), 1, 1)


class TestGradients:
    def test_of_a_linear_model_are_the_departure_of_each_token_from_shuffled_ones_shared_by_its_letters(self):
        torch.manual_seed(0)
        classifier = Classifier(Pairs(), 2, Pairs.recipe)
        (window,) = random_windows(1, 8)
        found = gradients(classifier, [window], Score(CLASSIFICATION, 1), CPU)
        weight = (classifier.head[-1].weight[1] - classifier.head[-1].weight[0]).detach()
        states = classifier.adapter.embed(classifier.adapter.collate([window])["tokens"])[0, 1:].detach()
        shuffled = steep._baselines(torch.nn.functional.pad(states, (0, 0, 1, 0))[None], np.array([False] + [True] * 4))
        assert [sorted(row[1:, 0].tolist()) for row in shuffled] == [sorted(states[:, 0].tolist())] * steep.SHUFFLES
        assert (shuffled[:, 0] == 0).all(), "the special token stays in its place"
        expected = ((states - shuffled[:, 1:].mean(dim=0)) @ weight).repeat_interleave(2) / 2
        np.testing.assert_allclose(found.actual[0], expected, atol=1e-5)
        assert found.changes is None
        own = found.codes[0][:, None] == np.arange(4)
        assert (found.hypothetical[0][~own] == 0).all()
        assert classifier.training, "the mode is left as it was found"

    def test_of_a_regression_are_in_the_unit_of_its_numbers(self):
        torch.manual_seed(0)
        classifier = Classifier(Pairs(), 1, Pairs.recipe, kind=REGRESSION)
        classifier.kind.learn(np.array([10.0, 30.0]))
        windows, accelerator = random_windows(2, 8), Accelerator(cpu=True)
        found = gradients(classifier, windows, Score(REGRESSION), CPU)
        outputs = predict(classifier, [Example("", (window,), 0) for window in windows], accelerator)[:, 0]
        np.testing.assert_allclose(found.scores, outputs, rtol=1e-5)

    @pytest.mark.parametrize("adapter", [BaseComposition, SmallCNN])
    def test_of_a_model_without_an_embedding_layer_are_refused(self, adapter):
        classifier = Classifier(adapter.from_checkpoint(None), 2, adapter.recipe)
        with pytest.raises(UserError, match=f"{adapter.name} has no embedding layer .* use --method mutagenesis"):
            gradients(classifier, random_windows(1), Score(CLASSIFICATION, 1), CPU)

    @pytest.mark.parametrize("name", ZOO)
    def test_of_each_model_add_up_to_the_departure_from_the_baselines_or_are_refused(self, name):
        adapter, score, (window,) = adapter_class(name), Score(CLASSIFICATION, 1), random_windows(1, 24)
        torch.manual_seed(0)
        classifier = Classifier(adapter.from_checkpoint(None, size="tiny"), 2, adapter.recipe).eval()
        try:
            found = gradients(classifier, [window], score, CPU)
        except UserError as error:
            assert "use --method mutagenesis" in str(error)  # noqa: PT017
            return
        layer = steep._embedding_layer(classifier, window, CPU, "float32")
        with torch.no_grad():
            states, logits = steep._states(classifier, layer, window, CPU, "float32")
            holds = steep._held(classifier.adapter.token_ranges([window])[0].numpy(), states.shape[-2]) > 0
            with steep._embedded(layer, steep._baselines(states, holds)):
                bare = steep._logits(classifier, [window] * steep.SHUFFLES, CPU, "float32")
        departure = float(score.of_logits(logits) - score.of_logits(bare).mean())
        assert found.actual.sum() == pytest.approx(departure, abs=1e-3 * max(1, abs(departure)))
        assert found.scores[0] == pytest.approx(float(score.of_logits(logits)), abs=1e-5)

    def test_of_a_model_that_embeds_twice_are_refused(self):
        with pytest.raises(UserError, match="pairs embeds its tokens more than once"):
            gradients(Classifier(Pairs(calls=2), 2, Pairs.recipe), random_windows(1), Score(CLASSIFICATION, 1), CPU)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tangermeme.saturation_mutagenesis", None)
    with pytest.raises(UserError, match=r"needs the package tangermeme: pip install 'gfm-harness\[explain\]'"):
        mutagenesis(linear, random_windows(1), Score(REGRESSION))


def test_what_letters_contribute_is_read_at_the_windows_own_letters():
    hypothetical = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    found = Attribution((Window("TNA"),), np.zeros(1), hypothetical)
    assert found.actual.tolist() == [[3.0, 0.0, 8.0]]
