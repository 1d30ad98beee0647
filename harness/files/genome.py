"""Reads a genome by locus: FASTA (plain, bgzip or gzip) through pyfaidx, 2bit through py2bit; and what alignments share with it.

A genome need not be whole: a FASTA record named ``chr17:42424999-43600000`` (0-based, half-open) is that part of the
chromosome. ``chr17`` and ``17`` name the same chromosome everywhere. Indices are kept in the cache folder, never beside
the file.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import os
import re
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from harness.data import Locus, normalise, reverse_complement
from harness.errors import BadData, UserError
from harness.files.sources import cache_home

_TWO_BIT = (b"\x1aA'C"[::-1], b"\x1aA'C")  # the format's signature in either byte order
_PART = re.compile(r"(?P<chromosome>[\w.]+):(?P<start>\d+)-(?P<end>\d+)")


class Contig(NamedTuple):
    """A stretch of a chromosome that a file holds under ``name``; ``start`` and ``end`` are 0-based, half-open."""

    name: str
    start: int
    end: int


class Genome:
    """Sequences by locus. Open one in each process: the file handle does not survive a fork.

    Raises:
        BadData: the file is missing, damaged, or neither FASTA nor 2bit.
        UserError: the package that reads it is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        head = _head(self.path, "a genome: FASTA (plain, bgzip or gzip) or 2bit")
        lengths, self._fetch = _open_two_bit(self.path) if head[:4] in _TWO_BIT else _open_fasta(self.path, head)
        self._contigs: dict[str, list[Contig]] = {}
        for name, length in lengths.items():
            chromosome, contig = _place(name, length)
            self._contigs.setdefault(chromosome, []).append(contig)

    @property
    def chromosomes(self) -> tuple[str, ...]:
        """The chromosomes, without ``chr``, in the file's order."""
        return tuple(self._contigs)

    def sequence(self, locus: Locus, changes: Counter[str] | None = None) -> str:
        """The locus, 5'→3' on its strand, in letters ``ACGTN``.

        What lies off the contigs is N; its nucleotides are counted in ``changes["outside_genome"]``.

        Raises:
            BadData: no such chromosome, or an empty locus.
        """
        contigs = self._contigs.get(bare(locus.chromosome))
        if contigs is None:
            raise BadData(no_chromosome(self.path, locus.chromosome, self.chromosomes))
        if locus.end <= locus.start:
            raise BadData(f"locus {locus.chromosome}:{locus.start}-{locus.end} is empty; start must be below end")
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


def bare(chromosome: str) -> str:
    """A chromosome's name without ``chr``; the mitochondrion is M."""
    name = chromosome[3:] if chromosome[:3].lower() == "chr" else chromosome
    return "M" if name == "MT" else name


def no_chromosome(path: Path, chromosome: str, known: Iterable[str]) -> str:
    """The message for a chromosome that a file of reference data lacks."""
    known = list(known)
    some = ", ".join(known[:6]) + (", …" if len(known) > 6 else "")
    return f"{path}: no chromosome {chromosome!r}; it holds {some}: is it another part, or another assembly?"


def optional(module: str, reads: str) -> ModuleType:
    """A package of the extra ``variants``, imported.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{reads} needs the package {module}: pip install 'gfm-harness[variants]'") from None


def text_lines(path: Path, expected: str) -> Iterator[str]:
    """The lines of a plain or gzipped text file, without their ends.

    Raises:
        BadData: the file is missing, binary, or its gzip stream is cut.
    """
    opener = gzip.open if _head(path, expected)[:2] == b"\x1f\x8b" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise BadData(f"{path}: the gzip stream is cut or damaged; copy or download the file again") from None
    except UnicodeDecodeError:
        raise BadData(f"{path}: a binary file; expected {expected}") from None


def cache_key(path: Path) -> str:
    """A name that changes when the file does (its place, size and time of change)."""
    status = path.stat()
    return hashlib.sha256(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]


def _head(path: Path, expected: str) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise BadData(f"{path}: no such file; expected {expected}") from None
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror}); expected {expected}") from None
    if not head:
        raise BadData(f"{path}: the file is empty; expected {expected}")
    return head


def _place(name: str, length: int) -> tuple[str, Contig]:
    """A record's chromosome and stretch; a name that states an interval of another length is taken as a plain name."""
    if found := _PART.fullmatch(name):
        start, end = int(found["start"]), int(found["end"])
        if end - start == length:
            return bare(found["chromosome"]), Contig(name, start, end)
    return bare(name), Contig(name, 0, length)


Opened = tuple[dict[str, int], Callable[[str, int, int], str]]  # lengths by record, and the letters of a stretch of one


def _open_two_bit(path: Path) -> Opened:
    try:
        file = optional("py2bit", "a 2bit genome").open(str(path))
        return dict(file.chroms()), file.sequence
    except RuntimeError:
        raise BadData(f"{path}: the 2bit file is cut or damaged; download it again") from None


def _open_fasta(path: Path, head: bytes) -> Opened:
    pyfaidx = optional("pyfaidx", "a FASTA genome")
    folder = cache_home() / "genomes"
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / f"{cache_key(path)}.fai"
    file = path
    if head[:2] == b"\x1f\x8b" and head[12:14] != b"BC":  # plain gzip has no random access; bgzip has
        file = index.with_suffix(".fa")
        if not file.is_file():
            _decompress(path, file)
    elif head[:2] != b"\x1f\x8b" and not head.lstrip().startswith(b">"):
        raise BadData(f"{path}: neither FASTA (its first line does not begin with '>') nor 2bit")
    try:
        fasta = pyfaidx.Fasta(str(file), indexname=str(index), gzi_indexname=str(index.with_suffix(".gzi")), as_raw=True)
    except (pyfaidx.FastaIndexingError, pyfaidx.UnsupportedCompressionFormat, ValueError, EOFError, zlib.error) as error:
        raise BadData(f"{path}: not a FASTA file that can be indexed ({str(error).splitlines()[0]})") from None
    lengths = {name: len(fasta[name]) for name in fasta.keys()}  # noqa: SIM118 (iterating gives records)
    return lengths, lambda name, start, end: fasta[name][start:end]


def _decompress(path: Path, target: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as output:
        try:
            with gzip.open(path) as file:
                shutil.copyfileobj(file, output, 1 << 20)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            os.unlink(output.name)
            raise BadData(f"{path}: the gzip stream is cut or damaged; copy or download the file again") from None
    os.replace(output.name, target)
