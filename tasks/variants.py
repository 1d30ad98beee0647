"""Variant effects: is a single-nucleotide variant pathogenic? ClinVar, OMIM, and any VCF or table of variants.

An example is two windows, reference and alternate, of ``context`` nucleotides on the plus strand with the variant at index
``context // 2``; where an alignment is bound, both carry its columns, and the alternate letter stands in row 0 only.

What is kept, and what is counted in ``Splits.changes``:

* ``multi_allelic``: rows with several alternates share one label, and are dropped;
* ``not_snv``: insertions, deletions and longer substitutions are dropped;
* ``unlabelled``: VCF records that are neither benign nor pathogenic are dropped;
* ``duplicates``: a variant that was there before is dropped; ``conflicting``: all copies are, if their labels differ;
* ``off_genome``: variants where the genome at hand has no letter are dropped, as long as they are few;
* ``reference_mismatch``: so are variants whose reference allele is not the genome's. More than MOST_MISMATCHES of either
  stop the run, for then the assembly is wrong;
* ``outside_genome``: nucleotides of windows that run off the genome are N;
* ``columns_without_species``: columns in which nothing aligns to the target;
* ``alignment_mismatch``: letters of the alignment's target row that differ from the genome, which counts.

Where the public files are not here, a simulated stand-in takes their place, shown as ``clinvar (sample)``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

from harness.data import Example, Locus, Window
from harness.errors import BadData, DataMissing, UserError
from harness.files import sources
from harness.task import Reference, Source, Splits, Task, task_label

from . import _aligned, _evolve
from ._aligned import MOST_MISMATCHES
from ._evolve import Evolution
from ._splits import SEED, check_rule
from ._variant_files import Variant, read, unique

if TYPE_CHECKING:
    import numpy as np

    from harness.files.genome import Genome

FAMILY = "variants"
CLASSES = ("benign", "pathogenic")
CHROMOSOME, POSITION = "chromosome", "position"
BLOCK = 1024  # nucleotides of a position block; fixed, so that every context has the same split
GENE = 1_000_000  # nucleotides within which variants of held-out chromosomes depend on each other: those of a gene, mostly
PARTS = 5  # a fifth for test, a fifth for validation
# Where variants are few, a test split has a handful of blocks: the other four folds together with it test each variant once.
POSITIONS = (POSITION, *(f"{POSITION}-{fold}" for fold in range(2, PARTS + 1)))

HG38 = sources.REFERENCES["hg38"]


class _Set(NamedTuple):
    summary: str
    source: Source
    citation: str
    evolution: Evolution


# The publishers name no sha256, and move the files: that of the file that was read stands in every record.
SETS = {
    "clinvar": _Set(
        "missense variants that ClinVar calls pathogenic, against common variants of gnomAD",
        Source("https://huggingface.co/datasets/songlab/clinvar/resolve/main/test.parquet", "", "variants/clinvar.parquet"),
        "Landrum et al. 2020, ClinVar, Nucleic Acids Res 48:D835; as chosen by Benegas et al. 2025, Nat Biotechnol (GPN-MSA)",
        Evolution(rate=0.15, stretch=30, swapped=0.05, seed=11),
    ),
    "omim": _Set(
        "regulatory variants of Mendelian diseases (OMIM), against common variants of gnomAD",
        Source("https://huggingface.co/datasets/songlab/omim/resolve/main/test.parquet", "", "variants/omim.parquet"),
        "Smedley et al. 2016, Am J Hum Genet 99:595; as chosen by Benegas et al. 2025, Nat Biotechnol (GPN-MSA)",
        Evolution(rate=0.4, stretch=15, swapped=0.08, seed=12),
    ),
}
SAMPLE_PARTS = (720, 240, 240)  # variants in train, validation and test
SAMPLE_CHROMOSOMES = 10


def tasks() -> tuple[Task, ...]:
    """ClinVar and OMIM."""
    return tuple(_task(name, Reference()) for name in SETS)


def from_variants(path: Path) -> Task:
    """The task that a file of variants makes: VCF, CSV, TSV (plain or gzipped) or parquet.

    A table has the columns chrom, pos, ref, alt and label (0/1, true/false, benign/pathogenic). The label of a VCF
    record is ``LABEL`` or ``CLNSIG`` in INFO, or the word before ``_`` in its ID (``Pathogenic_17``). ``bind`` gives it a
    genome, an alignment or both; without, hg38 from the data folder is used. With five chromosomes or more they are what
    is held out, otherwise blocks of positions.

    Raises:
        BadData: a file that cannot be read, or has no variants of both classes.
        UserError: a package that is not installed.
    """
    path = Path(path)
    changes: Counter[str] = Counter()
    variants = unique(read(path, changes), changes)
    rules = (CHROMOSOME, *POSITIONS) if len({variant.chromosome for variant in variants}) >= PARTS else POSITIONS
    if {variant.label for variant in variants} != {0, 1}:
        found = CLASSES[variants[0].label] if variants else "nothing"
        raise BadData(f"{path}: the variants that could be used are {found} only; both {' and '.join(CLASSES)} are needed")
    return _own(path, variants, +changes, rules, Reference())


def block(example_id: str, length: int = BLOCK) -> str:
    """The position block of an example, by its id."""
    chromosome, position, *_ = example_id.split(":")
    return f"{chromosome}:{int(position) // length}"


def _own(
    path: Path, variants: Sequence[Variant], changes: Mapping[str, int], rules: tuple[str, ...], reference: Reference
) -> Task:
    _check_context(reference)
    return Task(
        name=re.sub(r"[^A-Za-z0-9._-]", "_", path.name.removesuffix(".gz")),
        family=FAMILY,
        summary=f"{len(variants):,} single-nucleotide variants of your own: {path}",
        classes=CLASSES,
        load=partial(_load_own, path, variants, changes, rules, reference),
        split_rules=rules,
        context=reference.context,
        main_metric="auroc",
        licence="yours",
        bind=partial(_own, path, variants, changes, rules),
    )


def _task(name: str, reference: Reference) -> Task:
    _check_context(reference)
    made = SETS[name]
    return Task(
        name=name,
        family=FAMILY,
        summary=made.summary,
        classes=CLASSES,
        load=partial(_load_public, name, reference),
        split_rules=(CHROMOSOME, *POSITIONS),
        sources=_sources(name, reference),
        sample=None if _given(reference) else _sample(name, reference),
        context=reference.context,
        assembly="hg38",
        main_metric="auroc",
        licence="ClinVar: public domain; gnomAD: CC0" if name == "clinvar" else "not stated",
        citation=made.citation,
        bind=partial(_task, name),
        inputs=partial(_inputs, name, reference),
    )


def _sample(name: str, reference: Reference) -> Task:
    evolution = SETS[name].evolution
    return Task(
        name=name,
        family=FAMILY,
        summary=f"SIMULATED, not real variants: pathogenic where a simulated alignment is conserved ({evolution})",
        classes=CLASSES,
        load=partial(_load_sample, task_label(name, reference.context, True), evolution, reference.context),
        split_rules=(CHROMOSOME,),
        simulated=True,
        context=reference.context,
        main_metric="auroc",
        licence="Apache-2.0 (drawn by this project)",
        inputs=tuple,
    )


def _sources(name: str, reference: Reference) -> tuple[Source, ...]:
    return (SETS[name].source,) if _given(reference) else (SETS[name].source, HG38)


def _inputs(name: str, reference: Reference) -> list[Path]:
    given = [path for path in (reference.genome, reference.alignment) if path is not None]
    listed = [Path(reference.species)] if os.path.isfile(reference.species) else []
    return [*map(sources.locate, _sources(name, reference)), *given, *listed]


def _given(reference: Reference) -> bool:
    """Whether the run brings a genome, or an alignment whose target row stands in for it: then no sample is meant."""
    return reference.genome is not None or reference.alignment is not None


def _check_context(reference: Reference) -> None:
    if reference.context < 1:
        raise UserError(f"context {reference.context}: a window has at least 1 nucleotide, such as 128, 512 or 1024")


# --- loading ------------------------------------------------------------------------------------------------------------


def _load_public(name: str, reference: Reference, rule: str) -> Splits:
    check_rule(rule, (CHROMOSOME, *POSITIONS))
    if absent := sources.missing(_sources(name, reference)):
        raise DataMissing(f"{name}: {sources.locate(absent[0])} is missing; `harness data get {name}` downloads it")
    path = sources.locate(SETS[name].source)
    changes: Counter[str] = Counter()
    variants = unique(read(path, changes), changes)
    return _splits(path.name, path, variants, reference, rule, changes)


def _load_own(
    path: Path, variants: Sequence[Variant], changes: Mapping[str, int], rules: Sequence[str], reference: Reference, rule: str
) -> Splits:
    check_rule(rule, rules)
    return _splits(str(path), path, variants, reference, rule, Counter(changes))


def _splits(
    label: str, path: Path, variants: Sequence[Variant], reference: Reference, rule: str, changes: Counter[str]
) -> Splits:
    variants, windows, files = _windows(path, variants, reference, changes)
    train, validation, test = (windows.take(part) for part in _parts(path, variants, rule))
    # A test split holds four or five chromosomes: too few to resample, so intervals resample stretches of them.
    return Splits(
        train,
        validation,
        test,
        files={label: sources.sha256(path)} | files,
        changes=+changes,
        block=partial(block, length=GENE) if rule == CHROMOSOME else block,
    )


def _load_sample(name: str, evolution: Evolution, context: int, rule: str) -> Splits:
    """Windows drawn one by one; ten made-up chromosomes, of which 1 to 6 are for training, 7 and 8 for validation."""
    import numpy as np

    check_rule(rule, (CHROMOSOME,))
    count = sum(SAMPLE_PARTS)
    drawn = _evolve.draw(evolution, count, context)
    a_chromosome = count // SAMPLE_CHROMOSOMES
    variants = [
        Variant(f"sim{i // a_chromosome + 1}", (i % a_chromosome + 1) * 10 * BLOCK, chr(reference), chr(alternate), int(label))
        for i, (reference, alternate, label) in enumerate(
            zip(drawn.alignments[:, 0, context // 2], drawn.alternates, drawn.labels, strict=True)
        )
    ]
    windows = Windows(variants, drawn.alignments[:, 0], drawn.alignments, np.arange(count), located=False)
    first, second = np.cumsum(SAMPLE_PARTS)[:2]
    train, validation, test = (windows.take(part) for part in np.split(np.arange(count), [first, second]))
    p = _evolve.posterior(evolution, drawn.alignments[second:])
    digest = hashlib.sha256(drawn.alignments.tobytes() + drawn.alternates.tobytes() + drawn.labels.astype("u1").tobytes())
    return Splits(
        train,
        validation,
        test,
        files={f"simulated {name}: {evolution}": digest.hexdigest()},
        best_accuracy=float(abs(p - 0.5).mean() + 0.5),
        block=block,
    )


@dataclass(frozen=True, eq=False)
class Windows(Sequence[Example]):
    """Examples that are made when they are asked for, of arrays that all parts of a split share.

    ``sequences`` (variants, context) and ``columns`` (variants, rows, context; row 0 the sequence; or None) are uint8
    ASCII; ``order`` holds the indices of the variants of this part. ``located`` is False where the chromosomes are made up.
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


# --- windows of the genome and of the alignment ---------------------------------------------------------------------------


def _windows(
    path: Path, variants: Sequence[Variant], reference: Reference, changes: Counter[str]
) -> tuple[Sequence[Variant], Windows, dict[str, str]]:
    """The variants that the genome confirms, their windows, and a sha256 of what was read from genome and alignment."""
    import numpy as np

    from harness.files.alignments import open_alignment

    alignment = None if reference.alignment is None else open_alignment(reference.alignment, reference.species)
    genome = _genome(path, reference)
    context = reference.context
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
    return variants, Windows(variants, letters, columns, np.arange(len(variants))), files


def _locus(variant: Variant, context: int) -> Locus:
    start = variant.position - 1 - context // 2
    return Locus(variant.chromosome, start, start + context)


def _genome(path: Path, reference: Reference) -> Genome | None:
    """The genome that was given, else that of the data folder.

    None where the alignment's target row stands in, or where the variants' own alleles do: windows of 1 nt, as scores of
    positions and alleles need no more, are these alleles.
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
    """The windows' letters (variants, context) uint8; all N on chromosomes that the genome lacks, if those are few."""
    import numpy as np

    known = set(genome.chromosomes)
    absent = [locus.chromosome for locus in loci if locus.chromosome not in known]
    if len(absent) > MOST_MISMATCHES * len(loci):
        raise BadData(
            f"{path}: {len(absent):,} of {len(loci):,} variants are on chromosomes that {genome.path} lacks, such as "
            f"{absent[0]!r} (it holds {', '.join(genome.chromosomes[:6])}); give the whole genome, or variants of its part"
        )
    text = "".join(genome.sequence(locus) if locus.chromosome in known else "N" * (locus.end - locus.start) for locus in loci)
    return np.frombuffer(text.encode(), np.uint8).reshape(len(loci), -1)


def _confirmed(path: Path, variants: Sequence[Variant], letters: np.ndarray, target: str, changes: Counter[str]) -> np.ndarray:
    """The indices of the variants whose reference allele is the target's letter (variants,) there.

    Raises:
        BadData: too many are not.
    """
    import numpy as np

    alleles = np.frombuffer("".join(variant.reference for variant in variants).encode(), np.uint8)
    unknown, different = letters == ord("N"), (letters != alleles) & (letters != ord("N"))
    for kind, wrong, reason in (
        ("off_genome", unknown, "lie where it has no letter: is it only a part?"),
        ("reference_mismatch", different, "have another reference allele there: another assembly, or positions not 1-based?"),
    ):
        changes[kind] += (count := int(wrong.sum()))
        if count > MOST_MISMATCHES * len(variants):
            first = int(np.flatnonzero(wrong)[0])
            raise BadData(
                f"{path}, {target}: {count:,} of {len(variants):,} variants ({count / len(variants):.1%}) {reason} "
                f"The first is {variants[first].id}, where it has {chr(letters[first])}"
            )
    return np.flatnonzero(~(unknown | different))


# --- splits -------------------------------------------------------------------------------------------------------------


def _parts(path: Path, variants: Sequence[Variant], rule: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the train, validation and test variants: whole chromosomes or whole position blocks, 60/20/20, seed 42.

    Scikit-learn's StratifiedGroupKFold deals the groups to five folds of about the same class balance; the rule's (by
    default the first) is for test, the next for validation.

    Raises:
        BadData: too few groups or variants, or a part without both classes.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    groups = [variant.chromosome if rule == CHROMOSOME else block(variant.id) for variant in variants]
    labels = np.array([variant.label for variant in variants])
    kind = "chromosomes" if rule == CHROMOSOME else f"blocks of {BLOCK:,} positions"
    remedy = f"choose --split {POSITION if rule == CHROMOSOME else CHROMOSOME}, or give more variants"
    if len(set(groups)) < PARTS or min(np.bincount(labels, minlength=2)) < PARTS:
        counts = " and ".join(f"{(labels == label).sum()} {name}" for label, name in enumerate(CLASSES))
        raise BadData(f"{path}: {counts} variants on {len(set(groups))} {kind}; each needs to be at least {PARTS}; {remedy}")
    folds = [fold for _, fold in StratifiedGroupKFold(PARTS, shuffle=True, random_state=SEED).split(labels, labels, groups)]
    number = 0 if rule == CHROMOSOME else POSITIONS.index(rule)
    test, validation = folds[number], folds[(number + 1) % PARTS]
    train = np.setdiff1d(np.arange(len(variants)), np.concatenate([test, validation]))
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        if len(set(labels[part])) < 2:
            held = ", ".join(sorted({groups[index] for index in part})[:5])
            only = CLASSES[labels[part][0]]
            raise BadData(f"{path}: split {rule!r} leaves {name} with {only} variants only ({kind} {held}); {remedy}")
    return train, validation, test
