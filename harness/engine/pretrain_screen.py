"""What pretraining says on the screen: what it is about to do, how fast it is, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.adapter import Adapter
from harness.progress import duration

if TYPE_CHECKING:
    from .pretrain import Pretraining


def description(adapter: Adapter, record: Mapping[str, Any], folder: Path) -> str:
    settings, data, audit = record["settings"], record["data"], adapter.audit
    origin = "random initialisation" if audit is None else f"{audit.matched} of {audit.expected} tensors from {audit.source}"
    windows = settings["tokens_per_step"] // settings["context"]
    lines = [
        f"{settings['model']}, seed {settings['seed']}: {origin}, {record['model']['parameters']:,} parameters, "
        f"{settings['precision']} on {record['environment']['device_name']}, {record['environment']['threads']} threads",
        f"{settings['data']}: {data['rows']} rows, {data['blocks'] - data['held_out_blocks']:,} blocks of {data['block']:,} "
        f"columns to train on, {data['held_out_blocks']:,} held out ({data['validation_windows']:,} windows, "
        f"{data['validation_targets']:,} hidden bases; the column vote gets {data['vote_accuracy']:.4f} of them right)",
        f"{settings['steps']:,} steps of {windows:,} windows of {settings['context']} nt, "
        f"in batches of {settings['batch_size']}, into {folder}",
        *(audit.warnings if audit else ()),
    ]
    return "\n  ".join(lines)


def estimate(run: Pretraining, record: Mapping[str, Any]) -> str:
    """How fast the first steps were, and how long the others will take."""
    timing = run.results()["timing"]
    return (
        f"{run.tokens_per_second:,.0f} tokens/s, each a column of {record['data']['rows']} rows; {run.pace:.2f} s a step, "
        f"{timing['wait_share']:.1%} of it waiting for windows; peak memory "
        f"{timing['peak_memory_bytes'] / 2**30:.2f} GiB; about {duration(3600 * run.hours_left)} "
        f"for the {run.steps - run.step:,} steps left"
    )


def news(row: Mapping[str, float], run: Pretraining) -> str:
    held_out = ""
    if "validation_loss" in row:
        scores = f"{row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.4f} (vote {row['vote_accuracy']:.4f})"
        held_out = f", held out {scores}"
    left = (
        f", {run.tokens_per_second:,.0f} tokens/s, about {duration(3600 * run.hours_left)} left" if run.step < run.steps else ""
    )
    return f"step {row['step']:,} of {run.steps:,}: loss {row['train_loss']:.4f}{held_out}, {row['seconds']:.2f} s a step{left}"


def summary(record: Mapping[str, Any], folder: Path) -> str:
    """The closing lines. The accuracy has its binomial standard error."""
    settings, scores, timing = record["settings"], record["scores"], record["timing"]
    above = scores["validation_accuracy"] > scores["vote_accuracy"]
    error = (scores["validation_accuracy"] * (1 - scores["validation_accuracy"]) / record["data"]["validation_targets"]) ** 0.5
    letters = settings["tokens_per_step"] // settings["context"] * settings["context"] * settings["steps"]
    lines = [
        f"{settings['model']} pretrained, seed {settings['seed']}: {settings['steps']:,} steps, {letters:,} letters",
        f"held-out loss     {scores['validation_loss']:.4f}",
        f"accuracy          {scores['validation_accuracy']:.4f} ± {error:.4f}   {'above' if above else 'not above'} the column "
        f"vote ({scores['vote_accuracy']:.4f})",
        f"seconds a step    {timing['seconds_per_step']:.2f}, of which {timing['wait'] / timing['seconds']:.1%} are spent "
        "waiting for windows",
        f"tokens/s          {letters / settings['steps'] / timing['seconds_per_step']:,.0f}",
        f"peak memory       {timing['peak_memory_bytes'] / 2**30:.2f} GiB",
        f"weights, curve    {folder}",
        f"fine-tune it      harness run --model {settings['model']} --checkpoint {folder} --task TASK",
    ]
    return "\n  ".join(lines)
