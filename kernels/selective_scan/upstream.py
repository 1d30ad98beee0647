"""The selective scan by the CUDA kernel of the package mamba_ssm, which has no float64 and reads forwards only."""

from __future__ import annotations

from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from torch import Tensor


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, reverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out in u's type and last_state in float32; B and C have four dimensions. The state has no gradient."""
    delta, B, C, z = (None if x is None else x.to(u.dtype) for x in (delta, B, C, z))  # type: ignore[assignment]
    A, D, delta_bias = (None if x is None else x.float() for x in (A, D, delta_bias))  # type: ignore[assignment]
    if reverse:
        u, delta, B, C, z = (None if x is None else x.flip(-1) for x in (u, delta, B, C, z))  # type: ignore[assignment]
    out, last_state = selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus, True)
    return (out.flip(-1) if reverse else out), last_state
