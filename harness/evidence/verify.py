"""verify(): every score of every record, computed again; and records that were edited, or do not belong where they lie.

What is compared with what: scores, intervals, counts and subsets with predictions.csv; a record and its predictions with the
checksums that were made when they were written; the checksums of data and weights with those that the registry knows; and
records of one question with each other. Records of versions before there were checksums, or leaks, are compared as far as that
goes, and what is missing is counted.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.recipe import TRAINED

from .folders import PREDICTIONS, RECORD, record_folders
from .recompute import TOLERANCE, Examined, examine
from .records import RunRecord
from .registered import data_faults, weights_faults
from .searches import choice_faults, search_faults

MIN_FOR_PROCESSES = 64  # records from which several processes, which take a second to start, are faster


@dataclass(frozen=True)
class Problem:
    """Something that is wrong: with which file or folder, and what, in a sentence of one line."""

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}".replace("\n", " ")


@dataclass(frozen=True)
class Verification:
    """What came of a results folder.

    ``notes`` are sentences on what is odd but not wrong, or could not be looked at. ``counts``: records, finished, failed,
    searches; numbers ``exact`` (equal to the last bit) and ``close`` (within TOLERANCE only); ``sealed`` records, which have
    checksums of their own; numbers ``not_stated`` by records of older versions, and ``uncompared``; ``data`` and ``weights``,
    files whose checksums agree with the registry's.
    """

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    counts: dict[str, int]

    @property
    def summary(self) -> str:
        """The last line: how many problems, or that there are none and what was compared."""
        counts = self.counts
        if self.problems:
            places = len({problem.path.parent for problem in self.problems})
            wrong = f"{_many(len(self.problems), 'problem')} in {_many(places, 'folder')}"
            return f"{wrong}; {_many(counts['records'], 'record')} in all"
        numbers = counts["exact"] + counts["close"]
        text = f"{_many(counts['records'], 'record')}: all scores recomputed, {numbers:,} numbers agree"
        return text + (f", {counts['close']:,} of them within {TOLERANCE:g} only" if counts["close"] else " to the last bit")

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        problems = [{"path": str(problem.path), "what": problem.what} for problem in self.problems]
        return {"counts": self.counts, "problems": problems, "notes": list(self.notes)}


def verify(results: Path, *, jobs: int = 1, say: Callable[[int, int], None] = lambda done, total: None) -> Verification:
    """Compute every score of a results folder again, and look for records that were edited or do not belong.

    ``jobs`` processes share the work where there are many records. ``say`` hears how many of how many records are done.

    Raises:
        UserError: there is no such folder, or there are neither records nor searches in it.
    """
    results, faults = Path(results), list[str]()
    if not results.is_dir():
        raise UserError(f"results {results}: no such folder; name the one that `harness run` wrote to")
    folders = list(record_folders(results, faults.append))
    found = list(_examined(folders, jobs, say))
    searches, trials = search_faults(results)
    if not folders and not faults and not searches:
        raise UserError(f"results {results}: no records in it; name the folder that `harness run` wrote to")
    problems = [Problem(*_parted(fault)) for fault in faults]
    for one in found:
        problems += [Problem(one.folder / file, what) for file, what in one.problems]
    known = [one for one in found if one.record is not None]
    counts: Counter[str] = Counter()
    for check in (_one_question, _one_run):
        problems += [Problem(one.folder / file, what) for one, file, what in check(known)]
    notes = []
    for look in (data_faults, weights_faults):
        for one in known:
            assert one.record is not None
            wrong = look(one.record, counts)
            problems += [Problem(one.folder / RECORD, what) for what in wrong]
    faulty = {path for path, _ in trials}
    for one in known:
        assert one.record is not None
        problems += [Problem(one.folder / RECORD, what) for what in choice_faults(results, one.record, faulty)]
    problems += [Problem(path, what) for path, what in trials]
    notes += _same_predictions(known)
    notes += _unknown_searches(known, results)
    counts["searches"], counts["records"] = searches, len(found)
    for one in found:
        counts["finished"] += one.record is not None and one.record.finished
        counts["failed"] += one.record is not None and not one.record.finished
        counts["sealed"] += one.sealed
        for name in ("exact", "close", "not_stated", "uncompared"):
            counts[name] += getattr(one, name)
    notes += _uncompared(counts, len(known))
    return Verification(tuple(problems), tuple(notes), dict(sorted(counts.items())))


def _examined(folders: Sequence[Path], jobs: int, say: Callable[[int, int], None]) -> Iterator[Examined]:
    if jobs <= 1 or len(folders) < MIN_FOR_PROCESSES:
        for number, folder in enumerate(folders, start=1):
            yield examine(folder)
            say(number, len(folders))
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:  # forked, threads of libraries may hang
        for number, one in enumerate(pool.map(examine, folders, chunksize=8), start=1):
            yield one
            say(number, len(folders))


def _parted(fault: str) -> tuple[Path, str]:
    """Path and sentence of what :func:`.folders.record_folders` complains about."""
    path, _, what = fault.partition(": ")
    return Path(path), what


# --- records beside each other -------------------------------------------------------------------------------------------


def _one_question(found: Sequence[Examined]) -> Iterator[tuple[Examined, str, str]]:
    """Records of one question whose examples or their numbers are not those of the others."""
    asked: dict[Hashable, list[Examined]] = defaultdict(list)
    for one in found:
        assert one.record is not None
        if question := one.record.task.get("question"):
            asked[question].append(one)
    facts: tuple[tuple[str, str, Callable[[Examined, RunRecord], Any]], ...] = (
        (PREDICTIONS, "ids of the test examples", lambda one, record: one.ids),
        (PREDICTIONS, "labels of the test examples", lambda one, record: one.labels),
        (RECORD, "task.counts", lambda one, record: _sizes(record)),  # of the same classes, whatever they are called
        (RECORD, "task.simulated", lambda one, record: repr(record.task["simulated"])),
        (RECORD, "task.best_accuracy", lambda one, record: repr(record.task.get("best_accuracy"))),
    )
    for members in asked.values():
        for file, what, value_of in facts:
            values = [(one, value) for one in members if one.record is not None and (value := value_of(one, one.record))]
            # Those of records with nothing wrong of their own, if there are any; of several, those of most.
            number = Counter(value for one, value in values if not one.problems) or Counter(value for _, value in values)
            usual = [value for value, count in number.most_common() if count == max(number.values())]
            for one, value in values:
                if value not in usual or len(usual) > 1:
                    others = sum(other != value for _, other in values) if value in usual else number[usual[0]]
                    yield one, file, f"{what} are not those of {_many(others, 'other record')} with the same task.question"


def _sizes(record: RunRecord) -> str:
    return "; ".join(f"{part} {list(counts.values())}" for part, counts in (record.task.get("counts") or {}).items())


def _one_run(found: Sequence[Examined]) -> Iterator[tuple[Examined, str, str]]:
    """Records with the run id of another one: it is a digest of model, task and settings, so one of them is a copy."""
    runs: dict[str, list[Examined]] = defaultdict(list)
    for one in found:
        assert one.record is not None
        runs[one.record.run_id].append(one)
    for run_id, members in runs.items():
        suspected = [one for one in members if one.problems] or members
        for one in suspected if len(members) > 1 else ():
            others = ", ".join(str(other.folder) for other in members if other is not one)
            yield one, RECORD, f"run id {run_id} is also that of {others}; one of them is a copy"


def _same_predictions(found: Sequence[Examined]) -> Iterator[str]:
    """Sentences on runs of different models, or seeds that should matter, with the same bytes of predictions."""
    groups: dict[str, list[Examined]] = defaultdict(list)
    for one in found:
        if one.predictions:
            groups[one.predictions].append(one)
    for members in groups.values():
        records = [one.record for one in members if one.record is not None]
        models = {record.model["name"] for record in records}
        seeds = {record.seed for record in records if not deterministic(record)}
        if len(models) > 1 or len(seeds) > 1:
            what = f"models {', '.join(sorted(models))}" if len(models) > 1 else f"seeds {', '.join(map(str, sorted(seeds)))}"
            places = ", ".join(str(one.folder) for one in members)
            yield f"the same predictions to the last bit for {what}; is one a copy? {places}"


def deterministic(record: RunRecord) -> bool:
    """Whether a run's seed cannot change its predictions: nothing is trained by gradients, and no weights are random."""
    model = record.model
    parameters = model.get("parameters") or {}
    weights = parameters.get("total", math.inf) > parameters.get("head", 0)
    missing = (model.get("audit") or {}).get("missing")
    drawn = missing if model["checkpoint"] else weights
    return record.recipe["tune"] not in TRAINED and not drawn


def _unknown_searches(found: Sequence[Examined], results: Path) -> Iterator[str]:
    """Sentences on runs whose settings come from a search that is not there."""
    there = {path.parent.name for path in (results / "search").glob("*/*/*/search.json")}
    lost: dict[str, int] = Counter()
    for one in found:
        search = one.record.model.get("search") if one.record else None
        if isinstance(search, dict) and search.get("id") not in there:
            lost[str(search.get("id"))] += 1
    for name, number in lost.items():
        yield f"search {name}, which chose the settings of {_many(number, 'record')}, is not in {results / 'search'}"


def _uncompared(counts: Counter[str], records: int) -> Iterator[str]:
    """Sentences on what could not be compared, with its number."""
    if unsealed := records - counts["sealed"]:
        what = f"{_many(unsealed, 'record')} without checksums, as older versions wrote them"
        yield f"{what}: edits that change no score stay unseen"
    if counts["not_stated"]:
        yield f"{_many(counts['not_stated'], 'number')} not stated by records of older versions"
    if counts["uncompared"]:
        yield f"{_many(counts['uncompared'], 'number')} that cannot be computed again: their predictions are not kept"
    for what in ("data", "weights"):
        if counts[f"{what}_unknown"]:
            yield f"{_many(counts[f'{what}_unknown'], 'file')} of {what} whose checksum the registry does not know"


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
