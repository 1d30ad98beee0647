"""RunRecord and its folder, ``results/<task>/<model>/<run id>/``, which holds record.json and predictions.csv."""

from __future__ import annotations

import gc
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import BadData, HarnessError
from harness.files.fingerprint import digest, plain
from harness.files.sources import sha256
from harness.progress import printable
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION, task_label

from . import schema as shape
from .attribution import read_attribution
from .folders import (
    PREDICTIONS,
    RECORD,
    RESERVED,
    file_size,
    id_of,
    kept_files,
    put,
    record_folders,
    remove,
    run_folders,
    sweep,
    sync,
    temporary_folder,
)
from .predictions import Predictions, judge, read_predictions
from .predictions import write_predictions as _write_predictions
from .schema import SCHEMA

__all__ = ["Predictions", "RunRecord", "find", "judge", "read", "read_all", "read_predictions", "write"]

FINISHED, FAILED = "finished", "failed"
COLLAPSED = "collapsed: every test example was put into one class"
COLLAPSED_NUMBERS = "collapsed: every test example was given the same number"
COLLAPSED_LABELS = "collapsed: every test example was given the same labels"

MAX_RECORD_BYTES = 1 << 24  # a record has some ten kB
MAX_FAULTS = 5  # unreadable records that are named one by one


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything known about one run of a model on a task with a seed.

    A record holds JSON values only, so that reading gives back what was written: tuples become lists, NumPy scalars become
    numbers, NaN and infinity become None.

    ``task``: name, kind (one of :data:`harness.task.KINDS`; a record without it is a classification), context (window length
    in nucleotides, None where windows come as they are), negatives (what the negative class was taken from, if that is a
    choice), family, split, default_split, main_metric, simulated, classes, files (name → sha256), counts (split → class →
    examples; of a multi-label task those with the label, of a regression all), changes (how many letters normalisation changed),
    best_accuracy (of the Bayes rule, for simulated data).
    ``model``: name, card, recipe (the published settings), size, options, audit, allow_partial, notes, unknown_tokens (share of
    the training split's), parameters (trainable, total), forward_passes (a window's, where not 1), and checkpoint: None, or
    the weight file's name, sha256 and source (its path as given), and fingerprint, the sha256 over all files that the model was
    built from.
    ``recipe``: every setting as asked for; ``events`` says what had to be changed during the run.
    ``environment``: versions, device (its type), device_name, precision (as computed), threads, processes, kernels (which
    implementation served each operation).
    ``timing``: seconds (load, compile, train, evaluate, total), examples_per_second, peak_memory_bytes, wait (seconds that the
    device waited for batches in training), and wait_share, its share of the training steps' time, unknown to older records.
    ``metrics``: metric → score on the test split; see :func:`.metrics.scores`.
    ``intervals``: metric → (low, high), 95 % intervals over the test split; ``without_interval``: metric → why it has none.
    ``alignment``: how much the predictions change without the alignment (see :mod:`.sensitivity`), if there is one.
    ``leakage``: what test examples have of the training data, if that was looked for: counts (each of LEAKS → examples),
    parameters (of the search) and subsets (``novel`` and ``leaking`` → examples, metrics, intervals; None where undefined).
    ``groups``: scores by what the task's files say of its examples (see :mod:`.groups`), where they say something.
    ``history``: one entry per epoch. ``collapsed``: all test examples were given the same answer.
    ``code``: digest of the code that can change a number. ``error``: why the run failed. ``created``: time in UTC.
    ``checksums``, made when the record is written: sha256 of ``predictions`` (the file), of the ``record`` (its other fields),
    and of each file that was kept beside them, by its name.
    They show what was edited since, by accident or on the quiet. They are no signature: who edits can make them anew.
    ``unknown``: fields that a newer version wrote, as they are; they stand beside the others in the file.
    ``beside``: metrics and intervals of other files of the run's folder (see :mod:`.attribution`), where :func:`read_all` read
    the record; not part of the record.

    Raises:
        ValueError: the status does not fit the error, or a field is missing, of another type or out of range (see
            :mod:`.schema`).
        TypeError: a value that JSON cannot hold.
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
    without_interval: dict[str, str] = field(default_factory=dict)
    alignment: dict[str, Any] = field(default_factory=dict)
    leakage: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    collapsed: bool = False
    events: list[str] = field(default_factory=list)
    timing: dict[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    schema: int = SCHEMA
    checksums: dict[str, str] = field(default_factory=dict, compare=False)
    unknown: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, plain(getattr(self, item.name)))
        self._check()

    def _check(self) -> None:
        shape.check(vars(self))
        if self.status not in (FINISHED, FAILED) or (self.status == FAILED) != bool(self.error):
            found = f"status {shape.shortened(self.status)}, error {shape.shortened(self.error)}"
            raise ValueError(f"{found}: expected {FINISHED}, or {FAILED} with an error")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunRecord:
        """The record of a JSON object as :func:`.schema.parse` gives it. Its values are not copied.

        Raises:
            ValueError: as the class itself.
        """
        given = content.keys() & _FIELDS.keys()
        made = object.__new__(cls)  # JSON values need no conversion
        for name, item in _FIELDS.items():
            if name in given:
                vars(made)[name] = content[name]
            elif item.default_factory is not MISSING:
                vars(made)[name] = item.default_factory()
            elif item.default is not MISSING:
                vars(made)[name] = item.default
        vars(made)["unknown"] = {name: content[name] for name in content if name not in given and name != "beside"}
        vars(made)["beside"] = {}
        made._check()
        return made

    @property
    def finished(self) -> bool:
        """Whether the run has scores."""
        return self.status == FINISHED

    @property
    def seconds(self) -> float | None:
        """What the run took in all; None if that is not known."""
        return self.timing.get("seconds", {}).get("total")

    @property
    def flags(self) -> list[str]:
        """What a reader of the scores must know, as sentences."""
        words = {REGRESSION: COLLAPSED_NUMBERS, MULTILABEL: COLLAPSED_LABELS}.get(self.kind, COLLAPSED)
        return [words, *self.events] if self.collapsed else list(self.events)

    @property
    def kind(self) -> str:
        """The task's kind, one of :data:`harness.task.KINDS`."""
        return self.task.get("kind", CLASSIFICATION)

    @property
    def folder(self) -> Path:
        """Where the record lies, relative to the results folder."""
        return Path(folder_name(self.task_label), folder_name(self.model["name"]), self.run_id)

    @property
    def task_label(self) -> str:
        """The task's name in tables and folders, e.g. ``clinvar[common]@512``."""
        task = self.task
        return task_label(task["name"], task.get("context"), task["simulated"], task.get("negatives", ""))


_FIELDS = {item.name: item for item in fields(RunRecord) if item.name not in ("unknown", "beside")}


def content_digest(content: Mapping[str, Any]) -> str:
    """sha256 of a record as a JSON object, but for its own sha256."""
    checksums = {name: value for name, value in content["checksums"].items() if name != "record"}
    return digest({**content, "checksums": checksums})


def data_digest(files: Mapping[str, str]) -> str:
    """sha256 of a task's data from its ``files`` (name → sha256), whatever the files are called."""
    return digest(list(files.values()))


@cache
def folder_name(name: str) -> str:
    """The folder for a name: ``QKI (sample)`` becomes ``QKI-sample``. Different names get different folders.

    A name that has to change in any other way, or is reserved, gets a piece of its sha256 added.
    """
    short = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "unnamed"
    claimant = short.removesuffix("-sample") + " (sample)" if short.endswith("-sample") else short
    if name == claimant and short not in RESERVED:
        return short
    return f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def write(
    record: RunRecord, predictions: Predictions | None, results_dir: Path, keep: Callable[[Path], object] = lambda folder: None
) -> Path:
    """Write a run's folder whole or not at all, and return it. A failed run has no predictions.

    ``keep`` puts into the folder what else is to lie there, such as the weights that were trained.

    An earlier folder of the same run id is kept until the new one is in place. What killed processes left is removed.

    Raises:
        HarnessError: the folder cannot be written, on a full disk for example; an earlier one is still there.
    """
    folder = Path(results_dir) / record.folder
    temporary = temporary_folder(folder)
    try:
        sweep(results_dir)
        temporary.mkdir(parents=True)
        if predictions is not None:
            _write_predictions(predictions, temporary / PREDICTIONS)
        keep(temporary)
        content = asdict(record)
        del content["beside"]
        content = {**content.pop("unknown"), **content, "checksums": {}}
        if predictions is not None:
            content["checksums"]["predictions"] = sha256(temporary / PREDICTIONS)
        content["checksums"] |= {path.name: sha256(path) for path in kept_files(temporary)}
        content["checksums"]["record"] = content_digest(content)
        with open(temporary / RECORD, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            sync(file)
        put(temporary, folder)
    except OSError as error:
        fault = f"the record was not written ({error.strerror or error})"
        raise HarnessError(f"{folder}: {fault}; make room or choose another folder with --results, and run again") from error
    finally:
        remove(temporary)
    return folder


def read(folder: Path) -> RunRecord:
    """The record in a run's folder. One of schema 1 (version 0.1.0) is converted to the present schema.

    Raises:
        BadData: the record is damaged, or of a schema that this version does not know.
    """
    path = Path(folder) / RECORD
    try:
        if (size := file_size(path)) > MAX_RECORD_BYTES:
            raise ValueError(f"it has {size:,} bytes, more than {MAX_RECORD_BYTES:,}")
        content = shape.parse(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            known = f"this version reads 1 to {SCHEMA}"
            raise BadData(f"{path}: has schema {shape.shortened(content['schema'])}, {known}; use the version that wrote it")
        return RunRecord.from_json(content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadData(f"{path}: not a readable record ({error}); delete its folder and run again") from None


@contextmanager
def collection_paused() -> Iterator[None]:
    """Without garbage collection, which takes longer than reading where thousands of records are read and none is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _to_stderr(line: str) -> None:
    print(printable(line.replace("\n", " ")), file=sys.stderr)


def read_all(results_dir: Path, say: Callable[[str], None] = _to_stderr) -> list[RunRecord]:
    """Every readable record of a results folder, sorted by task, model and run id.

    ``say`` is told, a line each, what is skipped because it is damaged (MAX_FAULTS by name, then their number), and which
    fields of a newer version are not understood.
    """
    records, faults = list[RunRecord](), list[str]()
    with collection_paused():
        for folder in record_folders(results_dir, faults.append):
            try:
                records.append(record := read(folder))
                vars(record)["beside"] = read_attribution(folder, record.run_id)
            except BadData as error:
                faults.append(str(error))
    for fault in faults[:MAX_FAULTS]:
        say(f"skipped: {fault}")
    if len(faults) > MAX_FAULTS:
        say(f"skipped: {len(faults) - MAX_FAULTS} more of {len(faults)} like these in {results_dir}")
    if unknown := Counter(name for record in records for name in record.unknown):
        names = ", ".join(f"{name} (in {count})" for name, count in sorted(unknown.items())[:MAX_FAULTS])
        say(f"{results_dir}: records have {len(unknown)} fields that this version does not know, kept but not used: {names}")
    return records


def find(results_dir: Path, task: str, model: str, run_id: str) -> RunRecord | None:
    """The record of one run, or None if it has not been written; ``task`` is the task's label.

    Raises:
        BadData: the record is damaged.
    """
    for folder in run_folders(Path(results_dir) / folder_name(task) / folder_name(model)):
        if id_of(folder) == run_id:
            return read(folder)
    return None
