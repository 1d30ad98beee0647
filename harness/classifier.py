"""Adapter and head together: examples of one or two windows in, logits out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.adapter import Adapter, Batch
from harness.data import Example
from harness.errors import UserError
from harness.recipe import Recipe


class Classifier(nn.Module):
    """``adapter``'s embedding of each of an example's windows, concatenated, through a head: logits (B, classes).

    ``windows`` is how many windows an example has: 1, or 2 for a variant (reference, alternate). A probe's head is linear
    whatever the recipe says, for it becomes the logistic regression.
    """

    def __init__(self, adapter: Adapter, classes: int, recipe: Recipe, windows: int = 1) -> None:
        super().__init__()
        if recipe.tune == "lora":
            add_lora(adapter, recipe)
        self.adapter, self.windows = adapter, windows
        width = windows * adapter.embedding_dim
        pooler = [nn.Linear(width, width), nn.Tanh()] if recipe.head == "tanh" and recipe.tune != "probe" else []
        self.head = nn.Sequential(*pooler, nn.Dropout(recipe.dropout), nn.Linear(width, classes))

    def collate(self, examples: Sequence[Example]) -> Batch:
        """The adapter's batch over all windows in order, on the CPU."""
        return self.adapter.collate([window for example in examples for window in example.windows])

    def embed(self, batch: Batch) -> Tensor:
        """(B, windows × D), as float32 whatever the precision of the adapter."""
        embeddings = self.adapter(batch)
        return embeddings.float().reshape(len(embeddings) // self.windows, -1)

    def forward(self, batch: Batch) -> Tensor:
        embeddings = self.embed(batch)
        with torch.autocast(embeddings.device.type, enabled=False):  # a bf16 head would round probabilities to 3 digits
            return self.head(embeddings)


def add_lora(adapter: Adapter, recipe: Recipe) -> None:
    """Freeze the adapter and add trainable low-rank matrices to the layers in its ``lora_targets``, in place.

    Raises:
        UserError: the adapter names no such layers.
    """
    if not adapter.lora_targets:
        raise UserError(f"tune 'lora': {adapter.name} names no layers to adapt; use --tune full or probe")
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules=list(adapter.lora_targets))
    inject_adapter_in_model(config, adapter)
