"""Pretraining: a model's own objective on windows of an alignment, without labels.

The folder it writes holds ``model.safetensors`` (what ``harness run --checkpoint FOLDER`` fine-tunes), ``pretrain.json``
(settings, data, environment, scores), ``loss.csv`` and ``loss.png``, and, until the last step, ``state.pt``, from which the
same command goes on exactly: all that is random in a step is drawn from (seed, step).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness import hardware, registry, results, weights
from harness.adapter import IGNORED, Adapter, Batch, Pretrainable
from harness.alignments import GAP, Alignment, open_alignment
from harness.data import Locus, Window
from harness.errors import BadData, RunFailed, UserError
from harness.kernels import compilation
from harness.recipe import Recipe
from harness.run import random_size, typed_options
from harness.train import Progress, adamw, autocast, out_of_memory, to_device

if TYPE_CHECKING:
    from harness.screen import Screen

TOKENS_PER_STEP = 49_152  # 8 × 12 windows of 512 nt; as many letters are looked at in validation
RECORD, STATE, WEIGHTS, CURVE, PICTURE = "pretrain.json", "state.pt", "model.safetensors", "loss.csv", "loss.png"
JUDGED: Sequence[str] = ("validation_loss", "validation_accuracy", "vote_accuracy")
COLUMNS: Sequence[str] = ("step", "train_loss", "learning_rate", "seconds", "reading_seconds", *JUDGED)

BLOCK = 16  # contexts
HELD_OUT = 0.1
MOST_MISSES = 10_000  # draws in a row of windows that are of no use
SAVE_SECONDS = 300.0

_USED = ("batch_size", "learning_rate", "weight_decay", "betas", "warmup", "schedule", "clip")  # of a recipe
_UNKNOWN = ord("N")
_BASES = np.frombuffer(b"ACGT", np.uint8)


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
    screen: Screen,
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
    hardware.keep_freed_memory()
    adapter_class = _pretrainable(model)
    size, typed = random_size(init, checkpoint), typed_options(adapter_class, options or {})
    recipe = adapter_class.pretraining.override(**(settings or {}))  # type: ignore[attr-defined]
    place = hardware.pick_device(device)
    precision = hardware.pick_precision(recipe.precision, place)
    files = None if checkpoint is None else weights.resolve(adapter_class.name, adapter_class.card, checkpoint)
    corpus = Corpus(open_alignment(msa, species), context)
    compilation.on_compile = screen.say
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapter = adapter_class.from_checkpoint(files, size=size, **typed)
        if adapter.max_length is not None and context > adapter.max_length:
            raise UserError(f"context {context}: {adapter.name} takes at most {adapter.max_length} nt")
        validation = Validation(adapter, corpus, max(TOKENS_PER_STEP // context, 1), recipe.batch_size)
        asked = {
            "model": adapter.name,
            "size": None if files else size,
            "checkpoint": adapter.audit and adapter.audit.sha256,
            "options": typed,
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
        folder = out or Path("pretrained", f"{adapter.name}-seed{seed}-{results.digest(asked)[:10]}")
        record = _earlier(folder, asked, force)
        if record and record["step"] == steps:
            screen.say(f"{folder} holds this very run, finished (--force starts over)")
            _show(record, folder, screen)
            return folder
        _prepare(folder)
        run = Pretraining(adapter, corpus, recipe, steps, tokens_per_step // context, seed, place, precision)
        code = results.code_fingerprint(*[Path(model)] if model.endswith(".py") else [])
        events = list(record["events"]) if record else []
        if record and record["step"]:
            run.restore(folder / STATE)
            screen.say(f"going on after step {run.step:,} of {steps:,}, from {folder / STATE}")
            if record["code"] != code:
                events.append(f"the code changed after step {run.step}: the result may differ from an uninterrupted run's")
                screen.say(events[-1])
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
        screen.say(_describe(adapter, record, folder))
        _train(run, validation, evaluate_every, folder, record, screen)
    _show(record, folder, screen)
    return folder


def _train(
    run: Pretraining, validation: Validation, evaluate_every: int, folder: Path, record: dict[str, Any], screen: Screen
) -> None:
    """Step until the last step; judge, save and say so on the way.

    Raises:
        RunFailed: as :func:`pretrain` says.
    """
    steps, saved = record["settings"]["steps"], time.monotonic()
    try:
        with screen.training(f"{record['settings']['model']} on {record['settings']['data']}"):
            while run.step < steps:
                row = run.advance()
                judged = run.step % evaluate_every == 0 or run.step == steps
                if judged:
                    row |= run.evaluate(validation)
                if judged or time.monotonic() - saved > SAVE_SECONDS:
                    _save(folder, run, record)
                    saved = time.monotonic()
                    screen.say(_news(row, steps))
                screen.report(Progress(run.corpus.passes(run.step * run.windows), run.step, steps, row["train_loss"]))
    except KeyboardInterrupt:
        screen.say(f"stopped; {folder} holds step {record['step']:,} of {steps:,}, and the same command goes on from there")
        raise
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        size = record["settings"]["batch_size"]
        raise RunFailed(f"out of memory with batches of {size} windows: a smaller --batch-size makes the same steps") from None


class Corpus:
    """Windows of an alignment: drawn at random for training, and fixed ones of held-out blocks for validation.

    Every chromosome is cut into blocks of 16 contexts, or shorter ones (at least a context) where the longest would make
    less than ten; its last block takes what remains. A tenth of all blocks, at least one, is held out: the same whatever
    the seed of training. Training windows start anywhere but never touch a held-out block. A window with less than half
    of its target row known (gaps become N) is of no use, and drawn again.

    Raises:
        UserError: the context is too long for a block to train on and one to hold out.
    """

    def __init__(self, alignment: Alignment, context: int) -> None:
        self.alignment, self.context, self.skipped = alignment, context, 0
        longest = max(end - start for start, end in alignment.extents.values())
        self.block = min(BLOCK * context, max(longest // 10, context))
        names, starts, ends = [], [], []
        for name, (start, end) in alignment.extents.items():
            if end - start >= context:
                edges = np.arange(start, max(end - self.block, start) + 1, self.block)
                names += [name] * len(edges)
                starts.append(edges)
                ends.append(np.append(edges[1:], end))
        if len(names) < 2:
            raise UserError(
                f"context {context}: {alignment.path} spans {longest:,} columns, and one window to train on and one held out "
                f"need {2 * context:,}; choose --context {longest // 2} or less"
            )
        chromosomes, first, last = np.array(names), np.concatenate(starts), np.concatenate(ends)
        chosen = np.random.default_rng(0).permutation(len(first))[: max(1, round(HELD_OUT * len(first)))]
        held_out = np.zeros(len(first), bool)
        held_out[chosen] = True
        self._held_out = [(str(chromosomes[index]), int(first[index]), int(last[index])) for index in chosen]
        # Neighbouring blocks make one run, within which windows start anywhere.
        broken = np.append(True, held_out[1:] | held_out[:-1] | (chromosomes[1:] != chromosomes[:-1]))
        opens, closes = broken & ~held_out, np.append(broken[1:], True) & ~held_out
        self._chromosomes, self._ends = chromosomes[opens], last[closes]
        self.letters = int((self._ends - first[opens]).sum())
        self._places = np.cumsum(self._ends - first[opens] - context + 1)
        self._blocks = len(first)

    def draw(self, rng: np.random.Generator, count: int) -> list[Window]:
        """``count`` training windows, uniform over all places.

        Raises:
            BadData: none of 10,000 places in a row is of use.
        """
        found: list[Window] = []
        misses = 0
        while len(found) < count:
            place = int(rng.integers(self._places[-1]))
            run = int(np.searchsorted(self._places, place, side="right"))
            start = int(self._ends[run] - self.context - (self._places[run] - 1 - place))
            window = self._window(str(self._chromosomes[run]), start)
            if window is not None:
                found.append(window)
                misses = 0
                continue
            self.skipped += 1
            misses += 1
            if misses == MOST_MISSES:
                raise BadData(
                    f"{self.alignment.path}: in {misses:,} windows of {self.context} nt less than half of row 0 "
                    f"({self.alignment.species[0]}) is known; give one that covers more, or a shorter --context"
                )
        return found

    def held_out(self, count: int) -> list[Window]:
        """At most ``count`` windows side by side in held-out blocks, in random order.

        Raises:
            BadData: there is none of use.
        """
        tiles = [
            (name, start) for name, first, last in self._held_out for start in range(first, last - self.context + 1, self.context)
        ]
        found: list[Window] = []
        for index in np.random.default_rng(0).permutation(len(tiles)):
            window = self._window(*tiles[index])
            if window is not None:
                found.append(window)
            if len(found) == count:
                break
        if not found:
            raise BadData(
                f"{self.alignment.path}: row 0 ({self.alignment.species[0]}) is known in no window of {self.context} nt of the "
                f"{len(self._held_out)} held-out blocks; give one that covers more, or a shorter --context"
            )
        return found

    def passes(self, windows: int) -> int:
        """Which pass over the training blocks' letters so many windows have come to, from 1."""
        return 1 + windows * self.context // self.letters

    def facts(self) -> dict[str, Any]:
        """What a record keeps; lengths in columns."""
        return {
            "rows": len(self.alignment.species),
            "block": self.block,
            "blocks": self._blocks,
            "held_out_blocks": len(self._held_out),
            "training_letters": self.letters,
        }

    def _window(self, chromosome: str, start: int) -> Window | None:
        locus = Locus(chromosome, start, start + self.context)
        rows = self.alignment.columns(locus)
        rows[0][rows[0] == GAP] = _UNKNOWN
        if 2 * int((rows[0] != _UNKNOWN).sum()) < self.context:
            return None
        return Window(rows[0].tobytes().decode(), locus, rows)


class Validation:
    """Held-out windows, corrupted once and for all, and what a vote of each column's other rows makes of the hidden bases.

    The most common base of a column wins; the more common one of the target decides a tie, and where there is no base.
    """

    def __init__(self, adapter: Adapter, corpus: Corpus, count: int, batch_size: int) -> None:
        assert isinstance(adapter, Pretrainable)
        rng = np.random.default_rng(0)
        windows, sample = corpus.held_out(count), corpus.draw(rng, count)
        self.batches = _collate(adapter, windows, batch_size, rng)
        self.windows = len(windows)
        held_out, drawn = ([window.alignment for window in part if window.alignment is not None] for part in (windows, sample))
        frequencies = (np.array([rows[0] for rows in drawn])[..., None] == _BASES).mean(axis=(0, 1))
        asked = np.concatenate([(batch["targets"] != IGNORED).numpy() for batch in self.batches])
        votes = []
        for rows, positions in zip(held_out, asked, strict=True):
            columns = rows[:, positions]
            counts = (columns[1:, :, None] == _BASES).sum(axis=0)
            votes.append(_BASES[(counts + frequencies / 2).argmax(axis=1)] == columns[0])
        self.targets = int(asked.sum())
        self.vote_accuracy = float(np.concatenate(votes).mean())
        # A whole genome's alignment takes long to hash: what is read here stands for it.
        self.sha256 = hashlib.sha256(b"".join(rows.tobytes() for rows in (*held_out, *drawn))).hexdigest()

    def facts(self) -> dict[str, Any]:
        """What a record keeps."""
        return {"validation_windows": self.windows, "validation_targets": self.targets, "vote_accuracy": self.vote_accuracy}


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
        batches = _collate(self.adapter, self.corpus.draw(rng, self.windows), self.recipe.batch_size, rng)
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


def _collate(adapter: Adapter, windows: Sequence[Window], size: int, rng: np.random.Generator) -> list[Batch]:
    """Corrupted batches of ``size`` windows; what is hidden does not depend on the size."""
    assert isinstance(adapter, Pretrainable)
    whole = adapter.collate_pretraining(windows, rng)
    return [{name: tensor[start : start + size] for name, tensor in whole.items()} for start in range(0, len(windows), size)]


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


def _show(record: Mapping[str, Any], folder: Path, screen: Screen) -> None:
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
    screen.out.print("\n  ".join(lines), markup=False)
