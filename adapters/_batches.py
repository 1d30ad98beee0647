"""Windows of several lengths in one batch: read without their padding, or run together by length."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.adapter import Batch


def within(lengths: Tensor, size: int) -> Tensor:
    """True (B, size) at the first ``lengths`` (B,) places of each row."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def mean_over(hidden: Tensor, read: Tensor) -> Tensor:
    """Mean (B, D) of hidden states (B, T, D) over the tokens where ``read`` (B, T) is true."""
    return (hidden * read.unsqueeze(-1)).sum(dim=1) / read.sum(dim=1, keepdim=True)


def equal_lengths(batch: Batch, axis: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """For each length in the batch: the examples that have it (bool, B), and their tokens as int64, unpadded along ``axis``."""
    for length in batch["lengths"].unique().tolist():
        same = batch["lengths"] == length
        yield same, batch["tokens"][same].narrow(axis, 0, length).long()
