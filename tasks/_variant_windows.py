"""Windows around variants: their letters from a genome, their columns from an alignment.

Both windows of a variant have ``context`` letters, and the first letter that it changes at index ``context // 2``, without the
letters that its alleles share (:attr:`._variant_alleles.Variant.change`). The alternate window of a deletion is filled at the
right end from the genome, that of an insertion is cut there. In an alignment, the columns of deleted bases go, and inserted bases
get columns of their own, with a letter in row 0 and gaps in all others; where bases replace others, row 0 alone changes.
"""

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
from ._variant_alleles import INDEL, MNV, SNV, Change, Variant

if TYPE_CHECKING:
    import numpy as np

    from harness.files.alignments import Alignment
    from harness.files.genome import Genome

BYTES_A_SITE = 4  # of memory that a nucleotide of a window takes while windows are cut
HG38 = sources.REFERENCES["hg38"]
GAP = b"-"
MAX_COMPARED = 2000  # variants whose reference alleles tell which assembly a genome is of


@dataclass(frozen=True, eq=False)
class Windows(Sequence[Example]):
    """Examples built on access from arrays that all parts of a split share.

    ``sequences`` (variants, letters) and ``columns`` (variants, rows, letters; row 0 the sequence; or None) are uint8 ASCII.
    They begin with the reference windows of ``context`` letters; what follows fills the alternate windows of deletions.
    ``order`` holds the indices of this part's variants. ``located`` is False if the chromosomes are made up.
    """

    variants: Sequence[Variant]
    sequences: np.ndarray
    columns: Sequence[np.ndarray] | np.ndarray | None
    order: np.ndarray
    context: int
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
        variant, context = self.variants[number], self.context
        change, first = variant.change, context // 2
        locus = window_locus(variant, context) if self.located else None
        # Letters with others put in, out or in place of them are no longer those of a locus, where a score could be looked up.
        changed_locus = locus if change.kind == SNV else None
        letters = self.sequences[number].tobytes().decode()
        alternate = (letters[:first] + change.alternate + letters[first + len(change.reference) :])[:context]
        windows = Window(letters[:context], locus), Window(alternate, changed_locus)
        if self.columns is not None:
            columns = self.columns[number]
            changed = _changed_columns(columns, first, len(change.reference), change.alternate)
            windows = tuple(
                replace(window, alignment=rows[:, :context]) for window, rows in zip(windows, (columns, changed), strict=True)
            )
        stretch = None if change.kind == SNV else (first, first + change.length)
        return Example(variant.id, windows, variant.label, stretch)


def _changed_columns(columns: np.ndarray, first: int, deleted: int, inserted: str) -> np.ndarray:
    """A copy of columns (rows, L) with the letters ``inserted`` in place of ``deleted`` bases from ``first`` on."""
    import numpy as np

    if deleted == len(inserted):
        changed = columns.copy()
    else:
        kept = min(deleted, len(inserted))
        new = np.full((len(columns), len(inserted) - kept), GAP[0], np.uint8)
        changed = np.concatenate([columns[:, : first + kept], new, columns[:, first + deleted :]], axis=1)
    changed[0, first : first + len(inserted)] = np.frombuffer(inserted.encode(), np.uint8)
    return changed


def cut_windows(
    path: Path, variants: Sequence[Variant], reference: Reference, changes: Counter[str]
) -> tuple[Sequence[Variant], Windows, dict[str, str], Alignment | None]:
    """The variants whose reference allele the genome confirms, their windows, the entries of ``Splits.files`` for these, and
    the alignment, if there is one.

    The changed letters of both windows, and one that follows, lie within the windows; variants that are too long for that are
    dropped, unless they are of one letter. Of a file with several assemblies, the variants of the genome's are kept. What is
    dropped or differs is counted in ``changes``; see :mod:`harness.tasks.variants`.

    Raises:
        BadData: genome or alignment cannot be read, or do not fit the variants.
        UserError: there is no genome.
    """
    import numpy as np

    from harness.files.alignments import open_alignment

    alignment = None if reference.alignment is None else open_alignment(reference.alignment, reference.species)
    genome = genome_of(path, reference)
    context, room = reference.context, reference.context - reference.context // 2
    whole = variants
    variants = [variant for variant in whole if (change := variant.change).kind == SNV or change.length < room]
    changes["too_long_for_context"] += len(whole) - len(variants)
    if not variants:
        raise BadData(f"{path}: every variant is longer than half a window of {context} nt; use a longer --context")
    if len({variant.assembly for variant in variants} - {""}) > 1:
        whole, variants = variants, _of_one_assembly(path, variants, genome)
        changes["other_assembly"] += len(whole) - len(variants)
    filled = max((len(change.reference) - len(change.alternate) for change in map(_change, variants)), default=0)
    size = context + max(filled, 0)
    check_memory(len(variants) * size * BYTES_A_SITE, f"context {context}", "use a shorter --context, or fewer variants")
    loci = [window_locus(variant, context, size) for variant in variants]
    if genome is not None:
        target = f"genome {genome.path.name}"
        letters = _genome_letters(path, genome, loci, changes)
    elif alignment is None:
        target = "variants' own reference alleles"
        letters = np.array([[ord(variant.change.reference)] for variant in variants], np.uint8)
    else:
        target = f"target row of {alignment.path.name}"
        letters = np.array([alignment.columns(locus)[0] for locus in loci]).reshape(-1, size)
        letters[letters == ord("-")] = ord("N")
    confirmed = _confirmed(path, variants, letters, context // 2, target, changes)
    variants, letters = [variants[index] for index in confirmed], letters[confirmed]
    changes["outside_genome"] = int((letters[:, :context] == ord("N")).sum())
    for kind in (MNV, INDEL):
        changes[kind] += sum(variant.change.kind == kind for variant in variants)
    files = {f"windows of {context} nt, {target}": hashlib.sha256(letters.tobytes()).hexdigest()}
    columns = None
    if alignment is not None:
        columns, digest = _aligned.columns(alignment, [loci[index] for index in confirmed], list(letters), target, changes)
        files[f"columns of {len(alignment.species)} rows, {alignment.path.name}"] = digest
    return variants, Windows(variants, letters, columns, np.arange(len(variants)), context), files, alignment


def window_locus(variant: Variant, context: int, size: int | None = None) -> Locus:
    """The window's place; with another ``size``, that of as many letters from its start."""
    start = variant.change.position - 1 - context // 2
    return Locus(variant.chromosome, start, start + (size or context))


def _change(variant: Variant) -> Change:
    return variant.change


def _of_one_assembly(path: Path, variants: Sequence[Variant], genome: Genome | None) -> list[Variant]:
    """The variants of the assembly whose reference alleles the genome has.

    Raises:
        BadData: there is no genome, or it tells no assembly from the others.
    """
    found: dict[str, list[Variant]] = {}
    for variant in variants:
        found.setdefault(variant.assembly, []).append(variant)
    names = sorted(set(found) - {""})
    said = f"{path}: variants of {' and '.join(names)[:100]}; keep those of one assembly"
    if genome is None:
        raise BadData(f"{said}, or give its genome with --genome")
    shares, chromosomes = dict[str, float](), set(genome.chromosomes)
    for name in names:
        known = [variant for variant in found[name] if variant.chromosome in chromosomes]
        known = known[:: len(known) // MAX_COMPARED + 1]
        starts = [Locus(it.chromosome, it.position - 1, it.position - 1 + len(it.reference)) for it in known]
        same = sum(letters == it.reference for letters, it in zip(genome.sequences(starts), known, strict=True))
        shares[name] = same / len(known) if known else 0.0
    best = max(names, key=lambda name: shares[name])
    if sum(share >= 1 - MAX_MISMATCH_SHARE for share in shares.values()) != 1:
        texts = ", ".join(f"{share:.1%} of {name}'s" for name, share in shares.items())
        raise BadData(f"{said}: {genome.path.name} does not say which, for it has {texts} reference alleles")
    return found[best]


def genome_of(path: Path, reference: Reference) -> Genome | None:
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


def _confirmed(
    path: Path, variants: Sequence[Variant], letters: np.ndarray, first: int, target: str, changes: Counter[str]
) -> np.ndarray:
    """The indices of the variants whose reference allele the target has; ``letters`` is uint8 (variants, L).

    ``first`` is the index of the first changed letter. Of alleles with letters in common, those within the window count.

    Raises:
        BadData: too many differ.
    """
    import numpy as np

    unknown, different = compared(variants, letters, first)
    for kind, wrong, reason in (
        ("off_genome", unknown, "lie where it has no letter: is it only a part?"),
        ("reference_mismatch", different, "have another reference allele there: another assembly, or positions not 1-based?"),
    ):
        changes[kind] += (count := int(wrong.sum()))
        if count > MAX_MISMATCH_SHARE * len(variants):
            at = int(np.flatnonzero(wrong)[0])
            raise BadData(
                f"{path}, {target}: {count:,} of {len(variants):,} variants ({count / len(variants):.1%}) {reason} "
                f"The first is {variants[at].id}, where it has {chr(letters[at, first])}"
            )
    return np.flatnonzero(~(unknown | different))


def compared(variants: Sequence[Variant], letters: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether the target has no letter at each variant's reference allele, and whether it has others; see :func:`_confirmed`."""
    import numpy as np

    single = np.array([len(variant.reference) == len(variant.alternate) == 1 for variant in variants], bool)
    alleles = np.frombuffer("".join(variant.reference[0] for variant in variants).encode(), np.uint8)
    here = letters[:, first]
    unknown, different = here == ord("N"), (here != alleles) & (here != ord("N"))
    for index in np.flatnonzero(~single).tolist():
        variant = variants[index]
        start = first + variant.position - variant.change.position
        own = letters[index, max(start, 0) : start + len(variant.reference)].tobytes().decode()
        unknown[index] = "N" in own
        different[index] = not unknown[index] and own != variant.reference[max(-start, 0) :][: len(own)]
    return unknown, different
