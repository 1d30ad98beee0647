"""Does a model use its alignment at all? Its predictions with the auxiliary rows spoilt, against those with them intact."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.data import Example

from .metrics import scores

MOST = 500  # examples looked at: this is a diagnosis, not a score
GAP = ord("-")
INSENSITIVE = 0.005  # mean change of a probability below which a model does not use its alignment
METRICS = ("accuracy", "auroc")


def alignment_sensitivity(
    examples: Sequence[Example], probabilities: np.ndarray, predict: Callable[[Sequence[Example]], np.ndarray]
) -> dict[str, Any]:
    """How predictions change with the auxiliary rows ``blanked`` (gaps) and ``shuffled`` (their columns in random order).

    ``probabilities`` (N, K) are those of the examples as they are; ``predict`` gives them for others. Shuffling keeps every
    row's letters and how the rows agree, and takes away what stands in which column; the windows of one example are
    shuffled alike. At most MOST examples, evenly spaced, are looked at. Per way: ``mean_change`` of the probability of the
    last class, and what is left of METRICS.
    """
    places = np.linspace(0, len(examples) - 1, min(len(examples), MOST)).round().astype(int)
    chosen, intact = [examples[place] for place in places], probabilities[places]
    labels = np.array([example.label for example in chosen])
    found: dict[str, Any] = {"examples": len(chosen), "intact": _kept(intact, labels)}
    for name, spoil in (("blanked", _blanked), ("shuffled", _shuffled)):
        spoilt = predict([_with_rows(example, spoil) for example in chosen])
        found[name] = {"mean_change": float(abs(spoilt - intact)[:, -1].mean()), **_kept(spoilt, labels)}
    return found


def insensitive(found: dict[str, Any]) -> bool:
    """Whether a model's predictions are the same without its alignment."""
    return bool(found) and max(found[name]["mean_change"] for name in ("blanked", "shuffled")) < INSENSITIVE


def _kept(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    found = scores(probabilities, labels)
    return {name: found[name] for name in METRICS}


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
