"""RNAErnie (Wang et al. 2024, Nat. Mach. Intell. 6): three different checkpoints under one name.

* ``llm-eda``, LLM-EDA/RNAErnie on the hub: retrained with another vocabulary; 2,048 positions, no pooler.
* ``paddle``, the paper's own weights, a PaddlePaddle file. Run the ``PADDLE_COMMAND`` of _rnaernie_files.py once beside it, on
  a machine that has PaddlePaddle, to write the .npz that is read here. Its linear layers are stored (in, out) and are all
  transposed on loading.
* ``multimolecule``, multimolecule/rnaernie on the hub: the paper's weights, converted. Until May 2026 the converter left
  the square matrices (query, key, value, pooler, the masked-language head's linear layer) transposed, as PaddlePaddle
  stores them. Their shapes do not show it, so :func:`judge_orientation` tests the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from harness.card import ModelCard
from harness.errors import UserError
from harness.files.checkpoint import rename, weight_file
from harness.objective import Objective
from harness.recipe import PretrainingRecipe, Recipe

from ._bert import BERT_NAMES, has_language_head, read_shape
from ._masking import Token
from ._motif_masking import Motif
from ._options import checked, of_size
from ._rna import check_ids, read_known_config, read_vocabulary
from ._rnaernie_files import (
    LAYOUTS,
    LINEAR,
    MARK,
    PADDLE_FILES,
    PADDLE_NAMES,
    POST_NORM_SETTINGS,
    TYPES,
    is_linear,
    judge_orientation,
    read_arrays,
    read_paddle_config,
    recognise,
    transpose_square_matrices,
)
from ._type_guided import TypeGuided

SIZES = {"tiny": {"layers": 2, "width": 64, "heads": 4, "inner": 128}, "base": {}}  # what differs from the published shape


class RNAErnie(TypeGuided):
    """Embedding: the tanh pooler on the start token if the checkpoint has one, as in upstream's classifier; else the bases' mean.

    Follows paddlenlp's ``ErnieModel`` and transformers' ``BertModel``. A window's T is read as U if the vocabulary has U.
    ``layout`` names one of the three checkpoints; ``auto`` recognises it by its tensors' names, and means ``llm-eda`` at random
    initialisation. ``transposed`` is for the multimolecule port: ``yes`` or ``no`` for its square matrices, ``auto`` to find out.
    ``long=chunks`` reads windows beyond the table of positions in pieces, as the authors do; they average the pieces' scores.
    ``guided`` is type-guided stacking (see :class:`.TypeGuided`): the model as loaded names the ``top_k`` likeliest types of an
    RNA, and a window of at most 509 nt is read once with each, in ``top_k`` + 1 forward passes. ``as_released`` guides as the
    authors' code does: asked at a place that pretraining never trained, by a model whose dropout is always on, so that no two
    predictions are alike, and with the ends of windows of 509 and 510 nt overwritten.
    """

    name: ClassVar[str] = "rnaernie"
    card = ModelCard(
        summary="12-layer BERT of non-coding RNA, one token a base; three checkpoints of one name are told apart",
        paper="Wang et al. 2024, Nat. Mach. Intell. 6, 548-557",
        licence="original MIT; LLM-EDA: none stated; the multimolecule port's files are AGPL-3.0, and read here as data only",
        alphabet="ACGU, and N but in the original",
        parameters="87.2 M; the original 86.7 M",
        max_length=2046,
        checkpoint="LLM-EDA/RNAErnie",
        files=("config.json", "vocab.txt", "model.safetensors"),
        get="the paper's weights (511 nt): Zenodo 10847620, converted as adapters/rnaernie.py says; port: multimolecule/rnaernie",
    )
    # The authors' run_seq_cls.py: AdamW at a constant 1e-4, batches of 50 and 50 epochs, there without early stopping.
    recipe = Recipe(learning_rate=1e-4, batch_size=50, epochs=50, schedule="constant", warmup=0.0)
    # The authors' run_pretrain.py, whose batches have 4 × 50 windows and whose steps are 129,000. The model card
    # has weight decay 0.01 and a cool-down to 5e-5 (floor=0.5); LLM-EDA's is schedule="cosine", floor=0.1.
    pretraining = PretrainingRecipe(learning_rate=1e-4, weight_decay=0.0, batch_size=16, schedule="constant", warmup=0.02)
    pretraining_context = 508
    objectives: ClassVar[Mapping[str, type[Objective]]] = {"motif": Motif, "token": Token}
    lora_targets = ("query", "value")
    family = "bert"  # of the layout llm-eda
    remedy = "--option long=chunks reads longer ones in pieces"

    @property
    def random_ids(self) -> np.ndarray:
        """All tokens, as LLM-EDA's collator does; the paper's code takes bases alone."""
        return super().random_ids if self.family == "bert" else np.sort(self.vocabulary.bases)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Path | None = None,
        *,
        size: str = "base",
        layout: str = "auto",
        pooling: str = "auto",
        layer: int = -1,
        transposed: str = "auto",
        long: str = "refuse",
        guided: bool = False,
        top_k: int = 3,
        as_released: bool = False,
    ) -> Self:
        checked("layout", layout, ("auto", *LAYOUTS))
        checked("transposed", transposed, ("auto", "yes", "no"))
        if not guided and (as_released or top_k != 3):
            given = "as_released=true" if as_released else f"top_k={top_k}"
            raise UserError(f"option {given}: is about how to guide; add guided=true, or leave it out")
        if checkpoint is None:
            known = LAYOUTS["llm-eda" if layout == "auto" else layout]
            shape = replace(known.base, **of_size(cls.name, size, SIZES))
            pooling = default_pooling(pooling, layer, known.pooler)
            model = cls(shape, known.vocabulary, pooling, layer, pooler=known.pooler, long=long)
            model.family = known.families[0]
            return model._guided(top_k, as_released) if guided else model

        file = weight_file(checkpoint, *PADDLE_FILES, "model_state.pdparams")
        theirs = read_arrays(file)
        layout, own = recognise(theirs, layout, file)
        known = LAYOUTS[layout]
        tensors = rename(theirs, PADDLE_NAMES if layout == "paddle" else BERT_NAMES, file)
        if layout == "paddle" and not own:
            tensors = {name: tensor.T.contiguous() if is_linear(name, LINEAR) else tensor for name, tensor in tensors.items()}
        config = read_paddle_config(file) if layout == "paddle" else read_known_config(file, known.families, POST_NORM_SETTINGS)
        shape = read_shape(known.base, tensors, config, file)
        vocabulary = read_vocabulary(file, shape.vocabulary, known.vocabularies)
        check_ids(config, vocabulary, file)

        pooler = "pooler.weight" in tensors
        pooling = default_pooling(pooling, layer, pooler)
        model = cls(shape, vocabulary, pooling, layer, has_language_head(tensors), pooler, long)
        config_found = "read" if config else f"none: {shape.heads} heads, {shape.activation}, eps {shape.epsilon} assumed"
        model.take(tensors, file, {"layout": layout, "pooler": pooler, "config": config_found})
        model.family = known.families[0]
        if layout == "multimolecule" and not own:
            verdict, evidence = judge_orientation(model) if transposed == "auto" else (transposed, "as the option says")
            if verdict == "yes":
                transpose_square_matrices(model)
            assert model.audit is not None
            facts = model.audit.facts | {"transposed": verdict, "transposed_evidence": evidence}
            model.audit = replace(model.audit, facts=facts)
        elif transposed != "auto":
            found = f"{layout}, pretrained here" if own else layout
            raise UserError(
                f"option transposed={transposed!r}: only for the multimolecule port, and {file} is {found}; leave it out"
            )
        return model._guided(top_k, as_released) if guided else model

    def _guided(self, top_k: int, as_released: bool) -> Self:
        own, papers = self.vocabulary.tokens, LAYOUTS["paddle"].vocabulary.tokens
        if own[MARK : TYPES.stop] != papers[MARK : TYPES.stop]:
            raise UserError(
                f"option guided=true: needs the {len(papers)} tokens of the paper's vocabulary, {len(TYPES)} types of RNA among "
                f"them; these are {len(own)} others; give the paper's weights, or --init random with --option layout=paddle"
            )
        self.guide_by(TYPES, MARK, top_k, as_released)
        return self


def default_pooling(pooling: str, layer: int, pooler: bool) -> str:
    """Resolve ``auto``: the pooler if there is one and the last layer, which alone it reads, is asked for; else the mean."""
    if pooling != "auto":
        return pooling
    return "pooler" if pooler and layer == -1 else "mean"
