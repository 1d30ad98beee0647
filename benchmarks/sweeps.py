"""What a sweep costs beyond its runs, what it survives, and what saving a training's state costs.

    python benchmarks/sweeps.py overhead            # 200 runs of gc and kmer by two workers
    python benchmarks/sweeps.py kills               # 50 SIGKILLs over four workers; the table is that of an undisturbed sweep
    python benchmarks/sweeps.py saving [--data DIR] # the share of an msamamba epoch on QKI that saving takes

Everything happens in temporary folders.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
from harness.evidence.records import PREDICTIONS, read_all
from harness.progress import Board

ROOT = Path(__file__).parents[1]


class Clock(Board):
    """When the first run began."""

    begun = 0.0

    def start(self, place: int, run: object) -> None:
        self.begun = self.begun or time.perf_counter()


def overhead(options: argparse.Namespace) -> None:
    """Seconds of a sweep that are not its runs', per run; starting the workers apart."""
    from harness.study.pool import Pool
    from harness.study.sweep import sweep
    from harness.study.work import Worker

    begun = time.perf_counter()
    runs = harness.plan("gc,kmer", "QKI", seed=range(options.runs // 2), device="cpu")
    planned = time.perf_counter() - begun
    with tempfile.TemporaryDirectory() as folder:
        board, called = Clock(), time.perf_counter()
        sweep(runs, Path(folder), Pool(Worker(Path(folder)), 2, board), board=board)
        wall = time.perf_counter() - board.begun
        own = sum(record.timing["seconds"]["total"] for record in read_all(Path(folder)))
    print(f"{len(runs)} runs, two workers ready after {board.begun - called:.1f} s, then {wall:.1f} s")
    print(f"planning {planned / len(runs) * 1e3:.1f} ms a run")
    print(
        f"the run itself {own / len(runs) * 1e3:.1f} ms; claim, hand over and record {(2 * wall - own) / len(runs) * 1e3:.1f} ms a run"
    )


def kills(options: argparse.Namespace) -> None:
    """Kill sweeps and their workers at random moments; nothing is lost, doubled or half-written."""
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, torn = Path(folder, "whole"), Path(folder, "torn")
        _start(whole, options.runs).wait()
        done = restarts = 0
        process = _start(torn, options.runs)
        while True:
            time.sleep(rng.uniform(0.2, 2.0))
            if process.poll() is not None:
                if process.returncode == 0 and done >= options.kills:
                    break
                if process.returncode == 0:  # all is done before enough was killed: take some of it away again
                    for path in rng.sample(sorted(torn.glob("*/*/seed*")), options.runs // 4):
                        subprocess.run(["rm", "-r", str(path)], check=True)
                process, restarts = _start(torn, options.runs), restarts + 1
                continue
            if done < options.kills:
                workers = _workers(process.pid)
                if workers:  # a fifth of the time the sweep itself, whose workers then end, too
                    os.kill(rng.choice(workers) if rng.random() < 0.8 else process.pid, signal.SIGKILL)
                    done += 1
        left = [str(path.relative_to(torn)) for path in torn.rglob("*") if path.name.startswith((".tmp-", ".old-"))]
        left += [str(path.relative_to(torn)) for name in ("claims", "states") for path in (torn / ".study" / name).glob("*")]
        records = [read_all(results) for results in (whole, torn)]
        ids = [[record.run_id for record in found] for found in records]
        same = all(
            (whole / one.folder / PREDICTIONS).read_bytes() == (torn / other.folder / PREDICTIONS).read_bytes()
            and (one.metrics, one.intervals) == (other.metrics, other.intervals)
            for one, other in zip(*records, strict=True)
        )
        tables = [harness.table("accuracy", results=results).to_frame().to_csv() for results in (whole, torn)]
        resumed = sum("resumed" in record.timing for record in records[1])
    print(
        f"{done} SIGKILLs, {restarts} sweeps started again; {len(ids[1])} records of {options.runs} runs, {resumed} of them resumed"
    )
    print(
        f"same runs {ids[0] == ids[1]}, same predictions and scores {same}, same table {tables[0] == tables[1]}; left behind: {left or 'nothing'}"
    )
    if ids[0] != ids[1] or not same or tables[0] != tables[1]:
        sys.exit(1)


def _start(results: Path, runs: int) -> subprocess.Popen[bytes]:
    """A sweep of four workers, in a process of its own."""
    line = ["sweep", "--model", "cnn", "--task", "QKI", "--epochs", "6", "--seed", f"0..{runs - 1}", "--jobs", "4", "--quiet"]
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    setting = "from harness.engine import resume; resume.MIN_SECONDS = 0.0"  # epochs here are shorter than a state is worth
    call = f"{setting}; from harness.cli.main import main; main({[*line, '--device', 'cpu', '--results', str(results)]!r})"
    return subprocess.Popen([sys.executable, "-c", call], env=own, stderr=subprocess.DEVNULL)


def _workers(process: int) -> list[int]:
    """The processes that do a sweep's runs."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:
        return []


def saving(options: argparse.Namespace) -> None:
    """Save after every epoch of an msamamba training and compare with the epoch's own time."""
    from harness.engine import resume
    from harness.study.run import execute

    resume.MIN_SECONDS, resume.MAX_SHARE = 0.0, 1e9
    costs, save = [], resume.StateFile.save

    def timed(self: resume.StateFile, *content: object) -> None:
        save(self, *content)  # type: ignore[arg-type]
        costs.append((self.cost, self.path.stat().st_size))

    resume.StateFile.save = timed  # type: ignore[method-assign]
    if options.data:
        os.environ["HARNESS_DATA"] = str(options.data)
    (run,) = harness.plan("msamamba", "QKI", epochs=3, device="cpu")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        record = execute(run, Path(folder))
    epochs = statistics.median(epoch["seconds"] for epoch in record.history)
    cost, size = statistics.median(cost for cost, _ in costs), costs[-1][1]
    print(
        f"{record.task_label}: an epoch takes {epochs:.1f} s, saving {size / 2**20:.1f} MiB {cost * 1e3:.0f} ms: {cost / epochs:.2%}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    studies = parser.add_subparsers(required=True)
    for study, runs in ((overhead, 200), (kills, 40), (saving, 0)):
        own = studies.add_parser(study.__name__)
        own.set_defaults(study=study)
        own.add_argument("--runs", type=int, default=runs)
        own.add_argument("--kills", type=int, default=50)
        own.add_argument("--seed", type=int, default=0)
        own.add_argument("--data", type=Path)
        own.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    chosen.study(chosen)
