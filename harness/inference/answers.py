"""A trained model's answers to a stream of questions: in flat memory, and kept in a file where a killed process goes on."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness.data import Example
from harness.errors import HarnessError, UserError
from harness.study.plan import model_code

from .inputs import Input, together
from .trained import Trained, load_run, run_folders_of

try:
    import fcntl
except ImportError:  # Windows has no flock: there, do not write one file twice at the same time
    fcntl = None

Question = Example | int  # or the reason, above 0, why a place is not asked about
CHUNK = 4096  # questions that are put together,
CHUNK_LETTERS = 1 << 24  # but not more letters than this, unless a single question has more
PART = ".part"
SECONDS = 10.0  # between two lines that say how far it is


class Seeds:
    """Runs of one model on one task that differ in the seed alone. Their answers are averaged.

    The answer to a question is a row of float64: the reason why it was not asked, or 0; the mean over the runs of each of the
    K outputs (see :meth:`.trained.Trained.outputs`); and, of several runs, the standard deviation of each (of a sample, with
    one degree of freedom less than runs). Rows of what was not asked are NaN after the reason.

    Raises:
        UserError: the runs differ in more.
    """

    def __init__(self, runs: Sequence[Trained], batch_size: int | None = None) -> None:
        self.runs, self.first, self.batch_size = list(runs), runs[0], batch_size
        for run in runs[1:]:
            if self._question(run) != self._question(self.first):
                raise UserError(
                    f"runs {self.first.folder} and {run.folder}: differ in more than the seed; only seeds of one model are "
                    "averaged, so ask one after the other"
                )
        self.columns = len(self.first.classes)
        self.width = 1 + self.columns * (2 if len(runs) > 1 else 1)

    @staticmethod
    def _question(run: Trained) -> list[Any]:
        return [run.run.name, run.run.label, run.kind, run.classes, run.windows_per_example, run.kept.recipe]

    @property
    def identity(self) -> list[str]:
        """What tells these models from others: what they were built from, what was trained, and the code that runs them."""
        return [f"{run.kept.fingerprint(run.folder)} {model_code(run.run.model)}" for run in self.runs]

    def rows(self, questions: Sequence[Question]) -> np.ndarray:
        """The answers (N, width)."""
        rows = np.full((len(questions), self.width), np.nan)
        asked = [number for number, question in enumerate(questions) if isinstance(question, Example)]
        rows[:, 0] = [question if isinstance(question, int) else 0 for question in questions]
        if asked:
            examples = [question for question in questions if isinstance(question, Example)]
            found = np.stack([run.outputs(examples, self.batch_size) for run in self.runs])  # (runs, N, K)
            rows[asked, 1 : 1 + self.columns] = found.mean(axis=0)
            if len(self.runs) > 1:
                rows[asked, 1 + self.columns :] = found.std(axis=0, ddof=1)
        return rows

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """Of rows (…, width) the outputs (…, K)."""
        return rows[..., 1 : 1 + self.columns]

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """Of rows (…, width) the standard deviations (…, K) over the runs; (…, 0) of a single run."""
        return rows[..., 1 + self.columns :]


def load_seeds(
    paths: Sequence[Path], checkpoint: str | None = None, device: str = "auto", batch_size: int | None = None
) -> Seeds:
    """The runs that paths name: folders of runs, or of a model (``results/QKI/cnn``), whose runs differ in the seed.

    Raises:
        UserError: as :func:`.trained.load_run` and :class:`Seeds`, or a batch size below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch-size {batch_size}: give a number of windows, such as 64")
    folders = dict.fromkeys(folder for path in paths for folder in run_folders_of(path))
    return Seeds([load_run(folder, checkpoint=checkpoint, device=device) for folder in folders], batch_size)


def chunks(questions: Iterable[Question]) -> Iterator[list[Question]]:
    """The questions in lists of CHUNK, or of fewer where they have more letters than CHUNK_LETTERS."""

    def letters(question: Question) -> int:
        return 0 if isinstance(question, int) else sum(map(len, question.windows))

    return together(questions, letters, CHUNK, CHUNK_LETTERS)


class Part:
    """The answers so far, beside the file that they are for: a line that says what was asked of what, and rows of float64.

    It is another process's while that one writes. What a killed process left is used if its line is the same, else it is
    begun anew; ``stale`` names what has changed since.

    Raises:
        UserError: another process writes there, or nothing can be written.
    """

    def __init__(self, out: Path, about: Mapping[str, Any], width: int) -> None:
        self.path, self.row = out.with_name(out.name + PART), 8 * width
        self.stale: list[str] = []
        try:
            self._file = open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")  # noqa: SIM115 - closed by close()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", error)
            raise UserError(f"out {out}: cannot be written ({reason}); choose another --out") from None
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise UserError(f"out {out}: another process is writing it; choose another --out, or wait") from None
        line = json.dumps({**about, "width": width}, sort_keys=True).encode() + b"\n"
        found = self._file.readline(1 << 20)
        if found and not found.startswith(b"{"):
            self._file.close()
            raise UserError(f"out {out}: {self.path} is needed for what is written on the way, and holds something else; move it")
        if found != line:
            self.stale = _changed(found, line)
            self._file.seek(0)
            self._file.truncate()
            self._write(line)
        self._start = len(line)
        self.cut((os.fstat(self._file.fileno()).st_size - self._start) // self.row)

    def cut(self, rows: int) -> None:
        """Keep so many rows, and what follows them is written next."""
        self._file.truncate(self._start + rows * self.row)
        self.rows = rows

    def add(self, rows: np.ndarray) -> None:
        """Append rows (N, width)."""
        self._file.seek(0, os.SEEK_END)
        self._write(rows.astype("<f8").tobytes())
        self.rows += len(rows)

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            fault = f"cannot be written ({error.strerror})"
            raise HarnessError(f"{self.path}: {fault}; make room, and run the same command again: it goes on there") from error

    def read(self, first: int, count: int) -> np.ndarray:
        """Rows (count, width) from number ``first`` on."""
        self._file.seek(self._start + first * self.row)
        return np.frombuffer(self._file.read(count * self.row), "<f8").reshape(count, -1)

    def reasons(self) -> Counter[int]:
        """How many questions were not asked, by the reason."""
        found: Counter[int] = Counter()
        for first in range(0, self.rows, CHUNK):
            codes = self.read(first, min(CHUNK, self.rows - first))[:, 0]
            found.update(codes[codes > 0].astype(int).tolist())
        return found

    def close(self, done: bool) -> None:
        """Stop writing; what was written is deleted if it is ``done``."""
        self._file.close()
        if done:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Part:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(done=kind is None)


def _changed(found: bytes, line: bytes) -> list[str]:
    """The names of what differs between two lines; none if there was none before."""
    if not found:
        return []
    try:
        old, new = json.loads(found), json.loads(line)
        return [name for name in new if old.get(name) != new[name]]
    except (ValueError, AttributeError):
        return ["file"]


def about(seeds: Seeds, found: Input, **more: Any) -> dict[str, Any]:
    """What answers depend on: for the line of a :class:`Part`."""
    return {
        "version": harness.__version__,
        "models": seeds.identity,
        "device": seeds.first.accelerator.device.type,
        "batch size": seeds.batch_size,
        **found.identity,
        **more,
    }


def fill(part: Part, seeds: Seeds, questions: Iterable[Question], total: int, say: Callable[[str], None]) -> None:
    """Put all ``total`` questions of which the part has no answer.

    Resumed at the beginning of a chunk, so that the batches, and with them the last bits, are those of a run that was not
    stopped.
    """
    if part.stale:
        say(f"{part.path}: was begun with another {' and '.join(part.stale)}; begun anew")
    elif part.rows:
        say(f"{part.path}: goes on after {part.rows:,} answers of a run that was stopped")
    said, begun, first, done = time.monotonic(), time.monotonic(), 0, 0
    try:
        for chunk in chunks(questions):
            if first + len(chunk) > part.rows:
                part.cut(first)
                part.add(seeds.rows(chunk))
                done += len(chunk)
            first += len(chunk)
            if (now := time.monotonic()) - said > SECONDS:
                said = now
                say(f"{first:,} of {total:,} answered, {done / (now - begun):,.0f} a second")
    except KeyboardInterrupt:
        say(f"stopped after {part.rows:,} of {total:,} answers; the same command goes on there")
        raise
