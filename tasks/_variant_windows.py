"""Windows around variants: their letters from a genome, their columns from an alignment."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from harness.data import Example, Locus, Window
from harness.errors import BadData, UserError
from harness.files import sources
from harness.files.memory import check_memory
from harness.task import Reference

from . import _aligned
from ._aligned import MAX_MISMATCH_SHARE
from ._variant_files import Variant

if TYPE_CHECKING:
    import numpy as np

    from harness.files.alignments import Alignment
    from harness.files.genome import Genome

BYTES_A_SITE = 4  # of memory that a nucleotide of a window takes while windows are cut
HG38 = sources.REFERENCES["hg38"]


@dataclass(frozen=True, eq=False)
class Windows(Sequence[Example]):
    """Examples built on access from arrays that all parts of a split share.

    ``sequences`` (variants, context) and ``columns`` (variants, rows, context; row 0 the sequence; or None) are uint8
    ASCII. ``order`` holds the indices of this part's variants. ``located`` is False if the chromosomes are made up.
    """

    variants: Sequence[Variant]
    sequences: np.ndarray
    columns: Sequence[np.ndarray] | np.ndarray | None
    order: np.ndarray
    located: bool = True

    def take(self, order: np.ndarray) -> Windows:
        """The variants at these indices."""
        return replace(self, order=self.order[order])

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self._example(number) for number in self.order[index]]
        return self._example(self.order[index])

    def _example(self, number: int) -> Example:
        variant, context = self.variants[number], self.sequences.shape[1]
        locus = _locus(variant, context) if self.located else None
        reference = self.sequences[number].tobytes().decode()
        alternate = reference[: context // 2] + variant.alternate + reference[context // 2 + 1 :]
        if self.columns is None:
            return Example(variant.id, (Window(reference, locus), Window(alternate, locus)), variant.label)
        columns = self.columns[number]
        changed = columns.copy()
        changed[0, context // 2] = ord(variant.alternate)
        return Example(variant.id, (Window(reference, locus, columns), Window(alternate, locus, changed)), variant.label)


def cut_windows(
    path: Path, variants: Sequence[Variant], reference: Reference, changes: Counter[str]
) -> tuple[Sequence[Variant], Windows, dict[str, str], Alignment | None]:
    """The variants whose reference allele the genome confirms, their windows, the entries of ``Splits.files`` for these, and
    the alignment, if there is one.

    What is dropped or differs is counted in ``changes``; see :mod:`harness.tasks.variants`.

    Raises:
        BadData: genome or alignment cannot be read, or do not fit the variants.
        UserError: there is no genome.
    """
    import numpy as np

    from harness.files.alignments import open_alignment

    alignment = None if reference.alignment is None else open_alignment(reference.alignment, reference.species)
    genome = _genome(path, reference)
    context = reference.context
    check_memory(len(variants) * context * BYTES_A_SITE, f"context {context}", "use a shorter --context, or fewer variants")
    loci = [_locus(variant, context) for variant in variants]
    if genome is not None:
        target = f"genome {genome.path.name}"
        letters = _genome_letters(path, genome, loci, changes)
    elif alignment is None:
        target = "variants' own reference alleles"
        letters = np.array([[ord(variant.reference)] for variant in variants], np.uint8)
    else:
        target = f"target row of {alignment.path.name}"
        letters = np.array([alignment.columns(locus)[0] for locus in loci]).reshape(-1, context)
        letters[letters == ord("-")] = ord("N")
    confirmed = _confirmed(path, variants, letters[:, context // 2], target, changes)
    variants, letters = [variants[index] for index in confirmed], letters[confirmed]
    changes["outside_genome"] = int((letters == ord("N")).sum())
    files = {f"windows of {context} nt, {target}": hashlib.sha256(letters.tobytes()).hexdigest()}
    columns = None
    if alignment is not None:
        columns, digest = _aligned.columns(alignment, [loci[index] for index in confirmed], list(letters), target, changes)
        files[f"columns of {len(alignment.species)} rows, {alignment.path.name}"] = digest
    return variants, Windows(variants, letters, columns, np.arange(len(variants))), files, alignment


def _locus(variant: Variant, context: int) -> Locus:
    start = variant.position - 1 - context // 2
    return Locus(variant.chromosome, start, start + context)


def _genome(path: Path, reference: Reference) -> Genome | None:
    """The genome that was given, else hg38 from the data folder; None if the windows need no genome.

    The target row of an alignment can replace it. Windows of 1 nt, which is all that scores per position or allele need,
    are the variants' own alleles.
    """
    from harness.files.genome import Genome

    if reference.genome is not None:
        return Genome(reference.genome)
    if reference.alignment is not None:
        return None
    if not sources.missing([HG38]):
        return Genome(sources.locate(HG38))
    if reference.context > 1:
        raise UserError(
            f"{path}: no genome; give one with --genome, or `harness data get hg38`; for scores alone, --context 1 needs none"
        )
    return None


def _genome_letters(path: Path, genome: Genome, loci: Sequence[Locus], changes: Counter[str]) -> np.ndarray:
    """The windows' letters, uint8 (variants, context); all N on chromosomes that the genome lacks.

    Raises:
        BadData: too many variants are on such chromosomes.
    """
    import numpy as np

    known = set(genome.chromosomes)
    absent = [locus.chromosome for locus in loci if locus.chromosome not in known]
    if len(absent) > MAX_MISMATCH_SHARE * len(loci):
        raise BadData(
            f"{path}: {len(absent):,} of {len(loci):,} variants are on chromosomes that {genome.path} lacks, such as "
            f"{absent[0]!r} (it holds {', '.join(genome.chromosomes[:6])}); give the whole genome, or variants of its part"
        )
    text = "".join(genome.sequence(locus) if locus.chromosome in known else "N" * (locus.end - locus.start) for locus in loci)
    return np.frombuffer(text.encode(), np.uint8).reshape(len(loci), -1)


def _confirmed(path: Path, variants: Sequence[Variant], letters: np.ndarray, target: str, changes: Counter[str]) -> np.ndarray:
    """The indices of the variants whose reference allele is the target's letter there; ``letters`` is uint8 (variants,).

    Raises:
        BadData: too many differ.
    """
    import numpy as np

    alleles = np.frombuffer("".join(variant.reference for variant in variants).encode(), np.uint8)
    unknown, different = letters == ord("N"), (letters != alleles) & (letters != ord("N"))
    for kind, wrong, reason in (
        ("off_genome", unknown, "lie where it has no letter: is it only a part?"),
        ("reference_mismatch", different, "have another reference allele there: another assembly, or positions not 1-based?"),
    ):
        changes[kind] += (count := int(wrong.sum()))
        if count > MAX_MISMATCH_SHARE * len(variants):
            first = int(np.flatnonzero(wrong)[0])
            raise BadData(
                f"{path}, {target}: {count:,} of {len(variants):,} variants ({count / len(variants):.1%}) {reason} "
                f"The first is {variants[first].id}, where it has {chr(letters[first])}"
            )
    return np.flatnonzero(~(unknown | different))
