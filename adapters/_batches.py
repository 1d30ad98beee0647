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


PLACES, ROWS = "places", "rows."


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


ROUNDED = 16  # queries of a row: of each other number, oneDNN would compile and keep products of its own


@dataclass(frozen=True)
class Asked:
    """The M places of a batch (B, T) whose states alone are wanted of the last block, for a head that reads no others.

    ``places`` int64 (M,) are numbered row by row, and one may be named more than once. ``grid`` int64 (B, A) holds those of each
    row, filled up by its first token, so that they are queries of one attention; ``slots`` (M,) are the places in its flattened
    (B · A).
    """

    places: Tensor
    grid: Tensor
    slots: Tensor
    tokens: int

    @classmethod
    def of(cls, places: Tensor, rows: int, tokens: int) -> Asked:
        wanted = torch.zeros(rows * tokens, dtype=torch.bool)
        wanted[places] = True
        wanted = wanted.view(rows, tokens)
        size = min(-(-max(int(wanted.sum(dim=1).max()), 1) // ROUNDED) * ROUNDED, tokens)
        slots = (torch.arange(rows)[:, None] * size + wanted.cumsum(dim=1) - 1).flatten()
        grid = (torch.arange(rows) * tokens).repeat_interleave(size)
        every = wanted.flatten().nonzero()[:, 0]
        grid[slots[every]] = every
        return cls(places, grid.view(rows, size), slots[places], tokens)

    def select(self, x: Tensor) -> Tensor:
        """(B, T, D) → (M, D)."""
        return x.flatten(0, 1).index_select(0, self.places)

    def queries(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, A, D)."""
        return x.flatten(0, 1).index_select(0, self.grid.flatten()).view(*self.grid.shape, -1)

    def answers(self, x: Tensor) -> Tensor:
        """(B, A, D) → (M, D)."""
        return x.flatten(0, 1).index_select(0, self.slots)

    def mask(self, mask: Tensor) -> Tensor:
        """What broadcasts to (B, H, T, T), for these queries: it then broadcasts to (B, H, A, T)."""
        if mask.shape[2] == 1:
            return mask
        rows = torch.arange(len(self.grid))[:, None]
        return mask.expand(len(rows), -1, -1, -1)[rows, :, self.grid % self.tokens].transpose(1, 2)


def with_rows(batch: Batch) -> Batch:
    """A batch with the rows of each length, int64, under names such as ``rows.87``, from which the lengths are read."""
    lengths = batch["lengths"]
    return {**batch, **{f"{ROWS}{length}": (lengths == length).nonzero()[:, 0] for length in lengths.unique().tolist()}}


def equal_lengths(batch: Batch, axis: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """For each length in the batch: the rows that have it, as an index, and their tokens as int64, unpadded along ``axis``.

    A device need not be asked for the lengths where they were found on the CPU, by :func:`with_rows`.
    """
    found = {int(name.removeprefix(ROWS)): rows for name, rows in batch.items() if name.startswith(ROWS)}
    lengths = batch["lengths"]
    for length in found or lengths.unique().tolist():
        rows = found[length] if found else lengths == length
        yield rows, batch["tokens"][rows].narrow(axis, 0, length).long()
