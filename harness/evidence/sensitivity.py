"""Does a model use its alignment at all? Compares its predictions with intact and with spoilt auxiliary rows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.data import Example
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION

from .metrics import scores

MAX_EXAMPLES = 500  # enough for a diagnosis, which is all that this is
MIN_CHANGE = 0.005  # mean change below which a model does not use its alignment
COMPARED = {
    CLASSIFICATION: ("accuracy", "auroc"),
    REGRESSION: ("spearman", "rmse"),
    MULTILABEL: ("exact_match", "auroc"),
}
GAP = ord("-")


def alignment_sensitivity(
    examples: Sequence[Example],
    outputs: np.ndarray,
    predict: Callable[[Sequence[Example]], np.ndarray],
    kind: str = CLASSIFICATION,
) -> dict[str, Any]:
    """How predictions change when the auxiliary rows are ``blanked`` (all gaps) or ``shuffled`` (columns in random order).

    ``outputs`` (N, K) are the predictions for the examples as they are; ``predict`` makes those for spoilt examples.
    Shuffling keeps the letters of each row and the agreement between rows, but not which column they are in. All windows
    of an example are shuffled alike. At most MAX_EXAMPLES examples, evenly spaced, are used.

    Returns ``examples`` (their number), ``intact`` with the kind's scores in COMPARED, and ``blanked`` and ``shuffled`` with the
    same scores and ``mean_change``, the mean absolute change of the last class's probability; of all labels' probabilities; or of
    a number, in standard deviations of the labels.
    """
    indices = np.linspace(0, len(examples) - 1, min(len(examples), MAX_EXAMPLES)).round().astype(int)
    chosen, intact = [examples[index] for index in indices], outputs[indices]
    labels = np.array([example.label for example in chosen])
    shown = slice(-1, None) if kind == CLASSIFICATION else slice(None)
    unit = float(labels.std()) or 1.0 if kind == REGRESSION else 1.0
    found: dict[str, Any] = {"examples": len(chosen), "intact": _compared(intact, labels, kind)}
    for name, spoil in (("blanked", _blanked), ("shuffled", _shuffled)):
        spoilt = predict([_with_rows(example, spoil) for example in chosen])
        change = float(abs(spoilt - intact)[:, shown].mean()) / unit
        found[name] = {"mean_change": change, **_compared(spoilt, labels, kind)}
    return found


def insensitive(found: dict[str, Any]) -> bool:
    """Whether the model of :func:`alignment_sensitivity`'s result makes the same predictions without its alignment."""
    return bool(found) and max(found[name]["mean_change"] for name in ("blanked", "shuffled")) < MIN_CHANGE


def _compared(outputs: np.ndarray, labels: np.ndarray, kind: str) -> dict[str, float]:
    found = scores(outputs, labels, kind)
    return {name: found[name] for name in COMPARED[kind]}


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
