"""Padding left out of the transformer's layers, as where an accelerator computes: values and gradients are those with it."""

from __future__ import annotations

import pytest
import torch
from conftest import random_windows
from test_dnabert import adapter

from harness.adapters._batches import PLACES, Packing, with_places
from harness.adapters._transformer import Block, Encoder, Shape
from harness.data import Window

SIZES = {"layers": 2, "width": 12, "heads": 3, "inner": 20, "vocabulary": 9}
VARIANTS = {
    "bert": {},
    "alibi, gated": {"position": "alibi", "gated": True, "fused_qkv": True},
    "pre-norm": {"pre_norm": True, "types": 0},
}
ADAPTERS = [
    ("dnabert1", {"pooling": "pooler"}),
    ("dnabert1", {"pooling": "mean"}),
    ("genemask", {"pooling": "cls"}),
    ("dnabert2", {"pooling": "mean"}),
    ("dnabert2", {"pooling": "cls"}),
    ("dnabert2", {"pooling": "max"}),
    ("rnafm", {"pooling": "mean"}),
    ("rnaernie", {"layout": "paddle", "pooling": "pooler"}),
]


@pytest.fixture
def ragged() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (4, 7), and which are read."""
    torch.manual_seed(0)
    return torch.randint(0, 9, (4, 7)), torch.arange(7) < torch.tensor([7, 4, 1, 6])[:, None]


def counted(monkeypatch) -> list[int]:
    """How many tokens each feed-forward layer sees from here on."""
    seen, whole = [], Block.feed_forward
    monkeypatch.setattr(Block, "feed_forward", lambda self, x: (seen.append(x[..., 0].numel()), whole(self, x))[1])
    return seen


def test_a_batch_is_packed_and_padded_again(ragged):
    tokens, read = ragged
    places = with_places({"tokens": tokens}, read)[PLACES]
    assert torch.equal(places, torch.tensor([*range(7), *range(7, 11), 14, *range(21, 27)]))
    packing, x = Packing(places, 4, 7), torch.randn(4, 7, 5)
    assert torch.equal(packing.pack(x), x[read])
    assert torch.equal(packing.pad(packing.pack(x)), x * read[..., None])


class TestEncoder:
    @pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
    @pytest.mark.parametrize("first", [None, 1])
    @pytest.mark.parametrize("layer", [None, 1])
    def test_states_and_gradients_are_those_with_padding(self, variant, first, layer, ragged):
        encoder = Encoder(Shape(**SIZES, **variant)).double().eval()
        tokens, read = ragged
        places = read.flatten().nonzero()[:, 0]
        expected = encoder(tokens, read, layer, first=first)
        found = encoder(tokens, read, layer, first=first, places=places)
        assert found.shape == expected.shape
        shown = read[:, :first, None]
        torch.testing.assert_close(found * shown, expected * shown, rtol=1e-10, atol=1e-12)
        weights = torch.randn_like(found) * shown
        gradients = [
            torch.autograd.grad((states * weights).sum(), encoder.parameters(), allow_unused=True) for states in (found, expected)
        ]
        for ours, theirs in zip(*gradients, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)

    def test_layers_see_no_padding(self, ragged, monkeypatch):
        encoder, seen = Encoder(Shape(**SIZES)).eval(), counted(monkeypatch)
        tokens, read = ragged
        encoder(tokens, read, places=read.flatten().nonzero()[:, 0])
        encoder(tokens, read, first=1, places=read.flatten().nonzero()[:, 0])
        encoder(tokens, read)
        assert seen == [18, 18, 18, 4, 28, 28]

    def test_without_padding_nothing_changes_and_nothing_is_asked(self, ragged, monkeypatch):
        encoder, (tokens, _) = Encoder(Shape(**SIZES)).eval(), ragged
        read = torch.ones(4, 7, dtype=torch.bool)
        expected = encoder(tokens, read)
        monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: pytest.fail("a tensor was asked for its value"))
        assert torch.equal(encoder(tokens, read, places=torch.arange(28)), expected)

    def test_training_with_dropout_draws_for_tokens_alone(self, ragged):
        encoder = Encoder(Shape(**SIZES, dropout=0.5, attention_dropout=0.5)).train()
        tokens, read = ragged
        found = encoder(tokens, read, places=read.flatten().nonzero()[:, 0])
        assert found.isfinite().all()
        assert not found[~read].any()
        found.square().sum().backward()
        assert all(weight.grad is None or weight.grad.isfinite().all() for weight in encoder.parameters())


class TestAdapters:
    @pytest.mark.parametrize(("name", "options"), ADAPTERS)
    def test_embeddings_and_gradients_are_those_with_padding(self, name, options, monkeypatch):
        model = adapter(name, size="tiny", **options).double()
        batch = model.collate(random_windows(5, (20, 60)))
        packed = model.for_accelerator(batch)
        assert 0 < len(packed[PLACES]) < batch["tokens"].numel()
        expected, found = model(batch), model(packed)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        weights = torch.randn_like(found)
        gradients = [torch.autograd.grad((out * weights).sum(), trained) for out in (found, expected)]
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)
        seen = counted(monkeypatch)
        model(packed)
        assert seen[0] == len(packed[PLACES])

    @pytest.mark.parametrize(("name", "options"), ADAPTERS)
    def test_windows_of_one_length_give_the_same_bits(self, name, options):
        model = adapter(name, size="tiny", **options)
        batch = model.collate([Window("ACGT" * 10)] * 3)
        assert torch.equal(model(model.for_accelerator(batch)), model(batch))

    @pytest.mark.parametrize("precision", ["float32", "bf16"])
    def test_in_either_precision(self, precision):
        model = adapter("dnabert2", size="tiny")
        batch = model.collate(random_windows(5, (20, 60)))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            expected, found = model(batch), model(model.for_accelerator(batch))
        assert found.dtype == expected.dtype
        tolerance = 2e-2 if precision == "bf16" else 1e-5
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("name", ["dnabert1", "rnaernie"])
    def test_windows_read_in_pieces_stay_as_they_are(self, name):
        model = adapter(name, size="tiny", long="chunks")
        batch = model.collate([Window("ACGT" * 600), Window("ACGT" * 10)])
        assert model.for_accelerator(batch) is batch
