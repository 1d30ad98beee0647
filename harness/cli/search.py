"""`harness search`: better settings than the published ones, with the same budget for every model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.progress import figure, printable

from .asking import asked, for_plan
from .options import Quiet, Results, with_settings
from .sweep import STOPPED

if TYPE_CHECKING:
    from harness.study.search import Search

HOW = "How it is searched"


@with_settings(like=asked)
def search(
    more_files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]", help="With --task pos.fa: the negatives; with --task train.csv: dev.csv, test.csv."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Settings to try for each model; more amend a search.", rich_help_panel=HOW)] = 20,
    space: Annotated[
        Path | None,
        typer.Option(
            help="TOML: [space] learning_rate = {low = 1e-5, high = 1e-3, log = true}, batch_size = [8, 16], in place of the "
            "default space; [model.NAME.space] changes it for one model.",
            rich_help_panel=HOW,
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="msamamba-paper: the learning rates that its authors tried.", rich_help_panel=HOW)
    ] = None,
    pruner: Annotated[
        str, typer.Option(help="median, hyperband or none: which trials are ended early.", rich_help_panel=HOW)
    ] = "median",
    sampler_seed: Annotated[int, typer.Option(help="Seed of the trials.", rich_help_panel=HOW)] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at once, which share threads and GPUs.", rich_help_panel=HOW)] = 1,
    results: Results = Path("results"),
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Search a model's settings on a task by the validation split, then score the test split with those chosen.

    Settings that are given are fixed, the others of the space are searched. Every model has --trials of at most --epochs (default
    20). --seed are the seeds of the final runs (default 0, 1, 2). The same line again finishes a search that was interrupted.
    """
    from harness.study.search import FINAL_SEEDS
    from harness.study.search import search as search_settings
    from harness.study.work import stoppable

    from .board import Lines

    words = for_plan(given, more_files)
    words |= {"seed": words["seed"] if given["seed"] else FINAL_SEEDS}
    own = {"trials": trials, "space": space, "preset": preset, "pruner": pruner, "sampler_seed": sampler_seed, "jobs": jobs}
    with Lines(quiet) as board, stoppable(board.say):
        try:
            found = search_settings(
                **words, **own, results=results, board=board, tell=lambda sweep, number: board.told(sweep, number, jobs)
            )
        except KeyboardInterrupt:
            raise typer.Exit(STOPPED) from None
    for one in found:
        typer.echo(printable(_sentences(one)))
    raise typer.Exit(0 if all(one.records and all(record.finished for record in one.records) for one in found) else 1)


def _sentences(search: Search) -> str:
    """What came of a search, in words."""
    from harness.study.searched import listed, shown

    cost, baseline, chosen, measure = search.cost, search.baseline, search.chosen, f"validation {search.objective}"
    states = Counter(trial.state for trial in search.tried)
    lines = [
        f"{search.name}: {cost['trials']} trials of at most {cost['epochs']} epochs "
        f"({', '.join(f'{count} {state}' for state, count in states.items())}); "
        f"{cost['epochs_run']} epochs were run in {cost['seconds']:.0f} s"
    ]
    if baseline:
        value = "failed" if baseline.value is None else f"{measure} {figure(baseline.value)}"
        lines.append(f"{'baseline':<18}{value} (trial 0)")
    if chosen is None or chosen.value is None:
        reason = next((trial.error for trial in search.tried if trial.error), None) or "no trial has ended"
        return "\n  ".join([*lines, f"nothing is chosen: {reason.splitlines()[0]}"])
    note = "optimistic, for it was chosen by this very number; only the test score counts"
    lines.append(f"{'best':<18}{measure} {figure(chosen.value)} (trial {chosen.number}); {note}")
    before = {name: getattr(search.recipe, name) for name in search.space.settings}
    changed = {name: value for name, value in chosen.settings.items() if value != before[name]}
    lines += [f"{name:<18}{shown(before[name])} → {shown(value)}" for name, value in changed.items()]
    if not changed:
        lines.append("no trial was better than the baseline, whose settings are kept")
    elif kept := {name: value for name, value in before.items() if name not in changed}:
        lines.append(f"{'unchanged':<18}{listed(kept)}")
    if search.importance:
        ranked = sorted(search.importance.items(), key=lambda item: -item[1])
        lines.append(f"{'importance':<18}{', '.join(f'{name} {share:.0%}' for name, share in ranked)}")
    lines += _final(search)
    return "\n  ".join([*lines, f"{'search':<18}{search.folder}"])


def _final(search: Search) -> list[str]:
    """The test scores of the final runs."""
    finished = [record for record in search.records if record.finished]
    lines = []
    if finished:
        metric = str(finished[0].task.get("main_metric"))
        scores = [record.metrics.get(metric) for record in finished]
        shown = ", ".join("undefined" if score is None else figure(score) for score in scores)
        lines.append(f"{'test':<18}{metric} {shown} (seed {', '.join(str(record.seed) for record in finished)})")
    if failed := len(search.records) - len(finished):
        lines.append(f"{failed} of {len(search.records)} final runs failed; the same line does them again")
    if before := sum("search" not in record.model for record in finished):
        lines.append(f"{before} of {len(finished)} final runs were recorded before, without a search, and do not speak of it")
    return lines
