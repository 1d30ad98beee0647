"""RunRecord, and the folder it lies in: ``results/<task>/<model>/<run id>/`` with record.json and predictions.csv."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from harness.errors import BadData, UserError
from harness.files.fingerprint import plain
from harness.task import Reference, task_label

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 2
RECORD, PREDICTIONS = "record.json", "predictions.csv"
BLOCK = "block"  # the column of predictions whose examples come in blocks
FINISHED, FAILED = "finished", "failed"
COLLAPSED = "collapsed: every test example was put into one class"

_NEEDED = {
    "task": ("name", "family", "split", "default_split", "simulated", "classes", "files"),
    "model": ("name", "card", "recipe", "checkpoint", "size", "options"),
}
_RESERVED = ("tables", "published")  # folders of the results folder that are no task
_STALE_SECONDS = 600  # writing takes a second: an older temporary folder was left by a killed run


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All that is known of one (model, task, seed). Holds JSON values only, so that what is read equals what was written.

    Tuples become lists, NumPy scalars become numbers, and NaN and infinity become None.

    ``task``: name, family, split, default_split, main_metric, simulated, classes, files (name → sha256), counts (part → class →
    examples), changes (letters that normalisation changed), best_accuracy.
    ``model``: name, card, recipe (the published settings), checkpoint (None, or name and sha256), size, options, audit,
    parameters (trainable, total), notes.
    ``recipe``: every setting as asked for; what had to be changed on the way is in ``events``.
    ``environment``: versions, device (its type), device_name, precision (as computed), threads.
    ``timing``: seconds (load, compile, train, evaluate, total), examples_per_second, peak_memory_bytes.
    ``intervals``: metric → (low, high), the block-bootstrap intervals of the test split, where its examples come in blocks.
    ``alignment``: how far the predictions change without the alignment (see :mod:`.sensitivity`), where there is one.
    ``code`` is the digest of the code that can change a number. ``error`` tells why a run failed. ``created`` is UTC.
    """

    run_id: str
    task: dict[str, Any]
    model: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    code: str
    environment: dict[str, Any] = field(default_factory=dict)
    status: str = FINISHED
    error: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)
    alignment: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    collapsed: bool = False
    events: list[str] = field(default_factory=list)
    timing: dict[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.status not in (FINISHED, FAILED) or (self.status == FAILED) != bool(self.error):
            raise ValueError(f"status {self.status!r}, error {self.error!r}: expected {FINISHED}, or {FAILED} with an error")
        for item in fields(self):
            object.__setattr__(self, item.name, plain(getattr(self, item.name)))
        for section, keys in _NEEDED.items():
            if missing := [key for key in keys if key not in getattr(self, section)]:
                raise ValueError(f"{section} lacks {', '.join(missing)}")

    @property
    def finished(self) -> bool:
        """Whether the run has scores."""
        return self.status == FINISHED

    @property
    def flags(self) -> list[str]:
        """What qualifies the scores, as sentences."""
        return [COLLAPSED, *self.events] if self.collapsed else list(self.events)

    @property
    def folder(self) -> Path:
        """Where the record lies, relative to the results folder."""
        return Path(folder_name(self.task_label), folder_name(self.model["name"]), self.run_id)

    @property
    def task_label(self) -> str:
        """What tables and folders call the task."""
        return task_label(self.task["name"], self.task.get("context"), self.task["simulated"])


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said of the test split: ids (N), labels (N,) as indices of ``classes`` (K), probabilities (N, K).

    ``blocks`` (N) names what each example is drawn with, empty where examples are independent.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    blocks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.classes))
        if len(self.blocks) not in (0, len(self.ids)):
            raise ValueError(f"{len(self.blocks)} blocks: expected {len(self.ids)}, one an example, or none")
        if self.labels.shape != shape[:1] or self.probabilities.shape != shape:
            found = f"labels {self.labels.shape}, probabilities {self.probabilities.shape}"
            raise ValueError(f"{found}: expected {shape[:1]}, {shape}")


def folder_name(name: str) -> str:
    """A name as a folder: ``QKI (sample)`` is ``QKI-sample``. Different names get different folders.

    Where another name has the better claim to the short form, a piece of the name's sha256 is added.
    """
    short = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "unnamed"
    claimant = short.removesuffix("-sample") + " (sample)" if short.endswith("-sample") else short
    if name == claimant and short not in _RESERVED:
        return short
    return f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def check_writable(results_dir: Path) -> None:
    """Make sure, before anything runs, that records can be written. Creates nothing.

    Raises:
        UserError: the folder, or the one it would be made in, cannot be written.
    """
    results_dir = Path(results_dir).absolute()
    existing = next(folder for folder in (results_dir, *results_dir.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        fault = f"cannot be written ({error.strerror})"
        raise UserError(f"results folder {results_dir}: {fault}; choose another with --results") from None


def write(record: RunRecord, predictions: Predictions | None, results_dir: Path) -> Path:
    """Write a run's folder, whole or not at all; an earlier one of the same run id is kept until the new one is in place.

    A failed run has no predictions. Returns the folder.
    """
    folder = Path(results_dir) / record.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clean(folder.parent)
    temporary = folder.with_name(f".tmp-{record.run_id}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        if predictions is not None:
            _write_predictions(predictions, temporary / PREDICTIONS)
        with open(temporary / RECORD, "w", encoding="utf-8") as file:
            json.dump(asdict(record), file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            _sync(file)
        _put(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def read(folder: Path) -> RunRecord:
    """The record of a run's folder.

    Raises:
        BadData: a record that is damaged, or of another schema.
    """
    path = Path(folder) / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] == 1:
            _upgrade(content)
        if content["schema"] != SCHEMA:
            raise BadData(f"{path}: has schema {content['schema']}, this version reads {SCHEMA}; use the version that wrote it")
        needed = [item.name for item in fields(RunRecord) if item.default is item.default_factory is MISSING]
        if missing := [name for name in needed if name not in content]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return RunRecord(**content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadData(f"{path}: not a readable record ({error}); delete its folder and run again") from None


def _upgrade(content: dict[str, Any]) -> None:
    """Schema 1 had the task's context and ``(sample)`` inside its name, and no source or fingerprint of a checkpoint."""
    task, model = content["task"], content["model"]
    name, _, context = task["name"].removesuffix(" (sample)").partition("@")
    if task["family"] == "variants":
        task |= {"name": name, "context": int(context or Reference.context)}
    else:
        task |= {"name": task["name"].removesuffix(" (sample)"), "context": None}
    if model["checkpoint"]:
        model["checkpoint"] |= {"source": model["audit"]["source"], "fingerprint": model["checkpoint"]["sha256"]}
    content["schema"] = SCHEMA


def read_all(results_dir: Path) -> list[RunRecord]:
    """Every record of a results folder, sorted by task, model and run id. Temporary folders are passed over.

    Raises:
        BadData: a damaged record, which is never left out in silence.
    """
    return [read(folder) for model in sorted(Path(results_dir).glob("*/*/")) for folder in _run_folders(model)]


def find(results_dir: Path, task: str, model: str, run_id: str) -> RunRecord | None:
    """The record of that very run, or None where there is none yet.

    Raises:
        BadData: there is one, but damaged.
    """
    for folder in _run_folders(Path(results_dir) / folder_name(task) / folder_name(model)):
        if folder.name in (run_id, f".old-{run_id}"):
            return read(folder)
    return None


def read_predictions(folder: Path) -> Predictions:
    """The stored predictions of a run, the same to the last bit as those that were written.

    Raises:
        BadData: no predictions, or damaged ones.
    """
    import numpy as np

    path = Path(folder) / PREDICTIONS
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        first = 3 if header[2] == BLOCK else 2
        classes = tuple(name.removeprefix("probability_") for name in header[first:])
        labels = np.array([classes.index(row[1]) for row in rows], np.int64)
        probabilities = np.array([[float(cell) for cell in row[first:]] for row in rows], np.float64).reshape(len(rows), -1)
        blocks = tuple(row[2] for row in rows) if first == 3 else ()
        return Predictions(tuple(row[0] for row in rows), labels, probabilities, classes, blocks)
    except (OSError, ValueError, IndexError) as error:
        raise BadData(f"{path}: not readable predictions ({error}); delete the folder and run again") from None


def judge(predictions: Predictions) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """The metrics of predictions, and the intervals of those that have some."""
    from harness.evidence.metrics import intervals, scores

    stated = predictions.probabilities, predictions.labels
    return scores(*stated), intervals(*stated, predictions.blocks) if predictions.blocks else {}


def _write_predictions(predictions: Predictions, path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # else a "\r" in an id ends the line
        block = [BLOCK] if predictions.blocks else []
        writer.writerow(["id", "label", *block, *(f"probability_{name}" for name in predictions.classes)])
        words = zip(
            predictions.ids, (predictions.classes[label] for label in predictions.labels), *block and [predictions.blocks]
        )
        # csv writes floats by repr: the shortest text that reads back as the same bits.
        writer.writerows([*row, *numbers] for row, numbers in zip(words, predictions.probabilities.tolist(), strict=True))
        _sync(file)


def _sync(file: TextIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _put(temporary: Path, folder: Path) -> None:
    """Rename into place. A folder cannot be renamed over another: the old one waits as ``.old-…``, which readers know."""
    old = _waiting(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    try:
        os.rename(temporary, folder)
    except BaseException:
        if old.exists():
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _waiting(folder: Path) -> Path:
    return folder.with_name(f".old-{folder.name}")


def _clean(model_folder: Path) -> None:
    for path in model_folder.glob(".tmp-*"):
        with suppress(FileNotFoundError):  # another run may be done with it by now
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _run_folders(model_folder: Path) -> list[Path]:
    """The folders with a record, sorted by run id; an old one counts where a kill left no new one in its place."""
    found = {path.parent.name: path.parent for path in model_folder.glob(f"*/{RECORD}")}
    final = {name.removeprefix(".old-"): path for name, path in found.items() if not name.startswith(".tmp-")}
    return [found.get(name, path) for name, path in sorted(final.items())]
