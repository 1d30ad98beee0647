"""Windows of several lengths in one batch: read without their padding, or run together by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def equal_lengths(batch: Batch, axis: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """For each length in the batch: the examples that have it (bool, B), and their tokens as int64, unpadded along ``axis``."""
    for length in batch["lengths"].unique().tolist():
        same = batch["lengths"] == length
        yield same, batch["tokens"][same].narrow(axis, 0, length).long()
