"""Overlapping loci, found by sorting. ``chrX`` and ``X`` are one chromosome (:func:`harness.data.bare`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.data import Locus, bare

if TYPE_CHECKING:
    import numpy as np

STEP = 4_000_000  # pairs of loci that are compared at a time


def overlaps(train: Sequence[Locus | None], test: Sequence[Locus | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the test loci share with training loci, on either strand: three arrays (test,).

    The number of the training locus that a test locus shares most with (intersection over union), -1 where they share nothing;
    whether it shares at least half of both with one; and whether it is the same interval as one.
    """
    import numpy as np

    best, share = np.full(len(test), -1, np.int64), np.zeros(len(test))
    half, same = np.zeros(len(test), bool), np.zeros(len(test), bool)
    theirs = _by_chromosome(train)
    for chromosome, (numbers, starts, ends) in _by_chromosome(test).items():
        if chromosome not in theirs:
            continue
        others, low, high = theirs[chromosome]
        begin = np.searchsorted(np.maximum.accumulate(high), starts, side="right")  # all before end at or before the start
        counts = np.maximum(np.searchsorted(low, ends, side="left") - begin, 0)
        for rows in _steps(counts):
            of = np.repeat(rows, counts[rows])
            other = np.arange(len(of)) - np.repeat(counts[rows].cumsum() - counts[rows], counts[rows]) + begin[of]
            common = np.minimum(ends[of], high[other]) - np.maximum(starts[of], low[other])
            of, other, common = (column[common > 0] for column in (of, other, common))
            lengths, lengths_of_other = ends[of] - starts[of], high[other] - low[other]
            np.logical_or.at(half, numbers[of], 2 * common >= np.maximum(lengths, lengths_of_other))
            np.logical_or.at(same, numbers[of], (starts[of] == low[other]) & (ends[of] == high[other]))
            shares = common / (lengths + lengths_of_other - common)
            order = np.lexsort((-others[other], shares))  # of those that share equally, the first locus is last
            better = order[shares[order] > share[numbers[of[order]]]]
            best[numbers[of[better]]], share[numbers[of[better]]] = others[other[better]], shares[better]
    return best, half, same


def touching(loci: Sequence[Locus | None]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of numbers of overlapping loci, enough to join all that overlap, directly or through others."""
    import numpy as np

    first, second = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for numbers, starts, ends in _by_chromosome(loci).values():
        furthest = np.maximum.accumulate(ends)
        further = np.concatenate([[True], ends[1:] > furthest[:-1]])
        reach = np.maximum.accumulate(np.where(further, np.arange(len(ends)), 0))  # the first locus that reaches there
        met = np.flatnonzero(starts[1:] < furthest[:-1])
        first.append(numbers[reach[met]])
        second.append(numbers[met + 1])
    return np.concatenate(first), np.concatenate(second)


def _by_chromosome(loci: Sequence[Locus | None]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Chromosome → numbers, starts and ends of its loci, in order of their starts."""
    import numpy as np

    found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for number, locus in enumerate(loci):
        if locus is not None:
            found[bare(locus.chromosome)].append((locus.start, locus.end, number))
    columns = {chromosome: np.array(sorted(rows), np.int64) for chromosome, rows in found.items()}
    return {chromosome: (rows[:, 2], rows[:, 0], rows[:, 1]) for chromosome, rows in columns.items()}


def _steps(counts: np.ndarray) -> list[np.ndarray]:
    """The rows that have any pairs, in steps of about STEP pairs."""
    import numpy as np

    rows = np.flatnonzero(counts)
    bounds = np.searchsorted(counts[rows].cumsum(), np.arange(STEP, counts.sum() + STEP, STEP)) if len(rows) else []
    return [part for part in np.split(rows, bounds) if len(part)]
