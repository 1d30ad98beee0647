"""What the names of the user's files say, and the names of the tasks that they make."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from harness.errors import BadData, UserError
from harness.files.readers import PARTS
from harness.files.text import printable

MAX_NAME = 100  # characters
POSITIVE = {"positive", "positives", "pos", "bound", "sites", "site", "peak", "peaks", "foreground", "fg", "cases"}
NEGATIVE = {"negative", "negatives", "neg", "unbound", "background", "bg", "control", "controls", "shuffled", "random"}


def task_name(paths: Sequence[Path]) -> str:
    """``pos+neg`` for two files. A single file keeps its ending (``QKI.csv``), which no task of the project has in its name."""
    names = [path.name.removesuffix(".gz") for path in paths]
    if len(names) > 1:
        names = [Path(name).stem for name in names]
    return "+".join(re.sub(r"[^A-Za-z0-9._-]", "_", name)[-MAX_NAME:] for name in names)


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
    known = registry.tasks()
    taken = {"all", *known, *(task.family for task in known.values())}
    if name.lower().replace("-", "_") in {other.lower().replace("-", "_") for other in taken}:
        raise UserError(f"name {name!r}: a task or family of the project has it; choose another one")
    return name


def pair_notes(paths: Sequence[Path]) -> list[str]:
    """Warnings about the names of two files, of which the first holds the positives.

    Raises:
        BadData: the names say that one file is for training and the other for validation or test, or both are one file.
    """
    if paths[0].resolve() == paths[1].resolve():
        raise BadData(f"{paths[0]}: the same file twice; expected positives and negatives")
    absolute = [path.absolute() for path in paths]
    shared = len(Path(os.path.commonpath(absolute)).parts)
    first, second = (_words(path.parts[shared:]) for path in absolute)
    first, second = first - second, second - first
    parts = [{PARTS[word] for word in words if word in PARTS} for words in (first, second)]
    if parts[0] and parts[1] and parts[0] != parts[1]:
        raise BadData(
            f"{paths[0]} and {paths[1]}: two files are positives and negatives, and these names say {min(parts[0])} and "
            f"{min(parts[1])}; join them into one table or FASTA file with labels, or rename them"
        )
    if (first & NEGATIVE and not first & POSITIVE) or (second & POSITIVE and not second & NEGATIVE):
        names = [printable(path.name) for path in paths]
        return [f"the names say the opposite, but the first file holds the positives: {names[0]}, and {names[1]} the negatives"]
    return []


def _words(names: Sequence[str]) -> set[str]:
    return set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", " ".join(names)).lower()))
