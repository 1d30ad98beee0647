"""Where transcripts lie in the genome, from the headers of Ensembl's cDNA FASTA."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harness.data import Locus
from harness.files import sources
from harness.files.fingerprint import remembered
from harness.files.text import text_lines

from ._gb_intervals import TRANSCRIPTS, Row

# >ENST00000434970.2 cdna chromosome:GRCh38:14:22439007:22439015:1 gene:ENSG00000237235.2 …
_HEADER = re.compile(r">(\w+)\S*\s(?:.*\s)?(?:chromosome|scaffold):[^:\s]+:([^:\s]+):(\d{1,12}):(\d{1,12}):")
_HAPLOTYPE = re.compile(r"CHR_HSCHR(\d+|X|Y)_")  # CHR_HSCHR6_MHC_COX_CTG1 is another chromosome 6


def located(rows: Sequence[Row], notes: list[str]) -> list[Locus]:
    """Each row's place in the genome: its own, or that of the gene it was transcribed from.

    Transcripts whose genes overlap then share a place, and so do the copies of a gene on other haplotypes. Where the headers
    of the FASTA file do not say where genes lie, a transcript's place is in itself, and a note says so.
    """
    path = sources.locate(sources.REFERENCES[TRANSCRIPTS])
    spans = remembered("places of transcripts", [path], 1, lambda: _spans(path))
    places = [Locus(*spans[row.locus.chromosome]) if row.locus.chromosome in spans else row.locus for row in rows]
    if lacking := {place.chromosome for place in places if place.chromosome.startswith("ENST")}:
        notes.append(
            f"of {len(lacking):,} transcripts {path.name} does not say where in the genome they lie: those of one gene may be in "
            "different parts of the split"
        )
    return places


def _spans(path: Path) -> dict[str, tuple[str, int, int]]:
    spans: dict[str, tuple[str, int, int]] = {}
    for line in text_lines(path, "FASTA"):
        if line.startswith(">") and (found := _HEADER.match(line)):
            name, region, start, end = found.groups()
            haplotype = _HAPLOTYPE.match(region)
            spans[name] = (f"chr{haplotype[1] if haplotype else region}", int(start) - 1, int(end))
    return spans
