"""Options that several commands share, and those of fine-tuning, which the fields of Recipe make."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from harness.errors import UserError
from harness.recipe import Recipe

Results = Annotated[Path, typer.Option(help="Folder of records and tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")]
Checkpoint = Annotated[str | None, typer.Option(help="Weights: a file, a folder, or a hub id (owner/name[@revision]).")]
ModelOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help="An option of the model or its objective, name=value (see `harness show MODEL`); repeatable.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]

OWN = "Your own files"
TrainFiles = Annotated[
    list[Path] | None, typer.Option("--train", help="In place of --task: the training part; repeatable.", rich_help_panel=OWN)
]
ValidationFiles = Annotated[
    list[Path] | None,
    typer.Option("--validation", help="The validation part (default: 10 % of train); repeatable.", rich_help_panel=OWN),
]
TestFiles = Annotated[list[Path] | None, typer.Option("--test", help="The test part; repeatable.", rich_help_panel=OWN)]
SequenceColumn = Annotated[
    str, typer.Option(help="Column of the sequences: its name, or number (from 1) without a header.", rich_help_panel=OWN)
]
LabelColumn = Annotated[
    list[str] | None,
    typer.Option(help="Column of the labels; a,b or repeated for several labels a window.", rich_help_panel=OWN),
]
Positive = Annotated[str, typer.Option(help="Of two classes, the one that counts as positive.", rich_help_panel=OWN)]
TaskKind = Annotated[
    str, typer.Option(help="classification, regression or multilabel (default: by the labels, and said).", rich_help_panel=OWN)
]

TRAINING = "Fine-tuning (default: the model's published settings)"


class Once(TyperCommand):
    """A command that refuses an option which is given twice and takes one value: the last would win in silence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        before = args[: args.index("--")] if "--" in args else args
        for option in self.params:
            if option.param_type_name == "option" and option.nargs == 1 and not option.multiple and not option.is_flag:  # type: ignore[attr-defined]
                given = [word for word in before if word.split("=", 1)[0] in option.opts]
                if len(given) > 1:
                    raise UserError(f"{option.opts[0]} is given {len(given)} times, and takes one value; give it once")
        return super().parse_args(ctx, args)


def pairs(options: Sequence[str] | None) -> dict[str, str]:
    """``--option name=value``, given any number of times, as a dictionary."""
    for option in options or ():
        if "=" not in option:
            raise UserError(f"--option {option!r}: expected name=value")
    return dict(option.split("=", 1) for option in options or ())


def with_settings(
    *names: str, of: type[Recipe] = Recipe, like: Callable[..., None] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command whose last parameter is ``**settings`` an option for each field of ``of``, or for those named.

    Type, default, range and help are the field's. A setting that the user does not give is None. With ``like``, it gets that
    function's parameters, too, which arrive among the settings.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        keyword = inspect.Parameter.KEYWORD_ONLY
        types = typing.get_type_hints(of)
        own = [item for function in (like, command) if function for item in _parameters(function)]
        made = [
            inspect.Parameter(item.name, keyword, default=None, annotation=_annotation(item, types[item.name]))
            for item in fields(of)
            if not names or item.name in names
        ]
        signature = inspect.Signature([*own, *made])
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {name: item.annotation for name, item in signature.parameters.items()}
        return command

    return decorate


def _parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    """A function's named parameters as keywords, their types resolved."""
    hints = typing.get_type_hints(function, include_extras=True)
    named = [item for item in inspect.signature(function).parameters.values() if item.kind is not item.VAR_KEYWORD]
    return [item.replace(annotation=hints[item.name], kind=inspect.Parameter.KEYWORD_ONLY) for item in named]


def _annotation(item: Any, kind: Any) -> Any:
    choices = item.metadata.get("choices", ())
    named = all(choice in item.metadata["help"] for choice in choices)
    help = item.metadata["help"] + ("" if named else f" One of {', '.join(choices)}.")
    names = [f"--{item.name.replace('_', '-')}", *(["--lr"] if item.name == "learning_rate" else [])]
    return Annotated[kind | None, typer.Option(*names, help=help, rich_help_panel=TRAINING)]
