"""The convolution by the CUDA kernel of the package causal_conv1d, for filters 2 to 4 wide; it reads forwards only."""

from __future__ import annotations

import torch
from torch import Tensor

from causal_conv1d import causal_conv1d_fn  # type: ignore[attr-defined]


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_states: None, reverse: bool) -> Tensor:
    """out (batch, channels, length) in x's type."""
    if reverse:
        x = x.flip(-1)
    eights = not any(number % 8 for number in (x.shape[1], x.stride(0), x.stride(2)))
    if x.stride(1) == 1 and not eights:  # channel-last memory that upstream refuses
        x = x.clone(memory_format=torch.contiguous_format)  # contiguous() leaves strides as they are where length is 1
    bias = None if bias is None else bias.to(x.dtype)
    out = causal_conv1d_fn(x, weight.to(x.dtype), bias, activation="silu" if silu else None)  # type: ignore
    return out.flip(-1) if reverse else out
