"""`harness data`: get, find and check data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Once, Quiet

app = typer.Typer(no_args_is_help=True, help="Get, find and check data sets.")
DataName = Annotated[
    str, typer.Argument(help="A task (QKI), a family (rbp), all tasks (all), or a reference: hg38, phylop, phastcons.")
]


@app.command("get", cls=Once)
def data_get(
    name: DataName = "all",
    force: Annotated[bool, typer.Option("--force", help="Download anew what is here already.")] = False,
    quiet: Quiet = False,
) -> None:
    """Download data sets, with resume and checksum. What is here already is only checked."""
    from harness.files.sources import data_home, fetch, find_sources

    from .screen import Screen

    screen = Screen(quiet)
    sources = find_sources(name)
    for number, source in enumerate(sources, start=1):
        with screen.download(f"{source.path} ({number}/{len(sources)})") as progress:
            fetch(source, progress, force)
    checked = "each compared with its published checksum, or else with its format and what was downloaded first"
    screen.say(f"{len(sources)} files are in {data_home()}, {checked}")


@app.command("path", cls=Once)
def data_path(name: Annotated[str | None, typer.Argument(help="As for `get`; none: the data folder.")] = None) -> None:
    """Print where data lies, or would lie: set HARNESS_DATA to move it."""
    from harness.files.sources import data_home, find_sources, locate

    if name is None:
        print(data_home())
        return
    for source in find_sources(name):
        print(locate(source))


@app.command("verify", cls=Once)
def data_verify(name: DataName = "all") -> None:
    """Compare every file with its checksum, the published one or its download's; exit 1 if any is not intact."""
    from harness.files.sources import USABLE, find_sources, verify

    from .screen import Screen

    states = {source.path: verify(source) for source in find_sources(name)}
    Screen().table(["file", "state"], [[path, state] for path, state in states.items()])
    raise typer.Exit(0 if set(states.values()) <= set(USABLE) else 1)


@app.command("build-msa", cls=Once)
def data_build_msa(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="MAF, aligned FASTA or zarr; many make one.")],
    out: Annotated[Path, typer.Option(help="The folder to write, for `--msa`; must not exist.")],
    species: Annotated[str, typer.Option(help="Rows to keep: 89, 99, names or a file; default all.")] = "",
    quiet: Quiet = False,
) -> None:
    """Write alignments as one store: the form in which columns are read fastest."""
    from harness.files.alignments import build_store, open_alignment

    from .screen import Screen

    screen = Screen(quiet)
    with screen.download(f"writing {out}") as progress:
        store = open_alignment(build_store(sources, out, species, progress))
    for note in store.notes:
        screen.say(note)
    columns = sum(end - start for start, end in store.extents.values())
    size = sum(file.stat().st_size for file in out.iterdir())
    screen.say(
        f"{out}: {len(store.extents)} chromosomes, {columns:,} columns, {len(store.species)} rows with the target, {size:,} bytes"
    )
