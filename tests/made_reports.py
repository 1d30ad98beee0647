"""Made-up results folders with predictions, for the tests of reports."""

from __future__ import annotations

import json
import sys
import types
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from made_records import record

from harness.evidence.comparison import wide
from harness.evidence.metrics import intervals, scores
from harness.evidence.records import Predictions, read_all, write
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION

HOSTILE = "</script><img src=x onerror=alert(1)>"
VERSIONS = {
    "versions": {"python": "3.11.7", "gfm-harness": "0.1.0"},
    "device": "cpu",
    "device_name": "AMD EPYC",
    "precision": "float32",
}


def answers(kind: str, skill: float, seed: int, count: int = 300, classes: int = 2) -> Predictions:
    """Predictions that are the better, the higher ``skill``; the labels are the same whatever the model."""
    labels_of, rng = np.random.default_rng(classes), np.random.default_rng([seed, round(skill * 1000)])
    ids = tuple(f"w{i}" for i in range(count))
    if kind == REGRESSION:
        truth = labels_of.normal(1000, 50, count)
        return Predictions(ids, truth, (truth + rng.normal(0, 40 / skill, count))[:, None], ("activity",), kind=kind)
    if kind == MULTILABEL:
        labels = np.int64(labels_of.random((count, 3)) < 0.4)
        outputs = 1 / (1 + np.exp(-(skill * (2 * labels - 1) + rng.normal(0, 1, labels.shape))))
        return Predictions(ids, labels, outputs, ("liver", "brain", "lung"), kind=kind)
    labels = labels_of.integers(0, classes, count)
    logits = skill * (labels[:, None] == np.arange(classes)) + rng.normal(0, 1, (count, classes))
    outputs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(ids, labels, outputs, ("unbound", "bound", "nearby")[:classes])


def put(
    results: Path, model="msamamba", task="QKI", skill=2.0, seed=0, kind=CLASSIFICATION, classes=2, epochs=6, count=300, **more
):
    """Write one run with predictions, and the scores that follow from them."""
    made = answers(kind, skill, seed, count, classes)
    asked = {} if kind == CLASSIFICATION else {"kind": kind}
    if kind == REGRESSION:
        asked["main_metric"] = "spearman"
    losses = [0.7 / (1 + 0.2 * skill * epoch) + 0.01 * ((seed + epoch) % 3) for epoch in range(1, epochs + 1)]
    history = [{"epoch": i, "train_loss": loss - 0.02, "validation_log_loss": loss} for i, loss in enumerate(losses, 1)]
    timing = {"seconds": {"train": 3.0 * skill, "total": 4.0 * skill}, "peak_memory_bytes": 1 << 28}
    facts = {"metrics": scores(made.outputs, made.labels, kind), "history": history, "timing": timing, "environment": VERSIONS}
    facts["intervals"] = intervals(made.outputs, made.labels, made.blocks, kind)
    counts = {"train": {"bound": 1000}, "test": {"unbound": count // 2, "bound": count - count // 2}}
    run = record(model, task, seed=seed, classes=made.classes, counts=counts, **asked | facts | more)
    run.model["parameters"] = {"trainable": 10 ** (3 + skill), "total": 10 ** (3 + skill) + 7}
    return write(run, made, results)


def study(results: Path, models: int = 4, tasks: int = 3, seeds: int = 2, count: int = 300) -> Path:
    """Floors and models on binary tasks, better from one to the next."""
    for number in range(models):
        name = ("gc", "kmer")[number] if number < 2 else f"model{number}"
        for task in range(tasks):
            for seed in range(seeds):
                put(results, name, f"RBP{task}", 0.6 + 0.25 * number + 0.1 * task, seed, minute=number, count=count)
    return results


def search(results: Path, model="cnn", task="QKI", **changes) -> Path:
    """Write a search of six trials, as `harness search` does."""
    rng = np.random.default_rng(0)
    trials = []
    for number in range(6):
        settings = {"learning_rate": float(10 ** rng.uniform(-5, -2)), "batch_size": int(rng.choice([16, 32])), "head": "linear"}
        state = "finished" if number < 4 else "pruned" if number == 4 else "failed"
        value = None if state == "failed" else float(0.3 + rng.random() / 5)
        trials.append(
            {"number": number, "settings": settings, "value": value, "epochs": 3, "seconds": 2.0, "state": state, "error": None}
        )
    space = {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True, "step": None}, "batch_size": {"choices": [16, 32]}}
    content = {
        "model": model, "task": task, "objective": "log_loss", "space": space | {"head": {"choices": ["linear", "tanh"]}},
        "budget": {"trials": 6, "epochs": 18}, "trials": trials, "chosen": 1, "seconds": 12.5,
        "importance": {"learning_rate": 0.8, "batch_size": 0.15, "head": 0.05}, "baseline": {"settings": {}, "value": 0.41},
    }  # fmt: skip
    folder = results / "search" / "QKI" / "cnn" / f"s{len(list(results.glob('search/*/*/*')))}"
    folder.mkdir(parents=True)
    path = folder / "search.json"
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def compare_all(results, *, metric, say):
    """Every pair of models in each task, by kind of task; whether they can be told apart is made up."""
    records = [run for folder in results for run in read_all(folder, say) if metric in run.metrics]
    return {kind: comparison([run for run in records if run.kind == kind], metric) for kind in {run.kind for run in records}}


def comparison(records, metric):
    table, pairs = wide(records, metric), []
    for column, label in table.columns.items():
        for one, other in combinations([row for row in table.means(column) if row.own], 2):
            scores, names = tuple(table.means(column)[row] for row in (one, other)), (table.rows[one], table.rows[other])
            difference = scores[0] - scores[1]
            better = None if abs(difference) < 0.05 else names[difference < 0]
            facts = {"metric": metric, "column": column, "task": label, "models": (one, other), "names": names, "scores": scores}
            tests = {
                "p": 0.00001,
                "adjusted": 0.04,
                "mcnemar": 0.5,
                "detectable": 0.0195,
                "interval": (difference - 0.01, difference + 0.02),
            }
            rest = {
                "examples": 300,
                "blocks": 300,
                "seeds": (0,),
                "sentence": f"{names[0]} and {names[1]}: a verdict",
                "notes": (),
            }
            pairs.append(SimpleNamespace(difference=difference, better=better, **facts, **tests, **rest))
    rank = SimpleNamespace(mean=1.25, interval=(1.0, 1.75), wins=3, ties=2, losses=1, tasks=6)
    ranks = {label: rank for row, label in table.rows.items() if row.own}
    return SimpleNamespace(metric=metric, differences=tuple(pairs), ranks=ranks, notes=("what the tests suppose",))


def with_pairs(monkeypatch) -> None:
    """Made-up differences instead of statistics, which have tests of their own and take their time."""
    module = types.ModuleType("harness.evidence.compare")
    module.compare_all = compare_all
    monkeypatch.setitem(sys.modules, module.__name__, module)
