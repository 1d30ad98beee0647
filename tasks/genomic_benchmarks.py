"""GenomicBenchmarks: eight sets of regulatory elements, and which part of which genome a window is of (Grešová et al. 2023).

Each task is two to six public files of intervals at a pinned commit. Windows are cut from the genome (hg38, mm10, ce11, or
Ensembl's transcripts) as the authors do it: 0-based and half-open, the reverse complement on the minus strand. Ready sequences
are read from the hub's copy with ``--option source=hub``, or from a folder of the same layout. Until the intervals are
downloaded, a simulated sample is used in their place, and shown as ``human_nontata_promoters (sample)``.

A label is the index of the class's name in a fixed order: negative, positive; intergenomic_seqs, coding_seqs; human, worm;
enhancer, ocr, promoter. The hub's order differs (see :mod:`harness.tasks._gb_hub`). An example's id is task, part, class and
number of the row. ``Splits.changes`` counts ``pseudoautosomal_to_n`` (letters), besides what
:func:`harness.tasks._splits.dependent` counts and ``in_both_classes`` (sequences that several classes have).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness.data import Example, Window
from harness.errors import UnknownName, UserError
from harness.files import sources
from harness.task import Reference, Splits, Task, task_label

from . import _gb_hub, _gb_intervals, _gb_splits, _gb_transcripts, _simulate
from ._aligned import align, reference_files
from ._gb_facts import HUB, SETS
from ._gb_intervals import FAMILY, TRANSCRIPTS, WORM
from ._gb_samples import MOTIFS
from ._splits import check_rule

INTERVALS, READY = READABLE_FROM = ("intervals", "hub")
LICENCE = "Apache-2.0 (file; setup.py says MIT)"
CITATION = "Grešová et al. 2023, Genomic benchmarks: datasets for genomic sequence classification, BMC Genomic Data 24:25"


def tasks() -> tuple[Task, ...]:
    """The eight tasks, in the alphabetical order of the authors' folders."""
    return tuple(_task(name, Reference()) for name in SETS)


def _task(name: str, reference: Reference) -> Task:
    facts, ready = SETS[name], _ready(name, reference)
    _check_reference(name, reference, ready)
    needed = () if ready else _gb_intervals.files(name)
    return Task(
        name=name,
        family=FAMILY,
        summary=facts.summary + (f"; {facts.leak}" if facts.leak else ""),
        classes=facts.classes,
        load=partial(_load_ready, name, ready) if ready else partial(_load, name, reference),
        split_rules=(_gb_splits.PUBLISHED,) if ready else _gb_splits.RULES,
        sources=needed,
        sample=_sample(name) if reference == Reference() else None,
        assembly=facts.genome,
        licence=LICENCE,
        citation=CITATION,
        bind=partial(_task, name),
        inputs=partial(_inputs, name, reference, ready),
        readable_from=READABLE_FROM,
        references=() if ready else tuple(_gb_intervals.references(name).values()),
        hub=HUB.format(task=name),
    )


def _sample(name: str) -> Task:
    motif = MOTIFS[name]
    planted = ", ".join(f"{planted} in {label}" for planted, label in zip(motif.planted, SETS[name].classes, strict=True))
    return Task(
        name=name,
        family=FAMILY,
        summary=f"SIMULATED, not real windows of {name}: planted are {planted} ({motif.source})",
        classes=SETS[name].classes,
        load=partial(_simulate.load, task_label(name, None, True), motif),
        split_rules=(_simulate.RULE,),
        simulated=True,
        licence="Apache-2.0 (drawn by this project)",
        inputs=tuple,
    )


def _ready(name: str, reference: Reference) -> Path | None:
    """The folder of ready sequences; None if windows are cut from a genome."""
    if reference.source in ("", INTERVALS):
        return None
    if reference.source == READY:
        return _gb_hub.folder(name)
    if not Path(reference.source).is_dir():
        raise UnknownName(f"option source={reference.source!r}: neither {' nor '.join(READABLE_FROM)} nor a folder")
    return Path(reference.source)


def _check_reference(name: str, reference: Reference, ready: Path | None) -> None:
    if reference.context != Reference.context:
        raise UserError(f"{name}: the windows have lengths of their own; leave --context out")
    if reference.species and reference.alignment is None:
        raise UserError(f"species {reference.species!r}: they select rows of an alignment; give it with --msa")
    if ready and reference.genome is not None:
        raise UserError(f"{name}: the sequences of {ready} have letters of their own; leave --genome or source out")
    if reference.alignment is None:
        return
    if ready:
        raise UserError(f"{name}: no alignment for these, whose places in the genome are not known; leave --msa or source out")
    if TRANSCRIPTS in SETS[name].others.values():
        raise UserError(
            f"{name}: no alignment for these, for the windows of one class are of spliced transcripts; leave --msa out"
        )
    if WORM in SETS[name].others.values():
        raise UserError(f"{name}: an alignment would hold the human windows alone, and so give the class away; leave --msa out")


def _inputs(name: str, reference: Reference, ready: Path | None) -> list[Path]:
    needed = [] if ready else [*_gb_intervals.files(name), *_gb_intervals.references(name).values()]
    if reference.genome is not None:
        needed.remove(sources.REFERENCES[SETS[name].genome])
    compared = [*_gb_intervals.files(name), *_gb_intervals.references(name).values()] if ready else []
    return [
        *([ready] if ready else []),
        *(sources.locate(source) for source in (*needed, *compared)),
        *reference_files(reference),
    ]


def _load(name: str, reference: Reference, rule: str) -> Splits:
    """The windows of the intervals."""
    check_rule(rule, _gb_splits.RULES)
    changes, notes = Counter[str](), list[str]()
    rows = _gb_intervals.read(name)
    letters, files = _gb_intervals.cut(name, rows, reference, changes, notes)
    digests = {source.path: source.sha256 for source in _gb_intervals.files(name)} | files
    changes["without_letters"] = sum(not sequence.strip("N") for sequence in letters)
    notes += _gb_intervals.unknown_letters(SETS[name].classes, [row.label for row in rows], letters)
    examples: Sequence[Example] = [
        Example(row.id, (Window(sequence, row.locus),), row.label) for row, sequence in zip(rows, letters, strict=True)
    ]
    species = ()
    if reference.alignment is not None:
        examples, columns, species = align(examples, SETS[name].classes, reference, changes, notes)
        digests |= columns
    located = TRANSCRIPTS in SETS[name].others.values()
    places = _gb_transcripts.located(rows, notes) if located else [row.locus for row in rows]
    splits = _gb_splits.split(name, rule, examples, [row.part for row in rows], places, digests, changes, notes, species)
    if located:  # places are those of genes
        counted = dict(splits.changes)
        counted["of_overlapping_genes"] = counted.pop("overlapping_windows", 0)
        splits = replace(splits, changes=counted)
    return splits


def _load_ready(name: str, folder: Path, rule: str) -> Splits:
    """The ready sequences of a folder."""
    check_rule(rule, (_gb_splits.PUBLISHED,))
    changes, notes = Counter[str](), ["ready sequences, whose places in the genome are not known: overlaps are not seen"]
    examples, parts, files = _gb_hub.read(name, folder, changes, notes)
    sequences, labels = [example.windows[0].sequence for example in examples], [example.label for example in examples]
    changes["without_letters"] = sum(not sequence.strip("N") for sequence in sequences)
    notes += _gb_intervals.unknown_letters(SETS[name].classes, [int(str(label)) for label in labels], sequences)
    return _gb_splits.split(name, rule, examples, parts, [None] * len(examples), files, changes, notes)
