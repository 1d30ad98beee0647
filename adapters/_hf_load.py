"""Models of ``transformers`` from weight files, with the audit of what was loaded; and what is true of any of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapter import LoadAudit
from harness.errors import CheckpointMismatch, UserError
from harness.files.checkpoint import audit_from_loading_info, check_size, read_tensors

from ._hf_config import Kind, model_class

LARGE = 1_000_000_000  # parameters from which weights are held in bfloat16 unless told otherwise
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
# Parts of a base model that no embedding needs: poolers may be random, and ESM's contacts are not asked for.
UNNEEDED = ("pooler", "contact_head")
# Mamba's fast path reads the weights of its other layers without calling them, so that LoRA would have no effect there.
CALLED = {"mamba": ("in_proj",), "mamba2": ("in_proj",), "falcon_mamba": ("in_proj",)}


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' own reports and progress bars: the audit says what they would."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load(config: Any, kind: Kind, file: Path, dtype: str, notes: Sequence[str]) -> tuple[nn.Module, Kind, LoadAudit]:
    """The model of a configuration with the weights of a file; its kind is ``encoder`` where the file holds no language head.

    ``dtype`` is float32, bf16 or auto (bf16 above LARGE); ``notes`` are said with the audit.

    Raises:
        CheckpointMismatch: tensors are missing, have another shape, or belong to another architecture.
    """
    tensors = read_tensors(file)
    if whole := [name for name, tensor in tensors.items() if name.endswith(".weight") and not tensor.is_floating_point()]:
        raise CheckpointMismatch(
            f"checkpoint {file}: {whole[0]} holds whole numbers, as of quantised weights; save it in float32"
        )
    size = sum(tensor.numel() for tensor in tensors.values())
    held = DTYPES["bf16" if dtype == "auto" and size > LARGE else "float32" if dtype == "auto" else dtype]
    model, info = _filled(model_class(config, kind), config, tensors, held)
    if kind != "encoder" and _only_head_lacks(model, info):
        kind = "encoder"
        model, info = _filled(model_class(config, kind), config, tensors, held)
    unneeded = [name for name in info["missing_keys"] if any(part in name.split(".") for part in UNNEEDED)]
    info = {**info, "missing_keys": set(info["missing_keys"]) - set(unneeded)}
    _drop_unneeded(base_of(model))
    audit = audit_from_loading_info(model, info, file)
    words = [*notes]
    if held is not torch.float32:
        words.append(f"{size / 1e9:.1f} B parameters: its weights are held in bf16; --option dtype=float32 holds them whole")
    return model, kind, replace(audit, warnings=(*audit.warnings, *words))


def untrained(config: Any, kind: Kind, dtype: str) -> nn.Module:
    """The model of a configuration with random weights, drawn from torch's generator."""
    cls: Any = model_class(config, kind)
    with quietly():
        model = cls(config, **_without_pooler(cls))
    _drop_unneeded(base_of(model))
    return model.to(DTYPES["float32" if dtype == "auto" else dtype])


def _filled(cls: Any, config: Any, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[nn.Module, dict[str, Any]]:
    keywords: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with quietly():
            model, info = cls.from_pretrained(None, config=config, state_dict=dict(tensors), **keywords, **_without_pooler(cls))
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        what = f"transformers cannot build {cls.__name__} as config.json describes it ({type(error).__name__}: {reason})"
        raise CheckpointMismatch(f"{what}; 0 tensors were loaded") from None
    return model, info


def _without_pooler(cls: type) -> dict[str, bool]:
    """What keeps a class from building a pooler, which would be random where the file has none."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(cls.__init__).parameters else {}


def base_of(model: nn.Module) -> nn.Module:
    """The part of a model that makes hidden states."""
    return model.base_model  # type: ignore[return-value]


@contextmanager
def entering(model: nn.Module, layer: int, blocks: int) -> Iterator[list[Tensor]]:
    """A list that a forward pass fills with the states that leave block ``layer``; it stays empty for the last one.

    They are taken where they enter the next block. transformers' own ``output_hidden_states`` leaves hooks behind that cannot
    be pickled.

    Raises:
        UserError: the model's blocks share their weights, or are no list.
    """
    found: list[Tensor] = []
    if layer == blocks:
        yield found
        return
    lists = (it for it in base_of(model).modules() if isinstance(it, nn.ModuleList) and len(it) == blocks)
    if (chain := next(lists, None)) is None:
        raise UserError(f"layer {layer}: of {type(model).__name__}, whose blocks are no list, only the last layer is read")

    def take(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append(given[0] if given else named["hidden_states"])

    hook = chain[layer].register_forward_pre_hook(take, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


def _drop_unneeded(base: nn.Module) -> None:
    for name in UNNEEDED:
        if isinstance(getattr(base, name, None), nn.Module):
            setattr(base, name, nn.Identity())


def _only_head_lacks(model: nn.Module, info: Mapping[str, Any]) -> bool:
    """Whether all that is missing belongs to the language head, and the base was found."""
    base = {f"{model.base_model_prefix}.{name}" for name, _ in base_of(model).named_parameters()}
    missing = set(info["missing_keys"])
    return bool(missing) and not any(name in base for name in missing)


def freeze_unused(model: nn.Module, output: Tensor) -> set[int]:
    """Turn ``requires_grad`` off for what an output does not depend on; the ids of what it does. No gradient is computed.

    Experts, of which few are asked by one batch, always count as used.
    """
    used, seen, left = set[int](), set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            used.add(id(variable))
        left += [following for following, _ in node.next_functions]
    for name, parameter in model.named_parameters():
        if id(parameter) not in used and not ("expert" in name and name.startswith(f"{model.base_model_prefix}.")):
            parameter.requires_grad_(False)
    return used


def is_linear(module: nn.Module) -> bool:
    """Whether LoRA can adapt a module: nn.Linear, or GPT-2's layer of the same kind."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def lora_layers(model: nn.Module, family: str, called: set[str], used: set[int]) -> tuple[str, ...]:
    """Name endings of the layers that LoRA adapts: peft's own choice for the architecture, else every linear layer of the blocks.

    ``called`` are the names of the modules that a forward pass calls, ``used`` the ids of the parameters that the embedding
    depends on.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as mapping

    layers = {name: it for name, it in model.named_modules() if is_linear(it) and name in called and id(it.weight) in used}
    in_blocks = {name for name in layers if re.search(r"\.\d+\.", f".{name}")}
    wanted = CALLED.get(family) or mapping.get(family) or ()
    chosen = {name for name in in_blocks if any(f".{name}".endswith(f".{ending}") for ending in wanted)} or in_blocks
    if not chosen:
        return ()
    endings = {re.sub(r"^.*\.\d+\.", "", name) for name in chosen}
    matched = {name for name, _ in model.named_modules() if any(f".{name}".endswith(f".{ending}") for ending in endings)}
    return tuple(sorted(endings if matched == chosen else chosen))


def prepare(config: Any) -> list[str]:
    """Settings that make an embedding independent of the batch, and what is to be said of them."""
    config.use_cache = False
    for name in ("output_attentions", "output_hidden_states"):
        setattr(config, name, False)
    config.return_dict = True
    if getattr(config, "attention_type", None) == "block_sparse":
        config.attention_type = "original_full"
        dense = (5 + 2 * config.num_random_blocks) * config.block_size
        return [f"attention: in full, where the model was trained with random blocks in windows of more than {dense} tokens"]
    return []


def checkpoint_gradients(model: Any) -> None:
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UserError(f"option gradient_checkpointing: {type(model).__name__} cannot do that; leave it out")
    if hasattr(model, "activation_checkpointing_enable"):  # the newer name
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def token_limit(model: nn.Module, config: Any) -> int | None:
    """The most tokens that a model reads at once, special ones included; None where its configuration names no limit."""
    limit = next(
        (it for it in (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")) if it and it > 0), None
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith(("position_embeddings", "embed_positions", "wpe")):
            limit = module.num_embeddings
            if module.padding_idx is not None and "embeddings.position" in name:  # RoBERTa and ESM count from the padding's index
                limit -= module.padding_idx + 1
    return limit


def checked_dtype(dtype: str) -> str:
    """``dtype``, if it is one of auto, float32 and bf16.

    Raises:
        UserError: otherwise.
    """
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"option dtype={dtype!r}: choose one of auto, {', '.join(DTYPES)}")
    return dtype


def check_fits(config: Any, kind: Kind, file: Path) -> None:
    """Refuse a configuration that describes a far larger model than the weight file holds, before it is built."""
    with torch.device("meta"), quietly():
        try:
            parameters = sum(parameter.numel() for parameter in model_class(config, kind)(config).parameters())
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointMismatch(
                f"checkpoint {file}: its config.json describes no model ({type(error).__name__}: {reason})"
            ) from None
    check_size(parameters, file)
