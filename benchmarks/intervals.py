"""Coverage of the 95 % intervals of scores, by simulation: how often do they hold the population's value?

    python benchmarks/intervals.py --draws 1000
    python benchmarks/intervals.py --draws 300 --percentile --blocks 5 10 24 100 --examples
    python benchmarks/intervals.py --kind regression --blocks 10 24 100 --examples 100 1000
    python benchmarks/intervals.py --kind multilabel --blocks 10 24 100 --examples 100 1000

The second command gives the percentile bootstrap of blocks instead, for comparison. An example's score is separation × class +
noise, with the threshold of equally frequent classes; the population's value is the metric of a million such examples, twice.
With blocks, sizes are 5 to 60 examples, and each block shifts its scores (sd 0.5) and the log-odds of its classes (sd 1), as
genes do. Of a regression, a number is slope × prediction + noise, and each block shifts both (sd 0.5); of a multi-label task, labels
have common odds (sd 1), and each block shifts each label's. Each cell is the percentage of intervals that hold the value, among the draws that give one; in brackets the
percentage of draws that do, unless all. The last lines give the lowest, the mean and the highest coverage per metric and size,
over designs that give an interval in at least half of the draws.
"""

from __future__ import annotations

import argparse
import os

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # one process per core

from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import expit, softmax

from harness.evidence.metrics import OF_KIND, intervals, scores
from harness.task import CLASSIFICATION, KINDS, MULTILABEL, REGRESSION

SEPARATIONS = {"weak (AUROC .60)": 0.358, "good (.85)": 1.466, "near-perfect (.99)": 3.290}
SHARES = {"5 %": (0.95, 0.05), "10 %": (0.9, 0.1), "50 %": (0.5, 0.5), "1:1:1": (1 / 3,) * 3, "6:3:1": (0.6, 0.3, 0.1)}
SLOPES = {"weak (r .30)": 0.315, "good (.70)": 0.980, "near-perfect (.95)": 3.042}  # r of independent normal examples
NOISE = ("normal", "heavy tails", "skewed")  # of a number: normal, Student's with 5 degrees of freedom, or exponential
LABELS = {"50 % each": (0.5,) * 3, "50, 20, 10 %": (0.5, 0.2, 0.1), "20 of 10 %": (0.1,) * 20}
SMALLEST, LARGEST = 5, 60  # examples of a block
SHIFT, IMBALANCE = 0.5, 1.0  # sd between blocks
POPULATION = 1_000_000
REPLICATES = 1000


@dataclass(frozen=True)
class Design:
    """``size`` is the number of blocks, or of examples where they are independent."""

    size: int
    blocks: bool
    separation: str
    share: str
    kind: str = CLASSIFICATION

    @property
    def unit(self) -> str:
        return f"{self.size} {'blocks' if self.blocks else 'examples'}"

    def draw(self, rng: np.random.Generator, size: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A model's outputs, labels and blocks (N,), which are empty where examples are independent."""
        size = size or self.size
        if self.kind != CLASSIFICATION:
            return (self._numbers if self.kind == REGRESSION else self._labels)(rng, size)
        distance, shares = SEPARATIONS[self.separation], np.array(SHARES[self.share])
        k = len(shares)
        sizes = rng.integers(SMALLEST, LARGEST + 1, size) if self.blocks else np.ones(size, int)
        member = np.repeat(np.arange(size), sizes)
        spread = float(self.blocks)
        noise = rng.normal(size=(size, k))[member] * SHIFT * spread + rng.normal(size=(len(member), k))
        odds = np.log(shares) + (rng.normal(size=(size, k)) * IMBALANCE * spread)[member] / (2**0.5 if k == 2 else 1)
        labels = (odds + rng.gumbel(size=odds.shape)).argmax(axis=1)
        if k == 2:
            second = expit(distance * (distance * labels + noise[:, 1]) - distance**2 / 2)
            probabilities = np.stack([1 - second, second], axis=1)
        else:
            probabilities = softmax(distance * (distance * np.eye(k)[labels] + noise), axis=1)
        return probabilities, labels, member if self.blocks else member[:0]

    def _members(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return np.repeat(np.arange(size), rng.integers(SMALLEST, LARGEST + 1, size) if self.blocks else 1)

    def _numbers(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        slope, member = SLOPES[self.separation], self._members(rng, size)
        common = rng.normal(size=(size, 2))[member] * SHIFT * self.blocks
        predicted = rng.normal(size=len(member)) + common[:, 0]
        noise = {
            "normal": rng.normal(size=len(member)),
            "heavy tails": rng.standard_t(5, len(member)) * 0.6**0.5,
            "skewed": rng.exponential(size=len(member)) - 1,
        }[self.share]
        return slope * predicted[:, None], slope * predicted + noise + common[:, 1], member if self.blocks else member[:0]

    def _labels(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        distance, shares, member = SEPARATIONS[self.separation], np.array(LABELS[self.share]), self._members(rng, size)
        shape = len(member), len(shares)
        spread = rng.normal(size=(size, len(shares)))[member] * IMBALANCE * self.blocks
        labels = (
            np.log(shares / (1 - shares)) + rng.normal(size=(len(member), 1)) + spread + rng.logistic(size=shape) > 0
        ).astype(int)
        score = distance * labels + rng.normal(size=(size, len(shares)))[member] * SHIFT * self.blocks + rng.normal(size=shape)
        return expit(distance * score - distance**2 / 2), labels, member if self.blocks else member[:0]

    def population(self) -> dict[str, float]:
        """Metric → its value for very many blocks."""
        rng = np.random.default_rng(1)
        size = 2 * POPULATION // (SMALLEST + LARGEST) if self.blocks else POPULATION
        size //= 8 if self.share == "20 of 10 %" else 1  # of memory
        found = [scores(*self.draw(rng, size)[:2], self.kind) for _ in range(2)]
        return {metric: float(np.mean([values[metric] for values in found])) for metric in self.metrics}

    @property
    def metrics(self) -> list[str]:
        return list(OF_KIND[self.kind].RULES)


def percentile(probabilities: np.ndarray, labels: np.ndarray, blocks: np.ndarray) -> dict[str, tuple[float, float]]:
    """auroc and auprc of two classes by the percentile block bootstrap; scores must differ."""
    member = blocks if len(blocks) else np.arange(len(labels))
    number = member.max() + 1
    if probabilities.shape[1] > 2 or len(np.unique(labels)) < 2:
        return {}
    order = np.argsort(-probabilities[:, 1])
    draws = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), REPLICATES)
    weights, positive = draws[:, member[order]], labels[order] == 1
    true, called = (weights * positive).cumsum(axis=1), weights.cumsum(axis=1)
    total, size = true[:, -1], called[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = (weights * ~positive * true).sum(axis=1) / (total * (size - total))
        auprc = (weights * positive * true / np.maximum(called, 1)).sum(axis=1) / total
    kept = (total > 0) & (total < size)
    return {name: tuple(np.quantile(values[kept], (0.025, 0.975))) for name, values in (("auroc", auroc), ("auprc", auprc))}


def coverage(design: Design, value: dict[str, float], draws: int, percentiles: bool) -> dict[str, tuple[int, int]]:
    """Metric → (intervals given, intervals that hold the population's value)."""
    rng = np.random.default_rng([design.size, *map(ord, repr(design))])
    given, held = defaultdict(int), defaultdict(int)
    for _ in range(draws):
        drawn = design.draw(rng)
        for metric, (low, high) in (percentile(*drawn) if percentiles else intervals(*drawn, design.kind)).items():
            given[metric] += 1
            held[metric] += low - 1e-12 <= value[metric] <= high + 1e-12
    return {metric: (given[metric], held[metric]) for metric in design.metrics}


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of the 95 % intervals of scores, by simulation.")
    parser.add_argument("--draws", type=int, default=1000, help="of each design")
    parser.add_argument("--blocks", type=int, nargs="*", default=[5, 10, 24, 100])
    parser.add_argument("--examples", type=int, nargs="*", default=[20, 50, 100, 200, 600], help="independent ones")
    parser.add_argument("--kind", choices=KINDS, default=CLASSIFICATION, help="of task")
    parser.add_argument("--percentile", action="store_true", help="the percentile block bootstrap instead")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    sizes = [(size, True) for size in options.blocks] + [(size, False) for size in options.examples]
    kind, easiness = options.kind, SLOPES if options.kind == REGRESSION else SEPARATIONS
    designs = [
        Design(size, blocks, separation, share, kind)
        for size, blocks in sizes
        for separation in easiness
        for share in {CLASSIFICATION: SHARES, REGRESSION: NOISE, MULTILABEL: LABELS}[kind]
        if not (blocks and share == "5 %") and not (options.percentile and len(SHARES.get(share, ())) != 2)
    ]
    metrics = designs[0].metrics
    print(f"{'design':<46}" + "".join(f"{metric:>13}" for metric in metrics))
    summary = defaultdict(list)
    with ProcessPoolExecutor(options.processes) as pool:
        populations = {(d.blocks, d.separation, d.share): d for d in designs}
        values = dict(zip(populations, pool.map(Design.population, populations.values()), strict=True))
        value_of = [values[d.blocks, d.separation, d.share] for d in designs]
        count = partial(coverage, draws=options.draws, percentiles=options.percentile)
        for design, found in zip(designs, pool.map(count, designs, value_of), strict=True):
            cells = []
            for metric, (given, held) in found.items():
                share = given / options.draws
                cells.append((f"{100 * held / given:.1f}" if given else "-") + (f" ({100 * share:.0f})" if share < 1 else ""))
                if share >= 0.5:
                    summary[design.unit, metric].append(100 * held / given)
            print(f"{design.unit:<14}{design.separation:<20}{design.share:<12}" + "".join(f"{c:>13}" for c in cells), flush=True)
    print(f"\nMonte-Carlo error (sd) of a cell: {100 * (0.95 * 0.05 / options.draws) ** 0.5:.1f}\n")
    for unit in dict.fromkeys(design.unit for design in designs):
        found = (summary[unit, metric] for metric in metrics)
        cells = [f"{min(c):.0f} {np.mean(c):.1f} {max(c):.0f}" if c else "-" for c in found]
        print(f"{unit:<46}" + "".join(f"{cell:>13}" for cell in cells))


if __name__ == "__main__":
    main()
