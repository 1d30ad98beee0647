"""How much of an epoch is spent in making batches: `collate` beside the training step that follows it, in one process.

    python benchmarks/collate.py [--models kmer,dnabert1,…] [--length 500] [--batch N] [--rows 10] [--size base] [--rounds 3]

Windows are random; batches are as large as the model's recipe for Genomic Benchmarks says, unless ``--batch`` does. A model
without weights has no step: what follows is its forward pass. "share" is collate / (collate + step), the part of an epoch that an
accelerator much faster than this processor would wait for is bounded by the windows per second of `collate`. Times are the best
of several rounds, taken in turns. msamamba is also measured with alignments of `--rows` rows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.check.candidate import with_rows
from harness.data import Example, Window
from harness.engine.classifier import Classifier
from harness.registry import adapter_class, model_facts

MODELS = "kmer,cnn,dnabert1,dnabert2,caduceus,hyenadna,msamamba,msamamba:rows"
FAMILY = "genomic_benchmarks"


def examples(count: int, length: int, rows: int) -> list[Example]:
    rng = np.random.default_rng(0)
    windows = [Window("".join(rng.choice(list("ACGT"), length))) for _ in range(count)]
    return [Example(str(i), (with_rows(it, rows, i) if rows else it,), i % 2) for i, it in enumerate(windows)]


def measure(name: str, length: int, count: int, rows: int, size: str, rounds: int) -> tuple[int, float, float]:
    """(batch size, seconds of collate, seconds of a step), the best of ``rounds``."""
    facts = model_facts(name)
    recipe = facts.recipe_for(FAMILY)
    torch.manual_seed(0)
    classifier = Classifier(adapter_class(name).from_checkpoint(size=size), 2, recipe)
    count = count or recipe.batch_size
    batch = examples(count, length, rows)
    trained = [item for item in classifier.adapter.parameters() if item.requires_grad]
    collate, step = [], []
    for _ in range(rounds + 1):  # the first compiles
        begun = perf_counter()
        tensors = classifier.collate(batch)
        collated = perf_counter()
        if trained:
            torch.nn.functional.cross_entropy(classifier(tensors), torch.tensor([it.label for it in batch])).backward()
        else:
            with torch.inference_mode():
                classifier.embed(tensors)
        collate.append(collated - begun)
        step.append(perf_counter() - collated)
    return count, min(collate[1:]), min(step[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--length", type=int, default=500)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--size", default="base")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(f"{given.length} nt, size {given.size}, {torch.get_num_threads()} threads")
    print(f"{'model':<16}{'batch':>6}{'collate ms':>12}{'step ms':>12}{'share':>9}{'windows/s of collate':>22}")
    for model in given.models.split(","):
        name, _, aligned = model.partition(":")
        size, collate, step = measure(name, given.length, given.batch, given.rows if aligned else 0, given.size, given.rounds)
        share = collate / (collate + step)
        print(f"{model:<16}{size:>6}{1e3 * collate:>12.2f}{1e3 * step:>12.1f}{share:>9.2%}{size / collate:>22,.0f}", flush=True)


if __name__ == "__main__":
    main()
