"""plan(): everything that is asked for, checked before anything starts, as plain values that any machine can execute.

Planning imports no torch and builds no model, as a rule: what it needs to know of models stands in their files' syntax
trees, and what it has to compute (checksums, the device at hand) is remembered in the cache folder.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import harness
from harness import registry
from harness.engine import hardware
from harness.engine.build import ModelRequest, request
from harness.errors import DataMissing, UserError
from harness.evidence.records import data_digest
from harness.files import sources
from harness.files.code import code_digest
from harness.files.fingerprint import digest, file_states, plain, remembered
from harness.recipe import Recipe, preset
from harness.task import Reference, Splits, Task

# What fits, asks and scores. Their changes are every run's; those of a model or a task are its own runs' (see _code).
NUMERIC = (
    "engine/build.py",
    "engine/classifier.py",
    "engine/fit.py",
    "engine/predict.py",
    "engine/probe.py",
    "evidence/intervals.py",
    "evidence/metrics.py",
    "evidence/sensitivity.py",
    "study/trial.py",
)


@dataclass(frozen=True)
class Run:
    """One (model, task, seed), as asked for and checked. JSON values only: ``Run.from_json(run.to_json())`` equals it.

    ``model`` and ``task`` are names or paths, as on the command line; ``recipe`` holds what differs from the model's
    published one; ``checkpoint``, ``size``, ``options`` and ``allow_partial`` are those of :class:`ModelRequest`.
    ``reference`` is the reference data of tasks made of loci, or None. ``sample``: the task's simulated stand-in is meant.
    ``device`` is a type (``cpu``, ``cuda``, ``mps``), and ``precision`` is resolved (``float32``, ``bf16``).

    ``data``, ``weights``, ``origin`` and ``code`` are the sha256 of the task's content, of the checkpoint's files (None
    without one), of all that makes the untrained model, and of the code that can change a number. ``label`` and ``name``
    are what the record's folder calls task and model.
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

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, plain(getattr(self, item.name)))

    @property
    def id(self) -> str:
        """``seed0-`` and ten hex digits of everything that determines a result; equal runs have equal ids.

        Paths do not count: the content of what they name does.
        """
        facts = registry.model_facts(self.model)
        recipe = facts.recipe.override(**self.recipe).used() | {"precision": self.precision}
        key = [self.name, self.origin, self.label, self.split, self.data, recipe, self.seed, self.code, self.device]
        return f"seed{self.seed}-{digest(key)[:10]}"

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
    task: str | Sequence[str],
    *,
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
    device: str = "auto",
    recipe: str | None = None,
    **settings: Any,
) -> list[Run]:
    """Every model on every task with every seed, checked before anything starts; task by task.

    ``model`` is one name or several, ``floors``, or the path of an adapter file; ``task`` one name or several, a family, or
    the paths of the user's own files, which together make one task. The other arguments are the options of `harness run`;
    ``recipe`` names a preset for all models, and ``settings`` override it or the models' own (``epochs=5``). A setting that
    does not count for a model, such as a probe's learning rate, is left out of its runs. Without ``sample``, a task whose
    data is not here is refused, rather than replaced by its simulated stand-in.

    Raises:
        UserError: a mistake in what was asked for.
    """
    reference = as_reference(genome, msa, species, context)
    asked = [_available(found, words, split, sample) for found, words in named_tasks(task, reference)]
    seeds = [seed] if isinstance(seed, int) else list(seed)
    if bad := [item for item in seeds if not 0 <= item < 2**32]:
        raise UserError(f"seed {bad[0]}: must be a whole number from 0 to {2**32 - 1}")
    words = [model] if isinstance(model, str) else model
    given = {name: value for name, value in settings.items() if value is not None}
    asked_for = {**(preset(recipe) if recipe else {}), **given}
    models: list[tuple[str, Recipe, ModelRequest]] = []
    for name in dict.fromkeys(name for word in words for name in registry.model_names(word)):
        facts = registry.model_facts(name)
        wanted = request(name, checkpoint=checkpoint, init=init, options=option, allow_partial=allow_partial)
        models.append((facts.name, facts.recipe.override(**asked_for), wanted))
    for setting in given:
        if not any(setting in tuned.used() for _, tuned, _ in models):
            name, tuned, _ = models[0]
            raise UserError(f"{setting.replace('_', '-')}: not used by {name}, which is tuned by {tuned.tune!r}; leave it out")
    resolved = {precision: hardware.resolve(device, precision) for precision in {tuned.precision for _, tuned, _ in models}}
    runs = []
    for found, words in asked:
        rule = split or found.split_rules[0]
        for name, tuned, wanted in models:
            kind, precision = resolved[tuned.precision]
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
                device=kind,
                precision=precision,
                sample=found.simulated,
                data=_content(found, words, rule, reference),
                weights=wanted.fingerprint(),
                origin=wanted.identity(),
                code=_code(wanted.model, found),
                label=found.label,
                name=name,
            )
            runs += [replace(one, seed=number) for number in seeds]
    return runs


def named_tasks(task: str | Sequence[str], reference: Reference | None) -> list[tuple[Task, list[str]]]:
    """The tasks that the words of ``--task`` name, each with the words that name it alone.

    ``variants:FILE`` is a file of variants; what looks like a path is a file of windows; else a task or a family.

    Raises:
        UserError: no such task, names and files together, or reference data for a task that reads none.
    """
    words = [task] if isinstance(task, str | Path) else list(task)
    words = [str(word) for word in words]
    if not words:
        raise UserError("task: give a name, a family or files")
    if any(map(_is_file, words)):
        if other := [word for word in words if not _is_file(word)]:
            raise UserError(f"task {other[0]!r} and files: give one or the other")
        found = [(registry.task_from_files([Path(word) for word in words]), words)]
    else:
        found = [(item, [word]) for word in words for item, word in _unbound(word)]
    if reference is None:
        return found
    for item, _ in found:
        if item.bind is None:
            raise UserError(f"{item.name} reads no genome and no alignment; leave --genome, --msa, --species and --context out")
    return [(item.bind(reference), words) for item, words in found if item.bind is not None]


def open_task(run: Run) -> tuple[Task, Splits]:
    """The task of a planned run, and its examples."""
    given = run.reference or {}
    reference = as_reference(given["genome"], given["alignment"], given["species"], given["context"]) if given else None
    (task,) = (item for item, _ in named_tasks(run.task, reference))
    if run.sample:
        assert task.sample is not None
        task = task.sample
    return task, _load(task, run.task, run.split, reference)


def _load(task: Task, words: Sequence[str], rule: str, reference: Reference | None) -> Splits:
    """The task's examples. Those of the last task are kept, since its runs follow each other, until a file of it changes."""
    inputs = [] if task.inputs is None else task.inputs()
    asked = [task.label, list(words), rule, reference and asdict(reference)]
    key = digest([asked, file_states([*inputs, *(Path(word.removeprefix("variants:")) for word in words)])])
    if key not in _kept:
        splits = task.load(rule)
        _kept.clear()
        _kept[key] = splits
    return _kept[key]


_kept: dict[str, Splits] = {}


def _content(task: Task, words: Sequence[str], rule: str, reference: Reference | None) -> str:
    """sha256 of what the task reads; where its files are known, read again only when they have changed."""

    def compute() -> str:
        return data_digest(_load(task, words, rule, reference).files)

    if task.inputs is None:
        return compute()
    parameters = [task.label, words, rule, reference and asdict(reference), _task_code(task)]
    return remembered("task content", task.inputs(), parameters, compute)


def _code(model: str, task: Task) -> str:
    """sha256 of the code that can change a number of this run: the engine's, and what model and task are made of."""
    return digest([_numeric_code(), code_digest(registry.model_file(model)), _task_code(task)])


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


def _is_file(word: str) -> bool:
    kind, _, path = word.partition(":")
    if kind == "variants" and path:
        return False
    return "/" in word or bool(Path(word).suffix) or Path(word).is_file()


def _unbound(word: str) -> list[tuple[Task, str]]:
    kind, _, path = word.partition(":")
    if kind == "variants" and path:
        return [(registry.task_from_variants(Path(path)), word)]
    return [(item, item.name) for item in registry.find_tasks(word)]


def _available(task: Task, words: list[str], split: str | None, sample: bool) -> tuple[Task, list[str]]:
    """The task itself where its data is here, else its simulated sample.

    Raises:
        DataMissing: there is no sample, or it is not wanted, or cannot be split as asked.
        UnknownName: the task has no such split rule.
    """
    if split is not None and split not in task.split_rules:
        raise registry.unknown(f"split of {task.label}", split, list(task.split_rules))
    absent = sources.missing(task.sources)
    if not absent:
        return task, words
    if task.sample is None or not sample or split is not None:
        raise DataMissing(
            f"{task.label}: {len(absent)} of {len(task.sources)} files are not in {sources.data_home()}; "
            f"`harness data get {task.name}` downloads them"
        )
    return task.sample, words


def as_reference(genome: str | Path | None, msa: str | Path | None, species: str, context: int | None) -> Reference | None:
    """The reference data that these options bring; None for none at all."""
    if genome is None and msa is None and not species and context is None:
        return None
    return Reference(
        None if genome is None else Path(genome),
        None if msa is None else Path(msa),
        species,
        Reference.context if context is None else context,
    )
