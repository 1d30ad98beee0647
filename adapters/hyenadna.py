"""HyenaDNA (Nguyen et al. 2023, arXiv:2306.15794): causal long convolutions, the Hyena operator of Poli et al. 2023."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapter import Adapter, BaseResolved, Batch, CausalModel, Pretrainable
from harness.card import ModelCard
from harness.data import Window
from harness.errors import BadData, UserError
from harness.files.checkpoint import (
    DROPOUT,
    EPSILON,
    Field,
    load_tensors,
    read_config,
    read_tensors,
    rename,
    weight_file,
)
from harness.recipe import PretrainingRecipe, Recipe

from ._batches import even_ranges, mean_over, within
from ._characters import FIELDS, PAD, VOCABULARY, check_vocabulary, collate, is_base
from ._config import Settings, check_settings
from ._hyena import Block, Filter, HyenaShape, long_convolution
from ._next import Next
from ._options import checked, checked_block, of_size

__all__ = ["HyenaDNA", "HyenaShape", "long_convolution"]

POOLINGS = ("mean", "last")
LONG_WINDOWS = ("refuse", "cut")
HEAD = "lm_head.weight"
MAX_PLACES = 1_000_002  # of the longest published model
# Published weights by the places that their filters have; the default checkpoint has 1,026.
LONGER = {
    16_386: "LongSafari/hyenadna-tiny-16k-seqlen-d128-hf",
    32_770: "LongSafari/hyenadna-small-32k-seqlen-hf",
    160_002: "LongSafari/hyenadna-medium-160k-seqlen-hf",
    MAX_PLACES: "LongSafari/hyenadna-large-1m-seqlen-hf",
}

# The official files' names → ours. They begin with `hyena.backbone.` in the hub's files, `model.backbone.` in the authors', and
# have `.layer` if gradients were checkpointed. All sines of a filter share one frequency vector; safetensors files hold it once.
OFFICIAL_NAMES = (
    (r"^(?:(?:hyena|model)\.)?backbone\.", ""),
    (r"\.(mixer|mlp)\.layer\.", r".\1."),
    (r"^(?:\w+\.)*?lm_head\.", "lm_head."),
    (r"^embeddings\.word_embeddings\.", "embed."),
    (r"\.filter_fn\.(?:pos_emb|modulation|implicit_filter\.\d+)\.(z|t|deltas|freq)$", r".filter_fn.\1"),
)
HYENA_FIELDS: Mapping[str, Field] = {
    **FIELDS,
    "layer_norm_epsilon": EPSILON,
    "embed_dropout": DROPOUT,
    "layer": (dict, None, None),
}
# The settings of all released models. Those in `layer` are in the authors' own files, the others in the hub's.
SETTINGS: Settings = {
    "hyena_order": (2,),
    "use_bias": (True,),
    "train_freq": (True,),
    "hyena_dropout": (0.0,),
    "hyena_filter_dropout": (0.0,),
    "resid_dropout": (0.0,),
    "layer._name_": ("hyena",),
    "layer.order": (2,),
    "layer.modulate": (True,),
    "layer.shift": (0.05,),
}
# Classes of the authors' own code on the hub, for which `transformers` looks there.
REMOTE = {
    "AutoConfig": "configuration_hyena.HyenaConfig",
    "AutoModel": "modeling_hyena.HyenaDNAModel",
    "AutoModelForCausalLM": "modeling_hyena.HyenaDNAForCausalLM",
    "AutoModelForSequenceClassification": "modeling_hyena.HyenaDNAForSequenceClassification",
}
SIZES = {"tiny": HyenaShape(width=32, inner=128, places=16_386), "base": HyenaShape()}  # places as published tiny-16k, tiny-1k


class HyenaDNA(Adapter, BaseResolved, CausalModel, Pretrainable):
    """Embedding: the mean of the last hidden states over the window.

    This is ``pooling=mean``, upstream's head for Genomic Benchmarks. ``last`` is the state of the last position, the only one
    that has read the whole window, as in its Hugging Face classifier. There are no special tokens, as in upstream's
    fine-tuning. The model is causal, so padding on the right is never read; upstream pads on the left, and every state reads
    the padding first.

    The filters have as many ``places`` as they were trained with; the option of this name is for random initialisation. A
    longer window is refused, or with ``long=cut`` ends where the filters do, as in the authors' fine-tuning. Letters that are
    not read count as unknown tokens, whose share a run reports.

    The next token is predicted with the embedding, to which the authors tie the language-model head (``tie_weights`` of their
    ``ConvLMHeadModel``). The hub's files hold the head once more; where it differs from the embedding there, it is used.

    Bases alone are asked for in pretraining; upstream also asks for N, padding and a last [SEP], as its loss ignores no target.
    """

    lm_head: nn.Module | None

    name: ClassVar[str] = "hyenadna"
    card = ModelCard(
        summary="causal long convolutions with implicit filters",
        paper="Nguyen et al. 2023, arXiv:2306.15794",
        licence="BSD-3-Clause",
        alphabet="ACGTN",
        parameters="0.4 M; other sizes to 6.6 M",
        max_length=1026,
        checkpoint="LongSafari/hyenadna-tiny-1k-seqlen-hf",
        revision="e8c1effa8673814e257e627d2e1eda9ea5a373f6",
        files=("config.json", "model.safetensors"),
    )
    # Genomic Benchmarks, the authors' configs/experiment/hg38/genomic_benchmark.yaml. Their learning rate ends at a tenth of its
    # peak, not at 0, and they keep the epoch with the best accuracy on the test split.
    recipe = Recipe(
        epochs=100,
        batch_size=128,
        learning_rate=6e-4,
        weight_decay=0.1,
        warmup=0.01,
        schedule="cosine",
        dropout=0.0,
    )
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {"genomic_benchmarks": {}}
    lora_targets: ClassVar[tuple[str, ...]] = ("in_proj", "out_proj", "fc1", "fc2")
    # The authors' configs/experiment/hg38/hg38_hyena.yaml, in steps of 256 windows.
    pretraining = PretrainingRecipe(
        learning_rate=6e-4,
        betas=(0.9, 0.999),
        weight_decay=0.1,
        batch_size=16,
        warmup=0.01,
        schedule="cosine",
        floor=0.1,
    )
    pretraining_context = 1024
    objectives: ClassVar = {"next": Next}

    @classmethod
    def options_for(cls, context: int) -> Mapping[str, str]:
        """As upstream's experiments have it (``l_max``): filters made for more places hardly change over those of a window."""
        return {"places": str(min(context + 2, MAX_PLACES))}

    def __init__(self, shape: HyenaShape, pooling: str = "mean", long: str = "refuse") -> None:
        super().__init__()
        self.pooling, self.long = checked("pooling", pooling, POOLINGS), checked("long", long, LONG_WINDOWS)
        self.shape = shape
        self.embedding_dim, self.places, self.blocks = shape.width, shape.places, shape.blocks
        self.max_length = shape.places if long == "refuse" else None
        self.embed = nn.Embedding(VOCABULARY, shape.width)
        self.dropout = nn.Dropout(shape.dropout)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.ln_f = nn.LayerNorm(shape.width, shape.epsilon)
        self.lm_head = None
        self._initialise()

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                onto_residual = name.endswith(("out_proj", "fc2"))  # which sums two of these outputs per block
                nn.init.normal_(module.weight, std=0.02 / (math.sqrt(2 * len(self.layers)) if onto_residual else 1))
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, Filter):
                for parameter in module.parameters():
                    parameter._no_weight_decay = True  # type: ignore[attr-defined]

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Path | None = None, *, size: str = "base", pooling: str = "mean", places: int = 0, long: str = "refuse"
    ) -> Self:
        if checkpoint is None:
            shape = of_size(cls.name, size, SIZES)
            if not 0 <= places <= MAX_PLACES:
                raise UserError(f"option places={places}: choose 1 to {MAX_PLACES}")
            return cls(replace(shape, places=places or shape.places), pooling, long)
        file = weight_file(checkpoint)
        config = read_config(file, ("hyenadna",), fields=HYENA_FIELDS)
        check_settings(config, SETTINGS, file)
        tensors = rename(read_tensors(file), OFFICIAL_NAMES, file)
        check_vocabulary(tensors.get("embed.weight"), config, file)
        shape = HyenaShape.of(tensors, config, file)
        if places not in (0, shape.places):
            raise UserError(f"option places={places}: {file} has filters of {shape.places} places; leave the option out")
        model = cls(shape, pooling, long)
        head = tensors.get(HEAD)
        if head is not None and "embed.weight" in tensors and torch.equal(head, tensors["embed.weight"]):
            del tensors[HEAD]
        elif head is not None:  # without drawing random numbers, on which a classifier's first weights depend
            model.lm_head = nn.utils.skip_init(nn.Linear, shape.width, VOCABULARY, bias=False).requires_grad_(False)
        audit = load_tensors(model, tensors, file)
        facts = {"vocabulary": VOCABULARY, "tied_weights": "intact", "places": model.places}
        model.audit = replace(audit, facts=facts | {"head": "the embedding" if model.lm_head is None else "its own"})
        return model

    def collate(self, windows: Sequence[Window]) -> Batch:
        """See :func:`._characters.collate`; with ``long=cut``, adds ``unread`` (B,), how many letters were left out.

        Raises:
            BadData: a window is longer than ``max_length``.
        """
        longest = max(map(len, windows))
        if self.long == "cut":
            unread = torch.tensor([max(len(window) - self.places, 0) for window in windows])
            return collate([Window(window.sequence[: self.places]) for window in windows]) | {"unread": unread}
        if longest > self.places:
            weights = next((name for places, name in LONGER.items() if places >= longest), None)
            remedies = [f"--checkpoint {weights}"] if weights else []
            if self.audit is None and longest <= MAX_PLACES:
                remedies.append(f"--option places={longest}")
            remedies.append("--option long=cut, which reads the first letters alone")
            raise BadData(f"window of {longest} nt: this hyenadna reads at most {self.places}; take {' or '.join(remedies)}")
        return collate(windows)

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        """Counts the letters that were not read."""
        unread = int(batch["unread"].sum()) if "unread" in batch else 0
        return unread, unread + int(batch["lengths"].sum())

    def forward(self, batch: Batch) -> Tensor:
        states, lengths = self.encode(batch["tokens"].long()), batch["lengths"]
        if self.pooling == "last":
            return states[torch.arange(len(states), device=states.device), lengths - 1]
        return mean_over(states, within(lengths, states.shape[1]))

    def token_ranges(self, windows: Sequence[Window]) -> Tensor:
        ranges = even_ranges(windows)
        ranges[:, self.places :] = 0  # with long=cut
        return ranges

    def hidden_states(self, batch: Batch, layer: int | None = None) -> Tensor:
        """A base's state has read the bases up to it, none after it."""
        return self.encode(batch["tokens"].long(), layer)

    def encode(self, tokens: Tensor, layer: int | None = None) -> Tensor:
        """Hidden states (B, L, D), by default the last, of token ids (B, L)."""
        x = self.dropout(self.embed(tokens))
        for block in self.layers[: checked_block(layer, self.blocks)]:
            x = block(x)
        return self.ln_f(x) if layer in (None, self.blocks) else x

    def head(self, states: Tensor) -> Tensor:
        """Logits (…, 16) of the token after each of states (…, D)."""
        states = states.to(self.embed.weight.dtype)
        return F.linear(states, self.embed.weight) if self.lm_head is None else self.lm_head(states)

    def askable(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch["tokens"], is_base(batch["tokens"])

    def pretraining_logits(self, batch: Batch) -> Tensor:
        return self.head(self.encode(batch["tokens"].long()).flatten(0, 1).index_select(0, batch["asked"]))

    def checkpoint_tensors(self) -> Mapping[str, Tensor]:
        """As the hub's files, but for a head that is the embedding. Each sine of a filter has the frequencies that all share."""
        found = dict[str, Tensor]()
        for name, tensor in self.state_dict().items():
            module, _, last = name.rpartition(".")
            if name == "embed.weight":
                parts = ["embeddings.word_embeddings.weight"]
            elif last == "freq":
                parts = [f"{module}.implicit_filter.{2 * number + 1}.freq" for number in range(self.shape.order_layers)]
            elif last in ("z", "t", "deltas"):
                parts = [f"{module}.{'modulation' if last == 'deltas' else 'pos_emb'}.{last}"]
            else:
                parts = [name]
            found |= {(name if name == HEAD else f"hyena.backbone.{part}"): tensor for part in parts}
        return found

    def checkpoint_files(self) -> dict[str, str]:
        """``config.json`` as that of the hub's files."""
        shape = self.shape
        config = {
            "architectures": ["HyenaDNAForCausalLM"],
            "auto_map": {name: f"{self.card.checkpoint}--{where}" for name, where in REMOTE.items()},
            "model_type": "hyenadna",
            "vocab_size": 12,
            "pad_vocab_size_multiple": 8,
            "n_layer": shape.blocks,
            **shape.settings,
            "layer_norm_epsilon": shape.epsilon,
            "embed_dropout": shape.dropout,
            **{name: value for name, (value, *_) in SETTINGS.items() if "." not in name},
            "activation_freq": 10,
            "initializer_range": 0.02,
            "pad_token_id": PAD,
            "tie_word_embeddings": self.lm_head is None,
        }
        return {"config.json": json.dumps(config, indent=2)}

    def log_likelihood(self, batch: Batch) -> Tensor:
        """See :meth:`CausalModel.log_likelihood`; (B,) as float64 where the device has it.

        The authors train without a token before the first letter, which therefore has no probability. The others are taken from
        a softmax over the whole vocabulary of 16, as in their loss.

        Raises:
            BadData: a window was cut by ``long=cut``.
        """
        if "unread" in batch and batch["unread"].any():
            raise BadData(
                f"window above {self.places} nt: with long=cut it has no likelihood as a whole; use a shorter --context"
            )
        tokens, lengths = batch["tokens"].long(), batch["lengths"]
        states = self.encode(tokens)[:, :-1]
        with torch.autocast(states.device.type, enabled=False):
            logs = self.head(states).float().log_softmax(dim=-1).gather(2, tokens[:, 1:, None])[..., 0]
        logs = logs * within(lengths - 1, logs.shape[1])
        return logs.sum(dim=1, dtype=torch.float32 if logs.device.type == "mps" else torch.float64)
