"""UCSC's multiple alignment format (MAF)."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.data import bare
from harness.errors import BadData

from ..sources import cache_home
from ..text import text_lines
from ..workspace import cache_key
from .columns import COMPLEMENT, EXPECTED, GAP, Alignment, Block, Extents, clean, widen
from .names import Names
from .species import MULTIZ
from .store import open_store, write_store

_FIELDS = {"i": 6, "e": 7, "q": 3}  # number of fields of the lines that hold no letters
_OTHER_LINES = ("a", "i", "e", "q", "r", "track", "browser")
_RULES = 2  # number of the rules by which a file becomes a store; the first split names at the first dot
_CUT = "the file is cut or damaged"


def open_maf(path: Path) -> Alignment:
    """A MAF file, read through the store that is written in the cache folder the first time.

    A damaged store there is written again; where the cache cannot be written, it is one in a temporary folder.

    Raises:
        BadData: the file is damaged or cut.
    """
    folder = cache_home() / "alignments"
    store = folder / f"{path.name.partition('.')[0][:60]}-{cache_key(path)}-{_RULES}"
    if store.is_dir():
        try:
            return replace(open_store(store), path=path)
        except BadData:
            shutil.rmtree(store, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        with tempfile.TemporaryDirectory(prefix="gfm-harness-") as temporary:
            write_store([Maf(path)], Path(temporary) / "store", ())
            return replace(open_store(Path(temporary) / "store"), path=path)  # mapped, it outlives its name
    write_store([Maf(path)], store, ())
    return replace(open_store(store), path=path)


class Maf:
    """The blocks of a MAF file.

    The target is the first row of every block. Columns where it has a gap are dropped, so that columns are its positions.
    If a block has several rows of one species, the first counts, and ``notes`` tells how many did not. The file is read once
    here, for species and extents, and again by :meth:`blocks`. How names are split into species and chromosome is told in
    :mod:`.names`.

    Raises:
        BadData: the file is damaged or cut, has no blocks, has blocks of different targets, or names that can be split in
            several ways.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.extents: Extents = {}
        self._names = Names(path)
        self._sizes: dict[str, int] = {}  # of chromosomes, by their names in the file
        seen: dict[str, None] = {}
        repeats = 0
        for rows in self._rows():
            repeats += len(rows) - len({row.species for row in rows})
            seen.update(dict.fromkeys(row.species for row in rows))
            if rows[0].species != next(iter(seen)):
                raise BadData(
                    f"{path}: blocks begin with {next(iter(seen)):.80} and with {rows[0].species:.80}; expected one target first"
                )
            if not rows[0].chromosome:
                raise BadData(
                    f"{path}, line {rows[0].line}: the target's name {rows[0].species!r:.80} has no chromosome; write it as "
                    "species.chromosome, like hg38.chr1"
                )
            self._names.see(row.source for row in rows)
            for row in rows:
                if self._sizes.setdefault(row.source, row.chromosome_size) != row.chromosome_size:
                    raise BadData(
                        f"{path}, line {row.line}: {row.source:.80} has {row.chromosome_size:,} nt, and had "
                        f"{self._sizes[row.source]:,} above; {_CUT}"
                    )
            chromosome, start, end = rows[0].interval()
            widen(self.extents, chromosome, start, end)
        if not seen:
            raise BadData(f"{path}: a MAF file without blocks")
        self._names.check()
        repeated = f"{path.name}: {repeats:,} rows are left out, each of a species that its block has already"
        self.notes: Sequence[str] = [repeated] if repeats else []
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

    def _row(self, number: int, line: str) -> _Row:
        fields = line.split()
        if (
            len(fields) != 7
            or not line.strip().replace("\t", " ").isprintable()
            or fields[4] not in ("+", "-")
            or not all(re.fullmatch(r"\d{1,15}", fields[i]) for i in (2, 3, 5))
        ):
            raise BadData(
                f"{self.path}, line {number}: {line[:40]!r} is not 's species.chromosome start size strand length letters'; "
                f"{_CUT}"
            )
        _, source, start, size, strand, total, text = fields
        if int(start) + int(size) > int(total):
            raise BadData(
                f"{self.path}, line {number}: {source:.80} ends at {int(start) + int(size):,} of {int(total):,} nt; {_CUT}"
            )
        name = self._names[source]
        return _Row(number, source, name.species, name.chromosome, int(start), int(size), strand, int(total), text)

    def _rows(self) -> Iterator[list[_Row]]:
        """The ``s`` lines of each block."""
        rows: list[_Row] = []
        number, line = 0, ""
        for number, line in enumerate(text_lines(self.path, EXPECTED), start=1):
            kind = line.split(maxsplit=1)[0] if line.strip() else ""
            if kind == "s":
                rows.append(self._row(number, line))
            elif kind in ("", "a"):
                if rows:
                    yield rows
                rows = []
            elif kind not in _OTHER_LINES and kind[0] != "#":
                raise BadData(f"{self.path}, line {number}: begins with {kind[:20]!r}, which no line of MAF does; {_CUT}")
        if rows:  # the file ends inside a block, maybe inside a line
            fields = line.split()
            if len(fields) != _FIELDS.get(fields[0], len(fields)):
                raise BadData(f"{self.path}, line {number}: {line[:40]!r} has {len(fields)} fields; {_CUT}")
            yield rows


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    source: str
    species: str
    chromosome: str  # empty if the name has none
    start: int  # 0-based, on the row's own strand
    size: int
    strand: str
    chromosome_size: int
    text: str

    def interval(self) -> tuple[str, int, int]:
        """Chromosome, start and end on the plus strand."""
        start = self.start if self.strand == "+" else self.chromosome_size - self.start - self.size
        return bare(self.chromosome), start, start + self.size
