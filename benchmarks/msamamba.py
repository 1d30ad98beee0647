"""The cost of a training step of MSAMamba against the window length, beside axial attention; and what masking rows saves.

    python benchmarks/msamamba.py [--rows N] [--nucleotides N] [--lengths N ...] [--width N] [--blocks N] [--rounds N] [--plot PNG]

"axial attention" is the same model with attention along each row instead of the scan (A.2 of the paper against A.3). A step is
forward and backward in float32 over windows of ``--nucleotides`` in total, the same for every length, so that a cost linear in
the length is a flat line of seconds per nucleotide. Steps take turns, so that a busy machine slows all alike; figures are of
best times. The exponent k of a window's cost, length^k, is fitted on logarithmic axes. Memory is the growth of a fresh
process's peak over one step. The attention weights over rows would be --rows^2 numbers per head and column if they were kept.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.adapters.msamamba import MSAMamba

SCAN, AXIAL = "MSAMamba", "axial attention"


class RowAttention(nn.Module):
    """Full attention along each row, (N, L, D) → (N, L, D), with as many heads and weights as the attention down the columns."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * (width // 2), bias=False)
        self.out = nn.Linear(heads * (width // 2), width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def training_step(
    kind: str, given: argparse.Namespace, length: int, mask_rows: float = 0.0, nucleotides: int = 0
) -> Callable[[], None]:
    torch.manual_seed(0)
    model = MSAMamba(given.blocks, given.width, "column", "mean", mask_rows).train()
    if kind == AXIAL:
        for block in model.layers:
            block.mixer = RowAttention(given.width)
    windows = (nucleotides or given.nucleotides) // length
    batch = {"tokens": torch.randint(0, 5, (windows, given.rows, length)), "lengths": torch.full((windows,), length)}

    def step() -> None:
        model.zero_grad()
        model(batch).square().sum().backward()

    return step


def peak_growth(kind: str, given: argparse.Namespace, length: int, mask_rows: float) -> float:
    """GB by which a step raises the peak of this process, after a small step to load and compile whatever a first step does."""
    training_step(kind, given, 16, mask_rows, 16)()
    step = training_step(kind, given, length, mask_rows)
    before = peak()
    step()
    return peak() - before


def peak() -> float:
    """Peak resident memory of this process in GB. Linux only: getrusage would include the peak of the parent process."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024 / 1e9


def race(steps: list[Callable[[], None]], rounds: int) -> list[float]:
    """Best seconds of each step; they take turns, and the first turn does not count."""
    seconds = np.zeros((rounds + 1, len(steps)))
    for turn in seconds:
        for i, step in enumerate(steps):
            begun = perf_counter()
            step()
            turn[i] = perf_counter() - begun
    return seconds[1:].min(axis=0).tolist()


def draw(
    path: Path, lengths: list[int], nucleotides: int, seconds: dict[str, list[float]], memory: dict[str, list[float]]
) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for kind, marker in ((SCAN, "o"), (AXIAL, "s")):
        left.plot(lengths, 1e3 * np.array(seconds[kind]) / nucleotides, marker=marker, label=kind)
        right.plot(lengths, memory[kind], marker=marker, label=kind)
    left.set_ylabel("ms per nucleotide of alignment")
    right.set_ylabel("peak memory of a step (GB)")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("window (nt)")
    left.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 90), ("nucleotides", 2048), ("width", 32), ("blocks", 2), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048])
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    if bad := [length for length in given.lengths if given.nucleotides % length]:
        parser.error(f"--nucleotides {given.nucleotides} is no multiple of --lengths {bad[0]}")
    lengths, masks = sorted(given.lengths), (0.0, 0.5)

    compared = [(kind, length) for kind in (SCAN, AXIAL) for length in lengths]
    timed = race([training_step(kind, given, length) for kind, length in compared], given.rounds)
    seconds = {kind: timed[i * len(lengths) :][: len(lengths)] for i, kind in enumerate((SCAN, AXIAL))}
    full, masked = race([training_step(SCAN, given, lengths[0], mask) for mask in masks], 2 * given.rounds)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as fresh:
        grown = list(fresh.map(peak_growth, *zip(*((kind, given, length, 0.0) for kind, length in compared), strict=True)))
        of_mask = list(fresh.map(peak_growth, [SCAN] * 2, [given] * 2, [lengths[0]] * 2, masks))
    memory = {kind: grown[i * len(lengths) :][: len(lengths)] for i, kind in enumerate((SCAN, AXIAL))}

    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32")
    print(f"{given.blocks} blocks of width {given.width}; a step reads {given.nucleotides:,} nt of {given.rows} rows\n")
    print(f"{'':10}{'seconds a step':^36}{'peak memory, GB':^32}")
    print(f"{'nt':>10}{SCAN:>12}{AXIAL:>18}{'ratio':>8}{SCAN:>14}{AXIAL:>18}")
    for i, length in enumerate(lengths):
        scan, axial = seconds[SCAN][i], seconds[AXIAL][i]
        print(f"{length:10,}{scan:12.2f}{axial:18.2f}{axial / scan:8.2f}{memory[SCAN][i]:14.2f}{memory[AXIAL][i]:18.2f}")
    for kind in (SCAN, AXIAL):
        exponent = 1 + np.polyfit(np.log(lengths), np.log(seconds[kind]), 1)[0] if len(lengths) > 1 else float("nan")
        spread = max(seconds[kind]) / min(seconds[kind]) - 1
        print(f"{kind}: length^{exponent:.2f}; seconds per nucleotide differ by {spread:.0%} at most")
    weights = 4 * 4 * given.rows**2 * given.nucleotides / 1e9  # float32, four heads
    print(f"\nattention weights of one block, were they kept: {weights:.2f} GB")
    print(
        f"windows of {lengths[0]} nt, all rows scanned: {full:.2f} s, {of_mask[0]:.2f} GB; half: {masked:.2f} s, {of_mask[1]:.2f} GB"
    )
    print(f"masking half of the rows makes a step {full / masked:.2f} times cheaper")
    if given.plot:
        draw(given.plot, lengths, given.nucleotides, seconds, memory)


if __name__ == "__main__":
    main()
