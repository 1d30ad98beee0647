"""The files of DNABERT-1, GeneMask and DNABERT-2 that are accepted, and those that are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SHARED, random_windows
from safetensors.torch import save_file
from test_dnabert import ALL, KMER, adapter, embed, golden_checkpoint, write_tokenizer

from harness import registry
from harness.adapters._kmer_bert import vocabulary
from harness.adapters._transformer import Shape
from harness.adapters.dnabert2 import DNABERT2, plain_tokenizer
from harness.data import Window
from harness.errors import BadData, CheckpointMismatch, DataMissing, UserError


@pytest.fixture
def checkpoint(tmp_path):
    """A function from a model's name to a small checkpoint that a test may spoil."""
    return lambda name: golden_checkpoint(name, tmp_path / name)


def spoiled(folder: Path, change) -> Path:
    """The folder with its tensors, by name, replaced by ``change`` of them."""
    file = folder / "pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    torch.save(change(tensors), file)
    return folder


def without(part: str):
    return lambda tensors: {key: value for key, value in tensors.items() if part not in key}


def reconfigure(folder: Path, **values) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


class TestFiles:
    @pytest.mark.parametrize("name", ALL)
    def test_audit(self, checkpoint, name):
        audit = adapter(name, checkpoint(name)).audit
        assert audit.matched == audit.expected == (32 if name == "dnabert2" else 46)
        assert audit.missing == audit.unused == ()
        assert audit.facts["language_head"]
        assert audit.facts["tied_decoder"]
        assert audit.facts["special_ids"]["[MASK]"] == 4
        assert audit.facts["vocabulary"] == (4096 if name == "dnabert2" else 4101)
        assert audit.facts.get("k") == (None if name == "dnabert2" else 6)

    @pytest.mark.parametrize("name", ALL)
    def test_other_spellings_of_the_same_weights(self, checkpoint, name):
        """A file without tied tensors, with old LayerNorm names and an extra position_ids is the same model."""
        folder = checkpoint(name)
        expected = embed(adapter(name, folder), "ACGTTGCATGA")
        tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
        tensors = {key: value for key, value in tensors.items() if "decoder" not in key or name == "dnabert2"}
        for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            tensors = {key.replace(new, old): value for key, value in tensors.items()}
        tensors["bert.embeddings.position_ids"] = torch.arange(512)[None]
        (folder / "pytorch_model.bin").unlink()
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
        model = adapter(name, folder)
        assert torch.equal(embed(model, "ACGTTGCATGA"), expected)
        assert model.audit.unused == ("bert.embeddings.position_ids",)

    @pytest.mark.parametrize("name", ALL)
    def test_files_of_classifiers(self, checkpoint, name):
        """Without a language head the model still embeds, and refuses to fill in bases."""
        folder = spoiled(checkpoint(name), without("cls."))
        model = adapter(name, folder)
        assert not model.audit.facts["language_head"]
        assert torch.isfinite(embed(model, "ACGTTGCATGA")).all()
        with pytest.raises(UserError, match="no masked-language head"), torch.inference_mode():
            model.base_log_probabilities(model.collate_masked([Window("ACGTTGCATGA")], [4]))

    @pytest.mark.parametrize("name", ALL)
    def test_untied_decoder_is_kept_and_reported(self, checkpoint, name):
        shape = (4096 if name == "dnabert2" else 4101, 32 if name == "genemask" else 48)
        decoder = torch.randn(shape)
        model = adapter(name, spoiled(checkpoint(name), lambda tensors: tensors | {"cls.predictions.decoder.weight": decoder}))
        assert model.audit.facts["tied_decoder"] is False
        assert torch.equal(model.lm_head.decoder.weight, decoder)
        assert not torch.equal(model.encoder.tokens.weight, decoder)

    @pytest.mark.parametrize("name", KMER)
    def test_file_without_pooler(self, checkpoint, name):
        folder = spoiled(checkpoint(name), without("pooler"))
        with pytest.raises(UserError, match="has no pooler; choose cls or mean"):
            adapter(name, folder)
        assert adapter(name, folder, pooling="mean").audit.matched == 44

    @pytest.mark.parametrize("name", ALL)
    def test_another_architecture_is_refused(self, checkpoint, name):
        folder = spoiled(checkpoint(name), lambda tensors: {f"esm.{key}": value for key, value in tensors.items()})
        with pytest.raises(CheckpointMismatch, match=r"0 of .* tensors match"):
            adapter(name, folder)

    @pytest.mark.parametrize("name", ALL)
    def test_a_missing_layer_is_refused(self, checkpoint, name):
        folder = spoiled(checkpoint(name), without(".layer.1."))
        with pytest.raises(CheckpointMismatch, match=r"(30|21) of (46|32) tensors match .* bert\.encoder\.layer\.1\."):
            adapter(name, folder)

    @pytest.mark.parametrize("name", ALL)
    def test_wrong_configurations_are_refused(self, checkpoint, name):
        folder = checkpoint(name)
        for change, message in (
            ({"model_type": "esm"}, "model_type 'esm', expected bert; 0 tensors"),
            ({"hidden_act": "relu"}, "hidden_act 'relu'; implemented is 'gelu'"),
            ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new'; implemented is 'gelu': use weights trained that way"),
            ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'; implemented is 'absolute'"),
            ({"is_decoder": True}, "is_decoder True; implemented is False"),
            ({"rope_theta": 10000.0}, "rope_theta 10000.0; implemented is None"),
            ({"pre_layer_norm": True}, "pre_layer_norm True"),
            ({"vocab_size": 30522}, "has vocab_size 30522, its tensors (4101|4096); .*0 tensors"),
            ({"intermediate_size": 99}, r"has intermediate_size 99, its tensors \d+; put the config.json of these very weights"),
            ({"hidden_size": 24}, "has hidden_size 24, its tensors (48|32)"),
            ({"type_vocab_size": 3}, "has type_vocab_size 3, its tensors 2"),
            ({"num_hidden_layers": 1}, "has num_hidden_layers 1, its tensors 2"),
            ({"num_attention_heads": 5}, "a width of (48|32) cannot be shared by 5 heads"),
            ({"num_attention_heads": None}, "does not say num_attention_heads"),
        ):
            original = (folder / "config.json").read_text()
            with pytest.raises(CheckpointMismatch, match=message) as refusal:
                adapter(name, reconfigure(folder, **change))
            assert "\n" not in str(refusal.value)
            (folder / "config.json").write_text(original)
        (folder / "config.json").write_text("{")
        with pytest.raises(BadData, match="not JSON"):
            adapter(name, folder)
        (folder / "config.json").unlink()
        with pytest.raises(DataMissing, match=r"its config\.json must lie beside it"):
            adapter(name, folder)

    @pytest.mark.parametrize("name", ALL)
    @pytest.mark.parametrize("stated", [True, False])
    def test_other_sizes_are_read_back(self, tmp_path, name, stated):
        """With a config.json of the oldest kind, which says little more than the number of heads, and with a whole one."""
        shape = Shape(3, 30, heads=5, inner=14, vocabulary=69, positions=40, types=3, epsilon=1e-3)
        if name == "dnabert2":
            tokenizer = plain_tokenizer()
            tokenizer.save(str(tmp_path / "tokenizer.json"))
            model = DNABERT2(replace(shape, vocabulary=tokenizer.get_vocab_size()), tokenizer).eval()
        else:
            model = registry.adapter_class(name)(shape, "pooler", -1, "refuse").eval()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        config = {"num_attention_heads": 5, "layer_norm_eps": 1e-3}
        if stated:
            config |= {"num_hidden_layers": 3, "hidden_size": 30, "intermediate_size": 14, "type_vocab_size": 3}
            config |= {"vocab_size": model.shape.vocabulary, "max_position_embeddings": 512 if name == "dnabert2" else 40}
        (tmp_path / "config.json").write_text(json.dumps(config))
        again = adapter(name, tmp_path)
        assert (again.audit.matched, again.audit.unused) == (again.audit.expected, ())
        assert replace(again.shape, positions=40) == model.shape
        texts = [window.sequence for window in random_windows(3, (10, 40))]
        assert torch.equal(embed(again, *texts), embed(model, *texts))

    def test_a_vocabulary_in_another_order_is_refused(self, checkpoint):
        folder = checkpoint("dnabert1")
        (folder / "vocab.txt").write_text("\n".join(vocabulary(6)))
        assert adapter("dnabert1", folder).audit.matched == 46
        (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary(6))))
        with pytest.raises(CheckpointMismatch, match="6-mers in the order A, T, C, G"):
            adapter("dnabert1", folder)
        (folder / "vocab.txt").unlink()
        with pytest.raises(UserError, match=r"option k=3.*has k = 6"):
            adapter("dnabert1", folder, k=3)

    @pytest.mark.parametrize(
        ("spoil", "error", "message"),
        [
            (lambda file: file.unlink(), DataMissing, "its tokenizer.json must lie beside it"),
            (lambda file: file.write_text("{"), BadData, "cannot be read as a tokenizer"),
            (lambda file: write_tokenizer(file, 300), CheckpointMismatch, "300 tokens .* expected 4096"),
        ],
    )
    def test_wrong_tokenizer_is_refused(self, checkpoint, spoil, error, message):
        folder = checkpoint("dnabert2")
        spoil(folder / "tokenizer.json")
        with pytest.raises(error, match=message):
            adapter("dnabert2", folder)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"dropout": 0.1}, CheckpointMismatch, r"leaves out merges at random \(dropout 0.1\)"),
            ({"unk_token": None}, CheckpointMismatch, r"reads N as the tokens \[\]"),
            ({"merges": ["A X"]}, BadData, "cannot be read as a tokenizer"),
        ],
    )
    def test_a_tokenizer_that_contradicts_itself_is_refused(self, checkpoint, change, error, message):
        folder = checkpoint("dnabert2")
        file = folder / "tokenizer.json"
        assert adapter("dnabert2", folder).audit.warnings == ()
        tokenizer = json.loads(file.read_text())
        tokenizer["model"] |= change
        file.write_text(json.dumps(tokenizer))
        with pytest.raises(error, match=message):
            adapter("dnabert2", folder)

    def test_a_base_that_is_no_token_of_its_own_is_refused(self, checkpoint):
        folder = checkpoint("dnabert2")
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": {"type": "Lowercase"}}))
        with pytest.raises(CheckpointMismatch, match=r"reads A as the tokens \[0\], expected one of its own"):
            adapter("dnabert2", folder)

    def test_a_permuted_vocabulary_is_said(self, checkpoint):
        """Tokens are numbered in the order of the merges that make them, in the published file too."""
        folder = checkpoint("dnabert2")
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        vocab = tokenizer["model"]["vocab"]
        vocab["AA"], vocab["GTGT"] = vocab["GTGT"], vocab["AA"]
        file.write_text(json.dumps(tokenizer))
        assert adapter("dnabert2", folder).audit.warnings == (
            "tokenizer.json: its tokens are not numbered in the order of its merges; is it that of these weights?",
        )
        published = SHARED / "reference/checkpoints/dnabert2/tokenizer.json"
        if published.is_file():
            shutil.copy(published, file)
            assert adapter("dnabert2", folder).audit.warnings == ()
            assert hashlib.sha256(file.read_bytes()).hexdigest() == DNABERT2.card.sha256["tokenizer.json"]
