"""status(): how far the runs of a results folder are, by its records, its claims and the notes of what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.evidence.records import RunRecord, read_all
from harness.files.fingerprint import digest

from .claims import Holder, holders, key, key_of
from .plan import Run
from .searched import SEARCH
from .sweep import noted_plans, seconds_left


@dataclass(frozen=True)
class Status:
    """``running`` are the claims of live processes, ``waiting`` the noted runs that have neither a record nor such a claim.

    ``hours`` is the time that waiting and running ones will take, at the mean time of the records of the same model and task
    (else model, else all) and as many runs at once as there are now; None where there is nothing to go by. ``abandoned`` are
    the claims of processes that have ended, whose runs wait to be taken over.
    """

    finished: int
    failed: Sequence[RunRecord]
    running: Sequence[Holder]
    abandoned: Sequence[Holder]
    waiting: Sequence[Run]
    hours: float | None
    complaints: Sequence[str]


def status(results: Path) -> Status:
    """Read it. Nothing is changed.

    Raises:
        UserError: there is no such folder.
    """
    if not results.is_dir():
        raise UserError(f"results {results}: no such folder; name the one that --results of `harness sweep` names")
    complaints: list[str] = []
    records = read_all(results, complaints.append)
    folders = (results, *sorted((results / SEARCH).glob("*/*/*/")))  # trials of searches have folders of their own
    held = [holder for folder in folders for holder in holders(folder)]
    running, abandoned = [one for one in held if not one.dead], [one for one in held if one.dead]
    there = {key(record.task_label, record.model["name"], record.run_id) for record in records}
    taken = there | {holder.key for holder in running}
    noted = _noted(results, complaints.append)
    waiting = [run for own, run in noted.items() if own not in taken]
    under_way = [noted[holder.key] for holder in running if holder.key in noted and holder.key not in there]
    known = [
        (record.model["name"], record.task_label, seconds)
        for record in records
        if record.finished and (seconds := record.seconds) is not None
    ]
    left = seconds_left(known, [(run.name, run.label) for run in (*waiting, *under_way)], max(len(running), 1))
    failed = [record for record in records if not record.finished]
    return Status(
        len(records) - len(failed), failed, running, abandoned, waiting, None if left is None else left / 3600, complaints
    )


def _noted(results: Path, complain: Callable[[str], None]) -> Mapping[str, Run]:
    """The runs that were asked for, by their keys. One that was planned anew since, on other data or code, is left out."""
    found, asked, gone = dict[str, Run](), dict[str, str](), Counter[str]()
    for plan in noted_plans(results):
        now = dict[str, str]()
        for run in plan["runs"]:
            try:
                own = key_of(run)
            except UserError as error:  # its model's file was moved or edited since
                gone[str(error)] += 1
                continue
            about = digest(
                [run.model, run.task, run.split, run.seed, run.recipe, run.checkpoint, run.size, run.options, run.part]
            )
            if asked.get(about, own) == own:
                found.setdefault(own, run)
            now[about] = own
        asked = now | asked
    for reason, count in gone.items():
        complain(f"skipped: {count} runs that were asked for: {reason}")
    return found


def by_model(runs: Sequence[Run]) -> Counter[tuple[str, str]]:
    """How many runs there are of each model on each task."""
    return Counter((run.name, run.label) for run in runs)
