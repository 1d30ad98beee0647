"""The contract that every adapter keeps, whatever its model; then what is particular to each."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import random_windows

from harness import registry
from harness.data import Window
from harness.errors import BadData, CheckpointMismatch, DataMissing, UnknownName, UserError

NAMES = sorted(registry.model_files())
TINY = {"msamamba": "tiny", "cnn": "tiny"}


def build(name: str):
    torch.manual_seed(0)
    return registry.adapter_class(name).from_checkpoint(None, size=TINY.get(name, "base")).eval()


def embed(adapter, windows) -> torch.Tensor:
    with torch.inference_mode():
        return adapter(adapter.collate(windows))


@pytest.fixture(scope="module", params=NAMES)
def adapter(request):
    return build(request.param)


class TestContract:
    def test_facts(self, adapter):
        cls = type(adapter)
        assert cls.name in NAMES
        assert registry.model_cards()[cls.name] == cls.card, "the card must be a literal that reads the same without running the file"
        assert cls.card.reads in ("sequence", "alignment")
        assert cls.__doc__
        assert "embedding" in cls.__doc__.lower(), "the pooling is stated in the docstring"

    def test_shape_and_type(self, adapter):
        windows = random_windows(5)
        batch = adapter.collate(windows)
        assert all(tensor.device.type == "cpu" and len(tensor) == 5 for tensor in batch.values())
        embeddings = embed(adapter, windows)
        assert embeddings.shape == (5, adapter.embedding_dim)
        assert torch.isfinite(embeddings).all()

    def test_padding_does_not_change_an_embedding(self, adapter):
        windows = random_windows(6, (20, 60))
        together = embed(adapter, windows)
        alone = torch.cat([embed(adapter, [window]) for window in windows])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    def test_order_in_the_batch_does_not_matter(self, adapter):
        windows = random_windows(6, (20, 60))
        torch.testing.assert_close(embed(adapter, windows[::-1]), embed(adapter, windows).flip(0), rtol=1e-4, atol=1e-5)

    def test_evaluation_is_deterministic(self, adapter):
        windows = random_windows(4)
        assert torch.equal(embed(adapter, windows), embed(adapter, windows))

    def test_embedding_depends_on_the_sequence(self, adapter):
        embeddings = embed(adapter, random_windows(8))
        assert embeddings.std(dim=0).max() > 1e-4

    def test_whole_window_is_read(self, adapter):
        """Nothing is truncated: a change of the first or the last letter shows."""
        window = random_windows(1, 101)[0].sequence
        flip = {"A": "C", "C": "G", "G": "T", "T": "A"}
        variants = [flip[window[0]] + window[1:], window[:-1] + flip[window[-1]]]
        original, *changed = embed(adapter, [Window(sequence) for sequence in (window, *variants)])
        assert all(not torch.equal(original, other) for other in changed)

    def test_unknown_letters_are_read(self, adapter):
        assert torch.isfinite(embed(adapter, [Window("N" * 30), Window("ACGTN" * 6)])).all()

    def test_one_letter(self, adapter):
        assert embed(adapter, [Window("A")]).shape == (1, adapter.embedding_dim)

    def test_every_trained_parameter_gets_a_gradient(self, adapter):
        model = copy.deepcopy(adapter).train()
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        if not trained:
            assert type(adapter).recipe.tune == "probe", "a model without weights is fitted as a probe"
            return
        windows = random_windows(4)
        if type(adapter).card.reads == "alignment":
            windows = [with_rows(window, 3) for window in windows]
        model(model.collate(windows)).square().sum().backward()
        assert [name for name, parameter in trained if parameter.grad is None or not parameter.grad.abs().sum() > 0] == []

    def test_batches_and_models_can_be_pickled(self, adapter):
        windows = random_windows(3)
        again = pickle.loads(pickle.dumps(adapter))
        batch = pickle.loads(pickle.dumps(adapter.collate(windows)))
        with torch.inference_mode():
            assert torch.equal(again(batch), embed(adapter, windows))

    def test_weights_can_be_saved_and_loaded(self, adapter, tmp_path):
        torch.save(adapter.state_dict(), tmp_path / "weights.pt")
        torch.manual_seed(1)
        other = build(type(adapter).name)
        other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
        windows = random_windows(3)
        assert torch.equal(embed(other, windows), embed(adapter, windows))

    def test_unknown_size_is_refused(self, adapter):
        if type(adapter).recipe.tune == "probe":
            pytest.skip("has no sizes")
        with pytest.raises(UserError, match="size 'huge'"):
            type(adapter).from_checkpoint(None, size="huge")


def with_rows(window: Window, depth: int, seed: int = 0) -> Window:
    """The window on top of an alignment whose other rows are noisy copies with gaps."""
    rng = np.random.default_rng(seed)
    rows = np.tile(np.frombuffer(window.sequence.encode(), np.uint8), (depth, 1))
    noise = rng.random(rows.shape) < 0.2
    noise[0] = False
    rows = np.where(noise, rng.choice(np.frombuffer(b"ACGT-", np.uint8), rows.shape), rows)
    return Window(window.sequence, alignment=rows.astype(np.uint8))


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
            pickle.dump(Evil(tmp_path / "ran"), file)
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
            counts = np.array([sum(window.sequence[i : i + k] == kmer for i in range(len(window) - k + 1)) for kmer in kmers], float)
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
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=registry.__file__.rsplit("/", 2)[0])
        assert done.stdout.strip() == "Theirs", done.stderr
