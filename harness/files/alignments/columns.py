"""What every kind of alignment is read as: columns of letters by locus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from harness.data import AMBIGUITY_LETTERS, Locus, bare
from harness.errors import BadData

from ..genome import at_chromosome

GAP = ord("-")
MAX_BYTES = 1 << 31  # of the columns of one locus
EXPECTED = "an alignment: a store, zarr (folder or zip), MAF or aligned FASTA"

Extents = dict[str, tuple[int, int]]  # by chromosome: start and end, 0-based and half-open


def _table(pairs: dict[str, str]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for letters, to in pairs.items():
        table[list(letters.encode())] = ord(to)
    return table


# Any usual spelling → ACGTN-, 0 for what is no letter of an alignment; no byte at all is a gap.
_LETTERS = _table({"Aa": "A", "Cc": "C", "Gg": "G", "TtUu": "T", AMBIGUITY_LETTERS + AMBIGUITY_LETTERS.lower(): "N", "-.\0": "-"})
COMPLEMENT = _table({"A": "T", "C": "G", "G": "C", "T": "A", "N": "N", "-": "-"})


@dataclass(frozen=True)
class Alignment:
    """The columns of a multiple alignment, by locus.

    ``species`` names the rows, the target first. ``extents`` maps each chromosome (without ``chr``) to the (start, end),
    0-based and half-open, that its columns span. ``read(chromosome, start, end)`` gives the stored columns of an interval
    inside it: uint8 (columns, stored rows) of ``ACGTN-``, or 0 where nothing is stored. ``order`` holds the indices of the
    stored rows that are shown; None shows all. ``notes`` are sentences about what of the file was left out.
    """

    path: Path
    species: tuple[str, ...]
    extents: Extents
    read: Callable[[str, int, int], np.ndarray]
    order: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def columns(self, locus: Locus, changes: Counter[str] | None = None) -> np.ndarray:
        """The alignment at a locus: (rows, length) uint8 of ASCII letters ``ACGTN-``, row 0 the target.

        On strand ``-`` every row is reverse-complemented. A column outside every block is all gaps, row 0 included.
        Columns in which nothing aligns to the target are counted in ``changes["columns_without_species"]``.

        Raises:
            BadData: no such chromosome, an empty locus, one with more than MAX_BYTES of columns, or a damaged store.
        """
        first, last = at_chromosome(self.path, locus, self.extents)
        if len(self.species) * (locus.end - locus.start) > MAX_BYTES:
            raise BadData(
                f"{self.path}: {len(self.species)} rows of {locus.end - locus.start:,} columns at once are more than 2 GiB; "
                "choose a shorter context, or fewer species"
            )
        rows = np.full((len(self.species), locus.end - locus.start), GAP, np.uint8)
        start, end = max(locus.start, first), min(locus.end, last)
        if start < end:
            found = self.read(bare(locus.chromosome), start, end)
            inside = rows[:, start - locus.start : end - locus.start]
            np.maximum(inside, (found if self.order is None else found[:, self.order]).T, out=inside)  # 0 stays a gap
        if changes is not None:
            changes["columns_without_species"] += int((rows[1:].max(axis=0, initial=GAP) == GAP).sum())
        return COMPLEMENT[rows[:, ::-1]] if locus.strand == "-" else rows


Block = tuple[str, int, Sequence[str], np.ndarray]  # chromosome, start, species of the rows, letters (length, rows)


class Blocks(Protocol):
    """What a store is written from: stretches of columns, each with its own rows."""

    path: Path
    species: Sequence[str]
    extents: Extents

    @property
    def notes(self) -> Sequence[str]:
        """Sentences about what of the source is left out."""
        ...

    def blocks(self) -> Iterator[Block]:
        """Every stretch, letters ``ACGTN-`` on the plus strand."""
        ...


def widen(extents: Extents, chromosome: str, start: int, end: int) -> None:
    """Make the extent of a chromosome include an interval."""
    lowest, highest = extents.get(chromosome, (start, end))
    extents[chromosome] = min(lowest, start), max(highest, end)


def clean(letters: np.ndarray, where: object) -> np.ndarray:
    """Letters in any usual spelling as uint8 ``ACGTN-``.

    Raises:
        BadData: a letter of no alignment; ``where`` is the beginning of the message.
    """
    found = _LETTERS[letters]
    if not found.all():
        bad = bytes(np.unique(letters[found == 0])[:10]).decode("latin-1")
        raise BadData(f"{where}: {bad!r} are not letters of an alignment (ACGTN and -)")
    return found
