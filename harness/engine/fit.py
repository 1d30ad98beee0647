"""fit(): the one training loop."""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from harness.adapter import Batch
from harness.data import Example
from harness.errors import RunFailed
from harness.progress import Progress
from harness.recipe import Recipe

from .batches import Batches
from .classifier import Classifier
from .kinds import labels_of
from .predict import autocast, collated, length, out_of_memory, predict, to_device
from .resume import StateFile, optimizer_state, random_state, restore_optimizer, restore_random_state, under

REPORTED_WAIT = 0.05  # the share of training spent waiting for batches above which it is said
BATCHES_PER_POOL = 50  # are sorted by length together
COMPILER = "inductor"  # of torch.compile

Stop = Callable[[int, float], str | None]  # of the epoch and the lowest validation loss so far


def go_on(epoch: int, lowest: float) -> str | None:
    """Ends no training."""
    return None


@dataclass
class Fit:
    """The outcome of a training: the recipe, and a dict of numbers per epoch (per strength for a probe).

    ``events`` are sentences on what had to be changed on the way. ``wait`` is the time in seconds that the device waited for
    batches in training (see :attr:`.batches.Batches.wait`), and ``wait_share`` what share of the training steps' time that is,
    0 to 1. ``resumed`` are the epochs after which a killed training went on.
    """

    recipe: Recipe
    history: list[dict[str, float]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    examples_per_second: float = 0.0
    wait: float = 0.0
    wait_share: float = 0.0
    resumed: list[int] = field(default_factory=list)


def fit(
    classifier: Classifier,
    train: Sequence[Example],
    validation: Sequence[Example],
    recipe: Recipe,
    accelerator: Accelerator,
    *,
    seed: int = 0,
    precision: str = "float32",
    report: Callable[[Progress | str], None] = lambda _: None,
    keep: StateFile | None = None,
    stop: Stop = go_on,
) -> Fit:
    """Train all weights with AdamW until the validation loss stops improving; leave the best weights in place.

    Which loss that is depends on the task's kind (see :mod:`.kinds`). An optimiser step sees ``batch_size × accumulation``
    examples, however many processes share them. When memory runs out, it sees as many in batches of half the size, and training
    starts over from the same initial weights.

    With ``keep``, the state after an epoch is saved there now and then, and a training that finds one goes on from it; on the
    same CPU it ends with the same bits as one that was not disturbed. ``stop`` is asked after every epoch and, to end the
    training, answers with a reason, which becomes an event.

    Raises:
        UserError: the training split's labels are all the same number.
        RunFailed: a training or validation loss is not a finite number, or a batch of one does not fit into memory.
    """
    classifier.kind.learn(labels_of(train))
    initial = copy.deepcopy(classifier.state_dict())
    events: list[str] = []
    size = recipe.batch_size
    keep = keep if accelerator.num_processes == 1 else None
    state = keep.load() if keep else None
    if state:
        size, events = state[1]["size"], state[1]["events"]
    if recipe.compile:
        torch.compiler.reset()  # else what ran before in this process would decide how much of this run is compiled
    while True:
        loop = None
        try:
            loop = _Loop(classifier, train, validation, recipe, size, accelerator, seed, precision, report, keep, stop)
            loop.fitted.events += events
            return loop.run(state)
        except RuntimeError as error:
            if not out_of_memory(error):
                if remedy := _remedy(error, recipe):
                    raise RunFailed(remedy) from error
                raise
        if size == 1:
            raise RunFailed("out of memory with a batch of one window: use a smaller model, or a device with more memory")
        per_step = recipe.batch_size * recipe.accumulation
        events.append(
            f"out of memory: batches of {size // 2} instead of {size}; an optimiser step still sees {per_step} examples"
        )
        report(events[-1])
        size, state = size // 2, None
        classifier.load_state_dict(initial)
        classifier.zero_grad(set_to_none=True)  # of the step that did not end
        del loop  # with its optimiser, and the failed step's graph
        gc.collect()
        if accelerator.device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass
class _Loop:
    """:func:`fit` in batches of ``size`` examples. What changes from epoch to epoch is what a state file holds."""

    classifier: Classifier
    train: Sequence[Example]
    validation: Sequence[Example]
    recipe: Recipe
    size: int
    accelerator: Accelerator
    seed: int
    precision: str
    report: Callable[[Progress | str], None]
    keep: StateFile | None
    stop: Stop

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.order = np.random.default_rng(self.seed)
        self.model = self.accelerator.prepare_model(self.classifier)
        if self.recipe.compile:  # of training alone: what is kept and asked later answers as it does in this run
            self.model = cast(nn.Module, torch.compile(self.model, backend=COMPILER))
        self.steps_per_epoch = math.ceil(len(self.train) / (self.recipe.batch_size * self.recipe.accumulation))
        self.steps = self.steps_per_epoch * self.recipe.epochs
        self.optimizer, self.schedule = adamw(self.classifier, self.recipe, self.steps, self.accelerator.device)
        self.fitted = Fit(self.recipe)
        self.best, self.best_loss, self.best_epoch = copy.deepcopy(self.classifier.state_dict()), math.inf, 0
        self.epoch, self.training_seconds, self.elapsed = 0, 0.0, 0.0
        self.stopped = ""

    @property
    def over(self) -> bool:
        return self.epoch == self.recipe.epochs or self.epoch - self.best_epoch >= self.recipe.patience or bool(self.stopped)

    def run(self, state: tuple[dict[str, Tensor], dict[str, Any]] | None) -> Fit:
        if state:
            self._restore(*state)
        labels = labels_of(self.validation)
        while not self.over:
            begun = time.perf_counter()
            self._epoch(labels)
            self.elapsed += time.perf_counter() - begun
            self.stopped = self.stop(self.epoch, self.best_loss) or self._out_of_time() or ""
            if self.keep and self.keep.due:
                self._save(self.keep)
        return self._end()

    def _epoch(self, labels: np.ndarray) -> None:
        """Train for an epoch, judge by the validation split, and keep the weights if they are the best so far."""
        classifier, recipe, accelerator, fitted = self.classifier, self.recipe, self.accelerator, self.fitted
        self.epoch += 1
        epoch, steps_per_epoch, steps = self.epoch, self.steps_per_epoch, self.steps
        # Of several processes, none may fail at a step of its own: the others would wait for ever.
        alone = accelerator.num_processes == 1
        classifier.train()
        begun, reported = time.perf_counter(), 0.0
        total = torch.zeros((), device=accelerator.device)
        drawn = _steps(self.train, recipe, self.size, self.order, accelerator)
        # A compiler, too, is held up by what is asked of tensors.
        ready = accelerator.device.type != "cpu" or recipe.compile
        batches = Batches(partial(_made, classifier, ready), drawn, accelerator.device)
        per_step = recipe.batch_size * recipe.accumulation
        for step, micro_batches in enumerate(batches, start=1):
            of_step = min(per_step, len(self.train) - (step - 1) * per_step)  # examples, of all processes
            for loss in _backward(self.model, classifier, micro_batches, of_step, accelerator, self.precision):
                total += loss
            nn.utils.clip_grad_norm_(classifier.parameters(), recipe.clip)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad(set_to_none=True)
            now = time.perf_counter()
            if alone and now - reported > 0.5:
                reported = now
                loss = _finite("training loss", total.item() / step, f"step {step} of epoch {epoch}", recipe)
                self.report(Progress(epoch, (epoch - 1) * steps_per_epoch + step, steps, loss))
        seconds = time.perf_counter() - begun
        self.training_seconds += seconds
        fitted.wait += batches.wait

        kind, when = classifier.kind, f"the end of epoch {epoch}"
        mean = cast(Tensor, accelerator.reduce(total / steps_per_epoch, reduction="mean"))
        train_loss = _finite("training loss", mean.item(), when, recipe)
        outputs = predict(classifier, self.validation, accelerator, precision=self.precision, batch_size=self.size)
        judged = kind.judge(outputs, labels)
        validation_loss = _finite(f"validation {kind.measure}", judged[kind.measure], when, recipe)
        self.report(Progress(epoch, epoch * steps_per_epoch, steps, train_loss, validation_loss, kind.measure))
        fitted.history.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                **{f"validation_{name}": value for name, value in judged.items()},
                "learning_rate": float(self.schedule.get_last_lr()[0]),
                "seconds": seconds,
            }
        )
        if validation_loss < self.best_loss:
            self.best, self.best_loss, self.best_epoch = copy.deepcopy(classifier.state_dict()), validation_loss, epoch

    def _out_of_time(self) -> str:
        limit = self.recipe.max_hours
        over = limit and self.elapsed >= limit * 3600 and self.epoch < self.recipe.epochs
        return f"stopped after epoch {self.epoch}: its {limit:g} hours (--max-hours) are over" if over else ""

    def _end(self) -> Fit:
        epoch, recipe, fitted = self.epoch, self.recipe, self.fitted
        if self.stopped:
            fitted.events.append(self.stopped)
            self.report(f"  {self.stopped}")
        stopped = f"stopped early after epoch {epoch}" if epoch < recipe.epochs else f"trained for all {epoch} epochs"
        self.report(f"  {stopped}; epoch {self.best_epoch} was best and is kept")
        fitted.wait_share = min(fitted.wait / self.training_seconds, 1.0)
        if fitted.wait_share > REPORTED_WAIT:
            self.report(f"  {fitted.wait_share:.0%} of the training's time was spent waiting for batches to be made")
        self.classifier.load_state_dict(self.best)
        fitted.examples_per_second = len(fitted.history) * len(self.train) / self.training_seconds
        return fitted

    def _save(self, keep: StateFile) -> None:
        random, generator = random_state(self.order)
        optimizer, rates = optimizer_state(self.optimizer)
        tensors = {f"model.{name}": tensor for name, tensor in self.classifier.state_dict().items()}
        if self.best_epoch != self.epoch:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        own = {name: getattr(self, name) for name in _KEPT}
        fitted = {name: getattr(self.fitted, name) for name in ("history", "wait", "resumed")}
        outcome = {"fitted": fitted, "events": self.fitted.events, "schedule": self.schedule.state_dict()}
        keep.save(tensors | optimizer | random, own | outcome | rates | generator)

    def _restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.classifier.load_state_dict(under("model", tensors))
        self.best = under("best", tensors) or copy.deepcopy(self.classifier.state_dict())
        restore_optimizer(self.optimizer, tensors, values)
        self.schedule.load_state_dict(values["schedule"])
        restore_random_state(tensors, values, self.order)
        for name in _KEPT:
            setattr(self, name, values[name])
        for name, value in values["fitted"].items():
            setattr(self.fitted, name, value)
        self.fitted.resumed.append(self.epoch)
        self.report(f"  resumed after epoch {self.epoch}")


# What a state file holds of a loop besides tensors and the outcome so far; the batch size may have been halved.
_KEPT = ("epoch", "best_loss", "best_epoch", "training_seconds", "elapsed", "stopped", "size")


def _finite(name: str, value: float, when: str, recipe: Recipe) -> float:
    """The value, if it is a finite number.

    Raises:
        RunFailed: otherwise.
    """
    if not math.isfinite(value):
        raise RunFailed(
            f"{name} is {value} at {when}: lower --learning-rate ({recipe.learning_rate:g}) or use --precision float32"
        )
    return value


def _remedy(error: RuntimeError, recipe: Recipe) -> str:
    """What to do about an error that comes of how the recipe has things computed; empty for any other."""
    said = str(error).strip().partition("\n")[0]
    if recipe.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        what = " ".join(str(error).partition("Set TORCHDYNAMO_VERBOSE")[0].split())
        return f"torch.compile failed ({what[:200]}): leave --compile out"
    if recipe.deterministic and "deterministic" in said:
        return f"{said.split(', but you set')[0]}: leave --deterministic out"
    return ""


def _made(classifier: Classifier, ready: bool, micro_batches: list[list[Example]]) -> list[tuple[Batch, Tensor]]:
    """A batch and its targets, on the CPU, for each micro-batch of a step; ``ready`` as in :func:`collated`."""
    return [
        (collated(classifier, examples, ready), torch.from_numpy(classifier.kind.target(labels_of(examples))))
        for examples in micro_batches
    ]


def _backward(
    model: nn.Module,
    classifier: Classifier,
    micro_batches: list[tuple[Batch, Tensor]],
    size: int,
    accelerator: Accelerator,
    precision: str,
) -> Iterator[Tensor]:
    """Add the gradients of an optimiser step; yield each micro-batch's share of the mean loss over the step's examples.

    ``model`` is the classifier as accelerate prepared it; ``size`` counts the step's examples, of all processes. Processes
    exchange gradients with the last micro-batch only, and average them, so that each divides by a process's share of ``size``,
    whatever it has itself; one without a share of its own has a stand-in that counts for nothing.
    """
    share = size / accelerator.num_processes
    counts = accelerator.process_index < size
    for number, (made, target) in enumerate(micro_batches, start=1):
        with nullcontext() if number == len(micro_batches) else accelerator.no_sync(model):
            batch, target = to_device(made, accelerator.device), target.to(accelerator.device, non_blocking=True)
            with autocast(accelerator.device, precision):
                logits = model(batch)
            loss = classifier.kind.loss(logits.float(), target) / share
            loss = loss if counts else loss * 0.0
            accelerator.backward(loss)
        yield loss.detach()


def _steps(
    train: Sequence[Example], recipe: Recipe, size: int, order: np.random.Generator, accelerator: Accelerator
) -> Iterator[list[list[Example]]]:
    """This process's share of an epoch: for each optimiser step a list of micro-batches, of ``size`` over all processes."""
    world = accelerator.num_processes
    indices = order.permutation(len(train))
    lengths = np.array([length(example) for example in train])
    if lengths.min() != lengths.max():  # batches of similar lengths need little padding; their order stays random
        pool = recipe.batch_size * BATCHES_PER_POOL
        pools = [chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in np.split(indices, range(pool, len(indices), pool))]
        batches = [batch for chunk in pools for batch in np.split(chunk, range(recipe.batch_size, len(chunk), recipe.batch_size))]
        last = [batches.pop()] if len(batches[-1]) < recipe.batch_size else []  # elsewhere it would shift all that follow
        indices = np.concatenate([batches[number] for number in order.permutation(len(batches))] + last)
    per_step = recipe.batch_size * recipe.accumulation
    for start in range(0, len(indices), per_step):
        chosen = indices[start : start + per_step]
        mine = chosen[accelerator.process_index :: world]
        mine = [train[index] for index in (mine if len(mine) else chosen[:1])]  # a stand-in, for all processes need a gradient
        share = max(size // world, 1)
        yield [mine[first : first + share] for first in range(0, len(mine), share)]


def adamw(
    module: nn.Module, recipe: Recipe, steps: int, device: torch.device
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over a module's trainable weights, and the schedule of its learning rate over ``steps`` steps."""
    groups = _parameter_groups(module, recipe.weight_decay)
    optimizer = torch.optim.AdamW(
        groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon, fused=device.type != "mps"
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_factor(step, steps, recipe))


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices, but not for biases, norms and parameters marked ``_no_weight_decay`` (as mamba_ssm does)."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    plain = {id(parameter) for parameter in trained if parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False)}
    return [
        {"params": [parameter for parameter in trained if id(parameter) not in plain], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if id(parameter) in plain], "weight_decay": 0.0},
    ]


def _learning_rate_factor(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up to 1, then decay to the recipe's floor at the last step unless the schedule is constant.

    An inverse square root falls as it does whatever ``steps`` is, but never below the floor.
    """
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if recipe.schedule == "inverse_sqrt":
        return max(math.sqrt(max(warmup, 1) / (step + 1)), recipe.floor)
    done = (step - warmup) / max(steps - warmup, 1)
    left = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[recipe.schedule]
    return recipe.floor + (1.0 - recipe.floor) * left
