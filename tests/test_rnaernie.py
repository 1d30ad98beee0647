"""RNAErnie's three checkpoints, each against its upstream, and matrices that a converter left transposed."""

from __future__ import annotations

import io
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import random_windows
from safetensors.torch import load_file, save_file
from test_rnafm import (
    GOLDEN,
    SHARED,
    WRONG_CONFIGS,
    Evil,
    check_lora_targets,
    check_masked_interface,
    check_parity,
    copy_of,
    load,
    renamed,
)

from harness import registry
from harness.adapters import _bert, _rnaernie_files, rnaernie
from harness.data import Window
from harness.errors import BadData, CheckpointMismatch, UserError
from harness.files.checkpoint import rename

FOLDERS = ("rnaernie", "rnaernie_multimolecule")
PORT = GOLDEN / "rnaernie_multimolecule/checkpoint"
PORT_NAMES = tuple(load_file(PORT / "model.safetensors"))


class TestParity:
    @pytest.mark.parametrize("folder", FOLDERS)
    def test_trimmed_outputs(self, folder):
        assert check_parity(load("rnaernie", GOLDEN / folder / "checkpoint"), GOLDEN / folder) > 0

    @pytest.mark.parametrize("folder", FOLDERS)
    def test_all_outputs(self, folder):
        if not SHARED.is_dir():
            pytest.skip(f"needs {SHARED}, which holds all outputs; the trimmed ones are tested above")
        model = load("rnaernie", SHARED / "parity" / folder / "checkpoint")
        assert check_parity(model, SHARED / "parity" / folder) >= 13
        assert model.max_length == {"rnaernie": 2046, "rnaernie_multimolecule": 511}[folder]


class TestLayouts:
    @pytest.mark.parametrize(
        ("folder", "layout", "count"), [("rnaernie", "llm-eda", 42), ("rnaernie_multimolecule", "multimolecule", 44)]
    )
    def test_the_names_tell_the_layout(self, folder, layout, count):
        audit = load("rnaernie", GOLDEN / folder / "checkpoint", layout=layout).audit
        assert (audit.matched, audit.expected, audit.unused) == (count, count, ())
        assert audit.facts["layout"] == layout
        assert audit.facts["pooler"] == (layout == "multimolecule")

    def test_llm_eda_file_through_the_multimolecule_layout_does_not_start_from_random_weights(self):
        """Through the multimolecule package this loads 0 of 41 tensors without an error; here it is refused, with the count."""
        with pytest.raises(
            CheckpointMismatch, match="0 of 42 tensors are named as in the multimolecule layout; 37 are as in llm-eda"
        ):
            load("rnaernie", GOLDEN / "rnaernie/checkpoint", layout="multimolecule")
        with pytest.raises(CheckpointMismatch, match="0 of 44 tensors are named as in the llm-eda layout"):
            load("rnaernie", PORT, layout="llm-eda")

    def test_names_of_one_layout_with_the_files_of_another(self, tmp_path):
        """LLM-EDA weights under the port's names are recognised by their config, and without it by their vocabulary."""
        folder = copy_of("rnaernie", tmp_path)
        tensors = load_file(folder / "model.safetensors")
        port = {name.replace("bert.", "model.", 1): tensor for name, tensor in tensors.items()}
        save_file(port, folder / "model.safetensors")
        with pytest.raises(CheckpointMismatch, match="model_type 'bert', expected rnaernie"):
            load("rnaernie", folder)
        (folder / "config.json").unlink()
        with pytest.raises(CheckpointMismatch, match="11 tokens; expected 26 or 28"):
            load("rnaernie", folder)

    def test_other_models_are_refused_with_counts(self, tmp_path):
        with pytest.raises(CheckpointMismatch, match="0 of 46 tensors are named as in any layout of rnaernie"):
            load("rnaernie", GOLDEN / "rnafm/checkpoint/RNA-FM_pretrained.pth")
        with pytest.raises(CheckpointMismatch, match="model_type 'rnafm', expected rnaernie"):
            load("rnaernie", GOLDEN / "rnafm_multimolecule/checkpoint")
        folder = copy_of("rnafm_multimolecule", tmp_path)
        (folder / "config.json").unlink()
        with pytest.raises(CheckpointMismatch, match=r"\d+ of \d+ tensors match RNAErnie"):
            load("rnaernie", folder)

    def test_another_bert_is_refused(self, tmp_path):
        """A k-mer BERT has the names of the LLM-EDA layout, but another vocabulary."""
        folder = copy_of("rnaernie", tmp_path, vocab_size=4101)
        tensors = load_file(folder / "model.safetensors")
        tensors["bert.embeddings.word_embeddings.weight"] = torch.zeros(4101, 48)
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(CheckpointMismatch, match="4101 tokens; expected 11"):
            load("rnaernie", folder)
        (folder / "vocab.txt").write_text(
            "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"k{i}" for i in range(4096))])
        )
        with pytest.raises(CheckpointMismatch, match="has no A"):
            load("rnaernie", folder)

    def test_config_is_obeyed(self, tmp_path):
        model = load("rnaernie", copy_of("rnaernie", tmp_path, hidden_act="relu", layer_norm_eps=1e-3))
        assert model.shape.activation == "relu"
        assert model.encoder.norm.eps == 1e-3
        (tmp_path / "other").mkdir()
        with pytest.raises(CheckpointMismatch, match="hidden_act 'swish'"):
            load("rnaernie", copy_of("rnaernie", tmp_path / "other", hidden_act="swish"))

    @pytest.mark.parametrize(("change", "message"), [*WRONG_CONFIGS, ({"pre_layer_norm": True}, "pre_layer_norm True")])
    def test_what_a_config_asks_for_otherwise_is_refused(self, tmp_path, change, message):
        with pytest.raises(CheckpointMismatch, match=message):
            load("rnaernie", copy_of("rnaernie_multimolecule", tmp_path, **change))

    def test_other_sizes_are_read_back(self, tmp_path):
        torch.manual_seed(0)
        known = rnaernie.LAYOUTS["llm-eda"]
        shape = replace(known.base, layers=3, width=30, heads=5, inner=14, positions=50, types=3, epsilon=1e-3, dropout=0.2)
        model = rnaernie.RNAErnie(shape, known.vocabulary, "mean").eval()
        names = {"encoder.tokens": "bert.embeddings.word_embeddings", "encoder.": "bert.encoder."}
        names |= {"bert.encoder.layers.": "bert.encoder.layer.", "bert.encoder.norm": "bert.embeddings.LayerNorm"}
        names |= {f"bert.encoder.{kind}s.": f"bert.embeddings.{kind}_embeddings." for kind in ("position",)}
        names |= {"bert.encoder.types.": "bert.embeddings.token_type_embeddings."}
        save_file(renamed(model.state_dict(), names), tmp_path / "model.safetensors")
        config = {"model_type": "bert", "num_attention_heads": 5, "layer_norm_eps": 1e-3, "hidden_dropout_prob": 0.2}
        for stated in ({}, {"num_hidden_layers": 3, "hidden_size": 30, "max_position_embeddings": 50, "type_vocab_size": 3}):
            (tmp_path / "config.json").write_text(json.dumps(config | stated))
            again = load("rnaernie", tmp_path)
            assert again.audit.matched == again.audit.expected
            assert again.shape == shape
            windows = random_windows(3, (10, 40))
            with torch.inference_mode():
                assert torch.equal(again(again.collate(windows)), model(model.collate(windows)))

    def test_tied_decoder_is_checked(self, tmp_path):
        folder = copy_of("rnaernie", tmp_path)
        tensors = load_file(folder / "model.safetensors")
        tokens = tensors["bert.embeddings.word_embeddings.weight"]
        for decoder, verdict in ((tokens.clone(), "intact"), (tokens + 1, "broken")):
            save_file(tensors | {"cls.predictions.decoder.weight": decoder}, folder / "model.safetensors")
            assert load("rnaernie", folder).audit.facts["tied_decoder"].startswith(verdict)

    def test_options_are_checked(self):
        with pytest.raises(UserError, match="layout='tf'"):
            load("rnaernie", PORT, layout="tf")
        with pytest.raises(UserError, match="transposed='perhaps'"):
            load("rnaernie", PORT, transposed="perhaps")
        with pytest.raises(UserError, match="only for the multimolecule port"):
            load("rnaernie", GOLDEN / "rnaernie/checkpoint", transposed="yes")
        with pytest.raises(UserError, match="pooling='pooler'"):
            load("rnaernie", GOLDEN / "rnaernie/checkpoint", pooling="pooler")
        with pytest.raises(UserError, match="the pooler reads the last one"):
            load("rnaernie", PORT, pooling="pooler", layer=1)


class TestPaddle:
    """The original file has other names and tokens, and stores every linear weight as (in, out)."""

    def test_converted_file_gives_what_the_port_of_the_same_weights_gives(self, tmp_path):
        arrays = paddle_arrays()
        np.savez(tmp_path / "model_state.npz", **arrays)
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "model_state.safetensors")
        init = {"hidden_act": "relu", "num_attention_heads": 4, "init_class": "ErnieModel"}
        (tmp_path / "model_config.json").write_text(json.dumps({"init_args": [init], "init_class": "ErnieForMaskedLM"}))
        port, windows = load("rnaernie", PORT), random_windows(4, (20, 60))
        for checkpoint in (tmp_path, tmp_path / "model_state.safetensors"):
            model = load("rnaernie", checkpoint)
            assert model.audit.facts["layout"] == "paddle"
            assert (model.audit.matched, model.audit.expected) == (44, 44)
            with torch.inference_mode():
                torch.testing.assert_close(model(model.collate(windows)), port(port.collate(windows)), rtol=0, atol=1e-5)
                masked, theirs = (one.collate_masked(windows, [3, 9, 0, 19]) for one in (model, port))
                found, expected = model.base_log_probabilities(masked), port.base_log_probabilities(theirs)
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert model.collate([Window("ATCGN")])["tokens"].tolist() == [[2, 35, 36, 37, 38, 1, 3]]

    def test_raw_file_is_refused_and_never_run(self, tmp_path):
        import pickle

        (tmp_path / "model_state.pdparams").write_bytes(pickle.dumps({"w": Evil(tmp_path / "ran")}))
        with pytest.raises(BadData, match=r"a pickle, which is not run here.*paddle\.load\('model_state\.pdparams'"):
            load("rnaernie", tmp_path)
        np.savez(tmp_path / "model_state.npz", w=np.array([Evil(tmp_path / "ran")], dtype=object))
        with pytest.raises(BadData, match="cannot be read as arrays"):
            load("rnaernie", tmp_path)
        assert not (tmp_path / "ran").exists()

    def test_arrays_larger_than_their_file_are_refused_before_they_are_read(self, tmp_path):
        file, header = tmp_path / "model_state.npz", io.BytesIO()
        np.savez_compressed(file, w=np.zeros(1 << 24, np.float32))
        with pytest.raises(BadData, match=r"cannot be read as arrays \(its 67,108,992 bytes of arrays are packed into "):
            load("rnaernie", file)
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("w.npy", header.getvalue() + bytes(8))
        with pytest.raises(BadData, match=r"w\.npy is not as large as its shape \(1099511627776,\)"):
            load("rnaernie", file)
        np.savez_compressed(file, **paddle_arrays())
        assert load("rnaernie", file).audit.matched == 44

    def test_half_a_file_and_another_class_are_refused(self, tmp_path):
        arrays = paddle_arrays()
        np.savez(tmp_path / "whole.npz", **arrays)
        whole = (tmp_path / "whole.npz").read_bytes()
        (tmp_path / "model_state.npz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BadData, match="cannot be read as arrays"):
            load("rnaernie", tmp_path)
        (tmp_path / "model_config.json").write_text(json.dumps({"init_class": "RobertaModel"}))
        with pytest.raises(CheckpointMismatch, match="of the class 'RobertaModel'"):
            load("rnaernie", tmp_path / "whole.npz")
        (tmp_path / "model_config.json").unlink()
        del arrays["ernie.encoder.layers.1.linear1.weight"]
        np.savez(tmp_path / "part.npz", **arrays)
        with pytest.raises(CheckpointMismatch, match=r"43 of 44 tensors match RNAErnie.*layers\.1\.up\.weight"):
            load("rnaernie", tmp_path / "part.npz")


class TestTransposed:
    def test_random_weights_are_undecided_and_left_alone(self):
        model = load("rnaernie", PORT)
        assert model.audit.facts["transposed"] == "undecided"
        assert "hidden bases of 8 well-known RNAs" in model.audit.facts["transposed_evidence"]
        assert torch.equal(model.encoder.layers[0].query.weight, load_file(PORT / "model.safetensors")[query_name()])

    def test_a_trained_model_is_told_the_right_way_round(self, tmp_path, trained):
        """The same trained weights are stored as they are and as the old converter stored them, so the answer is known."""
        windows = random_windows(3)
        with torch.inference_mode():
            expected = trained(trained.collate(windows))
        for stored, found in ((False, "no"), (True, "yes")):
            file = store(trained, tmp_path / f"{stored}.safetensors", transposed=stored)
            model = load("rnaernie", file)
            assert model.audit.facts["transposed"] == found, model.audit.facts
            with torch.inference_mode():
                torch.testing.assert_close(model(model.collate(windows)), expected)
        wrong = load("rnaernie", file, transposed="no")
        assert wrong.audit.facts["transposed"] == "no"
        assert torch.equal(wrong.encoder.layers[0].query.weight, trained.encoder.layers[0].query.weight.T)
        told = load("rnaernie", file, transposed="yes")
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(told.state_dict().values(), trained.state_dict().values()))

    def test_without_masked_token_head_it_is_undecided(self, tmp_path, trained):
        file = store(trained, tmp_path / "whole.safetensors", transposed=True)
        tensors = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("lm_head")}
        save_file(tensors, tmp_path / "part.safetensors")
        facts = load("rnaernie", tmp_path / "part.safetensors").audit.facts
        assert (facts["transposed"], facts["transposed_evidence"]) == ("undecided", "no masked-language head in the file")

    def test_known_rnas_are_whole(self):
        lengths = {name: len(sequence) for name, sequence in _rnaernie_files.KNOWN_RNAS.items()}
        assert list(lengths.values()) == [76, 77, 76, 120, 121, 107, 80, 72]
        trnas = [sequence for name, sequence in _rnaernie_files.KNOWN_RNAS.items() if name.startswith("tRNA")]
        assert all(sequence.endswith("CCA") for sequence in trnas)


class TestUse:
    def test_windows(self):
        model = load("rnaernie", GOLDEN / "rnaernie/checkpoint")
        ids = model.collate([Window("ACGTN"), Window("GT")])["tokens"]
        assert ids.tolist() == [[2, 6, 8, 9, 7, 10, 3], [2, 9, 7, 3, 0, 0, 0]]
        with pytest.raises(BadData, match="window of 63 nt: rnaernie takes at most 62; nothing was cut"):
            model.collate([Window("A" * 63)])

    def test_pooling_is_the_pooler_where_there_is_one(self):
        windows = random_windows(3, (20, 40))
        port, other = load("rnaernie", PORT), load("rnaernie", GOLDEN / "rnaernie/checkpoint")
        assert (port.pooling, other.pooling) == ("pooler", "mean")
        with torch.inference_mode():
            batch = port.collate(windows)
            torch.testing.assert_close(
                port(batch), torch.tanh(port.pooler(port.encoder(batch["tokens"], batch["tokens"] != 0)[:, 0]))
            )
        mean = load("rnaernie", PORT, pooling="mean")
        assert not any(parameter.requires_grad for parameter in mean.pooler.parameters())
        assert load("rnaernie", PORT, layer=1).pooling == "mean"

    def test_masked_bases(self):
        check_masked_interface(load("rnaernie", PORT))
        check_masked_interface(load("rnaernie", GOLDEN / "rnaernie/checkpoint"))

    @pytest.mark.parametrize(("layout", "millions"), [("llm-eda", 87.24), ("paddle", 86.66), ("multimolecule", 86.66)])
    def test_random_initialisation_of_each_layout(self, layout, millions):
        model = registry.adapter_class("rnaernie").from_checkpoint(size="tiny", layout=layout).eval()
        check_lora_targets(model)
        assert (model.pooler is None) == (layout == "llm-eda")
        with torch.inference_mode():
            assert model(model.collate(random_windows(2))).std(dim=0).max() > 1e-4
        with torch.device("meta"):
            base = registry.adapter_class("rnaernie").from_checkpoint(layout=layout)
        assert math.isclose(sum(parameter.numel() for parameter in base.parameters()) / 1e6, millions, abs_tol=0.01)


@pytest.fixture(scope="module")
def trained():
    """A tiny model that has learnt the well-known RNAs, in the port's layout."""
    torch.manual_seed(0)
    model = registry.adapter_class("rnaernie").from_checkpoint(size="tiny", layout="multimolecule").train()
    model.lm_head.requires_grad_(True)
    ids = model.collate([Window(sequence) for sequence in _rnaernie_files.KNOWN_RNAS.values()])["tokens"]
    bases = torch.isin(ids, torch.tensor(model.vocabulary.bases))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        hide = bases & (torch.rand(ids.shape) < 0.17)
        hidden = model.encoder(ids.masked_fill(hide, model.vocabulary.mask), ids != model.vocabulary.pad)
        loss = F.cross_entropy(model.logits(hidden[hide]), ids[hide])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def store(model, file, transposed: bool):
    """The model's weights under the port's names; with ``transposed`` as the old converter stored them."""
    ours = model.state_dict()
    tensors = {name: ours[rename({name: torch.empty(0)}, _bert.BERT_NAMES, Path()).popitem()[0]] for name in PORT_NAMES}
    for name, tensor in tensors.items():
        square = any(
            part in name
            for part in ("query.weight", "key.weight", "value.weight", "pooler.dense.weight", "transform.dense.weight")
        )
        tensors[name] = (tensor.T if transposed and square else tensor).contiguous()
    save_file(tensors, file)
    (file.parent / "config.json").write_text(json.dumps({"hidden_act": "relu", "num_attention_heads": model.shape.heads}))
    return file


def query_name() -> str:
    return next(name for name in PORT_NAMES if name.endswith("layer.0.attention.self.query.weight"))


def paddle_arrays() -> dict[str, np.ndarray]:
    """The golden port's weights as PaddlePaddle stores them: its names, its 39 tokens, linear weights (in, out)."""
    names = {
        "word_embeddings": "ernie.embeddings.word_embeddings.weight",
        "lm_head.bias": "cls.predictions.decoder_bias",
        "lm_head.transform.dense": "cls.predictions.transform",
        "lm_head.transform.layer_norm": "cls.predictions.layer_norm",
        "model.": "ernie.",
        "encoder.layer.": "encoder.layers.",
        "attention.self.query": "self_attn.q_proj",
        "attention.self.key": "self_attn.k_proj",
        "attention.self.value": "self_attn.v_proj",
        "attention.output.dense": "self_attn.out_proj",
        "attention.output.layer_norm": "norm1",
        "intermediate.dense": "linear1",
        "output.dense": "linear2",
        "output.layer_norm": "norm2",
    }
    ids = {0: 0, 3: 1, 1: 2, 2: 3, 4: 4, 6: 35, 9: 36, 7: 37, 8: 38}  # the port's → Paddle's
    arrays = {}
    for name, tensor in load_file(PORT / "model.safetensors").items():
        array = tensor.numpy()
        if len(array) == 28 and ("word_embeddings" in name or name == "lm_head.bias"):
            rows = np.zeros((39, *array.shape[1:]), np.float32)
            rows[list(ids.values())] = array[list(ids)]
            array = rows
        elif array.ndim == 2 and "embeddings" not in name:
            array = np.ascontiguousarray(array.T)
        for theirs, original in names.items():
            name = original if theirs == "word_embeddings" and theirs in name else name.replace(theirs, original)
        arrays[name] = array
    return arrays
