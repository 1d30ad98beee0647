"""What a config.json may say: any mutation of one is an error of ours, before anything is built, or a model that works."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_dnabert import golden_checkpoint
from test_rnaernie import paddle_arrays
from test_rnafm import GOLDEN

from harness import registry
from harness.adapters.gpn_msa import GPNMSA, PUBLISHED
from harness.data import Window
from harness.errors import BadData, CheckpointMismatch, UserError
from harness.files.checkpoint import read_tensors, weight_file

VALUES = ("deleted", "x", -1, 0, 1e9, 10**9, None, [], True, 10**30, float("nan"))
SKIPPED = ("complement_map", "architectures", "auto_map")  # places within; the whole is mutated
BERT = {"type_vocab_size": 2, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512}
HYENADNA = {
    "model_type": "hyenadna",
    "n_layer": 2,
    "d_model": 32,
    "d_inner": 128,
    "max_seq_len": 16386,
    "layer_norm_epsilon": 1e-5,
    "embed_dropout": 0.1,
    "vocab_size": 12,
    "pad_vocab_size_multiple": 8,
    "layer": {"_name_": "hyena", "l_max": 16386},
}


def golden(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        shutil.copytree(GOLDEN / name / "checkpoint", folder)
        return folder / "config.json"

    return make


def dnabert(name: str) -> Callable[[Path], Path]:
    return lambda folder: golden_checkpoint(name, folder) / "config.json"


def own(name: str, config: dict[str, Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir()
        state = registry.adapter_class(name).from_checkpoint(size="tiny").state_dict()
        save_file({key: tensor.clone() for key, tensor in state.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
        return folder / "config.json"

    return make


def paddle(folder: Path) -> Path:
    folder.mkdir()
    np.savez(folder / "model_state.npz", **paddle_arrays())
    init = {"hidden_act": "relu", "num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 48, "vocab_size": 39}
    (folder / "model_config.json").write_text(json.dumps({"init_args": [init], "init_class": "ErnieForMaskedLM"}))
    return folder / "model_config.json"


def pretrained(folder: Path) -> Path:
    folder.mkdir()
    shape = replace(PUBLISHED, layers=1, width=32, heads=2, inner=8, positions=64)
    save_file(GPNMSA(shape).state_dict(), folder / "model.safetensors")
    (folder / "pretrain.json").write_text(json.dumps({"settings": {"species": ["a", "b"]}, "data": {"rows": 2}}))
    return folder / "pretrain.json"


CHECKPOINTS = {
    "dnabert1": ("dnabert1", dnabert("dnabert1"), BERT),
    "genemask": ("genemask", dnabert("genemask"), BERT),
    "dnabert2": ("dnabert2", dnabert("dnabert2"), BERT),
    "rnaernie": ("rnaernie", golden("rnaernie"), {"hidden_dropout_prob": 0.1, "pad_token_id": 0}),
    "rnaernie port": ("rnaernie", golden("rnaernie_multimolecule"), {"hidden_dropout": 0.1, "lm_head": {"act": None}}),
    "rnaernie paddle": ("rnaernie", paddle, {}),
    "rnafm port": ("rnafm", golden("rnafm_multimolecule"), {"attention_dropout": 0.1, "type_vocab_size": 2}),
    "gpn_msa": ("gpn_msa", golden("gpn_msa"), {}),
    "gpn_msa record": ("gpn_msa", pretrained, {}),
    "caduceus ps": ("caduceus", golden("caduceus_ps"), {}),
    "caduceus ph": ("caduceus", golden("caduceus_ph"), {}),
    "hyenadna": ("hyenadna", own("hyenadna", HYENADNA), {}),
    "msamamba": ("msamamba", own("msamamba", {"n_layers": 2, "d_model": 32, "n_heads": 4, "norm": "rmsnorm"}), {}),
}


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if not (set(path) & set(SKIPPED)):
            yield from places(item, (*path, key))


def mutations(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in places(config):
        for value in VALUES:
            changed = copy.deepcopy(config)
            holder: Any = changed
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = value
            if value == "deleted":
                del holder[path[-1]]
            yield changed


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_mutated_configuration_is_refused_or_gives_a_model_that_works(tmp_path, name, monkeypatch):
    model, make, extra = CHECKPOINTS[name]
    config = make(tmp_path / "checkpoint")
    original = json.loads(config.read_text()) | extra
    if name == "rnaernie port":
        monkeypatch.setattr("harness.adapters.rnaernie.judge_orientation", lambda model: ("undecided", "not asked"))
    config.write_text(json.dumps(original))
    registry.adapter_class(model).from_checkpoint(config.parent)
    begun, done, refused = time.monotonic(), 0, []
    for mutated in mutations(original):
        config.write_text(json.dumps(mutated))
        done += 1
        try:
            loaded = registry.adapter_class(model).from_checkpoint(config.parent).eval()
        except UserError as error:
            refused.append(str(error))
            continue
        except Exception as error:
            raise AssertionError(f"{mutated}: {error!r}") from error
        with torch.inference_mode():
            found = loaded(loaded.collate([Window("ACGTACGTACGT")]))
        assert found.isfinite().all(), mutated
    assert done >= 24
    assert 0.2 * done < len(refused) < done
    assert not any("\n" in message for message in refused)
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        *((name, "num_hidden_layers", 512) for name in ("dnabert1", "dnabert2", "rnaernie", "rnafm port", "gpn_msa")),
        *((name, "n_layer", 512) for name in ("caduceus ps", "caduceus ph", "hyenadna")),
        ("msamamba", "n_layers", 512),
    ],
)
def test_a_model_far_larger_than_its_file_is_not_built(tmp_path, name, setting, value):
    model, make, _ = CHECKPOINTS[name]
    config = make(tmp_path / "checkpoint")
    config.write_text(json.dumps(json.loads(config.read_text()) | {setting: value}))
    with pytest.raises(CheckpointMismatch, match=r"bytes, but its config\.json describes a model of [\d,]{9,} parameters"):
        registry.adapter_class(model).from_checkpoint(config.parent)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "[]", '{"init_args": 3}', '{"init_class": 3}', '{"init_args": [{"hidden_act": 1}]}']
)
def test_what_is_no_configuration_of_paddle(tmp_path, text):
    config = paddle(tmp_path / "checkpoint")
    config.write_text(text)
    with pytest.raises(BadData, match=r"model_config\.json: .*; fetch it again"):
        registry.adapter_class("rnaernie").from_checkpoint(config.parent)


@pytest.mark.parametrize("name", ["rnaernie", "dnabert1"])
def test_a_table_of_positions_without_room_for_a_base_is_refused(tmp_path, name):
    model, make, _ = CHECKPOINTS[name]
    config = make(tmp_path / "checkpoint")
    file = weight_file(config.parent)
    tensors = {key: tensor[:2] if "position_embeddings" in key else tensor for key, tensor in read_tensors(file).items()}
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": None}))
    file.unlink()
    save_file(tensors, config.parent / "model.safetensors")
    with pytest.raises(CheckpointMismatch, match="2 positions have no room for a base between two special tokens"):
        registry.adapter_class(model).from_checkpoint(config.parent)
