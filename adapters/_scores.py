"""Published scores, looked up at a window's locus: per position in a bigWig, per position or per allele in a table.

The score is that of the window's centre, index ``len // 2``, where a variant task puts the variant. Nothing is trained:
the probe's logistic regression turns the score into a probability.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from harness.adapter import Adapter, Batch, LoadAudit
from harness.data import Window, bare, reverse_complement
from harness.errors import BadData, DataMissing, UserError
from harness.files import sources
from harness.files.bigwig import SIGNATURES, BigWigFile
from harness.files.genome import one_chromosome
from harness.files.table import VARIANT_COLUMNS, Table, is_parquet, whole
from harness.files.text import text_lines
from harness.recipe import Recipe

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
    the sha256 of what ``hashed`` says in words; ``skipped`` the number of rows that are no single-nucleotide variants.
    """

    path: Path
    column: str
    hashed: str
    fingerprint: str
    mean: float
    skipped: int

    def score(self, chromosome: str, position: int, letter: str) -> float:
        """The score of a base on the plus strand, at a 1-based position of a chromosome without ``chr``; nan if it has none.

        Raises:
            BadData: the file does not cover the position, or is damaged there.
        """
        ...


class Scores(Adapter, ABC):
    """One number per window, shape (B, 1), for models whose ``card.reads`` is ``score``.

    Options: ``scores``, a bigWig, a bedGraph or a table (default: the model's bigWig in the data folder); ``column`` of a table
    (default: the first of ``columns`` that it has); ``missing``; ``several``. A position that the file does not cover stops the
    run. A position without a score does so too, unless ``missing=mean``: then it gets the mean of the file, and such windows
    are counted as unknown tokens.

    A score per position is the same for both windows of a SNV. The changed windows of other variants have no locus, since no
    score of a base is theirs: they stop the run, or count as windows without a score with ``missing=mean``. With ``of_alleles``,
    a table's row is the score of its alternate letter, and its reference letter scores 0.

    A field of a table may list several scores, one a transcript, and several rows may hold one variant. If they differ, that
    stops the run, unless ``several`` says which one counts, ``max`` or ``min``. Rows of insertions and deletions are skipped
    and counted.
    """

    columns: ClassVar[tuple[str, ...]]
    of_alleles: ClassVar[bool] = False
    recipe = Recipe(tune="probe")
    embedding_dim = 1

    def __init__(self, lookup: Lookup | None, fill: float) -> None:
        super().__init__()
        self.lookup, self.fill = lookup, fill
        if lookup is not None:
            filled = () if math.isnan(fill) else (f"a window without a score gets the mean of the file, {fill:.4g}",)
            rows = f"{lookup.skipped:,} rows of scores are skipped: they are no single-nucleotide variants"
            skipped = (rows,) if lookup.skipped else ()
            self.audit = LoadAudit(
                source=str(lookup.path),
                sha256=lookup.fingerprint,
                expected=0,
                matched=0,
                facts={"column": lookup.column, "mean": lookup.mean, "sha256_of": lookup.hashed},
                warnings=(*filled, *skipped),
            )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Path | None = None,
        *,
        size: str = "base",
        scores: str = "",
        column: str = "",
        missing: str = "refuse",
        several: str = "refuse",
    ) -> Self:
        if checkpoint is not None:
            raise UserError(
                f"checkpoint {str(checkpoint)!r}: {cls.name} has no weights; give its scores with --option scores=FILE"
            )
        if missing not in ("refuse", "mean"):
            raise UserError(f"option missing={missing!r}: expected refuse or mean")
        if several not in SEVERAL:
            raise UserError(f"option several={several!r}: expected {', '.join(SEVERAL)}")
        path = Path(scores).expanduser() if scores else cls._published()
        if path is None or not (scores or path.is_file()):
            return cls(None, math.nan)  # collate says which file is missing
        lookup = cls._open(path, column, several)
        return cls(lookup, lookup.mean if missing == "mean" else math.nan)

    @classmethod
    def _published(cls) -> Path | None:
        """Where the published bigWig is, or will be."""
        return sources.locate(sources.REFERENCES[cls.card.scores]) if cls.card.scores else None

    @classmethod
    def _open(cls, path: Path, column: str, several: str) -> Lookup:
        try:
            with path.open("rb") as file:
                signature = file.read(4)
        except OSError as error:
            raise BadData(f"{path}: cannot be read ({error.strerror}); expected {EXPECTED}") from None
        is_big_wig = signature in SIGNATURES
        if not is_big_wig and not is_bed_graph(path):
            return ScoreTable(path, column, cls.columns, cls.of_alleles, several)
        kind = "bigWig" if is_big_wig else "bedGraph"
        if cls.of_alleles:
            raise UserError(f"{path}: a {kind} has one score a position; {cls.name} needs a table, with one an allele")
        if column:
            raise UserError(f"option column={column!r}: {path} is a {kind}, which has no columns; leave it out")
        if several != "refuse":
            raise UserError(f"option several={several!r}: {path} is a {kind}, which has one score a position; leave it out")
        return BigWig(path) if is_big_wig else BedGraph(path)

    def collate(self, windows: Sequence[Window]) -> Batch:
        places = [self._place(window) for window in windows]
        known = [place for place in places if place is not None]
        if len(known) < len(places) and (math.isnan(self.fill) or not known):
            raise UserError(
                f"{self.name}: scores are looked up by locus, and {len(places) - len(known):,} of {len(places):,} windows at "
                "hand have none; give SNVs with their genome, or, for insertions, deletions and longer substitutions among them, "
                "--option missing=mean"
            )
        if self.lookup is None:
            raise self._no_file()
        values = np.array([math.nan if place is None else self.lookup.score(*place) for place in places], np.float32)
        absent = np.isnan(values)
        if absent.any() and math.isnan(self.fill):
            chromosome, position, letter = known[int(absent.argmax())]
            raise BadData(
                f"{self.lookup.path}: {absent.sum():,} of {len(windows):,} windows at hand have no score, the first "
                f"{chromosome}:{position} {letter}; --option missing=mean gives them the mean of the file"
            )
        values[absent] = self.fill
        return {"scores": torch.from_numpy(values[:, None]), "absent": torch.from_numpy(absent)}

    def forward(self, batch: Batch) -> Tensor:
        return batch["scores"]

    def unknown_tokens(self, batch: Batch) -> tuple[int, int]:
        return int(batch["absent"].sum()), len(batch["absent"])

    def _place(self, window: Window) -> tuple[str, int, str] | None:
        """Chromosome without ``chr``, 1-based position and plus-strand letter of a window's centre; None without a locus."""
        locus, centre = window.locus, len(window) // 2
        if locus is None:
            return None
        if locus.strand == "-":
            return bare(locus.chromosome), locus.end - centre, reverse_complement(window.sequence[centre])
        return bare(locus.chromosome), locus.start + centre + 1, window.sequence[centre]

    def _no_file(self) -> UserError:
        if not self.card.scores:
            return UserError(f"{self.name}: no scores; give a table of them with --option scores=FILE")
        return DataMissing(
            f"{self.name}: {self._published()} is missing; `harness data get {self.card.scores}` downloads it, "
            "or give a bigWig or a table with --option scores=FILE"
        )


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

    def score(self, chromosome: str, position: int, letter: str) -> float:
        names = self._names.get(chromosome, [])
        one_chromosome(self.path, chromosome, names)
        if not names or not 1 <= position <= self._file.lengths[names[0]]:
            raise BadData(f"{self.path}: holds no {chromosome}:{position}; is it of another assembly?")
        return self._file.value(names[0], position - 1)


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
        self._stretches = {name: np.array(sorted(stretches)) for name, stretches in lines.items()}
        for name, stretches in self._stretches.items():
            if len(both := np.flatnonzero(stretches[1:, 0] < stretches[:-1, 1])):
                raise BadData(f"{path}: two lines hold {name}:{int(stretches[both[0] + 1, 0]) + 1}; leave one of them out")
        whole = np.concatenate(list(self._stretches.values()))
        whole = whole[~np.isnan(whole[:, 2])]
        self.mean = float(np.average(whole[:, 2], weights=whole[:, 1] - whole[:, 0])) if len(whole) else math.nan

    def score(self, chromosome: str, position: int, letter: str) -> float:
        if chromosome not in self._stretches:
            raise BadData(f"{self.path}: holds no {chromosome}:{position}; is it of another assembly?")
        stretches = self._stretches[chromosome]
        place = int(np.searchsorted(stretches[:, 0], position - 1, "right")) - 1
        return float(stretches[place, 2]) if place >= 0 and position <= stretches[place, 1] else math.nan


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
