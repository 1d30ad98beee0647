"""UCSC's multiple alignment format (MAF)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.data import bare
from harness.errors import BadData

from ..workspace import cache_key
from ..sources import cache_home
from ..text import text_lines
from .columns import COMPLEMENT, EXPECTED, GAP, Alignment, Block, Extents, clean, widen
from .species import MULTIZ
from .store import open_store, write_store

_FIELDS = {"i": 6, "e": 7, "q": 3}  # number of fields of the lines that hold no letters
_CUT = "the file is cut or damaged"


def open_maf(path: Path) -> Alignment:
    """A MAF file, read through the store that is written in the cache folder the first time.

    Raises:
        BadData: the file is damaged or cut.
    """
    store = cache_home() / "alignments" / f"{path.name.partition('.')[0]}-{cache_key(path)}"
    if not store.is_dir():
        write_store([Maf(path)], store, ())
    return replace(open_store(store), path=path)


class Maf:
    """The blocks of a MAF file.

    The target is the first row of every block. Columns where it has a gap are dropped, so that columns are its positions.
    If a block has several rows of one species, the first counts. The file is read once here, for species and extents, and
    again by :meth:`blocks`.

    Raises:
        BadData: the file is damaged or cut, has no blocks, or has blocks of different targets.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.extents: Extents = {}
        seen: dict[str, None] = {}
        for rows in self._rows():
            seen.update(dict.fromkeys(row.species for row in rows))
            if rows[0].species != next(iter(seen)):
                raise BadData(
                    f"{path}: blocks begin with {next(iter(seen))} and with {rows[0].species}; expected one target first"
                )
            chromosome, start, end = rows[0].interval()
            widen(self.extents, chromosome, start, end)
        if not seen:
            raise BadData(f"{path}: a MAF file without blocks")
        target, *others = seen
        # The order in which species first occur depends on the region; UCSC's own order does not.
        self.species: Sequence[str] = [target, *(MULTIZ if target == "hg38" and set(others) <= set(MULTIZ) else others)]

    def blocks(self) -> Iterator[Block]:
        """Every block, on the target's plus strand."""
        for rows in self._rows():
            letters = {}
            for row in reversed(rows):
                letters[row.species] = self._letters(row)
                if len(letters[row.species]) != len(rows[0].text):
                    raise BadData(f"{self.path}, line {row.line}: a row of another length than its block's; {_CUT}")
            chromosome, start, _ = rows[0].interval()
            block = np.array(list(letters.values())).T
            block = block[letters[rows[0].species] != GAP]
            yield chromosome, start, list(letters), COMPLEMENT[block[::-1]] if rows[0].strand == "-" else block

    def _letters(self, row: _Row) -> np.ndarray:
        letters = clean(np.frombuffer(row.text.encode(), np.uint8), f"{self.path}, line {row.line}")
        if (letters != GAP).sum() != row.size:
            raise BadData(
                f"{self.path}, line {row.line}: {(letters != GAP).sum()} letters where {row.size} are announced; {_CUT}"
            )
        return letters

    def _rows(self) -> Iterator[list[_Row]]:
        """The ``s`` lines of each block."""
        rows: list[_Row] = []
        number, line = 0, ""
        for number, line in enumerate(text_lines(self.path, EXPECTED), start=1):
            if line.startswith("s") and line[1:2].isspace():
                rows.append(_row(f"{self.path}, line {number}", number, line))
            elif rows and (not line.strip() or line[0] == "a"):
                yield rows
                rows = []
        if rows:  # the file ends inside a block, maybe inside a line
            fields = line.split()
            if len(fields) != _FIELDS.get(fields[0], len(fields)):
                raise BadData(f"{self.path}, line {number}: {line[:40]!r} has {len(fields)} fields; {_CUT}")
            yield rows


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    species: str
    chromosome: str
    start: int  # 0-based, on the row's own strand
    size: int
    strand: str
    chromosome_size: int
    text: str

    def interval(self) -> tuple[str, int, int]:
        """Chromosome, start and end on the plus strand."""
        start = self.start if self.strand == "+" else self.chromosome_size - self.start - self.size
        return bare(self.chromosome), start, start + self.size


def _row(where: str, number: int, line: str) -> _Row:
    try:
        _, source, start, size, strand, total, text = line.split()
        species, dot, chromosome = source.partition(".")
        if not dot or strand not in "+-":
            raise ValueError
        return _Row(number, species, chromosome, int(start), int(size), strand, int(total), text)
    except ValueError:
        raise BadData(f"{where}: {line[:40]!r} is not 's species.chromosome start size strand length letters'; {_CUT}") from None
