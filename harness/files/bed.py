"""Intervals of BED files, 0-based and half-open."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from harness.data import Locus
from harness.errors import BadData

from .text import text_lines

EXPECTED = "BED: chromosome, start (0-based), end, and optionally name, score and strand"
LONGEST_INTERVAL = 10_000_000  # nucleotides
_BOUND = re.compile(r"[0-9]{1,15}")
_BLOCKS = re.compile(r"[0-9,]+")
_STRANDS = ("+", "-", "plus", "minus", "forward", "reverse")  # as files write them in other columns than the sixth
_NAMES = {4: "name", 5: "score"}


class BedLine(NamedTuple):
    """An interval, the ``name`` in its fourth column (empty if there is none), and its place in the file."""

    locus: Locus
    name: str
    where: str


def is_bed(path: Path) -> bool:
    """Whether the file's name is that of a BED file or of ENCODE's peak files, whose first six columns are BED's."""
    return re.search(r"\.(bed|narrowPeak|broadPeak)(\.gz)?$", path.name, re.IGNORECASE) is not None


def name(locus: Locus) -> str:
    """The interval as bedtools writes it in FASTA headers: ``chr1:100-200(+)``."""
    return f"{locus.chromosome}:{locus.start}-{locus.end}({locus.strand})"


def intervals(path: Path, unused: dict[str, None], longest: int = LONGEST_INTERVAL) -> Iterator[BedLine]:
    """The intervals of a BED file, plain or gzipped, one by one; those without a strand, or with ``.``, are on the plus strand.

    ``unused`` gains the names of the columns after the third, the strand excepted.

    Raises:
        BadData: the file is missing, empty or cut, a line is not an interval, an interval has more than ``longest``
            nucleotides, a strand stands in another column than the sixth, or an interval has several blocks.
    """
    found = False
    for number, line in enumerate(text_lines(path, EXPECTED), start=1):
        if not line.strip() or re.match(r"#|track\b|browser\b", line):
            continue
        found, where = True, f"{path}, line {number}"
        fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
        strand = fields[5] if len(fields) > 5 else "."
        elsewhere = next((index for index, field in enumerate(fields) if index != 5 and field.lower() in _STRANDS), None)
        if strand not in ("+", "-") and elsewhere is not None:
            raise BadData(
                f"{where}: the strand {fields[elsewhere]!r} stands in column {elsewhere + 1}; BED has it in column 6, after "
                "name and score (write 0 for a score)"
            )
        bounds = fields[1:3]
        if len(bounds) < 2 or not all(map(_BOUND.fullmatch, bounds)) or strand not in ("+", "-", ".") or not fields[0]:
            raise BadData(f"{where}: {line[:40]!r} is no interval; expected {EXPECTED}")
        locus = Locus(fields[0], int(fields[1]), int(fields[2]), "-" if strand == "-" else "+")
        if locus.end <= locus.start:
            raise BadData(f"{where}: {name(locus)} is empty; start must be below end")
        if locus.end - locus.start > longest:
            raise BadData(f"{where}: {name(locus)} has more than {longest:,} nucleotides; expected windows of a genome")
        if len(fields) >= 12 and all(map(_BLOCKS.fullmatch, fields[9:12])) and fields[9] not in ("0", "1"):
            raise BadData(
                f"{where}: {fields[9][:20]} blocks (BED12), with introns between; give each its own line: bedtools bed12tobed6"
            )
        unused |= dict.fromkeys(_NAMES.get(column, f"column {column}") for column in range(4, len(fields) + 1) if column != 6)
        yield BedLine(locus, "" if len(fields) < 4 or fields[3] == "." else fields[3], where)
    if not found:
        raise BadData(f"{path}: no intervals; expected {EXPECTED}")
