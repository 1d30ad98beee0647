"""The Python face: the same words as on the command line, for notebooks."""

from __future__ import annotations

import pytest
import torch
from conftest import random_windows
from test_plan import write_checkpoint, write_table

import harness
from harness.errors import DataMissing, UserError
from harness.evidence import records


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return str(write_table(tmp_path / "t.csv"))


def test_run_gives_the_record_and_finds_it_again(table, tmp_path, capsys):
    record = harness.run(model="kmer", task=table, seed=3)
    assert record.finished
    assert (record.seed, record.model["name"]) == (3, "kmer")
    assert record in records.read_all(tmp_path / "results")
    shown = capsys.readouterr()
    assert "kmer, seed 3" in shown.err
    assert shown.out == ""
    again = harness.run(model="kmer", task=table, seed=3)
    assert again.created == record.created
    assert "recorded already" in capsys.readouterr().err
    assert harness.run(model="kmer", task=table, seed=3, force=True, quiet=True).created > record.created
    assert capsys.readouterr() == ("", "")


def test_run_is_one_run(table):
    with pytest.raises(UserError, match=r"these are 2 runs; use harness\.plan and harness\.execute"):
        harness.run(model="kmer", task=table, seed=[0, 1])
    with pytest.raises(UserError, match="setting 'epoch'"):
        harness.run(model="cnn", task=table, epoch=1)


def test_plan_execute_records_and_table(table, tmp_path):
    runs = harness.plan(model=["kmer", "gc"], task=table, seed=range(2))
    found = [harness.execute(run, results=tmp_path / "out", quiet=True) for run in runs]
    frame = harness.records(tmp_path / "out")
    assert sorted(frame.run_id) == sorted(record.run_id for record in found)
    assert set(frame.seed) == {0, 1}
    shown = str(harness.table("accuracy", results=tmp_path / "out"))
    assert "kmer (floor)" in shown
    assert "(n=2)" in shown


def test_load_task():
    splits = harness.load_task("QKI").sample.load("drawn")
    assert len(splits.train) == 2400
    with pytest.raises(DataMissing, match="harness data get QKI"):
        harness.load_task("QKI").load("thesis")
    with pytest.raises(UserError, match="names 8 tasks, such as GTF2F1"):
        harness.load_task("rbp")
    assert harness.load_task("clinvar", context=512).label == "clinvar[common]@512"


def test_load_model(tmp_path):
    windows = random_windows(3)
    model = harness.load_model("msamamba", checkpoint=write_checkpoint(tmp_path / "weights"))
    assert not model.training
    assert model.audit.matched == model.audit.expected
    with torch.inference_mode():
        assert model(model.collate(windows)).shape == (3, model.embedding_dim)
    one, same, other = (harness.load_model("cnn", init="random:tiny", seed=seed).conv1.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_loading_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    harness.load_model("cnn", init="random:tiny")
    assert torch.equal(torch.rand(3), expected)
