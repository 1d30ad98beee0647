"""`harness table`: compare records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Results


def table(
    metric: Annotated[
        str | None,
        typer.Option(
            help="Any metric of the records, e.g. f1, log_loss (default: the tasks' main one, or accuracy; auroc where "
            "most of a test split is one class)."
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Rows and columns, or the columns of summary.csv by which to list the runs.")
    ] = "model,task",
    sort: Annotated[
        str | None,
        typer.Option(help="Best rows first: rank (the mean rank) or a column's label; or model: papers' rows below ours."),
    ] = None,
    all_settings: Annotated[bool, typer.Option("--all-settings", help="A row for each setting that a model ran with.")] = False,
    costs: Annotated[bool, typer.Option("--costs", help="Seconds of training, trainable parameters, peak memory.")] = False,
    published: Annotated[bool, typer.Option("--published/--no-published", help="With the numbers that papers print.")] = True,
    subset: Annotated[
        str,
        typer.Option(
            help="Test examples that are scored: all, novel, leaking (which training examples give away), or a group of "
            "variants: consequence=missense, gene=BRCA1."
        ),
    ] = "all",
    wide: Annotated[bool, typer.Option("--wide", help="All columns side by side, however wide the terminal is.")] = False,
    format: Annotated[str, typer.Option(help="terminal, markdown or csv (one line per cell).")] = "terminal",
    results: Results = Path("results"),
) -> None:
    """Compare the records in a table; also writes the CSV files in results/tables/."""
    from harness.evidence.tables import print_table

    options = {"sort": sort, "all_settings": all_settings, "costs": costs, "published": published, "subset": subset}
    print_table(results, metric, by, format, full_width=wide, **options)
