"""What the BERTs over tokens share: embeddings from a pooled layer, logits from a masked-language head, loading by tables."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.adapter import Adapter, BaseResolved, LoadAudit, MaskedModel, Pretrainable
from harness.errors import CheckpointMismatch, DataMissing, UserError
from harness.files.checkpoint import (
    DROPOUT,
    EPSILON,
    HEADS,
    LAYERS,
    ROWS,
    TEXT,
    WIDTH,
    Field,
    check_size,
    load_tensors,
    read_config,
    read_tensors,
    rename,
)

from ._batches import mean_over
from ._config import Settings, check_settings, check_sizes, count_layers, stated
from ._options import checked, checked_block, checked_layer
from ._transformer import Encoder, MaskHead, Shape, initialise

FIELDS: Mapping[str, Field] = {
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_attention_heads": HEADS,
    "vocab_size": ROWS,
    "type_vocab_size": ROWS,
    "max_position_embeddings": (int, 3, 1 << 22),  # a base between two special tokens
    "layer_norm_eps": EPSILON,
    "hidden_dropout_prob": DROPOUT,
    "attention_probs_dropout_prob": DROPOUT,
    "hidden_act": TEXT,
}
WORDS, DECODER = "encoder.tokens.weight", "lm_head.decoder.weight"
OFFICIAL_WORDS, OFFICIAL_DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
# Settings of the configs of transformers, and of packages that follow it, which would change what is computed. DNABERT-2's says
# "absolute" and means ALiBi.
SETTINGS: Settings = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
    "rope_theta": (None,),
    "rope_scaling": (None,),
    "rope_parameters": (None,),
    "rotary": (False,),
    "rms_norm": (False,),
    "token_dropout": (False,),
    "codon": (False,),
}
POST_NORM: Settings = dict.fromkeys(("pre_layer_norm", "normalize_before", "emb_layer_norm_before"), (False,))
# Tensors that are one upstream, of which some files keep only the other.
TWINS = (
    (OFFICIAL_DECODER, OFFICIAL_WORDS),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ("cls.predictions.bias", "cls.predictions.decoder.bias"),
)
# The oldest files call a norm's weight and bias gamma and beta.
OLD_NAMES = ((r"LayerNorm\.gamma", "LayerNorm.weight"), (r"LayerNorm\.beta", "LayerNorm.bias"))

_MODEL = r"^(?:bert|model|rnafm|rnaernie)\."
_LAYER = r"^(encoder\.layers\.\d+)\."
_HEAD = r"^(?:cls\.predictions|lm_head)\.transform\."
_NORM = r"(?:LayerNorm|layer_norm|layernorm)\."
# The names of transformers' BERT, of DNABERT-2 and of the multimolecule ports → those of Bert. Other names stay as they are.
BERT_NAMES = (
    *OLD_NAMES,
    (_MODEL + r"embeddings\.word_embeddings\.", "encoder.tokens."),
    (_MODEL + r"embeddings\.position_embeddings\.", "encoder.positions."),
    (_MODEL + r"embeddings\.token_type_embeddings\.", "encoder.types."),
    (_MODEL + r"embeddings\." + _NORM, "encoder.norm."),
    (_MODEL + r"encoder\.layer\.", "encoder.layers."),
    (_MODEL + r"encoder\." + _NORM, "encoder.final_norm."),
    (_MODEL + r"pooler\.dense\.", "pooler."),
    (_LAYER + r"attention\.self\.Wqkv\.", r"\1.qkv."),
    (_LAYER + r"attention\.self\.", r"\1."),
    (_LAYER + r"attention\.output\.dense\.", r"\1.out."),
    (_LAYER + r"attention\.(?:output\.)?" + _NORM, r"\1.attention_norm."),
    (_LAYER + r"(?:intermediate\.dense|mlp\.gated_layers)\.", r"\1.up."),
    (_LAYER + r"(?:output\.dense|mlp\.wo)\.", r"\1.down."),
    (_LAYER + r"(?:output\.|mlp\.)?" + _NORM, r"\1.mlp_norm."),
    (_HEAD + r"dense\.", "lm_head.dense."),
    (_HEAD + _NORM, "lm_head.norm."),
    (r"^cls\.predictions\.", "lm_head."),
)
# The other way round, for a model whose weights keep their authors' names.
OFFICIAL_NAMES = (
    (r"^encoder\.tokens\.", "bert.embeddings.word_embeddings."),
    (r"^encoder\.positions\.", "bert.embeddings.position_embeddings."),
    (r"^encoder\.types\.", "bert.embeddings.token_type_embeddings."),
    (r"^encoder\.norm\.", "bert.embeddings.LayerNorm."),
    (r"^encoder\.layers\.", "bert.encoder.layer."),
    (r"^(bert\.encoder\.layer\.\d+)\.(query|key|value)\.", r"\1.attention.self.\2."),
    (r"^(bert\.encoder\.layer\.\d+)\.qkv\.", r"\1.attention.self.Wqkv."),
    (r"^(bert\.encoder\.layer\.\d+)\.out\.", r"\1.attention.output.dense."),
    (r"^(bert\.encoder\.layer\.\d+)\.attention_norm\.", r"\1.attention.output.LayerNorm."),
    (r"^pooler\.", "bert.pooler.dense."),
    (r"^lm_head\.dense\.", "cls.predictions.transform.dense."),
    (r"^lm_head\.norm\.", "cls.predictions.transform.LayerNorm."),
    (r"^lm_head\.", "cls.predictions."),
)
PLAIN_FEED_FORWARD = (
    (r"^(bert\.encoder\.layer\.\d+)\.up\.", r"\1.intermediate.dense."),
    (r"^(bert\.encoder\.layer\.\d+)\.down\.", r"\1.output.dense."),
    (r"^(bert\.encoder\.layer\.\d+)\.mlp_norm\.", r"\1.output.LayerNorm."),
)
GATED_FEED_FORWARD = (
    (r"^(bert\.encoder\.layer\.\d+)\.up\.", r"\1.mlp.gated_layers."),
    (r"^(bert\.encoder\.layer\.\d+)\.down\.", r"\1.mlp.wo."),
    (r"^(bert\.encoder\.layer\.\d+)\.mlp_norm\.", r"\1.mlp.layernorm."),
)


class Bert(Adapter, MaskedModel, BaseResolved, Pretrainable, ABC):
    """An encoder over tokens, a pooler where there is one, and a masked-language head.

    ``pooling`` reduces the hidden states of layer ``layer`` to an embedding: ``mean`` and ``max`` over tokens, ``cls`` the first
    token, ``pooler`` upstream's BertPooler, a tanh layer on the first token. What does not reach the embedding is frozen.
    The decoder's weight is the word embedding; ``stores_decoder`` says whether the head has it, and so a file's own, as well.
    Where there are ``official_names``, a ``state_dict`` has its authors' names, so that their code reads what is trained here.
    """

    stores_decoder = True
    official_names: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init__(
        self, shape: Shape, poolings: Iterable[str], pooling: str, layer: int, language_head: bool, pooler: bool = False
    ) -> None:
        super().__init__()
        self.shape, self.embedding_dim, self.blocks = shape, shape.width, shape.layers
        self.pooling = checked("pooling", pooling, poolings)
        self.layer = checked_layer(layer, shape.layers, pooling)
        self.encoder = Encoder(shape)
        self.pooler = nn.Linear(shape.width, shape.width) if pooler else None
        self.lm_head = MaskHead(shape, self.stores_decoder) if language_head else None
        if not language_head:
            vars(self)["objectives"] = {}
        if self.lm_head is not None and self.lm_head.decoder is not None:
            self.lm_head.decoder.weight = self.encoder.tokens.weight
        self.apply(initialise)
        unused = [*self.encoder.layers[self.layer :]]
        if self.encoder.final_norm is not None and self.layer < shape.layers:
            unused.append(self.encoder.final_norm)
        if self.pooler is not None and pooling != "pooler":
            unused.append(self.pooler)
        for module in unused:
            module.requires_grad_(False)
        if self.official_names:
            self.register_state_dict_post_hook(_to_official)
            self.register_load_state_dict_pre_hook(_from_official)

    def embed(self, tokens: Tensor, read: Tensor, averaged: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        """Embeddings (B, D) of token ids (B, T). ``averaged`` (B, T) are the tokens to pool over, by default all it reads.

        ``places`` is as in :meth:`Encoder.forward`.
        """
        only_first = self.pooling in ("cls", "pooler")
        hidden = self.states(tokens, read, first=1 if only_first else None, places=places)
        averaged = read if averaged is None else averaged
        if self.pooling == "mean":
            return mean_over(hidden, averaged)
        if self.pooling == "max":
            return hidden.masked_fill(~averaged[..., None], -torch.inf).amax(dim=1)
        return self.pooled(hidden) if self.pooling == "pooler" else hidden[:, 0]

    def states(
        self,
        tokens: Tensor,
        read: Tensor,
        layer: int | None = None,
        first: int | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """States (B, T, D) of token ids (B, T) after a block, by default the one that is pooled, or of the ``first`` alone.

        Raises:
            UserError: there is no such block.
        """
        return self.encoder(tokens, read, checked_block(layer, self.blocks) or self.layer, first=first, places=places)

    def states_of_pieces(self, tokens: Tensor, read: Tensor, layer: int | None) -> Tensor:
        """States (B, P · T, D) of windows that are read in P pieces, token ids (B, P, T); zeros for pieces that are not there.

        First come the P start tokens, then what lies between these and the last column of each piece, then the last columns. So
        the tokens of a window follow each other, but for an end token in the middle of the last piece. One piece stays as it is.
        """
        exists = read.any(dim=-1)
        found = self.states(tokens[exists], read[exists], layer)
        states = found.new_zeros(*tokens.shape, found.shape[-1])
        states[exists] = found
        return torch.cat([states[:, :, 0], states[:, :, 1:-1].flatten(1, 2), states[:, :, -1]], dim=1)

    def pooled(self, hidden: Tensor) -> Tensor:
        """Upstream's BertPooler: hidden states (B, T, D) of the last layer → (B, D)."""
        assert self.pooler is not None
        return torch.tanh(self.pooler(hidden[:, 0]))

    def logits(self, hidden: Tensor) -> Tensor:
        """Masked-language logits (…, V) of the last layer's hidden states (…, D).

        Raises:
            UserError: the checkpoint has no masked-language head.
        """
        if self.lm_head is None:
            source = self.audit.source if self.audit else self.name
            raise UserError(f"checkpoint {source}: holds no masked-language head, so {self.name} cannot fill in bases")
        return self.lm_head(hidden, self.encoder.tokens.weight)


def _to_official(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    assert isinstance(module, Bert)
    rename_state(state, prefix, module.official_names)


def _from_official(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    rename_state(state, prefix, BERT_NAMES)


def rename_state(state: dict[str, Tensor], prefix: str, names: Iterable[tuple[str, str]]) -> None:
    """Rename, in place, the tensors of a ``state_dict`` that begin with ``prefix``."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + _renamed(name[len(prefix) :], names)] = state.pop(name)


def _renamed(name: str, names: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in names:
        name = re.sub(pattern, replacement, name)
    return name


def bert_config(file: Path) -> dict[str, Any]:
    """The ``config.json`` beside the weights of a plain BERT or DNABERT-2.

    Raises:
        DataMissing: there is none.
        BadData: it is not JSON, or a setting has another type or is out of bounds.
        CheckpointMismatch: it describes a model of another kind, or does not say how many heads it has.
    """
    config = read_config(file, ("bert",), fields=FIELDS)
    if not config:
        raise DataMissing(f"checkpoint {file}: its config.json must lie beside it")
    check_settings(config, {"hidden_act": ("gelu",), **SETTINGS, **POST_NORM}, file)
    if stated(config, "num_attention_heads") is None:
        raise CheckpointMismatch(f"checkpoint {file}: its config.json does not say num_attention_heads; 0 tensors were loaded")
    return config


def settings_of(shape: Shape) -> dict[str, Any]:
    """What transformers' ``BertConfig`` says of a shape."""
    return {
        "attention_probs_dropout_prob": shape.attention_dropout,
        "hidden_act": shape.activation,
        "hidden_dropout_prob": shape.dropout,
        "hidden_size": shape.width,
        "initializer_range": 0.02,
        "intermediate_size": shape.inner,
        "layer_norm_eps": shape.epsilon,
        "max_position_embeddings": shape.positions,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "type_vocab_size": shape.types,
        "vocab_size": shape.vocabulary,
    }


def read_shape(published: Shape, tensors: Mapping[str, Tensor], config: Mapping[str, Any], file: Path, heads: int = 0) -> Shape:
    """``published`` with the sizes of tensors, named as in :class:`Bert`, and with what only a config can tell.

    ``heads`` counts for a config without ``num_attention_heads``; by default heads are as wide as published.

    Raises:
        CheckpointMismatch: config and tensors contradict each other, the width is no multiple of the number of heads, no base
            has a position, or the model is far larger than the file.
    """

    def size(name: str, axis: int) -> int | None:
        tensor = tensors.get(f"encoder.{name}.weight")
        return None if tensor is None or tensor.ndim != 2 else tensor.shape[axis]

    up = size("layers.0.up", 0)
    found = {
        "vocab_size": size("tokens", 0),
        "hidden_size": size("tokens", 1),
        "intermediate_size": up // 2 if up and published.gated else up,
        "max_position_embeddings": size("positions", 0),
        "type_vocab_size": size("types", 0),
    }
    check_sizes(config, found, file)
    defaults = (published.vocabulary, published.width, published.inner, published.positions, published.types)
    vocabulary, width, inner, positions, types = (
        size or stated(config, key, default) for (key, size), default in zip(found.items(), defaults, strict=True)
    )
    heads = stated(config, "num_attention_heads", heads) or max(1, width * published.heads // published.width)
    if width % heads:
        raise CheckpointMismatch(f"checkpoint {file}: a width of {width} cannot be shared by {heads} heads")
    if published.position == "learned" and positions < published.first_position + 3:
        raise CheckpointMismatch(f"checkpoint {file}: {positions} positions have no room for a base between two special tokens")
    shape = replace(
        published,
        layers=count_layers(config, "num_hidden_layers", tensors, "encoder.layers.", file) or published.layers,
        width=width,
        heads=heads,
        inner=inner,
        vocabulary=vocabulary,
        positions=positions,
        types=types if published.types else 0,
        activation=stated(config, "hidden_act", published.activation),
        head_activation=stated(config, "lm_head.transform_act", published.head_activation),
        epsilon=stated(config, "layer_norm_eps", published.epsilon),
        dropout=stated(config, "hidden_dropout_prob", stated(config, "hidden_dropout", published.dropout)),
        attention_dropout=stated(
            config, "attention_probs_dropout_prob", stated(config, "attention_dropout", published.attention_dropout)
        ),
    )
    check_size(shape.parameters, file)
    return shape


def in_our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under their authors' names as :class:`Bert` calls them."""
    return {_renamed(name, BERT_NAMES): tensor for name, tensor in tensors.items()}


def official_tensors(file: Path) -> dict[str, Tensor]:
    """A file's tensors under their authors' names, those of the oldest files brought up to date.

    Raises:
        BadData: the file cannot be read.
    """
    return rename(read_tensors(file), OLD_NAMES, file)


def has_language_head(tensors: Iterable[str]) -> bool:
    """Whether a file, by its tensors' names, holds a masked-language head; a classifier's may not."""
    return "lm_head.dense.weight" in tensors or "cls.predictions.transform.dense.weight" in tensors


def load(model: Bert, tensors: dict[str, Tensor], file: Path, facts: dict[str, Any]) -> LoadAudit:
    """Copy a file's tensors into the model. The audit's facts also say whether its decoder is the word embedding.

    Raises:
        CheckpointMismatch: a tensor is missing or has another shape.
    """
    expected = model.state_dict()
    for name, twin in TWINS:
        if name in expected and name not in tensors and twin in tensors:
            tensors[name] = tensors[twin]
    head = model.lm_head
    decoder = tensors.get(OFFICIAL_DECODER)
    tied = head is not None and decoder is not None and torch.equal(decoder, tensors.get(OFFICIAL_WORDS, decoder))
    if head is not None and head.decoder is not None and not tied:  # it was trained apart from the embedding: keep both
        head.decoder.weight = nn.Parameter(torch.empty_like(head.decoder.weight), requires_grad=False)
    audit = load_tensors(model, tensors, file)
    return replace(audit, facts={**facts, "language_head": head is not None, "tied_decoder": tied})
