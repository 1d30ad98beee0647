"""What RNA-FM and RNAErnie share: one token a base, the vocabularies, and what their configs may say."""

from __future__ import annotations

import json
from abc import ABC
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.adapter import IGNORED, Batch
from harness.data import Window, letter_table, letters
from harness.errors import BadData, CheckpointMismatch, DataMissing, UserError
from harness.files.checkpoint import DROPOUT, Field, load_tensors, read_config

from . import _bert
from ._batches import PLACES, even_ranges, with_places
from ._bert import DECODER, WORDS, Bert
from ._config import Settings, check_settings, stated
from ._masking import checked_positions
from ._options import LONG_WINDOWS, checked
from ._transformer import Shape

BASES = "ACGT"
PADDING = "."  # fills short rows of a batch before the look-up; never a letter of a window


class Vocabulary:
    """The tokens of a model in the order of their ids, given as text with blanks between them, and the ids that windows need.

    ``bases`` are the ids of A, C, G and U (or T). ``other`` is that of N, or of the unknown token if the model does not know N.

    Raises:
        ValueError: a token of RNA is missing; the message names it.
    """

    def __init__(self, tokens: str) -> None:
        self.tokens = tuple(tokens.split())
        self.size = len(self.tokens)
        self.pad = self._index("<pad>", "[PAD]")
        self.start = self._index("<cls>", "[CLS]")
        self.end = self._index("<eos>", "[EOS]", "[SEP]")
        self.mask = self._index("<mask>", "[MASK]")
        self.bases = (self._index("A"), self._index("C"), self._index("G"), self._index("U", "T"))
        self.other = self._index("N", "<unk>", "[UNK]")
        self.knows_n = "N" in self.tokens

    def _index(self, *names: str) -> int:
        for name in names:
            if name in self.tokens:
                return self.tokens.index(name)
        raise ValueError(" or ".join(names))

    def table(self) -> np.ndarray:
        """A (256,) look-up from the engine's letters to ids; a window's T becomes U if the vocabulary has it."""
        return letter_table(dict(zip(BASES, self.bases)) | {PADDING: self.pad}, default=self.other)


# The multimolecule ports' vocabulary, and its earlier generation.
MULTIMOLECULE = Vocabulary("<pad> <cls> <eos> <unk> <mask> <null> A C G U N R Y S W K M B D H V I X | . * - ?")
MULTIMOLECULE_EARLIER = Vocabulary("<pad> <cls> <eos> <unk> <mask> <null> A C G U N R Y S W K M B D H V . X * - I")

FIELDS: Mapping[str, Field] = {
    **_bert.FIELDS,
    "type_vocab_size": (int, 0, 1 << 22),  # RNA-FM has no types
    "hidden_dropout": DROPOUT,
    "attention_dropout": DROPOUT,
}
# What changes the computation, in the configs of all layouts.
SETTINGS: Settings = {
    **_bert.SETTINGS,
    "hidden_act": ("gelu", "relu"),
    "pool_act": ("tanh",),
    "embed_norm": (True,),
    "use_task_id": (False,),
    "tie_word_embeddings": (True,),
    "lm_head.transform": ("nonlinear",),
    "lm_head.transform_act": (None, "gelu", "relu"),
    "lm_head.act": (None,),
}


class RNAModel(Bert, ABC):
    """An encoder of a start token, one token a base, and an end token. Subclasses choose the pooling.

    ``pooling``: ``mean`` over the bases, ``cls`` the start token, ``pooler`` a trained tanh layer on it. ``layer`` is the
    layer whose hidden states are pooled, 0 for the embeddings and -1 for the last one. In pretraining, N is neither hidden nor
    asked for. A window longer than the table of
    positions is refused, or with ``long="chunks"`` read in pieces, each between its own start and end tokens, whose embeddings
    are averaged, weighted by their lengths.
    """

    stores_decoder = False
    family: str  # the model_type in config.json
    remedy: ClassVar[str] = "choose a model without this limit, or a task of shorter windows"

    def __init__(
        self,
        shape: Shape,
        vocabulary: Vocabulary,
        pooling: str,
        layer: int = -1,
        language_head: bool = True,
        pooler: bool = False,
        long: str = "refuse",
    ) -> None:
        poolings = ("mean", "cls", "pooler") if pooler else ("mean", "cls")
        super().__init__(shape, poolings, pooling, layer, language_head, pooler)
        self.vocabulary = vocabulary
        self.piece = shape.positions - shape.first_position - 2  # bases between start and end token
        self.long = checked("long", long, LONG_WINDOWS)
        self.max_length = self.piece if long == "refuse" else None

    def collate(self, windows: Sequence[Window]) -> Batch:
        """``tokens`` int64 (B, T), padded on the right; (B, P, T) if windows are read in P pieces, some of padding alone.

        Raises:
            BadData: a window is longer than ``max_length``.
        """
        longest = max(len(window) for window in windows)
        if longest <= self.piece:
            return {"tokens": self._tokens(windows)}
        if self.max_length is not None:
            raise BadData(f"window of {longest} nt: {self.name} takes at most {self.max_length}; nothing was cut; {self.remedy}")
        sequences = [window.sequence for window in windows]
        starts = range(0, longest, self.piece)
        pieces = [(row, at) for row, sequence in enumerate(sequences) for at in starts if at < len(sequence)]
        tokens = torch.full((len(windows), len(starts), self.piece + 2), self.vocabulary.pad)
        rows, at = torch.tensor(pieces).T
        tokens[rows, at // self.piece] = self._tokens([Window(sequences[row][at : at + self.piece]) for row, at in pieces])
        return {"tokens": tokens}

    def _tokens(self, windows: Sequence[Window]) -> Tensor:
        """Token ids (B, longest + 2), int64."""
        longest = max(len(window) for window in windows)
        vocabulary = self.vocabulary
        ids = np.full((len(windows), longest + 2), vocabulary.pad, np.int64)
        ids[:, 0] = vocabulary.start
        ids[:, 1:-1] = vocabulary.table()[letters(windows, fill=PADDING)]
        ids[np.arange(len(windows)), [len(window) + 1 for window in windows]] = vocabulary.end
        return torch.from_numpy(ids)

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        tokens = batch["tokens"]
        unknown = 0 if self.vocabulary.knows_n else int((tokens == self.vocabulary.other).sum())
        return unknown, int((tokens != self.vocabulary.pad).sum())

    def forward(self, batch: Batch) -> Tensor:
        tokens = batch["tokens"]
        if tokens.ndim == 2:
            return self._embed(tokens, batch.get(PLACES))
        bases = (tokens != self.vocabulary.pad).sum(dim=-1) - 2  # (B, P), negative for a piece of padding alone
        exists = bases > 0
        embeddings = self._embed(tokens[exists])
        by_piece = embeddings.new_zeros(*bases.shape, self.embedding_dim)
        by_piece[exists] = embeddings
        weights = bases.clamp(min=0) / bases.clamp(min=0).sum(dim=1, keepdim=True)
        return (by_piece * weights.to(by_piece.dtype).unsqueeze(-1)).sum(dim=1)

    def token_ranges(self, windows: Sequence[Window]) -> Tensor:
        return even_ranges(windows, before=max(-(-max(map(len, windows)) // self.piece), 1))

    def hidden_states(self, batch: Batch, layer: int | None = None) -> Tensor:
        tokens = batch["tokens"].unflatten(0, (len(batch["tokens"]), -1)) if batch["tokens"].ndim == 2 else batch["tokens"]
        return self.states_of_pieces(tokens, tokens != self.vocabulary.pad, layer)

    def for_accelerator(self, batch: Batch) -> Batch:
        return with_places(batch, batch["tokens"] != self.vocabulary.pad) if batch["tokens"].ndim == 2 else batch

    def _embed(self, tokens: Tensor, places: Tensor | None = None) -> Tensor:
        v = self.vocabulary
        read = tokens != v.pad
        return self.embed(tokens, read, averaged=read & (tokens != v.start) & (tokens != v.end), places=places)

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """``tokens`` (B, T) with the mask token at each window's position; ``masked`` (B,) is the index of that token.

        Of a window that is read in pieces, this is the piece with the position.

        Raises:
            BadData: a position lies outside its window.
        """
        at, tokens = checked_positions(windows, positions), self.collate(windows)["tokens"]
        rows = torch.arange(len(at))
        if tokens.ndim == 3:
            tokens = tokens[rows, at // self.piece]
        masked = at % self.piece + 1
        tokens[rows, masked] = self.vocabulary.mask
        return {"tokens": tokens, "masked": masked}

    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """(B, 4) over A, C, G and U alone: the probabilities of all other tokens are left out and these four rescaled."""
        tokens = batch["tokens"]
        hidden = self.encoder(tokens, tokens != self.vocabulary.pad)
        logits = self.logits(hidden[torch.arange(len(hidden), device=hidden.device), batch["masked"]])
        return logits[:, list(self.vocabulary.bases)].float().log_softmax(dim=-1)

    @property
    def mask_id(self) -> int:
        return self.vocabulary.mask

    @property
    def random_ids(self) -> np.ndarray:
        """All tokens, as Devlin et al. (2019) do."""
        return np.arange(self.vocabulary.size)

    def hideable(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As :class:`Maskable` has it: bases, but not N.

        Raises:
            UserError: windows are read in pieces.
        """
        tokens = batch["tokens"]
        if tokens.ndim == 3:
            raise UserError(f"context: {self.name} is pretrained on windows in one piece, of at most {self.piece} nt")
        return tokens, torch.isin(tokens, torch.tensor(self.vocabulary.bases))

    def pretraining_logits(self, batch: Batch) -> Tensor:
        tokens = batch["tokens"]
        read = (tokens != self.vocabulary.pad) | (batch["targets"] != IGNORED)  # a base may have been replaced by any token
        return self.logits(self.encoder(tokens, read, asked=batch["asked"]))

    def checkpoint_files(self) -> dict[str, str]:
        shape, v = self.shape, self.vocabulary
        dropouts = ("hidden_dropout", "attention_dropout")
        if self.family in ("bert", "ernie"):
            dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob")
        config = {
            "model_type": self.family,
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "intermediate_size": shape.inner,
            "max_position_embeddings": shape.positions,
            "type_vocab_size": shape.types,
            "hidden_act": shape.activation,
            "layer_norm_eps": shape.epsilon,
            **dict(zip(dropouts, (shape.dropout, shape.attention_dropout), strict=True)),
            "pad_token_id": v.pad,
            "bos_token_id": v.start,
            "eos_token_id": v.end,
            "mask_token_id": v.mask,
        }
        if shape.head_activation:
            config["lm_head"] = {"transform_act": shape.head_activation}
        return {"config.json": json.dumps(config, indent=1) + "\n", "vocab.txt": "\n".join(v.tokens) + "\n"}

    def take(self, tensors: dict[str, Tensor], file: Path, facts: Mapping[str, Any]) -> None:
        """Load ``tensors``, named as in the model's state, and set the audit, which says whether the decoder was tied.

        Raises:
            CheckpointMismatch: a tensor is missing or has another shape.
        """
        decoder = tensors.pop(DECODER, None)
        bias = tensors.pop("lm_head.decoder.bias", None)
        if bias is not None:  # some versions store the bias of the head under both names
            tensors.setdefault("lm_head.bias", bias)
        audit = load_tensors(self, tensors, file)
        v = self.vocabulary
        ours = {
            "vocabulary": v.size,
            "special_ids": {"pad": v.pad, "start": v.start, "end": v.end, "mask": v.mask, "N": v.other},
            "tied_decoder": "left out" if decoder is None else _same(decoder, tensors[WORDS]),
            "masked_token_head": "read" if self.lm_head is not None else "not in the file",
        }
        self.audit = replace(audit, facts=dict(facts) | ours)


def _same(decoder: Tensor, words: Tensor) -> str:
    return "intact" if torch.equal(decoder, words) else "broken: the file's decoder differs; the token embeddings are used"


def read_vocabulary(file: Path, rows: int, published: Sequence[Vocabulary]) -> Vocabulary:
    """The vocabulary in the vocab.txt beside the weights; without one, the published one that has as many tokens.

    Raises:
        CheckpointMismatch: the vocabulary has another size than the embedding, which has ``rows``, or lacks a token of RNA.
    """
    listed = file.parent / "vocab.txt"
    if not listed.is_file():
        for vocabulary in published:
            if vocabulary.size == rows:
                return vocabulary
        expected = " or ".join(map(str, sorted(vocabulary.size for vocabulary in published)))
        raise CheckpointMismatch(f"checkpoint {file}: {rows} tokens; expected {expected}, or a vocab.txt beside it")
    tokens = listed.read_text(encoding="utf-8").split()
    if len(tokens) != rows:
        raise CheckpointMismatch(f"checkpoint {file}: vocab.txt has {len(tokens)} tokens, the embedding {rows} rows")
    if len(set(tokens)) < rows:
        twice = Counter(tokens).most_common(1)[0][0]
        raise CheckpointMismatch(f"checkpoint {file}: vocab.txt lists {twice} twice; fetch it again")
    try:
        return Vocabulary(" ".join(tokens))
    except ValueError as missing:
        raise CheckpointMismatch(
            f"checkpoint {file}: vocab.txt ({rows} tokens) has no {missing}; it is another model's"
        ) from None


def own_family(tensors: Iterable[str], file: Path, families: Sequence[str]) -> str | None:
    """The model_type that the config.json beside a ``state_dict`` of ours has; None if the file, by its tensors' names, is none.

    Raises:
        DataMissing: there is no such config.json.
        CheckpointMismatch: it is of none of ``families``.
    """
    if WORDS not in tensors:
        return None
    config = read_config(file, families)
    if "model_type" not in config or "num_attention_heads" not in config:
        raise DataMissing(f"checkpoint {file}: the config.json that was written with it must lie beside it")
    return config["model_type"]


def read_known_config(file: Path, families: Sequence[str], settings: Settings) -> dict[str, Any]:
    """The config.json beside the weights, {} without one.

    Raises:
        BadData: it is not JSON, or a setting has another type or is out of bounds.
        CheckpointMismatch: it is another model's, or asks for what is not implemented.
    """
    config = read_config(file, families, fields=FIELDS)
    check_settings(config, settings, file)
    return config


def check_ids(config: Mapping[str, Any], vocabulary: Vocabulary, file: Path) -> None:
    """Check that the special tokens have the ids that the config states.

    Raises:
        CheckpointMismatch: they do not.
    """
    v = vocabulary
    for key, token in (("pad", v.pad), ("bos", v.start), ("eos", v.end), ("mask", v.mask)):
        if (found := stated(config, f"{key}_token_id", token)) != token:
            raise CheckpointMismatch(
                f"checkpoint {file}: its configuration has {key}_token_id {found!r}, its vocabulary {token}; "
                "put the files of these very weights beside them"
            )
