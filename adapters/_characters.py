"""The tokens of Caduceus and HyenaDNA, which are single letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.adapter import Batch
from harness.data import Window, letter_table, letters
from harness.errors import CheckpointMismatch
from harness.files.checkpoint import LAYERS, ROWS, Field

from ._config import check_sizes, stated

MASK, PAD, UNKNOWN, N = 3, 4, 6, 11
BASES = slice(7, 11)  # A, C, G, T
VOCABULARY = 16  # [CLS] [SEP] [BOS] [MASK] [PAD] reserved [UNK] A C G T N, filled up to a multiple of 8
COMPLEMENT = (0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11, 12, 13, 14, 15)

# Settings of Caduceus and HyenaDNA alike.
FIELDS: Mapping[str, Field] = {"n_layer": LAYERS, "vocab_size": ROWS, "pad_vocab_size_multiple": (int, 1, 1 << 16)}
_FILL = "-"
TOKENS = letter_table({"A": 7, "C": 8, "G": 9, "T": 10, "N": N, _FILL: PAD}, default=UNKNOWN).astype("uint8")


def collate(windows: Sequence[Window]) -> Batch:
    """``tokens`` uint8 (B, longest), with [PAD] on the right, and ``lengths`` (B,). No special tokens, as upstream fine-tunes."""
    lengths = torch.tensor([len(window) for window in windows])
    return {"tokens": torch.from_numpy(TOKENS[letters(windows, _FILL)]), "lengths": lengths}


def is_base(tokens: Tensor) -> Tensor:
    """True where a token is A, C, G or T."""
    return (tokens >= BASES.start) & (tokens < BASES.stop)


def check_vocabulary(embedding: Tensor | None, config: Mapping[str, Any], file: Path) -> None:
    """Check that an embedding (V, D), and the configuration beside it, are for this alphabet.

    Raises:
        CheckpointMismatch: V is another number of tokens.
    """
    if embedding is not None and len(embedding) != VOCABULARY:
        raise CheckpointMismatch(
            f"checkpoint {file}: a vocabulary of {len(embedding)} tokens, expected {VOCABULARY} for single letters"
        )
    # A configuration counts tokens before or after they are filled up to a multiple.
    tokens, multiple = stated(config, "vocab_size", VOCABULARY), stated(config, "pad_vocab_size_multiple", 8)
    if -(-tokens // multiple) * multiple != VOCABULARY:
        check_sizes(config, {"vocab_size": VOCABULARY}, file)
