"""What a thing is, as a sha256: JSON values and files. What takes long to compute is remembered in the cache folder.

A cache that is damaged is made again, and one that cannot be written is done without.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .atomic import atomic
from .sources import cache_home, sha256

_LARGE = 1 << 22  # bytes from which a file's checksum is worth keeping


def plain(value: Any) -> Any:
    """A value as JSON has it: tuples become lists, paths text, NumPy scalars numbers, NaN and infinity None.

    Raises:
        TypeError: it holds something else.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy" and value.ndim == 0:
        return plain(value.item())
    raise TypeError(f"{value!r:.80} ({type(value).__name__}) has no place in a record")


def digest(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def remembered(what: str, paths: Iterable[Path], parameters: Any, compute: Callable[[], Any]) -> Any:
    """A JSON value that ``compute`` derives from files and parameters, computed again only when one of these changes.

    Files are told apart by resolved path, size, inode and times of change; of a folder, all files below it count. ``what`` names
    the kind of value.
    """
    key = digest([what, file_states(paths), parameters])
    kept = cache_home() / "remembered" / f"{key}.json"
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["sha256"] == digest(found["value"]):
            return found["value"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # not there yet, or damaged: made again
    value = plain(compute())
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic(kept) as temporary:
            temporary.write_text(json.dumps({"what": what, "value": value, "sha256": digest(value)}), encoding="utf-8")
    except OSError:
        pass  # a cache folder that cannot be written is done without
    return value


def file_digest(path: Path) -> str:
    """sha256 of a file's content; that of a large file is remembered."""
    if path.stat().st_size < _LARGE:
        return sha256(path)
    return remembered("sha256", [path], None, lambda: sha256(path))


def file_states(paths: Iterable[Path]) -> list[Any]:
    """What changes when files do: resolved path, size, inode and times of change; of a folder those of all files below it."""
    states: list[Any] = []
    for path in paths:
        where = str(path.resolve())
        try:
            status = path.stat()
        except OSError:
            states.append([where, None])
            continue
        if path.is_dir():
            states.append([where, file_states(file for file in sorted(path.rglob("*")) if file.is_file())])
        else:
            states.append([where, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino])
    return states
