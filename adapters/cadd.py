"""CADD (Rentzsch et al. 2019, Nucleic Acids Res 47:D886): deleteriousness of a variant, of many annotations together.

The scores of a VCF come from https://cadd.bihealth.org as a table (``#Chrom Pos Ref Alt RawScore PHRED``). Any other score of
variants is read the same way, with ``--option column=NAME``.
"""

from __future__ import annotations

from typing import ClassVar

from harness.card import ModelCard

from ._scores import Scores


class CADD(Scores):
    """Embedding: the score of the letter at the window's centre, 0 for the reference; see :class:`Scores` for the options."""

    name: ClassVar[str] = "cadd"
    card = ModelCard(
        summary="the CADD score of a variant out of a table, or any score of variants",
        paper="Rentzsch et al. 2019, Nucleic Acids Res 47:D886",
        licence="scores: non-commercial use; implementation: Apache-2.0",
        alphabet="ACGT",
        reads="score",
    )
    columns = ("cadd", "rawscore", "phred", "cadd_raw", "cadd_phred")
    of_alleles = True
