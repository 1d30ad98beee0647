"""DNABERT-2 (Zhou et al. 2023, arXiv 2306.15006): a BERT with ALiBi and a gated MLP over byte-pair tokens of many genomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn

from harness.adapter import Adapter, Batch, MaskedModel
from harness.card import ModelCard
from harness.data import Window
from harness.errors import BadData, CheckpointMismatch, DataMissing, UserError
from harness.files.checkpoint import weight_file
from harness.recipe import Recipe

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

SPECIALS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
UNK, CLS, SEP, PAD, MASK = range(5)
VOCABULARY = 4096
SIZES = {"tiny": (2, 64, 4, 128), "base": (12, 768, 12, 3072)}  # layers, width, heads, inner width
POOLINGS = ("mean", "max", "cls")


def slopes(heads: int) -> list[float]:
    """ALiBi's slope of each head: a geometric ladder; where heads are no power of two, the next ladder's odd rungs follow."""
    whole = 2 ** int(math.log2(heads))
    ladder = [2 ** (-8 * (rung + 1) / whole) for rung in range(whole)]
    return ladder + slopes(2 * whole)[::2][: heads - whole] if heads > whole else ladder


def plain_tokenizer() -> Tokenizer:
    """Byte pairs that no text taught: 4 bases, their 16 pairs, the 256 pairs of those, merged in this order.

    For random models, which have no ``tokenizer.json``. Ids of specials and bases are as in the published vocabulary,
    and tokens are about as long as there.
    """
    pairs, fours = (["".join(letters) for letters in product("ACGT", repeat=size)] for size in (2, 4))
    tokens = [*SPECIALS, *"ACGT", *pairs, *fours]
    merges = [(token[: len(token) // 2], token[len(token) // 2 :]) for token in (*pairs, *fours)]
    tokenizer = Tokenizer(BPE({token: id for id, token in enumerate(tokens)}, merges, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    return tokenizer


class Embeddings(nn.Module):
    """Words and token types (always 0 here), summed and normed; no positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocabulary, shape.width)
        self.token_type_embeddings = nn.Embedding(shape.types, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, shape.epsilon)
        self.dropout = Dropout(shape.dropout)

    def forward(self, tokens: Tensor, types: Tensor | None = None) -> Tensor:
        kinds = self.token_type_embeddings.weight[0] if types is None else self.token_type_embeddings(types)
        return self.dropout(self.LayerNorm(self.word_embeddings(tokens) + kinds))


class SelfAttention(nn.Module):
    """Attention whose scores are lowered by ALiBi, and to minus infinity at padding (upstream's BertUnpadSelfAttention)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.attention_dropout
        self.Wqkv = nn.Linear(shape.width, 3 * shape.width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # (B, T, D), (1 or B, H, T, T)
        q, k, v = self.Wqkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, T, W)
        attended = attend(q, k, v, bias.to(q.dtype), self.dropout if self.training else 0.0)
        return attended.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self = SelfAttention(shape)
        self.output = AddNorm(shape, shape.width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.output(self.self(x, bias), x)


class GatedMLP(nn.Module):
    """gelu of one half times the other half, projected back (upstream's BertGatedLinearUnitMLP)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(shape.width, 2 * shape.inner, bias=False)
        self.wo = nn.Linear(shape.inner, shape.width)
        self.layernorm = nn.LayerNorm(shape.width, shape.epsilon)
        self.dropout = Dropout(shape.dropout)

    def forward(self, x: Tensor) -> Tensor:
        activated, gate = self.gated_layers(x).chunk(2, dim=-1)
        return self.layernorm(self.wo(self.dropout(F.gelu(activated) * gate)) + x)


class Layer(nn.Module):
    """Attention and gated MLP, each with a residual and a LayerNorm after it (upstream's BertLayer)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.mlp = GatedMLP(shape)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.mlp(self.attention(x, bias))


class Encoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(shape) for _ in range(shape.layers))


class Bert(nn.Module):
    """The official files' ``bert``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape)
        self.encoder = Encoder(shape)


class DNABERT2(Adapter, MaskedModel):
    """Embedding: the mean of all tokens with [CLS] and [SEP], as the authors' README; options ``pooling=max`` or ``cls``.

    The authors fine-tune on [CLS] through a new pooler: ``pooling=cls`` and the recipe's tanh head are that. ``layer``
    (default the last) picks another layer. Module names are those of the official file. A model at random reads with
    :func:`plain_tokenizer`, of whose 4,096 rows it uses 281.

    To fill in a base, what lies left and right of it is tokenised on its own, one [MASK] between: byte pairs that were
    merged with the base in sight would betray it. The answer is the model's choice among the four one-base tokens. In
    pretraining a [MASK] stood for a whole token, seldom of one base, so that this asks more than the model was taught.
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
        sha256={"pytorch_model.bin": "7ff39ec77a484dd01070a41bfd6e95cdd7247bec80fe357ab43a4be33687aeba"},
    )
    # The authors' README example; theirs warms up over 50 steps, whatever the task's size.
    recipe = Recipe(learning_rate=3e-5, weight_decay=0.01, warmup=0.05, batch_size=8, epochs=5, head="tanh")
    lora_targets = ("Wqkv",)
    slopes: Tensor  # (H,) of ALiBi
    bases: Tensor  # (4,) token ids of A, C, G, T

    def __init__(
        self, shape: Shape, tokenizer: Tokenizer, pooling: str = "mean", layer: int = -1, language_head: bool = True
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.pooling = checked("pooling", pooling, POOLINGS)
        self.layer = checked_layer(layer, shape.layers)
        self.embedding_dim = shape.width
        self.bert = Bert(shape)
        self.cls = LanguageHead(shape, self.bert.embeddings.word_embeddings, bias_twice=False) if language_head else None
        self.apply(initialise)
        for unused in self.bert.encoder.layer[self.layer :]:
            unused.requires_grad_(False)
        self.register_buffer("slopes", torch.tensor(slopes(shape.heads)), persistent=False)
        bases = [tokenizer.token_to_id(letter) for letter in "ACGT"]
        self.register_buffer("bases", torch.tensor(bases), persistent=False)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Path | None = None, *, size: str = "base", pooling: str = "mean", layer: int = -1
    ) -> Self:
        if checkpoint is None:
            if size not in SIZES:
                raise UserError(f"size {size!r}: {cls.name} comes as {', '.join(SIZES)}")
            return cls(Shape(*SIZES[size], vocabulary=VOCABULARY, attention_dropout=0.0), plain_tokenizer(), pooling, layer)
        file = weight_file(checkpoint)
        shape = Shape.from_config(file)
        tokenizer = _read_tokenizer(file, shape)
        tensors = official_tensors(file)
        model = cls(shape, tokenizer, pooling, layer, has_language_head(tensors))
        facts = {"vocabulary": shape.vocabulary, "special_ids": dict(zip(SPECIALS, range(5)))}
        model.audit = load(model, model.cls, tensors, file, facts)
        return model

    def collate(self, windows: Sequence[Window]) -> Batch:
        """``tokens`` (B, T), [CLS] … [SEP] and padding, and their ``lengths`` (B,)."""
        return _batch(self._tokenise([window.sequence for window in windows]))

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        return int((batch["tokens"] == UNK).sum()), int(batch["lengths"].sum())

    def forward(self, batch: Batch) -> Tensor:
        tokens = batch["tokens"]
        mask = mask_of(batch["lengths"], tokens.shape[1])
        hidden = self.encode(tokens, mask, self.layer)
        if self.pooling == "cls":
            return hidden[:, 0]
        return mean_over(hidden, mask) if self.pooling == "mean" else hidden.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)

    def encode(self, tokens: Tensor, mask: Tensor | None = None, layer: int | None = None, types: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, D) of token ids (B, T) after ``layer`` layers (None: all); ``mask`` (B, T) is False at padding.

        Upstream's BertModel, which takes padding out and puts zeros back; here what comes out at padding means nothing.
        """
        bias = self.alibi(tokens.shape[1])
        if mask is not None and not bool(mask.all()):
            bias = bias.masked_fill(~mask[:, None, None], -torch.inf)  # (B, H, T, T)
        x = self.bert.embeddings(tokens, types)
        for block in self.bert.encoder.layer[:layer]:
            x = block(x, bias)
        return x

    def alibi(self, tokens: int) -> Tensor:
        """What distance costs: (1, H, T, T), minus the head's slope times |i - j|."""
        place = torch.arange(tokens, device=self.slopes.device)
        return -(place[:, None] - place).abs() * self.slopes[:, None, None].unsqueeze(0)

    def logits(self, hidden: Tensor) -> Tensor:
        """Masked-language logits (…, V) of hidden states of the last layer (…, D)."""
        if self.cls is None:
            raise UserError(f"{self.name}: this checkpoint has no masked-language head, so it cannot fill in bases")
        return self.cls(hidden)

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """As :meth:`collate`, with [MASK] for the base; adds ``scored`` (B,), where in the tokens it is."""
        if any(not 0 <= position < len(window) for window, position in zip(windows, positions, strict=True)):
            raise BadData(f"positions {list(positions)[:8]}: each must lie within its window")
        left = [window.sequence[:position] for window, position in zip(windows, positions, strict=True)]
        right = [window.sequence[position + 1 :] for window, position in zip(windows, positions, strict=True)]
        ids = self._tokenise(left + right)
        before, after = ids[: len(left)], ids[len(left) :]
        batch = _batch([[*one, MASK, *other] for one, other in zip(before, after, strict=True)])
        return {**batch, "scored": torch.tensor([1 + len(one) for one in before])}

    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """See :meth:`MaskedModel.base_log_probabilities`; the class says what is asked of the model."""
        tokens = batch["tokens"]
        hidden = self.encode(tokens, mask_of(batch["lengths"], tokens.shape[1]))
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.logits(hidden[rows, batch["scored"]])[:, self.bases].float().log_softmax(dim=-1)

    def _tokenise(self, sequences: list[str]) -> list[list[int]]:
        """Token ids without [CLS] and [SEP]."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(sequences, add_special_tokens=False)]


def _batch(ids: list[list[int]]) -> Batch:
    """[CLS] and [SEP] around the ids of each row, padded to the longest."""
    tokens = np.full((len(ids), max(len(row) for row in ids) + 2), PAD, np.int32)
    tokens[:, 0] = CLS
    for target, row in zip(tokens, ids, strict=True):
        target[1 : len(row) + 1] = row
        target[len(row) + 1] = SEP
    return {"tokens": torch.from_numpy(tokens), "lengths": torch.tensor([len(row) + 2 for row in ids])}


def _read_tokenizer(weights: Path, shape: Shape) -> Tokenizer:
    """The ``tokenizer.json`` beside the weights, checked against them.

    Raises:
        DataMissing: there is none.
        BadData: it cannot be read.
        CheckpointMismatch: it is another model's.
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
    return tokenizer
