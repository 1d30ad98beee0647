"""The cost of a training step of MSAMamba against the window length, beside axial attention; and what masking rows saves.

    python benchmarks/msamamba.py [--rows N] [--nucleotides N] [--lengths N ...] [--width N] [--blocks N] [--rounds N] [--plot PNG]
    python benchmarks/msamamba.py --curves [--steps N] [--seeds N]

"axial attention" is the same model with attention along each row instead of the scan (A.2 of the paper against A.3). A step is
forward and backward in float32 over windows of ``--nucleotides`` in total, the same for every length, so that a cost linear in
the length is a flat line of seconds per nucleotide. Steps take turns, so that a busy machine slows all alike; figures are
medians of rounds, also of the processor's seconds, which others' work disturbs less. The exponent k of a window's cost, length^k, is fitted on logarithmic axes. Memory is the growth of a fresh
process's peak over one step. The attention weights over rows would be --rows^2 numbers per head and column if they were kept.

Half of the auxiliary rows are left out of the scans (``masking=scan``, the paper's Algorithm 1), or of whole blocks
(``masking=block``). ``--curves`` pretrains a tiny model both ways, and without masking, from the same weights on the same
batches of the ClinVar sample's alignments, and prints the loss on held-out windows, where no row is left out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import load_task
from harness.adapters.msamamba import MSAMamba
from harness.data import Window
from harness.engine.corpus import split
from harness.engine.fit import adamw
from harness.recipe import Recipe

RECIPE = Recipe(learning_rate=3e-3, batch_size=8, warmup=0.1, schedule="cosine")
MASKS = {"no rows left out": (0.0, "scan"), "out of the scans": (0.5, "scan"), "out of whole blocks": (0.5, "block")}
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
    kind: str, given: argparse.Namespace, length: int, mask: tuple[float, str] = (0.0, "scan"), nucleotides: int = 0
) -> Callable[[], None]:
    torch.manual_seed(0)
    mask_rows, masking = mask
    model = MSAMamba(given.blocks, given.width, "column", "mean", mask_rows, masking=masking).train()
    if kind == AXIAL:
        for block in model.layers:
            block.mixer = RowAttention(given.width)
    windows = (nucleotides or given.nucleotides) // length
    batch = {"tokens": torch.randint(0, 5, (windows, given.rows, length)), "lengths": torch.full((windows,), length)}

    def step() -> None:
        model.zero_grad()
        model(batch).square().sum().backward()

    return step


def peak_growth(kind: str, given: argparse.Namespace, length: int, mask: tuple[float, str]) -> float:
    """GB by which a step raises the peak of this process, after a small step to load and compile whatever a first step does."""
    training_step(kind, given, 16, mask, 16)()
    step = training_step(kind, given, length, mask)
    before = peak()
    step()
    return peak() - before


def peak() -> float:
    """Peak resident memory of this process in GB. Linux only: getrusage would include the peak of the parent process."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024 / 1e9


def race(steps: list[Callable[[], None]], rounds: int) -> np.ndarray:
    """Median seconds of each step, by the clock and of the processor (2, steps); they take turns, the first does not count."""
    seconds = np.zeros((rounds + 1, 2, len(steps)))
    for turn in seconds:
        for i, step in enumerate(steps):
            begun = perf_counter(), process_time()
            step()
            turn[:, i] = perf_counter() - begun[0], process_time() - begun[1]
    return np.median(seconds[1:], axis=0)


def curves(steps: int, seeds: int) -> None:
    """Losses of masked bases in held-out windows, while a tiny model is pretrained on windows of 32 nt and 90 rows."""
    task = load_task("clinvar", context=32).sample
    assert task is not None
    splits = task.load(task.split_rules[0])
    train, held_out = ([example.windows[0] for example in part] for part in (splits.train, splits.validation[:24]))
    at = sorted({0, *(steps * i // 5 for i in range(1, 6))})
    losses = np.zeros((seeds, len(MASKS), len(at)))
    for seed in range(seeds):
        for column, (mask_rows, masking) in enumerate(MASKS.values()):
            torch.manual_seed(seed)
            model = MSAMamba.from_checkpoint(size="tiny", mask_rows=mask_rows, masking=masking)
            model.lm_head.requires_grad_()
            optimizer, schedule = adamw(model, RECIPE, steps, torch.device("cpu"))
            rng = np.random.default_rng(seed)
            for step in range(steps + 1):
                if step in at:
                    batch = corrupted(model.eval(), held_out, np.random.default_rng(0))
                    with torch.inference_mode():
                        losses[seed, column, at.index(step)] = loss(model, batch)
                if step < steps:
                    windows = [train[i] for i in rng.choice(len(train), RECIPE.batch_size, replace=False)]
                    loss(model.train(), corrupted(model, windows, rng)).backward()
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
    print(f"loss of masked bases in held-out windows, mean ± standard deviation of {seeds} seeds")
    print(f"{'step':>6}" + "".join(f"{name:>22}" for name in MASKS) + f"{'blocks - scans':>22}")
    for i, step in enumerate(at):
        shown = [*losses[:, :, i].T, losses[:, 2, i] - losses[:, 1, i]]
        print(f"{step:6}" + "".join(f"{each.mean():13.4f} ± {each.std(ddof=1):.4f}" for each in shown))


def corrupted(model: MSAMamba, windows: Sequence[Window], rng: np.random.Generator) -> dict[str, Tensor]:
    (batch,) = split(model.objectives["token"]().collate(model, windows, rng), len(windows), at_once=1)
    return batch


def loss(model: MSAMamba, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model.pretraining_logits(batch), batch["labels"])


def draw(
    path: Path, lengths: list[int], nucleotides: int, seconds: dict[str, np.ndarray], memory: dict[str, list[float]]
) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for kind, marker in ((SCAN, "o"), (AXIAL, "s")):
        left.plot(lengths, 1e3 * seconds[kind] / nucleotides, marker=marker, label=kind)
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
    for name, default in (
        ("rows", 90),
        ("nucleotides", 2048),
        ("width", 32),
        ("blocks", 2),
        ("rounds", 5),
        ("steps", 100),
        ("seeds", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048])
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--curves", action="store_true")
    given = parser.parse_args()
    if bad := [length for length in given.lengths if given.nucleotides % length]:
        parser.error(f"--nucleotides {given.nucleotides} is no multiple of --lengths {bad[0]}")
    if given.curves:
        return curves(given.steps, given.seeds)
    lengths, masks = sorted(given.lengths), list(MASKS.values())

    compared = [(kind, length) for kind in (SCAN, AXIAL) for length in lengths]
    timed = race([training_step(kind, given, length) for kind, length in compared], given.rounds)
    clock, processor = ({kind: row[i * len(lengths) :][: len(lengths)] for i, kind in enumerate((SCAN, AXIAL))} for row in timed)
    masked = race([training_step(SCAN, given, lengths[0], mask) for mask in masks], 2 * given.rounds)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as fresh:
        grown = list(fresh.map(peak_growth, *zip(*((kind, given, length, masks[0]) for kind, length in compared), strict=True)))
        of_mask = list(fresh.map(peak_growth, *zip(*((SCAN, given, lengths[0], mask) for mask in masks), strict=True)))
    memory = {kind: grown[i * len(lengths) :][: len(lengths)] for i, kind in enumerate((SCAN, AXIAL))}

    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32")
    print(f"{given.blocks} blocks of width {given.width}; a step reads {given.nucleotides:,} nt of {given.rows} rows\n")
    print(f"{'':10}{'seconds a step':^36}{'peak memory, GB':^32}")
    print(f"{'nt':>10}{SCAN:>12}{AXIAL:>18}{'ratio':>8}{SCAN:>14}{AXIAL:>18}")
    for i, length in enumerate(lengths):
        scan, axial = clock[SCAN][i], clock[AXIAL][i]
        print(f"{length:10,}{scan:12.2f}{axial:18.2f}{axial / scan:8.2f}{memory[SCAN][i]:14.2f}{memory[AXIAL][i]:18.2f}")
    for kind in (SCAN, AXIAL):
        exponent = 1 + np.polyfit(np.log(lengths), np.log(clock[kind]), 1)[0] if len(lengths) > 1 else float("nan")
        spread, busy = (max(seconds[kind]) / min(seconds[kind]) - 1 for seconds in (clock, processor))
        print(
            f"{kind}: length^{exponent:.2f}; seconds per nucleotide differ by {spread:.0%} at most, the processor's by {busy:.0%} "
            f"(medians of {given.rounds} rounds)"
        )
    weights = 4 * 4 * given.rows**2 * given.nucleotides / 1e9  # float32, four heads
    print(f"\nattention weights of one block, were they kept: {weights:.2f} GB")
    print(f"half of the auxiliary rows, windows of {lengths[0]} nt; medians of {2 * given.rounds} rounds")
    for i, name in enumerate(MASKS):
        ratios = "{:.2f} times cheaper by the clock, {:.2f} in processor time".format(*masked[:, 0] / masked[:, i])
        print(f"{name:>20}: {masked[0, i]:.2f} s, {of_mask[i]:.2f} GB, {ratios}")
    if given.plot:
        draw(given.plot, lengths, given.nucleotides, clock, memory)


if __name__ == "__main__":
    main()
