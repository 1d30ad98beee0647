"""Search: the trials of one model on one task, in a folder of their own; what it knows, does and writes down."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, UserError
from harness.evidence.records import RunRecord, folder_name
from harness.files.atomic import atomic
from harness.files.fingerprint import digest
from harness.progress import Board, figure
from harness.recipe import Recipe

from .claims import holders, take
from .journal import FAILED, FINISHED, PRUNED, Journal, Tried
from .plan import Run, open_task
from .pool import Pool
from .pruning import PRUNERS
from .space import Space
from .work import POLL_SECONDS, Worker, name_of

SEARCH, SUMMARY, JOURNAL, DRIVER = "search", "search.json", "journal.log", ".driver"
TRIAL_SEED = 1_000_000
MAX_FAILURES = 3  # of the first trials, all of which fail, before no more are tried


@dataclass(frozen=True)
class Budget:
    """What every model of a search is given. ``epochs`` are those of each trial; None: 20, or those of the recipe's preset.

    Raises:
        UserError: a value out of range, named.
    """

    trials: int = 20
    epochs: int | None = None
    pruner: str = "median"
    sampler_seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (("trials", self.trials, 1), ("sampler-seed", self.sampler_seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"{name} {value!r}: must be a whole number, at least {least}")
        if self.pruner not in PRUNERS:
            raise UserError(f"pruner {self.pruner!r}: choose one of {', '.join(PRUNERS)}")

    @property
    def trial_seed(self) -> int:
        """What trials are trained with: no seed that anybody would give."""
        return TRIAL_SEED + self.sampler_seed


@dataclass
class Search:
    """The search of one model on one task, in a folder of its own.

    ``run`` is the baseline as a trial: the published setting, and what was given beside. ``seeds`` are those of the final runs.
    ``tried`` and ``importance`` are filled by :meth:`do`, ``records`` are those of the final runs.
    """

    run: Run
    space: Space
    budget: Budget
    seeds: Sequence[int]
    results: Path
    objective: str = "log_loss"
    tried: list[Tried] = field(default_factory=list)
    importance: dict[str, float] | None = None
    records: list[RunRecord] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Ten hex digits of everything that determines the trials, but for how many there are."""
        key = [self.run.name, self.run.label, self.run.id, self.space.to_json(), self.budget.sampler_seed, self.budget.pruner]
        return digest(key)[:10]

    @property
    def folder(self) -> Path:
        """Where its files and the records of its trials lie: a results folder of its own."""
        return self.results / SEARCH / folder_name(self.run.label) / folder_name(self.run.name) / self.id

    @property
    def recipe(self) -> Recipe:
        """The baseline's settings."""
        return self.run.published().override(**self.run.recipe)

    @property
    def name(self) -> str:
        """Model and task."""
        return f"{self.run.name} on {self.run.label}"

    @property
    def baseline(self) -> Tried | None:
        """The first trial, which has the baseline's settings, once it has ended."""
        return self.tried[0] if self.tried and self.tried[0].over else None

    @property
    def chosen(self) -> Tried | None:
        """The finished trial with the lowest value; the earliest of several."""
        finished = [trial for trial in self.tried if trial.state == FINISHED]
        return min(finished, key=lambda trial: (trial.value, trial.number), default=None)

    @property
    def ended(self) -> bool:
        """Whether no more trials begin: there were enough, the first all failed, or every setting of the space was tried."""
        first = self.tried[:MAX_FAILURES]
        doomed = len(first) == MAX_FAILURES and all(trial.state == FAILED for trial in first)
        tried = sum(trial.settings in self.space for trial in self.tried)
        return doomed or len(self.tried) >= self.budget.trials or tried >= self.space.size

    @property
    def waiting(self) -> int:
        """How many trials have not ended."""
        return (len(self.tried) if self.ended else self.budget.trials) - self._done

    @property
    def _done(self) -> int:
        return sum(trial.over for trial in self.tried)

    @property
    def cost(self) -> dict[str, Any]:
        """What the record of a final run says of the search. ``epochs`` is what a trial was allowed, ``epochs_run`` the sum."""
        return {
            "id": self.id,
            "trials": self._done,
            "epochs": self.recipe.epochs,
            "epochs_run": sum(trial.epochs for trial in self.tried),
            "seconds": sum(trial.seconds for trial in self.tried),
            "objective": self.objective,
        }

    def do(self, jobs: int, device: str | None, board: Board) -> None:
        """Do the trials that are missing, ``jobs`` at once. Only one process does a search; others wait for it.

        Raises:
            HarnessError: its files cannot be read or written.
        """
        from harness.engine.kinds import kind_of

        self.objective = kind_of(open_task(self.run)[0].kind).measure
        board.say(self._announced())
        with _sole_driver(self.folder, self.run, board.say), _writing(self.folder):
            journal = Journal(self.folder / JOURNAL, self.space)
            self._look(journal)
            with Pool(Worker(self.folder, device, retry=False), jobs, board) as pool:
                for trial in self.tried:
                    if not trial.over:
                        pool.submit(trial.number, self._run_of(trial))
                self._ask(journal, pool, jobs)
                for number, record in pool.results():
                    if record is None:  # the process of a driver that was killed is still at it
                        time.sleep(POLL_SECONDS)
                        pool.submit(number, self._run_of(self.tried[number]))
                        continue
                    journal.tell(number, *_outcome(record, self.objective))
                    self._look(journal)
                    board.say(f"{self.name}: {self._told(self.tried[number])}")
                    self._ask(journal, pool, jobs)
            self.importance = journal.importance(self.budget.trials)
            self._write()

    def final_runs(self) -> list[Run]:
        """The chosen setting, as ordinary runs that score the test split; none where every trial failed."""
        if self.chosen is None:
            return []
        recipe = {**self.run.recipe, **self.chosen.settings}
        final = replace(self.run, part="test", recipe=recipe, search=self.cost)
        return [replace(final, seed=seed) for seed in self.seeds]

    def to_json(self) -> dict[str, Any]:
        """What search.json says."""
        baseline, chosen = self.baseline, self.chosen
        fixed = {name: value for name, value in self.run.recipe.items() if name not in self.space.settings}
        return {
            "id": self.id,
            "model": self.run.name,
            "task": self.run.label,
            "split": self.run.split,
            "simulated": self.run.sample,
            "objective": self.objective,
            "space": self.space.to_json(),
            "fixed": fixed,
            "budget": {"trials": self.budget.trials, "epochs": self.recipe.epochs, "pruner": self.budget.pruner},
            "seeds": {"sampler": self.budget.sampler_seed, "trials": self.run.seed, "final": list(self.seeds)},
            "cost": {name: self.cost[name] for name in ("trials", "epochs_run", "seconds")},
            "trials": [
                {
                    "number": trial.number,
                    "settings": dict(trial.settings),
                    "value": trial.value,
                    "epochs": trial.epochs,
                    "seconds": trial.seconds,
                    "state": trial.state,
                    "error": trial.error,
                    "run": self._run_of(trial).id,
                }
                for trial in self.tried
            ],
            "chosen": chosen and chosen.number,
            "importance": self.importance,
            "seconds": self.cost["seconds"],
            "baseline": baseline and {"settings": dict(baseline.settings), "value": baseline.value},
        }

    def _announced(self) -> str:
        given = {name: value for name, value in self.run.recipe.items() if name not in ("epochs", "tune")}
        epochs, published = self.recipe.epochs, self.run.published().epochs
        beside = (f", with {listed(given)}" if given else "") + ("" if published == epochs else ", but for the epochs")
        of = f"at most {epochs} epochs" + ("" if published == epochs else f" (published: {published})")
        lines = [
            f"{self.name}: a search of {self.budget.trials} trials of {of}, pruner {self.budget.pruner}; "
            f"all are trained with seed {self.run.seed}",
            f"trial 0 is the published setting{beside}, so that on validation the outcome is never worse than that",
            *(f"{name:<18}{values}" for name, values in self.space.settings.items()),
        ]
        return "\n  ".join(lines)

    def _told(self, trial: Tried) -> str:
        settings = listed(trial.settings)
        done = f"trial {trial.number} ({self._done} of {self.budget.trials})"
        if trial.state == FAILED or trial.value is None:
            return f"{done} failed: {next(iter(str(trial.error).splitlines()), '')} ({settings})"
        best = f", best so far {figure(self.chosen.value)}" if self.chosen and self.chosen.value is not None else ""
        ended = f"pruned after epoch {trial.epochs}" if trial.state == PRUNED else f"{trial.epochs} epochs"
        return f"{done}: {self.objective} {figure(trial.value)}, {ended}{best} ({settings})"

    def _run_of(self, trial: Tried) -> Run:
        return replace(self.run, recipe={**self.run.recipe, **trial.settings}, stop_above=list(trial.stop_above))

    def _ask(self, journal: Journal, pool: Pool, jobs: int) -> None:
        """Begin as many trials as there is room for."""
        while pool.under_way < jobs and not self.ended:
            number = len(self.tried)
            if number == 0:
                settings = {name: getattr(self.recipe, name) for name in self.space.settings}
            else:
                settings = journal.propose(self.budget.sampler_seed)
            trial = journal.add(settings, PRUNERS[self.budget.pruner](number, self.tried, self.recipe.epochs))
            self._look(journal)
            pool.submit(trial.number, self._run_of(trial))

    def _look(self, journal: Journal) -> None:
        """Take over what the journal says, of as many trials as were asked for, and write it down."""
        self.tried = journal.trials()[: self.budget.trials]
        self._write()

    def _write(self) -> None:
        with atomic(self.folder / SUMMARY) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def shown(value: Any) -> str:
    """A setting's value, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in settings.items())


def _outcome(record: RunRecord, objective: str) -> tuple[str, list[float], float, str | None]:
    """How a trial ended, the lowest loss after each epoch, its seconds, and why it failed."""
    losses = [entry[f"validation_{objective}"] for entry in record.history]
    lowest = list(itertools.accumulate(losses, min))
    pruned = any(event.startswith("pruned after epoch") for event in record.events)
    state = FAILED if not record.finished else PRUNED if pruned else FINISHED
    return state, lowest, float(record.seconds or 0.0), record.error


@contextmanager
def _sole_driver(folder: Path, run: Run, say: Callable[[str], None]) -> Iterator[None]:
    """While it lasts, no other process does this search."""
    told = False
    while (claim := take(folder / DRIVER, run)) is None:
        for holder in holders(folder / DRIVER) if not told else ():
            say(f"waiting for {run.name} on {run.label}, which {name_of(holder)} searches")
        told = True
        time.sleep(POLL_SECONDS)
    with claim:
        yield


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HarnessError(f"{folder}: cannot be read or written ({error.strerror or error}); the same line goes on") from error
