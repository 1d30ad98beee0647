"""DNABERT-1's architecture and vocabulary: a plain BERT over overlapping k-mers. GeneMask uses both unchanged."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapter import Adapter, Batch, MaskedModel
from harness.data import Window, letters
from harness.errors import BadData, CheckpointMismatch, UserError
from harness.files.checkpoint import weight_file

from ._attention import Dropout, attend
from ._bert import (
    AddNorm,
    LanguageHead,
    Shape,
    checked,
    checked_layer,
    has_language_head,
    initialise,
    load,
    mask_of,
    mean_over,
    official_tensors,
)

PAD, UNK, CLS, SEP, MASK = range(5)
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ORDER = "ATCG"  # the digits of a k-mer in the published vocabularies
ANY = len(ORDER)
K_OF_VOCABULARY = {len(SPECIALS) + 4**k: k for k in (3, 4, 5, 6)}
SIZES = {"tiny": (2, 64, 4, 128), "base": (12, 768, 12, 3072)}  # layers, width, heads, inner width
POOLINGS = ("pooler", "cls", "mean")
LONG = ("refuse", "chunks")

_DIGITS = bytes(ORDER.find(chr(code)) % (ANY + 1) for code in range(256))  # letter → 0–3, any other → 4


def vocabulary(k: int) -> list[str]:
    """All tokens in the order of their ids: five specials, then every k-mer over A, T, C, G."""
    return [*SPECIALS, *("".join(kmer) for kmer in product(ORDER, repeat=k))]


def _digits(text: np.ndarray) -> np.ndarray:
    """Letters (windows, length) as their digits in ``ORDER``, uint8 of the same shape."""
    return np.frombuffer(text.tobytes().translate(_DIGITS), np.uint8).reshape(text.shape)


def kmer_tokens(text: np.ndarray, k: int) -> np.ndarray:
    """Token id of the k-mer at every position; [UNK] where it holds a letter other than A, C, G or T.

    ``text``: uint8 (windows, length) of ASCII letters. Returns int16 (windows, length - k + 1), empty for short text.
    The same ids as upstream's DNATokenizer, by arithmetic on all windows at once instead of a look-up per k-mer.
    """
    digits = _digits(text).astype(np.int16)
    positions = max(text.shape[1] - k + 1, 0)
    ids = digits[:, :positions].copy()
    for offset in range(1, k):
        ids *= 4
        ids += digits[:, offset : offset + positions]
    ids += len(SPECIALS)
    unknown = digits == ANY
    if unknown.any():
        for offset in range(k):
            ids[unknown[:, offset : offset + positions]] = UNK
    return ids


class Embeddings(nn.Module):
    """Words, learned absolute positions and token types (always 0 here), summed and normed."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocabulary, shape.width)
        self.position_embeddings = nn.Embedding(shape.positions, shape.width)
        self.token_type_embeddings = nn.Embedding(shape.types, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, shape.epsilon)
        self.dropout = Dropout(shape.dropout)

    def forward(self, tokens: Tensor, types: Tensor | None = None) -> Tensor:
        kinds = self.token_type_embeddings.weight[0] if types is None else self.token_type_embeddings(types)
        return self.dropout(
            self.LayerNorm(self.word_embeddings(tokens) + kinds + self.position_embeddings.weight[: tokens.shape[1]])
        )


class SelfAttention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.attention_dropout
        self.query = nn.Linear(shape.width, shape.width)
        self.key = nn.Linear(shape.width, shape.width)
        self.value = nn.Linear(shape.width, shape.width)

    def forward(self, x: Tensor, mask: Tensor | None, first: int | None) -> Tensor:  # (B, T, D), (B, 1, 1, T) → (B, first, D)
        q, k, v = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, y in ((self.query, x[:, :first]), (self.key, x), (self.value, x))
        )
        attended = attend(q, k, v, mask, self.dropout if self.training else 0.0)  # (B, H, first, W)
        return attended.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self = SelfAttention(shape)
        self.output = AddNorm(shape, shape.width)

    def forward(self, x: Tensor, mask: Tensor | None, first: int | None) -> Tensor:
        return self.output(self.self(x, mask, first), x[:, :first])


class Intermediate(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.width, shape.inner)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class Layer(nn.Module):
    """Attention and MLP, each with a residual and a LayerNorm after it (upstream's BertLayer).

    Of the ``first`` tokens only (None: of all), where nobody reads the others.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.intermediate = Intermediate(shape)
        self.output = AddNorm(shape, shape.inner)

    def forward(self, x: Tensor, mask: Tensor | None, first: int | None = None) -> Tensor:
        x = self.attention(x, mask, first)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(shape) for _ in range(shape.layers))


class Pooler(nn.Module):
    """Upstream's BertPooler: hidden states (B, T, D) → (B, D)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.width, shape.width)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))


class Bert(nn.Module):
    """The official files' ``bert``."""

    def __init__(self, shape: Shape, pooler: bool) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape)
        self.encoder = Encoder(shape)
        self.pooler = Pooler(shape) if pooler else None


class KmerBert(Adapter, MaskedModel, ABC):
    """Everything but the names: :class:`DNABERT1` and :class:`GeneMask` are one architecture with two sets of weights.

    Module names are those of the official files, so that a file's tensors load without renaming.

    ``long`` says what becomes of a window of more k-mers than the position table holds: ``refuse``, or ``chunks``, which
    cuts the k-mers into upstream's pieces of 510, each between its own [CLS] and [SEP], and averages the pieces'
    embeddings, weighted by their tokens. (Upstream's classifier trains a new recurrent network over them; and its tokenizer
    adds an empty piece where the last one is full, left out here because it would say nothing.)

    A masked base is read from the k-mer that has it nearest to its middle, given the letters around it, which the
    unmasked k-mers show: the four k-mers that differ in that base alone are compared. Where a letter around it is N,
    the k-mers with any letter there are summed.
    """

    lora_targets = ("query", "value")
    kmers: Tensor  # (4^k, k) digits of every k-mer, in the order of their ids

    def __init__(
        self, shape: Shape, pooling: str, layer: int, long: str, pooler: bool = True, language_head: bool = True
    ) -> None:
        super().__init__()
        self.k = K_OF_VOCABULARY[shape.vocabulary]
        self.pooling = checked("pooling", pooling, POOLINGS)
        self.layer = checked_layer(layer, shape.layers)
        self.long = checked("long", long, LONG)
        if pooling == "pooler" and self.layer < shape.layers:
            raise UserError(f"option pooling='pooler' belongs to the last layer; with layer={layer} choose cls or mean")
        self.embedding_dim = shape.width
        self.piece = shape.positions - 2  # k-mers between [CLS] and [SEP]
        self.max_length = self.piece + self.k - 1 if long == "refuse" else None
        self.bert = Bert(shape, pooler)
        self.cls = LanguageHead(shape, self.bert.embeddings.word_embeddings, bias_twice=True) if language_head else None
        self.apply(initialise)
        for unused in self.bert.encoder.layer[self.layer :]:
            unused.requires_grad_(False)
        if self.bert.pooler is not None and pooling != "pooler":
            self.bert.pooler.requires_grad_(False)
        kmers = torch.tensor(list(product(range(ANY), repeat=self.k)), dtype=torch.uint8)
        self.register_buffer("kmers", kmers, persistent=False)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Path | None = None,
        *,
        size: str = "base",
        pooling: str = "pooler",
        layer: int = -1,
        long: str = "refuse",
        k: int = 0,
    ) -> Self:
        """See :meth:`Adapter.from_checkpoint`. ``k`` (3–6) is that of a random model, 6 if not given."""
        if checkpoint is None:
            if size not in SIZES:
                raise UserError(f"size {size!r}: {cls.name} comes as {', '.join(SIZES)}")
            if k not in (0, *K_OF_VOCABULARY.values()):
                raise UserError(f"option k={k}: choose 3, 4, 5 or 6")
            return cls(Shape(*SIZES[size], vocabulary=len(SPECIALS) + 4 ** (k or 6)), pooling, layer, long)
        file = weight_file(checkpoint)
        shape = Shape.from_config(file)
        _check_vocabulary(file, shape, k)
        tensors = official_tensors(file)
        has_pooler = "bert.pooler.dense.weight" in tensors
        if pooling == "pooler" and not has_pooler and "bert.embeddings.word_embeddings.weight" in tensors:
            raise UserError(f"option pooling='pooler': {file} has no pooler; choose cls or mean")
        model = cls(shape, pooling, layer, long, has_pooler, has_language_head(tensors))
        facts = {"vocabulary": shape.vocabulary, "k": model.k, "special_ids": dict(zip(SPECIALS, range(5))), "pooler": has_pooler}
        model.audit = load(model, model.cls, tensors, file, facts)
        return model

    def collate(self, windows: Sequence[Window]) -> Batch:
        """``tokens`` (B, P, T) and their ``lengths`` (B, P): P pieces a window, one unless windows are long; 0 where none.

        A window shorter than k is [CLS][SEP] alone, as upstream.
        """
        nucleotides = np.array([len(window.sequence) for window in windows])
        if self.max_length is not None and nucleotides.max() > self.max_length:
            remedy = f"{self.name} takes at most {self.max_length}; --option long=chunks cuts longer ones into pieces"
            raise BadData(f"window of {nucleotides.max()} nt: {remedy}")
        ids = kmer_tokens(letters(windows), self.k)
        pieces = max(-(-ids.shape[1] // self.piece), 1)
        inside = ids.shape[1] if pieces == 1 else self.piece
        if pieces > 1:
            ids = np.pad(ids, ((0, 0), (0, pieces * inside - ids.shape[1])))
        # How many k-mers each piece has; the first piece of every window is there even without any.
        which = np.arange(pieces)
        inner = np.minimum(np.maximum(nucleotides[:, None] - (self.k - 1 + inside * which), 0), inside)  # (B, P)
        tokens = np.zeros((len(windows), pieces, inside + 2), np.int32)  # all [PAD]
        tokens[..., 1:-1] = ids.reshape(len(windows), pieces, inside)
        if inner.min() < inside:
            tokens[..., 1:-1][np.arange(inside) >= inner[..., None]] = PAD
        tokens[..., 0] = CLS
        tokens[np.arange(len(windows))[:, None], which, inner + 1] = SEP
        inner += 2
        inner[:, 1:][inner[:, 1:] == 2] = 0
        return {"tokens": torch.from_numpy(tokens), "lengths": torch.from_numpy(inner)}

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        return int((batch["tokens"] == UNK).sum()), int(batch["lengths"].sum())

    def forward(self, batch: Batch) -> Tensor:
        tokens, lengths = batch["tokens"], batch["lengths"]
        if tokens.shape[1] == 1:
            return self.embed(tokens[:, 0], lengths[:, 0])
        there = lengths > 0
        embeddings = self.embed(tokens[there], lengths[there])
        weights = lengths / lengths.sum(dim=1, keepdim=True)
        spread = embeddings.new_zeros(*lengths.shape, self.embedding_dim)
        spread[there] = embeddings
        return (spread * weights.to(spread.dtype).unsqueeze(-1)).sum(dim=1)

    def embed(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Pooled embeddings (B, D) of token ids (B, T)."""
        mask = mask_of(lengths, tokens.shape[1])
        hidden = self.encode(tokens, mask, self.layer, first=None if self.pooling == "mean" else 1)
        if self.pooling == "mean":
            return mean_over(hidden, mask)
        return hidden[:, 0] if self.bert.pooler is None or self.pooling == "cls" else self.bert.pooler(hidden)

    def encode(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        layer: int | None = None,
        types: Tensor | None = None,
        first: int | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) of token ids (B, T) after ``layer`` layers (None: all); ``mask`` (B, T) is False at padding.

        With ``first``, only (B, first, D), those of the first tokens: the last layer computes no others.
        Upstream's BertModel of 2020; its later releases add 1 to the scores of real tokens instead of hiding the others.
        """
        x = self.bert.embeddings(tokens, types)
        hidden = None if mask is None or bool(mask.all()) else mask[:, None, None]
        blocks = self.bert.encoder.layer[:layer]
        for number, block in enumerate(blocks, start=1):
            x = block(x, hidden, first if number == len(blocks) else None)
        return x[:, :first]

    def logits(self, hidden: Tensor) -> Tensor:
        """Masked-language logits (…, V) of hidden states of the last layer (…, D)."""
        if self.cls is None:
            raise UserError(f"{self.name}: this checkpoint has no masked-language head, so it cannot fill in bases")
        return self.cls(hidden)

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """As :meth:`collate`, with every k-mer over a window's position masked. Adds ``scored`` (B,), the flat index of the
        token to read, ``offset`` (B,), the base's place in it, and ``around`` (B, k), the other letters' digits."""
        batch = self.collate(windows)
        _, pieces, size = batch["tokens"].shape
        at, rows = np.asarray(positions), np.arange(len(windows))
        kmers = np.array([len(window) for window in windows]) - self.k + 1
        if kmers.min() < 1:
            raise BadData(f"window of {kmers.min() + self.k - 1} nt: {self.name} needs {self.k} or more to fill in a base")
        if (at < 0).any() or (at >= kmers + self.k - 1).any():
            raise BadData(f"positions {at.tolist()[:8]}: each must lie within its window")
        place = np.arange(kmers.max())  # of a k-mer among the window's, and below among its tokens
        place = place + 1 if pieces == 1 else place // self.piece * size + place % self.piece + 1
        tokens = batch["tokens"].numpy().reshape(len(windows), -1)
        for back in range(self.k):
            start = at - back
            there = (start >= 0) & (start < kmers)
            tokens[rows[there], place[start[there]]] = MASK
        scored = (at - self.k // 2).clip(0, kmers - 1)
        offset = at - scored
        around = _digits(letters(windows))[rows[:, None], scored[:, None] + np.arange(self.k)]
        around[rows, offset] = ANY
        extra = {"scored": place[scored], "offset": offset, "around": around}
        return {**batch, **{name: torch.from_numpy(value) for name, value in extra.items()}}

    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """See :meth:`MaskedModel.base_log_probabilities`; the class says how k-mers become bases."""
        lengths, size = batch["lengths"], batch["tokens"].shape[-1]
        rows = torch.arange(len(lengths), device=lengths.device)
        piece = batch["scored"] // size
        hidden = self.encode(batch["tokens"][rows, piece], mask_of(lengths[rows, piece], size))
        logits = self.logits(hidden[rows, batch["scored"] % size])[:, len(SPECIALS) :].float()  # (B, 4^k)
        around = batch["around"][:, None]
        fits = ((self.kmers == around) | (around == ANY)).all(dim=-1)  # (B, 4^k): agrees with every known letter
        base = self.kmers.T[batch["offset"].long()]  # (B, 4^k)
        scores = [logits.masked_fill(~(fits & (base == ORDER.index(letter))), -torch.inf).logsumexp(dim=-1) for letter in "ACGT"]
        return torch.stack(scores, dim=-1).log_softmax(dim=-1)


def _check_vocabulary(file: Path, shape: Shape, k: int) -> None:
    found = K_OF_VOCABULARY.get(shape.vocabulary)
    if found is None:
        sizes = ", ".join(f"{size} (k = {number})" for size, number in K_OF_VOCABULARY.items())
        raise CheckpointMismatch(
            f"checkpoint {file}: a vocabulary of {shape.vocabulary}, expected {sizes}; 0 tensors were loaded"
        )
    if k not in (0, found):
        raise UserError(f"option k={k}: {file} has k = {found}; leave the option out")
    listed = file.with_name("vocab.txt")
    if listed.is_file() and listed.read_text(encoding="utf-8").split() != vocabulary(found):
        raise CheckpointMismatch(
            f"{listed}: not the {found}-mers in the order A, T, C, G after {' '.join(SPECIALS)}; 0 tensors were loaded"
        )
