"""What GPN-MSA's files hold: the names of its tensors, its configuration, and the species that it reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from harness.errors import BadData, CheckpointMismatch
from harness.files.alignments import SPECIES
from harness.files.checkpoint import DROPOUT, EPSILON, HEADS, LAYERS, TEXT, Field, check_size, read_config

from . import _bert
from ._bert import BERT_NAMES, rename_state, settings_of
from ._config import Settings, check_sizes, count_layers, stated
from ._species import recorded_species
from ._transformer import Shape

SYMBOLS, AUX_SYMBOLS = len("-ACGT?"), len("-ACGT")

# The official file's names → ours. The bias of the head has two names there.
OUR_NAMES = (
    (r"^model\.encoder\.embed_positions\.weight$", "positions"),
    *BERT_NAMES,
    (r"^encoder\.layers\.", "layers."),
    (r"^lm_head\.bias$", "lm_head.decoder.bias"),
)
OFFICIAL_NAMES = (
    (r"^positions$", "model.encoder.embed_positions.weight"),
    (r"^lm_head\.decoder\.bias$", "lm_head.bias"),
    (r"^layers\.", "encoder.layers."),
    *_bert.OFFICIAL_NAMES,
    *_bert.PLAIN_FEED_FORWARD,
    (r"^bert\.", "model."),
)
FIELDS: Mapping[str, Field] = {
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "layer_norm_eps": EPSILON,
    "hidden_dropout_prob": DROPOUT,
    "attention_probs_dropout_prob": DROPOUT,
    "hidden_act": TEXT,
    "n_aux_features": (int, 0, 1 << 20),
}
RECORD: Mapping[str, Field] = {"data": (dict, None, None)}  # of pretrain.json
SETTINGS: Settings = {
    **_bert.SETTINGS,
    **_bert.POST_NORM,
    "hidden_act": ("gelu",),
    "position_embedding_type": ("rotary", "absolute"),  # RoFormer's table of positions is one of angles
    "rotary_value": (False,),
    "vocab_size": (SYMBOLS,),
    "aux_features_vocab_size": (AUX_SYMBOLS,),
}
PUBLISHED = Shape(layers=12, width=768, heads=12, inner=3072, vocabulary=SYMBOLS, positions=1536, position="rotary")


def most_species(width: int) -> int:
    """How many species the one-hot vector of a column has channels for."""
    return (width - SYMBOLS) // AUX_SYMBOLS


def read_shape(tensors: Mapping[str, Tensor], config: Mapping[str, Any], file: Path) -> Shape:
    """The shape of tensors under our names; without a config, heads are as wide as the table of positions.

    Raises:
        CheckpointMismatch: the config contradicts them, or describes a model far larger than the file.
    """
    table, up = tensors.get("positions"), tensors.get("layers.0.up.weight")
    if table is None or up is None or table.ndim != 2 or up.ndim != 2:
        return PUBLISHED  # another model's file: load_tensors says how little of it matches
    (inner, width), (positions, head_width) = up.shape, table.shape
    found = {
        "hidden_size": width,
        "embedding_size": width,
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "num_attention_heads": max(1, width // head_width),
    }
    check_sizes(config, found, file)
    shape = replace(
        PUBLISHED,
        layers=count_layers(config, "num_hidden_layers", tensors, "layers.", file),
        width=width,
        heads=found["num_attention_heads"],
        inner=inner,
        positions=positions,
        epsilon=stated(config, "layer_norm_eps", PUBLISHED.epsilon),
        dropout=stated(config, "hidden_dropout_prob", PUBLISHED.dropout),
        attention_dropout=stated(config, "attention_probs_dropout_prob", PUBLISHED.attention_dropout),
    )
    check_size(shape.parameters, file)
    return shape


def to_official(module: nn.Module, state: dict[str, Tensor], prefix: str = "", *_: Any) -> None:
    """Give the tensors of a ``state_dict`` their official names."""
    rename_state(state, prefix, OFFICIAL_NAMES)


def from_official(module: nn.Module, state: dict[str, Tensor], prefix: str = "", *_: Any) -> None:
    """Give the tensors of a ``state_dict`` our names, which those of earlier versions have already."""
    rename_state(state, prefix, OUR_NAMES)


def written_config(shape: Shape, species: int) -> str:
    """The text of a ``config.json`` as upstream writes it; no species stands for any number."""
    config = {
        "architectures": ["GPNRoFormerForMaskedLM"],
        **settings_of(shape),
        "model_type": "GPNRoFormer",
        "aux_features_vocab_size": AUX_SYMBOLS,
        "embedding_size": shape.width,
        "n_aux_features": AUX_SYMBOLS * species,
        "pad_token_id": 0,
        "rotary_value": False,
    }
    return json.dumps(config, indent=1) + "\n"


def read_species(config: Mapping[str, Any], file: Path) -> tuple[int, tuple[str, ...] | None]:
    """The number of species according to the config or to the record of `harness pretrain`, and their names; 0 without either.

    The names of 89 species are those of songlab's alignment, whose stores do not name them either.

    Raises:
        BadData: the record has something else where the number of rows belongs.
        CheckpointMismatch: the number of features is no multiple of the symbols.
    """
    names = recorded_species(file)
    if not config:
        rows = stated(read_config(file, ("GPNRoFormer",), "pretrain.json", RECORD), "data.rows", 1)
        if type(rows) is not int or rows < 1:
            path = file.with_name("pretrain.json")
            raise BadData(f"{path}: data.rows {str(rows)[:60]!r}, expected a whole number from 1; fetch it again")
        return (len(names), names) if names else (rows - 1, None)
    features = stated(config, "n_aux_features", 0)
    if features % AUX_SYMBOLS:
        raise CheckpointMismatch(f"{file.with_name('config.json')}: n_aux_features {features} is no multiple of {AUX_SYMBOLS}")
    number = features // AUX_SYMBOLS
    return number, names if names and len(names) == number else SPECIES.get(str(number))
