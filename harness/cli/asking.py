"""The options that say what is asked for, which every command that plans runs shares; and what :func:`plan` calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.errors import UserError
from harness.study.asked import seeds_of

from .options import (
    Checkpoint,
    Device,
    LabelColumn,
    ModelOptions,
    Positive,
    SequenceColumn,
    TaskKind,
    TestFiles,
    TrainFiles,
    ValidationFiles,
    pairs,
)

REFERENCE = "Reference data, for tasks of variants and of loci"


def asked(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model (see `harness list models`), `floors`, or a path to an adapter file; a,b or repeated for several."
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A task or a family (several as a,b or repeated), or your own: a table, FASTA or BED file, or a folder of "
            "train, dev and test files or of train/CLASS.fa."
        ),
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
    seed: Annotated[list[str] | None, typer.Option(help="Random seed; 0..4 for several, or repeated (default 0).")] = None,
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
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep all trained weights in the run's folder; heads, LoRA and small models always are."),
    ] = False,
    reuse_head: Annotated[
        bool, typer.Option("--reuse-head", help="With a run's folder as --checkpoint: start from its head, too.")
    ] = False,
    no_sample: Annotated[
        bool, typer.Option("--no-sample", help="Fail rather than use the simulated sample of a data set that is not here.")
    ] = False,
) -> None:
    """The signature alone."""


def for_plan(given: Mapping[str, Any], more_files: Sequence[str] | None = None) -> dict[str, Any]:
    """What :func:`harness.study.plan.plan` takes, from the options of :func:`asked` and of a recipe.

    Raises:
        UserError: no model, a seed or an option that cannot be read.
    """
    words = dict(given)
    if not words["model"]:
        raise UserError("model: give one with --model (`harness list models` shows them)")
    words |= {
        "task": [*(words["task"] or []), *(more_files or [])] or None,
        "label_column": words["label_column"] or (),
        "seed": seeds_of(words["seed"]) if words["seed"] else 0,
        "option": pairs(words["option"]),
        "sample": not words.pop("no_sample"),
    }
    return words
