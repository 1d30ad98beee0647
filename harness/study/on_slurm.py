"""Runs on a Slurm cluster: an array of jobs, each of which is a worker of the same results folder (see :mod:`.claims`)."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from harness.errors import UserError
from harness.evidence.records import RunRecord
from harness.files.atomic import check_writable
from harness.progress import Progress, Reporter, printable

from .claims import STUDY
from .plan import Run
from .pool import THREADS
from .run import recorded
from .sweep import note_plan
from .work import AGAIN, Worker

WARNING_SECONDS = 60  # before the time limit, when Slurm sends WARNING; by its manual it may come 60 s earlier
WARNING = signal.SIGUSR2 if hasattr(signal, "SIGUSR2") else signal.SIGTERM  # submitit's, for preemption and the time limit
LOCAL_MINUTES = 24 * 60.0  # time limit of the local executor, which has to have one

# The short forms of sbatch's options.
SHORT = {
    "A": "account", "a": "array", "b": "begin", "C": "constraint", "c": "cpus-per-task", "D": "chdir", "d": "dependency",
    "e": "error", "F": "nodefile", "G": "gpus", "H": "hold", "i": "input", "J": "job-name", "k": "no-kill", "L": "licenses",
    "M": "clusters", "m": "distribution", "N": "nodes", "n": "ntasks", "O": "overcommit", "o": "output", "p": "partition",
    "Q": "quiet", "q": "qos", "S": "core-spec", "s": "oversubscribe", "t": "time", "W": "wait", "w": "nodelist",
    "x": "exclude",
}  # fmt: skip
# Those that the array sets itself, and what to do instead.
OURS = {
    "array": "--jobs says how many jobs there are",
    "ntasks": "a job is one process; --jobs says how many jobs there are",
    "ntasks-per-node": "a job is one process; --jobs says how many jobs there are",
    "nodes": "a job is one process on one node; --jobs says how many jobs there are",
    "output": "the logs lie in the results folder",
    "error": "the logs lie in the results folder",
    "open-mode": "a requeued job appends to its log",
    "signal": f"jobs are warned {WARNING_SECONDS} s before their time limit, and requeued",
    "wait": "the command returns as soon as the jobs are submitted",
    "test-only": "--dry-run shows what would be run",
    "parsable": "the job ids are printed anyway",
    "wrap": "the command is the harness's",
    "help": "see `sbatch --help`",
    "version": "see `sbatch --version`",
}


def logs(results: Path) -> Path:
    """Where the jobs' logs lie: ``<job id>_0_log.out`` and ``.err``."""
    return Path(results) / STUDY / "slurm"


def submit(
    runs: Sequence[Run],
    results: Path,
    *,
    options: str = "",
    jobs: int = 1,
    retry: bool = False,
    executor: Literal["slurm", "local"] = "slurm",
) -> list[str]:
    """Submit ``jobs`` jobs that do the runs together, and return their ids; they write their records in ``results``.

    ``options`` are sbatch's, as one text. Runs without a record are done; with ``retry`` also those that have failed, once. If
    there are none, nothing is submitted. A job ends when every run has a record or is another one's. One that is preempted, told
    to stop (SIGTERM) or near its time limit is requeued, and goes on from the last saved epoch. The folders of the results, of
    this Python and of the data have to be the same on all nodes. ``executor``: ``local`` starts the jobs as processes of this
    machine, for tests.

    Raises:
        UserError: this is no machine of a cluster, Slurm refuses the options, or the results folder cannot be written.
    """
    if jobs < 1:
        raise UserError(f"jobs {jobs}: give at least 1")
    parameters = parse_options(options)
    if executor == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError("on slurm: this machine has no sbatch; use a login node of the cluster, or --on local")
    try:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError:
        raise UserError("on slurm: needs submitit; `pip install 'gfm-harness[slurm]'`") from None
    folder = Path(results).absolute()
    check_writable(folder, "results")
    since = datetime.now(UTC).isoformat(timespec="milliseconds") if retry else ""
    todo = [run for run in runs if _to_do(run, folder, since)]
    if _asks_for_gpus(parameters) and todo and all(run.device == "cpu" for run in todo):
        raise UserError(f"slurm {options!r}: asks for GPUs, but the runs are planned for the CPU; add --device cuda")
    if not todo:
        return []
    element = Element(str(note_plan(runs, folder)), str(folder), since)
    try:
        made = _executor(submitit, executor, logs(folder), parameters)
        return [str(job.job_id) for job in made.submit_array([element] * min(jobs, len(todo)))]
    except (FailedJobError, FailedSubmissionError) as error:
        said = printable(" ".join(str(error).split()))
        raise UserError(f"slurm {options!r}: {said or 'sbatch failed'}; change --slurm") from None


def parse_options(text: str) -> dict[str, str | bool]:
    """sbatch's options by their long names, with ``_`` for ``-``; True for one without a value.

    Raises:
        UserError: the text holds something else than options, or an option that the array sets itself.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"slurm {text!r}: {str(error).lower()}; quote it as in a shell") from None
    found: dict[str, str | bool] = {}
    name = ""
    for word in words:
        value: str | bool = True
        if word.startswith("--") and word != "--":
            name, equals, rest = word[2:].partition("=")
            value = rest if equals else True
        elif word.startswith("-") and word[1:2] in SHORT:
            name, value = SHORT[word[1]], word[2:] or True
        elif name and not word.startswith("-") and found.get(name.replace("-", "_")) is True:
            value = word  # of the option before it
        else:
            raise UserError(f"slurm {text!r}: {word!r} is no option of sbatch; write it as --name=value")
        if name in OURS:
            raise UserError(f"slurm --{name}: is set by the harness; leave it out: {OURS[name]}")
        found[name.replace("-", "_")] = value
    return found


def _asks_for_gpus(parameters: dict[str, str | bool]) -> bool:
    """Whether sbatch's options ask for a GPU."""
    return any(name.startswith("gpus") or (name == "gres" and "gpu" in str(value)) for name, value in parameters.items())


def _to_do(run: Run, results: Path, since: str) -> bool:
    record = recorded(run, results)
    return record is None or (not record.finished and record.created < since)


def _executor(submitit: Any, kind: str, folder: Path, parameters: dict[str, str | bool]) -> Any:
    """submitit's executor. Without a time limit in the options, the partition's is in force, not submitit's 5 minutes."""
    # One process has all CPUs of the job; since Slurm 22.05, srun has to be told. What the user has set stays.
    setup = ['export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"']
    setup += [f'export {name}="${{{name}:-${{SLURM_CPUS_ON_NODE:-1}}}}"' for name in THREADS]
    if kind == "local":
        made = submitit.LocalExecutor(folder)
        made.update_parameters(timeout_min=LOCAL_MINUTES)
        return made
    made = submitit.SlurmExecutor(folder)
    own = {"job_name": "harness", "time": None, "wckey": None, "signal_delay_s": WARNING_SECONDS, "setup": setup}
    made.update_parameters(**own, additional_parameters=parameters)
    return made


# --- on a node -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Element:
    """One job of the array. submitit pickles it: three texts, and the name of this class.

    ``plan`` is the file with the runs. Failed runs are done again if their record is older than ``since``, a time in UTC.
    """

    plan: str
    results: str
    since: str = ""

    def __call__(self) -> int:
        """Do what no other job does, and return how many runs were done. If it has to stop, SystemExit (AGAIN)."""
        log = Log()
        worker = Worker(Path(self.results), wait=False, reporter=log)
        runs = [Run.from_json(content) for content in json.loads(Path(self.plan).read_text(encoding="utf-8"))["runs"]]
        with interruptible() as interruption:
            for run in runs:
                if _to_do(run, worker.results, self.since) and not interruption.signal:
                    worker.work([run])
        if interruption.signal:
            self._stopped(interruption.signal, log)
        return log.ended

    def _stopped(self, number: int, log: Log) -> None:
        """End this job; requeue it first if that is for us to do, and of use."""
        name = signal.Signals(number).name
        if number == WARNING and not log.progress:
            log.say(f"{name}: not one epoch ended within the time limit; submit it again with a longer --time")
            sys.exit(1)
        if number == WARNING or _state() == "RUNNING":  # else the job was cancelled, or is being requeued already
            log.say(f"{name}: requeued, to go on from the last saved epoch")
            try:
                _requeue()
            except (OSError, subprocess.SubprocessError):
                log.say("the job cannot be requeued; run the same line again to go on")
        else:
            log.say(f"{name}: stopped; whoever does the run next goes on from the last saved epoch")
        sys.exit(AGAIN)


class Log(Reporter):
    """What a job writes in its log; remembers whether there was something worth coming back to."""

    def __init__(self) -> None:
        self.progress = False
        self.ended = 0

    def say(self, message: str) -> None:
        """A line with the time of day."""
        print(time.strftime("%H:%M:%S"), printable(message), flush=True)

    def report(self, progress: Progress | str) -> None:
        """The ends of epochs."""
        if isinstance(progress, Progress) and progress.validation is not None:
            self.progress = True
            self.say(f"epoch {progress.epoch}: {progress.measure} {progress.validation:.4f} on the validation split")

    def result(self, record: RunRecord, folder: str) -> None:
        """A run is finished or failed."""
        self.progress, self.ended = True, self.ended + 1
        self.say(f"{folder}: {record.status}{f' ({record.error.splitlines()[0]})' if record.error else ''}")


@dataclass
class Interruption:
    """The signal that told a job to stop, 0 for none."""

    signal: int = 0


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """SIGTERM and WARNING end what is done within, its claims released on the way. Further ones are ignored from then on.

    submitit's own handler would run in the middle of the training instead, where what it raises would be taken for a failure of
    the run.
    """
    interruption = Interruption()

    def stop(number: int, frame: FrameType | None) -> None:
        if not interruption.signal:
            interruption.signal = number
            raise _Stopped

    for number in (signal.SIGTERM, WARNING):
        signal.signal(number, stop)
    try:
        with suppress(_Stopped):
            yield interruption
    finally:
        for number in (signal.SIGTERM, WARNING):
            signal.signal(number, signal.SIG_IGN)


class _Stopped(BaseException):
    """Passes through whatever a run catches."""


def _job() -> str:
    """This job's id. SLURM_JOB_ID does not do, for one element's is that of the whole array."""
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array else os.environ.get("SLURM_JOB_ID", "")


def _state() -> str:
    """What Slurm calls this job's state: RUNNING unless it has decided to end it; empty if it cannot be asked."""
    asked = ["squeue", "--noheader", f"--jobs={_job()}", "--format=%T"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _requeue() -> None:
    """Queue this job again under its id. The local executor does so by an exit code of its own."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

        sys.exit(LOCAL_REQUEUE_RETURN_CODE)
    subprocess.run(["scontrol", "requeue", _job()], check=True, timeout=60)
