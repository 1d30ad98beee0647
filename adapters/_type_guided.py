"""Type-guided stacking (Wang et al. 2024): a window is read once with each of its likely types, and what is read is merged.

A row is ``[CLS] x [IND] type [SEP]``; the place of the type is its slot. B windows, P pieces of a window, N pieces in all,
T tokens, k types, V vocabulary, D embedding.
"""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.adapter import Batch
from harness.data import Window
from harness.errors import BadData, UserError

from ._batches import PLACES, with_places
from ._rna import RNAModel

SLOTS, WEIGHTS = "slots", "weights"  # of a batch's pieces: where their types go, and their shares in the embedding
RANDOM = "as_released: the dropout of what tells the types is always on, so that no two predictions are alike"
RELEASED_TOKENS, RELEASED_PIECES = 512, 6  # of upstream's rows, and of its long windows


def open_slots(tokens: Tensor, lengths: Tensor, mark: int, end: int) -> Tensor:
    """Make room for types in rows of tokens (…, T), in place; the slots (…), int64.

    Of a row of ``lengths`` (…) tokens, the end token becomes ``mark``; the slot, which keeps what it holds, and a new end token
    follow. Where there is no room for them, the last three tokens are overwritten, as upstream does.
    """
    slots = lengths.clamp(max=tokens.shape[-1] - 2)
    tokens.scatter_(-1, slots[..., None] - 1, mark)
    tokens.scatter_(-1, slots[..., None] + 1, end)
    return slots


def released_pieces(tokens: Tensor, pieces: int, size: int, start: int, end: int, pad: int) -> Tensor:
    """Rows of tokens (B, T) in ``pieces`` of ``size`` tokens (B, P, size), as upstream's collator for long windows makes them.

    A row's tokens after the first, its end token among them, go to the pieces in turn, each between a start and an end token of
    its own; what does not fit is left out. Pieces without any are there, too.
    """
    inner = pieces * (size - 2)
    tokens = F.pad(tokens[:, 1 : 1 + inner], (0, max(inner - tokens.shape[1] + 1, 0)), value=pad)
    return F.pad(F.pad(tokens.unflatten(1, (pieces, size - 2)), (1, 0), value=start), (0, 1), value=end)


def likely_types(logits: Tensor, types: range, top: int) -> tuple[Tensor, Tensor]:
    """Ids and probabilities (B, k) of the most probable types by logits (B, V); the probabilities of these alone sum to 1."""
    highest, order = logits[:, types.start : types.stop].float().topk(top)
    return order + types.start, highest.softmax(dim=-1)  # as softmax over all types, rescaled


def with_types(tokens: Tensor, slots: Tensor, types: Tensor) -> Tensor:
    """Rows of tokens (N, T) once with each of their types (N, k) in their slots (N,): (k, N, T)."""
    versions = tokens.expand(types.shape[1], -1, -1)
    return versions.scatter(-1, slots.expand(versions.shape[:2])[..., None], types.T[..., None])


def merge(found: Tensor, probabilities: Tensor) -> Tensor:
    """The mean (N, …) of what was found with each type (k, N, …), weighted by their probabilities (N, k); float32."""
    return (found * probabilities.T.reshape(*found.shape[:2], *[1] * (found.ndim - 2))).sum(dim=0)


@dataclass(frozen=True)
class Guide:
    """What tells a window's types: a model that is never trained, the indicator, which is asked for the ``types``, token ids.

    It has weights of its own. It reads the mask token in the slot and is asked at the start token, where pretraining asks for
    the type. ``released``: it reads padding or whatever stands in the slot, is asked there, and keeps its dropout, as upstream's.
    """

    indicator: RNAModel
    types: range
    mark: int
    top: int
    released: bool

    @torch.no_grad()
    def logits(self, tokens: Tensor, slots: Tensor, places: Tensor | None = None) -> Tensor:
        """Logits (N, V) of rows of tokens (N, T) at what is asked; ``places`` as in :meth:`Encoder.forward`."""
        encoder, read = self.indicator.encoder, tokens != self.indicator.vocabulary.pad
        if self.released:  # the slot is computed though nothing reads it, so that no padding can be left out
            states = encoder(tokens, read)
            return self.indicator.logits(states.gather(1, slots[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0])
        return self.indicator.logits(encoder(tokens, read, first=1, places=places)[:, 0])

    def read(self, batch: Batch, reader: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Tensor:
        """What ``reader`` makes of a batch's pieces, merged over their types: (B, P, …), zeros for pieces that are not there.

        The reader is given rows of tokens (k · N, T), their slots (k · N,) and, or None, their places. The types are those of
        the window: of a type's logits in the pieces, the highest counts, as in upstream's path for long windows.
        """
        tokens, slots, places = batch["tokens"], batch[SLOTS], batch.get(PLACES)
        pieces = tokens.shape[:2]
        there = (slice(None), 0) if pieces[1] == 1 else batch[WEIGHTS] > 0  # (B, P)
        rows, row_slots = tokens[there], slots[there]
        logits = self.logits(rows, row_slots, places)
        of_pieces = logits.new_full((*pieces, logits.shape[-1]), -torch.inf)
        of_pieces[there] = logits
        found = likely_types(of_pieces.amax(dim=1), self.types, self.top)
        types, probabilities = (it[:, None].expand(*pieces, -1)[there] for it in found)  # (N, k)
        versions = with_types(rows, row_slots, types).flatten(0, 1)
        if places is not None:
            places = (places + torch.arange(self.top, device=places.device)[:, None] * rows.numel()).flatten()
        merged = merge(reader(versions, row_slots.repeat(self.top), places).unflatten(0, (self.top, -1)), probabilities)
        every = merged.new_zeros(*pieces, *merged.shape[1:])
        every[there] = merged
        return every


class TypeGuided(RNAModel, ABC):
    """An RNA model whose vocabulary has types: :meth:`guide_by` turns type-guided stacking on, for fine-tuning alone.

    Embeddings are merged, not logits: as the probabilities sum to 1, a linear head gives the same, but for its dropout. No
    gradient passes through the probabilities. The indicator is no submodule: it is neither trained, adapted nor stored, since
    the weights that a run starts from build it again.
    """

    guide: Guide | None = None

    def guide_by(self, types: range, mark: int, top: int, released: bool) -> None:
        """Read windows guided by their ``top`` types; the indicator is this model as it is now.

        Raises:
            UserError: there is no masked-language head, ``top`` is out of range, or no base has a position.
        """
        if self.lm_head is None:
            source = f"checkpoint {self.audit.source}" if self.audit else self.name
            raise UserError(f"option guided=true: {source} has no masked-language head to tell types with; leave it out")
        if not 1 <= top <= len(types):
            raise UserError(f"option top_k={top}: choose 1 to {len(types)}, the number of types")
        room = self.shape.positions - self.shape.first_position
        piece = min(room, RELEASED_TOKENS) - 2 if released else room - 4
        if piece < 1:
            raise UserError(f"option guided=true: {self.name} has {room} positions; no base is left beside a type; leave it out")
        indicator = copy.deepcopy(self).requires_grad_(False).train(released)
        self.guide, self.piece, self.forward_passes = Guide(indicator, types, mark, top, released), piece, top + 1
        if released and self.audit is not None:
            self.audit = replace(self.audit, warnings=(*self.audit.warnings, RANDOM))
        self.objectives = {}  # pyright: ignore[reportAttributeAccessIssue]
        if self.long == "refuse":
            self.max_length = piece
        elif released:
            if self.pooling == "mean":
                raise UserError("option pooling='mean': the empty pieces of as_released=true have no bases; choose cls or pooler")
            self.max_length = RELEASED_PIECES * piece

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self.guide is not None:  # to the model's device and type
            self.guide.indicator._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def collate(self, windows: Sequence[Window]) -> Batch:
        """As :meth:`RNAModel.collate`; guided, ``tokens`` (B, P, T) with ``slots`` int64 and ``weights`` float32 (B, P)."""
        guide, v = self.guide, self.vocabulary
        if guide is None:
            return super().collate(windows)
        if guide.released and self.long != "refuse":
            return self._collate_released(windows, guide)
        tokens = super().collate(windows)["tokens"]
        tokens = tokens[:, None] if tokens.ndim == 2 else tokens
        width = tokens.shape[2] + 2
        tokens = F.pad(tokens, (0, (min(width, self.piece + 2) if guide.released else width) - tokens.shape[2]), value=v.pad)
        bases = ((tokens != v.pad).sum(dim=-1) - 2).clamp(min=0)  # 0 in a piece that is not there
        there = bases > 0
        slots = torch.zeros_like(bases)
        rows = tokens[there]
        slots[there] = row_slots = open_slots(rows, bases[there] + 2, guide.mark, v.end)
        tokens[there] = rows if guide.released else rows.scatter(-1, row_slots[:, None], v.mask)
        return {"tokens": tokens, SLOTS: slots, WEIGHTS: bases / bases.sum(dim=1, keepdim=True)}

    def _collate_released(self, windows: Sequence[Window], guide: Guide) -> Batch:
        """Every window in as many pieces of full length, all of which count alike."""
        longest, v = max(map(len, windows)), self.vocabulary
        assert self.max_length is not None
        if longest > self.max_length:
            raise BadData(
                f"window of {longest} nt: {self.name} takes at most {self.max_length} with as_released=true; leave that out"
            )
        tokens = released_pieces(self._tokens(windows), RELEASED_PIECES, self.piece + 2, v.start, v.end, v.pad)
        slots = open_slots(tokens, torch.full(tokens.shape[:2], tokens.shape[2]), guide.mark, v.end)
        return {"tokens": tokens, SLOTS: slots, WEIGHTS: torch.full(slots.shape, 1 / RELEASED_PIECES)}

    def for_accelerator(self, batch: Batch) -> Batch:
        if self.guide is None:
            return super().for_accelerator(batch)
        tokens, slots = batch["tokens"], batch[SLOTS]
        if tokens.shape[1] > 1:
            return batch
        read = (tokens != self.vocabulary.pad).scatter(-1, slots[..., None], True)
        return with_places(batch, read)

    def forward(self, batch: Batch) -> Tensor:
        if self.guide is None:
            return super().forward(batch)
        embeddings = self.guide.read(batch, self._embed_typed)  # (B, P, D)
        return (embeddings * batch[WEIGHTS].to(embeddings.dtype)[..., None]).sum(dim=1)

    def _embed_typed(self, tokens: Tensor, slots: Tensor, places: Tensor | None) -> Tensor:
        read, column = tokens != self.vocabulary.pad, torch.arange(tokens.shape[1], device=tokens.device)
        return self.embed(tokens, read, averaged=read & (column > 0) & (column < slots[:, None] - 1), places=places)

    def token_ranges(self, windows: Sequence[Window]) -> Tensor:
        """As of all models; (0, 0) for a base that as_released overwrites."""
        if self.guide is None:
            return super().token_ranges(windows)
        batch = self.collate(windows)
        base = torch.arange(max(map(len, windows)))
        piece, column = base // self.piece, base % self.piece + 1
        held = column < batch[SLOTS][:, piece] - 1  # (B, L)
        held &= base < torch.tensor([len(window) for window in windows])[:, None]
        first = piece * batch["tokens"].shape[2] + column
        return torch.stack([first, first + 1], dim=1) * held[..., None]

    def hidden_states(self, batch: Batch, layer: int | None = None) -> Tensor:
        """States (B, P · T, D) of the pieces in turn, merged over the types, as upstream does for structures."""
        if self.guide is None:
            return super().hidden_states(batch, layer)
        pad = self.vocabulary.pad
        return self.guide.read(
            batch, lambda tokens, slots, places: self.states(tokens, tokens != pad, layer, places=places)
        ).flatten(1, 2)

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """As :meth:`RNAModel.collate_masked`.

        Raises:
            UserError: the model is guided.
        """
        if self.guide is not None:
            raise UserError(f"option guided=true: {self.name} is guided in fine-tuning alone; leave it out to fill in bases")
        return super().collate_masked(windows, positions)
