"""Simulates the samples of variants: alignments for which the best possible accuracy is known.

A window is a chain of conserved and free stretches (two hidden states, geometric lengths, equally frequent). At each site a
letter evolves from the root of a random tree of ROWS species to its leaves under the F84 model, which has more transitions
than transversions, like HKY. Conserved sites evolve more slowly and are richer in G and C. Clades are missing over random
stretches. Row 0 is one of the leaves. The variant is at the centre, and its alternate letter is any of the other three. It is
pathogenic if its site is conserved, except for a known share of swapped labels.

The posterior of a window's label is that of a phylogenetic hidden Markov model (Felsenstein & Churchill 1996, Mol Biol Evol
13:93). Felsenstein's pruning recursion gives the likelihood of a column in either state, the forward-backward recursion the
probability of the state at the centre. Gaps are missing data, independent of the state. The posteriors give the expected
accuracy of the Bayes rule.

F84: on a branch of length t, general events (rate a) replace the letter by a draw from the letters' frequencies, and events
within purines or within pyrimidines (rate b) by a draw from those two letters::

    P(t)  =  exp(-(a+b) t) I  +  exp(-a t) (1 - exp(-b t)) G  +  (1 - exp(-a t)) F
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from ._simulate import LETTERS, Uniform

if TYPE_CHECKING:
    import numpy as np

ROWS = 90
DEPTH = 0.6  # expected substitutions of a free site from the root to a leaf
WITHIN = 3.0  # rate of events within purines or pyrimidines, relative to general events
MISSING = 0.05  # for every node of the tree, the chance that its clade is missing somewhere in a window
FREE, CONSERVED = 0, 1
FREQUENCIES = ((0.3, 0.2, 0.2, 0.3), (0.23, 0.27, 0.27, 0.23))  # of A C G T, by state


@dataclass(frozen=True)
class Evolution:
    """The parameters of a sample.

    ``rate`` is the rate of evolution at conserved sites, relative to free ones; ``stretch`` the mean length of a stretch in
    nucleotides; ``swapped`` the share of labels that are swapped. ``seed`` fixes the tree and the draw.
    """

    rate: float
    stretch: float
    swapped: float
    seed: int

    def __str__(self) -> str:
        return (
            f"{ROWS} species, conserved sites at rate {self.rate:g} in stretches of {self.stretch:g} nt, "
            f"{self.swapped:.0%} of labels swapped, seed {self.seed}"
        )


class Drawn(NamedTuple):
    """Simulated variants.

    ``alignments`` is uint8 (count, ROWS, context), ASCII ``ACGT-``; ``alternates`` uint8 (count,), ASCII; ``labels`` int
    (count,), 1 = pathogenic.
    """

    alignments: np.ndarray
    alternates: np.ndarray
    labels: np.ndarray


class Tree(NamedTuple):
    """A rooted tree: the ``parents`` and branch ``lengths`` of the nodes, parents before children, and the ``leaves`` by row.

    Node 0 is the root, whose parent is -1.
    """

    parents: tuple[int, ...]
    lengths: tuple[float, ...]
    leaves: tuple[int, ...]


@cache
def tree(seed: int) -> Tree:
    """A pure-birth tree of ROWS leaves and height DEPTH. Rows are in the order of their kinship to row 0."""
    import numpy as np

    uniform = Uniform(seed)
    parents, born = [-1], [0.0]
    alive, now = [0], 0.0
    while len(alive) < ROWS:
        now -= float(np.log1p(-uniform(1)[0])) / len(alive) if len(alive) > 1 else 0.0
        node = alive.pop(int(uniform(1)[0] * len(alive)))
        alive += [len(parents), len(parents) + 1]
        parents += [node, node]
        born += [now, now]
    now -= float(np.log1p(-uniform(1)[0])) / ROWS
    ends = dict.fromkeys(alive, now) | {parents[node]: born[node] for node in range(1, len(parents))}
    lengths = tuple(DEPTH * (ends[node] - born[node]) / now for node in range(len(parents)))
    kinship = {node: _shared(parents, node, alive[0]) for node in alive}
    return Tree(tuple(parents), lengths, tuple(sorted(alive, key=lambda node: (node != alive[0], -kinship[node], node))))


def _shared(parents: list[int], a: int, b: int) -> int:
    """The last common ancestor of two nodes, which are numbered by age."""
    while a != b:
        a, b = (parents[a], b) if a > b else (a, parents[b])
    return a


def draw(evolution: Evolution, count: int, context: int) -> Drawn:
    """Simulate ``count`` variants in windows of ``context`` nucleotides, the variant at index ``context // 2``."""
    import numpy as np

    uniform = Uniform(evolution.seed)
    states = _states(evolution, uniform(count, context))  # (count, context)
    centre = context // 2
    labels = states[:, centre] ^ (uniform(count) < evolution.swapped)
    alignments = np.empty((count, ROWS, context), np.uint8)
    ascii_letters = np.frombuffer(LETTERS.encode(), np.uint8)
    for row, letters, gaps in _evolve(evolution, states, uniform):
        alignments[:, row] = np.where(gaps, ord("-"), ascii_letters[letters])
    reference = np.searchsorted(ascii_letters, alignments[:, 0, centre])
    alternates = (reference + 1 + (uniform(count) * 3).astype(int)) % 4
    return Drawn(alignments, ascii_letters[alternates], labels.astype(int))


def _states(evolution: Evolution, noise: np.ndarray) -> np.ndarray:
    """The hidden state (FREE or CONSERVED) of every site, from uniform ``noise`` (count, context)."""
    import numpy as np

    turns = noise < 1 / evolution.stretch
    turns[:, 0] = noise[:, 0] < 0.5
    return np.cumsum(turns, axis=1) % 2


def _evolve(evolution: Evolution, states: np.ndarray, uniform: Uniform) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Row number, letters 0..3 and gaps of every row, each (count, context), evolved from the root to the leaves."""
    import numpy as np

    phylogeny = tree(evolution.seed)
    rows = {node: row for row, node in enumerate(phylogeny.leaves)}
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(phylogeny.parents):
        children.setdefault(parent, []).append(node)
    to_target = _ancestors(phylogeny, phylogeny.leaves[0])
    root = (uniform(*states.shape)[..., None] >= np.cumsum(FREQUENCIES, axis=1)[states][..., :3]).sum(axis=-1, dtype=np.uint8)
    waiting = [(node, root, np.zeros(states.shape, bool)) for node in children[0]]
    while waiting:
        node, letters, gaps = waiting.pop()
        letters = _along(evolution, states, letters, phylogeny.lengths[node], uniform)
        if node not in to_target:
            gaps = gaps | _missing(states.shape, uniform)
        if node in rows:
            yield rows[node], letters, gaps
        waiting += [(child, letters, gaps) for child in children.get(node, ())]


def _ancestors(phylogeny: Tree, node: int) -> set[int]:
    found = set()
    while node >= 0:
        found.add(node)
        node = phylogeny.parents[node]
    return found


def _along(evolution: Evolution, states: np.ndarray, letters: np.ndarray, length: float, uniform: Uniform) -> np.ndarray:
    """The letters at the end of a branch of this ``length``."""
    import numpy as np

    kept, general = np.array([_events(evolution, state, length) for state in (FREE, CONSERVED)]).T  # by state
    noise = uniform(*letters.shape)
    letters = letters.copy()
    changed = np.nonzero(noise >= kept[states])
    state, old = states[changed], letters[changed]
    frequencies = np.array(FREQUENCIES)
    partner = old % 2  # the purine A or the pyrimidine C; its partner, G or T, is two letters on
    first = frequencies[state, partner] / (frequencies[state, partner] + frequencies[state, partner + 2])
    pick = uniform(len(old))
    anything = (pick[:, None] >= np.cumsum(frequencies, axis=1)[state, :3]).sum(axis=1)
    letters[changed] = np.where(noise[changed] >= 1 - general[state], anything, partner + 2 * (pick >= first))
    return letters


def _events(evolution: Evolution, state: int, length: float) -> tuple[float, float]:
    """The probabilities of no event, and of a general event, on a branch."""
    import math

    a = (evolution.rate if state == CONSERVED else 1.0) * length * _unit(state)
    return math.exp(-a * (1 + WITHIN)), 1 - math.exp(-a)


def _unit(state: int) -> float:
    """The rate of general events at which one substitution per unit of time is expected."""
    p = FREQUENCIES[state]
    general = 1 - sum(x * x for x in p)
    within = sum(2 * p[i] * p[i + 2] / (p[i] + p[i + 2]) for i in (0, 1))
    return 1 / (general + WITHIN * within)


def _missing(shape: tuple[int, ...], uniform: Uniform) -> np.ndarray:
    """Where a clade has no sequence: over one random stretch in a share MISSING of the windows; bool (count, context)."""
    import numpy as np

    count, context = shape
    ends = np.sort(uniform(count, 2), axis=1) * (context + 1)
    ends[uniform(count) >= MISSING] = 0
    places = np.arange(context)
    return (places >= np.floor(ends[:, :1])) & (places < np.floor(ends[:, 1:]))


def posterior(evolution: Evolution, alignments: np.ndarray) -> np.ndarray:
    """The probability (count,) that each variant is labelled pathogenic, given its window (count, ROWS, context)."""
    conserved = _centre(evolution, _column_likelihoods(evolution, alignments))
    return conserved * (1 - 2 * evolution.swapped) + evolution.swapped


def _column_likelihoods(evolution: Evolution, alignments: np.ndarray) -> np.ndarray:
    """log P(column | state) for every column, by Felsenstein's recursion; (count, context, 2)."""
    import numpy as np

    phylogeny = tree(evolution.seed)
    count, _, context = alignments.shape
    leaf = np.ones((256, 4))  # a gap may be any letter
    for code, letter in enumerate(LETTERS):
        leaf[ord(letter)] = np.eye(4)[code]
    below: dict[int, np.ndarray] = {}  # P(leaves below | letter at the node), (states, count · context, 4); of a leaf (1, …)
    for row, node in enumerate(phylogeny.leaves):
        below[node] = leaf[alignments[:, row]].reshape(1, count * context, 4)
    for node in reversed(range(1, len(phylogeny.parents))):
        change = np.array([_transitions(evolution, state, phylogeny.lengths[node]) for state in (FREE, CONSERVED)])
        parent = phylogeny.parents[node]
        below[parent] = below.get(parent, np.ones(1)) * (below.pop(node) @ change.transpose(0, 2, 1))
    return np.log(np.einsum("snl,sl->ns", below[0], np.array(FREQUENCIES))).reshape(count, context, 2)


def _transitions(evolution: Evolution, state: int, length: float) -> np.ndarray:
    """P(t) of the module's docstring, (4, 4): from letter, to letter."""
    import numpy as np

    kept, general = _events(evolution, state, length)
    frequencies = np.array(FREQUENCIES[state])
    kinds = np.array([[a % 2 == b % 2 for b in range(4)] for a in range(4)])  # A, G and C, T
    within = kinds * frequencies / (kinds * frequencies).sum(axis=1, keepdims=True)
    return kept * np.eye(4) + (1 - kept - general) * within + general * frequencies


def _centre(evolution: Evolution, logs: np.ndarray) -> np.ndarray:
    """P(the centre is conserved | window), (count,), from log P(column | state) (count, context, 2)."""
    import numpy as np

    count, context, _ = logs.shape
    likelihoods = np.exp(logs - logs.max(axis=2, keepdims=True))
    stay = 1 - 1 / evolution.stretch
    step = np.array([[stay, 1 - stay], [1 - stay, stay]])

    def sweep(places: range) -> np.ndarray:
        message = np.full((count, 2), 0.5)
        for place in places:
            message = (message * likelihoods[:, place]) @ step
            message /= message.sum(axis=1, keepdims=True)
        return message

    centre = context // 2
    weight = sweep(range(centre)) * likelihoods[:, centre] * sweep(range(context - 1, centre, -1))
    return weight[:, CONSERVED] / weight.sum(axis=1)
