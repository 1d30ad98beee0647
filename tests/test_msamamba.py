"""MSAMamba against its plain definition, gradients included, and against stored outputs; what it computes and keeps."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import pretraining_batch, random_windows
from test_rnafm import Evil

from harness.adapters import _msamamba_block, _msamamba_definition
from harness.adapters._mamba import MambaShape
from harness.adapters._msamamba_shape import BlockShape
from harness.adapters.msamamba import MSAMamba
from harness.check.candidate import with_rows
from harness.engine.pretrain import TOKENS_PER_STEP
from harness.errors import BadData, CheckpointMismatch, DataMissing, UserError
from harness.files.alignments import check_order

GOLDEN = Path(__file__).parent / "golden/msamamba"


def tiny(**options):
    torch.manual_seed(0)
    return MSAMamba.from_checkpoint(size="tiny", **options).eval()


def embed(model, windows) -> torch.Tensor:
    with torch.inference_mode():
        return model(model.collate(windows))


def plain_encode(model, tokens, drawn=None):
    """Hidden states (B, S, L, D) by the definition; ``drawn`` (B, K) are the rows that are scanned."""
    return _msamamba_definition.encode(dict(model.named_parameters()), tokens, drawn, model.masking)


def plain_logits(model, hidden):
    return _msamamba_definition.logits(dict(model.named_parameters()), hidden)


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
        monkeypatch.setattr(_msamamba_block, "SLICE", numbers)

    def test_target_row(self, layout, rows):
        model = build(layout).eval()
        tokens = tokens_of(rows)
        assert_same(model, model.encode(tokens)[:, 0], plain_encode(model, tokens)[:, 0])

    def test_target_row_at_one_column(self, layout, rows):
        model = build(layout).eval()
        tokens, at = tokens_of(rows), torch.tensor([0, 10, 4])
        assert_same(model, model.encode(tokens, at)[:, 0, 0], plain_encode(model, tokens)[torch.arange(3), 0, at])


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
        logits = plain_logits(model, plain_encode(model, tokens[None, :, :length])[0, 0, positions[row]])
        ours = model.base_log_probabilities(batch)[row]
        torch.testing.assert_close(ours.double(), logits[1:5].log_softmax(dim=0), rtol=1e-5, atol=1e-6)


def test_pretraining_logits():
    model = build(mask_rows=0).train()
    batch = pretraining_batch(model, [with_rows(window, 5) for window in random_windows(3)], np.random.default_rng(0))
    plain = plain_logits(model, plain_encode(model, batch["tokens"])[:, 0][batch["targets"] >= 0])
    assert_same(model, model.pretraining_logits(batch), plain)


def test_bf16_stays_near_float32():
    model, tokens = build().float().eval(), tokens_of(7)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rounded = model.encode(tokens)
    exact = model.encode(tokens)
    assert F.cosine_similarity(rounded.float(), exact, dim=-1).min() > 0.999


def test_training_keeps_no_more_than_slices(monkeypatch):
    """For 32 columns the backward pass keeps one slice and the slices' inputs."""
    kept = SimpleNamespace(numbers=0)

    def pack(tensor):
        kept.numbers += tensor.numel()
        return tensor

    model, tokens = build().train(), tokens_of(16, length=32, count=2)
    sizes = {}
    for numbers in (1 << 11, 1 << 30):
        monkeypatch.setattr(_msamamba_block, "SLICE", numbers)
        kept.numbers = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.encode(tokens).sum()
        sizes[numbers] = kept.numbers
    assert sizes[1 << 11] < sizes[1 << 30] / 5


class TestOutputs:
    """Stored outputs of the definition, and of the authors' code with their weights."""

    @pytest.mark.parametrize("layout", ["raw_reshape", "column"])
    def test_stored_outputs_are_reproduced(self, layout):
        model, arrays = MSAMamba.from_checkpoint(GOLDEN / layout).eval(), np.load(GOLDEN / "arrays.npz")
        count = {"raw_reshape": 45, "column": 47}[layout]
        assert (model.audit.matched, model.audit.expected, model.audit.unused) == (count, count, ())
        assert model.layout == layout
        cases = {key.split(".")[1] for key in arrays if key.startswith(layout)}
        assert len(cases) == 3
        for case in cases:
            with torch.inference_mode():
                hidden = model.encode(torch.from_numpy(arrays[f"{case}.tokens"]))[:, 0]
                logits = model.lm_head(hidden)
            np.testing.assert_allclose(hidden, arrays[f"{layout}.{case}.hidden_row0"], atol=1e-4, rtol=0)
            np.testing.assert_allclose(logits, arrays[f"{layout}.{case}.logits_row0"], atol=1e-4, rtol=0)

    def test_official_weights_reproduce_the_authors_outputs(self, shared):
        model = MSAMamba.from_checkpoint(shared / "weights/msamamba/msamamba.pt").eval()
        assert (model.audit.matched, model.audit.expected, model.audit.unused) == (66, 66, ())
        assert model.layout == "raw_reshape"
        golden = np.load(shared / "weights/msamamba/golden.npz")
        cases = {key.split(".")[0] for key in golden}
        assert len(cases) == 4
        for case in cases:
            with torch.inference_mode():
                hidden = model.encode(torch.from_numpy(golden[f"{case}.tokens"]))
                logits = model.lm_head(hidden)
            np.testing.assert_allclose(hidden[:, 0], golden[f"{case}.hidden_row0"], atol=1e-4)
            np.testing.assert_allclose(logits[:, 0], golden[f"{case}.logits_row0"], atol=1e-4)

    def test_the_definition_reproduces_the_authors_logits_of_every_row(self, shared):
        model = MSAMamba.from_checkpoint(shared / "weights/msamamba/msamamba.pt").eval()
        golden = np.load(shared / "weights/msamamba/golden.npz")
        for case in ("b1_m5_l16", "b2_m3_l33", "b1_m1_l32"):
            with torch.inference_mode():
                logits = plain_logits(model, plain_encode(model, torch.from_numpy(golden[f"{case}.tokens"])))
            np.testing.assert_allclose(logits, golden[f"{case}.logits"], atol=1e-4)

    def test_official_weights_need_only_the_rows_that_reach_the_target(self, shared):
        """Of an alignment of 90 rows, no more than four are read."""
        model = MSAMamba.from_checkpoint(shared / "weights/msamamba/msamamba.pt").eval()
        golden = np.load(shared / "weights/msamamba/golden.npz")
        seen = []
        model.embed.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
        with torch.inference_mode():
            hidden = model.encode(torch.from_numpy(golden["b1_m90_l64.tokens"]))
        np.testing.assert_allclose(hidden[:, 0], golden["b1_m90_l64.hidden_row0"], atol=1e-4)
        assert seen == [4]


class TestComputation:
    """What is computed, and what is left out."""

    def test_official_layout_ignores_the_alignment_and_column_layout_does_not(self):
        """The defect of the released code: as groups lie within one row, other rows never reach the target row."""
        rows = random_windows(1, 64)[0]
        one, other = with_rows(rows, 6, seed=1), with_rows(rows, 6, seed=2)
        for layout, insensitive in (("raw_reshape", True), ("column", False)):
            torch.manual_seed(0)
            model = MSAMamba.from_checkpoint(size="tiny", layout=layout).eval()
            with torch.inference_mode():
                hidden = model.encode(model.collate([one, other])["tokens"])[:, 0, :40]
            assert torch.equal(hidden[0], hidden[1]) == insensitive

    def test_rows_left_out_of_the_scan_cost_nothing(self, monkeypatch):
        """In training, half of the auxiliary rows never reach the mixer; row 0 always does."""
        model = tiny().train()
        seen = []
        for layer in model.layers:
            layer.mixer.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        windows = [with_rows(window, 9) for window in random_windows(2)]
        model(model.collate(windows))
        assert seen == [2 * 5] * len(model.layers)
        drawn = model._draw_rows(torch.zeros(4, 9, 1, 1))
        assert drawn.shape == (4, 5)
        assert (drawn[:, 0] == 0).all()
        assert all(len(set(rows.tolist())) == 5 for rows in drawn)
        model.eval()
        assert model._draw_rows(torch.zeros(4, 9, 1, 1)) is None

    def test_early_column_equals_the_full_computation(self):
        model = tiny()
        tokens = model.collate([with_rows(window, 4) for window in random_windows(3)])["tokens"]
        at = torch.tensor([39, 10, 0])
        with torch.inference_mode():
            torch.testing.assert_close(model.encode(tokens, at)[:, :, 0], model.encode(tokens)[torch.arange(3), :, at])

    @pytest.mark.parametrize("layout", ["column", "raw_reshape"])
    @pytest.mark.parametrize("pooling", ["mean", "last"])
    def test_layouts_and_poolings_do_not_see_the_padding(self, layout, pooling):
        torch.manual_seed(0)
        model = MSAMamba.from_checkpoint(size="tiny", layout=layout, pooling=pooling).eval()
        windows = [with_rows(window, 3) for window in random_windows(5, (20, 50))]
        alone = torch.cat([embed(model, [window]) for window in windows])
        torch.testing.assert_close(embed(model, windows), alone, rtol=1e-4, atol=1e-5)

    def test_one_row_shortcut_equals_attention_over_one_row(self):
        attention = tiny().layers[0].attention
        x = torch.randn(14, 1, 32)
        q, k, v = attention.qkv(x + attention.rows[:1]).view(14, 1, attention.heads, -1).transpose(1, 2).chunk(3, dim=-1)
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v)  # (U, H, 1, W)
        torch.testing.assert_close(attention(x, None, 1), attention.out(attended.transpose(1, 2).flatten(2)))

    def test_different_depths_are_refused(self):
        model = tiny()
        one, other = random_windows(2)
        with pytest.raises(BadData, match="same number"):
            model.collate([with_rows(one, 3), with_rows(other, 4)])


class TestFiles:
    @pytest.mark.parametrize("layout", ["column", "raw_reshape"])
    def test_other_sizes_are_read_back(self, layout, tmp_path):
        """And they are those that the definition computes with, for which the weights alone suffice."""
        torch.manual_seed(0)
        shape = BlockShape(width=22, heads=3, inner=50, mixer=MambaShape(inner=30, state=5, conv=3, rank=7), rows=9)
        model = MSAMamba(4, 22, layout, "mean", 0.5, shape).eval()
        torch.save(model.state_dict(), tmp_path / "mine.pt")
        for config in (None, {"n_layers": 4, "d_model": 22, "n_heads": 3, "d_attn": 11, "d_mem": 50, "vocab_size": 6}):
            if config:
                (tmp_path / "config.json").write_text(json.dumps(config))
            again = MSAMamba.from_checkpoint(tmp_path / "mine.pt", pooling="mean").eval()
            assert (again.audit.matched, again.audit.unused) == (again.audit.expected, ())
            assert again.most_rows == (9 if layout == "column" else 128)
            tokens = tokens_of(6)
            with torch.inference_mode():
                assert torch.equal(again.encode(tokens), model.encode(tokens))
                torch.testing.assert_close(again.encode(tokens)[:, 0], plain_encode(again, tokens)[:, 0], rtol=1e-4, atol=1e-5)
        windows = [with_rows(window, 12) for window in random_windows(2)]
        if layout == "column":
            with pytest.raises(BadData, match=r"alignments of \[12\] rows: .* at most 9"):
                again.collate(windows)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"n_heads": 8}, "has n_heads 8, its tensors 4"),
            ({"d_mem": 100}, "has d_mem 100, its tensors 128"),
            ({"n_layers": 1}, "has n_layers 1, its tensors 2"),
            ({"norm": "layernorm"}, "norm 'layernorm'; implemented is 'rmsnorm'"),
            ({"model_type": "bert"}, "model_type 'bert', expected msamamba"),
        ],
    )
    def test_a_config_of_something_else_is_refused(self, tmp_path, change, message):
        torch.save(tiny().state_dict(), tmp_path / "mine.pt")
        (tmp_path / "config.json").write_text(json.dumps(change))
        with pytest.raises(CheckpointMismatch, match=message):
            MSAMamba.from_checkpoint(tmp_path / "mine.pt")

    def test_the_order_of_species_comes_back_with_the_weights(self, tmp_path):
        torch.save(tiny().state_dict(), tmp_path / "pytorch_model.bin")
        assert MSAMamba.from_checkpoint(tmp_path).species_names is None
        (tmp_path / "pretrain.json").write_text(json.dumps({"settings": {"species": ["hg38", "panTro4", "mm10"]}}))
        model = MSAMamba.from_checkpoint(tmp_path)
        assert model.species_names == ("panTro4", "mm10")
        check_order(Path("x.maf"), ("hg38", "panTro4", "mm10"), model.species_names, model.name)
        with pytest.raises(
            UserError, match=r"row 1 is 'mm10', where msamamba was trained with 'panTro4'; give --species panTro4,mm10$"
        ):
            check_order(Path("x.maf"), ("hg38", "mm10", "panTro4"), model.species_names, model.name)

    def test_own_checkpoints_keep_their_layout(self, tmp_path):
        model = tiny()
        torch.save(model.state_dict(), tmp_path / "mine.pt")
        again = MSAMamba.from_checkpoint(tmp_path / "mine.pt").eval()
        assert again.layout == "column"
        assert torch.equal(embed(again, random_windows(2)), embed(model, random_windows(2)))
        with pytest.raises(UserError, match="trained as column"):
            MSAMamba.from_checkpoint(tmp_path / "mine.pt", layout="raw_reshape")

    def test_checkpoint_of_another_architecture_is_refused(self, tmp_path):
        torch.save({"bert.embeddings.word_embeddings.weight": torch.zeros(10, 8)}, tmp_path / "bert.pt")
        with pytest.raises(CheckpointMismatch, match="0 of 66 tensors match"):
            MSAMamba.from_checkpoint(tmp_path / "bert.pt")

    def test_checkpoint_that_is_no_checkpoint_is_refused(self, tmp_path):
        load = MSAMamba.from_checkpoint
        with pytest.raises(DataMissing, match="no such file"):
            load(tmp_path / "none.pt")
        (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 not a zip")
        with pytest.raises(BadData, match="cannot be read"):
            load(tmp_path / "cut.pt")
        with (tmp_path / "evil.pt").open("wb") as file:
            pickle.dump(Evil(tmp_path / "ran"), file, protocol=2)
        with pytest.raises(BadData, match="refused, not run"):
            load(tmp_path / "evil.pt")
        assert not (tmp_path / "ran").exists()


class TestSettings:
    def test_the_papers_settings_are_the_default_ones(self):
        """C.2.3 of the paper; those of the released script have a name of their own."""
        published, script = MSAMamba.pretraining, MSAMamba.released_script
        assert (published.learning_rate, published.warmup) == (3e-5, 0.1)
        assert published.batch_size * 512 * 8 == TOKENS_PER_STEP == 49_152
        assert (MSAMamba.recipe.weight_decay, MSAMamba.recipe.warmup) == (1e-3, 0.1)
        assert (script.learning_rate, script.betas, script.weight_decay) == (3e-4, (0.9, 0.99), 0.08)
