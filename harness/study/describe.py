"""What a record says of a run before it has scores, and the same in words."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import registry
from harness.engine import hardware
from harness.errors import UserError
from harness.evidence.metrics import metrics_of
from harness.kernels import backends
from harness.task import CLASSIFICATION, MAIN_METRIC, MULTILABEL, REGRESSION

from .plan import Run

if TYPE_CHECKING:
    from harness.adapter import Adapter
    from harness.data import Example
    from harness.task import Splits, Task

    from .trial import Trial

MAX_LABELS = 10  # labels whose shares are shown one by one
ONE_ROW = "no alignment at hand: each window is read as an alignment of one row"
UNKNOWN_ORDER = "which species these weights were trained with, in which order, is not known: its rows go as they come"
ZERO_SHOT = "zero-shot: p(reference) / (p(reference) + p(alternate)), never fitted to a label; judge it by auroc and auprc"


def asked(run: Run, opened: tuple[Task, Splits] | None) -> dict[str, Any]:
    """What a record says of a run before its model is built; of a task that cannot be opened, not more than its name."""
    facts = registry.model_facts(run.model)
    checkpoint = None
    if run.weights is not None:
        path = str(run.checkpoint)
        checkpoint = {"name": Path(path).name, "sha256": run.weights, "source": path, "fingerprint": run.weights}
    return {
        "run_id": run.id,
        "task": _task(run, *opened) if opened else _named(run),
        "model": {
            "name": run.name or facts.name,
            "card": asdict(facts.card),
            "recipe": asdict(run.published()),
            "checkpoint": checkpoint,
            "size": run.size,
            "options": run.options,
            "audit": None,
            "allow_partial": run.allow_partial,
            **({"search": run.search} if run.search else {}),
        },
        "recipe": asdict(run.published().override(**run.recipe)),
        "seed": run.seed,
        "code": run.code,
        "environment": {"versions": hardware.versions(), "device": run.device, "precision": run.precision},
        "timing": {},
    }


def _task(run: Run, task: Task, splits: Splits) -> dict[str, Any]:
    return {
        "name": task.name,
        "kind": task.kind,
        "context": task.context,
        "negatives": task.negatives,
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
    }


def _named(run: Run) -> dict[str, Any]:
    label = run.label.removesuffix(" (sample)")
    name, _, context = label.rpartition("@")
    named = {"name": name, "context": int(context)} if name and context.isdecimal() else {"name": label, "context": None}
    if stated := re.fullmatch(r"(.+)\[(\w+)\]", named["name"]):
        named |= {"name": stated[1], "negatives": stated[2]}
    own = {"family": run.family, "split": run.split, "default_split": run.split, "simulated": run.label != label}
    return named | own | {"classes": ["unknown 0", "unknown 1"], "files": {}}


def begun(trial: Trial) -> dict[str, Any]:
    """A record's fields before the run: what was asked for, and on what.

    Raises:
        UserError: more of the training split's tokens are unknown to the model than it allows.
    """
    import torch

    run, task, splits, adapter = trial.run, trial.task, trial.splits, trial.adapter
    device, audit = trial.accelerator.device, adapter.audit
    sequence_only = splits.train[0].windows[0].alignment is None
    record = asked(run, (task, splits))
    record["model"] |= {
        "name": adapter.name,
        "card": asdict(adapter.card),
        "checkpoint": audit
        and {
            "name": Path(audit.source).name,
            "sha256": audit.sha256,
            "source": audit.source,
            "fingerprint": run.weights or audit.sha256,
        },
        "audit": audit and asdict(audit),
        "notes": [
            *(audit.warnings if audit else ()),
            *([UNKNOWN_ORDER] if audit and splits.species and adapter.species_names is None else []),
            *([ONE_ROW] if adapter.card.reads == "alignment" and sequence_only else []),
            *([ZERO_SHOT] if trial.recipe.tune == "zero" else []),
        ],
        "unknown_tokens": _checked_share(adapter, splits.train, task),
        "parameters": trial.parameters(),
        **({"forward_passes": adapter.forward_passes} if adapter.forward_passes != 1 else {}),
    }
    record["environment"] |= {
        "device": device.type,
        "device_name": hardware.describe_device(device),
        "threads": torch.get_num_threads(),
        "processes": trial.accelerator.num_processes,
    }
    return record


def _checked_share(adapter: Adapter, examples: Sequence[Example], task: Task) -> float | None:
    share = _unknown_share(adapter, examples)
    if share is not None and adapter.max_unknown is not None and share > adapter.max_unknown:
        raise UserError(
            f"{task.label}: {share:.1%} of the training split's tokens are unknown to {adapter.name}, which allows "
            f"{adapter.max_unknown:.1%}; write letters as its vocabulary does (--option letters=…), or allow more "
            f"(--option unknown={share + 0.005:.2f})"
        )
    return share


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


def of_task(run: Run, task: Task, splits: Splits) -> str:
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


def of_run(run: Run, record: Mapping[str, Any]) -> str:
    model, environment, audit = record["model"], record["environment"], record["model"]["audit"]
    reads_scores = model["card"]["reads"] == "score"
    if audit is None:
        has_weights = model["parameters"]["total"] > model["parameters"]["head"]
        origin = "random initialisation" if has_weights else "no weights of its own"
    else:
        origin = "scores" if reads_scores else f"{audit['matched']} of {audit['expected']} tensors"
        origin += f" from {audit['source']}"
    unknown = "windows have no score" if reads_scores else "tokens are unknown to the model"
    how = [name for name in ("compile", "deterministic") if record["recipe"].get(name)]
    lines = [
        f"{model['name']}, seed {run.seed}: {origin}, {model['parameters']['trainable']:,} trainable parameters, "
        + ", ".join((environment["precision"], *how))
        + f" on {environment['device_name']}, {environment['threads']} threads",
        *([f"{model['unknown_tokens']:.2%} of the training split's {unknown}"] if model["unknown_tokens"] else []),
        *([f"{model['forward_passes']} forward passes for each window"] if "forward_passes" in model else []),
        *model["notes"],
        *(f"HARNESS_KERNELS: {operation} by {backend}" for operation, backend in backends.forced().items()),
    ]
    return "\n  ".join(lines)
