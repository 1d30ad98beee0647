"""A block of MSAMamba: a scan along rows, attention down columns and an MLP; and how a CPU computes them slice by slice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ._mamba import Mamba
from ._msamamba_shape import BlockShape

# How many numbers a slice holds on a CPU: 2 MiB in float32. Tensors of whole alignments exceed the processor's cache, and the
# allocator does not reuse memory of their size.
SLICE = 1 << 19


class RMSNorm(nn.Module):
    """Root-mean-square norm, which the authors write with an epsilon of 1e-8 outside the root."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.scale.shape, self.scale, 1e-16)  # inside the root: equal except for vectors as short as 1e-8


def in_slices(function: Callable[..., Tensor], x: Tensor, *more: Tensor | None) -> Tensor:
    """function(x, *more), for a function that treats the entries of dimension 0 independently; on a CPU slice by slice.

    The backward pass recomputes each slice, so only the slices' inputs are kept (Chen et al. 2016, arXiv:1604.06174).
    """
    if not x.is_cpu or x.numel() <= SLICE:
        return function(x, *more)
    size = max(1, SLICE * len(x) // x.numel())
    parts = x.split(size)
    others = [[None] * len(parts) if tensor is None else tensor.split(size) for tensor in more]
    if torch.is_grad_enabled():
        function = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([function(*part) for part in zip(parts, *others, strict=True)])


class _Softmax(torch.autograd.Function):
    """Softmax over the last dimension, in float32; the backward pass keeps it as rounded to the type of the scores."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:  # type: ignore[override]
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(scores.dtype)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (weights,) = ctx.saved_tensors
        return torch.ops.aten._softmax_backward_data(gradient, weights, -1, weights.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Attention (B, H, queries, W). q, k and v have four dimensions, for which torch needs no matrix of all weights."""
    if not q.is_cpu:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    if q.dtype == torch.bfloat16:  # torch's own is slower, its backward pass five times
        scores = (q * (scale or q.shape[-1] ** -0.5)) @ k.transpose(-1, -2)
        return cast(Tensor, _Softmax.apply(scores)) @ v
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype), scale=scale)


class Attention(nn.Module):
    """Multi-head attention over the rows of an alignment; heads are half as wide as the model, as in the authors' code.

    ``column`` is the paper's attention: the rows of one column attend to each other, and have learned absolute positions.
    ``raw_reshape`` is that of the authors' released code and weights, see :meth:`in_groups`.
    """

    def __init__(self, shape: BlockShape, layout: str) -> None:
        super().__init__()
        width, heads = shape.width, shape.heads
        self.heads, self.head_width = heads, width // 2
        self.qkv = nn.Linear(width, 3 * heads * self.head_width, bias=False)
        self.out = nn.Linear(heads * self.head_width, width)
        nn.init.normal_(self.qkv.weight, std=(2 / (width + self.head_width)) ** 0.5)
        if layout == "column":
            self.rows = nn.Parameter(torch.randn(shape.rows, width) * 0.02)

    def forward(self, x: Tensor, order: Tensor | None, queries: int) -> Tensor:
        """Columns (U, S, D) → their first ``queries`` rows. ``order`` (U, S) are the rows' numbers, by default 0 to S - 1."""
        U, S, _ = x.shape
        x = self._placed(x, order)
        if S == 1:  # the softmax over one row is 1, so the output is its value
            return self.out(F.linear(x, self._weights()[:, 2].flatten(0, 1)))
        if queries == S:
            q, k, v = self.qkv(x).view(U, S, self.heads, -1).chunk(3, dim=-1)
        else:
            q = F.linear(x[:, :queries], self._weights()[:, 0].flatten(0, 1)).view(U, queries, self.heads, -1)
            k, v = F.linear(x, self._weights()[:, 1:].flatten(0, 2)).view(U, S, self.heads, -1).chunk(2, dim=-1)
        return self.out(attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2).flatten(2))

    def target(self, x: Tensor, order: Tensor | None) -> Tensor:
        """Row 0 of columns alone: (U, S, D) → (U, 1, D), the first row of :meth:`forward`.

        As each column has a single query, the key and value matrices need not be applied to every row. They are applied to the
        query and to the weighted mean of the rows instead, since q · K x = Kᵀ q · x and V is linear.
        """
        if x.shape[1] == 1:
            return self(x, order, 1)
        x = self._placed(x, order)
        to_q, to_k, to_v = self._weights().unbind(1)  # (H, W, D) each
        q = torch.einsum("ud,hwd,hwe->uhe", x[:, 0], to_q, to_k)
        means = attend(q.unsqueeze(1), x.unsqueeze(1), x.unsqueeze(1), scale=self.head_width**-0.5)  # (U, 1, H, D)
        return self.out(torch.einsum("uhd,hwd->uhw", means.squeeze(1), to_v).flatten(1)).unsqueeze(1)

    def in_groups(self, x: Tensor, size: int, rows: int) -> Tensor:
        """``raw_reshape`` of an alignment of ``size`` rows, of which x (B, S, L, D) are the first: (B, rows, L, D).

        The authors' reshape lacks a transpose. It cuts the alignment, written row after row as head-wide chunks, into groups
        of ``size`` neighbours, which attend to each other. A row sees only itself and the next one, where a group spans both.
        """
        B, _, L, _ = x.shape
        groups = -(-rows * L * self.heads // size)
        chunks = self.qkv(x).view(B, -1, 3 * self.head_width)[:, : groups * size]
        attended = attend(*chunks.view(B, groups, size, -1).chunk(3, dim=-1)).flatten(1, 2)
        return self.out(attended[:, : rows * L * self.heads].reshape(B, rows, L, -1))

    def rows_read(self, rows: int, size: int, length: int) -> int:
        """How many rows :meth:`in_groups` reads to compute the first ``rows``."""
        chunks = length * self.heads  # of a row
        return -(-(-(-rows * chunks // size) * size) // chunks)

    def _weights(self) -> Tensor:
        return self.qkv.weight.view(self.heads, 3, self.head_width, -1)

    def _placed(self, x: Tensor, order: Tensor | None) -> Tensor:
        if order is None:
            return x + self.rows[: x.shape[1]]
        return x + self.rows.index_select(0, order.flatten()).view(x.shape)


class Block(nn.Module):
    """Scan along the rows, attention and MLP, each with a residual and an RMSNorm after it."""

    def __init__(self, shape: BlockShape, layout: str) -> None:
        super().__init__()
        width = shape.width
        self.norm = nn.LayerNorm(width)
        self.mixer = Mamba(width, shape.mixer)
        self.attention = Attention(shape, layout)
        self.mlp = nn.Sequential(nn.Linear(width, shape.inner), nn.SiLU(), nn.Linear(shape.inner, width))
        self.norm1, self.norm2, self.norm3 = RMSNorm(width), RMSNorm(width), RMSNorm(width)

    def scan(self, x: Tensor, scanned: int) -> Tensor:
        """Rows (R, L, D) → the same. The first ``scanned`` are scanned, the others keep their residual."""
        if scanned == len(x):
            return in_slices(self._scan, x)
        x, left = x.split([scanned, len(x) - scanned])
        return torch.cat([in_slices(self._scan, x), in_slices(self.norm1, left)])

    def _scan(self, x: Tensor) -> Tensor:
        return self.norm1(self.mixer(self.norm(x)) + x)

    def columns(self, x: Tensor, order: Tensor | None, queries: int) -> Tensor:
        """Columns (U, S, D) → the same. The first ``queries`` rows attend and pass the MLP, the others keep their residual.

        ``order`` (U, S) are the numbers of the rows, if they are not 0 to S - 1.
        """

        def mixed(x: Tensor, order: Tensor | None) -> Tensor:
            asked = self._mix(x[:, :queries], self.attention(x, order, queries))
            return asked if queries == x.shape[1] else torch.cat([asked, self.norm3(self.norm2(x[:, queries:]))], dim=1)

        return in_slices(mixed, x, order)

    def target(self, x: Tensor, order: Tensor | None) -> Tensor:
        """The first row (U, 1, D) of :meth:`columns`, alone."""
        return in_slices(lambda x, order: self._mix(x[:, :1], self.attention.target(x, order)), x, order)

    def groups(self, x: Tensor, size: int, rows: int) -> Tensor:
        """The first rows (B, S, L, D) of an alignment of ``size`` rows → (B, rows, L, D)."""
        return in_slices(lambda x: self._mix(x[:, :rows], self.attention.in_groups(x, size, rows)), x)

    def _mix(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm2(attended + x)
        return self.norm3(self.mlp(x) + x)
