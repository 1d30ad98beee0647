"""The convolution by the CUDA kernel of the package causal_conv1d, for filters 2 to 4 wide; it reads forwards only."""

from __future__ import annotations

from torch import Tensor

from causal_conv1d import causal_conv1d_fn  # type: ignore[attr-defined]


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_states: None, reverse: bool) -> Tensor:
    """out (batch, channels, length) in x's type."""
    if reverse:
        x = x.flip(-1)
    if x.stride(1) == 1 and (x.stride(0) % 8 or x.stride(2) % 8):  # channel-last memory that upstream refuses
        x = x.contiguous()
    bias = None if bias is None else bias.to(x.dtype)
    out = causal_conv1d_fn(x, weight.to(x.dtype), bias, activation="silu" if silu else None)
    return out.flip(-1) if reverse else out
