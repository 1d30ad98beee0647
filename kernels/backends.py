"""Which implementation serves an operation: the first of its tuple that this machine and these tensors allow.

HARNESS_KERNELS overrides the choice, for all operations (``HARNESS_KERNELS=definition``) or for some (``HARNESS_KERNELS=
selective_scan=cuda,causal_conv1d=definition``). Imports nothing heavy, so that anyone may ask.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from . import compilation

if TYPE_CHECKING:
    import torch

BACKENDS: Mapping[str, tuple[str, ...]] = {
    "selective_scan": ("mamba_ssm", "cuda", "cpu", "definition"),
    "causal_conv1d": ("causal_conv1d", "cuda", "cpu", "definition"),
}
"""The implementations of each operation, best first. Those of other packages are called in ``upstream.py`` of its folder."""

UPSTREAM = ("mamba_ssm", "causal_conv1d")
VARIABLE = "HARNESS_KERNELS"

_WORDS = {
    "mamba_ssm": "upstream's kernel",
    "causal_conv1d": "upstream's kernel",
    "cuda": "compiled by NVRTC",
    "cpu": "compiled by Numba",
    "definition": "plain torch, slow",
}
_used: dict[str, str] = {}
_forced: dict[str, str] = {}


def forced(text: str | None = None) -> dict[str, str]:
    """The backends asked for by ``text``, by default the value of HARNESS_KERNELS, by operation.

    Raises:
        ValueError: an operation or a backend is unknown.
    """
    text = os.environ.get(VARIABLE, "") if text is None else text
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, backend = part.rpartition("=")
        operations = [operation for operation in BACKENDS if operation == name or not name]
        fitting = {operation: backend for operation in operations if backend in BACKENDS[operation]}
        if not fitting:
            known = "; ".join(f"{operation}: {', '.join(names)}" for operation, names in BACKENDS.items())
            raise ValueError(f"{VARIABLE}={text!r}: {part!r} is not known; backends are {known}")
        found |= fitting
    return found


@contextmanager
def using(text: str) -> Iterator[None]:
    """Force backends in this process, written as in HARNESS_KERNELS, which it goes before."""
    before = dict(_forced)
    _forced.update(forced(text))
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)


def choose(operation: str, device: torch.device, refused: tuple[tuple[str, str], ...] = ()) -> str:
    """The backend for tensors on ``device``, and note it for :func:`used`.

    ``refused`` are pairs of a backend and the reason why it cannot take these very tensors, or an empty one if it can.

    Raises:
        ValueError: the backend that is asked for cannot serve them.
    """
    reasons = dict(refused)
    wanted = (forced() | _forced).get(operation)
    if wanted is not None:
        _demand(operation, wanted, missing(wanted, device) or reasons.get(wanted, ""))
    else:
        wanted = next(name for name in BACKENDS[operation] if not (reasons.get(name) or missing(name, device)))
        if wanted == "definition" and device.type == "cuda":
            reason = reasons.get("cuda") or missing("cuda", device)
            compilation.announce(f"{operation} runs in plain torch, many times slower than fused: {reason}")
    _used[operation] = wanted
    return wanted


# To torch.compile a constant. torch.compiler.assume_constant_result says so, too, but imports the compiler, which takes a second.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


def check(device: torch.device) -> None:
    """Check that what HARNESS_KERNELS asks for can serve tensors on ``device``.

    Raises:
        ValueError: it cannot, or is not known.
    """
    for operation, backend in forced().items():
        _demand(operation, backend, missing(backend, device))


def _demand(operation: str, backend: str, reason: str) -> None:
    if reason:
        raise ValueError(f"{VARIABLE} asks for {backend} as {operation}: {reason}")


def described(device: torch.device) -> str:
    """In one line, which implementations operations on ``device`` get, and why not better ones."""
    asked, chosen, reasons = forced(), {}, []
    for operation, names in BACKENDS.items():
        lacking = {name: missing(name, device) for name in names}
        chosen[operation] = asked.get(operation) or next(name for name in names if not lacking[name])
        if operation in asked:
            reasons.append(f"{VARIABLE} asks for it")
        elif device.type == "cuda":
            reasons += [f"{name}: {lacking[name]}" for name in names[: names.index(chosen[operation])]]
    text = ", ".join(f"{operation}: {backend} ({_WORDS[backend]})" for operation, backend in chosen.items())
    return "; ".join([text, *dict.fromkeys(reasons)])


def missing(backend: str, device: torch.device) -> str:
    """Why a backend cannot serve tensors on ``device``; empty if it can."""
    if backend == "definition":
        return ""
    if backend == "cpu":
        return "" if device.type == "cpu" else f"it computes on the CPU, and the tensors are on {device}"
    if device.type != "cuda":
        return f"it computes on NVIDIA GPUs, and the tensors are on {device.type}"
    if backend in UPSTREAM:
        return "" if _installed(backend) else f"{backend} is not installed: pip install 'gfm-harness[cuda]' (needs nvcc)"
    from . import _cuda

    return _cuda.missing(device)


@cache
def _installed(package: str) -> bool:
    return find_spec(package) is not None


def used() -> dict[str, str]:
    """The backend that last served each operation in this process; no entry for what was not called."""
    return dict(sorted(_used.items()))


def forget() -> None:
    """Empty what :func:`used` reports, before a run."""
    _used.clear()
