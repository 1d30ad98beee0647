"""`harness embed`: embeddings of sequences to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Checkpoint, Device, ModelOptions, Quiet, pairs, with_settings


@with_settings("precision", "batch_size")
def embed(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="FASTA, a table, or BED with --genome.")],
    model: Annotated[str, typer.Option(help="A model (see `harness list models`), or a path to an adapter file.")],
    out: Annotated[Path, typer.Option(help="What to write: .parquet, .zarr (both streamed) or .npz.")],
    per_base: Annotated[bool, typer.Option("--per-base", help="A vector for each base, from the tokens that hold it.")] = False,
    layer: Annotated[
        int | None, typer.Option(help="The block whose states are read, from 1 (default: what the model pools).")
    ] = None,
    genome: Annotated[Path | None, typer.Option(help="For intervals: FASTA or 2bit.")] = None,
    sequence_column: Annotated[str, typer.Option(help="A table's column of sequences: its name, or number (from 1).")] = "",
    checkpoint: Checkpoint = None,
    init: Annotated[str | None, typer.Option(help="random, random:tiny or random:base: without pretrained weights.")] = None,
    option: ModelOptions = None,
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="Load a checkpoint that lacks tensors.")] = False,
    seed: Annotated[int, typer.Option(help="Random seed, of random weights.", min=0)] = 0,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Embed sequences with a model, pooled as for a probe (whose embeddings are used again), or base by base."""
    from harness.engine.build import request
    from harness.errors import UserError
    from harness.inference.embedding_files import check_out
    from harness.inference.inputs import open_input
    from harness.registry import model_facts, model_names

    from .screen import Screen

    check_out(out, force)
    names = model_names(model)
    if len(names) != 1:
        raise UserError(f"model {model!r}: names {len(names)} models; give one")
    source = open_input(inputs, genome=genome, sequence_column=sequence_column)
    wanted = request(names[0], checkpoint=checkpoint, init=init, options=pairs(option), allow_partial=allow_partial)
    recipe = model_facts(names[0]).recipe.override(**settings)

    from harness.inference.embed import embed_file

    embed_file(
        wanted,
        source,
        out,
        seed=seed,
        device=device,
        precision=recipe.precision,
        per_base=per_base,
        layer=layer,
        batch_size=recipe.batch_size,
        force=force,
        reporter=Screen(quiet),
    )
