"""Reference data of windows with loci: the files it is read from, and the columns of an alignment."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import Locus
from harness.errors import BadData
from harness.files.workspace import reserved
from harness.task import Reference

if TYPE_CHECKING:
    import numpy as np

    from harness.files.alignments import Alignment

MAX_MISMATCH_SHARE = 0.01
MAX_BYTES_IN_MEMORY = 2 << 30  # of columns; more are kept in a temporary file


def reference_files(reference: Reference) -> list[Path]:
    """The files and folders that are read for this reference data."""
    given = [path for path in (reference.genome, reference.alignment) if path is not None]
    # Path.is_file raises for a list of species that is longer than any file name.
    return [*given, Path(reference.species)] if os.path.isfile(reference.species) else given


def columns(
    alignment: Alignment, loci: Sequence[Locus], letters: Sequence[np.ndarray], target: str, changes: Counter[str]
) -> tuple[list[np.ndarray], str]:
    """The alignment at each locus, uint8 (rows, length) of ``ACGTN-``, with the window's ``letters`` in row 0; their sha256.

    Letters of the alignment's own row 0 that differ from the window's are counted in ``changes["alignment_mismatch"]``.
    ``target`` says in messages where the windows' letters come from.

    Raises:
        BadData: more than MAX_MISMATCH_SHARE of the letters differ, or the alignment covers none of the loci.
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
    if different > MAX_MISMATCH_SHARE * compared:
        raise BadData(
            f"{alignment.path}: row 0 ({alignment.species[0]}) differs from the {target} at {different / compared:.1%} of "
            "the positions: another assembly, or the target is not the first row"
        )
    changes["alignment_mismatch"] += different
    return found, digest.hexdigest()


def _room(size: int) -> np.ndarray:
    """An uninitialised array of ``size`` bytes: in memory, or in a temporary file if larger than MAX_BYTES_IN_MEMORY."""
    import numpy as np

    return np.empty(size, np.uint8) if size <= MAX_BYTES_IN_MEMORY else reserved(size)
