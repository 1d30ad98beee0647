"""The CUDA kernels of the convolution, on a GPU where there is one and as C++ on the host: upstream, definition, gradients, torch.compile."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_host_cuda import launch, needs_compiler
from torch import Tensor

from harness.kernels import _cuda, backends
from harness.kernels.causal_conv1d import causal_conv1d, cpu, cuda, definition

GOLDEN = Path(__file__).parent / "golden" / "kernels"
SHARED = Path(__file__).parents[2] / "shared" / "parity" / "kernels"
CASES = [case for case in json.loads((GOLDEN / "cases.json").read_text())["cases"] if case["op"] == "causal_conv1d"]
INPUTS = ("x", "weight", "bias", "initial_states")
GPU = torch.cuda.is_available() and not _cuda.missing(torch.device("cuda", 0))


@pytest.fixture(scope="module", params=[pytest.param("cpu", marks=needs_compiler), *(["cuda"] if GPU else [])])
def device(request: pytest.FixtureRequest):
    """Where the kernels run: the CPU stands for the launcher that runs their sources as C++."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "cpu":
            patch.setattr(_cuda, "launch", launch)
        yield request.param


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are cut into as many pieces as can be."""
    monkeypatch.setattr(cuda, "SHORTEST_PIECE", 1)
    monkeypatch.setattr(cuda, "ENOUGH_THREADS", 2**62)


def tensors(
    device: str, batch=2, channels=5, length=9, width=4, *, dtype=torch.float64, layout="channel last", seed=0
) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(device, dtype)

    x = {
        "channel last": lambda: normal(batch, length, channels).transpose(1, 2),
        "time last": lambda: normal(batch, channels, length),
        "half": lambda: normal(batch, length, 2 * channels).transpose(1, 2)[:, channels:],
        "batch last": lambda: normal(channels, length, batch).permute(2, 0, 1),
        "every other": lambda: normal(batch, 2 * length, channels)[:, 1::2].transpose(1, 2),
    }[layout]()
    rest = {"weight": normal(width, channels).T, "bias": normal(channels), "initial_states": normal(batch, channels, width - 1)}
    return {name: tensor.requires_grad_() for name, tensor in {"x": x, **rest}.items()}


def convolve(convolution, inputs: dict[str, Tensor], silu: bool, reverse: bool = False) -> Tensor:
    return convolution(**{name: inputs.get(name) for name in INPUTS}, silu=silu, reverse=reverse)


def gradients(out: Tensor, inputs: dict[str, Tensor], dout: Tensor | None = None) -> dict[str, Tensor]:
    if dout is None:
        dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out)
    return dict(zip(inputs, torch.autograd.grad(out, list(inputs.values()), dout), strict=True))


def agree(ours: Tensor, theirs: Tensor, name: str) -> None:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
    bound = 1e-10 if theirs.dtype == torch.float64 else 2e-5
    size = theirs.abs().max().item() if theirs.numel() else 0
    torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound * size, msg=lambda text: f"{name}: {text}")


def flipped(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    turned = {name: inputs[name].detach().flip(-1).requires_grad_() for name in ("x", "initial_states") if name in inputs}
    return inputs | turned


# --- right numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", ["whole rows", "short pieces"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_upstream_arrays(case: dict, pieces: str, device: str, request: pytest.FixtureRequest) -> None:
    if pieces == "short pieces":
        request.getfixturevalue("short_pieces")
    path = next((folder / case["file"] for folder in (GOLDEN, SHARED) if (folder / case["file"]).exists()), None)
    if path is None:
        pytest.skip(f"{case['file']} is neither in tests/golden/kernels nor in ../shared/parity/kernels")
    arrays = {name: torch.from_numpy(array).to(device) for name, array in np.load(path).items()}
    inputs = {name: arrays[name].requires_grad_() for name in INPUTS if name in arrays}
    out = convolve(cuda.causal_conv1d, inputs, case["activation"] is not None)
    agree(out, arrays["out"], "out")
    for name, gradient in gradients(out, inputs, arrays["dout"]).items():
        agree(gradient, arrays[f"grad_{name}"], f"grad_{name}")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_is_its_definition(data: st.DataObject, device: str) -> None:
    kinds = [
        (4, True, torch.float32),
        (4, True, torch.float64),
        (3, False, torch.float32),
        (7, False, torch.float64),
        (1, True, torch.float64),
    ]
    width, silu, dtype = data.draw(st.sampled_from(kinds), "width, silu and type")
    inputs = tensors(
        device,
        batch=data.draw(st.integers(0, 3), "batch"),
        channels=data.draw(st.sampled_from([1, 5, 32, 33, 129, 200]), "channels"),
        length=data.draw(st.sampled_from([1, 2, 3, 7, 8, 9, 31, 32, 33, 65, 100]), "length"),
        width=width,
        dtype=dtype,
        layout=data.draw(st.sampled_from(["channel last", "time last", "half", "batch last", "every other"]), "layout"),
        seed=data.draw(st.integers(0, 9), "seed"),
    )
    for name in data.draw(st.sets(st.sampled_from(["bias", "initial_states"])), "left out"):
        del inputs[name]
    reverse = data.draw(st.booleans(), "reverse")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "SHORTEST_PIECE", data.draw(st.sampled_from([1, 10, 32]), "shortest piece"))
        out = convolve(cuda.causal_conv1d, inputs, silu, reverse)
        ours = gradients(out, inputs)
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    theirs = convolve(definition.causal_conv1d, exact, silu, reverse)
    agree(out, theirs.to(dtype), "out")
    for name, gradient in gradients(theirs, exact).items():
        agree(ours[name], gradient.to(dtype), f"gradient of {name}")


@pytest.mark.parametrize("width", [2, 4, 16, 33])
def test_lengths_around_the_borders_of_pieces(width: int, device: str, short_pieces: None) -> None:
    for length in (1, 2, width - 1, width, 7, 8, 9, 15, 16, 17, 24, 25, 50):
        inputs = tensors(device, 1, 3, length, width)
        _, steps = cuda._pieces(inputs["x"], width - 1)
        assert steps + width - 1 <= width + cuda.TILE - 1
        out, theirs = (convolve(module.causal_conv1d, inputs, True) for module in (cuda, definition))
        agree(out, theirs, f"out of {length}")
        expected = gradients(theirs, inputs)
        for name, gradient in gradients(out, inputs).items():
            agree(gradient, expected[name], f"gradient of {name} of {length}")


@pytest.mark.parametrize("states", [True, False])
@pytest.mark.parametrize("module", [cuda, cpu], ids=["cuda", "cpu"])
def test_reading_backwards_is_reading_what_is_flipped_bit_for_bit(module, states: bool, device: str) -> None:
    if module is cpu and device != "cpu":
        pytest.skip("the CPU kernel is compared on the CPU")
    inputs = tensors(device, length=70, dtype=torch.float32)
    if not states:
        del inputs["initial_states"]
    turned = flipped(inputs)
    backwards, forwards = convolve(module.causal_conv1d, inputs, True, True), convolve(module.causal_conv1d, turned, True)
    assert torch.equal(backwards, forwards.flip(-1))
    dout = torch.randn_like(forwards)
    ours, theirs = gradients(backwards, inputs, dout.flip(-1)), gradients(forwards, turned, dout)
    for name in ("x", "initial_states"):
        assert name not in ours or torch.equal(ours[name], theirs[name].flip(-1)), name
    for name in ("weight", "bias"):
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_rounded_once(half: torch.dtype, device: str) -> None:
    narrow = tensors(device, length=40, dtype=half)
    wide = {name: x.detach().float().requires_grad_() for name, x in narrow.items()}
    out, expected = (convolve(cuda.causal_conv1d, inputs, True) for inputs in (narrow, wide))
    assert torch.equal(out, expected.to(half))
    dout = torch.randn_like(out)
    theirs = gradients(expected, wide, dout.float())
    for name, gradient in gradients(out, narrow, dout).items():
        assert torch.equal(gradient, theirs[name].to(half)), name


def test_mixed_types_are_kept(device: str) -> None:
    inputs = tensors(device, dtype=torch.float32)
    types = {"x": torch.bfloat16, "weight": torch.float32, "bias": torch.float64, "initial_states": torch.float16}
    inputs = {name: x.detach().to(types[name]).requires_grad_() for name, x in inputs.items()}
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    out, theirs = convolve(cuda.causal_conv1d, inputs, False), convolve(definition.causal_conv1d, exact, False)
    dout = torch.randn_like(out)
    assert torch.equal(out, theirs.to(torch.bfloat16))
    expected = gradients(theirs, exact, dout.double())
    for name, gradient in gradients(out, inputs, dout).items():
        assert gradient.dtype == types[name]
        torch.testing.assert_close(gradient, expected[name].to(types[name]))


def test_types_that_the_kernels_do_not_have_are_computed_in_float32(device: str) -> None:
    inputs = {name: x.detach().float() for name, x in tensors(device).items()}
    inputs["weight"] = inputs["weight"].to(torch.float8_e4m3fn)
    rounded = inputs | {"weight": inputs["weight"].float()}
    assert torch.equal(convolve(cuda.causal_conv1d, inputs, False), convolve(cuda.causal_conv1d, rounded, False))


def test_gradcheck(device: str) -> None:
    inputs = tensors(device, 1, 3, 4, 3)
    for reverse in (False, True):
        torch.autograd.gradcheck(lambda *t: cuda.causal_conv1d(*t[:3], True, t[3], reverse), list(inputs.values()))  # noqa: B023


def test_second_derivatives_are_refused(device: str) -> None:
    inputs = tensors(device)
    out = convolve(cuda.causal_conv1d, inputs, True)
    (gradient,) = torch.autograd.grad(out.sum(), inputs["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="causal_conv1d_backward"):
        gradient.sum().backward()


def test_gradients_of_some_inputs(device: str) -> None:
    inputs = tensors(device)
    expected = gradients(convolve(definition.causal_conv1d, inputs, True), inputs)
    for name in inputs:
        some = {other: x.detach().requires_grad_(other == name) for other, x in inputs.items()}
        out = convolve(cuda.causal_conv1d, some, True)
        agree(gradients(out, {name: some[name]})[name], expected[name], name)


def test_nan_and_infinity_stay_in_their_channel_and_window(device: str, short_pieces: None) -> None:
    for poison in (float("nan"), float("inf")):
        inputs = {name: x.detach().float().requires_grad_() for name, x in tensors(device, length=40).items()}
        with torch.no_grad():
            inputs["x"][0, 3, 17] = poison
        out, theirs = (convolve(module.causal_conv1d, inputs, False) for module in (cuda, definition))
        assert out[0, 3].isfinite().logical_not().nonzero().flatten().tolist() == [17, 18, 19, 20]
        assert torch.equal(out.isnan(), theirs.isnan())
        expected = gradients(theirs, inputs)
        for name, gradient in gradients(out, inputs).items():
            assert torch.equal(gradient.isfinite(), expected[name].isfinite()), name
            assert torch.equal(gradient.isnan(), expected[name].isnan()), name


def test_overflow_beyond_the_end_of_a_row_touches_nothing(device: str) -> None:
    x = torch.zeros(1, 1, 9, device=device)
    x[..., -1] = 3e38  # times 10 in the step after the last, which is walked for the gradient but is not there
    weight = torch.tensor([[0.0, 0, 10, 1]], device=device)
    out = cuda.causal_conv1d(x.requires_grad_(), weight, None, True, None)
    (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert gradient[0, 0].tolist() == [5.5] * 7 + [10.5, 1]


# --- how they are called -----------------------------------------------------------------------------------------------


def test_no_tensor_is_copied(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, seen = tensors(device, layout="half"), []
    launch_it = _cuda.launch
    monkeypatch.setattr(_cuda, "launch", lambda *given: [seen.append(given[4]), launch_it(*given)])
    out = convolve(cuda.causal_conv1d, inputs, True, reverse=True)
    assert [value.data_ptr() for value in seen[0][:4]] == [x.data_ptr() for x in inputs.values()]
    assert out.transpose(1, 2).is_contiguous()
    gradients(out, inputs, torch.ones(1, 1, 1, device=device, dtype=out.dtype).expand(out.shape))
    assert [value.data_ptr() for value in seen[1][:4]] == [x.data_ptr() for x in inputs.values()]
    assert seen[1][19:22] == (0, 0, 0)  # a gradient that is one number stays one number
    assert out.mul_(2).requires_grad  # no view of a custom operation's, which torch would not let be changed


def test_rows_far_apart_in_memory(device: str, tmp_path: Path) -> None:
    if device == "cuda":
        pytest.skip("needs a sparse file")
    apart = 2**31 + 5
    memory = torch.from_file(str(tmp_path / "sparse"), shared=True, size=apart + 256, dtype=torch.bfloat16)
    x = memory.as_strided((2, 8, 32), (apart, 1, 8))
    x.copy_(torch.arange(512).view(2, 8, 32) % 7)
    weight = torch.ones(8, 3)
    assert torch.equal(cuda.causal_conv1d(x, weight, None, False, None), cuda.causal_conv1d(x.clone(), weight, None, False, None))


@pytest.mark.parametrize("layout", ["channel last", "time last", "half", "batch last"])
def test_upstream_is_given_memory_that_it_takes(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of channel-last memory its kernel takes multiples of eight channels, eight numbers apart, alone (csrc/causal_conv1d.cpp)."""

    def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
        x = x if 1 in (x.stride(1), x.stride(2)) else x.contiguous()
        if x.stride(1) == 1 and x.stride(2) > 1:
            assert not any(number % 8 for number in (x.shape[1], x.stride(0), x.stride(2)))
        return definition.causal_conv1d(x, weight, bias, activation is not None, None)

    monkeypatch.setitem(sys.modules, "causal_conv1d", SimpleNamespace(causal_conv1d_fn=causal_conv1d_fn))
    monkeypatch.delitem(sys.modules, "harness.kernels.causal_conv1d.upstream", raising=False)
    upstream = import_module("harness.kernels.causal_conv1d.upstream")
    for channels in (5, 8, 12):
        for length in (1, 8):
            inputs = tensors("cpu", 2, channels, length, layout=layout)
            del inputs["initial_states"]
            out, theirs = (convolve(module.causal_conv1d, inputs, True, True) for module in (upstream, definition))
            agree(out, theirs, f"{channels} channels")


@pytest.mark.parametrize(
    ("shape", "pieces"),
    [((16 * 90, 512, 256), 1), ((8, 512, 131_072), 128), ((1, 512, 131_072), 1024), ((2, 64, 101), 4), ((1, 1, 1), 1)],
)
def test_rows_are_cut_until_there_are_enough_threads(shape: tuple[int, int, int], pieces: int) -> None:
    x = torch.empty(shape, device="meta")
    for beyond in (0, 3, 15):
        count, steps = cuda._pieces(x, beyond)
        assert (steps + beyond) % cuda.TILE == 0
        assert (count - 1) * steps < shape[2] <= count * steps
        assert 0.8 * pieces <= count <= pieces


def test_custom_ops_hold_what_torch_asks_of_them(device: str) -> None:
    inputs = tensors(device, dtype=torch.float32)
    for left_out in ((), ("bias", "initial_states")):
        given = tuple(None if name in left_out else inputs[name] for name in INPUTS)
        torch.library.opcheck(cuda._forward, (*given, True, False))
        dout = torch.randn(2, 5, 9, device=device)
        torch.library.opcheck(cuda._backward, (dout, *(x if x is None else x.detach() for x in given), True, True))


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_traces_through(dynamic: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "missing", lambda backend, device: "" if backend == "cuda" else "not tried here")
    inputs = tensors(device, dtype=torch.float32)

    def model(x: Tensor, weight: Tensor, bias: Tensor, initial_states: Tensor) -> Tensor:
        return 2 * causal_conv1d(torch.sin(x), weight, bias, initial_states, activation="silu", reverse=True)

    compiled_model = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    out, compiled = model(**inputs), compiled_model(**inputs)
    assert torch.equal(out, compiled)
    expected = gradients(out, inputs)
    for name, gradient in gradients(compiled, inputs).items():
        assert torch.equal(gradient, expected[name]), name


def test_runs_are_the_same_bits(device: str) -> None:
    inputs = tensors(device, 3, 70, 300, dtype=torch.float32)
    first, second = (gradients(convolve(cuda.causal_conv1d, inputs, True), inputs) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in inputs)
