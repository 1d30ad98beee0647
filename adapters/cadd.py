"""CADD (Rentzsch et al. 2019, Nucleic Acids Res 47:D886): the deleteriousness of a variant, predicted from many annotations.

https://cadd.bihealth.org scores a VCF and returns a table (``#Chrom Pos Ref Alt RawScore PHRED``). Any other score of
variants can be read the same way with ``--option column=NAME``.
"""

from __future__ import annotations

from typing import ClassVar

from harness.card import ModelCard

from ._scores import Scores


class CADD(Scores):
    """Embedding: the score of the window's centre letter, 0 for the reference letter; see :class:`Scores` for the options."""

    name: ClassVar[str] = "cadd"
    card = ModelCard(
        summary="CADD score of a variant from a table, or any score of variants",
        paper="Rentzsch et al. 2019, Nucleic Acids Res 47:D886",
        licence="scores: non-commercial use; implementation: Apache-2.0",
        alphabet="ACGT",
        reads="score",
    )
    columns = ("cadd", "rawscore", "phred", "cadd_raw", "cadd_phred", "am_pathogenicity")
    of_alleles = True
