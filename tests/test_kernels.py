"""The numbers of the kernels: against upstream's arrays, against their definitions, and at the limits of their types.

On a machine with a GPU the same tests hold the fused CUDA kernels to it; without one, test_scan_cuda.py and test_conv_cuda.py do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.kernels import backends
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


FUSED = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


@pytest.fixture(params=[*FUSED, "definition"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """All implementations behind the public functions."""
    with backends.using(request.param):
        yield request.param


@pytest.fixture(params=FUSED)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a fused implementation computes; it serves the public functions."""
    with backends.using(request.param):
        yield request.param


def place(implementation: str) -> str:
    return "cuda" if implementation == "cuda" else "cpu"


def agree(ours: Tensor, theirs: Tensor, name: str, size: float = 0.0) -> None:
    """``size`` is that of numbers whose sums these are, and which may cancel out."""
    ours, theirs = ours.cpu(), theirs.cpu()
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
    bound = 1e-10 if theirs.dtype == torch.float64 else 2e-5
    size = max(largest(theirs), size)
    torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound * size, msg=lambda text: f"{name}: {text}")


def largest(*tensors: Tensor) -> float:
    return max((x.abs().max().item() for x in tensors if x.numel()), default=0.0)


def agree_all(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """Gradients of a scan. Those of A, D and delta_bias are sums of numbers like those of u and delta."""
    size = largest(exact["u"], exact["delta"])
    for name, gradient in ours.items():
        agree(gradient, exact[name].to(gradient.dtype), f"gradient of {name}", size if name in ("A", "D", "delta_bias") else 0.0)


def scan_inputs(
    batch=2,
    channels=20,
    length=9,
    state=4,
    *,
    groups=None,
    dtype=torch.float64,
    channel_last=True,
    optional=True,
    seed=0,
    device="cpu",
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
    return {name: x.to(device, dtype).requires_grad_() for name, x in inputs.items()}


def gradients(outputs: list[Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=random, dtype=torch.float64).to(x.device, x.dtype) for x in outputs]
    return dict(zip(inputs, torch.autograd.grad(outputs, list(inputs.values()), weights), strict=True))


@contextmanager
def tensor_sizes() -> Iterator[list[int]]:
    """The numbers of elements of all tensors that operations of torch give while it lasts."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in tree_leaves(result) if isinstance(x, Tensor))
            return result

    with Watch():
        yield sizes


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
    arrays = {name: torch.from_numpy(array).to(place(implementation)) for name, array in np.load(path).items()}
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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_scan_is_its_definition(device: str, data: st.DataObject) -> None:
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
        device=device,
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
    agree_all(gradients(list(ours), inputs), gradients(list(theirs), exact))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_conv_is_its_definition(device: str, data: st.DataObject) -> None:
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
    inputs = {name: x.to(device).requires_grad_() for name, x in inputs.items()}
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
def test_scan_gradient_of_one_output(device: str, only: str) -> None:
    inputs = scan_inputs(length=40, device=device)
    index = ["out", "last_state"].index(only)
    if only == "last_state":  # which does not depend on the others
        inputs = {name: x for name, x in inputs.items() if name not in "CDz"} | {"C": inputs["C"].detach()}
    learned = {name: x for name, x in inputs.items() if x.requires_grad}
    ours = selective_scan(**inputs, delta_softplus=True, return_last_state=True)[index]
    theirs = scan_by_definition(True, **inputs)[index]
    theirs_gradients = gradients([theirs], learned)
    for name, gradient in gradients([ours], learned).items():
        agree(gradient, theirs_gradients[name], f"gradient of {name}")


def test_gradcheck(device: str) -> None:
    inputs = scan_inputs(batch=1, channels=3, length=3, state=2, device=device)
    torch.autograd.gradcheck(lambda *x: selective_scan(*x, delta_softplus=True, return_last_state=True), list(inputs.values()))
    x, weight, bias, states = (torch.randn(s).double().to(device).requires_grad_() for s in [(1, 3, 4), (3, 3), (3,), (1, 3, 2)])
    torch.autograd.gradcheck(lambda *t: causal_conv1d(*t, True, "silu"), (x, weight, bias, states))


def test_final_states_continue_the_sequence(device: str) -> None:
    x, weight = torch.randn(2, 5, 11, device=device), torch.randn(5, 4, device=device)
    for cut in (1, 2, 6):
        head, states = causal_conv1d(x[..., :cut], weight, return_final_states=True)
        tail = causal_conv1d(x[..., cut:], weight, initial_states=states)
        torch.testing.assert_close(torch.cat([head, tail], dim=2), causal_conv1d(x, weight))


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCAN_INPUTS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_is_not_swallowed(device: str, name: str, poison: float) -> None:
    inputs = scan_inputs(dtype=torch.float32, device=device)
    with torch.no_grad():
        inputs[name][(0,) * inputs[name].dim()] = poison
    out = selective_scan(**inputs, delta_softplus=True)
    reference, _ = scan_by_definition(True, **inputs)
    assert torch.equal(out.isfinite(), reference.isfinite())
    assert poison == float("inf") or out.isnan().any()


def test_nan_in_conv(device: str) -> None:
    x = torch.randn(1, 20, 6, device=device)
    x[0, 3, 2] = float("nan")
    out = causal_conv1d(x, torch.randn(20, 3, device=device), activation="silu")
    assert out[0, 3].isnan().tolist() == [False, False, True, True, True, False]
    assert out.isnan().sum() == 3


def test_decay_to_zero_and_growth_to_infinity(device: str) -> None:
    A, one = -torch.ones(1, 1, device=device), torch.ones(1, 1, 3, device=device)
    delta = torch.tensor([[[1.0, 1000.0, -1000.0]]], device=device)
    out = selective_scan(one, delta, A, one, one)
    assert out[0, 0, 1] == 1000  # what came before is forgotten exactly
    assert out[0, 0, 2] == float("inf")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(device: str, dtype: torch.dtype) -> None:
    inputs = {name: x.detach().to(dtype).requires_grad_() for name, x in scan_inputs(length=30, device=device).items()}
    out, last = selective_scan(**inputs, delta_softplus=True, return_last_state=True)
    wide = {name: x.detach().float().requires_grad_() for name, x in inputs.items()}
    expected = selective_scan(**wide, delta_softplus=True)
    assert out.dtype == dtype
    assert last.dtype == torch.float32
    assert torch.equal(out, expected.to(dtype))
    for name, gradient in gradients([out], inputs).items():
        assert gradient.dtype == dtype, name
        assert gradient.isfinite().all(), name
    x, weight = inputs["u"], torch.randn(20, 4, device=device)
    assert torch.equal(causal_conv1d(x, weight), causal_conv1d(x.float(), weight).to(dtype))


def test_under_autocast(device: str) -> None:
    inputs = scan_inputs(channels=16, dtype=torch.float32, device=device)
    projection = torch.nn.Linear(16, 16, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        u = projection(inputs["u"].transpose(1, 2)).transpose(1, 2)
        assert u.dtype == torch.bfloat16
        mixed = {**inputs, "u": u}
        out = selective_scan(**mixed, delta_softplus=True)
        convolved = causal_conv1d(u, torch.randn(16, 4, device=device), activation="silu")
        out.sum().backward()
    assert out.dtype == convolved.dtype == torch.bfloat16
    assert torch.equal(out, selective_scan(**mixed, delta_softplus=True))
    assert inputs["A"].grad is not None
    assert projection.weight.grad is not None
