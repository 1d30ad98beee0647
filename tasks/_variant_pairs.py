"""Pairs of windows around variants without labels, a few at a time; and why others have none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import Example, bare
from harness.task import Reference

from ._aligned import reference_files
from ._variant_alleles import SNV, Variant
from ._variant_files import NO_ALLELE
from ._variant_windows import Windows, compared, genome_of, window_locus

if TYPE_CHECKING:
    import numpy as np

NO_ALTERNATE, SYMBOLIC, NOT_ACGT, SAME, TOO_LONG, OFF_GENOME, MISMATCH = REASONS = (
    "no_alternate_allele",
    "symbolic_allele",
    "letters_besides_acgt",
    "alleles_are_the_same",
    "too_long_for_context",
    "off_genome",
    "reference_mismatch",
)
_SYMBOLIC = re.compile(r"[<\[\]*.]")  # <DEL>, breakends, and the * of a deletion that another record describes


class Pairs:
    """Cuts windows as :func:`._variant_windows.cut_windows` does, but drops nothing and refuses no assembly.

    ``changes`` counts ``outside_genome`` and, of alignments, ``columns_without_species`` and ``alignment_mismatch``.

    Raises:
        UserError: there is no genome.
        BadData: genome or alignment cannot be read.
    """

    reasons = REASONS

    def __init__(self, path: Path, reference: Reference) -> None:
        from harness.files.alignments import open_alignment

        self.reference, self.changes = reference, Counter[str]()
        self._alignment = None if reference.alignment is None else open_alignment(reference.alignment, reference.species)
        self._genome = genome_of(path, reference)
        self.species = () if self._alignment is None else self._alignment.species[1:]
        self.files = reference_files(reference)
        if reference.genome is None and self._genome is not None:
            self.files = [*self.files, self._genome.path]

    def made(self, alleles: Sequence[tuple[str, int, str, str]]) -> list[Example | str]:
        """For each (chromosome, position from 1, reference, alternate) its example, or one of REASONS. Its label is 0."""
        found: list[Example | str] = []
        variants: dict[int, Variant] = {}
        for number, (chromosome, position, reference, alternate) in enumerate(alleles):
            variant = Variant(bare(chromosome), position, reference.upper(), alternate.upper(), 0)
            found.append(self._fault(variant))
            if not found[-1]:
                variants[number] = variant
        if variants:
            for number, example in zip(variants, self._examples(list(variants.values())), strict=True):
                found[number] = example
        return found

    def _fault(self, variant: Variant) -> str:
        """Why a variant cannot be made windows of, whatever the genome; empty if nothing is known to be."""
        if variant.alternate in NO_ALLELE or not variant.alternate or variant.reference in NO_ALLELE:
            return NO_ALTERNATE
        if _SYMBOLIC.search(variant.alternate):
            return SYMBOLIC
        if not re.fullmatch("[ACGT]+", variant.reference) or not re.fullmatch("[ACGT]+", variant.alternate):
            return NOT_ACGT
        if variant.reference == variant.alternate:
            return SAME
        change, context = variant.change, self.reference.context
        return TOO_LONG if change.kind != SNV and change.length >= context - context // 2 else ""

    def _examples(self, variants: Sequence[Variant]) -> list[Example | str]:
        import numpy as np

        context = self.reference.context
        changes = [variant.change for variant in variants]
        size = context + max(0, *(len(change.reference) - len(change.alternate) for change in changes))
        letters = self._letters(variants, size)
        unknown, different = compared(variants, letters, context // 2)
        good = np.flatnonzero(~(unknown | different)).tolist()
        self.changes["outside_genome"] += int((letters[good, :context] == ord("N")).sum())
        columns = None if self._alignment is None else self._columns([variants[index] for index in good], letters[good])
        windows = Windows([variants[index] for index in good], letters[good], columns, np.arange(len(good)), context)
        found: list[Example | str] = [OFF_GENOME if wrong else MISMATCH for wrong in unknown]
        for example, index in zip(windows[:], good, strict=True):
            found[index] = example
        return found

    def _letters(self, variants: Sequence[Variant], size: int) -> np.ndarray:
        """The letters from the windows' starts on, uint8 (variants, size)."""
        import numpy as np

        loci = [window_locus(variant, self.reference.context, size) for variant in variants]
        if self._genome is not None:
            known = set(self._genome.chromosomes)
            texts = iter(self._genome.sequences([locus for locus in loci if locus.chromosome in known]))
            text = "".join(next(texts) if locus.chromosome in known else "N" * size for locus in loci)
            return np.frombuffer(text.encode(), np.uint8).reshape(-1, size)
        if self._alignment is None:  # windows of 1 nt are the variants' own alleles
            return np.array([[ord(variant.change.reference)] for variant in variants], np.uint8)
        letters = np.array([self._alignment.columns(locus)[0] for locus in loci]).reshape(-1, size)
        letters[letters == ord("-")] = ord("N")
        return letters

    def _columns(self, variants: Sequence[Variant], letters: np.ndarray) -> list[np.ndarray]:
        """The alignment's columns (rows, size) of each, with the windows' own letters in row 0."""
        assert self._alignment is not None
        found = []
        for variant, own in zip(variants, letters, strict=True):
            here = self._alignment.columns(window_locus(variant, self.reference.context, len(own)), self.changes)
            self.changes["alignment_mismatch"] += int(((here[0] != own) & (here[0] != ord("-")) & (here[0] != ord("N"))).sum())
            here[0] = own
            found.append(here)
        return found
