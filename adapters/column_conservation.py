"""column_conservation: the alignment's column at the window's centre, with nothing learnt; a floor for alignment models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from harness.adapter import Adapter, Batch
from harness.card import ModelCard
from harness.data import Window
from harness.errors import UserError
from harness.recipe import Recipe

BASES = b"ACGT"
BACKGROUND = 1 / len(BASES)
PSEUDOCOUNT = 1.0  # in rows, spread over the background, so that a letter that no row has is improbable but not impossible


class ColumnConservation(Adapter):
    """Embedding: three statistics of the column at the window's centre, index ``len // 2``, over the rows other than the target.

    1. Conservation (Capra & Singh 2007, Bioinformatics 23:1875): the Jensen-Shannon divergence, in bits, of the column's base
       frequencies from uniform ones, times the share of rows with a base; 0 if no row has one, at most 0.549.
    2. The natural logarithm of the frequency in the column of the target's base, after adding one row of uniform bases; for N,
       of a uniform base. Its difference between a variant's two windows is the column's log-likelihood ratio.
    3. The share of rows with a base.

    As the target's row is left out, both windows of a SNV have the same conservation. The changed window of a deletion has the
    column that follows at its centre, that of an insertion one of gaps. Rows are not weighted, and
    neighbouring columns are not used.
    """

    name: ClassVar[str] = "column_conservation"
    card = ModelCard(
        summary="conservation and letter frequency of the alignment's column at the window's centre",
        paper="Capra & Singh 2007, Bioinformatics 23:1875",
        licence="Apache-2.0",
        alphabet="ACGTN",
        reads="score",
    )
    recipe = Recipe(tune="probe")
    embedding_dim = 3

    @classmethod
    def from_checkpoint(cls, checkpoint: Path | None = None, *, size: str = "base") -> Self:
        return cls()

    def collate(self, windows: Sequence[Window]) -> Batch:
        counts, rows = np.zeros((len(windows), len(BASES))), np.zeros(len(windows))
        own = np.full(len(windows), -1)
        for number, window in enumerate(windows):
            if window.alignment is None or len(window.alignment) < 2:
                raise UserError(f"{self.name}: a window without an alignment of two rows or more; give one with --msa")
            column = window.alignment[:, len(window) // 2]
            rows[number], own[number] = len(column) - 1, BASES.find(column[0])
            counts[number] = [np.count_nonzero(column[1:] == base) for base in BASES]
        present = counts.sum(axis=1)
        share = present / rows
        frequencies = np.where(present[:, None] > 0, counts / np.maximum(present, 1)[:, None], BACKGROUND)
        smoothed = (counts + PSEUDOCOUNT * BACKGROUND) / (present + PSEUDOCOUNT)[:, None]
        likelihood = np.where(own >= 0, smoothed[np.arange(len(windows)), own], BACKGROUND)
        features = np.stack([share * divergence(frequencies), np.log(likelihood), share], axis=1)
        return {"columns": torch.from_numpy(features.astype(np.float32))}

    def forward(self, batch: Batch) -> Tensor:
        return batch["columns"]


def divergence(frequencies: np.ndarray) -> np.ndarray:
    """The Jensen-Shannon divergence (B,), in bits, of letter frequencies (B, 4) from uniform ones."""
    middle = (frequencies + BACKGROUND) / 2
    logarithm = np.log2(frequencies / middle, where=frequencies > 0, out=np.zeros_like(frequencies))
    return (frequencies * logarithm + BACKGROUND * np.log2(BACKGROUND / middle)).sum(axis=1) / 2
