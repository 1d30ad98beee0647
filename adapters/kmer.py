"""kmer: logistic regression on the counts of all 1- to 6-mers, a floor that many published models do not reach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from harness.adapter import Adapter, Batch
from harness.card import ModelCard
from harness.data import Window, letter_table, letters
from harness.recipe import Recipe

LARGEST_K = 6
_DIGITS = letter_table({"A": 0, "C": 1, "G": 2, "T": 3}, default=-1)


def kmer_indices(text: np.ndarray, k: int) -> np.ndarray:
    """The k-mer at every position as a base-4 number with digits A, C, G, T; -1 if it holds another letter.

    ``text``: uint8 (windows, length) of ASCII letters. Returns int64 (windows, length - k + 1), empty for short text.
    """
    digits = _DIGITS[text]
    positions = max(digits.shape[1] - k + 1, 0)
    index = np.zeros((len(digits), positions), np.int64)
    valid = np.ones_like(index, dtype=bool)
    for offset in range(k):
        digit = digits[:, offset : offset + positions]
        index = index * 4 + digit
        valid &= digit >= 0
    return np.where(valid, index, -1)


class KmerCounts(Adapter):
    """Embedding: the counts of every k-mer for k = 1 to 6, each k's 4^k counts scaled to unit length, concatenated (5,460)."""

    name: ClassVar[str] = "kmer"
    card = ModelCard(
        summary="logistic regression on 1- to 6-mer counts",
        paper="none",
        licence="Apache-2.0",
        alphabet="ACGTN",
        parameters="10,922",
        floor=True,
    )
    recipe = Recipe(tune="probe")
    embedding_dim = sum(4**k for k in range(1, LARGEST_K + 1))

    @classmethod
    def from_checkpoint(cls, checkpoint: Path | None = None, *, size: str = "base") -> Self:
        return cls()

    def collate(self, windows: Sequence[Window]) -> Batch:
        text = letters(windows)
        counts = []
        for k in range(1, LARGEST_K + 1):
            index = kmer_indices(text, k)
            row, position = np.nonzero(index >= 0)
            flat = np.bincount(row * 4**k + index[row, position], minlength=len(text) * 4**k)
            count = flat.reshape(len(text), 4**k).astype(np.float32)
            # In numpy: on small arrays, torch's threads wait for each other far longer than they compute.
            counts.append(count / np.sqrt(np.square(count).sum(axis=1, keepdims=True)).clip(min=1e-12))
        return {"counts": torch.from_numpy(np.concatenate(counts, axis=1))}

    def forward(self, batch: Batch) -> Tensor:
        return batch["counts"]
