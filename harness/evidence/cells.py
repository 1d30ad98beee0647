"""Tables as values: what stands in them, not how it is shown (see :mod:`.render`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.task import task_label

if TYPE_CHECKING:
    import pandas as pd

COLLAPSED, BELOW, FAILED, UNDEFINED = "collapsed", "below floor", "failed", "undefined"  # marks of a cell


@dataclass(frozen=True)
class Row:
    """What answers. Two rows are the same if all of this is, whatever they are called.

    ``weights`` is the checkpoint's fingerprint, None for random initialisation; ``options`` is JSON text. ``source`` is the
    publication that a number was taken from, and empty for our own runs.
    """

    model: str
    weights: str | None = None
    size: str = "base"
    options: str = "{}"
    tune: str = ""
    floor: bool = False
    source: str = ""


@dataclass(frozen=True)
class Column:
    """What is asked: one task, one split and the same data. ``data`` is the sha256 of the files' content."""

    name: str
    context: int | None
    simulated: bool
    split: str
    data: str

    @property
    def task(self) -> str:
        """The task's label, e.g. ``clinvar@512 (sample)``."""
        return task_label(self.name, self.context, self.simulated)


@dataclass(frozen=True)
class Cell:
    """One model's scores on one task: mean and sample standard deviation of ``n`` values, one per seed.

    ``interval`` is (low, high). ``marks`` are among COLLAPSED, BELOW, FAILED and UNDEFINED; a cell without a mean has one
    of the last two. ``notes`` are sentences that explain the cell. ``printed`` is a published number in its source's
    spelling. What is not known is None.
    """

    mean: float | None = None
    sd: float | None = None
    n: int | None = None
    interval: tuple[float, float] | None = None
    marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    printed: str = ""


@dataclass(frozen=True, repr=False)
class Table(ABC):
    """A comparison by one metric, a key of :data:`harness.evidence.metrics.METRICS`. Prints itself, also in notebooks."""

    metric: str

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """The table in tidy form: one line per cell or group, numbers as numbers."""

    def __repr__(self) -> str:
        from .render import plain_text

        return plain_text(self)

    def _repr_html_(self) -> str:
        from .render import html

        return html(self)


@dataclass(frozen=True, repr=False)
class CrossTable(Table):
    """Models down, tasks across.

    ``rows`` and ``columns`` map each key to its label, in the order shown. ``cells`` has no entry where nothing was run.
    ``notes`` explain the marks of the whole table.
    """

    rows: Mapping[Row, str]
    columns: Mapping[Column, str]
    cells: Mapping[tuple[Row, Column], Cell]
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One line per cell.

        ``model`` is the row's label, ``fingerprint`` its checkpoint's, ``source`` the publication of a printed number.
        ``task`` is the task's label, ``data`` the sha256 of its files. ``mean``, ``sd``, ``low`` and ``high`` are NaN, and
        ``n`` is NA, where not known. ``marks`` and ``notes`` are joined by ``; ``.
        """
        import pandas as pd

        lines = []
        for row, label in self.rows.items():
            for column in self.columns:
                if (cell := self.cells.get((row, column))) is None:
                    continue
                low, high = cell.interval or (None, None)
                what = [label, row.weights or "", row.source, column.task, column.split, column.simulated, column.data]
                texts = ["; ".join(cell.marks), "; ".join(cell.notes)]
                lines.append([*what, self.metric, cell.mean, cell.sd, cell.n, low, high, *texts])
        keys = ("model", "fingerprint", "source", "task", "split", "simulated", "data", "metric")
        frame = pd.DataFrame(lines, columns=[*keys, "mean", "sd", "n", "low", "high", "marks", "notes"])
        return frame.astype({"mean": float, "sd": float, "n": "Int64", "low": float, "high": float})


@dataclass(frozen=True, repr=False, eq=False)  # frames do not compare to one truth value
class Listing(Table):
    """Runs grouped by any keys: one line per group, see :func:`harness.evidence.tables.long`."""

    frame: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """A copy of the lines."""
        return self.frame.copy()
