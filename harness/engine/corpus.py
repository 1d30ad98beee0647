"""What pretraining reads: training windows of an alignment, held-out ones for validation, and the column vote as a baseline."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.adapter import IGNORED, Adapter, Batch, Pretrainable
from harness.data import Locus, Window
from harness.errors import BadData, UserError
from harness.files.alignments import GAP, Alignment

CONTEXTS_PER_BLOCK = 16
HELD_OUT_SHARE = 0.1  # of all blocks
MAX_MISSES = 10_000  # unusable windows drawn in a row

_UNKNOWN = ord("N")
_BASES = np.frombuffer(b"ACGT", np.uint8)


class Corpus:
    """Windows of an alignment: drawn at random for training, and a fixed set from held-out blocks for validation.

    Every chromosome is cut into blocks of 16 contexts; they are shorter, but no shorter than a context, where the longest
    chromosome would make fewer than ten. The last block of a chromosome takes the remainder. A tenth of all blocks, at
    least one, is held out, whatever the seed of training. Training windows start anywhere but never overlap a held-out
    block. A window is usable if at least half of its target row is known (gaps become N); others are drawn again.

    Raises:
        UserError: the context is too long for one block to train on and one to hold out.
    """

    def __init__(self, alignment: Alignment, context: int) -> None:
        self.alignment, self.context, self.skipped = alignment, context, 0
        longest = max(end - start for start, end in alignment.extents.values())
        self.block = min(CONTEXTS_PER_BLOCK * context, max(longest // 10, context))
        names, starts, ends = [], [], []
        for name, (start, end) in alignment.extents.items():
            if end - start >= context:
                edges = np.arange(start, max(end - self.block, start) + 1, self.block)
                names += [name] * len(edges)
                starts.append(edges)
                ends.append(np.append(edges[1:], end))
        if len(names) < 2:
            raise UserError(
                f"context {context}: {alignment.path} spans {longest:,} columns, and one window to train on and one held out "
                f"need {2 * context:,}; choose --context {longest // 2} or less"
            )
        chromosomes, first, last = np.array(names), np.concatenate(starts), np.concatenate(ends)
        chosen = np.random.default_rng(0).permutation(len(first))[: max(1, round(HELD_OUT_SHARE * len(first)))]
        held_out = np.zeros(len(first), bool)
        held_out[chosen] = True
        self._held_out = [(str(chromosomes[index]), int(first[index]), int(last[index])) for index in chosen]
        # Adjacent training blocks are joined into stretches, within which windows may start anywhere.
        broken = np.append(True, held_out[1:] | held_out[:-1] | (chromosomes[1:] != chromosomes[:-1]))
        opens, closes = broken & ~held_out, np.append(broken[1:], True) & ~held_out
        self._chromosomes, self._ends = chromosomes[opens], last[closes]
        self.letters = int((self._ends - first[opens]).sum())
        self._starts = np.cumsum(self._ends - first[opens] - context + 1)  # possible starts up to each stretch's end
        self._blocks = len(first)

    def draw(self, rng: np.random.Generator, count: int) -> list[Window]:
        """As :meth:`sample`; what was skipped is counted in ``skipped``."""
        windows, skipped = self.sample(rng, count)
        self.skipped += skipped
        return windows

    def sample(self, rng: np.random.Generator, count: int) -> tuple[list[Window], int]:
        """``count`` training windows, uniform over all possible starts, and how many unusable ones were skipped.

        Changes nothing but ``rng``, so that a thread may make batches ahead.

        Raises:
            BadData: 10,000 windows in a row are unusable.
        """
        found: list[Window] = []
        skipped = misses = 0
        while len(found) < count:
            index = int(rng.integers(self._starts[-1]))
            stretch = int(np.searchsorted(self._starts, index, side="right"))
            start = int(self._ends[stretch] - self.context - (self._starts[stretch] - 1 - index))
            window = self._window(str(self._chromosomes[stretch]), start)
            if window is not None:
                found.append(window)
                misses = 0
                continue
            skipped += 1
            misses += 1
            if misses == MAX_MISSES:
                raise BadData(
                    f"{self.alignment.path}: in {misses:,} windows of {self.context} nt less than half of row 0 "
                    f"({self.alignment.species[0]}) is known; give one that covers more, or a shorter --context"
                )
        return found, skipped

    def held_out(self, count: int) -> list[Window]:
        """At most ``count`` windows that tile the held-out blocks without overlap, in random order.

        Raises:
            BadData: none is usable.
        """
        tiles = [
            (name, start) for name, first, last in self._held_out for start in range(first, last - self.context + 1, self.context)
        ]
        found: list[Window] = []
        for index in np.random.default_rng(0).permutation(len(tiles)):
            window = self._window(*tiles[index])
            if window is not None:
                found.append(window)
            if len(found) == count:
                break
        if not found:
            raise BadData(
                f"{self.alignment.path}: row 0 ({self.alignment.species[0]}) is known in no window of {self.context} nt of the "
                f"{len(self._held_out)} held-out blocks; give one that covers more, or a shorter --context"
            )
        return found

    def passes(self, windows: int) -> int:
        """The pass over the training blocks, counted from 1, that is under way after this many windows."""
        return 1 + windows * self.context // self.letters

    def facts(self) -> dict[str, Any]:
        """What a record says of the corpus; lengths in columns."""
        return {
            "rows": len(self.alignment.species),
            "block": self.block,
            "blocks": self._blocks,
            "held_out_blocks": len(self._held_out),
            "training_letters": self.letters,
        }

    def _window(self, chromosome: str, start: int) -> Window | None:
        locus = Locus(chromosome, start, start + self.context)
        rows = self.alignment.columns(locus)
        rows[0][rows[0] == GAP] = _UNKNOWN
        if 2 * int((rows[0] != _UNKNOWN).sum()) < self.context:
            return None
        return Window(rows[0].tobytes().decode(), locus, rows)


class Validation:
    """Held-out windows, corrupted once for the whole run, and how often the column vote finds their hidden bases.

    The column vote predicts the most common base in the other rows of the column. Ties, and columns without a base, go to
    the base that is more common in the target row.
    """

    def __init__(self, adapter: Adapter, corpus: Corpus, count: int, batch_size: int) -> None:
        assert isinstance(adapter, Pretrainable)
        rng = np.random.default_rng(0)
        windows, sample = corpus.held_out(count), corpus.draw(rng, count)
        self.batches = collate(adapter, windows, batch_size, rng)
        self.windows = len(windows)
        held_out, drawn = ([window.alignment for window in part if window.alignment is not None] for part in (windows, sample))
        frequencies = (np.array([rows[0] for rows in drawn])[..., None] == _BASES).mean(axis=(0, 1))
        asked = np.concatenate([(batch["targets"] != IGNORED).numpy() for batch in self.batches])
        votes = []
        for rows, positions in zip(held_out, asked, strict=True):
            columns = rows[:, positions]
            counts = (columns[1:, :, None] == _BASES).sum(axis=0)
            votes.append(_BASES[(counts + frequencies / 2).argmax(axis=1)] == columns[0])
        self.targets = int(asked.sum())
        self.vote_accuracy = float(np.concatenate(votes).mean())
        # Hashing a whole genome's alignment takes long, so these windows identify the data.
        self.sha256 = hashlib.sha256(b"".join(rows.tobytes() for rows in (*held_out, *drawn))).hexdigest()

    def facts(self) -> dict[str, Any]:
        """What a record says of the validation."""
        return {"validation_windows": self.windows, "validation_targets": self.targets, "vote_accuracy": self.vote_accuracy}


def collate(adapter: Adapter, windows: Sequence[Window], size: int, rng: np.random.Generator) -> list[Batch]:
    """Corrupted batches of ``size`` windows each. Which bases are hidden does not depend on ``size``."""
    assert isinstance(adapter, Pretrainable)
    whole = adapter.collate_pretraining(windows, rng)
    return [{name: tensor[start : start + size] for name, tensor in whole.items()} for start in range(0, len(windows), size)]
