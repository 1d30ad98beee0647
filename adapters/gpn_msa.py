"""GPN-MSA (Benegas et al. 2025, doi:10.1038/s41587-024-02511-w): a transformer over the columns of a whole-genome alignment.

This is the architecture of the released file (upstream's ``gpn/legacy.py``, ``GPNRoFormer``), not that of upstream's newer
classes. Each position is a vector of zeros and ones, the one-hot symbols of its alignment column; there is no embedding layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapter import Adapter, BaseResolved, Batch, MaskedModel, Pretrainable
from harness.card import ModelCard
from harness.data import Window, letter_table
from harness.errors import BadData, CheckpointMismatch, UserError
from harness.files.alignments import SPECIES
from harness.files.checkpoint import load_tensors, read_config, read_tensors, rename, weight_file
from harness.recipe import PretrainingRecipe, Recipe

from ._batches import equal_lengths, even_ranges, with_rows
from ._config import check_settings
from ._gpn_msa_files import (
    AUX_SYMBOLS,
    FIELDS,
    OUR_NAMES,
    PUBLISHED,
    SETTINGS,
    SYMBOLS,
    from_official,
    most_species,
    read_shape,
    read_species,
    to_official,
    written_config,
)
from ._gpn_objective import Plain, Weighted
from ._masking import checked_positions
from ._options import checked_block, of_size
from ._transformer import Block, MaskHead, Shape, initialise, sinusoids

GAP, MASK = 0, 5
ABSENT = 255  # no symbol and no channel: a species that is not in the alignment at all, unlike one that has a gap
BASES = slice(1, 5)  # A, C, G, T; base + its complement = 5
# Upstream upper-cases letters and reads all others as gaps. The mask is no letter: only collate_masked writes it.
TOKENS = letter_table({letter: 1 + number % 4 for number, letter in enumerate("ACGTacgt")}, default=GAP).astype(np.uint8)
PUBLISHED_SPECIES = 89  # multiz100way without human and its ten nearest relatives

SIZES = {"tiny": replace(PUBLISHED, layers=2, width=512, heads=8, inner=256), "base": PUBLISHED}


def other_strand(tokens: Tensor) -> Tensor:
    """Reverse complement of an alignment, token ids (B, L, S): positions reversed, the order of rows kept."""
    reverse = tokens.flip(1)
    return torch.where((reverse > GAP) & (reverse < MASK), 5 - reverse, reverse)


class GPNMSA(Adapter, MaskedModel, Pretrainable, BaseResolved):
    """Embedding: the mean of the last hidden states of the window's central 100/128, over both strands (width D).

    Upstream averages the middle 100 of 128 positions. Windows of other lengths lose 7/64 at each end likewise, those below 10 nt
    nothing. The ends are still read, because every position attends to all. Both strands go through the model, in training too,
    so a window and its reverse complement have the same embedding. Upstream has no padding and no mask, so windows of one
    length run together, unpadded. The model was trained on 128 nt; positions reach 1,536.

    Official weights need all of their species in order: rows 1 to 89 of an alignment (multiz100way without human and ten
    primates). A model from scratch takes any number that its width has channels for (base 152, tiny 101), or exactly
    ``species``. ``rows`` ("1-10,25") are the rows to read; the others become gaps, as the model sees a species that does not
    align. A window without an alignment is read alone: the channels of all species are zero (upstream's
    ``disable_aux_features``), which is not the same as gaps, and which no official weights were trained for.

    A ``state_dict`` has upstream's names, so that its code reads what is trained here.
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
    # The authors score variants without training and publish no fine-tuning settings; these are BERT's usual ones.
    recipe = Recipe(learning_rate=3e-5, batch_size=16, epochs=20, schedule="linear", warmup=0.1)
    # Upstream's training.smk: steps of 2,048 windows of 128 nt (--tokens-per-step 262144), 1,000 of 30,000 steps for warm-up.
    pretraining = PretrainingRecipe(learning_rate=1e-4, weight_decay=0.01, batch_size=32, warmup=1 / 30, schedule="cosine")
    pretraining_context = 128
    lora_targets = ("query", "value")
    reverse_complement_invariant = True
    objectives: ClassVar = {"weighted": Weighted, "token": Plain}
    mask_id, random_ids = MASK, np.arange(SYMBOLS)[BASES]

    positions: Tensor  # (max_length, head width) rotary angles; a buffer, as the official file stores it

    def __init__(self, shape: Shape, species: int | None = None, rows: str = "") -> None:
        super().__init__()
        self.most_species = most_species(shape.width)
        if species is not None and not 1 <= species <= self.most_species:
            raise UserError(f"option species={species}: a width of {shape.width} has channels for 1 to {self.most_species}")
        self.species, self.rows = species, _row_numbers(rows, self.most_species if species is None else species)
        self.shape, self.max_length, self.embedding_dim, self.blocks = shape, shape.positions, shape.width, shape.layers
        self.register_buffer("positions", sinusoids(shape.positions, shape.width // shape.heads))
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.lm_head = MaskHead(shape)  # its decoder is untied, as there is no embedding
        self.apply(initialise)
        self.register_state_dict_post_hook(to_official)
        self.register_load_state_dict_pre_hook(from_official)

    @classmethod
    def from_checkpoint(cls, checkpoint: Path | None = None, *, size: str = "base", species: int = 0, rows: str = "") -> Self:
        if checkpoint is None:
            return cls(of_size(cls.name, size, SIZES), species or None, rows)
        file = weight_file(checkpoint)
        config = read_config(file, ("GPNRoFormer",), fields=FIELDS)
        check_settings(config, SETTINGS, file)
        tensors = rename(read_tensors(file, "model."), OUR_NAMES, file)
        known, names = read_species(config, file)
        if known and species not in (0, known):
            raise UserError(f"option species={species}: {file} was trained with {known}; leave the option out")
        assumed = not known and not species and config.get("n_aux_features") != 0
        number = PUBLISHED_SPECIES if assumed else known or species
        shape = read_shape(tensors, config, file)
        if number > most_species(shape.width) or shape.width % shape.heads:
            raise CheckpointMismatch(
                f"checkpoint {file}: {number} species and {shape.heads} heads do not fit a width of {shape.width}"
            )
        model = cls(shape, number or None, rows)
        to_official(model, tensors)
        audit = load_tensors(model, tensors, file)
        table = model.positions
        sinusoid = torch.allclose(table, sinusoids(*table.shape), atol=1e-3)
        facts = {
            "species": number,
            "vocabulary": "-ACGT?",
            "input_channels": f"{SYMBOLS} + {AUX_SYMBOLS} x {number} of {shape.width}",
            "decoder": "untied",
            "positions": "sinusoid" if sinusoid else "not the sinusoid: the file's table is used",
        }
        warnings = audit.warnings
        if assumed:
            told = f"no config.json beside {file.name}: {number} species are assumed, as published; --option species=N"
            warnings = (*warnings, told)
        model.audit = replace(audit, facts=facts, warnings=warnings)
        model.species_names = SPECIES[str(PUBLISHED_SPECIES)] if assumed else names
        return model

    def collate(self, windows: Sequence[Window]) -> Batch:
        """``tokens`` uint8 (B, longest, S), the columns of the alignments, and ``lengths`` (B,).

        Row 0 is the sequence. S is 1 if no window has an alignment. If only some have one, the rows of the others are ABSENT.

        Raises:
            BadData: a window is too long, or its alignment has another number of rows than the model reads.
        """
        lengths = torch.tensor([len(window) for window in windows])
        if int(lengths.max()) > len(self.positions):
            raise BadData(
                f"window of {int(lengths.max())} nt: gpn_msa reads at most {len(self.positions)}; nothing was cut; "
                "choose a model without this limit (msamamba), or a task of shorter windows"
            )
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
        if depths and self.species is not None and depths[0] != 1 + self.species:
            raise BadData(
                f"alignment of {depths[0]} rows: this gpn_msa reads {1 + self.species}, the sequence and {self.species} species "
                "in the order of its training (--species names them); a window without an alignment is read alone"
            )
        if depths and depths[0] > 1 + self.most_species:
            room = f"a width of {self.embedding_dim} has channels for {1 + self.most_species}"
            raise BadData(f"alignment of {depths[0]} rows: {room}")
        return depths[0] if depths else 1

    def forward(self, batch: Batch) -> Tensor:
        embeddings = torch.empty(len(batch["tokens"]), self.embedding_dim, device=batch["tokens"].device)
        for rows, tokens in equal_lengths(batch):
            length = tokens.shape[1]
            cut = 7 * length // 64
            states = self.encode(torch.cat([tokens, other_strand(tokens)]))[:, cut : length - cut]
            embeddings[rows] = states.mean(dim=1).unflatten(0, (2, -1)).mean(dim=0).to(embeddings.dtype)
        return embeddings

    def for_accelerator(self, batch: Batch) -> Batch:
        return with_rows(batch)

    def token_ranges(self, windows: Sequence[Window]) -> Tensor:
        return even_ranges(windows)

    def hidden_states(self, batch: Batch, layer: int | None = None) -> Tensor:
        """A base's state is the mean of its states on both strands; those of the window's ends are not pooled."""
        tokens = batch["tokens"]
        result = torch.zeros(*tokens.shape[:2], self.embedding_dim, device=tokens.device)
        for rows, unpadded in equal_lengths(batch):
            forward, reverse = self.encode(torch.cat([unpadded, other_strand(unpadded)]), layer).chunk(2)
            result[rows, : forward.shape[1]] = ((forward + reverse.flip(1)) / 2).to(result.dtype)
        return result

    def columns(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L, S) → (B, L, D): 6 channels for the sequence, 5 for each species in turn, zeros up to the width."""
        symbols = torch.arange(SYMBOLS, device=tokens.device)
        sequence = tokens[..., :1] == symbols
        species = (tokens[..., 1:, None] == symbols[:AUX_SYMBOLS]).flatten(-2)
        ones = torch.cat([sequence, species], dim=-1)
        return F.pad(ones, (0, self.embedding_dim - ones.shape[-1])).to(self.lm_head.dense.weight.dtype)

    def encode(self, tokens: Tensor, layer: int | None = None) -> Tensor:
        """Hidden states (B, L, D), by default the last, of token ids (B, L, S), of one strand, with all positions read."""
        x, rotation = self.columns(tokens), self.positions[: tokens.shape[1]]
        for block in self.layers[: checked_block(layer, self.blocks)]:
            x = block(x, rotation=rotation)
        return x

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """Row 0 alone is masked, as in training; the model predicts the base from the other species' symbols there.

        Adds ``masked`` (B,), the positions.

        Raises:
            BadData: a position lies outside its window.
        """
        batch = self.collate(windows) | {"masked": checked_positions(windows, positions)}
        batch["tokens"][torch.arange(len(windows)), batch["masked"], 0] = MASK
        return batch

    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """(B, 4) over A, C, G and T alone, from logits averaged over both strands.

        The difference of two of them is upstream's score of a variant (``gpn/msa/vep.py``): the mean over both strands of
        logit[alternate] - logit[reference].
        """
        result = torch.empty(len(batch["tokens"]), 4, device=batch["tokens"].device)
        for rows, tokens in equal_lengths(batch):
            forward = batch["masked"][rows]
            at = torch.cat([forward, tokens.shape[1] - 1 - forward])
            states = self.encode(torch.cat([tokens, other_strand(tokens)]))[torch.arange(len(at), device=at.device), at]
            with torch.autocast(states.device.type, enabled=False):
                logits, reverse = self.lm_head(states.float())[:, BASES].chunk(2)
            result[rows] = ((logits + reverse.flip(1)) / 2).log_softmax(dim=-1)  # T G C A complements A C G T
        return result

    def hideable(self, batch: Batch) -> tuple[Tensor, Tensor]:
        target = batch["tokens"][..., 0]
        return target, (target > GAP) & (target < MASK)

    def pretraining_logits(self, batch: Batch) -> Tensor:
        places = batch["targets"]
        states = torch.zeros(*places.shape, self.embedding_dim, device=places.device)
        for rows, tokens in equal_lengths(batch):
            states[rows, : tokens.shape[1]] = self.encode(tokens).to(states.dtype)
        return self.lm_head(states.flatten(0, 1)[batch["asked"]])

    def checkpoint_files(self) -> dict[str, str]:
        return {"config.json": written_config(self.shape, self.species or 0)}

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        """Counts N in the sequences, which is read as a gap. Gaps in other rows are known from training."""
        tokens = batch["tokens"][..., 0]
        return int((tokens == GAP).sum()), int((tokens != ABSENT).sum())


def _row_numbers(text: str, last: int) -> frozenset[int] | None:
    """The numbers in "1-3,7", each from 1 to ``last``; None for an empty text."""
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
