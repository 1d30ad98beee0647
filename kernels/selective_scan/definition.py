"""The selective scan in plain torch: the specification that the fast versions must match.

    u      (batch, channels, length)   input sequence
    delta  (batch, channels, length)   step size; softplus(delta + delta_bias) if requested
    A      (channels, state)           decay rates, negative
    B      (batch, groups, state, length)  how the input enters the state
    C      (batch, groups, state, length)  how the state is read
    D      (channels)                  skip connection
    z      (batch, channels, length)   gate
    h      (batch, channels, state)    state, zero before the first step

For every step t, with A discretised by zero-order hold and B by Euler's rule (Gu & Dao 2023, Mamba, arXiv:2312.00752):

    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t
    y_t = <C_t, h_t> + D u_t
    out_t = y_t silu(z_t)

Channel c reads group c // (channels / groups) of B and C. With ``reverse``, t runs from the last step to the first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, reverse: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out and last_state, in the floating type of the arguments; B and C have four dimensions."""
    if reverse:
        u, delta, B, C, z = (None if x is None else x.flip(-1) for x in (u, delta, B, C, z))  # type: ignore[assignment]
    batch, channels, _ = u.shape
    groups, state = B.shape[1:3]
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)

    h = u.new_zeros(batch, channels, state)
    ys = []
    for delta_t, du_t, B_t, C_t in zip(delta.unbind(2), (delta * u).unbind(2), B.unbind(3), C.unbind(3), strict=True):
        B_t, C_t = (x.repeat_interleave(channels // groups, dim=1) for x in (B_t, C_t))  # (batch, channels, state)
        h = torch.exp(delta_t[..., None] * A) * h + du_t[..., None] * B_t
        ys.append((h * C_t).sum(-1))
    y = torch.stack(ys, dim=2)
    if D is not None:
        y = y + D[:, None] * u
    out = y if z is None else y * F.silu(z)
    return (out.flip(-1) if reverse else out), h
