"""The windows of the user's files: what each member of a layout holds, under ids that are unique in the whole task."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness.data import Locus, Window
from harness.errors import BadData, UserError
from harness.files import readers, sources
from harness.files.readers import Columns
from harness.task import Reading

from . import _bed
from ._layouts import ACCEPTED, BEDS_ACCEPTED, Layout, Member, text_files
from ._names import PAIR, negative_first

NEGATIVE_WORDS = {"0", "-1", "negative", "neg", "unbound"}
POSITIVE_WORDS = {"1", "positive", "pos", "bound"}

Word = str | tuple[str, ...]


class Own(NamedTuple):
    """A window of the user's, or, without ``window``, an interval whose letters a genome holds at ``place``.

    ``word`` is its label as the file has it, ``part`` the part of a split that it is given for, and ``where`` its place.
    """

    id: str
    window: Window | None
    word: Word
    place: Locus | None
    part: str
    where: str


class _Row(NamedTuple):
    """As :class:`Own`, with the label that a header or a column has, if any."""

    id: str
    window: Window | None
    said: Word | None
    place: Locus | None
    part: str
    where: str


def read(layout: Layout, reading: Reading, changes: Counter[str], notes: list[str]) -> tuple[list[Own], tuple[str, ...]]:
    """The windows of a layout's files, in their order, and the names of the columns that hold their labels.

    Raises:
        BadData: a file cannot be used (see :func:`harness.files.readers.read_as`), a window has no label or no part where others
            have one, or a header or column contradicts what names say of class and part.
        UserError: a mixture of letters and intervals.
    """
    _check_columns(layout, reading)
    found: list[tuple[Member, list[_Row]]] = []
    label_columns: tuple[str, ...] = ()
    for member in layout.members:
        rows, columns = _rows(member, reading, changes, notes)
        label_columns = label_columns or columns
        found.append((member, rows))
    intervals = [member.path for member, rows in found if any(row.window is None for row in rows)]
    if intervals and len(intervals) < len(found):
        letters = next(member.path for member, _ in found if member.path not in intervals)
        raise UserError(f"{intervals[0]} holds intervals and {letters} letters; a task is made of one or the other")
    _check_words(found, notes)
    windows: list[Own] = []
    ids: dict[str, list[int]] = defaultdict(list)
    for member, rows in found:
        prefix = "".join(f"{word}:" for word in (member.part, member.label) if word)
        for row in rows:
            ids[prefix].append(len(windows))
            word = member.label if member.label is not None else row.said
            if word is None:
                expected = "class:… in each header, or FOLDER/PART/CLASS.fa" if row.part else ACCEPTED
                raise BadData(f"{row.where} has no class in its header; expected {expected}")
            windows.append(Own(prefix + row.id, row.window, word, row.place, row.part, row.where))
    for prefix, positions in ids.items():
        if len({windows[position].id for position in positions}) < len(positions):  # the pieces of one table
            for number, position in enumerate(positions, start=1):
                windows[position] = windows[position]._replace(id=f"{prefix}{number}")
    without = next((window for window in windows if not window.part), None)
    if without is not None and any(window.part for window in windows):
        raise BadData(f"{without.where}: no part of a split (train, validation, test), though other windows have one")
    return windows, label_columns


def _rows(member: Member, reading: Reading, changes: Counter[str], notes: list[str]) -> tuple[list[_Row], tuple[str, ...]]:
    path, label_columns = member.path, ()
    columns = Columns(reading.sequence_column, reading.label_columns, member.label is not None)
    if os.path.isdir(path):
        texts = readers.read_texts(text_files(path), changes, notes)
        rows = [_Row(text.id, text.window, None, None, "", text.where) for text in texts]
    elif _bed.is_bed(path):
        if member.label is None:
            raise UserError(f"{path}: {BEDS_ACCEPTED}")
        said: list[str] = []
        rows = [_Row(_bed.name(locus), None, None, locus, "", f"{path}: {_bed.name(locus)}") for locus in _bed.read(path, said)]
        notes += said
    elif not reading.sequence_column and readers.is_intervals(path):
        intervals = readers.read_intervals(path, notes, columns)
        label_columns = intervals.label_columns
        rows = [_Row(row.id, None, row.label, row.locus, row.part, row.where) for row in intervals.records]
    else:
        if member.label in PAIR and not member.part and not readers.is_fasta(path):
            raise UserError(f"{path}: not FASTA; expected {ACCEPTED}")
        records = readers.read_as(path, changes, notes, columns)
        label_columns = records.label_columns
        rows = [_Row(row.id, row.window, row.label, row.place, row.part, row.where) for row in records.records]
    if member.part:
        if other := next((row for row in rows if row.part not in ("", member.part)), None):
            raise BadData(f"{other.where}: belongs to {other.part}, in a file for {member.part}; correct one of them")
        rows = [row._replace(part=member.part) for row in rows]
    return rows, label_columns


def _check_columns(layout: Layout, reading: Reading) -> None:
    """Refuse columns that are named for files which have none."""
    options = (("sequence-column", reading.sequence_column), ("label-column", ",".join(reading.label_columns)))
    asked = next((f"{option} {name!r}" for option, name in options if name), "")
    paths = [member.path for member in layout.members]
    if asked and all(os.path.isdir(path) or _bed.is_bed(path) or _is_fasta(path) for path in paths):
        raise UserError(f"{asked}: {paths[0]} is no table; leave it out")


def _is_fasta(path: Path) -> bool:
    return not readers.is_parquet(path) and readers.is_fasta(path)


def _check_words(found: Sequence[tuple[Member, Sequence[_Row]]], notes: list[str]) -> None:
    """Refuse classes in headers or columns that contradict what the files' names or order say; other words are noted."""
    said: dict[str, set[str]] = defaultdict(set)
    paths = {}
    for member, rows in found:
        if member.label is not None:
            said[member.label] |= {str(row.said).lower() for row in rows if row.said is not None}
            paths.setdefault(member.label, member.path)
    words = ", ".join(map(repr, sorted(set().union(*said.values()))[:5]))
    names = " and ".join(str(path) for path in list(paths.values())[:2])
    same = any(said[one] == said[other] for one in said for other in said if one < other and said[one])
    if same or any(len(own) > 1 for own in said.values()):
        pair = set(said) == set(PAIR) and not any(member.part for member, _ in found)
        but = "two files are positives and negatives" if pair else "each of these files is called like a class"
        raise BadData(
            f"{names}: the headers name classes ({words}), but {but}; give one of them alone, or join them into one FASTA file"
        )
    for label, own in said.items():
        if own & {other.lower() for other in said if other != label}:
            raise BadData(
                f"{paths[label]}: its windows have the label {min(own)!r}, and the file is {label!r}; correct one of them"
            )
    ordered = (negative_first(list(said)) if len(said) == 2 else None) or PAIR
    negative, positive = (said.get(label, set()) for label in ordered)
    if positive & NEGATIVE_WORDS or negative & POSITIVE_WORDS:
        raise BadData(f"{names}: the headers name the classes the other way round; the file of positives comes first")
    for label, own in said.items():
        known = {ordered[0]: NEGATIVE_WORDS, ordered[1]: POSITIVE_WORDS}.get(label, set())
        if own - known - {label.lower()}:
            notes.append(f"{paths[label].name}: its windows have the label {min(own)!r}, and the class {label!r} here")


def checksums(layout: Layout) -> dict[str, str]:
    """sha256 of each file; of a folder of text files, of their names and contents together."""
    found = {}
    for member in layout.members:
        if os.path.isdir(member.path):
            total = hashlib.sha256()
            for path in text_files(member.path):
                total.update(f"{path.name} {sources.sha256(path)}\n".encode())
            found[str(member.path)] = total.hexdigest()
        else:
            found[str(member.path)] = sources.sha256(member.path)
    return found
