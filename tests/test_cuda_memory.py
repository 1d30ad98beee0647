"""The CUDA kernels, run on the host, touch no memory but their own, write all results, and may run in any order."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import made_host_cuda
import pytest
import torch
from made_host_cuda import needs_compiler, on_host  # noqa: F401
from test_conv_cuda import tensors as conv_inputs
from test_kernels import gradients, scan_inputs
from torch import Tensor

from harness.kernels.causal_conv1d import cuda as conv
from harness.kernels.selective_scan import cuda as scan

pytestmark = [needs_compiler, pytest.mark.usefixtures("on_host")]


def scanned(inputs: dict[str, Tensor], reverse: bool) -> list[Tensor]:
    """Results and all gradients."""
    given = dict.fromkeys(("D", "z", "delta_bias")) | inputs
    results = scan.selective_scan(**given, delta_softplus=True, reverse=reverse)  # type: ignore[arg-type]
    return [*results, *gradients(list(results), inputs).values()]


def convolved(inputs: dict[str, Tensor], reverse: bool) -> list[Tensor]:
    out = conv.causal_conv1d(inputs["x"], inputs["weight"], inputs.get("bias"), True, inputs.get("initial_states"), reverse)
    return [out, *gradients([out], inputs).values()]


CASES = {
    "scan": (scanned, lambda: scan_inputs(2, 70, 50, 21, groups=1, dtype=torch.float32)),
    "scan of groups": (scanned, lambda: scan_inputs(2, 66, 33, 17, groups=2, channel_last=False)),
    "scan of two blocks": (scanned, lambda: scan_inputs(1, 150, 40, 37, groups=1, dtype=torch.float32)),
    "scan without options": (scanned, lambda: scan_inputs(1, 33, 17, 3, groups=1, optional=False)),
    "convolution": (convolved, lambda: conv_inputs("cpu", 2, 40, 50)),
    "convolution of two blocks": (convolved, lambda: conv_inputs("cpu", 1, 129, 33, layout="time last")),
    "convolution of few steps": (convolved, lambda: conv_inputs("cpu", 2, 33, 2, 4)),
    "convolution of one number": (convolved, lambda: conv_inputs("cpu", 2, 5, 40, 1)),
}
Case = tuple[Callable[[dict[str, Tensor], bool], list[Tensor]], dict[str, Tensor]]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    function, made = CASES[request.param]
    return function, made()


@pytest.fixture(params=["long pieces", "short pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How time is cut."""
    if request.param == "short pieces":
        for module, name, value in (
            (scan, "WANTED_THREADS", 2**40),
            (scan, "FEW_THREADS", 2**40),
            (scan, "SHORTEST_SEGMENT", 8),
            (conv, "SHORTEST_PIECE", 1),
            (conv, "ENOUGH_THREADS", 2**62),
        ):
            monkeypatch.setattr(module, name, value)


def fenced(shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype, behind: bool) -> Tensor:
    """NaNs in memory that ends, or begins, at a page which nobody may touch."""
    size, page = prod(shape) * dtype.itemsize, mmap.PAGESIZE
    pages = -(-size // page)
    memory = torch.frombuffer(mmap.mmap(-1, (pages + 2) * page), dtype=torch.uint8)
    for fence in (0, (pages + 1) * page):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(memory.data_ptr() + fence), ctypes.c_size_t(page), 0) == 0
    start = (pages + 1) * page - size if behind else page
    whole = memory[start : start + size].view(dtype).fill_(float("nan")) if size else torch.empty(0, dtype=dtype)
    return whole.as_strided(shape, stride)


def fence_new_tensors(monkeypatch: pytest.MonkeyPatch, behind: bool) -> None:

    def new_empty(like: Tensor, *size: Any, dtype: torch.dtype | None = None) -> Tensor:
        shape = torch.Size(size[0] if size and not isinstance(size[0], int) else size)
        return new_empty_strided(like, shape, torch.empty(shape, device="meta").stride(), dtype)

    def new_empty_strided(like: Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return fenced(size, stride, dtype or like.dtype, behind)

    monkeypatch.setattr(Tensor, "new_empty", new_empty)
    monkeypatch.setattr(Tensor, "new_empty_strided", new_empty_strided)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.usefixtures("pieces")
def test_threads_and_blocks_may_run_in_any_order(case: Case, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two barriers no thread reads what another one writes, nor do blocks write the same: a GPU keeps no order."""
    function, inputs = case
    ascending = function(inputs, reverse)
    monkeypatch.setattr(made_host_cuda, "descending", True)
    assert all(torch.equal(a, b) for a, b in zip(ascending, function(inputs, reverse), strict=True))


@pytest.mark.parametrize("behind", [True, False], ids=["behind", "before"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.usefixtures("pieces")
def test_results_are_written_and_nothing_beside_them(
    case: Case, reverse: bool, behind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads or writes beside a tensor ends this process."""
    function, inputs = case
    expected = function(inputs, reverse)
    fence_new_tensors(monkeypatch, behind)
    inside = {name: fenced(x.shape, x.stride(), x.dtype, behind).copy_(x.detach()) for name, x in inputs.items()}
    found = function({name: x.requires_grad_() for name, x in inside.items()}, reverse)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("far", ["batch", "channels", "steps"])
def test_numbers_far_apart_in_memory(far: str, reverse: bool, tmp_path: Path) -> None:
    """Distances of more than 2^31 bytes; convolution has such a test of its own."""
    apart = 2**31 + 4
    memory = torch.from_file(str(tmp_path / "sparse"), shared=True, size=2 * apart, dtype=torch.float16)
    strides = {"batch": (apart, 1, 4), "channels": (2, apart // 2, 4), "steps": (1, 2, apart // 10)}[far]
    near = {name: x.detach().half() for name, x in scan_inputs(2, 4, 20, 3, groups=1).items()}
    for name in ("u", "delta", "z", "B", "C"):
        flat = near[name].flatten(1, -2)  # (batch, channels or states, length)
        distant = memory.as_strided(flat.shape, strides).copy_(flat).unflatten(1, near[name].shape[1:-1])
        ours, expected = (
            scan.selective_scan(**near | {name: x}, delta_softplus=True, reverse=reverse) for x in (distant, near[name])
        )
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True)), name
