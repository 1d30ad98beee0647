"""An adapter with a head: examples of one or two windows in, logits out. And zero-shot scores of variants, without a head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.adapter import Adapter, Batch, MaskedModel
from harness.data import Example
from harness.errors import BadData, UserError
from harness.recipe import Recipe
from harness.task import CLASSIFICATION

from .kinds import kind_of

BASES = "ACGT"


class Classifier(nn.Module):
    """A head on the adapter's embeddings of an example's windows: logits (B, classes).

    ``windows`` is the number of windows per example: 1, or 2 for a variant (reference, alternate). For a variant the head
    sees the embedding of the reference and the difference of the alternate's from it: one letter in hundreds moves a
    pooled embedding so little that a head on the two embeddings would first have to discover the difference. The head of
    a probe is linear whatever the recipe says, because it becomes the regression that was fitted. ``kind``, one of
    :data:`harness.task.KINDS`, says what the logits mean (see :mod:`.kinds`).
    """

    def __init__(self, adapter: Adapter, classes: int, recipe: Recipe, windows: int = 1, kind: str = CLASSIFICATION) -> None:
        super().__init__()
        if recipe.tune == "lora":
            add_lora(adapter, recipe)
        self.adapter, self.windows, self.kind = adapter, windows, kind_of(kind)
        width = windows * adapter.embedding_dim
        pooler = [nn.Linear(width, width), nn.Tanh()] if recipe.head == "tanh" and recipe.tune != "probe" else []
        self.head = nn.Sequential(*pooler, nn.Dropout(recipe.dropout), nn.Linear(width, classes))

    def collate(self, examples: Sequence[Example]) -> Batch:
        """The adapter's batch of all windows in order, on the CPU."""
        return self.adapter.collate([window for example in examples for window in example.windows])

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings (B, windows × D) as float32, whatever precision the adapter computes in."""
        embeddings = self.adapter(batch).float().unflatten(0, (-1, self.windows))
        first = embeddings[:, :1]
        return torch.cat([first, embeddings[:, 1:] - first], dim=1).flatten(1)

    def forward(self, batch: Batch) -> Tensor:
        embeddings = self.embed(batch)
        with torch.autocast(embeddings.device.type, enabled=False):  # in bf16, probabilities would have only 3 digits
            return self.head(embeddings)


class ZeroShot(nn.Module):
    """A masked model's own judgement of a variant, without training: logits (B, 2) of the classes benign and harmful.

    The base at the variant is hidden from the model. The first logit is 0, the second log p(reference) - log p(alternate):
    the negated log-likelihood ratio (LLR) of Brandes et al. 2023 and Benegas et al. 2025. The probability of class 1 is
    therefore p(reference) / (p(reference) + p(alternate)). It ranks variants; it is not calibrated to their labels.

    Raises:
        UserError: the adapter is not a masked model.
    """

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        if not isinstance(adapter, MaskedModel):
            raise UserError(f"tune 'zero': {adapter.name} was not trained to fill in masked bases; use --tune full or probe")
        self.adapter, self.kind = adapter, kind_of(CLASSIFICATION)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """The adapter's masked batch of the reference windows, with ``alleles`` int64 (B, 2) as indices into ACGT.

        Raises:
            BadData: an example is not a pair of windows that differ in one base.
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
    """The position, 0-based, at which a variant's two windows differ.

    Raises:
        BadData: there are not two windows, or they differ in anything but one base.
    """
    sequences = [window.sequence for window in example.windows]
    positions = [position for position, letters in enumerate(zip(*sequences, strict=False)) if len(set(letters)) > 1]
    if len(sequences) != 2 or len(positions) != 1 or {sequence[positions[0]] for sequence in sequences} - set(BASES):
        raise BadData(f"example {example.id!r} is no variant: expected two windows that differ in one base")
    return positions[0]


def add_lora(adapter: Adapter, recipe: Recipe) -> None:
    """Freeze the adapter and add trainable low-rank matrices to its ``lora_targets``, in place (LoRA, Hu et al. 2021).

    Raises:
        UserError: the adapter has no ``lora_targets``.
    """
    if not adapter.lora_targets:
        raise UserError(f"tune 'lora': {adapter.name} names no layers to adapt; use --tune full or probe")
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        target_modules=list(adapter.lora_targets),
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in adapter.modules()),  # of transformers' GPT-2
    )
    inject_adapter_in_model(config, adapter)
