"""Names to adapters and tasks, on demand. Listing imports no model.

``--model X`` is ``adapters/X.py``; ``--task X`` is any task of any file in ``tasks/``. The same names may come from an
installed package (entry points ``harness.adapters`` and ``harness.tasks``), and a model also from a path to a file.
``X:owner/name`` is a repository of the Hugging Face hub, read by the generic adapter ``X``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import harness
from harness.card import ModelCard
from harness.data import Label
from harness.errors import HarnessError, UnknownName, UserError
from harness.facts import ModelFacts, read_card, read_facts
from harness.task import Reading, Reference, Task

if TYPE_CHECKING:
    from harness.adapter import Adapter

FLOORS = "floors"
_REPOSITORY = re.compile(r"([A-Za-z]\w*):(\w[\w.-]*/\w[\w.-]*?)(?:@(\w[\w.-]*))?")


def _canonical(name: str) -> str:
    return name.lower().replace("-", "_")


def repository(name: str) -> tuple[str, str, str | None] | None:
    """(adapter, hub id, revision) of a model called ``ADAPTER:owner/name[@revision]``; None for any other name.

    Raises:
        UnknownName: it begins like one, but does not name a repository or a generic adapter.
    """
    adapter = _canonical(name.partition(":")[0])
    if ":" not in name or name.endswith(".py") or adapter not in model_files():
        return None
    if not (match := _REPOSITORY.fullmatch(name)) or ".." in name:
        raise UnknownName(f"model {name[:100]!r}: expected {adapter}:owner/name or {adapter}:owner/name@revision")
    if not read_card(model_files()[adapter]).generic:
        generic = [other for other, card in model_cards().items() if card.generic]
        raise UnknownName(f"model {name!r}: {adapter} does not read other models' repositories; {', '.join(generic)} does")
    return adapter, match[2], match[3]


def unknown(kind: str, name: str, known: list[str]) -> UnknownName:
    """An error that names what was asked for and the nearest names that exist."""
    by_key = {_canonical(candidate): candidate for candidate in known}
    near = [by_key[key] for key in difflib.get_close_matches(_canonical(name), by_key, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"
    missing = "".join(f"; not loaded: {fault}" for fault in faults())
    return UnknownName(f"unknown {kind} {name!r}: {hint}{missing}")


def _built_in(folder: str) -> dict[str, Path]:
    """Module name → file for the public modules of ``harness.<folder>``, sorted."""
    roots = [str(Path(root) / folder) for root in harness.__path__]
    return {
        module.name: Path(module.module_finder.path) / f"{module.name}.py"  # type: ignore[union-attr]
        for module in sorted(pkgutil.iter_modules(roots), key=lambda found: found.name)
        if not module.name.startswith("_") and not module.ispkg
    }


@cache
def _plugins(group: str) -> dict[str, EntryPoint]:
    return {_canonical(point.name): point for point in entry_points(group=group)}


def model_files() -> dict[str, Path]:
    """Model name → the file that holds its adapter: the project's own and those of installed packages."""
    files = _built_in("adapters")
    for name, point in _plugins("harness.adapters").items():
        spec = importlib.util.find_spec(point.module)
        if spec is not None and spec.origin is not None:
            files.setdefault(name, Path(spec.origin))
    return files


@cache
def model_cards() -> dict[str, ModelCard]:
    """Every model's name and card, sorted by name. A plug-in without a readable card is left out, see :func:`faults`."""
    cards, own = {}, _built_in("adapters")
    for name, file in sorted(model_files().items()):
        try:
            cards[name] = read_card(file)
        except (UserError, OSError) as error:
            if name in own:
                raise
            _faults[f"model {name}"] = str(error)
    return cards


def model_names(name: str) -> list[str]:
    """The models that ``--model name`` stands for: itself, or every floor for ``floors``.

    Raises:
        UnknownName: no such model.
    """
    if _canonical(name) == FLOORS:
        return [model for model, card in model_cards().items() if card.floor]
    if name.endswith(".py") or repository(name):
        return [name]
    if _canonical(name) not in model_files():
        raise unknown("model", name, [*model_files(), FLOORS])
    return [_canonical(name)]


def model_file(name: str) -> Path:
    """The file that holds the adapter of that name or path.

    Raises:
        UnknownName: no such model.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UnknownName(f"model {name!r}: no such file")
        return Path(name)
    files = model_files()
    if found := repository(name):
        return files[found[0]]
    if _canonical(name) not in files:
        raise unknown("model", name, [*files, FLOORS])
    return files[_canonical(name)]


def is_own(name: str) -> bool:
    """Whether a model is one of the project's, rather than a plug-in."""
    return not name.endswith(".py") and _canonical(name.partition(":")[0]) in _built_in("adapters")


def model_facts(name: str) -> ModelFacts:
    """Card, recipe and options of a model, as a rule without importing it.

    Those of ``ADAPTER:owner/name[@revision]`` are the adapter's, but for the name (without the revision) and the checkpoint.

    Raises:
        UnknownName: no such model.
        UserError: a file that is no adapter.
    """
    file = model_file(name)
    status = file.stat()
    return _facts(name, file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _facts(name: str, file: Path, changed: int, size: int) -> ModelFacts:
    facts = read_facts(file, lambda: adapter_class(name))
    if found := repository(name):
        adapter, hub_id, revision = found
        card = replace(facts.card, checkpoint=hub_id, revision=revision)
        return replace(facts, name=f"{adapter}:{hub_id}", card=card)
    return facts


def adapter_class(name: str) -> type[Adapter]:
    """The Adapter that a model's name or path stands for.

    Raises:
        UnknownName: no such model.
        UserError: the file does not hold exactly one Adapter.
    """
    from harness.adapter import Adapter

    if name.endswith(".py"):
        file = model_file(name).resolve()
        module = _module_from(file, file.stat().st_mtime_ns)
    elif found := repository(name):
        return adapter_class(found[0])
    elif _canonical(name) in _built_in("adapters"):
        module = importlib.import_module(f"harness.adapters.{_canonical(name)}")
    elif _canonical(name) in (plugins := _plugins("harness.adapters")):
        loaded = _foreign(f"model {name}", plugins[_canonical(name)].load)
        if isinstance(loaded, type):
            return loaded
        module = loaded
    else:
        raise unknown("model", name, [*model_files(), FLOORS])
    found = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Adapter) and item.__module__ == module.__name__
    ]
    whole = [item for item in found if not inspect.isabstract(item)]
    if len(whole) != 1:
        partial = [f"{item.__name__} lacks {', '.join(sorted(item.__abstractmethods__))}" for item in found if item not in whole]
        hint = f" ({'; '.join(partial)})" if partial else ""
        raise UserError(f"{name}: expected one Adapter in the file, found {len(whole)}{hint}")
    return whole[0]


@lru_cache(maxsize=64)
def _module_from(path: Path, changed: int) -> ModuleType:
    """The module in a file, imported anew when the file was changed."""
    name = f"harness_model_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickling an adapter needs its module by name
    loader = spec.loader
    _foreign(str(path), lambda: loader.exec_module(module))
    return module


def _foreign(what: str, run: Callable[[], Any]) -> Any:
    """What somebody's code gives.

    Raises:
        UserError: it does not run, whatever it raises.
    """
    try:
        return run()
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(f"{what}: its code does not run: {type(error).__name__}: {reason}{where}") from error


_faults: dict[str, str] = {}


def faults() -> list[str]:
    """Plug-ins that could not be loaded, and why; known once models or tasks were listed."""
    return [f"{name}: {reason}" for name, reason in _faults.items()]


@cache
def _task_makers() -> dict[str, tuple[Task, Path | None]]:
    """Every task by name, with the file that makes it. A plug-in that fails, or takes a name, is left out, see :func:`faults`."""
    found: dict[str, tuple[Task, Path | None]] = {}

    def add(module: ModuleType) -> None:
        file = getattr(module, "__file__", None)
        made = {task.name: (task, file and Path(file)) for task in module.tasks()}
        if taken := sorted(set(made) & set(found)):
            raise UserError(f"there is a task {taken[0]!r} already")
        found.update(made)

    for name in _built_in("tasks"):
        add(importlib.import_module(f"harness.tasks.{name}"))
    for name, point in _plugins("harness.tasks").items():
        try:
            _foreign(name, lambda point=point: add(point.load()))
        except UserError as error:
            _faults[f"tasks of {name}"] = str(error)
    return found


def tasks() -> dict[str, Task]:
    """Every task by name, in the order of its family's file."""
    return {name: task for name, (task, _) in _task_makers().items()}


def task_file(name: str) -> Path | None:
    """The file that makes the task of that name; None for a task that is made from the user's own files."""
    return _task_makers()[name][1] if name in _task_makers() else None


def names_task(name: str) -> bool:
    """Whether a task or a family of tasks is called so."""
    known = tasks()
    return _canonical(name) in {"all", *(_canonical(word) for task in known.values() for word in (task.name, task.family))}


def find_tasks(name: str) -> list[Task]:
    """The task of that name, or every task of the family of that name, or all for ``all``.

    Raises:
        UnknownName: neither a task nor a family.
    """
    known = tasks()
    by_key = {_canonical(task): task for task in known}
    if _canonical(name) in by_key:
        return [known[by_key[_canonical(name)]]]
    found = [task for task in known.values() if _canonical(task.family) == _canonical(name) or name == "all"]
    if not found:
        raise unknown("task", name, [*known, *dict.fromkeys(task.family for task in known.values())])
    return found


def task_from_files(paths: Sequence[Path], name: str | None = None, reading: Reading | None = None) -> Task:
    """The task that the user's own files make, called ``name`` or after the files; see ``tasks/files.py``."""
    return importlib.import_module("harness.tasks.files").from_files(paths, name, reading or Reading())


def draw_split(name: str, kind: str, labels: Sequence[Label], groups: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Indices of train, validation and test, with groups (a number for each label) kept whole; see ``tasks/_splits.py``."""
    splits = importlib.import_module("harness.tasks._splits")
    return splits.stratified_groups(name, splits.strata(kind, labels), groups)


def task_from_variants(path: Path, name: str | None = None) -> Task:
    """The task that the user's own file of variants makes, called ``name`` or after it; see ``tasks/variants.py``."""
    return importlib.import_module("harness.tasks.variants").from_variants(path, name)


def variant_pairs(path: Path, reference: Reference) -> Any:
    """What makes windows of a file's variants, without labels and a few at a time; see ``tasks/_variant_pairs.py``."""
    return importlib.import_module("harness.tasks._variant_pairs").Pairs(path, reference)
