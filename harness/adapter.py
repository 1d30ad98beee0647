"""Adapter: the one interface between the engine and a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor, nn

from harness.card import ModelCard
from harness.data import Window
from harness.recipe import Recipe

Batch = dict[str, Tensor]
IGNORED = -100  # the target of a position that is not asked for, as in torch's cross_entropy


@dataclass(frozen=True)
class LoadAudit:
    """How much of a model really came from its checkpoint: counts of tensors, and the names of those left over.

    ``facts`` are the adapter's own findings (vocabulary, special ids, tied weights); ``warnings`` are sentences for the user.
    """

    source: str
    sha256: str
    expected: int
    matched: int
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Adapter(nn.Module, ABC):
    """A model as the engine sees it: windows in, one embedding a window out.

    A subclass lives in ``adapters/<name>.py``, is final, and states its pooling in one line. ``max_length`` is the longest
    window in nucleotides (None: unlimited), ``embedding_dim`` the width D of what :meth:`forward` returns, ``audit``
    what was loaded from a checkpoint (None: random initialisation). A model without trainable weights of its own has a
    ``recipe`` with ``tune="probe"``. ``lora_targets`` are the name endings of the linear layers that LoRA adapts. Weights
    that an embedding does not need (a language-model head) have ``requires_grad`` off. ``reverse_complement_invariant``
    claims that a window and its reverse complement have the same embedding.
    """

    name: ClassVar[str]
    card: ClassVar[ModelCard]
    recipe: ClassVar[Recipe]
    lora_targets: ClassVar[tuple[str, ...]] = ()
    reverse_complement_invariant: bool = False
    max_length: int | None = None
    embedding_dim: int
    audit: LoadAudit | None = None

    @classmethod
    @abstractmethod
    def from_checkpoint(cls, checkpoint: Path | None = None, *, size: str = "base") -> Self:
        """The model with the weights of a local file or folder in the official layout, or, with None, at random.

        ``size`` names the shape of a randomly initialised model: ``base`` is the published one, ``tiny`` fits any laptop.
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

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        """How many of a batch's tokens stand for what the model never saw, and how many tokens there are."""
        return 0, 0


class MaskedModel(ABC):
    """A second, optional interface: models that were trained to fill in masked bases. Ask with ``isinstance``."""

    @abstractmethod
    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """Like :meth:`Adapter.collate`, with everything hidden that tells the base at each window's position (0-based)."""

    @abstractmethod
    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """Log-probabilities (B, 4) of A, C, G and T at the masked positions of a :meth:`collate_masked` batch."""


class Pretrainable(ABC):
    """A third, optional interface: models that ``harness pretrain`` trains on windows without labels, each by its own objective.

    ``pretraining`` are the published settings: those of its optimiser and schedule; ``batch_size`` is in windows.
    """

    pretraining: ClassVar[Recipe]

    @abstractmethod
    def collate_pretraining(self, windows: Sequence[Window], rng: np.random.Generator) -> Batch:
        """Like :meth:`Adapter.collate`, corrupted; ``targets`` int64 (B, L) are the token ids to find, IGNORED elsewhere."""

    @abstractmethod
    def pretraining_logits(self, batch: Batch) -> Tensor:
        """Logits (M, V) at the M positions of a :meth:`collate_pretraining` batch that have a target, row after row."""
