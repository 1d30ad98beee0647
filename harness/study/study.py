"""A study: models × tasks × seeds under one budget, as a value, as a file that can be committed, and as planned runs."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import registry
from harness.errors import BadData, UserError
from harness.facts import ModelFacts
from harness.files.atomic import atomic
from harness.recipe import TRAINED, Recipe, used_settings

from .asked import seeds_of, words_of
from .plan import Run, plan

# What a table of each kind may hold, as arguments of plan(); in the file, a model's and a task's name is ``name``.
OF_MODEL = ("model", "checkpoint", "init", "option", "allow_partial", "keep", "reuse_head", "recipe")
OF_TASK = (
    *("task", "train", "validation", "test", "sequence_column", "label_column", "positive", "kind"),
    *("split", "genome", "msa", "species", "context", "sample", "name"),
)
BUDGET = ("max_epochs", "max_hours")
OF_SEARCH = ("trials", "epochs", "space", "preset", "pruner", "sampler_seed")
PATHS = ("space", "checkpoint", "genome", "msa", "train", "validation", "test", "task", "model", "species")
_SPELT = {"model": "name", "task": "name", "name": "called", "option": "options"}  # in the file


@dataclass(frozen=True)
class Study:
    """What is to be compared. ``models`` and ``tasks`` are arguments of :func:`plan`, a mapping for each group of them.

    ``settings`` and ``preset`` are for all models, and so is the budget: ``max_epochs`` is the most that any recipe may have
    (fewer stay), ``max_hours`` ends the training of a run. ``search`` has arguments of :func:`.search.search` (trials, epochs,
    space, preset, pruner, sampler_seed) if the settings of every model that is trained are to be searched first.
    """

    models: Sequence[Mapping[str, Any]]
    tasks: Sequence[Mapping[str, Any]]
    seeds: Sequence[int] = (0,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    max_epochs: int | None = None
    max_hours: float | None = None
    device: str = "auto"
    search: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def asked(cls, words: Mapping[str, Any], max_epochs: int | None = None) -> Study:
        """The study of one command line; ``words`` are arguments of :func:`plan`."""
        usual = {"sample": True, "allow_partial": False, "keep": False, "reuse_head": False}
        given = {name: value for name, value in words.items() if value not in (None, (), {}, "") and usual.get(name) != value}
        model, task = _taken(given, OF_MODEL[:-1]), _taken(given, OF_TASK)
        seed, preset, device = given.pop("seed", 0), given.pop("recipe", None), given.pop("device", "auto")
        seeds = [seed] if isinstance(seed, int) else list(seed)
        return cls([model], [task], seeds, given, preset, max_epochs, given.pop("max_hours", None), device)

    @classmethod
    def read(cls, path: Path) -> Study:
        """The study in a TOML file; relative paths in it begin at its folder.

        Raises:
            BadData: it is no TOML, or holds what no study has; it is named.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BadData(f"study {path}: cannot be read ({error})") from None
        try:
            return _from_file(content, path.parent)
        except (ValueError, TypeError) as error:
            raise BadData(f"study {path}: {error}") from None

    def write(self, path: Path) -> None:
        """Write the study as TOML; paths below the file's folder become relative to it.

        Raises:
            UserError: the file cannot be written.
        """
        import tomli_w

        folder = path.absolute().parent
        budget = {"max_epochs": self.max_epochs, "max_hours": self.max_hours}
        tables = {
            "models": _names(self.models, "model"),
            "tasks": _names(self.tasks, "task"),
            "seeds": _range(self.seeds),
            "device": self.device,
            "preset": self.preset,
            "budget": {name: value for name, value in budget.items() if value is not None},
            "recipe": dict(self.settings),
            "search": dict(self.search),
            "model": [_spelt(model, folder) for model in self.models if not _plain_names(model, "model")],
            "task": [_spelt(task, folder) for task in self.tasks if not _plain_names(task, "task")],
        }
        kept = {name: value for name, value in tables.items() if value not in (None, {}, [], "auto")}
        try:
            with atomic(path) as temporary:
                temporary.write_text(tomli_w.dumps(_plain(kept)), encoding="utf-8")
        except OSError as error:
            raise UserError(f"write {path}: cannot be written ({error.strerror or error}); choose another file") from None

    def plan(self, elsewhere: bool = False) -> list[Run]:
        """The runs, task by task, checked before anything starts; ``elsewhere`` as in :func:`.plan.plan`.

        Raises:
            UserError: a mistake in what was asked for.
        """
        self._check_settings()
        runs: list[Run] = []
        for task in self.tasks:
            of_task = [run for model in self.models for run in self._plan(model, task, elsewhere)]
            places = {key: place for place, key in enumerate(dict.fromkeys((run.label, run.split) for run in of_task))}
            runs += sorted(of_task, key=lambda run: places[run.label, run.split])
        return list({(run.label, run.name, run.id): run for run in runs}.values())

    def searches(self) -> list[dict[str, Any]]:
        """The arguments of :func:`.search.search` for each group of tasks and trained models; none without a search.

        Raises:
            UserError: a space that cannot be searched, or a budget that is out of range or above that of the study.
        """
        if not self.search:
            return []
        from .searched import Budget
        from .space import asked_space

        epochs = Budget(**{name: value for name, value in self.search.items() if name not in ("space", "preset")}).epochs
        if epochs is not None:
            Recipe().override(epochs=epochs)  # refuses what is out of range
        if self.max_epochs is not None and epochs is not None and epochs > self.max_epochs:
            raise UserError(f"search epochs {epochs}: above max_epochs {self.max_epochs}, the budget of all; lower one of them")
        own: dict[str, Any] = {"epochs": self.max_epochs} if self.max_epochs else {}
        space = self.search.get("space")
        own |= dict(self.search) | ({"space": {"space": space}} if isinstance(space, Mapping) and "space" not in space else {})
        names = [facts.name for model in self.models for facts in _facts(model["model"])]
        asked_space(own.get("space"), own.get("preset"), names)  # refuses what cannot be searched
        found = []
        for task in self.tasks:
            for words in map(self._words, self.models):
                tunes = {words.get("tune", facts.recipe.tune) for facts in _facts(words["model"])}
                found += [{**words, **task, **own}] if tunes & set(TRAINED) else []
        return found

    def unsearched(self, elsewhere: bool = False) -> list[Run]:
        """The runs of :meth:`plan` that no search is for: all, or those of models that are not trained."""
        runs = self.plan(elsewhere)
        return [run for run in runs if run.published().override(**run.recipe).tune not in TRAINED] if self.search else runs

    def _words(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of plan() for a group of models, but for what is read."""
        own = dict(model)
        settings = {**self._shared(model), **own.pop("recipe", {})}
        Recipe().override(**settings)
        if self.max_hours is not None and "max_hours" in settings:  # a model's own may be fewer
            settings["max_hours"] = min(settings["max_hours"] or self.max_hours, self.max_hours)
        return own | {"seed": list(self.seeds), "recipe": self.preset, "device": self.device} | settings

    def _plan(self, model: Mapping[str, Any], task: Mapping[str, Any], elsewhere: bool) -> list[Run]:
        if self.max_epochs is not None and self.max_epochs < 1:
            raise UserError(f"max-epochs {self.max_epochs}: must be at least 1")
        return [self._capped(run) for run in plan(**self._words(model), **task, elsewhere=elsewhere)]

    def _check_settings(self) -> None:
        """Refuse a setting for all models that counts for none: :func:`plan` sees one group at a time."""
        Recipe().override(**self.settings)
        if len(self.models) > 1 and (odd := set(self.settings).difference(*map(self._shared, self.models))):
            name = min(odd)
            raise UserError(f"{name.replace('_', '-')} {self.settings[name]}: not used by any of the models; leave it out")

    def _shared(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The settings and the hours for all models, without those that only other models of the study use."""
        shared = dict(self.settings) | ({} if self.max_hours is None else {"max_hours": self.max_hours})
        if len(self.models) == 1:
            return shared
        tune = {**self.settings, **model.get("recipe", {})}.get("tune")
        used = {name for facts in _facts(model["model"]) for name in used_settings(tune or facts.recipe.tune)}
        return {name: value for name, value in shared.items() if name in used}

    def _capped(self, run: Run) -> Run:
        recipe = run.published().override(**run.recipe)
        if self.max_epochs is None or "epochs" not in recipe.used() or recipe.epochs <= self.max_epochs:
            return run
        return replace(run, recipe={**run.recipe, "epochs": self.max_epochs})


def _facts(model: Any) -> list[ModelFacts]:
    """What is known of the models that words name."""
    return [registry.model_facts(known) for word in words_of("model", model) for known in registry.model_names(word)]


def _taken(given: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: given.pop(name) for name in names if name in given}


# --- the file ------------------------------------------------------------------------------------------------------------


def _from_file(content: dict[str, Any], folder: Path) -> Study:
    known = ("seeds", "device", "preset", "budget", "recipe", "search", "model", "task", "models", "tasks")
    _check(content, known, "it")
    budget, search = _table(content, "budget"), _table(content, "search")
    _check(budget, BUDGET, "[budget]")
    _check(search, OF_SEARCH, "[search]")
    groups = {}
    for what, names in (("model", OF_MODEL), ("task", OF_TASK)):
        plain = content.get(f"{what}s", [])
        if isinstance(plain, str) or not isinstance(plain, list) or not all(isinstance(one, str) for one in plain):
            raise ValueError(f"{what}s is {plain!r}: expected a list of names")
        tables = content.get(what, [])
        if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
            raise ValueError(f"{what}: expected [[{what}]] tables, one for each")
        groups[what] = [{what: [name]} for name in plain] + [_read(table, what, names) for table in tables]
        if not groups[what]:
            raise ValueError(f'it names no {what}: add {what}s = ["…"], or [[{what}]] tables')
    given = content.get("seeds", [0])
    return Study(
        [_located(model, folder) for model in groups["model"]],
        [_located(task, folder) for task in groups["task"]],
        seeds_of([str(word) for word in (given if isinstance(given, list) else [given])]),
        _table(content, "recipe"),
        content.get("preset"),
        _amount(budget, "max_epochs", int),
        _amount(budget, "max_hours", (int, float)),
        content.get("device", "auto"),
        _located(search, folder),
    )


def _read(table: dict[str, Any], what: str, names: Sequence[str]) -> dict[str, Any]:
    """A [[model]] or [[task]] table as arguments of plan()."""
    own = {_SPELT.get(name, name): name for name in names}
    _check(table, tuple(own), f"[[{what}]]")
    found = {own[name]: value for name, value in table.items()}
    if what == "model" and "model" not in found:
        raise ValueError("[[model]] lacks name")
    if what == "task" and not {"task", "test"} & found.keys():
        raise ValueError("[[task]] lacks name, or train and test")
    types: dict[str, Any] = {"option": dict, "recipe": dict, "context": int}
    types |= dict.fromkeys(("allow_partial", "sample", "keep", "reuse_head"), bool)
    types |= dict.fromkeys(("model", "task", "train", "validation", "test"), (str, list))
    types |= {"sequence_column": (str, int), "positive": (str, int), "label_column": (str, int, list)}
    for name, value in found.items():
        kind = types.get(name, str)
        listed = isinstance(value, list) and not all(isinstance(one, str) for one in value) and name != "label_column"
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or listed:
            raise ValueError(f"[[{what}]] {_SPELT.get(name, name)} is {value!r}: expected another type")
    return found


def _located(group: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths in a group that exist below the study's folder, made absolute."""

    def located(word: Any) -> Any:
        if isinstance(word, list):
            return [located(one) for one in word]
        prefix = "variants:" if isinstance(word, str) and word.startswith("variants:") else ""
        own = str(word).removeprefix(prefix)
        looks = prefix or "/" in own or Path(own).suffix
        return prefix + os.path.abspath(folder / own) if looks and (folder / own).exists() else word

    return {name: located(value) if name in PATHS else value for name, value in group.items()}


def _names(groups: Sequence[Mapping[str, Any]], what: str) -> list[str]:
    """The names of groups of which no more than that is said."""
    alone = [group[what] for group in groups if _plain_names(group, what)]
    return [name for names in alone for name in words_of(what, names)]


def _plain_names(group: Mapping[str, Any], what: str) -> bool:
    """Whether a group is names alone, without paths or anything else that needs a table."""
    return set(group) == {what} and not _paths(group[what])


def _paths(words: Any) -> bool:
    """Whether one of the words is a path."""
    return any(
        "/" in str(word) or Path(str(word)).exists() for word in ([words] if isinstance(words, str | Path) else words or [])
    )


def _range(seeds: Sequence[int]) -> str | list[int]:
    whole = list(range(seeds[0], seeds[-1] + 1)) == list(seeds)
    return f"{seeds[0]}..{seeds[-1]}" if whole and len(seeds) > 1 else list(seeds)


def _spelt(group: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A group as a table of the file."""

    def relative(word: Any) -> Any:
        if isinstance(word, list | tuple):
            return [relative(one) for one in word]
        prefix = "variants:" if str(word).startswith("variants:") else ""
        own = Path(str(word).removeprefix(prefix))
        if not (prefix or "/" in str(word) or own.suffix) or not own.exists():
            return word
        path = own.absolute()
        return prefix + str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    words = {name: words_of(name, value) if name in ("model", "task") else value for name, value in group.items()}
    return {_SPELT.get(name, name): relative(value) if name in PATHS else value for name, value in words.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) else str(value)


def _check(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    if odd := [name for name in table if name not in known]:
        near = difflib.get_close_matches(odd[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"{where} has {odd[0]!r}, which no study has; {hint}")


def _table(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise ValueError(f"{name} is {table!r}: expected a table, [{name}]")
    return table


def _amount(table: Mapping[str, Any], name: str, kind: Any) -> Any:
    value = table.get(name)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool) or value <= 0):
        raise ValueError(f"{name} is {value!r}: expected a number above 0")
    return value
