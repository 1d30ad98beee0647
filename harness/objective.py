"""Objective: what a model learns without labels, and from which part of the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from harness.data import Locus, Window

if TYPE_CHECKING:
    from pathlib import Path

    from harness.adapter import Adapter, Batch

# What the held-out scores of an objective are compared with, by name: the engine has one class for each.
YARDSTICKS = ("unigram", "vote", "markov")
Stretch = tuple[str, int, int]  # chromosome or record, start and end, 0-based and half-open


class Source(ABC):
    """Where windows come from: an alignment, a genome, or sequences of their own.

    ``whole`` says whether a stretch shorter than the context is a window, as an RNA is. ``types`` maps the name of a record to
    the second word of its header, where it has one. ``notes`` are sentences about what was left out.
    """

    path: Path
    stretches: Sequence[Stretch]
    whole: bool = False
    types: Mapping[str, str] = {}
    notes: Sequence[str] = ()

    @abstractmethod
    def window(self, locus: Locus) -> Window:
        """The window at a locus, on its strand."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What says in a record which data these are: species and extents of an alignment, number of records."""


class Training(Protocol):
    """The part of a source that is trained on, without what is held out: ``letters`` is its length, N included."""

    source: Source
    context: int
    letters: int

    def texts(self) -> Iterator[str]:
        """The letters ``ACGTN`` of each stretch that is trained on."""
        ...


class Objective(ABC):
    """One way to pretrain a model: which tokens are hidden, and what is asked.

    The keyword arguments of a subclass are its options (``--option name=value``); each is a str, int, float or bool with a
    default. No option may have the name of an option of a model that has the objective, but for one of fine-tuning alone.

    Attributes:
        yardstick: what held-out scores are compared with, one of YARDSTICKS: how frequent each token is, the vote of a column's
            other rows, or a Markov chain of order 3 over the tokens.
        model_options: options of the model that it needs at random initialisation, unless others are given.
        both_strands: half of the training windows are read as their reverse complement.
        shortest: length of the shortest window (nt) that it can use.
        notes: sentences for the user about what it found or chose, known after :meth:`prepare`.
    """

    yardstick: ClassVar[str] = "unigram"
    model_options: ClassVar[Mapping[str, str]] = {}
    both_strands: bool = False
    shortest: int = 1
    notes: Sequence[str] = ()

    def attach(self, adapter: Adapter) -> None:  # noqa: B027
        """Settle what depends on the model, and set the model up; called once, before anything else.

        Raises:
            UserError: the model as it was built cannot have this objective, or an option does not suit it.
        """

    def regions(self, source: Source, context: int) -> Mapping[str, np.ndarray] | None:
        """The starts of the windows that may be drawn, int64 (n,) in order, by chromosome; None for all.

        Raises:
            UserError: what it selects by is missing.
        """
        return None

    def prepare(self, training: Training) -> None:  # noqa: B027
        """Look at the data once, before the first window is drawn.

        Raises:
            BadData: it does not suit the objective.
        """

    def facts(self) -> dict[str, Any]:
        """What else determines the numbers, as plain values for the record: sha256 of files read, tables computed."""
        return {}

    @abstractmethod
    def collate(
        self, adapter: Adapter, windows: Sequence[Window], rng: np.random.Generator, progress: float | None = None
    ) -> Batch:
        """Like :meth:`Adapter.collate`, but corrupted, with ``targets`` int64 (B, T): the token ids to predict, else IGNORED.

        ``weights`` float32 (B, T), where there are any, weigh the targets' losses. ``groups`` int64 (B, T) number kinds of
        targets that yardsticks judge apart, such as bases and types of RNA. Every tensor has one row per window. ``progress``
        is the share of all steps made so far; None for held-out windows, which are corrupted once. All that is random is
        drawn from ``rng``.
        """
