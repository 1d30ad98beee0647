"""Made-up records and published numbers, for the tests of tables."""

from dataclasses import asdict, replace

from harness.card import ModelCard
from harness.evidence.published import Published
from harness.evidence.records import RunRecord
from harness.evidence.render import as_text
from harness.recipe import Recipe

PROBE = Recipe(tune="probe")


def record(model="msamamba", task="QKI", accuracy=0.9, seed=0, minute=0, **changes) -> RunRecord:
    floor = model in ("kmer", "gc", "cnn")
    usual = PROBE if model in ("kmer", "gc") else Recipe()
    recipe = changes.pop("recipe", usual)
    facts = {name: changes.pop(name) for name in ("checkpoint", "size", "options") if name in changes}
    split, files = changes.pop("split", "thesis"), changes.pop("files", {"train.csv": "aa"})
    card = ModelCard("", "", "", "DNA", floor=floor, checkpoint="msamamba.pt" if model == "msamamba" else None)
    asked = {name: changes.pop(name) for name in ("question", "counts", "classes", "main_metric", "kind") if name in changes}
    card = replace(card, reads=changes.pop("reads", "sequence"))
    simulated, context = task.endswith(" (sample)"), changes.pop("context", None)
    made = {
        "run_id": f"seed{seed}-{minute:010}",
        "task": {
            "name": task.removesuffix(" (sample)"),
            "context": context,
            "family": "rbp",
            "split": split,
            "default_split": "thesis",
            "simulated": simulated,
            "classes": ("unbound", "bound"),
            "files": files,
            "best_accuracy": 0.96 if simulated else None,
        }
        | asked,
        "model": {"name": model, "card": asdict(card), "recipe": asdict(usual)}
        | {"checkpoint": None, "size": "base", "options": {}}
        | facts,
        "recipe": asdict(recipe),
        "seed": seed,
        "code": "c0de",
        "metrics": {"accuracy": accuracy, "log_loss": 1 - accuracy, "auroc": None},
        "timing": {"seconds": {"total": 2.0}, "examples_per_second": 50.0, "peak_memory_bytes": 7},
        "created": f"2030-01-01T00:{minute:02}:00.000+00:00",
    }
    return RunRecord(**(made | changes))


def computed(device="cpu", precision="bf16") -> dict[str, dict[str, str]]:
    """What a record says of the machine it ran on."""
    return {"environment": {"device": device, "precision": precision}}


def failed(**changes) -> RunRecord:
    return record(status="failed", error="RunFailed: loss is nan\nsecond line", metrics={}, **changes)


def checkpoint(source="/weights/msamamba.pt", fingerprint="f1", sha256="aa") -> dict[str, str]:
    return {"name": source.split("/")[-1], "source": source, "fingerprint": fingerprint, "sha256": sha256}


def published(**changes) -> Published:
    facts = {"source": "Doe 2020", "table": "Table 2", "model": "BERT", "task": "QKI", "metric": "accuracy"}
    return Published(**(facts | {"value": "0.80", "sd": "", "n": "", "split": "thesis", "note": ""} | changes))


def labels(table) -> list[str]:
    return list(table.rows.values())


def cells(table) -> dict[tuple[str, str], str]:
    grid = as_text(table)
    return {(row[0], column): cell for row in grid.rows for column, cell in zip(grid.header, row) if column != "model"}
