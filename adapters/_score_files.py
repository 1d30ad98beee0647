"""Files of scores by position or allele, and what they say of a position or a stretch."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from harness.data import bare
from harness.errors import BadData
from harness.files import sources
from harness.files.bigwig import BigWigFile, spread
from harness.files.genome import one_chromosome
from harness.files.table import VARIANT_COLUMNS, Table, is_parquet, whole
from harness.files.text import text_lines

EXPECTED = (
    "scores: a bigWig, or a CSV, TSV (plain or gzipped) or parquet table with chrom, pos (1-based), ref, alt and a score, "
    "or a bedGraph"
)
BED_GRAPH = re.compile(r"(?P<chromosome>\S+)\s+(?P<start>\d{1,12})\s+(?P<end>\d{1,12})\s+(?P<score>\S+)\s*")
ABSENT = ("", ".", "-", "na", "nan", "none", "null", "<na>")
HASHED_BYTES = 1 << 20  # of a bigWig
DBNSFP = {"pos": ("pos(1-based)",)}  # its names of columns, besides the usual ones

Pick = Callable[[Sequence[float]], float]
SEVERAL: dict[str, Pick | None] = {"refuse": None, "max": max, "min": min}  # which of a variant's scores counts


class Lookup(Protocol):
    """The scores of a file.

    ``mean`` is the mean of all scores; ``column`` the table's column that holds them, empty for a bigWig; ``fingerprint``
    the sha256 of what ``hashed`` says in words; ``skipped`` the number of rows that are no single-nucleotide variants;
    ``chromosomes`` the names, without ``chr``, of those that it has scores of.
    """

    path: Path
    column: str
    hashed: str
    fingerprint: str
    mean: float
    skipped: int

    @property
    def chromosomes(self) -> Collection[str]: ...

    def values(self, chromosome: str, start: int, end: int) -> np.ndarray:
        """The scores of positions (0-based, half-open) of one of its chromosomes: float64 (end - start,), nan where it has none.

        Raises:
            BadData: they lie beyond the chromosome's end, where the file says it, or the file is damaged there.
        """
        ...

    def score(self, chromosome: str, position: int, letter: str) -> float:
        """The score of a base on the plus strand, at a 1-based position of a chromosome without ``chr``; nan if it has none.

        Raises:
            BadData: the file does not cover the position, or is damaged there.
        """
        ...


class BigWig:
    """One score per position.

    Only the first mebibyte is hashed, since hashing the 9 GB of a genome would take most of a run. ``mean`` is computed from
    the file's own totals.
    """

    column = ""
    skipped = 0
    hashed = "its size and first MiB"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = BigWigFile(path)
        self._names: dict[str, list[str]] = {}
        for name in self._file.lengths:
            self._names.setdefault(bare(name), []).append(name)
        self.mean = self._file.mean
        with path.open("rb") as file:
            self.fingerprint = hashlib.sha256(str(path.stat().st_size).encode() + file.read(HASHED_BYTES)).hexdigest()

    def __reduce__(self) -> tuple[type[BigWig], tuple[Path]]:
        return BigWig, (self.path,)

    @property
    def chromosomes(self) -> Collection[str]:
        return self._names.keys()

    def values(self, chromosome: str, start: int, end: int) -> np.ndarray:
        return self._file.values(self._name(chromosome, end), start, end)

    def score(self, chromosome: str, position: int, letter: str) -> float:
        return self._file.value(self._name(chromosome, position), position - 1)

    def _name(self, chromosome: str, position: int) -> str:
        """How the file spells a chromosome that has this position, 1-based."""
        names = self._names.get(chromosome, [])
        one_chromosome(self.path, chromosome, names)
        if not names or not 1 <= position <= self._file.lengths[names[0]]:
            raise BadData(f"{self.path}: holds no {chromosome}:{position}; is it of another assembly?")
        return names[0]


def is_bed_graph(path: Path) -> bool:
    """Whether the first line of a text file that is no remark has a bedGraph's four fields."""
    if is_parquet(path):
        return False
    return any(BED_GRAPH.fullmatch(line) for _, line in islice(_bed_graph_lines(path), 1))


def _bed_graph_lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text_lines(path, EXPECTED), start=1):
        if line.strip() and not re.match(r"#|(track|browser)\b", line):
            yield number, line


class BedGraph:
    """One score per position, from a bedGraph (chromosome, start, end, score; 0-based, half-open), held in memory.

    Raises:
        BadData: a line is of another form, its score is not a number, or two lines hold one position.
    """

    column = ""
    skipped = 0
    hashed = "the file"

    def __init__(self, path: Path) -> None:
        self.path, self.fingerprint = path, sources.sha256(path)
        lines: dict[str, list[tuple[int, int, float]]] = {}
        spellings: dict[str, str] = {}
        for number, line in _bed_graph_lines(path):
            where = f"{path}, line {number}"
            found = BED_GRAPH.fullmatch(line)
            if found is None or int(found["start"]) >= int(found["end"]):
                raise BadData(f"{where}: {line[:60]!r} is not 'chromosome start end score' with start below end")
            name = bare(found["chromosome"])
            one_chromosome(path, name, sorted({spellings.setdefault(name, found["chromosome"]), found["chromosome"]}))
            stretch = (int(found["start"]), int(found["end"]), _number(where, "the score", found["score"]))
            lines.setdefault(name, []).append(stretch)
        self._stretches: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # starts, ends and scores, in order
        for name, stretches in lines.items():
            starts, ends, scores = np.array(sorted(stretches)).T
            if len(both := np.flatnonzero(starts[1:] < ends[:-1])):
                raise BadData(f"{path}: two lines hold {name}:{int(starts[both[0] + 1]) + 1}; leave one of them out")
            self._stretches[name] = starts.astype(np.int64), ends.astype(np.int64), scores.copy()
        sizes = np.concatenate([ends - starts for starts, ends, _ in self._stretches.values()])
        scores = np.concatenate([scores for _, _, scores in self._stretches.values()])
        known = ~np.isnan(scores)
        self.mean = float(np.average(scores[known], weights=sizes[known])) if known.any() else math.nan

    @property
    def chromosomes(self) -> Collection[str]:
        return self._stretches.keys()

    def values(self, chromosome: str, start: int, end: int) -> np.ndarray:
        found = np.full(end - start, math.nan)
        spread(found, start, *self._stretches[chromosome])
        return found

    def score(self, chromosome: str, position: int, letter: str) -> float:
        if chromosome not in self._stretches:
            raise BadData(f"{self.path}: holds no {chromosome}:{position}; is it of another assembly?")
        starts, ends, scores = self._stretches[chromosome]
        place = int(np.searchsorted(starts, position - 1, "right")) - 1
        return float(scores[place]) if place >= 0 and position <= ends[place] else math.nan


class ScoreTable:
    """The scores of single-nucleotide variants in a table, all held in memory; other variants in it are skipped.

    ``column`` names the column that holds them; if empty, it is the first of ``known`` that the table has.

    Raises:
        BadData: there is no such column, a row is not a variant, a score is not a number, or two rows contradict each other.
    """

    hashed = "the file"

    def __init__(self, path: Path, column: str, known: Sequence[str], of_alleles: bool, several: str = "refuse") -> None:
        self.path, self.fingerprint, self._of_alleles = path, sources.sha256(path), of_alleles
        self._pick, self.skipped = SEVERAL[several], 0
        self._scores: dict[tuple[str, int, str], float] = {}
        table = Table(path, EXPECTED)
        columns = [table.column((*accepted, *DBNSFP.get(accepted[0], ()))) for accepted in VARIANT_COLUMNS]
        columns.append(table.column((column,) if column else known, "; --option column=NAME says which has the scores"))
        self.column = table.header[columns[-1]]
        values = []
        for where, (chromosome, position, reference, alternate, score) in table.rows(columns):
            if not re.fullmatch("[ACGTacgt]{2}", reference + alternate):
                self.skipped += 1
                continue
            position = whole(position)
            if not re.fullmatch(r"[1-9][0-9]{,14}", position):
                raise BadData(f"{where}: position {position[:40]!r}; expected a whole number, 1-based")
            values.append(_number(where, self.column, score, self._pick))
            self._add(where, (bare(chromosome), int(position), alternate.upper()), reference.upper(), values[-1])
        if np.isnan(values).all():
            raise BadData(f"{path}: column {self.column} has no score of a single-nucleotide variant; expected {EXPECTED}")
        self.mean = float(np.nanmean(values))

    def _add(self, where: str, allele: tuple[str, int, str], reference: str, value: float) -> None:
        chromosome, position, alternate = allele
        entries = {alternate: value, reference: 0.0} if self._of_alleles else {"": value}
        for letter, score in entries.items():
            earlier = self._scores.get((chromosome, position, letter), math.nan)
            if not math.isnan(earlier + score) and earlier != score and self._pick is not None:
                score = self._pick([earlier, score])
            elif not math.isnan(earlier + score) and earlier != score:
                of = f"{chromosome}:{position} {letter}".rstrip()
                raise BadData(
                    f"{where}: {self.column} of {of} is {score:g}, and was {earlier:g} above; expected one score, or "
                    "--option several=max"
                )
            self._scores[chromosome, position, letter] = earlier if math.isnan(score) else score

    @cached_property
    def _positions(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """By chromosome: listed positions, 0-based and in order, those after them, and their scores. Not of alleles."""
        listed: dict[str, list[tuple[int, float]]] = {}
        for (chromosome, position, _), score in self._scores.items():
            listed.setdefault(chromosome, []).append((position - 1, score))
        found = {name: np.array(sorted(rows)).T for name, rows in listed.items()}
        return {name: (at.astype(np.int64), at.astype(np.int64) + 1, scores.copy()) for name, (at, scores) in found.items()}

    @property
    def chromosomes(self) -> Collection[str]:
        return self._positions.keys()

    def values(self, chromosome: str, start: int, end: int) -> np.ndarray:
        found = np.full(end - start, math.nan)
        spread(found, start, *self._positions[chromosome])
        return found

    def score(self, chromosome: str, position: int, letter: str) -> float:
        try:
            return self._scores[chromosome, position, letter if self._of_alleles else ""]
        except KeyError:
            raise BadData(
                f"{self.path}: does not list {chromosome}:{position} {letter}; is it of another assembly? "
                "Complete it, with an empty score where there is none"
            ) from None


def _number(where: str, column: str, text: str, pick: Pick | None = None) -> float:
    """A table's score; nan if there is none. A list of scores, one a transcript, must hold one value, or ``pick`` chooses one."""
    items = [item.strip() for item in text.split(";")]
    texts = [item for item in items if item.lower() not in ABSENT]
    try:
        values = {float(item) for item in texts if "_" not in item}  # which Python allows within numbers
    except ValueError:
        values = set()
    if texts and not (values and all(map(math.isfinite, values))):
        raise BadData(f"{where}: {column} {text[:60]!r} is no finite number; leave it empty where there is no score")
    if len(values) > 1 and pick is not None:
        return pick(sorted(values))
    if len(values) > 1:
        raise BadData(
            f"{where}: {column} {text[:60]!r} lists several scores; write one, such as the highest, into a column of its own, "
            "or choose with --option several=max"
        )
    return values.pop() if values else math.nan
