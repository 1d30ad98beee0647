"""Claims: one process has a run at a time, and a dead one's is taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import harness
from harness.errors import HarnessError
from harness.files.workspace import host
from harness.study import claims
from harness.study.claims import STALE_SECONDS, STUDY, holders, key_of, take
from harness.study.plan import Run


@pytest.fixture
def run() -> Run:
    (run,) = harness.plan("gc", "QKI", device="cpu")
    return run


def held_by(results: Path, run: Run, turn: int = 1, age: float = 0.0, **said) -> Path:
    """A claim as another process left it."""
    folder = results / STUDY / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key_of(run)}.{turn}"
    path.write_text(json.dumps(said))
    os.utime(path, (time.time() - age,) * 2)
    return path


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_claim_excludes_others_until_it_is_released(tmp_path, run):
    with take(tmp_path, run) as claim:
        assert claim is not None
        assert take(tmp_path, run) is None
        (holder,) = holders(tmp_path)
        assert (holder.process, holder.where, holder.key) == (os.getpid(), host(), key_of(run))
    assert not list(holders(tmp_path))
    assert take(tmp_path, run) is not None


def test_nothing_is_left_behind(tmp_path, run):
    with take(tmp_path / "results", run):
        pass
    assert not (tmp_path / "results").exists()


def test_of_many_that_come_at_once_one_succeeds(tmp_path, run):
    held_by(tmp_path, run, process=dead_process(), where=host())
    found, barrier = [], threading.Barrier(8)

    def come() -> None:
        barrier.wait()
        found.append(take(tmp_path, run))

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in found) == 1


def test_a_dead_process_loses_its_run(tmp_path, run):
    old = held_by(tmp_path, run, process=dead_process(), where=host())
    claim = take(tmp_path, run)
    assert (claim.turn, claim.deaths) == (2, 1)
    assert not old.exists()


def test_a_process_of_another_machine_is_dead_when_it_is_silent(tmp_path, run):
    held_by(tmp_path, run, process=1, where="node7", age=STALE_SECONDS - 30)
    assert take(tmp_path, run) is None
    held_by(tmp_path, run, process=1, where="node7", age=STALE_SECONDS + 30)
    assert take(tmp_path, run) is not None


def test_a_claim_that_is_just_being_written_counts(tmp_path, run):
    path = held_by(tmp_path, run)
    path.write_text("")
    assert take(tmp_path, run) is None


def test_deaths_without_progress_are_counted_in_whatever_epoch(tmp_path, run):
    """A run that always dies while it is scored has ended epochs every time."""
    held_by(tmp_path, run, process=dead_process(), where=host(), deaths=2, epoch=5, reached=5)
    claim = take(tmp_path, run)
    assert (claim.deaths, claim.reached) == (3, 5)
    held_by(tmp_path, run, turn=3, process=dead_process(), where=host(), deaths=3, epoch=4, reached=5)
    claim = take(tmp_path, run)
    assert (claim.deaths, claim.reached) == (4, 5)
    with claim:
        pass
    held_by(tmp_path, run, turn=5, process=dead_process(), where=host(), deaths=4, epoch=6, reached=5)
    claim = take(tmp_path, run)
    assert (claim.deaths, claim.reached) == (0, 6)


def test_a_claim_that_cannot_be_written_is_an_error_in_a_line(tmp_path, run):
    (tmp_path / STUDY).mkdir()
    (tmp_path / STUDY / "claims").write_text("")
    with pytest.raises(HarnessError, match="claims: cannot be written"):
        take(tmp_path, run)


def test_a_claim_says_how_far_others_came(tmp_path, run):
    held_by(tmp_path, run, process=dead_process(), where=host(), epoch=5)
    with take(tmp_path, run):
        (holder,) = holders(tmp_path)
    assert holder.reached == 5


def test_a_claim_from_the_future_is_no_sign_of_life(tmp_path, run):
    held_by(tmp_path, run, age=-86_400, process=1, where="elsewhere")
    assert take(tmp_path, run) is not None


def test_deaths_are_counted_until_an_epoch_ends(tmp_path, run):
    held_by(tmp_path, run, process=dead_process(), where=host(), deaths=3)
    assert take(tmp_path, run).deaths == 4
    held_by(tmp_path, run, turn=3, process=dead_process(), where=host(), deaths=3, epoch=1)
    assert take(tmp_path, run).deaths == 0


def test_signs_of_life(tmp_path, run, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    with take(tmp_path, run) as claim:
        os.utime(claim.path, (1, 1))
        claim.tell(epoch=4, share=0.5)
        deadline = time.monotonic() + 10
        while next(iter(holders(tmp_path))).epoch != 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        (holder,) = holders(tmp_path)
        assert (holder.epoch, holder.share) == (4, 0.5)
        assert holder.heard < 60
    time.sleep(0.1)
    assert not claim.path.exists()


@pytest.mark.parametrize("text", ["[]", "{", '{"process": 1e999}', '{"process": "x"}', '{"epoch": null}', "\x00"])
def test_a_damaged_claim_stops_nobody_for_ever(tmp_path, run, text):
    path = held_by(tmp_path, run, age=STALE_SECONDS + 1)
    path.write_text(text)
    os.utime(path, (1, 1))
    assert take(tmp_path, run) is not None
