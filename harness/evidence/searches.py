"""Searches in a results folder: trials must be what their records say, and must not have seen the test split; the chosen one
must be the best, and its settings those of the runs that were scored."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any

from harness.errors import BadData

from .folders import PREDICTIONS, RECORD
from .records import RunRecord, read
from .schema import NUMBER, shortened

SEARCH = "search.json"
FAULTS = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)  # of what is no search
TEST_SCORES = ("metrics", "intervals", "without_interval", "alignment", "leakage")


def search_faults(results: Path) -> tuple[int, list[tuple[Path, str]]]:
    """The number of searches in ``results/search/``, and (path, sentence) of what is wrong with them and with their trials."""
    folder = Path(results) / "search"
    searches, faults, trials = sorted(folder.glob(f"*/*/*/{SEARCH}")), list[tuple[Path, str]](), dict[Path, RunRecord]()
    for path in sorted(folder.rglob(RECORD)):
        try:
            record = trials[path.parent] = read(path.parent)
        except BadData as error:
            faults.append((path, str(error).removeprefix(f"{path}: ")))
            continue
        if stated := [name for name in TEST_SCORES if getattr(record, name)]:
            faults.append((path, f"a trial states {', '.join(stated)}: the test split is not for trials"))
    faults += [(path, "a trial has predictions of the test split") for path in sorted(folder.rglob(PREDICTIONS))]
    for path in searches:
        try:
            search = json.loads(path.read_text(encoding="utf-8"))
            records = {record.run_id: record for place, record in trials.items() if path.parent in place.parents}
            faults += [(path, what) for what in (*_odd(search), *_unlike(search, records))]
        except FAULTS as error:
            faults.append((path, f"not a readable search ({error!r})"))
    return len(searches), faults


def _odd(search: dict[str, Any]) -> list[str]:
    """What is wrong with a search: trials twice, more than the budget, or a choice that is not the best finished trial."""
    faults, trials = [], {trial["number"]: trial for trial in search["trials"]}
    if len(trials) != len(search["trials"]):
        faults.append(f"{len(search['trials'])} trials have {len(trials)} numbers: some are there twice")
    elif set(trials) != set(range(len(trials))):
        faults.append(f"trials are numbered {shortened(sorted(trials))}: expected 0, 1, … without a gap")
    if isinstance(most := search.get("budget", {}).get("trials"), int) and len(trials) > most:
        faults.append(f"{len(trials)} trials, more than the budget's {most}")
    values = _values(trials.values())
    if (chosen := search.get("chosen")) is not None:
        if chosen not in values:
            faults.append(f"trial {shortened(chosen)} was chosen, which is no finished trial with a value")
        elif values[chosen] > min(values.values()):
            best = min(values, key=lambda number: values[number])
            faults.append(f"trial {chosen} ({values[chosen]:g}) was chosen, but trial {best} ({values[best]:g}) is better")
    elif values:
        faults.append(f"no trial was chosen, though {len(values)} of them finished")
    return faults


def _values(trials: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """The values of the finished trials, by number."""
    finished = (trial for trial in trials if trial.get("state") == "finished")
    return {trial["number"]: trial["value"] for trial in finished if isinstance(trial.get("value"), NUMBER)}


def _unlike(search: dict[str, Any], records: Mapping[str, RunRecord]) -> Iterator[str]:
    """What trials that ended say otherwise than their records, which are named since there are records of trials at all."""
    for trial in search["trials"]:
        if "run" not in trial or trial["state"] not in ("finished", "pruned"):
            continue
        name = f"trial {trial['number']}"
        if (record := records.get(trial["run"])) is None:
            yield f"{name} has no record: {shortened(trial['run'])} is not there"
            continue
        for setting, value, used in _other_settings(trial, record):
            yield f"{name}: {setting} is stated as {shortened(value)}, its record has {shortened(used)}"
        losses = [entry.get(f"validation_{search['objective']}") for entry in record.history]
        lowest = min((loss for loss in losses if isinstance(loss, NUMBER)), default=math.nan)
        if trial["value"] != lowest:
            yield f"{name}: its value is stated as {shortened(trial['value'])}, its record's lowest loss is {lowest}"


def _other_settings(trial: Mapping[str, Any], record: RunRecord) -> Iterator[tuple[str, Any, Any]]:
    """Settings of a trial that a run did not have: name, the trial's value, the run's."""
    for setting, value in trial["settings"].items():
        if setting in record.recipe and record.recipe[setting] != value:
            yield setting, value, record.recipe[setting]


def choice_faults(results: Path, record: RunRecord, faulty: Collection[Path]) -> list[str]:
    """Sentences on a run that does not have the settings that its search chose; more trials may have been made since.

    ``faulty`` are the files of searches that are wrong themselves, which accuse nobody.
    """
    stated = record.model.get("search")
    if not isinstance(stated, dict) or not isinstance(count := stated.get("trials"), int):
        return []
    faults = []
    for path in (Path(results) / "search").glob(f"*/*/{escape(str(stated.get('id')))}/{SEARCH}"):
        if path in faulty:
            continue
        try:
            search = json.loads(path.read_text(encoding="utf-8"))
            trials = {trial["number"]: trial for trial in search["trials"]}
            values = _values(trial for number, trial in trials.items() if number < count)
            if count > len(trials) or not values:
                continue
            best = min(values, key=lambda number: (values[number], number))
            faults += [
                f"recipe.{setting} is {shortened(used)}, but search {stated['id']} chose {shortened(value)} (trial {best})"
                for setting, value, used in _other_settings(trials[best], record)
            ]
        except FAULTS:  # it changes while it is read
            continue
    return faults
