"""`harness pretrain`: a model's own objective on sequences or an alignment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.recipe import PretrainingRecipe

from .options import Checkpoint, Device, ModelOptions, Quiet, pairs, with_settings


@with_settings(
    "batch_size", "learning_rate", "weight_decay", "epsilon", "warmup", "schedule", "floor", "precision", of=PretrainingRecipe
)
def pretrain(
    model: Annotated[str, typer.Option(help="A model that can be pretrained, or a path to an adapter file.")],
    data: Annotated[
        Path | None, typer.Option(help="Sequences to learn from: a genome or windows (FASTA, 2bit), or a folder of them.")
    ] = None,
    msa: Annotated[Path | None, typer.Option(help="The alignment to learn from (zarr, MAF, FASTA, store).")] = None,
    objective: Annotated[
        str | None, typer.Option(help="What is hidden and asked (default: the published one; `harness show MODEL` lists them).")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Window length in nucleotides (default: the published one).")] = None,
    species: Annotated[str, typer.Option(help="Rows of the alignment: 89, 99, names or a file.")] = "",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 1000,
    tokens_per_step: Annotated[int, typer.Option(help="Letters per optimiser step, of an alignment's target row.")] = 49_152,
    evaluate_every: Annotated[int, typer.Option(help="Steps between evaluations on held-out blocks, and saves.")] = 50,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    checkpoint: Checkpoint = None,
    init: Annotated[str | None, typer.Option(help="random:base (default) or random:tiny.")] = None,
    option: ModelOptions = None,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: pretrained/, named by the settings).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Start over, and discard the run that the folder holds.")] = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Train a model without labels, by its published recipe or another; an unfinished run with the same settings is resumed."""
    from harness.engine.pretrain import pretrain as train

    from .screen import Screen

    train(
        model,
        data,
        msa,
        objective=objective,
        species=species,
        context=context,
        steps=steps,
        tokens_per_step=tokens_per_step,
        evaluate_every=evaluate_every,
        checkpoint=checkpoint,
        init=init,
        options=pairs(option),
        settings=settings,
        seed=seed,
        device=device,
        out=out,
        force=force,
        reporter=Screen(quiet),
    )
