"""An adapter with a head: examples of one or two windows in, logits out. And zero-shot scores of variants, without a head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.adapter import Adapter, Batch, CausalModel, MaskedModel
from harness.data import Example, Window, reverse_complement
from harness.errors import BadData, UserError
from harness.recipe import Recipe
from harness.task import CLASSIFICATION

from .kinds import kind_of

BASES = "ACGT"
ROWS = 64  # of masked windows in a batch, where its variants have more than one each
ROW_LETTERS = 1 << 18  # of these, alignments included


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
    """A model's own judgement of a variant, without training: logits (B, 2) of the classes benign and harmful.

    The first logit is 0, the second log p(reference) - log p(alternate), the negated log-likelihood ratio (LLR). The probability
    of class 1 is therefore p(reference) / (p(reference) + p(alternate)). It ranks variants; it is not calibrated to their labels.

    * A masked model fills in the changed base (Brandes et al. 2023; Benegas et al. 2025). Where a variant changes several
      letters, inserts or deletes some, p is the pseudo-likelihood of the changed stretch: each of its bases is masked in turn,
      in both windows, and their log-probabilities are added, as Brandes et al. 2023 do over whole proteins. The stretch is as
      long as the longer allele in both windows, so that both sums have as many terms. N has no probability and counts as 0.
    * A causal model gives both windows their log-likelihoods, of which the difference is taken (Nguyen et al. 2024, Evo), on
      both strands, and averaged. They are computed in float32 whatever the precision, since thousands of terms nearly cancel.

    A model that is both is asked as a masked one.

    Raises:
        UserError: the adapter is neither a masked nor a causal model.
    """

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        if not isinstance(adapter, MaskedModel | CausalModel):
            raise UserError(
                f"tune 'zero': {adapter.name} was not trained to fill in masked bases or to predict the next one; "
                "use --tune full or probe"
            )
        self.adapter, self.kind = adapter, kind_of(CLASSIFICATION)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """One batch of the adapter or several, whose names have a number before them: ``0.tokens``.

        Of a masked model they are masked batches, each with ``alleles`` int64 (rows, 2): the letters, as indices into ACGT, whose
        log-probabilities are subtracted from each other, -1 for none; and ``owner`` int64 (rows,), the examples' numbers. A
        variant of one letter has one row, others have two for each letter of the stretch. Of a causal model, the batches are of
        the windows of all examples, and of their reverse complements.

        Raises:
            BadData: an example is not a pair of windows with a stretch that a variant changes.
        """
        adapter = self.adapter
        if not isinstance(adapter, MaskedModel):
            strands = zip(*map(_strands, examples), strict=True)
            return _numbered([adapter.collate([window for pair in pairs for window in pair]) for pairs in strands])
        rows = [(number, *row) for number, example in enumerate(examples) for row in _masked_rows(example)]
        size, batches = max(len(examples), min(ROWS, max(ROW_LETTERS // max(_size(row[1]) for row in rows), 1))), []
        for start in range(0, len(rows), size):
            owner, windows, positions, alleles = zip(*rows[start : start + size], strict=True)
            extra = {"alleles": torch.tensor(alleles), "owner": torch.tensor(owner)}
            batches.append(adapter.collate_masked(windows, positions) | extra)
        return _numbered(batches)

    def forward(self, batch: Batch) -> Tensor:
        adapter, batches = self.adapter, _apart(batch)
        if isinstance(adapter, MaskedModel):
            rows = torch.cat([_differences(adapter, part) for part in batches])
            owner = torch.cat([part["owner"] for part in batches])
            ratio = rows if len(rows) == owner[-1] + 1 else rows.new_zeros(int(owner[-1]) + 1).index_add(0, owner, rows)
        else:
            assert isinstance(adapter, CausalModel)
            with torch.autocast(next(iter(batch.values())).device.type, enabled=False):
                pairs = torch.stack([adapter.log_likelihood(part).unflatten(0, (-1, 2)) for part in batches])  # (strands, B, 2)
            ratio = (pairs[..., 0] - pairs[..., 1]).mean(dim=0).float()
        return torch.stack([torch.zeros_like(ratio), ratio], dim=1)


def _numbered(batches: Sequence[Batch]) -> Batch:
    return {f"{number}.{name}": tensor for number, batch in enumerate(batches) for name, tensor in batch.items()}


def _apart(batch: Batch) -> list[Batch]:
    """The batches that :func:`_numbered` put together."""
    found: dict[str, Batch] = {}
    for name, tensor in batch.items():
        number, _, own = name.partition(".")
        found.setdefault(number, {})[own] = tensor
    return list(found.values())


def _size(window: Window) -> int:
    return len(window) if window.alignment is None else window.alignment.size


def _strands(example: Example) -> tuple[tuple[Window, ...], tuple[Window, ...]]:
    """The windows of a variant, and their reverse complements."""
    changed_stretch(example)
    return example.windows, tuple(Window(reverse_complement(window.sequence)) for window in example.windows)


def _masked_rows(example: Example) -> list[tuple[Window, int, tuple[int, int]]]:
    """What a masked model is asked of a variant: window, position, and the letters there as in :meth:`ZeroShot.collate`."""
    stretch, (reference, alternate) = changed_stretch(example), example.windows
    if example.changed is None:  # masked, both windows are the same
        at = stretch[0]
        return [(reference, at, (BASES.index(reference.sequence[at]), BASES.index(alternate.sequence[at])))]
    rows = [(reference, at, (BASES.find(reference.sequence[at]), -1)) for at in stretch]
    return rows + [(alternate, at, (-1, BASES.find(alternate.sequence[at]))) for at in stretch]


def _differences(adapter: MaskedModel, batch: Batch) -> Tensor:
    """log p of the first of a row's alleles minus that of the second (rows,), 0 in place of one that is not there."""
    alleles = batch["alleles"]
    asked = {name: tensor for name, tensor in batch.items() if name not in ("alleles", "owner")}
    logs = adapter.base_log_probabilities(asked).float().gather(1, alleles.clamp(min=0))
    reference, alternate = logs.masked_fill(alleles < 0, 0.0).unbind(1)
    return reference - alternate


def changed_stretch(example: Example) -> range:
    """The positions, 0-based, of the letters that a variant changes, in either of its two windows.

    Raises:
        BadData: there are not two windows of one length that hold them, or none is said to change and they do not differ in
            exactly one base.
    """
    if example.changed is None:
        position = variant_position(example)
        return range(position, position + 1)
    first, end = example.changed
    lengths = {len(window) for window in example.windows}
    if len(example.windows) != 2 or len(lengths) != 1 or not 0 <= first < end <= lengths.pop():
        raise BadData(f"example {example.id!r}: expected two windows of one length with letters {first} to {end}")
    return range(first, end)


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
