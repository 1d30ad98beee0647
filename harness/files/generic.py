"""Models of a generic adapter, which reads the weights of many: where these are, and what to call them. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from harness.errors import DataMissing, DownloadFailed, UserError
from harness.facts import ModelFacts

from . import hub, repository
from .fingerprint import file_digest

CONFIG = "config"  # the option whose folder or hub id says what a model with random weights is like


def model_name(facts: ModelFacts, given: str | None) -> str:
    """What tables and records call a model: the adapter's name, and for a generic one that of the repository or folder, too.

    ``given`` is its checkpoint, or the configuration of a model with random weights.
    """
    if not facts.card.generic or facts.card.checkpoint or not given:
        return facts.name
    path = hub.resolve(facts.name, facts.card, given, weights=False)
    folder = (path if path.is_dir() else path.parent).absolute()
    if folder.parent.parent == hub.weights_home().absolute():
        return f"{facts.name}:{folder.parent.name.replace('--', '/', 1)}"
    return f"{facts.name}:{folder.name}"


def resolve(facts: ModelFacts, checkpoint: str | None, init: str | None, options: dict[str, Any]) -> Path | None:
    """The file or folder of the weights that a generic adapter reads, downloaded if it is on the hub.

    For random weights it is None, and the repository with configuration and tokenizer becomes an option.

    Raises:
        UserError: weights are named twice or not at all, or cannot be had.
    """
    card = facts.card
    if card.checkpoint and checkpoint is not None:
        raise UserError(f"model {facts.name!r} and checkpoint {checkpoint!r}: both name weights; give one of them")
    if init is None:
        if CONFIG in options:
            what = f"option {CONFIG}={options[CONFIG]!r}"
            raise UserError(f"{what}: only for random weights; give --init random, too, or --checkpoint instead")
        if card.checkpoint:
            return _fetched(facts, weights=True)
        if checkpoint is None:
            owner = f"--model {facts.name}:owner/name"
            raise DataMissing(f"{facts.name}: says nothing of the weights; give {owner}, --checkpoint FOLDER or --init random")
        return hub.resolve(facts.name, card, checkpoint)
    if card.checkpoint:
        _fetched(facts, weights=False)
        options[CONFIG] = card.checkpoint + (f"@{card.revision}" if card.revision else "")
    elif CONFIG in options:
        folder = hub.resolve(facts.name, card, options[CONFIG], weights=False)
        if os.path.exists(os.path.expanduser(options[CONFIG])):
            options[CONFIG] = str(folder.absolute())
    return None


def option_content(facts: ModelFacts, name: str, value: Any) -> Any:
    """An option's value as it counts for a model's identity: a file's content, or a folder's configuration and tokenizer."""
    if isinstance(value, str) and os.path.isfile(value):
        return file_digest(Path(value))
    if value and name == CONFIG and facts.card.generic:
        folder = hub.resolve(facts.name, facts.card, value, weights=False)
        small = (file for file in folder.iterdir() if file.name in (repository.CONFIG, *repository.TOKENIZERS))
        return sorted([file.name, file_digest(file)] for file in small)
    return value


def _fetched(facts: ModelFacts, weights: bool) -> Path:
    """The folder of the repository that a model is named after.

    Raises:
        DataMissing: the hub does not have it, or cannot be reached.
    """
    try:
        return hub.fetch(facts.name, facts.card, weights=weights)
    except DownloadFailed as error:
        raise DataMissing(f"model {facts.name!r}: {error}") from None
