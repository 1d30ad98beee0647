"""benchmarks/gpu.py, which is of use where there is a GPU, runs at tiny sizes everywhere."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # tests may run from another folder

from benchmarks import _gpu_steps, gpu
from benchmarks._gpu import NotMeasured

CHEAP = ("bandwidth", "scan", "msamamba", "caduceus", "wait", "deterministic")


@pytest.fixture
def dry() -> gpu.Bench:
    return gpu.Bench(dry=True, rounds=1)


@pytest.mark.parametrize("name", CHEAP)
def test_the_code_of_every_cheap_row_runs(dry, name):
    failures: list[str] = []
    rows = list(gpu.measured(dry, [name], failures))
    assert failures == []
    assert {row.value for row in rows} == {gpu.DRY}, "no number is shown"
    assert {row.met for row in rows} == {None}


def test_the_goals_of_the_table_are_asked_for(dry):
    goals = [row.goal for row in gpu.measured(dry, ["scan", "msamamba", "caduceus", "wait"], []) if row.goal]
    assert goals == [*["≥ 1.0×", "≥ 50×"] * 4, "≥ 3×", "fits 80 GB", "< 5 %", "< 5 %"]


def test_bytes_that_a_scan_moves():
    """Of 2 x 3 sequences of 5 steps and 7 states: four of 30 numbers and two of 70; backward seven and four."""
    assert _gpu_steps._bytes_moved((2, 3, 5, 7), 2, backward=False) == 2 * (4 * 30 + 2 * 70)
    assert _gpu_steps._bytes_moved((2, 3, 5, 7), 2, backward=True) == 2 * (11 * 30 + 6 * 70)


def test_what_cannot_be_measured_says_why_and_the_rest_goes_on(monkeypatch, capsys):
    def group(bench):
        yield "first", lambda: (_ for _ in ()).throw(NotMeasured("mamba_ssm is not installed"))
        yield "second", lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: out of memory"))
        yield "third", lambda: [gpu.Row("third", "3×", "≥ 2×", True)]
        yield "fourth", lambda: [][0]

    monkeypatch.setattr(gpu, "GROUPS", {"made": group})
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(gpu, "card", lambda bench: "a card")
    assert gpu.main(["--rows", "made"]) == 1, "one row failed for no known reason"
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "first | not measured: mamba_ssm is not installed |  |  | a card",
        "second | not measured: too little memory |  |  | a card",
        "third | 3× | ≥ 2× | met | a card",
        "fourth | not measured: IndexError: list index out of range |  |  | a card",
    ]
    assert "IndexError" in said.err


def test_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "--dry-run" in said.err


@pytest.mark.slow
def test_the_command(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--dry-run", "--csv", str(tmp_path / "rows.csv")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(done.stdout.splitlines()) > 20
    assert {row["value"] for row in rows} == {gpu.DRY}
    assert {"figure", "value", "goal", "met", "card"} == set(rows[0])
