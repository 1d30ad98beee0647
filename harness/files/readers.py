"""Reads other people's files: FASTA in every usual dialect, tables with a sequence and a label column.

Letters are normalised once, here. Every fault is one line that names the file, the record or line, and the remedy.
"""

from __future__ import annotations

import gzip
import io
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from harness.data import Locus, Window, normalise
from harness.errors import BadData

SEQUENCE_COLUMNS = ("sequence", "seq")
LABEL_COLUMNS = ("label", "class", "y")
MOST_CLASSES = 50  # more distinct labels than this are taken for measurements

_CLASS = re.compile(r"(?:^|[\s;|,])(?:class|label)[:=]\s*([^\s;|,]+)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_LOCUS = (
    re.compile(r"(?:.*::)?(?P<chromosome>[\w.]+):(?P<start>\d+)-(?P<end>\d+)(?:\((?P<strand>[+-])\))?"),  # bedtools getfasta
    re.compile(r"(?P<chromosome>[\w.]+),(?P<strand>[+-]),(?P<start>\d+),(?P<end>\d+)"),  # iDeepS, DeepBind-style lists
)


class Record(NamedTuple):
    """A window as a file gives it. ``label`` is the file's own word, None where it has none."""

    id: str
    window: Window
    label: str | None


def read(path: Path, changes: Counter[str]) -> list[Record]:
    """The records of a FASTA file or of a CSV/TSV table, plain or gzipped; what normalisation changed goes to ``changes``.

    Raises:
        BadData: the file is missing, empty, binary, cut, or neither FASTA nor a table with the right columns; a record
            is empty, occurs twice, or has a letter outside IUPAC; a label is missing or a measurement.
    """
    text = _text(path)
    if text.lstrip().startswith(">"):
        return _fasta(path, text, changes)
    if re.search(r"\.(csv|tsv|txt|tab)(\.gz)?$", path.name, re.IGNORECASE):
        return _table(path, text, changes)
    raise BadData(f"{path}: not FASTA (its first line does not begin with '>'); a table's name ends in .csv or .tsv")


def is_fasta(path: Path) -> bool:
    """Whether the file's first letter is FASTA's ``>``.

    Raises:
        BadData: the file is missing, empty, binary or cut.
    """
    return _text(path).lstrip().startswith(">")


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadData(f"{path}: no such file; check the name and the folder") from None
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror}); give a FASTA file or a CSV/TSV table") from None
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise BadData(f"{path}: the gzip stream is cut or damaged; copy or download the file again") from None
    if not content.strip():
        raise BadData(f"{path}: the file is empty; expected FASTA or a CSV/TSV table")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise BadData(f"{path}: a binary file; expected FASTA or a CSV/TSV table (save a spreadsheet as CSV, UTF-8)")
    return text


def _fasta(path: Path, text: str, changes: Counter[str]) -> list[Record]:
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    records = []
    for number, (title, letters) in enumerate(SimpleFastaParser(io.StringIO(text.lstrip(), newline=None)), start=1):
        title = title.strip()
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


def _table(path: Path, text: str, changes: Counter[str]) -> list[Record]:
    import pandas as pd

    body = text.lstrip()
    first_line = 1 + text[: len(text) - len(body)].count("\n")
    separator = "\t" if "\t" in body.partition("\n")[0] else ","
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas would drop fields that the header does not name
            # Blank lines are kept, so that a row's number tells its line.
            options = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "index_col": False}
            table = pd.read_csv(io.StringIO(body), sep=separator, **options)
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = str(error).strip().splitlines()[-1]
        raise BadData(f"{path}: not a table ({reason}); quote fields that hold a {separator!r}") from None
    by_name = {str(column).strip().lower(): column for column in table.columns}
    columns = [_column(path, by_name, accepted) for accepted in (SEQUENCE_COLUMNS, LABEL_COLUMNS)]
    numbered = enumerate(table[columns].itertuples(index=False, name=None), start=first_line + 1)
    rows = [(line, row) for line, row in numbered if any(row)]
    if not rows:
        raise BadData(f"{path}: a header and no rows; expected one window a line")
    return [
        Record(str(number), _window(f"{path}, line {line}", sequence, changes), _label(f"{path}, line {line}", label))
        for number, (line, (sequence, label)) in enumerate(rows, start=1)
    ]


def _column(path: Path, by_name: dict[str, str], accepted: Iterable[str]) -> str:
    for name in accepted:
        if name in by_name:
            return by_name[name]
    raise BadData(f"{path}: no column named {' or '.join(accepted)}; found {', '.join(by_name)[:200]}")


def _label(where: str, label: str) -> str:
    """A table's label as a word; ``1.0``, which pandas writes for whole numbers beside gaps, is ``1``."""
    label = label.strip()
    if not label or label.lower() in ("nan", "na"):
        raise BadData(f"{where}: no label ({label!r}); fill it in or delete the line")
    return re.sub(r"^(-?\d+)\.0+$", r"\1", label)


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
    """The interval in a record's name: ``chr1:100-200(+)`` (no strand: +) or ``chr1,+,100,200``.

    Read as 0-based and half-open, and kept only if its length is the sequence's: 1-based intervals are one short, and
    nothing tells which end to move.
    """
    for pattern in _LOCUS:
        if found := pattern.fullmatch(name):
            locus = Locus(found["chromosome"], int(found["start"]), int(found["end"]), found["strand"] or "+")
            return locus if locus.end - locus.start == length else None
    return None


def class_names(path: Path, labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels in order: by value if all are whole numbers, else by name.

    Raises:
        BadData: labels that look like measurements: numbers with decimals, or more than MOST_CLASSES different ones.
    """
    names = sorted(set(labels))
    whole = [re.fullmatch(r"[-+]?\d+", name) is not None for name in names]
    decimal = next((name for name, integer in zip(names, whole, strict=True) if not integer and _NUMBER.fullmatch(name)), None)
    if decimal is not None or len(names) > MOST_CLASSES:
        found = f"label {decimal!r}" if decimal is not None else f"{len(names)} different labels"
        raise BadData(f"{path}: {found} looks like a regression target; labels are 0, 1, … or the names of classes")
    return tuple(sorted(names, key=int) if all(whole) else names)
