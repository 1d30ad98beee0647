"""What a variant is: where it lies, its alleles with and without the letters they share, and the groups that it belongs to."""

from __future__ import annotations

from typing import NamedTuple

GROUPS = ("consequence", "gene")  # what files say of variants, by which scores are broken down
SNV, MNV, INDEL = "snvs", "mnvs", "indels"


class Change(NamedTuple):
    """The letters that a variant replaces, and those that it puts there; either may be empty. ``position`` is 1-based."""

    position: int
    reference: str
    alternate: str

    @property
    def kind(self) -> str:
        """SNV, MNV (as many letters as before), or INDEL."""
        if len(self.reference) != len(self.alternate):
            return INDEL
        return SNV if len(self.reference) == 1 else MNV

    @property
    def length(self) -> int:
        """The letters of the longer allele."""
        return max(len(self.reference), len(self.alternate))


class Variant(NamedTuple):
    """A variant as a file has it; ``position`` is 1-based.

    ``negatives`` says what a benign one is taken for (see :mod:`._variant_labels`), ``groups`` has a word for each of GROUPS,
    empty where the file says nothing, and ``assembly`` is the file's word for the genome, empty where it has none.
    """

    chromosome: str
    position: int
    reference: str
    alternate: str
    label: int
    negatives: str = ""
    groups: tuple[str, ...] = ("",) * len(GROUPS)
    assembly: str = ""

    @property
    def id(self) -> str:
        """``17:43045712:A:G``; the chromosome without ``chr``, the alleles as the file spells them."""
        return f"{self.chromosome}:{self.position}:{self.reference}:{self.alternate}"

    @property
    def change(self) -> Change:
        """The variant without the letters that both alleles end with, then without those that both begin with.

        These are the first two steps of Tan et al. 2015 (Bioinformatics 31:2202). Within repeats, an insertion or deletion stays
        where the file puts it.
        """
        position, reference, alternate = self.position, self.reference, self.alternate
        if len(reference) == len(alternate) == 1:
            return Change(position, reference, alternate)
        shared = _shared(reference[::-1], alternate[::-1])
        reference, alternate = reference[: len(reference) - shared], alternate[: len(alternate) - shared]
        shared = _shared(reference, alternate)
        return Change(position + shared, reference[shared:], alternate[shared:])


def _shared(one: str, other: str) -> int:
    """How many letters two texts have in common at their beginning."""
    return next((number for number, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
