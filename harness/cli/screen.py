"""What a run shows: a live bar and a panel on a terminal, plain lines elsewhere, almost nothing with --quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from harness.progress import Progress, Reporter, figure, printable
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from harness.evidence.records import RunRecord

MAX_GROUPS = 5  # of a kind, such as genes, whose scores are shown
PANEL_METRICS = {
    CLASSIFICATION: ("accuracy", "f1", "log_loss", "auroc", "auprc", "mcc", "ece"),
    REGRESSION: ("spearman", "pearson", "r2", "rmse", "mae"),
    MULTILABEL: ("auroc", "auprc", "f1", "micro_auroc", "micro_auprc", "micro_f1", "log_loss", "exact_match"),
}


class Screen(Reporter):
    """Messages and progress go to standard error, results to standard output; without ``panel``, no results are shown."""

    def __init__(self, quiet: bool = False, panel: bool = True) -> None:
        self.quiet, self.panel = quiet, panel
        # Without emoji, else an id such as task:train:1 would be shown with a picture of a train.
        self.out = Console(emoji=False, highlight=False, soft_wrap=not sys.stdout.isatty())
        self.err = Console(stderr=True, emoji=False, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._bar: Bar | None = None

    def say(self, message: str) -> None:
        """One line of news, kept above a running bar."""
        if not self.quiet:
            (self._bar.console if self._bar else self.err).print(printable(message), markup=False)

    @contextmanager
    def training(self, title: str) -> Iterator[None]:
        """While it lasts, :meth:`report` moves a bar (on a terminal) or prints a line an epoch."""
        if self.quiet or not self.err.is_terminal:
            yield
            return
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[news]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=self.err, transient=True) as bar:
            bar.add_task(title, total=None, news="")
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def report(self, progress: Progress | str) -> None:
        """News of a fit: a sentence, or where it stands."""
        if isinstance(progress, str):
            self.say(progress)
            return
        if self._bar is not None:
            news = f"epoch {progress.epoch}  loss {progress.loss:.4f}"
            self._bar.update(self._bar.task_ids[0], completed=progress.step, total=progress.steps, news=news)
        if progress.validation is not None:
            self.say(f"  after epoch {progress.epoch}:  validation {progress.measure} {figure(progress.validation)}")

    @contextmanager
    def download(self, title: str) -> Iterator[Callable[[int, int | None], None]]:
        """While it lasts, the function it gives moves a bar: bytes so far, and in all where known."""
        if self.quiet or not self.err.is_terminal:
            self.say(title)
            yield lambda done, total: None
            return
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=self.err) as bar:
            file = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(file, completed=done, total=total)

    def table(self, columns: list[str], rows: list[list[str]]) -> None:
        """A table on a terminal, tab-separated lines (header first) elsewhere."""
        if not self.out.is_terminal:
            print(printable("\n".join("\t".join(row) for row in [columns, *rows])))
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))  # Text, because plain strings are read as markup
        self.out.print(table)

    def card(self, facts: dict[str, str]) -> None:
        """Names and what is known, line by line; what is empty is left out."""
        width = max(map(len, facts))
        for name, text in facts.items():
            for number, line in enumerate(text.splitlines()):
                self.out.print(f"{name if number == 0 else '':<{width}}  {printable(line)}", markup=False, soft_wrap=True)

    def conclude(self, text: str) -> None:
        self.out.print(printable(text), markup=False)

    def result(self, record: RunRecord, folder: str) -> None:
        """The closing panel: scores, what qualifies them, and where the record lies."""
        if not self.panel:
            return
        title = f"{record.model['name']} on {record.task_label}, seed {record.seed}"
        if not record.finished:
            reason = next(iter(str(record.error).splitlines()), "")
            self.conclude(f"{title}: failed: {reason}\n  record            {folder}")
            return
        lines = [_score(record, name) for name in PANEL_METRICS[record.kind] if record.metrics.get(name) is not None]
        if undefined := [name for name in PANEL_METRICS[record.kind] if name in record.metrics and record.metrics[name] is None]:
            lines.append(f"{'undefined':<18}{', '.join(undefined)}   the test labels, or the predictions, vary too little")
        lines.append(_about(record))
        best = record.task.get("best_accuracy")
        if best is not None:
            lines.insert(1, f"{'best possible':<18}{best:.4f}   simulated data: says nothing about the real task")
        if record.alignment:
            lines.append(f"{'without alignment':<18}{_without_alignment(record)}")
        lines += _without_leaks(record)
        lines += _by_group(record)
        lines += [f"! {flag}" for flag in record.flags]
        lines.append(f"record            {folder}")
        if self.out.is_terminal and not self.quiet:
            from rich.panel import Panel
            from rich.text import Text

            self.out.print(Panel(Text(printable("\n".join(lines))), title=Text(printable(title)), expand=False))
        else:
            self.conclude("\n".join([title, *(f"  {line}" for line in lines)]))


def _about(record: RunRecord) -> str:
    """What the scores are of: a class, several, the number, or the labels."""
    classes = record.task["classes"]
    if record.kind == REGRESSION:
        return f"{'predicted':<18}{classes[0]}"
    if record.kind == MULTILABEL:
        return f"{'auroc, auprc, f1':<18}means over {len(classes)} labels; micro: of all labels together"
    about = f"of the class {classes[1]!r}" if len(classes) == 2 else f"means over {len(classes)} classes"
    return f"{'f1, auprc':<18}{about}"


def _score(record: RunRecord, name: str) -> str:
    low, high = record.intervals.get(name, (None, None))
    limits = "" if low is None or high is None else f"   [{figure(low)}, {figure(high)}]"
    reason, score = record.without_interval.get(name), record.metrics[name]
    assert score is not None
    return f"{name:<18}{figure(score)}{limits}" + (f"   no interval: {reason}" if reason else "")


def _by_group(record: RunRecord) -> list[str]:
    """The main metric by what the task's files say of its examples, the largest groups first."""
    main, lines = record.task["main_metric"], []
    for name, words in record.groups.items():
        scored = {word: found for word, found in words.items() if "metrics" in found}
        for word, found in list(scored.items())[:MAX_GROUPS]:
            score = found["metrics"].get(main)
            text = "-" if score is None else f"{score:.4f}"
            lines.append(f"{name:<18}{text}   {main} on the {found['examples']:,} test variants of {word}")
        if others := {word: found for word, found in words.items() if word not in list(scored)[:MAX_GROUPS]}:
            examples = sum(found["examples"] for found in others.values())
            lines.append(f"{name:<18}{len(others):,} more with {examples:,} test variants; see `harness table --subset {name}=…`")
    return lines


def _without_leaks(record: RunRecord) -> list[str]:
    """The main metric on the test examples with and without a match in train, if there are any with one."""
    subsets, main = record.leakage.get("subsets", {}), record.task["main_metric"]
    if not subsets or not subsets["leaking"]["examples"]:
        return []
    lines = []
    for name, words in (("novel", "no match in train"), ("leaking", "a match in train")):
        found = subsets[name]
        score, limits = found["metrics"].get(main), found["intervals"].get(main)
        text = "-" if score is None else f"{score:.4f}"
        text += f"   [{limits[0]:.4f}, {limits[1]:.4f}]" if limits else ""
        lines.append(f"{name:<18}{text}   {main} on the {found['examples']:,} test windows with {words}")
    return lines


def _without_alignment(record: RunRecord) -> str:
    """What becomes of the predictions when the auxiliary rows are blanked or shuffled."""
    metric, what, unit = ("spearman", "number", " sd") if record.kind == REGRESSION else ("auroc", "probability", "")
    intact = record.alignment["intact"][metric]
    ways = [
        f"{name}: a {what} changes by {found['mean_change']:.3f}{unit}"
        + ("" if intact is None or found[metric] is None else f", {metric} {intact:.3f} → {found[metric]:.3f}")
        for name in ("blanked", "shuffled")
        for found in [record.alignment[name]]
    ]
    return "; ".join(ways)
