"""The state of one model's loading: the prefix of names under trial, what was read, and what is to be said of it.

An adapter asks :mod:`.checkpoint` for its files and tensors by the names of the official ones. Files that people have differ by
a prefix (``net.bert.…``) or lack one (``embeddings.…`` of a bare encoder). Which change of names is right shows only when the
model is built, so :func:`load_as_found` builds it with the names as they are, then with each change that could be meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from harness.errors import CheckpointMismatch, UserError

MAX_APART = 4  # tensors of a head of the user's own beside the wrapped model
_partial: ContextVar[bool] = ContextVar("partial_weights", default=False)
# Heads and losses, which a model without them does without.
HEAD = re.compile(
    r"(?:[A-Za-z_]+\.){0,2}(?:cls|head|lmhead|\w+_head|pooler|classifier|score|qa_outputs|seq_relationship|predictions"
    r"|criterion|loss|loss_f\w*|\w+_loss)\..*"
)
# What holds no learned value, and what a training loop left behind.
BUFFER = re.compile(
    r"(?:.*\.)?(?:position_ids|token_type_ids|inv_freq|masked_bias|num_batches_tracked|_float_tensor|version)"
    r"|(?:.*\.)?(?:optimizer|optim|lr_scheduler|scheduler)(?:\..*|$)"
)


class Loaded(Protocol):
    audit: Any


T = TypeVar("T", bound=Loaded)


@dataclass(frozen=True)
class Change:
    """A prefix to take off the names that have it, and one to put before those of the base model."""

    strip: str
    add: str

    def apply(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under their new names.

        Raises:
            CheckpointMismatch: two of them would get one name.
        """
        changed = {self._name(name): tensor for name, tensor in tensors.items()}
        if len(changed) < len(tensors):
            raise CheckpointMismatch(f"the names are not unique without {self.strip!r}")
        return changed

    def _name(self, name: str) -> str:
        if not name.startswith(self.strip):
            return name
        name = name.removeprefix(self.strip)
        beside = HEAD.fullmatch(name) and not name.startswith("pooler.")  # heads lie beside the base, its pooler in it
        return name if beside else self.add + name

    def __str__(self) -> str:
        taken = f"{self.strip!r} was taken off the file's names" if self.strip else ""
        put = f"{self.add!r}, which the file's names lack, was put before them" if self.add else ""
        return "; ".join(filter(None, (taken, put))) + "; only so they all match"


@dataclass
class Reading:
    """What one model reads: tensors by file, the PEFT adapter of a base model's file, files that held their LoRA themselves,
    prefixes that the official names have (``bases``), and notes for the user."""

    change: Change | None = None
    tensors: dict[Path, dict[str, Tensor]] = field(default_factory=dict)
    adapters: dict[Path, Path] = field(default_factory=dict)
    bases: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    merged: set[Path] = field(default_factory=set)

    def say(self, *notes: str) -> None:
        self.notes |= dict.fromkeys(notes)


_reading: ContextVar[Reading | None] = ContextVar("reading", default=None)


@contextmanager
def partial_weights(allowed: bool = True) -> Iterator[None]:
    """Within the block, a checkpoint may lack tensors or hold others. A run that allows this must record it."""
    token = _partial.set(allowed)
    try:
        yield
    finally:
        _partial.reset(token)


def partial_allowed() -> bool:
    """Whether :func:`partial_weights` is in force."""
    return _partial.get()


def current() -> Reading | None:
    """What is read within :func:`load_as_found`; None elsewhere."""
    return _reading.get()


@contextmanager
def reading() -> Iterator[Reading]:
    """The reading in progress, or else a new one within the block."""
    if (found := _reading.get()) is not None:
        yield found
        return
    token = _reading.set(found := Reading())
    try:
        yield found
    finally:
        _reading.reset(token)


def load_as_found(load: Callable[[], T], partial: bool = False) -> tuple[T, tuple[str, ...]]:
    """What ``load()`` makes of a checkpoint, and sentences for the user on how its files were read.

    If the names in the file do not match, ``load`` is called again with a prefix less or more (:class:`Change`); the first change
    with which every tensor of the model is in the file counts, and is said. Each call sees torch's generator in the same state.
    With ``partial``, tensors of heads may be absent then, and others too if the names stay as they are.

    Raises:
        UserError: the checkpoint is refused; of several refusals, the one that says most.
    """
    token = _reading.set(found := Reading())
    random = torch.get_rng_state()

    def attempt(change: Change | None, allowed: bool) -> T:
        torch.set_rng_state(random)
        found.change = change
        with partial_weights(allowed):
            model = load()
        if left_out := sorted(str(folder) for file, folder in found.adapters.items() if file not in found.tensors):
            raise CheckpointMismatch(
                f"checkpoint {left_out[0]!r}: this model reads its files in its own way, which leaves the PEFT adapter out; "
                "save the whole: model.merge_and_unload().save_pretrained(FOLDER)"
            )
        return model

    try:
        try:
            return attempt(None, False), tuple(found.notes)
        except UserError as error:
            refusal = error
        changes = _changes(found)
        for allowed in (False, True) if partial else (False,):
            for change in (None, *changes) if allowed else changes:
                try:
                    model = attempt(change, allowed)
                except UserError as error:
                    if _telling(error) > _telling(refusal):
                        refusal = error
                    continue
                if is_whole(getattr(model.audit, "missing", ())):
                    return model, (*found.notes, *([str(change)] if change else []))
        if partial:
            return attempt(None, True), tuple(found.notes)
        raise refusal
    finally:
        _reading.reset(token)


def is_whole(missing: Collection[str]) -> bool:
    """Whether a model is all there, by the names that are not: those of heads alone."""
    return all(HEAD.fullmatch(name) for name in missing)


def _telling(error: UserError) -> int:
    """How much a refusal says: most if it is only about tensors beside a whole model, least if too few match."""
    return 1 if not isinstance(error, CheckpointMismatch) else 2 * error.whole


def _changes(found: Reading) -> list[Change]:
    """The changes of names that could be meant, by the names in the largest file that was read."""
    names = max((list(tensors) for tensors in found.tensors.values()), key=len, default=[])
    body = _body(names)
    changes = []
    for strip in ["", *common_prefixes(body, MAX_APART)]:
        inside = [name.removeprefix(strip) for name in body if name.startswith(strip)]
        for add in ["", *found.bases]:
            if strip != add and not (add and all(name.startswith(add) for name in inside)):
                changes.append(Change(strip, add))
    return changes


def _body(names: Collection[str]) -> Collection[str]:
    return [name for name in names if not HEAD.fullmatch(name) and not BUFFER.fullmatch(name)] or names


def common_prefixes(names: Collection[str], apart: int = 0) -> Iterator[str]:
    """The prefixes that all names have but those of heads and ``apart`` others, each longer than the last."""
    prefix, names = "", _body(names)
    while names:
        inside = [name[len(prefix) :].partition(".") for name in names if name.startswith(prefix)]
        segments = [segment for segment, dot, _ in inside if dot and not segment.isdigit()]
        if not segments:
            return
        commonest = max(sorted(set(segments)), key=segments.count)
        if len(names) - segments.count(commonest) > min(apart, len(names) // 4):
            return
        prefix += f"{commonest}."
        yield prefix
