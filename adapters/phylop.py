"""phyloP (Pollard et al. 2010, Genome Res 20:110): is a position more or less conserved than under neutral evolution?"""

from __future__ import annotations

from typing import ClassVar

from harness.card import ModelCard

from ._scores import Scores


class PhyloP(Scores):
    """Embedding: the phyloP score of the position at the window's centre; see :class:`Scores` for the options."""

    name: ClassVar[str] = "phylop"
    card = ModelCard(
        summary="conservation of a position among 100 vertebrates (phyloP100way), or any score per position",
        paper="Pollard et al. 2010, Genome Res 20:110",
        licence="scores: free for any use (UCSC); implementation: Apache-2.0",
        alphabet="any",
        reads="score",
        scores="phylop",
    )
    columns = ("phylop", "phylop100way", "phylop100way_vertebrate")
