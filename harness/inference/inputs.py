"""The user's sequences, intervals and variants, read one by one: files of any length in flat memory."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from harness.data import Example, Locus, Window, normalise
from harness.errors import BadData, UserError
from harness.files import bed, readers
from harness.files.fingerprint import digest, file_digest, file_states
from harness.files.readers import Columns
from harness.files.text import head
from harness.registry import variant_pairs
from harness.task import Reference

from .variants import alleles, is_variants

SEQUENCES, INTERVALS, VARIANTS = "sequences", "intervals", "variants"
EXPECTED = "FASTA, a table (CSV, TSV, JSON, parquet), BED or VCF"
TOGETHER = 1024  # intervals whose letters are read together, in the order of the genome

T = TypeVar("T")
Label = str | tuple[str, ...] | None


class Entry(NamedTuple):
    """What a model is asked about: one window, or two (reference, alternate) of a variant.

    ``label`` is the file's own word, or one for each of several label columns; None where it has none. ``where`` is the
    entry's place in the file, for messages. ``changed`` is that of :class:`harness.data.Example`.
    """

    id: str
    windows: tuple[Window, ...]
    label: Label
    where: str
    changed: tuple[int, int] | None = None

    @property
    def example(self) -> Example:
        """What a model is asked; its label is 0."""
        return Example(self.id, self.windows, 0, self.changed)


class Placed(NamedTuple):
    """An interval whose letters are not read yet."""

    id: str
    locus: Locus
    label: Label
    where: str


class Input:
    """The entries of the user's files, in their order. It may be iterated any number of times, but not twice at once.

    ``kind`` is SEQUENCES, INTERVALS or VARIANTS. While it is iterated, ``changes`` counts the letters that normalisation changes
    (see :func:`harness.files.readers.read_as`), ``outside_genome`` and ``repeated_ids``; ``notes`` gains sentences on what the
    files say and is not used. Both are complete at the end, and begin anew with each iteration.
    """

    def __init__(self, paths: Sequence[Path], kind: str, genome: Path | None, columns: Columns, pairs: Any = None) -> None:
        self.paths: tuple[Path, ...] = tuple(paths)
        self.kind, self.genome, self.columns, self.pairs = kind, genome, columns, pairs
        self.changes: Counter[str] = Counter()
        self.notes: list[str] = []

    @property
    def identity(self) -> dict[str, Any]:
        """What the entries depend on: JSON values."""
        found: dict[str, Any] = {"input": [_content(path) for path in self.files], "columns": list(self.columns)}
        if self.pairs is not None:
            found |= {"context": self.pairs.reference.context, "species": list(self.pairs.species)}
        return found

    @property
    def files(self) -> list[Path]:
        """All files that are read."""
        genome = [self.genome] if self.genome is not None else []
        return [*self.paths, *(self.pairs.files if self.pairs is not None else genome)]

    def __iter__(self) -> Iterator[Entry]:
        self.changes.clear()
        self.notes.clear()
        ids = array("q")
        entries = {SEQUENCES: self._letters, INTERVALS: self._from_genome, VARIANTS: self._variants}[self.kind]
        for entry in entries():
            ids.append(hash(entry.id))
            yield entry
        if repeated := _repeated(ids):
            self.changes["repeated_ids"] = repeated
            self.notes.append(f"{repeated:,} of {len(ids):,} entries have an id that others have, too; ids are kept as they are")

    def _letters(self) -> Iterator[Entry]:
        for path in self.paths:
            for record in readers.stream(path, self.changes, self.notes, self.columns):
                yield Entry(record.id, (record.window,), record.label, record.where)

    def _variants(self) -> Iterator[Entry]:
        assert self.pairs is not None
        self.pairs.changes.clear()
        found = False
        for path in self.paths:
            for allele in alleles(path, self.pairs):
                if allele.reason:
                    self.changes[allele.reason] += 1
                    continue
                found = True
                yield Entry(allele.id, allele.windows, allele.label, allele.where, allele.changed)
        self.changes.update(self.pairs.changes)
        if not found:
            raise nothing_scored(self.paths[0], self.changes)

    def _from_genome(self) -> Iterator[Entry]:
        from harness.files.genome import Genome, check_outside

        assert self.genome is not None
        path = self.genome
        genome, rest, nucleotides = Genome(path), self.intervals(), 0
        while some := list(islice(rest, TOGETHER)):
            found = genome.sequences([interval.locus for interval in some], self.changes)
            nucleotides += sum(map(len, found))
            for interval, letters in zip(some, found, strict=True):
                yield Entry(interval.id, (Window(letters, interval.locus),), interval.label, interval.where)
        check_outside(genome, self.changes["outside_genome"], nucleotides)

    def intervals(self, longest: int = bed.LONGEST_INTERVAL) -> Iterator[Placed]:
        """The intervals of BED files and tables, without their letters; those of BED have at most ``longest`` nucleotides."""
        for path in self.paths:
            if not bed.is_bed(path):
                for row in readers.stream_intervals(path, self.notes, self.columns):
                    yield Placed(row.id, row.locus, row.label, row.where)
                continue
            unused: dict[str, None] = {}
            for line in bed.intervals(path, unused, longest):
                yield Placed(line.name or bed.name(line.locus), line.locus, None, line.where)
            unused.pop("name", None)
            if unused:
                self.notes.append(f"{path.name}: columns not used: {', '.join(unused)}")


def open_input(
    paths: Sequence[Path],
    *,
    genome: Path | None = None,
    sequence_column: str = "",
    label_columns: Sequence[str] = (),
    reference: Reference | None = None,
) -> Input:
    """The entries of FASTA files, tables, BED files or VCFs; only the beginning of the files is read here.

    Sequences are read as for training (see :func:`harness.files.readers.stream`); labels are optional. Intervals (BED, or a table
    with columns of a locus and none of letters) take their letters from ``genome``, 5'→3' on their strand; the id of a BED
    line is its name, or ``chr1:100-200(+)``. Of a table without a header, the columns are numbers from 1. Variants (VCF, or a
    table of them) are an entry for each alternate allele that windows can be cut of; the others are counted by the reason. Their
    windows are of ``reference`` (default: ``genome``, and windows of the usual context).

    Raises:
        BadData: a file is missing or empty.
        UserError: files of both kinds, a genome that is missing or superfluous, or a column of what is no table.
    """
    paths = [Path(path) for path in paths]
    for path in paths:
        head(path, EXPECTED)
    kinds = [_kind(path, sequence_column) for path in paths]
    if len(set(kinds)) > 1:
        other = next(path for path, kind in zip(paths, kinds, strict=True) if kind != kinds[0])
        raise UserError(f"{paths[0]} holds {kinds[0]} and {other} does not; give them one after the other")
    if kinds[0] == VARIANTS:
        if reference is None:
            reference = Reference(genome=genome)
        pairs = variant_pairs(paths[0], reference)
        return Input(paths, VARIANTS, reference.genome, Columns(optional=True), pairs)
    if kinds[0] == INTERVALS and genome is None:
        raise UserError(f"{paths[0]}: intervals have no letters; give their genome with --genome, FASTA or 2bit")
    if kinds[0] == SEQUENCES and genome is not None:
        raise UserError(f"{paths[0]}: the sequences have letters of their own; leave --genome out")
    asked = [("sequence-column", sequence_column), ("label-column", ",".join(label_columns))]
    if (option := next((f"{name} {value!r}" for name, value in asked if value), "")) and not _is_table(paths[0]):
        raise UserError(f"{option}: {paths[0]} is no table; leave it out")
    return Input(paths, kinds[0], genome, Columns(sequence_column, tuple(label_columns), optional=True))


def as_window(value: Any, where: str) -> Window:
    """A sequence in any usual spelling as a window, or the window that it is; letters that change are not counted.

    Raises:
        BadData: it is no text, empty, or has letters that are no nucleotide codes.
    """
    if isinstance(value, Window):
        return value
    if not isinstance(value, str) or not value:
        raise BadData(f"{where}: {str(value)[:40]!r} is a {type(value).__name__}, expected nucleotides as text")
    try:
        return Window(normalise(value, Counter()))
    except BadData as error:
        raise BadData(f"{where}: {error}") from None


def together(items: Iterable[T], letters: Callable[[T], int], count: int, most: int) -> Iterator[list[T]]:
    """The items in lists of ``count``, or of fewer where they have more than ``most`` letters, unless a single one does."""
    some, total = list[T](), 0
    for item in items:
        own = letters(item)
        if some and (len(some) == count or total + own > most):
            yield some
            some, total = [], 0
        some.append(item)
        total += own
    if some:
        yield some


def nothing_scored(path: Path, reasons: Counter[str]) -> BadData:
    """The error of a file of which no variant could be used."""
    said = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.most_common() if count)
    hint = "; is the genome of another assembly?" if reasons["reference_mismatch"] + reasons["off_genome"] else ""
    return BadData(f"{path}: windows could be made of none of the variants ({said}){hint}")


def _content(path: Path) -> str:
    """sha256 of a file; of a folder, such as an alignment's, of the names, sizes and times of its files."""
    return digest(file_states([path])) if path.is_dir() else file_digest(path)


def _kind(path: Path, sequence_column: str) -> str:
    if not sequence_column and is_variants(path):
        return VARIANTS
    if bed.is_bed(path) or (not sequence_column and readers.is_intervals(path)):
        return INTERVALS
    return SEQUENCES


def _is_table(path: Path) -> bool:
    return not bed.is_bed(path) and (readers.is_parquet(path) or not readers.is_fasta(path))


def _repeated(ids: Iterable[int]) -> int:
    """How many of the numbers stand there more than once, all but the first of each counted."""
    import numpy as np

    found = np.sort(np.fromiter(ids, np.int64))
    return int((found[1:] == found[:-1]).sum())
