"""Near-duplicate sequences: which windows of a set, or of two sets, are nearly the same on either strand.

Candidates share a spaced seed (Ma, Tromp & Li 2002, PatternHunter), which a mutated copy keeps more often than a k-mer of as
many letters. Each is compared along the seed's diagonal and, where that fails, aligned with gaps within a band.
``benchmarks/audit.py`` measures how many near duplicates are found, and what the search costs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.data import letter_table, reverse_complement
from harness.errors import UserError

if TYPE_CHECKING:
    import numpy as np

VERSION = 1  # of what is found; counted up when this changes

# By weight: of 260 random seeds, the one that most often hits a stretch of 81 letters of which 80 % match.
SEEDS = (
    "11110001001101",
    "111010001011011",
    "101101011001000111",
    "110101000111011011",
    "110111000101011010011",
    "111011100001101101011",
)
MAX_BY_CHANCE = 8  # places of a seed in random letters; where there would be more, a seed of more weight is used
MAX_INDEXED = 1 << 27  # in the index, of 4 bytes each; of a larger set, only every so many-th place is indexed
MAX_LETTERS = (1 << 32) - 1  # the index counts them in 32 bits
PLACES, CELLS = 24, 60_000  # of a frequent seed and of alignments with gaps, at which a window is compared with others …
MANY_LETTERS = 16_000_000  # … in an index of so many letters; in a smaller one more, up to MAX_EFFORT times as many
MAX_EFFORT = 16
HALF_FROM = 200  # letters of windows that share so many seeds that in a larger index every other one is looked up
CHUNK = 256  # windows that a thread searches for at a time
MAX_THREADS = 16

# Reasons why a search may have missed neighbours.
TOO_SHORT = "windows with too few known letters, which can only be exact copies"
FREQUENT = "windows of mostly frequent seeds, of whose places only some were compared"
CROWDED = "windows with so many neighbours that not all were kept"
UNALIGNED = "windows with so many candidates that not all were aligned with gaps"


@dataclass(frozen=True)
class Similarity:
    """When two sequences are near duplicates.

    They are compared along an alignment: a diagonal, or the best alignment within 3 % of the shorter sequence's length (3 to 32
    letters) of a diagonal, ends free. A column matches if it holds two equal letters, N being equal to nothing; it scores 1, a
    mismatch -1, and a letter opposite a gap -2. What counts is the stretch of columns with the highest score, so that unrelated
    flanks are no part of it. At least ``identity`` of its columns must match, at least ``matches`` of them must (fewer do by
    chance), and it must hold at least ``coverage`` of the letters of the shorter sequence.

    Raises:
        UserError: a share that is not from 0.5 to 1.
    """

    identity: float = 0.8
    coverage: float = 0.8
    matches: int = 25

    def __post_init__(self) -> None:
        for name in ("identity", "coverage"):
            if not 0.5 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)}: must be from 0.5 to 1; 0.8 is the default")


DEFAULT = Similarity()


@dataclass(frozen=True, eq=False)
class Pairs:
    """Near duplicates, exact ones included, as arrays (pairs,): two sequences' numbers and how they are alike.

    ``reverse``: on opposite strands; ``exact``: the same letters, or each other's reverse complement. A sequence that repeats
    another is paired with the first such one, which has the other neighbours of both. ``limits`` counts, by reason, the
    sequences of which neighbours may be missing.
    """

    first: np.ndarray
    second: np.ndarray
    identity: np.ndarray
    coverage: np.ndarray
    reverse: np.ndarray
    exact: np.ndarray
    limits: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.first)


def canonical(sequence: str) -> str:
    """The sequence or its reverse complement, whichever is first in the alphabet: the same for both strands."""
    return min(sequence, reverse_complement(sequence))


def near_pairs(sequences: Sequence[str], similarity: Similarity = DEFAULT) -> Pairs:
    """Near duplicates among upper-case ``ACGTN`` sequences; ``first`` is less than ``second``, pairs are in order of ``second``.

    Raises:
        UserError: more than MAX_LETTERS letters.
    """
    groups = _groups(sequences, similarity)
    firsts = [group[0] for group in groups.values()]
    rows = [
        (group[0], other, 1.0, 1.0, _turned(sequences, group[0], other), True) for group in groups.values() for other in group[1:]
    ]
    long, limits = _searchable(sequences, firsts, similarity)
    for query, target, identity, coverage, reverse in _search([sequences[number] for number in long], None, similarity, limits):
        rows.append((long[target], long[query], identity, coverage, reverse, False))
    return _pairs(rows, limits)


def near_pairs_between(train: Sequence[str], test: Sequence[str], similarity: Similarity = DEFAULT) -> Pairs:
    """Near duplicates of test sequences in train: ``first`` are numbers in train, ``second`` in test, in whose order pairs are.

    Here every test sequence has its own pairs, also where it repeats another test sequence.

    Raises:
        UserError: more than MAX_LETTERS letters.
    """
    groups, asked = _groups(train, similarity), _groups(test, similarity)
    rows = [
        (groups[key][0], number, 1.0, 1.0, train[groups[key][0]] != test[number], True)
        for key, group in asked.items()
        if key in groups
        for number in group
    ]
    targets, _ = _searchable(train, [group[0] for group in groups.values()], similarity)
    queries, limits = _searchable(test, [group[0] for group in asked.values()], similarity)
    members = {group[0]: (group, groups.get(key, [-1])[0]) for key, group in asked.items()}
    found = _search([train[number] for number in targets], [test[number] for number in queries], similarity, limits)
    for query, target, identity, coverage, reverse in found:
        group, same = members[queries[query]]
        if targets[target] != same:
            rows += [
                (targets[target], number, identity, coverage, reverse != _turned(test, group[0], number), False)
                for number in group
            ]
    return _pairs(rows, limits)


def components(count: int, *edges: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """A group's number for each of ``count`` things, int64 (count,): those that edges join, directly or not, are in one group.

    ``edges`` are pairs of arrays of numbers, such as ``(pairs.first, pairs.second)``. Groups are numbered in order of their first
    members.
    """
    import numpy as np

    parents = list(range(count))

    def root(one: int) -> int:
        while parents[one] != one:
            parents[one] = one = parents[parents[one]]
        return one

    for first, second in edges:
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            one, other = root(one), root(other)
            parents[max(one, other)] = min(one, other)
    return np.unique([root(one) for one in range(count)], return_inverse=True)[1]


def _groups(sequences: Sequence[str], similarity: Similarity) -> dict[str, list[int]]:
    """Canonical sequence → the numbers of its copies; without sequences of so many N that they are not even like themselves."""
    groups: dict[str, list[int]] = {}
    for number, sequence in enumerate(sequences):
        if len(sequence) - sequence.count("N") >= similarity.identity * len(sequence):
            groups.setdefault(canonical(sequence), []).append(number)
    return groups


def _searchable(sequences: Sequence[str], numbers: Sequence[int], similarity: Similarity) -> tuple[list[int], dict[str, int]]:
    """Those of the numbers whose sequences have enough letters, and how many sequences have too few."""
    enough = [
        len(sequence) - sequence.count("N") >= max(similarity.matches, similarity.identity * len(sequence))
        for sequence in sequences
    ]
    few = len(enough) - sum(enough)
    return [number for number in numbers if enough[number]], {TOO_SHORT: few} if few else {}


def _turned(sequences: Sequence[str], one: int, other: int) -> bool:
    return sequences[one] != sequences[other]


def _pairs(rows: list[tuple[int, int, float, float, bool, bool]], limits: dict[str, int]) -> Pairs:
    import numpy as np

    rows.sort(key=lambda row: (row[1], row[0]))
    types = (np.int64, np.int64, np.float64, np.float64, np.bool_, np.bool_)
    columns = zip(*rows) if rows else [()] * len(types)
    return Pairs(*(np.array(column, kind) for column, kind in zip(columns, types, strict=True)), limits=limits)


def _search(
    indexed: Sequence[str], queries: Sequence[str] | None, similarity: Similarity, limits: dict[str, int]
) -> list[tuple[int, int, float, float, bool]]:
    """(query, sequence, identity, coverage, reverse) of neighbours; without queries, of each sequence and those before it."""
    import numpy as np

    from . import seeds

    if not indexed or (queries is not None and not queries):
        return []
    codes, ends = _codes(indexed)
    asked, asked_ends = (codes, ends) if queries is None else _codes(queries)
    stride = -(-len(codes) // MAX_INDEXED)
    seed = next((seed for seed in SEEDS if len(codes) // stride <= MAX_BY_CHANCE * 4 ** seed.count("1")), SEEDS[-1])
    offsets = np.flatnonzero(np.frombuffer(seed.encode(), np.uint8) == ord("1"))
    index = (codes, ends, seeds.pack(codes), seeds.owners(ends), *seeds.build(codes, ends, offsets, stride), offsets)
    effort = min(MAX_EFFORT, max(1, MANY_LETTERS // len(codes)))
    half_from = HALF_FROM if len(codes) > MANY_LETTERS else MAX_LETTERS
    wanted = (similarity.identity, similarity.coverage, similarity.matches, PLACES * effort, CELLS * effort, half_from)

    def ask(begin: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        stop = min(begin + CHUNK, len(asked_ends) - 1)
        return seeds.search(*index, asked, asked_ends, begin, stop, queries is None, *wanted)

    with ThreadPoolExecutor(min(MAX_THREADS, _processors())) as pool:
        parts = list(pool.map(ask, range(0, len(asked_ends) - 1, CHUNK)))
    for reason, count in zip(
        (FREQUENT, CROWDED, UNALIGNED), np.sum([capped for *_, capped in parts], axis=0).tolist(), strict=True
    ):
        if count:
            limits[reason] = count
    return [
        (query, sequence, identity, coverage, bool(reverse))
        for found, alike, _ in parts
        for (query, sequence), (identity, coverage, reverse) in zip(found.tolist(), alike.tolist(), strict=True)
    ]


def _codes(sequences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The letters of all sequences as uint8 codes, end to end, and where each begins and ends, int64 (sequences + 1,)."""
    import numpy as np

    ends = np.cumsum([0, *map(len, sequences)])
    if ends[-1] > MAX_LETTERS:
        raise UserError(f"{ends[-1]:,} letters: at most {MAX_LETTERS:,} can be searched for near duplicates")
    table = letter_table({"A": 0, "C": 1, "G": 2, "T": 3}, default=4).astype(np.uint8)
    return table[np.frombuffer("".join(sequences).encode(), np.uint8)], ends


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
