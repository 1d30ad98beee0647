"""execute(): one planned run, fitted, scored on the test split, and written as a record."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine import hardware
from harness.errors import HarnessError, UserError
from harness.evidence import records
from harness.evidence.leakage import find_leaks, judged
from harness.evidence.leakage import sentence as leak_sentence
from harness.evidence.metrics import check_labels, metrics_of
from harness.evidence.records import RunRecord
from harness.evidence.sensitivity import insensitive
from harness.files.atomic import check_writable
from harness.progress import Reporter
from harness.task import CLASSIFICATION, MAIN_METRIC, MULTILABEL, REGRESSION

from .plan import Run, check_unchanged, open_task

if TYPE_CHECKING:
    from harness.adapter import Adapter
    from harness.data import Example
    from harness.task import Splits, Task

    from .trial import Trial

MAX_LABELS = 10  # labels whose shares are shown one by one
ONE_ROW = "no alignment at hand: each window is read as an alignment of one row"
UNKNOWN_ORDER = "which species these weights were trained with, in which order, is not known: its rows go as they come"
ZERO_SHOT = "zero-shot: p(reference) / (p(reference) + p(alternate)), never fitted to a label; judge it by auroc and auprc"
UNUSED_ALIGNMENT = "the model does not use its alignment: its predictions are the same without it"
RECORDED = "this very run is recorded already: same data, weights, settings, seed and code (--force runs it again)"


def execute_all(
    runs: Sequence[Run],
    results: Path = Path("results"),
    *,
    device: str | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
) -> list[RunRecord]:
    """Execute planned runs in turn; one that fails is recorded, and the next one begins.

    Raises:
        UserError: the results folder cannot be written, or a model cannot take its task.
    """
    check_writable(results, "results")
    reporter = reporter or Reporter()
    described: set[tuple[str, str]] = set()
    found, seconds = [], list[float]()
    for number, run in enumerate(runs, start=1):
        question = (run.label, run.split)
        if (earlier := None if force else finished(run, results)) is not None:
            reporter.say(RECORDED)
            reporter.result(earlier, str(results / earlier.folder))
            found.append(earlier)
            continue
        if question not in described:
            described.add(question)
            opened = open_task(run)
            check_labels(*opened)
            reporter.say(_describe_task(run, *opened))
            if said := leak_sentence(opened[0], find_leaks(opened[1])):
                reporter.say(f"  {said}")
        if len(runs) > 1:
            reporter.say(f"run {number} of {len(runs)}{_time_left(seconds, len(runs) - number + 1)}")
        begun = time.perf_counter()
        found.append(execute(run, results, device=device, force=True, reporter=reporter))
        seconds.append(time.perf_counter() - begun)
    return found


def _time_left(seconds: Sequence[float], runs: int) -> str:
    """What remains if the next runs take as long as those so far did on average."""
    if not seconds:
        return ""
    minutes = sum(seconds) / len(seconds) * runs / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"


def finished(run: Run, results: Path) -> RunRecord | None:
    """The record of this very run, if it is there and has scores. Builds no model and imports no torch."""
    earlier = records.find(results, run.label, run.name, run.id)
    return earlier if earlier is not None and earlier.finished else None


def execute(
    run: Run,
    results: Path = Path("results"),
    *,
    device: str | None = None,
    force: bool = False,
    opened: tuple[Task, Splits] | None = None,
    reporter: Reporter | None = None,
) -> RunRecord:
    """Fit, score the test split once, and write the record; or return the record of this very run if there is one.

    ``device`` picks one of several of the planned type (``cuda:1``). ``opened`` are the run's task and examples, where they
    are at hand. What breaks down on the way is a failed record.

    Raises:
        UserError: the model cannot take this task, or the data is not what was planned; nothing was written.
    """
    reporter = reporter or Reporter()
    if not force and (earlier := finished(run, results)) is not None:
        return earlier
    import torch

    from harness.kernels import compilation

    from .trial import Trial

    begun = time.perf_counter()
    task, splits = opened or open_task(run)
    check_unchanged(run, task, splits)
    leaks = find_leaks(splits)  # before the hours, for nobody would want to lose them
    compilation.on_compile = reporter.say
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        trial = Trial.prepare(run, task, splits, device or run.device)
        main = trial.accelerator.is_main_process
        reporter = reporter if main else Reporter()
        record, predictions = _begin_record(trial), None
        reporter.say(_describe_run(run, record))
        try:
            fitted = trial.fit(reporter)
            record |= {"history": fitted.history, "events": list(fitted.events)}
            record["timing"] |= {"examples_per_second": fitted.examples_per_second, "wait": fitted.wait}
            scored = trial.score()
            predictions = scored.predictions
            for name in ("metrics", "intervals", "without_interval", "alignment", "collapsed"):
                record[name] = getattr(scored, name)
            record["events"] += scored.events
            record["leakage"] = judged(predictions, leaks)
            predictions = replace(predictions, leaks=tuple((leak, source) for leak, source in leaks["leaks"]))
            record["events"] += [UNUSED_ALIGNMENT] if insensitive(scored.alignment) else []
        except UserError:
            raise
        except HarnessError as error:
            record |= {"status": records.FAILED, "error": str(error)}
        except MemoryError as error:
            reason = f"out of memory ({error or 'the system gave none'}): use a smaller --batch-size, --context or model"
            record |= {"status": records.FAILED, "error": reason}
        except Exception as error:
            record |= {"status": records.FAILED, "error": f"{type(error).__name__}: {error}\n{traceback.format_exc()}"}
    record["timing"]["seconds"] = trial.seconds | {"total": time.perf_counter() - begun}
    record["timing"]["peak_memory_bytes"] = hardware.peak_memory(trial.accelerator.device)
    finished_record = RunRecord(**record)
    if main:
        try:
            folder = records.write(finished_record, predictions, results)
        except HarnessError:  # a full disk, after hours: the scores at least are shown
            reporter.result(finished_record, "not written")
            raise
        reporter.result(finished_record, str(folder))
    return finished_record


def _begin_record(trial: Trial) -> dict[str, Any]:
    """A record's fields before the run: what was asked for, and on what."""
    import torch

    run, task, splits, adapter = trial.run, trial.task, trial.splits, trial.adapter
    device, audit = trial.accelerator.device, adapter.audit
    sequence_only = splits.train[0].windows[0].alignment is None
    return {
        "run_id": run.id,
        "task": {
            "name": task.name,
            "kind": task.kind,
            "context": task.context,
            "family": task.family,
            "split": run.split,
            "default_split": task.split_rules[0],
            "main_metric": task.main_metric if task.main_metric in metrics_of(task.kind) else MAIN_METRIC[task.kind],
            "simulated": task.simulated,
            "classes": task.classes,
            "files": splits.files,
            "question": _question(task, splits),
            "counts": {name: _counts(task, part) for name, part in splits.parts.items()},
            "changes": splits.changes,
            "notes": splits.notes,
            "best_accuracy": splits.best_accuracy,
        },
        "model": {
            "name": adapter.name,
            "card": asdict(adapter.card),
            "recipe": asdict(run.published()),
            "checkpoint": audit
            and {
                "name": Path(audit.source).name,
                "sha256": audit.sha256,
                "source": audit.source,
                "fingerprint": run.weights or audit.sha256,
            },
            "size": run.size,
            "options": run.options,
            "audit": audit and asdict(audit),
            "allow_partial": run.allow_partial,
            "notes": [
                *(audit.warnings if audit else ()),
                *([UNKNOWN_ORDER] if audit and splits.species and adapter.species_names is None else []),
                *([ONE_ROW] if adapter.card.reads == "alignment" and sequence_only else []),
                *([ZERO_SHOT] if trial.recipe.tune == "zero" else []),
            ],
            "unknown_tokens": _unknown_share(adapter, splits.train),
            "parameters": trial.parameters(),
        },
        "recipe": asdict(trial.recipe),
        "seed": run.seed,
        "code": run.code,
        "environment": {
            "versions": hardware.versions(),
            "device": device.type,
            "device_name": hardware.describe_device(device),
            "precision": run.precision,
            "threads": torch.get_num_threads(),
            "processes": trial.accelerator.num_processes,
        },
        "timing": {},
    }


def _unknown_share(adapter: Adapter, examples: Sequence[Example]) -> float | None:
    """Share of the training split's tokens that are unknown to the model; None for models without tokens."""
    from harness.adapter import Adapter

    if type(adapter).unknown_tokens is Adapter.unknown_tokens:
        return None
    unknown = total = 0
    for start in range(0, len(examples), 1024):
        batch = adapter.collate([window for example in examples[start : start + 1024] for window in example.windows])
        found, among = adapter.unknown_tokens(batch)
        unknown, total = unknown + found, total + among
    return unknown / total if total else None


def _question(task: Task, splits: Splits) -> str:
    """sha256 of what is asked: every example's id, letters and label; not of what a model may read besides."""
    total = hashlib.sha256(b"" if task.kind == CLASSIFICATION else task.kind.encode())
    for part in splits.parts.values():
        for example in part:
            letters = " ".join(window.sequence for window in example.windows)
            total.update(f"{example.id} {letters} {example.label}\n".encode())
        total.update(b"\n")
    return total.hexdigest()


def _counts(task: Task, examples: Sequence[Example]) -> dict[str, int]:
    """Examples of each class, those that have each label, or all of a regression."""
    if task.kind == REGRESSION:
        return {task.classes[0]: len(examples)}
    if task.kind == MULTILABEL:
        return dict(zip(task.classes, map(sum, zip(*(example.label for example in examples)))))
    counts = Counter(example.label for example in examples)
    return {name: counts[label] for label, name in enumerate(task.classes)}


def _describe_task(run: Run, task: Task, splits: Splits) -> str:
    parts = list(splits.parts.values())
    lengths, labels = set(), []  # in one pass, for an example may be made when it is asked for
    for part in parts:
        labels.append([])
        for example in part:
            lengths.update(map(len, example.windows))
            labels[-1].append(example.label)
    length = f"{min(lengths)}" if len(lengths) == 1 else f"{min(lengths)}-{max(lengths)}"
    sizes = " / ".join(f"{len(part):,}" for part in parts)
    text = f"{task.label}: {sizes} windows (train / validation / test, split {run.split!r}) of {length} nt"
    text += "".join(f"\n  {line}" for line in _describe_labels(task, labels))
    if task.simulated:
        text += f"\n  SIMULATED data, not measured: {task.name} has not been downloaded (`harness data get {task.name}`)"
        text += f"; best possible accuracy {splits.best_accuracy:.4f}" if splits.best_accuracy is not None else ""
    changed = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in splits.changes.items() if count)
    text += f"\n  counted: {changed}" if changed else ""
    return text + "".join(f"\n  {note}" for note in splits.notes)


def _describe_labels(task: Task, labels: Sequence[Sequence[Any]]) -> list[str]:
    """What the labels of train, validation and test are like: shares of the positive class or of each label, or the numbers."""
    import numpy as np

    if task.kind == REGRESSION:
        numbers = [np.array(part, float) for part in labels]
        shown = (f"mean {part.mean():.4g}, sd {part.std():.4g}, {part.min():.4g} to {part.max():.4g}" for part in numbers)
        return [f"{task.classes[0]}: {' / '.join(shown)}"]
    if task.kind == MULTILABEL:
        shares = np.array([np.mean(part, axis=0) for part in labels])
        lines = [f"{name}: {_shares(column)}" for name, column in zip(task.classes[:MAX_LABELS], shares.T)]
        rest = len(task.classes) - MAX_LABELS
        return [*lines, f"and {rest:,} more labels"] if rest > 0 else lines
    return [f"{task.classes[1]}: {_shares([sum(part) / len(part) for part in labels])}"] if len(task.classes) == 2 else []


def _shares(shares: Iterable[float]) -> str:
    return " / ".join(f"{share:.0%}" for share in shares)


def _describe_run(run: Run, record: Mapping[str, Any]) -> str:
    model, environment, audit = record["model"], record["environment"], record["model"]["audit"]
    reads_scores = model["card"]["reads"] == "score"
    if audit is None:
        has_weights = model["parameters"]["total"] > model["parameters"]["head"]
        origin = "random initialisation" if has_weights else "no weights of its own"
    else:
        origin = "scores" if reads_scores else f"{audit['matched']} of {audit['expected']} tensors"
        origin += f" from {audit['source']}"
    unknown = "windows have no score" if reads_scores else "tokens are unknown to the model"
    lines = [
        f"{model['name']}, seed {run.seed}: {origin}, {model['parameters']['trainable']:,} trainable parameters, "
        f"{environment['precision']} on {environment['device_name']}, {environment['threads']} threads",
        *([f"{model['unknown_tokens']:.2%} of the training split's {unknown}"] if model["unknown_tokens"] else []),
        *model["notes"],
    ]
    return "\n  ".join(lines)
