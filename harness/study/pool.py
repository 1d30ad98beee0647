"""Pool: several runs at once on one machine, each in a process of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from typing import Any

from harness.errors import HarnessError
from harness.evidence.records import RunRecord
from harness.progress import Board, Progress, Reporter

from .claims import key_of
from .plan import Run
from .run import recorded
from .work import AGAIN, Worker

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
MAX_STARTS = 3  # of a process that ends before it is ready
TIMEOUT = 0.2  # seconds


@dataclass
class _Child:
    """A process that does one run after another. ``number`` is the run that it has."""

    process: SpawnProcess
    pipe: connection.Connection
    ready: bool = False
    number: int | None = None


@dataclass
class Pool:
    """Does submitted runs in ``jobs`` processes, among which the machine's threads and GPUs are divided; one job does them here.

    ``worker`` says how (its ``wait`` does not count: a run that a process elsewhere has comes back as None). A process that is
    killed is replaced, and its run done again, from the last saved epoch. Use it as a context manager; leaving it ends the
    processes.
    """

    worker: Worker
    jobs: int
    board: Board
    _queue: deque[tuple[int, Run]] = field(default_factory=deque)
    _runs: dict[int, Run] = field(default_factory=dict)
    _children: list[_Child] = field(default_factory=list)
    _starts: int = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        for child in self._children:
            with suppress(OSError):
                child.pipe.send(None)
            if child.number is not None:
                child.process.terminate()
        for child in self._children:
            child.process.join(10)
            if child.process.is_alive():
                child.process.kill()
        self._children.clear()

    def submit(self, number: int, run: Run) -> None:
        """Queue a run; ``number`` is what the caller calls it."""
        self._queue.append((number, run))

    @property
    def under_way(self) -> int:
        """How many runs are queued or being done."""
        return len(self._queue) + len(self._runs)

    def results(self) -> Iterator[tuple[int, RunRecord | None]]:
        """Numbers and records of runs as they end, until none is under way; None for a run that is another process's.

        Raises:
            HarnessError: processes cannot be started, or a record cannot be written.
        """
        while self.under_way:
            if self.jobs == 1:
                yield self._here(*self._queue.popleft())
            else:
                self._hand_out()
                yield from self._collect()

    def _here(self, number: int, run: Run) -> tuple[int, RunRecord | None]:
        worker = replace(self.worker, wait=False, reporter=_ToBoard(self.board, 0, run))
        (record,) = worker.work([run])
        return number, record

    # --- processes ---------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        while len(self._children) < min(self.jobs, self.under_way):
            self._children.append(self._start(len(self._children)))
        for child in self._children:
            if child.ready and child.number is None and self._queue:
                number, run = self._queue.popleft()
                self._runs[number] = run
                child.number = number
                with suppress(OSError):  # it has ended, which _collect sees
                    child.pipe.send(run)

    def _start(self, place: int) -> _Child:
        self._starts += 1
        if self._starts > MAX_STARTS * self.jobs:
            raise HarnessError("workers end before they begin: try --jobs 1, whose errors are seen")
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        worker = replace(self.worker, wait=False, reporter=Reporter())
        process = context.Process(target=_serve, args=(worker, theirs), daemon=False, name=f"harness-{place}")
        with _environment(_share(place, self.jobs, self._queue[0][1].device if self._queue else "cpu")):
            process.start()
        theirs.close()
        return _Child(process, ours)

    def _collect(self) -> Iterator[tuple[int, RunRecord | None]]:
        pipes = [child.pipe for child in self._children]
        for pipe in connection.wait(pipes, TIMEOUT):
            place = next(place for place, child in enumerate(self._children) if child.pipe is pipe)
            child = self._children[place]
            try:
                kind, content = child.pipe.recv()
            except (EOFError, OSError):  # the process has ended
                self._bury(place)
                continue
            if kind == "ready":
                child.ready, self._starts = True, 0
            elif kind == "progress" and child.number is not None:
                self.board.report(place, content)
            elif kind == "start" and child.number is not None:
                self.board.start(place, self._runs[child.number])
            elif kind == "describe":
                self.board.describe(content)
            elif kind == "error":
                raise HarnessError(content)
            elif kind == "result" and child.number is not None:
                number, child.number = child.number, None
                run = self._runs.pop(number)
                self.board.end(place)
                yield number, recorded(run, self.worker.results) if content else None

    def _bury(self, place: int) -> None:
        child = self._children[place]
        child.process.join()
        code = child.process.exitcode
        if code == AGAIN:
            self.board.say(f"a worker was told to stop (SIGTERM): the same command goes on (exit code {AGAIN})")
            sys.exit(AGAIN)
        if child.number is not None:
            run = self._runs.pop(child.number)
            self._queue.appendleft((child.number, run))
            how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
            self.board.say(f"the process of {key_of(run)} has ended ({how}); another one goes on")
            self.board.end(place)
        self._children[place] = self._start(place)


class _ToBoard(Reporter):
    """A run in this process, shown on a board."""

    def __init__(self, board: Board, place: int, run: Run) -> None:
        self.board, self.place, self.run = board, place, run

    def describe(self, task: str) -> None:
        """What its task is like."""
        self.board.describe(task)

    def start(self, number: int) -> None:
        """The run begins."""
        self.board.start(self.place, self.run)

    def report(self, progress: Progress | str) -> None:
        """News of the training."""
        if isinstance(progress, Progress):
            self.board.report(self.place, progress)

    def result(self, record: RunRecord, folder: str) -> None:
        """The run has ended."""
        self.board.end(self.place)


class _Sending(Reporter):
    """A run in a child, whose news goes to the parent."""

    def __init__(self, pipe: connection.Connection) -> None:
        self.pipe = pipe

    def describe(self, task: str) -> None:
        """What its task is like."""
        self.pipe.send(("describe", task))

    def start(self, number: int) -> None:
        """The run begins."""
        self.pipe.send(("start", number))

    def report(self, progress: Progress | str) -> None:
        """News of the training."""
        if isinstance(progress, Progress):
            self.pipe.send(("progress", progress))


def _serve(worker: Worker, pipe: connection.Connection) -> None:
    """A child's life: runs come through the pipe until None does, or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the terminal sends to all: the parent decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(AGAIN))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = replace(worker, reporter=_Sending(pipe))
    with suppress(BrokenPipeError, EOFError):
        pipe.send(("ready", None))
        while (run := pipe.recv()) is not None:
            try:
                (record,) = worker.work([run])
                pipe.send(("result", record is not None))
            except HarnessError as error:
                pipe.send(("error", str(error)))
            except Exception as error:
                pipe.send(("error", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


def _end_with_parent() -> None:
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _share(place: int, jobs: int, device: str) -> dict[str, str]:
    """A process's share of the machine, as variables of its environment; what the user has set stays."""
    threads = max(len(os.sched_getaffinity(0)) // jobs, 1) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) // jobs
    own = {name: str(max(threads, 1)) for name in THREADS if name not in os.environ}
    if device == "cuda" and len(cards := _cards()) > 1:
        own["CUDA_VISIBLE_DEVICES"] = cards[place % len(cards)]
    return own


def _cards() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def _environment(own: dict[str, str]) -> Iterator[None]:
    """Variables that a process inherits which starts meanwhile."""
    before = {name: os.environ.get(name) for name in own}
    os.environ |= own
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
