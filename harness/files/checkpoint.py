"""Weight files and their configuration, and the audit of what a model took from them. :mod:`.tensors` reads the files."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapter import LoadAudit
from harness.errors import BadData, CheckpointMismatch, DataMissing

from .sources import sha256
from .tensors import INDEX, read_tensors, shards

__all__ = [
    "DROPOUT",
    "EPSILON",
    "HEADS",
    "LAYERS",
    "ROWS",
    "TEXT",
    "WIDTH",
    "audit_from_loading_info",
    "check_size",
    "load_tensors",
    "partial_weights",
    "read_config",
    "read_tensors",
    "rename",
    "weight_file",
]

Field = tuple[type, float | None, float | None]  # the type of a setting, and its lowest and highest value
# Bounds for the settings that most configurations have; beyond them, no published model is.
LAYERS: Field = (int, 1, 512)
HEADS: Field = (int, 1, 1024)
WIDTH: Field = (int, 1, 1 << 16)
ROWS: Field = (int, 1, 1 << 22)  # of an embedding: tokens or positions
EPSILON: Field = (float, 0, 0.1)
DROPOUT: Field = (float, 0, 0.99)
TEXT: Field = (str, None, None)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
MAX_CONFIG = 1 << 24  # bytes of a config.json

_partial: ContextVar[bool] = ContextVar("partial_weights", default=False)
# Heads and losses, which a model without them does without.
_HEAD = re.compile(
    r"(?:[A-Za-z_]+\.){0,2}(?:cls|head|lmhead|\w+_head|pooler|classifier|score|qa_outputs|seq_relationship|predictions"
    r"|criterion)\..*"
)
# What holds no learned value, and what a training loop left behind.
_BUFFER = re.compile(
    r"(?:.*\.)?(?:position_ids|token_type_ids|inv_freq|masked_bias|num_batches_tracked|_float_tensor|version)"
    r"|(?:.*\.)?(?:optimizer|optim|lr_scheduler|scheduler)(?:\..*|$)"
)


@contextmanager
def partial_weights(allowed: bool = True) -> Iterator[None]:
    """Within the block, a checkpoint may lack tensors or hold others. A run that allows this must record it."""
    token = _partial.set(allowed)
    try:
        yield
    finally:
        _partial.reset(token)


def weight_file(checkpoint: Path, *names: str) -> Path:
    """The file with the weights: ``checkpoint`` itself, or the first of ``names`` and WEIGHT_FILES that this folder has.

    Of a model in several files it is their index, which :func:`read_tensors` reads.

    Raises:
        DataMissing: there is no such file; the message says what is there instead.
        BadData: a PEFT adapter lies beside the weights, which would be left out.
    """
    names = (*names, *WEIGHT_FILES)
    for candidate in (
        checkpoint,
        *(checkpoint / name for name in names),
        *(checkpoint / (name + INDEX) for name in WEIGHT_FILES),
    ):
        if os.path.isfile(candidate):
            if candidate != checkpoint and os.path.isfile(checkpoint / "adapter_config.json"):
                raise BadData(
                    f"checkpoint {str(checkpoint)!r}: a PEFT adapter (LoRA) lies beside {candidate.name}; merge the two "
                    f"(model.merge_and_unload().save_pretrained(FOLDER)), or give {candidate} to leave the adapter out"
                )
            return candidate
    if os.path.isfile(checkpoint / "adapter_config.json"):
        raise DataMissing(
            f"checkpoint {str(checkpoint)!r}: a PEFT adapter without its base model; "
            "save the whole: model.merge_and_unload().save_pretrained(FOLDER)"
        )
    inside = [path.name for path in sorted(checkpoint.glob("*/")) if any(os.path.isfile(path / name) for name in names)]
    remedy = f"; give its sub-folder {_some(inside)}" if inside else ""
    raise DataMissing(f"checkpoint {str(checkpoint)!r}: no such file, nor a folder with {' or '.join(names)}{remedy}")


def read_config(
    file: Path, families: Sequence[str], name: str = "config.json", fields: Mapping[str, Field] | None = None
) -> dict[str, Any]:
    """The JSON object in the file ``name`` beside a weight file; empty where there is none.

    ``fields`` maps settings to (type, lowest, highest); None for no bound. A whole number passes for a float, and a setting
    that is null counts as absent. Settings without a field are given back as they are.

    Raises:
        BadData: it cannot be read, or a setting has another type or lies outside its bounds.
        CheckpointMismatch: it describes a model of none of ``families``.
    """
    path = file.parent / name
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise ValueError(f"larger than {MAX_CONFIG:,} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadData(f"{path}: not JSON ({error}); fetch it again") from None
    if not isinstance(config, dict):
        raise BadData(f"{path}: expected a JSON object; fetch it again")
    family = config.get("model_type", families[0])  # the oldest files do not say
    if family not in families:
        raise CheckpointMismatch(
            f"{path}: model_type {str(family)[:60]!r}, expected {' or '.join(families)}; 0 tensors were loaded"
        )
    check_fields(config, fields or {}, path)
    return {setting: value for setting, value in config.items() if value is not None or setting not in (fields or {})}


def check_fields(config: Mapping[str, Any], fields: Mapping[str, Field], path: Path) -> None:
    """Hold the settings of a configuration, read from ``path``, to their types and bounds. Null ones count as absent.

    Raises:
        BadData: a setting has another type or is out of bounds.
    """
    for setting, field in fields.items():
        value = config.get(setting)
        if value is not None and not _fits(value, *field):
            raise BadData(f"{path}: {setting} {str(value)[:60]!r}, expected {_expected(*field)}; fetch it again")


def _fits(value: Any, kind: type, low: float | None, high: float | None) -> bool:
    if (isinstance(value, bool) and kind is not bool) or not isinstance(value, (int, float) if kind is float else kind):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (low is None or value >= low) and (high is None or value <= high)


def _expected(kind: type, low: float | None, high: float | None) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "an object"}
    bounds = [f"from {low:g}" if low is not None else "", f"to {high:g}" if high is not None else ""]
    return " ".join(word for word in [words[kind], *bounds] if word)


def check_size(parameters: int, file: Path) -> None:
    """Refuse, before it is built, a model with more parameters than its weight file has bytes.

    Raises:
        CheckpointMismatch: the file holds less than a quarter of such a model in float32, half of it in float16.
    """
    size = sum(part.stat().st_size for part in (shards(file) if file.name.endswith(INDEX) else [file]))
    if parameters > max(size, 1 << 20):
        raise CheckpointMismatch(
            f"checkpoint {file}: {size:,} bytes, but its config.json describes a model of {parameters:,} parameters; "
            "0 tensors were loaded"
        )


def rename(tensors: Mapping[str, Tensor], names: Sequence[tuple[str, str]], file: Path) -> dict[str, Tensor]:
    """The tensors renamed by ``names``, (pattern, replacement) pairs that ``re.sub`` applies in order.

    Tensors that end up with the same name were tied in the original model.

    Raises:
        CheckpointMismatch: the values of tied tensors differ.
    """
    renamed: dict[str, Tensor] = {}
    for original, tensor in tensors.items():
        name = original
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        first = renamed.setdefault(name, tensor)
        if first is not tensor and not torch.equal(first, tensor):
            raise CheckpointMismatch(f"checkpoint {file}: {original} should be tied to {name}, but their values differ")
    return renamed


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> LoadAudit:
    """Copy ``tensors``, named as in ``module.state_dict()``, into the module: all that it expects, or none.

    Tensors that the module does not take are left out where they are heads, buffers without learned values or a training
    loop's; any other would change what the model computes. Within :func:`partial_weights` such tensors and missing ones are
    allowed, and the audit warns of them.

    Raises:
        CheckpointMismatch: a tensor that the module expects is missing, has another shape or holds whole numbers instead of
            floating-point ones; or the file holds one that the module has no place for.
    """
    expected = module.state_dict()
    missing = [name for name, tensor in expected.items() if name not in tensors or not _alike(tensors[name], tensor)]
    audit = _audit(type(module).__name__, list(expected), missing, tensors.keys() - expected.keys(), file, tensors)
    module.load_state_dict({name: tensors[name] for name in expected if name not in missing}, strict=not missing)
    return audit


def audit_from_loading_info(model: nn.Module, info: Mapping[str, Any], file: Path) -> LoadAudit:
    """The audit of ``transformers``: ``model, info = Class.from_pretrained(folder, output_loading_info=True)``.

    ``file`` is the weight file that was read (see :func:`weight_file`). The rules are those of :func:`load_tensors`.

    Raises:
        CheckpointMismatch: as :func:`load_tensors`.
    """
    reshaped = [item if isinstance(item, str) else item[0] for item in info.get("mismatched_keys", ())]
    missing = dict.fromkeys([*sorted(info.get("missing_keys", ())), *sorted(reshaped)])
    return _audit(type(model).__name__, list(model.state_dict()), list(missing), info.get("unexpected_keys", ()), file)


def _alike(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and (found.is_floating_point() or not expected.is_floating_point())


def _audit(
    model: str,
    expected: Sequence[str],
    missing: Sequence[str],
    unused: Collection[str],
    file: Path,
    tensors: Mapping[str, Tensor] | None = None,
) -> LoadAudit:
    """What was loaded; refused unless it is the whole model or :func:`partial_weights` allows less."""
    matched, warnings = len(expected) - len(missing), []
    if missing and not (_partial.get() and matched):
        raise CheckpointMismatch(
            f"checkpoint {file}: {matched} of {len(expected)} tensors match {model}; "
            f"not there, or of another shape{_cause(expected, unused, tensors or {})}: {_some(missing)}"
        )
    if missing:
        warnings.append(f"partial weights: {len(missing)} of {len(expected)} tensors are not in the file and stay random")
    consequential = sorted(name for name in unused if not _HEAD.fullmatch(name) and not _BUFFER.fullmatch(name))
    if consequential:
        what = f"{matched} of {len(expected)} tensors match {model}, but {_some(consequential)} belong to another architecture"
        if not _partial.get():
            raise CheckpointMismatch(f"checkpoint {file}: {what}; {_remedy(consequential)}, or --allow-partial leaves them out")
        warnings.append(f"left out, as allowed: {len(consequential)} of the file's tensors ({_some(consequential)})")
    if buffers := sorted(name for name in unused if _BUFFER.fullmatch(name) and not _HEAD.fullmatch(name)):
        warnings.append(f"not used: {len(buffers)} of the file's tensors, which hold no learned values ({_some(buffers)})")
    return LoadAudit(
        str(file), _digest(file), len(expected), matched, tuple(missing), tuple(sorted(unused)), warnings=tuple(warnings)
    )


def _digest(file: Path) -> str:
    """sha256 of a weight file; of a model in several files, that of their index and of each of them."""
    if not file.name.endswith(INDEX):
        return sha256(file)
    return new_sha256("".join(map(sha256, [file, *shards(file)])).encode()).hexdigest()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _remedy(names: Sequence[str]) -> str:
    if any("lora_" in name for name in names):
        return "merge the LoRA parts first (model.merge_and_unload())"
    return "its config.json may describe fewer layers or another kind of model; give the one that belongs to the file"


def _cause(expected: Sequence[str], unused: Collection[str], tensors: Mapping[str, Tensor]) -> str:
    """Why names do not match, where that can be told: LoRA parts, a prefix too many or too few, quantised values."""
    if any("lora_" in name for name in unused):
        return " (LoRA parts are in the file: save model.merge_and_unload())"
    if any(name.endswith((".absmax", ".quant_map", ".qweight", ".scales", ".weight_scale")) for name in unused):
        return " (the values are quantised: save them in float32)"
    for prefix in sorted({name.partition(".")[0] + "." for name in unused}):
        if 2 * sum(prefix + name in unused for name in expected) > len(expected):
            return f" (every name begins with {prefix!r} there: save the state_dict of the model inside)"
    for prefix in sorted({name.partition(".")[0] + "." for name in expected}):
        if 2 * sum(name.removeprefix(prefix) in unused for name in expected) > len(expected):
            return f" (the names lack {prefix!r} there: save the whole model, with its head)"
    integers = [name for name in expected if name in tensors and not tensors[name].is_floating_point()]
    return " (the values are whole numbers: save them in float32)" if 2 * len(integers) > len(expected) else ""
