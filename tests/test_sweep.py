"""A sweep does every run once, whatever dies on the way; the same line again finishes the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import start
from test_claims import dead_process, held_by

import harness as face
from harness.errors import DownloadFailed, HarnessError, UserError
from harness.evidence.records import read_all
from harness.files.workspace import host
from harness.progress import Board, Reporter
from harness.study import sweep as sweeping
from harness.study import work
from harness.study.asked import seeds_of
from harness.study.claims import holders, state_path
from harness.study.plan import Run
from harness.study.pool import Pool
from harness.study.run import execute
from harness.study.sweep import Sweep, seconds_left, shard
from harness.study.work import AGAIN, Worker

PLUGIN = '''
import os, signal, sys
import torch
from torch import nn
from harness.adapter import Adapter
from harness.card import ModelCard
from harness.recipe import Recipe


class {name}(Adapter):
    """{what}"""

    name = "{file}"
    card = ModelCard(summary="made for a test", paper="none", licence="MIT", alphabet="ACGT")
    recipe = Recipe(epochs=1)
    embedding_dim = 2

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    @classmethod
    def from_checkpoint(cls, checkpoint=None, *, size="base"):
        return cls()

    def collate(self, windows):
        return {{"share": torch.tensor([[window.sequence.count("G"), window.sequence.count("C")] for window in windows])}}

    def forward(self, batch):
        {what}
        return self.layer(batch["share"].float())
'''


def plugin(folder: Path, file: str, what: str) -> str:
    """The path of a model that does ``what`` when it is asked."""
    path = folder / f"{file}.py"
    path.write_text(PLUGIN.format(name=file.title(), file=file, what=what))
    return str(path)


class Told(Board):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.started: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def start(self, place: int, run: Run) -> None:
        self.started.append(run.id)


def swept(runs, results, jobs=1, board=None, **options) -> Sweep:
    board = board or Told()
    worker = Worker(results, retry=options.get("retry", False))
    return sweeping.sweep(runs, results, Pool(worker, jobs, board), board=board, **options)


class TestHere:
    """One job, in this process."""

    def test_does_what_is_missing_and_nothing_else(self, tmp_path):
        runs = face.plan("gc,kmer", "QKI", seed=[0, 1], device="cpu")
        execute(runs[1], tmp_path)
        board = Told()
        found = swept(runs, tmp_path, board=board)
        assert board.started == [runs[0].id, runs[2].id, runs[3].id]
        assert (found.finished, found.waiting, found.failed) == (4, 0, [])
        again = Told()
        assert swept([*runs, *face.plan("gc", "PTBP1", device="cpu")], tmp_path, board=again).finished == 5
        assert len(again.started) == 1

    def test_a_failure_is_a_record_and_stops_nothing(self, tmp_path):
        models = [plugin(tmp_path, "broken", 'raise RuntimeError("no such luck")'), "gc"]
        runs = face.plan(models, "QKI", device="cpu")
        found = swept(runs, tmp_path / "results")
        assert found.finished == 1
        (failed,) = found.failed
        assert "no such luck" in failed.error
        board = Told()
        assert len(swept(runs, tmp_path / "results", board=board).failed) == 1
        assert board.started == []
        swept(runs, tmp_path / "results", board=board, retry=True)
        assert board.started == [runs[0].id]

    def test_a_model_that_refuses_its_task_is_a_record(self, tmp_path):
        """Windows of 101 nt, but a model of 64 at most."""
        path = Path(plugin(tmp_path, "short", "pass"))
        path.write_text(path.read_text().replace("embedding_dim = 2", "embedding_dim = 2\n    max_length = 64"))
        runs = face.plan([str(path), "gc"], "QKI", device="cpu")
        (failed,) = swept(runs, tmp_path / "results").failed
        assert "at most 64" in failed.error
        assert failed.task["question"] == read_all(tmp_path / "results")[0].task["question"]  # the same column of the table

    def test_a_folder_without_room_is_refused_before_the_first_run(self, tmp_path):
        (tmp_path / ".study").write_text("")
        with pytest.raises(UserError, match=r"plans cannot be written \(Not a directory\)"):
            swept(face.plan("gc", "QKI", device="cpu"), tmp_path)

    def test_a_model_that_breaks_while_it_is_built_is_a_record(self, tmp_path, monkeypatch):
        path = Path(plugin(tmp_path, "late", "pass"))
        check = '        if os.environ.get("BREAK"):\n            raise ValueError("not today")\n        return cls()'
        path.write_text(path.read_text().replace("        return cls()", check))
        runs = face.plan([str(path), "gc"], "QKI", device="cpu")
        monkeypatch.setenv("BREAK", "1")
        found = swept(runs, tmp_path / "results")
        (failed,) = found.failed
        assert failed.error.startswith("ValueError: not today\n")
        assert found.finished == 1
        assert not list(holders(tmp_path / "results"))

    def test_weights_that_cannot_be_fetched_are_a_record(self, tmp_path, monkeypatch):
        runs = face.plan("gc,kmer", "QKI", device="cpu")

        def fetch(run, *rest, **more):
            if run.name == "gc":
                raise DownloadFailed("no network")
            return execute(run, *rest, **more)

        monkeypatch.setattr(work, "execute", fetch)
        found = swept(runs, tmp_path)
        assert [failed.error for failed in found.failed] == ["no network"]
        assert found.finished == 1

    def test_a_run_whose_data_is_gone_is_a_record(self, tmp_path):
        table = tmp_path / "own.csv"
        rows = [
            f"{'ACGT'[i % 4]}{'ACGT'[i // 4 % 4]}{'ACGT'[i // 16 % 4]}{'ACGTTGCA' * 4},{'yes' if i % 2 else 'no'}"
            for i in range(60)
        ]
        table.write_text("sequence,label\n" + "\n".join(rows) + "\n")
        runs = face.plan("gc", table, device="cpu")
        table.unlink()
        (failed,) = swept(runs, tmp_path / "results").failed
        assert "own.csv" in failed.error

    def test_a_run_that_kills_its_processes_fails_in_the_end(self, tmp_path):
        (run,) = face.plan("gc", "QKI", device="cpu")
        held_by(tmp_path, run, process=dead_process(), where=host(), deaths=work.MAX_DEATHS)
        (failed,) = swept([run], tmp_path).failed
        assert failed.error.startswith("6 processes in a row died on this run")

    def test_another_processes_run_is_left_to_it_or_waited_for(self, tmp_path, monkeypatch):
        runs = face.plan("gc", "QKI", seed=[0, 1], device="cpu")
        other = subprocess.Popen(["sleep", "60"])
        held_by(tmp_path, runs[0], process=other.pid, where=host(), machine="here")
        found = swept(runs, tmp_path, wait=False)
        assert (found.finished, found.waiting) == (1, 1)
        naps = []

        def nap(seconds: float) -> None:
            naps.append(seconds)
            other.kill()
            other.wait()

        monkeypatch.setattr(sweeping.time, "sleep", nap)
        board = Told()
        assert swept(runs, tmp_path, board=board).finished == 2
        assert naps
        assert any(f"process {other.pid} on here" in line for line in board.said)

    def test_states_of_recorded_runs_are_cleared(self, tmp_path):
        (run,) = face.plan("gc", "QKI", device="cpu")
        execute(run, tmp_path)
        state_path(tmp_path, run).parent.mkdir(parents=True)
        state_path(tmp_path, run).write_text("left behind")
        swept([run], tmp_path)
        assert not state_path(tmp_path, run).exists()


class TestPool:
    """Several processes."""

    @pytest.mark.slow
    def test_a_killed_process_is_replaced_and_its_run_done(self, tmp_path):
        once = f'path = {str(tmp_path / "died")!r}\n        if not os.path.exists(path):\n            open(path, "w").close()\n            os.kill(os.getpid(), signal.SIGKILL)'
        models = [plugin(tmp_path, "mortal", once), "gc"]
        runs = face.plan(models, "QKI", seed=[0, 1], device="cpu")
        board = Told()
        found = swept(runs, tmp_path / "results", jobs=2, board=board)
        assert found.finished == 4
        assert len(read_all(tmp_path / "results")) == 4
        assert any("SIGKILL" in line for line in board.said)
        assert {record.environment["threads"] for record in found.records} == {max(len(os.sched_getaffinity(0)) // 2, 1)}
        assert not (tmp_path / "results" / ".study" / "claims").exists()

    def test_an_error_of_the_project_itself_ends_it(self, tmp_path):
        """A results folder that becomes a file cannot hold records; nobody is left behind."""
        (tmp_path / "results").write_text("a file")
        runs = face.plan("gc", "QKI", seed=[0, 1], device="cpu")
        pool = Pool(Worker(tmp_path / "results"), 2, Board())
        for number, run in enumerate(runs):
            pool.submit(number, run)
        with pool, pytest.raises(HarnessError, match="results"):
            list(pool.results())
        assert not pool._children


class TestCommand:
    def test_the_same_line_again_finishes_the_rest(self, harness, tmp_path):
        line = ("sweep", "--model", "gc,kmer", "--task", "QKI", "--device", "cpu")
        done = harness(*line, "--seed", "0..1")
        assert done.returncode == 0
        assert "4 of 4 runs are recorded in results" in done.stderr
        more = harness(*line, "--seed", "0..2")
        assert "6 runs, 4 recorded already" in more.stderr
        assert more.stderr.count(": accuracy") == 2  # not the best possible one of a sample

    def test_failures_are_named_and_the_exit_code_is_1(self, harness, tmp_path):
        broken = plugin(tmp_path, "broken", 'raise RuntimeError("no such luck")')
        done = harness("sweep", "--model", broken, "--model", "gc", "--task", "QKI", "--device", "cpu")
        assert done.returncode == 1
        assert (
            "1 failed (--retry failed does them again):\n  broken on QKI (sample), seed 0: failed: RuntimeError: no such luck"
            in done.stderr
        )

    def test_dry_run_shows_the_runs_and_does_none(self, harness, tmp_path):
        done = harness("sweep", "--model", "gc", "--task", "QKI,PTBP1", "--seed", "3..4", "--dry-run", "--device", "cpu")
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) == 4
        assert not (tmp_path / "results").exists()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--on", "moon"), "on 'moon': choose one of local, ray, slurm"),
            (("--shard", "0/4"), "shard '0/4': expected NUMBER/COUNT"),
            (("--shard", "x"), "shard 'x'"),
            (("--retry", "all"), "retry 'all'"),
            (("--seed", "4..0"), "seed '4..0': the range must rise"),
            (("--seed", "a"), "seed 'a': give whole numbers"),
            (("--max-epochs", "0"), "max-epochs 0: must be at least 1"),
            (("--slurm", "--time=1"), "slurm: only with --on slurm"),
        ],
        ids=str,
    )
    def test_refused(self, harness, tmp_path, arguments, words):
        done = harness("sweep", "--model", "gc", "--task", "QKI", *arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert not (tmp_path / "results").exists()

    def test_without_a_model(self, harness):
        assert "model: give one with --model" in harness("sweep", "--task", "QKI").stderr

    @pytest.mark.slow
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, AGAIN), (signal.SIGINT, 130)])
    def test_told_to_stop(self, tmp_path, number, code):
        """A model that takes an hour is told to stop; its claim is released, and nobody is left behind."""
        slow = plugin(tmp_path, "slow", "import time; open('begun', 'w').close(); time.sleep(3600)")
        line = ("harness", "sweep", "--model", slow, "--task", "QKI", "--seed", "0..1", "--jobs", "2", "--device", "cpu")
        process = start(*line, folder=tmp_path)
        deadline = time.monotonic() + 120
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == code, said
        assert "goes on" in said
        assert not list((tmp_path / "results" / ".study").glob("claims/*"))
        left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(path)]
        assert not left


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


class TestSmall:
    def test_shards_share_the_runs_out(self):
        runs = face.plan("gc", "QKI", seed=range(10), device="cpu")
        shares = [shard(runs, f"{number}/3") for number in (1, 2, 3)]
        assert sorted(run.seed for share in shares for run in share) == list(range(10))
        assert [run.seed for run in shares[2]] == [2, 5, 8]

    def test_seeds(self):
        assert seeds_of(["0..4"]) == [0, 1, 2, 3, 4]
        assert seeds_of(["7", "1,3..4"]) == [7, 1, 3, 4]
        for word in ("0..", "..4", "1...3", "1.5", "0..99999", ""):
            with pytest.raises(UserError, match="seed"):
                seeds_of([word])

    def test_what_remains_goes_by_the_runs_most_alike(self):
        known = [("cnn", "QKI", 10.0), ("cnn", "QKI", 20.0), ("gc", "QKI", 1.0), ("cnn", "PTBP1", 60.0)]
        assert seconds_left(known, [("cnn", "QKI")], 1) == 15
        assert seconds_left(known, [("cnn", "MATR3")], 1) == 30
        assert seconds_left(known, [("kmer", "QKI"), ("gc", "QKI")], 2) == pytest.approx((91 / 4 + 1) / 2)
        assert seconds_left([], [("gc", "QKI")], 1) is None
        assert seconds_left([], [], 1) == 0

    def test_a_run_that_is_being_written_is_finished_first(self):
        from harness.study.run import undisturbed

        heard = []
        before = signal.signal(signal.SIGTERM, lambda *_: heard.append("end"))
        try:
            with undisturbed():
                os.kill(os.getpid(), signal.SIGTERM)
                assert heard == []
            assert heard == ["end"]
        finally:
            signal.signal(signal.SIGTERM, before)

    def test_run_waits_like_a_sweep(self, tmp_path, monkeypatch):
        (run,) = face.plan("gc", "QKI", device="cpu")
        held_by(tmp_path, run, process=os.getpid(), where=host())
        monkeypatch.setattr(work.time, "sleep", lambda seconds: next((tmp_path / ".study" / "claims").iterdir()).unlink())
        (record,) = Worker(tmp_path, reporter=Reporter()).work([run])
        assert record.finished
