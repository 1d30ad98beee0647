"""Which files of a folder are a checkpoint: one, or a refusal that names them; and the identity that follows what is read."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from harness import registry
from harness.engine.build import request
from harness.errors import BadData, DataMissing
from harness.files.checkpoint import weight_file
from harness.files.weight_files import find_weights

CONFIG = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 4101,
}


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    return {n: t.clone() for n, t in registry.adapter_class("dnabert1").from_checkpoint(None, size="tiny").state_dict().items()}


def folder(path, **files):
    """A folder with a configuration and these files, whose names have _DOT_ for a dot; dictionaries are saved as tensors."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    for name, content in files.items():
        file = path / name.replace("_DOT_", ".")
        if not isinstance(content, dict):
            file.write_bytes(content)
        elif file.suffix == ".safetensors":
            save_file(content, file)
        else:
            torch.save(content, file)
    return path


def built(path):
    return request("dnabert1", checkpoint=str(path)).build()


def fingerprint(path):
    return request("dnabert1", checkpoint=str(path)).fingerprint()


def test_a_folder_without_weights_says_what_was_sought(tmp_path):
    with pytest.raises(
        DataMissing, match=r"no such file, nor a folder with mine\.pt or model\.safetensors or pytorch_model\.bin$"
    ):
        weight_file(tmp_path / "none", "mine.pt")
    with pytest.raises(DataMissing, match="no such file, nor a folder"):
        weight_file(folder(tmp_path / "loop", optimizer_DOT_pt=b"x", training_args_DOT_bin=b"x", state_DOT_pt=b"x"))


def test_weights_in_a_format_that_is_not_read_are_named(tmp_path):
    with pytest.raises(DataMissing, match=r"there is tf_model\.h5, which is not read: save it as safetensors"):
        weight_file(folder(tmp_path / "a", tf_model_DOT_h5=b"x"))


@pytest.mark.parametrize("name", ["last_DOT_ckpt", "best_DOT_pt", "weights_DOT_pth", "anything_DOT_safetensors", "x_DOT_bin"])
def test_the_only_weight_file_of_a_folder_is_read_and_said(tmp_path, bert, name):
    found = folder(tmp_path / "a", **{name: bert, "optimizer_DOT_pt": b"x", "rng_state_0_DOT_pth": b"x"})
    assert built(found).audit.warnings == (f"{name.replace('_DOT_', '.')} is read, the only weight file in {found}",)


def test_of_several_unusual_names_none_is_chosen(tmp_path, bert):
    found = folder(tmp_path / "a", last_DOT_ckpt=bert, **{"epoch=3_DOT_ckpt": bert})
    with pytest.raises(BadData, match=r"2 weight files \(epoch=3\.ckpt, last\.ckpt\), and none is called .*; give one of them"):
        built(found)
    assert built(found / "last.ckpt").audit.matched == 46


def test_the_usual_name_is_read_and_what_is_not_is_said(tmp_path, bert):
    found = folder(tmp_path / "a", pytorch_model_DOT_bin=bert, last_DOT_ckpt={"a": torch.ones(1)})
    assert built(found).audit.warnings == ("pytorch_model.bin is read, not last.ckpt",)
    assert fingerprint(found) == fingerprint(folder(tmp_path / "b", pytorch_model_DOT_bin=bert))


def test_two_files_of_different_models_are_refused(tmp_path, bert):
    other = {name: tensor * 0 for name, tensor in bert.items()}
    found = folder(tmp_path / "a", model_DOT_safetensors=bert, pytorch_model_DOT_bin=other)
    with pytest.raises(
        BadData, match=r"model\.safetensors and pytorch_model\.bin hold different models \(\d+ tensors differ, such"
    ):
        built(found)
    assert built(found / "pytorch_model.bin").state_dict()["bert.pooler.dense.weight"].abs().max() == 0
    more = folder(tmp_path / "b", model_DOT_safetensors=bert, pytorch_model_DOT_bin={**bert, "bert.more": torch.ones(2)})
    with pytest.raises(BadData, match=r"1 tensors differ, such as bert\.more"):
        built(more)


def test_one_model_in_two_formats_is_one_checkpoint(tmp_path, bert):
    tied = {name: tensor for name, tensor in bert.items() if name != "cls.predictions.decoder.weight"}  # as safetensors has it
    found = folder(tmp_path / "a", model_DOT_safetensors=tied, pytorch_model_DOT_bin=bert)
    assert built(found).audit.source.endswith("model.safetensors")
    assert fingerprint(found) == fingerprint(folder(tmp_path / "b", model_DOT_safetensors=tied))


class TestSubFolders:
    def test_the_only_one_with_weights_is_taken_and_said(self, tmp_path, bert):
        inside = folder(tmp_path / "a/checkpoint-500", pytorch_model_DOT_bin=bert, trainer_state_DOT_json=b"{}")
        folder(tmp_path / "a/logs", events_DOT_txt=b"x")
        (tmp_path / "a/config.json").unlink(missing_ok=True)
        audit = built(tmp_path / "a").audit
        assert audit.source == str(inside / "pytorch_model.bin")
        assert audit.warnings == (f"checkpoint-500 is read, the only sub-folder of {tmp_path / 'a'} with weights",)
        assert fingerprint(tmp_path / "a") == fingerprint(inside)

    def test_several_are_named_with_the_best(self, tmp_path, bert):
        for step in (500, 1000):
            state = json.dumps({"best_model_checkpoint": "out/checkpoint-500"}).encode()
            folder(tmp_path / f"a/checkpoint-{step}", pytorch_model_DOT_bin=bert, trainer_state_DOT_json=state)
        named = r"2 sub-folders with weights; give one of them: checkpoint-1000, checkpoint-500"
        with pytest.raises(DataMissing, match=named + r" \(its trainer calls checkpoint-500 the best\)$"):
            built(tmp_path / "a")
        (tmp_path / "a/checkpoint-1000/trainer_state.json").write_text("[")
        (tmp_path / "a/checkpoint-500/trainer_state.json").write_text("{}")
        with pytest.raises(DataMissing, match=named + "$"):
            built(tmp_path / "a")

    def test_the_hubs_own_cache_is_one_more_level(self, tmp_path, bert):
        inside = folder(tmp_path / "models--owner--name/snapshots/0123abc", pytorch_model_DOT_bin=bert)
        (tmp_path / "models--owner--name/refs").mkdir()
        assert built(tmp_path / "models--owner--name").audit.source == str(inside / "pytorch_model.bin")

    def test_weights_of_the_folder_itself_come_first(self, tmp_path, bert):
        found = folder(tmp_path / "a", pytorch_model_DOT_bin=bert)
        folder(tmp_path / "a/checkpoint-500", pytorch_model_DOT_bin={"a": torch.ones(1)})
        assert built(found).audit.source == str(found / "pytorch_model.bin")


class TestShards:
    def sharded(self, path, tensors, kind="model.safetensors"):
        stem, _, ending = kind.partition(".")
        names = sorted(tensors)
        parts = {name: f"{stem}-0000{1 + number % 2}-of-00002.{ending}" for number, name in enumerate(names)}
        files = {part: {n: tensors[n] for n in names if parts[n] == part} for part in set(parts.values())}
        folder(path, **files)
        (path / f"{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
        return path

    @pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
    @pytest.mark.parametrize("prefix", ["", "module.", "net."])
    def test_they_are_read_by_their_index(self, tmp_path, bert, kind, prefix):
        found = self.sharded(tmp_path / "a", {prefix + name: tensor for name, tensor in bert.items()}, kind)
        for given in (found, found / f"{kind}.index.json"):
            model = built(given)
            assert all(torch.equal(tensor, bert[name]) for name, tensor in model.state_dict().items())
            assert fingerprint(given) == fingerprint(found)
            assert bool(model.audit.warnings) == bool(prefix)

    def test_every_one_counts_and_none_else(self, tmp_path, bert):
        found, same = self.sharded(tmp_path / "a", bert), self.sharded(tmp_path / "b", bert)
        (same / "trainer_state.json").write_text("{}")
        assert fingerprint(found) == fingerprint(same)
        other = self.sharded(tmp_path / "c", {**bert, "bert.pooler.dense.bias": torch.ones(64)})
        assert fingerprint(other) != fingerprint(found)

    def test_one_alone_is_not_the_model(self, tmp_path, bert):
        found = self.sharded(tmp_path / "a", bert)
        with pytest.raises(BadData, match=r"one file of several; give their index"):
            built(found / "model-00001-of-00002.safetensors")
        (found / "model.safetensors.index.json").unlink()
        with pytest.raises(DataMissing, match=r"model-00001-of-00002\.safetensors, .* without their index"):
            built(found)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("half", [False, True])
def test_a_value_that_is_not_finite_is_refused_wherever_it_lies(tmp_path, bert, value, half):
    name = "bert.encoder.layer.1.output.dense.weight"
    tensors = {key: tensor.clone() for key, tensor in bert.items()}
    tensors[name][3, 5] = value
    if half:
        tensors = {key: tensor.half() for key, tensor in tensors.items()}
    places = [
        folder(tmp_path / "one", pytorch_model_DOT_bin=tensors),
        folder(tmp_path / "deep/checkpoint-1", model_DOT_safetensors={f"net.{key}": t for key, t in tensors.items()}).parent,
        TestShards().sharded(tmp_path / "many", tensors),
    ]
    for place in places:
        for partial in (False, True):
            with pytest.raises(BadData, match=rf"{name} holds values that are not finite \(1 of 8,192 are NaN or infinite\)"):
                request("dnabert1", checkpoint=str(place), allow_partial=partial).build()


def test_a_tied_tensor_that_is_not_finite_is_not_called_untied(tmp_path):
    model = registry.adapter_class("caduceus").from_checkpoint(None, size="tiny")
    state = {**model.state_dict(), "lm_head.weight": model.state_dict()["embed.weight"] * torch.nan}
    torch.save({name: torch.nan * t if name == "embed.weight" else t for name, t in state.items()}, tmp_path / "a.pt")
    with pytest.raises(BadData, match="holds values that are not finite"):
        request("caduceus", checkpoint=str(tmp_path / "a.pt")).build()


def test_identity_is_the_content_of_what_is_read(tmp_path, bert):
    first = folder(tmp_path / "a", pytorch_model_DOT_bin=bert)
    prints = [fingerprint(first)]
    shutil.copytree(first, tmp_path / "elsewhere")
    shutil.move(tmp_path / "elsewhere/pytorch_model.bin", tmp_path / "elsewhere/renamed.ckpt")
    for unread in ("training_args.bin", "optimizer.pt", "rng_state_1.pth", "trainer_state.json", "README.md", "LICENSE", "x.log"):
        (tmp_path / "elsewhere" / unread).write_bytes(b"x")
    assert fingerprint(tmp_path / "elsewhere") == prints[0]
    assert fingerprint(tmp_path / "elsewhere/renamed.ckpt") == prints[0]
    (first / "config.json").write_text(json.dumps({**CONFIG, "layer_norm_eps": 1e-5}))
    prints.append(fingerprint(first))
    (first / "vocab.txt").write_text("A")
    prints.append(fingerprint(first))
    assert len(set(prints)) == 3


def test_a_models_own_file_names_come_first(tmp_path):
    folder(tmp_path / "a", mine_DOT_pt=b"x", model_DOT_safetensors=b"y")
    assert find_weights(tmp_path / "a", "mine.pt").file.name == "mine.pt"
