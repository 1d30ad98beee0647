"""Reads files of variants, VCF, CSV, TSV (plain or gzipped) or parquet, into single-nucleotide variants with a label.

Positions are 1-based. Every fault is one line that names the file, the line, and what was expected.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.errors import BadData

EXPECTED = "a VCF, CSV, TSV or parquet file with chrom, pos (1-based), ref, alt, label"
COLUMNS = (  # accepted names in a table's header, in lower case
    ("chrom", "#chrom", "chromosome", "chr"),
    ("pos", "position"),
    ("ref", "reference"),
    ("alt", "alternate"),
    ("label", "clinvar_label", "clnsig", "class"),
)
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


Fields = tuple[str, str, str, str, str, str | None]  # where it stands; chromosome, position, reference, alternate, label


def read(path: Path, changes: Counter[str]) -> Iterator[Variant]:
    """The single-nucleotide variants of a file; what is passed over is counted in ``changes``."""
    from harness.files.genome import bare

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
    """Each variant once, in order; those with two labels not at all."""
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
    if re.search(r"\.(parquet|pq)$", path.name, re.IGNORECASE):
        return _parquet(path)
    if re.search(r"\.vcf(\.b?gz)?$", path.name, re.IGNORECASE):
        return _vcf(path)
    if re.search(r"\.(csv|tsv|txt|tab)(\.gz)?$", path.name, re.IGNORECASE):
        return _table(path)
    raise BadData(f"{path}: expected {EXPECTED}, with the usual ending (.vcf, .csv, .tsv, .parquet)")


def _vcf(path: Path) -> Iterator[Fields]:
    from harness.files.genome import text_lines

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
    """A record's label; None where it says neither benign nor pathogenic (uncertain, conflicting, a risk factor)."""
    facts = dict(item.split("=", 1) for item in info.split(";") if "=" in item)
    for word in (facts.get("LABEL"), facts.get("CLNSIG"), name.partition("_")[0]):
        if word is not None and (first := re.split(r"[|,]", word)[0]).lower() in LABELS:
            return first
    return None


def _table(path: Path) -> Iterator[Fields]:
    from harness.files.genome import text_lines

    lines = text_lines(path, EXPECTED)
    header = next(lines, "")
    separator = "\t" if "\t" in header else ","
    places = _places(path, header.split(separator))
    rows = csv.reader(lines, delimiter=separator)
    for row in rows:
        where = f"{path}, line {rows.line_num + 1}"
        if not any(row):
            continue
        if len(row) <= max(places):
            raise BadData(f"{where}: {len(row)} fields, fewer than the header names; complete or delete the line")
        chromosome, position, reference, alternate, label = (row[place].strip() for place in places)
        yield where, chromosome, _whole(position), reference, alternate, _whole(label)


def _parquet(path: Path) -> Iterator[Fields]:
    import pandas as pd

    from harness.files.genome import optional

    optional("pyarrow", "a parquet file")
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise BadData(f"{path}: no such file; expected {EXPECTED}") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are among them
        raise BadData(f"{path}: not a readable parquet file ({str(error).splitlines()[0]}); download it again") from None
    names = [table.columns[place] for place in _places(path, list(table.columns))]
    for number, row in enumerate(table[names].itertuples(index=False, name=None), start=1):
        chromosome, position, reference, alternate, label = map(str, row)
        yield f"{path}, row {number}", chromosome, _whole(position), reference, alternate, _whole(label)


def _places(path: Path, header: Sequence[str]) -> list[int]:
    """Where a table's columns of COLUMNS are."""
    names = [name.strip().strip('"').lower() for name in header]
    places = [next((names.index(name) for name in accepted if name in names), -1) for accepted in COLUMNS]
    if -1 in places:
        lacking = " or ".join(COLUMNS[places.index(-1)])
        raise BadData(f"{path}: no column named {lacking}; found {', '.join(names)[:200]}")
    return places


def _whole(text: str) -> str:
    """``1.0``, which pandas writes for whole numbers beside gaps, is ``1``."""
    return re.sub(r"^(\d+)\.0+$", r"\1", text)
