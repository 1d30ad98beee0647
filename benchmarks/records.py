"""Seconds that reading many records takes: `harness table` as a whole process, and its parts; and `harness verify`.

python benchmarks/records.py [--records 5000] [--verify 200]

Records are made up in a temporary folder: 10 tasks of 2 kinds, 10 models in 5 settings, 10 seeds, some 9 kB each, of which those
with predictions (--verify) have 800 test examples.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.card import ModelCard
from harness.evidence import records, schema
from harness.evidence.identity import grouped, identified
from harness.evidence.leakage import judged
from harness.evidence.metrics import collapsed, limits, scores
from harness.evidence.records import Predictions, RunRecord
from harness.evidence.summary import summary
from harness.files.fingerprint import digest
from harness.recipe import Recipe
from harness.task import CLASSIFICATION, REGRESSION

TASKS, MODELS, SETTINGS, SEEDS = 10, 10, 5, 10
EXAMPLES, EPOCHS = 800, 12


def made(task: int, model: int, setting: int, seed: int, examples: int = EXAMPLES) -> tuple[RunRecord, Predictions]:
    """A record as a run writes it, and the predictions that its scores are those of."""
    kind = REGRESSION if task % 5 == 4 else CLASSIFICATION
    classes = ("expression",) if kind == REGRESSION else ("unbound", "bound")
    of_task = np.random.default_rng(task)
    labels = of_task.normal(size=examples) if kind == REGRESSION else of_task.permutation(np.arange(examples) % 2)
    leaks = [("exact", "train:1") if draw < 0.03 else ("none", "") for draw in of_task.random(examples)]
    noise = np.random.default_rng([task, model, setting, seed]).normal(0, 1 + model / 10, examples)
    if kind == REGRESSION:
        outputs = (labels + noise)[:, None]
    else:
        second = 1 / (1 + np.exp(-(2 * labels - 1 + noise)))
        outputs = np.stack([1 - second, second], axis=1)
    ids = tuple(f"test:{number}" for number in range(examples))
    predictions = Predictions(ids, labels, outputs, classes, leaks=tuple(leaks), kind=kind)
    found, without = limits(outputs, labels, (), kind)
    of_leaks = {"exact": sum(leak == "exact" for leak, _ in leaks)}
    counts = {name: of_leaks.get(name, 0) for name in schema.LEAKS} | {"none": examples - of_leaks["exact"]}
    tested = {"expression": examples} if kind == REGRESSION else {"unbound": examples // 2, "bound": examples // 2}
    recipe = replace(Recipe(), learning_rate=(setting + 1) * 1e-5)
    key = digest([task, model, setting, seed])
    record = RunRecord(
        run_id=f"seed{seed}-{key[:10]}",
        task={
            "name": f"SET{task}",
            "kind": kind,
            "context": None,
            "family": "made",
            "split": "drawn",
            "default_split": "drawn",
            "main_metric": "spearman" if kind == REGRESSION else "accuracy",
            "simulated": False,
            "classes": classes,
            "files": {f"made/SET{task}/{part}.csv": digest([task, part]) for part in ("train", "dev", "test")},
            "question": digest(["question", task]),
            "counts": dict.fromkeys(("train", "validation", "test"), tested),
            "changes": {},
            "notes": [],
            "best_accuracy": None,
        },
        model={
            "name": f"model_{model}",
            "card": asdict(
                ModelCard("a model of this benchmark", "none", "Apache-2.0", "DNA", parameters="7 M", floor=model < 2)
            ),
            "recipe": asdict(Recipe()),
            "checkpoint": None,
            "size": "base",
            "options": {},
            "audit": None,
            "allow_partial": False,
            "notes": [],
            "unknown_tokens": 0.0,
            "parameters": {"trainable": 7_000_000 + model, "total": 7_000_000 + model, "head": 514},
        },
        recipe=asdict(recipe),
        seed=seed,
        code=digest("code"),
        environment={
            "versions": dict.fromkeys(("python", "gfm-harness", "torch", "transformers", "numpy", "scikit-learn"), "1.2.3"),
            "device": "cpu",
            "device_name": "AMD EPYC",
            "precision": "bf16",
            "threads": 2,
            "processes": 1,
        },
        metrics=dict[str, float | None](scores(outputs, labels, kind)),
        intervals={name: list(ends) for name, ends in found.items()},
        without_interval=without,
        leakage=judged(
            predictions, {"leaks": leaks, "counts": counts, "validation": counts, "parameters": {"identity": 0.8, "near": True}}
        ),
        history=[
            {
                "epoch": epoch + 1,
                "train_loss": float(np.exp(-epoch / 7) + setting / 100),
                "validation_log_loss": float(np.exp(-epoch / 9) + model / 100),
                "validation_accuracy": float(1 - np.exp(-epoch / 5) / 3),
                "learning_rate": float(1e-5 / (1 + epoch / 3)),
                "seconds": float(10 + np.sin(epoch)),
            }
            for epoch in range(EPOCHS)
        ],
        collapsed=collapsed(outputs, labels, kind),
        timing={
            "seconds": {"load": 0.31, "train": 123.456 + seed, "compile": 0.0, "evaluate": 1.5, "total": 126.3},
            "examples_per_second": 451.13,
            "peak_memory_bytes": 508_948_480,
            "wait": 0.25,
        },
        created=f"2026-11-{1 + seed:02}T17:{model:02}:{setting:02}.567+00:00",
    )
    return record, predictions


def fill(folder: Path, number: int) -> None:
    """Write records without predictions; all seeds of a cell have the same scores, so that this takes seconds."""
    cells = itertools.product(range(TASKS), range(MODELS), range(SETTINGS))
    for task, model, setting in cells:
        record, _ = made(task, model, setting, 0, 100)
        for seed in range(SEEDS):
            if number == 0:
                return
            number -= 1
            run_id = f"seed{seed}-{digest([task, model, setting, seed])[:10]}"
            one = replace(record, seed=seed, run_id=run_id, created=f"2026-11-{1 + seed:02}T17:{model:02}:{setting:02}.567+00:00")
            records.write(one, None, folder)


def seconds(what: str, function: Callable[[], Any], repeats: int = 3) -> Any:
    """Print the least of some timings, and return what the function returned last."""
    taken, found = [], None
    for _ in range(repeats):
        begun = time.perf_counter()
        found = function()
        taken.append(time.perf_counter() - begun)
    print(f"{what:<52}{min(taken):8.2f} s", flush=True)
    return found


def command(*arguments: str) -> None:
    """`harness …` as a process of its own."""
    done = subprocess.run([sys.executable, "-m", "harness", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=TASKS * MODELS * SETTINGS * SEEDS)
    parser.add_argument("--verify", type=int, default=200, help="Records with predictions.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "results")
        fill(folder, asked.records)
        size = sum(path.stat().st_size for path in folder.rglob("record.json"))
        print(f"{asked.records} records of {size / asked.records / 1000:.1f} kB")
        seconds("python -c 'import pandas'", lambda: subprocess.run([sys.executable, "-c", "import pandas"], check=True))
        seconds("harness --help", lambda: command("--help"))
        seconds("harness table", lambda: command("table", "--results", str(folder)))
        found = seconds("read_all", lambda: records.read_all(folder))
        seconds("identified and grouped", lambda: grouped(identified(found)))
        seconds("summary", lambda: summary(found))
        if asked.verify:
            folder = Path(temporary, "verified")
            cells = list(itertools.product(range(TASKS), range(MODELS), range(SETTINGS), range(SEEDS)))
            for cell in cells[:: max(len(cells) // asked.verify, 1)][: asked.verify]:
                records.write(*made(*cell), folder)
            seconds(f"harness verify, {asked.verify} records", lambda: command("verify", str(folder)), repeats=1)


if __name__ == "__main__":
    main()
