"""plan(): everything that is asked for, checked before anything starts, as plain values that any machine can execute.

Planning imports no torch and builds no model, as a rule: what it needs to know of models stands in their files' syntax
trees, and what it has to compute (checksums, the device at hand) is remembered in the cache folder.
"""

from __future__ import annotations

import inspect
import operator
import os
import re
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

VARIANTS = "variants:"

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
    are what the record's folder calls task and model; ``own_name`` is the user's for a task made of files.
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
    name: str | None = None,
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
    asked = [_available(found, words, split, sample) for found, words in named_tasks(task, reference, name)]
    asked = list({tuple(words): (found, words) for found, words in asked}.values())
    seeds = _seeds(seed)
    models_asked = dict.fromkeys(known for word in _words("model", model) for known in registry.model_names(word))
    given = {name: value for name, value in settings.items() if value is not None}
    asked_for = {**(preset(recipe) if recipe else {}), **given}
    models: list[tuple[str, Recipe, ModelRequest]] = []
    for known in models_asked:
        facts = registry.model_facts(known)
        wanted = request(_absolute(known), checkpoint=checkpoint, init=init, options=option, allow_partial=allow_partial)
        models.append((facts.name, facts.recipe.override(**asked_for), wanted))
    for setting in given:
        if not any(setting in tuned.used() for _, tuned, _ in models):
            first, tuned, _ = models[0]
            raise UserError(f"{setting.replace('_', '-')}: not used by {first}, which is tuned by {tuned.tune!r}; leave it out")
    resolved = {precision: hardware.resolve(device, precision) for precision in {tuned.precision for _, tuned, _ in models}}
    runs = []
    for found, words in asked:
        rule = split or found.split_rules[0]
        content = _content(found, words, rule, reference)
        for model_name, tuned, wanted in models:
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
                data=content,
                label=found.label,
                name=model_name,
                own_name=name,
            )
            runs += [replace(sealed(one, found), seed=number) for number in seeds]
    return runs


def named_tasks(
    task: str | Path | Sequence[str | Path], reference: Reference | None, name: str | None = None
) -> list[tuple[Task, list[str]]]:
    """The tasks that the words of ``--task`` name, each with the words that name it alone, paths made absolute.

    ``variants:FILE`` is a file of variants; what looks like a path is a file of windows; else a task or a family. Files make
    one task together, called ``name`` if that is given.

    Raises:
        UserError: no such task, names and files together, or reference data for a task that reads none.
    """
    words = _words("task", task)
    files = [word for word in words if _is_file(word)]
    if files and (other := [word for word in words if word not in files]):
        raise UserError(f"task {other[0]!r} and files: give one or the other")
    if len(files) > 1 and any(map(_is_table, files)):
        raise UserError(f"task {' '.join(files)[:200]}: one table is one task; run them one by one, or join the parts of one set")
    groups = [files] if files else [[word] for word in words]
    if name is not None and (len(groups) > 1 or not (files or groups[0][0].startswith(VARIANTS))):
        raise UserError(f"name {name!r}: only a task made of your own files can be named, and one at a time")
    found: list[tuple[Task, list[str]]] = []
    for group in groups:
        if files:
            found.append((registry.task_from_files([Path(word) for word in group], name), [_absolute(word) for word in group]))
        elif group[0].startswith(VARIANTS):
            path = Path(group[0].removeprefix(VARIANTS))
            found.append((registry.task_from_variants(path, name), [VARIANTS + str(path.absolute())]))
        else:
            found += [(item, [item.name]) for item in registry.find_tasks(group[0])]
    if reference is None:
        return found
    for item, _ in found:
        if item.bind is None:
            raise UserError(f"{item.name} reads no genome and no alignment; leave --genome, --msa, --species and --context out")
    return [(item.bind(reference), words) for item, words in found if item.bind is not None]


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
    given = run.reference or {}
    reference = as_reference(given["genome"], given["alignment"], given["species"], given["context"]) if given else None
    (task,) = (item for item, _ in named_tasks(run.task, reference, run.own_name))
    if run.sample:
        assert task.sample is not None
        task = task.sample
    return task, _load(task, run.task, run.split, reference)


def _load(task: Task, words: Sequence[str], rule: str, reference: Reference | None) -> Splits:
    """The task's examples. Those of the last task are kept, since its runs follow each other, until a file of it changes."""
    inputs = [] if task.inputs is None else task.inputs()
    asked = [task.label, list(words), rule, reference and asdict(reference)]
    key = digest([asked, file_states([*inputs, *(Path(word.removeprefix(VARIANTS)) for word in words)])])
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


def _words(what: str, given: str | Path | Sequence[str | Path]) -> list[str]:
    """Words given apart or with commas between them; the path of a file is one word, whatever is in it."""
    words = [given] if isinstance(given, str | Path) else list(given)
    split = [[str(word)] if isinstance(word, Path) or Path(word).exists() else str(word).split(",") for word in words]
    found = [part.strip() for parts in split for part in parts if part.strip()]
    if not found:
        raise UserError(f"{what}: give a name" + (", a family or files" if what == "task" else ", floors or a path"))
    return list(dict.fromkeys(found))


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


def _absolute(word: str) -> str:
    """A path made absolute, so that a plan means the same in every folder; a name as it is."""
    return str(Path(word).absolute()) if word.endswith(".py") or _is_file(word) else word


def _is_file(word: str) -> bool:
    return not word.startswith(VARIANTS) and ("/" in word or bool(Path(word).suffix) or Path(word).is_file())


def _is_table(word: str) -> bool:
    return re.search(r"\.(csv|tsv|tab|parquet|pq)(\.b?gz)?$", word, re.IGNORECASE) is not None


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
    if sources.presence(task.sources) == "some":
        raise DataMissing(
            f"{task.label}: only {len(task.sources) - len(absent)} of its {len(task.sources)} files are in "
            f"{sources.data_home()}, which is no whole set; `harness data get {task.name}` fetches the rest"
        )
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
        None if genome is None else Path(genome).absolute(),
        None if msa is None else Path(msa).absolute(),
        str(Path(species).absolute()) if os.path.isfile(species) else species,
        Reference.context if context is None else context,
    )
