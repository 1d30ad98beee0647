"""`harness data`: get, find and check data sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Once, Quiet

if TYPE_CHECKING:
    from harness.task import Source

app = typer.Typer(no_args_is_help=True, help="Get, find and check data sets.")
_CSV = re.compile(r"\.csv$", re.IGNORECASE)
DataName = Annotated[
    str,
    typer.Argument(
        help="A task (QKI), a family (rbp), all tasks (all), or a reference: hg38, mm10, ce11, cdna97, phylop, phastcons."
    ),
]


@app.command("get", cls=Once)
def data_get(
    name: DataName = "all",
    genomes: Annotated[
        bool, typer.Option("--genomes", help="Also the genomes that the tasks are cut from (hg38: about 0.8 GB).")
    ] = False,
    source: Annotated[str, typer.Option(help="hub: ready sequences instead, for `harness run --option source=hub`.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Download anew what is here already.")] = False,
    quiet: Quiet = False,
) -> None:
    """Download data sets, with resume and checksum. What is here already is only checked."""
    from harness.files.sources import data_home, fetch, find_sources

    from .screen import Screen

    screen = Screen(quiet)
    files = _on_hub(name, source) if source else find_sources(name, references=genomes)
    for number, file in enumerate(files, start=1):
        with screen.download(f"{file.path} ({number}/{len(files)})") as progress:
            fetch(file, progress, force)
    checked = "each compared with its published checksum, or else with its format and what was downloaded first"
    screen.say(f"{len(files)} files are in {data_home()}, {checked}")
    if not source and (lacking := _lacking_references(name)):
        screen.say(
            f"windows are cut from what is not here yet: {' '.join(lacking)}; `harness data get {name} --genomes` fetches all of "
            "it, and `harness run --genome FILE` takes another copy"
        )


def _on_hub(name: str, source: str) -> list[Source]:
    """The hub's files of a task or of a family."""
    from harness.errors import UserError
    from harness.files.hub import dataset_files
    from harness.registry import find_tasks

    if source != "hub":
        raise UserError(f"source {source!r}: only the hub is another source; leave it out for the usual one")
    tasks = find_tasks(name)
    if elsewhere := next((task for task in tasks if not task.hub), None):
        raise UserError(f"source 'hub': {elsewhere.name} is read from one place only; leave it out")
    return [file for task in tasks for file in dataset_files(task.hub, f"{task.family}/hub/{task.name}")]


def _lacking_references(name: str) -> list[str]:
    """The names of the genomes that are not here, of a task or of tasks that are read with them."""
    from harness.files.sources import REFERENCES, missing
    from harness.registry import find_tasks

    if name.lower() in REFERENCES:
        return []
    absent = missing(dict.fromkeys(source for task in find_tasks(name) for source in task.references))
    return [key for key, source in REFERENCES.items() if source in absent]


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
    from harness.files.sources import USABLE, find_sources, missing, verify

    from .screen import Screen

    files = find_sources(name)
    genomes = [source for source in find_sources(name, references=True) if source not in files and not missing([source])]
    states = {source.path: verify(source) for source in [*files, *genomes]}
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


@app.command("pmi", cls=Once)
def data_pmi(
    genome: Annotated[Path, typer.Argument(help="FASTA (plain, gzip or bgzip), 2bit, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="The table to write (.csv).")],
    k: Annotated[int, typer.Option(help="Letters of a k-mer, 2 to 8.")] = 6,
    min_count: Annotated[int, typer.Option(help="k-mers that occur less often get no rank.")] = 101,
    force: Annotated[bool, typer.Option("--force", help="Replace the table if it exists.")] = False,
    quiet: Quiet = False,
) -> None:
    """Rank the k-mers of a genome by their pointwise mutual information, for GeneMask's objective `pmi`."""
    from harness.files.pmi import check_request, genome_pmi, spelled, write_pmi
    from harness.inference.writing import check_out

    from .screen import Screen

    screen = Screen(quiet)
    check_request(k, min_count)
    check_out(out, [genome], _CSV, ".csv", force)
    with screen.download(f"counting the {k}-mers of {genome}") as progress:
        table = genome_pmi(genome, k, min_count, progress)
    write_pmi(table, out)
    made, best, kinds = table.made, int(table.ranks.argmin()), 4**k
    screen.say(
        f"{genome}: {made['letters']:,} letters A, C, G, T; {made['unknown']:,} N and other ambiguous letters, which no k-mer "
        f"spans; records: {made['records']:,}, stretches without N: {made['stretches']:,}"
    )
    if table.ranked < kinds:
        screen.say(
            f"{kinds - table.ranked:,} of {kinds:,} {k}-mers occur less than {min_count} times: they are left out, and masked as "
            f"if their rank were the worst, {kinds:,}"
        )
    screen.say(
        f"{out}: {table.ranked:,} {k}-mers; the highest rank has {spelled(best, k)}, norm {table.scores['norm'][best]:.3f}"
    )


@app.command("simulate", cls=Once)
def data_simulate(
    folder: Annotated[Path, typer.Argument(help="The folder to write; new, or empty.")],
    letters: Annotated[int, typer.Option(help="Size of the genome in nucleotides.")] = 200_000,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Write a small simulated genome, RNAs and an alignment with conservation, to try `harness pretrain` on."""
    from harness.files.simulated import simulate

    from .screen import Screen

    files = simulate(folder, letters, seed)
    Screen(quiet).say(
        f"{folder}: {', '.join(file.name for file in files)}; simulated, with planted repeats, motifs and conservation"
    )
