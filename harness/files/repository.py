"""Which files of any repository on the hub make a model that ``transformers`` loads, and which of them are in a folder."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DownloadFailed, UserError

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
SHARD = re.compile(r"(?:model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")
_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Listing:
    """What a model needs of a repository at a commit, weights last: name → (sha256, bytes), empty or None where unknown."""

    commit: str
    files: Mapping[str, tuple[str, int | None]]

    def without_weights(self) -> Listing:
        """Configuration and tokenizer alone."""
        return Listing(self.commit, {name: it for name, it in self.files.items() if name == CONFIG or name in TOKENIZERS})


def parse(answer: Any, where: str) -> Listing:
    """The listing in the hub's answer about a repository.

    Raises:
        DownloadFailed: it is not such an answer.
        UserError: the repository has no configuration, or no weights in a format that is read.
    """
    try:
        listed = {str(file["rfilename"]): file for file in answer["siblings"]}
        commit = str(answer["sha"])
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise DownloadFailed(f"{where}: the hub does not list its files; check HF_ENDPOINT") from None
    names = [name for name in listed if _NAME.fullmatch(name)]
    if CONFIG not in names:
        raise UserError(f"{where}: has no {CONFIG}; only models in the layout of transformers are read")
    if not (weights := [name for name in WEIGHTS if name in names]):
        there = ", ".join(sorted(name for name in names if name.endswith((".pt", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx"))))
        raise UserError(f"{where}: has no {' or '.join(WEIGHTS[::2])}" + (f", but {there[:200]}" if there else ""))
    shards = []
    if weights[0].endswith(".index.json"):
        ending = "safetensors" if "safetensors" in weights[0] else "bin"
        shards = sorted(name for name in names if (match := SHARD.fullmatch(name)) and match[1] == ending)
    chosen = [*(name for name in TOKENIZERS if name in names), CONFIG, *shards, weights[0]]
    return Listing(commit, {name: _facts(listed[name]) for name in chosen})


def _facts(file: Mapping[str, Any]) -> tuple[str, int | None]:
    large = file.get("lfs") or {}
    found = str(large.get("sha256") or large.get("oid") or "").removeprefix("sha256:")
    size = file.get("size")
    return (found if re.fullmatch(r"[0-9a-f]{64}", found) else ""), size if isinstance(size, int) else None


def present(folder: Path) -> tuple[str, ...]:
    """The files of a model that are in its folder."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return tuple(name for name in names if name in (CONFIG, *TOKENIZERS, *WEIGHTS) or SHARD.fullmatch(name))


def is_described(folder: Path) -> bool:
    """Whether configuration and tokenizer are there; the configuration is fetched after the tokenizer."""
    return os.path.isfile(folder / CONFIG)


def is_whole(folder: Path) -> bool:
    """Whether configuration and weights are there, the latter with all their parts."""
    return is_described(folder) and any(os.path.isfile(folder / name) and _parts_there(folder, name) for name in WEIGHTS)


def _parts_there(folder: Path, name: str) -> bool:
    if not name.endswith(".index.json"):
        return True
    try:
        parts = set(json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all(os.path.isfile(folder / str(part)) for part in parts)


def check_room(folder: Path, sizes: Iterable[int | None]) -> None:
    """Refuse a download that the disk has no room for.

    Raises:
        UserError: it has less free space than the files need.
    """
    needed, free = sum(size or 0 for size in sizes), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {needed / 1e9:.2f} GB are to be fetched, and {free / 1e9:.2f} GB are free; make room, or set "
            "HARNESS_WEIGHTS to a folder on another disk"
        )
