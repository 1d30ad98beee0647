"""The convolution by our own CUDA kernels, ``conv.cu``: any width and layout of memory, read in either direction.

Nothing is copied or flipped, and no result depends on the order in which threads run. Tensors keep their types; everything is
computed in float64 if one of them is float64, in float32 otherwise. How rows are cut into pieces depends on shapes alone, so that
results do not depend on how large the card is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _cuda
from ..precision import computed_in

SOURCE = Path(__file__).with_name("conv.cu")
THREADS = 128  # of a block, at most
TILE = 8  # steps whose inputs are loaded at once
SHORTEST_PIECE = 32  # steps
ENOUGH_THREADS = 2**19  # rows are cut into pieces until there are so many


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_states: Tensor | None, reverse: bool = False
) -> Tensor:
    """out (batch, channels, length) in x's type, a view of channel-last memory. It has no second derivatives."""
    return _forward(*map(_cuda.readable, (x, weight, bias, initial_states)), silu, reverse).to(x.dtype)


def variants() -> Iterator[dict[str, str]]:
    """The macros of conv.cu: Mamba's, HyenaDNA's, the widest and the narrowest filters, and types as they come."""
    float32, float64, bf16, fp16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
    for width, silu in (4, True), (3, False), (16, True), (1, False):
        yield _defines(float32, (bf16, float32, float32, bf16), width, silu)  # as under autocast
        yield _defines(float32, (float32,) * 4, width, silu)
    for kind in bf16, fp16, float64:
        yield _defines(float64 if kind == float64 else float32, (kind,) * 4, 4, True)


@torch.library.custom_op("harness::causal_conv1d", mutates_args=())
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, initial_states: Tensor | None, silu: bool, reverse: bool) -> Tensor:
    out = _cuda.channel_last(x, x.shape)
    _launch("conv_forward", 0, x, weight, bias, initial_states, silu, reverse, out)
    return out


@torch.library.custom_op("harness::causal_conv1d_backward", mutates_args=())
def _backward(
    dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, initial_states: Tensor | None, silu: bool, reverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and initial_states; those of tensors that were not given are empty."""
    channels, width = weight.shape
    dx, dweight, dbias, dstates = _gradients(x, weight, bias, initial_states)
    items, _ = _pieces(x, width - 1)
    partial = x.new_empty(items * x.shape[0], width + 1, channels, dtype=computed_in(x, weight, bias, initial_states))
    values = dout, *dout.stride(), dx, None if initial_states is None else dstates, partial
    _launch("conv_backward", width - 1, x, weight, bias, initial_states, silu, reverse, *values)
    total = partial.sum(0)
    dweight.copy_(total[:width].T)
    if bias is not None:
        dbias.copy_(total[width])
    return dx, dweight, dbias, dstates


def _gradients(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_states: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dbias, dstates = (x.new_empty(0) if given is None else given.new_empty(given.shape) for given in (bias, initial_states))
    return _cuda.channel_last(x, x.shape), weight.new_empty(weight.shape), dbias, dstates


@_forward.register_fake
def _(x, weight, bias, initial_states, silu, reverse):
    return _cuda.channel_last(x, x.shape)


@_backward.register_fake
def _(dout, x, weight, bias, initial_states, silu, reverse):
    return _gradients(x, weight, bias, initial_states)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.silu, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    given = ctx.saved_tensors
    gradients = _backward(dout, *given, ctx.silu, ctx.reverse)
    return *(None if tensor is None else gradient for tensor, gradient in zip(given, gradients)), None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _pieces(x: Tensor, beyond: int) -> tuple[int, int]:
    """Into how many pieces a row is cut, and their steps. A piece's walk, ``beyond`` steps longer than it, fills whole tiles."""
    length = x.shape[2]
    steps = max(-(-x.numel() // ENOUGH_THREADS), SHORTEST_PIECE)
    steps = -(-length // -(-length // steps))  # pieces of one size
    steps = -(-(steps + beyond) // TILE) * TILE - beyond
    return -(-length // steps), steps


def _launch(
    kernel: str,
    beyond: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool,
    *values: _cuda.Value,
) -> None:
    batch, channels, length = x.shape
    pieces, steps = _pieces(x, beyond)
    blocks = -(-channels // THREADS)
    threads = -(-channels // (32 * blocks)) * 32
    strides = (
        *x.stride(), *weight.stride(), *(bias.stride() if bias is not None else (0,)),
        *(initial_states.stride() if initial_states is not None else (0, 0, 0)),
    )  # fmt: skip
    given = x, weight, bias, initial_states, *strides, channels, length, steps, pieces, int(reverse)
    types = [x.dtype if tensor is None else tensor.dtype for tensor in (x, weight, bias, initial_states)]
    defines = _defines(computed_in(x, weight, bias, initial_states), types, weight.shape[1], silu)
    _cuda.launch(SOURCE, kernel, (batch * pieces * blocks, 1, 1), threads, (*given, *values), defines)


def _defines(accumulated: torch.dtype, types: Sequence[torch.dtype], width: int, silu: bool) -> dict[str, str]:
    names = zip(("ACC", "X", "WEIGHT", "BIAS", "STATES"), (accumulated, *types))
    numbers = {"WIDTH": width, "SILU": silu, "TILE": TILE, "THREADS": THREADS}
    return {name: _cuda.TYPES[dtype] for name, dtype in names} | {name: str(int(value)) for name, value in numbers.items()}
