"""plan(): everything that is asked for, checked before anything starts, as plain values that any machine can execute.

Planning imports no torch and builds no model, as a rule: what it needs to know of models stands in their files' syntax
trees, and what it has to compute (checksums, the device at hand) is remembered in the cache folder.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import harness
from harness import registry
from harness.engine import hardware
from harness.engine.build import ModelRequest, request
from harness.errors import UserError
from harness.evidence.records import data_digest
from harness.files.code import code_digest
from harness.files.fingerprint import digest, file_states, plain, remembered
from harness.recipe import Recipe, preset
from harness.task import Reading, Reference, Splits, Task

from .asked import VARIANTS, absolute, as_reading, as_reference, available, named_tasks, reading_of, words_of

# What fits, asks and scores. Their changes are every run's; those of a model or a task are its own runs' (see _code).
NUMERIC = (
    "engine/bases.py",
    "engine/batches.py",
    "engine/build.py",
    "engine/classifier.py",
    "engine/fit.py",
    "engine/keep.py",
    "engine/kinds.py",
    "engine/predict.py",
    "engine/probe.py",
    "engine/resume.py",
    "evidence/classification.py",
    "evidence/intervals.py",
    "evidence/metrics.py",
    "evidence/multilabel.py",
    "evidence/regression.py",
    "evidence/sensitivity.py",
    "study/trial.py",
)


@dataclass(frozen=True)
class Run:
    """One (model, task, seed), as asked for and checked. JSON values only: ``Run.from_json(run.to_json())`` equals it.

    ``model`` and ``task`` are names or paths, as on the command line; ``recipe`` holds what differs from the model's
    published one for the task's ``family``; ``checkpoint``, ``size``, ``options`` and ``allow_partial`` are those of
    :class:`ModelRequest`.
    ``reference`` is the reference data of tasks made of loci, or None. ``sample``: the task's simulated stand-in is meant.
    ``device`` is a type (``cpu``, ``cuda``, ``mps``), and ``precision`` is resolved (``float32``, ``bf16``).

    ``data``, ``weights``, ``origin`` and ``code`` are the sha256 of the task's content, of the checkpoint's files (None
    without one), of all that makes the untrained model, and of the code that can change a number. ``label`` and ``name``
    are what the record's folder calls task and model; ``own_name`` is the user's for a task made of files,
    ``reading`` how these are read (see :class:`harness.task.Reading`), or None, and ``family`` the task's, which may have
    published settings of its own. ``part`` is what is scored: ``test``, or ``validation`` alone in a trial of a search.
    ``stop_above`` ends a trial's training after an epoch if its lowest validation loss so far is above the epoch's number.
    ``search`` says which search found the settings, and what it cost; None for a run that is not the outcome of one.
    ``keep``: all weights that it trains are kept, however large. ``reuse_head``: the head, too, starts from the run that
    ``checkpoint`` names.
    """

    model: str
    task: list[str]
    split: str
    seed: int
    recipe: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    size: str = "base"
    options: dict[str, Any] = field(default_factory=dict)
    allow_partial: bool = False
    reference: dict[str, Any] | None = None
    sample: bool = False
    device: str = "cpu"
    precision: str = "float32"
    data: str = ""
    weights: str | None = None
    origin: str = ""
    code: str = ""
    label: str = ""
    name: str = ""
    own_name: str | None = None
    reading: dict[str, Any] | None = None
    family: str = ""
    part: str = "test"
    stop_above: list[float] = field(default_factory=list)
    search: dict[str, Any] | None = None
    keep: bool = False
    reuse_head: bool = False

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, plain(getattr(self, item.name)))

    @property
    def id(self) -> str:
        """``seed0-`` and ten hex digits of everything that determines a result; equal runs have equal ids.

        Paths do not count: the content of what they name does.
        """
        recipe = self.published().override(**self.recipe).used() | {"precision": self.precision}
        name = registry.model_facts(self.model).name  # a generic model's own name may hold that of a folder
        key = [name, self.origin, self.label, self.split, self.data, recipe, self.seed, self.code, self.device]
        key += [self.part, self.stop_above] if self.part != "test" else []
        key += ["head"] if self.reuse_head else []
        return f"seed{self.seed}-{digest(key)[:10]}"

    def published(self) -> Recipe:
        """The model's published settings for this family of tasks."""
        return registry.model_facts(self.model).recipe_for(self.family)

    def to_json(self) -> dict[str, Any]:
        """The run as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Run:
        """The run that :meth:`to_json` wrote.

        Raises:
            UserError: it is none, or one of another version.
        """
        known = {item.name for item in fields(cls)}
        if not {"model", "task", "split", "seed"} <= set(content) <= known:
            odd = sorted(set(content) ^ known)
            raise UserError(f"run: {', '.join(odd)[:200]} missing or unknown; plan it again with this version")
        return cls(**content)

    def model_request(self) -> ModelRequest:
        """What :mod:`harness.engine.build` makes the model from."""
        return ModelRequest(self.model, self.checkpoint, self.size, self.options, self.allow_partial)


def plan(
    model: str | Sequence[str],
    task: str | Sequence[str] | None = None,
    *,
    train: str | Path | Sequence[str | Path] | None = None,
    validation: str | Path | Sequence[str | Path] | None = None,
    test: str | Path | Sequence[str | Path] | None = None,
    sequence_column: str | int = "",
    label_column: str | int | Sequence[str | int] = (),
    positive: str | int = "",
    kind: str = "",
    seed: int | Sequence[int] = 0,
    split: str | None = None,
    genome: str | Path | None = None,
    msa: str | Path | None = None,
    species: str = "",
    context: int | None = None,
    checkpoint: str | None = None,
    init: str | None = None,
    option: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    sample: bool = True,
    name: str | None = None,
    device: str = "auto",
    elsewhere: bool = False,
    recipe: str | None = None,
    keep: bool = False,
    reuse_head: bool = False,
    **settings: Any,
) -> list[Run]:
    """Every model on every task with every seed, checked before anything starts; task by task.

    ``model`` is one name or several, ``floors``, or the path of an adapter file; ``task`` one name or several, a family, or
    the paths of the user's own files, which together make one task; or ``train``, ``validation`` and ``test`` are its parts. The
    other arguments are the options of `harness run`; ``recipe`` names a preset for all models, and ``settings`` override it or
    the models' own (``epochs=5``). A setting that does not count for a model, such as a probe's learning rate, is left out of its
    runs. ``elsewhere``: they will be done on other machines, which may have a GPU where this one has none. Without ``sample``,
    a task whose data is not here is refused, rather than replaced by its simulated stand-in.

    Raises:
        UserError: a mistake in what was asked for.
    """
    models_asked = dict.fromkeys(known for word in words_of("model", model) for known in registry.model_names(word))
    option = dict(option or {})
    theirs = {name for known in models_asked for name in registry.model_facts(known).options}
    source, negatives = ("" if name in theirs else option.pop(name, "") for name in ("source", "negatives"))
    reference = as_reference(genome, msa, species, context, source, negatives)
    parts = {"train": train, "validation": validation, "test": test}
    tasks_asked, reading = as_reading(task, parts, sequence_column, label_column, positive, kind)
    asked = [available(found, words, split, sample) for found, words in named_tasks(tasks_asked, reference, name, reading)]
    asked = list({tuple(words): (found, words) for found, words in asked}.values())
    seeds = _seeds(seed)
    given = {name: value for name, value in settings.items() if value is not None}
    asked_for = {**(preset(recipe) if recipe else {}), **given}
    models: list[tuple[registry.ModelFacts, ModelRequest]] = []
    for known in models_asked:
        wanted = request(absolute(known), checkpoint=checkpoint, init=init, options=option, allow_partial=allow_partial)
        models.append((registry.model_facts(known), wanted))
    families = dict.fromkeys(found.family for found, _ in asked)
    recipes = {
        (wanted.model, family): facts.recipe_for(family).override(**asked_for) for facts, wanted in models for family in families
    }
    for setting in given:
        if not any(setting in tuned.used() for tuned in recipes.values()):
            first, tuned = models[0][0].name, next(iter(recipes.values()))
            raise UserError(f"{setting.replace('_', '-')}: not used by {first}, which is tuned by {tuned.tune!r}; leave it out")
    resolved = {
        precision: hardware.resolve(device, precision, elsewhere) for precision in {one.precision for one in recipes.values()}
    }
    runs = []
    for found, words in asked:
        rule = split or found.split_rules[0]
        content = _content(found, words, rule, reference, reading)
        for _, wanted in models:
            tuned = recipes[wanted.model, found.family]
            device_type, precision = resolved[tuned.precision]
            one = Run(
                model=wanted.model,
                task=words,
                split=rule,
                seed=0,
                recipe={name: value for name, value in asked_for.items() if name in tuned.used()},
                checkpoint=wanted.checkpoint,
                size=wanted.size,
                options=dict(wanted.options),
                allow_partial=wanted.allow_partial,
                reference=reference and asdict(reference),
                device=device_type,
                precision=precision,
                sample=found.simulated,
                data=content,
                label=found.label,
                name=wanted.name,
                own_name=name,
                reading=reading and asdict(reading),
                family=found.family,
                keep=keep,
                reuse_head=reuse_head,
            )
            runs += [replace(sealed(one, found), seed=number) for number in seeds]
    return runs


def sealed(run: Run, task: Task) -> Run:
    """The run with the checksums of its weights, of all that makes the model, and of the code, as they are now."""
    request = run.model_request()
    return replace(run, weights=request.fingerprint(), origin=request.identity(), code=_code(run.model, task))


def check_unchanged(run: Run, task: Task, splits: Splits) -> None:
    """Refuse a run whose data, weights or code are not those that were planned: its id would stand for other numbers.

    Raises:
        UserError: something has changed, or the plan was made by another version.
    """
    now = sealed(run, task)
    for what, planned, found in (
        ("data", run.data, data_digest(splits.files)),
        ("weights", run.weights, now.weights),
        ("model's options or files", run.origin, now.origin),
        ("code", run.code, now.code),
    ):
        if planned != found:
            raise UserError(f"{run.name} on {run.label}: the {what} changed since the run was planned; plan it again")


def open_task(run: Run) -> tuple[Task, Splits]:
    """The task of a planned run, and its examples."""
    task, reference, reading = _task_of(run)
    return task, _load(task, run.task, run.split, reference, reading)


def task_of(run: Run) -> Task:
    """The task of a planned run, whose files are not read."""
    return _task_of(run)[0]


def _task_of(run: Run) -> tuple[Task, Reference | None, Reading | None]:
    given = run.reference or {}
    reference = (
        as_reference(*(given.get(name, "") for name in ("genome", "alignment", "species", "context", "source", "negatives")))
        if given
        else None
    )
    reading = reading_of(run.reading)
    (task,) = (item for item, _ in named_tasks(run.task, reference, run.own_name, reading))
    if run.sample:
        assert task.sample is not None
        task = task.sample
    return task, reference, reading


def _load(task: Task, words: Sequence[str], rule: str, reference: Reference | None, reading: Reading | None) -> Splits:
    """The task's examples. Those of the last task are kept, since its runs follow each other, until a file of it changes."""
    inputs = [] if task.inputs is None else task.inputs()
    asked = [task.label, list(words), rule, reference and asdict(reference), reading and asdict(reading)]
    key = digest([asked, file_states([*inputs, *(Path(word.removeprefix(VARIANTS)) for word in words)])])
    if key not in _kept:
        splits = task.load(rule)
        _kept.clear()
        _kept[key] = splits
    return _kept[key]


_kept: dict[str, Splits] = {}


def _content(task: Task, words: Sequence[str], rule: str, reference: Reference | None, reading: Reading | None) -> str:
    """sha256 of what the task reads; where its files are known, read again only when they have changed."""

    def compute() -> str:
        return data_digest(_load(task, words, rule, reference, reading).files)

    if task.inputs is None:
        return compute()
    parameters = [task.label, words, rule, reference and asdict(reference), reading and asdict(reading), _task_code(task)]
    return remembered("task content", task.inputs(), parameters, compute)


def _code(model: str, task: Task) -> str:
    """sha256 of the code that can change a number of this run: the engine's, and what model and task are made of."""
    return digest([_numeric_code(), code_digest(registry.model_file(model)), _task_code(task)])


def model_code(model: str) -> str:
    """sha256 of the code that a trained model's answers depend on: the engine's and the model's."""
    return digest([_numeric_code(), code_digest(registry.model_file(model))])


@cache
def _numeric_code() -> str:
    return code_digest(*(Path(harness.__path__[0], file) for file in NUMERIC), follow=False)


def _task_code(task: Task) -> str:
    """sha256 of the code that makes the task and loads it."""
    function: Any = task.load
    while isinstance(function, partial):
        function = function.func
    loader = Path(str(inspect.getsourcefile(function if hasattr(function, "__code__") else type(function))))
    maker = registry.task_file(task.name)
    return code_digest(loader, *([maker] if maker is not None else []))


def _seeds(seed: Any) -> list[int]:
    numbers: list[Any] = [seed] if isinstance(seed, str) or not hasattr(seed, "__iter__") else list(seed)
    found = []
    for number in numbers:
        try:
            whole = -1 if isinstance(number, bool) else operator.index(number)
        except TypeError:
            whole = -1
        if not 0 <= whole < 2**32:
            raise UserError(f"seed {number!r}: must be a whole number from 0 to {2**32 - 1}")
        found.append(whole)
    if not found:
        raise UserError("seed: give at least one")
    return list(dict.fromkeys(found))
