"""Hiding bases: the positions of one base a window, and masked-base pretraining of the models that read ``-ACGT?``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from harness.adapter import IGNORED
from harness.data import Window
from harness.errors import BadData

SHARE = 0.15
BASES, MASK = (1, 5), 5  # A, C, G, T are 1 to 4


def checked_positions(windows: Sequence[Window], positions: Sequence[int]) -> Tensor:
    """The positions of one base in each window, int64 (B,).

    Raises:
        BadData: a position lies outside its window.
    """
    for window, position in zip(windows, positions, strict=True):
        if not 0 <= position < len(window):
            raise BadData(f"position {position}: the window has {len(window)} nt, and it must lie within, counted from 0")
    return torch.tensor(list(positions))


def corrupt(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hide bases of target rows (B, L) in place, as BERT does (Devlin et al. 2019).

    15 % of the bases are chosen: 80 % of these become the mask, 10 % a random base, and 10 % stay. If chance chooses none of a
    window, its first base is chosen, so that no batch is without a target. Tokens other than bases are never chosen.

    Returns the original tokens where chosen and IGNORED elsewhere, int64 (B, L).
    """
    bases = (tokens >= BASES[0]) & (tokens < BASES[1])
    chosen = bases & (rng.random(tokens.shape) < SHARE)
    empty = np.flatnonzero(~chosen.any(axis=1) & bases.any(axis=1))
    chosen[empty, bases[empty].argmax(axis=1)] = True
    targets = np.where(chosen, tokens.astype(np.int64), IGNORED)
    fate = rng.random(tokens.shape)
    random_bases = rng.integers(*BASES, size=tokens.shape, dtype=tokens.dtype)
    tokens[chosen & (fate < 0.8)] = MASK
    replaced = chosen & (fate >= 0.8) & (fate < 0.9)
    tokens[replaced] = random_bases[replaced]
    return targets
