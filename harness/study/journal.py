"""Journal: the trials of a search in Optuna's journal file, and what Optuna makes of them. Nothing else here knows Optuna."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import BadData
from harness.files.fingerprint import digest

from .space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

RUNNING, FINISHED, PRUNED, FAILED = "running", "finished", "pruned", "failed"
STARTUP = 5  # trials that are drawn at random, the published setting included
MIN_IMPORTANCE = 8  # finished trials before it is said which settings matter


@dataclass(frozen=True)
class Tried:
    """A trial: ``lowest`` is the lowest validation loss so far, after each epoch that was run."""

    number: int
    settings: Mapping[str, Any]
    stop_above: Sequence[float] = ()
    state: str = RUNNING
    lowest: Sequence[float] = ()
    seconds: float = 0.0
    error: str | None = None

    @property
    def epochs(self) -> int:
        """How many were run."""
        return len(self.lowest)

    @property
    def value(self) -> float | None:
        """The lowest validation loss; None if no epoch ended."""
        return self.lowest[-1] if self.lowest else None

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state != RUNNING


@dataclass
class Journal:
    """The trials of one search, whose driver is the only process that writes here.

    Each operation is one line, so that a kill loses the last one at most.

    Raises:
        BadData: the file is damaged.
    """

    path: Path
    space: Space
    _storage: Any = field(init=False)
    _study: Any = field(init=False)

    def __post_init__(self) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        _mend(self.path)
        with _quiet():
            try:
                self._storage = JournalStorage(JournalFileBackend(str(self.path), _NoLock()))  # type: ignore[arg-type]
                study = optuna.create_study(storage=self._storage, study_name="search", load_if_exists=True)
                self._study = self._storage.get_study_id_from_name(study.study_name)
                self.trials()
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                raise BadData(f"{self.path}: damaged ({error}); delete its folder, and search again") from None

    def trials(self) -> list[Tried]:
        """All trials, by number."""
        return [_tried(trial) for trial in self._frozen()]

    def add(self, settings: Mapping[str, Any], stop_above: Sequence[float]) -> Tried:
        """Write down a trial that begins. Optuna does not learn from settings outside the space."""
        from optuna.trial import TrialState, create_trial

        inside = settings in self.space
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(settings) if inside else {},
            distributions=self.space.distributions() if inside else {},
            user_attrs={"settings": dict(settings), "stop_above": list(stop_above)},
        )
        self._storage.create_new_trial(self._study, template_trial=trial)
        return self.trials()[-1]

    def tell(self, number: int, state: str, lowest: Sequence[float], seconds: float, error: str | None) -> None:
        """Write down how a trial ended."""
        from optuna.trial import TrialState

        trial = self._storage.get_trial_id_from_study_id_trial_number(self._study, number)
        for epoch, value in enumerate(lowest, start=1):
            self._storage.set_trial_intermediate_value(trial, epoch, value)
        self._storage.set_trial_user_attr(trial, "seconds", seconds)
        if error:
            self._storage.set_trial_user_attr(trial, "error", error)
        ended = {FINISHED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}[state]
        self._storage.set_trial_state_values(trial, ended, None if state == FAILED else [lowest[-1]])

    def propose(self, seed: int) -> dict[str, Any]:
        """The next settings, by TPE (Bergstra et al. 2011). The same seed after the same trials gives the same.

        In a space of choices only, nothing is proposed twice.
        """
        from optuna.samplers import TPESampler

        own = int(digest([seed, len(self.trials())])[:8], 16)
        with _quiet():
            study = self._in_memory(TPESampler(n_startup_trials=STARTUP, constant_liar=True, seed=own))
            settings = self.space.rounded(study.ask(self.space.distributions()).params)
        tried = [trial.settings for trial in self.trials()]
        if settings in tried and self.space.size < float("inf"):
            left = [combination for combination in self.space.combinations() if combination not in tried]
            settings = random.Random(own).choice(left)
        return settings

    def importance(self, trials: int) -> dict[str, float] | None:
        """Each setting's share of the variance of the first trials' values (fANOVA, Hutter et al. 2014); None if too few."""
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        with _quiet():
            study = self._in_memory(None, finished=trials)
            if len(study.trials) < MIN_IMPORTANCE or len({trial.value for trial in study.trials}) < 2:
                return None
            found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
        return {name: float(found.get(name, 0.0)) for name in self.space.settings}

    def _frozen(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study)

    def _in_memory(self, sampler: BaseSampler | None, finished: int | None = None) -> Study:
        """A copy to ask, so that asking writes nothing down, of the trials inside the space, or the ``finished`` of the first."""
        import optuna
        from optuna.trial import TrialState

        study = optuna.create_study(sampler=sampler)
        for trial in self._frozen()[:finished]:
            if trial.params and (finished is None or trial.state == TrialState.COMPLETE):
                study.add_trial(trial)
        return study


def _tried(trial: FrozenTrial) -> Tried:
    state = {"RUNNING": RUNNING, "COMPLETE": FINISHED, "PRUNED": PRUNED, "FAIL": FAILED}[trial.state.name]
    own = trial.user_attrs
    lowest = [value for _, value in sorted(trial.intermediate_values.items())] if state != RUNNING else []
    settings = dict(own["settings"])
    return Tried(trial.number, settings, own["stop_above"], state, lowest, own.get("seconds", 0.0), own.get("error"))


def _mend(path: Path) -> None:
    """Remove the half of a line that a process has left which was killed while it wrote."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


class _NoLock:
    """In place of Optuna's lock, which a killed process leaves behind: there is one driver."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's own news, and its remarks on what is experimental."""
    import optuna
    from optuna.exceptions import ExperimentalWarning

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
