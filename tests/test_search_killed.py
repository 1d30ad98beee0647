"""A search that is killed goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from conftest import start
from made_search import QUICK, SPACE, made_files, summary, without_times

from harness.errors import BadData
from harness.evidence.records import read_all
from harness.progress import Board
from harness.study.claims import take
from harness.study.search import search
from harness.study.searched import DRIVER

TRIALS = 4


class Killed(BaseException):
    """Nobody catches it."""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return made_files(tmp_path)


@pytest.fixture
def go(files):
    """Searches in a results folder, and returns what is to be equal in the end."""

    def run(results, trials=TRIALS):
        (found,) = search("cnn", **files, **QUICK, space=SPACE, trials=trials, results=results)
        return without_times(summary(results)), [record.metrics for record in found.records]

    return run


@pytest.fixture
def undisturbed(go, tmp_path):
    return go(tmp_path / "undisturbed")


def die_at_line(monkeypatch, number: int, when: str) -> None:
    """Patch Optuna's journal so that the process dies before, after or while it writes a line."""
    from optuna.storages.journal import JournalFileBackend

    write, count = JournalFileBackend.append_logs, iter(range(1, 1000))

    def written(self, logs):
        if next(count) != number:
            write(self, logs)
            return
        if when != "before":
            write(self, logs)
        if when == "while":
            os.truncate(self._file_path, os.path.getsize(self._file_path) - 7)
        raise Killed

    monkeypatch.setattr(JournalFileBackend, "append_logs", written)


@pytest.mark.parametrize(
    ("line", "when"),
    # 1 is the search itself; of a trial, one line says that it begins, and six of three epochs how it ended.
    [
        (1, "before"),
        (1, "while"),
        (2, "before"),
        (2, "after"),
        (4, "while"),
        (6, "before"),
        (7, "while"),
        (8, "after"),
        (12, "while"),
    ],
)
def test_killed_while_it_writes_its_journal(go, undisturbed, tmp_path, monkeypatch, line, when):
    with monkeypatch.context() as patched:
        die_at_line(patched, line, when)
        with pytest.raises(Killed):
            go(tmp_path / "killed")
    assert go(tmp_path / "killed") == undisturbed


@pytest.mark.parametrize("epoch", [1, 5, 8, TRIALS * 3 + 2])
def test_killed_while_it_trains_and_resumed_from_the_last_epoch(go, undisturbed, tmp_path, monkeypatch, epoch):
    from harness.engine import fit, resume

    predict, count = fit.predict, iter(range(1, 1000))

    def dying(*arguments, **options):
        if next(count) == epoch:
            raise Killed
        return predict(*arguments, **options)

    monkeypatch.setattr(resume, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(resume, "MAX_SHARE", float("inf"))
    with monkeypatch.context() as patched:
        patched.setattr(fit, "predict", dying)
        with pytest.raises(Killed):
            go(tmp_path / "killed")
    assert go(tmp_path / "killed") == undisturbed
    done = [*read_all(tmp_path / "killed"), *(it for path in (tmp_path / "killed/search").glob("*/*/*") for it in read_all(path))]
    assert len(done) == TRIALS + 1
    assert sum("resumed" in record.timing for record in done) == (epoch % 3 != 1)  # in its first epoch nothing is saved yet


@pytest.mark.parametrize("what", ["journal", "summary"])
@pytest.mark.parametrize("number", [1, 3])
def test_killed_between_a_record_and_what_the_search_says_of_it(go, undisturbed, tmp_path, monkeypatch, what, number):
    from harness.study import searched

    owner, name = (searched.Journal, "tell") if what == "journal" else (searched, "atomic")
    write, count = getattr(owner, name), iter(range(1, 1000))

    def dying(*arguments):
        if next(count) == number:
            raise Killed
        return write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, dying)
        with pytest.raises(Killed):
            go(tmp_path / "killed")
    assert go(tmp_path / "killed") == undisturbed


def test_a_longer_search_after_a_shorter_one_is_the_longer_one(go, undisturbed, tmp_path):
    go(tmp_path / "amended", trials=2)
    assert go(tmp_path / "amended") == undisturbed


def begun() -> int:
    """How many trials have begun in the folder here."""
    return sum(path.read_text().count('"stop_above"') for path in Path("killed").glob("search/*/*/*/journal.log"))


@pytest.mark.slow
def test_told_to_stop_interrupted_and_killed(go, undisturbed, files, tmp_path, monkeypatch):
    results = tmp_path / "killed"
    own = [word for part, path in files.items() for word in (f"--{part}", str(path))]
    (tmp_path / "space.toml").write_text("[space]\nlearning_rate = {low = 1e-4, high = 1e-1, log = true}\nbatch_size = [8, 16]\n")
    line = [
        "harness",
        "search",
        "--model",
        "cnn",
        *own,
        "--init",
        "random:tiny",
        "--epochs",
        "3",
        "--device",
        "cpu",
        "--seed",
        "0",
    ]
    line += ["--trials", str(TRIALS), "--space", "space.toml", "--results", str(results)]
    code = (  # holds a trial until the signal comes
        "import os, pathlib, sys, time\nfrom harness.engine import fit\npredict = fit.predict\n"
        "def held(*arguments, **options):\n"
        "    (journal,) = pathlib.Path('killed').glob('search/*/*/*/journal.log')\n"
        "    time.sleep(60 * (journal.read_text().count('stop_above') >= int(os.environ['HOLD'])))\n"
        "    return predict(*arguments, **options)\n"
        "fit.predict = held\nfrom harness.cli.main import main\nmain(sys.argv[1:])\n"
    )
    (tmp_path / "held.py").write_text(code)
    stops = [(signal.SIGTERM, 75, "3 trials"), (signal.SIGINT, 130, "2 trials"), (signal.SIGKILL, -signal.SIGKILL, "")]
    for trials, (number, expected, remain) in enumerate(stops, start=2):
        monkeypatch.setenv("HOLD", str(trials))
        process = start("held", *line[1:], folder=tmp_path)
        while begun() < trials and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == expected, err
        assert (f"stopped: {remain} and 1 final runs remain" in err) == bool(remain), err
    assert go(results) == undisturbed


def test_only_one_process_does_a_search(go, files, tmp_path):
    (found,) = search("cnn", **files, **QUICK, space=SPACE, trials=1, results=tmp_path / "results")
    claim = take(found.folder / DRIVER, found.run)
    assert claim is not None
    said = []
    board = Board()
    board.say = said.append
    with claim:
        ours = threading.Thread(target=lambda: found.do(1, None, board), daemon=True)
        ours.start()
        ours.join(2)
        assert ours.is_alive()
        assert any(f"process {os.getpid()}" in line for line in said)
    ours.join(30)
    assert not ours.is_alive()


def test_a_damaged_journal_is_named(go, tmp_path):
    go(tmp_path / "results", trials=1)
    (path,) = (tmp_path / "results").glob("search/*/*/*/journal.log")
    path.write_text(path.read_text().replace("{", "[", 3))
    with pytest.raises(BadData, match=r"journal\.log: damaged .*delete its folder, and search again"):
        go(tmp_path / "results", trials=1)
