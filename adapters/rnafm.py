"""RNA-FM (Chen et al. 2022, arXiv 2204.00300): a pre-norm encoder of ESM-1b's design, trained on 23 million non-coding RNAs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from harness.card import ModelCard
from harness.errors import CheckpointMismatch
from harness.files.checkpoint import read_tensors, rename, weight_file
from harness.objective import Objective
from harness.recipe import PretrainingRecipe, Recipe

from ._bert import BERT_NAMES, has_language_head, read_shape
from ._config import count_layers
from ._masking import Token
from ._options import of_size
from ._rna import (
    MULTIMOLECULE,
    MULTIMOLECULE_EARLIER,
    SETTINGS,
    RNAModel,
    Vocabulary,
    check_ids,
    own_family,
    read_known_config,
    read_vocabulary,
)
from ._transformer import Shape

OFFICIAL = Vocabulary("<cls> <pad> <eos> <unk> A C G U R Y K M S W B D H V N - <null_1> <null_2> <null_3> <null_4> <mask>")

# The model was trained with an epsilon of 1e-5; the ports' config.json said 1e-12 until 2026. Upstream's layers have no dropout.
OLD_EPSILON = 1e-12
NO_DROPOUT: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0}
VARIANT: dict[str, Any] = {"first_position": 2, "types": 0, "pre_norm": True, "epsilon": 1e-5}
BASE = Shape(12, 640, heads=20, inner=5120, vocabulary=25, positions=1026, **VARIANT, **NO_DROPOUT)
SIZES = {"tiny": replace(BASE, layers=2, width=64, heads=4, inner=128), "base": BASE}

# The official file's names → ours.
OFFICIAL_NAMES = (
    (r"^(encoder\.|sentence_encoder\.)+", ""),
    (r"^embed_(tokens|positions)\.", r"encoder.\1."),
    (r"^emb_layer_norm_before\.", "encoder.norm."),
    (r"^emb_layer_norm_after\.", "encoder.final_norm."),
    (r"^layers\.", "encoder.layers."),
    (r"\.self_attn\.out_proj\.", ".out."),
    (r"\.self_attn\.q_proj\.", ".query."),
    (r"\.self_attn\.k_proj\.", ".key."),
    (r"\.self_attn\.v_proj\.", ".value."),
    (r"\.self_attn_layer_norm\.", ".attention_norm."),
    (r"\.final_layer_norm\.", ".mlp_norm."),
    (r"\.fc1\.", ".up."),
    (r"\.fc2\.", ".down."),
    (r"^lm_head\.layer_norm\.", "lm_head.norm."),
    (r"^lm_head\.weight$", "lm_head.decoder.weight"),
)


class RNAFM(RNAModel):
    """Embedding: the mean of the bases' hidden states, without start and end token, as in the authors' tutorials.

    Follows ``fm.model.BioBertModel``. T is read as U. Two layouts are recognised by their tensors' names: the authors' file
    and the multimolecule port. The authors' loader sets the embedding of the mask token, and with it the decoder's row, to
    zero, which is done here for their file too. The port keeps the trained row, so its probabilities at masked bases differ. So
    does what was pretrained here. Pretraining has no published code: 15 % of the bases, 80/10/10 (README, model card).
    """

    name: ClassVar[str] = "rnafm"
    card = ModelCard(
        summary="12-layer encoder of non-coding RNA, one token a base",
        paper="Chen et al. 2022, arXiv 2204.00300",
        licence="MIT; the multimolecule port's files are AGPL-3.0, and read here as data only",
        alphabet="ACGU and N",
        parameters="99.5 M",
        max_length=1022,
        checkpoint="cuhkaih/rnafm",
        files=("RNA-FM_pretrained.pth",),
        get="also https://proj.cse.cuhk.edu.hk/rnafm/api/download?filename=RNA-FM_pretrained.pth; a port: multimolecule/rnafm",
    )
    # The authors train small models on frozen embeddings and publish no fine-tuning settings; these are BERT's usual ones.
    recipe = Recipe(learning_rate=3e-5, batch_size=16, epochs=20, schedule="linear", warmup=0.1)
    # Warm-up took 10,000 steps; batch, number of steps and betas are unknown.
    pretraining = PretrainingRecipe(learning_rate=1e-4, weight_decay=0.01, batch_size=16, schedule="inverse_sqrt", warmup=0.05)
    pretraining_context = 1022
    objectives: ClassVar[Mapping[str, type[Objective]]] = {"token": Token}
    lora_targets = ("query", "value")
    family = "rnafm"

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Path | None = None, *, size: str = "base", pooling: str = "mean", layer: int = -1
    ) -> Self:
        if checkpoint is None:
            return cls(of_size(cls.name, size, SIZES), OFFICIAL, pooling, layer)
        file = weight_file(checkpoint, "RNA-FM_pretrained.pth")
        theirs = read_tensors(file, "rnafm.")
        if any("embed_tokens" in name for name in theirs):
            layout, tensors = "official", rename(theirs, OFFICIAL_NAMES, file)
        elif own_family(theirs, file, (cls.family,)):
            layout, tensors = "own", theirs
        elif any(name.startswith(("model.", "rnafm.")) for name in theirs):
            layout, tensors = "multimolecule", rename(theirs, BERT_NAMES, file)
        else:
            raise CheckpointMismatch(
                f"checkpoint {file}: 0 of {len(theirs)} tensors are named as in RNA-FM; one is {min(theirs)}"
            )
        facts = {"layout": layout}
        if layout == "official":
            # The contact head has one weight per attention head and layer; without it, heads are as wide as published.
            contacts = tensors.get("contact_head.regression.weight")
            layers = count_layers({}, "", tensors, "encoder.layers.", file)
            heads = 0 if contacts is None or not layers or contacts.numel() % layers else contacts.numel() // layers
            shape = read_shape(BASE, tensors, {}, file, heads)
            vocabulary = official_vocabulary(file, shape.vocabulary)
        else:
            config = read_known_config(file, ("rnafm",), {**SETTINGS, "emb_layer_norm_before": (True,)})
            shape = read_shape(BASE, tensors, config, file)
            vocabulary = read_vocabulary(file, shape.vocabulary, (MULTIMOLECULE, MULTIMOLECULE_EARLIER))
            check_ids(config, vocabulary, file)
        if layout == "multimolecule":
            shape = replace(shape, **NO_DROPOUT)
            if shape.epsilon == OLD_EPSILON:
                facts["layer_norm_eps"] = f"{BASE.epsilon}, as trained; config.json says {OLD_EPSILON}"
                shape = replace(shape, epsilon=BASE.epsilon)
        model = cls(shape, vocabulary, pooling, layer, has_language_head(tensors))
        model.take(tensors, file, facts)
        if layout == "official":
            with torch.no_grad():
                model.encoder.tokens.weight[vocabulary.mask] = 0
        return model


def official_vocabulary(file: Path, rows: int) -> Vocabulary:
    """The official vocabulary, which comes without a file.

    Raises:
        CheckpointMismatch: the embedding has another number of rows.
    """
    if rows != OFFICIAL.size:
        raise CheckpointMismatch(f"checkpoint {file}: {rows} tokens; RNA-FM has {OFFICIAL.size} (its codon model is another one)")
    return OFFICIAL
