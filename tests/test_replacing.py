"""Writing a record again: at whatever point it is interrupted, the old record or the new one is there, whole."""

import multiprocessing
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
from test_records import PREDICTIONS, record

from harness.evidence import folders
from harness.evidence.records import find, read_all, read_predictions, write

CALLS = ("fsync", "mkdir", "rename", "replace", "rmdir", "unlink", "utime", "listdir")


class Interruption:
    """Counts what writing asks of the system, and does something at one of these calls, before it or after it."""

    def __init__(self, monkeypatch, exchange: bool, at: int = 0, after: bool = False, act=None):
        self.seen, self.at, self.after, self.act = 0, at, after, act
        for name in CALLS:
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))
        exchanged = folders._exchanged if exchange else lambda one, other: False
        monkeypatch.setattr(folders, "_exchanged", self._watched(exchanged))

    def _watched(self, call):
        def watched(*arguments, **options):
            self.seen += 1
            due = self.seen == self.at
            if due and not self.after:
                self.act()
            try:
                return call(*arguments, **options)
            finally:
                if due and self.after:
                    self.act()

        return watched


def _raise(error):
    raise error


def _points(tmp_path, exchange: bool) -> int:
    """How many calls one replacement makes."""
    with pytest.MonkeyPatch.context() as changed:
        write(record(), PREDICTIONS, tmp_path)
        counted = Interruption(changed, exchange)
        write(record(code="new"), PREDICTIONS, tmp_path)
    shutil.rmtree(tmp_path / "QKI-sample")
    assert counted.seen > 4
    return counted.seen


def _whole(results_dir: Path, code: tuple[str, ...]) -> None:
    """One record, where everybody looks for it, with its predictions."""
    found = read_all(results_dir, lambda fault: pytest.fail(fault))
    assert [made.code in code for made in found] == [True]
    assert find(results_dir, "QKI (sample)", "kmer", found[0].run_id) == found[0]


def _left(results_dir: Path) -> list[str]:
    return sorted(path.name for path in (results_dir / "QKI-sample/kmer").iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=lambda error: type(error).__name__
)
@pytest.mark.parametrize("after", [False, True])
def test_an_error_or_ctrl_c_at_any_point_leaves_the_old_or_the_new_record(tmp_path, exchange, error, after):
    for at in range(1, _points(tmp_path, exchange) + 1):
        folder = write(record(), PREDICTIONS, tmp_path)
        with pytest.MonkeyPatch.context() as changed:
            Interruption(changed, exchange, at, after, lambda: _raise(error))
            with suppress(Exception, KeyboardInterrupt):
                write(record(code="new"), PREDICTIONS, tmp_path)
        assert folder.is_dir(), at
        _whole(tmp_path, ("c0de", "new"))
        for name in _left(tmp_path):  # only where the interruption hit the cleaning up itself
            os.utime(folder.with_name(name), (0, 0))
        write(record(code="newer"), PREDICTIONS, tmp_path)
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]
        _whole(tmp_path, ("newer",))


def _write_and_die(results_dir: str, exchange: bool, at: int, after: bool) -> None:
    with pytest.MonkeyPatch.context() as changed:
        Interruption(changed, exchange, at, after, lambda: os._exit(9))
        write(record(code="new"), PREDICTIONS, Path(results_dir))
    os._exit(0)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_point_leaves_the_old_or_the_new_record_and_the_next_run_cleans_up(tmp_path, exchange, after):
    gone = 0
    for at in range(1, _points(tmp_path, exchange) + 1):
        folder = write(record(), PREDICTIONS, tmp_path)
        process = multiprocessing.get_context("fork").Process(target=_write_and_die, args=(str(tmp_path), exchange, at, after))
        process.start()
        process.join()
        assert process.exitcode == 9, at
        _whole(tmp_path, ("c0de", "new"))
        gone += not folder.is_dir()
        other = write(record(run_id="seed1-0123456789", seed=1), PREDICTIONS, tmp_path)
        assert _left(tmp_path) == []
        assert folder.is_dir(), at  # what waited is back in its place
        assert read_predictions(folder).ids == PREDICTIONS.ids
        shutil.rmtree(other)
    assert gone == 0 or not exchange  # where folders can be exchanged, the place is never empty


def test_leftovers_of_another_machine_are_removed_when_they_are_old(tmp_path):
    model = write(record(), PREDICTIONS, tmp_path).parent
    young, old = model / ".tmp-seed1-1-5@elsewhere-0123abcd", model / ".tmp-seed2-1-5@elsewhere-0123abcd"
    waiting, half = model / ".old-seed3-1", model / ".old-seed4-1"  # as version 0.1.0 named them
    for path in (young, old, waiting, half):
        path.mkdir()
    (waiting / "record.json").write_text("{}")
    for path in (old, waiting, half):
        os.utime(path, (time.time() - 3600,) * 2)
    folders.sweep(tmp_path)
    assert sorted(path.name for path in model.iterdir()) == [young.name, "seed0-0123456789", "seed3-1"]


def test_leftovers_of_interrupted_tables_are_removed(tmp_path):
    (tmp_path / "tables").mkdir()
    left = tmp_path / "tables" / ".f1.csv.0123abcd.tmp"
    left.write_text("half")
    folders.sweep(tmp_path)
    assert left.exists()
    os.utime(left, (0, 0))
    folders.sweep(tmp_path)
    assert not left.exists()


def test_a_file_where_the_run_is_due_gives_way(tmp_path):
    folder = tmp_path / record().folder
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    assert write(record(), PREDICTIONS, tmp_path) == folder
    _whole(tmp_path, ("c0de",))
    assert _left(tmp_path) == []
