"""`harness verify`: compute every score again."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harness.evidence.verify import Problem

MAX_SHOWN = 8  # problems of one file that are shown on the screen


def verify(
    results: Annotated[Path, typer.Argument(help="Folder of records.")] = Path("results"),
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="Processes (0: one for each CPU core).")] = 0,
) -> None:
    """Compute every score of every record again from its predictions; exit code 1 if anything is wrong.

    Records that were edited, or do not belong where they lie, are named, and the checksums of data and weights are compared
    with those that are published.
    """
    from harness.evidence.verify import verify as verify_records
    from harness.progress import printable

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = verify_records(results, jobs=jobs or cores, say=_progress())
    if json_output:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        for path, problems in _by_path(found.problems).items():
            for problem in problems[:MAX_SHOWN]:
                print(printable(str(problem)))
            if (more := len(problems) - MAX_SHOWN) > 0:
                print(printable(f"{path}: {more} more of {len(problems)} problems; --json lists all"))
        for note in found.notes:
            print(printable(f"note: {note}"))
        print(found.summary)
    raise typer.Exit(1 if found.problems else 0)


def _by_path(problems: Iterable[Problem]) -> dict[Path, list[Problem]]:
    found: dict[Path, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.path, []).append(problem)
    return found


def _progress() -> Callable[[int, int], None]:
    """Says every few seconds how far it is, on standard error."""
    said = time.monotonic()

    def say(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > 5:
            said = time.monotonic()
            print(f"{done:,} of {total:,} records", file=sys.stderr)

    return say
