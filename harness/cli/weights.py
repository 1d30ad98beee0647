"""`harness weights`: get, find and check the official weights of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .options import Once

if TYPE_CHECKING:
    from harness.card import ModelCard

Model = Annotated[str, typer.Argument(help="A model, `floors`, or a repository of the hub as hf:owner/name[@revision].")]
app = typer.Typer(no_args_is_help=True, help="Get, find and check the official weights of models.")


@app.command("get", cls=Once)
def weights_get(model: Model) -> None:
    """Download a model's official weights at the pinned revision, with resume and checksum."""
    from harness.files.hub import fetch

    from .screen import Screen

    for name, card in _cards(model).items():
        with Screen().download(f"weights of {name}") as progress:
            folder = fetch(name, card, progress=progress)
        print(folder)


@app.command("path", cls=Once)
def weights_path(model: Model) -> None:
    """Print the folder of a model's official weights; fails where they are not here."""
    from harness.files.hub import official

    for name, card in _cards(model).items():
        print(official(name, card))


@app.command("verify", cls=Once)
def weights_verify(model: Model) -> None:
    """Compare a model's files with their checksums; exit 1 if any is not intact."""
    from harness.files.hub import USABLE, official, verify

    from .screen import Screen

    states = {}
    for name, card in _cards(model).items():
        official(name, card)
        states |= {str(path): state for path, state in verify(card).items()}
    Screen().table(["file", "state"], [[path, state] for path, state in states.items()])
    raise typer.Exit(0 if set(states.values()) <= set(USABLE) else 1)


def _cards(model: str) -> dict[str, ModelCard]:
    from harness.registry import model_facts, model_names

    return {name: model_facts(name).card for name in model_names(model)}
