"""Folders for what is being made: gone when it is done, and swept by the next one if the process that made it was killed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError

from .fingerprint import digest, file_states
from .sources import cache_home

if TYPE_CHECKING:
    import numpy as np

MAX_AGE = 86_400  # seconds, of the folder of a process on another machine


@contextmanager
def workspace(parent: Path, what: str) -> Iterator[Path]:
    """An empty folder ``.{what}-…`` in ``parent``, which is made if needed; removed at the end.

    Those that killed processes left behind in ``parent`` are removed first.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.glob(f".{what}-*"):
        if _abandoned(folder, what):
            shutil.rmtree(folder, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f".{what}-{host()}-{os.getpid()}-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def reserved(size: int) -> np.ndarray:
    """An uninitialised uint8 array (size,) in a nameless file of the cache folder, whose room on the disk is allocated.

    To write where a disk has no room left would end the process.

    Raises:
        UserError: there is no room, or the folder cannot be written.
    """
    import numpy as np

    folder = cache_home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "r+" if hasattr(os, "posix_fallocate") else "w+", shape=(size,))
    except OSError as error:
        raise UserError(
            f"{folder}: no room for {size:,} bytes ({error.strerror}); free some, or name another folder by XDG_CACHE_HOME"
        ) from None


def cache_key(path: Path) -> str:
    """A file name for what is derived from ``path``; another one as soon as the file changes."""
    return digest(file_states([path]))[:16]


def host() -> str:
    """Where a process id means one process: the machine and, as containers may share its name, their own numbering.

    Of word characters and dots, 64 at most.
    """
    name = socket.gethostname()
    with suppress(OSError):
        name += os.readlink("/proc/self/ns/pid")
    return re.sub(r"[^\w.]", "", name)[-64:]


def ended(process: int, where: str) -> bool | None:
    """Whether a process has ended; ``where`` is its :func:`host`. None if that cannot be known from here."""
    if where != host() or os.name != "posix":  # elsewhere os.kill would end the process
        return None
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass  # another user's process
    return False


def _abandoned(folder: Path, what: str) -> bool:
    found = re.fullmatch(rf"\.{what}-(?P<host>[\w.]*)-(?P<process>\d+)-\w+", folder.name)
    over = ended(int(found["process"]), found["host"]) if found else None
    if over is not None:
        return over
    try:
        return time.time() - folder.stat().st_mtime > MAX_AGE
    except OSError:
        return False  # removed meanwhile
