"""`harness run`: fine-tune, score, record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .asking import asked, for_plan
from .options import Quiet, Results, with_settings


@with_settings(like=asked)
def run(
    more_files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]", help="With --task pos.fa: the negatives; with --task train.csv: dev.csv, test.csv."),
    ] = None,
    results: Results = Path("results"),
    force: Annotated[bool, typer.Option("--force", help="Run again even if this very run is already recorded.")] = False,
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Fine-tune a model on a task, score it on the test split, and write a record."""
    from harness.files.atomic import check_writable
    from harness.study.plan import plan
    from harness.study.work import Worker, stoppable

    from .screen import Screen

    check_writable(results, "results")
    runs = plan(**for_plan(given, more_files))
    screen = Screen(quiet)
    with stoppable(screen.say):
        records = Worker(results, given["device"], force, strict=len(runs) == 1, reporter=screen).work(runs)
    raise typer.Exit(0 if all(record and record.finished for record in records) else 1)
