"""Which of the user's files holds which part of a split and which class, by what names and folders say; no file is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.errors import BadData, UserError
from harness.files.table import is_table
from harness.files.text import printable
from harness.task import PART_NAMES

from ._bed import is_bed
from ._names import PAIR, negative_first, parts_in, words_in

ACCEPTED = (
    "two FASTA files (positives first, negatives second), two BED files, one CSV, TSV, JSON or parquet table with the columns "
    "sequence and label, one FASTA file with class:… in its headers, files named train, dev and test, or a folder of these"
)
BEDS_ACCEPTED = "BED files come in twos, positives first, negatives second, or as FOLDER/train/CLASS.bed"
PARTS_ACCEPTED = (
    "FOLDER/train.csv and test.csv (also TSV, JSON, parquet, FASTA), or FOLDER/train/CLASS.fa and FOLDER/test/CLASS.fa"
)

_DATA = re.compile(
    r"\.((csv|tsv|tab|txt|seq|json|jsonl|ndjson|fa|fasta|fna|ffn|fas|frn|bed|narrowPeak|broadPeak)(\.b?gz)?|parquet|pq)$",
    re.IGNORECASE,
)
_TEXT = re.compile(r"\.txt(\.gz)?$", re.IGNORECASE)
_SHARD = re.compile(r"(?P<set>.*?)-?(?P<number>\d+)-of-(?P<count>\d+)\b.*")
_NUMBERED = re.compile(r"\d{4,}")  # 0000.parquet, as the hub converts data sets


class Member(NamedTuple):
    """A file of windows, or a folder of text files that hold one window each.

    ``part`` is ``train``, ``validation`` or ``test``, and ``label`` the class of all windows, where names or options say so.
    """

    path: Path
    part: str = ""
    label: str | None = None


class Layout(NamedTuple):
    """The files of a task, in the order in which they are read, and sentences about files that are not."""

    members: tuple[Member, ...]
    notes: tuple[str, ...] = ()


def find(paths: Sequence[Path], parts: Sequence[str] = ()) -> Layout:
    """What the files at these paths hold.

    ``parts`` says of each path which part of the split it is. Without it, one path is a folder with its parts, or a file; files
    whose names tell them apart as train, validation and test are those; two other files are positives and negatives.

    Raises:
        UserError: another number or mixture of files.
        BadData: a folder without parts, or in which a part is there twice or incomplete.
    """
    if parts:
        given = [
            member
            for part in PART_NAMES
            for path, own in zip(paths, parts, strict=True)
            if own == part
            for member in _part(path, part)
        ]
        return Layout(_each_once(given))
    folders = [path for path in paths if _is_folder(path)]
    if folders and len(paths) > 1:
        raise UserError(
            f"{folders[0]}: a folder is one task; run it alone, or name the parts with --train, --validation and --test"
        )
    if folders:
        return _folder(folders[0])
    if len(paths) == 1 and not is_bed(paths[0]):
        return Layout((Member(paths[0]),), tuple(_siblings(paths[0])))
    named = _named_parts(paths) if paths else []
    if named:
        return Layout(_each_once(named))
    beds = [is_bed(path) for path in paths]
    if any(beds) and not (len(paths) == 2 and all(beds)):
        raise UserError(f"{' and '.join(map(str, paths))[:200]}: {BEDS_ACCEPTED}")
    if sum(map(is_table, paths)) > 1:
        names = " ".join(map(str, paths))[:200]
        raise UserError(
            f"task {names}: one table is one task; run them one by one, or join the parts of one set, or name them with --train, "
            "--validation and --test"
        )
    if len(paths) != 2:
        raise UserError(f"{len(paths)} files given: expected {ACCEPTED}")
    return Layout(tuple(Member(path, label=label) for label, path in zip(reversed(PAIR), paths, strict=True)))


def _each_once(members: Sequence[Member]) -> tuple[Member, ...]:
    seen: dict[Path, Member] = {}
    for member in members:
        if (first := seen.setdefault(member.path.resolve(), member)) is not member:
            twice = f"as {first.part} and as {member.part}" if first.part != member.part else "twice"
            raise BadData(f"{member.path}: given {twice}; each file belongs to one part")
    return tuple(members)


def _named_parts(paths: Sequence[Path]) -> list[Member]:
    """The files as parts, if what is different between their names says of each which part it is, and not the same of all."""
    absolute = [path.absolute() for path in paths]
    shared = len(Path(os.path.commonpath(absolute)).parts)
    words = [words_in(path.parts[shared:-1], _stem(path)) for path in absolute]
    common = set.intersection(*words)
    said = [parts_in(found - common) for found in words]
    if not all(len(found) == 1 for found in said) or len(set().union(*said)) == 1:
        return []
    by_part = {part: [path for path, found in zip(paths, said, strict=True) if found == {part}] for part in PART_NAMES}
    return _classes_of_parts(by_part) or [member for part, own in by_part.items() if own for member in _shards(own, part)]


def _classes_of_parts(by_part: Mapping[str, Sequence[Path]]) -> list[Member]:
    """A file for each class of each part (``train_pos.fa``), if the names of every part's files say the same besides the part.

    Tables have labels of their own, unless the names are those of positives and negatives.
    """
    by_class = {part: {_beside_part(file): file for file in own} for part, own in by_part.items() if own}
    labels = sorted(next(iter(by_class.values())))
    if len(labels) < 2 or "" in labels or any(_SHARD.fullmatch(_stem(file)) for own in by_part.values() for file in own):
        return []
    if any(sorted(own) != labels or len(own) < len(by_part[part]) for part, own in by_class.items()):
        return []
    paired = len(labels) == 2 and negative_first(labels) is not None
    if not paired and any(is_table(file) for own in by_part.values() for file in own):
        return []
    return [Member(own[label], part, label) for part, own in by_class.items() for label in labels]


def _beside_part(file: Path) -> str:
    words = re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", _stem(file))
    return "_".join(word for word in words if word and not parts_in([word.lower()]))


def _siblings(path: Path) -> list[str]:
    """A sentence, if a file that is given alone is one part among others in its folder."""
    own = parts_in(words_in([], _stem(path)))
    if len(own) != 1 or not path.is_file():
        return []
    others = [
        file.name for file in _content(path.parent)[0] if len(found := parts_in(words_in([], _stem(file)))) == 1 and found != own
    ]
    if not others:
        return []
    return [
        f"only {printable(path.name)} is read, and divided anew; {printable(', '.join(others))[:100]} beside it are other parts: "
        "give them too, or the folder"
    ]


def _folder(folder: Path) -> Layout:
    files, folders = _content(folder)
    part_files = {file: found for file in files if len(found := parts_in(words_in([], _stem(file)))) == 1}
    part_folders = {inner: found for inner in folders if len(found := parts_in(words_in([], inner.name))) == 1}
    if not part_files and not part_folders:
        return _inner(folder, files, folders)
    by_part = {part: [file for file, found in part_files.items() if found == {part}] for part in PART_NAMES}
    members = [] if part_folders else _classes_of_parts(by_part)
    for part in PART_NAMES if not members else ():
        own = by_part[part]
        inside = [inner for inner, found in part_folders.items() if found == {part}]
        if len(inside) + bool(own) > 1:
            twice = " and ".join(path.name for path in [*own[:1], *inside])
            raise BadData(f"{folder}: the part {part} is there twice ({printable(twice)}); keep one of them")
        members += _shards(own, part) if own else []
        members += [member for inner in inside for member in _part(inner, part)]
    left = [file.name for file in files if file not in part_files and not _TEXT.search(file.name)]
    left += [f"{inner.name}/" for inner in folders if inner not in part_folders and any(_content(inner))]
    return Layout(tuple(members), (f"{folder.name}: not read: {printable(', '.join(left))[:200]}",) if left else ())


def _inner(folder: Path, files: Sequence[Path], folders: Sequence[Path]) -> Layout:
    """The layout of the one folder inside that has parts, such as ``data`` of an export."""
    sets = [inner for inner in folders if any(parts_in(words_in([], _stem(path))) for found in _content(inner) for path in found)]
    if len(sets) > 1:
        names = printable(", ".join(inner.name for inner in sets))[:100]
        classes = "; if these are classes, the parts come first: FOLDER/train/CLASS.fa"
        hint = classes if len(sets) == 2 and negative_first([inner.name for inner in sets]) else ""
        raise UserError(f"{folder}: several sets ({names}); run them one by one, such as --task {folder / sets[0].name}{hint}")
    if sets:
        layout = _folder(sets[0])
        left = [file.name for file in files if not _TEXT.search(file.name)]
        return layout._replace(
            notes=(*layout.notes, *([f"{folder.name}: not read: {printable(', '.join(left))[:200]}"] if left else []))
        )
    if len(files) == 1:
        raise BadData(f"{folder}: no files for train and test; give the file itself: --task {files[0]}")
    if any(path.suffix == ".arrow" for path in folder.rglob("*.arrow")):
        raise BadData(f"{folder}: Arrow files of save_to_disk, which are not read; write each part with to_parquet()")
    raise BadData(f"{folder}: no files or folders for train and test; expected {PARTS_ACCEPTED}")


def _part(path: Path, part: str) -> list[Member]:
    """The files of one part: itself, the shards of one table, or one for each class."""
    if not _is_folder(path):
        return [Member(path, part)]
    files, folders = _content(path)
    if files and folders:
        raise BadData(f"{path}: files ({printable(files[0].name)}) and folders ({printable(folders[0].name)}); keep one of them")
    if folders:
        return [member for inner in folders for member in _class_folder(inner, part)]
    if not files:
        arrow = (
            "Arrow files are not read, write them with to_parquet()"
            if any(path.glob("*.arrow"))
            else f"expected {PARTS_ACCEPTED}"
        )
        raise BadData(f"{path}: no files of windows; {arrow}")
    if len(files) == 1 or all(_SHARD.fullmatch(_stem(file)) or _NUMBERED.fullmatch(_stem(file)) for file in files):
        return _shards(files, part)
    twice = {_stem(file) for file in files if sum(_stem(file) == _stem(other) for other in files) > 1}
    if twice:
        raise BadData(f"{path}: the class {printable(min(twice))} is there twice; keep one of its files")
    return [Member(file, part, _stem(file)) for file in files]


def _class_folder(folder: Path, part: str) -> list[Member]:
    """All files of one class: a folder of text files as it is, or its FASTA and BED files and tables."""
    files, folders = _content(folder)
    if folders or not files:
        raise BadData(
            f"{folder}: {'folders within' if folders else 'no files in'} the folder of a class; expected FOLDER/PART/CLASS/*.txt"
        )
    texts = [file for file in files if _TEXT.search(file.name)]
    if texts and len(texts) < len(files):
        other = next(file for file in files if file not in texts)
        raise BadData(f"{folder}: .txt files and {printable(other.name)}; keep one kind")
    return [Member(folder, part, folder.name)] if texts else [Member(file, part, folder.name) for file in files]


def _shards(files: Sequence[Path], part: str) -> list[Member]:
    """The file of a part, or the pieces that it was written in (``train-00000-of-00002.parquet``), by their numbers."""
    found = {file: _SHARD.fullmatch(_stem(file)) for file in files}
    pieces = {(int(match["number"]), int(match["count"]), match["set"]): file for file, match in found.items() if match}
    if len(files) > 1 and all(_NUMBERED.fullmatch(_stem(file)) for file in files):
        pieces = {(int(_stem(file)), len(files), ""): file for file in files}
    if len(pieces) < len(files):
        if len(files) == 1:
            return [Member(files[0], part)]
        names = printable(" and ".join(file.name for file in files))[:150]
        raise BadData(f"{files[0].parent}: several files for the part {part} ({names}); keep one, or name them with --{part}")
    sets = {(count, prefix) for _, count, prefix in pieces}
    numbers = sorted(number for number, _, _ in pieces)
    first = 1 if numbers[0] == 1 and numbers[-1] == len(numbers) else 0
    if len(sets) > 1 or numbers != list(range(first, first + min(sets)[0])):
        names = printable(" ".join(file.name for file in files))[:150]
        raise BadData(f"{files[0].parent}: the pieces of {part} are not one complete set ({names}); download them again")
    return [Member(pieces[key], part) for key in sorted(pieces)]


def _content(folder: Path) -> tuple[list[Path], list[Path]]:
    """Data files and folders in a folder, each sorted by name; what is hidden, empty or no data is left out."""
    try:
        entries = sorted((entry for entry in os.scandir(folder) if not entry.name.startswith((".", "__"))), key=lambda e: e.name)
    except OSError as error:
        raise BadData(f"{folder}: cannot be read ({error.strerror})") from None
    files = [Path(entry.path) for entry in entries if _DATA.search(entry.name) and not entry.is_dir()]
    return files, [Path(entry.path) for entry in entries if entry.is_dir()]


def _stem(path: Path) -> str:
    return _DATA.sub("", path.name)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # Path.is_dir raises for names that are too long


def text_files(folder: Path) -> list[Path]:
    """The text files of a class's folder, by name."""
    return _content(folder)[0]
