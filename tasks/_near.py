"""Windows that are nearly the same, joined to the groups that a draw of a split keeps whole."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from harness.files.fingerprint import remembered
from harness.files.neighbours import DEFAULT, VERSION, components, near_pairs

MAX_LETTERS = 10_000_000  # of the user's own windows; two busy cores compare them in about 12 s


def near_groups(
    sequences: Sequence[str], groups: Sequence[int], changes: Counter[str], notes: list[str], max_letters: int
) -> list[int]:
    """The groups (a number for each window), of which those with near duplicates of each other are one.

    Near duplicates are those of :data:`harness.files.neighbours.DEFAULT`. ``changes["near_duplicates"]`` counts the windows
    that have one in another group. Above ``max_letters`` nothing is compared, and ``notes`` say so.
    """
    import numpy as np

    letters = sum(map(len, sequences))
    if letters > max_letters:
        notes.append(
            f"near duplicates were not looked for: {letters:,} letters are more than {max_letters:,}; `harness audit` finds them"
        )
        return list(groups)
    content = hashlib.sha256("\n".join(sequences).encode()).hexdigest()

    def search() -> list[list[int]]:
        pairs = near_pairs(sequences)
        return [pairs.first.tolist(), pairs.second.tolist()]

    first, second = remembered("near duplicates", [], [content, VERSION, asdict(DEFAULT)], search)
    apart = [(one, other) for one, other in zip(first, second, strict=True) if groups[one] != groups[other]]
    if not apart:
        return list(groups)
    changes["near_duplicates"] += len({window for pair in apart for window in pair})
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    edges = np.array([[numbers[groups[one]], numbers[groups[other]]] for one, other in apart]).T
    joined = components(len(numbers), (edges[0], edges[1])).tolist()
    return [joined[numbers[group]] for group in groups]
