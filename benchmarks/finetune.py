"""Fine-tuning steps of a BERT on 101-nt windows: the harness' loop against a plain float32 torch loop, ratios in one run.

    python benchmarks/finetune.py [--model dnabert1] [--layers 12 --width 768] [--steps 6] [--rounds 3]

Both train the same randomly initialised architecture with AdamW and batches of 32. The plain loop is what one writes first:
float32, k-mers looked up one by one as in DNABERT's tokenizer, transformers' BertForSequenceClassification, torch's default
AdamW. Ours is `harness.train.fit` with `--precision auto`. `--scores` instead fine-tunes both precisions of ours over three
seeds on a simulated set and prints test log-losses.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from harness import hardware, train
from harness.adapters import _kmer_bert
from harness.adapters.dnabert1 import DNABERT1
from harness.classifier import Classifier
from harness.data import Example, Window
from harness.registry import find_tasks

BATCH = 32
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
    fitted = train.fit(classifier, examples, examples[:BATCH], recipe, ACCELERATOR, precision=precision)
    return fitted.history[0]["seconds"]


def plain(shape: _kmer_bert.Shape, examples: list[Example]) -> float:
    """Seconds of one epoch of the loop that one writes first."""
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


def compare_scores(shape: _kmer_bert.Shape) -> None:
    """Test log-loss in float32 and in bf16, three seeds: a set that a small BERT learns (simulated HNRNPL sites)."""
    task = find_tasks("HNRNPL")[0].sample
    assert task is not None
    splits = task.load(task.split_rules[0])
    labels = np.array([example.label for example in splits.test])
    for precision in ("float32", "bf16"):
        losses = []
        for seed in range(3):
            torch.manual_seed(seed)
            recipe = DNABERT1.recipe.override(epochs=6, batch_size=BATCH, learning_rate=1e-3)
            classifier = Classifier(DNABERT1(shape, "mean", -1, "refuse"), 2, recipe)
            train.fit(classifier, splits.train, splits.validation, recipe, ACCELERATOR, seed=seed, precision=precision)
            probabilities = train.predict(classifier, splits.test, ACCELERATOR, precision=precision)
            losses.append(train._log_loss(probabilities, labels))
        print(
            f"{precision:<8} test log_loss {np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}  {np.round(losses, 4)}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scores", action="store_true")
    options = parser.parse_args()
    shape = _kmer_bert.Shape(options.layers, options.width, max(options.width // 64, 1), 4 * options.width, vocabulary=4101)
    if options.scores:
        compare_scores(shape)
        return
    examples = windows(options.steps * BATCH)
    ours(shape, examples[:BATCH]), plain(shape, examples[:BATCH])  # warm up
    times = np.array([(ours(shape, examples), plain(shape, examples)) for _ in range(options.rounds)])
    rates = len(examples) / times
    print(f"{options.layers} layers of width {options.width}, {torch.get_num_threads()} threads, batch {BATCH}, 101 nt")
    print(f"ours  {np.median(rates[:, 0]):8.1f} windows/s   plain float32 loop {np.median(rates[:, 1]):8.1f} windows/s")
    ratios = times[:, 1] / times[:, 0]
    print(f"ratio, round by round: {np.round(ratios, 2)}, median {np.median(ratios):.2f}")


if __name__ == "__main__":
    main()
