"""What pretraining costs: hiding tokens as a share of a step, and letters a second against fine-tuning the same model.

    python benchmarks/objectives.py [--size tiny] [--context 128] [--letters 49152] [--batch 32] [--rounds 5] [--model NAME ...]

On a simulated world (`harness data simulate`). In each round a pretraining step and a fine-tuning step of the same windows, in
the same batches, take turns. Hiding is what an objective's batches take longer to make than the same windows for fine-tuning;
both steps make their batches within the time that is taken, as they do on a CPU. Prints the medians of the rounds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import torch.nn.functional as F

from harness import registry
from harness.adapter import Pretrainable
from harness.data import Example
from harness.engine import hardware
from harness.engine.build import request
from harness.engine.classifier import Classifier
from harness.engine.corpus import Corpus
from harness.engine.fit import adamw
from harness.engine.predict import autocast
from harness.engine.pretrain import Pretraining
from harness.engine.pretrain_asked import choose_objective, divided, open_source
from harness.files.simulated import simulate

RNA = ("rnafm", "rnaernie")
CPU = torch.device("cpu")


def needs(world: Path, objective: str) -> dict[str, str]:
    """Options without which an objective cannot be had."""
    return {
        "motif": {"motifs": str(world / "motifs.txt")},
        "weighted": {
            "phastcons": str(world / "phastcons.bedGraph"),
            "phylop": str(world / "phylop.bedGraph"),
            "conserved": "0.5",
        },
    }.get(objective, {})


def measure(given: argparse.Namespace, world: Path, name: str, objective: str) -> None:
    adapter_class = registry.adapter_class(name)
    options, own = divided(adapter_class, objective, needs(world, objective), anew=True, context=given.context)
    wanted = request(name, init=f"random:{given.size}", options=options, official=False)
    adapter, twin = wanted.build(), wanted.build()
    _, goal = choose_objective(adapter, objective, own)
    alignment = next(world.glob("alignment.*.fa"))
    reads = (
        {"msa": alignment} if adapter.card.reads == "alignment" else {"data": world / ("rna.fa" if name in RNA else "genome.fa")}
    )
    source = open_source(adapter, reads.get("data"), reads.get("msa"), "")
    regions = goal.regions(source, given.context)
    corpus = Corpus(source, given.context, shortest=goal.shortest, both_strands=goal.both_strands, regions=regions)
    goal.prepare(corpus)
    precision = hardware.pick_precision("auto", CPU)
    recipe = adapter_class.pretraining.override(batch_size=given.batch, learning_rate=1e-5)  # type: ignore[attr-defined]
    count = given.letters // given.context
    steps = given.rounds + 1
    pretraining = Pretraining(adapter, goal, corpus, recipe, steps, count, 0, CPU, precision)
    usual = twin.recipe.override(learning_rate=1e-5)
    classifier = Classifier(twin, 2, usual)
    optimizer, _ = adamw(classifier, usual, steps, CPU)
    hiding, ratios, letters = [], [], []
    for step in range(1, steps + 1):
        windows, _ = corpus.sample(np.random.default_rng([0, step]), count)
        begun = perf_counter()
        made = pretraining.make(step)
        pretraining.advance(made, begun, 0.0)
        pretrained = perf_counter() - begun

        begun = perf_counter()
        adapter.collate(windows)
        plain = perf_counter() - begun
        begun = perf_counter()
        goal.collate(adapter, windows, np.random.default_rng(step), 0.0)
        corrupted = perf_counter() - begun

        begun = perf_counter()
        windows, _ = corpus.sample(np.random.default_rng([0, step]), count)
        finetune(classifier.train(), [Example(str(i), (it,), i % 2) for i, it in enumerate(windows)], given.batch, precision)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        finetuned = perf_counter() - begun
        if step > 1:  # the first compiles and allocates
            hiding.append(max(corrupted - plain, 0.0) / pretrained)
            ratios.append(finetuned / pretrained)
            letters.append(sum(map(len, windows)) / pretrained)
    print(
        f"{name:>10} {objective:9} hiding {median(hiding):6.1%} of a step; {median(letters):9,.0f} letters/s, "
        f"{median(ratios):.2f} of fine-tuning ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def finetune(classifier: Classifier, examples: list[Example], size: int, precision: str) -> None:
    """The gradients of one step, in batches."""
    for at in range(0, len(examples), size):
        part = examples[at : at + size]
        batch = classifier.collate(part)
        with autocast(CPU, precision):
            logits = classifier(batch)
        (F.cross_entropy(logits.float(), torch.tensor([it.label for it in part]), reduction="sum") / len(examples)).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--letters", type=int, default=49_152)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", nargs="*")
    given = parser.parse_args()
    able: dict[str, Any] = {name: registry.adapter_class(name) for name in given.model or registry.model_files()}
    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch, "world")
        simulate(world)
        for name, adapter in able.items():
            if issubclass(adapter, Pretrainable):
                for objective in adapter.objectives:
                    if (name, objective) != ("hf", "next"):  # needs a causal configuration
                        measure(given, world, name, objective)


if __name__ == "__main__":
    main()
