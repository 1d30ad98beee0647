"""The project's own store of an alignment.

It is a folder with ``store.json`` and one memory-mapped ``.npy`` (length, rows) for each chromosome, 0 where nothing aligns.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from harness.errors import BadData

from ..sources import Transferred
from .columns import Alignment, Block, Blocks, Extents, widen
from .species import select

HEADER = "store.json"
_FORMAT = "gfm-harness alignment 1"
COPIED = 1 << 16  # columns


def open_store(path: Path) -> Alignment:
    """The alignment in a store, memory-mapped.

    Raises:
        BadData: it is damaged, or written in another format.
    """
    try:
        header = json.loads((path / HEADER).read_text())
        if header["format"] != _FORMAT:
            raise BadData(f"{path}: format {header['format']!r}, expected {_FORMAT!r}; build the store again")
        extents = {chromosome: (start, end) for chromosome, (start, end) in header["chromosomes"].items()}
        arrays = {chromosome: np.load(path / f"{chromosome}.npy", mmap_mode="r") for chromosome in extents}
        species = tuple(header["species"])
        if any(arrays[name].shape != (end - start, len(species)) for name, (start, end) in extents.items()):
            raise ValueError("an array of another size")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path}: a damaged store ({error}); build it again") from None

    def read(chromosome: str, start: int, end: int) -> np.ndarray:
        origin = extents[chromosome][0]
        return arrays[chromosome][start - origin : end - origin]

    return Alignment(path, species, extents, read)


class AlignmentBlocks:
    """The columns of an opened alignment as blocks of a limited length."""

    def __init__(self, alignment: Alignment) -> None:
        self.path, self.extents = alignment.path, alignment.extents
        self.species: Sequence[str] = alignment.species
        self._read = alignment.read

    def blocks(self) -> Iterator[Block]:
        """All columns, at most COPIED in each block."""
        for chromosome, (start, end) in self.extents.items():
            for first in range(start, end, COPIED):
                yield chromosome, first, self.species, self._read(chromosome, first, min(first + COPIED, end))


def write_store(parts: Sequence[Blocks], path: Path, names: Sequence[str], progress: Transferred | None = None) -> None:
    """Write the columns of all parts as one store, whole or not at all; ``names`` selects species, none keeps all.

    ``progress`` is told the bytes of columns written, and the bytes that the parts' extents span.

    Raises:
        BadData: the parts have different targets, or one of them cannot be read.
        UserError: no part has one of the species.
    """
    species, extents = _union(parts)
    everything = Alignment(parts[0].path, tuple(species), extents, read=lambda *_: np.empty(0))
    species = list((select(everything, names) if names else everything).species)
    places = {name: row for row, name in enumerate(species)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".store-"))
    try:
        arrays = {  # a new file is all zeros, and takes no disk space where nothing is written
            name: np.lib.format.open_memmap(temporary / f"{name}.npy", "w+", np.uint8, (end - start, len(species)))
            for name, (start, end) in extents.items()
        }
        done, total = 0, sum(array.size for array in arrays.values())
        for part in parts:
            for chromosome, start, rows, letters in part.blocks():
                first = start - extents[chromosome][0]
                _put(arrays[chromosome][first : first + len(letters)], [places.get(row, -1) for row in rows], letters)
                done += len(letters) * len(species)
                if progress is not None:
                    progress(done, total)
        for array in arrays.values():
            array.flush()
        header = {"format": _FORMAT, "species": species, "chromosomes": extents, "sources": [part.path.name for part in parts]}
        (temporary / HEADER).write_text(json.dumps(header, indent=1))
        temporary.chmod(0o755)
        os.rename(temporary, path)
    except OSError:
        if not (path / HEADER).is_file():  # another process may have written the same store meanwhile
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(stored: np.ndarray, places: Sequence[int], letters: np.ndarray) -> None:
    """Fill columns (length, rows) of a store; where blocks overlap, the first one counts."""
    kept = [row for row, place in enumerate(places) if place >= 0]
    free = stored[:, 0] == 0
    stored[np.ix_(free, [places[row] for row in kept])] = letters[np.ix_(free, kept)]


def _union(parts: Sequence[Blocks]) -> tuple[list[str], Extents]:
    """The species and extents of all parts together."""
    species: dict[str, None] = {}
    extents: Extents = {}
    for part in parts:
        species.update(dict.fromkeys(part.species))
        if part.species[0] != next(iter(species)):
            raise BadData(f"{part.path}: its target is {part.species[0]}, that of {parts[0].path} {next(iter(species))}")
        for name, (start, end) in part.extents.items():
            widen(extents, name, start, end)
    return list(species), extents
