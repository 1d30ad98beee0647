"""Folders of PEFT adapters: the settings that decide what a LoRA adds, and where its base model lies. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import BadData, CheckpointMismatch, DataMissing

from . import hub
from .configuration import read_object

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
MERGED = "model.merge_and_unload().save_pretrained(FOLDER)"
MERGE = f"save the whole: {MERGED}"
# Settings of peft's LoraConfig that do not change what a trained LoRA adds. Any other one that is set is refused.
_INERT = {
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "bias",
    "lora_bias",
    "lora_dropout",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    "eva_config",
}
_READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out", "init_lora_weights"}
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # of the LoRA alone; others change the base model too


@dataclass(frozen=True)
class LoraSettings:
    """How a LoRA is added: W + scale · B A, with scale = alpha / rank, or alpha / √rank if ``rank_stabilised``.

    ``ranks`` and ``alphas`` map patterns of module names to exceptions. ``transposed`` layers store (in, out). ``targets`` are
    the name endings that were asked for; they say what should be there and do not count for identity.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False
    transposed: bool = False
    targets: tuple[str, ...] = ()

    def of(self, module: str) -> tuple[int, float]:
        """Rank and scale of a module, by peft's rule: the first pattern that its whole name or an ending of it matches."""

        def exception(patterns: Mapping[str, Any], default: Any) -> Any:
            return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)

        rank, alpha = exception(self.ranks, self.rank), exception(self.alphas, self.alpha)
        return rank, alpha / (rank**0.5 if self.rank_stabilised else rank)

    def identity(self) -> list[Any]:
        """All that can change a number, as a JSON value."""
        return [self.rank, self.alpha, dict(self.ranks), dict(self.alphas), self.rank_stabilised, self.transposed]


def read_settings(folder: Path) -> LoraSettings:
    """The settings in a folder's CONFIG.

    Raises:
        BadData: it is not JSON, or a setting has another type or is out of bounds.
        CheckpointMismatch: it describes something else than plain LoRA.
    """
    path = folder / CONFIG
    config = read_object(path)
    if (kind := str(config.get("peft_type", "LORA")).rsplit(".")[-1]) != "LORA":
        raise CheckpointMismatch(f"{path}: peft_type {kind[:40]}; only LoRA is merged here; {MERGE}")
    if (start := config.get("init_lora_weights", True)) not in _PLAIN_STARTS:
        raise CheckpointMismatch(f"{path}: init_lora_weights {str(start)[:40]!r} changes the base model's weights too; {MERGE}")
    if unknown := sorted(name for name, value in config.items() if value and name not in _INERT | _READ):
        raise CheckpointMismatch(f"{path}: {', '.join(unknown)[:80]} is set; only plain LoRA is merged here; {MERGE}")
    targets = config.get("target_modules")
    try:
        settings = LoraSettings(
            _number(config.get("r", 8), int),
            _number(config.get("lora_alpha", 8), float),
            {str(key): _number(value, int) for key, value in (config.get("rank_pattern") or {}).items()},
            {str(key): _number(value, float) for key, value in (config.get("alpha_pattern") or {}).items()},
            bool(config.get("use_rslora")),
            bool(config.get("fan_in_fan_out")),
            tuple(sorted(map(str, targets))) if isinstance(targets, list) else (),
        )
        settings.of("")
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise BadData(f"{path}: not the settings of a LoRA ({str(error)[:100]}); fetch it again") from None
    return settings


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int) or not 0 < value < 1 << 20:
        raise ValueError(f"{str(value)[:40]!r} where a rank or alpha is expected")
    return kind(value)


def adapter_file(folder: Path) -> Path | None:
    """The adapter's weights in a folder, if there are any."""
    return next((folder / name for name in WEIGHTS if os.path.isfile(folder / name)), None)


def describes(file: Path) -> bool:
    """Whether the CONFIG beside a weight file is about the LoRA within it: there is one, and no file of the adapter alone."""
    return os.path.isfile(file.parent / CONFIG) and adapter_file(file.parent) is None


def hub_base(folder: Path) -> str | None:
    """The hub id (``owner/name[@revision]``) of the base model of an adapter, if it is one and not on this machine."""
    config = read_object(folder / CONFIG)
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or _on_this_machine(folder, name, config.get("revision")):
        return None
    if name.startswith(hub.PATH_BEGINNINGS) or not hub.HUB_ID.fullmatch(name):
        return None
    return f"{name}@{config['revision']}" if config.get("revision") and "@" not in name else name


def base_folder(folder: Path) -> Path:
    """Where the base model of an adapter lies: the path or hub id in its CONFIG, the latter in the weights folder.

    Raises:
        DataMissing: it is not on this machine, or not named.
        BadData: the weights folder has several revisions of it, and the CONFIG names none.
    """
    config = read_object(folder / CONFIG)
    name = config.get("base_model_name_or_path")
    what = f"checkpoint {str(folder)!r}: a PEFT adapter"
    if not isinstance(name, str) or not name:
        raise DataMissing(f"{what} without its base model; write the path of the base into {CONFIG} (base_model_name_or_path)")
    found = _on_this_machine(folder, name, config.get("revision"))
    if len(found) == 1:
        return found[0]
    if found:
        revisions = ", ".join(path.name for path in found[:4])
        raise BadData(f"{what}; of its base {name} there are several revisions ({revisions}): write one into {CONFIG} (revision)")
    raise DataMissing(
        f"{what} whose base model {name[:100]!r} is not on this machine; write its path into {CONFIG} "
        "(base_model_name_or_path), or give a model that was saved whole (merge_and_unload)"
    )


def _on_this_machine(folder: Path, name: str, revision: Any) -> list[Path]:
    """The folders or files that a name of a base may mean: a path first, which may be relative to the adapter's folder."""
    try:
        for path in (folder / Path(name).expanduser(), Path(name).expanduser()):
            if path.exists() and path.resolve() != folder.resolve():
                return [path]
    except (OSError, ValueError, RuntimeError):
        return []
    hub_id, _, pinned = name.partition("@")
    if not hub.HUB_ID.fullmatch(name):
        return []
    if wanted := pinned or revision:
        place = hub.locate(hub_id, str(wanted))
        return [place] if place.is_dir() else []
    place = hub.locate(hub_id, None)
    if place.is_dir():
        return [place]
    return [path for path in sorted(place.parent.glob("*")) if path.is_dir()]
