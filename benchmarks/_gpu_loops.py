"""Rows of gpu.py: fine-tuning and pretraining as users run them."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import pretraining
from harness.adapters import _kmer_bert, dnabert2
from harness.adapters.dnabert1 import DNABERT1
from harness.data import Example
from harness.engine import hardware
from harness.engine.classifier import Classifier
from harness.engine.fit import Fit, fit
from harness.engine.pretrain import TOKENS_PER_STEP, pretrain
from harness.progress import Progress, Reporter
from harness.recipe import Recipe

from ._gpu import Bench, Measure, Row, alignments, windows

GUE_BATCH = 32
PAPERS_BATCHES = 15_000


def wait(bench: Bench) -> Iterator[Measure]:
    """How long the device waits for batches while a BERT, and MSAMamba on 90 rows, are fine-tuned."""
    yield "BERT device wait", partial(_bert_wait, bench)
    yield "MSAMamba device wait", partial(_msamamba_wait, bench)


def _bert_wait(bench: Bench) -> Iterator[Row]:
    adapter, size = _bert(bench), 64
    examples = windows(bench.size(100, 1) * size, 101)
    seconds, fitted = _fitted(bench, adapter, examples, adapter.recipe.override(batch_size=size))
    yield _wait(f"BERT {_shape(bench)}, 101 nt, batch {size}: device wait", fitted.wait_share)
    yield Row(f"BERT {_shape(bench)}, 101 nt, batch {size}: fine-tuning", f"{len(examples) / seconds:,.0f} windows/s")


def _msamamba_wait(bench: Bench) -> Iterator[Row]:
    adapter, examples = alignments(bench, bench.size(64, 4))
    recipe = adapter.recipe.override(batch_size=2)
    yield _wait("MSAMamba, 90 rows, batches of 2: device wait", _fitted(bench, adapter, examples, recipe)[1].wait_share)


def _wait(figure: str, share: float) -> Row:
    return Row(figure, f"{share:.1%}", "< 5 %", share < 0.05)


def deterministic(bench: Bench) -> Iterator[Measure]:
    """What --deterministic costs, while a BERT and MSAMamba are fine-tuned."""
    yield "--deterministic", partial(_deterministic, bench)


def _deterministic(bench: Bench) -> Iterator[Row]:
    size = bench.size(64, 2)
    contestants = {
        f"BERT {_shape(bench)}, 101 nt, batch {size}": (_bert(bench), windows(bench.size(50, 1) * size, 101), size),
        "MSAMamba, 90 rows, batches of 2": (*alignments(bench, bench.size(32, 2)), 2),
    }
    for name, (adapter, examples, size) in contestants.items():
        recipe, seconds = adapter.recipe.override(batch_size=size), {False: [], True: []}
        for _, on in np.ndindex(bench.size(3, 1), 2):
            with hardware.deterministic(bool(on)):
                seconds[bool(on)].append(_fitted(bench, adapter, examples, recipe)[0])
        yield Row(f"{name}: time with --deterministic", f"{median(seconds[True]) / median(seconds[False]):.2f}×")


def _shape(bench: Bench) -> str:
    return "{} × {}".format(*bench.size((12, 768), (1, 32)))


def _bert(bench: Bench) -> DNABERT1:
    layers, width = bench.size((12, 768), (1, 32))
    shape = _kmer_bert.Shape(layers, width, max(width // 64, 1), 4 * width, vocabulary=4101)
    return DNABERT1(shape, "pooler", -1, "refuse")


def _fitted(bench: Bench, adapter: Any, examples: Sequence[Example], recipe: Recipe) -> tuple[float, Fit]:
    """Seconds of the second of two epochs, with the validation of one batch after which the device is idle."""
    classifier = Classifier(adapter, 2, recipe)
    ends: list[float] = []

    def report(news: Progress | str) -> None:
        if isinstance(news, Progress) and news.validation is not None:
            ends.append(perf_counter())

    accelerator = hardware.accelerator(bench.device.type)
    recipe = recipe.override(epochs=2, patience=2)
    done = fit(classifier, examples, examples[: recipe.batch_size], recipe, accelerator, precision=bench.precision, report=report)
    return ends[1] - ends[0], done


def dnabert2_loops(bench: Bench) -> Iterator[Measure]:
    """Fine-tuning DNABERT-2 (117 M) on 101 nt by our loop, and by that of the authors' GUE script."""
    yield "DNABERT-2 fine-tuning", partial(_dnabert2, bench)


def _dnabert2(bench: Bench) -> Iterator[Row]:
    spawn = multiprocessing.get_context("spawn")  # accelerate keeps one setting of mixed precision a process
    with ProcessPoolExecutor(1, spawn) as one, ProcessPoolExecutor(1, spawn) as other:
        seconds = np.array(
            [
                [process.submit(loop, bench).result() for process, loop in ((one, our_loop), (other, gue_loop))]
                for _ in range(bench.size(3, 1))
            ]
        )
    ratio, rate = float(np.median(seconds[:, 1] / seconds[:, 0])), _gue_steps(bench) * GUE_BATCH / np.median(seconds[:, 0])
    name = "DNABERT-2, 117 M, fine-tuning on 101 nt, against transformers' Trainer as in the GUE script"
    yield Row(name, f"{ratio:.2f}× ({rate:,.0f} windows/s)", "≥ 1.5×", ratio >= 1.5)


def _gue_steps(bench: Bench) -> int:
    return bench.size(100, 1)


def _dnabert2_classifier(bench: Bench) -> tuple[Classifier, list[Example]]:
    """A random model, and windows, which a tokenizer of the published size reads that was trained on them.

    The published one is not at hand. Its tokens are longer where sequences repeat, so that there is more padding.
    """
    from tokenizers.trainers import BpeTrainer

    examples = windows(_gue_steps(bench) * GUE_BATCH, 101)
    tokenizer = dnabert2.plain_tokenizer()
    trainer = BpeTrainer(vocab_size=dnabert2.VOCABULARY, special_tokens=list(dnabert2.SPECIALS), show_progress=False)
    tokenizer.train_from_iterator((example.windows[0].sequence for example in examples), trainer)
    shape = dnabert2.Shape(*dnabert2.SIZES[bench.size("base", "tiny")], vocabulary=dnabert2.VOCABULARY, attention_dropout=0.0)
    torch.manual_seed(0)
    adapter = dnabert2.DNABERT2(shape, tokenizer, "cls")
    return Classifier(adapter, 2, adapter.recipe.override(batch_size=GUE_BATCH)), examples


def our_loop(bench: Bench) -> float:
    """Seconds of an epoch."""
    classifier, examples = _dnabert2_classifier(bench)
    return _fitted(bench, classifier.adapter, examples, classifier.adapter.recipe.override(batch_size=GUE_BATCH))[0]


class Padded(nn.Module):
    """The same model with the arguments and results that Trainer expects."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.classifier({"tokens": input_ids, "lengths": attention_mask.sum(dim=1)})
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def gue_loop(bench: Bench) -> float:
    """Seconds of an epoch of transformers' Trainer, set as in MAGICS-LAB/DNABERT_2, finetune/train.py and run_dnabert2.sh.

    The whole set is tokenised before and padded to its longest; batches of 32 come from the main process without pinned memory;
    fp16 with a scaled loss. Evaluations and saves are left out of both loops.
    """
    from torch.nn.utils.rnn import pad_sequence
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # Trainer would share batches among all cards

    classifier, examples = _dnabert2_classifier(bench)
    tokens = classifier.collate(examples)["tokens"].long()
    data = [{"input_ids": row, "labels": example.label} for row, example in zip(tokens, examples, strict=True)]
    ends: list[float] = []

    class Watch(TrainerCallback):
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            bench.wait()
            ends.append(perf_counter())

    def collate(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = pad_sequence([item["input_ids"] for item in batch], batch_first=True, padding_value=dnabert2.PAD)
        labels = torch.tensor([item["labels"] for item in batch])
        return {"input_ids": ids, "labels": labels, "attention_mask": ids.ne(dnabert2.PAD)}

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            per_device_train_batch_size=GUE_BATCH,
            num_train_epochs=2,
            learning_rate=3e-5,
            warmup_steps=50,
            weight_decay=0.01,
            optim="adamw_torch",
            fp16=not bench.dry,
            dataloader_pin_memory=False,
            logging_steps=100_000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=bench.dry,
        )
        trainer = Trainer(Padded(classifier), settings, collate, data, callbacks=[Watch()])  # type: ignore[arg-type]
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return ends[1] - ends[0]


def pretraining_pace(bench: Bench) -> Iterator[Measure]:
    """Pretraining at the paper's full size: 90 rows of 1,024 nt, 49,152 tokens a step, 15,000 steps."""
    yield "pretraining", partial(_pretraining, bench)


def _pretraining(bench: Bench) -> Iterator[Row]:
    context, tokens, steps = bench.size((1024, TOKENS_PER_STEP, 8), (16, 32, 4))
    with tempfile.TemporaryDirectory() as scratch:
        msa = pretraining.simulate(Path(scratch), 90, *bench.size((60, 1024), (2, 128)))
        folder = pretrain(
            "msamamba",
            msa=msa,
            context=context,
            steps=steps,
            tokens_per_step=tokens,
            evaluate_every=steps,
            init=f"random:{bench.size('base', 'tiny')}",
            device=bench.device.type,
            out=Path(scratch, "out"),
            reporter=Reporter(),
        )
        timing = json.loads((folder / "pretrain.json").read_text())["timing"]
    rate = timing["tokens_per_second"]
    hours = PAPERS_BATCHES * timing["seconds_per_step"] / 3600
    name = f"pretraining MSAMamba, 90 rows × {context:,} nt, {tokens:,} tokens a step"
    yield Row(name, f"{rate:,.0f} tokens/s, {hours:.1f} h for {PAPERS_BATCHES:,} batches")
    yield Row(f"{name}: peak memory", f"{timing['peak_memory_bytes'] / 1e9:.1f} GB")
    yield _wait(f"{name}: device wait", timing["wait_share"])
