"""phastCons (Siepel et al. 2005, Genome Res 15:1034): the probability that a position is in a conserved element."""

from __future__ import annotations

from typing import ClassVar

from harness.card import ModelCard

from ._scores import Scores


class PhastCons(Scores):
    """Embedding: the phastCons score of the position at the window's centre; see :class:`Scores` for the options."""

    name: ClassVar[str] = "phastcons"
    card = ModelCard(
        summary="probability that a position is in an element conserved among 100 vertebrates (phastCons100way)",
        paper="Siepel et al. 2005, Genome Res 15:1034",
        licence="scores: free for any use (UCSC); implementation: Apache-2.0",
        alphabet="any",
        reads="score",
        scores="phastcons",
    )
    columns = ("phastcons", "phastcons100way", "phastcons100way_vertebrate")
