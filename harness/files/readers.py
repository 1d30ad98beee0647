"""Reads windows from FASTA files in every usual dialect, and from tables with a sequence and a label column.

Letters are normalised once, here. Every error is one line that names the file, the record or line, and the remedy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from harness.data import Locus, Window, normalise
from harness.errors import BadData

from .table import Table, is_parquet, is_table, whole
from .text import fasta_records, text_lines

EXPECTED = "FASTA or a CSV/TSV table (save a spreadsheet as CSV, UTF-8)"
SEQUENCE_COLUMNS = ("sequence", "seq")
LABEL_COLUMNS = ("label", "class", "y")
MAX_CLASSES = 50  # more distinct labels than this are taken for measurements

_CLASS = re.compile(r"(?:^|[\s;|,])(?:class|label)[:=]\s*([^\s;|,]+)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_LOCUS = (
    re.compile(r"(?:.*::)?(?P<chromosome>[\w.]+):(?P<start>\d+)-(?P<end>\d+)(?:\((?P<strand>[+-])\))?"),  # bedtools getfasta
    re.compile(r"(?P<chromosome>[\w.]+),(?P<strand>[+-]),(?P<start>\d+),(?P<end>\d+)"),  # iDeepS, DeepBind-style lists
)


class Record(NamedTuple):
    """A window as the file has it. ``label`` is the file's own word, None in FASTA files without one."""

    id: str
    window: Window
    label: str | None


def read(path: Path, changes: Counter[str]) -> list[Record]:
    """The records of a FASTA file or of a table, plain or gzipped; letters that normalisation changes are counted in ``changes``.

    A table's records are numbered from 1, and read by the rules of :mod:`harness.files.table`.

    Raises:
        BadData: the file is missing, empty, binary, cut, or neither FASTA nor a table with the right columns; a record
            is empty, occurs twice, or has a letter outside IUPAC; a label is missing.
    """
    if is_parquet(path):
        return _table(path, changes)
    first, lines = _opened(path)
    if first.startswith(">"):
        return _fasta(path, chain([first], lines), changes)
    if is_table(path):
        return _table(path, changes)
    raise BadData(f"{path}: not FASTA (its first line does not begin with '>'); a table's name ends in .csv or .tsv")


def is_fasta(path: Path) -> bool:
    """Whether the file's first letter is FASTA's ``>``.

    Raises:
        BadData: the file is missing, empty, binary or cut.
    """
    return _opened(path)[0].startswith(">")


def _opened(path: Path) -> tuple[str, Iterable[str]]:
    """The first line that is not blank, and the lines that follow it."""
    if not path.exists():
        raise BadData(f"{path}: no such file; check the name and the folder")
    lines = text_lines(path, EXPECTED)
    return next(stripped for line in lines if (stripped := line.lstrip())), lines


def _fasta(path: Path, lines: Iterable[str], changes: Counter[str]) -> list[Record]:
    records = []
    for number, (title, letters) in enumerate(fasta_records(lines), start=1):
        name = re.split(r"[\s;]", title, maxsplit=1)[0]
        if not name:
            raise BadData(f"{path}: record {number} has no name; write one after '>'")
        window = _window(f"{path}: record {name!r}", letters, changes, name)
        label = _CLASS.search(title)
        records.append(Record(name, window, label.group(1) if label else None))
    for name, count in Counter(record.id for record in records).items():
        if count > 1:
            raise BadData(f"{path}: {count} records are named {name!r}; give every record its own name")
    return records


def _table(path: Path, changes: Counter[str]) -> list[Record]:
    table = Table(path, EXPECTED)
    columns = [table.column(accepted) for accepted in (SEQUENCE_COLUMNS, LABEL_COLUMNS)]
    records = [
        Record(str(number), _window(where, sequence, changes), _label(where, label))
        for number, (where, (sequence, label)) in enumerate(table.rows(columns), start=1)
    ]
    if not records:
        raise BadData(f"{path}: a header and no rows; expected one window a line")
    return records


def _label(where: str, label: str) -> str:
    if not label or label.lower() in ("nan", "na"):
        raise BadData(f"{where}: no label ({label!r}); fill it in or delete the line")
    return whole(label)


def _window(where: str, letters: str, changes: Counter[str], title: str = "") -> Window:
    letters = "".join(letters.split())
    if not letters:
        raise BadData(f"{where}: no sequence; delete the record or complete it")
    try:
        sequence = normalise(letters, changes)
    except BadData as error:
        raise BadData(f"{where}: {error}; expected DNA or RNA without gaps") from None
    return Window(sequence, _locus(title, len(sequence)))


def _locus(name: str, length: int) -> Locus | None:
    """The interval in a record's name: ``chr1:100-200(+)`` (+ if no strand is given) or ``chr1,+,100,200``.

    It is read as 0-based and half-open, and kept only if its length is the sequence's: a 1-based interval is one short,
    and nothing tells which end to move.
    """
    for pattern in _LOCUS:
        if found := pattern.fullmatch(name):
            locus = Locus(found["chromosome"], int(found["start"]), int(found["end"]), found["strand"] or "+")
            return locus if locus.end - locus.start == length else None
    return None


def class_names(path: Path, labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels, sorted by value if all are whole numbers, else by name.

    Raises:
        BadData: the labels look like measurements: numbers with decimals, or more than MAX_CLASSES different ones.
    """
    names = sorted(set(labels))
    whole = [re.fullmatch(r"[-+]?\d+", name) is not None for name in names]
    decimal = next((name for name, integer in zip(names, whole, strict=True) if not integer and _NUMBER.fullmatch(name)), None)
    if decimal is not None or len(names) > MAX_CLASSES:
        found = f"label {decimal!r}" if decimal is not None else f"{len(names)} different labels"
        raise BadData(f"{path}: {found} looks like a regression target; labels are 0, 1, … or the names of classes")
    return tuple(sorted(names, key=int) if all(whole) else names)
