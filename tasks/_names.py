"""What the names of the user's files say, and the names of the tasks that they make."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from harness.errors import BadData, UserError
from harness.files.readers import PARTS
from harness.files.text import printable

MAX_NAME = 100  # characters
PAIR = ("negative", "positive")  # the classes of two files
POSITIVE = {"positive", "positives", "pos", "bound", "sites", "site", "peak", "peaks", "foreground", "fg", "cases", "case"}
NEGATIVE = {"negative", "negatives", "neg", "unbound", "background", "bg", "control", "controls", "shuffled", "random", "decoy"}
_NEGATION = re.compile(r"(?:un|non|not|no|in|dis)[\W_]*")


def task_name(paths: Sequence[Path]) -> str:
    """What to call a task of the user's files.

    ``pos+neg`` for two files; that of the folder for a folder, and for the parts of a split that lie in one folder. A single file
    keeps its ending (``QKI.csv``), which no task of the project has in its name; a folder's name gets one if it is taken.
    """
    folders = {path.absolute().parent for path in paths}
    if len(paths) == 1 and os.path.isdir(paths[0]):
        return _folder_name(Path(os.path.abspath(paths[0])))
    names = [path.name.removesuffix(".gz") for path in paths]
    stems = [Path(name).stem for name in names]
    if len(paths) > 1 and len(folders) == 1 and all(len(parts_in(words_in([], stem))) == 1 for stem in stems):
        said = [parts_in(words_in([], stem)) for stem in stems]
        if any(one != said[0] for one in said):
            return _folder_name(folders.pop())
    return "+".join(_allowed(name) for name in (stems if len(names) > 1 else names))


def _folder_name(folder: Path) -> str:
    from harness import registry

    name = _allowed(folder.name) or "folder"
    return f"{name}.folder" if registry.names_task(name) else name


def _allowed(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[-MAX_NAME:]


def check_name(name: str) -> str:
    """A name that the user gives to a task.

    Raises:
        UserError: it has other characters than letters, digits and ``._-``, or is that of a task or family of the project.
    """
    from harness import registry

    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}", name):
        raise UserError(
            f"name {name[:40]!r}: begin with a letter or digit, and go on with letters, digits, '.', '_' and '-', "
            f"{MAX_NAME} characters at most"
        )
    if registry.names_task(name):
        raise UserError(f"name {name!r}: a task or family of the project has it; choose another one")
    return name


def words_in(folders: Iterable[str], name: str) -> set[str]:
    """The words in names of folders and of a file, in lower case: ``trainSet-2`` has train and set."""
    return set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", " ".join([*folders, name])).lower()))


def parts_in(words: Iterable[str]) -> set[str]:
    """The parts of a split that these words name."""
    return {PARTS[word] for word in words if word in PARTS}


def negative_first(names: Sequence[str]) -> tuple[str, ...] | None:
    """Two classes with the negative one first, if their names say which one that is: (unbound, bound); else None."""
    first, second = (name.casefold() for name in names)
    shared = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    )  # RBP_ of RBP_nonbinding and RBP_binding
    for one, other, order in ((first, second, tuple(names)), (second, first, tuple(reversed(names)))):
        for start in (0, shared):
            if (found := _NEGATION.match(one[start:])) and one[start + found.end() :] == other[start:]:
                return order
        if one != other and re.sub(r"(?<!\d)0(?!\d)", "1", one) == other:  # class0 and class1
            return order
        if one[-1:] in "-−" and other[-1:] == "+" and one[:-1] == other[:-1]:
            return order
    negative = [bool(words_in([], name) & NEGATIVE) for name in names]
    positive = [bool(words_in([], name) & POSITIVE) for name in names]
    if negative[0] != negative[1]:
        return tuple(names) if negative[0] else tuple(reversed(names))
    if positive[0] != positive[1]:
        return tuple(names) if positive[1] else tuple(reversed(names))
    return None


def pair_notes(paths: Sequence[Path]) -> list[str]:
    """Warnings about the names of two files, of which the first holds the positives.

    Raises:
        BadData: both are one file.
    """
    if paths[0].resolve() == paths[1].resolve():
        raise BadData(f"{paths[0]}: the same file twice; expected positives and negatives")
    absolute = [path.absolute() for path in paths]
    shared = len(Path(os.path.commonpath(absolute)).parts)
    first, second = (words_in(path.parts[shared:-1], path.name) for path in absolute)
    first, second = first - second, second - first
    stems = [re.split(r"\.", path.name, maxsplit=1)[0] for path in paths]
    by_names = negative_first(stems) if stems[0] != stems[1] else None
    if by_names == tuple(stems) or (first & NEGATIVE and not first & POSITIVE) or (second & POSITIVE and not second & NEGATIVE):
        names = [printable(path.name) for path in paths]
        return [f"the names say the opposite, but the first file holds the positives: {names[0]}, and {names[1]} the negatives"]
    return []
