"""How much each letter of a window matters to a model's answer, found by changing letters.

Saturation mutagenesis (tangermeme) asks the model about every window with one letter changed. It goes through letters, so that
it suits any model and tokenisation. What is explained is one number of a model's answer, its :class:`Score`.
:mod:`.gradients` is the quicker way, for models that have them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.data import Example, Window
from harness.errors import RunFailed, UserError
from harness.task import CLASSIFICATION, MULTILABEL

LETTERS = "ACGT"
N = 4  # the code of a letter that is not known
ONE_HOT_BYTES = 1 << 26  # of the mutants that are made at a time
_CODES = np.full(256, N, np.uint8)
_CODES[np.frombuffer(LETTERS.encode(), np.uint8)] = range(4)
_ASCII = np.frombuffer(f"{LETTERS}N".encode(), np.uint8)

Outputs = Callable[[Sequence[Example]], np.ndarray]


def explaining(module: str) -> ModuleType:
    """Import a package of the extra ``explain``.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise UserError(f"explaining needs the package {package}: pip install 'gfm-harness[explain]'") from None


@dataclass(frozen=True)
class Score:
    """The number that is explained: a class's or label's log-odds in nats, or the number that a regression predicts.

    ``kind`` is one of :data:`harness.task.KINDS`, ``index`` the column of the model's outputs.
    """

    kind: str
    index: int = 0

    def of_outputs(self, outputs: np.ndarray) -> np.ndarray:
        """(N,) of outputs (N, K) as :func:`harness.engine.predict.predict` gives them.

        The odds of a class are against the sum of the others, which keeps their digits where a probability is close to 1.
        """
        chosen = outputs[:, self.index]
        if self.kind not in (CLASSIFICATION, MULTILABEL):
            return chosen
        rest = 1 - chosen if self.kind == MULTILABEL else np.delete(outputs, self.index, axis=1).sum(axis=1)
        smallest = np.finfo(np.float64).tiny if self.kind == CLASSIFICATION else np.finfo(np.float64).eps
        return np.log(np.maximum(chosen, smallest)) - np.log(np.maximum(rest, smallest))

    def of_logits(self, logits: Tensor, unit: float = 1.0) -> Tensor:
        """(N,) of logits (N, K); ``unit`` is what one unit of a regression's logit means."""
        chosen = logits[:, self.index]
        if self.kind == CLASSIFICATION:
            others = [column for column in range(logits.shape[1]) if column != self.index]
            return chosen - logits[:, others].logsumexp(dim=1)
        return chosen if self.kind == MULTILABEL else chosen * unit


@dataclass(frozen=True)
class Attribution:
    """What the letters of N windows contribute to a score, L being the longest window's length.

    ``scores`` (N,) are of the windows as they are. ``changes`` (N, L, 4) are what the score changes by if a position has A, C, G
    or T instead of its letter, 0 for the letter itself; None where gradients were taken. ``hypothetical`` (N, L, 4) are changes
    less their mean over the four letters, as tangermeme has them; of gradients, they are 0 but for the window's own letter.
    Arrays are float32, and NaN beyond a window's end.
    """

    windows: tuple[Window, ...]
    scores: np.ndarray
    hypothetical: np.ndarray
    changes: np.ndarray | None = None

    @property
    def codes(self) -> np.ndarray:
        """The windows' letters as indices into ACGT, uint8 (N, L); N for N and beyond a window's end."""
        codes = np.full(self.hypothetical.shape[:2], N, np.uint8)
        for row, window in zip(codes, self.windows, strict=True):
            row[: len(window)] = codes_of(window.sequence)
        return codes

    @property
    def actual(self) -> np.ndarray:
        """What the windows' own letters contribute, float32 (N, L): their hypothetical value, 0 for N; NaN beyond the end."""
        codes = self.codes
        own = np.take_along_axis(self.hypothetical, np.minimum(codes, 3)[..., None].astype(np.intp), axis=2)[..., 0]
        return np.where((codes == N) & ~np.isnan(own), np.float32(0), own)


def codes_of(sequence: str) -> np.ndarray:
    """The letters of a sequence as indices into ACGT, uint8 (L,); N is 4."""
    return _CODES[np.frombuffer(sequence.encode(), np.uint8)]


def mutagenesis(
    outputs: Outputs, windows: Sequence[Window], score: Score, step: Callable[[int], None] = lambda done: None
) -> Attribution:
    """Saturation mutagenesis: the score of each window with each letter at each position. 3 L mutants of a window of L letters.

    ``outputs`` maps examples to outputs (N, K). Of an alignment, the target row alone is changed. At an N, all four letters are
    tried. ``step`` hears how many windows are done.

    Raises:
        UserError: tangermeme is not installed.
        RunFailed: an output is not a number.
    """
    saturate = explaining("tangermeme.saturation_mutagenesis").saturation_mutagenesis
    longest = max(map(len, windows))
    changes = np.full((len(windows), longest, 4), np.nan, np.float32)
    scores = np.empty(len(windows))
    for row, window in enumerate(windows):
        length = len(window)
        one_hot = torch.from_numpy(np.eye(5, dtype=np.int8)[codes_of(window.sequence), :4].T[None].copy())  # (1, 4, L)
        model, span = _ByLetters(outputs, window, score), max(1, ONE_HOT_BYTES // (12 * length))
        for start in range(0, length, span):
            end = min(start + span, length)
            found = saturate(
                model, one_hot, start=start, end=end, batch_size=3 * span, raw_outputs=True, device="cpu", fast=False
            )
            scores[row] = found.y0.item()
            changes[row, start:end] = (found.y_hat[0, :, :, 0] - found.y0[0, 0]).T
        if not np.isfinite(changes[row, :length]).all():
            raise RunFailed(f"window {row + 1}: the model's answer to it, or to a mutant of it, is not a number")
        step(row + 1)
    return Attribution(tuple(windows), scores, changes - changes.mean(axis=2, keepdims=True), changes)


class _ByLetters(nn.Module):
    """A model of letters as tangermeme calls it: one-hot letters (B, 4, L) of mutants of a window → their scores (B, 1)."""

    def __init__(self, outputs: Outputs, window: Window, score: Score) -> None:
        super().__init__()
        self.outputs, self.window, self.score = outputs, window, score

    def forward(self, one_hot: Tensor) -> Tensor:
        known = one_hot.amax(dim=1) > 0
        text = _ASCII[torch.where(known, one_hot.argmax(dim=1), N).numpy()]  # (B, L)
        alignments: Any = [None] * len(text)
        if self.window.alignment is not None:
            alignments = np.repeat(self.window.alignment[None], len(text), axis=0)
            alignments[:, 0] = text
        width, letters = text.shape[1], text.tobytes().decode()
        windows = [
            Window(letters[number * width : (number + 1) * width], self.window.locus, alignment)
            for number, alignment in enumerate(alignments)
        ]
        found = self.outputs([Example("", (window,), 0) for window in windows])
        return torch.from_numpy(self.score.of_outputs(found))[:, None]
