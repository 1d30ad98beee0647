"""MSAMamba (Thoutam & Ellsworth 2024, OpenReview PogdVDgGFT): selective scans along alignment rows, attention down columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapter import IGNORED, Adapter, Batch, MaskedModel, Pretrainable
from harness.card import ModelCard
from harness.checkpoint import load_tensors, read_tensors, rename, weight_file
from harness.data import Window, letter_table
from harness.errors import BadData, UserError
from harness.recipe import Recipe

from ._mamba import Mamba
from ._masking import corrupt

GAP, MASK = 0, 5
BASES = slice(1, 5)  # A, C, G, T
TOKENS = letter_table({"-": GAP, "A": 1, "C": 2, "G": 3, "T": 4, "?": MASK}, default=GAP)
LAYOUTS = ("column", "raw_reshape")
POOLINGS = ("mean", "centre", "last")
SIZES = {"tiny": (2, 32), "base": (3, 128)}  # blocks, width
OFFICIAL = (3, 118)
MAX_ROWS = 128

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
    """Root-mean-square norm as the authors write it: epsilon outside the root."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x / (x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5 + 1e-8)


class Attention(nn.Module):
    """Multi-head attention over the rows of an alignment; head width is half the model's, as in the authors' code.

    ``column`` is the paper's: the rows of one column attend to each other, told apart by learned absolute positions.
    ``raw_reshape`` is what the authors' released code and weights do: its reshape lacks a transpose, so each group is
    S consecutive head-wide chunks of one row, and no row ever sees another.
    """

    def __init__(self, width: int, layout: str, heads: int = 4) -> None:
        super().__init__()
        self.layout, self.heads, self.head_width = layout, heads, width // 2
        self.qkv = nn.Linear(width, 3 * heads * self.head_width, bias=False)
        self.out = nn.Linear(heads * self.head_width, width)
        nn.init.normal_(self.qkv.weight, std=(2 / (width + self.head_width)) ** 0.5)
        if layout == "column":
            self.rows = nn.Parameter(torch.randn(MAX_ROWS, width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:  # (B, S, L, D)
        B, S, L, _ = x.shape
        if self.layout == "raw_reshape":
            q, k, v = self.qkv(x).reshape(B, L, self.heads, S, 3 * self.head_width).chunk(3, dim=-1)
            return self.out(F.scaled_dot_product_attention(q, k, v).reshape(B, S, L, -1))
        x = x + self.rows[:S, None]
        if S == 1:  # a softmax over one row is 1: the value alone comes through
            return self.out(F.linear(x, self.qkv.weight.view(self.heads, 3, self.head_width, -1)[:, 2].flatten(0, 1)))
        q, k, v = self.qkv(x).view(B, S, L, self.heads, 3 * self.head_width).permute(0, 2, 3, 1, 4).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v)  # (B, L, H, S, W)
        return self.out(attended.permute(0, 3, 1, 2, 4).flatten(3))


class Block(nn.Module):
    """Scan along the rows, attention down the columns, MLP; a residual and an RMSNorm after each."""

    def __init__(self, width: int, layout: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mixer = Mamba(width)
        self.attention = Attention(width, layout)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.norm1, self.norm2, self.norm3 = RMSNorm(width), RMSNorm(width), RMSNorm(width)

    def forward(self, x: Tensor, scanned_rows: Tensor | None, at: Tensor | None = None) -> Tensor:
        """(B, S, L, D) → the same, or (B, S, 1, D) when only column ``at`` (B,) is wanted after the scan.

        ``scanned_rows`` (B, K) are the rows that the scan reads; the others skip it and keep their residual.
        """
        x = self.norm1(self.scan(x, scanned_rows) + x)
        if at is not None:
            x = x[torch.arange(len(x), device=x.device), :, at].unsqueeze(2)
        x = self.norm2(self.attention(x) + x)
        return self.norm3(self.mlp(x) + x)

    def scan(self, x: Tensor, scanned_rows: Tensor | None) -> Tensor:
        if scanned_rows is None:
            return self.mixer(self.norm(x).flatten(0, 1)).view_as(x)
        picked = (torch.arange(len(x), device=x.device)[:, None], scanned_rows)
        rows = x[picked]  # (B, K, L, D)
        scanned = self.mixer(self.norm(rows).flatten(0, 1)).view_as(rows)
        return torch.zeros_like(x, dtype=scanned.dtype).index_put(picked, scanned)


class MSAMamba(Adapter, MaskedModel, Pretrainable):
    """Embedding: the mean of the target row (0) over its positions, or, as the authors have it, the row's last position.

    ``pooling`` is ``last`` by default for official weights. From scratch it is ``mean``: a motif anywhere in the window
    then reaches the classifier at once, while ``last`` spends its first epochs at chance, or never leaves it. ``centre`` is
    the position in the middle of the window, where the tasks of variants have the variant.

    A window without an alignment is read as an alignment of one row. In training, ``mask_rows`` of the auxiliary rows
    are left out of every scan, drawn anew for each example and step (the paper's row-sparse training).
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
        batch_size=16,
        epochs=10,
        warmup=0.05,
        schedule="cosine",
        head="tanh",
        dropout=0.25,
    )
    pretraining = Recipe(  # Algorithm 1 of the paper
        learning_rate=3e-4, betas=(0.9, 0.95), weight_decay=1e-3, batch_size=12, warmup=0.1, schedule="cosine"
    )
    lora_targets = ("mixer.in_proj", "mixer.out_proj", "mlp.0", "mlp.2")

    def __init__(self, blocks: int, width: int, layout: str, pooling: str, mask_rows: float) -> None:
        super().__init__()
        for option, value, allowed in (("layout", layout, LAYOUTS), ("pooling", pooling, POOLINGS)):
            if value not in allowed:
                raise UserError(f"option {option}={value!r}: choose one of {', '.join(allowed)}")
        if not 0 <= mask_rows < 1:
            raise UserError(f"option mask_rows={mask_rows}: must be at least 0 and below 1")
        self.layout, self.pooling, self.mask_rows, self.embedding_dim = layout, pooling, mask_rows, width
        self.embed = nn.Embedding(len("-ACGT?"), width)
        self.layers = nn.ModuleList(Block(width, layout) for _ in range(blocks))
        self.lm_head = nn.Linear(width, len("-ACGT?")).requires_grad_(False)  # used in pretraining only

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Path | None = None, *, size: str = "base", layout: str = "", pooling: str = "", mask_rows: float = 0.5
    ) -> Self:
        if checkpoint is None:
            if size not in SIZES:
                raise UserError(f"size {size!r}: msamamba comes as {', '.join(SIZES)}")
            return cls(*SIZES[size], layout or "column", pooling or "mean", mask_rows)
        file = weight_file(checkpoint)
        tensors = rename(read_tensors(file), OFFICIAL_NAMES, file)
        blocks, width = OFFICIAL
        if "embed.weight" in tensors:
            width = tensors["embed.weight"].shape[-1]
            blocks = 1 + max((int(name.split(".")[1]) for name in tensors if name.startswith("layers.")), default=0)
        trained_as = "column" if "layers.0.attention.rows" in tensors else "raw_reshape"
        if layout not in ("", trained_as):
            raise UserError(f"option layout={layout!r}: {file} was trained as {trained_as}; leave the option out")
        model = cls(blocks, width, trained_as, pooling or ("last" if trained_as == "raw_reshape" else "mean"), mask_rows)
        model.audit = load_tensors(model, tensors, file)
        return model

    def collate(self, windows: Sequence[Window]) -> Batch:
        alignments = [_rows(window) for window in windows]
        depths = {len(rows) for rows in alignments}
        if len(depths) > 1 or max(depths) > MAX_ROWS:
            raise BadData(f"alignments of {sorted(depths)} rows: all windows of a task need the same number, at most {MAX_ROWS}")
        lengths = torch.tensor([len(window) for window in windows])
        tokens = np.full((len(windows), depths.pop(), int(lengths.max())), GAP, np.uint8)
        for row, alignment in zip(tokens, alignments, strict=True):
            row[:, : alignment.shape[1]] = TOKENS[alignment]
        return {"tokens": torch.from_numpy(tokens), "lengths": lengths}

    def forward(self, batch: Batch) -> Tensor:
        tokens, lengths = batch["tokens"], batch["lengths"]
        if self.layout == "column":
            return self._pool(tokens, lengths)
        # Here attention mixes neighbours along the padded length too, so windows of one length go together, unpadded.
        embeddings = torch.empty(len(tokens), self.embedding_dim, device=tokens.device)
        for length in lengths.unique().tolist():
            same = lengths == length
            embeddings[same] = self._pool(tokens[same, :, :length], lengths[same]).to(embeddings.dtype)
        return embeddings

    def _pool(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        if self.pooling != "mean":
            return self.encode(tokens, at=lengths - 1 if self.pooling == "last" else lengths // 2)[:, 0, 0]
        inside = torch.arange(tokens.shape[-1], device=tokens.device) < lengths[:, None]
        return (self.encode(tokens)[:, 0] * inside.unsqueeze(-1)).sum(dim=1) / lengths[:, None]

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """Only the target row is masked, as in pretraining."""
        batch = self.collate(windows) | {"positions": torch.tensor(list(positions))}
        batch["tokens"][torch.arange(len(windows)), 0, batch["positions"]] = MASK
        return batch

    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """(B, 4) over A, C, G and T alone, on the strand that was given."""
        result = torch.empty(len(batch["tokens"]), 4, device=batch["tokens"].device)
        for length in batch["lengths"].unique().tolist():
            same = batch["lengths"] == length
            hidden = self.encode(batch["tokens"][same, :, :length], at=batch["positions"][same])[:, 0, 0]
            result[same] = self.lm_head(hidden).float()[:, BASES].log_softmax(dim=-1)
        return result

    def collate_pretraining(self, windows: Sequence[Window], rng: np.random.Generator) -> Batch:
        batch = self.collate(windows)
        return batch | {"targets": torch.from_numpy(corrupt(batch["tokens"][:, 0].numpy(), rng))}

    def pretraining_logits(self, batch: Batch) -> Tensor:
        return self.lm_head(self.encode(batch["tokens"])[:, 0][batch["targets"] != IGNORED])

    def encode(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Hidden states (B, S, L, D) of token ids (B, S, L); with ``at`` (B,), only that column, (B, S, 1, D)."""
        x = self.embed(tokens.long())
        scanned_rows = self._draw_rows(x)
        for layer in self.layers[:-1]:
            x = layer(x, scanned_rows)
        if self.layout == "column":  # columns do not mix, so the last block may drop the others after its scan
            return self.layers[-1](x, scanned_rows, at)
        x = self.layers[-1](x, scanned_rows)
        return x if at is None else x[torch.arange(len(x), device=x.device), :, at].unsqueeze(2)

    def _draw_rows(self, x: Tensor) -> Tensor | None:
        """The target row and a random share of the auxiliary ones, (B, K); None when every row is scanned."""
        B, S = x.shape[:2]
        kept = S - 1 - round(self.mask_rows * (S - 1))
        if not self.training or kept == S - 1:
            return None
        order = torch.rand(B, S - 1, device=x.device).argsort(dim=1) + 1
        return F.pad(order[:, :kept], (1, 0)).sort(dim=1).values


def _rows(window: Window) -> np.ndarray:
    if window.alignment is not None:
        return window.alignment
    return np.frombuffer(window.sequence.encode(), np.uint8)[None]
