"""RNA-FM against upstream's outputs, in both layouts; the files, windows and options that it accepts and refuses."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_windows
from safetensors.torch import load_file, save_file
from torch import nn

from harness import registry
from harness.adapters import rnafm
from harness.data import Window
from harness.errors import BadData, CheckpointMismatch, DataMissing, UserError
from harness.files.checkpoint import read_tensors

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared"
# Largest difference to upstream's float32 outputs. In bf16, measured: 0.039 hidden (values up to 5), 0.15 logits (up to 13).
FLOAT32 = {"last_hidden_state": 5e-5, "logits": 1e-4}
BF16 = {"last_hidden_state": 0.08, "logits": 0.3}


def load(name: str, folder: Path, **options):
    return registry.adapter_class(name).from_checkpoint(folder, **options).eval()


def parity_cases(folder: Path):
    """(name, sequences or None, arrays by name) of every case of a folder of upstream outputs, large or trimmed."""
    archive = np.load(folder / "arrays.npz")
    for case in json.loads((folder / "cases.json").read_text())["cases"]:
        arrays = {key.split(".", 1)[1]: archive[key] for key in archive.files if key.split(".")[0] == case["name"]}
        yield case["name"], None if "trunc" in case.get("kind", "") else case.get("sequences"), arrays


def as_windows(sequences) -> list[Window] | None:
    """The sequences as windows, or None if upstream was given letters that the engine normalises beforehand."""
    upper = [sequence.upper().replace("U", "T") for sequence in sequences or ["?"]]
    return None if any(sequence.strip("ACGTN") for sequence in upper) else [Window(sequence) for sequence in upper]


def check_parity(model, folder: Path, reads_t: bool = True) -> int:
    """Compare ids, hidden states and logits of a folder's cases at every token but padding; return how many ids were compared.

    ``reads_t`` is false if upstream maps T to its unknown token, which the engine's windows never do.
    """
    compared = 0
    for name, sequences, arrays in parity_cases(folder):
        ids = torch.from_numpy(arrays["input_ids"].astype(np.int64))
        windows = as_windows(sequences)
        if windows and (reads_t or not any(set(sequence) & set("Tacgut") for sequence in sequences)):
            assert torch.equal(model.collate(windows)["tokens"], ids), name
            compared += 1
        read = torch.from_numpy(arrays["attention_mask"]).bool() if "attention_mask" in arrays else ids != model.vocabulary.pad
        for bounds, autocast in ((FLOAT32, False), (BF16, True)):
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                hidden = model.encoder(ids, read)
                ours = {"last_hidden_state": hidden, "logits": model.logits(hidden)}
            for key, tensor in ours.items():
                for stored in (key, f"{key}_tail64"):
                    if stored in arrays:
                        tail = arrays[stored].shape[1]
                        difference = np.abs(tensor.float().numpy()[:, -tail:] - arrays[stored])
                        assert difference[read.numpy()[:, -tail:]].max() < bounds[key], (name, key, autocast)
    return compared


def check_masked_interface(model):
    """The masked batch does not depend on the base, whose probabilities are the logits' softmax over the four bases."""
    window = random_windows(1, 30)[0].sequence
    variants = [Window(window[:7] + base + window[8:]) for base in "ACGT"]
    batch = model.collate_masked(variants, [7] * 4)
    assert all(torch.equal(tensor[0], tensor[i]) for tensor in batch.values() for i in range(4))
    shorter = model.collate_masked([variants[0], Window(window[:12])], [7, 11])
    with torch.inference_mode():
        found = model.base_log_probabilities(shorter)
        tokens = shorter["tokens"]
        logits = model.logits(model.encoder(tokens, tokens != model.vocabulary.pad))
    assert found.shape == (2, 4)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(2))
    expected = logits[torch.arange(2), torch.tensor([8, 12])][:, list(model.vocabulary.bases)].softmax(dim=1)
    torch.testing.assert_close(found.exp(), expected)
    with pytest.raises(BadData, match="position 30: the window has 30 nt"):
        model.collate_masked(variants[:1], [30])


def check_lora_targets(model):
    """Every declared name ending is that of one linear layer per block of the encoder."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in type(model).lora_targets:
        assert sum(name.split(".")[-1] == target for name in linear) == model.shape.layers


FOLDERS = ("rnafm", "rnafm_multimolecule")
# Of the ports of both models: what a config.json may not say, and the refusal.
WRONG_CONFIGS = [
    ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new'; implemented is 'gelu' or 'relu'"),
    (
        {"position_embedding_type": "relative_key_query"},
        "position_embedding_type 'relative_key_query'; implemented is 'absolute'",
    ),
    ({"token_dropout": True}, "token_dropout True; implemented is False"),
    ({"embed_norm": False}, "embed_norm False; implemented is True"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings False; implemented is True"),
    ({"lm_head": {"transform": "linear"}}, r"lm_head\.transform 'linear'; implemented is 'nonlinear'"),
    ({"num_hidden_layers": 1}, "has num_hidden_layers 1, its tensors 2"),
    ({"vocab_size": 26}, "has vocab_size 26, its tensors 28"),
    ({"intermediate_size": 7}, r"has intermediate_size 7, its tensors \d+"),
    ({"num_attention_heads": 7}, "cannot be shared by 7 heads"),
    ({"mask_token_id": 3}, "has mask_token_id 3, its vocabulary 4"),
]
BACK_TO_OFFICIAL = {
    "encoder.tokens": "embed_tokens",
    "encoder.positions": "embed_positions",
    "encoder.norm": "emb_layer_norm_before",
    "encoder.final_norm": "emb_layer_norm_after",
    "encoder.layers.": "layers.",
    ".out.": ".self_attn.out_proj.",
    ".query.": ".self_attn.q_proj.",
    ".key.": ".self_attn.k_proj.",
    ".value.": ".self_attn.v_proj.",
    ".attention_norm.": ".self_attn_layer_norm.",
    ".mlp_norm.": ".final_layer_norm.",
    ".up.": ".fc1.",
    ".down.": ".fc2.",
    "lm_head.norm.": "lm_head.layer_norm.",
}


def renamed(tensors, names):
    for ours, theirs in names.items():
        tensors = {name.replace(ours, theirs): tensor for name, tensor in tensors.items()}
    return tensors


class TestParity:
    @pytest.mark.parametrize("folder", FOLDERS)
    def test_trimmed_outputs(self, folder):
        model = load("rnafm", GOLDEN / folder / "checkpoint")
        assert check_parity(model, GOLDEN / folder, reads_t=folder != "rnafm") > 0

    @pytest.mark.parametrize("folder", FOLDERS)
    def test_all_outputs(self, folder):
        if not SHARED.is_dir():
            pytest.skip(f"needs {SHARED}, which holds all outputs; the trimmed ones are tested above")
        model = load("rnafm", SHARED / "parity" / folder / "checkpoint")
        assert check_parity(model, SHARED / "parity" / folder, reads_t=folder != "rnafm") >= 13
        assert model.max_length == 1022

    def test_both_layouts_of_the_same_weights_agree(self):
        windows = random_windows(4, (20, 60))
        official, port = (load("rnafm", GOLDEN / folder / "checkpoint") for folder in FOLDERS)
        with torch.inference_mode():
            torch.testing.assert_close(official(official.collate(windows)), port(port.collate(windows)), rtol=0, atol=1e-5)


class TestFile:
    def test_audit(self):
        audit = load("rnafm", GOLDEN / "rnafm/checkpoint").audit
        assert (audit.matched, audit.expected) == (43, 43)
        assert audit.unused == ("contact_head.regression.bias", "contact_head.regression.weight")
        assert audit.facts["layout"] == "official"
        assert audit.facts["tied_decoder"] == "intact"
        assert audit.facts["vocabulary"] == 25
        assert len(audit.sha256) == 64

    def test_mask_row_is_zero_in_the_official_layout_only(self):
        official, port = (load("rnafm", GOLDEN / folder / "checkpoint") for folder in FOLDERS)
        assert official.encoder.tokens.weight[24].abs().sum() == 0
        assert port.encoder.tokens.weight[4].abs().sum() > 0

    def test_a_file_or_a_folder_and_other_spellings_of_the_prefix(self, tmp_path):
        file = GOLDEN / "rnafm/checkpoint/RNA-FM_pretrained.pth"
        windows = random_windows(2)
        model = load("rnafm", file)
        state = {name.replace("encoder.encoder.", "encoder.sentence_encoder."): t for name, t in read_tensors(file).items()}
        torch.save(state, tmp_path / "renamed.pth")
        port = load_file(GOLDEN / "rnafm_multimolecule/checkpoint/model.safetensors")
        save_file({name.replace("model.", "rnafm.", 1): t for name, t in port.items()}, tmp_path / "old.safetensors")
        shutil.copy(GOLDEN / "rnafm_multimolecule/checkpoint/config.json", tmp_path)
        for other in (load("rnafm", tmp_path / "renamed.pth"), load("rnafm", tmp_path / "old.safetensors")):
            with torch.inference_mode():
                torch.testing.assert_close(other(other.collate(windows)), model(model.collate(windows)), rtol=0, atol=1e-5)

    def test_a_namespace_is_read_and_code_is_not_run(self, tmp_path):
        weights = {"a": torch.ones(2)}
        torch.save({"args": argparse.Namespace(arch="roberta_large"), "model": weights}, tmp_path / "fairseq.pth")
        assert read_tensors(tmp_path / "fairseq.pth").keys() == {"a"}
        evil = argparse.Namespace(hidden=Evil(tmp_path / "ran"))
        torch.save({"args": evil, "model": weights}, tmp_path / "evil.pth")
        torch.save({"args": argparse.Namespace()}, tmp_path / "empty.pth")
        with pytest.raises(BadData, match="refused, not run"):
            read_tensors(tmp_path / "evil.pth")
        assert not (tmp_path / "ran").exists()
        with pytest.raises(BadData, match="expected a state_dict"):
            read_tensors(tmp_path / "empty.pth")

    def test_epsilon_is_the_trained_one_whatever_an_old_config_says(self, tmp_path):
        folder = copy_of("rnafm_multimolecule", tmp_path, layer_norm_eps=1e-12)
        model = load("rnafm", folder)
        assert model.encoder.norm.eps == 1e-5
        assert "config.json says 1e-12" in model.audit.facts["layer_norm_eps"]

    def test_vocabulary_beside_the_weights_is_read(self, tmp_path):
        folder = copy_of("rnafm_multimolecule", tmp_path)
        tokens = ["<pad>", "<cls>", "<eos>", "<unk>", "<mask>", "<null>", *"UACGN", *(f"x{i}" for i in range(17))]
        (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
        model = load("rnafm", folder)
        assert model.collate([Window("ACGTN")])["tokens"].tolist() == [[1, 7, 8, 9, 6, 10, 2]]
        (folder / "vocab.txt").write_text("\n".join(tokens[:-1]) + "\n")
        with pytest.raises(CheckpointMismatch, match="27 tokens, the embedding 28 rows"):
            load("rnafm", folder)
        (folder / "vocab.txt").write_text("\n".join([*tokens[:-1], "A"]) + "\n")
        with pytest.raises(CheckpointMismatch, match=r"vocab\.txt lists A twice"):
            load("rnafm", folder)
        (folder / "vocab.txt").write_text("\n".join(f"x{i}" for i in range(28)))
        with pytest.raises(CheckpointMismatch, match=r"has no <pad> or \[PAD\]"):
            load("rnafm", folder)

    @pytest.mark.parametrize("layout", ["official", "port"])
    def test_other_sizes_are_read_back(self, tmp_path, layout):
        """The official file says nothing but tensors: its contact head tells the heads. Dropout is 0 in any case, as upstream."""
        torch.manual_seed(0)
        vocabulary = rnafm.OFFICIAL if layout == "official" else rnafm.MULTIMOLECULE
        shape = replace(rnafm.BASE, layers=3, width=30, heads=5, inner=14, vocabulary=vocabulary.size, positions=50)
        model = rnafm.RNAFM(shape, vocabulary, "mean").eval()
        if layout == "official":
            with torch.no_grad():
                model.encoder.tokens.weight[24] = 0
            tensors = {f"encoder.{name}": tensor for name, tensor in renamed(model.state_dict(), BACK_TO_OFFICIAL).items()}
            tensors["encoder.contact_head.regression.weight"] = torch.zeros(1, 15)
        else:
            names = (("encoder.tokens", "model.embeddings.word_embeddings"), ("encoder.positions", "model.position_embeddings"))
            names = dict(names) | {"encoder.layers.": "model.encoder.layer.", "model.position": "model.embeddings.position"}
            tensors = renamed(model.state_dict(), names)
            config = {"model_type": "rnafm", "num_hidden_layers": 3, "hidden_size": 30, "num_attention_heads": 5}
            config |= {"intermediate_size": 14, "max_position_embeddings": 50, "vocab_size": 28, "hidden_dropout": 0.1}
            (tmp_path / "config.json").write_text(json.dumps(config))
        torch.save(tensors, tmp_path / "pytorch_model.bin")
        again = load("rnafm", tmp_path)
        assert again.audit.matched == again.audit.expected
        assert again.shape == shape
        windows = random_windows(3, (10, 40))
        with torch.inference_mode():
            assert torch.equal(again(again.collate(windows)), model(model.collate(windows)))

    @pytest.mark.parametrize(("change", "message"), WRONG_CONFIGS)
    def test_what_a_config_asks_for_otherwise_is_refused(self, tmp_path, change, message):
        with pytest.raises(CheckpointMismatch, match=message):
            load("rnafm", copy_of("rnafm_multimolecule", tmp_path, **change))

    def test_activations_and_epsilon_of_a_config_are_obeyed(self, tmp_path):
        head = {"transform": "nonlinear", "transform_act": "gelu"}
        model = load("rnafm", copy_of("rnafm_multimolecule", tmp_path, hidden_act="relu", layer_norm_eps=1e-3, lm_head=head))
        assert (model.shape.activation, model.lm_head.activation, model.encoder.norm.eps) == ("relu", "gelu", 1e-3)

    def test_other_models_are_refused_with_counts(self, tmp_path):
        with pytest.raises(CheckpointMismatch, match="0 of 42 tensors are named as in RNA-FM"):
            load("rnafm", GOLDEN / "rnaernie/checkpoint")
        with pytest.raises(CheckpointMismatch, match="model_type 'rnaernie', expected rnafm"):
            load("rnafm", GOLDEN / "rnaernie_multimolecule/checkpoint")
        (tmp_path / "one").mkdir()
        shutil.copy(GOLDEN / "rnaernie_multimolecule/checkpoint/model.safetensors", tmp_path / "one")
        with pytest.raises(CheckpointMismatch, match="of 43 tensors match RNAFM"):
            load("rnafm", tmp_path / "one")
        (tmp_path / "none").mkdir()
        with pytest.raises(DataMissing, match=r"RNA-FM_pretrained\.pth"):
            load("rnafm", tmp_path / "none")
        state = read_tensors(GOLDEN / "rnafm/checkpoint/RNA-FM_pretrained.pth")
        state["encoder.encoder.embed_tokens.weight"] = torch.zeros(73, 40)
        torch.save(state, tmp_path / "codons.pth")
        with pytest.raises(CheckpointMismatch, match="73 tokens; RNA-FM has 25"):
            load("rnafm", tmp_path / "codons.pth")
        torch.save({name: t for name, t in state.items() if "fc1" not in name}, tmp_path / "part.pth")
        with pytest.raises(CheckpointMismatch):
            load("rnafm", tmp_path / "part.pth")


class TestUse:
    def test_windows(self):
        model = load("rnafm", GOLDEN / "rnafm/checkpoint")
        ids = model.collate([Window("ACGTN"), Window("GT")])["tokens"]
        assert ids.tolist() == [[0, 4, 5, 6, 7, 18, 2], [0, 6, 7, 2, 1, 1, 1]]
        assert model.max_length == 60  # the trimmed position table has 64 rows, and positions start at 2
        assert torch.isfinite(model(model.collate([Window("A" * 60)]))).all()
        with pytest.raises(BadData, match="window of 61 nt: rnafm takes at most 60; nothing was cut"):
            model.collate([Window("A" * 61)])

    def test_pooling_and_layer(self):
        windows = random_windows(3, (20, 40))
        folder = GOLDEN / "rnafm/checkpoint"
        model = load("rnafm", folder)
        ids = model.collate(windows)["tokens"]
        read = ids != 1
        with torch.inference_mode():
            for layer in (0, 1, 2):
                hidden = model.encoder(ids, read, layer)
                means = torch.stack([row[1 : len(window) + 1].mean(dim=0) for row, window in zip(hidden, windows)])
                other = load("rnafm", folder, layer=layer)
                torch.testing.assert_close(other({"tokens": ids}), means, rtol=1e-5, atol=1e-5)
                assert [p.requires_grad for p in other.encoder.layers.parameters()] == [True] * 16 * layer + [False] * 16 * (
                    2 - layer
                )
            starts = load("rnafm", folder, pooling="cls")({"tokens": ids})
            torch.testing.assert_close(starts, model.encoder(ids, read)[:, 0], rtol=0, atol=5e-6)
        with pytest.raises(UserError, match="pooling='max'"):
            load("rnafm", folder, pooling="max")
        with pytest.raises(UserError, match="option layer=3"):
            load("rnafm", folder, layer=3)

    def test_masked_bases(self):
        check_masked_interface(load("rnafm", GOLDEN / "rnafm/checkpoint"))
        check_masked_interface(load("rnafm", GOLDEN / "rnafm_multimolecule/checkpoint"))

    def test_a_file_without_masked_token_head_still_embeds(self, tmp_path):
        folder = copy_of("rnafm_multimolecule", tmp_path)
        tensors = load_file(folder / "model.safetensors")
        save_file({name: t for name, t in tensors.items() if not name.startswith("lm_head")}, folder / "model.safetensors")
        model = load("rnafm", folder)
        assert model.audit.facts["masked_token_head"] == "not in the file"
        with pytest.raises(UserError, match="holds no masked-language head"):
            model.base_log_probabilities(model.collate_masked([Window("ACG")], [1]))

    def test_lora_and_published_size(self):
        model = registry.adapter_class("rnafm").from_checkpoint(size="tiny")
        check_lora_targets(model)
        assert not any(parameter.requires_grad for parameter in model.lm_head.parameters())
        with torch.device("meta"):
            base = registry.adapter_class("rnafm").from_checkpoint()
        assert math.isclose(sum(parameter.numel() for parameter in base.parameters()), 99.52e6, rel_tol=1e-4)


def copy_of(name: str, to: Path, **config) -> Path:
    """A writable copy of a golden checkpoint's folder, with some values of its config.json replaced."""
    folder = to / name
    shutil.copytree(GOLDEN / name / "checkpoint", folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


class Evil:
    """A pickle that would create a file when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))
