"""What the language heads of ``transformers`` say: masked ones fill in bases, causal ones weigh whole windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.adapter import Batch
from harness.data import Window
from harness.errors import BadData

from ._batches import within
from ._hf_letters import NONE
from ._masking import checked_positions

if TYPE_CHECKING:
    from .hf import HF as _HF
else:
    _HF = object


class Masked(_HF):
    """The masked-language head, asked for the four bases at one position (see :meth:`._hf_letters.Reader.hide`)."""

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """As :meth:`collate`, with the tokens masked that show the base.

        Adds ``masked`` (B,), the index of the mask to read, and ``candidates`` int64 (B, 4, C), for each of A, C, G and T the
        ids of the tokens that put it there, filled up with -1.

        Raises:
            BadData: a position lies outside its window, or a window is too short to have a token.
        """
        at = checked_positions(windows, positions).tolist()
        if (shortest := min(map(len, windows))) < self.reader.needs:
            raise BadData(f"window of {shortest} nt: {self.name} needs {self.reader.needs} or more to fill in a base")
        hidden = [self.reader.hide(window.sequence, position) for window, position in zip(windows, at, strict=True)]
        size = max(len(ids) for one in hidden for ids in one.candidates)
        candidates = np.full((len(windows), 4, size), NONE, np.int64)
        for row, one in zip(candidates, hidden, strict=True):
            for target, ids in zip(row, one.candidates, strict=True):
                target[: len(ids)] = ids
        first = len(self.vocabulary.before)
        masked = torch.tensor([one.masked + first for one in hidden])
        batch = self._batch([one.ids for one in hidden], windows)
        return {**batch, "masked": masked, "candidates": torch.from_numpy(candidates)}

    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """(B, 4) over A, C, G and T alone: the probabilities of a base's tokens are summed, and the four rescaled."""
        tokens, candidates = batch["tokens"], batch["candidates"]
        read = within(batch["lengths"], tokens.shape[1])
        logits = self.model(input_ids=tokens, attention_mask=read.long()).logits
        rows = torch.arange(len(tokens), device=tokens.device)
        at = logits[rows, batch["masked"]].float()
        scores = at.gather(1, candidates.clamp(min=0).flatten(1)).view_as(candidates)
        return scores.masked_fill(candidates == NONE, -torch.inf).logsumexp(dim=-1).log_softmax(dim=-1)


class Causal(_HF):
    """The causal head, asked for the probability of each token after those before it."""

    def log_likelihood(self, batch: Batch) -> Tensor:
        """See :meth:`CausalModel.log_likelihood`; a token that ends every sequence does not count."""
        tokens = batch["tokens"]
        read = within(batch["lengths"], tokens.shape[1])
        logits: Any = self.model(input_ids=tokens, attention_mask=read.long()).logits[:, :-1]
        each = -F.cross_entropy(logits.float().transpose(1, 2), tokens[:, 1:], reduction="none")
        return (each * self.content(batch)[:, 1:]).sum(dim=1)
