"""Printing comparisons in the format asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UnknownName

from .compare import compare_all
from .compare_render import frame, markdown, show
from .render import frame_as_csv

FORMATS = ("terminal", "markdown", "csv", "json")


def print_comparison(
    results: Sequence[Path], models: Sequence[str], task: Sequence[str], metric: str | None, split: Sequence[str], format: str
) -> None:
    """Print the comparison of each kind of task to standard output; see :func:`.compare.compare` for the arguments.

    Raises:
        UnknownName, UserError: as there; UnknownName too if there is no such format.
    """
    if format not in FORMATS:
        raise UnknownName(f"format {format!r}: choose one of {', '.join(FORMATS)}")
    found = compare_all(results, models, task, metric, split)
    if format == "json":
        whole = [one.to_json() for one in found.values()]
        print(json.dumps(whole[0] if len(whole) == 1 else whole, indent=1, ensure_ascii=False))
    elif format == "csv":
        import pandas as pd

        print(frame_as_csv(pd.concat([frame(one) for one in found.values()])), end="")
    elif format == "markdown":
        heading = "## {} tasks\n\n" if len(found) > 1 else ""
        print("\n".join(heading.format(kind) + markdown(one) for kind, one in found.items()), end="")
    else:
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False)
        for number, (kind, one) in enumerate(found.items()):
            if len(found) > 1:
                console.print(Text(("\n" if number else "") + f"{kind} tasks", style="bold"))
            show(one, console)
