"""Models made from requests, for runs, pretraining and notebooks alike. Checking a request imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import registry
from harness.errors import BadData, CheckpointMismatch, DataMissing, DownloadFailed, UserError
from harness.facts import Option
from harness.files import generic, hub, peft, sources
from harness.files.code import beside, code_digest, code_modules, watch_reading
from harness.files.fingerprint import digest, file_digest, remembered
from harness.files.weight_files import INDEX, Found, adapter_folder, find_weights, parts

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
    r"((?!adapter_)\w*config|tokenizer|vocab|merges|special_tokens_map|added_tokens|pretrain|spiece|spm|sentencepiece(\.bpe)?)"
    r"\.(json|txt|model)"
)
_ARRAYS = (".npz", ".pdparams")  # weights that only some models read
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
        """sha256 over what is read of the checkpoint: weights, configuration, vocabulary; None without one.

        Of a PEFT adapter these are its own weights and settings and the files of its base model. Paths do not matter.
        """
        if self.checkpoint is None:
            return None
        path = Path(self.checkpoint)
        if keep.is_kept(path):
            return keep.read(path).fingerprint(path)
        card = registry.model_facts(self.model).card
        try:
            found = find_weights(path, *(name for name in card.files if name.endswith((".pth", ".pt", ".ckpt"))))
        except (DataMissing, BadData):
            if not path.is_dir():
                raise
            # Files whose names only the model knows, or what building it will refuse.
            return digest(sorted(_named(file) for file in path.iterdir() if _may_be_read(file)))
        read = parts(found.file)
        beside = [file for file in found.file.parent.iterdir() if file not in read and _may_be_read(file)]
        if registry.is_own(self.model) or not path.is_dir():
            beside = [file for file in beside if _BESIDE.fullmatch(file.name) or (path.is_dir() and file.suffix in _ARRAYS)]
        return digest(sorted([*map(_named, read), *map(_named, beside), *_adapter(found)]))

    @property
    def name(self) -> str:
        """What tables and records call the model."""
        facts = registry.model_facts(self.model)
        if facts.card.generic and self.checkpoint is not None and keep.is_kept(Path(self.checkpoint)):
            return keep.read(Path(self.checkpoint)).run["name"]
        return generic.model_name(facts, self.checkpoint or self.options.get(generic.CONFIG))

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

        A checkpoint is loaded whole, or partly where the user allows that, whatever the adapter itself checks. What was chosen
        or changed to read it (a sub-folder, a prefix of names, a merged LoRA) is said in the audit's warnings.

        Raises:
            UserError: the adapter loads no weights, or refuses an option.
            CheckpointMismatch: tensors are missing in the file, and that is not allowed.
            BadData: a weight is not a finite number.
        """
        import torch

        from harness.files.checkpoint import load_as_found

        path = None if self.checkpoint is None else Path(self.checkpoint)
        self._check_code()
        if path is not None and keep.is_kept(path):
            return keep.backbone(path)
        model = registry.adapter_class(self.model)
        adapter, notes = load_as_found(
            lambda: model.from_checkpoint(path, size=self.size, **self.options), partial=self.allow_partial
        )
        if adapter.audit is not None and notes:
            adapter.audit = replace(adapter.audit, warnings=(*notes, *adapter.audit.warnings))
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
    size, known = _random_size(init, checkpoint), typed(facts.name, facts.options, options or {})
    path = None
    if facts.card.generic:
        path = generic.resolve(facts, checkpoint, init, known)
    elif checkpoint is not None:
        path = hub.resolve(facts.name, facts.card, checkpoint)
    elif init is None and official and (facts.card.checkpoint or facts.card.get):
        path = hub.official(facts.name, facts.card)
    if path is not None and checkpoint is not None and keep.is_kept(path := keep.run_of(path)):
        keep.check(path, facts.name, options or {})
    if path is not None and (adapter := adapter_folder(path)) and (base := peft.hub_base(adapter)):
        _fetch_base(facts, base, adapter)
    return ModelRequest(model, path and str(path), size, known, allow_partial)


def _fetch_base(facts: registry.ModelFacts, base: str, adapter: Path) -> None:
    """Fetch the base model of a PEFT adapter from the hub; the card's own model at the card's revision.

    Raises:
        DataMissing: it is not to be had.
    """
    try:
        hub.fetch(facts.name, facts.card) if base == facts.card.checkpoint else hub.resolve(facts.name, facts.card, base)
    except (DownloadFailed, DataMissing) as error:
        reason = str(error).rpartition("from the hub: ")[2]
        raise DataMissing(f"checkpoint {str(adapter)!r}: a PEFT adapter, whose base model {base} is not here: {reason}") from None


def _named(file: Path) -> list[str]:
    """A file's name, if what it is called matters, and its content."""
    return [file.name if _BESIDE.fullmatch(file.name) or file.name.endswith(INDEX) else "", _content(file)]


def _adapter(found: Found) -> list[list[str]]:
    """What a PEFT adapter that is merged contributes: its settings and its weights."""
    folder = found.adapter or (found.file.parent if peft.describes(found.file) else None)
    if folder is None:
        return []
    weights = peft.adapter_file(folder)
    return [["adapter", digest(peft.read_settings(folder).identity())], *([["", file_digest(weights)]] if weights else [])]


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


def typed(owner: str, known: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as keyword arguments; text is converted to their types. ``owner`` is whose options they are, in words.

    Raises:
        UserError: an option that is not known, or a value of another type.
    """
    converted = {}
    for name, value in given.items():
        if not known:
            raise UserError(f"option {name!r}: {owner} has no options; leave it out")
        if name not in known:
            raise registry.unknown(f"option of {owner}", name, list(known))
        kind = known[name].type
        try:
            if not isinstance(value, str):
                converted[name] = _TYPES[kind](value)
            else:
                converted[name] = _BOOLEANS[value.lower()] if kind == "bool" else _TYPES[kind](value)
        except (KeyError, ValueError):
            raise UserError(f"option {name}={value!r}: expected a {kind}") from None
    return converted
