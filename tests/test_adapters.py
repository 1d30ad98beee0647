"""The contract that every adapter keeps, whatever its model; then what is particular to each."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import random_windows

from harness import registry
from harness.check import contract
from harness.check.candidate import with_rows
from harness.data import Window
from harness.errors import BadData, CheckpointMismatch, DataMissing, UnknownName, UserError


def build(name: str):
    return contract.build(name).adapter


def embed(adapter, windows) -> torch.Tensor:
    with torch.inference_mode():
        return adapter(adapter.collate(windows))


@pytest.fixture(scope="module", params=sorted(registry.model_files()))
def candidate(request):
    return contract.build(request.param)


class TestContract:
    @pytest.mark.parametrize("clause", contract.CLAUSES, ids=lambda clause: clause.__name__)
    def test_clause(self, candidate, clause):
        """Not broken; what a clause skips, it says itself, and that is no skipped test."""
        verdict = contract.judge(clause, candidate)
        assert verdict.state != "violated", f"{verdict.statement}: {verdict.detail}"


class TestMSAMamba:
    def test_official_weights_reproduce_the_authors_outputs(self, shared):
        model = registry.adapter_class("msamamba").from_checkpoint(shared / "weights/msamamba/msamamba.pt").eval()
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

    def test_official_layout_ignores_the_alignment_and_column_layout_does_not(self):
        """The defect of the released code: with one-row groups of neighbours, other rows never reach the target row."""
        rows = random_windows(1, 64)[0]
        one, other = with_rows(rows, 6, seed=1), with_rows(rows, 6, seed=2)
        for layout, insensitive in (("raw_reshape", True), ("column", False)):
            torch.manual_seed(0)
            model = registry.adapter_class("msamamba").from_checkpoint(size="tiny", layout=layout).eval()
            with torch.inference_mode():
                hidden = model.encode(model.collate([one, other])["tokens"])[:, 0, :40]
            assert torch.equal(hidden[0], hidden[1]) == insensitive

    def test_rows_left_out_of_the_scan_cost_nothing(self, monkeypatch):
        """In training, half of the auxiliary rows never reach the mixer; row 0 always does."""
        model = build("msamamba").train()
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
        model = build("msamamba")
        tokens = model.collate([with_rows(window, 4) for window in random_windows(3)])["tokens"]
        at = torch.tensor([39, 10, 0])
        with torch.inference_mode():
            torch.testing.assert_close(model.encode(tokens, at)[:, :, 0], model.encode(tokens)[torch.arange(3), :, at])

    @pytest.mark.parametrize("layout", ["column", "raw_reshape"])
    @pytest.mark.parametrize("pooling", ["mean", "last"])
    def test_layouts_and_poolings_do_not_see_the_padding(self, layout, pooling):
        torch.manual_seed(0)
        model = registry.adapter_class("msamamba").from_checkpoint(size="tiny", layout=layout, pooling=pooling).eval()
        windows = [with_rows(window, 3) for window in random_windows(5, (20, 50))]
        alone = torch.cat([embed(model, [window]) for window in windows])
        torch.testing.assert_close(embed(model, windows), alone, rtol=1e-4, atol=1e-5)

    def test_one_row_shortcut_equals_attention_over_one_row(self):
        attention = build("msamamba").layers[0].attention
        x = torch.randn(2, 1, 7, 32)
        q, k, v = attention.qkv(x + attention.rows[:1, None]).view(2, 1, 7, attention.heads, -1).transpose(1, 3).chunk(3, dim=-1)
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v)  # (B, H, L, 1, W)
        torch.testing.assert_close(attention(x), attention.out(attended.permute(0, 3, 2, 1, 4).flatten(3)))

    def test_different_depths_are_refused(self):
        model = build("msamamba")
        one, other = random_windows(2)
        with pytest.raises(BadData, match="same number"):
            model.collate([with_rows(one, 3), with_rows(other, 4)])

    def test_own_checkpoints_keep_their_layout(self, tmp_path):
        model = build("msamamba")
        torch.save(model.state_dict(), tmp_path / "mine.pt")
        again = registry.adapter_class("msamamba").from_checkpoint(tmp_path / "mine.pt").eval()
        assert again.layout == "column"
        assert torch.equal(embed(again, random_windows(2)), embed(model, random_windows(2)))
        with pytest.raises(UserError, match="trained as column"):
            registry.adapter_class("msamamba").from_checkpoint(tmp_path / "mine.pt", layout="raw_reshape")

    def test_checkpoint_of_another_architecture_is_refused(self, tmp_path):
        torch.save({"bert.embeddings.word_embeddings.weight": torch.zeros(10, 8)}, tmp_path / "bert.pt")
        with pytest.raises(CheckpointMismatch, match="0 of 66 tensors match"):
            registry.adapter_class("msamamba").from_checkpoint(tmp_path / "bert.pt")

    def test_checkpoint_that_is_no_checkpoint_is_refused(self, tmp_path):
        load = registry.adapter_class("msamamba").from_checkpoint
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


class Evil:
    """A pickle that would create a file when loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


class TestFloors:
    def test_composition(self):
        features = embed(build("gc"), [Window("AACGN"), Window("TTTT")])
        np.testing.assert_allclose(features, [[0.4, 0.2, 0.2, 0], [0, 0, 0, 1]], atol=1e-6)

    def test_kmer_counts_against_counting(self):
        window = Window("ACGTNACGGT")
        features = embed(build("kmer"), [window])[0].numpy()
        start = 0
        for k in range(1, 7):
            kmers = ["".join(letters) for letters in np.array(np.meshgrid(*[list("ACGT")] * k, indexing="ij")).reshape(k, -1).T]
            counts = np.array(
                [sum(window.sequence[i : i + k] == kmer for i in range(len(window) - k + 1)) for kmer in kmers], float
            )
            expected = counts / max(np.linalg.norm(counts), 1e-12)
            np.testing.assert_allclose(features[start : start + 4**k], expected, atol=1e-6)
            start += 4**k


class TestRegistry:
    def test_both_spellings_and_hints(self):
        assert registry.model_names("MSAMamba") == ["msamamba"]
        assert set(registry.model_names("floors")) == {"cnn", "gc", "kmer"}
        with pytest.raises(UnknownName, match="did you mean msamamba"):
            registry.model_names("msa-mumba")

    def test_a_model_from_a_path(self, tmp_path):
        (tmp_path / "mine.py").write_text(
            "from harness.adapters.gc import BaseComposition\n"
            "from harness.card import ModelCard\n"
            "class Mine(BaseComposition):\n"
            "    name = 'mine'\n"
            "    card = ModelCard(summary='s', paper='p', licence='l', alphabet='ACGT')\n"
        )
        assert registry.adapter_class(str(tmp_path / "mine.py")).name == "mine"
        (tmp_path / "empty.py").write_text("x = 1\n")
        with pytest.raises(UserError, match="expected one Adapter"):
            registry.adapter_class(str(tmp_path / "empty.py"))
        with pytest.raises(UnknownName, match="no such file"):
            registry.adapter_class(str(tmp_path / "none.py"))

    def test_a_model_from_an_installed_package(self, tmp_path):
        package = tmp_path / "site" / "their_model-1.0.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: their-model\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text("[harness.adapters]\ntheir-model = their_model\n")
        (tmp_path / "site" / "their_model.py").write_text(
            "from pathlib import Path\n"
            "from harness.adapters.gc import BaseComposition\n"
            "from harness.card import ModelCard\n"
            "class Theirs(BaseComposition):\n"
            "    name = 'their_model'\n"
            "    card = ModelCard(summary='theirs', paper='p', licence='l', alphabet='ACGT')\n"
        )
        code = (
            f"import sys; sys.path.append({str(tmp_path / 'site')!r})\n"
            "from harness import registry\n"
            "assert registry.model_cards()['their_model'].summary == 'theirs' and 'torch' not in sys.modules\n"
            "print(registry.adapter_class('their-model').__name__)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=registry.__file__.rsplit("/", 2)[0]
        )
        assert done.stdout.strip() == "Theirs", done.stderr
