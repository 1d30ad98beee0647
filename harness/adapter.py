"""Adapter: the one interface between the engine and a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from harness.card import ModelCard
from harness.data import Window
from harness.recipe import Recipe

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class LoadAudit:
    """How much of a model really came from its checkpoint: counts of tensors, and the names of those left over."""

    source: str
    sha256: str
    expected: int
    matched: int
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


class Adapter(nn.Module, ABC):
    """A model as the engine sees it: windows in, one embedding a window out.

    A subclass lives in ``adapters/<name>.py``, is final, and states its pooling in one line. ``max_length`` is the longest
    window in nucleotides (None: unlimited), ``embedding_dim`` the width D of what :meth:`forward` returns, ``audit``
    what was loaded from a checkpoint (None: random initialisation). A model without trainable weights of its own has a
    ``recipe`` with ``tune="probe"``.
    """

    name: ClassVar[str]
    card: ClassVar[ModelCard]
    recipe: ClassVar[Recipe]
    max_length: int | None = None
    embedding_dim: int
    audit: LoadAudit | None = None

    @classmethod
    @abstractmethod
    def from_checkpoint(cls, checkpoint: Path | None = None, *, size: str = "base") -> Self:
        """The model with the weights of an official file or folder, or, with None, randomly initialised at a named size.

        Further keyword arguments of an adapter are its options (``--option name=value``).

        Raises:
            CheckpointMismatch: the file holds another architecture.
        """

    @abstractmethod
    def collate(self, windows: Sequence[Window]) -> Batch:
        """Tensors for :meth:`forward`, on the CPU and picklable; first axis as long as ``windows``. Never truncates."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Pooled embeddings (B, D), independent of what else is in the batch and of its padding."""
