"""What the BERT-like adapters share: their shape, the masked-language head, initialisation, pooling and loading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapter import LoadAudit
from harness.errors import CheckpointMismatch, DataMissing, UserError
from harness.files.checkpoint import load_tensors, read_config, read_tensors

from ._attention import Dropout

WORDS = "bert.embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder.weight"
# One tensor under two names, of which some files keep only the other.
TWINS = (
    (DECODER, WORDS),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ("cls.predictions.bias", "cls.predictions.decoder.bias"),
)


@dataclass(frozen=True)
class Shape:
    """The sizes of a BERT, as its ``config.json`` gives them."""

    layers: int
    width: int
    heads: int
    inner: int
    vocabulary: int
    positions: int = 512
    types: int = 2
    epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1

    @classmethod
    def from_config(cls, weights: Path) -> Self:
        """Read from the ``config.json`` beside the weight file.

        Raises:
            DataMissing: there is none.
            BadData: it is not JSON.
            CheckpointMismatch: it describes another family of models.
        """
        config = read_config(weights, ("bert",))
        if not config:
            raise DataMissing(f"checkpoint {weights}: its config.json must lie beside it")
        try:
            if config.get("hidden_act") != "gelu":
                raise KeyError("hidden_act")
            return cls(
                layers=config["num_hidden_layers"],
                width=config["hidden_size"],
                heads=config["num_attention_heads"],
                inner=config["intermediate_size"],
                vocabulary=config["vocab_size"],
                positions=config.get("max_position_embeddings", 512),
                types=config.get("type_vocab_size", 2),
                epsilon=config.get("layer_norm_eps", 1e-12),
                dropout=config.get("hidden_dropout_prob", 0.1),
                attention_dropout=config.get("attention_probs_dropout_prob", 0.1),
            )
        except KeyError as error:
            setting = f"{error.args[0]} {config.get(error.args[0])!r}"
            raise CheckpointMismatch(f"checkpoint {weights}: {setting} in its config.json is no BERT's with gelu") from None


class Transform(nn.Module):
    """Linear, gelu and LayerNorm before the decoder (upstream's BertPredictionHeadTransform)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.width, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, shape.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    """Hidden states (…, D) → logits over the vocabulary (…, V); the decoder's weight is the word embedding, all else is frozen.

    ``bias_twice`` is upstream's DNABERT-1: the decoder's bias, and then the same bias again.
    """

    def __init__(self, shape: Shape, words: nn.Embedding, bias_twice: bool) -> None:
        super().__init__()
        self.transform = Transform(shape)
        self.decoder = nn.Linear(shape.width, shape.vocabulary)
        if bias_twice:
            self.bias = self.decoder.bias
        self.requires_grad_(False)
        self.decoder.weight = words.weight
        self.bias_twice = bias_twice

    def forward(self, x: Tensor) -> Tensor:
        logits = self.decoder(self.transform(x))
        return logits + self.decoder.bias if self.bias_twice else logits


class LanguageHead(nn.Module):
    """The official files' ``cls``."""

    def __init__(self, shape: Shape, words: nn.Embedding, bias_twice: bool) -> None:
        super().__init__()
        self.predictions = Predictions(shape, words, bias_twice)

    def forward(self, x: Tensor) -> Tensor:
        return self.predictions(x)


class AddNorm(nn.Module):
    """Linear and dropout, added to the residual, then LayerNorm (upstream's BertSelfOutput and BertOutput)."""

    def __init__(self, shape: Shape, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, shape.epsilon)
        self.dropout = Dropout(shape.dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


def initialise(module: nn.Module) -> None:
    """BERT's own random start: N(0, 0.02) weights, zero biases. For ``module.apply``."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def mean_over(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean (B, D) of hidden states (B, T, D) over the tokens of the mask (B, T)."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


def mask_of(lengths: Tensor, tokens: int) -> Tensor:
    """True (B, T) where a row has a token: its first ``lengths`` (B,)."""
    return torch.arange(tokens, device=lengths.device) < lengths[:, None]


def checked(option: str, value: str, allowed: tuple[str, ...]) -> str:
    """``value``, if an option may have it.

    Raises:
        UserError: otherwise.
    """
    if value not in allowed:
        raise UserError(f"option {option}={value!r}: choose one of {', '.join(allowed)}")
    return value


def checked_layer(layer: int, layers: int) -> int:
    """The number of layers to run for ``layer``: 0 is the embeddings, 1 the first layer, -1 the last.

    Raises:
        UserError: no such layer.
    """
    if not -1 <= layer <= layers:
        raise UserError(f"option layer={layer}: choose 0 (embeddings) to {layers}, or -1 for the last")
    return layers if layer == -1 else layer


def official_tensors(file: Path) -> dict[str, Tensor]:
    """A file's tensors, with the oldest files' ``gamma`` and ``beta`` under their newer names.

    Raises:
        BadData: the file cannot be read.
    """
    old = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
    tensors = read_tensors(file)
    for before, after in old:
        tensors = {name.replace(before, after): tensor for name, tensor in tensors.items()}
    return tensors


def has_language_head(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file holds a masked-language head; a classifier's may not."""
    return "cls.predictions.transform.dense.weight" in tensors


def load(model: nn.Module, head: LanguageHead | None, tensors: dict[str, Tensor], file: Path, facts: dict[str, Any]) -> LoadAudit:
    """Copy a file's tensors into the model; the audit's facts also say whether its decoder is the word embedding.

    Raises:
        CheckpointMismatch: a tensor is missing or has another shape.
    """
    expected = model.state_dict()
    for name, twin in TWINS:
        if name in expected and name not in tensors and twin in tensors:
            tensors[name] = tensors[twin]
    tied = head is not None and DECODER in tensors and torch.equal(tensors[DECODER], tensors.get(WORDS, tensors[DECODER]))
    if head is not None and not tied:  # someone's decoder was trained apart from the embedding: keep both
        head.predictions.decoder.weight = nn.Parameter(torch.empty_like(head.predictions.decoder.weight), requires_grad=False)
    audit = load_tensors(model, tensors, file)
    return replace(audit, facts={**facts, "language_head": head is not None, "tied_decoder": tied})
