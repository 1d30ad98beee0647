"""The one transformer of these adapters: BERT's encoder (Devlin et al. 2019) and the variants of it that they need.

A :class:`Shape` picks the variant: learned or rotary positions or ALiBi, a plain or gated feed-forward layer, normalisation
after or before. Files of every origin are brought to this module's names by tables for ``harness.files.checkpoint.rename``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._attention import additive, attend, dropout
from ._batches import Asked, Packing

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}


@dataclass(frozen=True)
class Shape:
    """Sizes and variant of a transformer.

    ``inner`` is the width of the feed-forward layer. ``positions`` counts the rows of the position table, of which the first
    token takes row ``first_position``; ``types`` counts BERT's token types, 0 for none. ``position`` is ``learned`` (absolute),
    ``rotary`` (Su et al. 2021) or ``alibi`` (Press et al. 2022). A ``gated`` feed-forward layer multiplies its activations by a
    gate, without a bias and with the dropout inside. ``fused_qkv`` stores query, key and value as one layer. The masked-language
    head has the activation ``head_activation``, by default that of the feed-forward layers.
    """

    layers: int
    width: int
    heads: int
    inner: int
    vocabulary: int
    positions: int = 512
    types: int = 2
    first_position: int = 0
    position: str = "learned"
    activation: str = "gelu"
    head_activation: str = ""
    gated: bool = False
    fused_qkv: bool = False
    pre_norm: bool = False
    epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1

    @property
    def parameters(self) -> int:
        """About how many parameters the model has: those of its matrices, without biases, norms and heads."""
        block = 4 * self.width + (3 if self.gated else 2) * self.inner
        rows = self.vocabulary + self.types + (self.positions if self.position == "learned" else 0)
        return (self.layers * block + rows) * self.width

    def norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.width, self.epsilon)


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each with a residual and a LayerNorm after (BERT) or before it (``pre_norm``)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        if shape.fused_qkv:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.attention_norm = shape.norm()
        self.up = nn.Linear(width, 2 * shape.inner, bias=False) if shape.gated else nn.Linear(width, shape.inner)
        self.down = nn.Linear(shape.inner, width)
        self.mlp_norm = shape.norm()

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        first: int | None = None,
        rotation: Tensor | None = None,
        packing: Packing | None = None,
        asked: Asked | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) → those of the ``first`` tokens (all by default), which still read every token.

        ``mask``, broadcast to (B, H, T, T), is as in :func:`attend`; ``rotation`` (T, W) is a table for :func:`rotate`. With
        ``packing``, states are (N, D) before and after, and ``first`` is None. With ``asked``, only its states (M, D) are
        computed, and there is no rotation.
        """
        kept = x[:, :first] if asked is None else asked.select(x)
        if self.shape.pre_norm:
            x = kept + self.drop(self.attend(self.attention_norm(x), mask, first, rotation, packing, asked))
            return x + self.feed_forward(self.mlp_norm(x))
        x = self.attention_norm(self.drop(self.attend(x, mask, first, rotation, packing, asked)) + kept)
        return self.mlp_norm(self.feed_forward(x) + x)

    def attend(
        self,
        x: Tensor,
        mask: Tensor | None,
        first: int | None,
        rotation: Tensor | None,
        packing: Packing | None,
        asked: Asked | None,
    ) -> Tensor:
        if self.shape.fused_qkv:
            qkv = self.qkv(x)
            q, k, v = (qkv if packing is None else packing.pad(qkv)).chunk(3, dim=-1)
            q = q[:, :first] if asked is None else asked.queries(q)
        elif packing is None:
            q, k, v = self.query(x[:, :first] if asked is None else asked.queries(x)), self.key(x), self.value(x)
        else:
            q, k, v = (packing.pad(layer(x)) for layer in (self.query, self.key, self.value))
        q, k, v = (states.unflatten(-1, (self.shape.heads, -1)).transpose(1, 2) for states in (q, k, v))  # (B, H, T, W)
        if rotation is not None:
            q, k = rotate(q, rotation[:first]), rotate(k, rotation)
        if mask is not None:
            mask = mask[..., :first, :] if asked is None else asked.mask(mask)
        rate = self.shape.attention_dropout if self.training else 0.0
        attended = attend(q, k, v, mask, rate).transpose(1, 2).flatten(2)
        if asked is not None:
            attended = asked.answers(attended)
        return self.out(attended if packing is None else packing.pack(attended))

    def feed_forward(self, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.shape.activation]
        if self.shape.gated:
            activated, gate = self.up(x).chunk(2, dim=-1)
            return self.down(self.drop(activation(activated) * gate))
        return self.drop(self.down(activation(self.up(x))))

    def drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.shape.dropout, self.training)


class Encoder(nn.Module):
    """Token ids through embeddings, which are summed and normalised, and through the blocks."""

    slopes: Tensor | None  # (H,) of ALiBi

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width) if shape.position == "learned" else None
        self.types = nn.Embedding(shape.types, shape.width) if shape.types else None
        self.norm = shape.norm()
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.final_norm = shape.norm() if shape.pre_norm else None
        ladder = torch.tensor(slopes(shape.heads)) if shape.position == "alibi" else None
        self.register_buffer("slopes", ladder, persistent=False)

    def forward(
        self,
        tokens: Tensor,
        read: Tensor | None = None,
        layer: int | None = None,
        types: Tensor | None = None,
        first: int | None = None,
        places: Tensor | None = None,
        asked: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) of token ids (B, T) after ``layer`` blocks (None: all; 0: the embeddings).

        ``read`` (B, T) is true at the tokens to attend to, by default all; hidden states of the others mean nothing. ``types``
        (B, T) are 0 by default. With ``first``, only the first tokens' states (B, first, D) are computed in the last block.
        The final norm of a pre-norm encoder belongs to its last block, as upstream counts. ``places`` (N,) are those at which
        ``read`` is true, where they are known beforehand: then padding is computed in attention alone (see :class:`Packing`).
        With ``asked``, places (M,) in the flattened (B · T), their states (M, D) are returned. On a CPU the last block computes
        no others; elsewhere the host would have to wait to be told how many there are in each row.
        """
        x = self.tokens(tokens)
        if self.types is not None:
            x = x + (self.types.weight[0] if types is None else self.types(types))
        if self.positions is not None:
            start = self.shape.first_position
            x = x + self.positions.weight[start : start + tokens.shape[1]]
        x = dropout(self.norm(x), self.shape.dropout, self.training)
        packing = None if places is None or len(places) == tokens.numel() else Packing(places, *tokens.shape)
        if packing is None and read is not None and (places is not None or bool(read.all())):
            read = None  # all is read
        mask, blocks = self.mask(tokens.shape[1], read), self.layers[:layer]
        if packing is not None:
            x, mask = packing.pack(x), additive(mask, x)
        wanted = Asked.of(asked, *tokens.shape) if asked is not None and asked.device.type == "cpu" and len(blocks) else None
        for number, block in enumerate(blocks, start=1):
            last = number == len(blocks)
            if packing is not None and last and (first is not None or wanted is not None):  # little is left to compute
                x, packing = packing.pad(x), None
            x = block(x, mask, first if last else None, packing=packing, asked=wanted if last else None)
        if self.final_norm is not None and len(blocks) == len(self.layers):
            x = self.final_norm(x)
        if packing is not None:
            x = packing.pad(x)
        if asked is not None:
            return x if wanted is not None else x.flatten(0, 1).index_select(0, asked)
        return x[:, :first]

    def mask(self, tokens: int, read: Tensor | None) -> Tensor | None:
        """What :func:`attend` needs: None where all is read alike, as faster kernels may then run."""
        padding = None if read is None else read[:, None, None]  # (B, 1, 1, T)
        if self.slopes is None:
            return padding
        bias = self.alibi(tokens)
        return bias if padding is None else bias.masked_fill(~padding, -torch.inf)  # (B, H, T, T)

    def alibi(self, tokens: int) -> Tensor:
        """The bias of every score, (1, H, T, T): minus the head's slope times the distance of the two tokens."""
        assert self.slopes is not None
        index = torch.arange(tokens, device=self.slopes.device)
        return -(index[:, None] - index).abs() * self.slopes[:, None, None].unsqueeze(0)


class MaskHead(nn.Module):
    """The masked-language head: hidden states (…, D) → logits (…, V) by a linear layer, the activation, a norm and a decoder.

    It is frozen, because an embedding does not need it. Without a decoder of its own, only a bias is stored, and the word
    embedding (V, D) is passed to :meth:`forward`.
    """

    def __init__(self, shape: Shape, decoder: bool = True) -> None:
        super().__init__()
        self.activation = shape.head_activation or shape.activation
        self.dense = nn.Linear(shape.width, shape.width)
        self.norm = shape.norm()
        self.decoder = nn.Linear(shape.width, shape.vocabulary) if decoder else None
        if not decoder:
            self.bias = nn.Parameter(torch.zeros(shape.vocabulary))
        self.requires_grad_(False)

    def forward(self, hidden: Tensor, words: Tensor | None = None) -> Tensor:
        x = self.norm(ACTIVATIONS[self.activation](self.dense(hidden)))
        if self.decoder is not None:
            return self.decoder(x)
        assert words is not None
        return F.linear(x, words, self.bias)


def initialise(module: nn.Module) -> None:
    """BERT's random initialisation, for ``module.apply``: weights from N(0, 0.02²), biases zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def slopes(heads: int) -> list[float]:
    """ALiBi's slope of each head: a geometric series; if heads are no power of two, odd terms of the next series follow."""
    whole = 2 ** int(math.log2(heads))
    series = [2 ** (-8 * (term + 1) / whole) for term in range(whole)]
    return series + slopes(2 * whole)[::2][: heads - whole] if heads > whole else series


def sinusoids(positions: int, width: int) -> Tensor:
    """Table (positions, width) of rotary angles: their sines in the first half of a row, their cosines in the second."""
    angles = torch.arange(positions)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of x (B, H, T, W) by its position's angle in ``table`` (T, W).

    The result has the first of each pair in its first half. Queries and keys are reordered alike, so their products are the same.
    """
    sin, cos = table.chunk(2, dim=-1)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
