"""gfm-harness: genomic foundation models behind one interface, on the same data, in the same way.

For notebooks, the same words as on the command line::

    record = harness.run(model="kmer", task="QKI", seed=0)
    runs = harness.plan(model=["kmer", "cnn"], task="rbp", seed=range(3))   # checked, nothing started
    records = [harness.execute(run) for run in runs]
    splits = harness.load_task("QKI").load("thesis")
    model = harness.load_model("dnabert2", checkpoint="folder")
    vectors = harness.embed(model, ["ACGT…", "TTGA…"])      # per_base=True: one for each base
    estimator = harness.Classifier("dnabert2", tune="probe").fit(sequences, labels)   # of scikit-learn's kind
    trained = harness.load_run("results/QKI/cnn/seed0-…")   # what a run trained: trained.predict(["ACGT…"])
    frame = harness.records("results")
    table = harness.table("accuracy", results="results")
    audit = harness.audit("QKI", split="published")

and of studies::

    harness.sweep(model=["kmer", "cnn"], task="rbp", seed=range(5), jobs=2)   # what is recorded already is not done again
    harness.search(model="cnn", task="QKI", trials=20)
    comparison = harness.compare(["cnn", "kmer"], task="rbp", metric="log_loss")
    harness.report(out="report.html")
    harness.verify().problems

Importing this package is light: torch is imported when something computes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from harness.adapter import Adapter
    from harness.data import Window
    from harness.evidence.audit import Audit
    from harness.evidence.compare import Comparison
    from harness.evidence.records import RunRecord
    from harness.evidence.tables import Table
    from harness.evidence.verify import Verification
    from harness.inference.sklearn import Classifier
    from harness.inference.trained import Trained
    from harness.study.plan import Run
    from harness.study.search import Search
    from harness.task import Task

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "audit",
    "compare",
    "embed",
    "execute",
    "load_model",
    "load_run",
    "load_task",
    "plan",
    "records",
    "report",
    "run",
    "search",
    "sweep",
    "table",
    "verify",
]

# In a checkout, adapters/, tasks/ and kernels/ lie beside this folder; a wheel carries them inside it. PyPI owns the
# top-level names `adapters` and `kernels`, so in both cases they are imported as harness.adapters, harness.kernels.
if not (Path(__file__).parent / "adapters").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

# torch's idle OpenMP threads spin, and two runs on one machine then slow each other down severalfold; short spins cost
# nothing measurable (benchmarks/spin.py). Works where torch has not been imported yet.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def run(
    model: str,
    task: str | Sequence[str] | None = None,
    *,
    results: str | Path = "results",
    force: bool = False,
    quiet: bool = False,
    **asked: Any,
) -> RunRecord:
    """Fine-tune a model on a task, score it on the test split, write a record and return it; as `harness run`.

    ``asked`` are the arguments of :func:`plan`. A run that is recorded already is returned as it is, unless ``force``.
    News goes to standard error unless ``quiet``.

    Raises:
        UserError: a mistake in what was asked for, or more than one run; :func:`plan` and :func:`execute` take many.
    """
    from harness.errors import UserError

    runs = plan(model, task, **asked)
    if len(runs) != 1:
        words = task or asked.get("train")
        raise UserError(f"model {model!r}, task {words!r}: these are {len(runs)} runs; use harness.plan and harness.execute")
    return execute(runs[0], results=results, force=force, quiet=quiet, device=asked.get("device"))


def plan(model: str | Sequence[str], task: str | Sequence[str] | None = None, **asked: Any) -> list[Run]:
    """The runs of every model on every task with every seed, checked before anything starts.

    See :func:`harness.study.plan.plan` for the arguments, which are the options of `harness run`.
    """
    from harness.study.plan import plan as plan_runs

    return plan_runs(model, task, **asked)


def execute(
    run: Run, *, results: str | Path = "results", force: bool = False, quiet: bool = False, device: str | None = None
) -> RunRecord:
    """Do a planned run and return its record, or the one that is there already; a run that breaks down is a failed record."""
    from harness.cli.screen import Screen
    from harness.study.work import Worker

    device = None if device == "auto" else device
    (record,) = Worker(Path(results), device, force, strict=True, reporter=Screen(quiet, panel=False)).work([run])
    assert record is not None
    return record


def load_task(
    name: str | Sequence[str] | None = None,
    *,
    genome: str | Path | None = None,
    msa: str | Path | None = None,
    species: str = "",
    context: int | None = None,
    train: str | Path | Sequence[str | Path] | None = None,
    validation: str | Path | Sequence[str | Path] | None = None,
    test: str | Path | Sequence[str | Path] | None = None,
    sequence_column: str | int = "",
    label_column: str | int | Sequence[str | int] = (),
    positive: str | int = "",
    kind: str = "",
    negatives: str = "",
) -> Task:
    """A task by its name, or made of files; ``.load(rule)`` gives its splits, ``.sample`` its simulated stand-in.

    The arguments are those of :func:`harness.study.plan.plan`; ``negatives`` is its ``option={"negatives": …}``.

    Raises:
        UserError: no such task, or a family of several.
    """
    from harness.errors import UserError
    from harness.study.asked import as_reading, as_reference, named_tasks

    parts = {"train": train, "validation": validation, "test": test}
    words, reading = as_reading(name, parts, sequence_column, label_column, positive, kind)
    found = [task for task, _ in named_tasks(words, as_reference(genome, msa, species, context, "", negatives), None, reading)]
    if len(found) != 1:
        raise UserError(f"task {name!r}: names {len(found)} tasks, such as {found[0].name}; load them one by one")
    return found[0]


def load_model(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    init: str | None = None,
    option: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    seed: int = 0,
) -> Adapter:
    """A model as a torch module in evaluation mode: ``model(model.collate(windows))`` are embeddings (B, D).

    Weights are those of ``checkpoint``, else the official ones; ``init="random:tiny"`` draws them from ``seed``.

    Raises:
        UserError: no such model or weights, or a checkpoint of another architecture.
    """
    import torch

    from harness.engine.build import request

    wanted = request(
        name,
        checkpoint=None if checkpoint is None else str(checkpoint),
        init=init,
        options=option,
        allow_partial=allow_partial,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return wanted.build().eval()


def embed(
    model: Adapter, sequences: Sequence[str | Window], *, per_base: bool = False, layer: int | None = None, batch_size: int = 64
) -> Any:
    """Embeddings of sequences as a model of :func:`load_model` pools them, or ``per_base``, after any ``layer``; as numpy arrays.

    See :func:`harness.inference.embed.embed`.
    """
    from harness.inference.embed import embed as embed_sequences

    return embed_sequences(model, sequences, per_base=per_base, layer=layer, batch_size=batch_size)


def load_run(folder: str | Path, *, checkpoint: str | Path | None = None, device: str = "auto") -> Trained:
    """What a run trained, with its head: ``load_run(folder).predict(["ACGT…"])`` are probabilities (N, classes).

    See :func:`harness.inference.trained.load_run`.
    """
    from harness.inference.trained import load_run as load

    return load(folder, checkpoint=checkpoint, device=device)


def records(results: str | Path = "results") -> pd.DataFrame:
    """Every record of a results folder, one row a run: what ran on what, metrics, costs, settings."""
    from harness.evidence.records import read_all
    from harness.evidence.tables import summary

    return summary(read_all(Path(results)))


def table(
    metric: str | None = None,
    *,
    results: str | Path = "results",
    by: str = "model,task",
    sort: str | None = None,
    all_settings: bool = False,
    costs: bool = False,
    published: bool = True,
    subset: str = "all",
) -> Table:
    """Models against tasks, as `harness table` with its options; ``metric`` is by default the main one of the tasks.

    Of tasks of several kinds (see :data:`harness.task.KINDS`), the table is that of the first kind; a note names the others.
    """
    from harness.evidence.tables import make_table

    options = {"sort": sort, "all_settings": all_settings, "costs": costs, "published": published, "subset": subset}
    return make_table(Path(results), metric, by, **options)


def audit(
    task: str | Sequence[str] | None = None, *, identity: float = 0.8, coverage: float = 0.8, floor: bool = True, **asked: Any
) -> Audit:
    """What the parts of a task's split have of each other, as `harness audit`; ``floor``: also fit the k-mer floor.

    ``asked`` are the arguments of :func:`harness.study.audit.open_tasks`: those of :func:`plan` that say what to read.

    Raises:
        UserError: a mistake in what was asked for, or several tasks.
    """
    from harness.errors import UserError
    from harness.files.neighbours import Similarity
    from harness.study.audit import audit as audit_tasks

    found = audit_tasks(task, similarity=Similarity(identity, coverage), floor=floor, **asked)
    if len(found) != 1:
        raise UserError(f"task {task!r}: names {len(found)} tasks, such as {found[0].task}; audit them one by one")
    return found[0]


# --- studies -------------------------------------------------------------------------------------------------------------


def sweep(
    model: str | Sequence[str],
    task: str | Sequence[str] | None = None,
    *,
    results: str | Path = "results",
    jobs: int = 1,
    retry: bool = False,
    quiet: bool = False,
    **asked: Any,
) -> list[RunRecord]:
    """Do every run of :func:`plan` that has no record, ``jobs`` at once, as `harness sweep`; the records of all.

    With ``retry``, those that failed are done again, too. Runs that a process elsewhere has are waited for. In a script, call it
    under ``if __name__ == "__main__":``, since processes import the script.

    Raises:
        UserError: a mistake in what was asked for.
    """
    from harness.cli.board import Lines
    from harness.study.pool import Pool
    from harness.study.sweep import sweep as do_all
    from harness.study.work import Worker

    runs, folder = plan(model, task, **asked), Path(results)
    device = None if asked.get("device") == "auto" else asked.get("device")
    with Lines(quiet) as board:
        pool = Pool(Worker(folder, device, retry=retry), jobs, board)
        found = do_all(runs, folder, pool, retry=retry, board=board, tell=lambda it, number: board.told(it, number, jobs))
    return [record for record in found.records if record is not None]


def search(
    model: str | Sequence[str], task: str | Sequence[str] | None = None, *, quiet: bool = False, **asked: Any
) -> list[Search]:
    """Better settings than the published ones, with the same budget for every model, as `harness search`.

    See :func:`harness.study.search.search` for the arguments.
    """
    from harness.cli.board import Lines
    from harness.study.search import search as search_settings

    with Lines(quiet) as board:
        return search_settings(model, task, board=board, **asked)


def compare(
    model: str | Sequence[str] = (),
    task: str | Sequence[str] = (),
    metric: str | None = None,
    *,
    results: str | Path | Sequence[str | Path] = "results",
    **options: Any,
) -> Comparison:
    """Models against each other on the same examples and seeds, with intervals, tests and verdicts, as `harness compare`.

    See :func:`harness.evidence.compare.compare` for ``options``.
    """
    from harness.evidence.compare import compare as compare_models

    return compare_models(results, model.split(",") if isinstance(model, str) else model, task, metric, **options)


def report(results: str | Path | Sequence[str | Path] = "results", out: str | Path = "report.html", **options: Any) -> Path:
    """One HTML file on everything in a results folder, or several, that opens offline, as `harness report`.

    See :func:`harness.evidence.report.report` for ``options``.
    """
    from harness.evidence.report import report as write_report

    return write_report(results, out, **options)


def verify(results: str | Path = "results", *, jobs: int = 1) -> Verification:
    """Every score of every record, computed again, and records that were edited or do not belong, as `harness verify`."""
    from harness.evidence.verify import verify as verify_records

    return verify_records(Path(results), jobs=jobs)


def __getattr__(name: str) -> Any:
    """``harness.Classifier``, a class that scikit-learn and torch come with, imported on use."""
    if name == "Classifier":
        from harness.inference.sklearn import Classifier

        return Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
