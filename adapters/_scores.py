"""Scores that others computed, looked up at a window's locus: positions of a bigWig, positions or alleles of a table.

A window is asked for at its centre, index ``len // 2``, which is where a variant task puts the variant. Nothing is
trained: the probe's logistic regression turns the score into a probability.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from abc import ABC
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from harness.adapter import Adapter, Batch, LoadAudit
from harness.data import Window, reverse_complement
from harness.errors import BadData, DataMissing, UserError
from harness.files import sources
from harness.files.genome import bare, optional, text_lines
from harness.recipe import Recipe

EXPECTED = "scores: a bigWig, or a CSV, TSV (plain or gzipped) or parquet table with chrom, pos (1-based), ref, alt and a score"
VARIANT = (("chrom", "#chrom", "chromosome", "chr"), ("pos", "position"), ("ref", "reference"), ("alt", "alternate"))
ABSENT = ("", ".", "-", "na", "nan", "none", "null", "<na>")
BIG_WIG = (b"\x26\xfc\x8f\x88", b"\x88\x8f\xfc\x26")  # the format's signature in either byte order
HEAD = 1 << 20  # bytes of a bigWig that its fingerprint reads


class Lookup(Protocol):
    """Scores of a file. ``mean`` is that of all of them, ``column`` where in a table they stand.

    ``fingerprint`` is the sha256 of ``hashed``, words that say how much of the file.
    """

    path: Path
    column: str
    hashed: str
    fingerprint: str
    mean: float

    def score(self, chromosome: str, position: int, letter: str) -> float:
        """The score of a base on the plus strand, at a 1-based position of a chromosome without ``chr``; nan if it has none.

        Raises:
            BadData: the file does not know the place, or is damaged there.
        """
        ...


class Scores(Adapter, ABC):
    """One number a window, shape (B, 1), for models whose ``card.reads`` is ``score``.

    Options: ``scores``, a bigWig or a table (default: the data folder's bigWig, where there is one); ``column`` of a table
    (default: the first of ``columns`` that it has); ``missing``. A place that the file does not know stops the run; so does
    one that it knows without a score, unless ``missing=mean``: then it gets the mean of the file, and the share of such
    windows in the training split is recorded as unknown tokens.

    A score of positions is the same for both windows of a variant. Where ``of_alleles``, a table's row is the score of
    its alternate letter, and its reference letter has 0.
    """

    columns: ClassVar[tuple[str, ...]]
    of_alleles: ClassVar[bool] = False
    recipe = Recipe(tune="probe")
    embedding_dim = 1

    def __init__(self, lookup: Lookup | None, fill: float) -> None:
        super().__init__()
        self.lookup, self.fill = lookup, fill
        if lookup is not None:
            self.audit = LoadAudit(
                source=str(lookup.path),
                sha256=lookup.fingerprint,
                expected=0,
                matched=0,
                facts={"column": lookup.column, "mean": lookup.mean, "sha256_of": lookup.hashed},
                warnings=() if math.isnan(fill) else (f"a window without a score gets the mean of the file, {fill:.4g}",),
            )

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Path | None = None, *, size: str = "base", scores: str = "", column: str = "", missing: str = "refuse"
    ) -> Self:
        if checkpoint is not None:
            raise UserError(
                f"checkpoint {str(checkpoint)!r}: {cls.name} has no weights; give its scores with --option scores=FILE"
            )
        if missing not in ("refuse", "mean"):
            raise UserError(f"option missing={missing!r}: expected refuse or mean")
        path = Path(scores).expanduser() if scores else cls._published()
        if path is None or not (scores or path.is_file()):
            return cls(None, math.nan)  # collate says what is missing
        lookup = cls._open(path, column)
        return cls(lookup, lookup.mean if missing == "mean" else math.nan)

    @classmethod
    def _published(cls) -> Path | None:
        """Where the published file is, or will be."""
        return sources.locate(sources.REFERENCES[cls.card.scores]) if cls.card.scores else None

    @classmethod
    def _open(cls, path: Path, column: str) -> Lookup:
        try:
            with path.open("rb") as file:
                signature = file.read(4)
        except OSError as error:
            raise BadData(f"{path}: cannot be read ({error.strerror}); expected {EXPECTED}") from None
        if signature not in BIG_WIG:
            return Table(path, column, cls.columns, cls.of_alleles)
        if cls.of_alleles:
            raise UserError(f"{path}: a bigWig has one score a position; {cls.name} needs a table, with one an allele")
        if column:
            raise UserError(f"option column={column!r}: {path} is a bigWig, which has no columns; leave it out")
        return BigWig(path)

    def collate(self, windows: Sequence[Window]) -> Batch:
        places = [self._place(window) for window in windows]
        if self.lookup is None:
            raise self._no_file()
        values = np.array([self.lookup.score(*place) for place in places], np.float32)
        absent = np.isnan(values)
        if absent.any() and math.isnan(self.fill):
            chromosome, position, letter = places[int(absent.argmax())]
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

    def _place(self, window: Window) -> tuple[str, int, str]:
        """Chromosome without ``chr``, 1-based position and plus-strand letter of a window's centre."""
        locus, centre = window.locus, len(window) // 2
        if locus is None:
            raise UserError(f"{self.name}: scores are looked up by locus, and a window has none; give variants with their genome")
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
    """A score a position.

    The hashed mebibyte holds the header, with the number, sum and sum of squares of all values; hashing the 9 GB of a
    genome would take most of a run. ``mean`` is the header's, exact to the reciprocal of the number of positions.
    """

    column = ""
    hashed = "its size and first MiB"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = optional("pyBigWig", "a bigWig file").open(str(path))
        except RuntimeError:
            raise BadData(f"{path}: the bigWig file is cut or damaged; download it again") from None
        self._chromosomes = {bare(name): (name, length) for name, length in self._file.chroms().items()}
        header = self._file.header()
        self.mean = header["sumData"] / max(header["nBasesCovered"], 1)
        with path.open("rb") as file:
            self.fingerprint = hashlib.sha256(str(path.stat().st_size).encode() + file.read(HEAD)).hexdigest()

    def __reduce__(self) -> tuple[type[BigWig], tuple[Path]]:
        return BigWig, (self.path,)

    def score(self, chromosome: str, position: int, letter: str) -> float:
        name, length = self._chromosomes.get(chromosome, ("", 0))
        if not 1 <= position <= length:
            raise BadData(f"{self.path}: holds no {chromosome}:{position}; is it of another assembly?")
        try:
            return self._file.values(name, position - 1, position)[0]
        except RuntimeError:
            raise BadData(f"{self.path}: cannot be read at {name}:{position}; the file is damaged, download it again") from None


class Table:
    """The scores of single-nucleotide variants in a table, all held in memory; other variants in it are passed over.

    ``column`` names where they stand; if empty, it is the first of ``known`` that the table has.

    Raises:
        BadData: no such column, a line that is no variant, a score that is no number, or two scores for one thing.
    """

    hashed = "the file"

    def __init__(self, path: Path, column: str, known: Sequence[str], of_alleles: bool) -> None:
        self.path, self.fingerprint, self._of_alleles = path, sources.sha256(path), of_alleles
        self._scores: dict[tuple[str, int, str], float] = {}
        parquet = re.search(r"\.(parquet|pq)$", path.name, re.IGNORECASE)
        rows = _parquet_rows(path) if parquet else _text_rows(path)
        header = [name.strip().strip('"') for name in next(rows)[1]]
        *places, place = _places(path, header, [*VARIANT, (column,) if column else known])
        self.column = header[place]
        values = []
        for where, row in rows:
            if len(row) <= max(*places, place):
                raise BadData(f"{where}: {len(row)} fields, fewer than the header names; complete or delete the line")
            chromosome, position, reference, alternate = (row[index].strip() for index in places)
            if not re.fullmatch("[ACGTacgt]{2}", reference + alternate):
                continue
            if not re.fullmatch(r"[1-9]\d*(\.0+)?", position):
                raise BadData(f"{where}: position {position!r}; expected a whole number, 1-based")
            values.append(_number(where, self.column, row[place].strip()))
            self._add(where, (bare(chromosome), int(float(position)), alternate.upper()), reference.upper(), values[-1])
        if np.isnan(values).all():
            raise BadData(f"{path}: column {self.column} has no score of a single-nucleotide variant; expected {EXPECTED}")
        self.mean = float(np.nanmean(values))

    def _add(self, where: str, allele: tuple[str, int, str], reference: str, value: float) -> None:
        chromosome, position, alternate = allele
        entries = {alternate: value, reference: 0.0} if self._of_alleles else {"": value}
        for letter, score in entries.items():
            earlier = self._scores.get((chromosome, position, letter), math.nan)
            if not math.isnan(earlier + score) and earlier != score:
                of = f"{chromosome}:{position} {letter}".rstrip()
                raise BadData(f"{where}: {self.column} of {of} is {score:g}, and was {earlier:g} above; expected one score")
            self._scores[chromosome, position, letter] = earlier if math.isnan(score) else score

    def score(self, chromosome: str, position: int, letter: str) -> float:
        try:
            return self._scores[chromosome, position, letter if self._of_alleles else ""]
        except KeyError:
            raise BadData(
                f"{self.path}: does not list {chromosome}:{position} {letter}; is it of another assembly? "
                "Complete it, with an empty score where there is none"
            ) from None


def _number(where: str, column: str, text: str) -> float:
    """A table's score; nan where it has none."""
    if text.lower() in ABSENT:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadData(f"{where}: {column} {text!r} is no finite number; leave it empty where there is no score")
    return value


def _places(path: Path, header: Sequence[str], wanted: Sequence[Sequence[str]]) -> list[int]:
    names = [name.lower() for name in header]
    places = [next((names.index(name.lower()) for name in accepted if name.lower() in names), -1) for accepted in wanted]
    if -1 in places:
        lacking, found = " or ".join(wanted[places.index(-1)]), ", ".join(header)[:200]
        remedy = "; --option column=NAME says which has the scores" if -1 not in places[:-1] else ""
        raise BadData(f"{path}: no column named {lacking}; found {found}{remedy}")
    return places


Row = tuple[str, Sequence[str]]  # where it stands, and its fields


def _text_rows(path: Path) -> Iterator[Row]:
    """The header, and the rows below it; lines of CADD's files that begin with ``##`` are remarks."""
    lines, number = text_lines(path, EXPECTED), 1
    header = next(lines)
    while header.startswith("##"):
        header, number = next(lines, ""), number + 1
    separator = "\t" if "\t" in header else ","
    yield str(path), header.split(separator)
    rows = csv.reader(lines, delimiter=separator)
    for row in rows:
        if row:
            yield f"{path}, line {rows.line_num + number}", row


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pandas as pd

    optional("pyarrow", "a parquet file")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are among them
        raise BadData(f"{path}: not a readable parquet file ({str(error).splitlines()[0]}); download it again") from None
    yield str(path), [str(name) for name in table.columns]
    for number, row in enumerate(table.itertuples(index=False, name=None), start=1):
        yield f"{path}, row {number}", [str(field) for field in row]
