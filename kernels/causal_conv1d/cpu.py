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
def _filtered(x, x_at, x_step, t, missing, weight, bias, at, size, W, count):
    """bias + sum_k weight_k x_{t - missing + k} for the block of channels at `at`; x is zero before the first row."""
    total = load(bias, at)
    for k in range(max(missing - t, 0), W):
        total = total + load(weight, k * size + at) * load_some(x, x_at + (t - missing + k) * x_step, count)
    return total


@kernel
def _forward(x, weight, bias, silu, out, x_step, shape, first, last):
    """out (batch, length, channels) for batch elements first … last - 1, from x (batch, before + length, channels).

    weight is (width, channels rounded up to LANES), bias (channels rounded up).
    """
    length, channels, W, before, size = shape
    for batch in range(first, last):
        for t in range(length):
            for at in range(0, size, LANES):
                count = min(LANES, channels - at)
                x_at = batch * (before + length) * x_step + at
                y = _filtered(x, x_at, x_step, t, W - 1 - before, weight, bias, at, size, W, count)
                if silu:
                    y = y * sigmoid(y)
                store_some(out, (batch * length + t) * channels + at, count, y)


@kernel
def _backward(x, weight, bias, silu, dout, x_step, dout_step, shape, dx, dweight, dbias, first, last):
    """Gradients for batch elements first … last - 1; dx, dweight and dbias (both with a leading batch) start at zero."""
    length, channels, W, before, size = shape
    for batch in range(first, last):
        for t in range(length):
            for at in range(0, size, LANES):
                count = min(LANES, channels - at)
                missing = W - 1 - before
                x_at = batch * (before + length) * x_step + at
                dy = load_some(dout, (batch * length + t) * dout_step + at, count)
                if silu:
                    y = _filtered(x, x_at, x_step, t, missing, weight, bias, at, size, W, count)
                    s = sigmoid(y)
                    dy = dy * (s * (1.0 + y * (1.0 - s)))
                store(dbias, batch * size + at, load(dbias, batch * size + at) + dy)
                for k in range(max(missing - t, 0), W):
                    i = t - missing + k
                    j = (batch * W + k) * size + at
                    store(dweight, j, load(dweight, j) + dy * load_some(x, x_at + i * x_step, count))
                    j = (batch * (before + length) + i) * channels + at
                    store_some(dx, j, count, load_some(dx, j, count) + dy * load(weight, k * size + at))


class CausalConv1d(torch.autograd.Function):
    """x (batch, before + length, channels), weight (channels, width) → (batch, length, channels); before is 0 or width - 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, before: int) -> Tensor:  # type: ignore[override]
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
        share_out(_forward, batch, x_rows, flat(packed_weight), flat(packed_bias), silu, flat(out), x_step, shape)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, packed_weight, packed_bias)
            ctx.shape, ctx.silu, ctx.has_bias = shape, silu, bias is not None
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
            _backward, batch, x_rows, flat(weight), flat(bias), ctx.silu, dout_rows, x_step, dout_step, ctx.shape,
            flat(dx), flat(dweight), flat(dbias),
        )  # fmt: skip
        dbias = ordered_sum(dbias, 0)[:channels] if ctx.has_bias else None
        return dx, ordered_sum(dweight, 0)[:, :channels].T, dbias, None, None


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_states: Tensor | None, reverse: bool = False
) -> Tensor:
    """out (batch, channels, length), in the floating type of the arguments (float32 or float64)."""
    if reverse:
        x, initial_states = x.flip(-1), None if initial_states is None else initial_states.flip(-1)
    x = x.transpose(1, 2)
    before = 0
    if initial_states is not None:
        before = initial_states.shape[2]
        x = torch.cat([initial_states.transpose(1, 2), x], dim=1)
    out = CausalConv1d.apply(x, weight, bias, silu, before).transpose(1, 2)  # type: ignore[union-attr]
    return out.flip(-1) if reverse else out
