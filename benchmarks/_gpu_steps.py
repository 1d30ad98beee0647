"""Rows of gpu.py: the kernels by themselves, and single training steps of the models that use them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import kernels
from harness.adapter import Adapter
from harness.adapters._mamba import Mamba
from harness.adapters.caduceus import Caduceus
from harness.engine import hardware
from harness.engine.predict import autocast, to_device
from harness.kernels import backends, compilation
from harness.kernels.causal_conv1d import causal_conv1d

from ._gpu import Bench, Measure, NotMeasured, Row, alignments, apart, windows

PLAIN_STEPS = (
    64  # of a scan in plain torch, whose time is proportional to its steps; with gradients it keeps about 5 states a step
)
REPEATS = 10  # of a scan's call in a measurement
SCANS = ((16 * 90, 256, 512, 16), (8, 512, 131_072, 16))  # batch, channels, length, state


def bandwidth(bench: Bench) -> Iterator[Measure]:
    """How fast the card's memory is: the bound of everything below that computes little."""
    yield "memory bandwidth", partial(_bandwidth, bench)


def _bandwidth(bench: Bench) -> Iterator[Row]:
    yield Row("memory bandwidth, a copy", f"{bench.bandwidth / 1e9:,.0f} GB/s")


def scan(bench: Bench) -> Iterator[Measure]:
    """The selective scan against upstream's kernel, the bound by memory bandwidth, and plain torch."""
    for shape in bench.size(SCANS, ((4, 8, 2 * PLAIN_STEPS, 4), (1, 4, 3 * PLAIN_STEPS, 4))):
        for backward in (False, True):
            name = f"scan {'forward + backward' if backward else 'forward'}, {shape}, bf16"
            yield name, partial(_scan, bench, name, shape, backward)


def _scan(bench: Bench, name: str, shape: tuple[int, int, int, int], backward: bool) -> Iterator[Row]:
    bound = _bytes_moved(shape, 2, backward) / bench.bandwidth
    args = kernels.inputs(*shape, bench.device, torch.bfloat16)
    short = [x[..., :PLAIN_STEPS].transpose(1, 2).contiguous().transpose(1, 2) if x.dim() == 3 else x for x in args]
    ours, plain = _by(bench.fused), _by("definition")
    torch.testing.assert_close(ours(*short).float(), plain(*short).float(), rtol=2e-2, atol=2e-2)
    timed = kernels.forward_and_backward if backward else kernels.forward
    contestants = {"ours": (_repeated(timed(ours, args)), bench.rounds), "plain": (timed(plain, short), 3)}
    if bench.upstream:  # in the layout that its own module passes
        upstream = timed(_upstream_scan(bench), [x.contiguous() for x in args])
        contestants["upstream"] = (_repeated(upstream), bench.rounds)
    seconds = bench.race(**contestants)
    once = seconds["ours"] / REPEATS
    if bench.upstream:
        ratio = seconds["upstream"] / seconds["ours"]
        yield Row(f"{name}, against mamba_ssm", f"{ratio:.2f}×", "≥ 1.0×", ratio >= 1.0)
    share = bound / once
    value = f"{share:.0%} ({1e3 * once:.2f} ms; bound {1e3 * bound:.2f} ms)"
    if bench.upstream:
        yield Row(f"{name}, of the bandwidth bound", value)
    else:
        yield Row(f"{name}, of the bandwidth bound", value, "≥ 60 % where mamba_ssm is not installed", share >= 0.6)
    ratio = seconds["plain"] * shape[2] / PLAIN_STEPS / once
    yield Row(f"{name}, against plain torch", f"{ratio:,.0f}× (its first {PLAIN_STEPS} steps, scaled)", "≥ 50×", ratio >= 50)


def _repeated(call: Callable[[], object]) -> Callable[[], None]:
    """Several calls, so that the host's part of all but the first is hidden behind the device's."""

    def calls() -> None:
        for _ in range(REPEATS):
            call()

    return calls


def _by(backend: str) -> Callable[..., Tensor]:
    def call(*args: Tensor) -> Tensor:
        with backends.using(f"selective_scan={backend}"):
            return kernels.ours(*args)

    return call


def _upstream_scan(bench: Bench) -> Callable[..., Tensor]:
    if bench.dry:
        return _by("definition")
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # type: ignore[import-not-found]

    return partial(selective_scan_fn, delta_softplus=True)


def _bytes_moved(shape: tuple[int, int, int, int], width: int, backward: bool) -> int:
    """What a scan of numbers of ``width`` bytes cannot help moving; the weights and the states at chunk borders are left out.

    Forward, it reads u, delta, z (batch, channels, length) and B, C (batch, state, length) once, and writes out. Backward, it
    reads all of them and the gradient of out, and writes the gradients of u, delta, z, B and C.
    """
    batch, channels, length, state = shape
    large, small = width * batch * channels * length, width * batch * state * length
    forward = 4 * large + 2 * small
    return forward + (7 * large + 4 * small if backward else 0)


def first_call(bench: Bench) -> Iterator[Measure]:
    """What the kernels' first call of a process costs beyond the second: with an empty cache, and with the one it leaves."""
    yield "first call", partial(_first_call, bench)


def _first_call(bench: Bench) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as cache:
        (cold, _), (warm, compiling) = (apart(first_seconds, bench, cache) for _ in range(2))
    name = "first call of scan and convolution with gradients"
    yield Row(f"{name}, compile included", f"{cold:.2f} s", "< 2 s", cold < 2)
    yield Row(f"{name}, from the cache", f"{warm:.2f} s, of which {compiling:.2f} s compiling", "0 s compiling", compiling == 0)


def first_seconds(bench: Bench, cache: str) -> tuple[float, float]:
    """Seconds by which the first calls take longer than the second ones, and seconds spent compiling; for a fresh process."""
    os.environ["XDG_CACHE_HOME"] = cache
    args = [x.requires_grad_() for x in kernels.inputs(2, 64, 256, 16, bench.device, torch.bfloat16)]
    weight = torch.randn(64, 4, device=bench.device, requires_grad=True)
    args[0].sum().backward()  # what torch itself does first
    bench.wait()

    def call() -> None:
        out = kernels.ours(causal_conv1d(args[0], weight, activation="silu"), *args[1:])  # type: ignore[arg-type]
        out.sum().backward()
        bench.wait()

    with backends.using("definition" if bench.dry else "cuda"):
        first, second = kernels.seconds_of(call), kernels.seconds_of(call)
    return first - second, compilation.seconds


def msamamba(bench: Bench) -> Iterator[Measure]:
    """A training step of MSAMamba on 90 rows of 1,024 nt, against the same with plain torch's scans."""
    yield "MSAMamba training step", partial(_msamamba, bench)


def _msamamba(bench: Bench) -> Iterator[Row]:
    adapter, examples = alignments(bench, 2)
    step = _training_step(bench, adapter, adapter.collate([example.windows[0] for example in examples]))

    def plain() -> None:
        with backends.using("definition"):
            step()

    backends.forget()
    step()
    used = ", ".join(f"{operation}: {backend}" for operation, backend in backends.used().items())
    seconds = bench.race(ours=(step, bench.rounds), plain=(plain, 3))
    ratio = seconds["plain"] / seconds["ours"]
    value = f"{ratio:.1f}× ({1e3 * seconds['ours']:.0f} ms a step; {used})"
    yield Row(f"MSAMamba training step, {bench.precision}, against plain torch", value, "≥ 3×", ratio >= 3)


def _training_step(bench: Bench, adapter: Adapter, batch: dict[str, Tensor]) -> Callable[[], None]:
    adapter, batch = adapter.to(bench.device).train(), to_device(adapter.for_accelerator(batch), bench.device)
    trained = [weight for weight in adapter.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step() -> None:
        with autocast(bench.device, bench.precision):
            loss = adapter(batch).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class UpstreamMixer(nn.Module):
    """Two Mambas of mamba_ssm as upstream's Caduceus wires them: projections are shared, the second reads a flipped copy."""

    def __init__(self, width: int, mamba: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.there, self.back = mamba(width), mamba(width)
        self.back.in_proj, self.back.out_proj = self.there.in_proj, self.there.out_proj

    def forward(self, x: Tensor) -> Tensor:
        return self.there(x) + self.back(x.flip(1)).flip(1)


def caduceus(bench: Bench) -> Iterator[Measure]:
    """A training step of Caduceus (ps) on one window of 131,072 nt, with our layer and with upstream's."""
    yield "Caduceus 131k training step", partial(_caduceus, bench, False)
    yield "Caduceus 131k training step, upstream's layer", partial(_caduceus, bench, True)


def _caduceus(bench: Bench, against: bool) -> Iterator[Row]:
    blocks, width, length = bench.size((8, 256, 131_072), (2, 16, 64))
    name = f"Caduceus, {blocks} layers of {width}, {length:,} nt, batch 1, {bench.precision}"
    if against and not bench.upstream:
        raise NotMeasured("mamba_ssm is not installed")
    window = windows(1, length)[0].windows[0]
    steps: dict[str, tuple[Callable[[], object], int]] = {}
    for layer in ("ours", "upstream") if against else ("ours",):
        model = Caduceus(blocks, width, "ps")
        if layer == "upstream":
            for block in model.layers:
                block.mixer = UpstreamMixer(width, _upstream_mamba(bench))
        steps[layer] = _training_step(bench, model, model.collate([window])), bench.size(5, 1)
    if not bench.dry:
        torch.cuda.reset_peak_memory_stats()
    seconds = bench.race(**steps)
    if against:
        ratio = seconds["upstream"] / seconds["ours"]
        rates = f"{1 / seconds['ours']:.2f} and {1 / seconds['upstream']:.2f} samples/s"
        yield Row(f"{name}: training against upstream's layer", f"{ratio:.2f}× ({rates})")
        return
    peak = hardware.peak_memory(bench.device)
    yield Row(f"{name}: peak memory of training", f"{peak / 1e9:.1f} GB", "fits 80 GB", peak < 80e9)
    yield Row(f"{name}: training", f"{1 / seconds['ours']:.2f} samples/s")


def _upstream_mamba(bench: Bench) -> Callable[[int], nn.Module]:
    if bench.dry:
        return Mamba
    from mamba_ssm import Mamba as upstream  # type: ignore[import-not-found]

    return upstream
