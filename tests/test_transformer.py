"""Dropout and attention in the forms that training on a CPU takes, and the last layer where only the first token is read."""

from __future__ import annotations

import pytest
import torch
from conftest import random_windows
from test_dnabert import adapter

from harness.adapters._attention import attend, dropout


class TestTraining:
    """Dropout and attention in the forms that training on a CPU takes."""

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

    @pytest.mark.parametrize("pooling", ["pooler", "cls"])
    def test_last_layer_computes_what_is_read(self, pooling):
        """The embedding and every gradient are those of all tokens' hidden states."""
        model = adapter("dnabert1", size="tiny", pooling=pooling)
        batch = model.collate(random_windows(5, (20, 60)))
        tokens, lengths = batch["tokens"][:, 0], batch["lengths"]
        hidden = model.encoder(tokens, torch.arange(tokens.shape[1]) < lengths)
        assert hidden.shape == (*tokens.shape, 64)
        expected = hidden[:, 0] if pooling == "cls" else model.pooled(hidden)
        found = model(batch)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        weights = torch.randn_like(found)
        gradients = [torch.autograd.grad((out * weights).sum(), trained) for out in (found, expected)]
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
