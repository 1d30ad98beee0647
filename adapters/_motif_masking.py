"""RNAErnie's pretraining: in each RNA bases, subsequences or motifs are hidden, and its type is asked for, too."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from harness.adapter import IGNORED, Adapter, Batch
from harness.data import Window
from harness.errors import BadData, UserError
from harness.files.fingerprint import file_digest
from harness.files.motif_files import read_words
from harness.objective import Objective, Training

from ._masking import draw_fates, hide
from ._rna import RNAModel, Vocabulary
from ._words import PADDING, UNKNOWN, Hits, Words

SHARE = 0.15
SPANS = (5, 6, 7, 8)  # lengths of subsequences in nt, with a share of 48, 24, 16 and 12 %
DRAWN_BELOW = (0.48, 0.72, 0.88)  # a uniform number below the first draws the first length, and so on
UNREAD = 9  # positions at the end of a sequence in which upstream's code hides no subsequence
INDICATOR, UNKNOWN_TOKEN = "[IND]", "[UNK]"
CODES = {"A": 0, "C": 1, "G": 2, "T": 3, "U": 3}


class Motif(Objective):
    """Of each RNA 15 % are hidden, as single bases, as spans of 5 to 8 nt or as known motifs; its type is asked for, too.

    Wang et al. 2024, Nat. Mach. Intell. 6. One of the three, all equally likely, is drawn for each sequence. ``motifs`` are files
    of motifs (MEME, JASPAR or a list, one a line; commas between files), of which occurrences are hidden in random order;
    ``statistics`` are files of words that fill what is left of the share, from left to right. The input ends with the type of
    RNA, the second word of a FASTA header; it is hidden in half of the sequences, and asked for, at [CLS], only there. A type
    that the vocabulary lacks, and letters other than ACGU, are neither hidden nor asked for.

    ``as_released=true`` does as the authors' code: the type that is asked for is always shown; U of motif files, which the
    vocabulary lacks, matches unknown letters alone; the same random numbers serve all sequences with the same first base, in
    every epoch; spans avoid the last nine positions; and unknown letters and types are asked for, as [UNK].
    """

    model_options: ClassVar[Mapping[str, str]] = {"layout": "paddle"}

    def __init__(self, *, motifs: str = "", statistics: str = "", as_released: bool = False) -> None:
        self.motifs, self.statistics, self.as_released = motifs, statistics, as_released

    def attach(self, adapter: Adapter) -> None:
        """Read the files of motifs.

        Raises:
            UserError: the model's vocabulary has no types, or no file is given.
            BadData: a file cannot be read, or holds no motif.
        """
        tokens = adapter.vocabulary.tokens if isinstance(adapter, RNAModel) else ()
        if INDICATOR not in tokens:
            raise UserError(
                f"objective motif: {adapter.name} as it was built has no tokens for types of RNA; use the paper's weights, or "
                "--option layout=paddle at random initialisation, or --objective token"
            )
        if not self.motifs.strip(", "):
            raise UserError("option motifs: name a file, --option motifs=FILE (MEME, JASPAR, or a list of motifs, one a line)")
        self.notes, self._files, self._sizes = list[str](), list[dict[str, Any]](), list[int]()
        self._trees = [self._read(option) for option in (self.motifs, self.statistics)]
        self._types = {token: number for number, token in enumerate(tokens) if token[0] != "[" and len(token) > 1}
        self._type_of = dict[str, int]()

    def _read(self, files: str) -> Words:
        found = dict[str, None]()
        for path in (Path(name.strip()) for name in files.split(",") if name.strip()):
            words, notes = read_words(path)
            self.notes = [*self.notes, *notes]
            self._files.append({"file": path.name, "sha256": file_digest(path), "motifs": len(words)})
            found |= dict.fromkeys(words)
        self._sizes += map(len, found)
        codes = CODES | {"U": UNKNOWN} if self.as_released else CODES
        return Words([codes[letter] for letter in word] for word in found)

    def prepare(self, training: Training) -> None:
        """Note the type of each record, and how many motifs can be hidden.

        Raises:
            BadData: none can, as all are longer than the share of a window that is hidden.
        """
        most = budget(training.context)
        if (longer := sum(size > most for size in self._sizes)) == len(self._sizes):
            raise BadData(
                f"option motifs: of {longer:,} motifs none fits into {most} nt, 15 % of {training.context}, that are hidden of a "
                "window; give shorter ones, or a longer --context"
            )
        if longer:
            self.notes = [
                *self.notes,
                f"{longer:,} of {len(self._sizes):,} motifs are never hidden: they are longer than {most} nt",
            ]
        source, known = training.source, self._types
        self._type_of = {name: known[word] for name, kind in source.types.items() if (word := kind.replace("_", "")) in known}
        names = dict.fromkeys(name for name, _, _ in source.stretches)
        if without := sum(name not in self._type_of for name in names):
            shown = next((f", such as {kind[:40]!r}" for name, kind in source.types.items() if name not in self._type_of), "")
            self.notes = [
                *self.notes,
                f"{source.path.name}: {without:,} of {len(names):,} records have no type that the model knows{shown}; it is not "
                "asked for; a type is the second word of a header, such as lncRNA or tRNA",
            ]

    def facts(self) -> dict[str, Any]:
        return {"files": self._files, "records_with_type": len(self._type_of)}

    def collate(self, adapter: Any, windows: Sequence[Window], rng: np.random.Generator, progress: float | None = None) -> Batch:
        """``tokens``, ``targets`` and ``groups`` int64 (B, L + 4): [CLS], the bases, [IND], the type, [SEP].

        Raises:
            UserError: a window is too long for the model, or read in pieces.
        """
        model: RNAModel = adapter
        vocabulary, rows, lengths = model.vocabulary, np.arange(len(windows)), np.array([len(window) for window in windows])
        longest = int(lengths.max())
        if longest > model.piece - 2:
            raise UserError(f"context {longest}: with a type, {model.name} is pretrained on at most {model.piece - 2} nt")
        unknown = vocabulary.tokens.index(UNKNOWN_TOKEN)
        types = np.array([self._type_of.get(window.locus.chromosome if window.locus else "", unknown) for window in windows])
        plain, _ = model.hideable(model.collate(windows))
        tokens = np.pad(plain.numpy(), ((0, 0), (0, 2)), constant_values=vocabulary.pad)
        for place, ids in enumerate((vocabulary.tokens.index(INDICATOR), types, vocabulary.end), start=1):
            tokens[rows, lengths + place] = ids
        targets, groups = np.full_like(tokens, IGNORED), np.zeros_like(tokens)
        groups[:, 0] = 1
        bases = slice(1, 1 + longest)
        codes = coded(tokens[:, bases], vocabulary)
        codes[np.arange(longest) >= lengths[:, None]] = PADDING
        if self.as_released:
            targets[:, 0] = types
            found = [tree.find(codes) for tree in self._trees]
            for row, length in enumerate(lengths.tolist()):
                here = slice(1, 1 + length)
                hits = (list(of_row(one, row)) for one in found)
                tokens[row, here], targets[row, here] = released(tokens[row, here], vocabulary, int(rng.integers(3)), *hits)
        else:
            chosen = choose(codes, lengths, self._trees, rng)
            fates = draw_fates(rng, chosen.shape, np.sort(vocabulary.bases))
            targets[:, bases] = hide(tokens[:, bases], chosen, fates, vocabulary.mask)
            asked = (rng.random(len(windows)) < 0.5) & (types != unknown)
            tokens[rows[asked], lengths[asked] + 2] = vocabulary.mask
            targets[asked, 0] = types[asked]
        return {name: torch.from_numpy(array) for name, array in (("tokens", tokens), ("targets", targets), ("groups", groups))}


def coded(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """The codes of token ids, as :class:`Words` reads them."""
    table = np.full(vocabulary.size, UNKNOWN)
    table[list(vocabulary.bases)] = range(4)
    return table[tokens]


def budget(letters: int) -> int:
    """How many of a sequence's letters are to be hidden. Upstream's limit of 76.8 lies above its longest sequences, of 508 nt."""
    return max(1, round(SHARE * letters)) if letters else 0


def choose(codes: np.ndarray, lengths: np.ndarray, trees: Sequence[Words], rng: np.random.Generator) -> np.ndarray:
    """What is hidden of sequences, bool as their codes (B, L), each by one of the three strategies, which is drawn.

    A subsequence that would go beyond the budget is shortened, to 5 nt at the least, or to the whole budget where that is less.
    """
    known, chosen = codes < UNKNOWN, np.zeros(codes.shape, bool)
    budgets = np.array([budget(letters) for letters in known.sum(axis=1).tolist()])
    strategy = rng.integers(3, size=len(codes))

    rows = np.flatnonzero(strategy == 0)
    scores = rng.random((len(rows), codes.shape[1]))
    scores[~known[rows]] = 1
    chosen[rows] = first(scores.argsort(axis=1), budgets[rows])

    rows = np.flatnonzero(strategy == 1)
    starts = rng.random((len(rows), codes.shape[1])).argsort(axis=1)
    widths = np.array(SPANS)[np.searchsorted(DRAWN_BELOW, rng.random(starts.shape), side="right")]
    for row, order, drawn in zip(rows.tolist(), starts, widths, strict=True):
        length, shortest = int(lengths[row]), min(SPANS[0], int(budgets[row]))
        order = order[order <= length - shortest].tolist()
        width = iter(drawn.tolist()).__next__
        for span in spans(order, length, int(budgets[row]), width, shortest, taken=as_bits(~known[row])):
            chosen[row, span.start : span.stop] = True

    rows = np.flatnonzero(strategy == 2)
    database, statistics = (tree.find(codes[rows]) for tree in trees)
    database = database.ordered(rng.random(len(database.rows)))
    for number, row in enumerate(rows.tolist()):
        hits = [*of_row(database, number), *of_row(statistics, number)]
        for span in fitting(hits, int(budgets[row]), min(tree.shortest for tree in trees if tree.shortest)):
            chosen[row, span.start : span.stop] = True
    return chosen


def first(order: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """True at as many positions of each row as its budget (B,) says, the first ones in their ``order`` (B, L)."""
    chosen = np.zeros(order.shape, bool)
    np.put_along_axis(chosen, order, np.arange(order.shape[1]) < budgets[:, None], axis=1)
    return chosen


def spans(
    starts: Iterable[int], end: int, budget: int, width: Callable[[], int], shortest: int, least: int = 0, taken: int = 0
) -> Iterator[range]:
    """Subsequences at ``starts``, in this order, that overlap neither each other nor the positions ``taken``, a number's bits.

    ``width`` draws the length of each; it is cut at ``end``, and shortened to what is left of the budget, but not below
    ``shortest`` unless it was cut to less. Less than ``least`` of the budget, by default ``shortest``, is left over.
    """
    for start in starts:
        if budget < (least or shortest):
            return
        size = min(width(), end - start, budget)
        bits = (1 << size) - 1 << start
        if size >= min(shortest, end - start) and not taken & bits:
            taken, budget = taken | bits, budget - size
            yield range(start, start + size)


def fitting(hits: Iterable[tuple[int, int]], budget: int, shortest: int) -> Iterator[range]:
    """Of words at (start, length), none shorter than ``shortest``, those that fit the budget and overlap no earlier one."""
    taken = 0
    for start, size in hits:
        bits = (1 << size) - 1 << start
        if size <= budget and not taken & bits:
            taken, budget = taken | bits, budget - size
            yield range(start, start + size)
            if budget < shortest:
                return


def released(
    tokens: np.ndarray,
    vocabulary: Vocabulary,
    strategy: int,
    database: Sequence[tuple[int, int]],
    statistics: Sequence[tuple[int, int]],
) -> tuple[np.ndarray, np.ndarray]:
    """A sequence's tokens (L,) and targets (L,) as the authors' rna_pretrainer.py makes them, by one of the three strategies.

    ``database`` and ``statistics`` are the words that it holds, as (start, length). Upstream draws for all three in turn, from a
    generator whose seed is the first base.
    """
    bases, subsequences, state = _drawn(1000 + int(tokens[0]), len(tokens))
    fates = bases if strategy == 0 else subsequences
    if strategy == 2:
        rng = np.random.RandomState(0)
        rng.set_state(state)
        hits = [*(database[place] for place in _shuffled(rng, len(database))), *statistics]
        fates = {at: _fate(rng) for span in fitting(hits, budget(len(tokens)), 1) for at in span}
    places, drawn = list(fates), np.array(list(fates.values()), int)
    changed, targets = tokens.copy(), np.full(len(tokens), IGNORED)
    targets[places] = tokens[places]
    changed[places] = np.where(drawn == _SAME, tokens[places], np.append(np.sort(vocabulary.bases), [vocabulary.mask, 0])[drawn])
    return changed, targets


_MASKED, _SAME = 4, 5  # what becomes of a token, or the number of a base


@lru_cache(maxsize=1 << 12)
def _drawn(seed: int, length: int) -> tuple[Mapping[int, int], Mapping[int, int], Any]:
    """The fates of bases and of subsequences by position, the same for all sequences of a length; the generator's state then."""
    rng, hidden, end = np.random.RandomState(seed), budget(length), max(length - UNREAD, 0)
    bases = {at: _fate(rng) for at in _shuffled(rng, length)[:hidden]}
    found = spans(
        _shuffled(rng, end), end, hidden, lambda: SPANS[bisect_right(DRAWN_BELOW, rng.random_sample())], SPANS[0], least=1
    )
    return bases, {at: _fate(rng) for span in found for at in span}, rng.get_state()


def _fate(rng: np.random.RandomState) -> int:
    if rng.random_sample() < 0.8:
        return _MASKED
    return _SAME if rng.random_sample() < 0.5 else int(rng.randint(0, 4))


def _shuffled(rng: np.random.RandomState, count: int) -> list[int]:
    order = np.arange(count)
    rng.shuffle(order)
    return order.tolist()


def of_row(hits: Hits, row: int) -> Iterator[tuple[int, int]]:
    """First position and length of a row's hits, in their order."""
    here = slice(*np.searchsorted(hits.rows, (row, row + 1)))
    return zip(hits.starts[here].tolist(), hits.sizes[here].tolist(), strict=True)


def as_bits(places: np.ndarray) -> int:
    """A number whose bit i is the i-th of bools (L,)."""
    return int.from_bytes(np.packbits(places, bitorder="little").tobytes(), "little")
