"""Reads windows from FASTA files in every usual dialect, from tables with a sequence and a label column, and from plain text.

Letters are normalised once, here. Every error is one line that names the file, the record or line, and the remedy.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from harness.errors import BadData

from .parts import PARTS, part_of
from .table import Table, is_parquet, is_table
from .text import fasta_records, text_lines
from .window_records import MISSING, Found, Letters, Record, is_missing, label_in, part_in, place_in
from .window_table import (
    EXPECTED,
    LOCUS_COLUMNS,
    PART_COLUMNS,
    SEQUENCE_COLUMNS,
    USUAL,
    Columns,
    read_intervals,
    read_table,
    stream_intervals,
    stream_table,
)

__all__ = [
    "MISSING",
    "PARTS",
    "PART_COLUMNS",
    "Columns",
    "is_fasta",
    "is_intervals",
    "is_parquet",
    "read",
    "read_as",
    "read_intervals",
    "read_texts",
    "stream",
    "stream_intervals",
]

_CLASS = re.compile(
    r"(?:^|[\s;|,\[({])(?:class|label)\s*[:=]\s*"
    r"((?:[-+.\d]+[,;|/]\s*)*[-+.\d]+(?=[\s,;|]|$)|[^\s;|,\])}]+(?:[;,][^\s;|,\])}:=]+(?![^\s;|,\])}]))*)",
    re.IGNORECASE,
)
_PIPED_CLASS = re.compile(r"\|(\w+)\|(?:training|testing)\s*$")  # iLearn: >name|1|training
_PART = re.compile(r"(?:^|[\s;|,])(?:split|set|subset|partition|fold)[:=]\s*(\w+)|\|(\w+)\s*$", re.IGNORECASE)


def read(path: Path, changes: Counter[str], notes: list[str] | None = None) -> list[Record]:
    """The records of a FASTA file or of a table with the usual columns; see :func:`read_as`."""
    return read_as(path, changes, [] if notes is None else notes).records


def read_as(path: Path, changes: Counter[str], notes: list[str], columns: Columns = USUAL) -> Found[Record]:
    """The records of a FASTA file or of a table, plain or gzipped.

    Letters that normalisation changes are counted in ``changes``, as are ``kmers_undone`` (windows written as k-mers),
    ``without_letters`` (windows of N alone) and ``one_letter``. What the file says and is not used goes to ``notes``, as
    sentences.

    A table's records have the ids of its column ``id`` or ``name``, if there is one without repeats, else they are numbered
    from 1. Columns chrom, start and end, 0-based and half-open, give the locus; a column ``split`` (or set, subset, partition,
    fold) with the words train and test gives the part. Tables are read by the rules of :mod:`harness.files.table`.

    Raises:
        BadData: the file is missing, empty, binary, cut, or neither FASTA nor a table with the right columns; a record
            is empty, occurs twice, or has a letter outside IUPAC; a label is missing; some records have a part and others none.
        UnknownName: there is no column of a given name.
    """
    lines = _fasta_lines(path)
    return read_table(path, changes, notes, columns) if lines is None else Found(_fasta(path, lines, changes, notes), ())


def stream(path: Path, changes: Counter[str], notes: list[str], columns: Columns = USUAL) -> Iterator[Record]:
    """The records of :func:`read_as` one by one, in flat memory, without what only training asks of them.

    Labels may be missing, ids may repeat, and parts of a split are not read. ``changes`` and ``notes`` are complete at the end.

    Raises:
        BadData, UnknownName: as :func:`read_as`, when the record is reached; k-mers beside whole sequences, at the end.
    """
    lines = _fasta_lines(path)
    if lines is None:
        yield from stream_table(path, changes, notes, columns)
        return
    letters = Letters(path, changes)
    for record, _ in _fasta_windows(path, lines, letters, optional=True):
        yield record
    letters.check(notes)


def read_texts(paths: Sequence[Path], changes: Counter[str], notes: list[str]) -> list[Record]:
    """The windows of text files that hold one sequence each, called by the files' names.

    Raises:
        BadData: a file is missing, empty or binary, or holds something else.
    """
    records, letters = [], Letters(paths[0].parent, changes)
    for path in paths:
        lines = [line.strip() for line in text_lines(path, "the letters of one window")]
        if any(line.startswith(">") for line in lines):
            raise BadData(f"{path}: FASTA in a .txt file; call it .fa, or leave the letters alone")
        wrapped = not any(re.search(r"\s", line) for line in lines)
        window = letters.window(str(path), ("" if wrapped else " ").join(lines), None)
        records.append(Record(path.name.split(".")[0], window, None, where=str(path)))
    letters.check(notes)
    return records


def is_fasta(path: Path) -> bool:
    """Whether the file's first letter is FASTA's ``>``.

    Raises:
        BadData: the file is missing, empty, binary or cut.
    """
    return _opened(path)[0].startswith(">")


def is_intervals(path: Path) -> bool:
    """Whether a file is a table that has the columns of a locus and none of letters."""
    if not is_parquet(path) and (not is_table(path) or is_fasta(path)):
        return False
    table = Table(path, EXPECTED)
    placed = all(table.optional_column(accepted) is not None for accepted in LOCUS_COLUMNS)
    return placed and table.optional_column(SEQUENCE_COLUMNS) is None


def _opened(path: Path) -> tuple[str, Iterable[str]]:
    """The first line that is not blank, and the lines that follow it."""
    if not os.path.exists(path):  # Path.exists raises for names that are too long
        raise BadData(f"{path}: no such file; check the name and the folder")
    lines = text_lines(path, EXPECTED)
    return next(stripped for line in lines if (stripped := line.lstrip())), lines


def _fasta_lines(path: Path) -> Iterable[str] | None:
    """The lines of a FASTA file; None of a table."""
    if is_parquet(path):
        return None
    first, lines = _opened(path)
    if first.startswith(">"):
        return chain([first], lines)
    if not is_table(path) and not first.startswith(("{", "[")):
        raise BadData(f"{path}: not FASTA (its first line does not begin with '>'); a table's name ends in .csv or .tsv")
    return None


def _fasta_windows(path: Path, lines: Iterable[str], letters: Letters, optional: bool = False) -> Iterator[tuple[Record, str]]:
    """Each record, and the word that its header has for a part. ``optional``: a label may be missing."""
    for number, (title, text) in enumerate(fasta_records(lines), start=1):
        name = re.split(r"[\s;]", title, maxsplit=1)[0]
        if not name:
            raise BadData(f"{path}: record {number} has no name; write one after '>'")
        where = f"{path}: record {name[:80]!r}"
        if not name.isprintable():
            raise BadData(f"{where}: control characters in the name; remove them")
        place = place_in(name)
        window = letters.window(where, text, place)
        labels = {*_CLASS.findall(title), *_PIPED_CLASS.findall(title)}
        if len(labels) > 1:
            raise BadData(f"{where}: the header has the classes {' and '.join(map(repr, sorted(labels)))}; keep one")
        label = next(iter(labels), None)
        said = None if label is None or (optional and is_missing(label)) else label_in(where, label)
        yield Record(name, window, said, place, "", where), next((one or other for one, other in _PART.findall(title)), "")


def _fasta(path: Path, lines: Iterable[str], changes: Counter[str], notes: list[str]) -> list[Record]:
    records, letters, parts = list[Record](), Letters(path, changes), list[str]()
    for record, part in _fasta_windows(path, lines, letters):
        records.append(record)
        parts.append(part)
    for name, count in Counter(record.id for record in records).items():
        if count > 1:
            raise BadData(f"{path}: {count} records are named {name[:80]!r}; give every record its own name")
    letters.check(notes)
    if any(map(part_of, parts)):
        return [record._replace(part=part_in(record.where, part)) for record, part in zip(records, parts, strict=True)]
    return records
