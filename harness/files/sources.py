"""Data sets: their place on this machine, and their download with checksum, resume and progress.

Environment variables:
    HARNESS_DATA: the data folder; otherwise ``gfm-harness/data`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    HARNESS_MIRROR: ``http://host/prefix`` of a server to use instead of the internet; ``https://HOST/path`` becomes
        ``http://host/prefix/HOST/path``.
    HARNESS_OFFLINE: ``1`` forbids the network.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from harness import registry
from harness.errors import ChecksumMismatch, DataMissing, DownloadFailed, UnknownName, UserError
from harness.task import Source

try:
    import fcntl
except ImportError:  # Windows has no flock: there, do not download one file twice at the same time
    fcntl = None

Status = Literal["ok", "no checksum", "missing", "partial", "wrong checksum"]
USABLE = ("ok", "no checksum")
Transferred = Callable[[int, int | None], None]  # called with the bytes so far and in total, None if unknown

ATTEMPTS = 3
PAUSE = 1.0  # seconds before the second attempt, doubled before the third
TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)

# Reference data of the human genome, by the name that `harness data get` takes; UCSC states no sha256.
UCSC = "https://hgdownload.soe.ucsc.edu/goldenPath/hg38"
REFERENCES = {
    "hg38": Source(f"{UCSC}/bigZips/hg38.2bit", "", "genomes/hg38.2bit"),
    "phylop": Source(f"{UCSC}/phyloP100way/hg38.phyloP100way.bw", "", "scores/hg38.phyloP100way.bw"),
    "phastcons": Source(f"{UCSC}/phastCons100way/hg38.phastCons100way.bw", "", "scores/hg38.phastCons100way.bw"),
}


def data_home() -> Path:
    """The folder that holds every downloaded file; it need not exist."""
    if folder := os.environ.get("HARNESS_DATA"):
        return Path(folder).expanduser()
    return cache_home() / "data"


def cache_home() -> Path:
    """The folder of everything that can be fetched or computed again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gfm-harness"


def offline() -> bool:
    """Whether HARNESS_OFFLINE forbids the network."""
    return os.environ.get("HARNESS_OFFLINE", "0") not in ("", "0")


def locate(source: Source) -> Path:
    """The path of the file; it need not exist."""
    return data_home() / source.path


def missing(sources: Iterable[Source]) -> list[Source]:
    """The files that are not on this machine. Only names are checked; :func:`verify` reads the contents."""
    return [source for source in sources if not locate(source).is_file()]


def verify(source: Source) -> Status:
    """The state of the file, which is read completely."""
    path = locate(source)
    if path.is_file():
        if not source.sha256:
            return "no checksum"
        return "ok" if sha256(path) == source.sha256 else "wrong checksum"
    return "partial" if _partial(path).is_file() else "missing"


def intact(sources: Iterable[Source], name: str) -> list[Path]:
    """The files of the data set ``name``, in order, each compared with its published sha256.

    Raises:
        DataMissing: a file is not on this machine.
        ChecksumMismatch: a file is not the published one.
    """
    sources = list(sources)
    if absent := missing(sources):
        raise DataMissing(
            f"{name}: {len(absent)} of {len(sources)} files are missing, such as {locate(absent[0])}; "
            f"`harness data get {name}` downloads them"
        )
    for source in sources:
        if verify(source) not in USABLE:
            found = sha256(locate(source))
            raise ChecksumMismatch(
                f"{locate(source)}: sha256 {found[:12]}… is not the published {source.sha256[:12]}…; "
                f"`harness data get {name}` sets the file aside and downloads it again"
            )
    return [locate(source) for source in sources]


def find_sources(name: str) -> list[Source]:
    """The files of a task, of a family, of all tasks (``all``) or of one of REFERENCES; each once.

    Raises:
        UnknownName: ``name`` is none of these.
    """
    if name.lower() in REFERENCES:
        return [REFERENCES[name.lower()]]
    try:
        found = registry.find_tasks(name)
    except UnknownName:
        words = dict.fromkeys(word for task in registry.tasks().values() for word in (task.name, task.family))
        raise registry.unknown("data set", name, [*words, *REFERENCES]) from None
    return list(dict.fromkeys(source for task in found for source in task.sources))


def sha256(path: Path) -> str:
    """The file's sha256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(source: Source, progress: Transferred | None = None) -> Path:
    """The file, downloaded unless it is there and intact.

    A cut download is resumed. A file with another checksum is renamed to ``<name>.bad`` and never used. ``progress`` is
    called with the bytes received and the bytes expected (None if the server does not say).

    Raises:
        ChecksumMismatch: the server's file is not the published one.
        DownloadFailed: there is no network (or HARNESS_OFFLINE), or the server does not have the file.
        UserError: the data folder cannot be written.
    """
    path = locate(source)
    if verify(source) in USABLE:
        return path
    if offline():
        raise DownloadFailed(f"HARNESS_OFFLINE is set and {path} is missing or damaged; copy the file there from {source.url}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):
            return _fetch(source, path, progress)
    except OSError as error:  # the network's errors have become DownloadFailed by now
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); set HARNESS_DATA to another folder") from error


def _fetch(source: Source, path: Path, progress: Transferred | None) -> Path:
    status = verify(source)  # again: another process may have fetched it while we waited for the lock
    if status in USABLE:
        return path
    if status == "wrong checksum":
        path.replace(_aside(path))
    part = _partial(path)
    if not (part.is_file() and sha256(part) == source.sha256):  # it may be complete, if an earlier process was killed
        _download(_mirrored(source.url), part, progress, path)
    if source.sha256 and (found := sha256(part)) != source.sha256:
        part.replace(_aside(path))
        raise ChecksumMismatch(
            f"{source.url}: sha256 {found[:12]}… is not the published {source.sha256[:12]}…; "
            f"kept as {_aside(path)}, not used; try again, or without a proxy or mirror"
        )
    part.replace(path)
    return path


def _download(url: str, part: Path, progress: Transferred | None, path: Path) -> None:
    """Download ``url`` into ``part``, resuming where it ends, in up to ATTEMPTS attempts."""
    from http.client import HTTPException
    from ssl import SSLError
    from urllib.error import HTTPError, URLError

    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return _stream(url, part, progress)
        except HTTPError as error:
            error.close()
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == 416:  # the server has nothing after our last byte, and the checksum differs: start over
                part.unlink(missing_ok=True)
            elif error.code not in _TRANSIENT:
                break
        except (URLError, HTTPException, SSLError, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        except ValueError as error:  # a HARNESS_MIRROR that is not an address
            raise DownloadFailed(f"{url}: {error}; check HARNESS_MIRROR") from None
    raise DownloadFailed(
        f"{url}: {reason}; check the network, set https_proxy or HARNESS_MIRROR, or copy the file by hand to {path}"
    ) from None


def _stream(url: str, part: Path, progress: Transferred | None) -> None:
    from urllib.request import Request, urlopen

    have = part.stat().st_size if part.is_file() else 0
    request = Request(url, headers={"User-Agent": "gfm-harness"} | ({"Range": f"bytes={have}-"} if have else {}))
    with urlopen(request, timeout=TIMEOUT) as response:
        if have and not re.match(rf"bytes {have}-", response.headers.get("Content-Range") or ""):
            have = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have:,} of {total:,} bytes")


def _mirrored(url: str) -> str:
    mirror = os.environ.get("HARNESS_MIRROR")
    return f"{mirror.rstrip('/')}/{url.split('://', 1)[1]}" if mirror else url


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".bad")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; it is released when the process ends, however it ends."""
    with (folder / ".lock").open("wb") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
