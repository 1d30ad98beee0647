"""What running work tells its caller: news in words, where it stands, what came out. Nothing unless someone listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.evidence.records import RunRecord
    from harness.study.plan import Run


@dataclass(frozen=True)
class Progress:
    """Where training stands. ``loss`` is the epoch's so far; ``validation`` the loss ``measure`` at its end, None before."""

    epoch: int
    step: int
    steps: int
    loss: float
    validation: float | None = None
    measure: str = "log_loss"


def printable(text: str) -> str:
    """Text from files and names without what would steer a terminal: control characters are shown as escapes (``\\x1b``)."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


class Reporter:
    """Listens to a run and shows nothing; the command line's ``Screen`` shows it. Override what you want to hear."""

    def say(self, message: str) -> None:
        """A sentence for the user."""

    def describe(self, task: str) -> None:
        """What a task is like: once for all of its runs."""
        self.say(task)

    def start(self, number: int) -> None:
        """Run ``number`` of those that were planned, from 0, begins here."""

    @contextmanager
    def training(self, title: str) -> Iterator[None]:
        """While it lasts, a model is trained, and :meth:`report` says how far it is."""
        yield

    def report(self, progress: Progress | str) -> None:
        """News of the training: a sentence, or where it stands; a few times a second at most."""

    def result(self, record: RunRecord, folder: str) -> None:
        """A run is finished or failed; ``folder`` holds its record."""

    def conclude(self, text: str) -> None:
        """The closing lines of a piece of work that makes no record."""


class Board:
    """Listens to several runs at once and shows nothing. ``place`` is where a run is done, from 0 to the number of jobs."""

    def say(self, message: str) -> None:
        """A sentence for the user."""

    def describe(self, task: str) -> None:
        """What a task is like; several processes may tell the same."""

    def start(self, place: int, run: Run) -> None:
        """A run begins."""

    def report(self, place: int, progress: Progress) -> None:
        """Where its training stands."""

    def end(self, place: int) -> None:
        """It has ended, one way or another."""


def figure(value: float) -> str:
    """A number to four places, or to three digits where these would all be 0: errors have the unit of what is measured."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 5e-5 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A length of time, such as ``5 s``, ``12 min`` or ``3.5 h``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
