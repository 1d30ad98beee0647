"""MSAMamba's rows: those left out in training, and those that the windows of a variant share."""

from __future__ import annotations

import pytest
import torch
from test_msamamba import assert_same, build, plain_encode, tiny, tokens_of

from harness.adapters import _msamamba_block
from harness.adapters._msamamba_cells import first_alike


def variants(rows, length=11):
    """Tokens of two variants, reference and alternate, whose target rows alone differ, at letters 6 and 3."""
    tokens = tokens_of(rows, length, 2).repeat_interleave(2, dim=0)
    for window, position in ((1, 6), (3, 3)):
        tokens[window, 0, position] = 1 + tokens[window, 0, position] % 4
    return tokens


@pytest.mark.parametrize("numbers", [1, 1 << 19], ids=["smallest slices", "one slice"])
@pytest.mark.parametrize("masking", ["scan", "block"])
@pytest.mark.parametrize("tokens", [tokens_of(7), variants(7)], ids=["windows", "variants"])
def test_rows_left_out_keep_their_residual(monkeypatch, numbers, masking, tokens):
    """In the scan, or in all of a block."""
    monkeypatch.setattr(_msamamba_block, "SLICE", numbers)
    model = build(mask_rows=0.6, masking=masking).train()
    torch.manual_seed(1)
    drawn = model._draw_rows(tokens)
    assert drawn is not None
    torch.manual_seed(1)
    assert_same(model, model.encode(tokens)[:, 0], plain_encode(model, tokens, drawn)[:, 0])


class TestSharing:
    """What the windows of a variant have in common is computed once."""

    @pytest.mark.parametrize("numbers", [1, 1 << 19], ids=["smallest slices", "one slice"])
    @pytest.mark.parametrize("at", [None, torch.tensor([6, 6, 2, 4])])
    @pytest.mark.parametrize("rows", [2, 7])
    def test_changes_nothing(self, monkeypatch, numbers, at, rows):
        monkeypatch.setattr(_msamamba_block, "SLICE", numbers)
        model, tokens = build().eval(), variants(rows)
        plain = plain_encode(model, tokens)[:, 0]
        plain = plain if at is None else plain[torch.arange(4), at].unsqueeze(1)
        assert_same(model, model.encode(tokens, at)[:, 0], plain)

    def test_scans_and_attends_once(self):
        """Six auxiliary rows per variant; the columns left of letters 6 and 3."""
        seen, model = [], tiny()
        for layer in model.layers:
            layer.mixer.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
            layer.mlp.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[:2]))
        model.encode(variants(7))
        assert seen == [2 * 6 + 4, (4 * 11 - 6 - 3, 7), 4 * 7, (4 * 11 - 6 - 3, 1)]

    def test_is_of_runs_of_windows_with_the_same_auxiliary_rows(self):
        tokens = variants(7)
        assert first_alike(tokens).tolist() == [0, 0, 2, 2]
        assert first_alike(torch.cat([tokens, tokens[3:]])).tolist() == [0, 0, 2, 2, 4], "copies of a window are apart"
        assert first_alike(tokens[[0, 1, 0, 2]]).tolist() == [0, 0, 0, 3]

    def test_the_windows_of_a_variant_leave_out_the_same_rows(self):
        model, tokens = tiny().train(), variants(40)
        drawn = model._draw_rows(tokens)
        assert torch.equal(drawn[0], drawn[1])
        assert torch.equal(drawn[2], drawn[3])
        assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("queries", [4, 90])
def test_attention_in_bf16_is_that_in_float32_rounded(queries):
    """In output and gradients: as near as the rounding of inputs to 8 bits allows."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, rows, 16).bfloat16().requires_grad_() for rows in (queries, 90, 90))
    exact = [tensor.detach().float().requires_grad_() for tensor in (q, k, v)]
    found, expected = _msamamba_block.attend(q, k, v), _msamamba_block.attend(*exact)
    torch.testing.assert_close(found.float(), expected, atol=0.01, rtol=0.02)
    weights = torch.randn_like(expected)
    ours, theirs = torch.autograd.grad(found, (q, k, v), weights.bfloat16()), torch.autograd.grad(expected, exact, weights)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.float(), other, atol=0.02, rtol=0.05)
