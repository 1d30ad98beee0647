"""What a report is about: records of results folders, as tables and as the runs behind every number in them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from harness.errors import BadData, RunFailed, UserError
from harness.task import REGRESSION

from ..cells import Column, CrossTable, Row
from ..folders import PREDICTIONS
from ..identity import Runs, age, grouped, identified, main_setting, usual_recipes
from ..metrics import METRICS, OF_KIND
from ..records import Predictions, RunRecord, read_all, read_predictions
from ..tables import tables_by_metric
from .draw import Look, look

Cells = Mapping[tuple[Row, Column], Runs]


@dataclass(frozen=True)
class Group:
    """The records of one kind of task. ``tables`` has every metric, first the one that the figures are about; ``cells`` the
    runs of the setting that is shown; ``left_out`` why how many runs are not, and ``failed`` those of them that failed."""

    kind: str
    tables: Mapping[str, CrossTable]
    cells: Cells
    left_out: Counter[str]
    failed: Sequence[tuple[Row, Column, RunRecord]]

    @property
    def table(self) -> CrossTable:
        """The table by the metric that the figures are about."""
        return next(iter(self.tables.values()))

    @property
    def sign(self) -> int:
        """1 where higher values of the metric are better, else -1."""
        return 1 if METRICS[self.table.metric].higher_is_better else -1

    @cached_property
    def rows(self) -> dict[Row, str]:
        """The rows of our own, and their labels."""
        return {row: label for row, label in self.table.rows.items() if row.own}

    @cached_property
    def looks(self) -> dict[Row, Look]:
        """How each row of our own is drawn."""
        count, found = Counter[bool](), dict[Row, Look]()
        for row in self.rows:
            found[row] = look(count[row.floor], row.floor)
            count[row.floor] += 1
        return found

    @cached_property
    def keys(self) -> dict[Row, str]:
        """A short name for each row of our own that no other row of the page has."""
        return {row: f"{self.kind[0]}{number}" for number, row in enumerate(self.rows)}

    def runs(self, row: Row, column: Column) -> list[RunRecord]:
        """The finished runs that a cell's scores come of, by seed."""
        found = self.cells.get((row, column))
        return sorted((run for run in found.counted if run.finished), key=lambda run: run.seed) if found else []


@dataclass(frozen=True)
class Gathered:
    """Everything that is read. ``faults`` are sentences on what was skipped; ``missing`` the runs whose predictions cannot be
    read, and why, which grows as they are."""

    results: Sequence[Path]
    records: Sequence[RunRecord]
    groups: Sequence[Group]
    faults: list[str]
    homes: Mapping[Path, Path]
    missing: dict[Path, str] = field(default_factory=dict)

    def predictions(self, run: RunRecord) -> Predictions | None:
        """A run's predictions; None if they are missing, damaged, or of another task. Not kept: they are large."""
        folder = self.homes[run.folder] / run.folder
        try:
            found = read_predictions(folder)
            if found.kind != run.kind or (found.kind != REGRESSION and found.classes != tuple(run.task["classes"])):
                raise BadData(f"{folder / PREDICTIONS}: not the predictions of this run's task; delete the folder and run again")
            OF_KIND[run.kind].checked(found.outputs, found.labels)
            return found
        except (BadData, RunFailed) as error:
            self.missing[run.folder] = str(error)
        except ValueError as error:
            self.missing[run.folder] = f"{folder / PREDICTIONS}: {error}"
        return None


def gather(results: Sequence[Path], metric: str | None = None) -> Gathered:
    """Read results folders. A run that lies in several of them counts once, the newest of its records.

    Raises:
        UserError: a folder that does not exist, no readable records, or a metric that their tasks do not have.
        UnknownName: a metric that does not exist.
    """
    faults, newest, homes, copies = list[str](), dict[Path, RunRecord](), dict[Path, Path](), 0
    for folder in dict.fromkeys(map(Path, results)):
        if not os.path.isdir(folder):
            raise UserError(f"results {folder}: no such folder; give one that `harness run` or `harness sweep` wrote to")
        for record in read_all(folder, faults.append):
            place = record.folder
            copies += place in newest
            if place not in newest or age(record) > age(newest[place]):
                newest[place], homes[place] = record, folder
    if not newest:
        raise UserError(
            f"no records in {', '.join(map(str, results))} to report: start with `harness run`, or name other folders"
        )
    if copies:
        faults.append(f"{copies} records are of runs that another of the folders holds too; the newest of each counts")
    tables = tables_by_metric(list(newest.values()), metric)
    records = identified(newest.values())
    groups = [_group(kind, [run for run in records if run.kind == kind], found) for kind, found in tables.items()]
    return Gathered(results, records, groups, faults, homes)


def _group(kind: str, records: Sequence[RunRecord], tables: Mapping[str, CrossTable]) -> Group:
    usual, cells, left_out = usual_recipes(records), dict[tuple[Row, Column], Runs](), Counter[str]()
    failed = list[tuple[Row, Column, RunRecord]]()
    for key, settings in grouped(records).items():
        main = main_setting(settings, usual[key])
        cells[key] = settings[main]
        others = [run for setting, runs in settings.items() if setting != main for run in runs.all]
        failed += [(*key, run) for run in others if not run.finished]
        left_out["run with another setting than the one shown"] += len(others)
        code = cells[key].counted[0].code
        left_out["run with another version of the code"] += sum(run.code != code for run in cells[key].all)
        same = sum(run.code == code for run in cells[key].all)
        left_out["replaced by a newer run of the same seed"] += same - len(cells[key].counted)
    return Group(kind, tables, cells, +left_out, failed)
