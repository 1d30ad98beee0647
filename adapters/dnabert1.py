"""DNABERT (Ji et al. 2021, Bioinformatics 37:2112): a BERT over overlapping k-mers of the human genome."""

from __future__ import annotations

from typing import ClassVar

from harness.card import ModelCard
from harness.recipe import PretrainingRecipe, Recipe

from ._kmer_bert import KmerBert
from ._span import Span


class DNABERT1(KmerBert):
    """Embedding: the tanh pooler on [CLS]; ``pooling=cls`` is [CLS] itself, ``mean`` averages all tokens with [CLS] and [SEP].

    Options: ``pooling``; ``layer`` (default the last); ``long=chunks`` for windows beyond 512 tokens; ``k`` at random
    initialisation (a file's vocabulary determines its k).
    """

    name: ClassVar[str] = "dnabert1"
    card = ModelCard(
        summary="BERT over overlapping 6-mers of the human genome",
        paper="Ji et al. 2021, Bioinformatics 37:2112",
        licence="code: Apache-2.0; weights: none stated",
        alphabet="ACGT; a k-mer with N is unknown",
        parameters="89 M",
        max_length=515,
        checkpoint="zhihan1996/DNA_bert_6",
        files=("config.json", "pytorch_model.bin"),
    )
    # The fine-tuning command in the authors' README.
    recipe = Recipe(learning_rate=2e-4, weight_decay=0.01, warmup=0.1, batch_size=32, epochs=5)
    # The pretraining command in the authors' README, which warms up for 10,000 steps, of the paper's 120,000; those are of 2,000
    # windows (--tokens-per-step 1030000).
    pretraining = PretrainingRecipe(
        learning_rate=4e-4,
        betas=(0.9, 0.98),
        epsilon=1e-6,
        weight_decay=0.01,
        batch_size=16,
        warmup=0.0833,
        schedule="linear",
        clip=1.0,
    )
    pretraining_context = 515
    objectives: ClassVar = {"span": Span}
