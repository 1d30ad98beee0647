"""Adapter: the one interface between the engine and a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from harness.card import ModelCard
from harness.data import Window
from harness.objective import Objective
from harness.recipe import Recipe

Batch = dict[str, Tensor]
IGNORED = -100  # the target of positions that do not count, as in torch's cross_entropy


@dataclass(frozen=True)
class LoadAudit:
    """How much of a model came from its checkpoint: (expected, matched) numbers of tensors, and the names of the others.

    ``missing`` are tensors that the model expects but the file lacks, ``unused`` those of the file that the model does not
    take. ``facts`` are the adapter's own findings (vocabulary, special ids, tied weights); ``warnings`` are sentences for
    the user.
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
    """A model as the engine sees it: windows in, one embedding per window out.

    A subclass lives in ``adapters/<name>.py``, is final, and states its pooling in one line.

    Attributes:
        name: as the file.
        card: who published the model, and what it reads.
        recipe: published settings for fine-tuning; a model without trainable weights has ``tune="probe"``.
        recipes: by family of tasks, what its published settings for them have instead, e.g. ``{"rbp": {"epochs": 5}}``; an
            empty entry says that ``recipe`` itself was published for these.
        lora_targets: name endings of the linear layers that LoRA adapts.
        species_names: the species that an alignment model was trained with, in order, without the target; None where any will
            do or none is known.
        reverse_complement_invariant: the claim that a window and its reverse complement have the same embedding.
        max_length: the longest window in nucleotides; None if unlimited.
        embedding_dim: D, the width of what :meth:`forward` returns.
        forward_passes: how often :meth:`forward` runs a network of the model's size over a window.
        audit: what was loaded from a checkpoint; None after random initialisation.
        max_unknown: the largest share of the training split's tokens that may be unknown to the model; None if any may.

    Weights that the embedding does not need (a language-model head) have ``requires_grad`` off.
    """

    name: ClassVar[str]
    card: ClassVar[ModelCard]
    recipe: ClassVar[Recipe]
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    lora_targets: ClassVar[tuple[str, ...]] = ()
    reverse_complement_invariant: bool = False
    max_length: int | None = None
    embedding_dim: int
    forward_passes: int = 1
    audit: LoadAudit | None = None
    species_names: tuple[str, ...] | None = None
    max_unknown: float | None = None

    @classmethod
    @abstractmethod
    def from_checkpoint(cls, checkpoint: Path | None = None, *, size: str = "base") -> Self:
        """The model with the weights of a local file or folder in the official layout; with random weights if None.

        ``size`` is the size of a randomly initialised model: ``base`` is the published one, ``tiny`` fits any laptop.
        Further keyword arguments of an adapter are its options (``--option name=value``).

        Raises:
            CheckpointMismatch: the file holds another architecture.
        """

    @abstractmethod
    def collate(self, windows: Sequence[Window]) -> Batch:
        """Tensors for :meth:`forward`, on the CPU and picklable, one row per window. Never truncates."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Pooled embeddings (B, D); a window's embedding does not depend on the rest of the batch or on padding."""

    def for_accelerator(self, batch: Batch) -> Batch:
        """A :meth:`collate` batch with what :meth:`forward` can use besides where an accelerator computes; on the CPU still.

        There, to ask a tensor how many or which (``.item()``, a mask as an index) makes the host wait until all queued work is
        done. What decides on shapes is therefore found here, while the device works on another batch. What is added need not
        have a row per window, and :meth:`forward` gives the same without it, but for rounding. By default nothing is added.
        """
        return batch

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        """(unknown, total) token counts of a batch; (0, 0) for models without tokens."""
        return 0, 0


class MaskedModel(ABC):
    """A second, optional interface: models trained to fill in masked bases. Test for it with ``isinstance``."""

    @abstractmethod
    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """Like :meth:`Adapter.collate`, with all tokens masked that reveal the base at each window's position (0-based)."""

    @abstractmethod
    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """Log-probabilities (B, 4) of A, C, G and T at the masked positions of a :meth:`collate_masked` batch."""


class Pretrainable(ABC):
    """A third, optional interface: models that ``harness pretrain`` can train without labels.

    ``objectives`` are the ways to do so by name, the published one first. ``pretraining`` holds the published settings of
    optimiser and schedule, a PretrainingRecipe or, where that says it all, a Recipe; its ``batch_size`` counts windows.
    ``pretraining_context`` is the published length of windows.
    """

    pretraining: ClassVar[Recipe]
    pretraining_context: ClassVar[int] = 512
    objectives: ClassVar[Mapping[str, type[Objective]]]

    @classmethod
    def options_for(cls, context: int) -> Mapping[str, str]:
        """Options, unless others are given, of a randomly initialised model that is pretrained on windows of ``context`` nt."""
        return {}

    @abstractmethod
    def pretraining_logits(self, batch: Batch) -> Tensor:
        """Logits (M, V) over the vocabulary at M tokens of an :meth:`Objective.collate` batch.

        ``batch["asked"]`` int64 (M,) says which: places in the flattened ``targets`` (B · T), those with a target and, to fill
        up, some that do not count. A causal model predicts the target at a place from the tokens up to it.
        """

    def checkpoint_tensors(self) -> Mapping[str, Tensor]:
        """The weights by the names that their authors' code reads, where a ``state_dict`` has others; parameters, not copies."""
        return self.state_dict()  # type: ignore[attr-defined]

    def checkpoint_files(self) -> dict[str, str]:
        """The text of files, by name, which :meth:`Adapter.from_checkpoint` needs beside a ``state_dict`` to build this model.

        They are written as the authors write theirs, so that their code reads them, too: ``config.json``, ``vocab.txt``.
        """
        return {}


class CausalModel(ABC):
    """A fourth, optional interface: models trained to predict each token from those before it."""

    @abstractmethod
    def log_likelihood(self, batch: Batch) -> Tensor:
        """Log-probabilities (B,) in nats of the windows of a :meth:`Adapter.collate` batch: sums over a window's tokens.

        A token's probability is given those before it. The first token counts only if the model has one that begins every
        sequence. Padding never counts.
        """


class BaseResolved(ABC):
    """A fifth, optional interface: models with a state for each token and thus, through the tokens, for each base.

    ``blocks`` is how many there are.
    """

    blocks: int

    @abstractmethod
    def token_ranges(self, windows: Sequence[Window]) -> Tensor:
        """Of each base the tokens that hold it, int64 (B, L, 2): the first one, and one past the last.

        Tokens are columns of the :meth:`hidden_states` of these very windows in one batch, special ones included. L is the
        longest window's length; a base that no token holds, and what lies beyond a window's end, has (0, 0). Overlapping k-mers
        hold a base k times.
        """

    @abstractmethod
    def hidden_states(self, batch: Batch, layer: int | None = None) -> Tensor:
        """States (B, T, D) of the tokens of a :meth:`Adapter.collate` batch after the block ``layer``, from 1.

        None: the states that :meth:`Adapter.forward` pools. A norm after the last block belongs to it. A padded token's state
        means nothing.

        Raises:
            UserError: there is no such block.
        """
