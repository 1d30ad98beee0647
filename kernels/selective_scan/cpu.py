"""Selective scan on CPU (Numba) with exact gradients, which stores states at chunk borders only.

Memory is channel-last. Channels are processed in blocks of `LANES`, and a chunk of time steps is finished for all blocks
before the next chunk begins, so that the memory of a chunk stays in cache. The forward pass keeps the states at chunk
borders; the backward pass recomputes the states of one chunk and block from its border, then walks the chunk in reverse.

Work is divided into items: one batch element, one group of channels, one share of that group's blocks. The division
depends on shapes only, and partial sums are added in a fixed order, so that results are the same bits on any number of
threads.

Step t of a scan is row t of a batch element, or with ``reverse``, when ``ahead`` is -1 rather than 1, row length - 1 - t.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

import math
from typing import Any

import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._compile import kernel
from .._lanes import (
    LANES,
    LOG2_E,
    lane_sum,
    load,
    load_some,
    scratch,
    sigmoid,
    softplus_and_slope,
    spread,
    store,
    store_some,
    zeros_like,
)
from .._lanes import exp2 as power_of_two
from .._threads import flat, ordered_sum, rows, share_out

LN_2 = math.log(2)

# Steps per chunk times states. Longer chunks keep fewer states in memory, but their working set, four times this many
# vectors, should fit into a core's second-level cache (128 KiB in float32).
CHUNK_STATES = 512


@njit(nogil=True)
def _enter(u, delta, u_at, u_step, delta_at, delta_step, T, count, bias, softplus, x_, d_, slope_):
    """Write u, delta and d delta / d (raw delta) of T steps of one block into x_, d_ and slope_.

    This is a separate pass because its steps are independent of each other, so that their arithmetic overlaps.
    """
    for t in range(T):
        d = load_some(delta, delta_at + t * delta_step, count) + bias
        if softplus:
            d, slope = softplus_and_slope(d)
            store(slope_, t * LANES, slope)
        store(d_, t * LANES, d)
        store(x_, t * LANES, load_some(u, u_at + t * u_step, count))


@kernel
def _forward(u, delta, z, B, C, A, D, bias, softplus, out, states, steps, shape, first, last):
    """out and states for items first … last - 1.

    A (times log2 e), D and bias come in blocks of lanes: (groups, blocks, [state,] LANES). states is (batch, borders,
    groups, blocks, state, LANES): with one border it is the running state, with more it holds the state before every
    chunk and, last, the final one.
    """
    u_step, delta_step, z_step, B_step, C_step = steps
    length, groups, width, N, blocks, splits, chunk, borders, ahead = shape
    out_step, first_row = groups * width, 0 if ahead > 0 else length - 1
    u_ahead, delta_ahead, B_ahead, C_ahead = ahead * u_step, ahead * delta_step, ahead * B_step, ahead * C_step
    x_, d_, y_ = scratch(chunk * LANES, u), scratch(chunk * LANES, u), scratch(chunk * LANES, u)
    for item in range(first, last):
        batch, group, split = item // (groups * splits), item // splits % groups, item % splits
        for start in range(0, length, chunk):
            T = min(chunk, length - start)
            row = batch * length + first_row + ahead * start
            border = batch * borders + min(start // chunk, borders - 1)
            following = batch * borders + min(start // chunk + 1, borders - 1)
            B_at, C_at = row * B_step + group * N, row * C_step + group * N
            for block in range(blocks * split // splits, blocks * (split + 1) // splits):
                count = min(LANES, width - block * LANES)
                channel = group * width + block * LANES
                lanes = (group * blocks + block) * LANES
                A_at = lanes * N
                before = (border * groups * blocks * LANES + lanes) * N
                h_at = (following * groups * blocks * LANES + lanes) * N
                if h_at != before:
                    for i in range(0, N * LANES, LANES):
                        store(states, h_at + i, load(states, before + i))
                u_at, delta_at = row * u_step + channel, row * delta_step + channel
                _enter(u, delta, u_at, u_ahead, delta_at, delta_ahead, T, count, load(bias, lanes), softplus, x_, d_, y_)
                for t in range(T):
                    x, d = load(x_, t * LANES), load(d_, t * LANES)
                    dx, y = d * x, load(D, lanes) * x
                    for n in range(N):
                        i = n * LANES
                        h = power_of_two(d * load(A, A_at + i)) * load(states, h_at + i) + dx * spread(B, B_at + t * B_ahead + n)
                        store(states, h_at + i, h)
                        y = y + h * spread(C, C_at + t * C_ahead + n)
                    store(y_, t * LANES, y)
                for t in range(T):
                    y = load(y_, t * LANES)
                    if z.size:
                        gate = load_some(z, (row + ahead * t) * z_step + channel, count)
                        y = y * (gate * sigmoid(gate))
                    store_some(out, (row + ahead * t) * out_step + channel, count, y)


@kernel
def _backward(
    u, delta, z, B, C, A, D, bias, softplus, states, dout, steps, shape,
    du, ddelta, dz, dB, dC, dA, dD, dbias, dh, first, last,
):  # fmt: skip
    """Gradients for items first … last - 1; dh (batch, groups, blocks, state, LANES) is the last state's, and is overwritten.

    dB and dC are (batch, splits, length, groups, state); dA, dD and dbias have a leading batch and start at zero.
    """
    u_step, delta_step, z_step, B_step, C_step, dout_step = steps
    length, groups, width, N, blocks, splits, chunk, borders, ahead = shape
    out_step, NL, first_row = groups * width, N * LANES, 0 if ahead > 0 else length - 1
    u_ahead, delta_ahead, B_ahead, C_ahead = ahead * u_step, ahead * delta_step, ahead * B_step, ahead * C_step
    h_, a_ = scratch((chunk + 1) * NL, u), scratch(chunk * NL, u)
    dB_, dC_ = scratch(chunk * NL, u), scratch(chunk * NL, u)
    x_, d_, slope_ = scratch(chunk * LANES, u), scratch(chunk * LANES, u), scratch(chunk * LANES, u)
    y_, dy_ = scratch(chunk * LANES, u), scratch(chunk * LANES, u)
    for item in range(first, last):
        batch, group, split = item // (groups * splits), item // splits % groups, item % splits
        for border in range(borders - 2, -1, -1):
            start = border * chunk
            T = min(chunk, length - start)
            row = batch * length + first_row + ahead * start
            B_at, C_at = row * B_step + group * N, row * C_step + group * N
            dB_[: T * NL] = 0
            dC_[: T * NL] = 0
            for block in range(blocks * split // splits, blocks * (split + 1) // splits):
                count = min(LANES, width - block * LANES)
                channel = group * width + block * LANES
                lanes = (group * blocks + block) * LANES
                A_at = lanes * N
                before = ((batch * borders + border) * groups * blocks * LANES + lanes) * N
                sums = batch * groups * blocks * LANES + lanes
                dh_at = sums * N

                u_at, delta_at = row * u_step + channel, row * delta_step + channel
                _enter(u, delta, u_at, u_ahead, delta_at, delta_ahead, T, count, load(bias, lanes), softplus, x_, d_, slope_)
                for i in range(0, NL, LANES):
                    store(h_, i, load(states, before + i))
                for t in range(T):
                    x, d = load(x_, t * LANES), load(d_, t * LANES)
                    dx, y = d * x, load(D, lanes) * x
                    for n in range(N):
                        i = t * NL + n * LANES
                        a = power_of_two(d * load(A, A_at + n * LANES))
                        h = a * load(h_, i) + dx * spread(B, B_at + t * B_ahead + n)
                        store(a_, i, a)
                        store(h_, i + NL, h)
                        y = y + h * spread(C, C_at + t * C_ahead + n)
                    store(y_, t * LANES, y)
                dD_ = load(dD, sums)
                for t in range(T):
                    dy = load_some(dout, (row + ahead * t) * dout_step + channel, count)
                    if z.size:
                        gate = load_some(z, (row + ahead * t) * z_step + channel, count)
                        s = sigmoid(gate)
                        dgate = dy * load(y_, t * LANES) * s * (1.0 + gate * (1.0 - s))
                        store_some(dz, (row + ahead * t) * out_step + channel, count, dgate)
                        dy = dy * (gate * s)
                    dD_ = dD_ + dy * load(x_, t * LANES)
                    store(dy_, t * LANES, dy)
                store(dD, sums, dD_)

                D_, dbias_ = load(D, lanes), load(dbias, sums)
                for t in range(T - 1, -1, -1):
                    x, d, dy = load(x_, t * LANES), load(d_, t * LANES), load(dy_, t * LANES)
                    dx = d * x
                    ddx, dd = zeros_like(x), zeros_like(x)
                    for n in range(N):
                        i = t * NL + n * LANES
                        g = load(dh, dh_at + n * LANES) + dy * spread(C, C_at + t * C_ahead + n)
                        store(dC_, i, load(dC_, i) + dy * load(h_, i + NL))
                        store(dB_, i, load(dB_, i) + g * dx)
                        ddx = ddx + g * spread(B, B_at + t * B_ahead + n)
                        g = g * load(a_, i)
                        store(dh, dh_at + n * LANES, g)
                        g = g * load(h_, i)  # the gradient of delta * A
                        dd = dd + g * load(A, A_at + n * LANES)
                        store(dA, dh_at + n * LANES, load(dA, dh_at + n * LANES) + g * d)
                    dd = dd * LN_2 + ddx * x
                    if softplus:
                        dd = dd * load(slope_, t * LANES)
                    dbias_ = dbias_ + dd
                    store_some(du, (row + ahead * t) * out_step + channel, count, ddx * d + dy * D_)
                    store_some(ddelta, (row + ahead * t) * out_step + channel, count, dd)
                store(dbias, sums, dbias_)
            for t in range(T):
                at = (((batch * splits + split) * length + first_row + ahead * (start + t)) * groups + group) * N
                for n in range(N):
                    dB[at + n] = lane_sum(load(dB_, t * NL + n * LANES))
                    dC[at + n] = lane_sum(load(dC_, t * NL + n * LANES))


def _pack(x: Tensor, groups: int, blocks: int) -> Tensor:
    """(..., channels, state) → (..., groups, blocks, state, LANES), with zeros in the lanes past the last channel."""
    x = x.unflatten(-2, (groups, -1))
    x = torch.nn.functional.pad(x, (0, 0, 0, blocks * LANES - x.shape[-2]))
    return x.unflatten(-2, (blocks, LANES)).transpose(-1, -2).contiguous()


def _unpack(x: Tensor, channels: int) -> Tensor:
    """The inverse of `_pack`."""
    groups = x.shape[-4]
    return x.transpose(-1, -2).flatten(-3, -2)[..., : channels // groups, :].flatten(-3, -2)


class SelectiveScan(torch.autograd.Function):
    """u, delta, z (batch, length, channels), B, C (batch, length, groups, state) → out, last_state (batch, channels, state).

    All tensors in one floating type. z, D and delta_bias may be None.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        delta_bias: Tensor | None, delta_softplus: bool, keep: bool, reverse: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        batch, length, channels = u.shape
        groups, N = B.shape[2:]
        width = channels // groups
        blocks = -(-width // LANES)
        # Enough items for the cores of a large machine, but each with enough blocks to be worth separate partial sums.
        splits = min(-(-32 // max(batch * groups, 1)), max(blocks // 4, 1))
        chunk = min(max(CHUNK_STATES // N, 2), 64)
        borders = -(-length // chunk) + 1 if keep else 1
        shape = (length, groups, width, N, blocks, splits, chunk, borders, -1 if reverse else 1)

        none = u.new_zeros(groups * width)
        packed_A = _pack(A * LOG2_E, groups, blocks)
        packed_D, packed_bias = (_pack((none if x is None else x)[:, None], groups, blocks) for x in (D, delta_bias))
        states = u.new_empty(batch, borders, groups, blocks, N, LANES)
        states[:, 0] = 0
        out = torch.empty_like(u, memory_format=torch.contiguous_format)
        inputs, steps = zip(*(rows(x) for x in (u, delta, _or_empty(z, u), B.flatten(2), C.flatten(2))), strict=True)
        share_out(
            _forward, batch * groups * splits, *inputs, flat(packed_A), flat(packed_D), flat(packed_bias), delta_softplus,
            flat(out), flat(states), steps, shape,
        )  # fmt: skip
        if keep:
            ctx.save_for_backward(u, delta, z, B, C, packed_A, packed_D, packed_bias, states)
            ctx.shape, ctx.softplus, ctx.optional = shape, delta_softplus, (D is not None, delta_bias is not None)
        ctx.set_materialize_grads(False)
        return out, _unpack(states[:, -1].clone(), channels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        u, delta, z, B, C, packed_A, packed_D, packed_bias, states = ctx.saved_tensors
        length, groups, _, N, blocks, splits, *_ = ctx.shape
        batch, _, channels = u.shape
        sums = batch, groups, blocks
        dh = u.new_zeros(*sums, N, LANES) if dlast is None else _pack(dlast, groups, blocks)
        dout = torch.zeros_like(u) if dout is None else dout
        du, ddelta = (torch.empty_like(u, memory_format=torch.contiguous_format) for _ in range(2))
        dz = None if z is None else torch.empty_like(du)
        dB, dC = (u.new_empty(batch, splits, length, groups, N) for _ in range(2))
        dA, dD, dbias = u.new_zeros(*sums, N, LANES), u.new_zeros(*sums, 1, LANES), u.new_zeros(*sums, 1, LANES)
        inputs, steps = zip(*(rows(x) for x in (u, delta, _or_empty(z, u), B.flatten(2), C.flatten(2), dout)), strict=True)
        share_out(
            _backward, batch * groups * splits, *inputs[:5], flat(packed_A), flat(packed_D), flat(packed_bias), ctx.softplus,
            flat(states), inputs[5], steps, ctx.shape,
            flat(du), flat(ddelta), flat(_or_empty(dz, u)), flat(dB), flat(dC), flat(dA), flat(dD), flat(dbias), flat(dh),
        )  # fmt: skip
        has_D, has_bias = ctx.optional
        return (
            du,
            ddelta,
            _unpack(ordered_sum(dA, 0), channels),
            ordered_sum(dB, 1),
            ordered_sum(dC, 1),
            _unpack(ordered_sum(dD, 0), channels)[:, 0] if has_D else None,
            dz,
            _unpack(ordered_sum(dbias, 0), channels)[:, 0] if has_bias else None,
            None,
            None,
            None,
        )


def _or_empty(x: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0, 0, 0) if x is None else x


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, reverse: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out and last_state, in the floating type of the arguments (float32 or float64); B and C have four dimensions."""
    tensors = [x for x in (u, delta, A, B, C, D, z, delta_bias) if x is not None]
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    out, last_state = SelectiveScan.apply(  # type: ignore[misc]
        u.transpose(1, 2), delta.transpose(1, 2), A, B.permute(0, 3, 1, 2), C.permute(0, 3, 1, 2), D,
        None if z is None else z.transpose(1, 2), delta_bias, delta_softplus, keep, reverse,
    )  # fmt: skip
    return out.transpose(1, 2), last_state
