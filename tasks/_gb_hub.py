"""GenomicBenchmarks as ready sequences: the hub's parquet files, or tables in the same layout.

The hub numbers the classes and does not name them. How it numbers them is known of three tasks, or follows from the numbers of
windows in a class; else it is compared with intervals and genome, if these are here, or assumed to be alphabetical, and said.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

from harness.data import Example, Window, normalise
from harness.errors import BadData, DataMissing
from harness.files import sources
from harness.files.table import Table
from harness.task import Reference

from . import _gb_intervals
from ._gb_facts import FILES, PARTS, SETS

EXPECTED = "the hub's parquet file, or a table, with the columns seq and label"
COMPARED = 500  # intervals of a class that are looked up among the hub's sequences
SHORTEST = 100  # nucleotides of these: shorter sequences may occur by chance
MIN_FOUND = 10

_FILE = re.compile(r"(?:.*[._-])?(train|test)(?:[._-].*)?\.(?:parquet|pq|csv|tsv)(?:\.b?gz)?", re.IGNORECASE)


def folder(name: str) -> Path:
    """Where the hub's files of a task lie."""
    return sources.data_home() / _gb_intervals.FAMILY / "hub" / name


def find(name: str, given: Path) -> dict[str, list[Path]]:
    """The files of each part in a folder, in its ``data`` folder, or in the task's own folder inside of it.

    Raises:
        DataMissing: there are none of one part.
    """
    for place in (given / name / "data", given / name, given / "data", given):
        found: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            if match := _FILE.fullmatch(path.name):
                found[match[1].lower()].append(path)
        if found.keys() == set(PARTS):
            return found
    raise DataMissing(
        f"{name}: no {given}/data/train-….parquet and test-….parquet (columns seq and label); `harness data get {name} --source "
        "hub` fetches them, or copy them there, or give their folder with --option source=FOLDER"
    )


def read(name: str, given: Path, changes: Counter[str], notes: list[str]) -> tuple[list[Example], list[str], dict[str, str]]:
    """The examples, the authors' part of each, and the entries of ``Splits.files``.

    Raises:
        DataMissing: a file is missing.
        BadData: a file cannot be read, the numbers of windows are not those of the published set, or its labels contradict the
            intervals.
    """
    facts = SETS[name]
    found, counts = list[tuple[str, str, int]](), Counter[tuple[str, int]]()
    digests: dict[str, str] = {}
    for part, paths in find(name, given).items():
        for path in paths:
            digests[f"{name}/{path.name}"] = sources.sha256(path)
            for sequence, label in _rows(path, len(facts.classes), changes):
                found.append((part, sequence, label))
                counts[part, label] += 1
    order = _order(name, given, found, counts, notes)
    numbers = Counter[str]()
    examples, parts = list[Example](), list[str]()
    for part, sequence, label in found:
        numbers[part] += 1
        examples.append(Example(f"{name}:{part}:hub:{numbers[part]}", (Window(sequence),), facts.classes.index(order[label])))
        parts.append(part)
    return examples, parts, digests


def _rows(path: Path, classes: int, changes: Counter[str]) -> list[tuple[str, int]]:
    table, rows = Table(path, EXPECTED), []
    for where, (letters, label) in table.rows([table.column(("seq", "sequence")), table.column(("label",))]):
        if label not in map(str, range(classes)):
            raise BadData(f"{where}: label {label[:40]!r}, expected a number from 0 to {classes - 1}")
        try:
            sequence = normalise(letters, changes)
        except BadData as error:
            raise BadData(f"{where}: {error}") from None
        if not sequence:
            raise BadData(f"{where}: no sequence; fetch the file again")
        rows.append((sequence, int(label)))
    return rows


def _order(
    name: str, given: Path, rows: Sequence[tuple[str, str, int]], counts: Mapping[tuple[str, int], int], notes: list[str]
) -> tuple[str, ...]:
    """The class of each label."""
    facts, published = SETS[name], FILES[name]

    def fits(order: Sequence[str]) -> bool:
        wanted = {(part, n): published[label][PARTS.index(part)].rows for n, label in enumerate(order) for part in PARTS}
        return wanted == counts

    orders = [order for order in permutations(facts.hub) if fits(order)]
    if not orders or (facts.hub_checked and facts.hub not in orders):
        here = ", ".join(f"{counts[part, n]:,} of {part} labelled {n}" for part in PARTS for n in range(len(facts.hub)))
        wanted = ", ".join(
            f"{published[label][i].rows:,} of {part} {label}" for i, part in enumerate(PARTS) for label in facts.hub
        )
        raise BadData(
            f"{given}: {here}; the published {name} has {wanted}. Is it cut, or another version? As files of your own it is read "
            f"with --task {given}"
        )
    if facts.hub_checked:
        return facts.hub
    if len(orders) == 1:
        notes.append(f"labels 0, 1, … are {', '.join(orders[0])}, as the numbers of windows in each class say")
        return orders[0]
    if compared := _compared(name, rows):
        notes.append(f"labels 0, 1, … are {', '.join(compared)}, as the letters of the intervals say")
        return compared
    notes.append(f"the order of the labels is assumed to be alphabetical ({', '.join(facts.hub)}), and not verified")
    return facts.hub


def _compared(name: str, rows: Sequence[tuple[str, str, int]]) -> tuple[str, ...]:
    """The class of each label, after the letters of some intervals of each class; empty where these cannot be had.

    Raises:
        BadData: the letters say nothing, or contradict each other.
    """
    needed = (*_gb_intervals.files(name), *_gb_intervals.references(name).values())
    if sources.missing(needed):
        return ()
    classes, labelled = SETS[name].classes, defaultdict[str, set[int]](set)
    for _, sequence, label in rows:
        labelled[sequence].add(label)
    chosen = []
    intervals = [row for row in _gb_intervals.read(name) if row.locus.end - row.locus.start >= SHORTEST]
    for label in range(len(classes)):
        own = [row for row in intervals if row.label == label]
        chosen += own[:: max(1, len(own) // COMPARED)]
    letters, _ = _gb_intervals.cut(name, chosen, Reference(), Counter(), [])
    seen = Counter(
        (next(iter(labels)), row.label)
        for row, sequence in zip(chosen, letters, strict=True)
        if len(labels := labelled.get(sequence, set())) == 1
    )
    order = []
    for label in range(len(classes)):
        of = Counter({found: count for (number, found), count in seen.items() if number == label})
        best, count = of.most_common(1)[0] if of else (0, 0)
        if count < MIN_FOUND or count < 0.95 * of.total():
            raise BadData(
                f"{name}: label {label} cannot be told: {count} of {of.total()} intervals whose letters have it are "
                f"{classes[best]}; is the genome in the data folder the right one?"
            )
        order.append(classes[best])
    if len(set(order)) < len(order):
        raise BadData(
            f"{name}: labels 0, 1, … would be {', '.join(order)} after the letters of the intervals; fetch the files again"
        )
    return tuple(order)
