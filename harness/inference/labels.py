"""Labels as files have them, read as those of a task that a model was trained on."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Sequence

from harness.evidence.metrics import scores
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION

BITS = ("0", "1")


class Scoring:
    """Gathers labels and outputs, 8 bytes a number, and scores them. What is no label of the task is counted in ``strange``."""

    def __init__(self, kind: str, classes: Sequence[str]) -> None:
        self.kind, self.classes = kind, tuple(classes)
        self.strange: Counter[str] = Counter()
        self.as_bits = 0  # labels 0 and 1 that were read as the second class or the first
        self._position = {name: number for number, name in enumerate(classes)}
        folded = Counter(name.casefold() for name in classes)
        self._folded = {name.casefold(): number for number, name in enumerate(classes) if folded[name.casefold()] == 1}
        self._labels, self._outputs = array("d"), array("d")

    @property
    def count(self) -> int:
        """How many labels were understood."""
        return len(self._outputs) // len(self.classes)

    def add(self, word: str | tuple[str, ...], outputs: Sequence[float]) -> None:
        """Take up an example's label and what the model answered (K)."""
        read = {CLASSIFICATION: self._class, REGRESSION: _number, MULTILABEL: self._bits}[self.kind]
        label = read(word)
        if label is None:
            self.strange[word if isinstance(word, str) else ";".join(word)] += 1
            return
        self._labels.extend(label)
        self._outputs.extend(outputs)

    def scores(self) -> dict[str, float]:
        """Every metric of the task's kind (see :func:`harness.evidence.metrics.scores`); none without labels."""
        import numpy as np

        if not self.count:
            return {}
        labels, outputs = np.array(self._labels), np.array(self._outputs).reshape(-1, len(self.classes))
        if self.kind == MULTILABEL:
            labels = labels.reshape(outputs.shape)
        return scores(outputs, labels if self.kind == REGRESSION else labels.astype(np.int64), self.kind)

    def _class(self, word: str | tuple[str, ...]) -> list[int] | None:
        if not isinstance(word, str):
            return None
        found = self._position.get(word, self._folded.get(word.casefold()))
        if found is None and len(self.classes) == 2 and word in BITS and not set(BITS) & set(self.classes):
            self.as_bits, found = self.as_bits + 1, int(word)
        return None if found is None else [found]

    def _bits(self, word: str | tuple[str, ...]) -> list[int] | None:
        items = list(word) if isinstance(word, tuple) else _items(word)
        if len(items) == len(self.classes) and set(items) <= set(BITS):
            return [int(item) for item in items]
        if set(items) <= set(self.classes):
            return [int(name in items) for name in self.classes]
        return None


def _number(word: str | tuple[str, ...]) -> list[float] | None:
    try:
        value = float(word)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return [value] if math.isfinite(value) else None


def _items(word: str) -> list[str]:
    """The items of ``0;1;0``, ``a|b`` or of a JSON list."""
    if word.startswith("["):
        try:
            return [str(item) for item in json.loads(word)]
        except ValueError:
            pass
    separator = next((mark for mark in ";|, " if mark in word), ";")
    return [item.strip() for item in word.split(separator)]


def predicted(kind: str, classes: Sequence[str], outputs: Sequence[float]) -> str:
    """The class of the highest probability (the first of equal ones), or 0 and 1 for each label, of more than 0.5 or not."""
    if kind == CLASSIFICATION:
        return classes[max(range(len(classes)), key=lambda number: outputs[number])]
    return ";".join(str(int(value > 0.5)) for value in outputs)
