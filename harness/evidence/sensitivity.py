"""Does a model use its alignment at all? Compares its predictions with intact and with spoilt auxiliary rows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.data import Example

from .metrics import scores

MAX_EXAMPLES = 500  # enough for a diagnosis, which is all that this is
MIN_CHANGE = 0.005  # mean change of a probability below which a model does not use its alignment
COMPARED = ("accuracy", "auroc")
GAP = ord("-")


def alignment_sensitivity(
    examples: Sequence[Example], probabilities: np.ndarray, predict: Callable[[Sequence[Example]], np.ndarray]
) -> dict[str, Any]:
    """How predictions change when the auxiliary rows are ``blanked`` (all gaps) or ``shuffled`` (columns in random order).

    ``probabilities`` (N, K) are the predictions for the examples as they are; ``predict`` makes those for spoilt examples.
    Shuffling keeps the letters of each row and the agreement between rows, but not which column they are in. All windows
    of an example are shuffled alike. At most MAX_EXAMPLES examples, evenly spaced, are used.

    Returns ``examples`` (their number), ``intact`` with the scores in COMPARED, and ``blanked`` and ``shuffled`` with the
    same scores and ``mean_change``, the mean absolute change of the last class's probability.
    """
    indices = np.linspace(0, len(examples) - 1, min(len(examples), MAX_EXAMPLES)).round().astype(int)
    chosen, intact = [examples[index] for index in indices], probabilities[indices]
    labels = np.array([example.label for example in chosen])
    found: dict[str, Any] = {"examples": len(chosen), "intact": _compared(intact, labels)}
    for name, spoil in (("blanked", _blanked), ("shuffled", _shuffled)):
        spoilt = predict([_with_rows(example, spoil) for example in chosen])
        found[name] = {"mean_change": float(abs(spoilt - intact)[:, -1].mean()), **_compared(spoilt, labels)}
    return found


def insensitive(found: dict[str, Any]) -> bool:
    """Whether the model of :func:`alignment_sensitivity`'s result makes the same predictions without its alignment."""
    return bool(found) and max(found[name]["mean_change"] for name in ("blanked", "shuffled")) < MIN_CHANGE


def _compared(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    found = scores(probabilities, labels)
    return {name: found[name] for name in COMPARED}


def _with_rows(example: Example, spoil: Callable[[np.ndarray, str], np.ndarray]) -> Example:
    windows = []
    for window in example.windows:
        assert window.alignment is not None
        rows = np.concatenate([window.alignment[:1], spoil(window.alignment[1:], example.id)])
        windows.append(replace(window, alignment=rows))
    return replace(example, windows=tuple(windows))


def _blanked(rows: np.ndarray, example_id: str) -> np.ndarray:
    return np.full_like(rows, GAP)


def _shuffled(rows: np.ndarray, example_id: str) -> np.ndarray:
    return rows[:, np.random.default_rng(zlib.crc32(example_id.encode())).permutation(rows.shape[1])]
