"""Data sets: their place on this machine, and their download with checksum, resume and progress.

A file without a published sha256 is compared with the publisher's md5 where there is one, and checked for its format; its
own sha256 is then kept beside it, in ``.<name>.json``, and compared ever after.

Environment variables:
    HARNESS_DATA: the data folder; otherwise ``gfm-harness/data`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    HARNESS_MIRROR: ``http://host/prefix`` (or https) of a server to use instead of the internet; ``https://HOST/path``
        becomes ``http://host/prefix/HOST/path``.
    HARNESS_OFFLINE: ``1`` forbids the network.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from harness import registry
from harness.errors import BadData, ChecksumMismatch, DataMissing, DownloadFailed, UnknownName, UserError
from harness.task import Source

from .atomic import atomic
from .formats import fault

try:
    import fcntl
except ImportError:  # Windows has no flock: there, do not download one file twice at the same time
    fcntl = None

Status = Literal["ok", "no checksum", "missing", "partial", "wrong checksum", "wrong format"]
USABLE = ("ok", "no checksum")
Transferred = Callable[[int, int | None], None]  # called with the bytes so far and in total, None if unknown

PAUSE = 1.0  # seconds before the second attempt of a download, doubled before the third
MD5SUMS = {"hgdownload.soe.ucsc.edu": "md5sum.txt"}  # where a host lists the md5 of the files of a folder

# Reference data by the name that `harness data get` takes: genomes (cdna97: the human transcripts of Ensembl 97), and scores per
# position of hg38. No sha256 is published.
UCSC = "https://hgdownload.soe.ucsc.edu/goldenPath"
REFERENCES = {
    "hg38": Source(f"{UCSC}/hg38/bigZips/hg38.2bit", "", "genomes/hg38.2bit"),
    "mm10": Source(f"{UCSC}/mm10/bigZips/mm10.2bit", "", "genomes/mm10.2bit"),
    "ce11": Source(f"{UCSC}/ce11/bigZips/ce11.2bit", "", "genomes/ce11.2bit"),
    "cdna97": Source(
        "https://ftp.ensembl.org/pub/release-97/fasta/homo_sapiens/cdna/Homo_sapiens.GRCh38.cdna.all.fa.gz",
        "",
        "genomes/Homo_sapiens.GRCh38.97.cdna.all.fa.gz",
    ),
    "phylop": Source(f"{UCSC}/hg38/phyloP100way/hg38.phyloP100way.bw", "", "scores/hg38.phyloP100way.bw"),
    "phastcons": Source(f"{UCSC}/hg38/phastCons100way/hg38.phastCons100way.bw", "", "scores/hg38.phastCons100way.bw"),
}


def data_home() -> Path:
    """The folder that holds every downloaded file; it need not exist."""
    if folder := os.environ.get("HARNESS_DATA"):
        return Path(folder).expanduser()
    return cache_home() / "data"


def cache_home() -> Path:
    """The folder of everything that can be fetched or computed again."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "gfm-harness"
    try:
        return Path.home() / ".cache/gfm-harness"
    except RuntimeError:  # a user without a home: nothing can be written there, and caches are done without
        return Path(os.devnull, "gfm-harness")


def offline() -> bool:
    """Whether HARNESS_OFFLINE forbids the network."""
    return os.environ.get("HARNESS_OFFLINE", "0") not in ("", "0")


def locate(source: Source) -> Path:
    """The path of the file; it need not exist."""
    return data_home() / source.path


def missing(sources: Iterable[Source]) -> list[Source]:
    """The files that are not on this machine. Only names are checked; :func:`verify` reads the contents."""
    return [source for source in sources if not os.path.isfile(locate(source))]


def presence(sources: Iterable[Source]) -> Literal["all", "some", "none"]:
    """How many of a data set's files are on this machine: ``some`` is a set that was fetched in part."""
    sources = list(sources)
    absent = missing(sources)
    return "all" if not absent else "none" if len(absent) == len(sources) else "some"


def verify(source: Source, quick: bool = False) -> Status:
    """The state of the file, which is read completely.

    With ``quick``, a file without a published sha256 is not read again while its size and time of change are the same.
    """
    path = locate(source)
    if not os.path.isfile(path):
        return "partial" if os.path.isfile(partial(path)) else "missing"
    if source.sha256:
        return "ok" if sha256(path) == source.sha256 else "wrong checksum"
    kept, status = _kept(path), path.stat()
    if quick and kept.get("state") == [status.st_size, status.st_mtime_ns]:
        return "ok"
    if fault(path, path.name):
        return "wrong format"
    if "sha256" not in kept:
        return "no checksum"
    return "ok" if sha256(path) == kept["sha256"] else "wrong checksum"


def intact(sources: Iterable[Source], name: str) -> list[Path]:
    """The files of the data set ``name``, in order, each compared with its published sha256, or that of its download.

    Raises:
        DataMissing: a file is not on this machine.
        ChecksumMismatch: a file is not the published one, or not what was downloaded.
        BadData: a file is cut or something else than its name says.
    """
    sources = list(sources)
    if absent := missing(sources):
        raise DataMissing(
            f"{name}: {len(absent)} of {len(sources)} files are missing, such as {locate(absent[0])}; "
            f"`harness data get {name}` downloads them"
        )
    for source in sources:
        path, status = locate(source), verify(source, quick=True)
        remedy = f"`harness data get {name}` sets the file aside and downloads it again"
        if status == "wrong format":
            raise BadData(f"{path}: {fault(path, path.name)}; {remedy}")
        if status not in USABLE:
            wanted, what = source.sha256, "published"
            if not wanted:
                wanted, what = _kept(path)["sha256"], "downloaded"
            raise ChecksumMismatch(f"{path}: sha256 {sha256(path)[:12]}… is not the {what} {wanted[:12]}…; {remedy}")
    return [locate(source) for source in sources]


def find_sources(name: str, references: bool = False) -> list[Source]:
    """The files of a task, of a family, of all tasks (``all``) or of one of REFERENCES; each once.

    With ``references``, also the genomes that the tasks are read with.

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
    files = [source for task in found for source in task.sources]
    return list(dict.fromkeys(files + [source for task in found if references for source in task.references]))


def sha256(path: Path) -> str:
    """The file's sha256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(source: Source, progress: Transferred | None = None, force: bool = False) -> Path:
    """The file, downloaded unless it is there and intact, or in any case with ``force``.

    A cut download is resumed. What is not the file is renamed to ``<name>.bad`` and never used. ``progress`` is called with
    the bytes received and the bytes expected (None if the server does not say).

    Raises:
        ChecksumMismatch: the server's file is not the published one.
        BadData: what the server sent is no file of this kind, or is cut.
        DownloadFailed: there is no network (or HARNESS_OFFLINE), or the server does not have the file.
        UserError: the data folder cannot be written, or HARNESS_MIRROR is not an address.
    """
    path = locate(source)
    status = verify(source)
    if status in USABLE and not force:
        if status == "no checksum":  # a file that someone else put there
            _keep(path)
        return path
    if offline():
        raise DownloadFailed(f"HARNESS_OFFLINE is set and {path} is missing or damaged; copy the file there from {source.url}")
    url = mirrored(source.url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            return _fetch(source, url, path, progress, force)
    except OSError as error:  # the network's errors have become DownloadFailed by now
        raise unwritable(error, path, "HARNESS_DATA") from error


def unwritable(error: OSError, path: Path, setting: str) -> UserError:
    """Why a file or folder cannot be written, and the remedy; ``setting`` is the environment variable that names another."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{path}: no space left on the disk; make room and run the same again, which goes on where it stopped, or set "
            f"{setting} to a folder on another disk"
        )
    return UserError(f"{path}: cannot be written ({error.strerror or error}); set {setting} to another folder")


def _fetch(source: Source, url: str, path: Path, progress: Transferred | None, force: bool) -> Path:
    from .download import discard, download, finish

    status = verify(source)  # again: another process may have fetched it while we waited for the lock
    if status in USABLE and not force:
        return path
    if status in ("wrong checksum", "wrong format"):
        path.replace(aside(path))
    part = partial(path)
    if force:
        discard(part)
    remedy = f"check the network, set https_proxy or HARNESS_MIRROR, or copy the file by hand to {path}"
    resumed = part.is_file()
    if not (resumed and source.sha256 and sha256(part) == source.sha256):  # complete, if an earlier process was killed
        download(url, part, progress, checked=bool(source.sha256), remedy=remedy, pause=PAUSE)
        if resumed and source.sha256 and sha256(part) != source.sha256:  # the beginning may be of another version
            discard(part)
            download(url, part, progress, checked=True, remedy=remedy, pause=PAUSE)
    if wrong := _wrong(source, part, path.name):
        finish(part, aside(path))
        kept = f"kept as {aside(path)}, not used; try again, or without a proxy or mirror"
        raise (BadData if wrong.startswith("it ") else ChecksumMismatch)(f"{source.url}: {wrong}; {kept}")
    if not source.sha256:
        _memory(path).unlink(missing_ok=True)
    finish(part, path)
    if not source.sha256:
        _keep(path)
    return path


def _wrong(source: Source, part: Path, name: str) -> str:
    """Why a download is not the file that was asked for; empty if it is, as far as that can be told."""
    if source.sha256:
        found = sha256(part)
        return "" if found == source.sha256 else f"sha256 {found[:12]}… is not the published {source.sha256[:12]}…"
    if what := fault(part, name):
        return what
    if published := _published_md5(source.url):
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != published:
            return f"md5 {found[:12]}… is not the published {published[:12]}…"
    return ""


def _published_md5(url: str) -> str | None:
    """What the publisher's list says of the file; None where there is no list, or it does not name the file."""
    from .download import read_small

    folder, _, name = url.rpartition("/")
    listing = MD5SUMS.get(url.split("/")[2])
    content = read_small(mirrored(f"{folder}/{listing}")) if listing else None
    for line in (content or b"").decode(errors="replace").splitlines():
        words = line.split()
        if len(words) == 2 and words[1].lstrip("*").removeprefix("./") == name and len(words[0]) == 32:
            return words[0].lower()
    return None


def mirrored(url: str) -> str:
    """The address to ask for instead, if HARNESS_MIRROR is set.

    Raises:
        UserError: it is not an address.
    """
    from .download import check_address

    mirror = os.environ.get("HARNESS_MIRROR")
    if not mirror:
        return url
    check_address(mirror, "HARNESS_MIRROR")
    return f"{mirror.rstrip('/')}/{url.split('://', 1)[1]}"


def _memory(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def _kept(path: Path) -> dict[str, Any]:
    """What is kept of a download: its sha256, and its size and time of change."""
    try:
        kept = json.loads(_memory(path).read_text(encoding="utf-8"))
        return kept if isinstance(kept["sha256"], str) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _keep(path: Path) -> None:
    status = path.stat()
    kept = {"sha256": sha256(path), "state": [status.st_size, status.st_mtime_ns]}
    try:
        with atomic(_memory(path)) as temporary:
            temporary.write_text(json.dumps(kept), encoding="utf-8")
    except OSError:
        pass  # a folder that cannot be written: the next look at the file is like the first


def partial(path: Path) -> Path:
    """Where a download of a file lies until it is whole."""
    return path.with_name(path.name + ".part")


def aside(path: Path) -> Path:
    """Where what turned out not to be the file is kept."""
    return path.with_name(path.name + ".bad")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; it is released when the process ends, however it ends."""
    with (folder / ".lock").open("wb") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
