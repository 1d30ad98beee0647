"""JSON files as the rows of a table: records, columns, or one record a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadData

from .parts import part_of
from .text import printable, text_lines

SHAPES = 'a list of records, {"sequence": […], "label": […]}, or one record a line'
PART_COLUMN = "split"  # what lists of records that are called train, test … become

Rows = Iterator[tuple[str, Sequence[str]]]


def field_text(value: Any) -> str:
    """A value of JSON or parquet as a table's field: empty for a missing one, JSON for a list."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple | Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def json_rows(path: Path, expected: str) -> Rows:
    """The header, then the rows; a field that a record lacks is empty.

    Read are lists of records, whole or as the one list within an object, lists of records that are called train and test (the
    column ``split``), one record a line, and columns as pandas writes them.

    Raises:
        BadData: the file is no JSON, has another shape, or a record names a field twice.
    """
    header: dict[str, None] = {}
    try:
        if _is_a_record_a_line(path, expected):
            for _, record in _line_records(path, expected):
                header |= dict.fromkeys(record)
            found = _line_records(path, expected)  # read twice, so that any number of lines fits into memory
        else:
            found = _records(path, _parsed(path, "\n".join(text_lines(path, expected))))
            header = dict.fromkeys(name for _, record in found for name in record)
    except RecursionError:
        raise BadData(f"{path}: JSON within JSON without end; expected {SHAPES}") from None
    if not header:
        raise BadData(f"{path}: no records; expected {SHAPES}")
    yield str(path), list(header)
    for where, record in found:
        yield where, [field_text(record.get(name)) for name in header]


def _is_a_record_a_line(path: Path, expected: str) -> bool:
    """Whether the file has several lines, each of which is an object."""
    full = (line.strip() for line in text_lines(path, expected) if line.strip())
    objects = 0
    for line in full:
        if not (line.startswith("{") and line.endswith("}")):
            return False
        objects += 1
    return objects > 1


def _parsed(path: Path, text: str, where: str = "") -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            name = next(name for name in found if sum(name == other for other, _ in pairs) > 1)
            raise BadData(f"{path}{where}: a record has {printable(name)[:40]!r} twice; keep one")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except ValueError as error:  # also a number of more digits than Python reads
        at = where or (f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "")
        raise BadData(f"{path}{at}: not JSON ({printable(str(error))[:80]}); expected {SHAPES}") from None


def _line_records(path: Path, expected: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text_lines(path, expected), start=1):
        if line.strip():
            yield f"{path}, line {number}", _parsed(path, line, f", line {number}")


def _records(path: Path, found: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Each record with its place, from any of the shapes."""
    if isinstance(found, Mapping):
        found = _listed(path, found)
    odd = next((number for number, record in enumerate(found, start=1) if not isinstance(record, Mapping)), None)
    if odd is not None:
        raise BadData(f"{path}, record {odd}: not an object with named fields; expected {SHAPES}")
    return [(f"{path}, record {number}", record) for number, record in enumerate(found, start=1)]


def _listed(path: Path, found: Mapping[str, Any]) -> list[Any]:
    """The records of an object: its one list of them, its columns, or itself."""
    lists = {name: value for name, value in found.items() if isinstance(value, list)}
    of_records = {name: value for name, value in lists.items() if value and all(isinstance(item, Mapping) for item in value)}
    if set(lists) >= {"columns", "data"}:  # pandas, orient="split"
        return [dict(zip(lists["columns"], row, strict=False)) for row in lists["data"]]
    parts = [name for name, value in lists.items() if part_of(name) and (name in of_records or not value)]
    if len(of_records) == 1 and not parts:
        return next(iter(of_records.values()))
    if of_records:
        if any(PART_COLUMN in record for records in of_records.values() for record in records):
            raise BadData(
                f"{path}: several lists of records ({_names(of_records)}) that have a field 'split'; keep one of the two"
            )
        return [{**record, PART_COLUMN: name} for name, records in of_records.items() for record in records]
    if lists and len(lists) == len(found):
        lengths = {name: len(value) for name, value in lists.items()}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{printable(name)[:40]} {count:,}" for name, count in list(lengths.items())[:5])
            raise BadData(f"{path}: columns of different lengths ({said}); give every window one value of each")
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    if found and all(isinstance(value, Mapping) for value in found.values()):
        inner = list(dict.fromkeys(key for value in found.values() for key in value))
        if all(key.isdigit() for key in inner):  # pandas, orient="columns"
            return [{name: value.get(key) for name, value in found.items()} for key in inner]
        return [{"id": name, **value} for name, value in found.items()]
    if any(isinstance(value, list | Mapping) for value in found.values()):
        raise BadData(f"{path}: an object of {_names(found)}; expected {SHAPES}")
    return [found]


def _names(found: Mapping[str, Any]) -> str:
    return printable(", ".join(found))[:100]
