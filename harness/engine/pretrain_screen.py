"""What pretraining says on the screen: what it is about to do, how fast it is, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.adapter import Adapter
from harness.progress import duration

if TYPE_CHECKING:
    from .pretrain import Pretraining


def description(adapter: Adapter, record: Mapping[str, Any], folder: Path, given: Mapping[str, Any], notes: Sequence[str]) -> str:
    """``given`` are the objective's options that were asked for, ``notes`` what the data and the objective have to say."""
    settings, data, audit = record["settings"], record["data"], adapter.audit
    origin = "random initialisation" if audit is None else f"{audit.matched} of {audit.expected} tensors from {audit.source}"
    windows = settings["tokens_per_step"] // settings["context"]
    options = "".join(f" {name}={value}" for name, value in given.items()) or ", as published"
    rows = f"{data['rows']} rows, " if data["rows"] > 1 else ""
    lines = [
        f"{settings['model']}, seed {settings['seed']}: {origin}, {record['model']['parameters']:,} parameters, "
        f"{settings['precision']} on {record['environment']['device_name']}, {record['environment']['threads']} threads",
        f"objective {settings['objective']}{options}",
        f"{settings['data']}: {rows}{data['blocks'] - data['held_out_blocks']:,} blocks of at most {2 * data['block'] - 1:,} "
        f"nt to train on, {data['held_out_blocks']:,} held out ({data['validation_windows']:,} windows, "
        f"{data['validation_targets']:,} targets, {data['targets_per_letter']:.3f} a letter)",
        f"the {data['yardstick']} has a loss of {data['yardstick_loss']:.4f}, and {data['yardstick_accuracy']:.4f} of them right",
        f"{settings['steps']:,} steps of {windows:,} windows of {settings['context']} nt, "
        f"in batches of {settings['batch_size']}, into {folder}",
        *(audit.warnings if audit else ()),
        *notes,
    ]
    if data["too_short"]:
        lines.append(f"{data['too_short']:,} sequences are left out: they are shorter than a window can be")
    if data["regions"] is not None:
        lines.append(f"windows begin at one of {data['regions']:,} places that the objective selected")
    return "\n  ".join(lines)


def estimate(run: Pretraining, record: Mapping[str, Any]) -> str:
    """How fast the first steps were, and how long the others will take."""
    timing, rows = run.results()["timing"], record["data"]["rows"]
    columns = f", each a column of {rows} rows" if rows > 1 else ""
    return (
        f"{run.tokens_per_second:,.0f} tokens/s{columns}; {run.pace:.2f} s a step, "
        f"{timing['wait_share']:.1%} of it waiting for windows; peak memory "
        f"{timing['peak_memory_bytes'] / 2**30:.2f} GiB; about {duration(3600 * run.hours_left)} "
        f"for the {run.steps - run.step:,} steps left"
    )


def news(row: Mapping[str, float], run: Pretraining) -> str:
    held_out = ""
    if "validation_loss" in row:
        scores = (
            f"{row['validation_loss']:.4f} (yardstick {row['yardstick_loss']:.4f}), accuracy {row['validation_accuracy']:.4f} "
            f"({row['yardstick_accuracy']:.4f})"
        )
        held_out = f", held out {scores}"
    left = (
        f", {run.tokens_per_second:,.0f} tokens/s, about {duration(3600 * run.hours_left)} left" if run.step < run.steps else ""
    )
    return f"step {row['step']:,} of {run.steps:,}: loss {row['train_loss']:.4f}{held_out}, {row['seconds']:.2f} s a step{left}"


def summary(record: Mapping[str, Any], folder: Path) -> str:
    """The closing lines. The accuracy has its binomial standard error."""
    settings, scores, timing = record["settings"], record["scores"], record["timing"]
    better = "better" if scores["validation_loss"] < scores["yardstick_loss"] else "no better"
    above = "above" if scores["validation_accuracy"] > scores["yardstick_accuracy"] else "not above"
    error = (scores["validation_accuracy"] * (1 - scores["validation_accuracy"]) / record["data"]["validation_targets"]) ** 0.5
    letters = settings["tokens_per_step"] // settings["context"] * settings["context"] * settings["steps"]
    yardstick = record["data"]["yardstick"]
    lines = [
        f"{settings['model']} pretrained ({settings['objective']}), seed {settings['seed']}: {settings['steps']:,} steps, "
        f"{letters:,} letters",
        f"held-out loss     {scores['validation_loss']:.4f}   {better} than the {yardstick} ({scores['yardstick_loss']:.4f})",
        f"accuracy          {scores['validation_accuracy']:.4f} ± {error:.4f}   {above} the {yardstick} "
        f"({scores['yardstick_accuracy']:.4f})",
        f"seconds a step    {timing['seconds_per_step']:.2f}, of which {timing['wait'] / timing['seconds']:.1%} are spent "
        "waiting for windows",
        f"tokens/s          {letters / settings['steps'] / timing['seconds_per_step']:,.0f}",
        f"peak memory       {timing['peak_memory_bytes'] / 2**30:.2f} GiB",
        f"weights, curve    {folder}",
        # What follows a colon names weights, in whose place the folder is.
        f"fine-tune it      harness run --model {settings['model'].partition(':')[0]} --checkpoint {folder} --task TASK",
    ]
    return "\n  ".join(lines)
