"""The folders of runs on disk: which there are, how one takes its place, and what killed runs left behind.

A folder is written beside its place, as ``.tmp-<run id>-<process>@<host>-<random>``. Where folders cannot be exchanged, the
old one waits as ``.old-…`` until the new one is in place, and counts as the record as long as there is no other.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from harness.files.workspace import ended, host

RECORD, PREDICTIONS = "record.json", "predictions.csv"
RESERVED = ("tables", "published", "search")  # folders in the results folder that do not belong to a task
STALE_SECONDS = 600  # writing takes about a second, so what is older was left by a killed run
_TEMPORARY, _OLD = ".tmp-", ".old-"
_OWNER = re.compile(r"-(\d+)@([\w.]*)-[0-9a-f]{8}$")


def record_folders(results_dir: Path, complain: Callable[[str], None]) -> Iterator[Path]:
    """Every folder of a run, sorted by task, model and run id; ``complain`` hears of what lies there and is none."""
    for task in _entries(Path(results_dir), complain):
        if task.name in RESERVED or not os.path.isdir(task):  # README.md, and what else the user keeps there
            continue
        for model in _entries(task, complain):
            if os.path.isdir(model):
                yield from run_folders(model, complain)
            else:
                complain(f"{model}: not a folder of runs")


def run_folders(model_folder: Path, complain: Callable[[str], None] = lambda fault: None) -> list[Path]:
    """The folders of one model's runs on one task, sorted by run id; none if there is no such folder."""
    found: dict[str, Path] = {}
    for path in _entries(model_folder, complain, waiting=True):
        name = id_of(path)
        if os.path.lexists(path / RECORD):
            if name not in found or path.name == name:
                found[name] = path
        elif path.name == name:
            complain(f"{path}: has no {RECORD}" if os.path.isdir(path) else f"{path}: not a run's folder")
    return [path for _, path in sorted(found.items())]


def id_of(folder: Path) -> str:
    """The run whose record lies, or waits, in a folder."""
    name = folder.name
    return _OWNER.sub("", name.removeprefix(_OLD)) if name.startswith(_OLD) else name


def kept_files(folder: Path) -> list[Path]:
    """What lies in a run's folder besides its record and predictions, sorted by name."""
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in (RECORD, PREDICTIONS)]


def copy_kept(source: Path, target: Path) -> None:
    """Copy into a run's new folder what its old one holds besides record and predictions."""
    for path in kept_files(source):
        shutil.copyfile(path, target / path.name)


def temporary_folder(folder: Path) -> Path:
    """A new path beside a run's folder; its name says which process writes there."""
    return _beside(folder, _TEMPORARY)


def put(temporary: Path, folder: Path) -> None:
    """Move a folder to its place. One that lies there is replaced, and is never gone before the new one is there.

    Afterwards ``temporary`` may hold the old one; remove it.
    """
    try:
        if not os.path.lexists(folder):
            os.rename(temporary, folder)
            return
    except OSError:
        if not os.path.lexists(folder):  # else another process was faster
            raise
    if _exchanged(temporary, folder):
        return
    old = _beside(folder, _OLD)
    try:
        os.utime(folder)  # so that nobody takes it for stale while it waits
        os.rename(folder, old)
        os.rename(temporary, folder)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(folder):
            os.rename(old, folder)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Remove a folder or file, as far as that is possible."""
    with suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def sweep(results_dir: Path) -> None:
    """Remove what killed processes left in a results folder, and put a record that still waits back into its place."""
    for pattern in (f"*/*/{_TEMPORARY}*", f"*/*/{_OLD}*", "tables/.*.tmp"):
        with suppress(OSError):
            for path in sorted(Path(results_dir).glob(pattern)):
                with suppress(OSError):  # another process may have renamed or removed it
                    if _abandoned(path):
                        _restore_or_remove(path)


def file_size(path: Path) -> int:
    """The size of a file in bytes.

    Raises:
        ValueError: it is something else than a file; opening a named pipe would wait for ever.
        OSError: it cannot be looked at.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("it is no file")
    return state.st_size


def sync(file: TextIO) -> None:
    """Bring what was written to a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def _restore_or_remove(path: Path) -> None:
    final = path.with_name(id_of(path))
    if path.name.startswith(_OLD) and not os.path.lexists(final) and os.path.lexists(path / RECORD):
        os.rename(path, final)
    else:
        remove(path)


def _entries(folder: Path, complain: Callable[[str], None], waiting: bool = False) -> list[Path]:
    """What lies in a folder, sorted by name, without hidden entries; ``waiting``: but with ``.old-…``."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        complain(f"{folder}: cannot be read ({error.strerror})")
        return []
    return [folder / name for name in names if not name.startswith(".") or (waiting and name.startswith(_OLD))]


def _beside(folder: Path, prefix: str) -> Path:
    return folder.with_name(f"{prefix}{folder.name}-{os.getpid()}@{host()}-{uuid.uuid4().hex[:8]}")


def _abandoned(path: Path) -> bool:
    """Whether the process that made a hidden folder is dead or, where that cannot be known, the folder is stale."""
    owner = _OWNER.search(path.name)
    if owner and ended(int(owner[1]), owner[2]):
        return True
    return time.time() - path.lstat().st_mtime > STALE_SECONDS


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two paths in one step where system and file system can (Linux, macOS), and return whether that was done."""
    here, swap = -100, 2  # AT_FDCWD; RENAME_EXCHANGE and RENAME_SWAP
    paths = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            return ctypes.CDLL(None).renamex_np(*paths, swap) == 0
        return ctypes.CDLL(None).renameat2(here, paths[0], here, paths[1], swap) == 0
    except (AttributeError, OSError, TypeError):  # no such function, as on other systems
        return False
