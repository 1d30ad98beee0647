"""Caduceus on the CPU against upstream's reference path, as ratios of times measured side by side in one process.

    python benchmarks/caduceus.py [--variant ph|ps] [--batch N] [--length N] [--layers N] [--width N] [--threads N] [--rounds N]

"upstream's way" is what Caduceus runs without mamba_ssm's CUDA extension: one Mamba per direction, each of which multiplies by
the (shared) projections; F.conv1d; and mamba_ssm's selective_scan_ref, which holds exp(delta A) and delta B u of all steps at
once, (batch, channels, length, state), and then loops over slices of them. Both have the same weights, and their outputs are
compared first. Evaluations take turns, so that a busy machine slows both alike; ratios are of best times.
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
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.adapters._mamba import Mamba
from harness.adapters.caduceus import BiMamba, Caduceus
from harness.kernels import compilation


def reference_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor) -> Tensor:
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    entering = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    h = u.new_zeros(u.shape[0], *A.shape)
    out = []
    for i in range(u.shape[2]):
        h = decay[:, :, i] * h + entering[:, :, i]
        out.append(torch.einsum("bdn,bn->bd", h, C[:, :, i]))
    return (torch.stack(out, dim=2) + u * D[:, None]) * F.silu(z)


def reference_mamba(mamba: Mamba, in_proj: nn.Linear, out_proj: nn.Linear, x: Tensor) -> Tensor:
    u, z = in_proj(x).transpose(1, 2).chunk(2, dim=1)
    u = F.silu(F.conv1d(u, mamba.conv1d.weight, mamba.conv1d.bias, padding=3, groups=u.shape[1])[..., : u.shape[2]])
    delta, B, C = mamba.x_proj(u.transpose(1, 2)).split([mamba.rank, mamba.state, mamba.state], dim=-1)
    delta = F.softplus(mamba.dt_proj(delta).transpose(1, 2))
    y = reference_scan(u, delta, -torch.exp(mamba.A_log), B.transpose(1, 2), C.transpose(1, 2), mamba.D, z)
    return out_proj(y.transpose(1, 2))


def reference_mixer(mixer: BiMamba, x: Tensor) -> Tensor:
    shared = mixer.mamba_fwd.in_proj, mixer.mamba_fwd.out_proj
    return reference_mamba(mixer.mamba_fwd, *shared, x) + reference_mamba(mixer.mamba_rev, *shared, x.flip(1)).flip(1)


def reference_encode(model: Caduceus, tokens: Tensor) -> Tensor:
    x = model.embed(torch.stack([tokens, model.complement_map[tokens.flip(1)]] if model.variant == "ps" else [tokens]))
    for layer in model.layers:
        if model.variant == "ps":
            x = x.flip(0, 2, 3)
        x = x + reference_mixer(layer.mixer, layer.norm(x.flatten(0, 1))).view_as(x)
    return model.norm_f(x)


def seconds(run: Callable[[], object]) -> float:
    begun = perf_counter()
    run()
    return perf_counter() - begun


def training_step(model: Caduceus, tokens: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model.encode(tokens).mean(dim=2).square().sum().backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=("ph", "ps"), default="ph")
    for name, default in (("batch", 8), ("length", 1024), ("layers", 4), ("width", 256), ("threads", torch.get_num_threads())):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = Caduceus(given.layers, given.width, given.variant, rc_average=False).eval()
    tokens = torch.randint(7, 11, (given.batch, given.length))
    ours: list[float] = []
    upstream: list[float] = []
    with torch.inference_mode():
        worst = (model.encode(tokens[:1]) - reference_encode(model, tokens[:1])).abs().max()
        model.encode(tokens)
        for _ in range(given.rounds):
            ours += [seconds(lambda: model.encode(tokens)) for _ in range(3)]
            upstream.append(seconds(lambda: reference_encode(model, tokens)))
    step = training_step(model.train(), tokens)
    step()
    training = [seconds(step) for _ in range(given.rounds)]

    print(f"{platform.processor() or platform.machine()}, {given.threads} threads, torch {torch.__version__}, float32")
    print(f"caduceus-{given.variant}, {given.layers} layers of width {given.width}, {given.batch} x {given.length:,} nt")
    print(f"largest difference of the two outputs for one sequence: {float(worst):.1e}")
    print(f"\n{'':34}{'best s':>10}{'median s':>11}{'runs':>6}")
    rows = {"evaluation, ours": ours, "evaluation, upstream's way": upstream, "training step with AdamW, ours": training}
    for title, taken in rows.items():
        print(f"  {title:32}{min(taken):10.3f}{median(taken):11.3f}{len(taken):6}")
    best, middle = min(upstream) / min(ours), median(upstream) / median(ours)
    print(f"  {'evaluation, ratio':32}{best:10.1f}{middle:11.1f}")
    print(f"\ncompiling took {compilation.seconds:.1f} s in this process (0 when everything came from the cache)")


if __name__ == "__main__":
    main()
