"""hf: what published benchmarks loaded without noticing is refused here, in one line that says what is wrong."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import random_windows
from made_hf import SPECIALS, bpe, checkpoint, edit, fast, kmers, letters
from safetensors.torch import load_file, save_file

from harness import registry
from harness.engine.build import ModelRequest
from harness.errors import BadData, CheckpointMismatch, DataMissing, UserError

HF = registry.adapter_class("hf")


def reason(folder, kind=CheckpointMismatch, **options):
    """The one line with which a folder is refused."""
    with pytest.raises(kind) as caught:
        HF.from_checkpoint(folder, **options)
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


def weights(folder, change):
    """Change the tensors of a folder's model.safetensors."""
    file = folder / "model.safetensors"
    tensors = change(load_file(file))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})


@pytest.fixture
def bert(tmp_path):
    return checkpoint("bert", tmp_path / "bert")


class TestWhatIsNotForAGenericAdapter:
    """The rows of reference/generic_models.csv that must be refused, as layouts made from what their configs say."""

    def test_dnabert2_as_a_plain_bert_whose_attention_would_be_random(self, bert):
        def mosaic(tensors):
            kept = {
                name: it
                for name, it in tensors.items()
                if ".attention.self." not in name and ".intermediate." not in name and "position" not in name
            }
            for layer in range(2):
                prefix = f"bert.encoder.layer.{layer}"
                kept |= {
                    f"{prefix}.attention.self.Wqkv.weight": torch.zeros(96, 32),
                    f"{prefix}.mlp.gated_layers.weight": torch.zeros(96, 32),
                }
            return kept

        weights(bert, mosaic)
        text = reason(bert)
        assert "tensors match BertForMaskedLM" in text
        assert "position_embeddings" in text or "attention.self" in text
        edit(bert / "config.json", auto_map={"AutoModel": "bert_layers.BertModel"})
        assert "bert_layers.BertModel" in reason(bert)

    def test_gena_lm_with_layer_norms_before_the_attention(self, bert):
        weights(
            bert,
            lambda tensors: (
                tensors | {f"bert.encoder.layer.{layer}.pre_attention_ln.weight": torch.ones(32) for layer in range(2)}
            ),
        )
        assert "pre_attention_ln" in reason(bert)
        edit(bert / "config.json", pre_layer_norm=True)
        assert "does not know pre_layer_norm True" in reason(bert)

    def test_nucleotide_transformer_v2_with_gated_layers(self, tmp_path):
        folder = checkpoint("esm", tmp_path / "v2")
        weights(
            folder,
            lambda tensors: {name: torch.cat([it, it]) if "intermediate.dense" in name else it for name, it in tensors.items()},
        )
        assert "intermediate.dense" in reason(folder)
        edit(folder / "config.json", add_bias_fnn=False, hidden_act="swiglu")
        assert "add_bias_fnn False, hidden_act swiglu" in reason(folder)
        assert "intermediate.dense" in reason(folder, ignore="add_bias_fnn,hidden_act")

    def test_prokbert_with_relative_positions(self, bert):
        def relative(tensors):
            kept = {name: it for name, it in tensors.items() if "position_embeddings" not in name}
            return kept | {
                f"bert.encoder.layer.{layer}.attention.self.distance_embedding.weight": torch.zeros(9, 16) for layer in range(2)
            }

        edit(bert / "config.json", position_embedding_type="relative_key_query")
        weights(bert, relative)
        assert "does not know position_embedding_type relative_key_query" in reason(bert)
        assert "position_embeddings" in reason(bert, ignore="position_embedding_type")
        edit(bert / "config.json", position_embedding_type="absolute")
        assert "position_embeddings" in reason(bert)

    def test_mutbert_computes_with_its_authors_code(self, bert):
        edit(bert / "config.json", auto_map={"AutoModelForMaskedLM": "JadenLong/MutBERT--modeling_mutbert.BertForMaskedLM"})
        assert "their own code (modeling_mutbert.BertForMaskedLM), which is not run" in reason(bert)
        assert HF.from_checkpoint(bert, ignore="auto_map").audit.matched

    @pytest.mark.parametrize("family", ["ntv3", "caduceus", "hyenadna", "dnabert", "evo2"])
    def test_architectures_of_their_own(self, bert, family):
        edit(bert / "config.json", model_type=family)
        assert f"model_type '{family}'" in reason(bert)
        edit(bert / "config.json", auto_map={"AutoModel": ["modeling_x.X", None]})
        assert "(modeling_x.X), which is not run" in reason(bert)

    def test_code_for_long_classification_alone_changes_nothing(self, bert):
        edit(
            bert / "config.json",
            auto_map={"AutoModelForSequenceClassification": "dnabert_layer.DNABertForSequenceClassification"},
        )
        assert any("not run: dnabert_layer.DNABert" in line for line in HF.from_checkpoint(bert).audit.warnings)


class TestTensors:
    @pytest.mark.parametrize("lost", ["bert.embeddings.LayerNorm.weight", "bert.encoder.layer.1.attention.self.query.weight"])
    def test_missing(self, bert, lost):
        weights(bert, lambda tensors: {name: it for name, it in tensors.items() if name != lost})
        assert lost in reason(bert)

    def test_more_layers_than_the_configuration(self, bert):
        weights(
            bert,
            lambda tensors: (
                tensors | {name.replace("layer.1", "layer.2"): it.clone() for name, it in tensors.items() if "layer.1" in name}
            ),
        )
        assert "encoder.layer.2" in reason(bert)

    def test_another_shape(self, bert):
        weights(bert, lambda tensors: tensors | {"bert.embeddings.word_embeddings.weight": torch.zeros(12, 32)})
        assert "word_embeddings" in reason(bert)

    def test_not_numbers(self, bert):
        def broken(tensors):
            tensors["bert.encoder.layer.0.output.dense.bias"][3] = float("nan")
            return tensors

        weights(bert, broken)
        with pytest.raises(BadData, match=r"layer\.0\.output\.dense\.bias"):
            ModelRequest("hf", str(bert)).build()

    def test_a_far_larger_model_than_the_file_is_never_built(self, bert):
        edit(bert / "config.json", hidden_size=65536, num_attention_heads=64, num_hidden_layers=400)
        assert "bytes, but its config.json describes a model of" in reason(bert)

    def test_a_pooler_is_never_random(self, tmp_path):
        folder = checkpoint("bert", tmp_path / "base", head=False)
        pooler = {"pooler.dense.weight": torch.zeros(32, 32), "pooler.dense.bias": torch.zeros(32)}
        for extra in ({}, pooler):
            weights(folder, lambda tensors, extra=extra: tensors | extra)
            model = HF.from_checkpoint(folder)
            assert not model.audit.missing
            assert not any("pooler" in name for name in model.state_dict())

    def test_half_precision_and_torch_files(self, bert):
        window = random_windows(1)
        expected = HF.from_checkpoint(bert).eval()
        tensors = {name: it.half() for name, it in load_file(bert / "model.safetensors").items()}
        torch.save(tensors, bert / "pytorch_model.bin")
        (bert / "model.safetensors").unlink()
        found = HF.from_checkpoint(bert).eval()
        assert next(found.parameters()).dtype == torch.float32
        torch.testing.assert_close(found(found.collate(window)), expected(expected.collate(window)), rtol=1e-2, atol=1e-2)


class TestConfigurations:
    def test_unreadable(self, bert):
        (bert / "config.json").write_text("{")
        assert "config.json: not JSON" in reason(bert, BadData)
        (bert / "config.json").write_text(json.dumps({"vocab_size": 3}))
        assert "names no model_type" in reason(bert, BadData)
        (bert / "config.json").unlink()
        assert "no config.json" in reason(bert, DataMissing)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("hidden_act", "nothing"), ("num_attention_heads", 5), ("hidden_size", "wide"), ("num_hidden_layers", -1)],
    )
    def test_impossible(self, bert, key, value):
        edit(bert / "config.json", **{key: value})
        reason(bert, UserError)

    def test_quantised(self, bert):
        edit(bert / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
        assert "quantised" in reason(bert)

    def test_settings_of_text_generation_are_harmless(self, bert):
        edit(
            bert / "config.json",
            do_sample=True,
            num_beams=4,
            torch_dtype="float16",
            num_rnn_layer=1,
            rnn="lstm",
            position_embedding_type="absolute",
            future=None,
        )
        assert HF.from_checkpoint(bert).audit.matched

    def test_a_setting_that_nobody_knows_is_named(self, bert):
        edit(bert / "config.json", value_residual=0.5)
        assert "does not know value_residual 0.5" in reason(bert)
        assert HF.from_checkpoint(bert, ignore="value_residual").audit.matched


class TestTokenizers:
    def test_larger_than_the_embedding(self, tmp_path):
        folder = checkpoint("bert", tmp_path / "large", vocab_size=10)
        fast([*SPECIALS, *"ACGT", "N", "R"]).save_pretrained(folder)
        assert "its tokenizer has 11 tokens, the embedding 10 rows; there is none for 'R'" in reason(folder)

    def test_an_empty_entry_beyond_the_embedding_is_never_used(self, tmp_path):
        """GROVER's 610th entry."""
        folder = checkpoint("modernbert", tmp_path / "grover")
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["model"]["vocab"][""] = len(tokenizer["model"]["vocab"])
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        model = HF.from_checkpoint(folder).eval()
        assert any("entries of the tokenizer beyond the embedding: 1" in line for line in model.audit.warnings)
        assert torch.isfinite(model(model.collate(random_windows(2)))).all()

    def test_of_another_alphabet(self, tmp_path):
        folder = checkpoint("bert", tmp_path / "protein", vocab_size=40)
        fast([*SPECIALS, *"DEFHIKLMNPQRSVWY"]).save_pretrained(folder)
        assert "tokens are unknown" in reason(folder, BadData)

    def test_none_at_all(self, bert):
        for file in bert.glob("*token*"):
            file.unlink()
        assert "no tokenizer beside the weights" in reason(bert, DataMissing)
        (bert / "tokenizer.json").write_text("{}")
        assert "cannot be read" in reason(bert, BadData)

    def test_a_hybrid_tokenizer_of_code_without_kmers(self, bert):
        for file in bert.glob("*token*"):
            file.unlink()
        edit(
            bert / "tokenizer_config.json",
            auto_map={"AutoTokenizer": ["tokenizer.HybridDNATokenizer", None]},
            tokenizer_class="HybridDNATokenizer",
        )
        (bert / "vocab.txt").write_text("\n".join([*SPECIALS, "<dna>", "AC", "TAG", "G"]))
        assert "authors' own code" in reason(bert, BadData)

    def test_no_special_token_stands_in_for_a_base(self, tmp_path):
        folder = checkpoint("llama", tmp_path / "bare", vocab_size=4)
        for file in folder.glob("*token*"):
            file.unlink()
        (folder / "vocab.txt").write_text("A\nC\nG\nT")
        reason(folder, BadData)


def test_too_many_unknown_tokens_stop_a_run_before_it_is_written(harness, tmp_path):
    folder = checkpoint("bert_kmer", tmp_path / "kmers")
    lines = [f"{window.sequence}NNN{window.sequence},{number % 2}" for number, window in enumerate(random_windows(60, 32))]
    (tmp_path / "mine.csv").write_text("sequence,label\n" + "\n".join(lines))
    command = ("run", "--model", "hf", "--checkpoint", str(folder), "--task", "mine.csv", "--tune", "probe")
    done = harness(*command)
    assert done.returncode == 2
    assert "7.7% of the training split's tokens are unknown to hf:kmers" in done.stderr
    assert not (tmp_path / "results").exists() or not list((tmp_path / "results").rglob("record.json"))
    assert harness(*command, "--option", "unknown=0.1").returncode == 0


def test_tokens_of_the_tokenizers_own_are_never_random(tmp_path):
    folder = checkpoint("modernbert", tmp_path / "bpe")
    assert bpe().tokenize("ACGTACGA") == bpe().tokenize("ACGTACGA")
    words = set(HF.from_checkpoint(folder).vocabulary.ids)
    assert set(kmers(2)) <= words


class TestWhatTransformersBuildsButNoWindowShouldBeReadWith:
    def test_models_of_something_else_than_sequences(self, bert):
        (bert / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
        assert "has no vocab_size" in reason(bert)
        (bert / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 32, "num_layers": 2, "vocab_size": 10}))
        assert "an encoder and a decoder" in reason(bert)

    @pytest.mark.parametrize(("setting", "value"), [("num_hidden_layers", 10**9), ("hidden_size", 10**9), ("vocab_size", 10**12)])
    def test_absurd_sizes_before_anything_is_built(self, bert, setting, value):
        edit(bert / "config.json", **{setting: value})
        assert setting in reason(bert, BadData)

    def test_attention_that_takes_padding_for_letters(self, tmp_path):
        from transformers import FNetConfig, FNetForMaskedLM

        letters().save_pretrained(tmp_path)
        config = FNetConfig(vocab_size=10, hidden_size=32, num_hidden_layers=2, intermediate_size=48, max_position_embeddings=64)
        FNetForMaskedLM(config).save_pretrained(tmp_path)
        assert "padded beside a longer one" in reason(tmp_path)

    def test_a_causal_head_on_attention_that_sees_what_follows(self, bert):
        edit(bert / "config.json", architectures=["BertLMHeadModel"])
        assert "sees the letters that follow" in reason(bert)
        edit(bert / "config.json", is_decoder=True)
        assert HF.from_checkpoint(bert).audit.matched

    def test_a_tokenizer_without_an_unknown_token_drops_no_base(self, tmp_path):
        """Written with U, a sequence has fewer tokens for a vocabulary of T: that must not count as better."""
        from tokenizers.models import BPE

        pairs = ["TT", "AC", "GA"]
        words = ["[MASK]", *"ACGT", *pairs]
        model = BPE({word: number for number, word in enumerate(words)}, [(pair[0], pair[1]) for pair in pairs])
        checkpoint("bert", tmp_path, vocab_size=len(words))
        roles = {"unk_token": None, "pad_token": None, "mask_token": "[MASK]"}
        fast(words, model=model, around=False, **roles).save_pretrained(tmp_path)
        adapter = HF.from_checkpoint(tmp_path)
        assert adapter.facts()["reading"] == "raw (upper case, T)"
        assert len(adapter.reader.ids(["TTTTTTTT"])[0]) == 4

    @pytest.mark.parametrize("setting", ["auto_map", "architectures"])
    def test_settings_of_another_type(self, bert, setting):
        edit(bert / "config.json", **{setting: 5})
        assert f"{setting} is of the wrong type (int)" in reason(bert, BadData)

    def test_whole_numbers_in_place_of_weights(self, bert):
        weights(bert, lambda tensors: {name: it.to(torch.int8) for name, it in tensors.items()})
        assert "holds whole numbers" in reason(bert)
