"""cnn: a small convolutional network trained from scratch, of the kind GenomicBenchmarks uses (Gresova et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapter import Adapter, BaseResolved, Batch
from harness.card import ModelCard
from harness.data import Window, letter_table, letters
from harness.recipe import Recipe

from ._batches import even_ranges
from ._options import checked_block, of_size

_CODES = letter_table({"A": 1, "C": 2, "G": 3, "T": 4}, default=0)
SIZES = {"tiny": (16, 16), "base": (64, 64)}  # filters of the two layers


class SmallCNN(Adapter, BaseResolved):
    """Embedding: the largest response of each second-layer filter over the window.

    Two convolutions (width 11, then 7 after pooling by 2) with batch normalisation and ReLU. N and padding are read as zeros.
    Responses at padding are left out, so a window's embedding does not depend on its batch.
    """

    name: ClassVar[str] = "cnn"
    card = ModelCard(
        summary="two convolutions and a maximum over positions, from scratch",
        paper="after Gresova et al. 2023, doi:10.1186/s12863-023-01123-8",
        licence="Apache-2.0",
        alphabet="ACGTN",
        parameters="32 k",
        floor=True,
    )
    recipe = Recipe(learning_rate=1e-3, batch_size=32, epochs=30, schedule="cosine", head="linear", dropout=0.3)
    # The CNN of Gresova et al., whose experiments/torch_cnn_experiments have batches of 64, 10 epochs and Adam's defaults.
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "genomic_benchmarks": {
            "batch_size": 64,
            "epochs": 10,
            "weight_decay": 0.0,
            "warmup": 0.0,
            "schedule": "constant",
            "dropout": 0.0,
        }
    }

    blocks = 2

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(4, first, 11, padding=5, bias=False), nn.BatchNorm1d(first)
        self.conv2, self.norm2 = nn.Conv1d(first, second, 7, padding=3, bias=False), nn.BatchNorm1d(second)
        self.embedding_dim = second

    @classmethod
    def from_checkpoint(cls, checkpoint: Path | None = None, *, size: str = "base") -> Self:
        return cls(*of_size(cls.name, size, SIZES))

    def collate(self, windows: Sequence[Window]) -> Batch:
        codes = torch.from_numpy(_CODES[letters(windows)])
        return {"codes": codes.to(torch.uint8), "lengths": torch.tensor([len(window) for window in windows])}

    def forward(self, batch: Batch) -> Tensor:
        return self._responses(batch).amax(dim=-1)

    def token_ranges(self, windows: Sequence[Window]) -> Tensor:
        """After the pooling, a position holds two bases."""
        return even_ranges(windows, bases=2)

    def hidden_states(self, batch: Batch, layer: int | None = None) -> Tensor:
        """The responses of a block's filters; the pooling belongs to the first block."""
        return self._responses(batch, layer).transpose(1, 2)

    def _responses(self, batch: Batch, layer: int | None = None) -> Tensor:
        """Filters' responses (B, D, T) after a block, by default the second."""
        checked_block(layer, self.blocks)
        one_hot = F.one_hot(batch["codes"].long(), 5)[..., 1:].transpose(1, 2).to(self.conv1.weight.dtype)  # (B, 4, L)
        inside = torch.arange(one_hot.shape[-1], device=one_hot.device) < batch["lengths"][:, None, None]
        x = F.relu(_normalised(self.conv1(one_hot), self.norm1)) * inside
        x = F.max_pool1d(x, 2, ceil_mode=True)
        if layer == 1:
            return x
        inside = inside[..., ::2]
        return F.relu(_normalised(self.conv2(x), self.norm2)) * inside


def _normalised(x: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """norm(x) of x (B, C, L), by the running statistics if a channel has one value, which has no variance."""
    if len(x) * x.shape[-1] > 1:
        return norm(x)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
