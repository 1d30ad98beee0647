"""Reads delimited tables, CSV or TSV (plain, gzip or bgzip), JSON and parquet, row by row.

The rules are the same for every kind of table that the project reads: the separator is a tab if the header has one, else a
comma, or a semicolon if there is neither; fields may be quoted; blank lines, and remarks above the header (lines beginning with
``##``, or with ``# `` if they have no tab), are skipped; columns are found by name, whatever the case. A row must have as many
fields as the header. Without a header, columns are called by their numbers from 1.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from harness.errors import BadData, UnknownName

from .json_table import field_text, json_rows
from .text import head, optional, printable, text_lines

# Accepted names of the columns that describe a variant, by priority.
VARIANT_COLUMNS = (
    ("chrom", "#chrom", "chromosome", "chr", "#chr"),
    ("pos", "position"),
    ("ref", "reference"),
    ("alt", "alternate"),
)
FIELD_LIMIT = 2**31 - 1  # characters; the csv module's own limit of 131,072 is less than a long window

_TABLE = re.compile(r"\.((csv|tsv|txt|tab|seq|json|jsonl|ndjson)(\.b?gz)?|parquet|pq)$", re.IGNORECASE)
_WHOLE = re.compile(r"^(-?\d+)\.0+$")
_REMARK = re.compile(r"##|#( [^\t]*)?$|sep=.$")  # sep=; is what spreadsheets write
_LETTERS = re.compile(r"[ACGTUN ]{10,}", re.IGNORECASE)
_PARQUET = re.compile(r"\.(parquet|pq)$", re.IGNORECASE)

Row = tuple[str, Sequence[str]]  # where it is in the file, for messages; its fields


class Table:
    """The ``header`` of a table and, read once and in order, its rows.

    ``expected`` says in messages what the file should have been. ``class_names`` maps columns of a parquet file to the names
    that its metadata give to the classes 0, 1, … ``may_lack_header``: it is delimited text.

    Raises:
        BadData: the file is missing, empty, damaged or not a table.
        UserError: the package that reads parquet is not installed.
    """

    def __init__(self, path: Path, expected: str) -> None:
        self.path = path
        self.class_names: dict[str, list[str]] = {}
        self.may_lack_header = False
        if is_parquet(path):
            rows = _parquet_rows(path, expected, self.class_names)
        elif next((line for line in text_lines(path, expected) if line.strip()), "").lstrip().startswith(("{", "[")):
            rows = json_rows(path, expected)
        else:
            rows, self.may_lack_header = _text_rows(path, expected), True
        self._first = next(rows)
        self.header = [name.strip().strip('"').strip() for name in self._first[1]]
        self._rows = rows

    def number_columns(self) -> None:
        """Take the first line for a row, and call the columns by their numbers from 1."""
        self.header = [str(number + 1) for number in range(len(self.header))]
        self._rows = chain([self._first], self._rows)

    def named(self, name: str, option: str) -> int:
        """The index of the column that the user names in ``option``.

        Raises:
            UnknownName: there is none.
            BadData: there are two.
        """
        column = self.optional_column([name])
        if column is not None:
            return column
        by_key = {known.lower(): known for known in self.header}
        near = [by_key[key] for key in difflib.get_close_matches(name.lower(), by_key, n=3, cutoff=0.5)]
        found = printable(", ".join(self.header))[:200]
        hint = f"did you mean {printable(' or '.join(near))[:100]}?" if near else f"the columns are {found}"
        raise UnknownName(f"{option} {name!r}: {self.path} has no such column; {hint}")

    def column(self, accepted: Sequence[str], remedy: str = "") -> int:
        """The index of the column with the first of the ``accepted`` names that the header has.

        Raises:
            BadData: it has none of them, or two columns of that name; ``remedy`` is the end of the message.
        """
        column = self.optional_column(accepted)
        if column is not None:
            return column
        if letters := next((number for number, name in enumerate(self.header, 1) if _LETTERS.fullmatch(name)), None):
            numbers = f"--sequence-column {letters} --label-column {len(self.header) if letters < len(self.header) else 1}"
            remedy = f"; the first line must name the columns, or give their numbers: {numbers}"
        found = printable(", ".join(name if len(name) <= 30 else f"{name[:20]}…" for name in self.header))[:200]
        raise BadData(f"{self.path}: no column named {' or '.join(accepted)}; found {found}{remedy}")

    def optional_column(self, accepted: Sequence[str]) -> int | None:
        """As :meth:`column`, but None if the header has none of the names."""
        names = [name.lower() for name in self.header]
        for name in map(str.lower, accepted):
            if names.count(name) > 1:
                raise BadData(f"{self.path}: {names.count(name)} columns are named {name!r}; rename or delete all but one")
            if name in names:
                return names.index(name)
        return None

    def unused(self, columns: Iterable[int | None]) -> list[str]:
        """The names of the other columns, fit to be shown."""
        used = set(columns)
        return [printable(name) for index, name in enumerate(self.header) if index not in used and name]

    def rows(self, columns: Sequence[int]) -> Iterator[Row]:
        """For each row its place (``FILE, line 7`` or ``FILE, row 6``) and the stripped fields of these columns.

        A missing value of a parquet or JSON file is an empty field, and a list is JSON text.

        Raises:
            BadData: a row has more or fewer fields than the header, or a quote is not closed.
        """
        for where, row in self._rows:
            yield where, [row[column].strip() for column in columns]


def is_table(path: Path) -> bool:
    """Whether the file's name ends like that of a table."""
    return _TABLE.search(path.name) is not None


def is_parquet(path: Path) -> bool:
    """Whether the file's name ends like that of a parquet file."""
    return _PARQUET.search(path.name) is not None


def whole(text: str) -> str:
    """A whole number as digits alone: ``1.0``, which pandas writes for whole numbers beside gaps, becomes ``1``."""
    return _WHOLE.sub(r"\1", text) if "." in text else text


def _text_rows(path: Path, expected: str) -> Iterator[Row]:
    """The header, then the rows."""
    lines, skipped = text_lines(path, expected), 0
    header = next(lines)
    while not header.strip() or _REMARK.match(header):
        header, skipped = next(lines, None), skipped + 1
        if header is None:
            raise BadData(f"{path}: remarks and no header; expected {expected}")
    separator = next((mark for mark in "\t,;" if mark in header), ",")
    at_end = False

    def all_lines() -> Iterator[str]:
        nonlocal at_end
        yield header
        for line in lines:
            yield line + "\n"  # so that a quoted field keeps its line ends
        at_end = True

    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(all_lines(), delimiter=separator, strict=True)
    width, first = 0, skipped
    while True:
        first = first + 1
        try:
            row = next(reader, None)
        except csv.Error:  # with `strict`, a quote that ends within a field, or never
            where = f"a quote in line {first} is never closed" if at_end else f"line {first}: a quote within a field"
            raise BadData(f"{path}: not a table ({where}); quote fields that hold a {separator!r}") from None
        if row is None:
            return
        last = reader.line_num + skipped
        if not width:
            width = len(row)
            yield f"{path}, line {last}", row
        elif not "".join(row).strip():
            pass
        elif len(row) > width:
            raise BadData(
                f"{path}: not a table (line {last} has {len(row)} fields, the header {width}); "
                f"quote fields that hold a {separator!r}"
            )
        elif len(row) < width:
            raise BadData(f"{path}, line {last}: {len(row)} fields, fewer than the header names; complete or delete the line")
        elif last > first and _swallows_rows(row, separator):
            raise BadData(
                f"{path}: not a table (a quote in line {first} is closed in line {last}, with rows between); delete lone quotes"
            )
        else:
            yield f"{path}, line {last}", row
        first = last


def _swallows_rows(row: Sequence[str], separator: str) -> bool:
    """Whether a quoted field goes on over line ends and holds what looks like rows, since a quote was left open."""
    return any(line.count(separator) >= len(row) - 1 for field in row for line in field.split("\n")[1:])


def _parquet_rows(path: Path, expected: str, class_names: dict[str, list[str]]) -> Iterator[Row]:
    """The column names, then the rows; names of classes go to ``class_names``."""
    optional("pyarrow", "a parquet file")
    import pyarrow.parquet

    head(path, expected)
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            class_names |= _class_names(file.schema_arrow.metadata or {})
            yield str(path), file.schema_arrow.names
            for batch in file.iter_batches():
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield f"{path}, row {number}", [field_text(field) for field in row]
    except (OSError, ValueError) as error:  # pyarrow's errors are among them
        raise BadData(f"{path}: not a readable parquet file ({printable(str(error)[:200])}); download it again") from None


def _class_names(metadata: Any) -> dict[str, list[str]]:
    """The names of classes that Hugging Face's `datasets` keeps in a parquet file's metadata."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        found = {name: feature["names"] for name, feature in features.items() if feature.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {name: names for name, names in found.items() if isinstance(names, list) and all(isinstance(n, str) for n in names)}
