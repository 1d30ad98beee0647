"""Official weights: their place on this machine, and their download from the Hugging Face hub at a pinned revision.

Data sets of the hub are listed here too, and fetched as any other data.

Environment variables:
    HARNESS_WEIGHTS: the weights folder; otherwise ``gfm-harness/weights`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    HARNESS_OFFLINE, HF_HUB_OFFLINE: ``1`` forbids the network.
    HF_ENDPOINT: another server of the same protocol. HF_TOKEN, or huggingface_hub's stored login: for private repositories.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from harness.card import ModelCard
from harness.errors import BadData, ChecksumMismatch, DataMissing, DownloadFailed, UserError
from harness.task import Source

from . import repository, sources
from .atomic import atomic
from .fingerprint import file_digest
from .sources import aside, cache_home, locked, offline, partial, sha256

Status = Literal["ok", "no checksum", "missing", "wrong checksum"]
USABLE = ("ok", "no checksum")
SUMS = "SHA256SUMS"  # of the files that were fetched or accepted; `verify` compares with it
COMMIT = ".commit"  # of a repository's files, the later of which are fetched from the same one
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\w[\w.-]*)?")
PATH_BEGINNINGS, PATH_ENDINGS = (".", "/", "~"), (".pt", ".bin", ".safetensors", ".ckpt", ".pth", ".npz", ".json")


def weights_home() -> Path:
    """The folder that holds every downloaded checkpoint; it need not exist."""
    if folder := os.environ.get("HARNESS_WEIGHTS"):
        return Path(folder).expanduser()
    return cache_home() / "weights"


def locate(hub_id: str, revision: str | None) -> Path:
    """The folder of a hub repository at a revision; it need not exist."""
    return weights_home() / hub_id.replace("/", "--") / (revision or "main")


def official(name: str, card: ModelCard) -> Path:
    """The folder of a model's official weights, fetched or copied there by hand.

    Raises:
        DataMissing: they are not on this machine, or not all of them.
        ChecksumMismatch: a file that was copied there is not the published one.
    """
    if card.checkpoint is None:
        where = f"; {card.get}" if card.get else ""
        raise DataMissing(f"{name} has no weights on the hub{where}; give --checkpoint, or --init random to train from scratch")
    folder = locate(card.checkpoint, card.revision)
    if card.generic and repository.is_whole(folder):
        card = with_files(card)
    elif card.generic:
        raise DataMissing(f"{name}: its weights are not in {folder}; `harness weights get {name}` downloads them")
    if absent := [file for file in card.files if not os.path.isfile(folder / file)]:
        some = f" {', '.join(absent)} of" if len(absent) < len(card.files) else ""
        raise DataMissing(
            f"{name}:{some} its weights ({card.checkpoint}) are not in {folder}; `harness weights get {name}` downloads them, "
            "--checkpoint takes another folder, --init random trains from scratch"
        )
    _accept(card, folder)
    return folder


def resolve(name: str, card: ModelCard, checkpoint: str, weights: bool = True) -> Path:
    """The file or folder that ``--checkpoint`` names: a path, or a hub id (``owner/name[@revision]``), which is fetched.
    ``weights`` as in :func:`fetch`.

    What exists, begins like a path (PATH_BEGINNINGS) or ends like a weight file (PATH_ENDINGS) is never asked of the hub.

    Raises:
        DataMissing: it is neither a path nor a hub id, or the hub does not have it or cannot be reached.
    """
    try:
        path = Path(checkpoint).expanduser()
        if path.is_file() or path.is_dir():
            return path
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a NUL, or of an unknown user
        raise DataMissing(f"checkpoint {checkpoint[:100]!r}: not a path ({getattr(error, 'strerror', '') or error})") from None
    is_path = checkpoint.startswith(PATH_BEGINNINGS) or checkpoint.lower().endswith(PATH_ENDINGS)
    if is_path or not HUB_ID.fullmatch(checkpoint):
        also = "" if is_path else ", and not a hub id (owner/name)"
        raise DataMissing(f"checkpoint {checkpoint[:200]!r}: no such file or folder{also}")
    hub_id, _, revision = checkpoint.partition("@")
    try:
        return fetch(name, card, hub_id, revision or None, weights=weights)
    except DownloadFailed as error:
        raise DataMissing(
            f"checkpoint {checkpoint!r}: no such file or folder here, and not to be had from the hub: {error}"
        ) from None


def fetch(
    name: str,
    card: ModelCard,
    hub_id: str | None = None,
    revision: str | None = None,
    progress: sources.Transferred | None = None,
    weights: bool = True,
) -> Path:
    """The folder of a model's files from the hub, downloaded unless they are there; cut downloads are resumed.

    ``hub_id`` and ``revision`` default to the card's. The files' checksums are kept beside them. A generic card names no files:
    they are those of the repository that make a model, all from one commit, or without ``weights`` its configuration and
    tokenizer alone.

    Raises:
        UserError: the model is not on the hub, or the weights folder cannot be written.
        DownloadFailed: no network (or HARNESS_OFFLINE), no such repository, or no such file in it.
        ChecksumMismatch: a file is not the published one; it is renamed to ``<name>.bad``.
    """
    if hub_id is None:
        hub_id, revision = card.checkpoint, card.revision
    if hub_id is None:
        raise UserError(f"{name} is not on the hub: {card.get or 'give --checkpoint'}")
    folder = locate(hub_id, revision)
    if not (card.files or card.generic):
        raise UserError(f"{name}: its card names no files to fetch; give --checkpoint a folder")
    whole = repository.is_whole if weights else repository.is_described
    if card.generic and whole(folder):
        card = replace(card, files=repository.present(folder))
    absent = [file for file in card.files if not os.path.isfile(folder / file)]
    if card.files and not absent:
        _accept(card, folder)
        return folder
    if offline() or os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        needed = ", ".join(absent) or "config.json, the tokenizer's files and the weights"
        raise DownloadFailed(f"HARNESS_OFFLINE is set and {hub_id} is not in {folder}; copy {needed} there by hand")
    commit, published = revision, _published(card, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if card.generic:
                listing = _listing(hub_id, _commit(folder) or revision, folder)
                (folder / COMMIT).write_text(listing.commit + "\n", encoding="utf-8")
                listing = listing if weights else listing.without_weights()
                card, commit = replace(card, files=tuple(listing.files)), listing.commit
                absent = [file for file in card.files if not os.path.isfile(folder / file)]
                published = {file: digest for file, (digest, _) in listing.files.items() if digest}
                repository.check_room(folder, (listing.files[file][1] for file in absent))
            for file in absent:
                found = _fetch(hub_id, revision, file, folder / file, published.get(file), progress, commit)
                _remember(folder, {file: found})
    except OSError as error:  # the network's errors have become DownloadFailed by now
        raise sources.unwritable(error, folder, "HARNESS_WEIGHTS") from error
    _accept(card, folder)
    return folder


def _commit(folder: Path) -> str | None:
    """The commit that a repository's files in this folder are from, once some were fetched: a branch may have moved since."""
    try:
        found = (folder / COMMIT).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return found if re.fullmatch(r"[0-9a-f]{40}", found) else None


def _listing(hub_id: str, revision: str | None, folder: Path) -> repository.Listing:
    """What the hub says of a repository's files."""
    from .download import discard, download

    endpoint = _endpoint()
    url = f"{endpoint}/api/models/{hub_id}/revision/{revision or 'main'}?blobs=true"
    part, where = partial(folder / ".listing.json"), f"{hub_id} at {revision or 'main'}"
    discard(part)
    try:
        download(url, part, checked=False, remedy="", pause=sources.PAUSE, headers=_authorisation(url))
        return repository.parse(json.loads(part.read_text(encoding="utf-8")), where)
    except ValueError:
        raise DownloadFailed(f"{where}: the hub does not list its files; check HF_ENDPOINT") from None
    except DownloadFailed as error:
        raise _explained(error, url, where, "its list of files", folder) from None
    finally:
        discard(part)


def _endpoint() -> str:
    from .download import check_address

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    check_address(endpoint, "HF_ENDPOINT")
    return endpoint.rstrip("/")


def with_files(card: ModelCard) -> ModelCard:
    """The card with the files in its folder, or that were once fetched into it, where it names none itself."""
    if not card.generic or card.checkpoint is None:
        return card
    folder = locate(card.checkpoint, card.revision)
    return replace(card, files=tuple(sorted({*repository.present(folder), *_sums(folder)})))


def local_repositories(known: Mapping[str, ModelCard]) -> Iterator[tuple[str, Path]]:
    """Hub id and folder of the repositories on this machine that are whole and not the official weights of a ``known`` model."""
    official = {card.checkpoint for card in known.values()}
    for folder in sorted(weights_home().glob("*--*/*/")):
        hub_id = folder.parent.name.replace("--", "/", 1)
        if hub_id not in official and HUB_ID.fullmatch(hub_id) and repository.is_whole(folder):
            yield hub_id, folder


def dataset_files(hub_id: str, folder: str) -> list[Source]:
    """The parquet files of a data set on the hub, at its newest revision, with the checksums that the hub states.

    ``folder`` is where they lie below the data folder, each under its name in the repository.

    Raises:
        DownloadFailed: no network (or HARNESS_OFFLINE), no such data set, or it has no parquet files.
    """
    from .download import check_address, read_small

    place = f"copy its parquet files to {sources.data_home() / folder}/data by hand"
    if offline():
        raise DownloadFailed(f"HARNESS_OFFLINE is set, and what {hub_id} holds cannot be asked of the hub; {place}")
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    check_address(endpoint, "HF_ENDPOINT")
    try:
        answer = json.loads(read_small(sources.mirrored(f"{endpoint}/api/datasets/{hub_id}/revision/main?blobs=true")) or b"")
        files = [
            Source(
                f"{endpoint}/datasets/{hub_id}/resolve/{answer['sha']}/{quote(file['rfilename'])}",
                (file.get("lfs") or {}).get("sha256", ""),
                f"{folder}/{file['rfilename']}",
                file.get("size"),
            )
            for file in answer["siblings"]
            if re.fullmatch(r"[\w./-]+\.parquet", file["rfilename"]) and ".." not in file["rfilename"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        files = []
    if not files:
        raise DownloadFailed(f"{hub_id}: the hub does not list its parquet files; check the network, or {place}")
    return files


def _fetch(
    hub_id: str,
    revision: str | None,
    file: str,
    path: Path,
    published: str | None,
    progress: sources.Transferred | None,
    commit: str | None,
) -> str:
    """Download one file, as it is at ``commit``; its sha256."""
    from .download import discard, download, finish

    if path.is_file():
        return sha256(path)  # another process fetched it while we waited for the lock
    url = f"{_endpoint()}/{hub_id}/resolve/{commit or 'main'}/{quote(file)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    part, folder = partial(path), locate(hub_id, revision)
    try:
        download(url, part, progress, checked=bool(published), remedy="", pause=sources.PAUSE, headers=_authorisation(url))
    except DownloadFailed as error:
        raise _explained(error, url, f"{hub_id} at {revision or 'main'}", file, folder) from None
    found = sha256(part)
    if published is not None and found != published:
        part.replace(aside(path))
        discard(part)
        raise ChecksumMismatch(
            f"{hub_id}: {file} has sha256 {found[:12]}…, not the published {published[:12]}…; kept as {aside(path)}, not used"
        )
    finish(part, path)
    return found


def _explained(error: DownloadFailed, url: str, where: str, file: str, folder: Path) -> DownloadFailed:
    """A failed download in the user's terms. ``where`` is a repository and its revision."""
    if not str(error).startswith(url):
        return error
    reason = str(error).removeprefix(f"{url}: ").rstrip("; ")
    status = re.match(r"HTTP (\d+)\b", reason)
    hub_id, token = where.partition(" ")[0], bool(_authorisation(url))
    page = f"{url.partition('/' + hub_id)[0].removesuffix('/api/models')}/{hub_id}"
    if "GatedRepo" in reason or (status and status[1] == "403" and "DisabledRepo" not in reason):
        remedy = f"its owner asks for consent: accept the terms at {page}, then " + (
            "try again; the account of HF_TOKEN has no access yet" if token else "set HF_TOKEN to a token of that account"
        )
    elif "RevisionNotFound" in reason:
        remedy = "the repository has no such revision"
    elif "EntryNotFound" in reason:
        remedy = "no such repository or file: the repository lacks this file"
    elif status and status[1] in ("401", "404"):
        access = "which the account of HF_TOKEN may not read" if token else "which needs HF_TOKEN"
        remedy = f"no such repository or file, or a private one, {access}"
    else:
        remedy = "check the network"
    return DownloadFailed(f"{where}: {file} cannot be fetched ({reason}): {remedy}; or copy it to {folder}")


def _authorisation(url: str) -> dict[str, str]:
    if not url.startswith("https:"):
        return {}
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def verify(card: ModelCard) -> dict[Path, Status]:
    """The state of every file of the official weights: whether it is still what was downloaded."""
    assert card.checkpoint is not None
    card, folder = with_files(card), locate(card.checkpoint, card.revision)
    known = _sums(folder) | _published(card, folder)
    states: dict[Path, Status] = {}
    for file in card.files:
        path = folder / file
        if not path.is_file():
            states[path] = "missing"
        elif file not in known:
            states[path] = "no checksum"
        else:
            states[path] = "ok" if known[file] == sha256(path) else "wrong checksum"
    return states


def _published(card: ModelCard, folder: Path) -> dict[str, str]:
    """The published checksums of the files in a folder: the card's, if it is the folder of the card's own repository."""
    return dict(card.sha256) if card.checkpoint and folder == locate(card.checkpoint, card.revision) else {}


def _accept(card: ModelCard, folder: Path) -> None:
    """Check the files that were copied into a folder by hand, and remember them.

    Raises:
        ChecksumMismatch: one is not the published one.
        BadData: one is empty.
    """
    known, published = _sums(folder), _published(card, folder)
    found = {file: file_digest(folder / file) for file in card.files if file not in known}
    for file, digest in found.items():
        if not (folder / file).stat().st_size:
            raise BadData(f"{folder / file}: is empty; copy it again, or delete it and fetch it")
        if digest != published.get(file, digest):
            raise ChecksumMismatch(
                f"{folder / file}: sha256 {digest[:12]}… is not the published {published[file][:12]}…; delete it and fetch it"
            )
    if found:
        with suppress(OSError):  # where the folder cannot be written, its files are read again next time
            _remember(folder, found)


def _sums(folder: Path) -> dict[str, str]:
    """What SUMS says of each file; lines that are damaged count as not there."""
    try:
        lines: Iterable[str] = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    found = (re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines)
    return {match[2]: match[1] for match in found if match}


def _remember(folder: Path, digests: dict[str, str]) -> None:
    known = _sums(folder) | digests
    with atomic(folder / SUMS) as temporary:
        temporary.write_text("".join(f"{digest}  {file}\n" for file, digest in sorted(known.items())), encoding="utf-8")
