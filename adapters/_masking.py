"""Hiding tokens: the positions of one base a window, and the corruption that masked models are pretrained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from harness.adapter import IGNORED, Batch
from harness.data import Window
from harness.errors import BadData, UserError
from harness.objective import Objective


def checked_positions(windows: Sequence[Window], positions: Sequence[int]) -> Tensor:
    """The positions of one base in each window, int64 (B,).

    Raises:
        BadData: a position lies outside its window.
    """
    for window, position in zip(windows, positions, strict=True):
        if not 0 <= position < len(window):
            raise BadData(f"position {position}: the window has {len(window)} nt, and it must lie within, counted from 0")
    return torch.tensor(list(positions))


class Fates(NamedTuple):
    """What chosen tokens become, (B, T) each: the mask where ``masked``, else one of ``ids`` where ``random``, else the same."""

    masked: np.ndarray
    random: np.ndarray
    ids: np.ndarray


def draw_fates(rng: np.random.Generator, shape: tuple[int, ...], ids: np.ndarray) -> Fates:
    """As BERT does (Devlin et al. 2019): 80 % the mask, 10 % one of ``ids`` at random, 10 % unchanged."""
    fate = rng.random(shape, dtype=np.float32)
    return Fates(fate < 0.8, fate < 0.9, ids[rng.integers(len(ids), size=shape)])


def hide(tokens: np.ndarray, chosen: np.ndarray, fates: Fates, mask: int) -> np.ndarray:
    """Corrupt tokens (B, T) in place where ``chosen`` (B, T); their ids there, IGNORED elsewhere, int64 (B, T)."""
    targets = np.where(chosen, tokens.astype(np.int64), IGNORED)
    replaced = chosen & fates.random & ~fates.masked
    tokens[replaced] = fates.ids[replaced]
    tokens[chosen & fates.masked] = mask
    return targets


class Maskable(Protocol):
    """What hiding tokens needs to know of a model: the mask's id, and the ids that one may be replaced by, int64 (n,)."""

    mask_id: int
    random_ids: np.ndarray

    def collate(self, windows: Sequence[Window]) -> Batch: ...

    def hideable(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The tokens (B, T) of a :meth:`collate` batch that may be hidden, a view of it, and True (B, T) where they may."""
        ...


class Token(Objective):
    """A share of the tokens is hidden, each by itself; one of a window at least, where any may be."""

    def __init__(self, *, share: float = 0.15) -> None:
        if not 0 < share < 1:
            raise UserError(f"option share={share}: must be above 0 and below 1")
        self.share = share

    def collate(self, adapter: Any, windows: Sequence[Window], rng: np.random.Generator, progress: float | None = None) -> Batch:
        model: Maskable = adapter
        batch = model.collate(windows)
        tokens, allowed = (it.numpy() for it in model.hideable(batch))
        chosen = allowed & (rng.random(tokens.shape, dtype=np.float32) < self.share)
        empty = np.flatnonzero(~chosen.any(axis=1) & allowed.any(axis=1))
        chosen[empty, allowed[empty].argmax(axis=1)] = True
        targets = hide(tokens, chosen, draw_fates(rng, tokens.shape, model.random_ids), model.mask_id)
        return batch | {"targets": torch.from_numpy(targets)}


class Vote(Token):
    """:class:`Token` of a target row, whose bases the other rows of an alignment tell."""

    yardstick = "vote"
