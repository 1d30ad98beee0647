"""Which cells of a batch of alignments MSAMamba computes: those of two windows that must come out equal are computed once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def first_alike(tokens: Tensor) -> Tensor:
    """For each window of tokens (B, S, L), the first one of its run, int64 (B,).

    The windows of a run have the same auxiliary rows, but each another target row than the window before, as the reference and
    the alternate window of a variant. Copies of one window do not share: gradients give each copy other embeddings.
    """
    same = (tokens[1:] == tokens[:-1]).flatten(2).all(dim=-1)  # (B - 1, S)
    joined = F.pad(same[:, 1:].all(dim=1) & ~same[:, 0], (1, 0))
    return torch.arange(len(tokens), device=tokens.device).masked_fill(joined, 0).cummax(dim=0).values


class Cells:
    """The way of a batch's cells (B, S, L) between tables of rows (R, L, D), to scan, and of columns (U, S, D), to attend to.

    In the first block, a run of windows (see :func:`first_alike`) has its auxiliary rows once. In every block it has each column
    once that lies left of the first difference between two windows, as scans run from left to right. So it is on a CPU;
    elsewhere, where finding out would keep the device waiting, each window has its own.

    ``order`` (B, S) are the numbers of each window's rows (None: all in order), of which the first ``kept`` are scanned; equal
    within a run. The scanned rows come first in each table of rows and in each column.

    ``rows`` (R,) are the first block's rows, as numbers b · S + s, of which the first ``scanned`` are scanned; None for all.
    ``order`` (U, S) are the numbers of the rows in each column.
    """

    def __init__(self, tokens: Tensor, order: Tensor | None, kept: int) -> None:
        (B, S, L), device = tokens.shape, tokens.device
        self.shape, self.kept = (B, S, L), kept
        everyone, own = torch.arange(B, device=device), torch.ones(B, S, dtype=torch.bool, device=device)
        cells = everyone[:, None] * S + (torch.arange(S, device=device) if order is None else order)
        self.first = self.later = self._numbers(own)
        self.rows, self.scanned = None if order is None else self._listed(cells), B * kept
        self.window, self.position = everyone.repeat_interleave(L), torch.arange(L, device=device).repeat(B)
        self.column = torch.arange(B * L, device=device).view(B, L)
        if S > 1 and tokens.is_cpu and bool(((first := first_alike(tokens)) < everyone).any()):
            alone = (first == everyone)[:, None]
            own[:, 1:] = alone
            self.first = self._numbers(own)
            self.first[:, 1:] = self.first[first, 1:]
            self.rows, self.scanned = self._listed(cells)[self._listed(own)], int(own[:, :kept].sum())
            new = F.pad((tokens[1:] != tokens[:-1]).any(dim=1), (0, 0, 1, 0)).cummax(dim=1).values | alone
            self.window, self.position = new.nonzero(as_tuple=True)
            owner = everyone[:, None].masked_fill(~new, 0).cummax(dim=0).values
            self.column = (new.flatten().cumsum(0) - 1).view(B, L).gather(0, owner)
        self.order = None if order is None else order[self.window]

    def columns(self, rows: Tensor, first: bool, at: Tensor | None = None) -> Tensor:
        """Those (U, S, D) of the rows of the first or a later block, or (B, S, D) those ``at`` (B,) alone."""
        _, S, L = self.shape
        if S == 1 and at is None:
            return rows.flatten(0, 1).unsqueeze(1)
        number = self.first if first else self.later
        cells = number[self.window] * L + self.position[:, None] if at is None else number * L + at[:, None]
        return _picked(rows.flatten(0, 1), cells)

    def back(self, columns: Tensor) -> Tensor:
        """The rows (B · S, L, D) of a later block."""
        B, S, L = self.shape
        if S == 1:
            return columns.view(B, L, -1)
        cells = self.column[:, None] * S + torch.arange(S, device=columns.device)[:, None]  # (B, S, L)
        return _picked(columns.flatten(0, 1), self._listed(cells))

    def windows(self, columns: Tensor) -> Tensor:
        """Columns (U, D) → (B, L, D)."""
        return columns.view(*self.column.shape, -1) if len(columns) == self.column.numel() else _picked(columns, self.column)

    def _listed(self, x: Tensor) -> Tensor:
        """(B, S, …) → (B · S, …), the scanned rows first."""
        return torch.cat([x[:, : self.kept].flatten(0, 1), x[:, self.kept :].flatten(0, 1)])

    def _numbers(self, own: Tensor) -> Tensor:
        """The number (B, S) that each of ``own`` (B, S) has in the table of these rows; that of others means nothing."""
        B, S, _ = self.shape
        scanned, left = (self._listed(own).cumsum(0) - 1).split([B * self.kept, B * (S - self.kept)])
        return torch.cat([scanned.view(B, -1), left.view(B, -1)], dim=1)


def _picked(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]``, whose backward pass adds up in one order, whatever the number of threads."""
    return table.index_select(0, index.flatten()).view(*index.shape, -1)
