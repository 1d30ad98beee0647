"""audit(): the tasks that are asked for, audited; and repair(), which writes a split without leaks."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness import registry
from harness.errors import UserError
from harness.evidence.audit import Audit, by_chromosome, clusters
from harness.evidence.audit import audit as audit_splits
from harness.evidence.leakage import Part, compare
from harness.files.atomic import check_writable
from harness.files.neighbours import DEFAULT, Similarity, components
from harness.task import CLASSIFICATION, MULTILABEL, PART_NAMES, Splits, Task

from .asked import as_reading, as_reference, available, named_tasks

WAYS = ("cluster", "chromosome")


def open_tasks(
    task: str | Path | Sequence[str | Path] | None = None,
    *,
    train: str | Path | Sequence[str | Path] | None = None,
    validation: str | Path | Sequence[str | Path] | None = None,
    test: str | Path | Sequence[str | Path] | None = None,
    sequence_column: str | int = "",
    label_column: str | int | Sequence[str | int] = (),
    positive: str | int = "",
    kind: str = "",
    split: str | None = None,
    genome: str | Path | None = None,
    context: int | None = None,
    sample: bool = True,
    name: str | None = None,
    source: str = "",
    negatives: str = "",
) -> list[tuple[Task, str, Splits]]:
    """The tasks that are named, by the arguments of :func:`harness.study.plan.plan`: each with a split rule and its examples.

    Raises:
        UserError: a mistake in what was asked for.
    """
    reference = as_reference(genome, None, "", context, source, negatives)
    words, reading = as_reading(
        task, {"train": train, "validation": validation, "test": test}, sequence_column, label_column, positive, kind
    )
    found = [available(item, own, split, sample)[0] for item, own in named_tasks(words, reference, name, reading)]
    rules = [split or item.split_rules[0] for item in found]
    return [(item, rule, item.load(rule)) for item, rule in zip(found, rules, strict=True)]


def audit(task: Any = None, *, similarity: Similarity = DEFAULT, floor: bool = True, **asked: Any) -> list[Audit]:
    """The audits of the tasks that :func:`open_tasks` finds by the same arguments."""
    return [audit_splits(item, splits, rule, similarity, floor) for item, rule, splits in open_tasks(task, **asked)]


def repair(task: Task, splits: Splits, way: str, folder: Path, similarity: Similarity = DEFAULT) -> list[str]:
    """Draw a split in which like windows are together, and write it as ``train.csv``, ``validation.csv`` and ``test.csv``.

    ``way`` is ``cluster`` (windows that are the same, nearly the same or overlap, directly or through others, are one group) or
    ``chromosome``. Columns are id, sequence, label, and chrom, start, end (0-based, half-open) and strand where all loci are
    known; several labels are written as ``0;1;0``. Returns sentences on the groups and on each part's classes.

    Raises:
        UserError: windows that cannot be grouped so, variants, or a folder that exists or cannot be written.
        BadData: the groups are so large that a part lacks a class.
    """
    check_repair(task, splits, way, folder)
    found = clusters(splits, similarity) if way == "cluster" else by_chromosome(splits)
    if found is None:
        raise UserError(f"fix {way!r}: not all windows of {task.label} have a locus; use --fix cluster")
    whole, groups = found
    groups, parts = _drawn(task, whole, groups, similarity, way)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, rows in zip(PART_NAMES, parts, strict=True):
            _write(temporary / f"{name}.csv", task, whole, rows)
        temporary.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sizes = Counter(groups.tolist())
    lines = [f"{folder}: {len(whole):,} windows in {len(sizes):,} groups by {way}, the largest of {max(sizes.values()):,}"]
    for name, rows in zip(PART_NAMES, parts, strict=True):
        lines.append(f"  {name}: {len(rows):,} windows{_balance(task, [whole.labels[row] for row in rows])}")
    return lines


def _drawn(task: Task, whole: Part, groups: np.ndarray, similarity: Similarity, way: str) -> tuple[np.ndarray, list[list[int]]]:
    """The groups and each part's rows. Clusters that turn out to be alike across parts are joined and drawn again.

    For a search among all windows may miss what one between two parts finds (see :class:`harness.files.neighbours.Pairs`).
    """
    while True:
        parts = [sorted(rows) for rows in registry.draw_split(task.label, task.kind, whole.labels, groups.tolist())]
        if way != "cluster":
            return groups, parts
        train, validation, test = (np.array(rows) for rows in parts)
        edges = []
        for known, asked in ((train, np.concatenate([validation, test])), (validation, test)):
            source = compare(whole.rows(known), whole.rows(asked), similarity).source
            edges.append((groups[known[source[source >= 0]]], groups[asked[source >= 0]]))
        if not any(len(first) for first, _ in edges):
            return groups, parts
        groups = components(int(groups.max()) + 1, *edges)[groups]


def check_repair(task: Task, splits: Splits, way: str, folder: Path) -> None:
    """Refuse at once what :func:`repair` would refuse, but for groups that are too large.

    Raises:
        UserError: see :func:`repair`.
    """
    if way not in WAYS:
        raise UserError(f"fix {way!r}: choose one of {', '.join(WAYS)}")
    if len(splits.train[0].windows) != 1:
        raise UserError(f"fix {way!r}: {task.label} has variants, which are split by place: choose one of its --split rules")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"out {folder}: exists already; choose another folder")
    check_writable(folder, "out")


def _balance(task: Task, labels: list[Any]) -> str:
    if task.kind == CLASSIFICATION:
        counts = {name: labels.count(number) for number, name in enumerate(task.classes)}
    elif task.kind == MULTILABEL:
        counts = {name: sum(label[number] for label in labels) for number, name in enumerate(task.classes)}
    else:
        return f", mean {sum(labels) / len(labels):.4g}"
    shown = [f"{name} {count / len(labels):.1%}" for name, count in counts.items()][:10]
    return ": " + ", ".join(shown) + (", …" if len(counts) > 10 else "")


def _write(path: Path, task: Task, whole: Part, rows: Sequence[int]) -> None:
    located = all(locus is not None for locus in whole.loci)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "sequence", "label", *(["chrom", "start", "end", "strand"] if located else [])])
        for row in rows:
            label, locus = whole.labels[row], whole.loci[row]
            if task.kind == CLASSIFICATION:
                label = task.classes[label]
            elif task.kind == MULTILABEL:
                label = ";".join(map(str, label))
            place = [locus.chromosome, locus.start, locus.end, locus.strand] if located and locus else []
            writer.writerow([whole.ids[row], whole.windows[row][0], label, *place])
