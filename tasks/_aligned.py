"""Reference data of windows with loci: the files it is read from, and the columns of an alignment."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import Example, Locus
from harness.errors import BadData
from harness.files.workspace import reserved
from harness.task import Reference

if TYPE_CHECKING:
    import numpy as np

    from harness.files.alignments import Alignment

MAX_MISMATCH_SHARE = 0.01
MAX_BYTES_IN_MEMORY = 2 << 30  # of columns; more are kept in a temporary file
MAX_DIFFERENCE = 0.05  # of the shares of columns that are covered, between classes
SAMPLED = 2000  # windows of a class in which covered columns are counted


def reference_files(reference: Reference) -> list[Path]:
    """The files and folders that are read for this reference data."""
    given = [path for path in (reference.genome, reference.alignment) if path is not None]
    # Path.is_file raises for a list of species that is longer than any file name.
    return [*given, Path(reference.species)] if os.path.isfile(reference.species) else given


def align(
    examples: Sequence[Example], classes: Sequence[str], reference: Reference, changes: Counter[str], notes: list[str]
) -> tuple[list[Example], dict[str, str], tuple[str, ...]]:
    """Examples of one window with a locus, with their columns; their entry of ``Splits.files``; the species after the target.

    ``notes`` gains the share of columns of each class in which another species aligns, with a warning where these differ by
    more than MAX_DIFFERENCE. ``classes`` is empty where labels are no classes.

    Raises:
        BadData: the alignment cannot be read, lacks a chromosome, or is of other letters than the windows.
    """
    import numpy as np

    from harness.files.alignments import open_alignment

    assert reference.alignment is not None
    alignment = open_alignment(reference.alignment, reference.species)
    windows = [example.windows[0] for example in examples]
    loci = [window.locus for window in windows if window.locus is not None]
    letters = [np.frombuffer(window.sequence.encode(), np.uint8) for window in windows]
    found, digest = columns(alignment, loci, letters, "windows", changes)
    notes += alignment.notes
    if classes:
        notes.append(_coverage(found, [example.label for example in examples], classes))
    aligned = [
        replace(example, windows=(replace(window, alignment=rows),))
        for example, window, rows in zip(examples, windows, found, strict=True)
    ]
    return aligned, {f"columns of {len(alignment.species)} rows, {alignment.path.name}": digest}, alignment.species[1:]


def _coverage(columns: Sequence, labels: Sequence, classes: Sequence[str]) -> str:
    import numpy as np

    shares = []
    for label in range(len(classes)):
        own = [number for number, other in enumerate(labels) if other == label]
        covered = [(columns[n][1:] != ord("-")).any(axis=0) for n in own[:: max(1, len(own) // SAMPLED)]]
        shares.append(float(np.concatenate(covered).mean()))
    text = "columns in which another species aligns: " + ", ".join(
        f"{share:.1%} of {name}" for share, name in zip(shares, classes, strict=True)
    )
    if max(shares) - min(shares) > MAX_DIFFERENCE:
        text += "; WARNING: where the alignment ends tells the classes apart, compare with a model that reads the sequence alone"
    return text


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
