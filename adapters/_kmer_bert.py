"""The architecture and vocabulary of DNABERT-1, a plain BERT over overlapping k-mers, which GeneMask shares."""

from __future__ import annotations

import json
from abc import ABC
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from harness.adapter import Batch
from harness.data import Window, letters
from harness.errors import BadData, CheckpointMismatch, UserError
from harness.files.checkpoint import weight_file

from ._batches import PLACES, with_places, within
from ._bert import (
    OFFICIAL_NAMES,
    OFFICIAL_WORDS,
    PLAIN_FEED_FORWARD,
    Bert,
    bert_config,
    has_language_head,
    in_our_names,
    load,
    official_tensors,
    read_shape,
    settings_of,
)
from ._masking import checked_positions
from ._options import LONG_WINDOWS, checked, of_size
from ._transformer import Shape

PAD, UNK, CLS, SEP, MASK = range(5)
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ORDER = "ATCG"  # the digits of a k-mer in the published vocabularies
ANY = len(ORDER)
K_OF_VOCABULARY = {len(SPECIALS) + 4**k: k for k in (3, 4, 5, 6)}
SIZES = {"tiny": (2, 64, 4, 128), "base": (12, 768, 12, 3072)}  # layers, width, heads, inner width
POOLINGS = ("pooler", "cls", "mean")

_DIGITS = bytes(ORDER.find(chr(code)) % (ANY + 1) for code in range(256))  # letter → 0–3, any other → 4


def vocabulary(k: int) -> list[str]:
    """All tokens in the order of their ids: five special tokens, then every k-mer over A, T, C, G."""
    return [*SPECIALS, *("".join(kmer) for kmer in product(ORDER, repeat=k))]


def lexicographic(k: int) -> np.ndarray:
    """Of every k-mer in the order of token ids, its number in the order A, C, G, T, int64 (4^k,)."""
    digits = np.array(list(product(map("ACGT".index, ORDER), repeat=k)))
    return digits @ 4 ** np.arange(k - 1, -1, -1)


def _digits(text: np.ndarray) -> np.ndarray:
    """Letters (windows, length) as their digits in ``ORDER``, uint8 of the same shape."""
    return np.frombuffer(text.tobytes().translate(_DIGITS), np.uint8).reshape(text.shape)


def kmer_tokens(text: np.ndarray, k: int) -> np.ndarray:
    """Token id of the k-mer at every position; [UNK] where it holds a letter other than A, C, G or T.

    ``text``: uint8 (windows, length) of ASCII letters. Returns int16 (windows, length - k + 1), empty for short text.
    The ids are those of upstream's DNATokenizer, computed for all windows at once instead of looked up k-mer by k-mer.
    """
    digits = _digits(text).astype(np.int16)
    positions = max(text.shape[1] - k + 1, 0)
    ids = digits[:, :positions].copy()
    for offset in range(1, k):
        ids *= 4
        ids += digits[:, offset : offset + positions]
    ids += len(SPECIALS)
    unknown = digits == ANY
    if unknown.any():
        for offset in range(k):
            ids[unknown[:, offset : offset + positions]] = UNK
    return ids


class KmerBert(Bert, ABC):
    """:class:`DNABERT1` and :class:`GeneMask`, which differ only in how they are pretrained.

    ``long`` says what happens to a window with more k-mers than the position table has room for. ``refuse`` raises an error.
    ``chunks`` cuts the k-mers into upstream's pieces of 510, each between its own [CLS] and [SEP], and averages the pieces'
    embeddings, weighted by their numbers of tokens. (Upstream's classifier trains a recurrent network over the pieces. If the
    last piece is full, its tokenizer also adds an empty one, which carries no information and is left out here.)

    A window shorter than k has no k-mer. It is [CLS] [SEP], as upstream, so that all such windows have one embedding; each counts
    as one unknown token, which a run reports.

    To predict a masked base, the k-mer in which it is nearest to the middle is read. The unmasked k-mers around reveal all of
    its other letters, so the four k-mers that differ in the masked base alone are compared. If another letter is N, the
    probabilities of all k-mers with any letter there are summed.
    """

    official_names = (*OFFICIAL_NAMES, *PLAIN_FEED_FORWARD)
    lora_targets = ("query", "value")
    mask_id = MASK
    kmers: Tensor  # (4^k, k) digits of every k-mer, in the order of their ids

    def __init__(
        self, shape: Shape, pooling: str, layer: int, long: str, pooler: bool = True, language_head: bool = True
    ) -> None:
        super().__init__(shape, POOLINGS, pooling, layer, language_head, pooler)
        self.k = K_OF_VOCABULARY[shape.vocabulary]
        self.long = checked("long", long, LONG_WINDOWS)
        self.piece = shape.positions - 2  # k-mers between [CLS] and [SEP]
        self.max_length = self.piece + self.k - 1 if long == "refuse" else None
        if self.lm_head is not None and self.lm_head.decoder is not None:  # upstream stores the bias under both names
            self.lm_head.bias = self.lm_head.decoder.bias
        kmers = torch.tensor(list(product(range(ANY), repeat=self.k)), dtype=torch.uint8)
        self.register_buffer("kmers", kmers, persistent=False)
        self.random_ids = np.arange(shape.vocabulary)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Path | None = None,
        *,
        size: str = "base",
        pooling: str = "pooler",
        layer: int = -1,
        long: str = "refuse",
        k: int = 0,
    ) -> Self:
        """See :meth:`Adapter.from_checkpoint`. ``k`` (3 to 6, by default 6) is for random initialisation."""
        if checkpoint is None:
            sizes = of_size(cls.name, size, SIZES)
            if k not in (0, *K_OF_VOCABULARY.values()):
                raise UserError(f"option k={k}: choose 3, 4, 5 or 6")
            return cls(Shape(*sizes, vocabulary=len(SPECIALS) + 4 ** (k or 6)), pooling, layer, long)
        file = weight_file(checkpoint)
        config, tensors = bert_config(file), official_tensors(file)
        published = Shape(*SIZES["base"], vocabulary=max(K_OF_VOCABULARY))
        shape = read_shape(published, in_our_names(tensors), config, file)
        _check_vocabulary(file, shape, k)
        has_pooler = "bert.pooler.dense.weight" in tensors
        if pooling == "pooler" and not has_pooler and OFFICIAL_WORDS in tensors:
            raise UserError(f"option pooling='pooler': {file} has no pooler; choose cls or mean")
        model = cls(shape, pooling, layer, long, has_pooler, has_language_head(tensors))
        facts = {"vocabulary": shape.vocabulary, "k": model.k, "special_ids": dict(zip(SPECIALS, range(5))), "pooler": has_pooler}
        model.audit = load(model, tensors, file, facts)
        return model

    def collate(self, windows: Sequence[Window]) -> Batch:
        """``tokens`` int32 (B, P, T) and their ``lengths`` (B, P), for P pieces per window; a missing piece has length 0.

        P is 1 unless windows are long. A window shorter than k becomes [CLS] [SEP].

        Raises:
            BadData: a window is longer than ``max_length``.
        """
        nucleotides = np.array([len(window.sequence) for window in windows])
        if self.max_length is not None and nucleotides.max() > self.max_length:
            remedy = f"{self.name} takes at most {self.max_length}; --option long=chunks cuts longer ones into pieces"
            raise BadData(f"window of {nucleotides.max()} nt: {remedy}")
        ids = kmer_tokens(letters(windows), self.k)
        pieces = max(-(-ids.shape[1] // self.piece), 1)
        inside = ids.shape[1] if pieces == 1 else self.piece
        if pieces > 1:
            ids = np.pad(ids, ((0, 0), (0, pieces * inside - ids.shape[1])))
        piece = np.arange(pieces)
        kmers = np.minimum(np.maximum(nucleotides[:, None] - (self.k - 1 + inside * piece), 0), inside)  # (B, P) of each piece
        tokens = np.zeros((len(windows), pieces, inside + 2), np.int32)  # all [PAD]
        tokens[..., 1:-1] = ids.reshape(len(windows), pieces, inside)
        if kmers.min() < inside:
            tokens[..., 1:-1][np.arange(inside) >= kmers[..., None]] = PAD
        tokens[..., 0] = CLS
        tokens[np.arange(len(windows))[:, None], piece, kmers + 1] = SEP
        lengths = kmers + 2
        lengths[:, 1:][lengths[:, 1:] == 2] = 0  # the first piece exists even without k-mers, the others do not
        return {"tokens": torch.from_numpy(tokens), "lengths": torch.from_numpy(lengths)}

    def for_accelerator(self, batch: Batch) -> Batch:
        _, pieces, size = batch["tokens"].shape
        return with_places(batch, within(batch["lengths"], size)) if pieces == 1 else batch

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        """Counts [UNK], and windows too short to have a token of their own."""
        lengths = batch["lengths"]
        return int((batch["tokens"] == UNK).sum() + (lengths[:, 0] == 2).sum()), int(lengths.sum())

    def forward(self, batch: Batch) -> Tensor:
        tokens, lengths = batch["tokens"], batch["lengths"]
        size = tokens.shape[-1]
        if tokens.shape[1] == 1:
            return self.embed(tokens[:, 0], within(lengths[:, 0], size), places=batch.get(PLACES))
        exists = lengths > 0
        embeddings = self.embed(tokens[exists], within(lengths[exists], size))
        weights = lengths / lengths.sum(dim=1, keepdim=True)
        by_piece = embeddings.new_zeros(*lengths.shape, self.embedding_dim)
        by_piece[exists] = embeddings
        return (by_piece * weights.to(by_piece.dtype).unsqueeze(-1)).sum(dim=1)

    def token_ranges(self, windows: Sequence[Window]) -> Tensor:
        """A base near an end of the window lies in fewer than k k-mers; in a window shorter than k, in none."""
        lengths = torch.tensor([len(window) for window in windows])
        kmers = (lengths - self.k + 1)[:, None]
        before = max(-(-int(kmers.max()) // self.piece), 1)  # a [CLS] of each piece
        base = torch.arange(int(lengths.max()))
        last = torch.minimum(base, kmers - 1)
        ranges = torch.stack([(base - self.k + 1).clamp(min=0).expand_as(last), last + 1], dim=-1) + before
        return ranges * (within(lengths, len(base)) & (kmers > 0))[..., None]

    def hidden_states(self, batch: Batch, layer: int | None = None) -> Tensor:
        """See :meth:`Bert.states_of_pieces` for the order of the tokens of long windows."""
        return self.states_of_pieces(batch["tokens"], within(batch["lengths"], batch["tokens"].shape[-1]), layer)

    def logits(self, hidden: Tensor) -> Tensor:
        """See :meth:`Bert.logits`. Upstream's head adds its bias twice, as part of the decoder and after it."""
        logits = super().logits(hidden)
        assert self.lm_head is not None
        return logits + self.lm_head.bias

    def hideable(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens of the first piece, of which a k-mer with N may not be hidden."""
        tokens = batch["tokens"][:, 0]
        return tokens, tokens > MASK

    def pretraining_logits(self, batch: Batch) -> Tensor:
        """Those of the last layer, whatever ``layer`` is; windows are in one piece."""
        tokens, lengths = batch["tokens"][:, 0], batch["lengths"][:, 0]
        read = within(lengths, tokens.shape[-1])
        return self.logits(self.encoder(tokens, read, places=batch.get(PLACES), asked=batch["asked"]))

    def checkpoint_files(self) -> dict[str, str]:
        """The files of the authors' folder ``bert-config-6``; its tokenizer file would lower-case k-mers, this one not.

        The authors' code adds the decoder's bias twice, as here; that of transformers today adds it once.
        """
        shape = self.shape
        config = {
            "architectures": ["BertForMaskedLM"],
            **settings_of(shape),
            "model_type": "bert",
        }
        names = {name.strip("[]").lower() + "_token": name for name in SPECIALS}
        return {
            "config.json": json.dumps(config, indent=2),
            "vocab.txt": "".join(f"{token}\n" for token in vocabulary(self.k)),
            "special_tokens_map.json": json.dumps(names),
            "tokenizer_config.json": json.dumps({"do_lower_case": False, "max_len": shape.positions}),
        }

    def collate_masked(self, windows: Sequence[Window], positions: Sequence[int]) -> Batch:
        """As :meth:`collate`, with every k-mer that covers the window's position masked.

        Adds ``masked`` (B,), the index of the k-mer to read among the window's tokens, pieces joined; ``offset`` (B,), the
        position of the base within it; and ``around`` (B, k), the digits of its letters, ``ANY`` for the base itself and N.

        Raises:
            BadData: a position lies outside its window, or a window is shorter than k.
        """
        batch = self.collate(windows)
        _, pieces, size = batch["tokens"].shape
        at, rows = checked_positions(windows, positions).numpy(), np.arange(len(windows))
        kmers = np.array([len(window) for window in windows]) - self.k + 1
        if kmers.min() < 1:
            raise BadData(f"window of {kmers.min() + self.k - 1} nt: {self.name} needs {self.k} or more to fill in a base")
        token_of = np.arange(kmers.max())  # the index of a k-mer's token, by that of the k-mer
        token_of = token_of + 1 if pieces == 1 else token_of // self.piece * size + token_of % self.piece + 1
        tokens = batch["tokens"].numpy().reshape(len(windows), -1)
        for back in range(self.k):
            start = at - back
            exists = (start >= 0) & (start < kmers)
            tokens[rows[exists], token_of[start[exists]]] = MASK
        middle = (at - self.k // 2).clip(0, kmers - 1)
        offset = at - middle
        around = _digits(letters(windows))[rows[:, None], middle[:, None] + np.arange(self.k)]
        around[rows, offset] = ANY
        extra = {"masked": token_of[middle], "offset": offset, "around": around}
        return {**batch, **{name: torch.from_numpy(value) for name, value in extra.items()}}

    def base_log_probabilities(self, batch: Batch) -> Tensor:
        """See :meth:`MaskedModel.base_log_probabilities`; the class says how k-mers become bases."""
        lengths, size = batch["lengths"], batch["tokens"].shape[-1]
        rows = torch.arange(len(lengths), device=lengths.device)
        piece = batch["masked"] // size
        hidden = self.encoder(batch["tokens"][rows, piece], within(lengths[rows, piece], size))
        logits = self.logits(hidden[rows, batch["masked"] % size])[:, len(SPECIALS) :].float()  # (B, 4^k)
        around = batch["around"][:, None]
        fits = ((self.kmers == around) | (around == ANY)).all(dim=-1)  # (B, 4^k): agrees with every known letter
        base = self.kmers.T[batch["offset"].long()]  # (B, 4^k)
        scores = [logits.masked_fill(~(fits & (base == ORDER.index(letter))), -torch.inf).logsumexp(dim=-1) for letter in "ACGT"]
        return torch.stack(scores, dim=-1).log_softmax(dim=-1)


def _check_vocabulary(file: Path, shape: Shape, k: int) -> None:
    found = K_OF_VOCABULARY.get(shape.vocabulary)
    if found is None:
        sizes = ", ".join(f"{size} (k = {number})" for size, number in K_OF_VOCABULARY.items())
        raise CheckpointMismatch(
            f"checkpoint {file}: a vocabulary of {shape.vocabulary}, expected {sizes}; 0 tensors were loaded"
        )
    if k not in (0, found):
        raise UserError(f"option k={k}: {file} has k = {found}; leave the option out")
    listed = file.with_name("vocab.txt")
    if listed.is_file() and listed.read_text(encoding="utf-8").split() != vocabulary(found):
        raise CheckpointMismatch(
            f"{listed}: not the {found}-mers in the order A, T, C, G after {' '.join(SPECIALS)}; 0 tensors were loaded"
        )
