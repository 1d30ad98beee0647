"""The variants of VCF files and tables, allele by allele: their windows, or why there are none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from harness.data import Window, bare
from harness.errors import BadData
from harness.files.readers import is_fasta, is_parquet
from harness.files.table import VARIANT_COLUMNS, Table, is_table, whole
from harness.files.text import text_lines
from harness.files.window_table import ID_COLUMNS, LABEL_COLUMNS, SEQUENCE_COLUMNS

EXPECTED = "a VCF, or a table with the columns chrom, pos (1-based), ref and alt"
TOGETHER = 1024  # alleles whose windows are cut together

_VCF = re.compile(r"\.vcf(\.b?gz)?$", re.IGNORECASE)
_POSITION = re.compile(r"[1-9][0-9]{0,10}")
_TELOMERE = "0"  # a VCF's position before the first base


class Record(NamedTuple):
    """A line of a file of variants, with its alternate alleles. ``name`` is empty where the file has no id of its own."""

    chromosome: str
    position: int
    reference: str
    alternates: tuple[str, ...]
    name: str
    label: str | None
    where: str


class Allele(NamedTuple):
    """One alternate allele: its windows (reference, alternate) and the letters ``changed`` as in :class:`harness.data.Example`,
    or the ``reason`` why there are none."""

    id: str
    windows: tuple[Window, ...]
    label: str | None
    where: str
    reason: str
    changed: tuple[int, int] | None = None


def is_vcf(path: Path) -> bool:
    """Whether the file's name is that of a VCF, plain or gzipped."""
    return _VCF.search(path.name) is not None


def is_variants(path: Path) -> bool:
    """Whether a file is a VCF, or a table that has the columns of a variant and none of letters."""
    if is_vcf(path):
        return True
    if not is_parquet(path) and (not is_table(path) or is_fasta(path)):
        return False
    table = Table(path, EXPECTED)
    named = all(table.optional_column(accepted) is not None for accepted in VARIANT_COLUMNS)
    return named and table.optional_column(SEQUENCE_COLUMNS) is None


def vcf_record(path: Path, number: int, line: str) -> Record:
    """The variants of a VCF's line.

    Raises:
        BadData: it is none.
    """
    where, fields = f"{path}, line {number}", line.split("\t")
    there = len(fields) >= 5 and (fields[1] == _TELOMERE or _POSITION.fullmatch(fields[1]))
    if not there or not fields[0] or not fields[0].isprintable() or not fields[3]:
        raise BadData(f"{where}: {line[:40]!r} is no VCF record: CHROM POS ID REF ALT …, separated by tabs")
    chromosome, position, name, reference, alternates = fields[:5]
    return Record(chromosome, int(position), reference, tuple(alternates.split(",")), "" if name == "." else name, None, where)


def records(path: Path) -> Iterator[Record]:
    """The records of a VCF, or the rows of a table of variants, in their order.

    Raises:
        BadData: the file cannot be read, has no records, or one is no variant.
    """
    found = False
    for record in _vcf(path) if is_vcf(path) else _table(path):
        found = True
        yield record
    if not found:
        raise BadData(f"{path}: no variants; expected {EXPECTED}")


def _vcf(path: Path) -> Iterator[Record]:
    for number, line in enumerate(text_lines(path, EXPECTED), start=1):
        if not line.startswith("#") and line.strip():
            yield vcf_record(path, number, line)


def _table(path: Path) -> Iterator[Record]:
    table = Table(path, EXPECTED)
    columns = [table.column(accepted) for accepted in VARIANT_COLUMNS]
    extra = [table.optional_column(names) for names in (ID_COLUMNS, LABEL_COLUMNS)]
    present = [column for column in extra if column is not None]
    for where, (chromosome, position, reference, alternates, *more) in table.rows([*columns, *present]):
        name, label = ("" if column is None else more[present.index(column)] for column in extra)
        chromosome, position = whole(chromosome), whole(position)
        if not chromosome.isprintable() or not chromosome or not _POSITION.fullmatch(position) or not reference:
            raise BadData(f"{where}: {chromosome[:20]!r} {position[:20]!r} {reference[:20]!r} is no variant; expected {EXPECTED}")
        yield Record(chromosome, int(position), reference, tuple(alternates.split(",")), name, label or None, where)


def alleles(path: Path, pairs: Any) -> Iterator[Allele]:
    """Every alternate allele of a file in its order. Ids are those of a table, else ``17:43045712:A:G``."""
    rest = ((record, alternate) for record in records(path) for alternate in record.alternates)
    while some := list(islice(rest, TOGETHER)):
        made = pairs.made([(record.chromosome, record.position, record.reference, alternate) for record, alternate in some])
        for (record, alternate), example in zip(some, made, strict=True):
            name = f"{bare(record.chromosome)}:{record.position}:{record.reference.upper()}:{alternate.upper()}"
            if record.name and not is_vcf(path):
                name = record.name
            if isinstance(example, str):
                yield Allele(name, (), record.label, record.where, example)
            else:
                yield Allele(name, example.windows, record.label, record.where, "", example.changed)
