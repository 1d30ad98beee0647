"""Reads weight files, and audits what a model took from them."""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapter import LoadAudit
from harness.errors import BadData, CheckpointMismatch, DataMissing

from .sources import sha256

_partial: ContextVar[bool] = ContextVar("partial_weights", default=False)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@contextmanager
def partial_weights(allowed: bool = True) -> Iterator[None]:
    """Within the block, a checkpoint may lack tensors. A run that allows this must record it."""
    token = _partial.set(allowed)
    try:
        yield
    finally:
        _partial.reset(token)


def weight_file(checkpoint: Path, *names: str) -> Path:
    """The file with the weights: ``checkpoint`` itself, or the first of ``names`` and WEIGHT_FILES that this folder has.

    Raises:
        DataMissing: there is no such file.
    """
    names = (*names, *WEIGHT_FILES)
    for candidate in (checkpoint, *(checkpoint / name for name in names)):
        if candidate.is_file():
            return candidate
    raise DataMissing(f"checkpoint {str(checkpoint)!r}: no such file, nor a folder with {' or '.join(names)}")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a torch pickle, by name, on the CPU. A pickle is never allowed to run code.

    Of a fairseq file, ``{"args": Namespace, "model": names to tensors}``, the model's are returned.

    Raises:
        BadData: the file is damaged, holds something else, or is a pickle with more than tensors in it.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]):  # holds values only; none of its code is called
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BadData(
            f"checkpoint {file}: a pickle with more than tensors in it was refused, not run; save its state_dict"
        ) from None
    except Exception as error:  # safetensors, zipfile and torch each raise their own kinds for a damaged file
        raise BadData(f"checkpoint {file}: cannot be read as weights ({str(error).splitlines()[0]}); fetch it again") from None
    if isinstance(state, Mapping) and isinstance(state.get("args"), argparse.Namespace):
        state = state.get("model")
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadData(f"checkpoint {file}: expected a state_dict (names to tensors); save model.state_dict()")
    return dict(state)


def read_config(file: Path, families: Sequence[str], name: str = "config.json") -> dict[str, Any]:
    """The configuration beside a weight file; empty if there is none.

    Raises:
        BadData: it is not a JSON object.
        CheckpointMismatch: its ``model_type`` is not one of ``families``.
    """
    path = file.with_name(name)
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadData(f"{path}: not JSON ({error}); fetch it again") from None
    if not isinstance(config, dict):
        raise BadData(f"{path}: expected a JSON object; fetch it again")
    family = config.get("model_type", families[0])  # the oldest files do not say
    if family not in families:
        raise CheckpointMismatch(f"{path}: model_type {family!r}, expected {' or '.join(families)}; 0 tensors were loaded")
    return config


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
        if not torch.equal(renamed.setdefault(name, tensor), tensor):
            raise CheckpointMismatch(f"checkpoint {file}: {original} should be tied to {name}, but their values differ")
    return renamed


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> LoadAudit:
    """Copy ``tensors``, named as in ``module.state_dict()``, into the module: all that it expects, or none.

    Within :func:`partial_weights` those that match are copied, and the audit warns how many stayed random.

    Raises:
        CheckpointMismatch: a tensor that the module expects is missing or has another shape.
    """
    expected = module.state_dict()
    missing = tuple(name for name in expected if name not in tensors or tensors[name].shape != expected[name].shape)
    matched = len(expected) - len(missing)
    if missing and not (_partial.get() and matched):
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise CheckpointMismatch(
            f"checkpoint {file}: {matched} of {len(expected)} tensors match {type(module).__name__}; "
            f"not there, or of another shape: {shown}"
        )
    module.load_state_dict({name: tensors[name] for name in expected if name not in missing}, strict=not missing)
    unused = tuple(sorted(set(tensors) - set(expected)))
    warnings = (
        (f"partial weights: {len(missing)} of {len(expected)} tensors are not in the file and stay random",) if missing else ()
    )
    return LoadAudit(str(file), sha256(file), len(expected), matched, missing, unused, warnings=warnings)
