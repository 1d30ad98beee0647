"""What a report says in words: what to know before reading, flags of runs, and how each number was made."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from harness.progress import figure as number

from ..cells import BEST, COLLAPSED, Column, Row
from ..identity import changes, column_of
from ..notes import listed
from ..records import RunRecord
from ..sensitivity import insensitive
from ..subsets import MAX_LEAKING, leaking_share
from .gather import Gathered, Group

CUT = ("truncat", "cut off", "cut to", "too long")  # words by which an event says that windows were shortened


@dataclass(frozen=True)
class Flag:
    """What a reader must know of some runs of a cell. ``which`` is a short name of its kind."""

    which: str
    model: str
    task: str
    seeds: str
    words: str
    target: str


@dataclass(frozen=True)
class Entry:
    """How the number of a cell was made: (name, value) pairs, and a line for each run."""

    target: str
    model: str
    task: str
    notes: Sequence[str]
    facts: Sequence[tuple[str, str]]
    runs: Sequence[Mapping[str, str]]


def targets(groups: Sequence[Group]) -> dict[tuple[str, Row, Column], str]:
    """A name for each cell, by which a page links to how it was made; published numbers have one too."""
    keys = dict.fromkeys(
        (group.kind, row, column)
        for group in groups
        for table in group.tables.values()
        for row, column in table.cells
        if row != BEST
    )
    return {key: f"c{place}" for place, key in enumerate(keys)}


# --- what to know before reading -----------------------------------------------------------------------------------------


def warnings(gathered: Gathered) -> list[tuple[str, str]]:
    """(what, sentence) on what is simulated, untrained, incomparable, or not in the report."""
    return [warning for group in gathered.groups for warning in _of_group(group, len(gathered.groups) > 1)] + list(
        _of_all(gathered)
    )


def _of_group(group: Group, several: bool) -> Iterator[tuple[str, str]]:
    columns, where = group.table.columns, f" ({group.kind} tasks)" if several else ""
    if simulated := [label for column, label in columns.items() if column.simulated]:
        yield "Simulated", f"{listed(simulated)}: made-up data, which says nothing about the real sets."
    drawn = {
        group.rows[row]
        for (row, _), runs in group.cells.items()
        if row in group.rows and not row.floor and row.weights is None and any(_has_weights(run) for run in runs.counted)
    }
    if drawn:
        what = "weights drawn at random instead of the published ones; these scores say nothing about the published models"
        yield "Untrained", f"{listed(sorted(drawn))}: {what}."
    if sized := sorted({group.rows[row] for row in group.rows if row.size != "base" and not row.floor}):
        yield "Other sizes", f"{listed(sized)}: not the size that the papers use."
    if published := {row for table in group.tables.values() for row in table.rows if row.source}:
        what = "printed in papers, whose protocols, seeds and selection differ from ours"
        rows = "1 row holds" if len(published) == 1 else f"{len(published)} rows hold"
        yield "Published", f"{rows} numbers {what}{where}; no test compares them with our runs."
    searched = {group.rows[row] for (row, _), runs in group.cells.items() for run in runs.counted if run.model.get("search")}
    if searched and (plain := {label for row, label in group.rows.items() if not row.floor} - searched):
        what = "were chosen by a search on the validation split, those of"
        yield "Searched", f"Settings of {listed(sorted(searched))} {what} {listed(sorted(plain))} were not."
    if mixed := _mixed_code(group):
        what = "differences between these numbers may be due to the code (see how each was made)"
        yield "Versions of the code", f"Not all runs of {listed(mixed)} are of one version{where}; {what}."
    devices = Counter(_device(run) for runs in group.cells.values() for run in runs.counted if run.finished)
    if len(devices) > 1:
        yield (
            "Devices",
            f"Runs on {listed(f'{name} ({count})' for name, count in sorted(devices.items()))}{where}: costs differ by machine.",
        )
    if group.left_out:
        total, why = sum(group.left_out.values()), listed(f"{count} {reason}" for reason, count in sorted(group.left_out.items()))
        yield "Left out", f"{total} run{'s do' if total > 1 else ' does'} not count{where}: {why}."


def _of_all(gathered: Gathered) -> Iterator[tuple[str, str]]:
    if len(gathered.groups) > 1:
        kinds = listed(group.kind for group in gathered.groups)
        yield (
            "Kinds of task",
            f"Tasks of different kinds ({kinds}) are not compared: each kind has tables and figures of its own.",
        )
    for fault in gathered.faults:
        yield "Skipped", fault
    if gathered.missing:
        first = next(iter(gathered.missing.values()))
        what = f"{len(gathered.missing)} finished runs have no readable predictions, so curves and differences lack them"
        yield "No predictions", f"{what}; the first: {first}"


def _mixed_code(group: Group) -> list[str]:
    """Models whose runs on one task are of several versions of the code, whose digest is of the model's and the task's, too."""
    codes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for runs in group.cells.values():
        for run in runs.counted:
            codes[run.model["name"], run.task["name"]].add(run.code)
    return sorted({f"{model} on {task}" for (model, task), found in codes.items() if len(found) > 1})


def _has_weights(run: RunRecord) -> bool:
    card = run.model["card"]
    return bool(card.get("checkpoint") or card.get("get"))


def _device(run: RunRecord) -> str:
    environment = run.environment
    name = environment.get("device_name") or environment.get("device") or "an unknown device"
    return f"{name} in {environment.get('precision') or 'unknown precision'}"


# --- flags ---------------------------------------------------------------------------------------------------------------


def flags(group: Group, names: Mapping[tuple[str, Row, Column], str]) -> list[Flag]:
    """What a reader must know of single cells: failures, and scores that mean less than they seem to."""
    found = []
    for (row, column), runs in group.cells.items():
        if row not in group.rows or column not in group.table.columns:
            continue
        said: dict[tuple[str, str], list[int]] = defaultdict(list)
        for run in sorted(runs.counted, key=lambda run: run.seed):
            for which, words in _of_run(run):
                said[which, words].append(run.seed)
        where = group.rows[row], group.table.columns[column]
        found += [
            Flag(which, *where, listed(seeds), words, names[group.kind, row, column]) for (which, words), seeds in said.items()
        ]
    for row, column, run in group.failed:
        if row in group.rows and column in group.table.columns:
            words = f"{_reason(run)} (with another setting than the one shown)"
            target = names[group.kind, row, column]
            found.append(Flag("failed", group.rows[row], group.table.columns[column], str(run.seed), words, target))
    order = ["failed", COLLAPSED, "truncated", "partial weights", "insensitive to the alignment", "leaky"]
    return sorted(found, key=lambda flag: (order.index(flag.which) if flag.which in order else len(order), flag.model, flag.task))


def _reason(run: RunRecord) -> str:
    return next(iter(str(run.error).strip().splitlines()), "")


def _of_run(run: RunRecord) -> Iterator[tuple[str, str]]:
    if not run.finished:
        yield "failed", _reason(run)
    audit = run.model.get("audit") or {}
    if missing := audit.get("missing") or ():
        yield (
            "partial weights",
            f"{audit.get('matched')} of {audit.get('expected')} tensors; {len(missing)} stayed random ({listed(missing[:3])}…)",
        )
    elif run.model.get("allow_partial"):
        yield "partial weights", "a checkpoint of other tensors was allowed"
    if insensitive(run.alignment):
        yield "insensitive to the alignment", "it predicts the same without its alignment"
    if (share := leaking_share(run)) is not None and share > MAX_LEAKING:
        yield "leaky", f"{share:.1%} of the test examples repeat, overlap or resemble training examples"
    for text in [*run.flags, *(run.model.get("notes") or ()), *(run.task.get("notes") or ())]:
        if run.collapsed and text == run.flags[0]:
            yield COLLAPSED, text.removeprefix("collapsed: ")
        else:
            yield "truncated" if any(word in text.lower() for word in CUT) else "note", text


# --- how each number was made --------------------------------------------------------------------------------------------


def entries(group: Group, names: Mapping[tuple[str, Row, Column], str], environments: Sequence[Mapping[str, str]]) -> list[Entry]:
    """An entry for each cell that has runs, then for each published number."""
    notes: dict[tuple[Row, Column], dict[str, None]] = defaultdict(dict)
    printed: dict[tuple[Row, Column], list[tuple[str, str]]] = defaultdict(list)
    labels: dict[Row, str] = {}
    for metric, table in group.tables.items():
        labels |= table.rows
        for key, cell in table.cells.items():
            notes[key] |= dict.fromkeys(cell.notes)
            if key[0].source:
                printed[key].append((metric, cell.printed))
    found = []
    for row, column in product(group.rows, group.table.columns):
        if runs := group.cells.get((row, column)):
            target, where = names[group.kind, row, column], (labels[row], group.table.columns[column])
            lines = [_run(run, environments) for run in sorted(runs.counted, key=lambda run: run.seed)]
            found.append(Entry(target, *where, list(notes[row, column]), _facts(runs.counted[-1], runs), lines))
    for (row, column), numbers in printed.items():
        facts = [("source", row.source), ("adapter", row.adapter), *numbers]
        where = names[group.kind, row, column], labels[row], group.table.columns[column]
        found.append(Entry(*where, list(notes[row, column]), [fact for fact in facts if fact[1]], []))
    return found


def _facts(run: RunRecord, runs: Any) -> list[tuple[str, str]]:
    model, usual = run.model, run.model["recipe"]
    changed = {name: f"{value} (published: {usual.get(name)})" for name, value in changes(runs, usual).items()}
    recipe = {name: json.dumps(value) if isinstance(value, list) else str(value) for name, value in run.recipe.items()} | changed
    checkpoint, audit, parameters = model["checkpoint"], model.get("audit") or {}, model.get("parameters") or {}
    weights = "none: drawn from the seed"
    if checkpoint:
        weights = f"{checkpoint['source']}, sha256 {checkpoint['sha256']}, of all files {checkpoint['fingerprint']}"
    search = model.get("search")
    facts = [
        ("weights", weights),
        ("tensors", f"{audit['matched']} of {audit['expected']} from the checkpoint" if "matched" in audit else ""),
        ("size", "" if model["size"] == "base" else model["size"]),
        ("options", ", ".join(f"{name}={value}" for name, value in model["options"].items())),
        ("parameters", ", ".join(f"{value:,} {name}" for name, value in parameters.items() if value is not None)),
        ("cost", f"{passes} forward passes for each window" if (passes := model.get("forward_passes")) else ""),
        ("recipe", ", ".join(f"{name} {value}" for name, value in recipe.items())),
        ("search", ", ".join(f"{name} {value}" for name, value in search.items()) if isinstance(search, Mapping) else ""),
        ("code", f"sha256 {run.code}"),
        ("paper", model["card"].get("paper") or ""),
    ]
    return [fact for fact in facts if fact[1]]


def _run(run: RunRecord, environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """A line on a run: its seed, its main score, costs, when, where, and what its folder is."""
    seconds, memory = run.seconds, run.timing.get("peak_memory_bytes")
    score = run.metrics.get(run.task.get("main_metric") or "accuracy")
    return {
        "seed": str(run.seed),
        "score": "failed" if not run.finished else "" if score is None else number(score),
        "seconds": "" if seconds is None else f"{seconds:,.1f}",
        "MiB": "" if memory is None else f"{memory / 2**20:,.0f}",
        "environment": f"E{environments.index(environment(run)) + 1}",
        "created": run.created[:19].replace("T", " "),
        "folder": run.folder.as_posix(),
    }


def environment(run: RunRecord) -> dict[str, str]:
    """What a run ran on and with, in words."""
    found = run.environment
    versions = found.get("versions") or {}
    return {
        "device": _device(run),
        "threads": str(found.get("threads") or ""),
        "processes": str(found.get("processes") or ""),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def data(group: Group) -> list[dict[str, Any]]:
    """What each column asks, as its newest run that counts has it: numbers of examples, classes, and files with checksums."""
    tasks: dict[Column, RunRecord] = {}
    for runs in group.cells.values():
        for run in runs.counted:
            tasks[column_of(run)] = run
    return [_data(group.table.columns[column], tasks[column]) for column in group.table.columns if column in tasks]


def _data(label: str, run: RunRecord) -> dict[str, Any]:
    task, counts = run.task, run.task.get("counts") or {}
    sizes = [f"{sum(of.values()):,} {part}" for part, of in counts.items()] if run.kind != "multilabel" else []
    leaks = run.leakage.get("counts") or {}
    return {
        "task": label,
        "split": task["split"],
        "examples": ", ".join(sizes) or listed(f"{part}: {of}" for part, of in counts.items()),
        "classes": listed(task["classes"]),
        "leaks": ", ".join(f"{count:,} {name}" for name, count in leaks.items()) or "not looked for",
        "changes": ", ".join(f"{name} {value}" for name, value in (task.get("changes") or {}).items()),
        "files": sorted(task["files"].items()),
    }
