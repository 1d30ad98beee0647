"""Intervals of BED files as windows of a task, and their letters in a genome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import Locus, bare
from harness.errors import BadData
from harness.files.bed import intervals, is_bed, name

if TYPE_CHECKING:
    from harness.files.genome import Genome

__all__ = ["is_bed", "name", "read", "sequences"]


def read(path: Path, notes: list[str] | None = None) -> list[Locus]:
    """The intervals of a BED file (see :func:`harness.files.bed.intervals`), each of which may stand there once.

    ``notes`` gains a sentence that names the columns which are not used.

    Raises:
        BadData: the file cannot be used, or an interval occurs twice.
    """
    loci: list[Locus] = []
    places: dict[tuple[str, int, int, str], str] = {}
    unused: dict[str, None] = {}
    for line in intervals(path, unused):
        locus = line.locus
        first = places.setdefault((bare(locus.chromosome), locus.start, locus.end, locus.strand), line.where)
        if first != line.where:
            raise BadData(f"{line.where}: {name(locus)} stands in {first.rpartition(', ')[2]} too; keep one of them")
        loci.append(locus)
    if unused and notes is not None:
        notes.append(f"{path.name}: columns not used: {', '.join(unused)}")
    return loci


def sequences(genome: Genome, loci: Sequence[Locus], changes: Counter[str]) -> list[str]:
    """The letters of each interval, 5'→3' on its strand; positions outside the genome are N, counted in ``outside_genome``.

    Raises:
        BadData: the genome lacks a chromosome, or more than MAX_OUTSIDE_SHARE of all nucleotides are outside it.
    """
    from harness.files.genome import check_outside

    found = genome.sequences(loci, changes)
    check_outside(genome, changes["outside_genome"], sum(map(len, found)))
    return found
