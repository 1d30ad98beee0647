"""Selective scan (Gu & Dao 2023, Mamba, arXiv:2312.00752) by the best implementation at hand, see ``backends.py``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import backends
from ..precision import computed_in, without_autocast

__all__ = ["selective_scan"]


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t, out_t = (<C_t, h_t> + D u_t) silu(z_t); see definition.py.

    Arguments are those of mamba_ssm's `selective_scan_fn`. Tensors may be of mixed types: everything is computed in
    float64 if one of them is float64, in float32 otherwise. Views of channel-last memory are not copied.

    Args:
        u: (batch, channels, length).
        delta: (batch, channels, length), before delta_bias and softplus.
        A: (channels, state), negative numbers (not their logarithm).
        B: (batch, state, length), or (batch, groups, state, length).
        C: like B.
        D: (channels).
        z: (batch, channels, length).
        delta_bias: (channels).
        delta_softplus: whether delta is softplus(delta + delta_bias).
        return_last_state: also return the state after the last step.
        reverse: whether steps are taken from the end of the sequence to its beginning, where the last state then is.

    Returns:
        out (batch, channels, length) in u's type, a view of channel-last memory with ``cpu`` and ``cuda``; with return_last_state
        also last_state (batch, channels, state) in float32 or float64. Both have gradients (with ``mamba_ssm``, only out).

    Raises:
        ValueError: a tensor has the wrong shape, is not real floating point, or is on another device than u;
            or HARNESS_KERNELS asks for an implementation that cannot take them.
    """
    B, C = (x[:, None] if x.dim() == 3 else x for x in (B, C))
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    _check({name: x for name, x in given.items() if x is not None})

    dtype = computed_in(*given.values())
    double = dtype == torch.float64
    unfit = "it has no float64" if double else "it takes at most 256 states" if A.shape[1] > 256 else ""
    refused = (("mamba_ssm", unfit), ("cuda", _too_large(A.shape[1], double, u.device)))
    backend = backends.choose("selective_scan", u.device, refused)
    if backend in ("cpu", "definition"):
        given = {name: None if x is None else x.to(dtype) for name, x in given.items()}
    with without_autocast(u.device):
        out, last_state = _implementation(backend)(**given, delta_softplus=delta_softplus, reverse=reverse)
    out = out.to(u.dtype)
    return (out, last_state) if return_last_state else out


def _too_large(state: int, double: bool, device: torch.device) -> str:
    """Why the CUDA kernels cannot hold so many states; few enough are let through without a look at the kernels."""
    if state <= 64 or device.type != "cuda":
        return ""
    from .._cuda import shared_memory
    from .cuda import too_large

    return too_large(state, double, shared_memory(device))


def _implementation(backend: str) -> Callable[..., tuple[Tensor, Tensor]]:
    if backend == "mamba_ssm":
        from .upstream import selective_scan
    elif backend == "cuda":
        from .cuda import selective_scan
    elif backend == "cpu":
        from .cpu import selective_scan
    else:
        from .definition import selective_scan
    return selective_scan


def _check(given: dict[str, Tensor]) -> None:
    u, A, B = given["u"], given["A"], given["B"]
    if u.dim() != 3 or 0 in u.shape[1:]:
        raise ValueError(f"u has shape {tuple(u.shape)}; expected (batch, channels, length), channels and length at least 1")
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise ValueError(f"A has shape {tuple(A.shape)}; expected (channels, state) with {channels} channels as in u")
    state = A.shape[1]
    if B.dim() != 4 or (B.shape[0], B.shape[2], B.shape[3]) != (batch, state, length):
        shape = tuple(B.squeeze(1).shape)
        raise ValueError(
            f"B has shape {shape}; expected (batch, state, length) or (batch, groups, state, length), "
            f"where u and A make batch {batch}, state {state} and length {length}"
        )
    groups = B.shape[1]
    if groups == 0 or channels % groups:
        raise ValueError(f"B has shape {tuple(B.shape)}: {groups} groups; expected a divisor of the {channels} channels of u")
    expected = {"delta": u.shape, "z": u.shape, "C": B.shape, "D": (channels,), "delta_bias": (channels,)}
    for name, x in given.items():
        if name in expected and x.shape != torch.Size(expected[name]):
            like = {"delta": "like u", "z": "like u", "C": "like B"}.get(name, "one number per channel of u")
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected {tuple(expected[name])}, {like}")
        if not x.is_floating_point():
            raise ValueError(f"{name} has type {x.dtype}; expected real floating point")
        if x.device != u.device:
            raise ValueError(f"{name} is on {x.device}; expected {u.device}, where u is")
