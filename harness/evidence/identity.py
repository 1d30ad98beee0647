"""What is the same in tables, and what it is called: rows, columns, and the settings of runs within a cell."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar

from harness.files.fingerprint import digest
from harness.recipe import used_settings
from harness.task import KINDS

from .cells import Column, Row
from .records import RunRecord, data_digest

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Setting:
    """How a model was run, apart from what its row says. Runs of two settings are never averaged.

    ``recipe`` is JSON text of the settings that its way of tuning uses. ``device`` is a type such as ``cuda``, ``precision``
    what it computed in. ``input`` is the sha256 over the task's files where a model reads an alignment, which the column
    leaves open; else empty.
    """

    recipe: str
    device: str
    precision: str
    input: str

    @property
    def computed(self) -> str:
        """Device and precision, e.g. ``cpu in bf16``."""
        return f"{self.device or 'unknown device'} in {self.precision or 'unknown precision'}"


@dataclass(frozen=True)
class Runs:
    """The runs of one setting in one cell: ``all``, and those ``counted``, one a seed and all of one version of the code."""

    all: tuple[RunRecord, ...]
    counted: tuple[RunRecord, ...]

    @property
    def left_out(self) -> list[int]:
        """The seeds that only another version of the code ran."""
        return sorted({run.seed for run in self.all} - {run.seed for run in self.counted})


Found = dict[tuple[Row, Column], dict[Setting, Runs]]
Usual = Mapping[tuple[Row, Column], Mapping[str, Any]]


def _kept(compute: Callable[[RunRecord], Value]) -> Callable[[RunRecord], Value]:
    """The function, computed once for each record and kept with it: records do not change."""
    name = f"_{compute.__name__}"

    @wraps(compute)
    def kept(record: RunRecord) -> Value:
        known = vars(record)
        if name not in known:
            known[name] = compute(record)
        return known[name]

    return kept


# --- runs, grouped by what is the same -----------------------------------------------------------------------------------


def identified(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Records whose checkpoints and questions are identified as well as can be.

    Records of version 0.1.0 know the sha256 of the weight file alone, and no question. They get the fingerprint that newer
    records hold for that file, and the question that newer ones hold for the same task, split and data, if it is only one.
    """
    records = list(records)
    fingerprints: dict[str, set[str]] = defaultdict(set)
    questions: dict[Column, set[str]] = defaultdict(set)
    for record in records:
        if (checkpoint := record.model["checkpoint"]) and checkpoint["fingerprint"] != checkpoint["sha256"]:
            fingerprints[checkpoint["sha256"]].add(checkpoint["fingerprint"])
        if question := record.task.get("question"):
            questions[_by_data(record)].add(question)

    def completed(record: RunRecord) -> RunRecord:
        task, model = record.task, record.model
        if (checkpoint := model["checkpoint"]) and checkpoint["fingerprint"] == checkpoint["sha256"]:
            found = fingerprints[checkpoint["sha256"]]
            model = model | ({"checkpoint": checkpoint | {"fingerprint": min(found)}} if len(found) == 1 else {})
        if not task.get("question") and len(found := questions[_by_data(record)]) == 1:
            task = task | {"question": min(found)}
        return record if (task, model) == (record.task, record.model) else replace(record, task=task, model=model)

    return [completed(record) for record in records]


@_kept
def row_of(record: RunRecord) -> Row:
    """What answered."""
    model = record.model
    weights = model["checkpoint"] and model["checkpoint"]["fingerprint"]
    options = json.dumps(model["options"], sort_keys=True)
    return Row(model["name"], weights, model["size"], options, record.recipe["tune"], model["card"]["floor"])


@_kept
def column_of(record: RunRecord) -> Column:
    """What was asked."""
    column = _by_data(record)
    return replace(column, data=record.task.get("question") or column.data)


@_kept
def _by_data(record: RunRecord) -> Column:
    task = record.task
    data, negatives = data_digest(task["files"]), task.get("negatives", "")
    return Column(task["name"], task.get("context"), task["simulated"], task["split"], data, record.kind, negatives)


def usual_recipes(records: Iterable[RunRecord]) -> Usual:
    """By row and column, the row's published settings for such tasks: each setting as the newest run that knows it has it."""
    records = sorted(records, key=age)
    newest: dict[tuple[Row, str], dict[str, Any]] = defaultdict(dict)
    for record in records:
        newest[row_of(record), record.task["family"]] |= record.model["recipe"]
    return {(row_of(record), column_of(record)): newest[row_of(record), record.task["family"]] for record in records}


def setting_of(record: RunRecord, usual: Mapping[str, Any]) -> Setting:
    """How a model was run. A setting that a record does not know yet had its ``usual`` value."""
    recipe, environment = {**usual, **record.recipe}, record.environment
    aligned = record.model["card"].get("reads") == "alignment"
    return Setting(
        json.dumps(_used(recipe), sort_keys=True),
        environment.get("device") or "",
        environment.get("precision") or recipe.get("precision") or "",
        data_digest(record.task["files"]) if aligned else "",
    )


def setting_code(row: Row, setting: Setting) -> str:
    """A row and a setting as eight hex digits."""
    return digest([asdict(row), asdict(setting)])[:8]


def _used(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a way of tuning uses. Precision is not among them: what it came to is part of :class:`Setting`."""
    return {name: recipe[name] for name in _settings_of(recipe["tune"]) if name in recipe}


@cache
def _settings_of(tune: str) -> list[str]:
    return [name for name in used_settings(tune) if name != "precision"]


def grouped(records: Iterable[RunRecord], usual: Usual | None = None) -> Found:
    """Runs by cell and setting, the oldest setting first; ``usual`` is :func:`usual_recipes` of them, if known.

    Of several versions of the code, the newest with a finished run counts; of several runs of a seed, the newest.
    """
    records = sorted(records, key=age)
    usual = usual_recipes(records) if usual is None else usual
    gathered: dict[tuple[Row, Column], dict[Setting, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        key = row_of(record), column_of(record)
        gathered[key][setting_of(record, usual[key])].append(record)
    return {key: {setting: _counted(runs) for setting, runs in settings.items()} for key, settings in gathered.items()}


def _counted(runs: Sequence[RunRecord]) -> Runs:
    code = max(runs, key=lambda run: (run.finished, age(run))).code
    seeds = {run.seed: run for run in runs if run.code == code}
    return Runs(tuple(runs), tuple(seeds.values()))


def age(record: RunRecord) -> tuple[str, str]:
    """Sorts the oldest run first."""
    return record.created, record.run_id


@dataclass(frozen=True)
class Arranged:
    """Records, grouped for tables; the same for every metric. ``records`` are :func:`identified`."""

    records: list[RunRecord]
    found: Found
    usual: Usual

    @classmethod
    def of(cls, records: Iterable[RunRecord] | Arranged) -> Arranged:
        """The records, arranged unless they are already."""
        if isinstance(records, Arranged):
            return records
        known = identified(records)
        usual = usual_recipes(known)
        return cls(known, grouped(known, usual), usual)

    def by_kind(self) -> dict[str, Arranged]:
        """Those of each kind of task, in the order of KINDS, of kinds that have any."""
        found = {}
        for kind in KINDS:
            if records := [record for record in self.records if record.kind == kind]:
                runs = {key: settings for key, settings in self.found.items() if key[1].kind == kind}
                found[kind] = Arranged(records, runs, self.usual)
        return found

    @cached_property
    def main(self) -> dict[tuple[Row, Column], Setting]:
        """The :func:`main_setting` of each cell."""
        return {key: main_setting(settings, self.usual[key]) for key, settings in self.found.items()}

    @cached_property
    def texts(self) -> dict[tuple[Row, Column, Setting], str]:
        """What :func:`setting_texts` calls the settings."""
        return setting_texts(self.found, self.usual)


# --- settings, compared with the model's own -----------------------------------------------------------------------------


def changes(runs: Runs, usual: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in which runs differ from the usual ones; how they are tuned is in the row's label already."""
    found = []
    for run in runs.counted:
        used = _used(run.recipe) | ({"precision": run.recipe["precision"]} if "precision" in run.recipe else {})
        found.append({name: value for name, value in used.items() if name != "tune" and value != usual.get(name)})
    return min(found, key=len)  # they can differ in the precision only, which may be asked for or come of itself


def main_setting(settings: Mapping[Setting, Runs], usual: Mapping[str, Any]) -> Setting:
    """The setting that stands for a model: its own recipe, else the newest that finished; never chosen by its scores.

    Of several with its own recipe (on other devices, in other precisions), the one with most finished seeds.
    """

    def rank(setting: Setting) -> tuple[bool, int, tuple[str, str]]:
        runs = settings[setting].counted
        finished, own = sum(run.finished for run in runs), not changes(settings[setting], usual)
        return own, finished if own else min(finished, 1), max(map(age, runs))

    return max(settings, key=rank)


def setting_texts(found: Found, usual: Usual) -> dict[tuple[Row, Column, Setting], str]:
    """What sets each setting apart from the others of its row, e.g. ``learning_rate 1e-05``; empty for the model's own."""
    computed: dict[Row, set[str]] = defaultdict(set)
    inputs: dict[tuple[Row, Column, Setting], dict[str, Mapping[str, str]]] = defaultdict(dict)
    keys = [(row, column, setting) for (row, column), settings in found.items() for setting in settings]
    for row, column, setting in keys:
        computed[row].add(setting.computed)
        inputs[row, column, replace(setting, input="")][setting.input] = found[row, column][setting].all[-1].task["files"]

    def text(row: Row, column: Column, setting: Setting) -> str:
        parts = [f"{name} {value}" for name, value in changes(found[row, column][setting], usual[row, column]).items()]
        parts += [f"on {setting.computed}"] if len(computed[row]) > 1 else []
        read = inputs[row, column, replace(setting, input="")]
        return ", ".join([*parts, *([f"input {_input_text(setting.input, read)}"] if len(read) > 1 else [])])

    return {key: text(*key) for key in keys}


def _input_text(one: str, inputs: Mapping[str, Mapping[str, str]]) -> str:
    """What one of several inputs (digest → name → sha256) has that the others lack: names of files, with a piece of the sha256
    where the names are the same; a piece of its digest if that is nothing."""
    others = [files for digest, files in inputs.items() if digest != one]
    own = {name: sha256 for name, sha256 in inputs[one].items() if any(files.get(name) != sha256 for files in others)}
    names = [f"{name} {sha256[:6]}" if any(name in files for files in others) else name for name, sha256 in own.items()]
    return " + ".join(names) or one[:6]


# --- labels --------------------------------------------------------------------------------------------------------------


def model_label(record: RunRecord, checkpoint: str = "", setting: str = "") -> str:
    """A model and what sets this use of it apart, e.g. ``kmer (floor)`` or ``msamamba (untrained, probe)``.

    ``checkpoint`` is what to call the weights, by default the name of their file.
    """
    model, tune = record.model, record.recipe["tune"]
    card, usual = model["card"], model["recipe"]["tune"]
    facts = ["floor"] if card["floor"] else []
    if model["checkpoint"]:
        facts.append(checkpoint or model["checkpoint"]["name"])
    elif tune in ("probe", "zero") and tune != usual:
        facts.append("untrained")
    elif card.get("checkpoint") or card.get("get"):
        facts.append("from scratch")
    if tune != usual:
        facts.append(tune)
    if model["size"] != "base":
        facts.append(f"size {model['size']}")
    facts += [f"{name}={value}" for name, value in sorted(model["options"].items())]
    facts += [setting] if setting else []
    return f"{model['name']} ({', '.join(facts)})" if facts else model["name"]


def row_labels(members: Iterable[tuple[Row, RunRecord]]) -> dict[Row, str]:
    """Rows in their order, floors first, and their labels.

    A checkpoint is called by its file's name; where that does not tell rows apart, by folder and file; else by file and a
    piece of the fingerprint. Of several copies of a checkpoint, the newest run's is named.
    """
    newest = dict(sorted(members, key=lambda member: age(member[1])))
    candidates = {}
    for row, record in newest.items():
        names = [""]
        if checkpoint := record.model["checkpoint"]:
            path = Path(*Path(checkpoint["source"]).parts[-2:])
            names = ["", path.as_posix(), f"{checkpoint['name']} {checkpoint['fingerprint'][:8]}"]
        candidates[row] = [model_label(record, name, row.setting) for name in names]
    labels = _distinct(candidates)
    return dict(sorted(labels.items(), key=lambda item: (not item[0].floor, item[1])))


def column_labels(records: Iterable[RunRecord]) -> dict[Column, str]:
    """Columns in their order, real data before simulated, and their labels, with no more in them than sets them apart."""
    tasks = {column_of(record): record.task for record in sorted(records, key=age)}
    ordered = sorted(
        tasks, key=lambda column: (column.simulated, tasks[column]["family"], column.task, column.split, column.data)
    )
    candidates = {}
    for column in ordered:
        split, data = f" [{column.split}]", f" data {column.data[:6]}"
        usual = column.task + ("" if column.split == tasks[column]["default_split"] else split)
        whole = column.task + split + data
        candidates[column] = [usual, usual + data, whole, f"{whole} {column.kind}"]
    return _distinct(candidates)


def _distinct(candidates: Mapping[Key, Sequence[str]]) -> dict[Key, str]:
    """For each key, the first of its candidates that no other key has among its own; else its last."""
    found = Counter(text for texts in candidates.values() for text in dict.fromkeys(texts))
    return {key: next((text for text in texts if found[text] == 1), texts[-1]) for key, texts in candidates.items()}
