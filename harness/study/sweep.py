"""sweep(): every run of a study, by several processes if asked for; what is there already is not done again."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from harness.errors import UserError
from harness.evidence.records import RunRecord
from harness.files.atomic import atomic, check_writable
from harness.files.fingerprint import digest
from harness.progress import Board

from .claims import STUDY, state_path
from .plan import Run
from .run import recorded
from .work import POLL_SECONDS, say_who


class Engine(Protocol):
    """What does runs: :class:`.pool.Pool` on this machine, or one that spreads them over others."""

    under_way: Any

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: Any) -> None: ...

    def submit(self, number: int, run: Run) -> None:
        """Queue a run."""

    def results(self) -> Iterator[tuple[int, RunRecord | None]]:
        """Numbers and records of runs as they end, until none is under way; None for one that another process has."""
        ...


@dataclass
class Sweep:
    """Where a sweep stands: ``records`` has an entry for each run, None as long as there is no record.

    ``done`` are those that were done by it, with their seconds.
    """

    runs: Sequence[Run]
    results: Path
    records: list[RunRecord | None]
    done: list[tuple[int, float]] = field(default_factory=list)

    @property
    def finished(self) -> int:
        """How many runs have scores."""
        return sum(record is not None and record.finished for record in self.records)

    @property
    def failed(self) -> list[RunRecord]:
        """The records of runs that failed."""
        return [record for record in self.records if record is not None and not record.finished]

    @property
    def waiting(self) -> int:
        """How many runs have no record."""
        return self.records.count(None)

    def seconds_left(self, at_once: int) -> float | None:
        """What remains, by what the runs took that were done so far."""
        known = [(self.runs[number].name, self.runs[number].label, seconds) for number, seconds in self.done]
        waiting = [(run.name, run.label) for run, record in zip(self.runs, self.records, strict=True) if record is None]
        return seconds_left(known, waiting, at_once)


def seconds_left(known: Iterable[tuple[str, str, float]], waiting: Sequence[tuple[str, str]], at_once: int) -> float | None:
    """The time that waiting runs (model, task) take, from those (model, task, seconds) of others; None with nothing to go by.

    A run takes the mean of the same model on the same task, else of the same model, else of all; ``at_once`` go side by side.
    """
    taken: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for model, task, seconds in known:
        for group in ((model, task), (model,), ()):
            taken[group].append(seconds)
    if not taken:
        return None if waiting else 0.0
    means = {group: statistics.fmean(values) for group, values in taken.items()}
    expected = [next(means[group] for group in ((model, task), (model,), ()) if group in means) for model, task in waiting]
    return sum(expected) / at_once


def sweep(
    runs: Sequence[Run],
    results: Path,
    engine: Engine,
    *,
    retry: bool = False,
    wait: bool = True,
    board: Board | None = None,
    tell: Callable[[Sweep, int], None] = lambda sweep, number: None,
) -> Sweep:
    """Do every run that has no record; with ``retry``, those that failed, too. ``tell`` hears of each that ends.

    Runs that a process elsewhere has are waited for with ``wait``, and done here if it dies; else they are left to it. What was
    asked for is noted in the results folder, for :func:`.status.status`.

    Raises:
        UserError: the results folder cannot be written.
    """
    check_writable(results, "results")
    board = board or Board()
    found = Sweep(runs, results, [recorded(run, results) for run in runs])
    note_plan(runs, results)
    clear_states(runs, found.records, results)
    tell(found, -1)
    todo = [number for number, record in enumerate(found.records) if record is None or (retry and not record.finished)]
    told = set[str]()
    with engine as running:
        while todo:
            for number in todo:
                running.submit(number, runs[number])
            left = []
            for number, record in running.results():
                if record is None:
                    left.append(number)
                    continue
                found.records[number] = record
                found.done.append((number, float(record.seconds or 0.0)))
                tell(found, number)
            if left and not wait:
                break
            if len(left) == len(todo):
                say_who([runs[number] for number in left], results, board.say, told)
                time.sleep(POLL_SECONDS)
            todo = left
    return found


def shard(runs: Sequence[Run], text: str) -> list[Run]:
    """The runs of one of several shares, such as ``3/40``: every 40th from the third.

    Raises:
        UserError: the text says something else.
    """
    first, _, of = text.partition("/")
    if not (first.isdecimal() and of.isdecimal() and 1 <= int(first) <= int(of)):
        raise UserError(f"shard {text!r}: expected NUMBER/COUNT, such as 3/40, from 1/40 to 40/40")
    return list(runs[int(first) - 1 :: int(of)])


def note_plan(runs: Sequence[Run], results: Path) -> Path:
    """Write down in the results folder what was asked for; the same runs are noted once. Returns the note.

    Raises:
        UserError: there is no room, or the folder cannot be written.
    """
    folder = Path(results) / STUDY / "plans"
    content = [run.to_json() for run in runs]
    path = folder / f"{digest(content)[:16]}.json"
    note = json.dumps({"created": datetime.now(UTC).isoformat(timespec="seconds"), "runs": content})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_text(note, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"results {results}: {folder} cannot be written ({error.strerror or error}); make room or choose another --results"
        ) from None
    return path


def noted_plans(results: Path) -> list[Mapping[str, Any]]:
    """What was asked for in a results folder, the newest first; what cannot be read is left out."""
    found = []
    for path in sorted((Path(results) / STUDY / "plans").glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found.append({"created": str(content["created"]), "runs": [Run.from_json(run) for run in content["runs"]]})
        except (OSError, ValueError, KeyError, TypeError, UserError):
            continue
    return sorted(found, key=lambda plan: plan["created"], reverse=True)


def clear_states(runs: Sequence[Run], records: Sequence[RunRecord | None], results: Path) -> None:
    """Remove what a process that was killed between a run's record and its state's end left behind."""
    for run, record in zip(runs, records, strict=True):
        if record is not None:
            state_path(results, run).unlink(missing_ok=True)
