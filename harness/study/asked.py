"""What the words of a command name: tasks, the user's own files, and the reference data that tasks are read with."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from harness import registry
from harness.errors import DataMissing, UserError
from harness.files import sources
from harness.task import Reference, Task

VARIANTS = "variants:"


def named_tasks(
    task: str | Path | Sequence[str | Path], reference: Reference | None, name: str | None = None
) -> list[tuple[Task, list[str]]]:
    """The tasks that the words of ``--task`` name, each with the words that name it alone, paths made absolute.

    ``variants:FILE`` is a file of variants; what looks like a path is a file of windows; else a task or a family. Files make
    one task together, called ``name`` if that is given.

    Raises:
        UserError: no such task, names and files together, or reference data for a task that reads none.
    """
    words = words_of("task", task)
    files = [word for word in words if _is_file(word)]
    if files and (other := [word for word in words if word not in files]):
        raise UserError(f"task {other[0]!r} and files: give one or the other")
    if len(files) > 1 and any(map(_is_table, files)):
        raise UserError(f"task {' '.join(files)[:200]}: one table is one task; run them one by one, or join the parts of one set")
    groups = [files] if files else [[word] for word in words]
    if name is not None and (len(groups) > 1 or not (files or groups[0][0].startswith(VARIANTS))):
        raise UserError(f"name {name!r}: only a task made of your own files can be named, and one at a time")
    found: list[tuple[Task, list[str]]] = []
    for group in groups:
        if files:
            found.append((registry.task_from_files([Path(word) for word in group], name), [absolute(word) for word in group]))
        elif group[0].startswith(VARIANTS):
            path = Path(group[0].removeprefix(VARIANTS))
            found.append((registry.task_from_variants(path, name), [VARIANTS + str(path.absolute())]))
        else:
            found += [(item, [item.name]) for item in registry.find_tasks(group[0])]
    if reference is None:
        return found
    for item, _ in found:
        if item.bind is None:
            raise UserError(f"{item.name} reads no genome and no alignment; leave --genome, --msa, --species and --context out")
        if reference.source and not item.readable_from:
            raise UserError(f"option source={reference.source!r}: {item.name} is read from one place only; leave it out")
    return [(item.bind(reference), words) for item, words in found if item.bind is not None]


def absolute(word: str) -> str:
    """A path made absolute, so that a plan means the same in every folder; a name as it is."""
    return str(Path(word).absolute()) if word.endswith(".py") or _is_file(word) else word


def _is_file(word: str) -> bool:
    return not word.startswith(VARIANTS) and ("/" in word or bool(Path(word).suffix) or Path(word).is_file())


def _is_table(word: str) -> bool:
    return re.search(r"\.(csv|tsv|tab|parquet|pq)(\.b?gz)?$", word, re.IGNORECASE) is not None


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
    genome: str | Path | None, msa: str | Path | None, species: str, context: int | None, source: str = ""
) -> Reference | None:
    """The reference data that these options bring; None for none at all."""
    if genome is None and msa is None and not (species or source) and context is None:
        return None
    return Reference(
        None if genome is None else Path(genome).absolute(),
        None if msa is None else Path(msa).absolute(),
        str(Path(species).absolute()) if os.path.isfile(species) else species,
        Reference.context if context is None else context,
        str(Path(source).absolute()) if os.path.isdir(source) else source,
    )


def words_of(what: str, given: str | Path | Sequence[str | Path]) -> list[str]:
    """Words given apart or with commas between them; the path of a file is one word, whatever is in it."""
    words = [given] if isinstance(given, str | Path) else list(given)
    split = [[str(word)] if isinstance(word, Path) or Path(word).exists() else str(word).split(",") for word in words]
    found = [part.strip() for parts in split for part in parts if part.strip()]
    if not found:
        raise UserError(f"{what}: give a name" + (", a family or files" if what == "task" else ", floors or a path"))
    return list(dict.fromkeys(found))
