"""What training loops put around a model: containers, prefixes too many and too few. Taken off where all then matches, and said."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import types
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import registry
from harness.data import Window
from harness.engine.build import request
from harness.errors import BadData, CheckpointMismatch, UserError
from harness.files.tensors import read_tensors
from harness.files.weight_files import find_weights

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = {  # layouts whose names differ from ours
    "caduceus_ph": "caduceus",
    "caduceus_ps": "caduceus",
    "gpn_msa": "gpn_msa",
    "rnaernie": "rnaernie",
    "rnaernie_multimolecule": "rnaernie",
    "rnafm": "rnafm",
    "rnafm_multimolecule": "rnafm",
}
OWN = ("dnabert1", "genemask", "hyenadna", "msamamba")
CONFIG = (
    '{"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, '
    '"intermediate_size": 128, "vocab_size": 4101}'
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder for each layout, with one weight file."""
    folders = {name: GOLDEN / name / "checkpoint" for name in PUBLISHED}
    for name in OWN:
        folders[name] = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        torch.save(
            registry.adapter_class(name).from_checkpoint(None, size="tiny").state_dict(), folders[name] / "pytorch_model.bin"
        )
        if name in ("dnabert1", "genemask"):
            (folders[name] / "config.json").write_text(CONFIG)
    return folders


def model_of(layout):
    return PUBLISHED.get(layout, layout)


def rewritten(source: Path, folder: Path, change) -> Path:
    """A copy of a folder, its tensors changed and saved as ``last.ckpt``."""
    file = find_weights(source, "RNA-FM_pretrained.pth").file
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(file.name))
    torch.save(change(read_tensors(file)), folder / "last.ckpt")
    return folder


def built(layout, folder, **options):
    return request(model_of(layout), checkpoint=str(folder), **options).build()


def check_same(one, other):
    first, second = one.state_dict(), other.state_dict()
    shared = first.keys() & second.keys()
    assert len(shared) > 10
    assert all(torch.equal(first[name], second[name]) for name in shared)


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


FORMS = {
    "net.": lambda tensors: prefixed("net.", tensors),
    "encoder.": lambda tensors: prefixed("encoder.", tensors),
    "backbone.": lambda tensors: prefixed("backbone.", tensors),
    "model.net.": lambda tensors: {"epoch": 3, "model_state_dict": prefixed("model.net.", tensors)},
    "module.": lambda tensors: {"model": prefixed("module.", tensors)},
    "_orig_mod.": lambda tensors: {"model": {"state_dict": prefixed("model._orig_mod.", tensors)}},
    "lightning": lambda tensors: {
        "pytorch-lightning_version": "2.1",
        "epoch": 3,
        "state_dict": {**prefixed("net.", tensors), "loss_fn.weight": torch.ones(2), "classifier.weight": torch.ones(2, 4)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "hyper_parameters": {"lr": 1e-4},
    },
}


@pytest.mark.parametrize("layout", [*PUBLISHED, *OWN])
@pytest.mark.parametrize("form", FORMS)
def test_every_model_is_found_in_what_training_loops_save(sources, tmp_path, layout, form):
    if (layout, form) in (("rnafm", "encoder."), ("hyenadna", "backbone.")):
        pytest.skip("official names begin so")
    plain = built(layout, sources[layout])
    found = built(layout, rewritten(sources[layout], tmp_path / "x", FORMS[form]))
    check_same(plain, found)
    assert found.audit.matched == found.audit.expected
    prefix = {"lightning": "net."}.get(form, form)
    assert any(prefix in warning for warning in found.audit.warnings), found.audit.warnings


BASES = {
    "dnabert1": "bert.",
    "genemask": "bert.",
    "rnaernie": "bert.",
    "rnaernie_multimolecule": "model.",
    "rnafm_multimolecule": "model.",
    "caduceus_ph": "caduceus.",
}


@pytest.mark.parametrize("layout", BASES)
@pytest.mark.parametrize("around", ["", "net.", "model."])
def test_an_encoder_that_was_saved_without_its_head_is_found(sources, tmp_path, layout, around):
    base = BASES[layout]

    def bare(tensors):
        return {around + name.removeprefix(base): tensor for name, tensor in tensors.items() if name.startswith(base)}

    found = built(layout, rewritten(sources[layout], tmp_path / "x", bare))
    check_same(built(layout, sources[layout]), found)
    assert found.audit.matched == found.audit.expected


def test_the_change_is_said(sources, tmp_path):
    bare = rewritten(sources["dnabert1"], tmp_path / "x", lambda tensors: prefixed("net.", tensors))
    assert built("dnabert1", bare).audit.warnings[-1] == "'net.' was taken off the file's names; only so they all match"
    pairs = rewritten(
        sources["dnabert1"],
        tmp_path / "y",
        lambda tensors: {"net." + name.removeprefix("bert."): t for name, t in tensors.items() if name.startswith("bert.")},
    )
    assert built("dnabert1", pairs).audit.warnings[-1] == (
        "'net.' was taken off the file's names; 'bert.', which the file's names lack, was put before them; only so they all match"
    )


def test_a_file_that_matches_as_it_is_stays_so_and_draws_the_same_numbers(sources):
    torch.manual_seed(3)
    model = built("dnabert1", sources["dnabert1"])
    drawn = torch.rand(2)
    torch.manual_seed(3)
    registry.adapter_class("dnabert1").from_checkpoint(sources["dnabert1"])
    assert torch.equal(torch.rand(2), drawn)
    assert model.audit.warnings == ()


def test_random_parts_are_those_of_the_seed_whatever_was_tried(sources, tmp_path):
    def part(tensors):
        return {name: tensor for name, tensor in tensors.items() if "layer.1." not in name}

    outputs = []
    for _ in range(2):
        torch.manual_seed(5)
        model = built("dnabert1", rewritten(sources["dnabert1"], tmp_path / f"{len(outputs)}", part), allow_partial=True).eval()
        with torch.inference_mode():
            outputs.append(model(model.collate([Window("ACGTTGCAGG")])))
    torch.manual_seed(5)
    direct = registry.adapter_class("dnabert1").from_checkpoint(None, size="tiny").state_dict()
    name = "bert.encoder.layer.1.output.dense.weight"
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(model.state_dict()[name], direct[name])


def test_a_prefix_is_kept_where_taking_it_off_makes_no_full_match(sources, tmp_path):
    def part(tensors):
        return {f"net.{name}": tensor for name, tensor in tensors.items() if "layer.1." not in name}

    cut = rewritten(sources["dnabert1"], tmp_path / "x", part)
    for partial in (False, True):
        with pytest.raises(CheckpointMismatch, match=r"0 of \d+ tensors match DNABERT1.*every name begins with 'net\.' there"):
            built("dnabert1", cut, allow_partial=partial)


def test_layers_beside_the_wrapped_model_stop_the_run_unless_allowed(sources, tmp_path):
    def more(tensors):
        return {**prefixed("net.", tensors), "adapter.weight": torch.ones(2), "fc.weight": torch.ones(2, 2)}

    folder = rewritten(sources["dnabert1"], tmp_path / "x", more)
    with pytest.raises(CheckpointMismatch, match=r"46 of 46 tensors match DNABERT1, but adapter\.weight, fc\.weight belong to"):
        built("dnabert1", folder)
    audit = built("dnabert1", folder, allow_partial=True).audit
    assert audit.matched == 46
    assert "'net.' was taken off" in audit.warnings[1]
    assert audit.warnings[2].startswith("left out, as allowed: 2 of the file's tensors (adapter.weight, fc.weight)")


def test_a_model_and_its_average_are_not_mistaken_for_one(sources, tmp_path):
    def twice(tensors):
        return {**prefixed("model.", tensors), **prefixed("ema.", tensors)}

    with pytest.raises(CheckpointMismatch, match=r"the file holds the model 2 times, as ema\., model\.: save the one"):
        built("dnabert1", rewritten(sources["dnabert1"], tmp_path / "x", twice))


def test_a_head_that_a_model_needs_is_named_and_may_be_random_if_allowed(sources, tmp_path):
    def bare(tensors):
        return {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}

    folder = rewritten(sources["gpn_msa"], tmp_path / "x", bare)
    with pytest.raises(CheckpointMismatch, match=r"tensors match GPNMSA; not there, or of another shape: cls\.predictions\."):
        built("gpn_msa", folder)
    audit = built("gpn_msa", folder, allow_partial=True).audit
    assert all(name.startswith("cls.predictions.") for name in audit.missing)
    assert "'model.', which the file's names lack" in audit.warnings[1]
    assert audit.warnings[2].startswith(f"partial weights: {len(audit.missing)} of {audit.expected} tensors")


def test_what_a_shorter_name_shows_is_told(sources, tmp_path):
    def without_pooler(tensors):
        return {
            "model." + name.removeprefix("bert."): t
            for name, t in tensors.items()
            if name.startswith("bert.") and "pooler" not in name
        }

    folder = rewritten(sources["dnabert1"], tmp_path / "x", without_pooler)
    with pytest.raises(UserError, match="has no pooler; choose cls or mean"):
        built("dnabert1", folder)
    assert built("dnabert1", folder, options={"pooling": "mean"}).audit.matched == 37


class TestContainers:
    """Values beside the tensors: left out where they are a loop's, refused where they could be another model."""

    def read(self, tmp_path, value):
        torch.save(value, tmp_path / "a.pt")
        notes = []
        return read_tensors(tmp_path / "a.pt", notes), notes

    STATE = {"a": torch.ones(2, 2), "b": torch.zeros(3)}  # noqa: RUF012

    @pytest.mark.parametrize(
        "value",
        [
            {"state_dict": STATE, "args": argparse.Namespace(lr=1), "best_loss": torch.tensor(0.1)},
            {"model": STATE, "epoch": np.int64(3), "best": np.float64(0.5), "seen": defaultdict(int, a=1)},
            {"model": STATE, "hyper_parameters": {"weights": torch.ones(2)}, "folder": Path("/x")},
            {"checkpoint": {"generation": {"model": STATE, "optimizer": {"m": torch.ones(2)}}}},
            {"encoder": STATE, "classifier": {"weight": torch.ones(2, 2)}},
            {"encoder": STATE, "cls_head_state_dict": {"weight": torch.ones(2, 2)}},
        ],
        ids=["args", "numbers", "objects", "nested", "head", "head's state"],
    )
    def test_a_model_is_found_among_them(self, tmp_path, value):
        found, notes = self.read(tmp_path, value)
        assert found.keys() == self.STATE.keys()
        assert notes == []

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ({"model": STATE, "model_ema": dict(STATE)}, r"several sets of tensors \(model, model_ema\)"),
            (
                {"generator": {"net": STATE}, "discriminator": {"net": dict(STATE)}},
                r"several sets .*generator\.net, discriminator\.net",
            ),
            ({"model": STATE, "projection": torch.ones(2, 2)}, r"several sets of tensors \(model, projection\)"),
        ],
    )
    def test_two_models_are_refused(self, tmp_path, value, reason):
        with pytest.raises(BadData, match=reason):
            self.read(tmp_path, value)

    def test_dictionaries_that_are_there_many_times_take_no_time(self, tmp_path):
        value = {"a": 1}
        for _ in range(4):
            value = dict.fromkeys(map(str, range(3000)), value)
        begun = time.monotonic()
        with pytest.raises(BadData, match="expected a state_dict"):
            self.read(tmp_path, value)
        assert time.monotonic() - begun < 5

    def test_objects_of_training_libraries_are_left_out_and_never_made(self, tmp_path, monkeypatch):
        module = types.ModuleType("omegaconf")

        class DictConfig(dict):
            def __reduce__(self):
                return (DictConfig, (), {"content": 1}, None, iter({"a": 1}.items()))

        DictConfig.__module__, DictConfig.__qualname__ = "omegaconf", "DictConfig"
        module.DictConfig = DictConfig
        monkeypatch.setitem(sys.modules, "omegaconf", module)
        value = {"state_dict": self.STATE, "hyper_parameters": DictConfig(), "callbacks": {DictConfig: {"best": 1}}}
        torch.save(value, tmp_path / "a.ckpt")
        monkeypatch.delitem(sys.modules, "omegaconf")
        assert read_tensors(tmp_path / "a.ckpt").keys() == self.STATE.keys()

    def test_a_wrapper_inside_a_name_is_taken_out_unless_two_names_meet(self, tmp_path):
        found, notes = self.read(tmp_path, {"a._orig_mod.x": torch.ones(1), "b._checkpoint_wrapped_module.y": torch.ones(1)})
        assert found.keys() == {"a.x", "b.y"}
        assert notes == ["'_checkpoint_wrapped_module.', '_orig_mod.' of torch's wrappers was taken out of the file's names"]
        found, notes = self.read(tmp_path, {"a._orig_mod.x": torch.ones(1), "a.x": torch.ones(1)})
        assert found.keys() == {"a._orig_mod.x", "a.x"}
        assert notes == []
