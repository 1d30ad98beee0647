"""GeneMask (Roy et al. 2023, ECAI): DNABERT's architecture, pretrained by masking k-mers of high mutual information together."""

from __future__ import annotations

from typing import ClassVar

from harness.card import ModelCard
from harness.recipe import PretrainingRecipe, Recipe

from ._kmer_bert import KmerBert
from ._pmi import Pmi
from ._span import Span


class GeneMask(KmerBert):
    """Embedding: the tanh pooler on [CLS]; ``pooling=cls`` is [CLS] itself, ``mean`` averages all tokens with [CLS] and [SEP].

    Given the weights, this is DNABERT-1, with the same options: ``pooling``, ``layer``, ``long``, ``k``. Masking by mutual
    information (the objective ``pmi``) concerns pretraining only; the published weights were masked by ``ranks=position``.
    """

    name: ClassVar[str] = "genemask"
    card = ModelCard(
        summary="DNABERT-1 pretrained by masking 6-mers of high mutual information together",
        paper="Roy et al. 2023, ECAI (GeneMask)",
        licence="weights: none stated; the authors' code and PMI table: GPL-3.0; implementation here: Apache-2.0",
        alphabet="ACGT; a k-mer with N is unknown",
        parameters="89 M",
        max_length=515,
        get="Google Drive folder 101qPYTdBFXR5XmPwZ-rCDFDD3gwsB9vj: put config.json and pytorch_model.bin into one folder",
    )
    # The authors' script for 1,000 training examples per class; for 10 they use 1e-4, batches of 5 and 20 epochs.
    recipe = Recipe(learning_rate=5e-5, weight_decay=0.01, warmup=0.1, batch_size=15, epochs=5)
    # The authors' script: 10,000 steps with 500 of warm-up, of 250 windows a GPU (--tokens-per-step 127750 for one).
    pretraining = PretrainingRecipe(
        learning_rate=8e-4,
        betas=(0.9, 0.98),
        epsilon=1e-6,
        weight_decay=0.01,
        batch_size=16,
        warmup=0.05,
        schedule="linear",
        clip=1.0,
    )
    pretraining_context = 511
    objectives: ClassVar = {"pmi": Pmi, "span": Span}
