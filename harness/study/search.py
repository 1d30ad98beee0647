"""search(): settings that suit a model and a task better than the published ones, found with the same budget for every model.

Trials see the training and validation splits alone. The test split is scored by the final runs: the chosen setting with seeds
that no trial was trained with.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.evidence import records
from harness.evidence.folders import copy_kept
from harness.evidence.records import RunRecord
from harness.files.atomic import check_writable
from harness.progress import Board
from harness.recipe import TRAINED, Recipe

from .plan import Run, plan
from .pool import Pool
from .run import alone, recorded
from .searched import Budget, Search
from .space import Asked, asked_space
from .sweep import Engine, Sweep, sweep
from .work import Worker

FINAL_SEEDS = (0, 1, 2)


def search(
    model: str | Sequence[str],
    task: str | Sequence[str] | None = None,
    *,
    trials: int = 20,
    epochs: int | None = None,
    seed: int | Sequence[int] = FINAL_SEEDS,
    space: str | Path | Mapping[str, Any] | None = None,
    preset: str | None = None,
    pruner: str = "median",
    sampler_seed: int = 0,
    jobs: int = 1,
    results: str | Path = "results",
    board: Board | None = None,
    tell: Callable[[Sweep, int], None] = lambda sweep, number: None,
    **asked: Any,
) -> list[Search]:
    """Search the settings of every model on every task, and run what is chosen with each ``seed``.

    Every model has the same budget: ``trials`` of at most ``epochs`` (by default 20, or the recipe preset's). ``space`` is a TOML
    file or its content, ``preset`` the name of a space, ``pruner`` ends trials that are not promising (median, hyperband, none).
    ``asked`` are the arguments of :func:`plan`; settings among them are fixed, and are not searched. A search that was
    interrupted goes on, one with more trials than before is amended, and what is there already is not done again. ``board`` hears
    of the trials, and ``tell``, as in :func:`.sweep.sweep`, of the final runs.

    Raises:
        UserError: a mistake in what was asked for, or no model with anything to search.
    """
    board, results, budget = board or Board(), Path(results), Budget(trials, epochs, pruner, sampler_seed)
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise UserError(f"jobs {jobs!r}: must be a whole number, at least 1")
    if not alone():
        raise UserError("search: one process leads it; start it without accelerate launch")
    check_writable(results, "results")
    searches = _planned(model, task, budget, seed, (space, preset), results, board.say, asked)
    device = None if asked.get("device") == "auto" else asked.get("device")
    try:
        for one in searches:
            one.do(jobs, device, board)
        _run_finals(searches, results, Pool(Worker(results, device), jobs, board), board, tell)
    except (KeyboardInterrupt, SystemExit):
        trials_left = sum(one.waiting for one in searches)
        runs_left = sum(sum(recorded(run, results) is None for run in one.final_runs()) for one in searches if not one.waiting)
        runs_left += sum(len(one.seeds) for one in searches if one.waiting)
        board.say(f"stopped: {trials_left} trials and {runs_left} final runs remain; the same line goes on with them")
        raise
    return searches


def _planned(
    model: str | Sequence[str],
    task: str | Sequence[str] | None,
    budget: Budget,
    seed: int | Sequence[int],
    space: tuple[str | Path | Mapping[str, Any] | None, str | None],
    results: Path,
    say: Callable[[str], None],
    asked: Mapping[str, Any],
) -> list[Search]:
    """The searches that are asked for, task by task. Models with nothing to search are said and left out."""
    own, seeds = budget.trial_seed, list(seed) if isinstance(seed, Iterable) else [seed]
    if own in seeds:
        raise UserError(f"seed {own}: is what the trials are trained with; give others for the final runs")
    planned = plan(model, task, seed=[own, *seeds], **asked)
    seeds = list(dict.fromkeys(run.seed for run in planned if run.seed != own))
    if not seeds:
        raise UserError("seed: give at least one for the final runs")
    runs, skipped = [], dict[str, str]()
    for run in planned:
        recipe = run.published().override(**run.recipe)
        if recipe.tune not in TRAINED:
            skipped[run.name] = recipe.tune
        elif run.seed == own:
            limit = run.recipe.get("epochs", Recipe.epochs) if budget.epochs is None else budget.epochs
            recipe.override(epochs=limit)  # refuses what is out of range
            runs.append(replace(run, part="validation", recipe={**run.recipe, "epochs": limit}))
    for name, tune in skipped.items():
        text = f"{name}: tuned by {tune!r}, which has no settings to search"
        if not runs:
            raise UserError(f"{text}; give a model that is trained, or --tune full")
        say(f"{text}; it is left out")
    wanted = asked_space(*space, [run.name for run in runs])
    _check_used(wanted, runs)
    fixed = [item.name for item in fields(Recipe) if asked.get(item.name) is not None]
    spaces = [wanted.of(run.name, run.published().override(**run.recipe), fixed) for run in runs]
    return [Search(run, own, budget, seeds, results) for run, own in zip(runs, spaces, strict=True)]


def _check_used(wanted: Asked, runs: Sequence[Run]) -> None:
    """Refuse a space with a setting that counts for no model."""
    recipes = {run.name: run.published().override(**run.recipe) for run in runs}
    used = {name for recipe in recipes.values() for name in recipe.used()}
    named = itertools.chain(wanted.common or (), *(own for model, own in wanted.own.items() if model in recipes))
    if odd := [name for name in named if name not in used]:
        first, recipe = next(iter(recipes.items()))
        raise UserError(f"space: {odd[0]}: not used by {first}, which is tuned by {recipe.tune!r}; leave it out")


def _run_finals(
    searches: Sequence[Search], results: Path, engine: Engine, board: Board, tell: Callable[[Sweep, int], None]
) -> None:
    """Run what each search has chosen, and put the records into it."""
    runs = [(one, run) for one in searches for run in one.final_runs()]
    if not runs:
        return
    seeds = ", ".join(map(str, searches[0].seeds))
    board.say(f"{len(runs)} final runs, which alone score the test split; no trial was trained with their seeds {seeds}")
    found = sweep([run for _, run in runs], results, engine, retry=True, board=board, tell=tell)
    for (one, run), record in zip(runs, found.records, strict=True):
        assert record is not None
        one.records.append(_credited(record, run, results))


def _credited(record: RunRecord, run: Run, results: Path) -> RunRecord:
    """The record; if a shorter form of the same search made it, it now says what the search has cost in all."""
    earlier, now = record.model.get("search"), run.search or {}
    if not record.finished or not earlier or earlier["id"] != now["id"] or earlier["trials"] >= now["trials"]:
        return record
    record = replace(record, model={**record.model, "search": now})
    folder = results / record.folder
    records.write(record, records.read_predictions(folder), results, partial(copy_kept, folder))
    return record
