"""Windows from 2 to 4,776 nt, the lengths of Genomic Benchmarks: read whole, in pieces, or refused with a remedy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import random_windows

from harness import registry
from harness.data import Example, Window
from harness.engine.classifier import Classifier
from harness.engine.fit import fit
from harness.engine.predict import predict
from harness.engine.probe import probe
from harness.errors import BadData
from harness.recipe import Recipe

LONGEST = 4776
READERS = {name: card for name, card in registry.model_cards().items() if card.reads != "score"}
LIMITED = {  # what to do where a model cannot read the longest
    "dnabert1": "--option long=chunks",
    "genemask": "--option long=chunks",
    "rnaernie": "--option long=chunks",
    "rnafm": "choose a model without this limit",
    "hf": "choose a model without this limit",
    "gpn_msa": r"choose a model without this limit \(msamamba\)",
}


def build(name: str, **options):
    torch.manual_seed(0)
    return registry.adapter_class(name).from_checkpoint(size="tiny", **options).eval()


def examples(lengths: list[int]) -> list[Example]:
    windows = [window for length in lengths for window in random_windows(1, length, seed=length)]
    return [Example(str(number), (window,), number % 2) for number, window in enumerate(windows)]


@pytest.mark.parametrize("name", READERS)
def test_the_shortest_windows_are_fitted_and_predicted(name):
    """The last batch of an epoch may hold one window of 2 nt alone."""
    short = examples([2, 3, 5, 6, 7, 9, 2, 30, 2])
    recipe = registry.model_facts(name).recipe.override(epochs=1, batch_size=2, precision="float32")
    classifier = Classifier(build(name), 2, recipe)
    run = probe if recipe.tune == "probe" else fit
    run(classifier, short, short, recipe, Accelerator(cpu=True))
    assert np.isfinite(predict(classifier, short, Accelerator(cpu=True))).all()


@pytest.mark.parametrize("name", READERS)
def test_the_longest_window_is_read_or_refused_with_a_remedy(name):
    model, windows = build(name), random_windows(1, LONGEST)
    if name in LIMITED:
        assert model.max_length < LONGEST
        with pytest.raises(BadData, match=f"window of {LONGEST} nt: {name} .* at most {model.max_length}.*{LIMITED[name]}"):
            model.collate(windows)
        if "chunks" not in LIMITED[name]:
            return
        model = build(name, long="chunks")
    with torch.inference_mode():
        assert model(model.collate(windows)).isfinite().all()


def test_one_window_of_one_value_a_channel_is_trained_on_by_running_statistics():
    model = build("cnn").train()
    torch.nn.init.constant_(model.norm1.running_var, 4.0)
    batch = model.collate([Window("A")])
    expected = model.eval()(batch)
    torch.testing.assert_close(model.train()(batch), expected)
    assert model.norm1.num_batches_tracked == 0


@pytest.fixture(scope="module")
def model():
    return build("rnaernie", layout="paddle", long="chunks")


class TestPieces:
    """RNAErnie reads what is longer than its table of positions in pieces."""

    def embed(self, model, windows):
        with torch.inference_mode():
            return model(model.collate(windows))

    def test_an_embedding_is_the_pieces_mean_weighted_by_their_lengths(self, model):
        (window,) = random_windows(1, 1200)
        pieces = [Window(window.sequence[start : start + 511]) for start in (0, 511, 1022)]
        alone = torch.stack([self.embed(model, [piece])[0] for piece in pieces])
        expected = (alone * torch.tensor([[511], [511], [178]])).sum(dim=0) / 1200
        (other,) = random_windows(1, 30)
        found = self.embed(model, [other, window])
        torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[0], self.embed(model, [other])[0], rtol=1e-4, atol=1e-5)

    def test_windows_that_fit_are_collated_as_ever(self, model):
        windows = random_windows(3, (20, 511))
        assert torch.equal(model.collate(windows)["tokens"], build("rnaernie", layout="paddle").collate(windows)["tokens"])

    def test_unknown_letters_are_counted_in_every_piece(self, model):
        assert model.unknown_tokens(model.collate([Window("N" * 600), Window("A")])) == (600, 600 + 4 + 1 + 2)

    def test_a_masked_base_is_predicted_from_its_piece(self, model):
        (window,) = random_windows(1, 1200)
        with torch.inference_mode():
            found = model.base_log_probabilities(model.collate_masked([window, Window("ACGTA")], [600, 2]))
            piece = model.collate_masked([Window(window.sequence[511:1022])], [89])
            torch.testing.assert_close(found[:1], model.base_log_probabilities(piece))
            short = model.base_log_probabilities(model.collate_masked([Window("ACGTA")], [2]))
        torch.testing.assert_close(found[1:], short, rtol=1e-4, atol=1e-5)


def test_length_sorted_batches_of_all_lengths_train_every_model_without_a_limit():
    mixed = examples([2, 4776, 71, 802, 3, 573])
    for name in ("cnn", "hyenadna", "caduceus"):
        recipe = Recipe(epochs=1, batch_size=4, precision="float32")
        classifier = Classifier(build(name), 2, recipe)
        assert len(fit(classifier, mixed, mixed, recipe, Accelerator(cpu=True)).history) == 1
