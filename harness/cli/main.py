"""The `harness` command: options in, calls out. No logic, and no heavy import before a command needs it."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from harness.errors import HarnessError
from harness.progress import printable

from . import adapters, audit, compare, data, embed, look, predict, pretrain, report, run, search, sweep, tables, verify, weights
from .options import Once

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("run", cls=Once)(run.run)
app.command("sweep", cls=Once)(sweep.sweep)
app.command("status", cls=Once)(sweep.status)
app.command("search", cls=Once)(search.search)
app.command("audit", cls=Once)(audit.audit)
app.command("table", cls=Once)(tables.table)
app.command("verify", cls=Once)(verify.verify)
app.command("report", cls=Once)(report.report)
app.command("compare", cls=Once)(compare.compare)
app.command("predict", cls=Once)(predict.predict)
app.command("embed", cls=Once)(embed.embed)
app.command("pretrain", cls=Once)(pretrain.pretrain)
app.add_typer(look.list_app, name="list")
app.command("show", cls=Once)(look.show)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")
app.command("doctor", cls=Once)(look.doctor)
app.command("check-adapter", cls=Once)(adapters.check_adapter)
app.command("new-adapter", cls=Once)(adapters.new_adapter)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: expected failures become one line and an exit code (2: a user's mistake, 1: a failed run).

    Raises:
        SystemExit: always, with the exit code.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    arguments = [argument for argument in given if argument != "--debug"]
    debug = len(arguments) < len(given)
    warnings.showwarning = _plain_warning
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows no ↓ shows ?
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(arguments, prog_name="harness")
    except HarnessError as error:
        if debug:
            raise
        _stop(str(error), error.exit_code)
    except MemoryError as error:
        if debug:
            raise
        _stop(f"out of memory ({error or 'the system gave none'}): use a smaller --context or --batch-size, or less data", 1)
    except Exception as error:
        if debug:
            raise
        _stop(f"unexpected {type(error).__name__}: {error}; run again with --debug for the traceback", 1)


def _plain_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Of a warning, what it says; where it was raised is of no use to a user."""
    print(f"warning: {printable(str(message))}", file=sys.stderr)


def _stop(message: str, code: int) -> None:
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None:
    """Compare genomic foundation models on the same data, in the same way."""
    if version:
        from harness import __version__

        print(f"harness {__version__}")
        raise typer.Exit
