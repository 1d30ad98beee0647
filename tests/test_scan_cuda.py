"""The CUDA kernels of the selective scan, run on the host: their numbers are the definition's, whatever the shapes and layouts."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_host_cuda import needs_compiler, on_host  # noqa: F401
from test_kernels import (
    CASES,
    GOLDEN,
    SCAN_INPUTS,
    SHARED,
    agree,
    agree_all,
    gradients,
    scan_by_definition,
    scan_inputs,
    tensor_sizes,
)
from torch import Tensor

from harness.kernels import _cuda
from harness.kernels.selective_scan import _too_large, cuda
from harness.kernels.selective_scan.definition import selective_scan as definition

pytestmark = [needs_compiler, pytest.mark.usefixtures("on_host")]


def by_kernels(delta_softplus: bool, reverse: bool = False, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    grouped = {name: inputs[name][:, None] if inputs[name].dim() == 3 else inputs[name] for name in "BC"}
    return cuda.selective_scan(**dict.fromkeys(SCAN_INPUTS) | inputs | grouped, delta_softplus=delta_softplus, reverse=reverse)  # type: ignore


def by_definition(delta_softplus: bool, reverse: bool = False, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    grouped = {name: inputs[name][:, None] if inputs[name].dim() == 3 else inputs[name] for name in "BC"}
    return definition(**dict.fromkeys(SCAN_INPUTS) | inputs | grouped, delta_softplus=delta_softplus, reverse=reverse)  # type: ignore


def compare(inputs: dict[str, Tensor], softplus: bool = True, reverse: bool = False) -> None:
    """out, last_state and all gradients of both; those of the definition are computed in float64."""
    dtype = inputs["u"].dtype
    ours = by_kernels(softplus, reverse, **inputs)
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    theirs = by_definition(softplus, reverse, **exact)
    for name, a, b in zip(("out", "last_state"), ours, theirs, strict=True):
        agree(a, b.to(dtype), name)
    agree_all(gradients(list(ours), inputs), gradients(list(theirs), exact))


@pytest.fixture
def segmented(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is cut into segments of 16 steps, however many channels there are."""
    monkeypatch.setattr(cuda, "FEW_THREADS", 1 << 40)
    monkeypatch.setattr(cuda, "WANTED_THREADS", 1 << 40)
    monkeypatch.setattr(cuda, "SHORTEST_SEGMENT", 16)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "FEW_THREADS", 0)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in CASES if case["op"] == "selective_scan"], ids=lambda case: case["name"])
def test_upstream_arrays(case: dict) -> None:
    path = next((folder / case["file"] for folder in (GOLDEN, SHARED) if (folder / case["file"]).exists()), None)
    if path is None:
        pytest.skip(f"{case['file']} is neither in tests/golden/kernels nor in ../shared/parity/kernels")
    arrays = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    inputs = {name: arrays[name].requires_grad_() for name in SCAN_INPUTS if name in arrays}
    out, last = by_kernels(case["delta_softplus"], **inputs)
    agree(out, arrays["out"], "out")
    agree(last, arrays["last_state"], "last_state")
    for name, gradient in zip(inputs, torch.autograd.grad(out, list(inputs.values()), arrays["dout"]), strict=True):
        agree(gradient, arrays[f"grad_{name}"], f"grad_{name}")


def _drawn(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([None, 1, 2, 3]), "groups")
    inputs = scan_inputs(
        batch=data.draw(st.integers(0, 3), "batch"),
        channels=data.draw(st.integers(1, 40), "channels per group") * (groups or 1),
        length=data.draw(st.sampled_from([1, 2, 15, 16, 17, 31, 33, 64, 70]), "length"),
        state=data.draw(st.sampled_from([1, 5, 8, 16, 21]), "state"),
        groups=groups,
        dtype=data.draw(st.sampled_from([torch.float32, torch.float64]), "dtype"),
        channel_last=data.draw(st.booleans(), "channel_last"),
        seed=data.draw(st.integers(0, 9), "seed"),
    )
    for name in data.draw(st.sets(st.sampled_from(["D", "z", "delta_bias"])), "left out"):
        del inputs[name]
    softplus = data.draw(st.booleans(), "softplus")
    if not softplus:  # a negative step is legal but grows without bound
        for name in {"delta", "delta_bias"} & set(inputs):
            inputs[name] = inputs[name].detach().abs().requires_grad_()
    with pytest.MonkeyPatch.context() as changed:
        if data.draw(st.booleans(), "segmented"):
            changed.setattr(cuda, "WANTED_THREADS", 1 << 40)
            changed.setattr(cuda, "SHORTEST_SEGMENT", 16)
        compare(inputs, softplus, data.draw(st.booleans(), "reverse"))


drawn = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@drawn
@given(data=st.data())
def test_scan_is_its_definition(data: st.DataObject) -> None:
    _drawn(data)


@pytest.mark.slow
@settings(drawn, max_examples=500)
@given(data=st.data())
def test_scan_is_its_definition_in_many_cases(data: st.DataObject) -> None:
    _drawn(data)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("how", ["segmented", "whole"])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 33, 64, 65, 130, 200])
def test_borders_of_tiles_and_segments(length: int, how: str, reverse: bool, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(how)
    compare(scan_inputs(length=length, dtype=torch.float32, groups=2), reverse=reverse)


@pytest.mark.parametrize("state", [1, 2, 3, 15, 16, 17, 33, 64, 256])
def test_numbers_of_states(state: int, segmented: None) -> None:
    compare(scan_inputs(batch=1, channels=3, length=20, state=state, dtype=torch.float32))


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, None), (31, None), (32, None), (33, None), (128, 1), (129, None), (160, 2), (300, 1)]
)
def test_channels_that_do_not_fill_blocks(channels: int, groups: int | None, segmented: None) -> None:
    compare(scan_inputs(batch=2, channels=channels, length=18, groups=groups, dtype=torch.float32))


def test_many_states_take_narrower_blocks() -> None:
    threads = {state: cuda._threads(256, state, torch.float32) for state in (16, 32, 64, 256)}
    assert threads == {16: 128, 32: 128, 64: 64, 256: 32}
    assert cuda._threads(160, 16, torch.float32) == 96  # two even blocks rather than 128 + 32
    volta, pascal = 96 * 1024, 48 * 1024
    assert cuda.too_large(64, True, pascal) == cuda.too_large(256, False, volta) == ""
    assert re.match(r"400 states need \d+ bytes of shared memory, and a block has 98304", cuda.too_large(400, False, volta))
    assert "a block has 49152" in cuda.too_large(256, False, pascal)


def test_a_card_is_asked_for_its_shared_memory_where_there_are_many_states(monkeypatch) -> None:
    card = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(shared_memory_per_block_optin=48 * 1024))
    assert _too_large(64, True, card) == _too_large(256, False, torch.device("cpu")) == ""
    assert "256 states need" in _too_large(256, False, card)


@pytest.mark.parametrize("reverse", [False, True])
def test_layouts(reverse: bool, segmented: None) -> None:
    """Inputs are read where they lie: halves of a projection, an expanded batch, every second channel, a gradient of one number."""
    random = torch.Generator().manual_seed(0)
    wide = torch.randn(2, 37, 64, generator=random, dtype=torch.float64)
    inputs = scan_inputs(channels=16, length=37, groups=None)
    inputs["u"], inputs["z"] = (x.transpose(1, 2).detach().requires_grad_() for x in wide[..., :32].chunk(2, dim=-1))
    inputs["delta"] = wide[:1, :, 32::2].transpose(1, 2).expand(2, 16, 37).detach().requires_grad_()
    inputs["B"] = torch.randn(37, 2, 4, generator=random, dtype=torch.float64).permute(1, 2, 0).requires_grad_()
    assert not any(inputs[name].is_contiguous() for name in ("u", "z", "delta", "B"))
    compare(inputs, reverse=reverse)
    ours, theirs = by_kernels(True, reverse, **inputs)[0].sum(), by_definition(True, reverse, **inputs)[0].sum()
    for name, a, b in zip(inputs, *(torch.autograd.grad(x, list(inputs.values())) for x in (ours, theirs)), strict=True):
        agree(a, b, name)


def test_out_is_channel_last_and_may_be_changed_in_place() -> None:
    out, last = by_kernels(True, **scan_inputs())
    assert out.transpose(1, 2).is_contiguous()
    assert all(x.mul_(2).requires_grad for x in (out, last))


def test_empty_batch() -> None:
    inputs = scan_inputs(batch=0)
    out, last = by_kernels(True, **inputs)
    assert (out.shape, last.shape) == ((0, 20, 9), (0, 20, 4))
    grads = gradients([out, last], inputs)
    assert grads["A"].shape == (20, 4)
    assert not grads["A"].any()


@pytest.mark.parametrize("name", SCAN_INPUTS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_is_not_swallowed(name: str, poison: float) -> None:
    inputs = scan_inputs(dtype=torch.float32, length=20)
    with torch.no_grad():
        inputs[name][(0,) * inputs[name].dim()] = poison
    out, last = by_kernels(True, **inputs)
    expected, expected_last = scan_by_definition(True, **inputs)
    assert torch.equal(out.isfinite(), expected.isfinite())
    assert torch.equal(last.isfinite(), expected_last.isfinite())
    assert poison == float("inf") or out.isnan().any()
    ours, theirs = gradients([out], inputs), gradients([expected], inputs)
    for gradient in inputs:
        assert not (ours[gradient].isfinite() & ~theirs[gradient].isfinite()).any(), gradient


def test_a_rate_of_minus_infinity_forgets(segmented: None) -> None:
    inputs = scan_inputs(length=20)
    with torch.no_grad():
        inputs["A"].fill_(-float("inf"))
    agree(by_kernels(True, **inputs)[1], by_definition(True, **inputs)[1], "last_state")


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["segmented", "whole"])
@pytest.mark.parametrize("only", ["out", "last_state"])
def test_gradient_of_one_output(only: str, how: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(how)
    inputs = scan_inputs(length=40)
    index = ["out", "last_state"].index(only)
    if only == "last_state":  # which does not depend on the others
        inputs = {name: x for name, x in inputs.items() if name not in "CDz"} | {"C": inputs["C"].detach()}
    learned = {name: x for name, x in inputs.items() if x.requires_grad}
    theirs = gradients([by_definition(True, **inputs)[index]], learned)
    for name, gradient in gradients([by_kernels(True, **inputs)[index]], learned).items():
        agree(gradient, theirs[name], f"gradient of {name}")


@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(reverse: bool) -> None:
    inputs = scan_inputs(batch=1, channels=3, length=3, state=2, groups=1)
    torch.autograd.gradcheck(lambda *x: cuda.selective_scan(*x, True, reverse), list(inputs.values()))


def test_no_second_derivative() -> None:
    inputs = scan_inputs(channels=2)
    out, _ = by_kernels(True, **inputs)
    (du,) = torch.autograd.grad(out.sum(), inputs["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        du.sum().backward()


def test_same_bits_always(segmented: None) -> None:
    inputs = scan_inputs(batch=2, channels=150, length=50, dtype=torch.float32)

    def everything() -> list[Tensor]:
        out, last = by_kernels(True, **inputs)
        return [out, last, *gradients([out, last], inputs).values()]

    assert all(torch.equal(a, b) for a, b in zip(everything(), everything(), strict=True))


# --- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    inputs = {name: x.detach().to(dtype).requires_grad_() for name, x in scan_inputs(length=40).items()}
    wide = {name: x.detach().float().requires_grad_() for name, x in inputs.items()}
    (out, last), (expected, expected_last) = by_kernels(True, **inputs), by_kernels(True, **wide)
    assert (out.dtype, last.dtype) == (dtype, torch.float32)
    assert torch.equal(out, expected.to(dtype))
    assert torch.equal(last, expected_last)
    theirs = gradients([expected], wide)
    for name, gradient in gradients([out], inputs).items():
        assert gradient.dtype == dtype, name
        bound = 0.02 * theirs[name].abs().max().item()
        torch.testing.assert_close(
            gradient.float(), theirs[name], rtol=0.01, atol=bound, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_types_as_autocast_mixes_them() -> None:
    half = ("u", "z")
    inputs = scan_inputs(length=40, dtype=torch.float32)
    inputs = {name: (x.detach().bfloat16() if name in half else x.detach()).requires_grad_() for name, x in inputs.items()}
    wide = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    out, last = by_kernels(True, **inputs)
    theirs = gradients(list(by_definition(True, **wide)), wide)
    assert (out.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    for name, gradient in gradients([out, last], inputs).items():
        assert gradient.dtype == inputs[name].dtype, name
        torch.testing.assert_close(gradient.double(), theirs[name], rtol=0.02, atol=0.02 * theirs[name].abs().max().item())


def test_one_float64_makes_all_of_it_so() -> None:
    inputs = {name: x.detach().float() for name, x in scan_inputs().items()} | {"A": scan_inputs()["A"].detach()}
    out, last = by_kernels(True, **inputs)
    expected, expected_last = by_definition(True, **{name: x.double() for name, x in inputs.items()})
    assert (out.dtype, last.dtype) == (torch.float32, torch.float64)
    agree(last, expected_last, "last_state")
    agree(out, expected.float(), "out")


def test_types_that_the_kernels_do_not_have_are_computed_in_float32() -> None:
    inputs = {name: x.detach().float() for name, x in scan_inputs().items()}
    narrow = {name: x.to(torch.float8_e4m3fn) for name, x in inputs.items()}
    (out, last), (expected, expected_last) = (by_kernels(True, **x) for x in (narrow, {n: x.float() for n, x in narrow.items()}))
    assert torch.equal(out.float(), expected.to(torch.float8_e4m3fn).float())
    assert torch.equal(last, expected_last)


# --- as an operation of torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optional", [False, True])
def test_operations_keep_torch_rules(optional: bool) -> None:
    inputs = scan_inputs(channels=4, optional=optional, groups=1)
    tensors = [inputs.get(name) for name in SCAN_INPUTS]
    torch.library.opcheck(torch.ops.harness.selective_scan.default, (*tensors, True, False, True))
    detached = [None if x is None else x.detach() for x in tensors]
    out, last, borders, gated = torch.ops.harness.selective_scan(*detached, True, False, True)
    backward = (torch.randn_like(out), torch.randn_like(last), borders, gated, *detached, True, False)
    torch.library.opcheck(torch.ops.harness.selective_scan_backward.default, backward)


def test_compiles_without_a_break() -> None:
    inputs = scan_inputs(channels=4, groups=1)
    tensors = [inputs[name] for name in SCAN_INPUTS]

    def layer(*tensors: Tensor) -> Tensor:
        out, last = cuda.selective_scan(*tensors, True, True)
        return out.tanh().sum() + last.sum()

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    ours, theirs = compiled(*tensors), layer(*tensors)
    assert torch.equal(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, tensors), torch.autograd.grad(theirs, tensors), strict=True):
        assert torch.equal(a, b)


def test_no_tensor_with_a_state_per_step(segmented: None) -> None:
    batch, channels, length, state = 2, 48, 256, 16
    inputs = scan_inputs(batch, channels, length, state, dtype=torch.float32)
    with tensor_sizes() as sizes:
        out, _ = by_kernels(True, **inputs)
        out.backward(torch.ones_like(out))
    assert max(sizes) <= batch * channels * length * state / 16
    with torch.no_grad(), tensor_sizes() as sizes:
        by_kernels(True, **inputs)
    assert max(sizes) <= batch * channels * length


def test_nothing_is_saved_without_grad() -> None:
    saved: list[Tensor] = []
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        by_kernels(True, **scan_inputs())
    assert not saved


# --- how it is launched and compiled ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "length", "segments"),
    [(16 * 90 * 256, 512, 1), (2 * 90 * 512, 1024, 1), (8 * 512, 131_072, 32), (512, 131_072, 256), (32, 40, 1), (32, 1000, 16)],
)
def test_few_long_rows_are_cut(rows: int, length: int, segments: int) -> None:
    segment = cuda._segment_length(length, rows, 16)
    assert segment % 16 == 0
    assert -(-length // segment) == segments


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_compiled_without_warnings_or_spilled_registers(arch: str) -> None:
    pytest.importorskip("cuda.bindings")
    defines = next(made for made in cuda.variants() if made["U_TYPE"] == "bf16" and made["HAS_Z"] == made["SOFTPLUS"] == "true")
    _, log = _cuda.compile(_cuda.source(cuda.SOURCE, defines), "scan.cu", arch)
    assert "warning" not in log.lower()
    registers = dict(re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", log, re.DOTALL))
    assert set(registers) == {"scan_forward", "scan_ends", "scan_carry", "scan_adjoints", "scan_backward"}
    assert int(registers["scan_forward"]) <= 96
    assert int(registers["scan_backward"]) <= (255 if arch == "sm_100" else 168)
    assert set(re.findall(r"(\d+) bytes spill", log)) == {"0"}
