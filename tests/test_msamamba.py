"""MSAMamba against a plain definition of it: every row of every block, softmax attention written out; gradients too."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import random_windows

from harness.adapters import msamamba
from harness.adapters.msamamba import MSAMamba
from harness.check.candidate import with_rows


def softmax_attention(attention, x, layout):
    B, S, L, _ = x.shape
    if layout == "column":
        x = x + attention.rows[:S, None]
        q, k, v = attention.qkv(x).view(B, S, L, attention.heads, -1).permute(0, 2, 3, 1, 4).chunk(3, dim=-1)
    else:
        q, k, v = attention.qkv(x).reshape(B, L, attention.heads, S, -1).chunk(3, dim=-1)
    attended = (q @ k.mT / attention.head_width**0.5).softmax(dim=-1) @ v  # (B, L, H, S, W)
    rows_first = attended.permute(0, 3, 1, 2, 4) if layout == "column" else attended
    return attention.out(rows_first.reshape(B, S, L, -1))


def rms_norm(norm, x):
    return norm.scale * x / (x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5 + 1e-8)


def plain_encode(model, tokens, drawn=None):
    """Hidden states (B, S, L, D); ``drawn`` (B, K) are the rows that are scanned."""
    x = model.embed(tokens.long())
    scanned = torch.ones(tokens.shape[:2]) if drawn is None else torch.zeros(tokens.shape[:2]).scatter(1, drawn, 1)
    for block in model.layers:
        mixed = block.mixer(block.norm(x).flatten(0, 1)).view_as(x)
        x = rms_norm(block.norm1, mixed * scanned[:, :, None, None].to(x.dtype) + x)
        x = rms_norm(block.norm2, softmax_attention(block.attention, x, model.layout) + x)
        x = rms_norm(block.norm3, block.mlp(x) + x)
    return x


def build(layout="column", pooling="mean", **options):
    torch.manual_seed(0)
    model = MSAMamba.from_checkpoint(size="tiny", layout=layout, pooling=pooling, **options).double()
    with torch.no_grad():  # away from where norms start, so that a wrong one shows
        for block in model.layers:
            for norm in (block.norm1, block.norm2, block.norm3):
                norm.scale.uniform_(0.5, 1.5)
    return model


def tokens_of(rows, length=11, count=3):
    return torch.randint(0, 5, (count, rows, length), generator=torch.Generator().manual_seed(rows), dtype=torch.uint8)


def gradients(model, output):
    model.zero_grad()
    (output * torch.arange(output.numel(), dtype=output.dtype).sin().view_as(output)).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same(model, ours, plain):
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    mine, theirs = gradients(model, ours), gradients(model, plain)
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("layout", ["column", "raw_reshape"])
@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("numbers", [1, 1 << 19], ids=["smallest slices", "one slice"])
class TestPlainDefinition:
    @pytest.fixture(autouse=True)
    def _slices(self, monkeypatch, numbers):
        monkeypatch.setattr(msamamba, "SLICE", numbers)

    def test_target_row(self, layout, rows):
        model = build(layout).eval()
        tokens = tokens_of(rows)
        assert_same(model, model.encode(tokens)[:, 0], plain_encode(model, tokens)[:, 0])

    def test_target_row_at_one_column(self, layout, rows):
        model = build(layout).eval()
        tokens, at = tokens_of(rows), torch.tensor([0, 10, 4])
        assert_same(model, model.encode(tokens, at)[:, 0, 0], plain_encode(model, tokens)[torch.arange(3), 0, at])


@pytest.mark.parametrize("numbers", [1, 1 << 19], ids=["smallest slices", "one slice"])
def test_rows_left_out_of_the_scan_keep_their_residual(monkeypatch, numbers):
    monkeypatch.setattr(msamamba, "SLICE", numbers)
    model, tokens = build(mask_rows=0.6).train(), tokens_of(7)
    torch.manual_seed(1)
    drawn = model._draw_rows(tokens)
    assert drawn is not None
    torch.manual_seed(1)
    assert_same(model, model.encode(tokens)[:, 0], plain_encode(model, tokens, drawn)[:, 0])


@pytest.mark.parametrize("layout", ["column", "raw_reshape"])
@pytest.mark.parametrize("pooling", ["mean", "centre", "last"])
def test_pooled_windows_of_several_lengths(layout, pooling):
    model = build(layout, pooling).eval()
    windows = [with_rows(window, 5) for window in random_windows(5, (9, 30))]
    batch = model.collate(windows)
    plain = []
    for tokens, length in zip(batch["tokens"], batch["lengths"].tolist(), strict=True):
        hidden = plain_encode(model, tokens[None, :, :length])[0, 0]
        plain.append({"mean": hidden.mean(dim=0), "centre": hidden[length // 2], "last": hidden[-1]}[pooling])
    torch.testing.assert_close(model(batch).double(), torch.stack(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", ["column", "raw_reshape"])
def test_masked_bases(layout):
    model = build(layout).eval()
    windows, positions = [with_rows(window, 5) for window in random_windows(4, (9, 30))], [0, 8, 3, 5]
    batch = model.collate_masked(windows, positions)
    for row, (tokens, length) in enumerate(zip(batch["tokens"], batch["lengths"].tolist(), strict=True)):
        logits = model.lm_head(plain_encode(model, tokens[None, :, :length])[0, 0, positions[row]])
        ours = model.base_log_probabilities(batch)[row]
        torch.testing.assert_close(ours.double(), logits[1:5].log_softmax(dim=0), rtol=1e-5, atol=1e-6)


def test_pretraining_logits():
    model = build(mask_rows=0).train()
    batch = model.collate_pretraining([with_rows(window, 5) for window in random_windows(3)], np.random.default_rng(0))
    plain = model.lm_head(plain_encode(model, batch["tokens"])[:, 0][batch["targets"] >= 0])
    assert_same(model, model.pretraining_logits(batch), plain)


def test_official_weights_need_only_the_rows_that_reach_the_target(shared):
    """The authors' outputs for alignments of up to 90 rows, of which no more than a few are read."""
    model = MSAMamba.from_checkpoint(shared / "weights/msamamba/msamamba.pt").eval()
    golden = np.load(shared / "weights/msamamba/golden.npz")
    seen = []
    model.embed.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    with torch.inference_mode():
        hidden = model.encode(torch.from_numpy(golden["b1_m90_l64.tokens"]))
    np.testing.assert_allclose(hidden[:, 0], golden["b1_m90_l64.hidden_row0"], atol=1e-4)
    assert seen == [4]


def test_bf16_stays_near_float32():
    model, tokens = build().float().eval(), tokens_of(7)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rounded = model.encode(tokens)
    exact = model.encode(tokens)
    assert F.cosine_similarity(rounded.float(), exact, dim=-1).min() > 0.999


def test_training_keeps_no_more_than_slices(monkeypatch):
    """What the backward pass needs of 32 columns fits into what one slice and the slices' inputs take."""
    kept = SimpleNamespace(numbers=0)

    def pack(tensor):
        kept.numbers += tensor.numel()
        return tensor

    model, tokens = build().train(), tokens_of(16, length=32, count=2)
    sizes = {}
    for numbers in (1 << 11, 1 << 30):
        monkeypatch.setattr(msamamba, "SLICE", numbers)
        kept.numbers = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.encode(tokens).sum()
        sizes[numbers] = kept.numbers
    assert sizes[1 << 11] < sizes[1 << 30] / 5
