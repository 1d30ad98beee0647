"""`harness sweep`: every model on every task with every seed; `harness status`: how far that is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.errors import HarnessError, UserError
from harness.progress import printable

from .asking import asked, for_plan
from .options import Quiet, Results, with_settings

if TYPE_CHECKING:
    from harness.study.plan import Run
    from harness.study.study import Study
    from harness.study.sweep import Engine, Sweep
    from harness.study.work import Worker

    from .board import Lines

HOW = "How it is done"
ENGINES = ("local", "ray", "slurm")
STOPPED = 130  # the exit code of a command that Ctrl-C ended
MAX_LISTED = 10


@with_settings(like=asked)
def sweep(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[STUDY.toml]", help="A study, in place of --model and --task.")
    ] = None,
    max_epochs: Annotated[
        int | None, typer.Option(help="The most epochs that any model may train for, one budget for all.")
    ] = None,
    results: Results = Path("results"),
    on: Annotated[str, typer.Option(help=f"{', '.join(ENGINES)}: where runs are done.", rich_help_panel=HOW)] = "local",
    jobs: Annotated[
        int,
        typer.Option(
            min=1, help="Runs at once, which share threads and GPUs (slurm: elements of the array).", rich_help_panel=HOW
        ),
    ] = 1,
    slurm: Annotated[str, typer.Option(help='Options of sbatch, "--gres=gpu:1 --time=4:00:00".', rich_help_panel=HOW)] = "",
    cpus: Annotated[float, typer.Option(min=0, help="ray: CPUs of a run.", rich_help_panel=HOW)] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="ray: GPUs of a run, such as 0.5.", rich_help_panel=HOW)] = 0,
    shard: Annotated[str, typer.Option(help="3/40: the third of 40 shares of the runs.", rich_help_panel=HOW)] = "",
    retry: Annotated[str, typer.Option(help="failed: do failed runs again.", rich_help_panel=HOW)] = "",
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Leave runs that other processes have to them.", rich_help_panel=HOW)
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the runs, and do none.", rich_help_panel=HOW)] = False,
    write: Annotated[
        Path | None, typer.Option(help="Write what is asked for as a study file, and do no run.", rich_help_panel=HOW)
    ] = None,
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Run every model on every task with every seed; the same line again finishes the rest, a longer one amends it."""
    if on not in ENGINES:
        raise UserError(f"on {on!r}: choose one of {', '.join(ENGINES)}")
    if retry not in ("", "failed"):
        raise UserError(f"retry {retry!r}: only failed runs can be done again; write --retry failed")
    _check_used(
        slurm=bool(slurm) and on != "slurm" and "only with --on slurm",
        cpus=cpus != 1 and on != "ray" and "only with --on ray",
        gpus=gpus != 0 and on != "ray" and "only with --on ray",
        jobs=jobs != 1 and on == "ray" and "not with --on ray, which divides the cluster by --cpus and --gpus",
        no_wait=no_wait and on == "slurm" and "not with --on slurm, which submits and never waits",
        shard=bool(shard) and write is not None and "not with --write: a study file says no share of its runs",
        dry_run=dry_run and write is not None and "not with --write, which does no run either",
        retry=bool(retry) and write is not None and "not with --write, which does no run",
    )
    from harness.study import sweep as sweeping
    from harness.study.work import Worker, stoppable

    from .board import Lines

    study = _study(files, given, max_epochs)
    searches = study.searches()
    if write is not None:
        study.plan()  # refuses what cannot be run
        study.write(write)
        typer.echo(f"{write}: written; `harness sweep {write}` does it", err=True)
        return
    runs = study.unsearched(elsewhere=on != "local")
    if study.search and (on != "local" or shard):
        raise UserError("search: a study with a [search] is done on this machine alone; leave --on and --shard out")
    runs = sweeping.shard(runs, shard) if shard else runs
    if dry_run:
        _show(runs, results, searches)
        return
    device = None if study.device == "auto" else study.device
    worker = Worker(results, device, retry=bool(retry))
    with Lines(quiet) as board, stoppable(board.say):
        if on == "slurm":
            _submit(runs, worker, slurm, jobs)
            return
        engine = _engine(on, worker, jobs, board, cpus, gpus)
        done: list[Sweep] = []

        def tell(sweep: Sweep, number: int) -> None:
            done[:] = [sweep]
            board.told(sweep, number, jobs)

        try:
            _search(searches, results, jobs, board)
            found = sweeping.sweep(runs, results, engine, retry=bool(retry), wait=not no_wait, board=board, tell=tell)
        except KeyboardInterrupt:
            board.say(f"stopped: {_remaining(done, runs)}")
            raise typer.Exit(STOPPED) from None
        board.say(_concluded(found))
    raise typer.Exit(1 if found.failed else 0)


def _study(files: list[str] | None, given: dict[str, Any], max_epochs: int | None) -> Study:
    from dataclasses import replace

    from harness.study.study import Study

    if not (files and len(files) == 1 and files[0].endswith(".toml")):
        return Study.asked(for_plan(given, files), max_epochs)
    unsaid = {name for name, value in given.items() if value is None or value is False or value == ""}  # 0 is said
    if named := [name for name in given if name != "device" and name not in unsaid]:
        raise UserError(f"{named[0].replace('_', '-')}: stands in {files[0]}; change it there, or leave the file out")
    study = Study.read(Path(files[0]))
    study = replace(study, device=given["device"]) if given["device"] != "auto" else study
    return replace(study, max_epochs=max_epochs) if max_epochs is not None else study


def _check_used(**reasons: str | bool) -> None:
    """Refuse an option that would do nothing; its reason says why."""
    for name, reason in reasons.items():
        if reason:
            option = name.replace("_", "-")
            raise UserError(f"{option}: {reason}; leave --{option} out")


def _search(searches: Sequence[Mapping[str, Any]], results: Path, jobs: int, board: Lines) -> None:
    """Search what the study wants searched, and run what is chosen."""
    from harness.study.search import search

    for words in searches:
        found = search(
            **words, jobs=jobs, results=results, board=board, tell=lambda sweep, number: board.told(sweep, number, jobs)
        )
        if failed := [one.name for one in found if not one.records or not all(record.finished for record in one.records)]:
            raise HarnessError(f"search: no final runs of {', '.join(failed)}, see above; the same line goes on")


def _engine(on: str, worker: Worker, jobs: int, board: Lines, cpus: float, gpus: float) -> Engine:
    if on == "ray":
        from harness.study.on_ray import RayPool

        return RayPool(worker, board, cpus=cpus, gpus=gpus)
    from harness.study.pool import Pool

    return Pool(worker, jobs, board)


def _submit(runs: list[Run], worker: Worker, options: str, jobs: int) -> None:
    from harness.study.on_slurm import logs, submit

    found = submit(runs, worker.results, options=options, jobs=jobs, retry=worker.retry)
    if not found:
        typer.echo(f"all {len(runs)} runs are recorded in {worker.results}: nothing was submitted")
        return
    typer.echo(f"{len(runs)} runs, submitted as {', '.join(found)}; `harness status {worker.results}` says how far they are")
    typer.echo(f"the jobs' logs: {logs(worker.results)}", err=True)


def _show(runs: list[Run], results: Path, searches: Sequence[Mapping[str, Any]]) -> None:
    from harness.study.asked import words_of
    from harness.study.run import recorded
    from harness.study.searched import Budget

    for words in searches:
        models, tasks = (words_of(what, words[what]) if words.get(what) else ["own files"] for what in ("model", "task"))
        what = f"{', '.join(models)} on {', '.join(tasks)}"
        typer.echo(printable(f"search of {words.get('trials', Budget.trials)} trials: {what}; then runs with what is chosen"))
    for run in runs:
        earlier = recorded(run, results)
        state = "" if earlier is None else " (recorded)" if earlier.finished else " (failed)"
        settings = "".join(f", {name} {value}" for name, value in run.recipe.items())
        typer.echo(printable(f"{run.name} on {run.label} [{run.split}], seed {run.seed}{settings}: {run.id}{state}"))
    beside = f", beside those of {len(searches)} searches" if searches else ""
    typer.echo(f"{len(runs)} runs{beside}", err=True)


def _remaining(done: list[Sweep], runs: Sequence[Run]) -> str:
    if not done:
        return f"the {len(runs)} runs without a search have not begun; the same line goes on"
    return f"{done[0].waiting} of {len(done[0].runs)} runs remain; the same line goes on from the last saved epochs"


def _concluded(found: Sweep) -> str:
    lines = [f"{found.finished} of {len(found.runs)} runs are recorded in {found.results}"]
    if found.waiting:
        lines.append(f"{found.waiting} are left to other processes; `harness status {found.results}` says how far they are")
    if found.failed:
        from .board import outcome

        lines.append(f"{len(found.failed)} failed (--retry failed does them again):")
        lines += [f"  {outcome(record)}" for record in found.failed[:MAX_LISTED]]
        lines += [f"  and {len(found.failed) - MAX_LISTED} more"] if len(found.failed) > MAX_LISTED else []
    return "\n".join(lines)


def status(
    results: Annotated[Path, typer.Argument(help="The results folder.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show which runs of a results folder are done, running, failed or waiting, and the hours left."""
    from harness.progress import duration
    from harness.study.status import by_model, status

    from .board import counted, outcome

    found = status(results)
    if as_json:
        typer.echo(json.dumps(_as_json(found), indent=1))
        return
    lines = [f"finished  {found.finished:,}"]
    lines.append(f"running   {len(found.running):,}")
    for holder in found.running:
        where = f"process {holder.process} on {holder.machine}, since {holder.begun}"
        lines.append(f"  {holder.key}: epoch {holder.epoch + 1}, {holder.share:.0%} ({where}; heard {holder.heard:.0f} s ago)")
    if found.abandoned:
        lines.append(f"abandoned {len(found.abandoned):,}: their processes have ended; the next sweep goes on with them")
        lines += [f"  {holder.key}: {holder.epoch} epochs ended (on {holder.machine})" for holder in found.abandoned]
    lines.append(f"failed    {len(found.failed):,}")
    lines += [f"  {outcome(record)}" for record in found.failed[:MAX_LISTED]]
    if len(found.failed) > MAX_LISTED:
        lines.append(f"  and {len(found.failed) - MAX_LISTED} more (--json has all)")
    lines.append(f"waiting   {len(found.waiting):,}")
    if found.waiting:
        lines.append("  " + counted([(f"{name} on {label}", count) for (name, label), count in by_model(found.waiting).items()]))
        left = "not known yet" if found.hours is None else f"about {duration(found.hours * 3600)}"
        lines.append(f"time left {left}")
    lines += found.complaints
    typer.echo(printable("\n".join(lines)))


def _as_json(found: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "finished": found.finished,
        "running": [asdict(holder) for holder in found.running],
        "abandoned": [asdict(holder) for holder in found.abandoned],
        "failed": [{"folder": record.folder.as_posix(), "error": record.error} for record in found.failed],
        "waiting": [
            {"model": run.name, "task": run.label, "split": run.split, "seed": run.seed, "id": run.id} for run in found.waiting
        ],
        "hours": found.hours,
        "skipped": list(found.complaints),
    }
