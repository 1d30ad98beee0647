"""Which files of a folder are a checkpoint's weights. No tensor is read here, so that planning needs no torch."""

from __future__ import annotations

import filecmp
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import BadData, DataMissing

from . import peft

INDEX = ".index.json"  # the end of the name of a file that lists shards
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_UNREAD = (".h5", ".msgpack", ".onnx", ".gguf", ".pkl", ".npz", ".pdparams")  # weights in formats that are not read
# What a training loop leaves beside the weights.
_TRAINING = re.compile(r"(?:(?:optim|scheduler|scaler|rng_state|random_states|training_args|.*optim_states).*|state\.pt)")
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.\w+")


@dataclass(frozen=True)
class Found:
    """Where a checkpoint's weights are.

    Attributes:
        file: the weight file, or the index of a model in several files. Configuration and vocabulary lie beside it.
        adapter: the folder of the PEFT adapter to be merged into it; its own folder if the adapter should be in the file.
        rivals: other weight files of the folder, which must hold the same tensors.
        notes: sentences for the user on what was chosen.
    """

    file: Path
    adapter: Path | None = None
    rivals: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def find_weights(checkpoint: Path, *names: str) -> Found:
    """The weights that a file or folder holds: in a folder the first of ``names`` and WEIGHT_FILES, or its only weight file.

    A folder with an adapter of PEFT alone leads to its base model. A folder without any of these leads to its only sub-folder
    that has some, as a trainer leaves ``checkpoint-500`` and the hub's cache ``snapshots/REVISION``.

    Raises:
        DataMissing: there is no such file; the message says what is there instead.
        BadData: there are several, and none of them is the usual one.
    """
    if os.path.isfile(checkpoint):
        if checkpoint.name in peft.WEIGHTS:
            return _on_base(checkpoint.parent)
        if _SHARD.fullmatch(checkpoint.name):
            raise BadData(f"checkpoint {checkpoint}: one file of several; give their index (…{INDEX}) or their folder")
        return Found(checkpoint)
    wanted = (*names, *WEIGHT_FILES)
    listed = _listed(checkpoint)
    usual = [checkpoint / name for name in dict.fromkeys((*wanted, *(name + INDEX for name in WEIGHT_FILES))) if name in listed]
    adapter, config = peft.adapter_file(checkpoint), peft.CONFIG in listed
    if adapter and usual:
        raise BadData(
            f"checkpoint {str(checkpoint)!r}: a PEFT adapter (LoRA) lies beside {usual[0].name}; merge the two "
            f"({peft.MERGED}), or give {usual[0]} to leave the adapter out"
        )
    if adapter:
        return _on_base(checkpoint)
    others = [
        checkpoint / name
        for name in listed
        if name.lower().endswith(ENDINGS)
        and not _TRAINING.match(name)
        and not _SHARD.fullmatch(name)
        and checkpoint / name not in usual
    ]
    if usual:
        file, *further = usual
        comparable = [path for path in further if path.name.endswith((*ENDINGS, INDEX)) and file.name.endswith((*ENDINGS, INDEX))]
        unread = [path.name for path in (*further, *others) if path not in comparable]
        notes = [f"{file.name} is read, not {some(unread)}"] if unread else []
        return Found(file, checkpoint if config else None, tuple(comparable), tuple(notes))
    if len(others) == 1:
        return Found(others[0], notes=(f"{others[0].name} is read, the only weight file in {checkpoint}",))
    if others:
        raise BadData(
            f"checkpoint {str(checkpoint)!r}: {len(others)} weight files ({some([path.name for path in others])}), "
            f"and none is called {' or '.join(wanted)}; give one of them"
        )
    if config:
        raise DataMissing(f"checkpoint {str(checkpoint)!r}: {peft.CONFIG} without {' or '.join(peft.WEIGHTS)}; fetch it again")
    if shards := [name for name in listed if _SHARD.fullmatch(name) and name.lower().endswith(ENDINGS)]:
        raise DataMissing(f"checkpoint {str(checkpoint)!r}: {some(shards)} without their index (…{INDEX}); fetch it too")
    return _in_sub_folder(checkpoint, names, " or ".join(wanted))


def adapter_folder(checkpoint: Path) -> Path | None:
    """The folder of the PEFT adapter that a checkpoint is: itself, or its only sub-folder with weights."""
    if checkpoint.is_file():
        return checkpoint.parent if checkpoint.name in peft.WEIGHTS else None
    if not _has_weights(checkpoint) and len(inside := _sub_folders(checkpoint)) == 1:
        (checkpoint,) = inside
    return checkpoint if peft.adapter_file(checkpoint) and os.path.isfile(checkpoint / peft.CONFIG) else None


def _sub_folders(checkpoint: Path, names: Sequence[str] = ()) -> list[Path]:
    folders = sorted((*checkpoint.glob("*/"), *checkpoint.glob("snapshots/*/")))
    return [path for path in folders if _has_weights(path, names)]


def _in_sub_folder(checkpoint: Path, names: Sequence[str], wanted: str) -> Found:
    inside = _sub_folders(checkpoint, names)
    if len(inside) == 1:
        found = find_weights(inside[0], *names)
        return replace(found, notes=(f"{inside[0].name} is read, the only sub-folder of {checkpoint} with weights", *found.notes))
    if inside:
        best = _best(inside)
        remedy = f" (its trainer calls {best} the best)" if best else ""
        raise DataMissing(
            f"checkpoint {str(checkpoint)!r}: {len(inside)} sub-folders with weights; give one of them: "
            f"{some([path.name for path in inside], 6)}{remedy}"
        )
    unread = [name for name in _listed(checkpoint) if name.lower().endswith(_UNREAD)]
    there = f"; there is {some(unread)}, which is not read: save it as safetensors" if unread else ""
    raise DataMissing(f"checkpoint {str(checkpoint)!r}: no such file, nor a folder with {wanted}{there}")


def parts(file: Path) -> list[Path]:
    """The files that a weight file or an index stands for.

    Raises:
        BadData: it is no index, or names a file elsewhere.
        DataMissing: a file is not there.
    """
    return [file, *shards(file)] if file.name.endswith(INDEX) else [file]


def shards(index: Path) -> list[Path]:
    """The files that an index names, in order; all lie beside it.

    Raises:
        BadData: it is no index, or names a file elsewhere.
        DataMissing: a file is not there.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("expected names of files beside it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadData(f"{index}: not an index of weight files ({type(error).__name__}: {error}); fetch it again") from None
    if absent := [name for name in names if not (index.parent / name).is_file()]:
        raise DataMissing(f"checkpoint {index}: {len(absent)} of its {len(names)} files are missing, such as {absent[0]}")
    return [index.parent / name for name in names]


def _on_base(folder: Path) -> Found:
    if not os.path.isfile(folder / peft.CONFIG):
        raise DataMissing(f"checkpoint {str(folder)!r}: a PEFT adapter without its {peft.CONFIG}; fetch it too")
    base = peft.base_folder(folder)
    if base.is_dir() and peft.adapter_file(base):
        raise BadData(f"checkpoint {str(folder)!r}: its base model {base} is a PEFT adapter too; {peft.MERGE}")
    try:
        found = find_weights(base)
        return replace(found, adapter=folder, notes=(*_unread(folder, found.file.parent), *found.notes))
    except (DataMissing, BadData) as error:
        raise type(error)(f"{error!s} (the base model of the PEFT adapter {folder})") from None


def _unread(adapter: Path, base: Path) -> list[str]:
    """What is said of an adapter's files beside its weights: vocabulary and configuration are read from the base's folder."""
    first, second = (adapter / name for name in peft.WEIGHTS)
    notes = [f"{first.name} is read, not {second.name}"] if first.is_file() and second.is_file() else []
    differing = [
        name
        for name in ("config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
        if (adapter / name).is_file()
        and not ((base / name).is_file() and filecmp.cmp(adapter / name, base / name, shallow=False))
    ]
    if differing:
        notes.append(f"{', '.join(differing)} beside the adapter are not read; those beside the base model ({base}) are")
    return notes


def _has_weights(folder: Path, names: Sequence[str] = ()) -> bool:
    return any(
        name in names or (name.lower().endswith((*ENDINGS, INDEX)) and not _TRAINING.match(name)) for name in _listed(folder)
    )


def _listed(folder: Path) -> list[str]:
    """The names of a folder's files, sorted; empty where there is no such folder."""
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError:
        return []


def _best(folders: Sequence[Path]) -> str:
    """The sub-folder that the newest trainer_state.json calls the best; empty if none does."""
    for folder in sorted(folders, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)], reverse=True):
        try:
            best = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["best_model_checkpoint"]
            if (name := re.split(r"[/\\]", best)[-1]) in {path.name for path in folders}:
                return name
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return ""


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names, for a message."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
