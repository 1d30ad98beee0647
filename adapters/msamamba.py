"""MSAMamba (Thoutam & Ellsworth 2024, OpenReview PogdVDgGFT): selective scans along alignment rows, attention down columns.

What is computed is defined in ``_msamamba_definition.py``; here, only what reaches the target row is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapter import Adapter, BaseResolved, Batch, MaskedModel, Pretrainable
from harness.card import ModelCard
from harness.data import Window, letter_table
from harness.errors import BadData, UserError
from harness.files.checkpoint import LAYERS, check_size, load_tensors, read_config, read_tensors, rename, weight_file
from harness.objective import Objective
from harness.recipe import PretrainingRecipe, Recipe

from ._batches import equal_lengths, even_ranges, mean_over, with_rows, within
from ._config import check_settings, count_layers
from ._masking import Vote, checked_positions
from ._msamamba_block import Block
from ._msamamba_cells import Cells, first_alike
from ._msamamba_shape import SETTINGS, SYMBOLS, BlockShape
from ._options import checked, checked_block, of_size
from ._species import recorded_species

GAP, MASK = 0, 5
BASES = slice(1, 5)  # A, C, G, T
TOKENS = letter_table({"-": GAP, "A": 1, "C": 2, "G": 3, "T": 4, "?": MASK}, default=GAP)
LAYOUTS = ("column", "raw_reshape")
POOLINGS = ("mean", "centre", "last")
MASKINGS = ("scan", "block")
SIZES = {"tiny": (2, 32), "base": (3, 128)}  # blocks, width
OFFICIAL = (3, 118)

# The official file's names → ours.
OFFICIAL_NAMES = (
    (r"^mamba\.(embed|layers)\.", r"\1."),
    (r"\.mamba\.(mixer|norm)\.", r".\1."),
    (r"\.att\.qkv\.", ".attention.qkv."),
    (r"\.att\.o\.", ".attention.out."),
    (r"\.transition\.lin1\.", ".mlp.0."),
    (r"\.transition\.lin2\.", ".mlp.2."),
    (r"\.norm\.scale$", ".scale"),
    (r"^lmhead\.", "lm_head."),
)


class RowSparse(Vote):
    """Bases of the target row are hidden, and rows left out as the model's options ``mask_rows`` and ``masking`` say.

    By default this is the paper's Algorithm 1.
    """


class AllRows(Vote):
    """Bases of the target row are hidden, and every row is read, whatever ``mask_rows`` is in fine-tuning."""

    def attach(self, adapter: Adapter) -> None:
        assert isinstance(adapter, MSAMamba)
        adapter.mask_rows = 0.0


class MSAMamba(Adapter, MaskedModel, Pretrainable, BaseResolved):
    """Embedding: the mean of the target row (0) over its positions, or the row's last position, which the authors use.

    ``pooling`` defaults to ``last`` for official weights and to ``mean`` from scratch. With ``mean``, a motif anywhere in the
    window reaches the classifier at once, while ``last`` spends its first epochs at chance, or never leaves it. ``centre`` is
    the middle position of the window, where variant tasks place the variant.

    A window without an alignment is read as an alignment of one row. In training, a share ``mask_rows`` of the auxiliary rows,
    drawn anew for each example and step, is left out of every scan (the paper's row-sparse training). With ``masking`` ``block``,
    which is not the paper's, they are left out of the MLPs and ask nothing in the attentions, too: they keep their residual in
    all of a block, and others attend to them. This does not apply to the layout ``raw_reshape``, of which only the few rows that
    reach the target row are computed. Of the two windows of an SNV, the same rows are left out, as the classifier reads the
    difference of their embeddings; those of an indel differ in every row right of it, and each has its own rows left out.

    ``recipe`` and ``pretraining`` are the paper's settings (appendix C.2.3). The script that the authors released has others,
    kept as ``released_script``: ``harness pretrain --learning-rate 3e-4 --weight-decay 0.08``.
    """

    name: ClassVar[str] = "msamamba"
    card = ModelCard(
        summary="Mamba along each row of an alignment, attention down its columns",
        paper="Thoutam & Ellsworth 2024, OpenReview PogdVDgGFT",
        licence="weights: none stated; implementation: Apache-2.0",
        alphabet="ACGT and gap",
        reads="alignment",
        parameters="0.98 M official, 1.2 M from scratch",
    )
    recipe = Recipe(
        learning_rate=3e-4,
        betas=(0.9, 0.95),
        weight_decay=1e-3,
        batch_size=16,
        epochs=10,
        warmup=0.1,
        schedule="cosine",
        head="tanh",
        dropout=0.25,
    )
    pretraining = PretrainingRecipe(  # in steps of 49,152 letters
        learning_rate=3e-5, betas=(0.9, 0.95), weight_decay=1e-3, batch_size=12, warmup=0.1, schedule="cosine"
    )
    # After warm-up, the script also takes 0.9 times the rate in each further epoch, of which it has at most four.
    released_script: ClassVar[Recipe] = Recipe(
        learning_rate=3e-4, betas=(0.9, 0.99), weight_decay=0.08, batch_size=12, warmup=0.1, schedule="constant"
    )
    lora_targets = ("mixer.in_proj", "mixer.out_proj", "mlp.0", "mlp.2")
    objectives: ClassVar[Mapping[str, type[Objective]]] = {"row": RowSparse, "token": AllRows}
    mask_id, random_ids = MASK, np.arange(6)[BASES]

    def __init__(
        self,
        blocks: int,
        width: int,
        layout: str,
        pooling: str,
        mask_rows: float,
        shape: BlockShape | None = None,
        masking: str = "scan",
    ) -> None:
        super().__init__()
        shape = shape or BlockShape.of_width(width)
        self.masking = checked("masking", masking, MASKINGS)
        self.layout, self.pooling = checked("layout", layout, LAYOUTS), checked("pooling", pooling, POOLINGS)
        if not 0 <= mask_rows < 1:
            raise UserError(f"option mask_rows={mask_rows}: must be at least 0 and below 1")
        self.mask_rows, self.embedding_dim, self.most_rows, self.blocks = mask_rows, width, shape.rows, blocks
        self.embed = nn.Embedding(SYMBOLS, width)
        self.layers = nn.ModuleList(Block(shape, layout) for _ in range(blocks))
        self.lm_head = nn.Linear(width, SYMBOLS).requires_grad_(False)  # used in pretraining only

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Path | None = None,
        *,
        size: str = "base",
        layout: str = "",
        pooling: str = "",
        mask_rows: float = 0.5,
        masking: str = "scan",
    ) -> Self:
        if checkpoint is None:
            sizes = of_size(cls.name, size, SIZES)
            return cls(*sizes, layout or "column", pooling or "mean", mask_rows, masking=masking)
        file = weight_file(checkpoint)
        config = read_config(file, (cls.name,), fields={"n_layers": LAYERS})
        check_settings(config, SETTINGS, file)
        tensors = rename(read_tensors(file), OFFICIAL_NAMES, file)
        blocks, width = OFFICIAL
        if (shape := BlockShape.of(tensors, config, file)) is not None:
            blocks, width = count_layers(config, "n_layers", tensors, "layers.", file), shape.width
            check_size(blocks * shape.parameters, file)
        trained_as = "column" if "layers.0.attention.rows" in tensors else "raw_reshape"
        if layout not in ("", trained_as):
            raise UserError(f"option layout={layout!r}: {file} was trained as {trained_as}; leave the option out")
        pooling = pooling or ("last" if trained_as == "raw_reshape" else "mean")
        model = cls(blocks, width, trained_as, pooling, mask_rows, shape, masking)
        model.audit = load_tensors(model, tensors, file)
        model.species_names = recorded_species(file) if trained_as == "column" else None  # the other reads no species
        return model

    def collate(self, windows: Sequence[Window]) -> Batch:
        """``tokens`` uint8 (B, S, longest), gaps on the right, and ``lengths`` (B,).

        Raises:
            BadData: the alignments have different numbers of rows, or more than have positions.
        """
        alignments = [_rows(window) for window in windows]
        depths = {len(rows) for rows in alignments}
        if len(depths) > 1 or max(depths) > self.most_rows:
            most = self.most_rows
            raise BadData(f"alignments of {sorted(depths)} rows: all windows of a task need the same number, at most {most}")
        lengths = torch.tensor([len(window) for window in windows])
        tokens = np.full((len(windows), depths.pop(), int(lengths.max())), GAP, np.uint8)
        for row, alignment in zip(tokens, alignments, strict=True):
            row[:, : alignment.shape[1]] = TOKENS[alignment]
        return {"tokens": torch.from_numpy(tokens), "lengths": lengths}

    def forward(self, batch: Batch) -> Tensor:
        tokens, lengths = batch["tokens"], batch["lengths"]
        if self.layout == "column":
            return self._pool(tokens, lengths)
        # Here attention would mix in neighbours from the padding, so windows of one length run together, unpadded.
        embeddings = torch.empty(len(tokens), self.embedding_dim, device=tokens.device)
        for same, unpadded in equal_lengths(batch, axis=2):
            embeddings[same] = self._pool(unpadded, lengths[same]).to(embeddings.dtype)
        return embeddings

    def _pool(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        if self.pooling != "mean":
            return self.encode(tokens, at=lengths - 1 if self.pooling == "last" else lengths // 2)[:, 0, 0]
        return mean_over(self.encode(tokens)[:, 0], within(lengths, tokens.shape[-1]))

    def for_accelerator(self, batch: Batch) -> Batch:
        return batch if self.layout == "column" else with_rows(batch)

    def token_ranges(self, windows: Sequence[Window]) -> Tensor:
        return even_ranges(windows)

    def hidden_states(self, batch: Batch, layer: int | None = None) -> Tensor:
        """Those of the target row. A base's state has read the columns up to it, none after it."""
        tokens = batch["tokens"]
        if self.layout == "column":
            return self.encode(tokens, layer=layer)[:, 0]
        result = torch.zeros(len(tokens), tokens.shape[2], self.embedding_dim, device=tokens.device)
        for same, unpadded in equal_lengths(batch, axis=2):
            result[same, : unpadded.shape[2]] = self.encode(unpadded, layer=layer)[:, 0].to(result.dtype)
        return result

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """The target row alone is masked, as in pretraining; adds ``masked`` (B,), the positions.

        Raises:
            BadData: a position lies outside its window.
        """
        batch = self.collate(windows) | {"masked": checked_positions(windows, positions)}
        batch["tokens"][torch.arange(len(windows)), 0, batch["masked"]] = MASK
        return batch

    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """(B, 4) over A, C, G and T alone, on the given strand."""
        result = torch.empty(len(batch["tokens"]), 4, device=batch["tokens"].device)
        for same, tokens in equal_lengths(batch, axis=2):
            hidden = self.encode(tokens, at=batch["masked"][same])[:, 0, 0]
            result[same] = self.lm_head(hidden).float()[:, BASES].log_softmax(dim=-1)
        return result

    def hideable(self, batch: Batch) -> tuple[Tensor, Tensor]:
        target = batch["tokens"][:, 0]
        return target, (target != GAP) & (target != MASK)

    def pretraining_logits(self, batch: Batch) -> Tensor:
        return self.lm_head(self.encode(batch["tokens"])[:, 0].flatten(0, 1)[batch["asked"]])

    def encode(self, tokens: Tensor, at: Tensor | None = None, layer: int | None = None) -> Tensor:
        """Hidden states (B, 1, L, D) of the target row of token ids (B, S, L), or (B, 1, 1, D) of its column ``at`` (B,) alone.

        They are those after the block ``layer``, by default the last. What cannot reach them is not computed: columns right of
        the last ``at``; in that block, the attention and MLP of other rows, and columns other than ``at``; in the layout
        ``raw_reshape``, all rows but the first few.
        """
        layers = cast("list[Block]", list(self.layers)[: checked_block(layer, self.blocks)])
        if self.layout == "raw_reshape":
            _, size, length = tokens.shape
            needed = [1]
            for block in layers:
                needed.append(block.attention.rows_read(needed[-1], size, length))
            x = self.embed(tokens[:, : needed.pop()].long())
            for block in layers:
                x = block.scan(x.flatten(0, 1), x.shape[0] * x.shape[1]).view(x.shape)
                x = block.groups(x, size, needed.pop())
            return x if at is None else x[torch.arange(len(x), device=x.device), :, at].unsqueeze(2)

        if at is not None:
            tokens = tokens[..., : int(at.max()) + 1]  # columns do not mix, and scans run from left to right
        rows = tokens.shape[1]
        order, kept = None, rows
        if (drawn := self._draw_rows(tokens)) is not None:  # the scanned rows go first
            order, kept = torch.ones(tokens.shape[:2], device=tokens.device), drawn.shape[1]
            order = order.scatter(1, drawn, 0).argsort(dim=1, stable=True)
        cells = Cells(tokens, order, kept)
        chosen = tokens if cells.rows is None else tokens.flatten(0, 1)[cells.rows]
        x, scanned = self.embed(chosen.long()).view(-1, *chosen.shape[-1:], self.embedding_dim), cells.scanned
        for block in layers[:-1]:
            x = cells.columns(block.scan(x, scanned), block is layers[0])
            x = cells.back(block.columns(x, cells.order, rows if self.masking == "scan" else kept))
            scanned = len(tokens) * kept
        last = layers[-1]
        x = cells.columns(last.scan(x, scanned), last is layers[0], at)
        if at is not None:
            return last.target(x, order).unsqueeze(1)
        return cells.windows(last.target(x, cells.order).squeeze(1)).unsqueeze(1)

    def _draw_rows(self, tokens: Tensor) -> Tensor | None:
        """The rows to scan, (B, K): the target and a random share of the others. None if every row is scanned.

        They are the same in windows of a run (see :func:`first_alike`).
        """
        B, S = tokens.shape[:2]
        kept = S - 1 - round(self.mask_rows * (S - 1))
        if not self.training or kept == S - 1:
            return None
        order = torch.rand(B, S - 1, device=tokens.device)[first_alike(tokens)].argsort(dim=1) + 1
        return F.pad(order[:, :kept], (1, 0)).sort(dim=1).values


def _rows(window: Window) -> np.ndarray:
    if window.alignment is not None:
        return window.alignment
    return np.frombuffer(window.sequence.encode(), np.uint8)[None]
