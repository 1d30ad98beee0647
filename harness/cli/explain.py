"""`harness explain`: which letters a trained model's answers rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.errors import UserError

from .options import Device, Quiet, SequenceColumn


def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[INPUT]", help="FASTA, a table or BED (default: the run's test split, of the explained class)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write (default: explained/<task>/<model>/<run id>).", file_okay=False)
    ] = None,
    method: Annotated[
        str, typer.Option(help="mutagenesis (any model) or gradients (quicker; models with an embedding layer).")
    ] = "mutagenesis",
    of_class: Annotated[
        str, typer.Option("--class", help="Class or label whose log-odds are explained (default: the second of two).")
    ] = "",
    windows: Annotated[int, typer.Option(min=0, help="How many windows, evenly spaced (0: all).")] = 100,
    top: Annotated[int, typer.Option(min=0, help="Instead: the windows with the highest score.")] = 0,
    logo: Annotated[int, typer.Option(min=0, help="Logos of as many windows with the highest score, as PNG and SVG.")] = 10,
    motifs: Annotated[
        Path | None, typer.Option(help="Known motifs to compare with: MEME, JASPAR, or ATtRACT's pwm.txt.", dir_okay=False)
    ] = None,
    one_strand: Annotated[
        bool, typer.Option("--one-strand", help="Do not compare with reverse complements of known motifs (RNA).")
    ] = False,
    control: Annotated[
        bool, typer.Option("--control", help="On a simulated sample: also train on shuffled labels, and report its AUROC.")
    ] = False,
    genome: Annotated[Path | None, typer.Option(help="For intervals: FASTA or 2bit.")] = None,
    sequence_column: SequenceColumn = "",
    checkpoint: Annotated[
        str | None, typer.Option(help="Where the weights are that the run started from, if not where they were.")
    ] = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier explanation.")] = False,
    quiet: Quiet = False,
) -> None:
    """Find the letters that a model's answers rest on: arrays, CSV, logos, and motifs compared with known ones.

    On a simulated sample, where the planted letters are known, also attribution_auroc, a column of `harness table --metric`.
    """
    from harness.inference.explain import Settings
    from harness.inference.explain import explain as ask
    from harness.inference.explanation import lines
    from harness.inference.inputs import open_input
    from harness.inference.trained import load_run, run_folders_of

    from .screen import Screen

    if source is None and (genome is not None or sequence_column):
        raise UserError("genome and sequence-column are of an INPUT; name the file with the windows to explain")
    settings = Settings(
        method=method,
        of_class=of_class,
        windows=windows,
        top=top,
        logos=logo,
        motifs=motifs,
        both_strands=not one_strand,
        control=control,
    )
    found = None if source is None else open_input([source], genome=genome, sequence_column=sequence_column)
    folders = run_folders_of(run)
    if len(folders) > 1:
        raise UserError(f"run {run}: {len(folders)} runs, of which one is explained at a time; name one, such as {folders[0]}")
    screen, trained = Screen(quiet), load_run(folders[0], checkpoint=checkpoint, device=device)
    for note in trained.notes:
        screen.say(note)
    explained, folder = ask(trained, found, out, settings, force=force, reporter=screen)
    screen.conclude("\n".join(lines(explained, folder)))
