"""Simulates samples of windows with planted motifs, for which the best possible accuracy is known.

A window is drawn from left to right. Background letters follow a first-order Markov chain, also after a motif. The ``c``
copies of a motif are placed uniformly among all non-overlapping placements, and their letters come from a position weight
matrix (PWM). Windows of the second class (bound ones) carry the motif, windows of the first a decoy, and those of a third class
another one: the same columns in another order, with the last column kept, so that every letter is equally frequent in all
classes and composition carries no information. A small share of windows has no copy at all, and their labels are random.
Where a set has windows of several lengths, each length is drawn by itself, with the classes in equal numbers; a window that is
too short for ``c`` copies has as many as fit.

The likelihood of a window given ``c`` copies, divided by its likelihood as pure background, is a mean over placements::

    P(x | c) / P(x | 0)  =  1 / #placements · Σ_placements Π_copies r_i,     r_i = Π_j PWM_j(x_{i+j}) / T(x_{i+j} | x_{i+j-1})

The sum is computed by a recursion over positions: with F_c[e] the sum over placements of c copies of width w within the
first e letters, F_c[e] = F_c[e-1] + F_{c-1}[e-w] · r_{e-w}. This gives the posterior of every window, and with it the
expected accuracy of the Bayes rule.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.data import Example, Window
from harness.task import PART_NAMES, Splits

from ._splits import check_rule

if TYPE_CHECKING:
    import numpy as np

LENGTH = 101
SIZES = {"train": 2400, "validation": 800, "test": 800}
RULE = "drawn"

LETTERS = "ACGT"
# P(next letter | letter), rows and columns A C G T, measured on the 27,916 unbound windows (2.8 million letters, human
# transcripts) of five ENCODE eCLIP sets: GTF2F1, HNRNPL, HNRNPM, PTBP1 and QKI. CpG is depleted, as in the genome.
TRANSITIONS = (
    (0.311, 0.170, 0.255, 0.264),
    (0.329, 0.261, 0.058, 0.352),
    (0.271, 0.210, 0.261, 0.258),
    (0.206, 0.194, 0.255, 0.345),
)
# The frequencies of the letters there, from which the first letter of a window is drawn.
FREQUENCIES = (0.274, 0.204, 0.216, 0.306)

_IUPAC = {"A": "A", "C": "C", "G": "G", "T": "T", "U": "T", "Y": "CT", "N": "ACGT"}


@dataclass(frozen=True)
class Motif:
    """What is planted: ``consensus`` in windows of the second class, ``decoy`` in those of the first, in IUPAC letters.

    ``fidelity`` is the probability that a letter of a copy agrees with the consensus; ``copies[c]`` the probability that a
    window of any class has ``c`` copies. ``source`` cites the publication of the consensus. ``seed`` fixes the draw. ``third`` is
    what a third class carries, if there is one. The windows' ``lengths``, in nucleotides, take turns; ``sizes`` are the numbers
    of windows in train, validation and test.
    """

    consensus: str
    decoy: str
    fidelity: float
    copies: tuple[float, ...]
    source: str
    seed: int
    third: str = ""
    lengths: tuple[int, ...] = (LENGTH,)
    sizes: tuple[int, int, int] = (SIZES["train"], SIZES["validation"], SIZES["test"])

    @property
    def planted(self) -> tuple[str, ...]:
        """What each class carries."""
        return (self.decoy, self.consensus, *([self.third] if self.third else []))

    def __str__(self) -> str:
        copies = " ".join(f"{share:g}" for share in self.copies)
        return (
            f"motif {self.consensus}, decoy {self.decoy}, {f'third {self.third}, ' if self.third else ''}"
            f"fidelity {self.fidelity:g}, share of windows with 0, 1, … copies {copies}, seed {self.seed}"
            + ("" if self.lengths == (LENGTH,) else f", lengths {' '.join(map(str, self.lengths))}")
        )


def load(name: str, motif: Motif, rule: str) -> Splits:
    """The sample that ``motif`` describes; ``name`` is its task's label, and ``rule`` must be ``drawn``, its only split."""
    import numpy as np

    check_rule(rule, (RULE,))
    count = sum(motif.sizes)
    sequences, labels, chances = [""] * count, [0] * count, np.full(count, np.nan)
    planted = [np.empty(0, np.int64)] * count
    uniform = Uniform(motif.seed)
    for turn, length in enumerate(motif.lengths):
        places = np.arange(turn, count, len(motif.lengths))
        letters, drawn, column = _draw(motif, len(places), length, uniform)
        chosen = _chosen(motif, drawn, column)
        for row, (place, sequence) in enumerate(zip(places.tolist(), _sequences(letters), strict=True)):
            sequences[place], labels[place], planted[place] = sequence, int(drawn[row]), np.flatnonzero(chosen[row])
        tested = places >= count - motif.sizes[2]
        chances[places[tested]] = posterior(motif, letters[tested]).max(axis=1)
    digest = hashlib.sha256("\n".join(f"{s},{y}" for s, y in zip(sequences, labels, strict=True)).encode()).hexdigest()
    examples, start, positions = [], 0, dict[str, list[int]]()
    for part, size in zip(PART_NAMES, motif.sizes, strict=True):
        rows = range(start, start + size)
        examples.append([Example(f"{part}:{i - start + 1}", (Window(sequences[i]),), labels[i]) for i in rows])
        positions |= {example.id: planted[i].tolist() for i, example in zip(rows, examples[-1], strict=True)}
        start += size
    return Splits(
        *examples,
        files={f"simulated {name}: {motif}": digest},
        best_accuracy=float(np.nanmean(chances)),
        planted=positions.__getitem__,
    )


def draw(motif: Motif, count: int, length: int | None = None, uniform: Uniform | None = None) -> tuple[np.ndarray, np.ndarray]:
    """``count`` windows as letter indices (count, length) and their labels (count,), the classes in equal numbers.

    ``length`` is LENGTH where none is given; without ``uniform``, the numbers come from the motif's own seed.
    """
    return _draw(motif, count, length, uniform)[:2]


def _draw(
    motif: Motif, count: int, length: int | None = None, uniform: Uniform | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What :func:`draw` gives, and the motif's column at each position, -1 for background; (count, length)."""
    import numpy as np

    length, uniform = length or LENGTH, uniform or Uniform(motif.seed)
    labels = np.argsort(uniform(count), kind="stable") % len(motif.planted)
    copies = np.searchsorted(np.cumsum(_copies(motif, length))[:-1], uniform(count), side="right")
    column = _place(copies, len(motif.consensus), uniform(count, length))
    pwm = np.stack([_pwm(planted, motif.fidelity) for planted in motif.planted])  # (class, width, 4)
    chain = np.array(TRANSITIONS)
    letters = np.empty((count, length), np.int64)
    for position in range(length):
        background = chain[letters[:, position - 1]] if position else np.tile(FREQUENCIES, (count, 1))
        inside = column[:, position, None] >= 0
        chances = np.where(inside, pwm[labels, column[:, position]], background).cumsum(axis=1)[:, :-1]  # (count, 3)
        letters[:, position] = (chances <= uniform(count, 1)).sum(axis=1)
    return letters, labels, column


def posterior(motif: Motif, letters: np.ndarray) -> np.ndarray:
    """The probability of each class (count, classes) of each window, given its ``letters`` (count, length)."""
    import numpy as np

    ratios = [_likelihood_ratio(motif, _pwm(planted, motif.fidelity), letters) for planted in motif.planted]
    return np.stack(ratios, axis=1) / np.sum(ratios, axis=0)[:, None]


def _copies(motif: Motif, length: int) -> tuple[float, ...]:
    """``motif.copies`` in windows of a length; those that do not fit count for as many as do."""
    most = min(length // len(motif.consensus), len(motif.copies) - 1)
    return (*motif.copies[:most], sum(motif.copies[most:]))


def _chosen(motif: Motif, labels: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Where a motif of the window's class chose the letter (count, length): a column N lets any letter stand."""
    import numpy as np

    chooses = np.array([[code != "N" for code in planted] for planted in motif.planted])  # (class, width)
    return chooses[labels[:, None], column] & (column >= 0)


def _likelihood_ratio(motif: Motif, pwm: np.ndarray, letters: np.ndarray) -> np.ndarray:
    """P(window | copies of ``pwm``) / P(window | background), summed over the number of copies; (count,)."""
    import numpy as np

    width, (count, length) = len(pwm), letters.shape
    copies = _copies(motif, length)
    if len(copies) == 1:
        return np.ones(count)
    background = np.empty(letters.shape)
    background[:, 0] = np.array(FREQUENCIES)[letters[:, 0]]
    background[:, 1:] = np.array(TRANSITIONS)[letters[:, :-1], letters[:, 1:]]
    starts = length - width + 1
    ratio = np.ones((count, starts))  # r_i of the module's docstring
    for j in range(width):
        ratio *= pwm[j, letters[:, j : j + starts]] / background[:, j : j + starts]
    within = np.ones((count, length + 1))  # F_c[e], here for c = 0
    total = np.full(count, copies[0])
    for c, share in enumerate(copies[1:], start=1):
        longer = np.zeros_like(within)
        longer[:, width:] = np.cumsum(within[:, :starts] * ratio, axis=1)
        within = longer
        total += share * within[:, -1] / math.comb(length - c * (width - 1), c)
    return total


def _place(copies: np.ndarray, width: int, noise: np.ndarray) -> np.ndarray:
    """The motif column at each position, -1 for background; (count, length), the shape of ``noise``.

    Shrinking every copy to one letter maps the non-overlapping placements of ``c`` copies onto the subsets of ``c`` out of
    ``length - c (width - 1)`` positions. The positions with the smallest ``noise`` are such a subset, uniformly drawn.
    """
    import numpy as np

    column = np.full(noise.shape, -1)
    for c in range(1, int(copies.max(initial=0)) + 1):
        rows = np.flatnonzero(copies == c)[:, None]
        free = noise.shape[1] - c * (width - 1)
        subset = np.argsort(noise[rows[:, 0], :free], axis=1, kind="stable")[:, :c]
        starts = np.sort(subset, axis=1) + np.arange(c) * (width - 1)
        for j in range(width):
            column[rows, starts + j] = j
    return column


def _pwm(consensus: str, fidelity: float) -> np.ndarray:
    """Letter probabilities (width, 4): ``fidelity`` is shared by the consensus letters, the rest by the others; N is uniform."""
    import numpy as np

    allowed = np.array([[letter in _IUPAC[code] for letter in LETTERS] for code in consensus])
    agree = allowed.sum(axis=1, keepdims=True)
    pwm = np.where(allowed, fidelity / agree, (1 - fidelity) / np.maximum(len(LETTERS) - agree, 1))
    return pwm / pwm.sum(axis=1, keepdims=True)


def _sequences(letters: np.ndarray) -> list[str]:
    import numpy as np

    text = np.frombuffer(LETTERS.encode(), np.uint8)[letters].tobytes().decode()
    length = letters.shape[1]
    return [text[start : start + length] for start in range(0, len(text), length)]


class Uniform:
    """Numbers in [0, 1) from the raw bits of PCG64, which NumPy guarantees to be the same on every platform and version."""

    def __init__(self, seed: int) -> None:
        import numpy as np

        self._bits = np.random.PCG64(seed)

    def __call__(self, *shape: int) -> np.ndarray:
        import numpy as np

        return (self._bits.random_raw(math.prod(shape)) >> np.uint64(11)).reshape(shape) * 2.0**-53
