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
