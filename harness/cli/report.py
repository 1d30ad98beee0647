"""`harness report`: one HTML file on everything that was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    results: Annotated[list[Path] | None, typer.Argument(help="Folders of records (default: results).")] = None,
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    metric: Annotated[
        str | None, typer.Option(help="What the figures are about, e.g. auroc (default: the tasks' main one).")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
) -> None:
    """Write one HTML file with the tables and figures of all records; it opens offline in any browser."""
    import sys

    from harness.evidence.report import report as write_report
    from harness.progress import printable

    def say(message: str) -> None:
        print(printable(message), file=sys.stderr)

    path = write_report(results or [Path("results")], out, metric=metric, title=title, say=say)
    print(f"{printable(str(path))}: {path.stat().st_size / 2**20:.2f} MiB; open it in a browser")
