"""`harness predict`: what a trained model says of new sequences."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import UserError

from .options import Device, LabelColumn, Quiet, SequenceColumn

SCAN = "Scans: --out .bedgraph or .bigwig"

if TYPE_CHECKING:
    from harness.inference.predict import Outcome

    from .screen import Screen


def predict(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN…", help="Folders of runs, or of a model (results/QKI/cnn): its seeds are averaged."),
    ],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="FASTA, a table (CSV, TSV, JSON, parquet), BED or VCF.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write: .csv, .tsv, .jsonl, .parquet; .vcf of a VCF (default: CSV on the screen).")
    ] = None,
    genome: Annotated[Path | None, typer.Option(help="For intervals and variants: FASTA or 2bit.")] = None,
    msa: Annotated[Path | None, typer.Option(help="For variants: another alignment than the run's.")] = None,
    species: Annotated[str, typer.Option(help="For variants: rows of the alignment.")] = "",
    sequence_column: SequenceColumn = "",
    label_column: LabelColumn = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Where the weights are that the run started from, if not where they were.")
    ] = None,
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Windows in a batch (default 64 or more).")] = None,
    scan: Annotated[
        str | None, typer.Option(metavar="WINDOW:STEP", help="Slide along sequences or intervals.", rich_help_panel=SCAN)
    ] = None,
    peaks: Annotated[
        Path | None, typer.Option(help="BED file of the positions above the threshold.", rich_help_panel=SCAN)
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Lowest value of a peak (default 0.5 for probabilities).", rich_help_panel=SCAN)
    ] = None,
    of_class: Annotated[
        str, typer.Option("--class", help="Class or label of the track (default: the second of two).", rich_help_panel=SCAN)
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    quiet: Quiet = False,
) -> None:
    """Ask a trained model about new sequences: a row each, with probabilities, and scores where there are labels."""
    from harness.files.text import head
    from harness.inference.annotate import annotate
    from harness.inference.answers import load_seeds
    from harness.inference.inputs import EXPECTED, open_input
    from harness.inference.predict import columns_of, reference_of
    from harness.inference.predict import predict as ask
    from harness.inference.scan import Layout
    from harness.inference.scan import scan as slide
    from harness.inference.variants import is_variants, is_vcf

    from .screen import Screen

    head(source, EXPECTED)
    layout = None if scan is None else Layout.of(scan)
    if layout is None and (peaks is not None or threshold is not None or of_class):
        raise UserError("peaks, threshold and class are of scans: slide along the sequences with --scan WINDOW:STEP")
    if layout is not None and out is None:
        raise UserError("scan: say where to with --out, such as scan.bedgraph or scan.bigwig")
    screen = Screen(quiet)
    seeds = load_seeds(runs, checkpoint, device, batch_size)
    for note in dict.fromkeys(note for run in seeds.runs for note in run.notes):
        screen.say(note)
    sequences, labels = columns_of(seeds, source, sequence_column, label_column or ())
    if (msa is not None or species) and not is_variants(source):
        raise UserError(f"msa and species are of variants, and {source} has none; leave them out")
    reference = reference_of(seeds, genome, msa, species)
    found = open_input([source], genome=genome, sequence_column=sequences, label_columns=labels, reference=reference)
    if layout is not None:
        assert out is not None
        options = {"of_class": of_class, "peaks": peaks, "threshold": threshold, "force": force}
        scanned = slide(seeds, found, layout, out, **options, reporter=screen)
        for note in scanned.notes:
            screen.say(note)
        made = f"{out}: {scanned.windows:,} windows"
        screen.conclude(made if peaks is None else f"{made}\n{peaks}: {scanned.peaks:,} peaks")
        return
    if out is not None and is_vcf(out):
        annotated = annotate(seeds, found, out, screen, force=force)
        for note in annotated.notes:
            screen.say(note)
        screen.conclude(f"{out}: {annotated.records:,} records, {annotated.scored:,} alternate alleles with a score")
        return
    try:
        outcome = ask(seeds, found, out, screen, force=force)
    except BrokenPipeError:  # whoever read the rows has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    _show(screen, outcome, out)


def _show(screen: Screen, outcome: Outcome, out: Path | None) -> None:
    from harness.progress import figure

    from .screen import PANEL_METRICS

    for note in outcome.notes:
        screen.say(note)
    shown = [name for metrics in PANEL_METRICS.values() for name in metrics if name in outcome.scores]
    lines = [
        f"  {name:<18}{'undefined' if outcome.scores[name] != outcome.scores[name] else figure(outcome.scores[name])}"
        for name in dict.fromkeys(shown)
    ]
    if lines:
        lines.insert(0, f"scores of {outcome.scored:,} entries with a label")
    if out is None:  # standard output is full of rows
        for line in lines:
            screen.say(line)
    else:
        screen.conclude("\n".join([f"{out}: {outcome.entries:,} rows", *lines]))
