"""Reads windows from FASTA files in every usual dialect, and from tables with a sequence and a label column.

Letters are normalised once, here. Every error is one line that names the file, the record or line, and the remedy.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

from harness.data import ALPHABET, AMBIGUITY_LETTERS, Locus, Window, normalise
from harness.errors import BadData

from .table import Table, is_parquet, is_table, whole
from .text import fasta_records, text_lines

EXPECTED = "FASTA or a CSV/TSV table (save a spreadsheet as CSV, UTF-8)"
SEQUENCE_COLUMNS = ("sequence", "seq")
LABEL_COLUMNS = ("label", "class", "y")
ID_COLUMNS = ("id", "name")
LOCUS_COLUMNS = (("chrom", "chromosome", "chr"), ("start", "chromstart"), ("end", "chromend", "stop"))
PART_COLUMNS = ("split", "set", "subset", "partition", "fold")
PARTS = {  # how people call the parts of a split
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout", "heldout"), "test"),
}
MISSING = (".", "none", "nan", "na", "n/a", "#n/a", "<na>", "null")
MAX_CLASSES = 50  # more distinct numbers than this are taken for measurements
MIN_UNLIKE = 10  # with more distinct labels than this, of which most windows have their own, they are no classes
MAX_DIGITS = 15  # of whole numbers: labels and positions

_CLASS = re.compile(
    r"(?:^|[\s;|,\[({])(?:class|label)\s*[:=]\s*((?:[-+.\d]+[,;|/]\s*)*[-+.\d]+(?=[\s,;|]|$)|[^\s;|,\])}]+)", re.IGNORECASE
)
_PIPED_CLASS = re.compile(r"\|(\w+)\|(?:training|testing)\s*$")  # iLearn: >name|1|training
_PART = re.compile(r"(?:^|[\s;|,])(?:split|set|subset|partition|fold)[:=]\s*(\w+)|\|(\w+)\s*$", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE | re.ASCII)
_BETWEEN_WORDS = re.compile(r"[\s_'\"]+|(?<=\w)-+(?=\w)")
_LIST = re.compile(r"[\[({].*[\])}]|.*[,;|].*|[-+]?\d+([ _/:&+][-+]?\d+)+")
_LOCUS = (
    re.compile(r"(?:.*::)?(?P<chromosome>[\w.]+):(?P<start>\d+)-(?P<end>\d+)(?:\((?P<strand>[+-])\))?"),  # bedtools getfasta
    re.compile(r"(?P<chromosome>[\w.]+),(?P<strand>[+-]),(?P<start>\d+),(?P<end>\d+)"),  # iDeepS, DeepBind-style lists
)


class Record(NamedTuple):
    """A window as the file has it. ``label`` is the file's own word, None in FASTA files without one.

    ``place`` is the interval that the file gives it, even where that is not as long as the sequence (1-based, say), and so
    is no locus: it shows which windows overlap.
    """

    id: str
    window: Window
    label: str | None
    place: Locus | None = None


def read(path: Path, changes: Counter[str], notes: list[str] | None = None) -> list[Record]:
    """The records of a FASTA file or of a table, plain or gzipped.

    Letters that normalisation changes are counted in ``changes``, as are ``kmers_undone`` (windows written as overlapping
    k-mers), ``without_letters`` (windows of N alone), ``one_letter`` and ``given_splits_not_used`` (windows whose header or
    column says train, validation or test). What else the file says and is not used goes to ``notes``, as sentences.

    A table's records have the ids of its column ``id`` or ``name``, if there is one without repeats, else they are numbered
    from 1. Columns chrom, start and end, 0-based and half-open, give the locus. Tables are read by the rules of
    :mod:`harness.files.table`.

    Raises:
        BadData: the file is missing, empty, binary, cut, or neither FASTA nor a table with the right columns; a record
            is empty, occurs twice, or has a letter outside IUPAC; a label is missing.
    """
    notes = [] if notes is None else notes
    if is_parquet(path):
        return _table(path, changes, notes)
    first, lines = _opened(path)
    if first.startswith(">"):
        return _fasta(path, chain([first], lines), changes, notes)
    if first.startswith(("{", "[")):
        raise BadData(f"{path}: JSON, which is not read; save it as CSV with the columns sequence and label")
    if is_table(path):
        return _table(path, changes, notes)
    raise BadData(f"{path}: not FASTA (its first line does not begin with '>'); a table's name ends in .csv or .tsv")


def is_fasta(path: Path) -> bool:
    """Whether the file's first letter is FASTA's ``>``.

    Raises:
        BadData: the file is missing, empty, binary or cut.
    """
    return _opened(path)[0].startswith(">")


def _opened(path: Path) -> tuple[str, Iterable[str]]:
    """The first line that is not blank, and the lines that follow it."""
    if not os.path.exists(path):  # Path.exists raises for names that are too long
        raise BadData(f"{path}: no such file; check the name and the folder")
    lines = text_lines(path, EXPECTED)
    return next(stripped for line in lines if (stripped := line.lstrip())), lines


def _fasta(path: Path, lines: Iterable[str], changes: Counter[str], notes: list[str]) -> list[Record]:
    records, letters, parts = [], _Letters(path, changes), []
    for number, (title, text) in enumerate(fasta_records(lines), start=1):
        name = re.split(r"[\s;]", title, maxsplit=1)[0]
        if not name:
            raise BadData(f"{path}: record {number} has no name; write one after '>'")
        where = f"{path}: record {name[:80]!r}"
        if not name.isprintable():
            raise BadData(f"{where}: control characters in the name; remove them")
        place = _place(name)
        window = letters.window(where, text, place)
        labels = {*_CLASS.findall(title), *_PIPED_CLASS.findall(title)}
        if len(labels) > 1:
            raise BadData(f"{where}: the header has the classes {' and '.join(map(repr, sorted(labels)))}; keep one")
        label = next(iter(labels), None)
        records.append(Record(name, window, None if label is None else _label(where, label), place))
        parts += [PARTS.get((one or other).lower(), "") for one, other in _PART.findall(title)][:1]
    for name, count in Counter(record.id for record in records).items():
        if count > 1:
            raise BadData(f"{path}: {count} records are named {name[:80]!r}; give every record its own name")
    _tell_parts(path, "headers say", parts, changes, notes)
    letters.check(notes)
    return records


def _table(path: Path, changes: Counter[str], notes: list[str]) -> list[Record]:
    table = Table(path, EXPECTED)
    needed = [table.column(accepted) for accepted in (SEQUENCE_COLUMNS, LABEL_COLUMNS)]
    optional = [table.optional_column(accepted) for accepted in (ID_COLUMNS, PART_COLUMNS, *LOCUS_COLUMNS, ("strand",))]
    columns = [*needed, *(column for column in optional if column is not None)]
    letters, found = _Letters(path, changes), []
    for number, (where, fields) in enumerate(table.rows(columns), start=1):
        rest = iter(fields[2:])
        name, part, *interval = (None if column is None else next(rest) for column in optional)
        place = _place(name) if name else None
        if None not in interval[:3]:
            chromosome, start, end, strand = (whole(field or "") for field in interval)
            place = _place(f"{chromosome}:{start}-{end}" + (f"({strand})" if strand in ("+", "-") else ""))
        window = letters.window(where, fields[0], place)
        found.append((name, part, Record(str(number), window, _label(where, fields[1]), place)))
    if not found:
        raise BadData(f"{path}: a header and no rows; expected one window a line")
    names = [name for name, _, _ in found]
    records = [record for _, _, record in found]
    used = list(needed)
    if any(record.place for record in records):
        used += [column for column in optional[2:] if column is not None]
    if optional[0] is not None:
        used.append(optional[0])
        if len(set(names)) == len(names) and all(name and name.isprintable() for name in names):
            records = [record._replace(id=str(name)) for name, record in zip(names, records, strict=True)]
        else:
            notes.append(f"column {table.header[optional[0]]!r} has gaps or repeats: windows are numbered instead")
    parts = [PARTS.get((part or "").lower(), "") for _, part, _ in found]
    if _tell_parts(path, f"column {table.header[optional[1] or 0]!r} says", parts, changes, notes):
        used.append(optional[1] or 0)
    if unused := table.unused(used):
        notes.append(f"columns not used: {', '.join(unused)[:200]}")
    letters.check(notes)
    return records


def _tell_parts(path: Path, where: str, parts: Sequence[str], changes: Counter[str], notes: list[str]) -> bool:
    """Say that a split of the file's own is not used; whether it has one."""
    counts = Counter(filter(None, parts))
    if not counts:
        return False
    said = ", ".join(f"{count:,} {part}" for part, count in counts.items())
    notes.append(f"{path.name}: {where} {said}; this split is not used, for the harness draws its own")
    changes["given_splits_not_used"] += counts.total()
    return True


def _label(where: str, label: str) -> str:
    if not label or label.lower() in MISSING:
        raise BadData(f"{where}: no label ({label!r}); fill it in or delete the line")
    if not label.isprintable():
        raise BadData(f"{where}: label {label[:40]!r} has control characters; remove them")
    return whole(unicodedata.normalize("NFC", label))  # one spelling of accents


class _Letters:
    """Makes the windows of one file, which are all written alike: in one piece, or as overlapping k-mers."""

    def __init__(self, path: Path, changes: Counter[str]) -> None:
        self.path, self.changes = path, changes
        self.written: Counter[int] = Counter()  # windows by the length of their k-mers; 0 for those in one piece

    def window(self, where: str, letters: str, place: Locus | None) -> Window:
        words = letters.split()
        if not words:
            raise BadData(f"{where}: no sequence; delete the record or complete it")
        if words[0].lower() in MISSING:
            raise BadData(f"{where}: no sequence, but {words[0]!r}; delete the record or complete it")
        if len(words) > 1:
            if any(len(word) != len(words[0]) or last[1:] != word[:-1] for last, word in pairwise(words)):
                raise BadData(f"{where}: blanks within the sequence, which is not of overlapping k-mers; remove them")
            words = [words[0], *(word[-1] for word in words[1:])]
        self.written[len(words[0]) if len(words) > 1 else 0] += 1
        text = "".join(words)
        try:
            sequence = normalise(text, self.changes)
        except BadData as error:
            raise BadData(f"{where}: {error}; expected DNA or RNA without gaps") from None
        if "N" in sequence and 2 * sum(map(text.upper().count, AMBIGUITY_LETTERS[:-1])) > len(text):
            raise BadData(f"{where}: most letters are ambiguity codes, neither {ALPHABET} nor U; is this a protein?")
        if len(text) > 1 and sequence.count(sequence[0]) == len(sequence):
            self.changes["without_letters" if sequence[0] == "N" else "one_letter"] += 1
        return Window(sequence, place if place is not None and place.end - place.start == len(sequence) else None)

    def check(self, notes: list[str]) -> None:
        """Refuse a file in which not all windows are written alike."""
        if not self.written.keys() - {0}:
            return
        if len(self.written) > 1:
            raise BadData(f"{self.path}: some sequences are written as k-mers, some otherwise; write all of them in one piece")
        ((length, count),) = self.written.items()
        self.changes["kmers_undone"] += count
        notes.append(f"{self.path.name}: sequences of overlapping {length}-mers are read as the windows that these were cut from")


def _place(name: str) -> Locus | None:
    """The interval in a record's name: ``chr1:100-200(+)`` (+ if no strand is given) or ``chr1,+,100,200``.

    It is read as 0-based and half-open, and becomes the window's locus only if its length is the sequence's: a 1-based
    interval is one short, and nothing tells which end to move.
    """
    for pattern in _LOCUS:
        if (found := pattern.fullmatch(name)) and max(len(found["start"]), len(found["end"])) <= MAX_DIGITS:
            return Locus(found["chromosome"], int(found["start"]), int(found["end"]), found["strand"] or "+")
    return None


def class_names(path: Path, labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels, sorted by value if all are whole numbers, else by name.

    Raises:
        BadData: the labels look like measurements (numbers with decimals, or more than MAX_CLASSES different ones), like
            several labels a window, or like ids; or they mix numbers and names, or spell one class in two ways.
    """
    counts = Counter(labels)
    names = sorted(counts)
    whole = [re.fullmatch(r"[-+]?\d+", name, re.ASCII) is not None for name in names]
    decimal = next((name for name, integer in zip(names, whole, strict=True) if not integer and _NUMBER.fullmatch(name)), None)
    unlike = len(names) > MIN_UNLIKE and 2 * len(names) > counts.total()
    if decimal is not None or ((len(names) > MAX_CLASSES or unlike) and all(whole)):
        found = f"label {decimal[:40]!r}" if decimal is not None else f"{len(names)} different labels"
        raise BadData(f"{path}: {found} looks like a regression target; labels are 0, 1, … or the names of classes")
    bits = len(names) > 1 and all(re.fullmatch("[01]{2,}", name) and len(name) == len(names[0]) for name in names)
    if several := next((name for name in names if bits or _LIST.fullmatch(name)), None):
        raise BadData(f"{path}: label {several[:40]!r} looks like several labels of one window; give each window one class")
    if any(whole) and not all(whole):
        number, name = names[whole.index(True)], names[whole.index(False)]
        raise BadData(f"{path}: labels mix numbers ({number[:40]!r}) and names ({name[:40]!r}); write all classes in one way")
    if long := next((name for name, integer in zip(names, whole, strict=True) if integer and len(name) > MAX_DIGITS), None):
        raise BadData(f"{path}: label {long[:40]!r}… has {len(long):,} digits; labels are 0, 1, … or the names of classes")
    spellings: dict[str, str] = {}
    for name, integer in zip(names, whole, strict=True):
        plain = str(int(name)) if integer else _BETWEEN_WORDS.sub(" ", name.casefold()).strip()
        if (other := spellings.setdefault(plain, name)) != name:
            raise BadData(f"{path}: {other[:40]!r} and {name[:40]!r} are spellings of one label; write it in one way")
    if unlike:
        raise BadData(f"{path}: {len(names):,} different labels of {counts.total():,} windows: are these ids? Name the classes")
    return tuple(sorted(names, key=int) if all(whole) else names)
