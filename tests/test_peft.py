"""Folders of PEFT adapters: LoRA merged into its base model as peft merges it, or refused with the reason; never left out."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel
from transformers.pytorch_utils import Conv1D

from harness.data import Window
from harness.engine.build import request
from harness.errors import BadData, CheckpointMismatch, DataMissing
from harness.files import lora, peft
from harness.files.checkpoint import load_as_found, read_tensors, resolve_weights, weight_file

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 4101}
WINDOWS = [Window("ACGTTGCAGGATCCATTA"), Window("TTGACAGGTTAACCGG")]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A tiny BERT saved with its masked-language head, and the same encoder saved alone."""
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    whole = BertForMaskedLM(BertConfig(**SIZES))
    whole.save_pretrained(folder / "whole")
    whole.bert.save_pretrained(folder / "bare")
    return folder


def trained(model, folder, base, seed=1, **settings):
    """The folder of an adapter on ``model`` with random weights, and the model merged by peft."""
    torch.manual_seed(seed)
    wrapped = get_peft_model(model, LoraConfig(**({"r": 4, "lora_alpha": 12, "target_modules": ["query", "value"]} | settings)))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
            assert parameter.requires_grad or "lora" not in name
    wrapped.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base and str(base)}))
    return wrapped.merge_and_unload()


def embedded(path, **options):
    model = request("dnabert1", checkpoint=str(path), options={"pooling": "mean", **options}).build().eval()
    with torch.inference_mode():
        return model(model.collate(WINDOWS)), model.audit


SETTINGS = [
    {},
    {"use_rslora": True},
    {"rank_pattern": {"layer.1.attention.self.query": 2}, "alpha_pattern": {"value": 3}},
    {"bias": "all"},
    {"bias": "lora_only"},
    {"lora_bias": True, "target_modules": ["dense"]},
    {"target_modules": ["word_embeddings", "query"]},
    {"modules_to_save": ["LayerNorm"]},
    {"layers_to_transform": [1], "layers_pattern": "layer"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_is_merged_as_peft_merges_it(bases, tmp_path, settings):
    merged = trained(BertForMaskedLM.from_pretrained(bases / "whole"), tmp_path / "adapter", bases / "whole", **settings)
    merged.save_pretrained(tmp_path / "merged")
    expected, _ = embedded(tmp_path / "merged")
    found, audit = embedded(tmp_path / "adapter")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    plain, _ = embedded(bases / "whole")
    assert (found - plain).abs().max() > 1e-3
    assert audit.warnings[0].startswith("LoRA merged into ")
    assert str(bases / "whole/model.safetensors") in audit.warnings[0]
    assert audit.source.endswith("adapter/adapter_model.safetensors")


@pytest.mark.parametrize(("adapted", "base"), [("whole", "bare"), ("bare", "whole")])
def test_an_adapter_fits_its_encoder_with_and_without_the_head(bases, tmp_path, adapted, base):
    kind = BertForMaskedLM if adapted == "whole" else BertModel
    merged = trained(kind.from_pretrained(bases / adapted), tmp_path / "adapter", bases / base)
    merged.save_pretrained(tmp_path / "merged")
    found, audit = embedded(tmp_path / "adapter")
    torch.testing.assert_close(found, embedded(tmp_path / "merged")[0], rtol=1e-6, atol=1e-6)
    assert any("the adapter's names" in warning and "'bert.'" in warning for warning in audit.warnings)


@pytest.mark.filterwarnings("ignore")
def test_lora_of_a_head_that_the_base_never_had_is_left_out_and_said(bases, tmp_path):
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path / "pooling")
    targets = ["query", "pooler.dense"]
    model = BertModel.from_pretrained(bases / "whole")  # whose pooler is random
    merged = trained(model, tmp_path / "adapter", bases / "whole", target_modules=targets)
    merged.save_pretrained(tmp_path / "merged")
    found, audit = embedded(tmp_path / "adapter")
    torch.testing.assert_close(found, embedded(tmp_path / "merged")[0], rtol=1e-6, atol=1e-6)
    assert audit.warnings[1] == "LoRA parts of pooler.dense are left out: the base model's file lacks these heads"
    trained(BertModel.from_pretrained(tmp_path / "pooling"), tmp_path / "other", tmp_path / "pooling", target_modules=targets)
    assert "LoRA merged into 3 layers" in embedded(tmp_path / "other")[1].warnings[0]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stored_in_out, self.convolution, self.table = Conv1D(6, 4), nn.Conv1d(6, 5, 3), nn.Embedding(7, 4)

    def forward(self, ids):
        return self.convolution(self.stored_in_out(self.table(ids)).transpose(1, 2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("target", "transposed"), [("stored_in_out", True), ("convolution", False), ("table", False)], ids=lambda value: str(value)
)
def test_layers_of_every_kind_are_merged(tmp_path, target, transposed):
    torch.manual_seed(0)
    network = Network()
    base = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    merged = trained(network, tmp_path, None, target_modules=[target], fan_in_fan_out=transposed)
    delta = load_file(tmp_path / "adapter_model.safetensors")
    found, _ = lora.merge(delta, peft.read_settings(tmp_path), tmp_path, base)
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(found[name], tensor)
    assert not torch.equal(found[f"{target}.weight"], base[f"{target}.weight"])


def whole_save(bases, folder, with_config):
    """A model that was saved with its adapter in it, as ``torch.save(peft_model.state_dict())`` does."""
    torch.manual_seed(2)
    settings = LoraConfig(r=4, lora_alpha=12, target_modules=["query"], modules_to_save=["LayerNorm"])
    wrapped = get_peft_model(BertForMaskedLM.from_pretrained(bases / "whole"), settings)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    folder.mkdir()
    torch.save(wrapped.state_dict(), folder / "pytorch_model.bin")
    shutil.copy(bases / "whole/config.json", folder)
    if with_config:
        wrapped.peft_config["default"].save_pretrained(folder)
    return wrapped.merge_and_unload()


def test_a_model_that_was_saved_with_its_adapter_is_merged_by_its_configuration(bases, tmp_path):
    whole_save(bases, tmp_path / "all", with_config=True).save_pretrained(tmp_path / "merged")
    found, audit = embedded(tmp_path / "all")
    torch.testing.assert_close(found, embedded(tmp_path / "merged")[0], rtol=1e-6, atol=1e-6)
    assert audit.warnings[0] == "LoRA merged into 2 layers (rank 4, scale 3)"
    print_of = request("dnabert1", checkpoint=str(tmp_path / "all")).fingerprint
    first, sha = print_of(), audit.sha256
    change(tmp_path / "all", lora_alpha=8)
    assert print_of() != first
    assert embedded(tmp_path / "all")[1].sha256 != sha


def test_without_a_configuration_the_scale_is_unknown(bases, tmp_path):
    whole_save(bases, tmp_path / "all", with_config=False)
    for partial in (False, True):
        with pytest.raises(CheckpointMismatch, match=r"LoRA parts are in the file: save model\.merge_and_unload"):
            request("dnabert1", checkpoint=str(tmp_path / "all"), allow_partial=partial).build()


@pytest.fixture
def adapter(bases, tmp_path):
    trained(BertForMaskedLM.from_pretrained(bases / "whole"), tmp_path / "adapter", bases / "whole")
    return tmp_path / "adapter"


def change(folder, **settings):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))


@pytest.mark.parametrize(
    ("settings", "error", "reason"),
    [
        ({"peft_type": "IA3"}, CheckpointMismatch, "peft_type IA3; only LoRA"),
        ({"use_dora": True}, CheckpointMismatch, "use_dora is set; only plain LoRA"),
        ({"trainable_token_indices": [1]}, CheckpointMismatch, "trainable_token_indices is set"),
        ({"a_setting_of_the_future": {"a": 1}}, CheckpointMismatch, "a_setting_of_the_future is set"),
        ({"init_lora_weights": "pissa_niter_4"}, CheckpointMismatch, "init_lora_weights 'pissa_niter_4' changes the base"),
        ({"r": 8}, CheckpointMismatch, "has a LoRA of rank 4, its configuration says 8"),
        ({"r": "4"}, BadData, "not the settings of a LoRA"),
        ({"lora_alpha": -1}, BadData, "not the settings of a LoRA"),
        ({"rank_pattern": {"(": 4}}, BadData, "not the settings of a LoRA"),
        ({"base_model_name_or_path": None}, DataMissing, "a PEFT adapter without its base model; write the path"),
        ({"base_model_name_or_path": "/none/base"}, DataMissing, "base model '/none/base' is not on this machine"),
        ({"base_model_name_or_path": "."}, DataMissing, r"nor a folder with .* \(the base model of the PEFT adapter"),
    ],
)
def test_what_is_not_plain_lora_on_a_known_base_is_refused(adapter, settings, error, reason):
    change(adapter, **settings)
    with pytest.raises(error, match=reason) as caught:
        request("dnabert1", checkpoint=str(adapter)).build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "error", "reason"),
    [
        (lambda name, value: (name, value * torch.nan), BadData, r"adapter_model.safetensors: .*lora_A.weight holds values that"),
        (lambda name, value: (name.replace("lora_B", "lora_C"), value), CheckpointMismatch, "is not a part of plain LoRA"),
        (lambda name, value: (name.replace("lora_A", "lora_magnitude_vector"), value), CheckpointMismatch, "is DoRA"),
        (lambda name, value: (name.replace("layer.0", "layer.7"), value), CheckpointMismatch, "which its base model lacks"),
        (
            lambda name, value: (name, value[:, :5].clone() if "lora_A" in name else value),
            CheckpointMismatch,
            r"weight of \(32, 5\)",
        ),
        (lambda name, value: (name.replace("lora_A.", "part_"), value), CheckpointMismatch, "only one of lora_A and lora_B"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(adapter, edit, error, reason):
    found = load_file(adapter / "adapter_model.safetensors")
    save_file(dict(edit(name, value.clone()) for name, value in found.items()), adapter / "adapter_model.safetensors")
    with pytest.raises(error, match=reason):
        request("dnabert1", checkpoint=str(adapter)).build()


def test_an_adapter_of_an_adapter_is_refused(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "second")
    change(tmp_path / "second", base_model_name_or_path=str(adapter))
    with pytest.raises(BadData, match="is a PEFT adapter too"):
        request("dnabert1", checkpoint=str(tmp_path / "second")).build()


def test_its_files_are_all_needed(adapter):
    (adapter / "adapter_config.json").rename(adapter / "gone")
    with pytest.raises(DataMissing, match=r"without its adapter_config\.json"):
        request("dnabert1", checkpoint=str(adapter)).build()
    (adapter / "gone").rename(adapter / "adapter_config.json")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(DataMissing, match=r"adapter_config\.json without adapter_model"):
        request("dnabert1", checkpoint=str(adapter)).build()


def test_where_no_model_is_built_an_adapter_is_not_left_out_silently(adapter):
    with pytest.raises(DataMissing, match=r"a PEFT adapter without its base model; .*merge_and_unload"):
        weight_file(adapter)


def test_an_adapter_beside_weights_is_refused_unless_one_is_meant(adapter, bases):
    shutil.copy(bases / "whole/model.safetensors", adapter)
    shutil.copy(bases / "whole/config.json", adapter)
    with pytest.raises(BadData, match=r"a PEFT adapter \(LoRA\) lies beside model\.safetensors; merge the two"):
        request("dnabert1", checkpoint=str(adapter)).build()
    assert torch.equal(embedded(adapter / "model.safetensors")[0], embedded(bases / "whole")[0])
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(BadData, match="which holds no LoRA parts; merge the two"):
        request("dnabert1", checkpoint=str(adapter)).build()


def test_files_beside_the_adapter_that_are_not_read_are_said(adapter, bases):
    shutil.copy(bases / "whole/config.json", adapter)
    (adapter / "vocab.txt").write_text("A")
    torch.save({}, adapter / "adapter_model.bin")
    first, second, *_ = embedded(adapter)[1].warnings
    assert first == "adapter_model.safetensors is read, not adapter_model.bin"
    assert second.startswith("vocab.txt beside the adapter are not read; those beside the base model")


class TestBases:
    """Where the base model is found: beside the adapter, as a path, or as a hub id in the weights folder."""

    def test_a_relative_path_is_relative_to_the_adapter(self, adapter, bases, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        expected, _ = embedded(adapter)
        shutil.copytree(bases / "whole", adapter.parent / "base")
        change(adapter, base_model_name_or_path="../base")
        assert torch.equal(embedded(adapter)[0], expected)

    def test_a_hub_id_is_looked_up_at_its_revision(self, adapter, bases, tmp_path, monkeypatch):
        monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path / "weights"))
        monkeypatch.setenv("HARNESS_OFFLINE", "1")
        expected, _ = embedded(adapter)
        change(adapter, base_model_name_or_path="owner/base")
        with pytest.raises(DataMissing, match="a PEFT adapter, whose base model owner/base is not here: HARNESS_OFFLINE is set"):
            embedded(adapter)
        (tmp_path / "trainer").mkdir()
        shutil.copytree(adapter, tmp_path / "trainer/checkpoint-5")
        with pytest.raises(DataMissing, match="a PEFT adapter, whose base model owner/base is not here: HARNESS_OFFLINE is set"):
            embedded(tmp_path / "trainer")
        shutil.copytree(bases / "whole", tmp_path / "weights/owner--base/one")
        assert torch.equal(embedded(tmp_path / "trainer")[0], expected)
        assert torch.equal(embedded(adapter)[0], expected)
        shutil.copytree(bases / "bare", tmp_path / "weights/owner--base/two")
        with pytest.raises(BadData, match=r"several revisions \(one, two\): write one into adapter_config\.json \(revision\)"):
            embedded(adapter)
        change(adapter, revision="one")
        assert torch.equal(embedded(adapter)[0], expected)


class TestIdentity:
    def fingerprint(self, folder):
        return request("dnabert1", checkpoint=str(folder)).fingerprint()

    def test_it_is_the_content_of_adapter_and_base_wherever_they_lie(self, adapter, bases, tmp_path):
        first = self.fingerprint(adapter)
        shutil.copytree(bases / "whole", tmp_path / "moved/base")
        shutil.copytree(adapter, tmp_path / "moved/adapter")
        change(tmp_path / "moved/adapter", base_model_name_or_path="../base", lora_dropout=0.5, inference_mode=False)
        (tmp_path / "moved/adapter/README.md").write_text("what")
        (tmp_path / "moved/adapter/training_args.bin").write_bytes(b"1")
        (tmp_path / "moved/adapter/tokenizer.json").write_text("{}")
        assert self.fingerprint(tmp_path / "moved/adapter") == first
        assert self.fingerprint(tmp_path / "moved/adapter/adapter_model.safetensors") == first

    @pytest.mark.parametrize("what", ["lora", "scale", "base", "config", "no adapter"])
    def test_a_change_of_either_is_another_model(self, adapter, bases, tmp_path, what):
        shutil.copytree(bases / "whole", tmp_path / "base")
        change(adapter, base_model_name_or_path=str(tmp_path / "base"))
        first, audit = self.fingerprint(adapter), embedded(adapter)[1]
        if what == "lora":
            found = load_file(adapter / "adapter_model.safetensors")
            save_file({name: value + 1 for name, value in found.items()}, adapter / "adapter_model.safetensors")
        elif what == "scale":
            change(adapter, use_rslora=True)
        elif what == "base":
            found = load_file(tmp_path / "base/model.safetensors")
            save_file({name: value + 1 for name, value in found.items()}, tmp_path / "base/model.safetensors")
        elif what == "config":
            (tmp_path / "base/config.json").write_text((tmp_path / "base/config.json").read_text() + " ")
        other = tmp_path / "base" if what == "no adapter" else adapter
        assert self.fingerprint(other) != first
        assert what == "config" or embedded(other)[1].sha256 != audit.sha256


def test_what_transformers_takes_is_resolved_with_the_adapter_merged(adapter, bases):
    found = resolve_weights(adapter)
    assert (found.folder, found.file.name) == (bases / "whole", "model.safetensors")
    base, name = read_tensors(found.file), "bert.encoder.layer.0.attention.self.query.weight"
    assert base.keys() == found.tensors.keys()
    assert not torch.equal(found.tensors[name], base[name])
    assert found.notes[0].startswith("LoRA merged into 4 layers (rank 4, scale 3)")


def test_two_models_of_one_process_do_not_mix(adapter, bases):
    plain, _ = embedded(bases / "whole")
    merged, _ = embedded(adapter)
    assert torch.equal(embedded(bases / "whole")[0], plain)
    assert not torch.equal(merged, plain)
    with pytest.raises(DataMissing):
        load_as_found(lambda: weight_file(adapter / "none"))
