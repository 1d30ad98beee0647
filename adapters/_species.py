"""The species that a model of alignments was trained with, whose order its weights depend on."""

from __future__ import annotations

from pathlib import Path

from harness.files.checkpoint import read_config

from ._config import stated


def recorded_species(file: Path) -> tuple[str, ...] | None:
    """The species after the target that `harness pretrain` recorded beside the weights; None if it did not.

    Raises:
        BadData: the record is not a JSON object.
    """
    names = stated(read_config(file, ("",), "pretrain.json"), "settings.species")
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) and name for name in names):
        return None
    return tuple(names[1:])
