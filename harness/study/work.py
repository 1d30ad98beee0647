"""work(): planned runs in turn, beside whatever other processes work on the same results folder."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import DownloadFailed, UserError
from harness.evidence.leakage import find_leaks
from harness.evidence.leakage import sentence as leak_sentence
from harness.evidence.metrics import check_labels
from harness.evidence.records import RunRecord
from harness.files.atomic import check_writable
from harness.progress import Progress, Reporter

from . import describe
from .claims import Claim, Holder, holders, key_of, take
from .plan import Run, open_task
from .run import alone, execute, finished, record_failure, recorded

AGAIN = 75  # the exit code of a command that was told to stop and can go on: EX_TEMPFAIL
MAX_DEATHS = 5  # of processes in a row that died on a run and came no further than others before
POLL_SECONDS = 1.0
RECORDED = "this very run is recorded already: same data, weights, settings, seed and code (--force runs it again)"


@dataclass
class Worker:
    """Does planned runs and writes their records in ``results``.

    ``force`` does recorded ones, too, ``retry`` those that failed. With ``wait``, runs that another process has are waited for,
    and done here if it dies; without, they are left to it. A run that its model refuses is raised if ``strict``, else a failed
    record like any other.
    """

    results: Path
    device: str | None = None
    force: bool = False
    retry: bool = True
    wait: bool = True
    strict: bool = False
    reporter: Reporter = field(default_factory=Reporter)
    _described: set[tuple[str, str]] = field(default_factory=set)
    _seconds: list[float] = field(default_factory=list)

    def work(self, runs: Sequence[Run]) -> list[RunRecord | None]:
        """The records of all runs, in their order; None for a run that is left to another process.

        Raises:
            UserError: the results folder cannot be written, or, if ``strict``, a model cannot take its task.
        """
        check_writable(self.results, "results")
        found: list[RunRecord | None] = [None] * len(runs)
        waiting, told = list(range(len(runs))), set[str]()
        while waiting:
            for number in waiting:
                found[number] = self._one(number, runs)
            busy = [number for number in waiting if found[number] is None]
            if not busy or not self.wait:
                break
            if len(busy) == len(waiting):
                say_who([runs[number] for number in busy], self.results, self.reporter.say, told)
                time.sleep(POLL_SECONDS)
            waiting = busy
        return found

    def _one(self, number: int, runs: Sequence[Run]) -> RunRecord | None:
        run = runs[number]
        if (earlier := self.there(run)) is not None:
            return self._found(number, earlier)
        claim: AbstractContextManager[Claim | None] | None = take(self.results, run) if alone() else nullcontext(None)
        if claim is None:
            return None
        with claim as held:
            if (earlier := self.there(run)) is not None:  # recorded between the look and the claim
                return self._found(number, earlier)
            self.reporter.start(number)
            if held and held.deaths > MAX_DEATHS:
                reason = f"{held.deaths} processes in a row died on this run, {where_died(held)}: out of memory, perhaps"
                return record_failure(run, self.results, reason, self.reporter)
            if len(runs) > 1:
                self.reporter.say(f"run {number + 1} of {len(runs)}{_time_left(self._seconds, len(runs) - number)}")
            begun = time.perf_counter()
            record = self._execute(run, _Telling(self.reporter, held) if held else self.reporter)
            self._seconds.append(time.perf_counter() - begun)
            return record

    def introduce(self, run: Run, tell: Callable[[str], None]) -> None:
        """Tell what a run's task is like, once for all runs of it.

        Raises:
            UserError: it cannot be opened, or a label in it is of another kind of task.
        """
        question = (run.label, run.split)
        if question not in self._described:
            opened = open_task(run)
            check_labels(*opened)
            said = leak_sentence(opened[0], find_leaks(opened[1]))
            tell(describe.of_task(run, *opened) + (f"\n  {said}" if said else ""))
            self._described.add(question)

    def there(self, run: Run) -> RunRecord | None:
        """The record that makes a run needless, if there is one."""
        if self.force:
            return None
        return finished(run, self.results) if self.retry else recorded(run, self.results)

    def _found(self, number: int, earlier: RunRecord) -> RunRecord:
        self.reporter.say(RECORDED)
        self.reporter.result(earlier, str(self.results / earlier.folder))
        return earlier

    def _execute(self, run: Run, reporter: Reporter) -> RunRecord:
        try:
            self.introduce(run, reporter.describe)
            return execute(run, self.results, device=self.device, force=True, reporter=reporter)
        except (UserError, DownloadFailed) as error:
            if self.strict:
                raise
            return record_failure(run, self.results, str(error), reporter)


def say_who(runs: Sequence[Run], results: Path, say: Callable[[str], None], told: set[str]) -> None:
    """Say which processes have these runs, of those that are not yet in ``told``."""
    keys = {key_of(run) for run in runs}
    for holder in holders(results):
        if holder.key in keys and holder.key not in told:
            told.add(holder.key)
            say(f"waiting for {holder.key}, which {name_of(holder)} does")


def name_of(holder: Holder) -> str:
    """The process that has a run, such as ``process 4711 on node7``."""
    return f"process {holder.process} on {holder.machine}"


def where_died(claim: Claim) -> str:
    """How far the processes came that died on a claimed run."""
    return f"and came no further than epoch {claim.reached}" if claim.reached else "and none ended an epoch"


class _Telling(Reporter):
    """Passes everything on, and tells a claim how far the training is."""

    def __init__(self, inner: Reporter, claim: Claim) -> None:
        self.say, self.describe, self.result, self.training = inner.say, inner.describe, inner.result, inner.training  # type: ignore[method-assign]
        self.inner, self.claim = inner, claim

    def report(self, progress: Progress | str) -> None:
        """News of the training."""
        if isinstance(progress, Progress):
            ended = progress.epoch if progress.validation is not None else progress.epoch - 1
            self.claim.tell(epoch=ended, share=progress.step / progress.steps)
        self.inner.report(progress)


@contextmanager
def stoppable(say: Callable[[str], None]) -> Iterator[None]:
    """While it lasts, SIGTERM (Slurm's warning before it preempts) ends the process with AGAIN, its claims released.

    The last finished epoch of a training is on the disk already. Only the main thread can listen.
    """

    def end(*_: Any) -> None:
        say(f"told to stop (SIGTERM): the same command goes on from the last saved epoch (exit code {AGAIN})")
        sys.exit(AGAIN)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _time_left(seconds: Sequence[float], runs: int) -> str:
    """What remains if the next runs take as long as those so far did on average."""
    if not seconds:
        return ""
    minutes = sum(seconds) / len(seconds) * runs / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"
