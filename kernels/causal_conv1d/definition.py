"""The causal depthwise convolution in plain torch: the specification that the fast versions must match.

Symbols:
    x               (batch, channels, length)      input
    weight          (channels, width)              one filter per channel; weight[:, -1] applies to the current step
    bias            (channels)
    initial_states  (batch, channels, width - 1)   the inputs before the first step; zeros if not given

For every step t:
    out_t = activation(bias + sum_k weight_k x_{t - width + 1 + k})

With ``reverse``, x is read from its end to its beginning and initial_states stand after its end:
    out_t = activation(bias + sum_k weight_k x_{t + width - 1 - k})
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_states: Tensor | None, reverse: bool = False
) -> Tensor:
    """out (batch, channels, length), in the floating type of the arguments."""
    if reverse:
        x, initial_states = x.flip(-1), None if initial_states is None else initial_states.flip(-1)
    before = weight.shape[1] - 1
    x = F.pad(x, (before, 0)) if initial_states is None else torch.cat([initial_states, x], dim=2)
    out = F.conv1d(x, weight[:, None], bias, groups=x.shape[1])
    out = F.silu(out) if silu else out
    return out.flip(-1) if reverse else out
