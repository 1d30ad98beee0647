"""The speed of the CPU kernels, as ratios of times measured side by side in one process.

    python benchmarks/kernels.py [--threads N] [--rounds N] [--upstream-rounds N]

"upstream's way" is how mamba_ssm's selective_scan_ref computes: exp(delta A) and delta B u for all steps at once (batch,
channels, length, state), then a loop over slices of them; its backward pass scatters every slice into a full-size tensor.
"the loop" is kernels/selective_scan/definition.py. Contestants take turns, so that a busy machine slows them alike; ratios are of
best times.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.kernels import compilation
from harness.kernels.causal_conv1d import causal_conv1d
from harness.kernels.selective_scan import definition, selective_scan


def upstreams_way(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor) -> Tensor:
    delta = F.softplus(delta + delta_bias[:, None])
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    entering = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    h = u.new_zeros(u.shape[0], *A.shape)
    ys = []
    for i in range(u.shape[2]):
        h = decay[:, :, i] * h + entering[:, :, i]
        ys.append(torch.einsum("bdn,bn->bd", h, C[:, :, i]))
    return (torch.stack(ys, dim=2) + u * D[:, None]) * F.silu(z)


def the_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor) -> Tensor:
    return definition.selective_scan(u, delta, A, B[:, None], C[:, None], D, z, delta_bias, True)[0]


def ours(*args: Tensor) -> Tensor:
    out = selective_scan(*args, delta_softplus=True)
    assert isinstance(out, Tensor)
    return out


def inputs(
    batch: int, channels: int, length: int, state: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Arguments in channel-last memory, as a model passes them: sequences of a type, weights in float32."""

    def sequence(size: int) -> Tensor:
        return torch.randn(batch, length, size, device=device, dtype=dtype).transpose(1, 2)

    def weight() -> Tensor:
        return torch.randn(channels, device=device)

    A = -torch.arange(1, state + 1.0, device=device).repeat(channels, 1)
    rest = [weight(), sequence(channels), weight() - 3]
    return [sequence(channels), sequence(channels), A, sequence(state), sequence(state), *rest]


def forward(function: Callable[..., Tensor], args: list[Tensor]) -> Callable[[], object]:
    def call() -> None:
        with torch.no_grad():
            function(*args)

    return call


def forward_and_backward(function: Callable[..., Tensor], args: list[Tensor]) -> Callable[[], object]:
    args = [x.detach().requires_grad_() for x in args]
    weight = torch.randn_like(args[0])
    return lambda: torch.autograd.grad(function(*args), args, weight)


def seconds_of(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def race(
    contestants: dict[str, tuple[Callable[[], object], int]], clock: Callable[[Callable[[], object]], float] = seconds_of
) -> dict[str, list[float]]:
    """Seconds of each contestant (a call and its number of rounds), which take turns after one unmeasured call each."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for call, _ in contestants.values():
        call()
    for turn in range(max(rounds for _, rounds in contestants.values())):
        for name, (call, rounds) in contestants.items():
            if turn < rounds:
                seconds[name].append(clock(call))
    return seconds


def report(title: str, seconds: dict[str, list[float]], reference: str) -> None:
    print(f"\n{title}\n{'':34}{'best ms':>10}{'median ms':>11}{'runs':>6}   best / best of {reference}")
    for name, runs in seconds.items():
        ratio = min(runs) / min(seconds[reference])
        print(f"  {name:32}{1e3 * min(runs):10.2f}{1e3 * median(runs):11.2f}{len(runs):6}   {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--upstream-rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    many, few = options.rounds, options.upstream_rounds
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, torch {torch.__version__}, float32")

    shape = (8, 512, 1024, 16)
    args = inputs(*shape)
    report(
        f"selective scan, forward, batch {shape[0]}, channels {shape[1]}, length {shape[2]}, state {shape[3]}",
        race(
            {
                "ours": (forward(ours, args), many),
                "upstream's way": (forward(upstreams_way, args), few),
                "the loop": (forward(the_loop, args), few),
            }
        ),
        "ours",
    )

    shape = (32, 256, 101, 16)
    args = inputs(*shape)
    report(
        f"selective scan, forward and backward, batch {shape[0]}, channels {shape[1]}, length {shape[2]}, state {shape[3]}",
        race(
            {
                "ours": (forward_and_backward(ours, args), many),
                "ours, forward only": (forward(ours, args), many),
                "upstream's way": (forward_and_backward(upstreams_way, args), few),
                "the loop": (forward_and_backward(the_loop, args), few),
            }
        ),
        "ours",
    )

    x, weight, bias = inputs(*shape)[0], torch.randn(shape[1], 4), torch.randn(shape[1])

    def our_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = causal_conv1d(x, weight, bias, activation="silu")
        assert isinstance(out, Tensor)
        return out

    def torch_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.silu(F.conv1d(x, weight[:, None], bias, padding=3, groups=x.shape[1])[..., : x.shape[2]])

    contiguous = x.contiguous()
    for title, run in (("forward", forward), ("forward and backward", forward_and_backward)):
        report(
            f"causal conv1d with silu, {title}, batch {shape[0]}, channels {shape[1]}, length {shape[2]}, width 4",
            race(
                {
                    "ours": (run(our_conv, [x, weight, bias]), many),
                    "torch": (run(torch_conv, [x, weight, bias]), many),
                    "torch, (batch, channels, length)": (run(torch_conv, [contiguous, weight, bias]), many),
                }
            ),
            "ours",
        )
    print(f"\ncompiling took {compilation.seconds:.1f} s in this process (0 when everything came from the cache)")


if __name__ == "__main__":
    main()
