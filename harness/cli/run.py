"""`harness run`: fine-tune, score, record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    Checkpoint,
    Device,
    LabelColumn,
    ModelOptions,
    Positive,
    Quiet,
    Results,
    SequenceColumn,
    TaskKind,
    TestFiles,
    TrainFiles,
    ValidationFiles,
    pairs,
    with_settings,
)

REFERENCE = "Reference data, for tasks of variants and of loci"


@with_settings()
def run(
    model: Annotated[
        list[str],
        typer.Option(
            help="A model (see `harness list models`), `floors`, or a path to an adapter file; a,b or repeated for several."
        ),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A task or a family (several as a,b or repeated), or your own: a table, FASTA or BED file, or a folder of "
            "train, dev and test files or of train/CLASS.fa."
        ),
    ] = None,
    more_files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]", help="With --task pos.fa: the negatives; with --task train.csv: dev.csv, test.csv."),
    ] = None,
    train: TrainFiles = None,
    validation: ValidationFiles = None,
    test: TestFiles = None,
    sequence_column: SequenceColumn = "",
    label_column: LabelColumn = None,
    positive: Positive = "",
    kind: TaskKind = "",
    genome: Annotated[Path | None, typer.Option(help="For variants and BED: FASTA or 2bit.", rich_help_panel=REFERENCE)] = None,
    msa: Annotated[
        Path | None, typer.Option(help="An alignment: zarr, MAF, FASTA or a store.", rich_help_panel=REFERENCE)
    ] = None,
    species: Annotated[str, typer.Option(help="Rows of the alignment: 89, 99, names or a file.", rich_help_panel=REFERENCE)] = "",
    context: Annotated[
        int | None, typer.Option(help="Variants: window length in nucleotides (default 128).", rich_help_panel=REFERENCE)
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Random seed; repeatable (default 0).")] = None,
    split: Annotated[str | None, typer.Option(help="Split rule of the task, e.g. thesis or published.")] = None,
    checkpoint: Checkpoint = None,
    init: Annotated[
        str | None, typer.Option(help="random, random:tiny or random:base: start without pretrained weights.")
    ] = None,
    option: ModelOptions = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Load a checkpoint that lacks tensors; recorded.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="What to call a task that is made of your own files.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="thesis: its settings for all models, instead of each model's published ones.")
    ] = None,
    device: Device = "auto",
    results: Results = Path("results"),
    no_sample: Annotated[
        bool, typer.Option("--no-sample", help="Fail rather than use the simulated sample of a data set that is not here.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Run again even if this very run is already recorded.")] = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Fine-tune a model on a task, score it on the test split, and write a record."""
    from harness.files.atomic import check_writable
    from harness.study.plan import plan
    from harness.study.work import Worker, stoppable

    from .screen import Screen

    check_writable(results, "results")
    runs = plan(
        model,
        [*(task or []), *(more_files or [])] or None,
        train=train,
        validation=validation,
        test=test,
        sequence_column=sequence_column,
        label_column=label_column or (),
        positive=positive,
        kind=kind,
        seed=seed or 0,
        split=split,
        genome=genome,
        msa=msa,
        species=species,
        context=context,
        checkpoint=checkpoint,
        init=init,
        option=pairs(option),
        allow_partial=allow_partial,
        sample=not no_sample,
        device=device,
        name=name,
        recipe=recipe,
        **settings,
    )
    screen = Screen(quiet)
    with stoppable(screen.say):
        records = Worker(results, device, force, strict=len(runs) == 1, reporter=screen).work(runs)
    raise typer.Exit(0 if all(record and record.finished for record in records) else 1)
