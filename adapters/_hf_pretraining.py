"""How models of ``transformers`` are pretrained: masked ones with hidden tokens, causal ones with the next."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.adapter import Batch, Pretrainable
from harness.objective import Objective
from harness.recipe import PretrainingRecipe

from ._batches import within
from ._hf_config import Kind
from ._hf_files import config_text
from ._hf_load import base_of
from ._hf_tokenizer import Vocabulary
from ._masking import Token
from ._next import Next

UNKNOWN = re.compile(r"[ACGTU]*N[ACGTUN]*")  # a token that holds an unknown letter


class Learner(Pretrainable):
    """Objectives of models of ``transformers``. The class lists all there are; a model has those that its head is for.

    Unknown tokens, those that hold an N and special ones are never asked for. ``random_ids`` are all tokens, special ones
    included, as those of transformers' ``DataCollatorForLanguageModeling``.
    """

    # BERT's (Devlin et al. 2019, appendix A.2), which warms up over 10,000 of 1,000,000 steps of 256 windows; a model's own
    # settings stand in its paper.
    pretraining = PretrainingRecipe(
        learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=0.01, batch_size=16, warmup=0.01, schedule="linear"
    )
    objectives: ClassVar[Mapping[str, type[Objective]]] = {"token": Token, "next": Next}
    files: Mapping[str, str]  # of the tokenizer
    mask_id: int
    random_ids: np.ndarray
    known: Tensor  # (V,) true at tokens of known letters

    def learn(self: Any, kind: Kind, files: Mapping[str, str]) -> None:
        """Settle which objectives the model has; ``files`` are those of its tokenizer."""
        v: Vocabulary = self.vocabulary
        self.files, found = dict(files), dict[str, type[Objective]]()
        if kind == "causal":
            found["next"] = Next
        if kind == "masked" and v.mask is not None:
            found["token"], self.mask_id = Token, v.mask
        rows = len(self.model.get_input_embeddings().weight)
        self.random_ids = np.unique([id for id in v.ids.values() if id < rows])
        unknown = [id for word, id in v.ids.items() if id < rows and UNKNOWN.fullmatch(word.strip("#▁Ġ ").upper())]
        self.known = torch.ones(rows, dtype=torch.bool)
        self.known[[v.other, *unknown]] = False
        vars(self)["objectives"] = found

    def hideable(self: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens of known letters."""
        tokens = batch["tokens"]
        return tokens, self.content(batch) & self.known[tokens]

    askable = hideable

    def pretraining_logits(self: Any, batch: Batch) -> Tensor:
        """The head is computed at the places that are asked for alone."""
        tokens = batch["tokens"]
        read = within(batch["lengths"], tokens.shape[1])
        with _selected(self.model, batch["asked"]):
            return self.model(input_ids=tokens, attention_mask=read.long()).logits[0]

    def checkpoint_tensors(self: Any) -> Mapping[str, Tensor]:
        return self.model.state_dict()

    def checkpoint_files(self: Any) -> dict[str, str]:
        return {"config.json": config_text(self.model), **self.files}


@contextmanager
def _selected(model: Any, places: Tensor) -> Iterator[None]:
    """Within, a model's head reads one row, the states at these places of the flattened (B · T). It reads each by itself."""

    def select(base: Any, given: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.flatten(0, 1).index_select(0, places).unsqueeze(0)
        return output

    hook = base_of(model).register_forward_hook(select)
    try:
        yield
    finally:
        hook.remove()
