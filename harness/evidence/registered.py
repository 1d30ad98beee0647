"""Checksums of data and weights in records, held against those that the registry knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from harness import registry
from harness.card import ModelCard
from harness.task import Task

from .records import RunRecord


def data_faults(record: RunRecord, counts: Counter[str]) -> list[str]:
    """Sentences on files that are not the published ones; ``counts`` of ``data``, ``data_unknown`` and ``simulated`` go up."""
    task, files = _tasks().get(record.task["name"]), record.task["files"]
    if record.task["simulated"]:
        counts["simulated"] += len(files)
        return []
    if task is None or task.family != record.task["family"]:
        counts["data_unknown"] += len(files)
        return []
    published = {source.path: source.sha256 for source in (*task.sources, *task.references) if source.sha256}
    counts["data"] += sum(published.get(name) == found for name, found in files.items())
    counts["data_unknown"] += sum(name not in published for name in files)
    return [
        f"task.files: {name} has sha256 {found[:12]}…, the published file of {task.name} has {published[name][:12]}…"
        for name, found in files.items()
        if published.get(name, found) != found
    ]


def weights_faults(record: RunRecord, counts: Counter[str]) -> list[str]:
    """Sentences on official weights that are not the published ones; ``counts`` of ``weights`` and ``weights_unknown`` go up."""
    checkpoint, card = record.model["checkpoint"], _cards().get(record.model["name"])
    if not checkpoint:
        return []
    faults = list(_audit_faults(record))
    published = dict(card.sha256) if card is not None else {}
    if checkpoint["sha256"] in published.values():
        counts["weights"] += 1
    elif card is not None and card.checkpoint and (name := _official(checkpoint["source"], card)) in published:
        faults.append(
            f"model.checkpoint: {name} has sha256 {checkpoint['sha256'][:12]}…, but {published[name][:12]}… is published at "
            f"{card.checkpoint}@{card.revision}"
        )
    else:
        counts["weights_unknown"] += 1
    return faults


def _audit_faults(record: RunRecord) -> Iterator[str]:
    """What a record says of its weights in two places must be the same."""
    checkpoint, audit = record.model["checkpoint"], record.model.get("audit") or {}
    for name in ("sha256", "source"):
        if audit.get(name, checkpoint[name]) != checkpoint[name]:
            yield f"model.checkpoint.{name} is {checkpoint[name][:40]!r}, but model.audit.{name} is {audit[name][:40]!r}"
    if Path(checkpoint["source"]).name != checkpoint["name"]:
        yield f"model.checkpoint.name is {checkpoint['name']!r}, but its source is {checkpoint['source']!r}"


def _official(source: str, card: ModelCard) -> str:
    """The file's name in the official repository at its pinned revision, if it was read from there; else empty."""
    folder = f"/{str(card.checkpoint).replace('/', '--')}/{card.revision or 'main'}/"
    _, inside, name = Path(source).as_posix().rpartition(folder)
    return name if inside else ""


@cache
def _tasks() -> dict[str, Task]:
    return registry.tasks()


@cache
def _cards() -> dict[str, ModelCard]:
    return registry.model_cards()
