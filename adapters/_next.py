"""The next token: what causal models are pretrained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from harness.adapter import IGNORED, Batch
from harness.data import Window
from harness.objective import Objective


class Continuing(Protocol):
    """What asking for the next token needs to know of a model."""

    def collate(self, windows: Sequence[Window]) -> Batch: ...

    def askable(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The tokens (B, T) of a :meth:`collate` batch, and True (B, T) where one may be asked for, given those before it."""
        ...


class Next(Objective):
    """Every token is asked for, given those before it, but for unknown letters, padding and the token that ends a sequence.

    The first token is asked for only where another one begins every sequence. No window is reverse-complemented.
    """

    yardstick = "markov"
    shortest = 2

    def collate(self, adapter: Any, windows: Sequence[Window], rng: np.random.Generator, progress: float | None = None) -> Batch:
        model: Continuing = adapter
        batch = model.collate(windows)
        tokens, allowed = (it.numpy() for it in model.askable(batch))
        return batch | {"targets": torch.from_numpy(following(tokens, allowed))}


def following(tokens: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """For each token (B, T) the one after it where that is ``allowed`` (B, T), else IGNORED; int64 (B, T)."""
    targets = np.full(tokens.shape, IGNORED, np.int64)
    targets[:, :-1] = np.where(allowed[:, 1:], tokens[:, 1:].astype(np.int64), IGNORED)
    return targets
