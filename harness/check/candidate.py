"""What clauses work with: the adapter under test, random windows for it, comparisons, and the exceptions that they raise."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.adapter import Adapter, Batch
from harness.data import Window
from harness.engine.predict import to_device

TOLERANCE = 1e-4  # largest difference between values that should be equal, as a share of the largest of them


class Violation(Exception):
    """The adapter breaks a clause. The message says how, with numbers."""


class Skipped(Exception):
    """The clause does not apply to this adapter. The message says why."""


@dataclass(frozen=True)
class Candidate:
    """An adapter in evaluation mode, and how it was built: at random at a size, or from a checkpoint."""

    adapter: Adapter
    size: str = "tiny"
    checkpoint: Path | None = None

    def rebuilt(self, seed: int) -> Candidate:
        """The same once more, with another random state."""
        torch.manual_seed(seed)
        size = {} if self.checkpoint else {"size": self.size}
        adapter = type(self.adapter).from_checkpoint(self.checkpoint, **size).eval()
        return replace(self, adapter=adapter.to(device_of(self.adapter)))

    def embed(self, windows: Sequence[Window]) -> Tensor:
        """Embeddings (windows, D).

        Raises:
            Skipped: the adapter reads scores, which random windows do not have.
        """
        self._skip_scores()
        with torch.inference_mode():
            return self.adapter(read(self.adapter, windows))

    def windows(self, *lengths: int) -> list[Window]:
        """Random windows of these lengths; with alignments of 3 rows if the model reads alignments.

        Raises:
            Skipped: the adapter reads scores, which random windows do not have.
        """
        self._skip_scores()
        plain = random_windows(lengths)
        return [with_rows(window, 3) for window in plain] if self.adapter.card.reads == "alignment" else plain

    def _skip_scores(self) -> None:
        if self.adapter.card.reads == "score":
            raise Skipped("a score of the window's centre, by locus or column: random windows have none")


def device_of(adapter: Adapter) -> torch.device:
    """Where its weights are; the CPU for a model without weights."""
    return next((parameter.device for parameter in adapter.parameters()), torch.device("cpu"))


def read(adapter: Adapter, windows: Sequence[Window]) -> Batch:
    """What the adapter collates, on its device."""
    return to_device(adapter.collate(windows), device_of(adapter))


def random_windows(lengths: Sequence[int]) -> list[Window]:
    """Windows of random bases, uniform and always the same."""
    rng = np.random.default_rng(0)
    return [Window("".join(rng.choice(list("ACGT"), length))) for length in lengths]


def with_rows(window: Window, depth: int, seed: int = 0) -> Window:
    """The window with an alignment of ``depth`` rows; all but the first are noisy copies of it with gaps."""
    rng = np.random.default_rng(seed)
    rows = np.tile(np.frombuffer(window.sequence.encode(), np.uint8), (depth, 1))
    noise = rng.random(rows.shape) < 0.2
    noise[0] = False
    rows = np.where(noise, rng.choice(np.frombuffer(b"ACGT-", np.uint8), rows.shape), rows)
    return replace(window, alignment=rows.astype(np.uint8))


def described(error: Exception) -> str:
    """An unexpected error in one line, with the innermost file and line outside installed libraries."""
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def with_base(window: Window, at: int, base: str) -> Window:
    """The window with ``base`` at a position, also in row 0 of its alignment."""
    alignment = None if window.alignment is None else window.alignment.copy()
    if alignment is not None:
        alignment[0, at] = ord(base)
    return Window(window.sequence[:at] + base + window.sequence[at + 1 :], alignment=alignment)


def finite(values: Tensor, case: str) -> None:
    if not torch.isfinite(values).all():
        raise Violation(f"{case}: {int((~torch.isfinite(values)).sum())} of {values.numel()} values are not finite")


def same(found: Tensor, expected: Tensor, case: str) -> str:
    if found.shape != expected.shape:
        raise Violation(f"{case}: shapes {tuple(found.shape)} and {tuple(expected.shape)}")
    apart, largest = gap(found, expected), float(expected.abs().max())
    if not apart <= TOLERANCE * largest:
        raise Violation(f"{case}: differ by up to {apart:.2g}; allowed are {TOLERANCE * largest:.2g}")
    return f"largest difference {apart:.1g}, allowed {TOLERANCE * largest:.1g}"


def gap(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max())


def some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
