"""Models are built from requests: checked without torch, loaded whole or not at all, whoever wrote the adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness import registry
from harness.engine.build import request
from harness.errors import BadData, CheckpointMismatch, UnknownName, UserError

CARELESS = '''
import torch
from torch import nn
from harness.adapter import Adapter, LoadAudit
from harness.card import ModelCard
from harness.recipe import Recipe

class Careless(Adapter):
    """Embedding: the first numbers of a table."""
    name = "careless"
    card = ModelCard(summary="loads what fits", paper="none", licence="none", alphabet="ACGT")
    recipe = Recipe()
    embedding_dim = 2

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2))

    @classmethod
    def from_checkpoint(cls, checkpoint=None, *, size="base", flag: bool = False, rate: float = 0.5):
        model = cls()
        if checkpoint is not None:
            found = torch.load(checkpoint, weights_only=True)
            missing = tuple(model.load_state_dict(found, strict=False).missing_keys)
            model.audit = LoadAudit(str(checkpoint), "0" * 64, 2, 2 - len(missing), missing)
        return model

    def collate(self, windows):
        return {"rows": torch.zeros(len(windows), 1)}

    def forward(self, batch):
        return batch["rows"] + self.one * self.two
'''


@pytest.fixture
def careless(tmp_path) -> str:
    (tmp_path / "careless.py").write_text(CARELESS)
    return str(tmp_path / "careless.py")


def save(path: Path, **tensors: torch.Tensor) -> str:
    torch.save(tensors, path)
    return str(path)


def test_an_adapter_that_reports_missing_tensors_does_not_run_all_the_same(careless, tmp_path):
    part = save(tmp_path / "part.pt", one=torch.ones(2))
    with pytest.raises(CheckpointMismatch, match=r"1 of 2 tensors match careless, and two… stay random.*--allow-partial"):
        request(careless, checkpoint=part).build()
    assert request(careless, checkpoint=part, allow_partial=True).build().audit.missing == ("two",)
    nothing = save(tmp_path / "nothing.pt", other=torch.ones(2))
    with pytest.raises(CheckpointMismatch, match="0 of 2"):
        request(careless, checkpoint=nothing, allow_partial=True).build()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(careless, tmp_path, value):
    file = save(tmp_path / "all.pt", one=torch.ones(2), two=torch.tensor([1.0, value]))
    with pytest.raises(BadData, match="two holds values that are not finite"):
        request(careless, checkpoint=file).build()


def test_options_are_converted_to_their_types(careless):
    assert request(careless, options={"flag": "yes", "rate": "2"}).options == {"flag": True, "rate": 2.0}
    assert request(careless, options={"flag": False, "rate": 2}).options == {"flag": False, "rate": 2.0}
    with pytest.raises(UserError, match="option rate='fast': expected a float"):
        request(careless, options={"rate": "fast"})
    with pytest.raises(UnknownName, match="unknown option of careless 'rat': did you mean rate"):
        request(careless, options={"rat": "1"})


def test_a_request_gives_one_origin(careless):
    with pytest.raises(UserError, match="choose one of them"):
        request(careless, checkpoint="a.pt", init="random")
    assert request("dnabert1", official=False).checkpoint is None


def test_what_a_model_cannot_load_is_refused(tmp_path):
    with pytest.raises(UserError, match="kmer loads no weights"):
        request("kmer", checkpoint=save(tmp_path / "a.pt", one=torch.ones(1))).build()


def test_every_model_says_its_options_without_being_imported():
    for name in registry.model_files():
        facts = registry.model_facts(name)
        assert facts.name == name
        assert all(option.type in ("str", "int", "float", "bool") for option in facts.options.values())


def test_two_pretrainings_with_the_same_settings_have_one_fingerprint(careless, tmp_path):
    prints = set()
    for number, (seconds, rows) in enumerate([(1.5, 4), (7.25, 4), (1.5, 5)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        save(folder / "model.pt", one=torch.ones(2))
        record = {"settings": {"steps": 3}, "data": {"rows": rows}, "timing": {"seconds": seconds}, "environment": {"n": number}}
        (folder / "pretrain.json").write_text(json.dumps(record))
        prints.add(request(careless, checkpoint=str(folder)).fingerprint())
    assert len(prints) == 2  # rows count, times do not
    (folder / "pretrain.json").write_text("[")
    assert request(careless, checkpoint=str(folder)).fingerprint() not in prints


def test_every_shard_counts_whether_the_folder_or_the_index_is_given(careless, tmp_path):
    index = {"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}}
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/model.safetensors.index.json").write_text(json.dumps(index))
    given = str(tmp_path / "shards/model.safetensors.index.json")
    prints = []
    for content in (b"1", b"2"):
        (tmp_path / "shards/a.safetensors").write_bytes(b"0")
        (tmp_path / "shards/b.safetensors").write_bytes(content)
        prints.append(request(careless, checkpoint=given).fingerprint())
        assert prints[-1] == request(careless, checkpoint=str(tmp_path / "shards")).fingerprint()
    assert prints[0] != prints[1]
