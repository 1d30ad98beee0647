"""Peak memory of prediction against the size of the test set. It should not grow, for prediction holds one batch and the results.

    python benchmarks/memory.py [--windows 500 2000 8000]

For each size, a fresh process predicts with a small DNABERT-1 (`harness.engine.predict.predict`). What is printed is the growth of
its peak resident memory from the moment when the model and the windows are in memory and one batch has been predicted.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from accelerate import Accelerator

from harness.adapters.dnabert1 import DNABERT1
from harness.data import Example, Window
from harness.engine import hardware
from harness.engine.classifier import Classifier
from harness.engine.predict import PREDICT_BATCH, predict

LENGTH = 101
MIB = 2**20


def growth(count: int) -> tuple[float, float]:
    """MiB by which predicting ``count`` windows raises the peak of this process, and MiB of the probabilities."""
    rng = np.random.default_rng(0)
    examples = [Example(str(number), (Window("".join(rng.choice(list("ACGT"), LENGTH))),), 0) for number in range(count)]
    classifier, accelerator = Classifier(DNABERT1.from_checkpoint(None, size="tiny"), 2, DNABERT1.recipe), Accelerator(cpu=True)
    predict(classifier, examples[:PREDICT_BATCH], accelerator)
    before = hardware.peak_memory(torch.device("cpu"))
    probabilities = predict(classifier, examples, accelerator)
    return (hardware.peak_memory(torch.device("cpu")) - before) / MIB, probabilities.nbytes / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, nargs="+", default=[500, 2000, 8000])
    print(f"{'windows':>8}{'growth of the peak, MiB':>26}{'of which results, MiB':>24}")
    for count in parser.parse_args().windows:
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            grown, results = fresh.submit(growth, count).result()
        print(f"{count:>8}{grown:>26.1f}{results:>24.2f}", flush=True)


if __name__ == "__main__":
    main()
