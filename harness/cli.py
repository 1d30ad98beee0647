"""The `harness` command: options in, calls out. No logic, and no heavy import before a command needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import HarnessError, UserError

if TYPE_CHECKING:
    from harness.card import ModelCard
    from harness.task import Reference

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
list_app = typer.Typer(no_args_is_help=True, help="Show the models or tasks there are.")
data_app = typer.Typer(no_args_is_help=True, help="Get, find and check data sets.")
weights_app = typer.Typer(no_args_is_help=True, help="Get, find and check the official weights of models.")
app.add_typer(weights_app, name="weights")
app.add_typer(list_app, name="list")
app.add_typer(data_app, name="data")

Results = Annotated[Path, typer.Option(help="Folder of records and tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")]
DataName = Annotated[
    str, typer.Argument(help="A task (QKI), a family (rbp), all tasks (all), or a reference: hg38, phylop, phastcons.")
]

REFERENCE = "Reference data, for tasks of variants and of loci"
TRAINING, PLACE = "Fine-tuning (default: the model's published settings)", "Where and how it runs"


def main() -> None:
    """Entry point: expected failures become one line and an exit code (2: a user's mistake, 1: a failed run)."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    # torch's idle OpenMP threads spin, and two runs on one machine then slow each other down severalfold; short spins cost
    # nothing measurable (benchmarks/spin.py). Must be set before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        app(arguments, prog_name="harness")
    except HarnessError as error:
        if debug:
            raise
        _stop(str(error), error.exit_code)
    except Exception as error:
        if debug:
            raise
        _stop(f"unexpected {type(error).__name__}: {error}; run again with --debug for the traceback", 1)


def _stop(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None:
    """Compare genomic foundation models on the same data, in the same way."""
    if version:
        from harness import __version__

        print(f"harness {__version__}")
        raise typer.Exit


@app.command()
def run(
    model: Annotated[str, typer.Option(help="A model (see `harness list models`), `floors`, or a path to an adapter file.")],
    task: Annotated[str, typer.Option(help="A task, a family of tasks, or your own file: a table, FASTA or BED.")],
    more_files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]", help="With --task pos.fa or pos.bed: the file of the negatives.")
    ] = None,
    genome: Annotated[Path | None, typer.Option(help="For variants and BED: FASTA or 2bit.", rich_help_panel=REFERENCE)] = None,
    msa: Annotated[
        Path | None,
        typer.Option(help="An alignment: zarr, MAF, FASTA or a store.", rich_help_panel=REFERENCE),
    ] = None,
    species: Annotated[str, typer.Option(help="Rows of the alignment: 89, 99, names or a file.", rich_help_panel=REFERENCE)] = "",
    context: Annotated[
        int | None, typer.Option(help="Variants: window length in nucleotides (default 128).", rich_help_panel=REFERENCE)
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Random seed; may be given several times.")] = None,
    split: Annotated[str | None, typer.Option(help="Split rule of the task, e.g. thesis or published.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Weights: a file, a folder, or a hub id (owner/name[@revision]).")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="random, random:tiny or random:base: start without pretrained weights.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the model, name=value; may be given several times.")
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Load a checkpoint that lacks tensors; recorded.")
    ] = False,
    tune: Annotated[
        str | None,
        typer.Option(
            help="full: all weights; lora: low-rank additions; probe: the head only; zero: nothing (variants).",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many epochs.", rich_help_panel=TRAINING)] = None,
    patience: Annotated[
        int | None, typer.Option(help="Evaluations without a better validation log_loss.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a batch.", rich_help_panel=TRAINING)] = None,
    accumulation: Annotated[int | None, typer.Option(help="Batches an optimiser step.", rich_help_panel=TRAINING)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.", rich_help_panel=TRAINING)] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's weight decay.", rich_help_panel=TRAINING)] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of all steps.", rich_help_panel=TRAINING)] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine, linear or constant.", rich_help_panel=TRAINING)] = None,
    clip: Annotated[float | None, typer.Option(help="Largest gradient norm.", rich_help_panel=TRAINING)] = None,
    head: Annotated[str | None, typer.Option(help="linear, or tanh (a pooler first).", rich_help_panel=TRAINING)] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout before the classifier.", rich_help_panel=TRAINING)] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bf16.", rich_help_panel=PLACE)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=PLACE)] = "auto",
    results: Results = Path("results"),
    no_sample: Annotated[
        bool, typer.Option("--no-sample", help="Fail rather than use the simulated sample of a data set that is not here.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Run again even if this very run is already recorded.")] = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a model on a task, score it on the test split, and write a record."""
    from harness.run import run_all
    from harness.screen import Screen

    settings = {
        "tune": tune,
        "epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
        "accumulation": accumulation,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "warmup": warmup,
        "schedule": schedule,
        "clip": clip,
        "head": head,
        "dropout": dropout,
        "precision": precision,
    }
    records = run_all(
        model,
        [task, *(more_files or [])],
        seeds=seed or [0],
        split=split,
        reference=_reference(genome, msa, species, context),
        checkpoint=checkpoint,
        init=init,
        options=_pairs(option or []),
        settings=settings,
        allow_partial=allow_partial,
        device=device,
        results_dir=results,
        allow_sample=not no_sample,
        force=force,
        screen=Screen(quiet),
    )
    raise typer.Exit(0 if all(record.finished for record in records) else 1)


def _reference(genome: Path | None, msa: Path | None, species: str, context: int | None) -> Reference | None:
    from harness.task import Reference

    if genome is None and msa is None and not species and context is None:
        return None
    return Reference(genome, msa, species, Reference.context if context is None else context)


def _pairs(options: list[str]) -> dict[str, str]:
    for option in options:
        if "=" not in option:
            raise UserError(f"--option {option!r}: expected name=value")
    return dict(option.split("=", 1) for option in options)


@app.command()
def pretrain(
    model: Annotated[str, typer.Option(help="A model that can be pretrained (msamamba, gpn_msa), or a path to an adapter file.")],
    msa: Annotated[Path, typer.Option(help="The alignment to learn from (zarr, MAF, FASTA, store).")],
    context: Annotated[int, typer.Option(help="Window length in nucleotides: 128, 512, 1024, …")] = 512,
    species: Annotated[str, typer.Option(help="Rows of the alignment: 89, 99, names or a file.")] = "",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 1000,
    tokens_per_step: Annotated[int, typer.Option(help="Letters of the target row an optimiser step sees.")] = 49_152,
    batch_size: Annotated[int | None, typer.Option(help="Windows a batch; as many batches as a step's letters take.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    evaluate_every: Annotated[int, typer.Option(help="Steps between evaluations on held-out blocks, and saves.")] = 50,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    checkpoint: Annotated[str | None, typer.Option(help="Weights to go on from: a file, a folder, or a hub id.")] = None,
    init: Annotated[str | None, typer.Option(help="random:base (default) or random:tiny.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the model, name=value (mask_rows=0.5); may be given several times.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bf16.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: pretrained/, named by the settings).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Start over what the folder holds.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on an alignment by filling in masked bases; the same command goes on with an unfinished run."""
    from harness.pretrain import pretrain as train
    from harness.screen import Screen

    train(
        model,
        msa,
        species=species,
        context=context,
        steps=steps,
        tokens_per_step=tokens_per_step,
        evaluate_every=evaluate_every,
        checkpoint=checkpoint,
        init=init,
        options=_pairs(option or []),
        settings={"batch_size": batch_size, "learning_rate": learning_rate, "precision": precision},
        seed=seed,
        device=device,
        out=out,
        force=force,
        screen=Screen(quiet),
    )


@list_app.command("models")
def list_models() -> None:
    """Every model: what it reads, its size and length limit, licence and paper."""
    from harness.registry import model_cards
    from harness.screen import Screen

    rows = [
        [
            name + (" (floor)" if card.floor else ""),
            card.summary,
            card.reads,
            card.parameters,
            "any" if card.max_length is None else f"{card.max_length:,} nt",
            card.licence,
            card.paper,
        ]
        for name, card in model_cards().items()
    ]
    Screen().table(["model", "what it is", "reads", "parameters", "length", "licence", "paper"], rows)


@list_app.command("tasks")
def list_tasks() -> None:
    """Every task: its classes and split rules, and whether the data is on this machine."""
    from harness.registry import tasks
    from harness.screen import Screen
    from harness.sources import missing

    rows = [
        [
            task.name,
            task.family,
            task.summary,
            " / ".join(task.classes),
            ", ".join(task.split_rules),
            "yes" if not missing(task.sources) else f"no: harness data get {task.name}",
            task.licence,
        ]
        for task in tasks().values()
    ]
    Screen().table(["task", "family", "what is asked", "classes", "splits", "data here", "licence"], rows)


@data_app.command("get")
def data_get(name: DataName = "all", quiet: Quiet = False) -> None:
    """Download data sets, with resume and checksum. What is here already is only checked."""
    from harness.registry import find_sources
    from harness.screen import Screen
    from harness.sources import data_home, fetch

    screen = Screen(quiet)
    sources = find_sources(name)
    for number, source in enumerate(sources, start=1):
        with screen.download(f"{source.path} ({number}/{len(sources)})") as progress:
            fetch(source, progress)
    screen.say(f"{len(sources)} files are in {data_home()}, each compared with its published checksum where there is one")


@data_app.command("path")
def data_path(name: Annotated[str | None, typer.Argument(help="As for `get`; none: the data folder.")] = None) -> None:
    """Print where data lies, or would lie: set HARNESS_DATA to move it."""
    from harness.registry import find_sources
    from harness.sources import data_home, locate

    if name is None:
        print(data_home())
        return
    for source in find_sources(name):
        print(locate(source))


@data_app.command("verify")
def data_verify(name: DataName = "all") -> None:
    """Compare every file with its published checksum; exit 1 if any is not intact."""
    from harness.registry import find_sources
    from harness.screen import Screen
    from harness.sources import USABLE, verify

    states = {source.path: verify(source) for source in find_sources(name)}
    Screen().table(["file", "state"], [[path, state] for path, state in states.items()])
    raise typer.Exit(0 if set(states.values()) <= set(USABLE) else 1)


@data_app.command("build-msa")
def data_build_msa(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="MAF, aligned FASTA or zarr; many make one.")],
    out: Annotated[Path, typer.Option(help="The folder to write, for `--msa`; must not exist.")],
    species: Annotated[str, typer.Option(help="Rows to keep: 89, 99, names or a file; default all.")] = "",
    quiet: Quiet = False,
) -> None:
    """Write alignments as one store: the form in which columns are read fastest."""
    from harness.alignments import build_store, open_alignment
    from harness.screen import Screen

    screen = Screen(quiet)
    with screen.download(f"writing {out}") as progress:
        store = open_alignment(build_store(sources, out, species, progress))
    columns = sum(end - start for start, end in store.extents.values())
    size = sum(file.stat().st_size for file in out.iterdir())
    screen.say(
        f"{out}: {len(store.extents)} chromosomes, {columns:,} columns, {len(store.species)} rows with the target, {size:,} bytes"
    )


@weights_app.command("get")
def weights_get(model: str) -> None:
    """Download a model's official weights at the pinned revision, with resume and checksum."""
    from harness.weights import fetch

    for name, card in _cards(model).items():
        print(fetch(name, card))


@weights_app.command("path")
def weights_path(model: str) -> None:
    """Print the folder of a model's official weights; fails where they are not here."""
    from harness.weights import official

    for name, card in _cards(model).items():
        print(official(name, card))


@weights_app.command("verify")
def weights_verify(model: str) -> None:
    """Compare a model's files with their checksums; exit 1 if any is not intact."""
    from harness.screen import Screen
    from harness.weights import official, verify

    states = {}
    for name, card in _cards(model).items():
        official(name, card)
        states |= {str(path): state for path, state in verify(card).items()}
    Screen().table(["file", "state"], [[path, state] for path, state in states.items()])
    raise typer.Exit(0 if set(states.values()) == {"ok"} else 1)


def _cards(model: str) -> dict[str, ModelCard]:
    from harness.registry import model_cards, model_names

    return {name: model_cards()[name] for name in model_names(model)}


@app.command()
def table(
    metric: Annotated[
        str | None, typer.Option(help="Any metric of the records, e.g. f1, log_loss (default: the tasks' main one, or accuracy).")
    ] = None,
    by: Annotated[str, typer.Option(help="Rows and columns, or a flat list by other keys.")] = "model,task",
    format: Annotated[str, typer.Option(help="terminal, markdown or csv.")] = "terminal",
    results: Results = Path("results"),
) -> None:
    """Compare the records in a table; also writes results/tables/."""
    from harness.tables import print_table

    print_table(results, metric, by, format)


@app.command()
def doctor() -> None:
    """What this machine can do, and what to install for more."""
    from harness.hardware import doctor as look
    from harness.screen import Screen

    Screen().table(["", "found", "what it means"], [[name, "yes" if found else "no", text] for name, found, text in look()])


@app.command("check-adapter")
def check_adapter(
    model: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A model, or a path to an adapter file.")],
    size: Annotated[str, typer.Option(help="Size of the randomly initialised model.")] = "tiny",
) -> None:
    """Hold an adapter to the contract, clause by clause; exit 1 if it breaks any."""
    from harness.contract import check
    from harness.screen import Screen

    verdicts = check(model, size)
    Screen().table(["clause", "verdict", "detail"], [[verdict.statement, verdict.state, verdict.detail] for verdict in verdicts])
    raise typer.Exit(1 if any(verdict.state == "violated" for verdict in verdicts) else 0)


@app.command("new-adapter")
def new_adapter(
    name: Annotated[str, typer.Argument(help="Of the model: lower-case letters, digits and underscores.")],
    folder: Annotated[Path, typer.Option(help="Where to write NAME.py.")] = Path(),
) -> None:
    """Write a small adapter that runs as it is, to make your own from; prints what to type next."""
    from harness.contract import new_adapter as write
    from harness.screen import Screen

    path = write(name, folder)
    Screen().say(f"wrote {path}; next:")
    print(f"harness check-adapter {path}\nharness run --model {path} --task QKI --epochs 1")
