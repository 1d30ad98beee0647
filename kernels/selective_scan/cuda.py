"""The selective scan on NVIDIA GPUs by the CUDA kernels of scan.cu, forward and backward, as torch.library custom operations.

Tensors of any strides are read where they lie, in their own types; everything is computed in float32, or in float64 if one of
them is. For the gradients the state before every 16th step is kept and, where there is a gate, what is gated, in the gate's type,
as mamba_ssm does. Sums are always taken in the same order, whatever the card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import e, log2
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _cuda
from ..precision import computed_in

SOURCE = Path(__file__).with_name("scan.cu")
TILES = {torch.float32: 16, torch.float64: 8}
"""Steps of a tile, between two borders."""
STAGED_STATES = 16
HEAD = 64  # bytes of shared memory before the numbers
MAX_THREADS = 128

# A batch of few channels cannot fill a card: time is then cut into segments, at the price of a pass that finds their states.
FEW_THREADS = 1 << 14
WANTED_THREADS = 1 << 17
SHORTEST_SEGMENT = 64


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, reverse: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out in u's type, last_state in float32 or float64; B and C have four dimensions. Tensors may be of mixed types."""
    known = [_cuda.readable(x) for x in (u, delta, A, B, C, D, z, delta_bias)]
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in known if x is not None)
    out, last_state, _, _ = _scan(*known, delta_softplus, reverse, keep)  # type: ignore[misc]
    return out.to(u.dtype), last_state


def too_large(state: int, double: bool, limit: int) -> str:
    """Why so many states per channel do not fit into the ``limit`` bytes of a block's shared memory; empty if they do."""
    size = 8 if double else 4
    need = HEAD + _backward_numbers(32, state, TILES[torch.float64 if double else torch.float32]) * size
    return f"{state} states need {need} bytes of shared memory, and a block has {limit}" if need > limit else ""


def variants() -> Iterator[dict[str, str]]:
    """The macros of scan.cu: all types alike, with and without a gate, and types as they are mixed under autocast."""
    for kind, gate, softplus in product(_cuda.TYPES, (True, False), (True, False)):
        acc = torch.float64 if kind == torch.float64 else torch.float32
        yield _defines(dict.fromkeys(("U", "DELTA", "Z", "B", "C"), kind), acc, gate, softplus)
    for half, acc in product((torch.bfloat16, torch.float16), (torch.float32, torch.float64)):
        yield _defines({"U": half, "DELTA": acc, "Z": half, "B": torch.float32, "C": torch.float32}, acc, True, True)


def _defines(types: Mapping[str, torch.dtype], acc: torch.dtype, gate: bool, softplus: bool) -> dict[str, str]:
    flags = {"HAS_Z": str(gate).lower(), "SOFTPLUS": str(softplus).lower()}
    sizes = {"ACC": _cuda.TYPES[acc], "TILE": str(TILES[acc]), "STATES": str(STAGED_STATES)}
    return {f"{name}_TYPE": _cuda.TYPES[kind] for name, kind in types.items()} | flags | sizes


class _Scan:
    """One call: what its kernels have in common."""

    def __init__(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None,
        softplus: bool, reverse: bool,
    ) -> None:  # fmt: skip
        self.batch, self.channels, self.length = u.shape
        self.groups, self.N = B.shape[1:3]
        self.acc = computed_in(u, delta, A, B, C, D, z, bias)
        self.reverse, self.has_z = reverse, z is not None
        self.like = u.new_empty(0, dtype=self.acc)

        width = self.channels // self.groups
        self.threads = _threads(width, self.N, self.acc)
        self.blocks = -(-width // self.threads)
        rows = self.batch * self.groups * self.blocks
        segment = _segment_length(self.length, rows * self.threads, TILES[self.acc])
        self.segments = -(-self.length // segment)
        self.grid = (rows * self.segments, 1, 1)

        self.A = torch.mul(A.T.to(self.acc), log2(e), out=self.empty(self.N, self.channels))
        limit = torch.finfo(self.acc).max
        self.A.clamp_(-limit, limit)  # so that a step of length 0 leaves the state alone
        types = {"U": u, "DELTA": delta, "Z": u if z is None else z, "B": B, "C": C}
        self.defines = _defines({name: x.dtype for name, x in types.items()}, self.acc, self.has_z, softplus)
        self.inputs = [
            self.batch, self.groups, width, self.length, self.N, self.segments, segment, int(reverse),
            *self.series(u), *self.series(delta), *self.series(z), *self.series(B), *self.series(C),
            self.A, *(None if x is None else x.to(self.acc).contiguous() for x in (D, bias)),
        ]  # fmt: skip

    def empty(self, *shape: int) -> Tensor:
        return self.like.new_empty(shape)

    def series(self, x: Tensor | None) -> tuple[_cuda.Value, ...]:
        """A tensor and its strides, of which that of time follows the scan."""
        if x is None:
            return None, 0, 0, 0
        if x.stride(-1) * x.element_size() >= 2**31:  # the kernels reckon a step in 32 bits
            x = x.contiguous()
        *others, step = x.stride()
        return x, *others, -step if self.reverse else step

    def launch(self, kernel: str, numbers: int, *values: _cuda.Value) -> None:
        """A kernel that walks segments, with shared memory for so many numbers."""
        shared = HEAD + numbers * self.like.element_size()
        _cuda.launch(SOURCE, kernel, self.grid, self.threads, [*self.inputs, *values], self.defines, shared)

    def carried(self, kernel: str, first: Tensor | None, *values: _cuda.Value) -> Tensor | None:
        """What segments start from, (batch, segments, N, channels), when the first one starts from ``first``."""
        if self.segments == 1:
            return first
        states = self.empty(self.batch, self.segments, self.N, self.channels)
        totals = self.empty(self.batch, self.segments, self.channels)
        self.launch(kernel, _forward_numbers(self.threads, self.N, TILES[self.acc]), *values, states, totals)
        size = self.batch * self.N * self.channels
        order = int(kernel == "scan_adjoints")
        given = [size, self.N, self.channels, self.segments, order, first, totals, self.A, states]
        _cuda.launch(SOURCE, "scan_carry", (-(-size // MAX_THREADS), 1, 1), MAX_THREADS, given, self.defines)
        return states


def _segment_length(length: int, threads: int, tile: int) -> int:
    """Steps of a segment, whole tiles. It depends on shapes alone, so that bits do not depend on the card."""
    wanted = 1 if threads >= FEW_THREADS else -(-WANTED_THREADS // max(threads, 1))
    return max(-(-length // (wanted * tile)) * tile, SHORTEST_SEGMENT)


def _forward_numbers(threads: int, state: int, tile: int) -> int:
    """Numbers in shared memory: the running states, and two stages of B and C."""
    return threads * state + 4 * STAGED_STATES * (tile + tile // 4)


def _backward_numbers(threads: int, state: int, tile: int) -> int:
    """Likewise: two running numbers per state, four per thread, a stage of B and C, and the sums of the warps."""
    stage = 2 * STAGED_STATES * (tile + tile // 4)
    return threads * (2 * state + 4) + stage + threads // 32 * STAGED_STATES * (2 * tile + 1)


def _threads(width: int, state: int, acc: torch.dtype) -> int:
    """Threads of a block: as many as the channels of a group, evenly split, and as shared memory allows."""
    size = torch.finfo(acc).bits // 8
    limit = MAX_THREADS
    while limit > 32 and HEAD + _backward_numbers(limit, state, TILES[acc]) * size > _cuda.LARGE_SHARED_MEMORY:
        limit //= 2
    blocks = -(-width // limit)
    return -(-width // blocks // 32) * 32


_GIVEN = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, bool softplus, bool reverse"
)


@torch.library.custom_op(
    "harness::selective_scan", mutates_args=(), schema=f"({_GIVEN}, bool keep) -> (Tensor, Tensor, Tensor, Tensor)"
)
def _scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
    softplus: bool, reverse: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """out, last_state and, if they are to be kept, the borders (batch, tiles, N, channels) and what is gated, else empty."""
    scan = _Scan(u, delta, A, B, C, D, z, delta_bias, softplus, reverse)
    out, last_state, borders, gated = _scan_empty(u, delta, A, B, C, D, z, delta_bias, softplus, reverse, keep)
    starts = scan.carried("scan_ends", None)
    results = [out, last_state, borders if keep else None, gated if gated.numel() else None]
    scan.launch("scan_forward", _forward_numbers(scan.threads, scan.N, TILES[scan.acc]), starts, *results)
    return out, last_state, borders, gated


@_scan.register_fake
def _scan_empty(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
    softplus: bool, reverse: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    batch, channels, length = u.shape
    state, acc = A.shape[1], computed_in(u, delta, A, B, C, D, z, delta_bias)
    tiles = -(-length // TILES[acc])
    return (
        _cuda.channel_last(u, u.shape),
        _cuda.channel_last(u, (batch, channels, state), acc),
        u.new_empty((batch, tiles, state, channels) if keep else 0, dtype=acc),
        u.new_empty(0) if z is None or not keep else z.new_empty(batch, length, channels),
    )


@torch.library.custom_op(
    "harness::selective_scan_backward",
    mutates_args=(),
    schema=f"(Tensor? dout, Tensor? dlast, Tensor borders, Tensor gated, {_GIVEN}) -> ({', '.join(['Tensor'] * 8)})",
)
def _scan_backward(
    dout: Tensor | None, dlast: Tensor | None, borders: Tensor, gated: Tensor,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
    softplus: bool, reverse: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of u, delta, A, B, C, D, z and delta_bias; empty for those that are not there."""
    scan = _Scan(u, delta, A, B, C, D, z, delta_bias, softplus, reverse)
    dout = u.new_zeros(()).expand(u.shape) if dout is None else dout
    last = None if dlast is None else dlast.to(scan.acc).transpose(1, 2).contiguous()
    starts = scan.carried("scan_adjoints", last, *scan.series(dout))
    du, ddelta = (_cuda.channel_last(x, u.shape) for x in (u, delta))
    dz = None if z is None else _cuda.channel_last(z, u.shape)
    dB, dC = (scan.empty(scan.blocks, scan.batch, scan.length, scan.groups, scan.N) for _ in range(2))
    parts = scan.batch * scan.segments
    dA, dD, dbias = scan.empty(parts, scan.N, scan.channels), scan.empty(parts, scan.channels), scan.empty(parts, scan.channels)
    results = [du, ddelta, dz, dB, dC, dA, dD, dbias]
    numbers = _backward_numbers(scan.threads, scan.N, TILES[scan.acc])
    scan.launch("scan_backward", numbers, *scan.series(dout), borders, gated if scan.has_z else None, starts, *results)
    return (
        du,
        ddelta,
        _summed(dA, A).T,
        _summed(dB, B).permute(0, 2, 3, 1),
        _summed(dC, C).permute(0, 2, 3, 1),
        u.new_empty(0) if D is None else _summed(dD, D),
        u.new_empty(0) if dz is None else dz,
        u.new_empty(0) if delta_bias is None else _summed(dbias, delta_bias),
    )


def _summed(parts: Tensor, like: Tensor) -> Tensor:
    """The sum over the first dimension, always in the same order."""
    return (parts[0] if len(parts) == 1 else parts.sum(0)).to(like.dtype)


@_scan_backward.register_fake
def _(
    dout: Tensor | None, dlast: Tensor | None, borders: Tensor, gated: Tensor,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
    softplus: bool, reverse: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    batch, channels, length = u.shape
    groups, state = B.shape[1:3]
    return (
        _cuda.channel_last(u, u.shape),
        _cuda.channel_last(delta, u.shape),
        A.new_empty(state, channels).T,
        B.new_empty(batch, length, groups, state).permute(0, 2, 3, 1),
        C.new_empty(batch, length, groups, state).permute(0, 2, 3, 1),
        u.new_empty(0) if D is None else D.new_empty(channels),
        u.new_empty(0) if z is None else _cuda.channel_last(z, u.shape),
        u.new_empty(0) if delta_bias is None else delta_bias.new_empty(channels),
    )


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.softplus, ctx.reverse, _ = inputs
    ctx.save_for_backward(*output[2:], *tensors)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dout: Tensor | None, dlast: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    gradients = _scan_backward(dout, dlast, *saved, ctx.softplus, ctx.reverse)
    return *(None if x is None else gradient for x, gradient in zip(saved[2:], gradients, strict=True)), None, None, None


_scan.register_autograd(_differentiate, setup_context=_setup)
