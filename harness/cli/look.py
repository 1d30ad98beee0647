"""`harness list`, `harness show` and `harness doctor`: what there is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import UnknownName

from .options import Once

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.facts import ModelFacts, Option
    from harness.task import Task

list_app = typer.Typer(no_args_is_help=True, help="Show the models or tasks there are.")


@list_app.command("models", cls=Once)
def list_models() -> None:
    """Every model: what it reads, its size and length limit, licence and paper."""
    from harness.files.hub import local_repositories
    from harness.registry import faults, model_cards

    from .screen import Screen

    rows = [
        [
            name + (" (floor)" if card.floor else ""),
            card.summary,
            card.reads,
            card.parameters,
            "any" if card.max_length is None else f"{card.max_length:,} nt",
            card.licence,
            card.paper,
        ]
        for name, card in model_cards().items()
    ]
    rows += [
        [f"{name}:{hub_id}", _described(folder), "sequence", f"{_gigabytes(folder):.2g} GB", "?", "see the hub", "see the hub"]
        for name, card in model_cards().items()
        if card.generic
        for hub_id, folder in local_repositories(model_cards())
    ]
    Screen().table(["model", "what it is", "reads", "parameters", "length", "licence", "paper"], rows)
    _say(faults())


def _described(folder: Path) -> str:
    """The architecture that a folder's config.json names."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return ", ".join(found.get("architectures") or [found["model_type"]]) + f", in {folder.name}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its config.json cannot be read"


def _gigabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".bin")) / 1e9


@list_app.command("tasks", cls=Once)
def list_tasks() -> None:
    """Every task: its classes and split rules, and whether the data is on this machine."""
    from harness.registry import faults, tasks

    from .screen import Screen

    rows = [
        [
            task.name,
            task.family,
            task.summary,
            " / ".join(task.classes),
            ", ".join(task.split_rules),
            _here(task),
            task.licence,
        ]
        for task in tasks().values()
    ]
    Screen().table(["task", "family", "what is asked", "classes", "splits", "data here", "licence"], rows)
    _say(faults())


def _here(task: Task) -> str:
    from harness.files.sources import missing

    if missing(task.sources):
        return f"no: harness data get {task.name}"
    return "yes" if not missing(task.references) else f"yes, but no genome: harness data get {task.name} --genomes"


def _say(faults: list[str]) -> None:
    """What could not be listed, on standard error."""
    from .screen import Screen

    for fault in faults:
        Screen().say(f"not loaded: {fault}")


def show(
    name: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A model, a task, or a path to an adapter file.")],
) -> None:
    """All that is known of a model (its options and recipe too) or of a task."""
    from harness.registry import find_tasks, model_files, repository, unknown

    from .screen import Screen

    if name.endswith(".py") or repository(name) or name.lower().replace("-", "_") in model_files():
        Screen().card(_model_card(name))
        return
    try:
        tasks = find_tasks(name)
    except UnknownName:
        from harness.registry import tasks as known

        raise unknown("model or task", name, [*model_files(), *known()]) from None
    for task in tasks:
        Screen().card(_task_card(task))


def _model_card(name: str) -> dict[str, str]:
    from harness.registry import model_facts

    facts = model_facts(name)
    card = facts.card
    return {
        "model": facts.name + (" (floor)" if card.floor else ""),
        "what it is": card.summary,
        "paper": card.paper,
        "licence": card.licence,
        "reads": f"{card.reads}, letters {card.alphabet}",
        "parameters": card.parameters,
        "longest window": "any" if card.max_length is None else f"{card.max_length:,} nt",
        "weights": f"{card.checkpoint} at {card.revision or 'main'}" if card.checkpoint else card.get,
        "options": _options(facts.options),
        "recipe": ", ".join(f"{name} {value}" for name, value in asdict(facts.recipe).items()),
        **{f"recipe for {family}": _differences(facts, family) for family in facts.recipes},
        **_pretraining(name),
    }


def _options(options: Mapping[str, Option]) -> str:
    return ", ".join(f"{name}={option.default!r} ({option.type})" for name, option in options.items())


def _pretraining(name: str) -> dict[str, str]:
    """The objectives of a model that can be pretrained, with their options, and the published recipe."""
    from harness.adapter import Pretrainable
    from harness.facts import keyword_options
    from harness.recipe import PRETRAINING_SETTINGS
    from harness.registry import adapter_class

    adapter = adapter_class(name)
    if not issubclass(adapter, Pretrainable):
        return {}
    described = []
    for objective, kind in adapter.objectives.items():
        first = " ".join((kind.__doc__ or "").partition("\n\n")[0].replace("``", "").split())
        options = _options(keyword_options(kind.__init__))
        described.append(f"{objective}: {first}" + (f" Options: {options}" if options else ""))
    recipe = ", ".join(f"{key} {getattr(adapter.pretraining, key)}" for key in PRETRAINING_SETTINGS)
    return {
        "objectives": "\n".join(described),
        "pretraining": f"windows of {adapter.pretraining_context} nt, {recipe}",
    }


def _differences(facts: ModelFacts, family: str) -> str:
    usual, found = asdict(facts.recipe), asdict(facts.recipe_for(family))
    changed = [f"{name} {value}" for name, value in found.items() if value != usual[name]]
    return ", ".join(changed) + "; else the same" if changed else "the same, published for these tasks"


def _task_card(task: Task) -> dict[str, str]:
    from harness.files.sources import locate, missing

    return {
        "task": task.label,
        "family": task.family,
        "what is asked": task.summary,
        "classes": " / ".join(task.classes),
        "negatives": task.negatives,
        "splits": ", ".join(task.split_rules),
        "main metric": task.main_metric,
        "assembly": task.assembly or "",
        "licence": task.licence,
        "citation": task.citation,
        "data": "\n".join(
            f"{locate(source)}{' (not here)' if missing([source]) else ''}" for source in (*task.sources, *task.references)
        ),
        "sample": "" if task.sample is None else task.sample.summary,
    }


def doctor() -> None:
    """What this machine can do, and what to install for more."""
    from harness.engine.hardware import doctor as look

    from .screen import Screen

    Screen().table(["", "found", "what it means"], [[name, "yes" if found else "no", text] for name, found, text in look()])
