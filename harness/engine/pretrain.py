"""Pretraining: a model's own objective on windows of sequences or of an alignment, without labels.

The folder that a run writes is described in :mod:`.pretrain_folder`. All randomness of a step is drawn from (seed, step), so
that a resumed run ends with the same bits as an uninterrupted one.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness import registry
from harness.adapter import IGNORED, Adapter, Batch, Pretrainable
from harness.errors import RunFailed, UserError
from harness.facts import keyword_options
from harness.files.code import code_digest
from harness.files.fingerprint import digest, plain
from harness.kernels import compilation
from harness.objective import Objective
from harness.progress import Progress, Reporter
from harness.recipe import PRETRAINING_SETTINGS, PretrainingRecipe

from . import hardware, pretrain_folder
from .batches import Batches
from .build import request
from .corpus import Corpus, Validation, split, weight_of
from .fit import adamw
from .predict import autocast, out_of_memory, to_device
from .pretrain_asked import by_name, choose_context, choose_objective, divided, open_source, pretrainable
from .pretrain_screen import description, estimate, news, summary

TOKENS_PER_STEP = 49_152  # 8 × 12 windows of 512 nt; validation looks at as many letters
SECONDS_BETWEEN_SAVES = 300.0
STEPS_BEFORE_ESTIMATE = 3  # of a process; its first one may compile
RECENT_STEPS = 50  # whose median duration is the pace
# What is made ahead of a step: the seed of what the model draws, its batches, and how many windows were skipped.
Made = tuple[int, list[Batch], int]


def pretrain(
    model: str,
    data: Path | None = None,
    msa: Path | None = None,
    *,
    objective: str | None = None,
    species: str = "",
    context: int | None = None,
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
    """Train a model on windows of ``context`` nt, from random weights or from ``checkpoint``.

    The windows are of the sequences in ``data`` or the alignment ``msa``, one of which is given. ``objective`` is one that the
    model names, by default its published one; ``options`` are those of the model and of the objective; ``context`` is by default
    the published one, or the longest that the model reads. Each optimiser step sees ``tokens_per_step // context`` windows, in
    batches of the recipe's ``batch_size``; ``settings`` override the model's published recipe. Returns the folder: ``out``, or
    one named after the settings. An unfinished run with the same settings is resumed and a finished one is left as it is,
    unless ``force`` starts over.

    Raises:
        UserError: a mistake in what was asked for, or the folder holds something else.
        RunFailed: the loss is not a finite number, or a batch does not fit into memory.
    """
    for name, value, least in (
        ("context", 1 if context is None else context, 1),
        ("steps", steps, 1),
        ("tokens-per-step", tokens_per_step, 1),
        ("evaluate-every", evaluate_every, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise UserError(f"{name} {value}: must be at least {least}")
    if (data is None) == (msa is None):
        raise UserError("data and msa: give one of them, --data FASTA (a genome or windows) or --msa ALIGNMENT")
    adapter_class = pretrainable(model)
    of_model, of_objective = divided(adapter_class, objective, options or {}, checkpoint is None, context)
    wanted = request(model, checkpoint=checkpoint, init=init, options=of_model, official=False)
    published = PretrainingRecipe(**vars(adapter_class.pretraining))  # type: ignore[attr-defined]
    recipe = published.override(**(settings or {}))
    torch_device = hardware.pick_device(device)
    precision = hardware.pick_precision(recipe.precision, torch_device)
    compilation.on_compile = reporter.say
    hardware.reset_peak_memory(torch_device)
    with torch.random.fork_rng(), ExitStack() as stack:
        torch.manual_seed(seed)
        adapter = wanted.build()
        name, goal = choose_objective(adapter, objective, of_objective)
        context = choose_context(adapter, context)
        if context < goal.shortest:
            raise UserError(f"context {context}: objective {name} needs windows of at least {goal.shortest} nt")
        if tokens_per_step < context:
            raise UserError(f"tokens-per-step {tokens_per_step}: must be at least {context}, one window")
        source = open_source(adapter, data, msa, species)
        regions = goal.regions(source, context)
        corpus = Corpus(source, context, shortest=goal.shortest, both_strands=goal.both_strands, regions=regions)
        goal.prepare(corpus)
        facts = plain(goal.facts())
        validation = Validation(adapter, goal, corpus, max(TOKENS_PER_STEP // context, 1), recipe.batch_size)
        effective = {
            "model": adapter.name,
            "size": None if wanted.checkpoint else wanted.size,
            "checkpoint": adapter.audit and adapter.audit.sha256,
            "options": wanted.options,
            "objective": name,
            "objective_options": {key: by_name(getattr(goal, key)) for key in keyword_options(type(goal).__init__)},
            "objective_facts": digest(facts),
            "data": source.path.name,
            "data_sha256": validation.sha256,
            **source.facts(),
            "context": context,
            "steps": steps,
            "tokens_per_step": tokens_per_step,
            "seed": seed,
            **{name: getattr(recipe, name) for name in PRETRAINING_SETTINGS},
            "precision": precision,
            "device": torch_device.type,
        }
        effective = plain(effective)
        called = re.sub(r"[^\w.-]+", "-", adapter.name)  # a name may hold owner/name on the hub
        folder = out or Path("pretrained", f"{called}-{name}-seed{seed}-{digest(effective)[:10]}")
        stack.enter_context(pretrain_folder.held(folder))
        earlier = pretrain_folder.read_record(folder, effective, force)
        if earlier and earlier["step"] == steps:
            reporter.say(f"{folder} holds this very run, finished (--force starts over)")
            reporter.conclude(summary(earlier, folder))
            return folder
        pretrain_folder.prepare(folder, resuming=earlier is not None)
        run = Pretraining(adapter, goal, corpus, recipe, steps, tokens_per_step // context, seed, torch_device, precision)
        code = digest([code_digest(Path(__file__)), code_digest(registry.model_file(model))])
        events = []
        if earlier:
            run.restore(pretrain_folder.read_state(folder, torch_device))
            reporter.say(f"resuming after step {run.step:,} of {steps:,}, from {folder / pretrain_folder.STATE}")
            events = list(earlier["events"])
            if earlier["code"] != code:
                events.append(f"the code changed after step {run.step}: the result may differ from an uninterrupted run's")
                reporter.say(events[-1])
        record = {
            "settings": effective,
            "objective": facts,
            "data": corpus.facts() | validation.facts(),
            "model": {"parameters": sum(item.numel() for item in adapter.parameters())},
            "files": sorted(adapter.checkpoint_files()),  # type: ignore[operator]
            "step": run.step,
            "scores": {},
            "timing": {},
            "events": events,
            "code": code,
            "environment": {
                "versions": hardware.versions(),
                "device_name": hardware.describe_device(torch_device),
                "threads": torch.get_num_threads(),
            },
        }
        pretrain_folder.write_record(folder, record)
        reporter.say(description(adapter, record, folder, of_objective, [*source.notes, *goal.notes]))
        _train(run, validation, evaluate_every, folder, record, reporter)
    reporter.conclude(summary(record, folder))
    return folder


def _train(
    run: Pretraining, validation: Validation, evaluate_every: int, folder: Path, record: dict[str, Any], reporter: Reporter
) -> None:
    """Advance to the last step; evaluate, save and report on the way. ``record`` is updated at every save.

    Raises:
        RunFailed: as :func:`pretrain`.
    """
    saved, waited = time.monotonic(), 0.0
    estimated_at = run.step + STEPS_BEFORE_ESTIMATE
    batches = Batches(run.make, range(run.step + 1, run.steps + 1), run.device)
    try:
        with reporter.training(f"{record['settings']['model']} on {record['settings']['data']}"):
            begun = time.perf_counter()
            for made in batches:
                row = run.advance(made, begun, batches.wait - waited)
                waited = batches.wait
                if run.step == estimated_at < run.steps:
                    reporter.say(estimate(run, record))
                evaluated = run.step % evaluate_every == 0 or run.step == run.steps
                if evaluated:
                    row |= run.evaluate(validation)
                if evaluated or time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    record |= run.results()
                    record["data"]["skipped_windows"] = run.corpus.skipped
                    state = run.state() if run.step < run.steps else None
                    pretrain_folder.save(folder, record, run.history, run.adapter, state)
                    saved = time.monotonic()
                    reporter.say(news(row, run))
                reporter.report(Progress(run.corpus.passes(run.step * run.windows), run.step, run.steps, row["train_loss"]))
                begun = time.perf_counter()
    except KeyboardInterrupt:
        reporter.say(f"stopped; {folder} holds step {record['step']:,} of {run.steps:,}, and the same command resumes from there")
        raise
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        size = record["settings"]["batch_size"]
        raise RunFailed(f"out of memory with batches of {size} windows: a smaller --batch-size makes the same steps") from None


class Pretraining:
    """A run in progress: the model, its optimiser, the number of steps made, and a row of ``history`` for each of them.

    ``windows`` is the number of windows of an optimiser step.
    """

    def __init__(
        self,
        adapter: Adapter,
        objective: Objective,
        corpus: Corpus,
        recipe: PretrainingRecipe,
        steps: int,
        windows: int,
        seed: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.adapter, self.objective = adapter.to(device).requires_grad_(True), objective
        self.corpus, self.recipe, self.steps, self.windows, self.seed = corpus, recipe, steps, windows, seed
        self.device, self.precision = device, precision
        self.optimizer, self.schedule = adamw(self.adapter, recipe, steps, device)
        self.step, self.history = 0, list[dict[str, float]]()

    def make(self, step: int) -> Made:
        """What a step is made of. It depends on nothing but the step's number, so that a thread may make it ahead."""
        rng = np.random.default_rng([self.seed, step])
        seed = int(rng.integers(2**63))
        windows, skipped = self.corpus.sample(rng, self.windows)
        whole = self.objective.collate(self.adapter, windows, rng, (step - 1) / self.steps)
        batches = split(whole, self.recipe.batch_size)
        if self.device.type != "cpu":
            batches = [self.adapter.for_accelerator(batch) for batch in batches]
        return seed, batches, skipped

    def advance(self, made: Made, begun: float, wait: float) -> dict[str, float]:
        """Make the next optimiser step; return its row of the history. The loss is the weighted mean over all targets.

        The step began, by ``time.perf_counter``, when its batches were asked for; the device waited ``wait`` seconds for them.

        Raises:
            RunFailed: the loss is not a finite number.
        """
        seed, batches, skipped = made
        self.step += 1
        self.corpus.skipped += skipped
        torch.manual_seed(seed)
        weight = sum(map(weight_of, batches)) or 1.0
        total = torch.zeros((), device=self.device)
        self.adapter.train()
        for batch in batches:
            loss = self._loss(*self._asked(batch)) / weight
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
                "wait_seconds": wait,
            }
        )
        return self.history[-1]

    @torch.inference_mode()
    def evaluate(self, validation: Validation) -> dict[str, float]:
        """Weighted mean loss, and accuracy, over the targets of the held-out windows, in evaluation mode."""
        self.adapter.eval()
        loss, correct = 0.0, 0
        for batch in validation.batches:
            batch, logits = self._asked(batch)
            loss += self._loss(batch, logits).item()
            correct += int((logits.argmax(dim=-1) == batch["labels"]).sum())
        return {
            "validation_loss": loss / validation.weight,
            "validation_accuracy": correct / validation.targets,
            "yardstick_loss": validation.yardstick_loss,
            "yardstick_accuracy": validation.yardstick_accuracy,
        }

    def _asked(self, batch: Batch) -> tuple[Batch, torch.Tensor]:
        """A batch on the device, and the model's logits, float32 (M, V), at the places that it is asked for."""
        assert isinstance(self.adapter, Pretrainable)
        batch = to_device(batch, self.device)
        with autocast(self.device, self.precision):
            logits = self.adapter.pretraining_logits(batch)
        return batch, logits.float()

    def _loss(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """Weighted sum of the cross-entropies of a batch's targets."""
        if "weights" not in batch:
            return F.cross_entropy(logits, batch["labels"], ignore_index=IGNORED, reduction="sum")
        each = F.cross_entropy(logits, batch["labels"], ignore_index=IGNORED, reduction="none")
        return (each * batch["weights"].flatten()[batch["asked"]]).sum()

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs: tensors and plain values."""
        return {
            "step": self.step,
            "history": self.history,
            "skipped": self.corpus.skipped,
            "adapter": self.adapter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state` returned."""
        self.step, self.history, self.corpus.skipped = state["step"], state["history"], state["skipped"]
        self.adapter.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])

    @property
    def pace(self) -> float:
        """Seconds of a step: the median of the latest ones, without evaluations and saves."""
        return statistics.median(row["seconds"] for row in self.history[-RECENT_STEPS:])

    @property
    def tokens_per_second(self) -> float:
        """Letters of the windows, of an alignment those of the target row; shorter sequences count as if they were filled up."""
        return self.windows * self.corpus.context / self.pace

    @property
    def hours_left(self) -> float:
        return (self.steps - self.step) * self.pace / 3600

    def results(self) -> dict[str, Any]:
        """What a record says of the steps made so far; times in seconds unless their name says hours."""
        evaluated = [row for row in self.history if "validation_loss" in row]
        seconds, wait = (sum(row[name] for row in self.history) for name in ("seconds", "wait_seconds"))
        return {
            "step": self.step,
            "scores": {name: evaluated[-1][name] for name in pretrain_folder.SCORES} if evaluated else {},
            "timing": {
                "seconds": seconds,
                "wait": wait,
                "wait_share": wait / seconds,
                "seconds_per_step": statistics.median(row["seconds"] for row in self.history),
                "tokens_per_second": self.tokens_per_second,
                "hours_left": self.hours_left,
                "peak_memory_bytes": hardware.peak_memory(self.device),
            },
        }
