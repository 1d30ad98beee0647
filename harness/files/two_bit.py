"""UCSC's 2bit genomes (http://genome.ucsc.edu/FAQ/FAQformat.html#format7): versions 0 and 1, either byte order."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .binary import Binary

SIGNATURES = (b"\x1aA'C"[::-1], b"\x1aA'C")

# The four letters of a byte, the first in its highest bits.
_LETTERS = np.frombuffer(b"TCAG", np.uint8)[(np.arange(256)[:, None] >> [6, 4, 2, 0]) & 3]


class _Record(NamedTuple):
    length: int
    unknown: np.ndarray  # (blocks, 2): start and end of the stretches of N, in order
    masks: int  # offset of the number of stretches in lower case, which marks repeats
    letters: int  # offset of the packed letters


class TwoBit:
    """A 2bit file whose header, index and sizes were checked; ``lengths`` maps its records to their numbers of letters.

    Raises:
        BadData: the file is cut, or its index does not fit.
    """

    def __init__(self, path: Path) -> None:
        self._file = file = Binary(path, "the 2bit file")
        file.order = "<" if file.read(0, 4) == SIGNATURES[0] else ">"
        version, count, reserved = (int(value) for value in file.numbers(4, "u4", 3))
        if version > 1 or reserved or count > file.size:
            raise file.damaged(f"version {version}, {count:,} records, reserved field {reserved}")
        kind, width = ("u8", 8) if version else ("u4", 4)
        at, offsets = 16, {}
        for _ in range(count):
            size = file.read(at, 1)[0]
            name = file.read(at + 1, size).decode("latin-1")
            if not name.isprintable() or not name or name in offsets:
                raise file.damaged(f"a record named {name!r:.80}, no name or one that occurs twice")
            offsets[name] = int(file.numbers(at + 1 + size, kind)[0])
            at += 1 + size + width
        self._records: dict[str, _Record] = {}
        self._masked: dict[str, np.ndarray] = {}  # starts and ends (2, stretches); of a human genome 90 MB
        end = at
        for name, offset in sorted(offsets.items(), key=lambda item: item[1]):
            if offset < end:
                raise file.damaged(f"record {name!r:.80} begins within another one")
            self._records[name] = record = self._record(name, offset)
            end = record.letters + -(-record.length // 4)
            file.read(end, 0)
        self.lengths = {name: self._records[name].length for name in offsets}

    def sequence(self, name: str, start: int, end: int) -> str:
        """The letters ``ACGTN`` of an interval inside a record, 0-based and half-open."""
        record = self._records[name]
        first = start // 4
        packed = np.frombuffer(self._file.read(record.letters + first, -(-end // 4) - first), np.uint8)
        letters = _LETTERS[packed].reshape(-1)[start - 4 * first : end - 4 * first]
        starts, ends = record.unknown.T
        for block in range(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(starts, end))):
            letters[max(starts[block] - start, 0) : ends[block] - start] = ord("N")
        return letters.tobytes().decode()

    def soft_masked(self, name: str, start: int, end: int) -> np.ndarray:
        """Which letters of an interval inside a record are in lower case, bool (end - start,).

        Raises:
            BadData: the stretches in lower case overlap, or lie outside of the record.
        """
        if name not in self._masked:
            record = self._records[name]
            self._masked[name] = self._stretches(name, record.masks, record.length, "lower case").T.copy()
        starts, ends = self._masked[name]
        found = np.zeros(end - start, bool)
        for block in range(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(starts, end))):
            found[max(starts[block] - start, 0) : ends[block] - start] = True
        return found

    def _record(self, name: str, at: int) -> _Record:
        file = self._file
        length, count = (int(value) for value in file.numbers(at, "u4", 2))
        masks = at + 8 + 8 * count
        masked = int(file.numbers(masks, "u4")[0])
        return _Record(length, self._stretches(name, at + 4, length, "N"), masks, masks + 8 + 8 * masked)

    def _stretches(self, name: str, at: int, length: int, kind: str) -> np.ndarray:
        """Start and end of each stretch of a list that begins at ``at`` with their number: (stretches, 2), in order."""
        count = int(self._file.numbers(at, "u4")[0])
        starts, sizes = self._file.numbers(at + 4, "u4", 2 * count).reshape(2, -1)
        found = np.stack([starts, starts + sizes], axis=1)
        if (np.diff(found.reshape(-1)) < 0).any() or (count and found[-1, 1] > length):
            raise self._file.damaged(f"record {name!r:.80} has stretches of {kind} that overlap, or lie outside of it")
        return found
