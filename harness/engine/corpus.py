"""What pretraining reads: windows to train on, drawn at random, and others that are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch.nn.functional as F

from harness.adapter import IGNORED, Adapter, Batch
from harness.data import Locus, Window
from harness.errors import BadData, UserError
from harness.objective import Objective, Source

from .yardsticks import Yardstick, yardstick

CONTEXTS_PER_BLOCK = 16
HELD_OUT_SHARE = 0.1  # of all blocks
MAX_MISSES = 10_000  # unusable windows drawn in a row
ASKED_AT_ONCE = 64  # places


class Corpus:
    """Windows of a source: drawn at random for training, and a fixed set from held-out blocks for validation.

    Every stretch is cut into blocks of 16 contexts; they are shorter, but no shorter than a context, where the longest
    stretch would make fewer than ten. The last block of a stretch takes the remainder. A stretch shorter than the context is a
    block and a window, if it is whole, and else left out. A tenth of all blocks, at least one, is held out, whatever the seed
    of training. Training windows start anywhere but never overlap a held-out block; each letter is about equally often in one.
    A window is usable if at least half of it is known; others are drawn again.

    ``regions`` restricts where windows start, training and held-out ones (see :meth:`Objective.regions`). With ``both_strands``,
    half of the training windows are read as their reverse complement. Windows have at least ``shortest`` nt.

    Raises:
        UserError: the context is too long for one block to train on and one to hold out.
        BadData: no training window may start anywhere.
    """

    def __init__(
        self,
        source: Source,
        context: int,
        *,
        shortest: int = 1,
        both_strands: bool = False,
        regions: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.source, self.context, self.both_strands, self.regions = source, context, both_strands, regions
        self.skipped = 0
        longest = max(end - start for _, start, end in source.stretches)
        self.block = min(CONTEXTS_PER_BLOCK * context, max(longest // 10, context))
        usable = [it for it in source.stretches if it[2] - it[1] >= (min(shortest, context) if source.whole else context)]
        self.too_short = len(source.stretches) - len(usable)
        names, starts, ends = [], [np.zeros(0, int)], [np.zeros(0, int)]
        for number, (_, start, end) in enumerate(usable):
            edges = np.arange(start, max(end - self.block, start) + 1, self.block)
            names += [number] * len(edges)
            starts.append(edges)
            ends.append(np.append(edges[1:], end))
        if len(names) < 2:
            if source.whole and longest < max(shortest, 2):
                raise UserError(
                    f"{source.path}: its longest sequence has {longest} nt; windows of at least {shortest} are needed"
                )
            raise UserError(
                f"context {context}: {source.path} spans {longest:,} positions, and one window to train on and one held out "
                f"need {2 * context:,}; choose --context {longest // 2} or less"
            )
        stretch, first, last = np.array(names), np.concatenate(starts), np.concatenate(ends)
        self._names = [name for name, _, _ in usable]
        chosen = np.random.default_rng(0).permutation(len(first))[: max(1, round(HELD_OUT_SHARE * len(first)))]
        held_out = np.zeros(len(first), bool)
        held_out[chosen] = True
        self._held_out = [(self._names[stretch[index]], int(first[index]), int(last[index])) for index in chosen]
        # Adjacent training blocks are joined into pieces, within which windows may start anywhere.
        broken = np.append(True, held_out[1:] | held_out[:-1] | (stretch[1:] != stretch[:-1]))
        opens, closes = broken & ~held_out, np.append(broken[1:], True) & ~held_out
        self._stretch, self._firsts, self._ends = stretch[opens], first[opens], last[closes]
        sizes = self._ends - self._firsts
        self.letters = int(sizes.sum())
        self._starts = np.maximum(sizes - context + 1, 1)  # possible ones in each piece
        weights = np.maximum(sizes - context + 1, np.minimum(sizes, context))
        self._choices = None
        if regions is not None:
            chosen_starts = [self._within(*piece) for piece in zip(self._stretch, self._firsts, self._ends, strict=True)]
            self._choices = np.concatenate(chosen_starts)
            weights = np.array([len(one) for one in chosen_starts])
            if not len(self._choices):
                raise BadData(f"{source.path}: none of the regions to draw from lies in the blocks that are trained on")
        self._weights = np.cumsum(weights)
        self._blocks = len(first)

    def draw(self, rng: np.random.Generator, count: int) -> list[Window]:
        """As :meth:`sample`; what was skipped is counted in ``skipped``."""
        windows, skipped = self.sample(rng, count)
        self.skipped += skipped
        return windows

    def sample(self, rng: np.random.Generator, count: int) -> tuple[list[Window], int]:
        """``count`` training windows, and how many unusable ones were skipped.

        Changes nothing but ``rng``, so that a thread may make batches ahead.

        Raises:
            BadData: 10,000 windows in a row are unusable.
        """
        found: list[Window] = []
        skipped = misses = 0
        while len(found) < count:
            name, start, end = self._place(int(rng.integers(self._weights[-1])))
            window = self._window(name, start, end, self._strand(rng))
            if window is not None:
                found.append(window)
                misses = 0
                continue
            skipped += 1
            misses += 1
            if misses == MAX_MISSES:
                raise BadData(
                    f"{self.source.path}: in {misses:,} windows of {self.context} nt {self._unknown()}; "
                    "give one of which more is known, or a shorter --context"
                )
        return found, skipped

    def held_out(self, count: int) -> list[Window]:
        """At most ``count`` windows that tile the held-out blocks without overlap, in random order.

        Raises:
            BadData: none is usable.
        """
        tiles = [tile for block in self._held_out for tile in self._tiles(*block)]
        if not tiles:
            raise BadData(
                f"{self.source.path}: none of the regions to draw from lies in the {len(self._held_out)} held-out blocks; let "
                "the objective select more of them, or give more data"
            )
        found: list[Window] = []
        for index in np.random.default_rng(0).permutation(len(tiles)):
            window = self._window(*tiles[index])
            if window is not None:
                found.append(window)
            if len(found) == count:
                break
        if not found:
            raise BadData(
                f"{self.source.path}: in every window of {self.context} nt that is held out, {self._unknown()}; "
                "give one of which more is known, or a shorter --context"
            )
        return found

    def texts(self) -> Iterator[str]:
        """The letters of each piece that is trained on."""
        for number, first, end in zip(self._stretch, self._firsts.tolist(), self._ends.tolist(), strict=True):
            yield self.source.window(Locus(self._names[number], first, end)).sequence

    def passes(self, windows: int) -> int:
        """The pass over the training blocks, counted from 1, that is under way after this many windows."""
        return 1 + windows * self.context // self.letters

    def facts(self) -> dict[str, Any]:
        """What a record says of the corpus; lengths in positions."""
        return {
            "rows": len(self.source.facts().get("species", (None,))),
            "block": self.block,
            "blocks": self._blocks,
            "held_out_blocks": len(self._held_out),
            "training_letters": self.letters,
            "too_short": self.too_short,
            "regions": None if self._choices is None else len(self._choices),
        }

    def _place(self, index: int) -> tuple[str, int, int]:
        """The window, as the name of its stretch, start and end, that a number below the sum of all weights draws."""
        piece = int(np.searchsorted(self._weights, index, side="right"))
        name, first, last = self._names[self._stretch[piece]], int(self._firsts[piece]), int(self._ends[piece])
        if self._choices is not None:
            start = int(self._choices[index])
        else:
            before = int(self._weights[piece - 1]) if piece else 0
            start = first + (index - before) * int(self._starts[piece]) // (int(self._weights[piece]) - before)
        return name, start, min(start + self.context, last)

    def _strand(self, rng: np.random.Generator) -> str:
        return "-" if self.both_strands and rng.random() < 0.5 else "+"

    def _within(self, number: int, first: int, last: int) -> np.ndarray:
        """The starts of regions that lie in a piece."""
        assert self.regions is not None
        starts = self.regions.get(self._names[number], np.zeros(0, int))
        return starts[np.searchsorted(starts, first) : np.searchsorted(starts, last - self.context, side="right")]

    def _tiles(self, name: str, first: int, last: int) -> list[tuple[str, int, int]]:
        if self.regions is None:
            starts = range(first, max(last - self.context, first) + 1, self.context)
            return [(name, start, min(start + self.context, last)) for start in starts]
        tiles, free = [], first
        for start in self.regions.get(name, np.zeros(0, int)).tolist():
            if free <= start <= last - self.context:
                free = start + self.context
                tiles.append((name, start, free))
        return tiles

    def _window(self, name: str, start: int, end: int, strand: str = "+") -> Window | None:
        window = self.source.window(Locus(name, start, end, strand))
        return None if 2 * window.sequence.count("N") > len(window) else window

    def _unknown(self) -> str:
        species = self.source.facts().get("species")
        return f"less than half of row 0 ({species[0]}) is known" if species else "more than half of the letters are N"


class Validation:
    """Held-out windows, corrupted once for the whole run, and how well the objective's yardstick finds what is asked.

    ``weight`` is the sum of the targets' weights, or their number. The yardstick learns from training windows.
    """

    def __init__(self, adapter: Adapter, objective: Objective, corpus: Corpus, count: int, batch_size: int) -> None:
        rng = np.random.default_rng(0)
        self.yardstick: Yardstick = yardstick(objective.yardstick)
        windows, sample = corpus.held_out(count), corpus.draw(rng, self.yardstick.lessons * count)
        whole = objective.collate(adapter, windows, rng)
        self.batches = split(whole, batch_size)
        self.windows, self.targets = len(windows), int((whole["targets"] != IGNORED).sum())
        if not self.targets:
            raise BadData(
                f"{corpus.source.path}: in the {len(windows):,} held-out windows nothing can be asked for; give sequences with "
                "fewer unknown letters (N), or more of them"
            )
        self.asked = self.targets / max(sum(map(len, windows)), 1)
        self.weight = weight_of(whole)
        self.yardstick.learn(sample, objective.collate(adapter, sample, rng))
        self.yardstick_loss, self.yardstick_accuracy = self.yardstick.judge(windows, whole)
        # Of an alignment, which may be too large to be hashed, these windows identify the data.
        rows = (
            window.sequence.encode() if window.alignment is None else window.alignment.tobytes() for window in (*windows, *sample)
        )
        self.sha256 = hashlib.sha256(b"".join(rows)).hexdigest()

    def facts(self) -> dict[str, Any]:
        """What a record says of the validation."""
        return {
            "validation_windows": self.windows,
            "validation_targets": self.targets,
            "targets_per_letter": self.asked,
            "yardstick": self.yardstick.name,
            "yardstick_loss": self.yardstick_loss,
            "yardstick_accuracy": self.yardstick_accuracy,
        }


def split(whole: Batch, size: int, at_once: int = ASKED_AT_ONCE) -> list[Batch]:
    """An :meth:`Objective.collate` batch in batches of ``size`` windows each, with ``asked`` (see :class:`Pretrainable`).

    ``labels`` int64 (M,) are the targets at these places. Both are filled up to a multiple of ``at_once`` by a place of no
    matter, whose label is IGNORED: for each other number of rows, oneDNN would compile and keep a product of its own.
    """
    batches = []
    for at in range(0, len(whole["targets"]), size):
        part = {name: tensor[at : at + size] for name, tensor in whole.items()}
        targets = part["targets"].flatten()
        places = (targets != IGNORED).nonzero()[:, 0]
        filling = -len(places) % at_once
        labels = F.pad(targets[places], (0, filling), value=IGNORED)
        batches.append(part | {"asked": F.pad(places, (0, filling)), "labels": labels})
    return batches


def weight_of(batch: Batch) -> float:
    """The sum of the weights of a batch's targets, by default their number."""
    asked = batch["targets"] != IGNORED
    return float(batch["weights"][asked].sum()) if "weights" in batch else float(asked.sum())
