"""Tasks made of the user's own files: two FASTA or BED files, one FASTA file with classes in its headers, or one table."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import Example, Locus, Window
from harness.errors import BadData, UserError
from harness.files import readers, sources
from harness.files.readers import Record
from harness.task import Reading, Reference, Splits, Task

from . import _aligned, _bed
from ._names import check_name, pair_notes, task_name
from ._splits import check_rule, dependent, stratified_groups

if TYPE_CHECKING:
    from harness.files.alignments import Alignment


PAIR = ("negative", "positive")
MIN_WINDOWS = 3  # of each class: one for each part
ACCEPTED = (
    "two FASTA files (positives first, negatives second), two BED files, one CSV, TSV or parquet table with the columns "
    "sequence and label, or one FASTA file with class:… in its headers"
)
SPLIT_RULES = ("stratified",)


@dataclass(frozen=True)
class _Own:
    """What is known about a task of the user's own files, besides its windows."""

    name: str
    paths: tuple[Path, ...]
    classes: tuple[str, ...]
    changes: Mapping[str, int]
    notes: tuple[str, ...]


def tasks() -> tuple[Task, ...]:
    """No task: these exist only for given files, see :func:`from_files`."""
    return ()


def from_files(paths: Sequence[Path], name: str | None = None, reading: Reading = Reading()) -> Task:  # noqa: B008 - frozen
    """The task that the user's files make. The files are read and checked here. ``name`` replaces the one after the files.

    The classes are ("negative", "positive") for two files; otherwise the file's own labels, in numerical order if they
    are whole numbers, else in alphabetical order. The split is 60/20/20 by class, seed 42, with windows that overlap or
    repeat each other in one part (see :func:`harness.tasks._splits.dependent`, also for what is counted). Besides these and
    changed letters, ``Splits.changes`` counts ``in_both_classes`` (sequences with more than one label); none is removed.
    ``Splits.notes`` says which class is the positive one, which columns are not used, and what the files' names contradict.

    ``bind`` gives windows the columns of an alignment, if every FASTA header holds a locus (``chr1:100-200(-)``, 0-based
    and half-open). The intervals of BED files need a genome, which ``bind`` gives too.

    Raises:
        BadData: a file cannot be used (see :func:`harness.files.readers.read`), its labels are measurements, there is only
            one class, a class has fewer than MIN_WINDOWS windows, or headers contradict the order of the files.
        UserError: another number or mixture of files, a name that cannot be used, or a package that reads the files is not
            installed.
    """
    paths = tuple(Path(path) for path in paths)
    name = task_name(paths) if name is None else check_name(name)
    changes: Counter[str] = Counter()
    notes = pair_notes(paths) if len(paths) == 2 else []
    if any(map(_bed.is_bed, paths)):
        intervals = _intervals(paths, notes)
        return _intervals_task(_Own(name, paths, PAIR, {}, tuple(notes)), intervals, Reference())
    if len(paths) == 2:
        classes, records = PAIR, _pair(paths, changes, notes)
    elif len(paths) == 1:
        classes, records = _single(paths[0], changes, notes)
    else:
        raise UserError(f"{len(paths)} files given: expected {ACCEPTED}; a split of your own in several files is not read")
    _check_classes(_joined(paths), classes, [str(record.label) for record in records])
    examples = [Example(record.id, (record.window,), classes.index(str(record.label))) for record in records]
    own = _Own(name, paths, classes, +changes, tuple(notes))
    return _windows_task(own, examples, [record.place for record in records], Reference())


def _windows_task(own: _Own, examples: Sequence[Example], places: Sequence[Locus | None], reference: Reference) -> Task:
    """The task of windows whose letters the files hold."""
    paths = own.paths
    _check_reference(paths, reference)
    if reference.genome is not None:
        raise UserError(f"{_joined(paths)}: the windows have letters of their own; leave --genome out")
    without = next((example for example in examples if example.windows[0].locus is None), None)
    if reference.alignment is not None and without is not None:
        raise UserError(
            f"{_joined(paths)}: --msa needs the locus of every window, and {without.id[:80]!r} has none; write it into FASTA "
            "headers as chr1:100-200(+), 0-based, half-open and as long as the window"
        )
    load = partial(_load, own, examples, places, reference)
    return _task(own, len(examples), load, partial(_windows_task, own, examples, places), reference)


def _intervals_task(own: _Own, intervals: Sequence[tuple[Locus, str]], reference: Reference) -> Task:
    """The task of labelled intervals, whose letters are read from a genome."""
    _check_reference(own.paths, reference)
    load = partial(_load_intervals, own, intervals, reference)
    return _task(own, len(intervals), load, partial(_intervals_task, own, intervals), reference)


def _task(own: _Own, count: int, load: Callable[[str], Splits], bind: Callable[[Reference], Task], reference: Reference) -> Task:
    return Task(
        name=own.name,
        family="files",
        summary=f"{count:,} windows of your own: {_joined(own.paths)}",
        classes=own.classes,
        load=load,
        split_rules=SPLIT_RULES,
        licence="yours",
        bind=bind,
        inputs=partial(_inputs, own.paths, reference),
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


def _pair(paths: Sequence[Path], changes: Counter[str], notes: list[str]) -> list[Record]:
    records, said = [], []
    for label, path in zip(reversed(PAIR), paths, strict=True):
        if not readers.is_fasta(path):
            raise UserError(f"{path}: not FASTA; expected {ACCEPTED}")
        found = readers.read(path, changes, notes)
        said.append({record.label.lower() for record in found if record.label is not None})
        records += [record._replace(id=f"{label}:{record.id}", label=label) for record in found]
    if any(said):
        _check_headers(paths, said)
    return records


def _check_headers(paths: Sequence[Path], said: Sequence[set[str]]) -> None:
    """Refuse classes in headers that are not those of the files: the first holds positives, the second negatives."""
    positives, negatives = said
    words = ", ".join(map(repr, sorted(positives | negatives)[:5]))
    if len(positives) > 1 or len(negatives) > 1 or positives == negatives:
        raise BadData(
            f"{_joined(paths)}: the headers name classes ({words}), but two files are positives and negatives; "
            "give one of them alone, or join them into one FASTA file"
        )
    if positives & {"0", "-1", "negative", "neg", "unbound"} or negatives & {"1", "positive", "pos", "bound"}:
        raise BadData(f"{_joined(paths)}: the headers name the classes the other way round; the file of positives comes first")


def _intervals(paths: Sequence[Path], notes: list[str]) -> list[tuple[Locus, str]]:
    if len(paths) != 2 or not all(map(_bed.is_bed, paths)):
        raise UserError(f"{_joined(paths)}: BED files come in twos, positives first, negatives second")
    intervals = [(locus, label) for label, path in zip(reversed(PAIR), paths, strict=True) for locus in _bed.read(path, notes)]
    _check_classes(_joined(paths), PAIR, [label for _, label in intervals])
    return intervals


def _single(path: Path, changes: Counter[str], notes: list[str]) -> tuple[tuple[str, ...], list[Record]]:
    records = readers.read(path, changes, notes)
    if unlabelled := next((record for record in records if record.label is None), None):
        raise BadData(f"{path}: record {unlabelled.id[:80]!r} has no class in its header; expected {ACCEPTED}")
    classes = readers.class_names(path, [str(record.label) for record in records])
    if len(classes) == 2:
        notes.append(f"the positive class is {classes[1]!r}, the second: f1, precision, recall, auroc and auprc are about it")
    else:
        notes.append(f"{len(classes)} classes: {', '.join(classes[:10])}{', …' if len(classes) > 10 else ''}")
    return classes, records


def _check_classes(names: str, classes: Sequence[str], labels: Sequence[str]) -> None:
    if len(classes) < 2:
        raise BadData(f"{names}: every window has the label {classes[0]!r}; at least two classes are needed")
    counts = Counter(labels)
    for label in classes:
        if counts[label] < MIN_WINDOWS:
            raise BadData(f"{names}: class {label!r} has {counts[label]} windows; it needs {MIN_WINDOWS}, one for each split")


def _load(own: _Own, examples: Sequence[Example], places: Sequence[Locus | None], reference: Reference, rule: str) -> Splits:
    check_rule(rule, SPLIT_RULES)
    changes = Counter(own.changes)
    sequences, labels = [example.windows[0].sequence for example in examples], [example.label for example in examples]
    groups = dependent(sequences, places, changes)
    changes["in_both_classes"] = sum(
        count > 1 for count in Counter(sequence for sequence, _ in set(zip(sequences, labels))).values()
    )
    if changes["in_both_classes"] == len(set(sequences)):
        raise BadData(f"{_joined(own.paths)}: every window is in more than one class; are these copies of one file?")
    files = {str(path): sources.sha256(path) for path in own.paths}
    notes, block, species = own.notes, None, ()
    if reference.alignment is not None:
        examples, columns, alignment = _align(examples, reference, changes)
        files |= columns
        notes, species = (*notes, *alignment.notes), alignment.species
    if (kept := len(groups) - len(set(groups))) > 0:
        notes = (*notes, f"{kept:,} windows overlap or repeat others, and are kept in one part of the split with them")
        block = {example.id: str(group) for example, group in zip(examples, groups, strict=True)}.__getitem__
    parts = stratified_groups(_joined(own.paths), labels, groups)
    train, validation, test = ([examples[position] for position in part] for part in parts)
    return Splits(train, validation, test, files=files, changes=+changes, block=block, notes=notes, species=species[1:])


def _load_intervals(own: _Own, intervals: Sequence[tuple[Locus, str]], reference: Reference, rule: str) -> Splits:
    from harness.files.genome import Genome

    if reference.genome is None:
        raise UserError(f"{_joined(own.paths)}: intervals have no letters; give their genome with --genome, FASTA or 2bit")
    genome, changes = Genome(reference.genome), Counter()
    loci = [locus for locus, _ in intervals]
    sequences = _bed.sequences(genome, loci, changes)
    examples = [
        Example(f"{label}:{_bed.name(locus)}", (Window(sequence, locus),), PAIR.index(label))
        for (locus, label), sequence in zip(intervals, sequences, strict=True)
    ]
    splits = _load(replace(own, changes=+changes), examples, loci, reference, rule)
    letters = hashlib.sha256("\n".join(sequences).encode()).hexdigest()
    return replace(splits, files={**splits.files, f"windows of genome {genome.path.name}": letters})


def _align(
    examples: Sequence[Example], reference: Reference, changes: Counter[str]
) -> tuple[list[Example], dict[str, str], Alignment]:
    """The examples with their columns, an entry of ``Splits.files`` for these, and the alignment."""
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
    return aligned, {f"columns of {len(alignment.species)} rows, {alignment.path.name}": digest}, alignment
