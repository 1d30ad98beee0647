"""Glue: from names to requests, and from one request, (model, task, seed), to a record on disk."""

from __future__ import annotations

import inspect
import time
import traceback
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from harness import hardware, registry, results, sources, weights
from harness.adapter import Adapter
from harness.cache import EmbeddingCache
from harness.checkpoint import partial_weights
from harness.classifier import Classifier, ZeroShot
from harness.data import Example
from harness.errors import DataMissing, HarnessError, UserError
from harness.kernels import compilation
from harness.metrics import collapsed
from harness.recipe import Recipe
from harness.results import Predictions, RunRecord
from harness.sensitivity import alignment_sensitivity, insensitive
from harness.task import Reference, Splits, Task
from harness.train import Fit, fit, predict, probe

if TYPE_CHECKING:
    from harness.screen import Screen

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
ONE_ROW = "no alignment at hand: each window is read as an alignment of one row"
ZERO_SHOT = "zero-shot: p(reference) / (p(reference) + p(alternate)), never fitted to a label; judge it by auroc and auprc"
UNUSED_ALIGNMENT = "the model does not use its alignment: its predictions are the same without it"


@dataclass(frozen=True)
class Request:
    """One run, as asked for and checked: a model (by name or path) with its settings, a task, a seed."""

    model: str
    task: Task
    split: str
    seed: int
    recipe: Recipe
    checkpoint: Path | None = None
    size: str = "base"
    options: Mapping[str, Any] = field(default_factory=dict)
    allow_partial: bool = False


def run_all(
    model: str,
    task: Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    split: str | None = None,
    reference: Reference | None = None,
    checkpoint: str | None = None,
    init: str | None = None,
    options: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    device: str = "auto",
    results_dir: Path = Path("results"),
    allow_sample: bool = True,
    force: bool = False,
    screen: Screen,
) -> list[RunRecord]:
    """Run every model that ``model`` stands for on every task that ``task`` names, with every seed.

    ``task`` is one name, or the paths of the user's own files; ``settings`` override the models' recipes. All of it is
    checked before the first run begins. A run that fails is recorded, and the next one begins.

    Raises:
        UserError: a mistake in what was asked for.
    """
    hardware.keep_freed_memory()
    results.check_writable(results_dir)
    size = random_size(init, checkpoint)
    found = [_available(task, split, allow_sample) for task in _named(task, reference)]
    rules = [split or item.split_rules[0] for item in found]
    requests = []
    for name in registry.model_names(model):
        adapter = registry.adapter_class(name)
        recipe = adapter.recipe.override(**(settings or {}))
        typed = typed_options(adapter, options or {})
        files = _weights(adapter, checkpoint, init)
        requests += [
            Request(name, item, rule, seed, recipe, files, size, typed, allow_partial)
            for item, rule in zip(found, rules, strict=True)
            for seed in seeds
        ]
    accelerator = _accelerator(hardware.pick_device(device))
    if not accelerator.is_main_process:
        screen.quiet = True
    compilation.on_compile = screen.say
    records: list[RunRecord] = []
    for item, rule in zip(found, rules, strict=True):
        splits = item.load(rule)
        screen.say(_describe(item, rule, splits))
        records += [run(request, splits, accelerator, results_dir, force, screen) for request in requests if request.task is item]
    return records


def run(request: Request, splits: Splits, accelerator: Accelerator, results_dir: Path, force: bool, screen: Screen) -> RunRecord:
    """Fit, score on the test split, write the record; or return the record of this very run if there is one.

    Raises:
        UserError: the model cannot take this task; nothing was written.
    """
    begun = time.perf_counter()
    device = accelerator.device
    precision = hardware.pick_precision(request.recipe.precision, device)
    with torch.random.fork_rng():
        torch.manual_seed(request.seed)
        with partial_weights(request.allow_partial):
            adapter = registry.adapter_class(request.model).from_checkpoint(
                request.checkpoint, size=request.size, **request.options
            )
        _check(adapter, request, splits)
        record = _blank_record(request, splits, adapter, device, precision, accelerator.num_processes)
        earlier = None if force else results.find(results_dir, record["task"]["name"], record["model"]["name"], record["run_id"])
        if earlier is not None and earlier.finished:
            screen.say("this very run is recorded already: same data, weights, settings, seed and code (--force runs it again)")
            screen.result(earlier, str(results_dir / earlier.folder))
            return earlier
        classifier = _classifier(adapter, request, splits).to(device)
        trained = _fitted_module(classifier, request.recipe)
        record["model"]["parameters"] = {
            "trainable": sum(item.numel() for item in trained.parameters() if item.requires_grad) if trained else 0,
            "total": sum(item.numel() for item in classifier.parameters()),
        }
        screen.say(_describe_run(request, record))
        timing: dict[str, Any] = {"seconds": {"load": time.perf_counter() - begun}}
        record["timing"] = timing
        predictions = None
        try:
            predictions = _fit_and_score(request, splits, classifier, accelerator, precision, record, screen)
        except UserError:
            raise
        except HarnessError as error:
            record |= {"status": results.FAILED, "error": str(error)}
        except Exception as error:
            record |= {"status": results.FAILED, "error": f"{type(error).__name__}: {error}\n{traceback.format_exc()}"}
        timing["seconds"]["total"] = time.perf_counter() - begun
        timing["peak_memory_bytes"] = hardware.peak_memory(device)
    finished = RunRecord(**record)
    if accelerator.is_main_process:
        folder = results.write(finished, predictions, results_dir)
        screen.result(finished, str(folder))
    return finished


def _fit_and_score(
    request: Request,
    splits: Splits,
    classifier: Classifier | ZeroShot,
    accelerator: Accelerator,
    precision: str,
    record: dict[str, Any],
    screen: Screen,
) -> Predictions:
    """Train, predict the test split, and fill in what came out."""
    recipe, seconds = request.recipe, record["timing"]["seconds"]
    begun, compiled = time.perf_counter(), compilation.seconds
    with screen.training(f"{record['model']['name']} on {request.task.name}"):
        if isinstance(classifier, ZeroShot):
            fitted = Fit(recipe)
        elif recipe.tune == "probe":
            cache = _embedding_cache(request, record) if next(classifier.adapter.parameters(), None) is not None else None
            fitted = probe(classifier, splits.train, splits.validation, recipe, accelerator, precision=precision, cache=cache)
        else:
            fitted = fit(
                classifier,
                splits.train,
                splits.validation,
                recipe,
                accelerator,
                seed=request.seed,
                precision=precision,
                report=screen.report,
            )
    seconds["train"] = time.perf_counter() - begun
    begun = time.perf_counter()
    probabilities = predict(classifier, splits.test, accelerator, precision=precision)
    seconds["evaluate"] = time.perf_counter() - begun
    seconds["compile"] = compilation.seconds - compiled  # part of train
    labels = np.array([example.label for example in splits.test])
    ids = tuple(example.id for example in splits.test)
    blocks = tuple(map(splits.block, ids)) if splits.block else ()
    predictions = Predictions(ids, labels, probabilities, request.task.classes, blocks)
    metrics, intervals = results.judge(predictions)
    alignment: dict[str, Any] = {}
    if classifier.adapter.card.reads == "alignment" and splits.test[0].windows[0].alignment is not None:
        alignment = alignment_sensitivity(
            splits.test, probabilities, lambda examples: predict(classifier, examples, accelerator, precision=precision)
        )
    record["timing"]["examples_per_second"] = fitted.examples_per_second
    record |= {
        "history": fitted.history,
        "events": [*fitted.events, *([UNUSED_ALIGNMENT] if insensitive(alignment) else [])],
        "metrics": metrics,
        "intervals": intervals,
        "alignment": alignment,
        "collapsed": collapsed(probabilities),
    }
    return predictions


def _named(words: Sequence[str], reference: Reference | None) -> list[Task]:
    """The tasks that the words of ``--task`` name, with the reference data that the run brings.

    ``variants:FILE`` is a file of variants; what looks like a path is a file of windows; else a task or a family.

    Raises:
        UserError: reference data for a task that reads none.
    """
    found = _unbound(words)
    if reference is None:
        return found
    for task in found:
        if task.bind is None:
            raise UserError(f"{task.name} reads no genome and no alignment; leave --genome, --msa, --species and --context out")
    return [task.bind(reference) for task in found if task.bind is not None]


def _unbound(words: Sequence[str]) -> list[Task]:
    kind, _, path = words[0].partition(":")
    if kind == "variants" and path:
        return [registry.task_from_variants(Path(path))]
    if len(words) > 1 or "/" in words[0] or Path(words[0]).suffix or Path(words[0]).is_file():
        return [registry.task_from_files([Path(word) for word in words])]
    return registry.find_tasks(words[0])


def _available(task: Task, split: str | None, allow_sample: bool) -> Task:
    """The task itself where its data is here, else its simulated sample.

    Raises:
        DataMissing: there is no sample, or it is not wanted, or cannot be split as asked.
        UnknownName: the task has no such split rule.
    """
    if split is not None and split not in task.split_rules:
        raise registry.unknown(f"split of {task.name}", split, list(task.split_rules))
    absent = sources.missing(task.sources)
    if not absent:
        return task
    if task.sample is None or not allow_sample or split is not None:
        raise DataMissing(
            f"{task.name}: {len(absent)} of {len(task.sources)} files are not in {sources.data_home()}; "
            f"`harness data get {_data_name(task)}` downloads them"
        )
    return task.sample


def _data_name(task: Task) -> str:
    """What `harness data get` calls the task's data: without its context (``clinvar@512``) and ``(sample)``."""
    return task.name.removesuffix(" (sample)").partition("@")[0]


def typed_options(adapter: type[Adapter], options: Mapping[str, str]) -> dict[str, Any]:
    """``--option name=value`` as the keyword arguments of the adapter's ``from_checkpoint``, converted to their types.

    Raises:
        UnknownName: the adapter has no such option.
        UserError: a value that is not of the option's type.
    """
    hints = typing.get_type_hints(adapter.from_checkpoint)
    known = [
        name for name, item in inspect.signature(adapter.from_checkpoint).parameters.items() if item.kind is item.KEYWORD_ONLY
    ]
    known.remove("size")
    typed = {}
    for name, text in options.items():
        if name not in known:
            raise registry.unknown(f"option of {adapter.name}", name, known or ["none: it has no options"])
        try:
            typed[name] = _BOOLEANS[text.lower()] if hints[name] is bool else hints[name](text)
        except (KeyError, ValueError):
            raise UserError(f"option {name}={text!r}: expected a {hints[name].__name__}") from None
    return typed


def _weights(adapter: type[Adapter], checkpoint: str | None, init: str | None) -> Path | None:
    """Where the weights lie: as asked for, else the official ones of a pretrained model; None for random initialisation."""
    if checkpoint is not None:
        return weights.resolve(adapter.name, adapter.card, checkpoint)
    if init is None and (adapter.card.checkpoint or adapter.card.get):
        return weights.official(adapter.name, adapter.card)
    return None


def random_size(init: str | None, checkpoint: str | None) -> str:
    """The size that ``--init random:SIZE`` asks for.

    Raises:
        UserError: another kind of initialisation, or a checkpoint as well.
    """
    kind, _, size = (init or "random").partition(":")
    if kind != "random":
        raise UserError(f"init {init!r}: expected random, random:tiny or random:base")
    if init is not None and checkpoint is not None:
        raise UserError(f"init {init!r} and checkpoint {checkpoint!r}: choose one of them")
    return size or "base"


def _accelerator(device: torch.device) -> Accelerator:
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    # A model may hold weights that fine-tuning does not reach (an unused pooler): several processes must not wait for them.
    return Accelerator(cpu=device.type == "cpu", kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])


def _check(adapter: Adapter, request: Request, splits: Splits) -> None:
    """Refuse, before anything runs, what the model cannot do.

    Raises:
        UserError: a window longer than the model takes, or fine-tuning a model without weights.
    """
    if request.checkpoint is not None and adapter.audit is None:
        raise UserError(f"checkpoint {str(request.checkpoint)!r}: {adapter.name} loads no weights; leave --checkpoint out")
    longest = max(
        len(window) for part in (splits.train, splits.validation, splits.test) for example in part for window in example.windows
    )
    if adapter.max_length is not None and longest > adapter.max_length:
        raise UserError(f"{request.task.name}: windows of {longest} nt, but {adapter.name} takes at most {adapter.max_length}")
    if request.recipe.tune in ("full", "lora") and not any(item.requires_grad for item in adapter.parameters()):
        raise UserError(f"tune {request.recipe.tune!r}: {adapter.name} has no weights to fine-tune; leave --tune out")


def _blank_record(
    request: Request, splits: Splits, adapter: Adapter, device: torch.device, precision: str, processes: int
) -> dict[str, Any]:
    """A record's fields before the run: what was asked for, and on what."""
    task, recipe, audit = request.task, asdict(request.recipe), adapter.audit
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    own_file = [Path(request.model)] if request.model.endswith(".py") else []
    code = results.code_fingerprint(*own_file)
    sequence_only = splits.train[0].windows[0].alignment is None
    return {
        "run_id": results.run_id(
            task=task.name,
            split=request.split,
            files=splits.files,
            model=adapter.name,
            size=request.size,
            options={**request.options, "allow_partial": True} if request.allow_partial else request.options,
            checkpoint=audit and audit.sha256,
            recipe=recipe,
            seed=request.seed,
            code=code,
            device=device.type,
            precision=precision,
        ),
        "task": {
            "name": task.name,
            "family": task.family,
            "split": request.split,
            "default_split": task.split_rules[0],
            "main_metric": task.main_metric,
            "simulated": task.simulated,
            "classes": task.classes,
            "files": splits.files,
            "counts": {name: _class_counts(part, task.classes) for name, part in parts.items()},
            "changes": splits.changes,
            "best_accuracy": splits.best_accuracy,
        },
        "model": {
            "name": adapter.name,
            "card": asdict(adapter.card),
            "recipe": asdict(adapter.recipe),
            "checkpoint": audit and {"name": Path(audit.source).name, "sha256": audit.sha256},
            "size": request.size,
            "options": request.options,
            "audit": audit and asdict(audit),
            "allow_partial": request.allow_partial,
            "notes": [
                *(audit.warnings if audit else ()),
                *([ONE_ROW] if adapter.card.reads == "alignment" and sequence_only else []),
                *([ZERO_SHOT] if request.recipe.tune == "zero" else []),
            ],
            "unknown_tokens": _unknown_share(adapter, splits.train),
        },
        "recipe": recipe,
        "seed": request.seed,
        "code": code,
        "environment": {
            "versions": hardware.versions(),
            "device": device.type,
            "device_name": hardware.describe_device(device),
            "precision": precision,
            "threads": torch.get_num_threads(),
            "processes": processes,
        },
    }


def _unknown_share(adapter: Adapter, examples: Sequence[Example]) -> float | None:
    """Share of the tokens of the training split that the model never saw; None for models without tokens."""
    unknown = total = 0
    for start in range(0, len(examples), 1024):
        batch = adapter.collate([window for example in examples[start : start + 1024] for window in example.windows])
        found, among = adapter.unknown_tokens(batch)
        unknown, total = unknown + found, total + among
    return unknown / total if total else None


def _embedding_cache(request: Request, record: Mapping[str, Any]) -> EmbeddingCache:
    """Where this model's embeddings are kept: whatever else than the windows determines them is in the key."""
    model, environment = record["model"], record["environment"]
    weights = model["checkpoint"] or f"seed {request.seed}"
    origin = {name: model[name] for name in ("name", "size", "options")}
    hardware = {name: environment[name] for name in ("device", "precision")}
    return EmbeddingCache(results.digest([origin, hardware, weights, record["code"]]))


def _classifier(adapter: Adapter, request: Request, splits: Splits) -> Classifier | ZeroShot:
    """What the run fits and asks.

    Raises:
        UserError: zero-shot on another task than variants, or by a model that cannot.
    """
    windows, classes = len(splits.train[0].windows), len(request.task.classes)
    if request.recipe.tune != "zero":
        return Classifier(adapter, classes, request.recipe, windows)
    if windows != 2 or classes != 2:
        raise UserError(f"tune 'zero': {request.task.name} is no task of variants; use --tune full or probe")
    return ZeroShot(adapter)


def _class_counts(examples: Sequence[Example], classes: Sequence[str]) -> dict[str, int]:
    counts = Counter(example.label for example in examples)
    return {name: counts[label] for label, name in enumerate(classes)}


def _fitted_module(classifier: Classifier | ZeroShot, recipe: Recipe) -> torch.nn.Module | None:
    """What the run trains; None for zero-shot."""
    if isinstance(classifier, ZeroShot):
        return None
    return classifier.head if recipe.tune == "probe" else classifier


def _describe(task: Task, split: str, splits: Splits) -> str:
    parts = (splits.train, splits.validation, splits.test)
    lengths, positives = set(), []  # in one pass, for an example may be made when it is asked for
    for part in parts:
        positives.append(0)
        for example in part:
            lengths.update(map(len, example.windows))
            positives[-1] += example.label
    length = f"{min(lengths)}" if len(lengths) == 1 else f"{min(lengths)}-{max(lengths)}"
    sizes = " / ".join(f"{len(part):,}" for part in parts)
    text = f"{task.name}: {sizes} windows (train / validation / test, split {split!r}) of {length} nt"
    if len(task.classes) == 2:
        shares = " / ".join(f"{count / len(part):.0%}" for count, part in zip(positives, parts, strict=True))
        text += f"\n  {task.classes[1]}: {shares}"
    if task.simulated:
        real = _data_name(task)
        text += (
            f"\n  SIMULATED data, not measured: {real} has not been downloaded (`harness data get {real}`); "
            f"best possible accuracy {splits.best_accuracy:.4f}"
        )
    changed = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in splits.changes.items() if count)
    return text + (f"\n  counted: {changed}" if changed else "")


def _describe_run(request: Request, record: Mapping[str, Any]) -> str:
    model, environment, audit = record["model"], record["environment"], record["model"]["audit"]
    reads_scores = model["card"]["reads"] == "score"
    if audit is None:
        origin = "no weights" if reads_scores else "random initialisation"
    else:
        origin = "scores" if reads_scores else f"{audit['matched']} of {audit['expected']} tensors"
        origin += f" from {audit['source']}"
    unknown = "windows have no score" if reads_scores else "tokens are unknown to the model"
    lines = [
        f"{model['name']}, seed {request.seed}: {origin}, {model['parameters']['trainable']:,} trainable parameters, "
        f"{environment['precision']} on {environment['device_name']}, {environment['threads']} threads",
        *([f"{model['unknown_tokens']:.2%} of the training split's {unknown}"] if model["unknown_tokens"] else []),
        *model["notes"],
    ]
    return "\n  ".join(lines)
