"""Models made from requests, for runs, pretraining and notebooks alike. Checking a request imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import registry
from harness.errors import BadData, CheckpointMismatch, UserError
from harness.files import generic, hub, sources
from harness.files.code import beside, code_digest, code_modules, watch_reading
from harness.files.fingerprint import digest, file_digest, remembered

from . import keep

if TYPE_CHECKING:
    from harness.adapter import Adapter

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TYPES = {"bool": bool, "int": int, "float": float, "str": str}
# Files of a checkpoint's folder that no adapter reads.
_UNREAD = (hub.SUMS, "loss.csv", "loss.png", "state.pt")
_UNREAD_ENDINGS = (".md", ".bad", ".part", ".tmp", ".lock", ".metadata")
# What may lie beside a weight file and be read with it.
_BESIDE = re.compile(
    r"(\w*config|tokenizer|vocab|merges|special_tokens_map|added_tokens|spiece|spm|sentencepiece\.bpe|pretrain|.*\.index)"
    r"\.(json|txt|model)"
)
_PRETRAINED = "pretrain.json"  # the record of `harness pretrain`


_imported: dict[str, str] = {}  # the modules of models that this process has built, as they were then


@dataclass(frozen=True)
class ModelRequest:
    """Which model, with which weights: plain values, as :func:`request` checks them.

    ``checkpoint`` is None for random initialisation at the named ``size``; ``options`` are keyword arguments of the
    adapter's ``from_checkpoint``; ``allow_partial`` lets the checkpoint lack tensors.
    """

    model: str
    checkpoint: str | None = None
    size: str = "base"
    options: Mapping[str, Any] = field(default_factory=dict)
    allow_partial: bool = False

    def fingerprint(self) -> str | None:
        """sha256 over the checkpoint's files that may be read: weights, configuration, vocabulary; None without one."""
        if self.checkpoint is None:
            return None
        path = Path(self.checkpoint)
        if keep.is_kept(path):
            return keep.read(path).fingerprint(path)
        if path.name.endswith(".index.json"):  # of weights in several files, which lie beside it
            path = path.parent
        if path.is_dir():
            files = [file for file in path.iterdir() if _may_be_read(file)]
        else:
            files = [path, *(file for file in path.parent.iterdir() if _BESIDE.fullmatch(file.name) and file != path)]
        # What a weight file is called does not matter; what lies beside it is read by its name.
        return digest(sorted([file.name if _BESIDE.fullmatch(file.name) else "", _content(file)] for file in files))

    @property
    def name(self) -> str:
        """What tables and records call the model."""
        return generic.model_name(registry.model_facts(self.model), self.checkpoint or self.options.get(generic.CONFIG))

    def identity(self) -> str:
        """sha256 of everything but code and seed that determines the untrained model.

        Files count by their content: the checkpoint's, those that options name, and the scores that the card names.
        """
        facts = registry.model_facts(self.model)
        published = sources.locate(sources.REFERENCES[facts.card.scores]) if facts.card.scores else None
        options = {name: generic.option_content(facts, name, value) for name, value in self.options.items()}
        return digest(
            {
                "weights": self.fingerprint() or self.size,
                "partial": self.allow_partial,
                "options": options,
                "side files": self._side_files(),
                "scores": file_digest(published) if published is not None and published.is_file() else None,
            }
        )

    def _side_files(self) -> list[list[str]]:
        """Names and sha256 of the files that a plug-in reads while it is built, beside its checkpoint and what options name.

        Which these are is found by building it once, and remembered until its code changes. The project's own models read
        none.
        """
        file = registry.model_file(self.model)
        if registry.is_own(self.model):
            return []

        def found() -> list[str]:
            import torch

            with torch.random.fork_rng(), watch_reading() as read:
                self.build()
            given = {Path(path).resolve() for path in (self.checkpoint, *self.options.values()) if isinstance(path, str)}
            return [str(path) for path in beside(file, read) if not given & {path, path.parent}]

        asked = [code_digest(file), self.size, self.checkpoint, dict(self.options), self.allow_partial]
        names = remembered("side files", [file], asked, found)
        return [[Path(name).name, file_digest(Path(name))] for name in names if Path(name).is_file()]

    def _check_code(self) -> None:
        """Refuse a module of the model that was changed after this process imported it; the model's own file is read anew.

        Raises:
            UserError: one was.
        """
        file = registry.model_file(self.model)
        registry.adapter_class(self.model)
        for name, statements in code_modules(file).items():
            if name != file.stem and _imported.setdefault(name, statements) != statements:
                raise UserError(f"{name}: its code has changed since it was imported; start Python again")

    def build(self) -> Adapter:
        """The adapter. Random weights are drawn from torch's generator, which the caller seeds.

        A checkpoint is loaded whole, or partly where the user allows that, whatever the adapter itself checks.

        Raises:
            UserError: the adapter loads no weights, or refuses an option.
            CheckpointMismatch: tensors are missing in the file, and that is not allowed.
            BadData: a weight is not a finite number.
        """
        import torch

        from harness.files.checkpoint import partial_weights

        path = None if self.checkpoint is None else Path(self.checkpoint)
        self._check_code()
        if path is not None and keep.is_kept(path):
            return keep.backbone(path)
        with partial_weights(self.allow_partial):
            adapter = registry.adapter_class(self.model).from_checkpoint(path, size=self.size, **self.options)
        if adapter.card.generic:
            vars(adapter).update(name=self.name, card=registry.model_facts(self.model).card)
        if path is not None and adapter.audit is None:
            raise UserError(f"checkpoint {str(path)!r}: {adapter.name} loads no weights; leave --checkpoint out")
        audit = adapter.audit
        if path is not None and audit is not None:
            if audit.expected and (not audit.matched or (audit.missing and not self.allow_partial)):
                raise CheckpointMismatch(
                    f"checkpoint {audit.source}: {audit.matched} of {audit.expected} tensors match {adapter.name}, and "
                    f"{', '.join(audit.missing[:3])}… stay random; give the whole file, or --allow-partial"
                )
            for name, tensor in adapter.state_dict().items():
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise BadData(f"checkpoint {audit.source}: {name} holds values that are not finite; fetch it again")
        return adapter


def request(
    model: str,
    *,
    checkpoint: str | None = None,
    init: str | None = None,
    options: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    official: bool = True,
) -> ModelRequest:
    """Check a command's options and make a request of them; a ``checkpoint`` on the hub is downloaded.

    ``checkpoint`` is a path or a hub id, ``init`` is ``random[:SIZE]``, and ``options`` may be text, as on the command line.
    With neither ``checkpoint`` nor ``init``, a pretrained model gets its official weights if ``official`` is true, and
    random ones otherwise.

    Raises:
        UserError: no such model, option, size or weights, or both ``checkpoint`` and ``init``.
        DownloadFailed: the hub cannot be reached.
    """
    facts = registry.model_facts(model)
    size, typed = _random_size(init, checkpoint), _typed(facts, options or {})
    path = None
    if facts.card.generic:
        path = generic.resolve(facts, checkpoint, init, typed)
    elif checkpoint is not None:
        path = hub.resolve(facts.name, facts.card, checkpoint)
        if keep.is_kept(path):
            keep.check(path, facts.name, options or {})
    elif init is None and official and (facts.card.checkpoint or facts.card.get):
        path = hub.official(facts.name, facts.card)
    return ModelRequest(model, path and str(path), size, typed, allow_partial)


def _content(file: Path) -> str:
    """sha256 of a file; of the record of `harness pretrain`, of its settings and data only, not of times and versions."""
    if file.name == _PRETRAINED:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            return digest([record["settings"], record["data"]])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # someone else's file of this name
    return file_digest(file)


def _may_be_read(file: Path) -> bool:
    return (
        file.is_file()
        and not file.name.startswith(".")
        and file.name not in _UNREAD
        and file.suffix.lower() not in _UNREAD_ENDINGS
    )


def _random_size(init: str | None, checkpoint: str | None) -> str:
    """The size that ``--init random:SIZE`` asks for."""
    kind, _, size = (init or "random").partition(":")
    if kind != "random":
        raise UserError(f"init {init!r}: expected random, random:tiny or random:base")
    if init is not None and checkpoint is not None:
        raise UserError(f"init {init!r} and checkpoint {checkpoint!r}: choose one of them")
    return size or "base"


def _typed(facts: registry.ModelFacts, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the keyword arguments of the adapter's ``from_checkpoint``; text is converted to their types."""
    typed = {}
    for name, value in options.items():
        if not facts.options:
            raise UserError(f"option {name!r}: {facts.name} has no options; leave it out")
        if name not in facts.options:
            raise registry.unknown(f"option of {facts.name}", name, list(facts.options))
        kind = facts.options[name].type
        try:
            if not isinstance(value, str):
                typed[name] = _TYPES[kind](value)
            else:
                typed[name] = _BOOLEANS[value.lower()] if kind == "bool" else _TYPES[kind](value)
        except (KeyError, ValueError):
            raise UserError(f"option {name}={value!r}: expected a {kind}") from None
    return typed
