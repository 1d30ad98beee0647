"""What a model takes from a checkpoint: all of it or a refusal that names the cause; configurations within their bounds."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness import registry
from harness.engine.build import request
from harness.errors import BadData, CheckpointMismatch, HarnessError
from harness.files.checkpoint import (
    EPSILON,
    TEXT,
    audit_from_loading_info,
    check_size,
    load_tensors,
    partial_weights,
    read_config,
    read_tensors,
)

CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 4101,
}
LAYER = "bert.encoder.layer.1.output.dense.weight"


@pytest.fixture(scope="module")
def bert():
    """The tensors of a tiny DNABERT-1."""
    torch.manual_seed(0)
    return registry.adapter_class("dnabert1").from_checkpoint(None, size="tiny").state_dict()


@pytest.fixture
def built(tmp_path):
    def build(tensors, allow_partial=False, **config):
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | config))
        torch.save(tensors, tmp_path / "pytorch_model.bin")
        return request("dnabert1", checkpoint=str(tmp_path), allow_partial=allow_partial).build().audit

    return build


def lora(bert):
    extra = {f"bert.encoder.layer.0.attention.self.query.lora_{part}": torch.randn(8, 64) for part in "AB"}
    return {**bert, **extra}


def wrapped_by_peft(bert):
    state = {}
    for name, tensor in bert.items():
        if ".query.weight" in name:
            for part, value in (("base_layer", tensor), ("lora_A.default", torch.randn(8, 64))):
                state[f"base_model.model.{name.removesuffix('weight')}{part}.weight"] = value
        else:
            state[f"base_model.model.{name}"] = tensor
    return state


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lora, {}, r"query\.lora_A, .*query\.lora_B belong to another architecture; merge the LoRA parts first"),
        (
            lambda bert: bert,
            {"num_hidden_layers": 1},
            "has num_hidden_layers 1, its tensors 2; put the config.json of these very",
        ),
        (
            lambda bert: {**bert, "bert.encoder.layer.0.attention.self.distance_embedding.weight": torch.ones(1023, 16)},
            {},
            r"distance_embedding\.weight belong to another architecture",
        ),
        (lambda bert: {**bert, "bert.encoder.ln_f.weight": torch.ones(64)}, {}, r"ln_f\.weight belong to another"),
        (lambda bert: {**bert, "bert.encoder.rotary.weight": torch.ones(64)}, {}, r"rotary\.weight belong to another"),
        (wrapped_by_peft, {}, r"LoRA parts are in the file: save model\.merge_and_unload\(\)"),
        (lambda bert: {name: value.to(torch.int8) for name, value in bert.items()}, {}, "whole numbers: save them in float32"),
        (lambda bert: {name: value for name, value in bert.items() if name != LAYER}, {}, rf"45 of 46 .*: {LAYER}"),
        (lambda bert: {**bert, LAYER: torch.ones(3)}, {}, rf"45 of 46 tensors match.*another shape: {LAYER}"),
    ],
)
def test_what_would_change_the_model_is_refused_by_name(bert, built, change, config, message):
    with pytest.raises(CheckpointMismatch, match=message) as caught:
        built(change(dict(bert)), **config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "warnings"),
    [
        (
            (
                "classifier.weight",
                "classifier.bias",
                "cls.seq_relationship.weight",
                "score.weight",
                "contact_head.regression.bias",
            ),
            0,
        ),
        (("bert.embeddings.position_ids", "bert.rotary.inv_freq", "bert.norm.num_batches_tracked"), 1),
    ],
)
def test_heads_are_left_out_quietly_and_buffers_with_a_word(bert, built, extra, warnings):
    audit = built({**bert, **{name: torch.ones(3) for name in extra}})
    assert (audit.matched, audit.expected, audit.unused) == (46, 46, tuple(sorted(extra)))
    assert len(audit.warnings) == warnings
    if warnings:
        assert audit.warnings[0].startswith(
            "not used: 3 of the file's tensors, which hold no learned values (bert.embeddings.position_ids"
        )


def test_what_partial_weights_leave_out_is_said(bert, built):
    audit = built(lora(dict(bert)), allow_partial=True)
    assert audit.warnings[0].startswith("left out, as allowed: 2 of the file's tensors (bert.encoder.layer.0")
    audit = built({name: value for name, value in bert.items() if name != LAYER}, allow_partial=True)
    assert audit.warnings == ("partial weights: 1 of 46 tensors are not in the file and stay random",)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_any_width_are_converted(tmp_path, kind):
    model, state = nn.Linear(2, 2), {"weight": torch.tensor([[0.5, 1], [2, 3]]), "bias": torch.ones(2)}
    save_file({name: value.to(kind) for name, value in state.items()}, tmp_path / "model.safetensors")
    assert load_tensors(model, read_tensors(tmp_path / "model.safetensors"), tmp_path / "model.safetensors").matched == 2
    assert torch.equal(model.weight, state["weight"])
    assert model.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bert: {f"net.{name}": value for name, value in bert.items()}, r"every name begins with 'net\.' there"),
        (
            lambda bert: {name.removeprefix("bert."): value for name, value in bert.items() if name.startswith("bert.")},
            r"the names lack 'bert\.' there",
        ),
    ],
)
def test_an_adapter_by_itself_names_the_prefix(bert, built, tmp_path, change, message):
    """The request tries it, see test_wrappers.py."""
    assert built(change(dict(bert))).warnings
    with pytest.raises(CheckpointMismatch, match=message):
        registry.adapter_class("dnabert1").from_checkpoint(tmp_path)


class TestLoadingInfo:
    """What ``from_pretrained(…, output_loading_info=True)`` says, under the same rules."""

    def info(self, **given):
        return {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []} | given

    @pytest.fixture
    def file(self, tmp_path):
        (tmp_path / "model.safetensors").write_bytes(b"x")
        return tmp_path / "model.safetensors"

    def test_a_whole_model(self, file):
        audit = audit_from_loading_info(nn.Linear(2, 2), self.info(unexpected_keys=["lm_head.bias"]), file)
        assert (audit.expected, audit.matched, audit.missing, audit.unused) == (2, 2, (), ("lm_head.bias",))
        assert len(audit.sha256) == 64

    @pytest.mark.parametrize(
        "wrong",
        [
            {"missing_keys": ["bias"]},
            {"missing_keys": {"bias"}},  # a set, in some versions
            {"mismatched_keys": [("bias", torch.Size([3]), torch.Size([2]))]},
            {"mismatched_keys": ["bias"]},
        ],
    )
    def test_a_part(self, file, wrong):
        with pytest.raises(CheckpointMismatch, match=r"1 of 2 tensors match Linear; not there, or of another shape: bias"):
            audit_from_loading_info(nn.Linear(2, 2), self.info(**wrong), file)
        with partial_weights():
            audit = audit_from_loading_info(nn.Linear(2, 2), self.info(**wrong), file)
        assert (audit.matched, audit.missing) == (1, ("bias",))
        assert audit.warnings

    def test_another_architecture(self, file):
        with pytest.raises(CheckpointMismatch, match=r"2 of 2 tensors match Linear, but encoder\.extra belong to another"):
            audit_from_loading_info(nn.Linear(2, 2), self.info(unexpected_keys={"encoder.extra"}), file)


FIELDS = {
    "num_hidden_layers": (int, 1, 100),
    "layer_norm_eps": EPSILON,
    "hidden_act": TEXT,
    "tie": (bool, None, None),
    "dims": (list, None, None),
}


class TestConfig:
    def read(self, tmp_path, text, fields=FIELDS):
        (tmp_path / "config.json").write_text(text)
        return read_config(tmp_path / "model.bin", ("bert",), fields=fields)

    def test_what_is_within_its_bounds_is_given_back(self, tmp_path):
        config = {
            "num_hidden_layers": 12,
            "layer_norm_eps": 1e-12,
            "hidden_act": "gelu",
            "tie": True,
            "dims": [1],
            "more": {"a": 1},
        }
        assert self.read(tmp_path, json.dumps(config)) == config
        assert self.read(tmp_path, '{"layer_norm_eps": 0, "num_hidden_layers": null}') == {"layer_norm_eps": 0}
        assert read_config(tmp_path / "none/model.bin", ("bert",), fields=FIELDS) == {}

    @pytest.mark.parametrize(
        ("setting", "value", "expected"),
        [
            *(
                ("num_hidden_layers", value, "a whole number from 1 to 100")
                for value in (0, -1, 101, 10**7, 1.5, "x", True, [1], {})
            ),
            *(("layer_norm_eps", value, "a number from 0 to 0.1") for value in (-1, 0.2, "1e-12", math.nan, math.inf, False)),
            *(("hidden_act", value, "text") for value in (1, ["gelu"], False)),
            *(("tie", value, "true or false") for value in (1, "true")),
            ("dims", {}, "a list"),
        ],
    )
    def test_what_is_not_is_refused_by_name_value_and_bounds(self, tmp_path, setting, value, expected):
        with pytest.raises(BadData, match=rf"config\.json: {setting} .*, expected {expected}; fetch it again"):
            self.read(tmp_path, json.dumps({setting: value}))

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 200_000, '{"a": ' + "9" * 6000 + "}", "\ud800", '{"a": 1} x'])
    def test_what_is_no_configuration(self, tmp_path, text):
        (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(BadData, match=r"config\.json: (not JSON|expected a JSON object)"):
            read_config(tmp_path / "model.bin", ("bert",))

    def test_another_family(self, tmp_path):
        for family in ("gpt", ["bert"], 3, {"a": "b"}):
            with pytest.raises(CheckpointMismatch, match="expected bert; 0 tensors were loaded"):
                self.read(tmp_path, json.dumps({"model_type": family}))

    def test_a_mutated_configuration_is_an_error_of_ours_or_within_its_bounds(self, tmp_path):
        whole = json.dumps(
            {"model_type": "bert", "num_hidden_layers": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "tie": True}
        )
        rng, letters = np.random.default_rng(0), b'{}[]",:0123456789-eE.xntrue \x00\xff'
        begun, refused = time.monotonic(), 0
        for _ in range(500):
            text = bytearray(whole.encode())
            for _ in range(int(rng.integers(1, 4))):
                at = int(rng.integers(len(text)))
                text[at : at + int(rng.integers(0, 3))] = bytes(rng.choice(list(letters), int(rng.integers(0, 3))).tolist())
            (tmp_path / "config.json").write_bytes(bytes(text))
            try:
                found = read_config(tmp_path / "model.bin", ("bert",), fields=FIELDS)
            except HarnessError:
                refused += 1
                continue
            assert 1 <= found.get("num_hidden_layers", 1) <= 100
            assert 0 <= found.get("layer_norm_eps", 0) <= 0.1
            assert isinstance(found.get("hidden_act", ""), str)
        assert refused > 200
        assert time.monotonic() - begun < 10

    def test_a_model_larger_than_its_file_is_not_built(self, tmp_path):
        (tmp_path / "model.bin").write_bytes(bytes(2_000_000))
        check_size(2_000_000, tmp_path / "model.bin")
        with pytest.raises(CheckpointMismatch, match=r"2,000,000 bytes, but .* a model of 40,000,000,000 parameters"):
            check_size(40_000_000_000, tmp_path / "model.bin")
