"""`harness compare`: pairs of models, with a verdict each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    models: Annotated[
        list[str] | None, typer.Argument(help="Models, or labels of rows: two, or more for all pairs of them (default: all).")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Tasks, families or columns (default: all); repeatable, or a,b.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Any metric of the records, e.g. log_loss (default: that of `harness table`).")
    ] = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Splits (default: all); repeatable, or a,b.")] = None,
    format: Annotated[str, typer.Option(help="terminal, markdown, csv (one line per pair) or json.")] = "terminal",
    results: Annotated[list[Path] | None, typer.Option("--results", help="Folder of records; repeatable.")] = None,
) -> None:
    """Compare models pair by pair on the same test examples and seeds, and say which can be told apart."""
    from harness.evidence.compare_print import print_comparison

    print_comparison(results or [Path("results")], models or [], task or [], metric, split or [], format)
