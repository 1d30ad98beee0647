"""Reads labelled single-nucleotide variants from VCF, CSV, TSV (plain or gzipped) and parquet files.

Positions are 1-based. Every error is one line that names the file, the line, and what was expected.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from harness.data import bare
from harness.errors import BadData
from harness.files.table import VARIANT_COLUMNS, Table, is_table, whole
from harness.files.text import text_lines

EXPECTED = "a VCF, CSV, TSV or parquet file with chrom, pos (1-based), ref, alt, label"
LABEL_COLUMNS = ("label", "clinvar_label", "clnsig", "class")
LABELS: dict[str, int] = {
    **dict.fromkeys(("0", "false", "benign", "likely_benign", "benign/likely_benign", "common"), 0),
    **dict.fromkeys(("1", "true", "pathogenic", "likely_pathogenic", "pathogenic/likely_pathogenic"), 1),
}


class Variant(NamedTuple):
    """A single-nucleotide variant; ``position`` is 1-based."""

    chromosome: str
    position: int
    reference: str
    alternate: str
    label: int

    @property
    def id(self) -> str:
        """``17:43045712:A:G``; the chromosome without ``chr``."""
        return f"{self.chromosome}:{self.position}:{self.reference}:{self.alternate}"


Fields = tuple[str, str, str, str, str, str | None]  # place in the file; chromosome, position, reference, alternate, label


def read(path: Path, changes: Counter[str]) -> Iterator[Variant]:
    """The single-nucleotide variants of a file; what is skipped is counted in ``changes``.

    Raises:
        BadData: the file cannot be read, or a line is not a variant or has an unknown label.
        UserError: the package that reads parquet is not installed.
    """
    for where, chromosome, position, reference, alternate, label in _fields(path):
        reference, alternate = reference.upper(), alternate.upper()
        if not re.fullmatch(r"[1-9]\d*", position) or not chromosome or not re.fullmatch(r"[A-Z]+", reference):
            raise BadData(f"{where}: {chromosome!r} {position!r} {reference!r} {alternate!r} is no variant; expected {EXPECTED}")
        if label is None:
            changes["unlabelled"] += 1
        elif "," in alternate:
            changes["multi_allelic"] += 1
        elif not re.fullmatch("[ACGT]{2}", reference + alternate) or reference == alternate:
            changes["not_snv"] += 1
        elif label.lower() not in LABELS:
            raise BadData(f"{where}: label {label!r}; expected 0 or 1, false or true, benign or pathogenic")
        else:
            yield Variant(bare(chromosome), int(position), reference, alternate, LABELS[label.lower()])


def unique(variants: Iterable[Variant], changes: Counter[str]) -> list[Variant]:
    """Each variant once, in order, without those that occur with both labels; what is dropped is counted in ``changes``."""
    labels: dict[Variant, set[int]] = {}
    copies: Counter[Variant] = Counter()
    for variant in variants:
        key = variant._replace(label=0)
        labels.setdefault(key, set()).add(variant.label)
        copies[key] += 1
    changes["conflicting"] += sum(copies[key] for key, seen in labels.items() if len(seen) > 1)
    changes["duplicates"] += sum(copies[key] - 1 for key, seen in labels.items() if len(seen) == 1)
    return [key._replace(label=min(seen)) for key, seen in labels.items() if len(seen) == 1]


def _fields(path: Path) -> Iterator[Fields]:
    if re.search(r"\.vcf(\.b?gz)?$", path.name, re.IGNORECASE):
        return _vcf(path)
    if is_table(path):
        return _table(path)
    raise BadData(f"{path}: expected {EXPECTED}, with the usual ending (.vcf, .csv, .tsv, .parquet)")


def _vcf(path: Path) -> Iterator[Fields]:
    for number, line in enumerate(text_lines(path, EXPECTED), start=1):
        if line.startswith("#") or not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 5:
            raise BadData(f"{path}, line {number}: {line[:40]!r} is no VCF record: CHROM POS ID REF ALT …, separated by tabs")
        chromosome, position, name, reference, alternate, *more = fields
        label = _vcf_label(name, more[2] if len(more) > 2 else "")
        yield f"{path}, line {number}", chromosome, position, reference, alternate, label


def _vcf_label(name: str, info: str) -> str | None:
    """A record's label; None if it is neither benign nor pathogenic (uncertain, conflicting, a risk factor)."""
    facts = dict(item.split("=", 1) for item in info.split(";") if "=" in item)
    for word in (facts.get("LABEL"), facts.get("CLNSIG"), name.partition("_")[0]):
        if word is not None and (first := re.split(r"[|,]", word)[0]).lower() in LABELS:
            return first
    return None


def _table(path: Path) -> Iterator[Fields]:
    table = Table(path, EXPECTED)
    columns = [table.column(accepted) for accepted in (*VARIANT_COLUMNS, LABEL_COLUMNS)]
    for where, (chromosome, position, reference, alternate, label) in table.rows(columns):
        yield where, chromosome, whole(position), reference, alternate, whole(label)
