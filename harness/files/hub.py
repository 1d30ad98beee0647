"""Official weights: their place on this machine, and their download from the Hugging Face hub at a pinned revision.

Environment variables:
    HARNESS_WEIGHTS: the weights folder; otherwise ``gfm-harness/weights`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    HARNESS_OFFLINE: ``1`` forbids the network.
    HF_ENDPOINT, HF_TOKEN, …: those of huggingface_hub.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from harness.card import ModelCard
from harness.errors import ChecksumMismatch, DataMissing, DownloadFailed, UserError

from .atomic import atomic
from .sources import cache_home, offline, sha256

Status = Literal["ok", "missing", "wrong checksum"]
SUMS = "SHA256SUMS"  # written once all files are there; `verify` compares with it
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")


def weights_home() -> Path:
    """The folder that holds every downloaded checkpoint; it need not exist."""
    if folder := os.environ.get("HARNESS_WEIGHTS"):
        return Path(folder).expanduser()
    return cache_home() / "weights"


def locate(hub_id: str, revision: str | None) -> Path:
    """The folder of a hub repository at a revision; it need not exist."""
    return weights_home() / hub_id.replace("/", "--") / (revision or "main")


def official(name: str, card: ModelCard) -> Path:
    """The folder of a model's official weights.

    Raises:
        DataMissing: they are not on this machine.
    """
    if card.checkpoint is None:
        where = f"; {card.get}" if card.get else ""
        raise DataMissing(f"{name} has no weights on the hub{where}; give --checkpoint, or --init random to train from scratch")
    folder = locate(card.checkpoint, card.revision)
    if not (folder / SUMS).is_file():
        raise DataMissing(
            f"{name}: its weights ({card.checkpoint}) are not in {folder}; `harness weights get {name}` downloads them, "
            "--checkpoint takes another folder, --init random trains from scratch"
        )
    return folder


def resolve(name: str, card: ModelCard, checkpoint: str) -> Path:
    """The file or folder that ``--checkpoint`` names: a path, else a hub id (``owner/name[@revision]``), which is fetched.

    Raises:
        DataMissing: it is neither a path nor a hub id.
        DownloadFailed: the hub does not have it, or cannot be reached.
    """
    path = Path(checkpoint).expanduser()
    if path.exists():
        return path
    if not HUB_ID.fullmatch(checkpoint):
        raise DataMissing(f"checkpoint {checkpoint!r}: no such file or folder, and not a hub id (owner/name)")
    hub_id, _, revision = checkpoint.partition("@")
    return fetch(name, card, hub_id, revision or None)


def fetch(name: str, card: ModelCard, hub_id: str | None = None, revision: str | None = None) -> Path:
    """The folder of a model's files from the hub, downloaded unless they are there; cut downloads are resumed.

    ``hub_id`` and ``revision`` default to the card's. The files' checksums are written beside them.

    Raises:
        UserError: the model is not on the hub.
        DownloadFailed: no network (or HARNESS_OFFLINE), no such repository, or no such file in it.
        ChecksumMismatch: a file is not the published one; it is renamed to ``<name>.bad``.
    """
    if hub_id is None:
        hub_id, revision = card.checkpoint, card.revision
    if hub_id is None:
        raise UserError(f"{name} is not on the hub: {card.get or 'give --checkpoint'}")
    folder = locate(hub_id, revision)
    if (folder / SUMS).is_file():
        return folder
    if offline():
        raise DownloadFailed(
            f"HARNESS_OFFLINE is set and {hub_id} is not in {folder}; copy {', '.join(card.files)} there by hand"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # huggingface_hub reads its environment when it is imported, which may have been long ago.
    endpoint, sums = os.environ.get("HF_ENDPOINT"), []
    for file in card.files:
        try:
            path = Path(hf_hub_download(hub_id, file, revision=revision, local_dir=folder, endpoint=endpoint))
        except LocalEntryNotFoundError as error:
            raise DownloadFailed(
                f"{hub_id}: {file} cannot be fetched ({_reason(error)}); check the network, or copy it to {folder}"
            ) from None
        except (HfHubHTTPError, OSError) as error:
            raise DownloadFailed(f"{hub_id} at {revision or 'main'}: {file} cannot be fetched ({_reason(error)})") from None
        found, published = sha256(path), card.sha256.get(file)
        if published is not None and hub_id == card.checkpoint and found != published:
            path.replace(path.with_name(path.name + ".bad"))
            raise ChecksumMismatch(
                f"{hub_id}: {file} has sha256 {found[:12]}…, not the published {published[:12]}…; kept as {path}.bad, not used"
            )
        sums.append(f"{found}  {file}\n")
    with atomic(folder / SUMS) as temporary:
        temporary.write_text("".join(sums))
    return folder


def verify(card: ModelCard) -> dict[Path, Status]:
    """The state of every file of the official weights: whether it is still what was downloaded."""
    assert card.checkpoint is not None
    folder = locate(card.checkpoint, card.revision)
    known = dict(card.sha256)
    if (folder / SUMS).is_file():
        lines = (folder / SUMS).read_text().splitlines()
        known = {file: digest for digest, file in (line.split("  ", 1) for line in lines)} | known
    states: dict[Path, Status] = {}
    for file in card.files:
        path = folder / file
        if not path.is_file():
            states[path] = "missing"
        else:
            states[path] = "ok" if known.get(file) == sha256(path) else "wrong checksum"
    return states


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
