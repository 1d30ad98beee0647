"""hf: any model of an architecture that ``transformers`` has, from the hub or a folder, without its authors' code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from harness.adapter import Adapter, BaseResolved, Batch, CausalModel, MaskedModel
from harness.card import ModelCard
from harness.data import Window
from harness.errors import BadData, CheckpointMismatch, UserError
from harness.files import hub
from harness.files.checkpoint import weight_file
from harness.recipe import Recipe

from ._batches import mean_over, within
from ._hf_config import Kind, read_config
from ._hf_files import letter_texts, tokenizer_texts
from ._hf_letters import Reader
from ._hf_load import (
    base_of,
    check_fits,
    checked_dtype,
    checkpoint_gradients,
    entering,
    freeze_unused,
    load,
    lora_layers,
    prepare,
    quietly,
    token_limit,
    untrained,
)
from ._hf_pretraining import Learner
from ._hf_scores import Causal, Masked
from ._hf_tokenizer import PREFIXES, Vocabulary, check_rows, choose_reader, of_letters, read_vocabulary
from ._options import checked, checked_layer, of_size

POOLINGS = ("mean", "cls", "max", "last")
SIZES = {"tiny": (2, 64, 4, 128), "base": (12, 768, 12, 3072)}  # of a BERT without files: layers, width, heads, inner width
POSITIONS = 1026
PROBE = Window("ACGT" * 6)
PADDING, PADDING_BF16 = 1e-3, 5e-2  # by how much what must not count may move an embedding, for rounding alone
LETTERS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A", "C", "G", "T", "N")


class HF(Adapter, BaseResolved, Learner):
    """Embedding: the mean of a window's tokens without the special ones; of a causal model, the last of them.

    ``pooling`` chooses mean, max, cls (the token before all others) or last; never a pooler, which may be random. ``layer`` is
    that of the hidden states, -1 for the last one, after the last norm. ``letters`` says how a window is written for the
    tokenizer (see :func:`._hf_tokenizer.choose_reader`), ``prefix`` what token precedes it: ``auto`` is that for DNA where the
    vocabulary has one. ``config`` is a folder or a hub id whose configuration and tokenizer a model with random weights has;
    without it, this is a BERT that reads letters. ``dtype`` is that of the weights: auto is bf16 from a billion parameters on.
    ``unknown`` is the largest share of the training split's tokens that may be unknown. ``ignore`` names settings of the
    config.json that transformers does not know and that the user knows to be harmless, with commas between them.

    What a checkpoint has besides decides the class: with a masked-language head it is a :class:`MaskedModel`, with a causal one
    a :class:`CausalModel`, and it is pretrained with hidden tokens or the next one accordingly. BigBird's attention is computed
    in full, as it always is for short windows: blocks at random would make an embedding depend on padding. Padding is on
    the right and masked.
    """

    name: ClassVar[str] = "hf"
    card = ModelCard(
        summary="any standard architecture of transformers, without its authors' code",
        paper="the model's own",
        licence="the model's own",
        alphabet="as its vocabulary has it",
        parameters="any",
        get="give --model hf:owner/name for a repository on the hub, or --checkpoint FOLDER in its layout",
        generic=True,
    )
    recipe = Recipe()
    max_unknown: float
    model: Any

    def __init__(
        self,
        model: nn.Module,
        config: Any,
        vocabulary: Vocabulary,
        reader: Reader,
        pooling: str = "auto",
        layer: int = -1,
        unknown: float = 0.01,
    ) -> None:
        super().__init__()
        if not 0 <= unknown <= 1:
            raise UserError(f"option unknown={unknown}: must be from 0 to 1")
        self.model, self.vocabulary, self.reader, self.max_unknown = model, vocabulary, reader, unknown
        self.embedding_dim, self.blocks = int(config.hidden_size), int(config.num_hidden_layers)
        self.pooling = "last" if pooling == "auto" and isinstance(self, CausalModel) else "mean" if pooling == "auto" else pooling
        checked("pooling", self.pooling, POOLINGS)
        if self.pooling == "cls" and not vocabulary.before:
            raise UserError("option pooling='cls': the tokenizer puts no token before a sequence; choose mean, max or last")
        self.layer = checked_layer(layer, self.blocks, self.pooling)
        rows = len(model.get_input_embeddings().weight)  # type: ignore[operator, union-attr, arg-type]
        stated = getattr(config, "pad_token_id", None)
        self.pad = stated if isinstance(stated, int) and 0 <= stated < rows else vocabulary.pad
        self.limit = token_limit(model, config)
        self.max_length = None
        if self.limit is not None:
            self.max_length = reader.longest(self.limit - len(vocabulary.before) - len(vocabulary.after))
        self._look(config.model_type)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Path | None = None,
        *,
        size: str = "base",
        pooling: str = "auto",
        layer: int = -1,
        letters: str = "auto",
        prefix: str = "auto",
        config: str = "",
        dtype: str = "auto",
        gradient_checkpointing: bool = False,
        unknown: float = 0.01,
        ignore: str = "",
    ) -> Self:
        """See :meth:`Adapter.from_checkpoint`; the class says what the options mean.

        Raises:
            CheckpointMismatch: the weights are not those of transformers' own class, or not all of them.
            BadData: the configuration or the tokenizer cannot be read, or only by the authors' code.
        """
        checked_dtype(dtype)
        ignored = {word.strip() for word in ignore.split(",") if word.strip()}
        if checkpoint is None and not config:
            model, settings, vocabulary, kind, audit = *_of_letters(of_size(cls.name, size, SIZES)), None
            where, files = cls.name, letter_texts(LETTERS)
        else:
            file = None if checkpoint is None else weight_file(checkpoint)
            folder = hub.resolve(cls.name, cls.card, config, weights=False) if file is None else file.parent
            where = str(folder)
            settings, _, kind, notes = read_config(folder, ignored)
            vocabulary = read_vocabulary(folder, kind == "causal")
            files = tokenizer_texts(folder, vocabulary)
            vocabulary = _with_prefix(vocabulary, prefix, where)
            rows = int(settings.vocab_size)
            notes += [note] if (note := check_rows(vocabulary, rows, folder)) else []
            notes += prepare(settings)
            if file is None:
                of_size(cls.name, size, {"base": None})
                model, audit = untrained(settings, kind, dtype), None
            else:
                check_fits(settings, kind, file)
                model, kind, audit = load(settings, kind, file, dtype, notes)
        reader, notes = choose_reader(vocabulary, letters, kind == "causal", where)
        chosen = _class(kind, reader, vocabulary)
        adapter = chosen(model, settings, vocabulary, reader, pooling, layer, unknown)
        adapter.learn(kind, files)
        if gradient_checkpointing:
            checkpoint_gradients(model)
        if audit is not None:
            adapter.audit = replace(audit, facts=adapter.facts(), warnings=(*audit.warnings, *notes, adapter.reading()))
        return adapter  # type: ignore[return-value]

    def facts(self) -> dict[str, Any]:
        """What was found out of model and tokenizer, for the audit."""
        v = self.vocabulary
        hidden = isinstance(self, MaskedModel) or (
            "no: the checkpoint has no masked-language head" if v.mask is not None else "no: the tokenizer has no mask token"
        )
        return {
            "class": type(self.model).__name__,
            "vocabulary": len(v.ids),
            "letters": self.reader.name,
            "reading": self.reader.facts,
            "special_ids": {"before": v.before, "after": v.after, "mask": v.mask, "other": self.reader.other, "pad": self.pad},
            "pooling": self.pooling,
            "token_limit": self.limit,
            "lora_targets": self.lora_targets,
            "fills_in_bases": hidden,
        }

    def reading(self) -> str:
        """How windows are read, in a sentence for the screen."""
        names = {id: token for token, id in self.vocabulary.ids.items()}
        around = [" ".join(names.get(id, str(id)) for id in ids) for ids in (self.vocabulary.before, self.vocabulary.after)]
        frame = " ".join(part for part in (around[0], "…", around[1]) if part)
        return f"letters: {self.reader.facts}, as {frame}; {self.pooling} of the tokens"

    def collate(self, windows: Sequence[Window]) -> Batch:
        """``tokens`` int64 (B, T), padded on the right, and their ``lengths`` (B,); ``lost`` (B,) letters that have no token.

        Raises:
            BadData: a window has more tokens than the model reads.
        """
        rows = self.reader.ids([window.sequence for window in windows])
        batch = self._batch(rows, windows)
        if getattr(self.reader, "drops_n", False):
            batch["lost"] = torch.tensor([window.sequence.count("N") for window in windows])
        return batch

    def _batch(self, rows: Sequence[np.ndarray], windows: Sequence[Window]) -> Batch:
        v = self.vocabulary
        rows = [row if len(row) else np.array([self.reader.other]) for row in rows]
        lengths = np.array([len(row) for row in rows]) + len(v.before) + len(v.after)
        longest = int(lengths.max())
        if self.limit is not None and longest > self.limit:
            length = len(windows[int(lengths.argmax())])
            most = f"{self.max_length} nt ({self.limit} tokens)" if self.max_length else f"{self.limit} tokens"
            raise BadData(
                f"window of {length} nt: {self.name} takes at most {most}, and this has {longest}; nothing was cut; give shorter "
                "windows, or choose a model without this limit"
            )
        tokens = np.full((len(rows), longest), self.pad, np.int64)
        tokens[:, : len(v.before)] = v.before
        for target, row in zip(tokens, rows, strict=True):
            target[len(v.before) : len(v.before) + len(row)] = row
            target[len(v.before) + len(row) : len(v.before) + len(row) + len(v.after)] = v.after
        return {"tokens": torch.from_numpy(tokens), "lengths": torch.from_numpy(lengths)}

    def content(self, batch: Batch) -> Tensor:
        """True (B, T) at the tokens of the window itself."""
        size, v = batch["tokens"].shape[1], self.vocabulary
        inside = within(batch["lengths"] - len(v.after), size)
        inside[:, : len(v.before)] = False
        return inside

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        """Counts unknown tokens among those of the windows, and letters that the tokenizer leaves out."""
        content = self.content(batch)
        lost = int(batch["lost"].sum()) if "lost" in batch else 0
        return int(((batch["tokens"] == self.reader.other) & content).sum()) + lost, int(content.sum()) + lost

    def forward(self, batch: Batch) -> Tensor:
        hidden = self.hidden_states(batch)
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "last":
            rows = torch.arange(len(hidden), device=hidden.device)
            return hidden[rows, batch["lengths"] - len(self.vocabulary.after) - 1]
        content = self.content(batch)
        if self.pooling == "max":
            return hidden.masked_fill(~content.unsqueeze(-1), -torch.inf).amax(dim=1)
        return mean_over(hidden, content)

    def hidden_states(self, batch: Batch, layer: int | None = None) -> Tensor:
        """See :meth:`BaseResolved.hidden_states`; states are those of transformers' ``hidden_states``, 0 the embeddings.

        Raises:
            UserError: there is no such block.
        """
        tokens = batch["tokens"]
        read = within(batch["lengths"], tokens.shape[1])
        chosen = self.layer if layer is None else layer
        if not 0 <= chosen <= self.blocks:
            raise UserError(f"layer {layer}: {self.name} has layers 1 to {self.blocks}, and 0, the embeddings")
        with entering(self.model, chosen, self.blocks) as found:
            last = base_of(self.model)(input_ids=tokens, attention_mask=read.long()).last_hidden_state
        return found[0] if found else last

    def token_ranges(self, windows: Sequence[Window]) -> Tensor:
        """See :meth:`BaseResolved.token_ranges`."""
        ranges = np.zeros((len(windows), max(map(len, windows)), 2), np.int64)
        first = len(self.vocabulary.before)
        for row, window in zip(ranges, windows, strict=True):
            spans = self.reader.spans(window.sequence)
            for number, (begin, end) in reversed(list(enumerate(spans.tolist(), start=first))):
                row[begin:end, 0] = number
                row[begin:end, 1] = np.maximum(row[begin:end, 1], number + 1)
        return torch.from_numpy(ranges)

    def _look(self, family: str) -> None:
        """Find by one forward pass which layers are called and which weights an embedding depends on; the others are frozen."""
        called, mode = set[str](), self.training
        hooks = [
            module.register_forward_pre_hook(lambda module, inputs, name=name: called.add(name))
            for name, module in self.named_modules()
        ]
        self.eval()
        try:
            with torch.enable_grad(), quietly():
                alone = self(self.collate([PROBE]))
                used = freeze_unused(self.model, alone)
            self._check_padding(alone.detach())
            if isinstance(self, CausalModel):
                self._check_causal()
        except UserError:
            raise
        except Exception as error:  # whatever transformers' code raises where settings contradict each other
            reason = " ".join(str(error).split())[:200]
            raise CheckpointMismatch(
                f"{type(self.model).__name__} of transformers reads no window as configured ({type(error).__name__}: {reason})"
            ) from None
        finally:
            for hook in hooks:
                hook.remove()
            self.train(mode)
        names = lora_layers(self, family, called, used)
        vars(self)["lora_targets"] = names

    def _check_padding(self, alone: Tensor) -> None:
        """Refuse a model whose attention takes padding for letters (FNet, Funnel, Nyströmformer, ConvBERT …)."""
        longer = Window(PROBE.sequence * 2)
        if self.max_length is not None and len(longer) > self.max_length:
            return
        with torch.no_grad(), quietly():
            padded = self(self.collate([PROBE, longer]))[:1]
        apart = float((padded - alone).abs().max() / alone.abs().max().clamp(min=1e-12))
        if apart > (PADDING_BF16 if alone.dtype is torch.bfloat16 else PADDING):
            raise CheckpointMismatch(
                f"{type(self.model).__name__} of transformers answers otherwise for a window that is padded beside a longer one "
                f"(by {apart:.1%}), so that no answer would be the window's own; choose another architecture"
            )

    def _check_causal(self) -> None:
        """Refuse a causal head on attention that sees what follows (XLNet, a BERT that is no decoder)."""
        batch = self.collate([PROBE])
        tokens, rows = batch["tokens"], len(self.model.get_input_embeddings().weight)
        other = torch.cat([tokens[:, :-1], (tokens[:, -1:] + 1) % rows], dim=1)
        with torch.no_grad(), quietly():
            seen, changed = (self.hidden_states({**batch, "tokens": it})[:, :-1] for it in (tokens, other))
        if seen.numel() and float((seen - changed).abs().max() / seen.abs().max()) > PADDING:
            raise CheckpointMismatch(
                f"{type(self.model).__name__} of transformers sees the letters that follow, so that it is no causal model; "
                "if it fills in bases, its config.json must name that class in architectures, or is_decoder"
            )


def _of_letters(shape: tuple[int, int, int, int]) -> tuple[nn.Module, Any, Vocabulary, Kind]:
    """A BERT with random weights that reads letters, of these layers, width, heads and inner width."""
    from transformers import BertConfig

    layers, width, heads, inner = shape
    config = BertConfig(
        vocab_size=len(LETTERS),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=POSITIONS,
    )
    return untrained(config, "masked", "auto"), config, of_letters(LETTERS), "masked"


def _with_prefix(vocabulary: Vocabulary, prefix: str, where: str) -> Vocabulary:
    """The vocabulary with a token before every sequence that says that DNA follows."""
    if prefix == "none":
        return vocabulary
    words = PREFIXES if prefix == "auto" else (prefix,)
    found = next((vocabulary.ids[word] for word in words if word in vocabulary.ids), None)
    if found is None and prefix != "auto":
        raise UserError(f"option prefix={prefix!r}: {where} has no such token; give none, or one of its vocabulary")
    return vocabulary if found is None or found in vocabulary.before else replace(vocabulary, before=(*vocabulary.before, found))


def _class(kind: Kind, reader: Reader, vocabulary: Vocabulary) -> type[HF]:
    """The class for what a checkpoint holds. Filling in bases needs a mask token, and tokens of each base."""
    if kind == "causal":
        return HF.Causal  # type: ignore[attr-defined]
    if kind == "masked" and reader.can_hide():
        return HF.Masked  # type: ignore[attr-defined]
    return HF


def _kind(name: str, own: type, interface: type) -> None:
    """Add the class for a kind of checkpoint as an attribute of HF, where pickling finds it: a file holds one Adapter."""
    where = {"__module__": __name__, "__qualname__": f"HF.{name}", "__doc__": HF.__doc__}
    setattr(HF, name, type(name, (own, HF, interface), where))


_kind("Masked", Masked, MaskedModel)
_kind("Causal", Causal, CausalModel)
