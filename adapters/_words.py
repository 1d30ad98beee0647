"""Known words in sequences: the automaton of Aho & Corasick (1975, doi:10.1145/360825.360855), which reads a batch at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

SYMBOLS = 6  # codes 0 to 3 are A, C, G and T, UNKNOWN another letter, PADDING none at all, which is in no word
UNKNOWN, PADDING = 4, 5


class Hits(NamedTuple):
    """Where words occur in a batch: the row, first position and length of each occurrence, int64 (n,) each."""

    rows: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    def ordered(self, priority: np.ndarray) -> Hits:
        """The hits in the order of their rows, and in a row of their ``priority`` (n,)."""
        order = np.lexsort((priority, self.rows))
        return Hits(*(it[order] for it in self))


class Words:
    """A set of words, each a sequence of codes."""

    def __init__(self, words: Iterable[Sequence[int]]) -> None:
        children: list[dict[int, int]] = [{}]
        levels: list[list[tuple[int, int, int]]] = []  # by depth: node, its parent, the code between them
        lengths = [0]  # of the word that ends at a node
        for word in words:
            node = 0
            for depth, code in enumerate(word):
                if code not in children[node]:
                    if depth == len(levels):
                        levels.append([])
                    levels[depth].append((len(children), node, code))
                    children[node][code] = len(children)
                    children.append({})
                    lengths.append(0)
                node = children[node][code]
            lengths[node] = len(word)
        self.shortest = min(filter(None, lengths), default=0)
        self._sizes = np.array(lengths)
        self._next = np.zeros((len(children), SYMBOLS), np.int64)
        self._shorter = np.zeros(len(children), np.int64)  # the node of the next shorter word that ends where this node does
        fallback = np.zeros(len(children), np.int64)
        for node, code in ((0, code) for code in children[0]):
            self._next[node, code] = children[node][code]
        for depth, level in enumerate(levels):
            nodes, parents, codes = np.array(level).T
            if depth:
                fallback[nodes] = self._next[fallback[parents], codes]
            back = fallback[nodes]
            self._shorter[nodes] = np.where(self._sizes[back] > 0, back, self._shorter[back])
            self._next[nodes] = self._next[back]
            if depth + 1 < len(levels):
                below, above, step = np.array(levels[depth + 1]).T
                self._next[above, step] = below

    def find(self, codes: np.ndarray) -> Hits:
        """All occurrences in sequences of codes (B, L), by row and end; of those that end together, the longest first."""
        states, follow = np.zeros((codes.shape[1], len(codes)), np.int64), self._next.ravel()
        state = np.zeros(len(codes), np.int64)
        for at, column in enumerate(np.ascontiguousarray(codes.T)):
            state = follow[state * SYMBOLS + column]
            states[at] = state
        nodes = np.where(self._sizes[states] > 0, states, self._shorter[states]).T
        rows, ends = np.nonzero(nodes)
        nodes, found = nodes[rows, ends], []
        while len(nodes):
            found.append((rows, ends, self._sizes[nodes]))
            nodes = self._shorter[nodes]
            more = nodes > 0
            rows, ends, nodes = rows[more], ends[more], nodes[more]
        if not found:
            return Hits(*(np.zeros(0, np.int64) for _ in range(3)))
        rows, ends, sizes = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.lexsort((-sizes, ends, rows))
        return Hits(rows[order], (ends + 1 - sizes)[order], sizes[order])
