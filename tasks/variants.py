"""Variant effects: is a variant pathogenic? ClinVar, OMIM, and any VCF or table of variants.

An example is two windows, reference and alternate, of ``context`` nucleotides on the plus strand, with the first letter that the
variant changes at index ``context // 2``; see :mod:`harness.tasks._variant_windows` for insertions, deletions and alignments.

What the variants are that are not pathogenic decides which model looks best, so it is part of the task's label, as in
``clinvar[common]``: variants that are ``common`` in a population, or that ClinVar calls ``benign``. The public sets have common
ones only. Of a file whose labels say both, ``--option negatives=common|benign|own`` chooses; ``own`` takes them all. Labels that
are numbers do not say what they stand for, and nothing is added to the file's name.

``Splits.groups`` has each variant's consequence (the most severe) and gene, where the file says them.

``Splits.changes`` counts what was dropped or differs:

* ``multi_allelic``: rows with several alternates, which share one label; dropped;
* ``not_snv``: variants whose alleles are not spelled in ACGT (``-``, ``.``, ``*``, ``<DEL>``) or are the same; dropped;
* ``too_long_for_context``: insertions, deletions and longer substitutions that change the letter at the window's end; dropped;
* ``other_negatives``: variants with the other kind of negative label, where one was chosen; dropped;
* ``other_assembly``: variants of other assemblies than the genome's, where a file has several; dropped;
* ``mnvs``, ``indels``: substitutions of several letters, insertions and deletions among the variants that are used;
* ``unlabelled``: variants that are neither benign nor pathogenic, or whose label is not understood; dropped;
* ``duplicates``: repetitions of a variant; dropped;
* ``conflicting``: variants that occur with both labels; every copy is dropped;
* ``off_genome``: variants at a position where the genome has no letter; dropped;
* ``reference_mismatch``: variants whose reference allele differs from the genome; dropped. If more than MAX_MISMATCH_SHARE
  of all variants are off the genome, or mismatched, the run stops, for then the assembly is wrong;
* ``outside_genome``: nucleotides of windows outside the genome; they are N;
* ``columns_without_species``: columns in which nothing aligns to the target;
* ``alignment_mismatch``: letters of the alignment's target row that differ from the genome; the genome's are used.

Until the public files are downloaded, a simulated sample is used in their place, and shown as ``clinvar (sample)``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from harness.errors import BadData, DataMissing, UserError
from harness.files import sources
from harness.files.memory import check_memory
from harness.task import Reference, Source, Splits, Task, task_label

from . import _evolve
from ._aligned import reference_files
from ._evolve import Evolution
from ._names import check_name, task_name
from ._splits import check_rule
from ._variant_alleles import GROUPS, INDEL, MNV, Variant
from ._variant_files import read, unique
from ._variant_labels import COMMON, NEGATIVES, OWN
from ._variant_splits import BLOCK, CHROMOSOME, CLASSES, GENE, PARTS, POSITIONS, block, near_others, parts
from ._variant_windows import HG38, Windows, cut_windows

FAMILY = "variants"


class _Set(NamedTuple):
    summary: str
    source: Source
    citation: str
    evolution: Evolution
    negatives: str = COMMON


# The publishers state no sha256, and change the files; every record has the sha256 of the file that was read.
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
BYTES_A_SITE = 750  # of memory that drawing a site of a sample takes, measured
SAMPLE_PARTS = (720, 240, 240)  # variants in train, validation and test
SAMPLE_CHROMOSOMES = 10


def tasks() -> tuple[Task, ...]:
    """ClinVar and OMIM."""
    return tuple(_task(name, Reference()) for name in SETS)


def from_variants(path: Path, name: str | None = None) -> Task:
    """The task that the user's own file of variants makes: VCF, CSV, TSV (plain or gzipped) or parquet.

    A table has the columns chrom, pos, ref, alt and label (0/1, true/false, benign/pathogenic). The label of a VCF record
    is ``LABEL`` or ``CLNSIG`` in INFO, or the word at the beginning of its ID (``Pathogenic_17``), if every ID has one.
    ``bind`` gives the task a genome, an alignment or both; without them, hg38 from the data folder is used. Chromosomes are
    held out if there are at least five, otherwise blocks of positions. ``name`` replaces the file's. ``Splits.notes`` says
    how the labels were read, and what else the file says and is not used.

    Raises:
        BadData: the file cannot be read, or lacks variants of one class.
        UserError: the name cannot be used, or a package that reads the file is not installed.
    """
    path = Path(path)
    name = task_name([path]) if name is None else check_name(name)
    changes: Counter[str] = Counter()
    notes: list[str] = []
    variants = unique(read(path, changes, notes), changes)
    rules = (CHROMOSOME, *POSITIONS) if len({variant.chromosome for variant in variants}) >= PARTS else POSITIONS
    if {variant.label for variant in variants} != {0, 1}:
        found = CLASSES[variants[0].label] if variants else "nothing"
        how = f" ({notes[-1]})" if notes else ""
        raise BadData(f"{path}: the variants that could be used are {found} only; both {' and '.join(CLASSES)} are needed{how}")
    return _own(name, path, variants, +changes, tuple(notes), rules, Reference())


def _own(
    name: str,
    path: Path,
    variants: Sequence[Variant],
    changes: Mapping[str, int],
    notes: Sequence[str],
    rules: tuple[str, ...],
    reference: Reference,
) -> Task:
    _check_context(reference)
    choices = _choices(variants)
    return Task(
        name=name,
        family=FAMILY,
        summary=f"{_described(variants)} of your own: {path}",
        classes=CLASSES,
        load=partial(_load_own, path, variants, changes, notes, rules, reference),
        split_rules=rules,
        context=reference.context,
        main_metric="auroc",
        licence="yours",
        bind=partial(_own, name, path, variants, changes, notes, rules),
        inputs=partial(_inputs, path, reference),
        negatives=reference.negatives or (choices[0] if len(choices) == 1 else ""),
        negatives_from=choices,
    )


def _choices(variants: Sequence[Variant]) -> tuple[str, ...]:
    """The kinds of negatives that a file has: one, or two and all of them; none where its labels do not say."""
    found = {variant.negatives for variant in variants if variant.label == 0}
    known = tuple(kind for kind in NEGATIVES if kind in found)
    return known if len(found) == 1 else (*known, OWN) if known else ()


def _described(variants: Sequence[Variant]) -> str:
    counts = Counter(variant.change.kind for variant in variants)
    others = [f"{counts[kind]:,} {kind}" for kind in (INDEL, MNV) if counts[kind]]
    return f"{len(variants):,} variants ({', '.join(others)})" if others else f"{len(variants):,} single-nucleotide variants"


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
        inputs=partial(_inputs, made.source, reference),
        negatives=made.negatives,
        negatives_from=(made.negatives,),
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


def _inputs(data: Source | Path, reference: Reference) -> list[Path]:
    path = sources.locate(data) if isinstance(data, Source) else data
    default = [] if _given(reference) else [sources.locate(HG38)]
    return [path, *default, *reference_files(reference)]


def _given(reference: Reference) -> bool:
    """Whether the run brings a genome, or an alignment whose target row can replace it. Then hg38 and the sample are not used."""
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
    path: Path,
    variants: Sequence[Variant],
    changes: Mapping[str, int],
    notes: Sequence[str],
    rules: Sequence[str],
    reference: Reference,
    rule: str,
) -> Splits:
    check_rule(rule, rules)
    counted = Counter(changes)
    variants = _with_negatives(path, variants, reference.negatives, counted)
    splits = _splits(str(path), path, variants, reference, rule, counted)
    return replace(splits, notes=[*notes, *splits.notes])


def _with_negatives(path: Path, variants: Sequence[Variant], chosen: str, changes: Counter[str]) -> Sequence[Variant]:
    """The variants, without negatives of another kind than the chosen one.

    Raises:
        UserError: there are several kinds, and none was chosen.
    """
    choices = _choices(variants)
    if len(choices) < 2 or chosen == OWN:
        return variants
    if not chosen:
        counts = Counter(variant.negatives or "unnamed" for variant in variants if variant.label == 0)
        said = " and ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
        raise UserError(
            f"{path}: the negatives are {said}, and which are taken decides the result; "
            f"choose --option negatives={'|'.join(choices)} ({OWN}: all of them)"
        )
    kept = [variant for variant in variants if variant.label or variant.negatives == chosen]
    changes["other_negatives"] += len(variants) - len(kept)
    return kept


def _splits(
    label: str, path: Path, variants: Sequence[Variant], reference: Reference, rule: str, changes: Counter[str]
) -> Splits:
    variants, windows, files, alignment = cut_windows(path, variants, reference, changes)
    split = parts(path, variants, rule)
    near = 0 if rule == CHROMOSOME else near_others(variants, split, reference.context)
    train, validation, test = (windows.take(part) for part in split)
    notes = list(alignment.notes) if alignment is not None else []
    if changes["other_assembly"]:
        notes.append(f"variants of {variants[0].assembly}, whose reference alleles the genome has")
    if near:
        notes.append(f"{near:,} test windows overlap with one of another part, at the borders of blocks")
    # A test split has four or five chromosomes, too few to resample: intervals resample stretches of them.
    return Splits(
        train,
        validation,
        test,
        files={label: sources.sha256(path)} | files,
        changes=+changes,
        block=partial(block, length=GENE) if rule == CHROMOSOME else block,
        notes=notes,
        species=alignment.species[1:] if alignment is not None else (),
        groups=_groups(variants),
    )


def _groups(variants: Sequence[Variant]) -> dict[str, dict[str, str]]:
    """For each of GROUPS that the file says something of: a variant's id → its word, where it has one."""
    found: dict[str, dict[str, str]] = {name: {} for name in GROUPS}
    for variant in variants:
        for name, word in zip(GROUPS, variant.groups, strict=True):
            if word:
                found[name][variant.id] = word
    return {name: words for name, words in found.items() if words}


def _load_sample(name: str, evolution: Evolution, context: int, rule: str) -> Splits:
    """Simulated variants on ten made-up chromosomes: 1 to 6 are for training, 7 and 8 for validation, 9 and 10 for test."""
    import numpy as np

    check_rule(rule, (CHROMOSOME,))
    count = sum(SAMPLE_PARTS)
    check_memory(count * context * BYTES_A_SITE, f"context {context}", "use a shorter --context")
    drawn = _evolve.draw(evolution, count, context)
    a_chromosome = count // SAMPLE_CHROMOSOMES
    variants = [
        Variant(f"sim{i // a_chromosome + 1}", (i % a_chromosome + 1) * 10 * BLOCK, chr(reference), chr(alternate), int(label))
        for i, (reference, alternate, label) in enumerate(
            zip(drawn.alignments[:, 0, context // 2], drawn.alternates, drawn.labels, strict=True)
        )
    ]
    windows = Windows(variants, drawn.alignments[:, 0], drawn.alignments, np.arange(count), context, located=False)
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
