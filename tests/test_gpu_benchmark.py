"""benchmarks/gpu.py, which is of use where there is a GPU, runs at tiny sizes everywhere."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # tests may run from another folder

from benchmarks import _gpu_steps, gpu
from benchmarks._gpu import NotMeasured

CHEAP = ("bandwidth", "scan", "msamamba", "caduceus", "wait", "deterministic")


@pytest.fixture(scope="module")
def dry() -> dict[str, list[gpu.Row]]:
    failures: list[str] = []
    rows = {name: list(gpu.measured(gpu.Bench(dry=True, rounds=1), [name], failures)) for name in CHEAP}
    assert failures == []
    return rows


@pytest.mark.parametrize("name", CHEAP)
def test_the_code_of_every_cheap_row_runs(dry, name):
    assert {row.value for row in dry[name]} == {gpu.DRY}, "no number is shown"
    assert {row.met for row in dry[name]} == {None}


def test_the_goals_of_the_table_are_asked_for(dry):
    goals = [row.goal for name in ("scan", "msamamba", "caduceus", "wait") for row in dry[name] if row.goal]
    assert goals == [*["≥ 1.0×", "≥ 50×"] * 4, "≥ 3×", "fits 80 GB", "< 5 %", "< 5 %"]


class Card(gpu.Bench):
    """A card without mamba_ssm, whose work the CPU does at tiny sizes."""

    device = torch.device("cpu")
    fused = "cpu"
    upstream = False

    def size(self, full, tiny):
        return tiny


class Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        assert self.at

    def elapsed_time(self, ended: Event) -> float:
        return 1000 * (ended.at - self.at)


def test_on_a_card_there_are_numbers(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**24, 2**24))
    failures: list[str] = []
    rows = list(gpu.measured(Card(rounds=2), ["bandwidth", "scan", "msamamba", "caduceus", "wait"], failures))
    assert failures == []
    assert [row.figure for row in rows if row.value == "not measured: mamba_ssm is not installed"] == [
        "Caduceus 131k training step, upstream's layer"
    ]
    measured = [row for row in rows if not row.value.startswith("not")]
    assert len(measured) == 15
    assert all(re.match(r"\d[\d.,]*(×| ?%| ms| GB| samples| windows)", row.value) for row in measured)
    assert all(row.met is not None for row in measured if row.goal)
    assert sum("≥ 60 %" in row.goal for row in rows) == 4, "without upstream's kernel, the bound is what counts"


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
    monkeypatch.setattr(gpu, "apart", lambda function, *args: function(*args))  # patches reach no other process
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


@pytest.mark.parametrize("wrong", [["--rows", "scan,"], ["--rows", "fast"], ["--rounds", "0"], ["--csv", "nowhere/rows.csv"]])
def test_what_is_asked_for_wrongly_is_refused_first(wrong, capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu.main(wrong)
    assert stopped.value.code == 2
    assert f"error: {wrong[0]} " in capsys.readouterr().err


@pytest.mark.slow
def test_measurements_in_processes_of_their_own():
    failures: list[str] = []
    bench = gpu.Bench(dry=True, rounds=1)
    assert [row.value for row in gpu.measured(bench, ["bandwidth", "first_call"], failures, separately=True)] == [gpu.DRY] * 3
    assert failures == []


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
