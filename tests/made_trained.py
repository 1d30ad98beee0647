"""Trained models whose answers can be computed by hand: the probability of the last class is the share of G and C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from harness.data import Example, Window
from harness.errors import UserError
from harness.inference.answers import Seeds
from harness.progress import Reporter
from harness.task import CLASSIFICATION, REGRESSION


def gc(sequence: str) -> float:
    """The share of G and C."""
    return (sequence.count("G") + sequence.count("C")) / len(sequence)


class Heard(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@dataclass
class Adapter:
    """Takes windows of at most ``max_length`` nucleotides, and refuses those shorter than ``shortest``."""

    max_length: int | None = None
    shortest: int = 1

    def collate(self, windows: Sequence[Window]) -> dict:
        if min(map(len, windows)) < self.shortest:
            raise UserError(f"a window of {min(map(len, windows))} nt, below {self.shortest}")
        return {}


@dataclass
class Made:
    """What :class:`harness.inference.trained.Trained` is to those who ask it."""

    seed: int = 0
    kind: str = CLASSIFICATION
    classes: tuple[str, ...] = ("unbound", "bound")
    windows_per_example: int = 1
    lengths: tuple[int, int] = (10, 10)
    adapter: Adapter = field(default_factory=Adapter)
    reading: dict[str, Any] | None = None
    reference: dict[str, Any] | None = None
    species: tuple[str, ...] = ()
    answer: Callable[[Example], float] = lambda example: gc(example.windows[-1].sequence)
    asked: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stop_after: int | None = None  # calls, after which the user presses Ctrl-C
    label: str = "QKI"
    classifier: object = None

    @property
    def folder(self) -> Path:
        return Path(f"results/{self.label}/cnn/seed{self.seed}")

    @property
    def run(self) -> SimpleNamespace:
        names = {"reading": self.reading, "reference": self.reference}
        return SimpleNamespace(name="cnn", model="cnn", label=self.label, seed=self.seed, recipe={}, **names)

    @property
    def kept(self) -> SimpleNamespace:
        told = {"lengths": self.lengths, "species": self.species, "recipe": {"tune": "full"}}
        return SimpleNamespace(fingerprint=lambda folder: f"{folder} {self.kind}", **told)

    @property
    def accelerator(self) -> SimpleNamespace:
        return SimpleNamespace(device=SimpleNamespace(type="cpu"))

    def outputs(self, examples: Sequence[Example], batch_size: int | None = None) -> np.ndarray:
        """The share of G and C, shared out among the classes before the last one; seed s adds s tenths of what is left to 1."""
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(len(examples))
        last = np.array([self.answer(example) for example in examples])
        last = last + (1 - last) * self.seed / 10
        if self.kind == REGRESSION:
            return 100 * last[:, None]
        others = np.repeat((1 - last)[:, None] / (len(self.classes) - 1), len(self.classes) - 1, axis=1)
        return np.concatenate([others, last[:, None]], axis=1)


def seeds(*runs: Made, batch_size: int | None = None) -> Seeds:
    return Seeds(runs or [Made()], batch_size)  # type: ignore[arg-type]
