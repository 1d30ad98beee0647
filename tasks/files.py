"""The user's own files as a task: two FASTA files, one FASTA file with classes in its headers, or one table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from harness import readers, sources
from harness.data import Example
from harness.errors import BadData, UserError
from harness.readers import Record
from harness.task import Splits, Task

from ._splits import check_rule, stratified

PAIR = ("negative", "positive")
FEWEST = 3  # windows of a class: one for each part
ACCEPTED = (
    "two FASTA files (positives first, negatives second), one CSV/TSV table with the columns sequence and label, "
    "or one FASTA file with class:… in its headers"
)
SPLIT_RULES = ("stratified",)


def tasks() -> tuple[Task, ...]:
    """None: these tasks exist only for given files, see :func:`from_files`."""
    return ()


def from_files(paths: Sequence[Path]) -> Task:
    """The task that the user's files make, read and checked.

    Classes are ("negative", "positive") for two FASTA files; otherwise the file's own labels, in numerical order if they
    are whole numbers and in alphabetical order if they are names. Split 60/20/20 by class, seed 42. Besides changed
    letters, ``Splits.changes`` counts ``duplicates`` (windows whose sequence occurred before) and ``in_both_classes``
    (sequences with more than one label); neither is removed.

    Raises:
        BadData: a file that cannot be used (see :func:`harness.readers.read`), labels that are no classes, one class
            only, or a class with fewer than 3 windows.
        UserError: another number or mixture of files.
    """
    paths = [Path(path) for path in paths]
    changes: Counter[str] = Counter()
    if len(paths) == 2:
        classes, records = PAIR, _pair(paths, changes)
    elif len(paths) == 1:
        classes, records = _single(paths[0], changes)
    else:
        raise UserError(f"{len(paths)} files given: expected {ACCEPTED}")
    names = " and ".join(map(str, paths))
    _check_classes(names, classes, records)
    _count_repeats(records, changes)
    examples = [Example(record.id, (record.window,), classes.index(str(record.label))) for record in records]
    hashes = {str(path): sources.sha256(path) for path in paths}
    return Task(
        name=task_name(paths),
        family="files",
        summary=f"{len(examples):,} windows of your own: {names}",
        classes=classes,
        load=partial(_load, examples, hashes, +changes),
        split_rules=SPLIT_RULES,
        licence="yours",
    )


def task_name(paths: Sequence[Path]) -> str:
    """``pos+neg`` for two files; a single file keeps its ending (``QKI.csv``), so that no set of the project's has its name."""
    names = [path.name.removesuffix(".gz") for path in paths]
    if len(names) > 1:
        names = [Path(name).stem for name in names]
    return "+".join(re.sub(r"[^A-Za-z0-9._-]", "_", name) for name in names)


def _pair(paths: Sequence[Path], changes: Counter[str]) -> list[Record]:
    records = []
    for label, path in zip(reversed(PAIR), paths, strict=True):
        if not readers.is_fasta(path):
            raise UserError(f"{path}: not FASTA; expected {ACCEPTED}")
        records += [Record(f"{label}:{record.id}", record.window, label) for record in readers.read(path, changes)]
    return records


def _single(path: Path, changes: Counter[str]) -> tuple[tuple[str, ...], list[Record]]:
    records = readers.read(path, changes)
    if unlabelled := next((record for record in records if record.label is None), None):
        raise BadData(f"{path}: record {unlabelled.id!r} has no class in its header; expected {ACCEPTED}")
    return readers.class_names(path, [str(record.label) for record in records]), records


def _check_classes(names: str, classes: Sequence[str], records: Sequence[Record]) -> None:
    if len(classes) < 2:
        raise BadData(f"{names}: every window has the label {classes[0]!r}; at least two classes are needed")
    counts = Counter(record.label for record in records)
    for label in classes:
        if counts[label] < FEWEST:
            raise BadData(f"{names}: class {label!r} has {counts[label]} windows; it needs {FEWEST}, one for each split")


def _count_repeats(records: Sequence[Record], changes: Counter[str]) -> None:
    labels: dict[str, set[str | None]] = {}
    for record in records:
        labels.setdefault(record.window.sequence, set()).add(record.label)
    changes["duplicates"] = len(records) - len(labels)
    changes["in_both_classes"] = sum(len(seen) > 1 for seen in labels.values())


def _load(examples: Sequence[Example], hashes: Mapping[str, str], changes: Mapping[str, int], rule: str) -> Splits:
    check_rule(rule, SPLIT_RULES)
    parts = stratified([example.label for example in examples])
    train, validation, test = ([examples[position] for position in part] for part in parts)
    return Splits(train, validation, test, files=hashes, changes=changes)
