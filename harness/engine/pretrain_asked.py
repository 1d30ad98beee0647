"""What `harness pretrain` is asked for: the model's objective and its options, the length of windows, where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import registry
from harness.adapter import Adapter, Pretrainable
from harness.errors import UserError
from harness.facts import keyword_options
from harness.files.alignments import check_order, open_alignment
from harness.files.sequences import Columns, open_sequences
from harness.objective import Objective, Source

from .build import typed


def pretrainable(model: str) -> type[Adapter]:
    """The adapter class of that name.

    Raises:
        UserError: it cannot be pretrained.
    """
    found = registry.adapter_class(model)
    if not issubclass(found, Pretrainable):
        able = [name for name in registry.model_files() if issubclass(registry.adapter_class(name), Pretrainable)]
        raise UserError(f"model {model!r}: cannot be pretrained here; choose one of {', '.join(able)}")
    return found


def divided(
    adapter: type[Adapter], objective: str | None, options: Mapping[str, str], anew: bool, context: int | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Options of the model, which is built ``anew`` or has a checkpoint, and those of its objective.

    ``context`` is the length of windows that was asked for; None is the published one.
    """
    objectives = _objectives(adapter)
    if objective is not None and objective not in objectives:
        raise _no_objective(adapter.name, objective, objectives)
    known = {name for kind in objectives.values() for name in keyword_options(kind.__init__)}
    own = registry.model_facts(adapter.name).options
    if strange := next((name for name in options if name not in known and name not in own), None):
        raise registry.unknown(f"option of {adapter.name} and its objectives", strange, [*own, *sorted(known)])
    needed: dict[str, str] = {}
    if anew and objectives:
        needed |= objectives[objective or next(iter(objectives))].model_options
        needed |= adapter.options_for(context or adapter.pretraining_context)  # type: ignore[attr-defined]
    return (
        {**needed, **{name: value for name, value in options.items() if name not in known}},
        {name: value for name, value in options.items() if name in known},
    )


def choose_objective(adapter: Adapter, objective: str | None, options: Mapping[str, str]) -> tuple[str, Objective]:
    """Name and value of the objective that is asked for, by default the first of the model as it was built."""
    objectives = _objectives(adapter)
    if not objectives:
        raise UserError(
            f"model {adapter.name}: as it was loaded, it has no head to be pretrained with, or an option (guided=true) that is "
            "for fine-tuning alone; give weights with a language head, or leave the option out"
        )
    name = objective or next(iter(objectives))
    if name not in objectives:
        raise _no_objective(adapter.name, name, objectives)
    kind = objectives[name]
    goal = kind(**typed(f"objective {name}", keyword_options(kind.__init__), options))
    goal.attach(adapter)
    return name, goal


def by_name(value: Any) -> Any:
    """An objective's option as settings have it: of files, commas between them, their names, as its facts tell their content."""
    if not isinstance(value, str):
        return value
    paths = [Path(part.strip()).expanduser() for part in value.split(",")]
    return ",".join(path.name for path in paths) if all(path.is_file() for path in paths) else value


def _objectives(adapter: Adapter | type[Adapter]) -> Mapping[str, type[Objective]]:
    return adapter.objectives  # type: ignore[union-attr]


def _no_objective(model: str, objective: str, objectives: Mapping[str, type[Objective]]) -> UserError:
    return UserError(f"objective {objective!r}: {model} has {', '.join(objectives)}; choose one of these")


def choose_context(adapter: Adapter, context: int | None) -> int:
    """The length of windows: the published one unless it is given, and no longer than the model reads."""
    published: int = adapter.pretraining_context  # type: ignore[attr-defined, assignment]
    if context is None:
        return published if adapter.max_length is None else min(published, adapter.max_length)
    if adapter.max_length is not None and context > adapter.max_length:
        raise UserError(f"context {context}: {adapter.name} takes at most {adapter.max_length} nt")
    return context


def open_source(adapter: Adapter, data: Path | None, msa: Path | None, species: str) -> Source:
    """What windows are read from.

    Raises:
        BadData: it cannot be read.
        UserError: the alignment lacks a species, or has those that the model was trained with in another order.
    """
    if data is not None:
        if species:
            raise UserError(f"species {species!r}: the rows of an alignment; with --data, leave it out")
        return open_sequences(data)
    assert msa is not None
    source = Columns(open_alignment(msa, species))
    if adapter.species_names:
        check_order(source.path, source.alignment.species, adapter.species_names, adapter.name)
    return source
