"""Masked-base pretraining of the models that read ``-ACGT?`` (Devlin et al. 2019's 80/10/10, on the target row only)."""

from __future__ import annotations

import numpy as np

from harness.adapter import IGNORED

SHARE = 0.15
BASES, MASK = (1, 5), 5  # A, C, G, T are 1 to 4


def corrupt(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hide bases of target rows (B, L) in place; returns what they were, int64 (B, L), and IGNORED elsewhere.

    Of the chosen bases, 80 % become the mask, 10 % a random base, 10 % stay. What is no base is never chosen; a window
    in which chance chose nothing has its first base chosen, so that no batch is without a target.
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
