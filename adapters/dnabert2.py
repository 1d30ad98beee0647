"""DNABERT-2 (Zhou et al. 2023, arXiv 2306.15006): a BERT with ALiBi and a gated MLP over byte-pair tokens of many genomes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from harness.adapter import Batch
from harness.card import ModelCard
from harness.data import Window
from harness.errors import BadData, CheckpointMismatch, DataMissing
from harness.files.checkpoint import weight_file
from harness.objective import Objective
from harness.recipe import PretrainingRecipe, Recipe

from ._batches import PLACES, with_places, within
from ._bert import (
    GATED_FEED_FORWARD,
    OFFICIAL_NAMES,
    Bert,
    bert_config,
    has_language_head,
    in_our_names,
    load,
    official_tensors,
    read_shape,
    settings_of,
)
from ._masking import Token, checked_positions
from ._options import of_size
from ._transformer import Shape

SPECIALS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
UNK, CLS, SEP, PAD, MASK = range(5)
VOCABULARY = 4096
SIZES = {"tiny": (2, 64, 4, 128), "base": (12, 768, 12, 3072)}  # layers, width, heads, inner width
VARIANT: dict[str, Any] = {"position": "alibi", "gated": True, "fused_qkv": True}
POOLINGS = ("mean", "max", "cls")
# Classes of the authors' own code on the hub, for which `transformers` looks there.
REMOTE = {
    "AutoConfig": "configuration_bert.BertConfig",
    "AutoModel": "bert_layers.BertModel",
    "AutoModelForMaskedLM": "bert_layers.BertForMaskedLM",
    "AutoModelForSequenceClassification": "bert_layers.BertForSequenceClassification",
}


def plain_tokenizer() -> Tokenizer:
    """The tokenizer of random models, which have no ``tokenizer.json``: bases, their 16 pairs, and the 256 pairs of those.

    Nothing is learnt; pairs are merged before fours. Special tokens and bases have the ids of the published vocabulary, and
    tokens are about as long as with it.
    """
    pairs, fours = (["".join(letters) for letters in product("ACGT", repeat=size)] for size in (2, 4))
    tokens = [*SPECIALS, *"ACGT", *pairs, *fours]
    merges = [(token[: len(token) // 2], token[len(token) // 2 :]) for token in (*pairs, *fours)]
    tokenizer = Tokenizer(BPE({token: id for id, token in enumerate(tokens)}, merges, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    return tokenizer


class DNABERT2(Bert):
    """Embedding: the mean of all tokens with [CLS] and [SEP], as in the authors' README; options ``pooling=max`` or ``cls``.

    The authors fine-tune on [CLS] through a new pooler, which ``pooling=cls`` with the recipe's tanh head reproduces. ``layer``
    (default the last) picks another layer. A randomly initialised model reads with :func:`plain_tokenizer`, which uses 281 of
    its 4,096 tokens.

    To fill in a base, the sequences left and right of it are tokenised separately, with one [MASK] between them: byte pairs
    merged with the base in sight would betray it. The four one-base tokens are compared. In pretraining a [MASK] replaced a
    whole token, rarely of one base, so this asks more of the model than it was trained for.
    """

    name: ClassVar[str] = "dnabert2"
    card = ModelCard(
        summary="BERT with ALiBi over byte-pair tokens of 135 species' genomes",
        paper="Zhou et al. 2023, arXiv 2306.15006",
        licence="Apache-2.0",
        alphabet="ACGT; N is unknown",
        parameters="117 M",
        checkpoint="zhihan1996/DNABERT-2-117M",
        revision="7bce263b15377fc15361f52cfab88f8b586abda0",
        files=("config.json", "pytorch_model.bin", "tokenizer.json"),
        sha256={
            "config.json": "ba9bdafaff0cc3e30556927474d4a179519a9864012bed2628e9f1bc23c84bfd",
            "pytorch_model.bin": "7ff39ec77a484dd01070a41bfd6e95cdd7247bec80fe357ab43a4be33687aeba",
            "tokenizer.json": "5d178e8ce2ba55df97fff197f4b30f40133b95d7096be398c2df6b526c5d8cd3",
        },
    )
    # The example in the authors' README, which warms up over 50 steps whatever the size of the task.
    recipe = Recipe(learning_rate=3e-5, weight_decay=0.01, warmup=0.05, batch_size=8, epochs=5, head="tanh")
    # The model card of the port by multimolecule: steps of 4,096 windows. Warm-up over 30,000 of 500,000 steps.
    pretraining = PretrainingRecipe(
        learning_rate=5e-4,
        betas=(0.9, 0.98),
        epsilon=1e-6,
        weight_decay=1e-5,
        batch_size=16,
        warmup=0.06,
        schedule="linear",
    )
    objectives: ClassVar[Mapping[str, type[Objective]]] = {"token": Token}
    official_names = (*OFFICIAL_NAMES, *GATED_FEED_FORWARD)
    lora_targets = ("qkv",)
    bases: Tensor  # (4,) token ids of A, C, G, T

    def __init__(
        self, shape: Shape, tokenizer: Tokenizer, pooling: str = "mean", layer: int = -1, language_head: bool = True
    ) -> None:
        super().__init__(replace(shape, **VARIANT), POOLINGS, pooling, layer, language_head)
        self.tokenizer, self.mask_id, self.random_ids = tokenizer, MASK, np.arange(shape.vocabulary)
        bases = [tokenizer.token_to_id(letter) for letter in "ACGT"]
        self.register_buffer("bases", torch.tensor(bases), persistent=False)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Path | None = None, *, size: str = "base", pooling: str = "mean", layer: int = -1
    ) -> Self:
        if checkpoint is None:
            shape = Shape(*of_size(cls.name, size, SIZES), vocabulary=VOCABULARY, attention_dropout=0.0)
            return cls(shape, plain_tokenizer(), pooling, layer)
        file = weight_file(checkpoint)
        config, tensors = bert_config(file), official_tensors(file)
        published = Shape(*SIZES["base"], vocabulary=VOCABULARY, **VARIANT)
        shape = read_shape(published, in_our_names(tensors), config, file)
        tokenizer, warnings = _read_tokenizer(file, shape)
        model = cls(shape, tokenizer, pooling, layer, has_language_head(tensors))
        facts = {"vocabulary": shape.vocabulary, "special_ids": dict(zip(SPECIALS, range(5)))}
        model.audit = replace(audit := load(model, tensors, file, facts), warnings=(*audit.warnings, *warnings))
        return model

    def collate(self, windows: Sequence[Window]) -> Batch:
        """``tokens`` int32 (B, T), [CLS] … [SEP] and padding, and their ``lengths`` (B,)."""
        return _batch(self._tokenise([window.sequence for window in windows]))

    def for_accelerator(self, batch: Batch) -> Batch:
        return with_places(batch, within(batch["lengths"], batch["tokens"].shape[1]))

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        return int((batch["tokens"] == UNK).sum()), int(batch["lengths"].sum())

    def forward(self, batch: Batch) -> Tensor:
        tokens = batch["tokens"]
        return self.embed(tokens, within(batch["lengths"], tokens.shape[1]), places=batch.get(PLACES))

    def token_ranges(self, windows: Sequence[Window]) -> Tensor:
        read = self.tokenizer.encode_batch([window.sequence for window in windows], add_special_tokens=False)
        ranges = np.zeros((len(windows), max(map(len, windows)), 2), np.int64)
        for row, encoding in zip(ranges, read, strict=True):
            for token, (start, end) in enumerate(encoding.offsets, start=1):  # after [CLS]
                row[start:end] = token, token + 1
        return torch.from_numpy(ranges)

    def hidden_states(self, batch: Batch, layer: int | None = None) -> Tensor:
        return self.states(batch["tokens"], within(batch["lengths"], batch["tokens"].shape[1]), layer)

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """As :meth:`collate`, with [MASK] in place of the base; adds ``masked`` (B,), the index of its token.

        Raises:
            BadData: a position lies outside its window.
        """
        positions = checked_positions(windows, positions).tolist()
        left = [window.sequence[:position] for window, position in zip(windows, positions, strict=True)]
        right = [window.sequence[position + 1 :] for window, position in zip(windows, positions, strict=True)]
        ids = self._tokenise(left + right)
        before, after = ids[: len(left)], ids[len(left) :]
        batch = _batch([[*one, MASK, *other] for one, other in zip(before, after, strict=True)])
        return {**batch, "masked": torch.tensor([1 + len(one) for one in before])}

    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """See :meth:`MaskedModel.base_log_probabilities`; the class says what is asked of the model."""
        tokens = batch["tokens"]
        hidden = self.encoder(tokens, within(batch["lengths"], tokens.shape[1]))
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.logits(hidden[rows, batch["masked"]])[:, self.bases].float().log_softmax(dim=-1)

    def hideable(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Every token but the special ones, of which [UNK] stands for an N."""
        return batch["tokens"], batch["tokens"] > MASK

    def pretraining_logits(self, batch: Batch) -> Tensor:
        tokens = batch["tokens"]
        read = within(batch["lengths"], tokens.shape[1])
        return self.logits(self.encoder(tokens, read, places=batch.get(PLACES), asked=batch["asked"]))

    def checkpoint_files(self) -> dict[str, str]:
        """``config.json``, ``tokenizer.json`` and ``tokenizer_config.json`` as the hub's.

        A tokenizer of fewer tokens than the model has is filled up with entries that occur in no text.
        """
        shape = self.shape
        config = {
            "architectures": ["BertForMaskedLM"],
            **settings_of(shape),
            "auto_map": {name: f"{self.card.checkpoint}--{where}" for name, where in REMOTE.items()},
            "alibi_starting_size": 512,
            "position_embedding_type": "absolute",
        }
        names = {f"{token.strip('[]').lower()}_token": token for token in SPECIALS}
        return {
            "config.json": json.dumps(config, indent=2),
            "tokenizer.json": _filled(self.tokenizer, shape.vocabulary),
            "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}),
        }

    def _tokenise(self, sequences: list[str]) -> list[list[int]]:
        """Token ids without [CLS] and [SEP]."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(sequences, add_special_tokens=False)]


def _batch(ids: list[list[int]]) -> Batch:
    """A batch of the rows, each between [CLS] and [SEP] and padded to the longest."""
    tokens = np.full((len(ids), max(len(row) for row in ids) + 2), PAD, np.int32)
    tokens[:, 0] = CLS
    for target, row in zip(tokens, ids, strict=True):
        target[1 : len(row) + 1] = row
        target[len(row) + 1] = SEP
    return {"tokens": torch.from_numpy(tokens), "lengths": torch.tensor([len(row) + 2 for row in ids])}


def _filled(tokenizer: Tokenizer, size: int) -> str:
    """The text of a ``tokenizer.json`` with ``size`` entries that puts [CLS] and [SEP] around a sequence."""
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"] |= {f"[unused{id}]": id for id in range(tokenizer.get_vocab_size(), size)}
    filled = Tokenizer.from_str(json.dumps(content))
    if filled.post_processor is None:
        ends = [(token, SPECIALS.index(token)) for token in ("[CLS]", "[SEP]")]
        filled.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)  # type: ignore[assignment]
    return filled.to_str(pretty=True)


def _read_tokenizer(weights: Path, shape: Shape) -> tuple[Tokenizer, tuple[str, ...]]:
    """The ``tokenizer.json`` beside the weights, and what is odd about it without being wrong for certain.

    Raises:
        DataMissing: there is none.
        BadData: it cannot be read.
        CheckpointMismatch: it belongs to another model, does not read each base as one token, or draws tokens at random.
    """
    file = weights.with_name("tokenizer.json")
    if not file.is_file():
        raise DataMissing(f"checkpoint {weights}: its tokenizer.json must lie beside it")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise BadData(f"{file}: cannot be read as a tokenizer ({error}); fetch it again") from None
    size, ids = tokenizer.get_vocab_size(), [tokenizer.token_to_id(token) for token in SPECIALS]
    if size != shape.vocabulary or ids != list(range(5)) or not all(tokenizer.token_to_id(letter) for letter in "ACGT"):
        found = f"{size} tokens with {', '.join(SPECIALS)} at {ids}"
        raise CheckpointMismatch(f"{file}: {found}, expected {shape.vocabulary} and 0 to 4; 0 tensors were loaded")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    read = {letter: tokenizer.encode(letter, add_special_tokens=False).ids for letter in "ACGTN"}
    for letter, tokens in read.items():
        if len(tokens) != 1 or (letter != "N" and tokens != [tokenizer.token_to_id(letter)]):
            expected = "one of its own for each base, and one for N"
            raise CheckpointMismatch(f"{file}: reads {letter} as the tokens {tokens}, expected {expected}; 0 tensors were loaded")
    model = json.loads(file.read_text(encoding="utf-8"))["model"]
    if model.get("dropout"):
        raise CheckpointMismatch(f"{file}: leaves out merges at random (dropout {model['dropout']}); set it to null")
    # A trained vocabulary numbers tokens in the order of the merges that make them; one that was permuted does not.
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", ())]
    prefix = model.get("continuing_subword_prefix") or ""
    made = [model["vocab"].get(left + right.removeprefix(prefix), -1) for left, right in pairs]
    first = list(dict.fromkeys(made))
    if first == sorted(first):
        return tokenizer, ()
    return tokenizer, (f"{file.name}: its tokens are not numbered in the order of its merges; is it that of these weights?",)
