"""Checks of adapters' options, one message each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from harness.errors import UserError

T = TypeVar("T")


LONG_WINDOWS = ("refuse", "chunks")  # of models that can read a window in pieces


def checked(option: str, value: str, allowed: Iterable[str]) -> str:
    """``value``, if the option may have it.

    Raises:
        UserError: otherwise.
    """
    if value not in (choices := tuple(allowed)):
        raise UserError(f"option {option}={value!r}: choose one of {', '.join(choices)}")
    return value


def of_size(model: str, size: str, sizes: Mapping[str, T]) -> T:
    """The shape that a model has at random initialisation.

    Raises:
        UserError: no such size.
    """
    if size not in sizes:
        raise UserError(f"size {size!r}: {model} comes as {', '.join(sizes)}")
    return sizes[size]


def checked_block(layer: int | None, blocks: int) -> int | None:
    """The block, counted from 1, whose states are asked for; None for those that are pooled.

    Raises:
        UserError: no such block.
    """
    if layer is not None and not 1 <= layer <= blocks:
        raise UserError(f"layer {layer}: choose 1 to {blocks}, or leave it out for what the model pools")
    return layer


def checked_layer(layer: int, layers: int, pooling: str) -> int:
    """The number of layers to run for ``layer``: 0 is the embeddings, 1 the first layer, -1 the last.

    Raises:
        UserError: no such layer, or one that the pooler was not trained on.
    """
    if not -1 <= layer <= layers:
        raise UserError(f"option layer={layer}: choose 0 (embeddings) to {layers}, or -1 for the last")
    if pooling == "pooler" and layer not in (-1, layers):
        raise UserError(f"option layer={layer}: the pooler reads the last one; leave it out, or choose cls or mean as pooling")
    return layers if layer == -1 else layer
