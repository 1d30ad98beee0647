"""Columns of an alignment for windows with loci, and whether they cover one class more than another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from harness.data import Example
from harness.task import Reference

from . import _aligned

MAX_DIFFERENCE = 0.05  # of the shares of columns that are covered, between classes
SAMPLED = 2000  # windows of a class in which covered columns are counted


def align(
    examples: Sequence[Example], classes: Sequence[str], reference: Reference, changes: Counter[str], notes: list[str]
) -> tuple[list[Example], dict[str, str], tuple[str, ...]]:
    """The examples with their columns, an entry of ``Splits.files`` for these, and the species after the target.

    ``notes`` gains the share of columns of each class in which another species aligns, with a warning where these differ by
    more than MAX_DIFFERENCE.

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
    columns, digest = _aligned.columns(alignment, loci, letters, "windows", changes)
    notes += [*alignment.notes, _coverage(columns, [example.label for example in examples], classes)]
    aligned = [
        replace(example, windows=(replace(window, alignment=rows),))
        for example, window, rows in zip(examples, windows, columns, strict=True)
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
