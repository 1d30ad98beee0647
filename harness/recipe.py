"""Settings of fine-tuning and pretraining: frozen values, each field with its range, help text and default.

A fine-tuning run keeps its :class:`Recipe` whole in its record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

from harness.errors import UserError

TUNES = ("full", "lora", "probe", "zero")
TRAINED = ("full", "lora")  # by gradient descent
# Those that pretraining uses.
PRETRAINING_SETTINGS = ("batch_size", "learning_rate", "weight_decay", "betas", "epsilon", "warmup", "schedule", "floor", "clip")
SCHEDULES = ("cosine", "linear", "constant")

# Settings of published benchmarks, by the name that `--recipe` takes.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Sharma's thesis fine-tunes every model alike.
    "thesis": {"learning_rate": 3e-5, "patience": 3, "epochs": 70, "weight_decay": 0.01, "batch_size": 16},
}


def _setting(default: Any, help: str, tunes: Sequence[str] = TRAINED, **limits: Any) -> Any:
    """A field of :class:`Recipe` that counts for models tuned in one of the ways ``tunes``.

    Of ``limits``, ``least`` is allowed, ``above`` and ``below`` are not; ``choices`` are all values there are.
    """
    return field(default=default, metadata={"help": help, "tunes": tunes, **limits})


@dataclass(frozen=True)
class Recipe:
    """How a model is fitted to a task.

    ``tune``: ``full`` trains every weight with AdamW, ``lora`` low-rank additions to the layers that the adapter names
    (Hu et al. 2021), ``probe`` none: it embeds each window once and fits a logistic regression. ``zero`` fits nothing at
    all: a masked model judges variants by the bases it expects. ``head``: ``linear`` is dropout and a linear layer,
    ``tanh`` puts a pooler (linear, tanh) before them.

    Raises:
        UserError: a value out of range, named.
    """

    tune: str = _setting(
        "full",
        "full: all weights; lora: low-rank additions; probe: the head only; zero: nothing (variants).",
        TUNES,
        choices=TUNES,
    )
    epochs: int = _setting(20, "Maximum number of epochs.", least=1)
    max_hours: float = _setting(0.0, "Stop training after this many hours, when an epoch ends; 0: no limit.", least=0.0)
    patience: int = _setting(3, "Stop after this many epochs without a lower validation log_loss.", least=1)
    batch_size: int = _setting(16, "Examples in a batch.", least=1)
    accumulation: int = _setting(1, "Batches per optimiser step.", least=1)
    learning_rate: float = _setting(3e-5, "Peak learning rate.", above=0.0)
    weight_decay: float = _setting(0.01, "AdamW's weight decay.", least=0.0)
    betas: tuple[float, float] = _setting((0.9, 0.999), "AdamW's decay rates of the two moments.", least=0.0, below=1.0)
    warmup: float = _setting(0.1, "Share of all steps in which the learning rate rises.", least=0.0, below=1.0)
    schedule: str = _setting("linear", "Learning rate after warm-up.", choices=SCHEDULES)
    clip: float = _setting(1.0, "Largest gradient norm.", above=0.0)
    head: str = _setting("linear", "Classifier on the embedding; tanh adds a pooler first.", choices=("linear", "tanh"))
    dropout: float = _setting(0.1, "Dropout before the classifier.", least=0.0, below=1.0)
    lora_rank: int = _setting(8, "Rank of LoRA's matrices.", ("lora",), least=1)
    lora_alpha: int = _setting(16, "LoRA's scale: additions are multiplied by alpha / rank.", ("lora",), least=1)
    precision: str = _setting(
        "auto",
        "auto is bf16 where the hardware computes it natively, else float32.",
        TUNES,
        choices=("auto", "float32", "bf16"),
    )
    compile: bool = _setting(False, "Compile training steps with torch.compile: slow at first, and rounding differs.")
    deterministic: bool = _setting(
        False, "On a GPU, use only kernels that give the same bits every time; some are slower.", TUNES
    )
    # Settings of pretraining alone.
    epsilon: ClassVar[float] = 1e-8
    floor: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.betas, list):  # as JSON has it
            object.__setattr__(self, "betas", tuple(self.betas))
        for item in fields(self):
            value, limits = getattr(self, item.name), item.metadata
            option = item.name.replace("_", "-")
            if "choices" in limits:
                if value not in limits["choices"]:
                    raise UserError(f"{option} {value!r}: choose one of {', '.join(limits['choices'])}")
                continue
            if isinstance(item.default, bool):
                if not isinstance(value, bool):
                    raise UserError(f"{option} {value!r}: must be true or false")
                continue
            numbers, defaults = (it if isinstance(it, tuple) else (it,) for it in (value, item.default))
            if len(numbers) != len(defaults) or not all(_inside(number, defaults[0], limits) for number in numbers):
                raise UserError(f"{option} {value}: must be {_range(item.default, limits)}")

    def override(self, **settings: Any) -> Self:
        """This recipe with every setting that is not None replaced.

        Raises:
            UserError: a value out of range, or a setting that does not exist.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        if unknown := sorted(set(given) - {item.name for item in fields(self)}):
            raise UserError(f"setting {unknown[0]!r}: choose one of {', '.join(item.name for item in fields(self))}")
        return replace(self, **given)

    def used(self) -> dict[str, Any]:
        """The settings that count for a model that is tuned in this way: a probe has no learning rate."""
        return {name: getattr(self, name) for name in used_settings(self.tune)}


@dataclass(frozen=True)
class PretrainingRecipe(Recipe):
    """How a model is pretrained: of its settings, PRETRAINING_SETTINGS and ``precision`` count.

    Three things can be said that fine-tuning has no use for: AdamW's ``epsilon``; the ``floor`` of the learning rate, as a share
    of its peak; and the schedule ``inverse_sqrt`` (Vaswani et al. 2017), the peak times sqrt(warm-up steps / step), which without
    warm-up falls from the first step on.

    Raises:
        UserError: a value out of range, named.
    """

    schedule: str = _setting("linear", "Learning rate after warm-up.", choices=(*SCHEDULES, "inverse_sqrt"))
    epsilon: float = _setting(Recipe.epsilon, "AdamW's epsilon.", above=0.0)
    floor: float = _setting(Recipe.floor, "Share of the peak learning rate at which its fall ends.", least=0.0, below=1.0)


def used_settings(tune: str) -> list[str]:
    """The names of the settings that count for a model that is tuned in this way."""
    return [item.name for item in fields(Recipe) if tune in item.metadata["tunes"]]


def preset(name: str) -> Mapping[str, Any]:
    """The settings of a published benchmark.

    Raises:
        UserError: no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"recipe {name!r}: choose {' or '.join(PRESETS)}, or leave it out for each model's published settings")
    return PRESETS[name]


def _inside(value: Any, default: Any, limits: Mapping[str, Any]) -> bool:
    kinds = (int,) if isinstance(default, int) else (int, float)
    return (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= limits.get("least", -math.inf)
        and value > limits.get("above", -math.inf)
        and value < limits.get("below", math.inf)
    )


def _range(default: Any, limits: Mapping[str, Any]) -> str:
    """What a value must be, in words."""
    kind = {tuple: "two numbers, each", int: "a whole number,"}.get(type(default), "a number,")
    bounds = {"least": "at least {:g}", "above": "above {:g}", "below": "below {:g}"}
    words = [text.format(limits[name]) for name, text in bounds.items() if name in limits]
    return f"{kind} {' and '.join(words)}"
