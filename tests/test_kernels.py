"""The CPU kernels against upstream's arrays, against their definitions, and what else a caller may rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.kernels.causal_conv1d import causal_conv1d
from harness.kernels.causal_conv1d import definition as conv_definition
from harness.kernels.selective_scan import definition as scan_definition
from harness.kernels.selective_scan import selective_scan

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "kernels"
SHARED = ROOT.parent / "shared" / "parity" / "kernels"
CASES = json.loads((GOLDEN / "cases.json").read_text())["cases"]
SCAN_INPUTS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
CONV_INPUTS = ("x", "weight", "bias", "initial_states")


@pytest.fixture(params=["cpu", "definition"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both implementations behind the public functions."""
    if request.param == "definition":
        from harness.kernels.causal_conv1d import cpu as conv_cpu
        from harness.kernels.selective_scan import cpu as scan_cpu

        monkeypatch.setattr(scan_cpu, "selective_scan", scan_definition.selective_scan)
        monkeypatch.setattr(conv_cpu, "causal_conv1d", conv_definition.causal_conv1d)
    return request.param


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def agree(ours: Tensor, theirs: Tensor, name: str) -> None:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
    if theirs.dtype == torch.float64:
        bounds = {"rtol": 1e-10, "atol": 1e-10 * theirs.abs().max().item() if theirs.numel() else 0}
    else:
        bounds = {"rtol": 2e-5, "atol": 2e-5 * theirs.abs().max().item() if theirs.numel() else 0}
    torch.testing.assert_close(ours, theirs, **bounds, msg=lambda text: f"{name}: {text}")


def scan_inputs(
    batch=2, channels=20, length=9, state=4, *, groups=None, dtype=torch.float64, channel_last=True, optional=True, seed=0
) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)

    def sequence(*middle: int) -> Tensor:
        if channel_last:
            return torch.randn(batch, length, *middle, generator=random, dtype=torch.float64).movedim(1, -1)
        return torch.randn(batch, *middle, length, generator=random, dtype=torch.float64)

    middle = (state,) if groups is None else (groups, state)
    inputs = {
        "u": sequence(channels),
        "delta": sequence(channels),
        "A": -4 * torch.rand(channels, state, generator=random, dtype=torch.float64),
        "B": sequence(*middle),
        "C": sequence(*middle),
    }
    if optional:
        inputs["D"] = torch.randn(channels, generator=random, dtype=torch.float64)
        inputs["z"] = sequence(channels)
        inputs["delta_bias"] = torch.randn(channels, generator=random, dtype=torch.float64) - 1
    return {name: x.to(dtype).requires_grad_() for name, x in inputs.items()}


def gradients(outputs: list[Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=random, dtype=torch.float64).to(x.dtype) for x in outputs]
    return dict(zip(inputs, torch.autograd.grad(outputs, list(inputs.values()), weights), strict=True))


def scan_by_definition(delta_softplus: bool, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    grouped = {name: inputs[name][:, None] if inputs[name].dim() == 3 else inputs[name] for name in "BC"}
    given = dict.fromkeys(SCAN_INPUTS) | inputs | grouped
    return scan_definition.selective_scan(**given, delta_softplus=delta_softplus)  # type: ignore


# --- against upstream ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_upstream_arrays(case: dict, implementation: str) -> None:
    path = next((folder / case["file"] for folder in (GOLDEN, SHARED) if (folder / case["file"]).exists()), None)
    if path is None:
        pytest.skip(f"{case['file']} is neither in tests/golden/kernels nor in ../shared/parity/kernels")
    arrays = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    names = SCAN_INPUTS if case["op"] == "selective_scan" else CONV_INPUTS
    inputs = {name: arrays[name].requires_grad_() for name in names if name in arrays}
    if case["op"] == "selective_scan":
        out, last = selective_scan(**inputs, delta_softplus=case["delta_softplus"], return_last_state=True)
        agree(last, arrays["last_state"], "last_state")
    else:
        out, last = causal_conv1d(**inputs, activation=case["activation"], return_final_states=True)
        agree(last, arrays["final_states"], "final_states")
    agree(out, arrays["out"], "out")
    for name, gradient in zip(inputs, torch.autograd.grad(out, list(inputs.values()), arrays["dout"]), strict=True):
        agree(gradient, arrays[f"grad_{name}"], f"grad_{name}")


# --- against the definition ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_scan_is_its_definition(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([None, 1, 2, 3]), "groups")
    inputs = scan_inputs(
        batch=data.draw(st.integers(0, 3), "batch"),
        channels=data.draw(st.integers(1, 30), "channels per group") * (groups or 1),
        length=data.draw(st.sampled_from([1, 2, 3, 7, 31, 32, 33, 70]), "length"),
        state=data.draw(st.sampled_from([1, 5, 8, 16, 64]), "state"),
        groups=groups,
        dtype=data.draw(st.sampled_from([torch.float32, torch.float64]), "dtype"),
        channel_last=data.draw(st.booleans(), "channel_last"),
        seed=data.draw(st.integers(0, 9), "seed"),
    )
    for name in data.draw(st.sets(st.sampled_from(["D", "z", "delta_bias"])), "left out"):
        del inputs[name]
    softplus = data.draw(st.booleans(), "softplus")
    if not softplus:  # a negative step is legal but grows without bound
        inputs["delta"] = inputs["delta"].detach().abs().requires_grad_()
        if "delta_bias" in inputs:
            inputs["delta_bias"] = inputs["delta_bias"].detach().abs().requires_grad_()
    ours = selective_scan(**inputs, delta_softplus=softplus, return_last_state=True)
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    theirs = scan_by_definition(softplus, **exact)
    dtype = inputs["u"].dtype
    for name, a, b in zip(("out", "last_state"), ours, theirs, strict=True):
        agree(a, b.to(dtype), name)
    theirs_gradients = gradients(list(theirs), exact)
    for name, gradient in gradients(list(ours), inputs).items():
        agree(gradient, theirs_gradients[name].to(dtype), f"gradient of {name}")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_conv_is_its_definition(data: st.DataObject) -> None:
    batch, channels, length = data.draw(st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 20)), "shape")
    width = data.draw(st.sampled_from([1, 2, 3, 4, 7]), "width")
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]), "dtype")
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 9), "seed"))
    inputs = {
        "x": torch.randn(batch, length, channels, generator=random, dtype=dtype).transpose(1, 2),
        "weight": torch.randn(channels, width, generator=random, dtype=dtype),
        "bias": torch.randn(channels, generator=random, dtype=dtype),
        "initial_states": torch.randn(batch, channels, width - 1, generator=random, dtype=dtype),
    }
    if not data.draw(st.booleans(), "channel_last"):
        inputs["x"] = inputs["x"].contiguous()
    for name in data.draw(st.sets(st.sampled_from(["bias", "initial_states"])), "left out"):
        del inputs[name]
    for x in inputs.values():
        x.requires_grad_()
    activation = data.draw(st.sampled_from([None, "silu", "swish"]), "activation")
    out = causal_conv1d(**inputs, activation=activation)
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    given = {name: exact.get(name) for name in CONV_INPUTS}
    theirs = conv_definition.causal_conv1d(**given, silu=activation is not None)
    agree(out, theirs.to(dtype), "out")
    theirs_gradients = gradients([theirs], exact)
    for name, gradient in gradients([out], inputs).items():
        agree(gradient, theirs_gradients[name].to(dtype), f"gradient of {name}")


@pytest.mark.parametrize("only", ["out", "last_state"])
def test_scan_gradient_of_one_output(only: str) -> None:
    inputs = scan_inputs(length=40)
    index = ["out", "last_state"].index(only)
    if only == "last_state":  # which does not depend on the others
        inputs = {name: x for name, x in inputs.items() if name not in "CDz"} | {"C": inputs["C"].detach()}
    learned = {name: x for name, x in inputs.items() if x.requires_grad}
    ours = selective_scan(**inputs, delta_softplus=True, return_last_state=True)[index]
    theirs = scan_by_definition(True, **inputs)[index]
    theirs_gradients = gradients([theirs], learned)
    for name, gradient in gradients([ours], learned).items():
        agree(gradient, theirs_gradients[name], f"gradient of {name}")


def test_gradcheck() -> None:
    inputs = scan_inputs(batch=1, channels=3, length=3, state=2)
    torch.autograd.gradcheck(lambda *x: selective_scan(*x, delta_softplus=True, return_last_state=True), list(inputs.values()))
    x, weight, bias, states = (torch.randn(s).double().requires_grad_() for s in [(1, 3, 4), (3, 3), (3,), (1, 3, 2)])
    torch.autograd.gradcheck(lambda *t: causal_conv1d(*t, True, "silu"), (x, weight, bias, states))


def test_final_states_continue_the_sequence() -> None:
    x, weight = torch.randn(2, 5, 11), torch.randn(5, 4)
    for cut in (1, 2, 6):
        head, states = causal_conv1d(x[..., :cut], weight, return_final_states=True)
        tail = causal_conv1d(x[..., cut:], weight, initial_states=states)
        torch.testing.assert_close(torch.cat([head, tail], dim=2), causal_conv1d(x, weight))


# --- numbers ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", SCAN_INPUTS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_is_not_swallowed(name: str, poison: float) -> None:
    inputs = scan_inputs(dtype=torch.float32)
    with torch.no_grad():
        inputs[name][(0,) * inputs[name].dim()] = poison
    out = selective_scan(**inputs, delta_softplus=True)
    reference, _ = scan_by_definition(True, **inputs)
    assert torch.equal(out.isfinite(), reference.isfinite())
    assert poison == float("inf") or out.isnan().any()


def test_nan_in_conv() -> None:
    x = torch.randn(1, 20, 6)
    x[0, 3, 2] = float("nan")
    out = causal_conv1d(x, torch.randn(20, 3), activation="silu")
    assert out[0, 3].isnan().tolist() == [False, False, True, True, True, False]
    assert out.isnan().sum() == 3


def test_decay_to_zero_and_growth_to_infinity() -> None:
    A, one, delta = -torch.ones(1, 1), torch.ones(1, 1, 3), torch.tensor([[[1.0, 1000.0, -1000.0]]])
    out = selective_scan(one, delta, A, one, one)
    assert out[0, 0, 1] == 1000  # what came before is forgotten exactly
    assert out[0, 0, 2] == float("inf")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    inputs = {name: x.detach().to(dtype).requires_grad_() for name, x in scan_inputs(length=30).items()}
    out, last = selective_scan(**inputs, delta_softplus=True, return_last_state=True)
    wide = {name: x.detach().float().requires_grad_() for name, x in inputs.items()}
    expected = selective_scan(**wide, delta_softplus=True)
    assert out.dtype == dtype
    assert last.dtype == torch.float32
    assert torch.equal(out, expected.to(dtype))
    for name, gradient in gradients([out], inputs).items():
        assert gradient.dtype == dtype, name
        assert gradient.isfinite().all(), name
    x, weight = inputs["u"], torch.randn(20, 4)
    assert torch.equal(causal_conv1d(x, weight), causal_conv1d(x.float(), weight).to(dtype))


def test_under_autocast() -> None:
    inputs = scan_inputs(channels=16, dtype=torch.float32)
    projection = torch.nn.Linear(16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        u = projection(inputs["u"].transpose(1, 2)).transpose(1, 2)
        assert u.dtype == torch.bfloat16
        mixed = {**inputs, "u": u}
        out = selective_scan(**mixed, delta_softplus=True)
        convolved = causal_conv1d(u, torch.randn(16, 4), activation="silu")
        out.sum().backward()
    assert out.dtype == convolved.dtype == torch.bfloat16
    assert torch.equal(out, selective_scan(**mixed, delta_softplus=True))
    assert inputs["A"].grad is not None
    assert projection.weight.grad is not None


# --- memory ----------------------------------------------------------------------------------------------------------


def test_no_tensor_with_a_state_per_step() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in tree_leaves(result) if isinstance(x, Tensor))
            return result

    batch, channels, length, state = 2, 48, 256, 16
    inputs = scan_inputs(batch, channels, length, state, dtype=torch.float32)
    full = batch * channels * length * state
    with Watch():
        out = selective_scan(**inputs, delta_softplus=True)
        out.backward(torch.ones_like(out))
    assert max(sizes) <= full / 8
    with torch.no_grad(), Watch():
        sizes.clear()
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
    from harness.kernels._numba import rows

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


def test_compiled_and_announced_once_per_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    code = (
        "import torch; from harness.kernels.causal_conv1d import causal_conv1d; from harness.kernels import compilation\n"
        "said = []; compilation.on_compile = said.append; x = torch.ones(1, 1, 1, requires_grad=True)\n"
        "causal_conv1d(x, torch.ones(1, 1)).sum().backward(); print(compilation.seconds > 0, said)"
    )
    assert python(code) == "True ['compiling CPU kernels, once per machine …']"
    assert python(code) == "False []"


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
