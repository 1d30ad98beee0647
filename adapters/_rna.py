"""What RNA-FM and RNAErnie share: vocabulary, transformer encoder, masked-token head, and the reading of their files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapter import Adapter, Batch, MaskedModel
from harness.data import Window, letter_table, letters
from harness.errors import BadData, CheckpointMismatch, UserError
from harness.files.checkpoint import load_tensors, read_config

from ._attention import attend, dropout
from ._bert import initialise

BASES = "ACGT"
PADDING = "."  # fills short rows of a batch before the look-up; never a letter of a window
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}
TIED_DECODER = "lm_head.decoder.weight"

# The names of transformers' BERT and of the multimolecule ports → ours.
BERT_NAMES = (
    (r"LayerNorm", "layer_norm"),
    (r"^(bert|model|rnafm|rnaernie)\.", "encoder."),
    (r"^encoder\.pooler\.dense\.", "pooler."),
    (r"^encoder\.embeddings\.layer_norm\.", "encoder.norm."),
    (r"^encoder\.embeddings\.word_embeddings\.", "encoder.tokens."),
    (r"^encoder\.embeddings\.position_embeddings\.", "encoder.positions."),
    (r"^encoder\.embeddings\.token_type_embeddings\.", "encoder.types."),
    (r"^encoder\.encoder\.layer_norm\.", "encoder.final_norm."),
    (r"^encoder\.encoder\.layer\.", "encoder.layers."),
    (r"\.attention\.self\.", "."),
    (r"\.attention\.output\.dense\.", ".out."),
    (r"\.attention\.(output\.)?layer_norm\.", ".attention_norm."),
    (r"\.intermediate\.dense\.", ".up."),
    (r"\.output\.dense\.", ".down."),
    (r"(layers\.\d+)\.(output\.)?layer_norm\.", r"\1.mlp_norm."),
    (r"^cls\.predictions\.", "lm_head."),
    (r"^lm_head\.transform\.dense\.", "lm_head.dense."),
    (r"^lm_head\.transform\.layer_norm\.", "lm_head.norm."),
)


@dataclass(frozen=True)
class Vocabulary:
    """The token ids that a window needs. ``bases`` are those of A, C, G and U (or T), ``other`` that of N,
    which is the unknown token where the model does not know N."""

    size: int
    pad: int
    start: int
    end: int
    mask: int
    bases: tuple[int, int, int, int]
    other: int
    knows_n: bool = True

    def table(self) -> np.ndarray:
        """A (256,) look-up from the engine's letters to ids: the T of a window is the model's U where it has one."""
        return letter_table(dict(zip(BASES, self.bases)) | {PADDING: self.pad}, default=self.other)


@dataclass(frozen=True)
class Shape:
    """An encoder's hyper-parameters. ``first`` is the row of the position table that the first token takes."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    mlp: int
    positions: int
    first: int = 0
    types: int = 0
    activation: str = "gelu"
    eps: float = 1e-12
    pre_norm: bool = False
    dropout: float = 0.1


class Layer(nn.Module):
    """Self-attention and MLP, each with a residual; normalised before (RNA-FM) or after (BERT)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.query, self.key, self.value, self.out = (nn.Linear(shape.width, shape.width) for _ in range(4))
        self.attention_norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.up, self.down = nn.Linear(shape.width, shape.mlp), nn.Linear(shape.mlp, shape.width)
        self.mlp_norm = nn.LayerNorm(shape.width, eps=shape.eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, T, D); mask (B, 1, 1, T), true at tokens to read
        if self.shape.pre_norm:
            x = x + self.drop(self.attend(self.attention_norm(x), mask))
            return x + self.drop(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self.drop(self.attend(x, mask)))
        return self.mlp_norm(x + self.drop(self.mlp(x)))

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        heads = (self.shape.heads, -1)
        q, k, v = (linear(x).unflatten(-1, heads).transpose(1, 2) for linear in (self.query, self.key, self.value))
        rate = self.shape.dropout if self.training else 0.0
        return self.out(attend(q, k, v, mask, rate).transpose(1, 2).flatten(2))

    def mlp(self, x: Tensor) -> Tensor:
        return self.down(ACTIVATIONS[self.shape.activation](self.up(x)))

    def drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.shape.dropout, self.training)


class Encoder(nn.Module):
    """Token, position and (BERT) type embeddings, normalised, through the layers; padding lies on the right."""

    def __init__(self, shape: Shape, pad: int) -> None:
        super().__init__()
        self.shape, self.pad = shape, pad
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.types = nn.Embedding(shape.types, shape.width) if shape.types else None
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.final_norm = nn.LayerNorm(shape.width, eps=shape.eps) if shape.pre_norm else None

    def forward(self, ids: Tensor, upto: int | None = None, read: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, D) of token ids (B, T) after ``upto`` layers, 0 for the embeddings; None: after the last one.

        As upstream counts them: the final norm of a pre-norm encoder belongs to its last layer. ``read`` (B, T)
        is true at the tokens to attend to, by default all but padding; what comes out at the others means nothing.
        """
        upto = len(self.layers) if upto is None else upto
        x = self.tokens(ids) + self.positions.weight[self.shape.first : self.shape.first + ids.shape[1]]
        if self.types is not None:
            x = x + self.types.weight[0]
        x = dropout(self.norm(x), self.shape.dropout, self.training)
        seen = ids != self.pad if read is None else read
        mask = None if bool(torch.all(seen)) else seen[:, None, None]  # without a mask, faster attention kernels may run
        for layer in self.layers[:upto]:
            x = layer(x, mask)
        return self.final_norm(x) if self.final_norm is not None and upto == len(self.layers) else x


class MaskHead(nn.Module):
    """What fills in masked tokens: linear, activation, norm, and the token embeddings as decoder."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.activation = shape.activation
        self.dense = nn.Linear(shape.width, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:  # (…, D), (vocabulary, D) → (…, vocabulary)
        return F.linear(self.norm(ACTIVATIONS[self.activation](self.dense(hidden))), tokens, self.bias)


class RNAModel(Adapter, MaskedModel):
    """A nucleotide-level encoder: start token, one token a base, end token; what pools it is the subclass's to say.

    ``pooling``: ``mean`` over the bases, ``cls`` the start token, ``pooler`` a trained tanh layer on it. ``layer`` is the
    layer whose hidden states are pooled, 0 for the embeddings and -1 for the last one.
    """

    def __init__(
        self, shape: Shape, vocabulary: Vocabulary, pooling: str, layer: int = -1, head: bool = True, pooler: bool = False
    ) -> None:
        super().__init__()
        poolings = ("mean", "cls", "pooler") if pooler else ("mean", "cls")
        if pooling not in poolings:
            raise UserError(f"option pooling={pooling!r}: choose one of {', '.join(poolings)}")
        if not -1 <= layer <= shape.layers or (pooling == "pooler" and layer not in (-1, shape.layers)):
            allowed = f"-1 or 0 to {shape.layers}" if pooling != "pooler" else "the pooler reads the last one; leave it out"
            raise UserError(f"option layer={layer}: {allowed}")
        self.shape, self.vocabulary, self.pooling = shape, vocabulary, pooling
        self.layer = shape.layers if layer == -1 else layer
        self.max_length, self.embedding_dim = shape.positions - shape.first - 2, shape.width
        self.encoder = Encoder(shape, vocabulary.pad)
        self.pooler = nn.Linear(shape.width, shape.width) if pooler else None
        self.lm_head = MaskHead(shape) if head else None
        self.apply(initialise)
        unused = [*self.encoder.layers[self.layer :], self.lm_head, self.pooler if pooling != "pooler" else None]
        unused += [self.encoder.final_norm] if self.layer < shape.layers else []
        for module in unused:
            if module is not None:
                module.requires_grad_(False)

    def collate(self, windows: Sequence[Window]) -> Batch:
        longest = max(len(window) for window in windows)
        if longest > (self.max_length or longest):
            raise BadData(f"window of {longest} nt: {self.name} takes at most {self.max_length}; nothing was cut")
        vocabulary = self.vocabulary
        ids = np.full((len(windows), longest + 2), vocabulary.pad, np.int64)
        ids[:, 0] = vocabulary.start
        ids[:, 1:-1] = vocabulary.table()[letters(windows, fill=PADDING)]
        ids[np.arange(len(windows)), [len(window) + 1 for window in windows]] = vocabulary.end
        return {"input_ids": torch.from_numpy(ids)}

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        ids = batch["input_ids"]
        unknown = 0 if self.vocabulary.knows_n else int((ids == self.vocabulary.other).sum())
        return unknown, int((ids != self.vocabulary.pad).sum())

    def forward(self, batch: Batch) -> Tensor:
        ids = batch["input_ids"]
        hidden = self.encoder(ids, self.layer)
        if self.pooling == "mean":
            v = self.vocabulary
            base = ((ids != v.pad) & (ids != v.start) & (ids != v.end)).unsqueeze(-1)
            return (hidden * base).sum(dim=1, dtype=torch.float32) / base.sum(dim=1)
        if self.pooler is not None and self.pooling == "pooler":
            return torch.tanh(self.pooler(hidden[:, 0]))
        return hidden[:, 0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Masked-token logits (…, vocabulary) of last hidden states (…, D).

        Raises:
            UserError: the checkpoint came without a masked-token head.
        """
        if self.lm_head is None:
            raise UserError(f"checkpoint {self.audit.source if self.audit else ''}: holds no masked-token head of {self.name}")
        return self.lm_head(hidden, self.encoder.tokens.weight)

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """The batch with the mask token at each window's position: all that tells its base, as a token is one base."""
        for window, position in zip(windows, positions, strict=True):
            if not 0 <= position < len(window):
                raise BadData(f"position {position}: the window has {len(window)} nt, counted from 0")
        batch, at = self.collate(windows), torch.tensor(list(positions)) + 1
        batch["input_ids"][torch.arange(len(at)), at] = self.vocabulary.mask
        return batch | {"masked": at}

    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """(B, 4) over A, C, G and U alone: what the vocabulary's other tokens were given is shared out in proportion."""
        hidden = self.encoder(batch["input_ids"])
        logits = self.logits(hidden[torch.arange(len(hidden), device=hidden.device), batch["masked"]])
        return logits[:, list(self.vocabulary.bases)].float().log_softmax(dim=-1)

    def take(self, tensors: dict[str, Tensor], file: Path, facts: Mapping[str, Any]) -> None:
        """Load ``tensors``, named as in the model's state, and write the audit; the decoder should be the token embeddings."""
        decoder = tensors.pop(TIED_DECODER, None)
        biases = tensors.pop("lm_head.decoder.bias", None)
        if biases is not None:  # some versions store the bias of the head under both names
            tensors.setdefault("lm_head.bias", biases)
        audit = load_tensors(self, tensors, file)
        v = self.vocabulary
        ours = {
            "vocabulary": v.size,
            "special_ids": {"pad": v.pad, "start": v.start, "end": v.end, "mask": v.mask, "N": v.other},
            "tied_decoder": "left out" if decoder is None else _same(decoder, tensors["encoder.tokens.weight"]),
            "masked_token_head": "read" if self.lm_head is not None else "not in the file",
        }
        self.audit = replace(audit, facts=dict(facts) | ours)


def _same(decoder: Tensor, tokens: Tensor) -> str:
    return "intact" if torch.equal(decoder, tokens) else "broken: the file's decoder differs; the token embeddings are used"


def measured(shape: Shape, tensors: Mapping[str, Tensor], file: Path, heads: int | None = None) -> Shape:
    """``shape`` with the sizes that the tensors have; ``heads`` from the file's own config, else as wide as published.

    Raises:
        CheckpointMismatch: the width is no multiple of the number of heads.
    """

    def size(name: str, axis: int, published: int) -> int:
        tensor = tensors.get(f"encoder.{name}.weight")
        return published if tensor is None or tensor.ndim != 2 else tensor.shape[axis]

    width = size("tokens", 1, shape.width)
    heads = heads or max(1, width * shape.heads // shape.width)
    if width % heads:
        raise CheckpointMismatch(f"checkpoint {file}: a width of {width} cannot be shared by {heads} heads")
    return replace(
        shape,
        vocabulary=size("tokens", 0, shape.vocabulary),
        layers=sum(bool(re.fullmatch(r"encoder\.layers\.\d+\.query\.weight", name)) for name in tensors) or shape.layers,
        width=width,
        heads=heads,
        mlp=size("layers.0.up", 0, shape.mlp),
        positions=size("positions", 0, shape.positions),
        types=size("types", 0, shape.types) if shape.types else 0,
    )


def read_vocabulary(file: Path, rows: int, published: Vocabulary, sizes: Sequence[int]) -> Vocabulary:
    """The ids in the vocab.txt beside the weights; without one, those of the published vocabulary, of any of ``sizes``.

    Raises:
        CheckpointMismatch: another number of tokens than the embedding has ``rows``, or tokens of something else than RNA.
    """
    text = file.parent / "vocab.txt"
    if not text.is_file():
        if rows not in sizes:
            expected = " or ".join(map(str, sizes))
            raise CheckpointMismatch(f"checkpoint {file}: {rows} tokens; expected {expected}, or a vocab.txt beside it")
        return replace(published, size=rows)
    tokens = text.read_text(encoding="utf-8").split()
    if len(tokens) != rows:
        raise CheckpointMismatch(f"checkpoint {file}: vocab.txt has {len(tokens)} tokens, the embedding {rows} rows")

    def index(*names: str) -> int:
        for name in names:
            if name in tokens:
                return tokens.index(name)
        missing = " or ".join(names)
        raise CheckpointMismatch(f"checkpoint {file}: vocab.txt ({rows} tokens) has no {missing}; it is another model's")

    return Vocabulary(
        size=rows,
        pad=index("<pad>", "[PAD]"),
        start=index("<cls>", "[CLS]"),
        end=index("<eos>", "[EOS]", "[SEP]"),
        mask=index("<mask>", "[MASK]"),
        bases=(index("A"), index("C"), index("G"), index("U", "T")),
        other=index("N", "<unk>", "[UNK]"),
        knows_n="N" in tokens,
    )


def read_shape_config(file: Path, families: Sequence[str]) -> dict[str, Any]:
    """The config.json beside the weights, {} without one.

    Raises:
        CheckpointMismatch: it is another model's, or has an activation that is not implemented.
    """
    config = read_config(file, families)
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise CheckpointMismatch(f"checkpoint {file}: config.json has hidden_act {activation!r}; known: {', '.join(ACTIVATIONS)}")
    return config
