"""Fine-tuning settings: one frozen value, kept whole in every record."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import UserError

TUNES = ("full", "lora", "probe", "zero")
SCHEDULES = ("cosine", "linear", "constant")
HEADS = ("linear", "tanh")
PRECISIONS = ("auto", "float32", "bf16")


@dataclass(frozen=True)
class Recipe:
    """How a model is fitted to a task.

    ``tune``: ``full`` trains every weight with AdamW, ``lora`` low-rank additions to the layers that the adapter names
    (Hu et al. 2021), ``probe`` none: it embeds each window once and fits a logistic regression. ``zero`` fits nothing at
    all: a masked model judges variants by the bases it expects.
    ``warmup`` is a share of all steps; ``patience`` counts evaluations (one an epoch) without a better validation
    log_loss; ``accumulation`` is in batches; ``clip`` is the largest gradient norm. ``head``: ``linear`` is dropout and
    a linear layer, ``tanh`` puts a pooler (linear, tanh) before them.

    Raises:
        UserError: a value out of range, named.
    """

    tune: str = "full"
    epochs: int = 20
    patience: int = 3
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 3e-5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.1
    schedule: str = "linear"
    clip: float = 1.0
    head: str = "linear"
    dropout: float = 0.1
    lora_rank: int = 8
    lora_alpha: int = 16
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, allowed in (("tune", TUNES), ("schedule", SCHEDULES), ("head", HEADS), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} {getattr(self, name)!r}: choose one of {', '.join(allowed)}")
        for name in ("epochs", "patience", "batch_size", "accumulation", "lora_rank", "lora_alpha"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        for name in ("learning_rate", "clip"):
            if not (0 < getattr(self, name) < math.inf):
                raise UserError(f"{name.replace('_', '-')} {getattr(self, name)}: must be a positive number")
        for name in ("warmup", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: must be at least 0 and below 1")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight-decay {self.weight_decay}: must be 0 or more")

    def override(self, **settings: Any) -> Recipe:
        """This recipe with every setting that is not None replaced."""
        return replace(self, **{name: value for name, value in settings.items() if value is not None})
