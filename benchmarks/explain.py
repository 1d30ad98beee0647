"""How many windows a second can be explained on this machine's CPU: saturation mutagenesis and gradients.

    python benchmarks/explain.py [--models cnn:tiny cnn:base msamamba:tiny msamamba:base] [--length 101] [--rounds 5] [--threads 2]

Models have random weights. Each round explains as many windows as take about a second; the best round counts, because machines are
noisy. Beside the wall clock stands the processor time of a window, in milliseconds over all threads, and the share of it that
prediction alone takes: the same mutants, ready as examples. A model without gradients has ``-``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import islice, product

import numpy as np
import torch
from accelerate import Accelerator

from harness.data import Example, Window
from harness.engine.classifier import Classifier
from harness.engine.predict import predict
from harness.errors import UserError
from harness.inference.attribution import Score, mutagenesis
from harness.inference.gradients import gradients
from harness.registry import adapter_class
from harness.task import CLASSIFICATION

SCORE = Score(CLASSIFICATION, 1)
SECONDS = 1.0  # of a round


def mutants(window: Window) -> list[Example]:
    """All windows that differ from it in one letter."""
    text = window.sequence
    changed = (text[:i] + letter + text[i + 1 :] for i, letter in product(range(len(text)), "ACGT") if letter != text[i])
    return [Example("", (Window(sequence),), 0) for sequence in changed]


def timed(work: Callable[[int], object], rounds: int) -> tuple[float, float]:
    """Windows per second, and processor seconds per window, of ``work`` on a number of windows: the best of the rounds."""
    work(1)
    begun = time.perf_counter()
    work(1)
    count = max(1, round(SECONDS / (time.perf_counter() - begun)))
    found = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        work(count)
        found.append(((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count))
    return 1 / min(wall for wall, _ in found), min(cpu for _, cpu in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["cnn:tiny", "cnn:base", "msamamba:tiny", "msamamba:base"])
    parser.add_argument("--length", type=int, default=101)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rng, accelerator, device = np.random.default_rng(0), Accelerator(cpu=True), torch.device("cpu")
    windows = [Window("".join(rng.choice(list("ACGT"), asked.length))) for _ in range(512)]
    print(f"{asked.length} nt, {asked.threads} threads: windows/s (processor ms of a window; share of prediction alone)")
    print(f"{'model':<16}{'mutagenesis':>28}{'gradients':>24}")
    for name, size in (model.split(":") for model in asked.models):
        adapter = adapter_class(name)
        classifier = Classifier(adapter.from_checkpoint(None, size=size), 2, adapter.recipe).eval()

        def outputs(examples, classifier=classifier):
            return predict(classifier, examples, accelerator)

        def mutate(count, outputs=outputs):
            mutagenesis(outputs, list(islice(windows, count)), SCORE)

        ready = mutants(windows[0])
        rate, cpu = timed(mutate, asked.rounds)
        _, alone = timed(lambda count, outputs=outputs, ready=ready: [outputs(ready) for _ in range(count)], asked.rounds)
        try:
            steep = timed(lambda count, it=classifier: gradients(it, windows[:count], SCORE, device), asked.rounds)
            other = f"{steep[0]:.1f} ({1000 * steep[1]:.0f} ms)"
        except UserError:
            other = "-"
        print(f"{name}:{size:<10}{f'{rate:.1f} ({1000 * cpu:.0f} ms; {alone / cpu:.0%})':>28}{other:>24}", flush=True)


if __name__ == "__main__":
    main()
