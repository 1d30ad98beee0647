"""Tables that are written row by row: CSV, TSV, JSON lines and parquet, by the ending of their name."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from harness.errors import HarnessError, UserError
from harness.files.atomic import atomic, check_writable
from harness.files.text import optional

ENDINGS = ".csv, .tsv, .jsonl (each also with .gz) or .parquet"
ROWS = 8192  # of a parquet file's row group

Write = Callable[[Sequence[Any]], None]  # takes the values of a row

_TABLE = re.compile(r"\.(csv|tsv|jsonl|ndjson)(\.gz)?$|\.(parquet|pq)$", re.IGNORECASE)


def check_out(out: Path, inputs: Sequence[Path], endings: re.Pattern[str], known: str, force: bool, option: str = "out") -> None:
    """Refuse a file that cannot be written, has another ending, is one of those that are read, or exists, unless ``force``.

    Raises:
        UserError: it is so.
    """
    if not endings.search(out.name):
        raise UserError(f"{option} {out}: the name must end in {known}")
    if out.is_dir():
        raise UserError(f"{option} {out}: is a folder; give the name of a file in it")
    if not out.parent.is_dir():
        raise UserError(f"{option} {out}: there is no folder {out.parent}; make it, or choose another --{option}")
    if any(os.path.realpath(out) == os.path.realpath(path) for path in inputs):
        raise UserError(f"{option} {out}: is another file of this command, too; choose another --{option}")
    if out.exists() and not force:
        raise UserError(f"{option} {out}: exists; choose another name, or --force to replace it")
    check_writable(out.parent, option)


def check_table(out: Path, inputs: Sequence[Path], force: bool) -> None:
    """:func:`check_out` of a table, and that the package which writes it is here.

    Raises:
        UserError: it cannot be written.
    """
    check_out(out, inputs, _TABLE, ENDINGS, force)
    if _is_parquet(out):
        optional("pyarrow", "a parquet file")


def _is_parquet(out: Path) -> bool:
    return out.suffix.lower() in (".parquet", ".pq")


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """:func:`harness.files.atomic.atomic`, with one line where the disk is full.

    Raises:
        HarnessError: the file cannot be written.
    """
    try:
        with atomic(out) as temporary:
            yield temporary
    except OSError as error:
        raise HarnessError(
            f"{out}: was not written ({error.strerror or error}); make room, and run the same command again"
        ) from None


@contextmanager
def text_file(path: Path, packed: bool) -> Iterator[IO[str]]:
    """A text file to write, gzipped if ``packed``: always the same bytes for the same text."""
    if not packed:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as binary,
        io.TextIOWrapper(binary, encoding="utf-8", newline="") as file,
    ):
        yield file


@contextmanager
def table(out: Path, columns: Sequence[tuple[str, type]]) -> Iterator[Write]:
    """Writes rows to a table that appears whole when the block ends. ``columns`` are names with ``str`` or ``float``.

    None is an empty field. Floats read back to the last bit.
    """
    with whole(out) as temporary:
        if _is_parquet(out):
            with _parquet(temporary, columns) as write:
                yield write
            return
        with text_file(temporary, out.suffix.lower() == ".gz") as file:
            yield lines(file, columns, Path(out.name.lower().removesuffix(".gz")).suffix)


def lines(file: IO[str], columns: Sequence[tuple[str, type]], ending: str = ".csv") -> Write:
    """Writes rows to an open text file: CSV or TSV, whose header is written here, or JSON lines, by the ``ending``."""
    names = [name for name, _ in columns]
    if ending in (".jsonl", ".ndjson"):
        return lambda row: print(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False), file=file)
    # The csv module writes floats by repr, the shortest text that reads back as the same bits.
    writer = csv.writer(file, delimiter="\t" if ending == ".tsv" else ",", lineterminator="\n")
    writer.writerow(names)
    return writer.writerow


@contextmanager
def _parquet(path: Path, columns: Sequence[tuple[str, type]]) -> Iterator[Write]:
    import pyarrow
    import pyarrow.parquet

    types = {str: pyarrow.string(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns])
    rows: list[Sequence[Any]] = []

    def put() -> None:
        made = [pyarrow.array(list(values), field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)]
        writer.write_table(pyarrow.Table.from_arrays(made, schema=schema))
        rows.clear()

    def write(row: Sequence[Any]) -> None:
        rows.append(list(row))
        if len(rows) == ROWS:
            put()

    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        yield write
        if rows:
            put()
