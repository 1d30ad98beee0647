"""Caduceus (Schiff et al. 2024, arXiv:2403.03234): Mamba in both directions of both strands of DNA.

There are two variants, whose weights have the same names. ``ph`` (post-hoc) reads one strand and learns the other from
augmented data. ``ps`` (parameter sharing) carries both strands through every block and is equivariant under reverse complement.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapter import IGNORED, Adapter, BaseResolved, Batch, MaskedModel, Pretrainable
from harness.card import ModelCard
from harness.data import Window
from harness.errors import CheckpointMismatch, UserError
from harness.files.checkpoint import (
    EPSILON,
    TEXT,
    Field,
    check_size,
    load_tensors,
    read_config,
    read_tensors,
    rename,
    weight_file,
)
from harness.recipe import PretrainingRecipe, Recipe

from ._batches import equal_lengths, even_ranges, with_rows, within
from ._characters import BASES, COMPLEMENT, FIELDS, MASK, PAD, VOCABULARY, N, check_vocabulary, collate
from ._config import Settings, check_settings, check_sizes, count_layers, stated
from ._mamba import Mamba, MambaShape
from ._masking import Fates, Token, checked_positions, draw_fates, hide
from ._options import checked, checked_block, of_size

VARIANTS = ("ps", "ph")
# How many numbers a mixer reads at once in evaluation on a CPU. Its temporaries, four times as large, take 8 MiB and stay in the
# cache, so that large batches run 1.5 times as fast as in one piece.
MIXER_NUMBERS = 2**19
SIZES = {"tiny": (2, 32), "base": (16, 256)}  # blocks, width

# The official files' names → ours. Tensors that get the same name are tied: safetensors files hold them once, .bin files twice.
OFFICIAL_NAMES = (
    (r"^caduceus\.", ""),
    (r"^backbone\.", ""),
    (r"^embeddings\.word_embeddings\.(?:embedding\.)?", "embed."),
    (r"^(?:embed|lm_head)\.complement_map$", "complement_map"),
    (r"^lm_head\.(?:lm_head\.)?weight$", "embed.weight"),
    (r"\.mixer\.submodule\.", ".mixer."),
    (r"\.mamba_rev\.(in|out)_proj\.", r".mamba_fwd.\1_proj."),
)
WORDS = "caduceus.backbone.embeddings.word_embeddings."
BOOL: Field = (bool, None, None)
CADUCEUS_FIELDS: Mapping[str, Field] = {
    **FIELDS,
    "norm_epsilon": EPSILON,
    "ssm_cfg": (dict, None, None),
    "bidirectional": BOOL,
    "bidirectional_strategy": TEXT,
    "bidirectional_weight_tie": BOOL,
    "rms_norm": BOOL,
    "rcps": BOOL,
    "fused_add_norm": BOOL,
}
# The settings of all released models. Whether the residual is kept in float32 matters for half precision alone.
SETTINGS: Settings = {
    "bidirectional": (True,),
    "bidirectional_strategy": ("add",),
    "bidirectional_weight_tie": (True,),
    "rms_norm": (True,),
    "ssm_cfg.layer": ("Mamba1",),
    "ssm_cfg.bias": (False,),
    "ssm_cfg.conv_bias": (True,),
    "complement_map": ({str(token): other for token, other in enumerate(COMPLEMENT)},),
}
SETTINGS_OF_PS: Settings = {"fused_add_norm": (True,)}  # it determines the order of channels, see Caduceus.encode


# Classes of the authors' own code on the hub, for which `transformers` looks there.
REMOTE = {
    "AutoConfig": "configuration_caduceus.CaduceusConfig",
    "AutoModel": "modeling_caduceus.Caduceus",
    "AutoModelForMaskedLM": "modeling_caduceus.CaduceusForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_caduceus.CaduceusForSequenceClassification",
}
RANDOM_IDS = np.arange(12)  # the tokens that have a meaning, special ones included


class LetterMasking(Token):
    """A share of the positions is hidden, each by itself, as upstream's ``mlm_getitem`` does; N is read as [PAD].

    Every position may be hidden, an N too, which is never asked for. A token at random is any of the twelve that have a meaning.
    Half of the windows of ``ph`` are read as their reverse complement; ``ps`` is equivariant and needs no such augmentation.
    """

    def attach(self, adapter: Any) -> None:
        self.both_strands = adapter.variant == "ph"

    def collate(self, adapter: Any, windows: Sequence[Window], rng: np.random.Generator, progress: float | None = None) -> Batch:
        batch = adapter.collate(windows)
        tokens = batch["tokens"].numpy()
        chosen = within(batch["lengths"], tokens.shape[1]).numpy() & (rng.random(tokens.shape, dtype=np.float32) < self.share)
        targets = hide_letters(tokens, chosen, draw_fates(rng, tokens.shape, RANDOM_IDS))
        return batch | {"targets": torch.from_numpy(targets)}


def hide_letters(tokens: np.ndarray, chosen: np.ndarray, fates: Fates) -> np.ndarray:
    """As :func:`hide`, after N became [PAD]; padding that is ``chosen`` is hidden but not asked for."""
    tokens[tokens == N] = PAD
    unknown = tokens == PAD
    targets = hide(tokens, chosen, fates, MASK)
    targets[unknown] = IGNORED
    return targets


class BiMamba(nn.Module):
    """One Mamba for each direction with shared projections; their outputs are added (§4.1 of the paper).

    Upstream applies the projections once per direction. As they are shared, once is enough.
    """

    def __init__(self, width: int, shape: MambaShape) -> None:
        super().__init__()
        self.mamba_fwd = Mamba(width, shape)
        self.mamba_rev = Mamba(width, shape, projections=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D)
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return self.mix(x)
        return torch.cat([self.mix(rows) for rows in x.split(max(1, MIXER_NUMBERS // x[0].numel()))])

    def mix(self, x: Tensor) -> Tensor:
        projected = self.mamba_fwd.in_proj(x)
        there, back = self.mamba_fwd.scan(projected), self.mamba_rev.scan(projected, reverse=True)
        return self.mamba_fwd.out_proj(there + back)


class Block(nn.Module):
    """A norm and a mixer; the caller adds the residual."""

    def __init__(self, width: int, mixer: MambaShape, epsilon: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=epsilon)
        self.mixer = BiMamba(width, mixer)

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D)
        return self.mixer(self.norm(x))


class Caduceus(Adapter, MaskedModel, BaseResolved, Pretrainable):
    """Embedding: the mean over all positions and both strands (width D), the same for a window and its reverse complement.

    For ``ps``, a linear head on this embedding gives the average of upstream's two scores, one for each half of its channels.
    For ``ph``, it is upstream's average of x and RC(x), here in training too, where upstream draws one of the two. With
    ``rc_average`` off, only the given strand is read, at half the cost. Upstream's final [SEP] is left out, as in its own
    fine-tuning. There is no attention mask, so windows of one length run together, unpadded.
    """

    name: ClassVar[str] = "caduceus"
    card = ModelCard(
        summary="Mamba in both directions of both strands",
        paper="Schiff et al. 2024, arXiv:2403.03234",
        licence="Apache-2.0",
        alphabet="ACGTN",
        parameters="7.7 M; other sizes 0.5 to 7.7 M",
        checkpoint="kuleshov-group/caduceus-ps_seqlen-131k_d_model-256_n_layer-16",
        revision="d89eeb853136ea64da7feb3d0c8e909771b17ae6",
        files=("config.json", "model.safetensors"),
        sha256={"model.safetensors": "a3e6976fe90460ff5d90d371b457d0263dc65e156ea5651b4a452e98228daef2"},
    )
    # Genomic Benchmarks, §5.2 of the paper and the authors' slurm_scripts/{wrapper_,}run_genomics*.sh, which try learning rates
    # of 1e-3 and 2e-3 and batches of 128 and 256 on each task. Their learning rate ends at a tenth of its peak, not at 0.
    recipe = Recipe(
        epochs=10,
        batch_size=128,
        learning_rate=1e-3,
        weight_decay=0.1,
        warmup=0.01,
        schedule="cosine",
        dropout=0.0,
    )
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {"genomic_benchmarks": {}}
    lora_targets: ClassVar[tuple[str, ...]] = ("in_proj", "x_proj", "out_proj")  # dt_proj is not called as a layer
    # The authors' slurm_scripts/run_pretrain_caduceus.sh, in steps of 2^20 letters; their rate rises from 1e-6.
    pretraining = PretrainingRecipe(
        learning_rate=8e-3,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        batch_size=16,
        warmup=0.1,
        schedule="cosine",
        floor=1e-4 / 8e-3,
    )
    pretraining_context = 1024
    objectives: ClassVar = {"token": LetterMasking}
    complement_map: Tensor  # (16,) the token of the complementary base

    def __init__(
        self,
        blocks: int,
        width: int,
        variant: str = "ps",
        rc_average: bool = True,
        mixer: MambaShape | None = None,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self.mixer, self.epsilon = mixer or MambaShape.of_width(width), epsilon
        self.variant, self.both_strands, self.embedding_dim = variant, rc_average or variant == "ps", width
        self.reverse_complement_invariant, self.blocks = self.both_strands, blocks
        self.embed = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(Block(width, self.mixer, epsilon) for _ in range(blocks))
        self.norm_f = nn.RMSNorm(width, eps=epsilon)
        self.register_buffer("complement_map", torch.tensor(COMPLEMENT), persistent=variant == "ps")  # as in the official files
        nn.init.normal_(self.embed.weight, std=0.02)
        with torch.no_grad():
            for layer in cast("list[Block]", list(self.layers)):  # the residual stream sums `blocks` of these outputs
                layer.mixer.mamba_fwd.out_proj.weight /= math.sqrt(blocks)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Path | None = None, *, size: str = "base", variant: str = "", rc_average: bool = True
    ) -> Self:
        variant = variant and checked("variant", variant, VARIANTS)
        if checkpoint is None:
            return cls(*of_size(cls.name, size, SIZES), variant or "ps", rc_average)
        file = weight_file(checkpoint)
        config = read_config(file, ("caduceus",), fields=CADUCEUS_FIELDS)
        check_settings(config, SETTINGS, file)
        tensors = rename(read_tensors(file), OFFICIAL_NAMES, file)
        check_vocabulary(tensors.get("embed.weight"), config, file)
        found = "ps" if "complement_map" in tensors else "ph"
        if variant not in ("", found):
            raise UserError(f"option variant={variant!r}: {file} holds caduceus-{found}; leave the option out")
        blocks, width, mixer, epsilon = _read_shape(config, tensors, found, file)
        model = cls(blocks, width, found, rc_average, mixer, epsilon)
        audit = load_tensors(model, tensors, file)
        facts = {"variant": found, "vocabulary": VOCABULARY, "tied_weights": "intact"}
        model.audit = replace(audit, facts=facts)
        return model

    def collate(self, windows: Sequence[Window]) -> Batch:
        return collate(windows)

    def forward(self, batch: Batch) -> Tensor:
        embeddings = torch.empty(len(batch["tokens"]), self.embedding_dim, device=batch["tokens"].device)
        for rows, tokens in equal_lengths(batch):
            embeddings[rows] = self.encode(tokens, self.both_strands).mean(dim=(0, 2)).to(embeddings.dtype)
        return embeddings

    def for_accelerator(self, batch: Batch) -> Batch:
        return with_rows(batch)

    def token_ranges(self, windows: Sequence[Window]) -> Tensor:
        return even_ranges(windows)

    def hidden_states(self, batch: Batch, layer: int | None = None) -> Tensor:
        """A base's state is the mean of its states on the strands that are pooled."""
        tokens = batch["tokens"]
        result = torch.zeros(*tokens.shape, self.embedding_dim, device=tokens.device)
        for rows, unpadded in equal_lengths(batch):
            states = self.encode(unpadded, self.both_strands, layer)
            mean = torch.stack([states[0], *states[1:].flip(2)]).mean(dim=0)
            result[rows, : mean.shape[1]] = mean.to(result.dtype)
        return result

    def encode(self, tokens: Tensor, both_strands: bool = False, layer: int | None = None) -> Tensor:
        """Hidden states (S, B, L, D), by default the last, of token ids (B, L), all of which are read, even [PAD].

        S is 1, or 2 for ``ps`` and with ``both_strands``. The second strand, too, is 5'→3', so upstream's channels [D:] are
        ``states[1].flip(1, 2)``.
        """
        strands = [tokens]
        if both_strands or self.variant == "ps":
            strands.append(self.complement_map[tokens.flip(1)])
        x = self.embed(torch.stack(strands))
        for block in self.layers[: checked_block(layer, self.blocks)]:
            # The released ps weights were trained with a fused norm that gives each half of the channels to the other strand
            # before every block. This keeps the equivariance but changes the outputs.
            if self.variant == "ps":
                x = x.flip(0, 2, 3)
            x = x + block(x.flatten(0, 1)).view_as(x)
        return self.norm_f(x) if layer in (None, self.blocks) else x

    def logits(self, states: Tensor) -> Tensor:
        """Logits (B, L, 16) from the states of :meth:`encode`; ps adds the complements' logits on the other strand."""
        scores = F.linear(states[0], self.embed.weight)
        if self.variant == "ps":
            scores = scores + F.linear(states[1].flip(1), self.embed.weight[self.complement_map])
        return scores

    def pretraining_logits(self, batch: Batch) -> Tensor:
        tokens, parts = batch["tokens"], []
        for rows, unpadded in equal_lengths(batch):
            there, *back = self.encode(unpadded)
            parts.append((rows, torch.cat([there, *(states.flip(1) for states in back)], dim=-1)))
        states = parts[0][1]
        if states.shape[:2] != tokens.shape:  # windows of several lengths
            states = states.new_zeros(*tokens.shape, states.shape[-1])
            for rows, part in parts:
                states[rows, : part.shape[1]] = part
        asked = states.flatten(0, 1).index_select(0, batch["asked"])
        return self.logits(asked.unflatten(-1, (-1, self.embedding_dim)).transpose(0, 1)[:, :, None])[:, 0]

    def checkpoint_tensors(self) -> Mapping[str, Tensor]:
        """As the hub's ``model.safetensors``, which has tied tensors once."""
        found, ps = dict[str, Tensor](), self.variant == "ps"
        for name, tensor in self.state_dict().items():
            if name == "complement_map":
                found[f"{WORDS}complement_map"] = found["lm_head.complement_map"] = tensor
            elif name == "embed.weight":
                found[f"{WORDS}{'embedding.' if ps else ''}weight"] = tensor
            else:
                found["caduceus.backbone." + (name.replace(".mixer.", ".mixer.submodule.") if ps else name)] = tensor
        return found

    def checkpoint_files(self) -> dict[str, str]:
        """``config.json`` as that of the hub's files."""
        config = {
            "architectures": ["CaduceusForMaskedLM"],
            "auto_map": {name: f"{self.card.checkpoint}--{where}" for name, where in REMOTE.items()},
            "model_type": "caduceus",
            "n_layer": self.blocks,
            "d_model": self.embedding_dim,
            "vocab_size": VOCABULARY,
            "pad_vocab_size_multiple": 8,
            "complement_map": {str(token): other for token, other in enumerate(COMPLEMENT)},
            "rcps": self.variant == "ps",
            "bidirectional": True,
            "bidirectional_strategy": "add",
            "bidirectional_weight_tie": True,
            "fused_add_norm": True,
            "rms_norm": True,
            "norm_epsilon": self.epsilon,
            "residual_in_fp32": False,
            "initializer_cfg": {"initializer_range": 0.02, "n_residuals_per_layer": 1, "rescale_prenorm_residual": True},
            "ssm_cfg": self.mixer.config(self.embedding_dim) | {"bias": False, "conv_bias": True, "use_fast_path": True},
        }
        return {"config.json": json.dumps(config, indent=2)}

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """As :meth:`collate`, with [MASK], its own complement, at each position; adds ``masked`` (B,), the positions.

        Raises:
            BadData: a position lies outside its window.
        """
        batch = collate(windows) | {"masked": checked_positions(windows, positions)}
        batch["tokens"][torch.arange(len(windows)), batch["masked"]] = MASK
        return batch

    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """(B, 4) as in pretraining: ps reads both strands, ph only the given one."""
        result = torch.empty(len(batch["tokens"]), 4, device=batch["tokens"].device)
        for rows, tokens in equal_lengths(batch):
            states = self.encode(tokens)
            with torch.autocast(states.device.type, enabled=False):
                scores = self.logits(states.float())
            at = batch["masked"][rows]
            result[rows] = scores[torch.arange(len(at), device=at.device), at, BASES].log_softmax(dim=-1)
        return result


def _read_shape(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], variant: str, file: Path
) -> tuple[int, int, MambaShape | None, float]:
    """Blocks, width, the mixers' shape and the norms' epsilon.

    Raises:
        CheckpointMismatch: config and tensors contradict each other, are not of a released kind, or describe a model far larger
            than the file.
    """
    blocks = count_layers(config, "n_layer", tensors, "layers.", file)
    embedding, mixer = tensors.get("embed.weight"), MambaShape.of(tensors, "layers.0.mixer.mamba_fwd.")
    if embedding is None or not blocks:
        return *SIZES["base"], None, 1e-5  # another model's file: load_tensors says how little of it matches
    if variant == "ps":
        check_settings(config, SETTINGS_OF_PS, file)
        if tensors["complement_map"].tolist() != list(COMPLEMENT):
            raise CheckpointMismatch(
                f"checkpoint {file}: its complement_map is not that of the tokens ACGTN; 0 tensors were loaded"
            )
    width = embedding.shape[1]
    check_sizes(config, {"rcps": variant == "ps", "d_model": width}, file)
    if mixer is not None:
        mixer.check(width, config, file)
        check_size((3 * blocks * mixer.inner + VOCABULARY) * width, file)
    return blocks, width, mixer, stated(config, "norm_epsilon", 1e-5)
