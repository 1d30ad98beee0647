"""Searches in a results folder: trials must not have seen the test split, and the chosen one must be the best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.errors import BadData

from .folders import PREDICTIONS, RECORD
from .records import read
from .schema import NUMBER, shortened

SEARCH = "search.json"
TEST_SCORES = ("metrics", "intervals", "without_interval", "alignment", "leakage")


def search_faults(results: Path) -> tuple[int, list[tuple[Path, str]]]:
    """The number of searches in ``results/search/``, and (path, sentence) of what is wrong with them and with their trials."""
    folder = Path(results) / "search"
    searches, faults = sorted(folder.glob(f"*/*/*/{SEARCH}")), list[tuple[Path, str]]()
    for path in sorted(folder.rglob(RECORD)):
        try:
            record = read(path.parent)
        except BadData as error:
            faults.append((path, str(error).removeprefix(f"{path}: ")))
            continue
        if stated := [name for name in TEST_SCORES if getattr(record, name)]:
            faults.append((path, f"a trial states {', '.join(stated)}: the test split is not for trials"))
    faults += [(path, "a trial has predictions of the test split") for path in sorted(folder.rglob(PREDICTIONS))]
    for path in searches:
        try:
            faults += [(path, what) for what in _odd(json.loads(path.read_text(encoding="utf-8")))]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            faults.append((path, f"not a readable search ({error!r})"))
    return len(searches), faults


def _odd(search: dict[str, Any]) -> list[str]:
    """What is wrong with a search: trials twice, more than the budget, or a choice that is not the best finished trial."""
    faults, trials = [], {trial["number"]: trial for trial in search["trials"]}
    if len(trials) != len(search["trials"]):
        faults.append(f"{len(search['trials'])} trials have {len(trials)} numbers: some are there twice")
    if isinstance(most := search.get("budget", {}).get("trials"), int) and len(trials) > most:
        faults.append(f"{len(trials)} trials, more than the budget's {most}")
    values = {
        number: trial["value"]
        for number, trial in trials.items()
        if trial.get("state") == "finished" and isinstance(trial.get("value"), NUMBER)
    }
    if (chosen := search.get("chosen")) is not None:
        if chosen not in values:
            faults.append(f"trial {shortened(chosen)} was chosen, which is no finished trial with a value")
        elif values[chosen] > min(values.values()):
            best = min(values, key=lambda number: values[number])
            faults.append(f"trial {chosen} ({values[chosen]:g}) was chosen, but trial {best} ({values[best]:g}) is better")
    return faults
