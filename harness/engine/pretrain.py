"""Pretraining: a model's own objective on windows of an alignment, without labels.

The folder it writes holds ``model.safetensors`` (what ``harness run --checkpoint FOLDER`` fine-tunes), ``pretrain.json``
(settings, data, environment, scores), ``loss.csv`` and ``loss.png``, and, until the last step, ``state.pt``, from which the
same command goes on exactly: all that is random in a step is drawn from (seed, step).
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness import registry
from harness.adapter import IGNORED, Adapter, Batch, Pretrainable
from harness.errors import BadData, RunFailed, UserError
from harness.files.alignments import open_alignment
from harness.files.code import code_digest
from harness.files.fingerprint import digest
from harness.kernels import compilation
from harness.progress import Progress, Reporter
from harness.recipe import Recipe

from . import hardware
from .build import request
from .corpus import Corpus, Validation, collate
from .fit import adamw
from .predict import autocast, out_of_memory, to_device

TOKENS_PER_STEP = 49_152  # 8 × 12 windows of 512 nt; as many letters are looked at in validation
RECORD, STATE, WEIGHTS, CURVE, PICTURE = "pretrain.json", "state.pt", "model.safetensors", "loss.csv", "loss.png"
JUDGED: Sequence[str] = ("validation_loss", "validation_accuracy", "vote_accuracy")
COLUMNS: Sequence[str] = ("step", "train_loss", "learning_rate", "seconds", "reading_seconds", *JUDGED)

SAVE_SECONDS = 300.0

_USED = ("batch_size", "learning_rate", "weight_decay", "betas", "warmup", "schedule", "clip")  # of a recipe


def pretrain(
    model: str,
    msa: Path,
    *,
    species: str = "",
    context: int = 512,
    steps: int = 1000,
    tokens_per_step: int = TOKENS_PER_STEP,
    evaluate_every: int = 50,
    checkpoint: str | None = None,
    init: str | None = None,
    options: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    out: Path | None = None,
    force: bool = False,
    reporter: Reporter,
) -> Path:
    """Train a model on windows of ``context`` nt of an alignment, from random weights or from ``checkpoint``.

    An optimiser step sees ``tokens_per_step // context`` windows, in batches of the recipe's ``batch_size``; ``settings``
    override the model's published recipe. Returns the folder, ``out`` or one named by the settings. A folder with an
    unfinished run of the same settings is gone on with, a finished one left as it is, unless ``force`` starts over.

    Raises:
        UserError: a mistake in what was asked for, or a folder that holds something else.
        RunFailed: the loss is not a finite number, or a batch does not fit into memory.
    """
    for name, value, least in (
        ("context", context, 1),
        ("steps", steps, 1),
        ("tokens-per-step", tokens_per_step, context),
        ("evaluate-every", evaluate_every, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise UserError(f"{name} {value}: must be at least {least}")
    adapter_class = _pretrainable(model)
    wanted = request(model, checkpoint=checkpoint, init=init, options=options, official=False)
    recipe = adapter_class.pretraining.override(**(settings or {}))  # type: ignore[attr-defined]
    place = hardware.pick_device(device)
    precision = hardware.pick_precision(recipe.precision, place)
    corpus = Corpus(open_alignment(msa, species), context)
    compilation.on_compile = reporter.say
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapter = wanted.build()
        if adapter.max_length is not None and context > adapter.max_length:
            raise UserError(f"context {context}: {adapter.name} takes at most {adapter.max_length} nt")
        validation = Validation(adapter, corpus, max(TOKENS_PER_STEP // context, 1), recipe.batch_size)
        asked = {
            "model": adapter.name,
            "size": None if wanted.checkpoint else wanted.size,
            "checkpoint": adapter.audit and adapter.audit.sha256,
            "options": wanted.options,
            "data": corpus.alignment.path.name,
            "data_sha256": validation.sha256,
            "extents": corpus.alignment.extents,
            "species": corpus.alignment.species,
            "context": context,
            "steps": steps,
            "tokens_per_step": tokens_per_step,
            "seed": seed,
            **{name: getattr(recipe, name) for name in _USED},
            "precision": precision,
            "device": place.type,
        }
        asked = json.loads(json.dumps(asked))
        folder = out or Path("pretrained", f"{adapter.name}-seed{seed}-{digest(asked)[:10]}")
        record = _earlier(folder, asked, force)
        if record and record["step"] == steps:
            reporter.say(f"{folder} holds this very run, finished (--force starts over)")
            _show(record, folder, reporter)
            return folder
        _prepare(folder)
        run = Pretraining(adapter, corpus, recipe, steps, tokens_per_step // context, seed, place, precision)
        code = digest([code_digest(Path(__file__)), code_digest(registry.model_file(model))])
        events = list(record["events"]) if record else []
        if record and record["step"]:
            run.restore(folder / STATE)
            reporter.say(f"going on after step {run.step:,} of {steps:,}, from {folder / STATE}")
            if record["code"] != code:
                events.append(f"the code changed after step {run.step}: the result may differ from an uninterrupted run's")
                reporter.say(events[-1])
        else:
            for name in (STATE, WEIGHTS, CURVE, PICTURE):  # of a run that is started over
                (folder / name).unlink(missing_ok=True)
        record = {
            "settings": asked,
            "data": corpus.facts() | validation.facts(),
            "model": {"parameters": sum(item.numel() for item in adapter.parameters())},
            "step": run.step,
            "scores": {},
            "timing": {},
            "events": events,
            "code": code,
            "environment": {
                "versions": hardware.versions(),
                "device_name": hardware.describe_device(place),
                "threads": torch.get_num_threads(),
            },
        }
        _replace(folder / RECORD, lambda path: path.write_text(json.dumps(record, indent=1)))
        reporter.say(_describe(adapter, record, folder))
        _train(run, validation, evaluate_every, folder, record, reporter)
    _show(record, folder, reporter)
    return folder


def _train(
    run: Pretraining, validation: Validation, evaluate_every: int, folder: Path, record: dict[str, Any], reporter: Reporter
) -> None:
    """Step until the last step; judge, save and say so on the way.

    Raises:
        RunFailed: as :func:`pretrain` says.
    """
    steps, saved = record["settings"]["steps"], time.monotonic()
    try:
        with reporter.training(f"{record['settings']['model']} on {record['settings']['data']}"):
            while run.step < steps:
                row = run.advance()
                judged = run.step % evaluate_every == 0 or run.step == steps
                if judged:
                    row |= run.evaluate(validation)
                if judged or time.monotonic() - saved > SAVE_SECONDS:
                    _save(folder, run, record)
                    saved = time.monotonic()
                    reporter.say(_news(row, steps))
                reporter.report(Progress(run.corpus.passes(run.step * run.windows), run.step, steps, row["train_loss"]))
    except KeyboardInterrupt:
        reporter.say(f"stopped; {folder} holds step {record['step']:,} of {steps:,}, and the same command goes on from there")
        raise
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        size = record["settings"]["batch_size"]
        raise RunFailed(f"out of memory with batches of {size} windows: a smaller --batch-size makes the same steps") from None


class Pretraining:
    """A run under way: the model with its optimiser, how many steps it has made, and a row of ``history`` for each."""

    def __init__(
        self,
        adapter: Adapter,
        corpus: Corpus,
        recipe: Recipe,
        steps: int,
        windows: int,
        seed: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.adapter = adapter.to(device).requires_grad_(True)
        self.corpus, self.recipe, self.windows, self.seed = corpus, recipe, windows, seed
        self.device, self.precision = device, precision
        self.optimizer, self.schedule = adamw(self.adapter, recipe, steps, device)
        self.step, self.history = 0, list[dict[str, float]]()

    def advance(self) -> dict[str, float]:
        """One optimiser step: the mean loss over the hidden bases of all its windows.

        Raises:
            RunFailed: a loss that is not a finite number.
        """
        begun = time.perf_counter()
        self.step += 1
        rng = np.random.default_rng([self.seed, self.step])
        torch.manual_seed(int(rng.integers(2**63)))
        batches = collate(self.adapter, self.corpus.draw(rng, self.windows), self.recipe.batch_size, rng)
        reading = time.perf_counter() - begun
        targets = sum(int((batch["targets"] != IGNORED).sum()) for batch in batches)
        total = torch.zeros((), device=self.device)
        self.adapter.train()
        for batch in batches:
            loss = self._losses(batch)[0] / targets
            loss.backward()
            total += loss.detach()
        if not total.isfinite():
            raise RunFailed(
                f"training loss is {total.item()} at step {self.step}: "
                f"lower --learning-rate ({self.recipe.learning_rate:g}) or use --precision float32"
            )
        nn.utils.clip_grad_norm_(self.adapter.parameters(), self.recipe.clip)
        rate = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.history.append(
            {
                "step": self.step,
                "train_loss": total.item(),
                "learning_rate": rate,
                "seconds": time.perf_counter() - begun,
                "reading_seconds": reading,
            }
        )
        return self.history[-1]

    @torch.inference_mode()
    def evaluate(self, validation: Validation) -> dict[str, float]:
        """Mean loss and accuracy over the hidden bases of the held-out windows, in evaluation mode."""
        self.adapter.eval()
        loss, right = 0.0, 0
        for batch in validation.batches:
            losses, hits = self._losses(batch)
            loss, right = loss + losses.item(), right + hits
        return {
            "validation_loss": loss / validation.targets,
            "validation_accuracy": right / validation.targets,
            "vote_accuracy": validation.vote_accuracy,
        }

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Summed cross-entropy over a batch's targets, and how many of them have the highest logit."""
        assert isinstance(self.adapter, Pretrainable)
        batch = to_device(batch, self.device)
        targets = batch["targets"][batch["targets"] != IGNORED]
        with autocast(self.device, self.precision):
            logits = self.adapter.pretraining_logits(batch)
        return F.cross_entropy(logits.float(), targets, reduction="sum"), int((logits.argmax(dim=-1) == targets).sum())

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs, tensors and plain values only."""
        return {
            "step": self.step,
            "history": self.history,
            "skipped": self.corpus.skipped,
            "adapter": self.adapter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            BadData: the file is missing or damaged.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # torch, zipfile and pickle each raise their own kinds for a damaged file
            raise BadData(f"{path}: cannot be gone on from ({str(error).splitlines()[0]}); --force starts over") from None
        self.step, self.history, self.corpus.skipped = state["step"], state["history"], state["skipped"]
        self.adapter.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def plot(path: Path, histories: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Loss and accuracy by step, one colour a history, as a PNG: lines for training, dots for validation, dashes for the vote."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5))
    losses, accuracies = figure.subplots(1, 2)
    for number, (name, history) in enumerate(histories.items()):
        colour, judged = f"C{number}", [row for row in history if "validation_loss" in row]
        steps = [row["step"] for row in judged]
        losses.plot([row["step"] for row in history], [row["train_loss"] for row in history], colour, alpha=0.5)
        losses.plot(steps, [row["validation_loss"] for row in judged], f"{colour}o-", markersize=3, label=name)
        accuracies.plot(steps, [row["validation_accuracy"] for row in judged], f"{colour}o-", markersize=3, label=name)
        if judged:
            accuracies.axhline(judged[-1]["vote_accuracy"], color="grey", linestyle="--")
    losses.set(xlabel="step", ylabel="cross-entropy of hidden bases (nats)")
    accuracies.set(xlabel="step", ylabel="accuracy on held-out hidden bases")
    losses.legend()
    figure.tight_layout()
    figure.savefig(path, format="png", dpi=120)


def _pretrainable(model: str) -> type[Adapter]:
    """The adapter of that name.

    Raises:
        UserError: it cannot be pretrained.
    """
    found = registry.adapter_class(model)
    if not issubclass(found, Pretrainable):
        able = [name for name in registry.model_files() if issubclass(registry.adapter_class(name), Pretrainable)]
        raise UserError(f"model {model!r}: cannot be pretrained here; choose one of {', '.join(able)}")
    return found


# --- the folder ---------------------------------------------------------------------------------------------------------


def _earlier(folder: Path, asked: Mapping[str, Any], force: bool) -> dict[str, Any] | None:
    """The record of the run of these settings in a folder, None where there is none yet or it shall not count.

    Raises:
        UserError: the folder holds a run of other settings, or something else.
        BadData: the record is damaged.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if force or record["step"] == 0:  # before its first save there is nothing to lose
            return None
        there = record["settings"]
    except (FileNotFoundError, NotADirectoryError):
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"out {folder}: holds files but no {RECORD}; choose an empty folder with --out") from None
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path}: not a readable record ({error}); choose another --out") from None
    if different := [name for name in {**there, **asked} if there.get(name) != asked.get(name)]:
        changes = ", ".join(f"{name} {str(there.get(name))[:40]} there, {str(asked.get(name))[:40]} here" for name in different)
        raise UserError(f"out {folder}: holds another run ({changes}); choose another --out, or --force to start over")
    return record


def _prepare(folder: Path) -> None:
    """Make the folder.

    Raises:
        UserError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"out {folder}: cannot be written ({error.strerror}); choose another folder with --out") from None


def _save(folder: Path, run: Pretraining, record: dict[str, Any]) -> None:
    """Bring the folder up to the run's step; of its files, each is whole at any moment, and the record comes last."""
    from safetensors.torch import save

    finished = run.step == record["settings"]["steps"]
    judged = [row for row in run.history if "validation_loss" in row]
    record |= {
        "step": run.step,
        "scores": {name: judged[-1][name] for name in JUDGED} if judged else {},
        "timing": {
            "seconds": sum(row["seconds"] for row in run.history),
            "reading_seconds": sum(row["reading_seconds"] for row in run.history),
            "seconds_per_step": statistics.median(row["seconds"] for row in run.history),
            "peak_memory_bytes": hardware.peak_memory(run.device),
        },
    }
    record["data"]["skipped_windows"] = run.corpus.skipped
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in run.adapter.state_dict().items()}
    if not finished:
        _replace(folder / STATE, lambda path: torch.save(run.state(), path))
    _replace(folder / WEIGHTS, lambda path: path.write_bytes(save(tensors)))
    _replace(folder / CURVE, lambda path: _write_curve(path, run.history))
    _replace(folder / PICTURE, lambda path: plot(path, {record["settings"]["model"]: run.history}))
    _replace(folder / RECORD, lambda path: path.write_text(json.dumps(record, indent=1)))
    if finished:
        (folder / STATE).unlink(missing_ok=True)


def _write_curve(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, then put it in place."""
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    os.replace(temporary, path)


# --- what is said -------------------------------------------------------------------------------------------------------


def _describe(adapter: Adapter, record: Mapping[str, Any], folder: Path) -> str:
    asked, data, audit = record["settings"], record["data"], adapter.audit
    origin = "random initialisation" if audit is None else f"{audit.matched} of {audit.expected} tensors from {audit.source}"
    windows = asked["tokens_per_step"] // asked["context"]
    lines = [
        f"{asked['model']}, seed {asked['seed']}: {origin}, {record['model']['parameters']:,} parameters, "
        f"{asked['precision']} on {record['environment']['device_name']}, {record['environment']['threads']} threads",
        f"{asked['data']}: {data['rows']} rows, {data['blocks'] - data['held_out_blocks']:,} blocks of {data['block']:,} "
        f"columns to train on, {data['held_out_blocks']:,} held out ({data['validation_windows']:,} windows, "
        f"{data['validation_targets']:,} hidden bases; a vote of their columns gets {data['vote_accuracy']:.4f})",
        f"{asked['steps']:,} steps of {windows:,} windows of {asked['context']} nt, in batches of {asked['batch_size']}, "
        f"into {folder}",
        *(audit.warnings if audit else ()),
    ]
    return "\n  ".join(lines)


def _news(row: Mapping[str, float], steps: int) -> str:
    judged = ""
    if "validation_loss" in row:
        scores = f"{row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.4f} (vote {row['vote_accuracy']:.4f})"
        judged = f", held out {scores}"
    return f"step {row['step']:,} of {steps:,}: loss {row['train_loss']:.4f}{judged}, {row['seconds']:.2f} s a step"


def _show(record: Mapping[str, Any], folder: Path, reporter: Reporter) -> None:
    """The closing lines; the accuracy with its standard error."""
    asked, scores, timing = record["settings"], record["scores"], record["timing"]
    above = scores["validation_accuracy"] > scores["vote_accuracy"]
    error = (scores["validation_accuracy"] * (1 - scores["validation_accuracy"]) / record["data"]["validation_targets"]) ** 0.5
    letters = asked["tokens_per_step"] // asked["context"] * asked["context"] * asked["steps"]
    lines = [
        f"{asked['model']} pretrained, seed {asked['seed']}: {asked['steps']:,} steps, {letters:,} letters",
        f"held-out loss     {scores['validation_loss']:.4f}",
        f"accuracy          {scores['validation_accuracy']:.4f} ± {error:.4f}   {'above' if above else 'not above'} the column "
        f"vote ({scores['vote_accuracy']:.4f})",
        f"seconds a step    {timing['seconds_per_step']:.2f}, of which {timing['reading_seconds'] / timing['seconds']:.1%} "
        "wait for windows",
        f"peak memory       {timing['peak_memory_bytes'] / 2**30:.2f} GiB",
        f"weights, curve    {folder}",
        f"fine-tune it      harness run --model {asked['model']} --checkpoint {folder} --task TASK",
    ]
    reporter.conclude("\n  ".join(lines))
