"""`harness check-adapter` and `harness new-adapter`: for authors of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Checkpoint, Device


def check_adapter(
    model: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A model, or a path to an adapter file.")],
    size: Annotated[str, typer.Option(help="Size of the randomly initialised model.")] = "tiny",
    checkpoint: Checkpoint = None,
    device: Device = "cpu",
) -> None:
    """Check an adapter against the contract, clause by clause; exit 1 if it violates any."""
    from harness.check.contract import check

    from .screen import Screen

    verdicts = check(model, size, checkpoint, device)
    Screen().table(["clause", "verdict", "detail"], [[verdict.statement, verdict.state, verdict.detail] for verdict in verdicts])
    raise typer.Exit(1 if any(verdict.state == "violated" for verdict in verdicts) else 0)


def new_adapter(
    name: Annotated[str, typer.Argument(help="Name of the model: lower-case letters, digits and underscores.")],
    folder: Annotated[Path, typer.Option(help="Where to write NAME.py.")] = Path(),
) -> None:
    """Write a small adapter that already runs, to turn into your own; print what to type next."""
    from harness.check.scaffold import new_adapter as write

    from .screen import Screen

    path = write(name, folder)
    Screen().say(f"wrote {path}; next:")
    print(f"harness check-adapter {path}\nharness run --model {path} --task QKI --epochs 1")
