"""A scan from the last step to the first is, to the bit, the scan of flipped tensors, with every backend and all gradients."""

from __future__ import annotations

import pytest
import torch
from made_host_cuda import needs_compiler, on_host  # noqa: F401
from test_kernels import gradients, scan_inputs
from torch import Tensor

from harness.kernels.selective_scan import cpu, cuda, definition

BACKENDS = {"cpu": cpu.selective_scan, "cuda": cuda.selective_scan, "definition": definition.selective_scan}
OF_TIME = ("u", "delta", "B", "C", "z")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_compiler), "definition"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cuda":
        request.getfixturevalue("on_host")
        monkeypatch.setattr(cuda, "SHORTEST_SEGMENT", 16)
    return request.param


def flipped(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (x.detach().flip(-1) if name in OF_TIME else x.detach()).requires_grad_() for name, x in inputs.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channel_last", [True, False])
@pytest.mark.parametrize(("length", "groups", "softplus"), [(1, 1, True), (31, 2, False), (70, 2, True)])
def test_reverse_is_the_scan_of_flipped_tensors(
    backend: str, length: int, groups: int, softplus: bool, channel_last: bool, dtype: torch.dtype
) -> None:
    inputs = scan_inputs(channels=40, length=length, groups=groups, channel_last=channel_last, dtype=dtype)
    if not softplus:
        for name in ("delta", "delta_bias"):  # a negative step grows without bound
            inputs[name] = inputs[name].detach().abs().requires_grad_()
    turned = flipped(inputs)
    scan = BACKENDS[backend]
    out, last = scan(**inputs, delta_softplus=softplus, reverse=True)
    expected, expected_last = scan(**turned, delta_softplus=softplus)
    assert torch.equal(out, expected.flip(-1))
    assert torch.equal(last, expected_last)
    # One weight for the outputs of both, which lie the other way round.
    theirs = gradients([expected.flip(-1), expected_last], turned)
    for name, gradient in gradients([out, last], inputs).items():
        assert torch.equal(gradient, theirs[name].flip(-1) if name in OF_TIME else theirs[name]), name


@pytest.mark.parametrize("name", ["D", "z", "delta_bias"])
def test_reverse_without_an_optional_tensor(backend: str, name: str) -> None:
    inputs = scan_inputs(length=20, groups=1) | {name: None}
    turned = {key: x.flip(-1) if key in OF_TIME and x is not None else x for key, x in inputs.items()}
    scan = BACKENDS[backend]
    out, _ = scan(**inputs, delta_softplus=True, reverse=True)
    assert torch.equal(out, scan(**turned, delta_softplus=True)[0].flip(-1))


def test_reverse_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU kernels walk backwards over the memory that is there."""

    def refuse(*_: object) -> None:
        raise AssertionError("a tensor was flipped")

    monkeypatch.setattr(torch.Tensor, "flip", refuse)
    inputs = scan_inputs(groups=1)
    out, last = cpu.selective_scan(**inputs, delta_softplus=True, reverse=True)
    gradients([out, last], inputs)
