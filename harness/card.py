"""ModelCard: what is known of a model before any of its code runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelCard:
    """Facts about a model, shown by ``harness list models``.

    Write it as a literal: the list reads it out of the file's syntax tree, so that listing imports no model.
    ``reads`` is ``sequence`` or ``alignment``; ``max_length`` is in nucleotides, None where unlimited; ``checkpoint`` and
    ``revision`` name the official weights where there are any; a ``floor`` is what any model must beat.
    """

    summary: str
    paper: str
    licence: str
    alphabet: str
    reads: str = "sequence"
    parameters: str = ""
    max_length: int | None = None
    checkpoint: str | None = None
    revision: str | None = None
    floor: bool = False
