"""Causal depthwise convolution, as in Mamba (Gu & Dao 2023, arXiv:2312.00752), by the best implementation at hand, see
``backends.py``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..precision import computed_in, without_autocast

__all__ = ["causal_conv1d"]


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    activation: str | None = None,
    reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """out_t = activation(bias + sum_k weight_k x_{t - width + 1 + k}), channel by channel; see definition.py.

    Arguments are those of upstream's `causal_conv1d_fn`. Tensors may be of mixed types: everything is computed in
    float64 if one of them is float64, in float32 otherwise. Views of channel-last memory are not copied.

    Args:
        x: (batch, channels, length).
        weight: (channels, width).
        bias: (channels).
        initial_states: (batch, channels, width - 1), what came before x; zeros by default.
        return_final_states: also return the last width - 1 inputs, to be the initial_states of the sequence's continuation.
        activation: None, or "silu" (also called "swish").
        reverse: whether the sequence is read from its end to its beginning: out_t reads x_t to x_{t + width - 1}, initial_states
            stand after the end of x, and final_states are its first width - 1 inputs.

    Returns:
        out (batch, channels, length) in x's type, a view of channel-last memory with ``cpu`` and ``cuda``; also, if asked for,
        final_states (batch, channels, width - 1) in x's type.

    Raises:
        ValueError: an unknown activation, or a tensor that has the wrong shape, is not real floating point, or is on another
            device than x; or HARNESS_KERNELS asks for an implementation that cannot take them.
    """
    _check(x, weight, bias, initial_states, activation)
    before = weight.shape[1] - 1
    silu = activation is not None

    given = {"x": x, "weight": weight, "bias": bias, "initial_states": initial_states}
    dtype = computed_in(*given.values())
    unfit = "it has no float64" if dtype == torch.float64 else "" if before in (1, 2, 3) else "its filters are 2 to 4 wide"
    refused = (("causal_conv1d", unfit or ("it takes no initial states here" if initial_states is not None else "")),)
    backend = backends.choose("causal_conv1d", x.device, refused)
    if backend in ("cpu", "definition"):
        given = {name: None if t is None else t.to(dtype) for name, t in given.items()}
    with without_autocast(x.device):
        out = _implementation(backend)(**given, silu=silu, reverse=reverse).to(x.dtype)

    if not return_final_states:
        return out
    if reverse:
        seen = x if initial_states is None else torch.cat([x, initial_states.to(x.dtype)], dim=2)
        return out, F.pad(seen, (0, before - seen.shape[2]))  # a negative width crops
    seen = x if initial_states is None else torch.cat([initial_states.to(x.dtype), x], dim=2)
    return out, F.pad(seen, (before - seen.shape[2], 0))


def _implementation(backend: str) -> Callable[..., Tensor]:
    if backend == "causal_conv1d":
        from .upstream import causal_conv1d
    elif backend == "cuda":
        from .cuda import causal_conv1d
    elif backend == "cpu":
        from .cpu import causal_conv1d
    else:
        from .definition import causal_conv1d
    return causal_conv1d


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, initial_states: Tensor | None, activation: str | None) -> None:
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"activation is {activation!r}; expected None, 'silu' or 'swish'")
    if x.dim() != 3 or 0 in x.shape[1:]:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected (batch, channels, length), channels and length at least 1")
    batch, channels, _ = x.shape
    if weight.dim() != 2 or weight.shape[0] != channels or weight.shape[1] == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected (channels, width) with {channels} channels as in x")
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; expected ({channels},), one number per channel of x")
    states = (batch, channels, weight.shape[1] - 1)
    if initial_states is not None and initial_states.shape != states:
        raise ValueError(
            f"initial_states has shape {tuple(initial_states.shape)}; expected {states}, (batch, channels, width - 1)"
        )
    for name, t in {"x": x, "weight": weight, "bias": bias, "initial_states": initial_states}.items():
        if t is not None and not t.is_floating_point():
            raise ValueError(f"{name} has type {t.dtype}; expected real floating point")
        if t is not None and t.device != x.device:
            raise ValueError(f"{name} is on {t.device}; expected {x.device}, where x is")
