"""Tasks made of the user's own files: two FASTA or BED files, one FASTA file with classes in its headers, or one table."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness.data import Example, Locus, Window
from harness.errors import BadData, UserError
from harness.files import readers, sources
from harness.files.readers import Record
from harness.task import Reference, Splits, Task

from . import _aligned, _bed
from ._splits import check_rule, stratified

PAIR = ("negative", "positive")
MIN_WINDOWS = 3  # of each class: one for each part
ACCEPTED = (
    "two FASTA files (positives first, negatives second), two BED files, one CSV, TSV or parquet table with the columns "
    "sequence and label, or one FASTA file with class:… in its headers"
)
SPLIT_RULES = ("stratified",)


def tasks() -> tuple[Task, ...]:
    """No task: these exist only for given files, see :func:`from_files`."""
    return ()


def from_files(paths: Sequence[Path]) -> Task:
    """The task that the user's files make. The files are read and checked here.

    The classes are ("negative", "positive") for two files; otherwise the file's own labels, in numerical order if they
    are whole numbers, else in alphabetical order. The split is 60/20/20 by class, seed 42. Besides changed letters,
    ``Splits.changes`` counts ``duplicates`` (windows whose sequence occurred before) and ``in_both_classes`` (sequences
    with more than one label); neither is removed.

    ``bind`` gives windows the columns of an alignment, if every FASTA header holds a locus (``chr1:100-200(-)``, 0-based
    and half-open). The intervals of BED files need a genome, which ``bind`` gives too.

    Raises:
        BadData: a file cannot be used (see :func:`harness.files.readers.read`), its labels are measurements, there is only
            one class, or a class has fewer than MIN_WINDOWS windows.
        UserError: another number or mixture of files, or a package that reads them is not installed.
    """
    paths = [Path(path) for path in paths]
    if any(map(_bed.is_bed, paths)):
        return _intervals_task(paths, _intervals(paths), Reference())
    changes: Counter[str] = Counter()
    if len(paths) == 2:
        classes, records = PAIR, _pair(paths, changes)
    elif len(paths) == 1:
        classes, records = _single(paths[0], changes)
    else:
        raise UserError(f"{len(paths)} files given: expected {ACCEPTED}")
    _check_classes(_joined(paths), classes, [str(record.label) for record in records])
    examples = [Example(record.id, (record.window,), classes.index(str(record.label))) for record in records]
    return _windows_task(paths, classes, examples, +changes, Reference())


def task_name(paths: Sequence[Path]) -> str:
    """``pos+neg`` for two files. A single file keeps its ending (``QKI.csv``), which no task of the project has in its name."""
    names = [path.name.removesuffix(".gz") for path in paths]
    if len(names) > 1:
        names = [Path(name).stem for name in names]
    return "+".join(re.sub(r"[^A-Za-z0-9._-]", "_", name) for name in names)


def _windows_task(
    paths: Sequence[Path], classes: Sequence[str], examples: Sequence[Example], changes: Mapping[str, int], reference: Reference
) -> Task:
    """The task of windows whose letters the files hold."""
    _check_reference(paths, reference)
    if reference.genome is not None:
        raise UserError(f"{_joined(paths)}: the windows have letters of their own; leave --genome out")
    without = next((example for example in examples if example.windows[0].locus is None), None)
    if reference.alignment is not None and without is not None:
        raise UserError(
            f"{_joined(paths)}: --msa needs the locus of every window, and {without.id!r} has none; write it into FASTA headers "
            "as chr1:100-200(+), 0-based, half-open and as long as the window"
        )
    load = partial(_load, paths, examples, changes, reference)
    bind = partial(_windows_task, paths, classes, examples, changes)
    return _task(paths, tuple(classes), len(examples), load, bind, reference)


def _intervals_task(paths: Sequence[Path], intervals: Sequence[tuple[Locus, str]], reference: Reference) -> Task:
    """The task of labelled intervals, whose letters are read from a genome."""
    _check_reference(paths, reference)
    load = partial(_load_intervals, paths, intervals, reference)
    return _task(paths, PAIR, len(intervals), load, partial(_intervals_task, paths, intervals), reference)


def _task(
    paths: Sequence[Path],
    classes: tuple[str, ...],
    count: int,
    load: Callable[[str], Splits],
    bind: Callable[[Reference], Task],
    reference: Reference,
) -> Task:
    return Task(
        name=task_name(paths),
        family="files",
        summary=f"{count:,} windows of your own: {_joined(paths)}",
        classes=classes,
        load=load,
        split_rules=SPLIT_RULES,
        licence="yours",
        bind=bind,
        inputs=partial(_inputs, paths, reference),
    )


def _inputs(paths: Sequence[Path], reference: Reference) -> list[Path]:
    return [*paths, *_aligned.reference_files(reference)]


def _joined(paths: Sequence[Path]) -> str:
    return " and ".join(map(str, paths))


def _check_reference(paths: Sequence[Path], reference: Reference) -> None:
    if reference.context != Reference.context:
        raise UserError(f"{_joined(paths)}: the windows have lengths of their own; leave --context out")
    if reference.species and reference.alignment is None:
        raise UserError(f"species {reference.species!r}: they select rows of an alignment; give it with --msa")


def _pair(paths: Sequence[Path], changes: Counter[str]) -> list[Record]:
    records = []
    for label, path in zip(reversed(PAIR), paths, strict=True):
        if not readers.is_fasta(path):
            raise UserError(f"{path}: not FASTA; expected {ACCEPTED}")
        records += [Record(f"{label}:{record.id}", record.window, label) for record in readers.read(path, changes)]
    return records


def _intervals(paths: Sequence[Path]) -> list[tuple[Locus, str]]:
    if len(paths) != 2 or not all(map(_bed.is_bed, paths)):
        raise UserError(f"{_joined(paths)}: BED files come in twos, positives first, negatives second")
    intervals = [(locus, label) for label, path in zip(reversed(PAIR), paths, strict=True) for locus in _bed.read(path)]
    _check_classes(_joined(paths), PAIR, [label for _, label in intervals])
    return intervals


def _single(path: Path, changes: Counter[str]) -> tuple[tuple[str, ...], list[Record]]:
    records = readers.read(path, changes)
    if unlabelled := next((record for record in records if record.label is None), None):
        raise BadData(f"{path}: record {unlabelled.id!r} has no class in its header; expected {ACCEPTED}")
    return readers.class_names(path, [str(record.label) for record in records]), records


def _check_classes(names: str, classes: Sequence[str], labels: Sequence[str]) -> None:
    if len(classes) < 2:
        raise BadData(f"{names}: every window has the label {classes[0]!r}; at least two classes are needed")
    counts = Counter(labels)
    for label in classes:
        if counts[label] < MIN_WINDOWS:
            raise BadData(f"{names}: class {label!r} has {counts[label]} windows; it needs {MIN_WINDOWS}, one for each split")


def _count_repeats(examples: Sequence[Example], changes: Counter[str]) -> None:
    labels: dict[str, set[int]] = {}
    for example in examples:
        labels.setdefault(example.windows[0].sequence, set()).add(example.label)
    changes["duplicates"] = len(examples) - len(labels)
    changes["in_both_classes"] = sum(len(seen) > 1 for seen in labels.values())


def _load(
    paths: Sequence[Path], examples: Sequence[Example], changes: Mapping[str, int], reference: Reference, rule: str
) -> Splits:
    check_rule(rule, SPLIT_RULES)
    counted = Counter(changes)
    _count_repeats(examples, counted)
    files = {str(path): sources.sha256(path) for path in paths}
    if reference.alignment is not None:
        examples, columns = _align(examples, reference, counted)
        files |= columns
    parts = stratified([example.label for example in examples])
    train, validation, test = ([examples[position] for position in part] for part in parts)
    return Splits(train, validation, test, files=files, changes=+counted)


def _load_intervals(paths: Sequence[Path], intervals: Sequence[tuple[Locus, str]], reference: Reference, rule: str) -> Splits:
    from harness.files.genome import Genome

    if reference.genome is None:
        raise UserError(f"{_joined(paths)}: intervals have no letters; give their genome with --genome, FASTA or 2bit")
    genome, changes = Genome(reference.genome), Counter()
    sequences = _bed.sequences(genome, [locus for locus, _ in intervals], changes)
    examples = [
        Example(f"{label}:{_bed.name(locus)}", (Window(sequence, locus),), PAIR.index(label))
        for (locus, label), sequence in zip(intervals, sequences, strict=True)
    ]
    splits = _load(paths, examples, changes, reference, rule)
    letters = hashlib.sha256("\n".join(sequences).encode()).hexdigest()
    return replace(splits, files={**splits.files, f"windows of genome {genome.path.name}": letters})


def _align(examples: Sequence[Example], reference: Reference, changes: Counter[str]) -> tuple[list[Example], dict[str, str]]:
    """The examples with their columns, and an entry of ``Splits.files`` for these."""
    import numpy as np

    from harness.files.alignments import open_alignment

    assert reference.alignment is not None
    alignment = open_alignment(reference.alignment, reference.species)
    windows = [example.windows[0] for example in examples]
    loci = [window.locus for window in windows if window.locus is not None]
    letters = [np.frombuffer(window.sequence.encode(), np.uint8) for window in windows]
    columns, digest = _aligned.columns(alignment, loci, letters, "windows", changes)
    aligned = [
        replace(example, windows=(replace(window, alignment=rows),))
        for example, window, rows in zip(examples, windows, columns, strict=True)
    ]
    return aligned, {f"columns of {len(alignment.species)} rows, {alignment.path.name}": digest}
