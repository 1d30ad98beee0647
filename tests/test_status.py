"""harness status: done, running, failed, abandoned, waiting, and the time left."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from test_claims import dead_process, held_by

import harness as face
from harness.errors import UserError
from harness.files.workspace import host
from harness.study.run import execute, record_failure
from harness.study.status import status
from harness.study.sweep import note_plan


@pytest.fixture
def runs(tmp_path):
    runs = face.plan("gc,kmer", "QKI", seed=range(3), device="cpu")
    note_plan(runs, tmp_path)
    return runs


def test_every_run_is_in_one_place(tmp_path, runs):
    execute(runs[0], tmp_path)
    record_failure(runs[1], tmp_path, "it broke")
    held_by(tmp_path, runs[2], process=os.getpid(), where=host(), machine="here", epoch=3, share=0.4, begun="2030-01-01T00:00:00")
    held_by(tmp_path, runs[3], process=dead_process(), where=host(), machine="here", epoch=1)
    found = status(tmp_path)
    assert (found.finished, len(found.failed), len(found.running), len(found.abandoned)) == (1, 1, 1, 1)
    assert [run.id for run in found.waiting] == [run.id for run in runs[3:]]
    assert found.hours > 0


def test_what_is_shown(tmp_path, runs, harness):
    record_failure(runs[1], tmp_path, "it broke\nand more")
    held_by(
        tmp_path, runs[2], process=os.getpid(), where=host(), machine="node7", epoch=3, share=0.4, begun="2030-01-01T00:00:00"
    )
    done = harness("status", str(tmp_path))
    assert done.returncode == 0
    assert f"epoch 4, 40% (process {os.getpid()} on node7, since 2030-01-01T00:00:00; heard" in done.stdout
    assert "gc on QKI (sample), seed 1: failed: it broke\n" in done.stdout
    assert "kmer on QKI (sample) (3)" in done.stdout
    assert "time left not known yet" in done.stdout
    content = json.loads(harness("status", str(tmp_path), "--json").stdout)
    assert len(content["waiting"]) == 4
    assert content["failed"][0]["error"] == "it broke\nand more"
    assert content["running"][0]["machine"] == "node7"


def test_a_plan_that_was_made_anew_replaces_the_old_one(tmp_path, runs):
    """After a change of the code, the same runs have other ids; the old ones are not waited for."""
    note_plan([replace(run, code="changed") for run in runs[:3]], tmp_path)
    path = sorted((tmp_path / ".study" / "plans").iterdir(), key=lambda path: "changed" in path.read_text())[-1]
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"created": "2999-01-01T00:00:00+00:00"}))
    waiting = status(tmp_path).waiting
    assert len(waiting) == 6
    assert [run.code == "changed" for run in waiting] == [True, True, True, False, False, False]


def test_damaged_notes_and_records_are_left_out_and_said(tmp_path, runs):
    (tmp_path / ".study" / "plans" / "x.json").write_text("[")
    record = execute(runs[0], tmp_path)
    (tmp_path / record.folder / "record.json").write_text("{")
    found = status(tmp_path)
    assert found.finished == 0
    assert len(found.complaints) == 1


def test_trials_of_a_search_are_shown_while_they_run(tmp_path, runs):
    held_by(tmp_path / "search" / "QKI-sample" / "gc" / "0123456789", runs[0], process=os.getpid(), where=host(), epoch=2)
    found = status(tmp_path)
    assert [holder.epoch for holder in found.running] == [2]


def test_runs_of_a_model_whose_file_is_gone_are_left_out_and_said(tmp_path, runs, harness):
    note_plan([replace(run, model=str(tmp_path / "gone.py")) for run in runs[:2]], tmp_path)
    found = status(tmp_path)
    assert found.waiting == list(runs)
    (complaint,) = found.complaints
    assert complaint.startswith("skipped: 2 runs that were asked for: ")
    assert "gone.py" in complaint
    assert harness("status", str(tmp_path)).stdout.count("skipped: ") == 1


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        status(tmp_path / "none")


def test_an_empty_folder(tmp_path, harness):
    done = harness("status", str(tmp_path))
    assert done.stdout.splitlines() == ["finished  0", "running   0", "failed    0", "waiting   0"]
