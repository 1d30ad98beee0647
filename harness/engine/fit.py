"""fit(): the one training loop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from harness.data import Example
from harness.errors import RunFailed
from harness.progress import Progress
from harness.recipe import Recipe

from .classifier import Classifier
from .kinds import labels_of
from .predict import autocast, length, out_of_memory, predict, to_device

BATCHES_PER_POOL = 50  # are sorted by length together


@dataclass
class Fit:
    """The outcome of a training: the recipe, and a dict of numbers per epoch (per strength for a probe).

    ``events`` are sentences on what had to be changed on the way.
    """

    recipe: Recipe
    history: list[dict[str, float]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    examples_per_second: float = 0.0


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
) -> Fit:
    """Train all weights with AdamW until the validation loss stops improving; leave the best weights in place.

    Which loss that is depends on the task's kind (see :mod:`.kinds`). An optimiser step sees ``batch_size × accumulation``
    examples, however many processes share them. When memory runs out, it sees as many in batches of half the size, and training
    starts over from the same initial weights.

    Raises:
        UserError: the training split's labels are all the same number.
        RunFailed: a training or validation loss is not a finite number, or a batch of one does not fit into memory.
    """
    classifier.kind.learn(labels_of(train))
    initial = copy.deepcopy(classifier.state_dict())
    events: list[str] = []
    size = recipe.batch_size
    while True:
        try:
            fitted = _fit(classifier, train, validation, recipe, size, accelerator, seed, precision, report)
            fitted.events[:0] = events
            return fitted
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if size == 1:
            raise RunFailed("out of memory with a batch of one window: use a smaller model, or a device with more memory")
        per_step = recipe.batch_size * recipe.accumulation
        events.append(
            f"out of memory: batches of {size // 2} instead of {size}; an optimiser step still sees {per_step} examples"
        )
        report(events[-1])
        size //= 2
        classifier.load_state_dict(initial)
        if accelerator.device.type == "cuda":
            torch.cuda.empty_cache()


def _fit(
    classifier: Classifier,
    train: Sequence[Example],
    validation: Sequence[Example],
    recipe: Recipe,
    size: int,
    accelerator: Accelerator,
    seed: int,
    precision: str,
    report: Callable[[Progress | str], None],
) -> Fit:
    """:func:`fit` in batches of ``size`` examples."""
    torch.manual_seed(seed)
    order = np.random.default_rng(seed)
    model = accelerator.prepare_model(classifier)
    steps_per_epoch = math.ceil(len(train) / (recipe.batch_size * recipe.accumulation))
    steps = steps_per_epoch * recipe.epochs
    optimizer, schedule = adamw(classifier, recipe, steps, accelerator.device)
    kind, labels = classifier.kind, labels_of(validation)
    fitted = Fit(recipe)
    best, best_loss, best_epoch = copy.deepcopy(classifier.state_dict()), math.inf, 0
    training_seconds = 0.0
    # Of several processes, none may fail at a step of its own: the others would wait for ever.
    alone = accelerator.num_processes == 1

    for epoch in range(1, recipe.epochs + 1):
        classifier.train()
        begun, reported = time.perf_counter(), 0.0
        total = torch.zeros((), device=accelerator.device)
        for step, micro_batches in enumerate(_steps(train, recipe, size, order, accelerator), start=1):
            for loss in _backward(model, classifier, micro_batches, accelerator, precision):
                total += loss
            nn.utils.clip_grad_norm_(classifier.parameters(), recipe.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            now = time.perf_counter()
            if alone and now - reported > 0.5:
                reported = now
                loss = _finite("training loss", total.item() / step, f"step {step} of epoch {epoch}", recipe)
                report(Progress(epoch, (epoch - 1) * steps_per_epoch + step, steps, loss))
        seconds = time.perf_counter() - begun
        training_seconds += seconds

        mean = cast(Tensor, accelerator.reduce(total / steps_per_epoch, reduction="mean"))
        train_loss = _finite("training loss", mean.item(), f"the end of epoch {epoch}", recipe)
        judged = kind.judge(predict(classifier, validation, accelerator, precision=precision, batch_size=size), labels)
        validation_loss = _finite(f"validation {kind.measure}", judged[kind.measure], f"the end of epoch {epoch}", recipe)
        report(Progress(epoch, epoch * steps_per_epoch, steps, train_loss, validation_loss, kind.measure))
        fitted.history.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                **{f"validation_{name}": value for name, value in judged.items()},
                "learning_rate": float(schedule.get_last_lr()[0]),
                "seconds": seconds,
            }
        )
        if validation_loss < best_loss:
            best, best_loss, best_epoch = copy.deepcopy(classifier.state_dict()), validation_loss, epoch
        elif epoch - best_epoch >= recipe.patience:
            break
    stopped = f"stopped early after epoch {epoch}" if epoch < recipe.epochs else f"trained for all {epoch} epochs"
    report(f"  {stopped}; epoch {best_epoch} was best and is kept")
    classifier.load_state_dict(best)
    fitted.examples_per_second = len(fitted.history) * len(train) / training_seconds
    return fitted


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


def _backward(
    model: nn.Module, classifier: Classifier, micro_batches: list[list[Example]], accelerator: Accelerator, precision: str
) -> Iterator[Tensor]:
    """Add the gradients of an optimiser step; yield each micro-batch's share of the mean loss over the step's examples.

    ``model`` is the classifier as accelerate prepared it. Processes exchange gradients with the last micro-batch only.
    """
    size = sum(map(len, micro_batches))
    for number, examples in enumerate(micro_batches, start=1):
        with nullcontext() if number == len(micro_batches) else accelerator.no_sync(model):
            batch = to_device(classifier.collate(examples), accelerator.device)
            target = torch.from_numpy(classifier.kind.target(labels_of(examples))).to(accelerator.device)
            with autocast(accelerator.device, precision):
                logits = model(batch)
            loss = classifier.kind.loss(logits.float(), target) / size
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
        if shortage := -len(chosen) % world:  # all processes need equally many examples
            chosen = np.resize(chosen, len(chosen) + shortage)
        mine = [train[index] for index in chosen[accelerator.process_index :: world]]
        share = max(size // world, 1)
        yield [mine[first : first + share] for first in range(0, len(mine), share)]


def adamw(
    module: nn.Module, recipe: Recipe, steps: int, device: torch.device
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over a module's trainable weights, and the schedule of its learning rate over ``steps`` steps."""
    groups = _parameter_groups(module, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=device.type != "mps")
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
    """Linear warm-up to 1, then decay to 0 at the last step unless the schedule is constant."""
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[recipe.schedule]
