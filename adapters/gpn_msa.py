"""GPN-MSA (Benegas et al. 2025, doi:10.1038/s41587-024-02511-w): a transformer along the columns of a whole-genome alignment.

The architecture of the released file (upstream's ``gpn/legacy.py``, ``GPNRoFormer``), not that of upstream's newer classes:
every position is one vector of zeros and ones that stands for its alignment column, and nothing embeds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapter import IGNORED, Adapter, Batch, MaskedModel, Pretrainable
from harness.card import ModelCard
from harness.data import Window, letter_table
from harness.errors import BadData, CheckpointMismatch, UserError
from harness.files.checkpoint import load_tensors, read_config, read_tensors, rename, weight_file
from harness.recipe import Recipe

from ._characters import equal_lengths
from ._masking import corrupt

GAP, MASK = 0, 5
ABSENT = 255  # no symbol, so no channel: a species that is not there at all, which the model tells from a gap
BASES = slice(1, 5)  # A, C, G, T; base + its complement = 5
SYMBOLS, AUX_SYMBOLS = len("-ACGT?"), len("-ACGT")
# Upstream upper-cases and takes every other letter for a gap. The mask is no letter: only collate_masked writes it.
TOKENS = letter_table({letter: 1 + number % 4 for number, letter in enumerate("ACGTacgt")}, default=GAP).astype(np.uint8)
PUBLISHED_SPECIES = 89  # multiz100way without human and its ten nearest relatives

# The official file's names → ours. The bias of the head has two names there.
OFFICIAL_NAMES = (
    (r"^model\.encoder\.embed_positions\.weight$", "positions"),
    (r"^model\.encoder\.layer\.", "layers."),
    (r"\.attention\.self\.", "."),
    (r"\.attention\.output\.dense\.", ".out."),
    (r"\.attention\.output\.LayerNorm\.", ".attention_norm."),
    (r"\.intermediate\.dense\.", ".up."),
    (r"\.output\.dense\.", ".down."),
    (r"\.output\.LayerNorm\.", ".mlp_norm."),
    (r"^cls\.predictions\.transform\.dense\.", "lm_head.dense."),
    (r"^cls\.predictions\.transform\.LayerNorm\.", "lm_head.norm."),
    (r"^cls\.predictions\.bias$", "lm_head.decoder.bias"),
    (r"^cls\.predictions\.decoder\.", "lm_head.decoder."),
)
# What the released config says; the switches for anything else are not implemented.
RELEASED = {"hidden_act": "gelu", "rotary_value": False, "vocab_size": SYMBOLS, "aux_features_vocab_size": AUX_SYMBOLS}


@dataclass(frozen=True)
class Shape:
    """The sizes of a GPN-MSA. ``species`` is the number of auxiliary rows it was trained with, None where any will do."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    mlp: int = 3072
    positions: int = 1536
    species: int | None = None
    epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1

    @property
    def room(self) -> int:
        """How many species the one-hot vectors of a column have channels for."""
        return (self.width - SYMBOLS) // AUX_SYMBOLS

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any], species: int) -> Self:
        """The shape that tensors under our names have; without a config, heads are as wide as the table of positions."""
        table, up = tensors.get("positions"), tensors.get("layers.0.up.weight")
        if table is None or up is None or table.ndim != 2 or up.ndim != 2:
            return cls(species=species)  # another model's file: load_tensors says how little of it matches
        return cls(
            layers=config.get("num_hidden_layers")
            or sum(bool(re.fullmatch(r"layers\.\d+\.up\.weight", name)) for name in tensors),
            width=up.shape[1],
            heads=config.get("num_attention_heads") or max(1, up.shape[1] // table.shape[1]),
            mlp=up.shape[0],
            positions=table.shape[0],
            species=species,
            epsilon=config.get("layer_norm_eps", cls.epsilon),
            dropout=config.get("hidden_dropout_prob", cls.dropout),
            attention_dropout=config.get("attention_probs_dropout_prob", cls.attention_dropout),
        )


SIZES = {"tiny": Shape(layers=2, width=512, heads=8, mlp=256), "base": Shape()}


def sinusoids(positions: int, width: int) -> Tensor:
    """Table (positions, width) of rotary angles: their sines in the first half of a row, their cosines in the second."""
    angles = torch.arange(positions)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of x (B, H, L, W) by its position's angle in ``table`` (L, W).

    What comes out has the first of each pair in its first half: queries and keys are reordered alike, which products of
    the two do not notice.
    """
    sin, cos = table.chunk(2, dim=-1)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def other_strand(tokens: Tensor) -> Tensor:
    """Reverse complement of an alignment, token ids (B, L, S): every row turned round, the order of the rows kept."""
    turned = tokens.flip(1)
    return torch.where((turned > GAP) & (turned < MASK), 5 - turned, turned)


class Layer(nn.Module):
    """Rotary self-attention and MLP, each with a residual and a LayerNorm after it (upstream's RoFormerLayer)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.query, self.key, self.value, self.out = (nn.Linear(shape.width, shape.width) for _ in range(4))
        self.attention_norm = nn.LayerNorm(shape.width, shape.epsilon)
        self.up, self.down = nn.Linear(shape.width, shape.mlp), nn.Linear(shape.mlp, shape.width)
        self.mlp_norm = nn.LayerNorm(shape.width, shape.epsilon)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:  # (B, L, D), (L, W)
        x = self.attention_norm(x + self.drop(self.attend(x, table)))
        return self.mlp_norm(x + self.drop(self.down(F.gelu(self.up(x)))))

    def attend(self, x: Tensor, table: Tensor) -> Tensor:
        heads = (self.shape.heads, -1)
        q, k, v = (linear(x).unflatten(-1, heads).transpose(1, 2) for linear in (self.query, self.key, self.value))
        dropout = self.shape.attention_dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(rotate(q, table), rotate(k, table), v, dropout_p=dropout)  # (B, H, L, W)
        return self.out(attended.transpose(1, 2).flatten(2))

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.shape.dropout, self.training)


class MaskHead(nn.Module):
    """Hidden states (…, D) → logits of ``-ACGT?`` (…, 6); its decoder is tied to nothing, as there is no embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.width, shape.width)
        self.norm = nn.LayerNorm(shape.width, shape.epsilon)
        self.decoder = nn.Linear(shape.width, SYMBOLS)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.norm(F.gelu(self.dense(x))))


class GPNMSA(Adapter, MaskedModel, Pretrainable):
    """Embedding: the mean of the last hidden states of the window's central 100/128, over both strands (width D).

    Upstream's, which takes the middle 100 of 128 positions; other lengths lose 7/64 at each end in the same way, windows
    below 10 nt nothing. What is cut off is still read: every position attends to all. Both strands go through the model,
    in training too, so a window and its reverse complement have the same embedding. There is no padding and no mask
    upstream, so windows of one length run together, never padded. Trained on 128 nt; positions reach 1,536.

    Official weights need all of their species, in their order: rows 1 to 89 of an alignment (multiz100way without
    human and ten primates). A model from scratch takes any number that its width has channels for (base 152, tiny
    101), or exactly ``species``. ``rows`` ("1-10,25") are the rows to read; the others become gaps, which is what the model
    knows of a species that does not align. A window without an alignment is read alone: the channels of all
    species stay zero (upstream's ``disable_aux_features``), which is not the same as gaps, and which no official weights
    were trained for.
    """

    name: ClassVar[str] = "gpn_msa"
    card = ModelCard(
        summary="transformer over the columns of an alignment of 90 vertebrates",
        paper="Benegas et al. 2025, doi:10.1038/s41587-024-02511-w (preprint 2023)",
        licence="MIT",
        alphabet="ACGT and gap",
        reads="alignment",
        parameters="86 M",
        max_length=1536,
        checkpoint="songlab/gpn-msa-sapiens",
        files=("config.json", "pytorch_model.bin"),
        sha256={"pytorch_model.bin": "871486dc79457c5e4954f76003ebaa818bbefcf3769f9371848ee80b55eee7c4"},
    )
    # The authors score variants without training and publish no settings for fine-tuning; these are BERT's usual ones.
    recipe = Recipe(learning_rate=3e-5, batch_size=16, epochs=20, schedule="linear", warmup=0.1)
    # Upstream's example of training: 2,048 windows of 128 nt a step, 1,000 of 30,000 steps of warm-up.
    pretraining = Recipe(learning_rate=1e-4, weight_decay=0.01, batch_size=32, warmup=1 / 30, schedule="cosine")
    lora_targets = ("query", "value")
    reverse_complement_invariant = True

    def __init__(self, shape: Shape, rows: str = "") -> None:
        super().__init__()
        if shape.species is not None and not 1 <= shape.species <= shape.room:
            raise UserError(f"option species={shape.species}: a width of {shape.width} has channels for 1 to {shape.room}")
        self.shape, self.rows = shape, _row_numbers(rows, shape.room if shape.species is None else shape.species)
        self.max_length, self.embedding_dim = shape.positions, shape.width
        self.register_buffer("positions", sinusoids(shape.positions, shape.width // shape.heads))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.lm_head = MaskHead(shape).requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @classmethod
    def from_checkpoint(cls, checkpoint: Path | None = None, *, size: str = "base", species: int = 0, rows: str = "") -> Self:
        if checkpoint is None:
            if size not in SIZES:
                raise UserError(f"size {size!r}: gpn_msa comes as {', '.join(SIZES)}")
            return cls(replace(SIZES[size], species=species or None), rows)
        file = weight_file(checkpoint)
        config = read_config(file, ("GPNRoFormer",))
        tensors = rename(read_tensors(file), OFFICIAL_NAMES, file)
        known = _species(config, file)
        if known and species not in (0, known):
            raise UserError(f"option species={species}: {file} was trained with {known}; leave the option out")
        number = known or species or PUBLISHED_SPECIES
        shape = Shape.of(tensors, config, number)
        if number > shape.room or shape.width % shape.heads:
            raise CheckpointMismatch(
                f"checkpoint {file}: {number} species and {shape.heads} heads do not fit a width of {shape.width}"
            )
        model = cls(shape, rows)
        audit = load_tensors(model, tensors, file)
        odd = [name for name in audit.unused if name.startswith("model.")]
        if odd:  # the newer classes have a norm at the end, without which the rest means nothing
            raise CheckpointMismatch(
                f"checkpoint {file}: {audit.matched} tensors match, but {', '.join(odd[:3])} belong to another architecture"
            )
        sinusoid = torch.allclose(tensors["positions"], sinusoids(*tensors["positions"].shape), atol=1e-3)
        facts = {
            "species": number,
            "vocabulary": "-ACGT?",
            "input_channels": f"{SYMBOLS} + {AUX_SYMBOLS} x {number} of {shape.width}",
            "decoder": "untied",
            "positions": "sinusoid" if sinusoid else "not the sinusoid: the file's table is used",
        }
        warning = f"no config.json beside {file.name}: {number} species are assumed, as published; --option species=N"
        model.audit = replace(audit, facts=facts, warnings=() if known or species else (warning,))
        return model

    def collate(self, windows: Sequence[Window]) -> Batch:
        """``tokens`` uint8 (B, longest, S), the columns of the alignments, and ``lengths`` (B,).

        Row 0 is the sequence: S is 1 when no window has an alignment. Where only some have, the others' rows are absent.

        Raises:
            BadData: a window is too long, or its alignment has another number of rows than the model reads.
        """
        lengths = torch.tensor([len(window) for window in windows])
        if int(lengths.max()) > self.shape.positions:
            raise BadData(f"window of {int(lengths.max())} nt: gpn_msa reads at most {self.shape.positions}; nothing was cut")
        depth = self._depth(windows)
        dropped = [] if self.rows is None else [row for row in range(1, depth) if row not in self.rows]
        tokens = np.full((len(windows), int(lengths.max()), depth), ABSENT, np.uint8)
        for columns, window in zip(tokens, windows, strict=True):
            if window.alignment is None:
                columns[: len(window), 0] = TOKENS[np.frombuffer(window.sequence.encode(), np.uint8)]
            else:
                columns[: len(window)] = TOKENS[window.alignment].T
                columns[: len(window), dropped] = GAP
        return {"tokens": torch.from_numpy(tokens), "lengths": lengths}

    def _depth(self, windows: Sequence[Window]) -> int:
        """The number of rows of the windows' alignments, 1 if there are none."""
        depths = sorted({len(window.alignment) for window in windows if window.alignment is not None})
        if len(depths) > 1:
            raise BadData(f"alignments of {' and '.join(map(str, depths))} rows: all windows of a task need the same number")
        species = self.shape.species
        if depths and species is not None and depths[0] != 1 + species:
            raise BadData(
                f"alignment of {depths[0]} rows: this gpn_msa reads {1 + species}, the sequence and {species} species in the "
                "order of its training; a window without an alignment is read alone"
            )
        if depths and depths[0] > 1 + self.shape.room:
            raise BadData(f"alignment of {depths[0]} rows: a width of {self.shape.width} has channels for {1 + self.shape.room}")
        return depths[0] if depths else 1

    def forward(self, batch: Batch) -> Tensor:
        embeddings = torch.empty(len(batch["tokens"]), self.embedding_dim, device=batch["tokens"].device)
        for rows, tokens in equal_lengths(batch):
            length = tokens.shape[1]
            cut = 7 * length // 64
            states = self.encode(torch.cat([tokens, other_strand(tokens)]))[:, cut : length - cut]
            embeddings[rows] = states.mean(dim=1).unflatten(0, (2, -1)).mean(dim=0).to(embeddings.dtype)
        return embeddings

    def columns(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L, S) → (B, L, D): 6 channels for the sequence, 5 for each species in turn, zeros up to the width."""
        symbols = torch.arange(SYMBOLS, device=tokens.device)
        sequence = tokens[..., :1] == symbols
        species = (tokens[..., 1:, None] == symbols[:AUX_SYMBOLS]).flatten(-2)
        ones = torch.cat([sequence, species], dim=-1)
        return F.pad(ones, (0, self.embedding_dim - ones.shape[-1])).to(self.lm_head.dense.weight.dtype)

    def encode(self, tokens: Tensor) -> Tensor:
        """Last hidden states (B, L, D) of token ids (B, L, S), one strand, all positions read."""
        x, table = self.columns(tokens), self.positions[: tokens.shape[1]]  # type: ignore[index]
        for layer in self.layers:
            x = layer(x, table)
        return x

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """Only row 0 is masked, as in training: what the other species have there is what the model is to judge by."""
        for window, position in zip(windows, positions, strict=True):
            if not 0 <= position < len(window):
                raise BadData(f"position {position}: the window has {len(window)} nt, counted from 0")
        batch = self.collate(windows) | {"positions": torch.tensor(list(positions))}
        batch["tokens"][torch.arange(len(windows)), batch["positions"], 0] = MASK
        return batch

    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """(B, 4) over A, C, G and T alone, from logits averaged over both strands.

        So the difference of two of them is upstream's score of a variant (``gpn/msa/vep.py``): the mean over the strands of
        logit[alternate] - logit[reference].
        """
        result = torch.empty(len(batch["tokens"]), 4, device=batch["tokens"].device)
        for rows, tokens in equal_lengths(batch):
            there = batch["positions"][rows]
            at = torch.cat([there, tokens.shape[1] - 1 - there])
            states = self.encode(torch.cat([tokens, other_strand(tokens)]))[torch.arange(len(at), device=at.device), at]
            with torch.autocast(states.device.type, enabled=False):
                logits, turned = self.lm_head(states.float())[:, BASES].chunk(2)
            result[rows] = ((logits + turned.flip(1)) / 2).log_softmax(dim=-1)  # T G C A complements A C G T
        return result

    def collate_pretraining(self, windows: Sequence[Window], rng: np.random.Generator) -> Batch:
        """Masked bases of row 0 alone. Upstream also weighs positions by conservation and repeats, which is not done here."""
        batch = self.collate(windows)
        return batch | {"targets": torch.from_numpy(corrupt(batch["tokens"][..., 0].numpy(), rng))}

    def pretraining_logits(self, batch: Batch) -> Tensor:
        asked = batch["targets"] != IGNORED
        states = torch.zeros(*asked.shape, self.embedding_dim, device=asked.device)
        for rows, tokens in equal_lengths(batch):
            states[rows, : tokens.shape[1]] = self.encode(tokens).to(states.dtype)
        return self.lm_head(states[asked])

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        """N of the sequences, which is read as a gap; gaps of the other rows are what the model was trained on."""
        tokens = batch["tokens"][..., 0]
        return int((tokens == GAP).sum()), int((tokens != ABSENT).sum())


def _species(config: Mapping[str, Any], file: Path) -> int:
    """How many species the config, or the record of `harness pretrain`, says; 0 without either.

    A config that asks for what was never released is refused.
    """
    if not config:
        return read_config(file, ("GPNRoFormer",), "pretrain.json").get("data", {}).get("rows", 1) - 1
    for name, value in RELEASED.items():
        if config.get(name, value) != value:
            raise CheckpointMismatch(f"{file.with_name('config.json')}: {name} {config[name]!r}; implemented is {value!r}")
    features = config.get("n_aux_features", 0)
    if features % AUX_SYMBOLS:
        raise CheckpointMismatch(f"{file.with_name('config.json')}: n_aux_features {features} is no multiple of {AUX_SYMBOLS}")
    return features // AUX_SYMBOLS


def _row_numbers(text: str, last: int) -> frozenset[int] | None:
    """The numbers in "1-3,7", each from 1 to ``last``; None for none given."""
    if not text:
        return None
    numbers: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, final = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= final <= last:
            raise UserError(f"option rows={text!r}: expected numbers and ranges from 1 to {last}, like 1-10,25")
        numbers.update(range(first, final + 1))
    return frozenset(numbers)
