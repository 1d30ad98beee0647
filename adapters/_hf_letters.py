"""How the letters of a window become tokens of any vocabulary: one token a base, k-mers, blocks of k bases, or byte pairs.

Which of these a vocabulary is made for is found in :func:`choose_reader`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from harness.errors import BadData

BASES = "ACGT"
NONE = -1  # fills the table of candidates


@dataclass(frozen=True)
class Alphabet:
    """How a vocabulary writes the letters ACGTN: in upper or lower case, with T or U."""

    upper: bool = True
    thymine: bool = True

    def write(self, sequence: str) -> str:
        text = sequence if self.thymine else sequence.replace("T", "U")
        return text if self.upper else text.lower()

    @property
    def facts(self) -> str:
        return f"{'upper' if self.upper else 'lower'} case, {'T' if self.thymine else 'U'}"


@dataclass(frozen=True)
class Hidden:
    """A window whose base at one position is hidden: token ids, which of them is the mask, and what may stand there.

    ``candidates`` are, for each of A, C, G and T, the ids of the tokens that would put the base there.
    """

    ids: np.ndarray
    masked: int
    candidates: tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]


class Reader(ABC):
    """Letters to token ids, without special tokens.

    ``other`` is the id of what is unknown, ``mask`` that of the mask token, or None. ``name`` is the value of the option
    ``letters``.
    """

    name: str
    needs: int = 1  # letters that a window must have so that a base in it can be hidden

    def __init__(self, alphabet: Alphabet, other: int, mask: int | None) -> None:
        self.alphabet, self.other, self.mask = alphabet, other, mask

    @abstractmethod
    def ids(self, sequences: Sequence[str]) -> list[np.ndarray]:
        """Token ids (T,), int64, of each sequence."""

    @abstractmethod
    def spans(self, sequence: str) -> np.ndarray:
        """First base and one past the last (T, 2), int64, of each token of a sequence."""

    @abstractmethod
    def hide(self, sequence: str, position: int) -> Hidden:
        """The sequence with every token masked that shows the base at ``position``. ``mask`` must not be None."""

    def longest(self, tokens: int) -> int | None:
        """The longest window of A, C, G and T with at most so many tokens, whatever its letters; None if it depends on them."""
        return None

    def can_hide(self) -> bool:
        """Whether a base can be hidden: there is a mask token, and tokens that put each base in its place."""
        return self.mask is not None

    @property
    def facts(self) -> str:
        return f"{self.name} ({self.alphabet.facts})"


class Letters(Reader):
    """One token a base. What the vocabulary lacks is unknown."""

    def __init__(self, vocabulary: dict[str, int], alphabet: Alphabet, other: int, mask: int | None, name: str) -> None:
        super().__init__(alphabet, other, mask)
        self.name = name
        self.table = np.full(256, other, np.int64)
        for letter in "ACGTN":
            self.table[ord(letter)] = vocabulary.get(alphabet.write(letter), other)

    def ids(self, sequences: Sequence[str]) -> list[np.ndarray]:
        return [self.table[np.frombuffer(sequence.encode(), np.uint8)] for sequence in sequences]

    def spans(self, sequence: str) -> np.ndarray:
        first = np.arange(len(sequence))
        return np.stack([first, first + 1], axis=1)

    def hide(self, sequence: str, position: int) -> Hidden:
        ids = self.ids([sequence])[0]
        ids[position] = self.mask
        a, c, g, t = ([int(self.table[ord(base)])] for base in BASES)
        return Hidden(ids, position, (a, c, g, t))

    def longest(self, tokens: int) -> int | None:
        return tokens


class Kmers(Reader):
    """Overlapping k-mers, one at each position; a window shorter than k is one unknown token.

    To hide a base, every k-mer that holds it is masked, and the one in which it is nearest to the middle is asked for. Its other
    letters are known from the k-mers around, so the four k-mers that differ in that base alone are compared, all of those that
    fit where another letter is N (as :mod:`._kmer_bert`).
    """

    name = "kmer"

    def __init__(self, vocabulary: dict[str, int], k: int, alphabet: Alphabet, other: int, mask: int | None) -> None:
        super().__init__(alphabet, other, mask)
        self.k = self.needs = k
        self.table = {word: vocabulary[alphabet.write(word)] for word in map("".join, product(BASES, repeat=k))}
        known = (word for word in map("".join, product("ACGTN", repeat=k)) if "N" in word) if k <= 6 else ()
        self.table |= {word: vocabulary[alphabet.write(word)] for word in known if alphabet.write(word) in vocabulary}

    def ids(self, sequences: Sequence[str]) -> list[np.ndarray]:
        k, table, other = self.k, self.table, self.other
        return [np.array([table.get(s[at : at + k], other) for at in range(max(len(s) - k + 1, 1))], np.int64) for s in sequences]

    def spans(self, sequence: str) -> np.ndarray:
        first = np.arange(max(len(sequence) - self.k + 1, 1))
        return np.stack([first, np.minimum(first + self.k, len(sequence))], axis=1)

    def hide(self, sequence: str, position: int) -> Hidden:
        ids, k = self.ids([sequence])[0], self.k
        ids[max(position - k + 1, 0) : position + 1] = self.mask
        first = min(max(position - k // 2, 0), len(sequence) - k)
        a, c, g, t = _fitting(self.table, sequence[first : first + k], position - first)
        return Hidden(ids, first, (a, c, g, t))

    def longest(self, tokens: int) -> int | None:
        return tokens + self.k - 1

    @property
    def facts(self) -> str:
        return f"overlapping {self.k}-mers ({self.alphabet.facts})"


class Blocks(Reader):
    """Non-overlapping k-mers from the left, single letters for what is left over or holds an N (Dalla-Torre et al. 2024).

    A vocabulary without single letters reads from the right, as GENERator, which cuts what is left over in front; here, nothing
    is cut: the first k letters are one more token, which overlaps the next one. A block with an N is then unknown.
    """

    def __init__(self, vocabulary: dict[str, int], k: int, alphabet: Alphabet, other: int, mask: int | None) -> None:
        super().__init__(alphabet, other, mask)
        self.k, self.name = k, f"{k}mer"
        self.table = {word: vocabulary[alphabet.write(word)] for word in map("".join, product(BASES, repeat=k))}
        written = {letter: alphabet.write(letter) for letter in "ACGTN"}
        self.letters = {letter: vocabulary[word] for letter, word in written.items() if word in vocabulary}
        self.with_letters = all(base in self.letters for base in BASES)

    def ids(self, sequences: Sequence[str]) -> list[np.ndarray]:
        return [np.array([id for id, _, _ in self._tokens(sequence)], np.int64) for sequence in sequences]

    def spans(self, sequence: str) -> np.ndarray:
        return np.array([span for _, *span in self._tokens(sequence)], np.int64)

    def _tokens(self, sequence: str) -> list[tuple[int, int, int]]:
        k, found, at = self.k, [], 0
        if not self.with_letters:
            over = len(sequence) % k
            if over:
                found.append((self.table.get(sequence[:k], self.other), 0, min(k, len(sequence))))
            ends = range(over + k, len(sequence) + 1, k)
            return [*found, *((self.table.get(sequence[end - k : end], self.other), end - k, end) for end in ends)]
        while at < len(sequence):
            block = self.table.get(sequence[at : at + k])
            size = 1 if block is None else k
            found.append((self.letters.get(sequence[at], self.other) if block is None else block, at, at + size))
            at += size
        return found

    def hide(self, sequence: str, position: int) -> Hidden:
        tokens = self._tokens(sequence[:position] + "A" + sequence[position + 1 :])  # the blocks of any base, even where N is
        ids = np.array([id for id, _, _ in tokens], np.int64)
        holding = [number for number, (_, first, last) in enumerate(tokens) if first <= position < last]
        _, first, last = tokens[holding[-1]]
        assert self.mask is not None
        ids[holding] = self.mask
        if last - first == 1:
            a, c, g, t = ([self.letters[base]] for base in BASES)
        else:
            a, c, g, t = _fitting(self.table, sequence[first:last], position - first)
        return Hidden(ids, holding[-1], (a, c, g, t))

    def longest(self, tokens: int) -> int | None:
        k = self.k
        if not self.with_letters:
            return k * tokens
        return k * (tokens - k + 2) + k - 2 if tokens >= k else tokens  # one letter short of a block takes k - 1 tokens

    @property
    def facts(self) -> str:
        rest = (
            "single letters for the rest" if self.with_letters else "the first one overlaps the next where letters are left over"
        )
        return f"blocks of {self.k} bases, {rest} ({self.alphabet.facts})"


class Raw(Reader):
    """Whatever the tokenizer makes of the sequence, byte pairs as a rule.

    To hide a base, the letters left and right of it are read separately, with the mask token between, as merging them with the
    base in sight would betray it; the four one-base tokens are compared (as :mod:`.dnabert2`).
    """

    name = "raw"

    def __init__(self, tokenizer: Any, vocabulary: dict[str, int], alphabet: Alphabet, other: int, mask: int | None) -> None:
        super().__init__(alphabet, other, mask)
        self.tokenizer = tokenizer
        self.backend = getattr(tokenizer, "backend_tokenizer", None)
        if self.backend is not None:
            self.backend.no_truncation()
            self.backend.no_padding()
        self.bases = [vocabulary.get(alphabet.write(base)) for base in BASES]
        self.drops_n = not len(self.ids(["N"])[0])

    def ids(self, sequences: Sequence[str]) -> list[np.ndarray]:
        texts = [self.alphabet.write(sequence) for sequence in sequences]
        if self.backend is not None:
            rows = [it.ids for it in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        else:
            rows = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return [np.array(row, np.int64) for row in rows]

    def spans(self, sequence: str) -> np.ndarray:
        text = self.alphabet.write(sequence)
        if self.backend is not None:
            return np.array(self.backend.encode(text, add_special_tokens=False).offsets, np.int64).reshape(-1, 2)
        sizes = np.array([len(token.strip("#▁Ġ ")) for token in self.tokenizer.tokenize(text)], np.int64)
        if sizes.sum() != len(text):
            raise BadData(f"window {sequence[:20]!r}…: which letters its tokens hold cannot be told; use a tokenizer.json")
        return np.stack([sizes.cumsum() - sizes, sizes.cumsum()], axis=1)

    def hide(self, sequence: str, position: int) -> Hidden:
        sides = [sequence[:position], sequence[position + 1 :]]
        left, right = (ids if side else ids[:0] for side, ids in zip(sides, self.ids(sides)))
        a, c, g, t = ([int(base)] for base in self.bases if base is not None)
        assert self.mask is not None
        return Hidden(np.concatenate([left, np.array([self.mask]), right]), len(left), (a, c, g, t))

    def can_hide(self) -> bool:
        return self.mask is not None and None not in self.bases and len(set(self.bases)) == len(BASES)


def _fitting(table: dict[str, int], word: str, offset: int) -> list[list[int]]:
    """For each base at ``offset`` of a word, the ids of the words that agree with its other letters; any base for an N."""
    choices = [BASES if letter == "N" else letter for letter in word]
    return [[table["".join(fit)] for fit in product(*choices[:offset], base, *choices[offset + 1 :])] for base in BASES]
