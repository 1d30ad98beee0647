"""Intervals of BED files, 0-based and half-open, and their letters in a genome."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import Locus, bare
from harness.errors import BadData
from harness.files.text import text_lines

if TYPE_CHECKING:
    from harness.files.genome import Genome

EXPECTED = "BED: chromosome, start (0-based), end, and optionally name, score and strand"
LONGEST_INTERVAL = 10_000_000  # nucleotides
_BOUND = re.compile(r"[0-9]{1,15}")
_BLOCKS = re.compile(r"[0-9,]+")
_STRANDS = ("+", "-", "plus", "minus", "forward", "reverse")  # as files write them in other columns than the sixth
_NAMES = {4: "name", 5: "score"}
MAX_OUTSIDE_SHARE = 0.01  # of the nucleotides of all intervals


def is_bed(path: Path) -> bool:
    """Whether the file's name is that of a BED file or of ENCODE's peak files, whose first six columns are BED's."""
    return re.search(r"\.(bed|narrowPeak|broadPeak)(\.gz)?$", path.name, re.IGNORECASE) is not None


def read(path: Path, notes: list[str] | None = None) -> list[Locus]:
    """The intervals of a BED file, plain or gzipped; those without a strand, or with ``.``, are on the plus strand.

    ``notes`` gains a sentence that names the columns which are not used.

    Raises:
        BadData: the file is missing, empty or cut, a line is not an interval, an interval occurs twice or is longer than
            LONGEST_INTERVAL, a strand stands in another column than the sixth, or an interval has several blocks.
    """
    loci: list[Locus] = []
    lines: dict[tuple[str, int, int, str], int] = {}
    unused: dict[str, None] = {}
    for number, line in enumerate(text_lines(path, EXPECTED), start=1):
        if not line.strip() or re.match(r"#|track\b|browser\b", line):
            continue
        where = f"{path}, line {number}"
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
        if locus.end - locus.start > LONGEST_INTERVAL:
            raise BadData(f"{where}: {name(locus)} has more than {LONGEST_INTERVAL:,} nucleotides; expected windows of a genome")
        first = lines.setdefault((bare(locus.chromosome), locus.start, locus.end, locus.strand), number)
        if first != number:
            raise BadData(f"{where}: {name(locus)} stands in line {first} too; keep one of them")
        if len(fields) >= 12 and all(map(_BLOCKS.fullmatch, fields[9:12])) and fields[9] not in ("0", "1"):
            raise BadData(
                f"{where}: {fields[9][:20]} blocks (BED12), with introns between; give each its own line: bedtools bed12tobed6"
            )
        loci.append(locus)
        unused |= dict.fromkeys(_NAMES.get(column, f"column {column}") for column in range(4, len(fields) + 1) if column != 6)
    if not loci:
        raise BadData(f"{path}: no intervals; expected {EXPECTED}")
    if unused and notes is not None:
        notes.append(f"{path.name}: columns not used: {', '.join(unused)}")
    return loci


def name(locus: Locus) -> str:
    """The interval as bedtools writes it in FASTA headers: ``chr1:100-200(+)``."""
    return f"{locus.chromosome}:{locus.start}-{locus.end}({locus.strand})"


def sequences(genome: Genome, loci: Sequence[Locus], changes: Counter[str]) -> list[str]:
    """The letters of each interval, 5'→3' on its strand; positions outside the genome are N, counted in ``outside_genome``.

    Raises:
        BadData: the genome lacks a chromosome, or more than MAX_OUTSIDE_SHARE of all nucleotides are outside it.
    """
    found = genome.sequences(loci, changes)
    outside, nucleotides = changes["outside_genome"], sum(map(len, found))
    if outside > MAX_OUTSIDE_SHARE * nucleotides:
        raise BadData(
            f"{genome.path}: {outside / nucleotides:.1%} of the intervals' nucleotides lie off it: "
            "another assembly, or only a part of the genome?"
        )
    return found
