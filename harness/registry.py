"""Names to adapters and tasks, on demand. Listing imports no model.

``--model X`` is ``adapters/X.py``; ``--task X`` is any task of any file in ``tasks/``. The same names may come from an
installed package (entry points ``harness.adapters`` and ``harness.tasks``), and a model also from a path to a file.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import harness
from harness.card import ModelCard
from harness.errors import UnknownName, UserError
from harness.facts import ModelFacts, read_card, read_facts
from harness.task import Task

if TYPE_CHECKING:
    from harness.adapter import Adapter

FLOORS = "floors"


def _canonical(name: str) -> str:
    return name.lower().replace("-", "_")


def unknown(kind: str, name: str, known: list[str]) -> UnknownName:
    """An error that names what was asked for and the nearest names that exist."""
    by_key = {_canonical(candidate): candidate for candidate in known}
    near = [by_key[key] for key in difflib.get_close_matches(_canonical(name), by_key, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"
    return UnknownName(f"unknown {kind} {name!r}: {hint}")


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
    """Every model's name and card, sorted by name."""
    return {name: read_card(file) for name, file in sorted(model_files().items())}


def model_names(name: str) -> list[str]:
    """The models that ``--model name`` stands for: itself, or every floor for ``floors``.

    Raises:
        UnknownName: no such model.
    """
    if _canonical(name) == FLOORS:
        return [model for model, card in model_cards().items() if card.floor]
    if name.endswith(".py"):
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
    if _canonical(name) not in files:
        raise unknown("model", name, [*files, FLOORS])
    return files[_canonical(name)]


def model_facts(name: str) -> ModelFacts:
    """Card, recipe and options of a model, as a rule without importing it.

    Raises:
        UnknownName: no such model.
        UserError: a file that is no adapter.
    """
    file = model_file(name)
    status = file.stat()
    return _facts(name, file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _facts(name: str, file: Path, changed: int, size: int) -> ModelFacts:
    return read_facts(file, lambda: adapter_class(name))


def adapter_class(name: str) -> type[Adapter]:
    """The Adapter that a model's name or path stands for.

    Raises:
        UnknownName: no such model.
        UserError: the file does not hold exactly one Adapter.
    """
    from harness.adapter import Adapter

    if name.endswith(".py"):
        module = _module_from(model_file(name))
    elif _canonical(name) in _built_in("adapters"):
        module = importlib.import_module(f"harness.adapters.{_canonical(name)}")
    elif _canonical(name) in (plugins := _plugins("harness.adapters")):
        loaded = plugins[_canonical(name)].load()
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


def _module_from(path: Path) -> ModuleType:
    name = f"harness_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickling an adapter needs its module by name
    spec.loader.exec_module(module)
    return module


@cache
def _task_modules() -> tuple[ModuleType, ...]:
    modules = [importlib.import_module(f"harness.tasks.{name}") for name in _built_in("tasks")]
    return (*modules, *(point.load() for point in _plugins("harness.tasks").values()))


@cache
def tasks() -> dict[str, Task]:
    """Every task by name, in the order of its family's file."""
    return {task.name: task for module in _task_modules() for task in module.tasks()}


def task_file(name: str) -> Path | None:
    """The file that makes the task of that name; None for a task that is made from the user's own files."""
    makers = (module for module in _task_modules() if any(task.name == name for task in module.tasks()))
    module = next(makers, None)
    return Path(module.__file__) if module is not None and module.__file__ is not None else None


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


def task_from_files(paths: Sequence[Path]) -> Task:
    """The task that the user's own files make; see ``tasks/files.py``."""
    return importlib.import_module("harness.tasks.files").from_files(paths)


def task_from_variants(path: Path) -> Task:
    """The task that the user's own file of variants makes; see ``tasks/variants.py``."""
    return importlib.import_module("harness.tasks.variants").from_variants(path)
