"""Fine-tuning steps of a BERT on 101-nt windows: the loop of the harness against a plain float32 loop, as ratios of one run.

    python benchmarks/finetune.py [--layers 12 --width 768] [--steps 6] [--rounds 3] [--bound]
    python benchmarks/finetune.py --scores [--layers 2 --width 128] [--epochs 6] [--learning-rate 1e-3]

Both train the same randomly initialised architecture with AdamW and batches of 32, each in its own process, taking turns. The
plain loop is a straightforward one: float32, k-mers looked up one by one as in DNABERT's tokenizer, transformers'
BertForSequenceClassification, torch's default AdamW. Ours is `harness.engine.fit.fit` with `--precision auto`. The speed of
matrix products in either type is printed as well, because it bounds the ratio. `--bound` says how far: it times every matrix
product of our step alone, forward and both gradients, in its own shape, and the memory traffic that no step can do without (the
weights cast to bf16, their gradients cast back, clipped, and AdamW's four tensors) at the speed of copying. With `--scores`, our loop is trained in float32
and in bf16 on a simulated set instead, from the same weights and in the same order of batches, and test log-losses are compared
seed by seed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from harness.adapters import _kmer_bert
from harness.adapters.dnabert1 import DNABERT1
from harness.data import Example, Window
from harness.engine import hardware
from harness.engine.classifier import Classifier
from harness.engine.fit import fit
from harness.engine.predict import predict
from harness.evidence.metrics import scores
from harness.registry import find_tasks

BATCH, SEEDS = 32, 3
ACCELERATOR = Accelerator(cpu=True)


def windows(count: int) -> list[Example]:
    rng = np.random.default_rng(0)
    return [Example(str(i), (Window("".join(rng.choice(list("ACGT"), 101))),), i % 2) for i in range(count)]


def ours(shape: _kmer_bert.Shape, examples: list[Example]) -> float:
    """Seconds of one epoch."""
    torch.manual_seed(0)
    recipe = DNABERT1.recipe.override(epochs=1, batch_size=BATCH)
    classifier = Classifier(DNABERT1(shape, "pooler", -1, "refuse"), 2, recipe)
    precision = hardware.pick_precision("auto", torch.device("cpu"))
    fitted = fit(classifier, examples, examples[:BATCH], recipe, ACCELERATOR, precision=precision)
    return fitted.history[0]["seconds"]


def plain(shape: _kmer_bert.Shape, examples: list[Example]) -> float:
    """Seconds of one epoch of the plain loop."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
    )
    model = BertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    ids = {token: number for number, token in enumerate(_kmer_bert.vocabulary(6))}
    begun = time.perf_counter()
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        rows = []
        for example in batch:
            sequence = example.windows[0].sequence
            kmers = " ".join(sequence[i : i + 6] for i in range(len(sequence) - 5))
            rows.append([ids["[CLS]"], *(ids.get(kmer, ids["[UNK]"]) for kmer in kmers.split()), ids["[SEP]"]])
        tokens = torch.tensor(rows)
        logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
        F.cross_entropy(logits, torch.tensor([example.label for example in batch])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - begun


def multiplication_rate(dtype: torch.dtype) -> float:
    """Best GFLOP/s of this process in the largest matrix product of a 12-layer BERT's step."""
    a, b = torch.randn(BATCH * 98, 768).to(dtype), torch.randn(768, 3072).to(dtype)
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - begun)
    return 2e-9 * a.numel() * b.shape[1] / min(seconds)


def product_seconds(shape: _kmer_bert.Shape, dtype: torch.dtype) -> float:
    """Seconds of the linear layers' matrix products in a step: medians of each, alone, times how often it is computed.

    In the last layer, the pooler reads one token, so that only keys and values are computed of all.
    """
    tokens, width, inner = BATCH * 98, shape.width, shape.inner
    total = 0.0
    for size, out, times in (
        (width, width, 4 * shape.layers - 2),
        (width, inner, shape.layers - 1),
        (inner, width, shape.layers - 1),
    ):
        x, weight, gradient = (torch.randn(rows, of).to(dtype) for rows, of in ((tokens, size), (out, size), (tokens, out)))
        bias = torch.zeros(out, dtype=dtype)
        for product in (
            partial(torch.addmm, bias, x, weight.t()),
            partial(torch.mm, gradient, weight),
            partial(torch.mm, gradient.t(), x),
        ):
            total += times * timed(product)
    return total


def traffic_seconds(shape: _kmer_bert.Shape) -> float:
    """Seconds in which this process copies as many bytes as the weights need to be moved in a step of bf16.

    Of each weight: read and cast (6 bytes), its gradient cast back (6), its norm (4), clipped (8), AdamW (7 × 4).
    """
    source = torch.zeros(1 << 26)
    rate = 2 * source.nbytes / timed(partial(torch.empty_like(source).copy_, source))
    return shape.parameters * (6 + 6 + 4 + 8 + 28) / rate


def timed(function: Callable[[], object], rounds: int = 7) -> float:
    """Median seconds of a call, after one that does not count."""
    seconds = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds[1:]))


def compare_speed(shape: _kmer_bert.Shape, steps: int, rounds: int, bound: bool) -> None:
    examples = windows(steps * BATCH)
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as one, ProcessPoolExecutor(1, spawn) as other:
        contestants = ((one, ours), (other, plain))
        for process, loop in contestants:
            process.submit(loop, shape, examples[:BATCH]).result()  # warm up
        times = np.array(
            [[process.submit(loop, shape, examples).result() for process, loop in contestants] for _ in range(rounds)]
        )
        rates = [one.submit(multiplication_rate, dtype).result() for dtype in (torch.float32, torch.bfloat16)]
        if bound:
            products = [one.submit(product_seconds, shape, dtype).result() for dtype in (torch.float32, torch.bfloat16)]
            traffic = one.submit(traffic_seconds, shape).result()
    speeds = np.median(len(examples) / times, axis=0)
    ratios = times[:, 1] / times[:, 0]
    print(f"{shape.layers} layers of width {shape.width}, {torch.get_num_threads()} threads, batch {BATCH}, 101 nt")
    print(f"ours  {speeds[0]:8.1f} windows/s   plain float32 loop {speeds[1]:8.1f} windows/s")
    print(f"ratio, round by round: {np.round(ratios, 2)}, median {np.median(ratios):.2f}")
    print("matrix products: float32 {:.0f} GFLOP/s, bf16 {:.0f}, ratio {:.2f}".format(*rates, rates[1] / rates[0]))
    if bound:
        step, plain_step = np.median(times, axis=0) / steps
        least = products[1] + traffic
        print(f"a step: ours {step:.2f} s, plain {plain_step:.2f} s")
        print(f"products alone: bf16 {products[1]:.2f} s ({products[1] / step:.0%} of ours), float32 {products[0]:.2f} s")
        print(f"traffic of weights: {traffic:.2f} s ({traffic / step:.0%}); all else {1 - least / step:.0%}")
        print(f"bound of the ratio, if all else took no time: {plain_step / least:.2f}")


def compare_scores(shape: _kmer_bert.Shape, epochs: int, learning_rate: float) -> None:
    """On simulated HNRNPL sites, which a small BERT can learn."""
    task = find_tasks("HNRNPL")[0].sample
    assert task is not None
    splits = task.load(task.split_rules[0])
    labels = np.array([example.label for example in splits.test])
    recipe = DNABERT1.recipe.override(epochs=epochs, batch_size=BATCH, learning_rate=learning_rate)
    losses = np.empty((SEEDS, 2))
    for seed, column in np.ndindex(losses.shape):
        precision = ("float32", "bf16")[column]
        torch.manual_seed(seed)
        classifier = Classifier(DNABERT1(shape, "mean", -1, "refuse"), 2, recipe)
        fit(classifier, splits.train, splits.validation, recipe, ACCELERATOR, seed=seed, precision=precision)
        probabilities = predict(classifier, splits.test, ACCELERATOR, precision=precision)
        losses[seed, column] = scores(probabilities, labels)["log_loss"]
        print(f"seed {seed}, {precision:<8} test log_loss {losses[seed, column]:.4f}", flush=True)
    difference = losses[:, 1] - losses[:, 0]
    for name, column in (("float32", losses[:, 0]), ("bf16", losses[:, 1]), ("bf16 - float32", difference)):
        print(f"{name:<16}{column.mean():8.4f} ± {column.std(ddof=1):.4f} between seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bound", action="store_true")
    parser.add_argument("--scores", action="store_true")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    shape = _kmer_bert.Shape(options.layers, options.width, max(options.width // 64, 1), 4 * options.width, vocabulary=4101)
    if options.scores:
        compare_scores(shape, options.epochs, options.learning_rate)
    else:
        compare_speed(shape, options.steps, options.rounds, options.bound)


if __name__ == "__main__":
    main()
