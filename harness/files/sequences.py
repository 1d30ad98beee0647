"""Sequences to pretrain on: genomes (FASTA or 2bit), and FASTA files of windows or RNAs, one or a folder of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from harness.data import Locus, Window, normalise, reverse_complement
from harness.errors import BadData
from harness.objective import Source

from .alignments import GAP, Alignment
from .fingerprint import digest, file_digest
from .genome import Genome, part_of
from .text import head, may_be_fasta, text_lines
from .two_bit import SIGNATURES

LONGEST_RECORD = 100_000  # nt of a window or an RNA; a file with a longer record is a genome
EXPECTED = "sequences: FASTA (plain, bgzip or gzip), 2bit, or a folder of them"
ENDINGS = (".fa", ".fasta", ".fna", ".2bit")  # of the files of a folder, .gz apart

_UNKNOWN = ord("N")


def open_sequences(path: Path) -> Source:
    """The sequences of a file, or of all FASTA and 2bit files of a folder, whose records are then named ``FILE/RECORD``.

    A file without a record above LONGEST_RECORD, and without one named like ``chr17:100-200``, is read whole. Of such records
    with the same letters, on either strand and in any file of a folder, only the first is kept, so that none is trained on and
    held out; how many are left out is in ``notes``, as is what was changed to get ``ACGTN``. A record may have any letters of
    IUPAC; U is read as T.

    Raises:
        BadData: there is no such file, or one that is not of this kind, or two of a folder have one name.
    """
    path = Path(path)
    files, seen = sequence_files(path), set[bytes]()
    if len(files) == 1:
        return _open(files[0], seen)
    named: dict[str, Path] = {}
    for file in files:
        if (other := named.setdefault(_stem(file), file)) is not file:
            raise BadData(f"{path}: {other.name} and {file.name} have the same name; leave one of them out, or rename it")
    return _Folder(path, {stem: _open(file, seen) for stem, file in named.items()})


def sequence_files(path: Path) -> list[Path]:
    """The file itself, or the FASTA and 2bit files of a folder, sorted by name.

    Raises:
        BadData: the folder has none.
    """
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.iterdir()) if file.name.lower().removesuffix(".gz").endswith(ENDINGS)]
    if not files:
        raise BadData(f"{path}: no file in this folder ends in {', '.join(ENDINGS)}, with or without .gz; expected {EXPECTED}")
    return files


def _open(path: Path, seen: set[bytes]) -> Source:
    start = head(path, EXPECTED)
    if start[:4] in SIGNATURES:
        return _Chromosomes(path)
    if not may_be_fasta(start):
        raise BadData(f"{path}: neither FASTA (its first line does not begin with '>') nor 2bit; expected {EXPECTED}")
    records = _records(path)
    return _Chromosomes(path) if records is None else _Records(path, records, seen)


def _stem(file: Path) -> str:
    name = file.name.removesuffix(".gz")
    return name[: name.rindex(".")]


def _records(path: Path) -> list[tuple[str, str]] | None:
    """Header and letters of each record; None if one is longer than LONGEST_RECORD, or names its place on a chromosome."""
    records: list[tuple[str, list[str]]] = []
    length = 0
    for line in text_lines(path, EXPECTED):
        if line.startswith(">"):
            records.append((line[1:].strip(), []))
            length = 0
        elif records:
            records[-1][1].append(line.strip())
            if (length := length + len(line)) > LONGEST_RECORD:
                return None
        elif line.strip():
            raise BadData(f"{path}: begins with {line[:30]!r}, not with '>'; expected {EXPECTED}")
    found = [(header, "".join(lines)) for header, lines in records]
    return None if any(header and part_of(header.split()[0], len(letters)) for header, letters in found) else found


class _Chromosomes(Source):
    """A genome, read as its windows are asked for."""

    def __init__(self, path: Path) -> None:
        self.path, self.genome = path, Genome(path)
        self.stretches = self.genome.stretches

    def window(self, locus: Locus) -> Window:
        return Window(self.genome.sequence(locus), locus)

    def facts(self) -> dict[str, Any]:
        return {"records": len(self.stretches), "sha256": file_digest(self.path)}


class _Records(Source):
    """Sequences of their own, in memory. ``types`` are the second words of headers; ``seen`` digests of what was read before."""

    whole = True

    def __init__(self, path: Path, records: list[tuple[str, str]], seen: set[bytes]) -> None:
        self.path, self._sequences, types, notes = path, dict[str, str](), dict[str, str](), list[str]()
        changes, same, empty = Counter[str](), 0, 0
        for number, (header, letters) in enumerate(records, start=1):
            words = header.split()
            name = words[0] if words else str(number)
            if name in self._sequences:
                name = f"{name}#{number}"
            try:
                sequence = normalise(letters, changes)
            except BadData as error:
                remedy = "mend it, or leave it out" + ("; --msa takes an alignment" if "-" in letters else "")
                raise BadData(f"{path}, record {name!r:.80}: {error}; {remedy}") from None
            key = blake2b(min(sequence, reverse_complement(sequence)).encode(), digest_size=16).digest()
            if not sequence or key in seen:
                empty, same = empty + (not sequence), same + bool(sequence)
                continue
            seen.add(key)
            self._sequences[name] = sequence
            if len(words) > 1:
                types[name] = words[1]
        if not (self._sequences or same):
            raise BadData(f"{path}: holds no letters; expected {EXPECTED}")
        for count, what in (
            (same, "records are left out: their letters are those of an earlier one, or its reverse complement"),
            (empty, "records without letters are left out"),
            (changes["ambiguity_to_n"], "ambiguous letters are read as N"),
        ):
            if count:
                notes.append(f"{path.name}: {count:,} {what}")
        self.types, self.notes = types, notes
        self.stretches = [(name, 0, len(sequence)) for name, sequence in self._sequences.items()]

    def window(self, locus: Locus) -> Window:
        text = self._sequences[locus.chromosome][locus.start : locus.end]
        return Window(reverse_complement(text) if locus.strand == "-" else text, locus)

    def facts(self) -> dict[str, Any]:
        return {"records": len(self._sequences), "sha256": file_digest(self.path)}


class _Folder(Source):
    """The sequences of several files."""

    def __init__(self, path: Path, parts: dict[str, Source]) -> None:
        self.path, self._parts = path, parts
        self.whole = any(part.whole for part in parts.values())
        self.types = {f"{stem}/{name}": kind for stem, part in parts.items() for name, kind in part.types.items()}
        self.notes = [note for part in parts.values() for note in part.notes]
        self.stretches = [(f"{stem}/{name}", start, end) for stem, part in parts.items() for name, start, end in part.stretches]

    def window(self, locus: Locus) -> Window:
        stem, _, name = locus.chromosome.partition("/")
        return replace(self._parts[stem].window(Locus(name, locus.start, locus.end, locus.strand)), locus=locus)

    def facts(self) -> dict[str, Any]:
        digests = {stem: part.facts()["sha256"] for stem, part in self._parts.items()}
        return {"files": list(digests), "records": len(self.stretches), "sha256": digest(digests)}


class Columns(Source):
    """An alignment as a source of windows; gaps of its target are read as N."""

    def __init__(self, alignment: Alignment) -> None:
        self.alignment, self.path, self.notes = alignment, alignment.path, alignment.notes
        self.stretches = [(name, *extent) for name, extent in alignment.extents.items()]

    def window(self, locus: Locus) -> Window:
        rows = self.alignment.columns(locus)
        rows[0][rows[0] == GAP] = _UNKNOWN
        return Window(rows[0].tobytes().decode(), locus, rows)

    def facts(self) -> dict[str, Any]:
        return {"extents": self.alignment.extents, "species": self.alignment.species}
