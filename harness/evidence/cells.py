"""Tables as values: what stands in them, not how it is shown (see :mod:`.render`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.task import CLASSIFICATION, task_label

from .metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd

# Marks of a cell.
COLLAPSED, BELOW, FAILED, UNDEFINED, ALIGNED = "collapsed", "below floor", "failed", "undefined", "read an alignment"
NO_AUDIT = "no audit"
TIED = "not told from the best"
FLOATS = ("mean", "sd", "low", "high", "train_seconds")  # columns of tidy tables whose values may be unknown
WHOLE = ("n", "trainable_parameters", "peak_memory_bytes")
REFERENCE = "kmer"  # the floor that other models are held against


@dataclass(frozen=True)
class Row:
    """What answers. Two rows are the same if all of this is, whatever they are called.

    ``weights`` is the checkpoint's fingerprint, None for random initialisation; ``options`` is JSON text. ``source`` is the
    publication that a number was taken from, and empty for our own runs. ``setting`` is how the model was run, in words,
    where each setting has a row of its own and this is not the model's usual one. ``adapter`` is our adapter of the
    architecture that a publication measured; empty where there is none, and for our own runs.
    """

    model: str
    weights: str | None = None
    size: str = "base"
    options: str = "{}"
    tune: str = ""
    floor: bool = False
    source: str = ""
    setting: str = ""
    adapter: str = ""

    @property
    def named(self) -> str:
        """The adapter that the row stands for, empty if none."""
        return self.model if self.own else self.adapter

    @property
    def own(self) -> bool:
        """Whether runs of our own stand in it."""
        return not self.source and self != BEST


BEST = Row("best possible")


@dataclass(frozen=True)
class Column:
    """What is asked: one task, one split and the same examples with their labels, whatever else a model may read.

    ``data`` is the sha256 of the question, or of the task's files where a record does not know the question.
    """

    name: str
    context: int | None
    simulated: bool
    split: str
    data: str
    kind: str = CLASSIFICATION
    negatives: str = ""

    @property
    def task(self) -> str:
        """The task's label, e.g. ``clinvar[common]@512``."""
        return task_label(self.name, self.context, self.simulated, self.negatives)


@dataclass(frozen=True)
class Costs:
    """What runs cost: mean seconds of training, trainable parameters, and the largest memory use in bytes; None if unknown."""

    seconds: float | None = None
    parameters: int | None = None
    memory: int | None = None


@dataclass(frozen=True)
class Cell:
    """One model's scores on one task: mean and sample standard deviation of ``n`` values, one per seed.

    ``interval`` is (low, high). ``marks`` are among COLLAPSED, BELOW, ALIGNED, TIED, FAILED, UNDEFINED and NO_AUDIT; a cell
    without a mean has one of the last three. ``notes`` are sentences that explain the cell. ``printed`` is a published number
    in its source's spelling. What is not known is None.
    """

    mean: float | None = None
    sd: float | None = None
    n: int | None = None
    interval: tuple[float, float] | None = None
    marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    printed: str = ""
    costs: Costs = field(default_factory=Costs)


@dataclass(frozen=True, repr=False)
class Table(ABC):
    """A comparison by one metric, a key of :data:`harness.evidence.metrics.METRICS`. Prints itself, also in notebooks.

    ``subset`` is the part of the test examples that is scored, one of :data:`.subsets.SUBSETS`.
    """

    metric: str
    subset: str = field(default="all", kw_only=True)

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
    ``notes`` explain the marks of the whole table. ``costs``: whether costs are shown. ``leaking`` are the columns to be
    marked because many of their test examples leak.
    """

    rows: Mapping[Row, str]
    columns: Mapping[Column, str]
    cells: Mapping[tuple[Row, Column], Cell]
    notes: tuple[str, ...] = ()
    costs: bool = False
    leaking: Collection[Column] = ()

    def means(self, column: Column) -> dict[Row, float]:
        """The means that a column has."""
        return {row: cell.mean for row in self.rows if (cell := self.cells.get((row, column))) and cell.mean is not None}

    def mean_ranks(self) -> tuple[dict[Row, float], int]:
        """Each own row's mean rank, 1 for the best, and the number of columns that it is taken over.

        These are the columns in which every own row has a mean; rows without any do not count. Simulated columns count only
        where there are no others. Equal means share their mean rank.
        """
        columns = [column for column in self.columns if not column.simulated] or list(self.columns)
        found = [{row: mean for row, mean in self.means(column).items() if row.own} for column in columns]
        rows = {row for means in found for row in means}
        shared = [means for means in found if set(means) == rows]
        sign = -1 if METRICS[self.metric].higher_is_better else 1

        def rank(row: Row, means: Mapping[Row, float]) -> float:
            better = sum(sign * other < sign * means[row] for other in means.values())
            return better + (list(means.values()).count(means[row]) + 1) / 2

        return {row: sum(rank(row, means) for means in shared) / len(shared) for row in rows if shared}, len(shared)

    def to_frame(self) -> pd.DataFrame:
        """One line per cell.

        ``model`` is the row's label, ``fingerprint`` its checkpoint's, ``source`` the publication of a printed number.
        ``task`` is the task's label, ``kind`` and ``data`` the column's. ``mean``, ``sd``, ``low`` and ``high`` are NaN, and
        ``n`` is NA, where not known. ``marks`` and ``notes`` are joined by ``; ``. ``adapter`` is the name of our adapter that
        the row stands for, empty if none. With costs, ``train_seconds``, ``trainable_parameters`` and ``peak_memory_bytes``
        follow.
        """
        import pandas as pd

        frame = pd.DataFrame(self.to_columns())
        numbers = dict.fromkeys(FLOATS, float) | dict.fromkeys(WHOLE, "Int64")
        return frame.astype({name: kind for name, kind in numbers.items() if name in frame})

    def to_columns(self) -> dict[str, list[Any]]:
        """The columns of :meth:`to_frame` as lists, with None where something is not known."""
        lines = []
        for row, label in self.rows.items():
            for column in self.columns:
                if (cell := self.cells.get((row, column))) is None:
                    continue
                low, high = cell.interval or (None, None)
                what = [label, row.weights or "", row.source, column.task, column.split, column.simulated, column.data]
                texts = ["; ".join(cell.marks), "; ".join(cell.notes), row.named, column.kind, self.subset]
                costs = [cell.costs.seconds, cell.costs.parameters, cell.costs.memory]
                lines.append([*what, self.metric, cell.mean, cell.sd, cell.n, low, high, *texts, *(costs if self.costs else [])])
        keys = ("model", "fingerprint", "source", "task", "split", "simulated", "data", "metric")
        texts = ("marks", "notes", "adapter", "kind", "subset")
        costs = ("train_seconds", "trainable_parameters", "peak_memory_bytes") if self.costs else ()
        names = (*keys, "mean", "sd", "n", "low", "high", *texts, *costs)
        return dict(zip(names, map(list, zip(*lines)))) if lines else {name: [] for name in names}


@dataclass(frozen=True, repr=False, eq=False)  # frames do not compare to one truth value
class Listing(Table):
    """Runs grouped by any keys: one line per group, see :func:`.summary.long`.

    The first ``keys`` columns say which; those in ``hidden`` are not shown, only kept in the frame.
    """

    frame: pd.DataFrame
    keys: int = 1
    hidden: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """A copy of the lines."""
        return self.frame.copy()
