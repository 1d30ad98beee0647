"""Published scores, looked up at a window's locus: per position in a bigWig, per position or per allele in a table.

The score is that of the window's centre, index ``len // 2``, where a variant task puts the variant. Nothing is trained:
the probe's logistic regression turns the score into a probability.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from harness.adapter import Adapter, Batch, LoadAudit
from harness.data import Window, bare, reverse_complement
from harness.errors import BadData, DataMissing, UserError
from harness.files import sources
from harness.files.bigwig import SIGNATURES
from harness.recipe import Recipe

from ._score_files import EXPECTED, SEVERAL, BedGraph, BigWig, Lookup, ScoreTable, is_bed_graph


class Scores(Adapter, ABC):
    """One number per window, shape (B, 1), for models whose ``card.reads`` is ``score``.

    Options: ``scores``, a bigWig, a bedGraph or a table (default: the model's bigWig in the data folder); ``column`` of a table
    (default: the first of ``columns`` that it has); ``missing``; ``several``. A position that the file does not cover stops the
    run. A position without a score does so too, unless ``missing=mean``: then it gets the mean of the file, and such windows
    are counted as unknown tokens.

    A score per position is the same for both windows of a SNV. The changed windows of other variants have no locus, since no
    score of a base is theirs: they stop the run, or count as windows without a score with ``missing=mean``. With ``of_alleles``,
    a table's row is the score of its alternate letter, and its reference letter scores 0.

    A field of a table may list several scores, one a transcript, and several rows may hold one variant. If they differ, that
    stops the run, unless ``several`` says which one counts, ``max`` or ``min``. Rows of insertions and deletions are skipped
    and counted.
    """

    columns: ClassVar[tuple[str, ...]]
    of_alleles: ClassVar[bool] = False
    recipe = Recipe(tune="probe")
    embedding_dim = 1

    def __init__(self, lookup: Lookup | None, fill: float) -> None:
        super().__init__()
        self.lookup, self.fill = lookup, fill
        if lookup is not None:
            filled = () if math.isnan(fill) else (f"a window without a score gets the mean of the file, {fill:.4g}",)
            rows = f"{lookup.skipped:,} rows of scores are skipped: they are no single-nucleotide variants"
            skipped = (rows,) if lookup.skipped else ()
            self.audit = LoadAudit(
                source=str(lookup.path),
                sha256=lookup.fingerprint,
                expected=0,
                matched=0,
                facts={"column": lookup.column, "mean": lookup.mean, "sha256_of": lookup.hashed},
                warnings=(*filled, *skipped),
            )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Path | None = None,
        *,
        size: str = "base",
        scores: str = "",
        column: str = "",
        missing: str = "refuse",
        several: str = "refuse",
    ) -> Self:
        if checkpoint is not None:
            raise UserError(
                f"checkpoint {str(checkpoint)!r}: {cls.name} has no weights; give its scores with --option scores=FILE"
            )
        if missing not in ("refuse", "mean"):
            raise UserError(f"option missing={missing!r}: expected refuse or mean")
        if several not in SEVERAL:
            raise UserError(f"option several={several!r}: expected {', '.join(SEVERAL)}")
        path = Path(scores).expanduser() if scores else cls.published()
        if path is None or not (scores or path.is_file()):
            return cls(None, math.nan)  # collate says which file is missing
        lookup = cls.open_scores(path, column, several)
        return cls(lookup, lookup.mean if missing == "mean" else math.nan)

    @classmethod
    def published(cls) -> Path | None:
        """Where the published bigWig is, or will be."""
        return sources.locate(sources.REFERENCES[cls.card.scores]) if cls.card.scores else None

    @classmethod
    def open_scores(cls, path: Path, column: str = "", several: str = "refuse") -> Lookup:
        """The scores of a file of any kind that the model reads.

        Raises:
            UserError: it cannot be read, is of another kind, or an option does not suit it.
        """
        try:
            with path.open("rb") as file:
                signature = file.read(4)
        except OSError as error:
            raise BadData(f"{path}: cannot be read ({error.strerror}); expected {EXPECTED}") from None
        is_big_wig = signature in SIGNATURES
        if not is_big_wig and not is_bed_graph(path):
            return ScoreTable(path, column, cls.columns, cls.of_alleles, several)
        kind = "bigWig" if is_big_wig else "bedGraph"
        if cls.of_alleles:
            raise UserError(f"{path}: a {kind} has one score a position; {cls.name} needs a table, with one an allele")
        if column:
            raise UserError(f"option column={column!r}: {path} is a {kind}, which has no columns; leave it out")
        if several != "refuse":
            raise UserError(f"option several={several!r}: {path} is a {kind}, which has one score a position; leave it out")
        return BigWig(path) if is_big_wig else BedGraph(path)

    def collate(self, windows: Sequence[Window]) -> Batch:
        places = [self._place(window) for window in windows]
        known = [place for place in places if place is not None]
        if len(known) < len(places) and (math.isnan(self.fill) or not known):
            raise UserError(
                f"{self.name}: scores are looked up by locus, and {len(places) - len(known):,} of {len(places):,} windows at "
                "hand have none; give SNVs with their genome, or, for insertions, deletions and longer substitutions among them, "
                "--option missing=mean"
            )
        if self.lookup is None:
            raise self._no_file()
        values = np.array([math.nan if place is None else self.lookup.score(*place) for place in places], np.float32)
        absent = np.isnan(values)
        if absent.any() and math.isnan(self.fill):
            chromosome, position, letter = known[int(absent.argmax())]
            raise BadData(
                f"{self.lookup.path}: {absent.sum():,} of {len(windows):,} windows at hand have no score, the first "
                f"{chromosome}:{position} {letter}; --option missing=mean gives them the mean of the file"
            )
        values[absent] = self.fill
        return {"scores": torch.from_numpy(values[:, None]), "absent": torch.from_numpy(absent)}

    def forward(self, batch: Batch) -> Tensor:
        return batch["scores"]

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        return int(batch["absent"].sum()), len(batch["absent"])

    def _place(self, window: Window) -> tuple[str, int, str] | None:
        """Chromosome without ``chr``, 1-based position and plus-strand letter of a window's centre; None without a locus."""
        locus, centre = window.locus, len(window) // 2
        if locus is None:
            return None
        if locus.strand == "-":
            return bare(locus.chromosome), locus.end - centre, reverse_complement(window.sequence[centre])
        return bare(locus.chromosome), locus.start + centre + 1, window.sequence[centre]

    def _no_file(self) -> UserError:
        if not self.card.scores:
            return UserError(f"{self.name}: no scores; give a table of them with --option scores=FILE")
        return DataMissing(
            f"{self.name}: {self.published()} is missing; `harness data get {self.card.scores}` downloads it, "
            "or give a bigWig or a table with --option scores=FILE"
        )
