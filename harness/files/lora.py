"""LoRA merged into the weights that it was trained on: W + scale · B A (Hu et al. 2021, arXiv:2106.09685), as peft merges it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from harness.errors import CheckpointMismatch

from .peft import MERGE, LoraSettings
from .reading import HEAD

# peft's names: MODULE.lora_A.weight in an adapter's file, MODULE.lora_A.NAME.weight in a model that was saved with its adapter.
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_[AB])(?P<adapter>\.(?!weight$|bias$)\w+)??(?P<end>\.weight|\.bias)?"
)
_WRAPPER = "base_model.model."
_ORIGINAL = re.compile(r"(?:^|\.)original_module\.")


def holds_lora(names: Iterable[str]) -> bool:
    """Whether there are LoRA parts among tensors, by their names."""
    return any("lora_" in name for name in names)


def merge(
    tensors: Mapping[str, Tensor], settings: LoraSettings, file: Path, base: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """The whole model, and sentences on what was merged.

    ``tensors`` are those of an adapter's file, with ``base`` those of its base model; or without ``base`` those of a model that
    was saved with its adapter in it. Modules that were trained whole (``modules_to_save``, biases) replace those of the base.

    Raises:
        CheckpointMismatch: it is not plain LoRA, or does not fit the base model. Only LoRA of heads that it lacks is left out.
    """
    plain, saved, lora = _sorted_out(tensors, file)
    if not lora:
        raise CheckpointMismatch(f"checkpoint {file}: no LoRA parts in it (lora_A, lora_B); {MERGE}")
    strip, add = ("", "") if base is None else _between(lora, base, file)
    own = {_moved(name, strip, add): tensor for name, tensor in (plain | saved).items()}
    merged = dict(base or {}) | own
    # A head that the base's file lacks was random while the adapter was trained, and no embedding needs it.
    heads = [module for module in lora if HEAD.fullmatch(f"{module}.") and f"{_moved(module, strip, add)}.weight" not in merged]
    lora = {module: parts for module, parts in lora.items() if module not in heads}
    used = [settings.of(module) for module in lora]
    for (module, parts), (rank, scale) in zip(lora.items(), used, strict=True):
        _add(merged, _moved(module, strip, add), parts, rank, scale, settings.transposed, file)
    if not lora:
        raise CheckpointMismatch(f"checkpoint {file}: LoRA parts of heads alone, which its base model lacks; {MERGE}")
    ranks, scales = zip(*used, strict=True)
    notes = [f"LoRA merged into {len(lora)} layer{'s' * (len(lora) > 1)} (rank {_range(ranks)}, scale {_range(scales)})"]
    if base is not None and own:
        names = ", ".join(sorted(own)[:3]) + (", …" if len(own) > 3 else "")
        notes.append(f"{len(own)} tensors of the adapter itself ({names}) are used in place of the base model's")
    if heads:
        notes.append(f"LoRA parts of {', '.join(heads[:3])} are left out: the base model's file lacks these heads")
    if strip or add:
        difference = f"lack the base model's {add!r}" if add else f"begin with {strip!r}, unlike the base model's"
        notes.append(f"the adapter's names {difference}")
    if absent := [name for name in settings.targets if not any(f".{module}".endswith(f".{name}") for module in (*lora, *heads))]:
        notes.append(f"the adapter has no LoRA parts of {', '.join(absent[:4])}, which its configuration names")
    return merged, notes


def _sorted_out(
    tensors: Mapping[str, Tensor], file: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Tensors without LoRA, those trained whole in place of the base's, and the LoRA parts by module."""
    plain: dict[str, Tensor] = {}
    saved: dict[str, Tensor] = {}
    lora: dict[str, dict[str, Tensor]] = {}
    adapters = set()
    for original, tensor in tensors.items():
        name = original.removeprefix(_WRAPPER)
        if found := _PART.fullmatch(name):
            adapters.add(found["adapter"] or "")
            part = found["part"] + (".bias" if found["end"] == ".bias" else "")
            lora.setdefault(found["module"], {})[part] = tensor
        elif "lora_" in name:
            what = "DoRA, which is not merged here" if "magnitude" in name else "not a part of plain LoRA"
            raise CheckpointMismatch(f"checkpoint {file}: {original} is {what}; {MERGE}")
        elif ".modules_to_save." in name:
            saved[re.sub(r"\.modules_to_save\.(?:\w+\.(?=\w+$))?", ".", name)] = tensor
        elif _ORIGINAL.search(name) is None:
            plain[name.replace(".base_layer.", ".")] = tensor
    if len(adapters) > 1:
        names = ", ".join(sorted(name.lstrip(".") for name in adapters))
        raise CheckpointMismatch(f"checkpoint {file}: holds several adapters ({names[:80]}); merge the one that is meant")
    return plain, saved, lora


def _add(
    merged: dict[str, Tensor], module: str, parts: dict[str, Tensor], rank: int, scale: float, transposed: bool, file: Path
) -> None:
    """Add one layer's LoRA to its weight. An embedding's parts are transposed; those of a convolution are flat in A."""
    embedding = "lora_embedding_A" in parts
    a, b = (parts.get(f"lora_{'embedding_' if embedding else ''}{letter}") for letter in "AB")
    name = f"{module}.weight"
    weight = merged.get(name)
    if a is None or b is None:
        raise CheckpointMismatch(f"checkpoint {file}: {module} has only one of lora_A and lora_B; fetch it again")
    if weight is None:
        raise CheckpointMismatch(
            f"checkpoint {file}: LoRA parts of {module}, which its base model lacks; give the base it was trained on"
        )
    if len(a) != rank or b.numel() != b.shape[0] * rank:
        raise CheckpointMismatch(f"checkpoint {file}: {module} has a LoRA of rank {len(a)}, its configuration says {rank}")
    delta = b.flatten(1) @ a.flatten(1)  # (out, in) or, of a convolution, (out, in · kernel)
    if embedding or (transposed and weight.ndim == 2):
        delta = delta.T
    if delta.numel() != weight.numel() or len(delta) != len(weight):
        raise CheckpointMismatch(
            f"checkpoint {file}: the LoRA of {module} is for a weight of {tuple(delta.shape)}, its base model has "
            f"{tuple(weight.shape)}; give the base it was trained on"
        )
    merged[name] = weight + delta.reshape(weight.shape) * scale
    if (shift := parts.get("lora_B.bias")) is not None:
        bias = merged.get(f"{module}.bias")
        if bias is None or bias.shape != shift.shape:
            raise CheckpointMismatch(f"checkpoint {file}: the LoRA of {module} has a bias, its base model has none like it")
        merged[f"{module}.bias"] = bias + shift * scale


def _between(modules: Iterable[str], base: Mapping[str, Tensor], file: Path) -> tuple[str, str]:
    """The prefixes to take off the adapter's names and to put before them, so that the base has all but heads.

    An adapter of a bare encoder lacks the base prefix of a base that was saved with its head, and the other way round.
    """
    names = [f"{module}.weight" for module in modules]
    wanted = [name for name in names if not HEAD.fullmatch(name)] or names
    first = wanted[0]
    longer = [("", name.removesuffix(first)) for name in base if name.endswith(f".{first}")]
    shorter = [(first.removesuffix(name), "") for name in base if first.endswith(f".{name}")]
    lacking = {
        (strip, add): [name for name in wanted if not name.startswith(strip) or _moved(name, strip, add) not in base]
        for strip, add in [("", ""), *longer, *shorter]
    }
    best = min(lacking, key=lambda change: len(lacking[change]))
    if lacking[best]:
        raise CheckpointMismatch(
            f"checkpoint {file}: LoRA parts of {lacking[best][0].removesuffix('.weight')}, which its base model lacks; "
            "give the base it was trained on"
        )
    return best


def _moved(name: str, strip: str, add: str) -> str:
    return add + name.removeprefix(strip)


def _range(values: tuple) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
