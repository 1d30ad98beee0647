"""The columns of an alignment for windows with loci, in memory or, where they are many, in a temporary file."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.data import Locus
from harness.errors import BadData
from harness.files import sources

if TYPE_CHECKING:
    import numpy as np

    from harness.files.alignments import Alignment

MOST_MISMATCHES = 0.01
IN_MEMORY = 2 << 30  # bytes of columns above which they wait in a temporary file


def columns(
    alignment: Alignment, loci: Sequence[Locus], letters: Sequence[np.ndarray], target: str, changes: Counter[str]
) -> tuple[list[np.ndarray], str]:
    """For each locus the alignment there, uint8 (rows, length) of ``ACGTN-``, its row 0 replaced by the window's ``letters``.

    Also returns the sha256 of them all. Letters of the alignment's own row 0 that differ from the window's are counted in
    ``changes["alignment_mismatch"]``; ``target`` says in messages what the letters are of.

    Raises:
        BadData: more than MOST_MISMATCHES of them differ, or the alignment covers none of the loci.
    """
    rows = len(alignment.species)
    room = _room(rows * sum(map(len, letters)))
    found: list[np.ndarray] = []
    digest, first, different, compared = hashlib.sha256(), 0, 0, 0
    for locus, own in zip(loci, letters, strict=True):
        here = alignment.columns(locus, changes)
        known = (here[0] != ord("-")) & (here[0] != ord("N")) & (own != ord("N"))
        different += int((here[0] != own)[known].sum())
        compared += int(known.sum())
        here[0] = own
        digest.update(here.tobytes())
        kept = room[first : first + here.size].reshape(rows, len(own))
        kept[:] = here
        found.append(kept)
        first += here.size
    if not compared:
        raise BadData(f"{alignment.path}: covers no position of the {target}; is it of other stretches, or another assembly?")
    if different > MOST_MISMATCHES * compared:
        raise BadData(
            f"{alignment.path}: row 0 ({alignment.species[0]}) differs from the {target} at {different / compared:.1%} of "
            "the positions: another assembly, or the target is not the first row"
        )
    changes["alignment_mismatch"] += different
    return found, digest.hexdigest()


def _room(size: int) -> np.ndarray:
    """So many bytes (uint8): in memory, or beyond IN_MEMORY in a temporary file."""
    import numpy as np

    if size <= IN_MEMORY:
        return np.empty(size, np.uint8)
    sources.cache_home().mkdir(parents=True, exist_ok=True)
    return np.memmap(tempfile.TemporaryFile(dir=sources.cache_home()), np.uint8, "w+", shape=(size,))
