"""What the words of a command name: tasks, the user's own files, and the reference data that tasks are read with."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import registry
from harness.errors import DataMissing, UserError
from harness.files import sources
from harness.task import Reading, Reference, Task

VARIANTS = "variants:"
MAX_SEEDS = 10_000  # of one range


def named_tasks(
    task: str | Path | Sequence[str | Path],
    reference: Reference | None,
    name: str | None = None,
    reading: Reading | None = None,
) -> list[tuple[Task, list[str]]]:
    """The tasks that the words of ``--task`` name, each with the words that name it alone, paths made absolute.

    ``variants:FILE`` is a file of variants; what looks like a path is a file or a folder of windows; else a task or a family.
    Files make one task together, called ``name`` if that is given, and read by ``reading``; each folder makes one.

    Raises:
        UserError: no such task, names and files together, or reference data or a reading for a task that has no use for them.
    """
    reading = reading or Reading()
    if reading.parts:  # paths, one for each part, among which a file may be named twice by mistake
        words = [task] if isinstance(task, str | Path) else list(task)
        paths = [Path(word) for word in words]
        found = [(registry.task_from_files(paths, name, reading), [str(path.absolute()) for path in paths])]
        return _bound(found, reference)
    words = words_of("task", task)
    files = [word for word in words if _is_file(word)]
    if files and (other := [word for word in words if word not in files]):
        raise UserError(f"task {other[0]!r} and files: give one or the other")
    if again := next((word for word in files if not os.path.isdir(word) and _times(word, task) > 1), None):
        raise UserError(f"task {again}: the same file twice; give each file once")
    groups = [files] if files and not all(map(os.path.isdir, files)) else [[word] for word in words]
    if reading != Reading() and not files:
        raise UserError(f"{_options(reading)}: only for files of your own, which {words[0]!r} is not; leave it out")
    if name is not None and (len(groups) > 1 or not (files or groups[0][0].startswith(VARIANTS))):
        raise UserError(f"name {name!r}: only a task made of your own files can be named, and one at a time")
    found: list[tuple[Task, list[str]]] = []
    for group in groups:
        if files:
            made = registry.task_from_files([Path(word) for word in group], name, reading)
            found.append((made, [absolute(word) for word in group]))
        elif group[0].startswith(VARIANTS):
            path = Path(group[0].removeprefix(VARIANTS))
            found.append((registry.task_from_variants(path, name), [VARIANTS + str(path.absolute())]))
        else:
            found += [(item, [item.name]) for item in registry.find_tasks(group[0])]
            if os.path.isdir(group[0]):
                said = f"{group[0]} is a task and a folder here: the task is run; ./{group[0]} is the folder"
                warnings.warn(said, stacklevel=1)  # this very line, so that it is shown once
    return _bound(found, reference)


def _times(word: str, task: str | Path | Sequence[str | Path]) -> int:
    return 1 if isinstance(task, str | Path) else [str(one) for one in task].count(word)


def _bound(found: list[tuple[Task, list[str]]], reference: Reference | None) -> list[tuple[Task, list[str]]]:
    """The tasks with their reference data."""
    if reference is None:
        return found
    for item, _ in found:
        if item.bind is None:
            raise UserError(f"{item.name} reads no genome and no alignment; leave --genome, --msa, --species and --context out")
        if reference.negatives and reference.negatives not in item.negatives_from:
            choices = f"it has {' and '.join(item.negatives_from)}" if item.negatives_from else "it says nothing of them"
            raise UserError(f"option negatives={reference.negatives!r}: not a choice that {item.name} gives; {choices}")
        if reference.source and not item.readable_from:
            raise UserError(f"option source={reference.source!r}: {item.name} is read from one place only; leave it out")
    return [(item.bind(reference), words) for item, words in found if item.bind is not None]


def absolute(word: str) -> str:
    """A path made absolute, so that a plan means the same in every folder; a name as it is."""
    if registry.repository(word):
        return word
    return str(Path(word).absolute()) if word.endswith(".py") or _is_file(word) else word


def _is_file(word: str) -> bool:
    if word.startswith(VARIANTS):
        return False
    return (
        "/" in word or bool(Path(word).suffix) or os.path.isfile(word) or (os.path.isdir(word) and not registry.names_task(word))
    )


def available(task: Task, words: list[str], split: str | None, sample: bool) -> tuple[Task, list[str]]:
    """The task itself where its data is here, else its simulated sample.

    Raises:
        DataMissing: there is no sample, or it is not wanted, or cannot be split as asked.
        UnknownName: the task has no such split rule.
    """
    if split is not None and split not in task.split_rules:
        raise registry.unknown(f"split of {task.label}", split, list(task.split_rules))
    absent = sources.missing(task.sources)
    if not absent:
        return task, words
    if sources.presence(task.sources) == "some":
        raise DataMissing(
            f"{task.label}: only {len(task.sources) - len(absent)} of its {len(task.sources)} files are in "
            f"{sources.data_home()}, which is no whole set; `harness data get {task.name}` fetches the rest"
        )
    if task.sample is None or not sample or split is not None:
        raise DataMissing(
            f"{task.label}: {len(absent)} of {len(task.sources)} files are not in {sources.data_home()}; "
            f"`harness data get {task.name}` downloads them"
        )
    return task.sample, words


def as_reference(
    genome: str | Path | None,
    msa: str | Path | None,
    species: str,
    context: int | None,
    source: str = "",
    negatives: str = "",
) -> Reference | None:
    """The reference data that these options bring; None for none at all."""
    if genome is None and msa is None and not (species or source or negatives) and context is None:
        return None
    return Reference(
        None if genome is None else Path(genome).absolute(),
        None if msa is None else Path(msa).absolute(),
        str(Path(species).absolute()) if os.path.isfile(species) else species,
        Reference.context if context is None else context,
        str(Path(source).absolute()) if os.path.isdir(source) else source,
        negatives,
    )


def as_reading(
    task: str | Path | Sequence[str | Path] | None,
    parts: Mapping[str, str | Path | Sequence[str | Path] | None],
    sequence_column: str | int = "",
    label_column: str | int | Sequence[str | int] = (),
    positive: str | int = "",
    kind: str = "",
) -> tuple[str | Path | Sequence[str | Path], Reading | None]:
    """What to call ``task``, and how to read it: ``parts`` gives the files of train, validation and test in place of a task.

    Raises:
        UserError: both or neither of a task and parts, or parts without train and test.
    """
    named = [label_column] if isinstance(label_column, str | int) else list(label_column)
    labels = tuple(part.strip() for one in named for part in str(one).split(",") if part.strip())
    given = {part: [one] if isinstance(one, str | Path) else list(one) for part, one in parts.items() if one}
    reading = Reading((), str(sequence_column).strip(), labels, str(positive).strip(), kind)
    if not given:
        if task is None:
            raise UserError("task: give a name, a family or files, or --train and --test")
        return task, reading if reading != Reading() else None
    if task:
        raise UserError(f"task {task!r} and {next(iter(given))}: give the files of the parts alone".replace("'", ""))
    paths = [str(path) for own in given.values() for path in own]
    return paths, replace(reading, parts=tuple(part for part, own in given.items() for _ in own))


def reading_of(content: Mapping[str, Any] | None) -> Reading | None:
    """The reading that a run's JSON holds."""
    return content and Reading(**{name: tuple(item) if isinstance(item, list) else item for name, item in content.items()})  # type: ignore[return-value]


def _options(reading: Reading) -> str:
    said = {"sequence-column": reading.sequence_column, "label-column": reading.label_columns, "positive": reading.positive}
    return next((name for name, value in said.items() if value), "kind")


def words_of(what: str, given: str | Path | Sequence[str | Path]) -> list[str]:
    """Words given apart or with commas between them; the path of a file is one word, whatever is in it."""
    words = [given] if isinstance(given, str | Path) else list(given)
    split = [[str(word)] if isinstance(word, Path) or Path(word).exists() else str(word).split(",") for word in words]
    found = [part.strip() for parts in split for part in parts if part.strip()]
    if not found:
        raise UserError(f"{what}: give a name" + (", a family or files" if what == "task" else ", floors or a path"))
    return list(dict.fromkeys(found))


def seeds_of(words: Sequence[str]) -> list[int]:
    """Seeds from words such as ``3``, ``0..4`` (both ends are in it) and ``1,5``.

    Raises:
        UserError: a word that is none of these.
    """
    found: list[int] = []
    for word in (part.strip() for one in words for part in one.split(",")):
        if not (match := re.fullmatch(r"(-?\d{1,12})(?:\.\.(-?\d{1,12}))?", word)):
            raise UserError(f"seed {word!r}: give whole numbers, such as 3, or 0..4 for five of them")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MAX_SEEDS:
            raise UserError(f"seed {word!r}: the range must rise, and hold at most {MAX_SEEDS:,} seeds")
        found += range(first, last + 1)
    return found
