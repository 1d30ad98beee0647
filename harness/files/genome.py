"""Reads a genome by locus: FASTA (plain, bgzip or gzip) or 2bit.

A genome need not be whole: a FASTA record named ``chr17:42424999-43600000`` (0-based, half-open) is that part of the
chromosome. ``chr17`` and ``17`` name the same chromosome everywhere; of a file that holds both, neither is read. Indices
are kept in the cache folder, never beside the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from harness.data import ALPHABET, AMBIGUITY_LETTERS, Locus, bare, normalise, reverse_complement
from harness.errors import BadData

from .indexed_fasta import IndexedFasta
from .text import head, may_be_fasta
from .two_bit import SIGNATURES, TwoBit

T = TypeVar("T")

LETTERS = frozenset(ALPHABET + AMBIGUITY_LETTERS + "U")
LONGEST_LOCUS = 1 << 28  # nucleotides; the longest human chromosome has 249 million

MAX_OUTSIDE_SHARE = 0.01  # of the nucleotides of all intervals

_PART = re.compile(r"(?P<chromosome>[\w.]+):(?P<start>\d{1,12})-(?P<end>\d{1,12})")


class Contig(NamedTuple):
    """A record of the file: its ``name``, and the stretch of a chromosome that it holds (0-based, half-open)."""

    name: str
    start: int
    end: int


class Genome:
    """Sequences by locus.

    Raises:
        BadData: the file is missing, damaged, or neither FASTA nor 2bit.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        start = head(self.path, "a genome: FASTA (plain, bgzip or gzip) or 2bit")
        if start[:4] in SIGNATURES:
            self._file = TwoBit(self.path)
        elif may_be_fasta(start):
            self._file = IndexedFasta(self.path)
        else:
            raise BadData(f"{self.path}: neither FASTA (its first line does not begin with '>') nor 2bit")
        self._contigs: dict[str, list[Contig]] = {}
        for name, length in self._file.lengths.items():
            chromosome, contig = _place(name, length)
            self._contigs.setdefault(chromosome, []).append(contig)
        self._clashes = {chromosome: _clash(contigs) for chromosome, contigs in self._contigs.items()}

    @property
    def chromosomes(self) -> tuple[str, ...]:
        """The names of the chromosomes, without ``chr``, in the file's order."""
        return tuple(self._contigs)

    @property
    def stretches(self) -> list[tuple[str, int, int]]:
        """What the file holds: chromosome without ``chr``, start and end (0-based, half-open) of each contig."""
        return [(name, part.start, part.end) for name, parts in self._contigs.items() for part in parts if part.end > part.start]

    @property
    def ends(self) -> dict[str, int]:
        """Where each chromosome ends, as far as the file holds it: its length, in a whole genome."""
        return {chromosome: max(contig.end for contig in contigs) for chromosome, contigs in self._contigs.items()}

    def sequences(self, loci: Sequence[Locus], changes: Counter[str] | None = None) -> list[str]:
        """The letters of many loci, in their order, each as :meth:`sequence` gives them.

        They are read in the order of the genome, so that each block of a bgzip file is unpacked once.
        """
        found = [""] * len(loci)
        for number in sorted(range(len(loci)), key=lambda number: (bare(loci[number].chromosome), loci[number].start)):
            found[number] = self.sequence(loci[number], changes)
        return found

    def sequence(self, locus: Locus, changes: Counter[str] | None = None) -> str:
        """The letters ``ACGTN`` of a locus, 5'→3' on its strand.

        Positions outside every contig are N, and are counted in ``changes["outside_genome"]``.

        Raises:
            BadData: no such chromosome or several, an empty locus or one above LONGEST_LOCUS, or letters that are none.
        """
        parts = self._parts(locus)
        text, known = "N" * (locus.end - locus.start), 0
        for contig, start, end in parts:
            found = self._letters(contig.name, start - contig.start, end - contig.start)
            text = text[: start - locus.start] + found + text[end - locus.start :]
            known += end - start
        if changes is not None and known < len(text):
            changes["outside_genome"] += len(text) - known
        return reverse_complement(text) if locus.strand == "-" else text

    def soft_masked(self, locus: Locus) -> np.ndarray:
        """Which letters of a locus are in lower case, as repeats are: bool (length,), 5'→3' on its strand.

        A 2bit file lists such stretches instead. Positions outside every contig are not.

        Raises:
            BadData: no such chromosome or several, or an empty locus or one above LONGEST_LOCUS.
        """
        parts = self._parts(locus)
        found = np.zeros(locus.end - locus.start, bool)
        for contig, start, end in parts:
            part = self._file.soft_masked(contig.name, start - contig.start, end - contig.start)
            found[start - locus.start : end - locus.start] = part
        return found[::-1] if locus.strand == "-" else found

    def _parts(self, locus: Locus) -> list[tuple[Contig, int, int]]:
        """The contigs that hold a part of a locus, and where that part starts and ends."""
        contigs = at_chromosome(self.path, locus, self._contigs)
        one_chromosome(self.path, locus.chromosome, self._clashes[bare(locus.chromosome)])
        parts = [(contig, max(locus.start, contig.start), min(locus.end, contig.end)) for contig in contigs]
        return [part for part in parts if part[1] < part[2]]

    def _letters(self, name: str, start: int, end: int) -> str:
        found = self._file.sequence(name, start, end)
        if isinstance(self._file, TwoBit):  # it has no other letters than ACGTN
            return found
        try:
            return normalise(found, Counter())
        except BadData as error:
            bad = next(place for place, letter in enumerate(found) if letter.upper() not in LETTERS)
            line = self._file.line(name, start + bad)
            raise BadData(f"{self.path}, line {line}, record {name!r:.80}: {error}; mend the line") from None


def _clash(contigs: Sequence[Contig]) -> tuple[str, ...]:
    """The names of two contigs that hold the same positions; none if there are no such two."""
    ordered = sorted(contigs, key=lambda contig: contig.start)
    end, name = -1, ""
    for contig in ordered:
        if contig.start < end:
            return name, contig.name
        end, name = max((end, name), (contig.end, contig.name))
    return ()


def check_outside(genome: Genome, outside: int, nucleotides: int) -> None:
    """Refuse intervals of which more than MAX_OUTSIDE_SHARE lies outside of the genome.

    Raises:
        BadData: it does.
    """
    if outside > MAX_OUTSIDE_SHARE * nucleotides:
        raise BadData(
            f"{genome.path}: {outside / nucleotides:.1%} of the intervals' nucleotides lie off it: "
            "another assembly, or only a part of the genome?"
        )


def at_chromosome(path: Path, locus: Locus, chromosomes: Mapping[str, T]) -> T:
    """The value for the locus's chromosome, of a mapping from the names (without ``chr``) that a file of reference data holds.

    Raises:
        BadData: the file lacks the chromosome, or the locus is empty.
    """
    name = bare(locus.chromosome)
    if name not in chromosomes:
        some = ", ".join(name[:40] for name in list(chromosomes)[:6]) + (", …" if len(chromosomes) > 6 else "")
        raise BadData(
            f"{path}: no chromosome {locus.chromosome!r:.80}; it holds {some}: is it another part, or another assembly?"
        )
    if locus.end <= locus.start:
        raise BadData(f"locus {locus.chromosome}:{locus.start}-{locus.end} is empty; start must be below end")
    if locus.end - locus.start > LONGEST_LOCUS:
        raise BadData(
            f"locus {locus.chromosome}:{locus.start}-{locus.end} is longer than {LONGEST_LOCUS:,} nt; give a shorter one"
        )
    return chromosomes[name]


def one_chromosome(path: Path, chromosome: str, records: Sequence[str]) -> None:
    """Refuse a chromosome that several records of a file stand for.

    Raises:
        BadData: there are two or more; ``chr1`` and ``1``, say.
    """
    if len(records) > 1:
        raise BadData(
            f"{path}: chromosome {chromosome!r:.80} may be {records[0]!r:.80} or {records[1]!r:.80}; "
            "leave one of them out, or rename it"
        )


def _place(name: str, length: int) -> tuple[str, Contig]:
    """A record's chromosome and contig. An interval in the name counts only if it is as long as the record."""
    return part_of(name, length) or (bare(name), Contig(name, 0, length))


def part_of(name: str, length: int) -> tuple[str, Contig] | None:
    """The chromosome and contig that a record is named after; None if its name is no interval as long as it is."""
    found = _PART.fullmatch(name)
    if found is None or int(found["end"]) - int(found["start"]) != length:
        return None
    return bare(found["chromosome"]), Contig(name, int(found["start"]), int(found["end"]))
