"""Windows of several lengths in one batch: read without their padding, or run together by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.adapter import Batch
from harness.data import Window


def within(lengths: Tensor, size: int) -> Tensor:
    """True (…, size) at the first ``lengths`` (…) places of each row."""
    return torch.arange(size, device=lengths.device) < lengths[..., None]


def mean_over(hidden: Tensor, read: Tensor) -> Tensor:
    """Mean (B, D) of hidden states (B, T, D) over the tokens where ``read`` (B, T) is true."""
    return (hidden * read.unsqueeze(-1)).sum(dim=1) / read.sum(dim=1, keepdim=True)


def even_ranges(windows: Sequence[Window], before: int = 0, bases: int = 1) -> Tensor:
    """:meth:`BaseResolved.token_ranges` (B, L, 2) where each token holds as many ``bases``, after ``before`` special ones."""
    lengths = torch.tensor([len(window) for window in windows])
    first = before + torch.arange(int(lengths.max())) // bases
    ranges = torch.stack([first, first + 1], dim=1).expand(len(windows), -1, -1)
    return ranges * within(lengths, len(first))[..., None]


PLACES = "places"


def with_places(batch: Batch, read: Tensor) -> Batch:
    """A batch with ``places`` int64 (N,), where ``read`` (…, T) is true in the flattened (… · T): see :class:`Packing`."""
    return {**batch, PLACES: read.flatten().nonzero()[:, 0]}


@dataclass(frozen=True)
class Packing:
    """The N places of a batch (B, T) that hold tokens, so that layers which read tokens one by one compute no padding.

    ``places`` int64 (N,) are numbered row by row. They are found on the CPU (see :meth:`Adapter.for_accelerator`), so that no
    device need be asked how many there are. Attention itself takes padded rows, with the mask as a bias, which torch's
    memory-efficient kernel computes on every card, with dropout and with ALiBi. Of torch's kernels for rows of several lengths,
    ``varlen_attn`` has neither dropout nor a bias, and its arguments changed between 2.10 and 2.13; nested tensors take no bias,
    are a prototype by torch's own warning, and their bookkeeping keeps the host busy for half a millisecond a layer. There is
    little to gain: in a BERT of width 768, attention is 2 % of the products at 100 tokens and 10 % at 512.
    """

    places: Tensor
    rows: int
    tokens: int

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, D) → (N, D)."""
        return x.flatten(0, 1).index_select(0, self.places)

    def pad(self, x: Tensor) -> Tensor:
        """(N, D) → (B, T, D), zeros in padding."""
        return x.new_zeros(self.rows * self.tokens, x.shape[1]).index_copy(0, self.places, x).unflatten(0, (self.rows, -1))


def equal_lengths(batch: Batch, axis: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """For each length in the batch: the examples that have it (bool, B), and their tokens as int64, unpadded along ``axis``."""
    for length in batch["lengths"].unique().tolist():
        same = batch["lengths"] == length
        yield same, batch["tokens"][same].narrow(axis, 0, length).long()
