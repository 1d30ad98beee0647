"""MSAMamba (Thoutam & Ellsworth 2024, OpenReview PogdVDgGFT): selective scans along alignment rows, attention down columns.

What is computed is defined in ``_msamamba_definition.py``; here, only what reaches the target row is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.adapter import IGNORED, Adapter, BaseResolved, Batch, MaskedModel, Pretrainable
from harness.card import ModelCard
from harness.data import Window, letter_table
from harness.errors import BadData, UserError
from harness.files.checkpoint import LAYERS, check_size, load_tensors, read_config, read_tensors, rename, weight_file
from harness.recipe import Recipe

from ._batches import equal_lengths, even_ranges, mean_over, with_rows, within
from ._config import check_settings, count_layers
from ._mamba import Mamba
from ._masking import checked_positions, corrupt
from ._msamamba_shape import SETTINGS, SYMBOLS, BlockShape
from ._options import checked, checked_block, of_size
from ._species import recorded_species

GAP, MASK = 0, 5
BASES = slice(1, 5)  # A, C, G, T
TOKENS = letter_table({"-": GAP, "A": 1, "C": 2, "G": 3, "T": 4, "?": MASK}, default=GAP)
LAYOUTS = ("column", "raw_reshape")
POOLINGS = ("mean", "centre", "last")
SIZES = {"tiny": (2, 32), "base": (3, 128)}  # blocks, width
OFFICIAL = (3, 118)
# How many numbers a slice holds on a CPU: 2 MiB in float32. Tensors of whole alignments exceed the processor's cache, and the
# allocator does not reuse memory of their size.
SLICE = 1 << 19

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


class RMSNorm(nn.Module):
    """Root-mean-square norm, which the authors write with an epsilon of 1e-8 outside the root."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.scale.shape, self.scale, 1e-16)  # inside the root: equal except for vectors as short as 1e-8


def in_slices(function: Callable[[Tensor], Tensor], x: Tensor, dim: int) -> Tensor:
    """function(x), for a function that treats slices of x along ``dim`` independently; on a CPU computed slice by slice.

    The backward pass recomputes each slice, so only the slices' inputs are kept (Chen et al. 2016, arXiv:1604.06174).
    """
    if not x.is_cpu or x.numel() <= SLICE:
        return function(x)
    parts = x.split(max(1, SLICE * x.shape[dim] // x.numel()), dim)
    if torch.is_grad_enabled():
        function = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([function(part) for part in parts], dim)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Attention (B, H, queries, W). q, k and v have four dimensions, for which torch needs no matrix of all weights."""
    if not q.is_cpu:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    dtype = torch.promote_types(q.dtype, torch.float32)  # the backward pass in bf16 is slower, three times at width 16
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype), scale=scale)


class Attention(nn.Module):
    """Multi-head attention over the rows of an alignment; heads are half as wide as the model, as in the authors' code.

    ``column`` is the paper's attention: the rows of one column attend to each other, and have learned absolute positions.
    ``raw_reshape`` is that of the authors' released code and weights, see :meth:`in_groups`.
    """

    def __init__(self, shape: BlockShape, layout: str) -> None:
        super().__init__()
        width, heads = shape.width, shape.heads
        self.heads, self.head_width = heads, width // 2
        self.qkv = nn.Linear(width, 3 * heads * self.head_width, bias=False)
        self.out = nn.Linear(heads * self.head_width, width)
        nn.init.normal_(self.qkv.weight, std=(2 / (width + self.head_width)) ** 0.5)
        if layout == "column":
            self.rows = nn.Parameter(torch.randn(shape.rows, width) * 0.02)

    def forward(self, x: Tensor, order: Tensor | None = None) -> Tensor:
        """Columns: (B, S, L, D) → the same. ``order`` (B, S) are the numbers of the rows, by default 0 to S - 1."""
        B, S, L, _ = x.shape
        x = self._placed(x, order)
        if S == 1:  # the softmax over one row is 1, so the output is its value
            return self.out(F.linear(x, self._weights()[:, 2].flatten(0, 1)))
        # Columns take the place of heads, so that nothing is moved in memory before or after the attention.
        q, k, v = self.qkv(x).view(B, S, L * self.heads, -1).transpose(1, 2).chunk(3, dim=-1)
        return self.out(attend(q, k, v).transpose(1, 2).reshape(B, S, L, -1))

    def target(self, x: Tensor, order: Tensor | None = None) -> Tensor:
        """Columns, row 0 alone: (B, S, L, D) → (B, 1, L, D), the first row of :meth:`forward`.

        As each column has a single query, the key and value matrices need not be applied to every row. They are applied to the
        query and to the weighted mean of the rows instead, since q · K x = Kᵀ q · x and V is linear.
        """
        if x.shape[1] == 1:
            return self(x)
        x = self._placed(x, order)
        to_q, to_k, to_v = self._weights().unbind(1)  # (H, W, D) each
        q = torch.einsum("bld,hwd,hwe->blhe", x[:, 0], to_q, to_k)
        columns = x.transpose(1, 2)  # (B, L, S, D)
        means = attend(q, columns, columns, scale=self.head_width**-0.5)  # (B, L, H, D)
        return self.out(torch.einsum("blhd,hwd->blhw", means, to_v).flatten(2)).unsqueeze(1)

    def in_groups(self, x: Tensor, size: int, rows: int) -> Tensor:
        """``raw_reshape`` of an alignment of ``size`` rows, of which x (B, S, L, D) are the first: (B, rows, L, D).

        The authors' reshape lacks a transpose. It cuts the alignment, written row after row as head-wide chunks, into groups
        of ``size`` neighbours, which attend to each other. A row sees only itself and the next one, where a group spans both.
        """
        B, _, L, _ = x.shape
        groups = -(-rows * L * self.heads // size)
        chunks = self.qkv(x).view(B, -1, 3 * self.head_width)[:, : groups * size]
        attended = attend(*chunks.view(B, groups, size, -1).chunk(3, dim=-1)).flatten(1, 2)
        return self.out(attended[:, : rows * L * self.heads].reshape(B, rows, L, -1))

    def rows_read(self, rows: int, size: int, length: int) -> int:
        """How many rows :meth:`in_groups` reads to compute the first ``rows``."""
        chunks = length * self.heads  # of a row
        return -(-(-(-rows * chunks // size) * size) // chunks)

    def _weights(self) -> Tensor:
        return self.qkv.weight.view(self.heads, 3, self.head_width, -1)

    def _placed(self, x: Tensor, order: Tensor | None) -> Tensor:
        return x + (self.rows[: x.shape[1]] if order is None else self.rows[order]).unsqueeze(-2)


class Block(nn.Module):
    """Scan along the rows, attention and MLP, each with a residual and an RMSNorm after it."""

    def __init__(self, shape: BlockShape, layout: str) -> None:
        super().__init__()
        width = shape.width
        self.norm = nn.LayerNorm(width)
        self.mixer = Mamba(width, shape.mixer)
        self.attention = Attention(shape, layout)
        self.mlp = nn.Sequential(nn.Linear(width, shape.inner), nn.SiLU(), nn.Linear(shape.inner, width))
        self.norm1, self.norm2, self.norm3 = RMSNorm(width), RMSNorm(width), RMSNorm(width)

    def scan(self, x: Tensor, rows: int) -> Tensor:
        """(B, S, L, D) → the same. The first ``rows`` rows are scanned, the others keep their residual."""
        scanned = in_slices(self._scan, x[:, :rows].flatten(0, 1), dim=0).unflatten(0, (len(x), rows))
        if rows == x.shape[1]:
            return scanned
        return torch.cat([scanned, in_slices(self.norm1, x[:, rows:], dim=1)], dim=1)

    def _scan(self, x: Tensor) -> Tensor:
        return self.norm1(self.mixer(self.norm(x)) + x)

    def columns(self, x: Tensor, order: Tensor | None, target: bool) -> Tensor:
        """(B, S, L, D) → the same, or (B, 1, L, D) for row 0 alone with ``target``."""
        attention = self.attention.target if target else self.attention
        return in_slices(lambda columns: self._mix(columns, attention(columns, order)), x, dim=2)

    def groups(self, x: Tensor, size: int, rows: int) -> Tensor:
        """The first rows (B, S, L, D) of an alignment of ``size`` rows → (B, rows, L, D)."""
        return in_slices(lambda windows: self._mix(windows, self.attention.in_groups(windows, size, rows)), x, dim=0)

    def _mix(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm2(attended + x[:, : attended.shape[1]])
        return self.norm3(self.mlp(x) + x)


class MSAMamba(Adapter, MaskedModel, Pretrainable, BaseResolved):
    """Embedding: the mean of the target row (0) over its positions, or the row's last position, which the authors use.

    ``pooling`` defaults to ``last`` for official weights and to ``mean`` from scratch. With ``mean``, a motif anywhere in the
    window reaches the classifier at once, while ``last`` spends its first epochs at chance, or never leaves it. ``centre`` is
    the middle position of the window, where variant tasks place the variant.

    A window without an alignment is read as an alignment of one row. In training, a share ``mask_rows`` of the auxiliary rows,
    drawn anew for each example and step, is left out of every scan (the paper's row-sparse training). This does not apply to
    the layout ``raw_reshape``, of which only the few rows that reach the target row are computed.

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
    pretraining = Recipe(  # in steps of 49,152 letters
        learning_rate=3e-5, betas=(0.9, 0.95), weight_decay=1e-3, batch_size=12, warmup=0.1, schedule="cosine"
    )
    # After warm-up, the script also takes 0.9 times the rate in each further epoch, of which it has at most four.
    released_script: ClassVar[Recipe] = Recipe(
        learning_rate=3e-4, betas=(0.9, 0.99), weight_decay=0.08, batch_size=12, warmup=0.1, schedule="constant"
    )
    lora_targets = ("mixer.in_proj", "mixer.out_proj", "mlp.0", "mlp.2")

    def __init__(
        self, blocks: int, width: int, layout: str, pooling: str, mask_rows: float, shape: BlockShape | None = None
    ) -> None:
        super().__init__()
        shape = shape or BlockShape.of_width(width)
        self.layout, self.pooling = checked("layout", layout, LAYOUTS), checked("pooling", pooling, POOLINGS)
        if not 0 <= mask_rows < 1:
            raise UserError(f"option mask_rows={mask_rows}: must be at least 0 and below 1")
        self.mask_rows, self.embedding_dim, self.most_rows, self.blocks = mask_rows, width, shape.rows, blocks
        self.embed = nn.Embedding(SYMBOLS, width)
        self.layers = nn.ModuleList(Block(shape, layout) for _ in range(blocks))
        self.lm_head = nn.Linear(width, SYMBOLS).requires_grad_(False)  # used in pretraining only

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Path | None = None, *, size: str = "base", layout: str = "", pooling: str = "", mask_rows: float = 0.5
    ) -> Self:
        if checkpoint is None:
            return cls(*of_size(cls.name, size, SIZES), layout or "column", pooling or "mean", mask_rows)
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
        model = cls(blocks, width, trained_as, pooling, mask_rows, shape)
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
        return with_rows(batch)

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

    def collate_pretraining(self, windows: Sequence[Window], rng: np.random.Generator) -> Batch:
        batch = self.collate(windows)
        return batch | {"targets": torch.from_numpy(corrupt(batch["tokens"][:, 0].numpy(), rng))}

    def pretraining_logits(self, batch: Batch) -> Tensor:
        return self.lm_head(self.encode(batch["tokens"])[:, 0][batch["targets"] != IGNORED])

    def encode(self, tokens: Tensor, at: Tensor | None = None, layer: int | None = None) -> Tensor:
        """Hidden states (B, 1, L, D) of the target row of token ids (B, S, L), or (B, 1, 1, D) of its column ``at`` (B,) alone.

        They are those after the block ``layer``, by default the last. What cannot reach them is not computed: columns right of
        the last ``at``; in that block, the attention and MLP of other rows, and columns other than ``at``; in the layout
        ``raw_reshape``, all rows but the first few.
        """
        layers = cast("list[Block]", list(self.layers)[: checked_block(layer, self.blocks)])
        everyone = torch.arange(len(tokens), device=tokens.device)
        if self.layout == "raw_reshape":
            _, size, length = tokens.shape
            needed = [1]
            for block in layers:
                needed.append(block.attention.rows_read(needed[-1], size, length))
            x = self.embed(tokens[:, : needed.pop()].long())
            for block in layers:
                x = block.groups(block.scan(x, x.shape[1]), size, needed.pop())
            return x if at is None else x[everyone, :, at].unsqueeze(2)

        if at is not None:
            tokens = tokens[..., : int(at.max()) + 1]  # columns do not mix, and scans run from left to right
        order, scanned = None, tokens.shape[1]
        if (drawn := self._draw_rows(tokens)) is not None:  # the scanned rows go first
            order, scanned = torch.ones(tokens.shape[:2], device=tokens.device), drawn.shape[1]
            order = order.scatter(1, drawn, 0).argsort(dim=1, stable=True)
            tokens = tokens[everyone[:, None], order]
        x = self.embed(tokens.long())
        *others, last = layers
        for block in others:
            x = block.columns(block.scan(x, scanned), order, target=False)
        x = last.scan(x, scanned)
        if at is not None:
            x = x[everyone, :, at].unsqueeze(2)
        return last.columns(x, order, target=True)

    def _draw_rows(self, tokens: Tensor) -> Tensor | None:
        """The rows to scan, (B, K): the target and a random share of the others. None if every row is scanned."""
        B, S = tokens.shape[:2]
        kept = S - 1 - round(self.mask_rows * (S - 1))
        if not self.training or kept == S - 1:
            return None
        order = torch.rand(B, S - 1, device=tokens.device).argsort(dim=1) + 1
        return F.pad(order[:, :kept], (1, 0)).sort(dim=1).values


def _rows(window: Window) -> np.ndarray:
    if window.alignment is not None:
        return window.alignment
    return np.frombuffer(window.sequence.encode(), np.uint8)[None]
