"""Records of version 0.1.0 (schema 1) are compared with new ones; ``golden/records_0_1_0`` holds three."""

import json
import shutil
from dataclasses import replace

import pytest
from conftest import ROOT

from harness.evidence import tables
from harness.evidence.records import find, judge, read_all, read_predictions
from harness.evidence.tables import summary, wide
from harness.study.plan import plan
from harness.study.run import execute

OLD = ROOT / "tests" / "golden" / "records_0_1_0"
FINGERPRINT = "fc419e66d0e0a136c8e046d8aa677c92367520844efdcddd9ceae6027108f93b"  # what a later run recorded for that file


def test_they_are_read_as_what_they_are():
    assert {json.loads(path.read_text())["schema"] for path in OLD.rglob("record.json")} == {1}
    kmer, gc, msamamba = read_all(OLD)
    assert [(record.model["name"], record.task_label) for record in (kmer, gc, msamamba)] == [
        ("kmer", "QKI (sample)"),
        ("gc", "clinvar@256 (sample)"),
        ("msamamba", "clinvar (sample)"),
    ]
    assert [(record.task["name"], record.task["context"]) for record in (kmer, gc, msamamba)] == [
        ("QKI", None),
        ("clinvar", 256),
        ("clinvar", 128),
    ]
    checkpoint = msamamba.model["checkpoint"]
    assert checkpoint["source"].endswith("/a/pytorch_model.bin")
    assert checkpoint["fingerprint"] == checkpoint["sha256"]


def test_they_lie_where_they_say_and_their_scores_follow_from_their_predictions():
    for record in read_all(OLD):
        folder = OLD / record.folder
        assert find(OLD, record.task_label, record.model["name"], record.run_id) == record
        metrics, intervals = judge(read_predictions(folder))
        assert metrics == pytest.approx(record.metrics)
        assert record.intervals == {}  # theirs were too narrow; ours can be computed from the predictions
        assert set(intervals) >= {"accuracy", "log_loss"}


@pytest.mark.usefixtures("own_cache")
def test_they_share_rows_and_columns_with_new_records_of_the_same_thing_but_no_mean(tmp_path):
    old = read_all(OLD)
    runs = plan("kmer", "QKI", seed=1, device="cpu") + plan("gc", "clinvar", context=256, seed=1, device="cpu")
    new = [execute(run, tmp_path) for run in runs]
    before, after = wide(old, "auroc"), wide([*old, *new], "auroc")
    assert after.rows == before.rows
    assert list(after.columns.values()) == list(before.columns.values())  # keyed by the question, which old records lack
    notes = {after.rows[row]: (cell.n, cell.notes) for (row, _), cell in after.cells.items() if cell.n}
    other_code = "not counted, run with another version of the code: seed 0"
    assert notes == {
        "gc (floor)": (1, (other_code,)),
        "kmer (floor)": (1, (other_code,)),
        "msamamba (pytorch_model.bin, probe)": (1, ()),
    }


def test_their_checkpoints_are_those_of_new_records_of_the_same_file():
    *_, msamamba = old = read_all(OLD)
    checkpoint = msamamba.model["checkpoint"] | {"source": "/moved/pytorch_model.bin", "fingerprint": FINGERPRINT}
    new = replace(msamamba, seed=1, model=msamamba.model | {"checkpoint": checkpoint})
    table = wide([*old, new], "auroc")
    assert len(table.rows) == 3
    assert {cell.n for (row, _), cell in table.cells.items() if row.weights == FINGERPRINT} == {2}
    assert summary([*old, new]).setting.nunique() == 3


def test_harness_table_shows_them(tmp_path, capsys):
    shutil.copytree(OLD, tmp_path / "results")
    tables.print_table(tmp_path / "results", "accuracy", "model,task", "markdown")
    assert capsys.readouterr().out.splitlines()[:6] == [
        "| model | QKI (sample) | clinvar (sample) | clinvar@256 (sample) |",
        "| --- | --- | --- | --- |",
        "| gc (floor) |  |  | 0.5250 (n=1) |",
        "| kmer (floor) | 0.8650 (n=1) |  |  |",
        "| msamamba (pytorch_model.bin, probe) |  | 0.7083 (n=1) ≡ |  |",
        "| best possible | 0.9626 | 0.9487 | 0.9477 |",
    ]
