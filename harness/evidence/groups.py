"""Scores by what a task's files say of its examples: by the consequence of a variant, by its gene."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.task import CLASSIFICATION

from .leakage import judged_on
from .subsets import MIN_EXAMPLES, MIN_OF_A_CLASS

if TYPE_CHECKING:
    from .predictions import Predictions

MAX_SCORED = 20  # groups of a kind, the largest first: a gene each would fill the record


def judged_groups(predictions: Predictions) -> dict[str, Any]:
    """A record's ``groups``: name → word → ``examples``, ``metrics`` and ``intervals``, the largest groups first.

    Groups of fewer than MIN_EXAMPLES examples, or than MIN_OF_A_CLASS of one class, are counted, without scores. So are all but
    the MAX_SCORED largest of the others.
    """
    found: dict[str, Any] = {}
    for name, words in predictions.groups.items():
        column, scored = np.array(words), 0
        counts = Counter(word for word in words if word)
        found[name] = {}
        for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            rows = np.flatnonzero(column == word)
            if count >= MIN_EXAMPLES and scored < MAX_SCORED and _has_classes(predictions, rows):
                found[name][word] = judged_on(predictions, rows)
                scored += 1
            else:
                found[name][word] = {"examples": count}
    return found


def _has_classes(predictions: Predictions, rows: np.ndarray) -> bool:
    if predictions.kind != CLASSIFICATION:
        return True
    return int(np.bincount(predictions.labels[rows], minlength=len(predictions.classes)).min()) >= MIN_OF_A_CLASS
