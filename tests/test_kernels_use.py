"""What else a caller of the CPU kernels relies on: memory, refusals, threads, processes, other devices."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_kernels import scan_inputs, tensor_sizes
from torch import Tensor

from harness.kernels._threads import rows
from harness.kernels.causal_conv1d import causal_conv1d
from harness.kernels.selective_scan import selective_scan


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_no_tensor_with_a_state_per_step() -> None:
    batch, channels, length, state = 2, 48, 256, 16
    inputs = scan_inputs(batch, channels, length, state, dtype=torch.float32)
    full = batch * channels * length * state
    with tensor_sizes() as sizes:
        out = selective_scan(**inputs, delta_softplus=True)
        out.backward(torch.ones_like(out))
    assert max(sizes) <= full / 8
    with torch.no_grad(), tensor_sizes() as sizes:
        selective_scan(**inputs, delta_softplus=True)
    assert max(sizes) <= batch * channels * length


def test_nothing_is_saved_without_grad() -> None:
    saved: list[Tensor] = []
    inputs = scan_inputs()
    x, weight = torch.randn(1, 4, 5, requires_grad=True), torch.randn(4, 2)
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        selective_scan(**inputs)
        causal_conv1d(x, weight)
    assert not saved


def test_projection_halves_are_taken_without_a_copy() -> None:
    wide = torch.randn(2, 5, 12)
    for half in wide.chunk(2, dim=-1):
        memory, step = rows(half)
        assert step == 12
        assert memory.ctypes.data == half.data_ptr()
    memory, step = rows(torch.randn(2, 6, 5).transpose(1, 2))
    assert step == 6
    assert memory.size == 60


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("u", (20, 9), r"u has shape \(20, 9\); expected \(batch, channels, length\)"),
        ("u", (2, 20, 0), r"u has shape \(2, 20, 0\)"),
        ("delta", (2, 20, 8), r"delta has shape \(2, 20, 8\); expected \(2, 20, 9\), like u"),
        ("A", (4, 20), r"A has shape \(4, 20\); expected \(channels, state\) with 20 channels"),
        ("B", (2, 9, 4), r"B has shape \(2, 9, 4\); expected \(batch, state, length\)"),
        ("B", (2, 3, 4, 9), r"B has shape \(2, 3, 4, 9\): 3 groups; expected a divisor of the 20 channels"),
        ("C", (2, 2, 4, 9), r"C has shape \(2, 2, 4, 9\); expected \(2, 1, 4, 9\), like B"),
        ("D", (20, 1), r"D has shape \(20, 1\); expected \(20,\), one number per channel"),
        ("z", (2, 9, 20), r"z has shape \(2, 9, 20\); expected \(2, 20, 9\), like u"),
        ("delta_bias", (19,), r"delta_bias has shape \(19,\); expected \(20,\)"),
    ],
)
def test_bad_scan_shapes(name: str, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        selective_scan(**{**scan_inputs(), name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.zeros(3, 7)}, r"x has shape \(3, 7\); expected \(batch, channels, length\)"),
        ({"weight": torch.zeros(4, 3)}, r"weight has shape \(4, 3\); expected \(channels, width\) with 3 channels"),
        ({"bias": torch.zeros(4)}, r"bias has shape \(4,\); expected \(3,\)"),
        ({"initial_states": torch.zeros(2, 3, 4)}, r"initial_states has shape \(2, 3, 4\); expected \(2, 3, 3\)"),
        ({"activation": "relu"}, r"activation is 'relu'; expected None, 'silu' or 'swish'"),
        ({"weight": torch.zeros(3, 4, dtype=torch.int64)}, r"weight has type torch.int64; expected real floating point"),
    ],
)
def test_bad_conv_arguments(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        causal_conv1d(**{"x": torch.zeros(2, 3, 7), "weight": torch.zeros(3, 4), **change})


def test_complex_is_refused() -> None:
    inputs = scan_inputs()
    with pytest.raises(ValueError, match=r"A has type torch\.complex128; expected real floating point"):
        selective_scan(**{**inputs, "A": inputs["A"].to(torch.complex128)})


# --- processes and threads -------------------------------------------------------------------------------------------


def test_same_bits_always(threads) -> None:
    inputs = scan_inputs(batch=3, channels=150, length=50, state=16, dtype=torch.float32)
    x, weight = inputs["u"], torch.randn(150, 4, requires_grad=True)

    def everything() -> list[Tensor]:
        out, last = selective_scan(**inputs, delta_softplus=True, return_last_state=True)
        convolved = causal_conv1d(x, weight, activation="silu")
        grads = torch.autograd.grad([out, last, convolved], [*inputs.values(), weight], [out, last, convolved])
        return [out, last, convolved, *grads]

    threads(1)
    once = everything()
    for count in (1, 2, 5):
        threads(count)
        assert all(torch.equal(a, b) for a, b in zip(once, everything(), strict=True)), f"{count} threads"


def test_concurrent_calls(threads) -> None:
    threads(2)
    inputs = [scan_inputs(batch=2, channels=64, length=60, state=16, dtype=torch.float32, seed=i) for i in range(4)]

    def work(given: dict[str, Tensor]) -> list[Tensor]:
        out = selective_scan(**given, delta_softplus=True)
        return [out, *torch.autograd.grad(out.sum(), list(given.values()))]

    alone = [work(given) for given in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for a, b in zip(alone, pool.map(work, inputs), strict=True):
                assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def python(code: str) -> str:
    """Run code in a fresh interpreter in the repository root."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_no_compiler() -> None:
    code = "import sys, harness.kernels.selective_scan, harness.kernels.causal_conv1d; print('numba' in sys.modules)"
    assert python(code) == "False"


@pytest.mark.slow
def test_compiled_and_announced_once_per_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    code = (
        "import torch; from harness.kernels.causal_conv1d import causal_conv1d; from harness.kernels import compilation\n"
        "said = []; compilation.on_compile = said.append; x = torch.ones(1, 1, 1, requires_grad=True)\n"
        "causal_conv1d(x, torch.ones(1, 1)).sum().backward(); print(compilation.seconds > 0, said)"
    )
    assert python(code) == "True ['compiling CPU kernels, once per machine …']"
    assert python(code) == "False []"


@pytest.mark.slow
def test_compiled_again_when_the_shared_code_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    code = (
        "import torch; from harness.kernels import _compile, compilation; {change}\n"
        "from harness.kernels.causal_conv1d import causal_conv1d\n"
        "causal_conv1d(torch.ones(1, 1, 1), torch.ones(1, 1)); print(compilation.seconds > 0)"
    )
    assert python(code.format(change="pass")) == "True"
    assert python(code.format(change="pass")) == "False"
    assert python(code.format(change="_compile._SHARED_SOURCE = 'changed'")) == "True"


def test_works_after_fork() -> None:
    code = (
        "import os, torch; torch.set_num_threads(2); from harness.kernels.causal_conv1d import causal_conv1d\n"
        "x, w = torch.ones(4, 2, 8), torch.ones(2, 4); causal_conv1d(x, w)\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(0 if causal_conv1d(x, w)[0, 0, 5].item() == 4 else 1)\n"
        "print(os.waitpid(child, 0)[1])"
    )
    assert python(code) == "0"


def test_other_devices() -> None:
    """Neither CPU nor CUDA: the definition (on the meta device, which computes shapes only)."""
    inputs = {name: x.detach().to("meta") for name, x in scan_inputs().items()}
    assert selective_scan(**inputs, delta_softplus=True).shape == (2, 20, 9)
    assert causal_conv1d(inputs["u"], torch.empty(20, 4, device="meta")).shape == (2, 20, 9)
    with pytest.raises(ValueError, match="delta is on cpu; expected meta, where u is"):
        selective_scan(**{**inputs, "delta": torch.zeros(2, 20, 9)})
