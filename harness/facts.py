"""ModelFacts: what a model's file says of it before any of its code runs.

Read from the syntax tree, so that lists, plans and look-ups of finished runs import no model and no torch. A file that
writes its recipes or options in another way than as literals is imported instead.
"""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness.card import ModelCard
from harness.errors import UserError
from harness.recipe import Recipe

if TYPE_CHECKING:
    from harness.adapter import Adapter

_TYPES = ("str", "int", "float", "bool")


class _NotLiteral(Exception):
    """The file does not say it in a way that can be read without running it."""


@dataclass(frozen=True)
class Option:
    """A keyword of an adapter's ``from_checkpoint``: the name of its ``type`` (str, int, float, bool) and its ``default``."""

    type: str
    default: Any


@dataclass(frozen=True)
class ModelFacts:
    """A model's name, card, published recipe, what differs from it by family of tasks, and options by name.

    Raises:
        UserError: ``recipes`` is no mapping of mappings, or has a setting that does not exist or is out of range.
    """

    name: str
    card: ModelCard
    recipe: Recipe
    options: Mapping[str, Option]
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.recipes, Mapping):
            raise UserError(f"model {self.name}: recipes {self.recipes!r}: expected {{family: {{setting: value}}}}")
        for family in self.recipes:
            try:
                self.recipe_for(family)
            except (UserError, TypeError) as error:
                raise UserError(f"model {self.name}: recipes[{family!r}]: {error}") from None

    def recipe_for(self, family: str) -> Recipe:
        """The published settings for a family of tasks; :attr:`recipe` where no others are known."""
        return self.recipe.override(**self.recipes.get(family, {}))


def read_facts(file: Path, load: Callable[[], type[Adapter]]) -> ModelFacts:
    """The facts of the adapter in a file; ``load`` imports it, where the file cannot be read otherwise.

    Raises:
        UserError: the file is no Python, or has no card that is written as a literal.
    """
    card = read_card(file)
    try:
        lines = list(_ancestry(file))
        name = _first(lines, lambda body: _assigned(body, "name"), default=None)
        recipe = _first(lines, lambda body: _assigned(body, "recipe"))
        recipes = _first(lines, lambda body: _assigned(body, "recipes"), default=None)
        return ModelFacts(
            name=file.stem if name is None else str(_literal(name)),
            card=card,
            recipe=Recipe(**_arguments(recipe, "Recipe")),
            options=dict(_first(lines, _keywords)),
            recipes={} if recipes is None else _literal(recipes),
        )
    except (_NotLiteral, OSError):
        adapter = load()
        return ModelFacts(adapter.name, card, adapter.recipe, class_options(adapter), adapter.recipes)


def read_card(file: Path) -> ModelCard:
    """The ``card = ModelCard(…)`` of an adapter's file.

    Raises:
        UserError: the file is no Python, has no card, or has one that is not written as a literal.
    """
    for node in ast.walk(_parse(file)):
        if isinstance(node, ast.ClassDef) and (value := _assigned(node, "card")) is not None:
            try:
                return ModelCard(**_arguments(value, "ModelCard"))
            except (_NotLiteral, TypeError, ValueError) as error:
                raise UserError(f"{file}: the card must be ModelCard(…) with literal keyword arguments ({error})") from None
    raise UserError(f"{file}: no `card = ModelCard(…)` found; a file in adapters/ holds one Adapter")


def class_options(adapter: type[Adapter]) -> dict[str, Option]:
    """The options of an adapter that is imported."""
    return {name: option for name, option in keyword_options(adapter.from_checkpoint).items() if name != "size"}


def keyword_options(function: Callable[..., Any]) -> dict[str, Option]:
    """The keyword-only arguments of a function as options."""
    hints = typing.get_type_hints(function)
    return {
        name: Option(getattr(hints.get(name, str), "__name__", "str"), item.default)
        for name, item in inspect.signature(function).parameters.items()
        if item.kind is item.KEYWORD_ONLY
    }


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"), str(file))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{file}: not Python that can be read ({error})") from None


def _ancestry(file: Path) -> Iterator[ast.ClassDef]:
    """The class with the card, and then its bases, as far as this project's files hold them."""
    classes = [node for node in ast.walk(_parse(file)) if isinstance(node, ast.ClassDef)]
    found = next(node for node in classes if _assigned(node, "card") is not None)
    yield from _upward(found, file)


def _upward(found: ast.ClassDef, file: Path) -> Iterator[ast.ClassDef]:
    yield found
    tree = _parse(file)
    for base in found.bases:
        name = getattr(base, "id", None)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == name and node is not found:
                yield from _upward(node, file)
            if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
                place = _file_of(node, file)
                for other in ast.walk(_parse(place)) if place is not None else ():
                    if isinstance(other, ast.ClassDef) and other.name == name:
                        yield from _upward(other, place)  # type: ignore[arg-type]


def _file_of(node: ast.ImportFrom, file: Path) -> Path | None:
    """The file of a module of adapters/ that is imported from; None for any other."""
    if node.level == 1 and node.module:
        place = file.parent.joinpath(*node.module.split(".")).with_suffix(".py")
        return place if place.is_file() else None
    parts = (node.module or "").split(".")
    if node.level == 0 and parts[:2] == ["harness", "adapters"]:
        places = [Path(root, *parts[1:]).with_suffix(".py") for root in harness.__path__]
        return next((place for place in places if place.is_file()), None)
    return None


_REQUIRED: Any = object()


def _first(lines: list[ast.ClassDef], find: Callable[[ast.ClassDef], Any], default: Any = _REQUIRED) -> Any:
    found = next((value for line in lines if (value := find(line)) is not None), default)
    if found is _REQUIRED:
        raise _NotLiteral
    return found


def _assigned(body: ast.ClassDef, name: str) -> ast.expr | None:
    """What a class sets a name to."""
    for node in body.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return node.value
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == name:
            return node.value
    return None


def _keywords(body: ast.ClassDef) -> list[tuple[str, Option]] | None:
    """The keyword-only arguments of a class's own ``from_checkpoint``."""
    for node in body.body:
        if isinstance(node, ast.FunctionDef) and node.name == "from_checkpoint":
            if node.args.kwarg is not None:
                raise _NotLiteral
            found = []
            for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
                kind = "str" if argument.annotation is None else getattr(argument.annotation, "id", "")
                if kind not in _TYPES or default is None:
                    raise _NotLiteral
                found.append((argument.arg, Option(kind, _literal(default))))
            return [(name, option) for name, option in found if name != "size"]
    return None


def _arguments(value: ast.expr, function: str) -> dict[str, Any]:
    """The keyword arguments of a call that is written as a literal."""
    if not isinstance(value, ast.Call) or getattr(value.func, "id", "") != function or value.args:
        raise _NotLiteral(f"line {value.lineno}")
    return {str(word.arg): _literal(word.value) for word in value.keywords}


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError as error:
        raise _NotLiteral(str(error)) from None
