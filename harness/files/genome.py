"""Reads a genome by locus: FASTA (plain, bgzip or gzip) through pyfaidx, 2bit through py2bit.

A genome need not be whole: a FASTA record named ``chr17:42424999-43600000`` (0-based, half-open) is that part of the
chromosome. ``chr17`` and ``17`` name the same chromosome everywhere. Indices are kept in the cache folder, never beside
the file.
"""

from __future__ import annotations

import gzip
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from harness.data import Locus, bare, normalise, reverse_complement
from harness.errors import BadData

from .atomic import atomic
from .fingerprint import digest, file_states
from .sources import cache_home
from .text import GZIP, gzip_faults, head, optional

T = TypeVar("T")

_TWO_BIT = (b"\x1aA'C"[::-1], b"\x1aA'C")  # the format's signature in either byte order
_PART = re.compile(r"(?P<chromosome>[\w.]+):(?P<start>\d+)-(?P<end>\d+)")


class Contig(NamedTuple):
    """A record of the file: its ``name``, and the stretch of a chromosome that it holds (0-based, half-open)."""

    name: str
    start: int
    end: int


class Genome:
    """Sequences by locus. Open it anew in each process: the file handle does not survive a fork.

    Raises:
        BadData: the file is missing, damaged, or neither FASTA nor 2bit.
        UserError: the package that reads it is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        start = head(self.path, "a genome: FASTA (plain, bgzip or gzip) or 2bit")
        lengths, self._fetch = _open_two_bit(self.path) if start[:4] in _TWO_BIT else _open_fasta(self.path, start)
        self._contigs: dict[str, list[Contig]] = {}
        for name, length in lengths.items():
            chromosome, contig = _place(name, length)
            self._contigs.setdefault(chromosome, []).append(contig)

    @property
    def chromosomes(self) -> tuple[str, ...]:
        """The names of the chromosomes, without ``chr``, in the file's order."""
        return tuple(self._contigs)

    def sequence(self, locus: Locus, changes: Counter[str] | None = None) -> str:
        """The letters ``ACGTN`` of a locus, 5'→3' on its strand.

        Positions outside every contig are N, and are counted in ``changes["outside_genome"]``.

        Raises:
            BadData: no such chromosome, or an empty locus.
        """
        contigs = at_chromosome(self.path, locus, self._contigs)
        text, known = "N" * (locus.end - locus.start), 0
        for contig in contigs:
            start, end = max(locus.start, contig.start), min(locus.end, contig.end)
            if start < end:
                found = normalise(self._fetch(contig.name, start - contig.start, end - contig.start), Counter())
                text = text[: start - locus.start] + found + text[end - locus.start :]
                known += end - start
        if changes is not None and known < len(text):
            changes["outside_genome"] += len(text) - known
        return reverse_complement(text) if locus.strand == "-" else text


def at_chromosome(path: Path, locus: Locus, chromosomes: Mapping[str, T]) -> T:
    """The value for the locus's chromosome, of a mapping from the names (without ``chr``) that a file of reference data holds.

    Raises:
        BadData: the file lacks the chromosome, or the locus is empty.
    """
    name = bare(locus.chromosome)
    if name not in chromosomes:
        some = ", ".join(list(chromosomes)[:6]) + (", …" if len(chromosomes) > 6 else "")
        raise BadData(f"{path}: no chromosome {locus.chromosome!r}; it holds {some}: is it another part, or another assembly?")
    if locus.end <= locus.start:
        raise BadData(f"locus {locus.chromosome}:{locus.start}-{locus.end} is empty; start must be below end")
    return chromosomes[name]


def cache_key(path: Path) -> str:
    """A file name for what is derived from ``path``; another one as soon as the file changes."""
    return digest(file_states([path]))[:16]


def _place(name: str, length: int) -> tuple[str, Contig]:
    """A record's chromosome and contig. An interval in the name counts only if it is as long as the record."""
    if found := _PART.fullmatch(name):
        start, end = int(found["start"]), int(found["end"])
        if end - start == length:
            return bare(found["chromosome"]), Contig(name, start, end)
    return bare(name), Contig(name, 0, length)


Opened = tuple[dict[str, int], Callable[[str, int, int], str]]  # lengths by record; letters of (record, start, end)


def _open_two_bit(path: Path) -> Opened:
    try:
        file = optional("py2bit", "a 2bit genome").open(str(path))
        return dict(file.chroms()), file.sequence
    except RuntimeError:
        raise BadData(f"{path}: the 2bit file is cut or damaged; download it again") from None


def _open_fasta(path: Path, start: bytes) -> Opened:
    pyfaidx = optional("pyfaidx", "a FASTA genome")
    folder = cache_home() / "genomes"
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / f"{cache_key(path)}.fai"
    file = path
    if start.startswith(GZIP):
        if start[12:14] != b"BC":  # bgzip has random access, plain gzip has not
            file = index.with_suffix(".fa")
            if not file.is_file():
                _decompress(path, file)
    elif not start.lstrip().startswith(b">"):
        raise BadData(f"{path}: neither FASTA (its first line does not begin with '>') nor 2bit")
    try:
        fasta = pyfaidx.Fasta(str(file), indexname=str(index), gzi_indexname=str(index.with_suffix(".gzi")), as_raw=True)
    except (pyfaidx.FastaIndexingError, pyfaidx.UnsupportedCompressionFormat, ValueError, EOFError, zlib.error) as error:
        raise BadData(f"{path}: not a FASTA file that can be indexed ({str(error).splitlines()[0]})") from None
    lengths = {name: len(fasta[name]) for name in fasta.keys()}  # noqa: SIM118 (iterating gives records)
    return lengths, lambda name, start, end: fasta[name][start:end]


def _decompress(path: Path, target: Path) -> None:
    with atomic(target) as temporary, gzip_faults(path), gzip.open(path) as packed, temporary.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
