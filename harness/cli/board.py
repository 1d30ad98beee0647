"""What a sweep shows: on a terminal a line for each run under way and one for all; a line for each run that ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from harness.evidence.metrics import METRICS
from harness.progress import Board, Progress, duration, figure, printable

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from harness.evidence.records import RunRecord
    from harness.study.plan import Run
    from harness.study.sweep import Sweep


class Lines(Board):
    """Everything goes to standard error. Use it as a context manager."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, emoji=False, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._running: dict[int, tuple[Run, float, Progress | None]] = {}
        self._total = ""
        self._described: set[str] = set()
        self._live: Live | None = None

    def __enter__(self) -> Lines:
        from rich.live import Live

        if self.console.is_terminal and not self.quiet:
            self._live = Live(get_renderable=self._shown, console=self.console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def say(self, message: str) -> None:
        """A sentence for the user."""
        if not self.quiet:
            self.console.print(printable(message), markup=False)

    def describe(self, task: str) -> None:
        """What a task is like."""
        if task not in self._described:
            self._described.add(task)
            self.say(task)

    def start(self, place: int, run: Run) -> None:
        """A run begins."""
        self._running[place] = (run, time.monotonic(), None)

    def report(self, place: int, progress: Progress) -> None:
        """Where its training stands."""
        if place in self._running:
            self._running[place] = (*self._running[place][:2], progress)

    def end(self, place: int) -> None:
        """It has ended, one way or another."""
        self._running.pop(place, None)

    def told(self, sweep: Sweep, number: int, jobs: int) -> None:
        """A run of a sweep has ended, or, with a negative number, the sweep begins."""
        done, total = len(sweep.runs) - sweep.waiting, len(sweep.runs)
        failed = f", {len(sweep.failed)} failed" if sweep.failed else ""
        left = sweep.seconds_left(jobs)
        self._total = f"{done} of {total} runs{failed}" + ("" if not left else f", about {duration(left)} left")
        if number < 0:
            there = f"{done} recorded already" if done else "none recorded yet"
            self.say(f"{total} run{'s' * (total != 1)}, {there}{failed}")
        elif (record := sweep.records[number]) is not None:
            self.say(f"{self._total} · {outcome(record)}")

    def _shown(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        shown = Table.grid(padding=(0, 2))
        for run, begun, progress in list(self._running.values()):
            where = "" if progress is None else f"epoch {progress.epoch}, {progress.step / progress.steps:.0%}"
            loss = "" if progress is None else f"loss {figure(progress.loss)}"
            cells = (f"{run.name} on {run.label}, seed {run.seed}", where, loss, f"{time.monotonic() - begun:.0f} s")
            shown.add_row(*(Text(printable(cell)) for cell in cells))
        shown.add_row(Text(self._total))
        return shown


def outcome(record: RunRecord) -> str:
    """A run's end in a line: what it was, and its main score or why it failed."""
    what = f"{record.model['name']} on {record.task_label}, seed {record.seed}"
    if not record.finished:
        return f"{what}: failed: {next(iter(str(record.error).splitlines()), '')}"
    metric = record.task.get("main_metric") or ""
    value = record.metrics.get(metric)
    score = f"{METRICS[metric].label} {figure(value)}" if metric in METRICS and value is not None else "done"
    seconds = record.seconds
    return f"{what}: {score}" + (f", {seconds:.0f} s" if seconds is not None else "")


def counted(groups: Sequence[tuple[str, int]], limit: int = 8) -> str:
    """Names with their numbers, the first few."""
    shown = ", ".join(f"{name} ({count})" for name, count in groups[:limit])
    return shown + (f" and {len(groups) - limit} more" if len(groups) > limit else "")
