"""DNABERT's objective: k k-mers in a row are hidden together, as each of them alone could be read off its neighbours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from harness.adapter import Adapter, Batch
from harness.data import Window
from harness.errors import UserError
from harness.objective import Objective

from ._kmer_bert import KmerBert
from ._masking import draw_fates, hide
from ._options import checked

LENGTHS = ("full", "published")
RAISED_FROM = 100_000 / 120_000  # of all steps: from there on, more is hidden
SHARE, RAISED_SHARE = 0.15, 0.2


def span_offsets(k: int) -> np.ndarray:
    """Where the k tokens of a span lie from its centre: the centre, then those before it, then those after it, (k,)."""
    return np.array([0, *range(-((k - 1) // 2), 0), *range(1, k // 2 + 1)])


def reach(columns: np.ndarray, offsets: np.ndarray, tokens: int) -> np.ndarray:
    """The columns (N, W) at ``offsets`` (W,) from each of ``columns`` (N,), at most the first and the last one of a row.

    Both are special tokens in every row, so that they stand for what lies outside.
    """
    return (columns[:, None] + offsets).clip(0, tokens - 1)


def spread(rows: np.ndarray, columns: np.ndarray, offsets: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """True (B, T) at the eligible tokens that lie at ``offsets`` from one of those given by ``rows`` and ``columns`` (N,)."""
    chosen = np.zeros_like(eligible)
    chosen[rows[:, None], reach(columns, offsets, eligible.shape[1])] = True
    return chosen & eligible


def spans(centres: np.ndarray, eligible: np.ndarray, k: int) -> np.ndarray:
    """The tokens (B, T) that DNABERT's ``mask_tokens`` hides: the k around each of the ``centres`` (B, T), where eligible."""
    rows, columns = np.nonzero(centres)
    return spread(rows, columns, span_offsets(k), eligible)


class Contiguous(Objective, ABC):
    """Centres are drawn at random, and what is hidden lies around them: 80/10/10 per token, not per span.

    Random tokens are drawn from the whole vocabulary, special ones included, as upstream. A k-mer with N is never hidden,
    unlike upstream, and padding is not attended to. A window has room for at least one span, 2k - 1 nt.

    With ``lengths`` ``published``, half of the windows are cut to a random length, as in the authors' data (theirs may be too
    short to hold a k-mer, which their code cannot mask).
    """

    def __init__(self, lengths: str) -> None:
        self.lengths = checked("lengths", lengths, LENGTHS)

    def attach(self, adapter: Adapter) -> None:
        assert isinstance(adapter, KmerBert)
        if adapter.long != "refuse":
            raise UserError(f"option long={adapter.long!r}: pretraining reads windows in one piece; leave the option out")
        self.k = adapter.k
        self.shortest = 2 * self.k - 1

    @abstractmethod
    def rate(self, progress: float | None) -> float:
        """The probability of a token to be a centre."""

    @abstractmethod
    def choose(self, tokens: np.ndarray, centres: np.ndarray, eligible: np.ndarray) -> np.ndarray:
        """The tokens to hide, of those that are eligible, around the centres: (B, T) each."""

    def collate(
        self, adapter: Adapter, windows: Sequence[Window], rng: np.random.Generator, progress: float | None = None
    ) -> Batch:
        assert isinstance(adapter, KmerBert)
        batch = adapter.collate(self._cut(windows, rng) if self.lengths == "published" else windows)
        tokens, eligible = (it.numpy() for it in adapter.hideable(batch))
        centres = eligible & (rng.random(tokens.shape, dtype=np.float32) < self.rate(progress))
        chosen = self.choose(tokens, centres, eligible)
        targets = hide(tokens, chosen, draw_fates(rng, tokens.shape, adapter.random_ids), adapter.mask_id)
        return batch | {"targets": torch.from_numpy(targets)}

    def _cut(self, windows: Sequence[Window], rng: np.random.Generator) -> list[Window]:
        """Each window whole with probability 0.5, else its first letters, a uniform share of them, but ``shortest`` at least."""
        whole, shares = rng.random(len(windows)) < 0.5, rng.random(len(windows))
        return [
            window if full else Window(window.sequence[: max(int(share * len(window)), self.shortest)])
            for window, full, share in zip(windows, whole, shares, strict=True)
        ]


class Span(Contiguous):
    """DNABERT's: a share of the tokens is hidden in runs of k, by default 15 %, and 20 % in the last sixth of the steps.

    Held-out windows have 15 % throughout. A ``share`` that is given holds for all steps and windows. ``as_released``: a token is
    a centre with probability share / k, throughout; upstream's code has no switch, and hides 14.1 % at k = 6 instead of 15 %,
    because spans overlap.
    """

    def __init__(self, *, share: float = 0.0, as_released: bool = False, lengths: str = "full") -> None:
        super().__init__(lengths)
        if not 0 <= share < 1:
            raise UserError(f"option share={share}: must be above 0 and below 1, or 0 for the published 15 to 20 %")
        self.share, self.as_released = share, as_released

    def rate(self, progress: float | None) -> float:
        raised = progress is not None and progress >= RAISED_FROM and not self.as_released
        share = self.share or (RAISED_SHARE if raised else SHARE)
        return share / self.k if self.as_released else 1 - (1 - share) ** (1 / self.k)

    def choose(self, tokens: np.ndarray, centres: np.ndarray, eligible: np.ndarray) -> np.ndarray:
        return spans(centres, eligible, self.k)
