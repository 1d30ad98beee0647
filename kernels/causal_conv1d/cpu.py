"""Causal depthwise convolution with bias and silu on CPU (Numba), on channel-last memory, `LANES` channels at a time.

Gradients of weight and bias are summed per batch element and then over the batch in the order of the index, so that
results are the same bits on any number of threads.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import Any

import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._compile import kernel
from .._lanes import LANES, load, load_some, sigmoid, store, store_some
from .._threads import flat, ordered_sum, rows, share_out


@njit(nogil=True)
def _first(batch, length, step, reverse):
    """Where the row that is read first stands in memory, and the distance to the row that is read next."""
    return ((batch + 1) * length * step - step, -step) if reverse else (batch * length * step, step)


@njit(nogil=True)
def _filtered(x, x_at, x_step, t, missing, weight, bias, at, size, W, count):
    """bias + sum_k weight_k x_{t - missing + k} for the block of channels at `at`; x is zero before the first row."""
    total = load(bias, at)
    for k in range(max(missing - t, 0), W):
        total = total + load(weight, k * size + at) * load_some(x, x_at + (t - missing + k) * x_step, count)
    return total


@kernel
def _forward(x, weight, bias, silu, reverse, out, x_step, shape, first, last):
    """out (batch, length, channels) for batch elements first … last - 1, from x (batch, before + length, channels).

    weight is (width, channels rounded up to LANES), bias (channels rounded up). With `reverse`, x is (batch, length + before,
    channels), and both are walked from their ends.
    """
    length, channels, W, before, size = shape
    for batch in range(first, last):
        x_first, x_move = _first(batch, before + length, x_step, reverse)
        out_first, out_move = _first(batch, length, channels, reverse)
        for t in range(length):
            for at in range(0, size, LANES):
                count = min(LANES, channels - at)
                y = _filtered(x, x_first + at, x_move, t, W - 1 - before, weight, bias, at, size, W, count)
                if silu:
                    y = y * sigmoid(y)
                store_some(out, out_first + t * out_move + at, count, y)


@kernel
def _backward(x, weight, bias, silu, reverse, dout, x_step, dout_step, shape, dx, dweight, dbias, first, last):
    """Gradients for batch elements first … last - 1; dx, dweight and dbias (both with a leading batch) start at zero."""
    length, channels, W, before, size = shape
    missing = W - 1 - before
    for batch in range(first, last):
        x_first, x_move = _first(batch, before + length, x_step, reverse)
        dx_first, dx_move = _first(batch, before + length, channels, reverse)
        dout_first, dout_move = _first(batch, length, dout_step, reverse)
        for t in range(length):
            for at in range(0, size, LANES):
                count = min(LANES, channels - at)
                dy = load_some(dout, dout_first + t * dout_move + at, count)
                if silu:
                    y = _filtered(x, x_first + at, x_move, t, missing, weight, bias, at, size, W, count)
                    s = sigmoid(y)
                    dy = dy * (s * (1.0 + y * (1.0 - s)))
                store(dbias, batch * size + at, load(dbias, batch * size + at) + dy)
                for k in range(max(missing - t, 0), W):
                    i = t - missing + k
                    j = (batch * W + k) * size + at
                    store(dweight, j, load(dweight, j) + dy * load_some(x, x_first + i * x_move + at, count))
                    j = dx_first + i * dx_move + at
                    store_some(dx, j, count, load_some(dx, j, count) + dy * load(weight, k * size + at))


class CausalConv1d(torch.autograd.Function):
    """x (batch, before + length, channels), weight (channels, width) → (batch, length, channels); before is 0 or width - 1."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, before: int, reverse: bool
    ) -> Tensor:
        batch, length, channels = x.shape[0], x.shape[1] - before, x.shape[2]
        width = weight.shape[1]
        size = -(-channels // LANES) * LANES
        packed_weight, packed_bias = x.new_zeros(width, size), x.new_zeros(size)
        packed_weight[:, :channels] = weight.T
        if bias is not None:
            packed_bias[:channels] = bias
        out = x.new_empty(batch, length, channels)
        x_rows, x_step = rows(x)
        shape = length, channels, width, before, size
        share_out(_forward, batch, x_rows, flat(packed_weight), flat(packed_bias), silu, reverse, flat(out), x_step, shape)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, packed_weight, packed_bias)
            ctx.shape, ctx.silu, ctx.reverse, ctx.has_bias = shape, silu, reverse, bias is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias = ctx.saved_tensors
        batch, channels = x.shape[0], x.shape[2]
        dx = torch.zeros_like(x, memory_format=torch.contiguous_format)
        dweight, dbias = x.new_zeros(batch, *weight.shape), x.new_zeros(batch, *bias.shape)
        (x_rows, x_step), (dout_rows, dout_step) = rows(x), rows(dout)
        share_out(
            _backward, batch, x_rows, flat(weight), flat(bias), ctx.silu, ctx.reverse, dout_rows, x_step, dout_step,
            ctx.shape, flat(dx), flat(dweight), flat(dbias),
        )  # fmt: skip
        dbias = ordered_sum(dbias, 0)[:channels] if ctx.has_bias else None
        return dx, ordered_sum(dweight, 0)[:, :channels].T, dbias, None, None, None


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_states: Tensor | None, reverse: bool = False
) -> Tensor:
    """out (batch, channels, length), in the floating type of the arguments (float32 or float64)."""
    x = x.transpose(1, 2)
    before = 0
    if initial_states is not None:
        before = initial_states.shape[2]
        seen = (x, initial_states.transpose(1, 2)) if reverse else (initial_states.transpose(1, 2), x)
        x = torch.cat(seen, dim=1)
    return CausalConv1d.apply(x, weight, bias, silu, before, reverse).transpose(1, 2)  # type: ignore[union-attr]
