"""Reads windows, or intervals whose letters a genome holds, from tables with a label column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.errors import BadData, UserError

from .parts import part_of
from .table import Table, whole
from .window_records import Found, Interval, Letters, Record, Row, is_missing, label_in, part_in, place_in

EXPECTED = "FASTA or a CSV/TSV table (save a spreadsheet as CSV, UTF-8)"
SEQUENCE_COLUMNS = ("sequence", "seq")
LABEL_COLUMNS = ("label", "class", "y", "labels", "target", "bound")
ID_COLUMNS = ("id", "name")
LOCUS_COLUMNS = (("chrom", "chromosome", "chr", "region"), ("start", "chromstart"), ("end", "chromend", "stop"))
PART_COLUMNS = ("split", "data_split", "dataset_split", "set", "subset", "partition", "fold")
HEADER_WORDS = ("dna", "rna", "label", "labels", "class")  # of a first line that could be read as letters and a class
STRANDS = {"+": "+", "1": "+", "-": "-", "-1": "-", ".": "+", "": "+"}


class Columns(NamedTuple):
    """Which columns of a table to read: names, or numbers from 1 where it has no header. What is empty has its usual name.

    ``labelled``: the file's own name is its class, so that it needs no label column. ``optional``: neither need there be labels,
    nor need every row have one.
    """

    sequence: str = ""
    labels: tuple[str, ...] = ()
    labelled: bool = False
    optional: bool = False


USUAL = Columns()


def read_table(path: Path, changes: Counter[str], notes: list[str], columns: Columns) -> Found[Record]:
    table, letters = _Columns(path, columns), Letters(path, changes)
    rows = [(record, fields._replace(sequence="")) for record, fields in _windows(table, letters)]
    letters.check(notes)
    return Found(table.finished(rows, any(record.place for record, _ in rows), notes), table.label_names)


def stream_table(path: Path, changes: Counter[str], notes: list[str], columns: Columns) -> Iterator[Record]:
    """The records one by one; see :func:`harness.files.readers.stream`."""
    table, letters, placed = _Columns(path, columns._replace(optional=True)), Letters(path, changes), False
    for record, fields in _windows(table, letters):
        placed = placed or record.place is not None
        yield table.named(record, fields)
    letters.check(notes)
    table.conclude(placed, notes)


def read_intervals(path: Path, notes: list[str], columns: Columns = USUAL) -> Found[Interval]:
    """The rows of a table with the columns chrom (or region), start, end and, if there is one, strand; 0-based and half-open.

    Ids, labels and parts are those of :func:`read_as`.

    Raises:
        BadData: a row is no interval, or what :func:`read_as` raises.
    """
    table = _Columns(path, columns, lettered=False)
    return Found(table.finished(list(_intervals(table)), True, notes), table.label_names)


def stream_intervals(path: Path, notes: list[str], columns: Columns = USUAL) -> Iterator[Interval]:
    """The rows of :func:`read_intervals` one by one, as :func:`harness.files.readers.stream` gives records."""
    table = _Columns(path, columns._replace(optional=True), lettered=False)
    for record, fields in _intervals(table):
        yield table.named(record, fields)
    table.conclude(True, notes)


class _Fields(NamedTuple):
    """What a row of a table says. ``interval`` is chromosome, start, end and strand, or empty; ``parts`` has a word for each
    column that may name parts of a split.
    """

    where: str
    sequence: str
    label: str | tuple[str, ...] | None
    name: str
    parts: tuple[str, ...]
    interval: tuple[str, ...]


def _windows(table: _Columns, letters: Letters) -> Iterator[tuple[Record, _Fields]]:
    """The windows, numbered from 1, and the rows that they are made of."""
    if table.sequence is None:
        table.sequence = table.table.column(SEQUENCE_COLUMNS)
    for number, row in enumerate(table.rows(), start=1):
        place = place_in(row.name) if row.name else None
        if row.interval:
            chromosome, start, end, strand = row.interval
            place = place_in(f"{chromosome}:{start}-{end}" + (f"({strand})" if strand in ("+", "-") else ""))
        try:
            window = letters.window(row.where, row.sequence, place)
        except BadData as error:
            hint = "; is this line a header? Then name the columns" if table.numbered and number == 1 else ""
            raise BadData(f"{error}{hint}") from None
        yield Record(str(number), window, row.label, place, "", row.where), row


def _intervals(table: _Columns) -> Iterator[tuple[Interval, _Fields]]:
    for number, row in enumerate(table.rows(), start=1):
        chromosome, start, end, strand = row.interval
        if strand not in STRANDS:
            raise BadData(f"{row.where}: strand {strand[:20]!r}; expected + or -")
        locus = place_in(f"{chromosome}:{start}-{end}({STRANDS[strand]})")
        if locus is None or locus.end <= locus.start:
            raise BadData(
                f"{row.where}: {chromosome[:20]}:{start[:20]}-{end[:20]} is no interval; expected start (0-based) below end"
            )
        yield Interval(str(number), locus, row.label, "", row.where), row


class _Columns:
    """The columns of a table of windows."""

    def __init__(self, path: Path, columns: Columns, lettered: bool = True) -> None:
        self.table = table = Table(path, EXPECTED)
        asked = [name for name in (columns.sequence, *columns.labels) if name]
        self.numbered = (
            any(name.isdecimal() and table.optional_column([name]) is None for name in asked) and table.may_lack_header
        )
        if self.numbered:
            if any(name.lower() in HEADER_WORDS for name in table.header):
                raise UserError(f"{path}: the first line is a header ({', '.join(table.header)[:80]}); name the columns instead")
            table.number_columns()
            if not (columns.sequence and columns.labels) and not (columns.labelled or columns.optional):
                raise UserError(
                    f"{path}: columns are numbered where a table has no header; give --sequence-column and --label-column"
                )
        self.sequence = (
            table.named(columns.sequence, "sequence-column") if columns.sequence else table.optional_column(SEQUENCE_COLUMNS)
        )
        self.labels = [table.named(name, "label-column") for name in columns.labels]
        if len(set(self.labels)) < len(self.labels):
            raise UserError(f"label-column {','.join(columns.labels)}: a column is named twice; name each once")
        if not self.labels:
            unlabelled = columns.labelled or columns.optional
            usual = table.optional_column(LABEL_COLUMNS) if unlabelled else None
            self.labels = [usual] if usual is not None else [] if unlabelled else [self._usual_label(lettered)]
        if self.sequence in self.labels:
            raise BadData(f"{path}: column {table.header[self.sequence or 0]!r} cannot be both sequence and label")
        self.name = table.optional_column(ID_COLUMNS)
        self.interval = [table.optional_column(accepted) for accepted in (*LOCUS_COLUMNS, ("strand",))]
        self.parts = [column for name in PART_COLUMNS if (column := table.optional_column([name])) is not None]
        self.optional, self.read = columns.optional, False

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the label columns; of a table without a header, ``column 4``."""
        return tuple(("column " if self.numbered else "") + self.table.header[column] for column in self.labels)

    def _usual_label(self, lettered: bool) -> int:
        if self.sequence is None and lettered:  # whose lack is said first
            self.table.column(SEQUENCE_COLUMNS)
        return self.table.column(LABEL_COLUMNS, "; name it with --label-column")

    def rows(self) -> Iterator[_Fields]:
        placed = None not in self.interval[:3]
        single = [self.sequence, self.name, *self.interval]
        wanted = [0 if column is None else column for column in single]
        for where, fields in self.table.rows([*wanted, *self.labels, *self.parts]):
            self.read = True
            sequence, name, *interval = ("" if c is None else f for c, f in zip(single, fields, strict=False))
            words = fields[len(single) :]
            said, parts = words[: len(self.labels)], tuple(words[len(self.labels) :])
            if self.optional and any(map(is_missing, said)):
                said = []
            labels = tuple(
                label_in(where, self._named_class(where, column, word)) for column, word in zip(self.labels, said, strict=False)
            )
            label = None if not labels else labels[0] if len(labels) == 1 else labels
            yield _Fields(where, sequence, label, name, parts, tuple(map(whole, interval)) if placed else ())

    def _named_class(self, where: str, column: int, word: str) -> str:
        """The class that a parquet file's metadata names for a number."""
        names = self.table.class_names.get(self.table.header[column])
        if names is None or not word:
            return word
        if not word.isdecimal() or int(word) >= len(names):
            raise BadData(f"{where}: label {word[:20]!r} is none of the {len(names)} classes that the file names")
        return names[int(word)]

    def finished(self, rows: Sequence[tuple[Row, _Fields]], placed: bool, notes: list[str]) -> list[Row]:
        """The records with their ids and parts; what is not used is said."""
        path, header, names = self.table.path, self.table.header, [fields.name for _, fields in rows]
        records = [record for record, _ in rows]
        if self.name is not None and records:
            if len(set(names)) == len(names) and all(name and name.isprintable() for name in names):
                records = [self.named(*row) for row in rows]
            else:
                notes.append(f"{path.name}: column {header[self.name]!r} has gaps or repeats: windows are numbered instead")
        said_by = ""  # the column that gives the parts
        for number, column in enumerate(self.parts if records else ()):
            words, name = [fields.parts[number] for _, fields in rows], header[column]
            if any(map(part_of, words)):
                found = [part_in(record.where, word) for record, word in zip(records, words, strict=True)]
                other = next((r for r, part in zip(records, found, strict=True) if said_by and r.part != part), None)
                if other is not None:
                    raise BadData(f"{other.where}: columns {said_by!r} and {name!r} name different parts; keep one of them")
                records = [record._replace(part=part) for record, part in zip(records, found, strict=True)]
                said_by = name
            else:
                holds = "numbers of folds" if all(map(str.isdecimal, words)) else f"words such as {words[0][:20]!r}"
                notes.append(
                    f"{path.name}: column {name!r} holds {holds}, not the words train, validation and test; "
                    "it is not used, and no split"
                )
        self.conclude(placed, notes)
        return records

    def named(self, record: Row, fields: _Fields) -> Row:
        """The record with the id that its row has, if it has one that can be shown."""
        return record._replace(id=fields.name) if fields.name and fields.name.isprintable() else record

    def conclude(self, placed: bool, notes: list[str]) -> None:
        """Once all rows are read: refuse a table without any, and say which columns are not used."""
        if not self.read:
            raise BadData(f"{self.table.path}: a header and no rows; expected one window a line")
        used = [self.sequence, *self.labels, self.name, *(self.interval if placed else ()), *self.parts]
        if unused := self.table.unused(used):
            notes.append(f"{self.table.path.name}: columns not used: {', '.join(unused)[:200]}")
