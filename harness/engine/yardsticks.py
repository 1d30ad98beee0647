"""Yardsticks: trivial predictors of what an objective asks, which a pretrained model must beat on held-out windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from scipy import sparse

from harness.adapter import IGNORED, Batch
from harness.data import Window

ORDER = 3  # of the Markov chain
MAX_CONTEXTS = 1024  # whose distributions are held in memory at once

_BASES = np.frombuffer(b"ACGT", np.uint8)


class Yardstick(ABC):
    """A predictor that learns from training windows, as :meth:`Objective.collate` makes them, and is judged on held-out ones."""

    name: ClassVar[str]
    lessons: ClassVar[int] = 16  # windows to learn from for each held-out one

    @abstractmethod
    def learn(self, windows: Sequence[Window], batch: Batch) -> None: ...

    @abstractmethod
    def predict(self, windows: Sequence[Window], batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability of each target, and whether it is the one predicted: (M,) each, in the order of the targets."""

    def judge(self, windows: Sequence[Window], batch: Batch) -> tuple[float, float]:
        """Mean loss, weighted as the objective weighs it, and accuracy over all targets of a batch."""
        logs, right = self.predict(windows, batch)
        asked = batch["targets"] != IGNORED
        weights = batch["weights"][asked].double().numpy() if "weights" in batch else np.ones(len(logs))
        return float(-(logs * weights).sum() / weights.sum()), float(right.mean())


class Unigram(Yardstick):
    """The frequency of each token among the targets of the training windows, for each group of targets; one more for each.

    A group without targets there is judged by those of all groups.
    """

    name = "token unigram"

    def learn(self, windows: Sequence[Window], batch: Batch) -> None:
        targets, groups = _targets(batch)
        self._counts = {group: _counted(targets[groups == group]) for group in np.unique(groups).tolist()}
        self._all = _counted(targets)

    def predict(self, windows: Sequence[Window], batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        targets, groups = _targets(batch)
        logs, right = np.zeros(len(targets)), np.zeros(len(targets), bool)
        for group in np.unique(groups).tolist():
            counts, here = self._counts.get(group, self._all), groups == group
            total = sum(counts.values()) + len(counts) + 1  # one for all tokens that were never seen
            ids, place = np.unique(targets[here], return_inverse=True)
            logs[here] = np.log([(counts.get(id, 0) + 1) / total for id in ids.tolist()])[place]
            right[here] = targets[here] == max(counts, key=lambda id: (counts[id], -id), default=-1)
        return logs, right


class Vote(Yardstick):
    """The bases of the other rows of a column, with the frequencies of the target row's bases counting as one more row.

    The most frequent one is predicted. Ties, and columns without a base, go to the base that is more common in the target row.
    Without an alignment, these frequencies alone are left.
    """

    name = "column vote"
    lessons = 1  # it learns four frequencies

    def learn(self, windows: Sequence[Window], batch: Batch) -> None:
        letters = np.concatenate([_rows(window)[0] for window in windows])
        self._frequencies = (letters[:, None] == _BASES).mean(axis=0)

    def predict(self, windows: Sequence[Window], batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        logs, right = [], []
        for window, row in zip(windows, (batch["targets"] != IGNORED).numpy(), strict=True):
            columns = _rows(window)[:, row[: len(window)]]
            counts = (columns[1:, :, None] == _BASES).sum(axis=0) + self._frequencies / 2
            truth = columns[0][:, None] == _BASES
            shares = (counts + self._frequencies / 2) / (counts + self._frequencies / 2).sum(axis=1, keepdims=True)
            logs.append(np.log((shares * truth).sum(axis=1).clip(1e-12)))
            right.append(_BASES[counts.argmax(axis=1)] == columns[0])
        return np.concatenate(logs), np.concatenate(right)


class Markov(Yardstick):
    """A Markov chain of order 3 over tokens, interpolated with lower orders (Witten & Bell 1991, doi:10.1109/18.87000)."""

    name = "order-3 Markov chain"

    def learn(self, windows: Sequence[Window], batch: Batch) -> None:
        contexts, targets = _histories(batch)
        self._ids = np.unique(targets)
        column = np.searchsorted(self._ids, targets)
        self._followers = []  # by order: the contexts seen, in order, and how often each token followed each
        for order in range(ORDER + 1):
            keys, row = np.unique(_key(contexts, order), return_inverse=True)
            counts = sparse.coo_matrix((np.ones(len(row)), (row, column)), shape=(len(keys), len(self._ids) + 1)).tocsr()
            self._followers.append((keys, counts))

    def predict(self, windows: Sequence[Window], batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        contexts, targets = _histories(batch)
        column = np.searchsorted(self._ids, targets)
        column[~np.isin(targets, self._ids)] = len(self._ids)  # one for all tokens that were never seen
        logs, right = np.zeros(len(targets)), np.zeros(len(targets), bool)
        distinct, place = np.unique(contexts, axis=0, return_inverse=True)
        order = np.argsort(place, kind="stable")
        for at in range(0, len(distinct), MAX_CONTEXTS):
            shares = self._shares(distinct[at : at + MAX_CONTEXTS])
            here = order[np.searchsorted(place[order], at) : np.searchsorted(place[order], at + MAX_CONTEXTS)]
            row = place[here] - at
            logs[here], right[here] = np.log(shares[row, column[here]]), shares.argmax(axis=1)[row] == column[here]
        return logs, right

    def _shares(self, contexts: np.ndarray) -> np.ndarray:
        """The probability of each token (contexts, tokens + 1) after contexts (contexts, ORDER), the last token first."""
        tokens = len(self._ids) + 1
        shares = np.full((len(contexts), tokens), 1 / tokens)
        for order, (keys, counts) in enumerate(self._followers):
            key = _key(contexts, order)
            at = np.searchsorted(keys, key).clip(max=len(keys) - 1)
            seen = keys[at] == key
            found = counts[at].multiply(seen[:, None]).tocsr()
            total, kinds = found.sum(axis=1).A1[:, None], np.diff(found.indptr)[:, None]
            kinds = np.where(seen[:, None], kinds, 1)
            shares = (found.toarray() + kinds * shares) / (total + kinds)
        return shares


def yardstick(name: str) -> Yardstick:
    """The yardstick of that name, one of :data:`harness.objective.YARDSTICKS`."""
    return {"unigram": Unigram, "vote": Vote, "markov": Markov}[name]()


def _counted(targets: np.ndarray) -> dict[int, int]:
    """How often each token occurs."""
    return dict(zip(*(it.tolist() for it in np.unique(targets, return_counts=True)), strict=True))


def _targets(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Targets (M,) and their groups (M,), 0 where the objective names none."""
    asked = batch["targets"] != IGNORED
    targets = batch["targets"][asked].numpy()
    return targets, batch["groups"][asked].numpy() if "groups" in batch else np.zeros(len(targets), int)


def _histories(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Of each target the ORDER tokens (M, ORDER) before it, the last first, -1 where there is none; and the targets (M,)."""
    tokens, targets = batch["tokens"].long().numpy(), batch["targets"].numpy()
    padded = np.pad(tokens, ((0, 0), (ORDER - 1, 0)), constant_values=-1)
    before = np.stack([padded[:, ORDER - 1 - back : ORDER - 1 - back + tokens.shape[1]] for back in range(ORDER)], axis=-1)
    asked = targets != IGNORED
    return before[asked], targets[asked]


def _key(contexts: np.ndarray, order: int) -> np.ndarray:
    """One number for the last ``order`` tokens of each context."""
    key = np.zeros(len(contexts), np.int64)
    for back in range(order):
        key = key * (1 << 20) + contexts[:, back] + 1
    return key


def _rows(window: Window) -> np.ndarray:
    """The rows of a window's alignment, or the window as its only row."""
    return np.frombuffer(window.sequence.encode(), np.uint8)[None] if window.alignment is None else window.alignment
