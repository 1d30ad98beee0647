"""The transformer block, its dropout and attention on a CPU, and the last layer when only the first token is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_windows
from test_dnabert import GOLDEN, adapter

from harness import registry
from harness.adapters._attention import attend, dropout
from harness.adapters._batches import within
from harness.adapters._transformer import Block, Encoder, Shape, sinusoids
from harness.engine.classifier import Classifier
from harness.recipe import Recipe

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
TORCHS_NAMES = {
    "out": "self_attn.out_proj",
    "attention_norm": "norm1",
    "up": "linear1",
    "down": "linear2",
    "mlp_norm": "norm2",
}


class TestTraining:
    """Dropout and attention as computed when training on a CPU."""

    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.99])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_dropout(self, rate, dtype):
        torch.manual_seed(0)
        x = torch.ones(401, 499, dtype=dtype, requires_grad=True)
        out = dropout(x, rate)
        out.sum().backward()
        kept = out.detach() != 0
        deviation = (rate * (1 - rate) / x.numel()) ** 0.5
        assert abs(kept.float().mean() - (1 - rate)) < 5 * deviation
        assert (kept.float().mean(dim=0) - (1 - rate)).abs().max() < 5 * (rate * (1 - rate) / 401) ** 0.5 + 1 / 401
        torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / (1 - rate)), rtol=5e-3, atol=0)
        assert torch.equal(x.grad, out)
        torch.manual_seed(0)
        assert torch.equal(dropout(x, rate), out), "the same seed draws the same mask"
        assert not torch.equal(dropout(x, rate), out)

    def test_dropout_at_the_ends(self):
        x = torch.randn(3, 5)
        assert torch.equal(dropout(x, 0.0), x)
        assert torch.equal(dropout(x, 0.5, training=False), x)
        assert not dropout(x, 1.0).any()
        assert dropout(x[:0], 0.5).shape == (0, 5)

    @pytest.mark.parametrize("kind", ["none", "boolean", "added"])
    def test_attention_averages_to_that_without_dropout(self, kind):
        torch.manual_seed(0)
        q, k, v = (torch.randn(2, 3, tokens, 8, requires_grad=True) for tokens in (4, 7, 7))
        mask = None if kind == "none" else torch.arange(7) < torch.tensor([7, 5])[:, None, None, None]
        if kind == "added":
            mask = torch.randn(2, 3, 4, 7).masked_fill(~mask, -torch.inf)
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
        draws = 4000
        many = [tensor.repeat_interleave(draws, dim=0) for tensor in (q, k, v)]
        many_masks = None if mask is None else mask.repeat_interleave(draws, dim=0)
        found = attend(*many, many_masks, 0.2).unflatten(0, (2, draws))
        assert found.std(dim=1).min() > 0.01
        torch.testing.assert_close(found.mean(dim=1), expected, atol=0.06, rtol=0)
        ours, theirs = (torch.autograd.grad(out.square().sum(), v)[0] for out in (found.mean(dim=1), expected))
        torch.testing.assert_close(ours, theirs, atol=0.15, rtol=0)


class TestBlock:
    @pytest.mark.parametrize("pre_norm", [False, True])
    @pytest.mark.parametrize("activation", ["gelu", "relu"])
    def test_block_is_torchs_encoder_layer(self, pre_norm, activation):
        """The plain variants, with a mask, in output and in the gradient of the input."""
        theirs = torch.nn.TransformerEncoderLayer(
            12, 3, 20, dropout=0.0, activation=activation, norm_first=pre_norm, layer_norm_eps=1e-5, batch_first=True
        )
        ours = Block(Shape(1, 12, 3, 20, vocabulary=5, activation=activation, pre_norm=pre_norm, epsilon=1e-5, **NO_DROPOUT))
        weights = dict(theirs.named_parameters())
        with torch.no_grad():
            for name, parameter in ours.named_parameters():
                layer, kind = name.split(".")
                if layer in ("query", "key", "value"):
                    part = weights[f"self_attn.in_proj_{kind}"].chunk(3)[("query", "key", "value").index(layer)]
                else:
                    part = weights[f"{TORCHS_NAMES[layer]}.{kind}"]
                parameter.copy_(part)
        x, read = torch.randn(2, 7, 12), torch.arange(7) < torch.tensor([7, 4])[:, None]
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        found = ours(inputs[0], read[:, None, None])[read]
        expected = theirs(inputs[1], src_key_padding_mask=~read)[read]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        gradients = [torch.autograd.grad(out.sin().sum(), x)[0] for out, x in zip((found, expected), inputs, strict=True)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("variant", [{}, {"pre_norm": True}, {"gated": True, "fused_qkv": True}])
    @pytest.mark.parametrize("rotary", [False, True])
    def test_first_tokens_do_not_depend_on_how_many_are_computed(self, variant, rotary):
        block = Block(Shape(1, 12, 3, 20, vocabulary=5, **variant)).eval()
        x, bias, rotation = torch.randn(2, 7, 12), torch.randn(2, 3, 7, 7), sinusoids(7, 4) if rotary else None
        torch.testing.assert_close(block(x, bias, 2, rotation), block(x, bias, None, rotation)[:, :2])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dnabert1", {"pooling": "pooler"}),
        ("dnabert1", {"pooling": "cls"}),
        ("dnabert2", {"pooling": "cls"}),
        ("rnafm", {"pooling": "cls"}),
        ("rnaernie", {"layout": "paddle", "pooling": "pooler"}),
    ],
)
def test_last_layer_computes_only_what_is_read(name, options):
    """The embedding and every gradient are the same as from all tokens' hidden states."""
    model = adapter(name, size="tiny", **options)
    batch = model.collate(random_windows(5, (20, 60)))
    tokens = batch["tokens"][:, 0] if name == "dnabert1" else batch["tokens"]
    read = within(batch["lengths"].flatten(), tokens.shape[1]) if "lengths" in batch else tokens != model.vocabulary.pad
    hidden = model.encoder(tokens, read)
    assert hidden.shape == (*tokens.shape, 64)
    expected = hidden[:, 0] if options["pooling"] == "cls" else model.pooled(hidden)
    found = model(batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((out * weights).sum(), trained) for out in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["dnabert1", "genemask", "dnabert2"])
def test_what_is_trained_here_keeps_its_authors_names(name):
    """Also inside a classifier, and with LoRA's parts; and it loads again, under either kind of names."""
    model = registry.adapter_class(name).from_checkpoint(size="tiny")
    archive = np.load(GOLDEN / name / "weights.npz")
    state = model.state_dict()
    assert {key for key in state if ".layer.0." in key} <= set(archive.files)
    assert not [key for key in state if key.startswith(("encoder.", "lm_head.", "pooler."))]
    other = registry.adapter_class(name).from_checkpoint(size="tiny")
    other.load_state_dict(state)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))
    classifier = Classifier(model, 2, Recipe(tune="lora", lora_rank=2))
    state = classifier.state_dict()
    assert all(key.startswith(("adapter.bert.", "adapter.cls.", "head.")) for key in state)
    assert any("lora_A" in key for key in state)
    again = Classifier(other, 2, Recipe(tune="lora", lora_rank=2))
    again.load_state_dict(state)
    assert all(torch.equal(one, two) for one, two in zip(classifier.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("position", ["learned", "alibi"])
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_the_states_that_are_asked_for_and_their_gradients_are_those_of_the_whole_batch(position, pre_norm, padded):
    """Also of places that are named twice, as the engine fills up, and of rows that nothing is asked of."""
    torch.manual_seed(0)
    shape = Shape(2, 32, heads=4, inner=64, vocabulary=9, position=position, pre_norm=pre_norm, fused_qkv=position == "alibi")
    encoder = Encoder(shape).eval()
    tokens, read = torch.randint(0, 9, (5, 40)), torch.ones(5, 40, dtype=torch.bool)
    if padded:
        read[1, 30:] = False
    asked = torch.cat([torch.randperm(70)[:50].sort().values, torch.arange(160, 200), torch.zeros(6, dtype=torch.int64)])
    weights = torch.randn(len(asked), 32)
    found = []
    places = read.flatten().nonzero()[:, 0]
    for states in (
        encoder(tokens, read).flatten(0, 1)[asked],
        encoder(tokens, read, asked=asked),
        encoder(tokens, read, places=places, asked=asked),
    ):
        encoder.zero_grad()
        (states * weights).sum().backward()
        found.append((states, [item.grad.clone() for item in encoder.parameters()]))
    for alone in found[1:]:
        torch.testing.assert_close(alone, found[0])
