"""The project's own store of an alignment.

It is a folder with ``store.json`` and one memory-mapped ``.npy`` (length, rows) for each chromosome, 0 where nothing aligns.
The arrays are named by number, in the order of ``chromosomes`` in ``store.json``, which has their names: no text of a file
becomes a path.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import BadData, UserError

from ..sources import Transferred
from ..workspace import workspace
from .columns import Alignment, Block, Blocks, Extents, widen
from .species import select

HEADER = "store.json"
_FORMAT = "gfm-harness alignment 2"
_FIRST_FORMAT = "gfm-harness alignment 1"  # whose arrays are named by chromosome
COPIED = 1 << 16  # columns
MAX_HEADER = 1 << 26  # bytes of store.json

_ARRAY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '\|u1', 'fortran_order': False, 'shape': \((\d{1,18}), (\d{1,9})\), \}\s*\n", re.DOTALL
)
_STORED = np.isin(np.arange(256), [0, *b"ACGTN-"])


def open_store(path: Path) -> Alignment:
    """The alignment in a store, memory-mapped.

    Raises:
        BadData: it is damaged, or written in another format.
    """
    try:
        if (path / HEADER).stat().st_size > MAX_HEADER:
            raise ValueError(f"{HEADER} is too large")
        header = json.loads((path / HEADER).read_text(encoding="utf-8"))
        if header["format"] not in (_FORMAT, _FIRST_FORMAT):
            raise BadData(f"{path}: format {header['format']!r:.80}, expected {_FORMAT!r}; build the store again")
        species, extents = tuple(header["species"]), _extents(header["chromosomes"])
        if (
            not all(isinstance(name, str) and name and name.isprintable() for name in species)
            or len(set(species)) < len(species)
            or not species
        ):
            raise ValueError("its species are not different names")
        notes = tuple(header.get("notes", ()))
        if not all(isinstance(note, str) and note.isprintable() for note in notes):
            raise ValueError("its notes are no sentences")
        arrays = {
            name: _open_array(
                path / (f"{number}.npy" if header["format"] == _FORMAT else _plain(name)), end - start, len(species)
            )
            for number, (name, (start, end)) in enumerate(extents.items())
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadData(f"{path}: a damaged store ({str(error)[:200]!s}); build it again") from None

    def read(chromosome: str, start: int, end: int) -> np.ndarray:
        origin = extents[chromosome][0]
        found = arrays[chromosome][start - origin : end - origin]
        if not _STORED[found].all():
            raise BadData(f"{path}: a damaged store (chromosome {chromosome} has bytes that are no letters); build it again")
        return found

    return Alignment(path, species, extents, read, notes=notes)


def _extents(chromosomes: Any) -> Extents:
    """What ``store.json`` says of chromosomes, checked.

    Raises:
        TypeError, ValueError: they are not names with a start below an end.
    """
    extents = {}
    for name, (start, end) in chromosomes.items():
        if not name or not name.isprintable() or type(start) is not int or type(end) is not int or not 0 <= start < end < 1 << 48:
            raise ValueError(f"chromosome {name!r:.40} from {start!r:.40} to {end!r:.40}")
        extents[name] = (start, end)
    if not extents:
        raise ValueError("no chromosome")
    return extents


def _plain(name: str) -> str:
    """The file of a chromosome in a store of the first format.

    Raises:
        ValueError: the name leads out of the store.
    """
    if "/" in name or "\\" in name or "\0" in name or name.startswith(".") or len(name) > 200:
        raise ValueError(f"chromosome {name!r:.80} is no name of a file")
    return f"{name}.npy"


def _open_array(path: Path, length: int, rows: int) -> np.ndarray:
    """A memory map of a file that is exactly what :class:`_Array` writes.

    Raises:
        OSError, ValueError: it is not.
    """
    with path.open("rb") as file:
        header = _ARRAY.match(file.read(256))
        size = os.fstat(file.fileno()).st_size
    if header is None or [int(header[1]), int(header[2])] != [length, rows] or size != header.end() + length * rows:
        raise ValueError(f"{path.name} is no array of {length:,} columns of {rows} rows")
    return np.memmap(path, np.uint8, "r", header.end(), (length, rows))


class _Array:
    """An array (length, rows) of a store that is being written: all zeros at first, taking no disk space.

    Through a file, not a memory map: a full disk is then an error, not the end of the process.
    """

    def __init__(self, path: Path, length: int, rows: int) -> None:
        self._path, self._rows = path, rows
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (length, rows)})
            self._start = file.tell()
            file.truncate(self._start + length * rows)

    def put(self, first: int, places: Sequence[int], letters: np.ndarray) -> int:
        """Fill columns (length, rows) from ``first`` on, except those that are filled; return how many these are."""
        kept = [row for row, place in enumerate(places) if place >= 0]
        with self._path.open("r+b") as file:
            file.seek(self._start + first * self._rows)
            stored = np.frombuffer(bytearray(file.read(len(letters) * self._rows)), np.uint8).reshape(-1, self._rows)
            free = stored[:, 0] == 0
            stored[np.ix_(free, [places[row] for row in kept])] = letters[np.ix_(free, kept)]
            file.seek(self._start + first * self._rows)
            file.write(stored.tobytes())
        return int((letters[~free, 0] != 0).sum())

    def flush(self) -> None:
        with self._path.open("rb") as file:
            os.fsync(file.fileno())


class AlignmentBlocks:
    """The columns of an opened alignment as blocks of a limited length."""

    def __init__(self, alignment: Alignment) -> None:
        self.path, self.extents, self.notes = alignment.path, alignment.extents, alignment.notes
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
        UserError: no part has one of the species, or the folder cannot be written, or has no room.
    """
    species, extents = _union(parts)
    everything = Alignment(parts[0].path, tuple(species), extents, read=lambda *_: np.empty(0))
    species = list((select(everything, names) if names else everything).species)
    places = {name: row for row, name in enumerate(species)}
    try:
        with workspace(path.parent, "store") as temporary:
            arrays = {
                name: _Array(temporary / f"{number}.npy", end - start, len(species))
                for number, (name, (start, end)) in enumerate(extents.items())
            }
            overlaps, done, total = 0, 0, sum(end - start for start, end in extents.values()) * len(species)
            for part in parts:
                for chromosome, start, rows, letters in part.blocks():
                    first = start - extents[chromosome][0]
                    overlaps += arrays[chromosome].put(first, [places.get(row, -1) for row in rows], letters)
                    done += len(letters) * len(species)
                    if progress is not None:
                        progress(done, total)
            for array in arrays.values():
                array.flush()
            notes = [note for part in parts for note in part.notes]
            if overlaps:
                notes.append(f"{overlaps:,} columns are left out, each of a position that an earlier block has already")
            header = {
                "format": _FORMAT,
                "species": species,
                "chromosomes": extents,
                "notes": notes,
                "sources": [part.path.name for part in parts],
            }
            (temporary / HEADER).write_text(json.dumps(header, indent=1), encoding="utf-8")
            temporary.chmod(0o755)
            os.rename(temporary, path)
    except OSError as error:
        if not (path / HEADER).is_file():  # another process may have written the same store meanwhile
            raise UserError(
                f"{path}: the store cannot be written ({error.strerror}); make room, or choose another folder"
            ) from None


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
