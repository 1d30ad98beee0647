"""States of bases: what the tokens that hold a base have learnt of it, whatever a model's tokens are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.adapter import Adapter, BaseResolved, Batch
from harness.data import Example
from harness.errors import UserError

RANGES = "token_ranges"  # what they are called in a batch


def of_bases(states: Tensor, ranges: Tensor) -> Tensor:
    """States of bases (B, L, D) from those of tokens (B, T, D): the mean over a base's tokens, ``ranges`` (B, L, 2).

    NaN where no token holds the base (see :meth:`BaseResolved.token_ranges`).
    """
    first, count = ranges[..., :1], ranges[..., 1:] - ranges[..., :1]
    total = states.new_zeros(*first.shape[:2], states.shape[-1])
    for step in range(int(count.max())):
        inside = step < count
        at = torch.where(inside, first + step, 0).expand_as(total)
        total += states.gather(1, at) * inside
    return total / count


class BaseReader(nn.Module):
    """A model that is read base by base after a block, by default where it pools. Takes a classifier's place in :mod:`.predict`.

    Raises:
        UserError: the model has no states of tokens, or no such block.
    """

    def __init__(self, adapter: Adapter, layer: int | None = None) -> None:
        super().__init__()
        if not isinstance(adapter, BaseResolved):
            raise UserError(f"model {adapter.name!r}: has no states of bases; leave --per-base and --layer out")
        if layer is not None and not 1 <= layer <= adapter.blocks:
            raise UserError(f"layer {layer}: {adapter.name} has 1 to {adapter.blocks}; leave it out for what the model pools")
        self.adapter, self.layer = adapter, layer

    def collate(self, examples: Sequence[Example]) -> Batch:
        """The adapter's batch of the examples' only windows, with ``token_ranges`` (B, L, 2)."""
        assert isinstance(self.adapter, BaseResolved)
        windows = [window for example in examples for window in example.windows]
        return self.adapter.collate(windows) | {RANGES: self.adapter.token_ranges(windows)}

    def forward(self, batch: Batch) -> Tensor:
        """States of bases (B, L, D) as float32; see :func:`of_bases`."""
        assert isinstance(self.adapter, BaseResolved)
        batch = dict(batch)
        ranges = batch.pop(RANGES)
        return of_bases(self.adapter.hidden_states(batch, self.layer).float(), ranges)

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings (B, D) as float32: the mean over a window's bases, those left out that no token holds."""
        return self(batch).nanmean(dim=1)
