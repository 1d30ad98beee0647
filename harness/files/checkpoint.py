"""Weight files and their configuration, and the audit of what a model took from them.

:mod:`.weight_files` finds the files; :mod:`.tensors`, :mod:`.lora` and :mod:`.configuration` read them; :mod:`.reading` tries
their names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapter import LoadAudit
from harness.errors import BadData, CheckpointMismatch, DataMissing

from . import lora, peft
from .configuration import DROPOUT, EPSILON, HEADS, LAYERS, ROWS, TEXT, WIDTH, Field, check_fields, read_config
from .fingerprint import digest
from .reading import BUFFER, HEAD, common_prefixes, current, is_whole, load_as_found, partial_allowed, partial_weights, reading
from .sources import sha256
from .tensors import read_tensors as read_file
from .weight_files import find_weights, parts, some

__all__ = [
    "DROPOUT",
    "EPSILON",
    "HEADS",
    "LAYERS",
    "ROWS",
    "TEXT",
    "WIDTH",
    "Field",
    "Resolved",
    "audit_from_loading_info",
    "check_fields",
    "check_finite",
    "check_size",
    "load_as_found",
    "load_tensors",
    "partial_weights",
    "read_config",
    "read_tensors",
    "rename",
    "resolve_weights",
    "weight_file",
]


def weight_file(checkpoint: Path, *names: str) -> Path:
    """The file with the weights: ``checkpoint`` itself, or what :func:`find_weights` finds in this folder.

    Of a model in several files it is their index, which :func:`read_tensors` reads. Of a PEFT adapter it is the file of its base
    model, beside which configuration and vocabulary lie; :func:`read_tensors` merges the adapter.

    Raises:
        DataMissing: there is no such file; the message says what is there instead.
        BadData: a folder holds several models, or a PEFT adapter beside weights that it may or may not be merged into.
    """
    found = find_weights(checkpoint, *names)
    active = current()
    if found.adapter is not None:
        if active is None:
            raise DataMissing(
                f"checkpoint {str(checkpoint)!r}: a PEFT adapter without its base model; "
                f"harness.load_model finds it and merges the two; or {peft.MERGE}"
            )
        active.adapters[found.file] = found.adapter
    if active is not None:
        active.say(*found.notes)
    for rival in found.rivals:
        _check_alike(found.file, rival)
    return found.file


def read_tensors(file: Path, *bases: str) -> dict[str, Tensor]:
    """The tensors of a weight file or index by name, on the CPU, in float32; a PEFT adapter that leads to it is merged.

    ``bases`` are prefixes of the official names that a file of the bare encoder may lack (``bert.``). Those that the model's own
    names have are known already.

    Raises:
        BadData: the file is damaged, is a pickle with more than tensors in it, or holds a value that is not finite.
        CheckpointMismatch: it holds a LoRA that cannot be merged exactly.
        DataMissing: a file that an index names is not there.
    """
    active = current()
    if active is None:
        return _read(file, None, [])
    active.bases |= dict.fromkeys(bases)
    if file not in active.tensors:
        notes: list[str] = []
        active.tensors[file] = _read(file, active.adapters.get(file), notes)
        active.say(*notes)
    found = dict(active.tensors[file])
    return found if active.change is None else active.change.apply(found)


@dataclass(frozen=True)
class Resolved:
    """A checkpoint as ``transformers`` can take it: the folder of its configuration and vocabulary, the tensors by name.

    ``file`` is the weight file that was read, for :func:`audit_from_loading_info`.
    """

    folder: Path
    file: Path
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def resolve_weights(checkpoint: Path, *bases: str) -> Resolved:
    """The tensors of whatever file or folder a user gave, PEFT adapters merged, and where its configuration lies.

    Within :func:`load_as_found`, as engine.build calls it, names are those under trial, and ``notes`` are said anyway.

    Raises:
        DataMissing, BadData, CheckpointMismatch: as :func:`weight_file` and :func:`read_tensors`.
    """
    with reading() as active:
        file = weight_file(checkpoint)
        return Resolved(file.parent, file, read_tensors(file, *bases), tuple(active.notes))


def _read(file: Path, adapter: Path | None, notes: list[str]) -> dict[str, Tensor]:
    """A file's tensors, with the LoRA of ``adapter`` or that which the file itself holds merged."""
    found = check_finite(read_file(file, notes), file)
    part = peft.adapter_file(adapter) if adapter is not None else None
    if adapter is not None and part is not None:
        if lora.holds_lora(found):
            raise CheckpointMismatch(f"checkpoint {file}: the base model of {adapter} holds LoRA parts itself; {peft.MERGE}")
        delta = check_finite(read_file(part, notes), part)
        found, said = lora.merge(delta, peft.read_settings(adapter), part, found)
        notes.extend([f"{said[0]}; the base model is {file}", *said[1:]])
    elif lora.holds_lora(found) and peft.describes(file):
        found, said = lora.merge(found, peft.read_settings(file.parent), file)
        notes.extend(said)
        if (active := current()) is not None:
            active.merged.add(file)
    elif any(".base_layer." in name for name in found):
        raise CheckpointMismatch(
            f"checkpoint {file}: LoRA parts are in the file: save model.merge_and_unload(), or put its {peft.CONFIG} beside it, "
            "which says their scale; 0 tensors were loaded"
        )
    elif adapter is not None:
        raise BadData(
            f"checkpoint {str(adapter)!r}: {peft.CONFIG} of a PEFT adapter (LoRA) lies beside {file.name}, which holds no LoRA "
            f"parts; merge the two ({peft.MERGED}), or give {file} to leave the adapter out"
        )
    return found


def check_finite(found: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors of a file, if all of their values are finite; buffers without learned values may hold others.

    Raises:
        BadData: one is NaN or infinite, as after a diverged training or a conversion to float16.
    """
    for name, tensor in found.items():
        if tensor.is_floating_point() and not BUFFER.fullmatch(name) and not bool(torch.isfinite(tensor).all()):
            wrong = int((~torch.isfinite(tensor)).sum())
            raise BadData(
                f"checkpoint {file}: {name} holds values that are not finite ({wrong:,} of {tensor.numel():,} are NaN or "
                "infinite); fetch it again, or give an earlier checkpoint of the same training"
            )
    return found


def _check_alike(file: Path, rival: Path) -> None:
    """Refuse a folder with two weight files unless they hold the same model; names that one of them ties may be absent.

    Raises:
        BadData: their tensors differ.
    """
    first, second = read_file(file), read_file(rival)
    differing = [name for name in first.keys() & second.keys() if not _equal(first[name], second[name])]
    for one, other in ((first, second), (second, first)):
        values = list(other.values())
        differing += [name for name in one.keys() - other.keys() if not any(_equal(one[name], value) for value in values)]
    differing = sorted(name for name in differing if not BUFFER.fullmatch(name))
    if differing:
        raise BadData(
            f"checkpoint {str(file.parent)!r}: {file.name} and {rival.name} hold different models "
            f"({len(differing)} tensors differ, such as {differing[0]}); give the file that is meant"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def check_size(parameters: int, file: Path) -> None:
    """Refuse, before it is built, a model with more parameters than its weight file has bytes.

    Raises:
        CheckpointMismatch: the file holds less than a quarter of such a model in float32, half of it in float16.
    """
    size = sum(part.stat().st_size for part in parts(file))
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
    if missing and (active := current()) is not None:
        active.bases |= dict.fromkeys(common_prefixes(expected))
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
    if missing and not (partial_allowed() and matched):
        raise CheckpointMismatch(
            f"checkpoint {file}: {matched} of {len(expected)} tensors match {model}; "
            f"not there, or of another shape{_cause(expected, unused, tensors or {})}: {some(missing)}",
            whole=is_whole(missing),
        )
    if missing:
        warnings.append(f"partial weights: {len(missing)} of {len(expected)} tensors are not in the file and stay random")
    consequential = sorted(name for name in unused if not HEAD.fullmatch(name) and not BUFFER.fullmatch(name))
    if consequential:
        what = f"{matched} of {len(expected)} tensors match {model}, but {some(consequential)} belong to another architecture"
        if not partial_allowed():
            remedy = f"{_remedy(consequential)}, or --allow-partial leaves them out"
            raise CheckpointMismatch(f"checkpoint {file}: {what}; {remedy}", whole=is_whole(missing))
        warnings.append(f"left out, as allowed: {len(consequential)} of the file's tensors ({some(consequential)})")
    if buffers := sorted(name for name in unused if BUFFER.fullmatch(name) and not HEAD.fullmatch(name)):
        warnings.append(f"not used: {len(buffers)} of the file's tensors, which hold no learned values ({some(buffers)})")
    source, sha = _origin(file)
    return LoadAudit(source, sha, len(expected), matched, tuple(missing), tuple(sorted(unused)), warnings=tuple(warnings))


def _origin(file: Path) -> tuple[str, str]:
    """Where weights come from, and their sha256: of a model in several files that of their index and of each of them."""
    files = parts(file)
    found = sha256(file) if len(files) == 1 else new_sha256("".join(map(sha256, files)).encode()).hexdigest()
    active = current()
    adapter = active.adapters.get(file) if active is not None else None
    if adapter is not None and (part := peft.adapter_file(adapter)):
        return str(part), digest([found, sha256(part), peft.read_settings(adapter).identity()])
    if active is not None and peft.describes(file) and file in active.merged:
        return str(file), digest([found, peft.read_settings(file.parent).identity()])
    return str(file), found


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
    first = sorted({name.partition(".")[0] + "." for name in unused})
    if copies := [prefix for prefix in first if 2 * sum(prefix + name in unused for name in expected) > len(expected)]:
        if len(copies) > 1:
            return f" (the file holds the model {len(copies)} times, as {some(copies)}: save the one that is meant)"
        return f" (every name begins with {copies[0]!r} there: save the state_dict of the model inside)"
    for prefix in sorted({name.partition(".")[0] + "." for name in expected}):
        if 2 * sum(name.removeprefix(prefix) in unused for name in expected) > len(expected):
            return f" (the names lack {prefix!r} there: save the whole model, with its head)"
    integers = [name for name in expected if name in tensors and not tensors[name].is_floating_point()]
    return " (the values are whole numbers: save them in float32)" if 2 * len(integers) > len(expected) else ""
