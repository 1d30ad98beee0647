"""Intervals of BED files, 0-based and half-open, and their letters in a genome."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import Locus
from harness.errors import BadData
from harness.files.text import text_lines

if TYPE_CHECKING:
    from harness.files.genome import Genome

EXPECTED = "BED: chromosome, start (0-based), end, and optionally name, score and strand"
MAX_OUTSIDE_SHARE = 0.01  # of the nucleotides of all intervals


def is_bed(path: Path) -> bool:
    """Whether the file's name is that of a BED file or of ENCODE's peak files, whose first six columns are BED's."""
    return re.search(r"\.(bed|narrowPeak|broadPeak)(\.gz)?$", path.name, re.IGNORECASE) is not None


def read(path: Path) -> list[Locus]:
    """The intervals of a BED file, plain or gzipped; those without a strand, or with ``.``, are on the plus strand.

    Raises:
        BadData: the file is missing, empty or cut, a line is not an interval, or an interval occurs twice.
    """
    lines: dict[Locus, int] = {}
    for number, line in enumerate(text_lines(path, EXPECTED), start=1):
        if not line.strip() or re.match(r"#|track\b|browser\b", line):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        strand = fields[5] if len(fields) > 5 else "."
        if len(fields) < 3 or not (fields[1] + fields[2]).isdecimal() or strand not in ("+", "-", "."):
            raise BadData(f"{path}, line {number}: {line[:40]!r} is no interval; expected {EXPECTED}")
        locus = Locus(fields[0], int(fields[1]), int(fields[2]), "-" if strand == "-" else "+")
        if locus.end <= locus.start:
            raise BadData(f"{path}, line {number}: {name(locus)} is empty; start must be below end")
        if locus in lines:
            raise BadData(f"{path}, line {number}: {name(locus)} stands in line {lines[locus]} too; keep one of them")
        lines[locus] = number
    if not lines:
        raise BadData(f"{path}: no intervals; expected {EXPECTED}")
    return list(lines)


def name(locus: Locus) -> str:
    """The interval as bedtools writes it in FASTA headers: ``chr1:100-200(+)``."""
    return f"{locus.chromosome}:{locus.start}-{locus.end}({locus.strand})"


def sequences(genome: Genome, loci: Sequence[Locus], changes: Counter[str]) -> list[str]:
    """The letters of each interval, 5'→3' on its strand; positions outside the genome are N, counted in ``outside_genome``.

    Raises:
        BadData: the genome lacks a chromosome, or more than MAX_OUTSIDE_SHARE of all nucleotides are outside it.
    """
    found = [genome.sequence(locus, changes) for locus in loci]
    outside, nucleotides = changes["outside_genome"], sum(map(len, found))
    if outside > MAX_OUTSIDE_SHARE * nucleotides:
        raise BadData(
            f"{genome.path}: {outside / nucleotides:.1%} of the intervals' nucleotides lie off it: "
            "another assembly, or only a part of the genome?"
        )
    return found
