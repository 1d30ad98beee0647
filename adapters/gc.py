"""gc: logistic regression on base composition, the lowest floor for any model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from harness.adapter import Adapter, Batch
from harness.card import ModelCard
from harness.data import Window, letters
from harness.recipe import Recipe


class BaseComposition(Adapter):
    """Embedding: the frequencies of A, C, G and T among all letters of a window, N included."""

    name: ClassVar[str] = "gc"
    card = ModelCard(
        summary="logistic regression on base composition",
        paper="none",
        licence="Apache-2.0",
        alphabet="ACGTN",
        parameters="10",
        floor=True,
    )
    recipe = Recipe(tune="probe")
    embedding_dim = 4

    @classmethod
    def from_checkpoint(cls, checkpoint: Path | None = None, *, size: str = "base") -> Self:
        return cls()

    def collate(self, windows: Sequence[Window]) -> Batch:
        text = letters(windows)
        counts = np.stack([(text == ord(base)).sum(axis=1) for base in "ACGT"], axis=1).astype(np.float32)
        lengths = np.array([len(window) for window in windows], np.float32)
        return {"shares": torch.from_numpy(counts / lengths[:, None])}

    def forward(self, batch: Batch) -> Tensor:
        return batch["shares"]
