"""Adapter and head together: examples of one or two windows in, logits out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.adapter import Adapter, Batch, MaskedModel
from harness.data import Example
from harness.errors import BadData, UserError
from harness.recipe import Recipe

BASES = "ACGT"


class Classifier(nn.Module):
    """``adapter``'s embeddings of an example's windows through a head: logits (B, classes).

    ``windows`` is how many windows an example has: 1, or 2 for a variant (reference, alternate). Of a variant the head sees
    the reference's embedding and the alternate's difference from it: one letter in hundreds moves a pooled embedding so
    little that a head on both as they are would have to find the difference first. A probe's head is linear whatever the
    recipe says, for it becomes the logistic regression.
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
        embeddings = self.adapter(batch).float().unflatten(0, (-1, self.windows))
        first = embeddings[:, :1]
        return torch.cat([first, embeddings[:, 1:] - first], dim=1).flatten(1)

    def forward(self, batch: Batch) -> Tensor:
        embeddings = self.embed(batch)
        with torch.autocast(embeddings.device.type, enabled=False):  # a bf16 head would round probabilities to 3 digits
            return self.head(embeddings)


class ZeroShot(nn.Module):
    """A masked model's own judgement of a variant, nothing trained: logits (B, 2) of the classes benign and harmful.

    With everything hidden that tells the base at the variant, log p(reference) - log p(alternate) is the second logit and 0
    the first: the negated log-likelihood ratio (LLR) of Brandes et al. 2023 and Benegas et al. 2025. So the probability of
    class 1 is p(reference) / (p(reference) + p(alternate)), which ranks variants and is not calibrated to their labels.

    Raises:
        UserError: the adapter fills in no bases.
    """

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        if not isinstance(adapter, MaskedModel):
            raise UserError(f"tune 'zero': {adapter.name} was not trained to fill in masked bases; use --tune full or probe")
        self.adapter = adapter

    def collate(self, examples: Sequence[Example]) -> Batch:
        """The adapter's masked batch of the reference windows, and the ``alleles`` (B, 2) as indices of ACGT.

        Raises:
            BadData: an example is no pair of windows that differ in one base.
        """
        references, positions, alleles = [], [], []
        for example in examples:
            position = variant_position(example)
            references.append(example.windows[0])
            positions.append(position)
            alleles.append([BASES.index(window.sequence[position]) for window in example.windows])
        assert isinstance(self.adapter, MaskedModel)
        return self.adapter.collate_masked(references, positions) | {"alleles": torch.tensor(alleles)}

    def forward(self, batch: Batch) -> Tensor:
        assert isinstance(self.adapter, MaskedModel)
        alleles = batch.pop("alleles")
        reference, alternate = self.adapter.base_log_probabilities(batch).float().gather(1, alleles).unbind(1)
        return torch.stack([torch.zeros_like(reference), reference - alternate], dim=1)


def variant_position(example: Example) -> int:
    """Where a variant's two windows differ, 0-based.

    Raises:
        BadData: there are not two, or they differ elsewhere than in one base.
    """
    sequences = [window.sequence for window in example.windows]
    places = [place for place, letters in enumerate(zip(*sequences, strict=False)) if len(set(letters)) > 1]
    if len(sequences) != 2 or len(places) != 1 or {sequence[places[0]] for sequence in sequences} - set(BASES):
        raise BadData(f"example {example.id!r} is no variant: expected two windows that differ in one base")
    return places[0]


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
