"""Trial: a run under way. What is computed here, and in the modules it calls, is what a run's numbers depend on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from harness.adapter import Adapter
from harness.data import Example
from harness.engine import hardware, keep
from harness.engine.cache import EmbeddingCache
from harness.engine.classifier import Classifier, ZeroShot
from harness.engine.fit import Fit, fit
from harness.engine.kinds import labels_of
from harness.engine.predict import length, predict
from harness.engine.probe import probe
from harness.engine.resume import StateFile
from harness.errors import HarnessError, UserError
from harness.evidence.metrics import check_labels, collapsed, left_out, limits, scores
from harness.evidence.records import Predictions
from harness.evidence.sensitivity import alignment_sensitivity
from harness.kernels import compilation
from harness.progress import Reporter
from harness.recipe import Recipe
from harness.task import CLASSIFICATION, Splits, Task

from .plan import Run, model_code


@dataclass(frozen=True)
class Scored:
    """What a model made of the test split. ``alignment`` is empty where there is none; ``events`` say what scores leave out."""

    predictions: Predictions
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    without_interval: dict[str, str]
    alignment: dict[str, Any]
    collapsed: bool
    events: list[str]


@dataclass
class Trial:
    """:meth:`fit` sees the training and validation splits only, :meth:`score` the test split, once.

    ``seconds`` are what load, train (compile is part of it) and evaluate took.
    """

    run: Run
    task: Task
    splits: Splits
    recipe: Recipe
    classifier: Classifier | ZeroShot
    accelerator: Accelerator
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def prepare(cls, run: Run, task: Task, splits: Splits, device: str) -> Trial:
        """Build the model and check that it can take the task. What is random is drawn from torch's generator.

        Raises:
            UserError: it cannot.
        """
        begun = time.perf_counter()
        accelerator = hardware.accelerator(device)
        hardware.reset_peak_memory(accelerator.device)
        adapter = run.model_request().build()
        recipe = run.published().override(**run.recipe)
        _check(run, adapter, recipe, task, splits)
        classifier = _classifier(adapter, recipe, task, splits).to(accelerator.device)
        if run.reuse_head:
            _reuse_head(classifier, run)
        return cls(run, task, splits, recipe, classifier, accelerator, {"load": time.perf_counter() - begun})

    @property
    def adapter(self) -> Adapter:
        """The model without its head."""
        return self.classifier.adapter

    def fit(self, reporter: Reporter, state: StateFile | None = None) -> Fit:
        """Fit the classifier to the training split, judged by the validation split; ``state`` as ``keep`` in :func:`fit`."""
        splits, precision, begun, compiled = self.splits, self.run.precision, time.perf_counter(), compilation.seconds
        parts = (splits.train, splits.validation, self.recipe, self.accelerator)
        name = f"{self.run.name} on {self.run.label}, seed {self.run.seed}"
        with reporter.training(name), hardware.deterministic(self.recipe.deterministic):
            if isinstance(self.classifier, ZeroShot):
                fitted = Fit(self.recipe)
            elif self.recipe.tune == "probe":
                kept = next(self.adapter.parameters(), None) is not None and not self.recipe.deterministic
                cache = self._cache() if kept else None  # the cache does not know how an embedding was computed
                fitted = probe(self.classifier, *parts, precision=precision, cache=cache)
            else:
                own = {"seed": self.run.seed, "precision": precision, "keep": state, "stop": self._hopeless}
                fitted = fit(self.classifier, *parts, report=reporter.report, **own)
        self.seconds |= {"train": time.perf_counter() - begun, "compile": compilation.seconds - compiled}
        return fitted

    def score(self) -> Scored:
        """Predict and judge the test split."""

        def ask(examples: Sequence[Example]) -> np.ndarray:
            with hardware.deterministic(self.recipe.deterministic):
                return predict(self.classifier, examples, self.accelerator, precision=self.run.precision)

        begun, test = time.perf_counter(), self.splits.test
        outputs = ask(test)
        self.seconds["evaluate"] = time.perf_counter() - begun
        ids = tuple(example.id for example in test)
        blocks = tuple(map(self.splits.block, ids)) if self.splits.block else ()
        labels, kind, classes = labels_of(test), self.task.kind, self.task.classes
        groups = {name: tuple(words.get(one, "") for one in ids) for name, words in self.splits.groups.items()}
        predictions = Predictions(ids, labels, outputs, classes, blocks, kind=kind, groups=groups)
        has_alignment = self.adapter.card.reads == "alignment" and test[0].windows[0].alignment is not None
        alignment = alignment_sensitivity(test, outputs, ask, kind) if has_alignment else {}
        found, without = limits(outputs, labels, blocks, kind)
        same, events = collapsed(outputs, labels, kind), left_out(labels, classes, kind)
        return Scored(predictions, scores(outputs, labels, kind), found, without, alignment, same, events)

    def keep(self, folder: Path) -> bool:
        """Put what was trained into a run's folder (see :mod:`harness.engine.keep`); whether its weights are kept."""
        run, lengths = self.run, [length(example) for example in self.splits.train]
        about = keep.Kept(
            run=run.to_json(),
            recipe=asdict(self.recipe),
            task=run.label,
            kind=self.task.kind,
            classes=self.task.classes,
            windows=len(self.splits.train[0].windows),
            lengths=(min(lengths), max(lengths)),
            species=self.splits.species,
            code=model_code(run.model),
            kept=keep.NOTHING,
        )
        return keep.write(self.classifier, about, folder, everything=run.keep).kept != keep.NOTHING

    def parameters(self) -> dict[str, int]:
        """How many numbers the run trains, how many there are in all, and how many of these are the head's."""
        total = sum(item.numel() for item in self.classifier.parameters())
        if isinstance(self.classifier, ZeroShot):
            return {"trainable": 0, "total": total, "head": 0}
        trained = self.classifier.head if self.recipe.tune == "probe" else self.classifier
        return {
            "trainable": sum(item.numel() for item in trained.parameters() if item.requires_grad),
            "total": total,
            "head": sum(item.numel() for item in self.classifier.head.parameters()),
        }

    def _hopeless(self, epoch: int, lowest: float) -> str | None:
        """Why a trial of a search is not worth more epochs."""
        limits = self.run.stop_above
        if epoch > len(limits) or lowest <= limits[epoch - 1]:
            return None
        return f"pruned after epoch {epoch}: its validation loss of {lowest:.4f} is above {limits[epoch - 1]:.4f}"

    def _cache(self) -> EmbeddingCache:
        """Where this model's embeddings are kept, for other runs and for `harness embed` alike."""
        run = self.run
        return EmbeddingCache.of(run.model_request(), self.adapter, run.seed, run.device, run.precision)


def _check(run: Run, adapter: Adapter, recipe: Recipe, task: Task, splits: Splits) -> None:
    """Refuse, before anything runs, what the model cannot do.

    Raises:
        UserError: a window longer than the model takes, fine-tuning a model without weights, or a label of another kind of task.
    """
    if splits.species and adapter.species_names:
        from harness.files.alignments import check_order

        source = Path(run.reference["alignment"] if run.reference else task.label)
        check_order(source, ("target", *splits.species), adapter.species_names, adapter.name)
    check_labels(task, splits)
    windows = (window for part in splits.parts.values() for it in part for window in it.windows)
    longest = max(windows, key=len)
    if adapter.max_length is not None and len(longest) > adapter.max_length:
        try:
            adapter.collate([longest])  # says what remedy the model has
        except HarnessError as error:
            raise UserError(f"{task.label}: {error}") from None
        raise UserError(f"{task.label}: windows of {len(longest)} nt, but {adapter.name} takes at most {adapter.max_length}")
    if recipe.tune in ("full", "lora") and not any(item.requires_grad for item in adapter.parameters()):
        raise UserError(f"tune {recipe.tune!r}: {adapter.name} has no weights to fine-tune; leave --tune out")


def _reuse_head(classifier: Classifier | ZeroShot, run: Run) -> None:
    """Begin with the head of the run that is the checkpoint.

    Raises:
        UserError: the checkpoint is no run, or its head is another one.
    """
    folder = Path(run.checkpoint or "")
    if run.checkpoint is None or not keep.is_kept(folder):
        raise UserError("reuse-head: the checkpoint is not the folder of a run, so there is no head; leave it out")
    head, state = keep.head_of(folder), classifier.state_dict()
    if odd := [name for name in head if name not in state or state[name].shape != head[name].shape]:
        raise UserError(f"reuse-head: {odd[0]} of {folder} is of another shape than this task's; leave it out for a new head")
    classifier.load_state_dict(head, strict=False)


def _classifier(adapter: Adapter, recipe: Recipe, task: Task, splits: Splits) -> Classifier | ZeroShot:
    """What the run fits and asks.

    Raises:
        UserError: zero-shot on another task than variants, or by a model that cannot.
    """
    windows, classes = len(splits.train[0].windows), len(task.classes)
    if recipe.tune != "zero":
        return Classifier(adapter, classes, recipe, windows, task.kind)
    if task.kind != CLASSIFICATION:
        raise UserError(f"tune 'zero': it tells two classes apart, but {task.label} is a {task.kind}; use --tune full or probe")
    if windows != 2 or classes != 2:
        raise UserError(f"tune 'zero': {task.label} is not a variant task; use --tune full or probe")
    return ZeroShot(adapter)
