"""Space: which settings a search varies, and over which values; the default one, a preset, or that of a TOML file."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import registry
from harness.errors import BadData, UserError
from harness.recipe import Recipe, used_settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# The budget, what decides which settings count, pairs, and how the same numbers are computed.
FIXED = ("tune", "epochs", "max_hours", "patience", "betas", "precision", "compile", "deterministic")
SEARCHABLE = tuple(item.name for item in fields(Recipe) if item.name not in FIXED)
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Thoutam & Ellsworth 2024, appendix C.2.3: the learning rates that they tried for MSAMamba.
    "msamamba-paper": {"learning_rate": [8e-3, 2e-3, 3e-4, 3e-5, 8e-6]},
}
DIGITS = 4  # significant ones of a proposed number, so that it can be typed again
TOLERANCE = 1e-8  # of a number of steps
MAX_COMBINATIONS = 10_000  # of choices that are listed one by one


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, drawn evenly or, with ``log``, evenly in their logarithm; ``step`` apart if given."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def rounded(self, value: Any) -> Any:
        """A drawn value, shortened to DIGITS."""
        if self.whole or self.step is not None:
            return value
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def __contains__(self, value: Any) -> bool:
        if not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < TOLERANCE

    def __str__(self) -> str:
        step = "" if self.step is None else f" in steps of {self.step:g}"
        return f"{self.low:g} to {self.high:g}{step}" + (" (log)" if self.log else "")

    def to_json(self) -> dict[str, Any]:
        """As search.json has it."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}


@dataclass(frozen=True)
class Choices:
    """Some values, in no order."""

    values: tuple[Any, ...]

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def rounded(self, value: Any) -> Any:
        """The value as it is."""
        return value

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in self.values)

    def to_json(self) -> dict[str, Any]:
        """As search.json has it."""
        return {"choices": list(self.values)}


@dataclass(frozen=True)
class Space:
    """The values of each setting that is searched, in the order of Recipe's fields."""

    settings: Mapping[str, Range | Choices]

    def distributions(self) -> dict[str, BaseDistribution]:
        """The same for Optuna."""
        return {name: values.distribution() for name, values in self.settings.items()}

    def rounded(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Drawn settings, in the space's order, with numbers that can be typed again."""
        return {name: values.rounded(drawn[name]) for name, values in self.settings.items()}

    def __contains__(self, settings: Mapping[str, Any]) -> bool:
        return all(settings[name] in values for name, values in self.settings.items())

    @property
    def size(self) -> float:
        """How many settings there are, if these are few enough to be listed; else infinity."""
        sizes = [len(values.values) if isinstance(values, Choices) else math.inf for values in self.settings.values()]
        size = math.prod(sizes)
        return size if size <= MAX_COMBINATIONS else math.inf

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every setting of a space of choices."""
        values = [values.values for values in self.settings.values() if isinstance(values, Choices)]
        for chosen in itertools.product(*values):
            yield dict(zip(self.settings, chosen, strict=True))

    def to_json(self) -> dict[str, Any]:
        """As search.json has it."""
        return {name: values.to_json() for name, values in self.settings.items()}


@dataclass(frozen=True)
class Asked:
    """What the user wants searched: ``common`` in place of the default space, None for that; ``own`` changes it for a model."""

    common: Mapping[str, Range | Choices] | None = None
    own: Mapping[str, Mapping[str, Range | Choices]] = field(default_factory=dict)

    def of(self, model: str, recipe: Recipe, fixed: Sequence[str]) -> Space:
        """The space of a model whose published recipe this is, without what does not count for it and without ``fixed``.

        Raises:
            UserError: nothing is left.
        """
        common = default_space(recipe) if self.common is None else self.common
        wanted = {**common, **self.own.get(model, {})}
        left = [name for name in used_settings(recipe.tune) if name in wanted and name not in fixed]
        if not left:
            raise UserError(f"{model}: no setting of the space is left to search ({', '.join(wanted)}); leave one of them free")
        return Space({name: wanted[name] for name in left})


def default_space(recipe: Recipe) -> dict[str, Range | Choices]:
    """Values around the published ones.

    Learning rate and weight decay go from a tenth to ten times theirs, evenly in the logarithm (a decay of 0: from 0 to 0.1),
    batch size and LoRA's rank over the powers of two from a half to twice theirs.
    """
    decay = recipe.weight_decay
    return {
        "batch_size": _powers_around(recipe.batch_size),
        "learning_rate": _around(recipe.learning_rate),
        "weight_decay": _around(decay) if decay else Range(0.0, 0.1),
        "warmup": Range(0.0, min(max(0.2, 2 * recipe.warmup), 0.9)),
        "head": Choices(("linear", "tanh")),
        "dropout": Range(0.0, max(0.5, recipe.dropout)),
        "lora_rank": _powers_around(recipe.lora_rank),
    }


def asked_space(space: str | Path | Mapping[str, Any] | None, preset: str | None, models: Sequence[str]) -> Asked:
    """What ``--space`` (a TOML file, or its content) or ``--preset`` asks for; ``models`` are those that are searched.

    Raises:
        UserError: both, no such preset, or a space that cannot be searched; the setting is named.
    """
    if space is not None and preset is not None:
        raise UserError(f"space and preset {preset!r}: give one or the other")
    if preset is not None:
        if preset not in PRESETS:
            raise UserError(f"preset {preset!r}: choose {' or '.join(PRESETS)}, or leave it out for a space around each model's")
        return Asked(_parsed(PRESETS[preset]))
    if space is None:
        return Asked()
    where = "space" if isinstance(space, Mapping) else f"space {space}"
    try:
        return _asked(space if isinstance(space, Mapping) else _read(Path(space)), models)
    except UserError as error:
        raise type(error)(f"{where}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadData(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _asked(content: Mapping[str, Any], models: Sequence[str]) -> Asked:
    if odd := sorted(set(content) - {"space", "model"}):
        raise UserError(f"{odd[0]!r}: there are [space] and [model.NAME.space], whose entries are settings")
    own = {}
    for name, table in _table(content.get("model", {}), "model").items():
        if odd := sorted(set(_table(table, f"model.{name}")) - {"space"}):
            raise UserError(f"model.{name}.{odd[0]}: there is [model.{name}.space] only")
        known = name if name in models else registry.model_names(name)[0]
        own[known] = _parsed(table.get("space", {}), f"model.{name}.space.")
    if not content.get("space") and not any(own.values()):
        raise UserError("no setting: write [space] and, for example, learning_rate = {low = 1e-5, high = 1e-3, log = true}")
    return Asked(_parsed(content["space"]) if "space" in content else None, own)


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} is {value!r}: expected a table")
    return value


def _parsed(table: Any, where: str = "") -> dict[str, Range | Choices]:
    """A table of settings, each a list of choices or a range.

    Raises:
        UserError: an unknown setting, an empty or reversed range, or a value that no recipe takes.
    """
    found: dict[str, Range | Choices] = {}
    for name, values in _table(table, where.rstrip(".") or "space").items():
        if name not in SEARCHABLE:
            why = "is fixed during a search" if name in FIXED else "is no setting"
            raise UserError(f"{where}{name}: {why}; choose of {', '.join(SEARCHABLE)}")
        try:
            found[name] = _values(name, values)
        except UserError as error:
            raise UserError(f"{where}{name}: {error}") from None
    return found


def _values(name: str, values: Any) -> Range | Choices:
    if isinstance(values, list | tuple):
        if not values:
            raise UserError("an empty list; give at least one value")
        for value in values:
            Recipe().override(**{name: _some(value)})
        kind = float if isinstance(getattr(Recipe(), name), float) else lambda value: value
        return Choices(tuple(dict.fromkeys(map(kind, values))))
    if not isinstance(values, Mapping):
        raise UserError(f"{values!r}: expected a list of choices, or {{low = …, high = …}}")
    if odd := sorted(set(values) - {"low", "high", "log", "step"}):
        raise UserError(f"{odd[0]!r}: a range has low, high, log and step")
    default = getattr(Recipe(), name)
    if isinstance(default, str):
        raise UserError("has no range; give a list of choices")
    low, high, log, step = (
        values.get(key, other) for key, other in (("low", None), ("high", None), ("log", False), ("step", None))
    )
    if low is None or high is None:
        raise UserError(f"lacks {'low' if low is None else 'high'}")
    if not isinstance(log, bool):
        raise UserError(f"log = {log!r}: expected true or false")
    whole = isinstance(default, int)
    for number in (low, high) if step is None else (low, high, step):
        if isinstance(number, bool) or not isinstance(number, int if whole else int | float) or not math.isfinite(number):
            raise UserError(f"{number!r}: expected a {'whole ' if whole else ''}number")
    if low >= high:
        raise UserError(f"low {low:g} is not below high {high:g}")
    if log and low <= 0:
        raise UserError(f"low {low:g}: must be above 0 on a logarithmic scale")
    for bound in (low, high):
        Recipe().override(**{name: bound})
    if step is not None:
        if log:
            raise UserError("log and step cannot go together")
        steps = (high - low) / step if step > 0 else 0.5
        if abs(steps - round(steps)) > TOLERANCE:
            raise UserError(f"step {step:g}: must be above 0, and lead from low {low:g} to high {high:g}")
    kind = int if whole else float
    return Range(kind(low), kind(high), log, None if step is None else kind(step), whole)


def _some(value: Any) -> Any:
    if value is None:  # which means the published one elsewhere
        raise UserError("None is no value")
    return value


def _around(value: float) -> Range:
    return Range(float(f"{value / 10:.{DIGITS}g}"), float(f"{value * 10:.{DIGITS}g}"), log=True)


def _powers_around(value: int) -> Choices:
    """The powers of two from a half to twice a value, and the value."""
    powers = [2**power for power in range(math.ceil(math.log2(value)) + 2)]
    return Choices(tuple(sorted({value, *(power for power in powers if value <= 2 * power and power <= 2 * value)})))
