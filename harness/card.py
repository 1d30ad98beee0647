"""ModelCard: what is known of a model before any of its code runs."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelCard:
    """Facts about a model, shown by ``harness list models``.

    Write it as a literal: the list reads it out of the file's syntax tree, so that listing imports no model.
    ``reads`` is ``sequence`` or ``alignment``, or ``score`` where a window's centre has a score by its locus or its column,
    whatever stands around it; ``max_length`` is in nucleotides, None where unlimited. ``checkpoint`` is the
    hub id of the official weights, ``revision`` its pinned commit, ``files`` what of it is needed, ``sha256`` what is known
    of these; where a model is published elsewhere, ``checkpoint`` is None and ``get`` says where to find it. ``scores``
    names the reference file (`harness data get`) that a model of scores looks up by default. A ``floor`` is what any model
    must beat. A ``generic`` adapter reads the weights of many models, of which ``NAME:owner/name`` names one on the hub.
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
    files: tuple[str, ...] = ()
    sha256: dict[str, str] = field(default_factory=dict)
    get: str = ""
    scores: str = ""
    floor: bool = False
    generic: bool = False
