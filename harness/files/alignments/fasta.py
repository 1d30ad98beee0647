"""Aligned FASTA files of one locus."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from harness.data import bare
from harness.errors import BadData

from ..text import fasta_records, text_lines
from .columns import EXPECTED, GAP, Alignment, clean

_ANCHOR = re.compile(r"(?P<chromosome>chr[A-Za-z0-9]+|(?<![\w.])[\w.]+(?=:))[:_](?P<start>\d{1,12})[-_](?P<end>\d{1,12})(?!\d)")


def open_fasta(path: Path) -> Alignment:
    """An aligned FASTA file, read into memory, the target first.

    Raises:
        BadData: rows of different widths or with the same name, no locus, or a locus that the target's row does not fill.
    """
    titles, sequences = zip(*fasta_records(text_lines(path, EXPECTED)), strict=True)
    names = [(title.split() or [""])[0] for title in titles]
    counts = Counter(names)
    for name, sequence in zip(names, sequences, strict=True):
        if len(sequence) != len(sequences[0]):
            raise BadData(
                f"{path}: row {name!r:.80} has {len(sequence):,} columns, the first {len(sequences[0]):,}; expected one width"
            )
        if not sequence.isascii():
            raise BadData(f"{path}: row {name!r:.80} has letters that are none of an alignment (ACGTN and -)")
        if not name.isprintable():
            raise BadData(f"{path}: row {name!r:.80} has control characters in its name")
        if counts[name] > 1 or not name:
            raise BadData(f"{path}: several rows are named {name!r:.80}; give every row its own name")
    letters = clean(np.array([np.frombuffer(sequence.encode(), np.uint8) for sequence in sequences]), path)
    letters = np.ascontiguousarray(letters[:, letters[0] != GAP].T)  # (length, rows), without the target's gaps
    chromosome, start = _anchor(path, titles[0], names[0], len(letters))
    extents = {chromosome: (start, start + len(letters))}
    return Alignment(path, tuple(names), extents, lambda _, first, last: letters[first - start : last - start])


def _anchor(path: Path, title: str, target: str, length: int) -> tuple[str, int]:
    """The chromosome and start of an aligned FASTA file."""
    found = _ANCHOR.search(title) or _ANCHOR.search(path.name)
    if found is None:
        raise BadData(
            f"{path}: no locus; write chr17:100-200 (0-based, half-open) in the first header or chr17_100_200 in the name"
        )
    start, end = int(found["start"]), int(found["end"])
    if end - start != length:
        hint = "1-based? write start - 1" if end - start == length - 1 else "the target's row must come first"
        raise BadData(f"{path}: {found[0]:.80} spans {end - start:,} nt, but the first row ({target:.80}) has {length:,}: {hint}")
    return bare(found["chromosome"]), start
