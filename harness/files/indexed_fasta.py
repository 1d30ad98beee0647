"""Random access to FASTA files, plain or bgzipped, through an index of lines like that of ``samtools faidx``.

Blanks at the end of a line, line ends of Windows, a byte order mark and blank lines after a record are no letters. The
lines of a record, its last one excepted, must be of one length.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.errors import BadData, UserError

from .binary import Binary
from .fingerprint import remembered
from .sources import cache_home
from .text import BOM, GZIP, gzip_faults, head
from .workspace import cache_key, workspace

MAX_TRAILING_BLANKS = 100  # of a line

_VERSION = 1  # of the index
_CHUNK = 1 << 24
END_OF_BGZIP = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_BLANKS = b" \t\r\n"


class _Record(NamedTuple):
    name: str
    line: int  # number of its first line of letters
    length: int
    offset: int
    letters: int  # in a full line
    width: int  # of a full line in bytes, its end included


class IndexedFasta:
    """A FASTA file; ``lengths`` maps its records to their numbers of letters.

    The index is remembered in the cache folder, and so is the text of a file that is gzipped but not bgzipped. Where the
    cache cannot be written, the first is made anew each time, and the second kept in a temporary file.

    Raises:
        BadData: the file is cut, no FASTA, has two records of one name, or lines of unequal length.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        start = head(path, "a genome")
        if start.startswith(GZIP) and start[12:14] == b"BC":
            self._bytes = _Bgzip(path)
        elif start.startswith(GZIP):
            self._bytes = _unpacked(path)
        else:
            self._bytes = Binary(path, "FASTA")
        found = remembered("FASTA index", [path], _VERSION, lambda: _index(path, self._bytes))
        self._records = {record.name: record for record in (_Record(*fields) for fields in found)}
        self.lengths = {name: record.length for name, record in self._records.items()}

    def sequence(self, name: str, start: int, end: int) -> str:
        """The letters of an interval inside a record, 0-based and half-open, as the file spells them.

        Raises:
            BadData: the file has changed, or is damaged there.
        """
        record = self._records[name]
        first, last = self._place(record, start), self._place(record, end - 1)
        letters = self._bytes.read(first, last + 1 - first).translate(None, _BLANKS)
        if len(letters) != end - start:
            raise BadData(f"{self.path}: record {name!r:.80} is no longer as it was when it was opened; run again")
        return letters.decode("ascii", "replace")

    def soft_masked(self, name: str, start: int, end: int) -> np.ndarray:
        """Which letters of an interval inside a record are in lower case, bool (end - start,).

        Raises:
            BadData: the file has changed, or is damaged there.
        """
        letters = np.frombuffer(self.sequence(name, start, end).encode("ascii", "replace"), np.uint8)
        return (letters >= ord("a")) & (letters <= ord("z"))

    def line(self, name: str, position: int) -> int:
        """The number of the line that holds a position of a record."""
        record = self._records[name]
        return record.line + position // max(record.letters, 1)

    @staticmethod
    def _place(record: _Record, position: int) -> int:
        return record.offset + position // record.letters * record.width + position % record.letters


class _Bgzip:
    """The unpacked bytes of a bgzip file, by offset; the places of its blocks are found from their headers."""

    def __init__(self, path: Path) -> None:
        self._file = file = Binary(path, "the bgzip file")
        places = remembered("bgzip blocks", [path], _VERSION, lambda: _blocks(file))
        self._packed, self._unpacked = np.array(places, np.int64)
        self.size = int(self._unpacked[-1])
        self._last = (-1, b"")

    def read(self, start: int, size: int) -> bytes:
        first = int(np.searchsorted(self._unpacked, start, "right")) - 1
        last = int(np.searchsorted(self._unpacked, start + size))
        text = b"".join(self._block(number) for number in range(first, last))
        return text[start - int(self._unpacked[first]) :][:size]

    def _block(self, number: int) -> bytes:
        if self._last[0] != number:
            start, end = (int(place) for place in self._packed[number : number + 2])
            with gzip_faults(self._file.path):
                self._last = number, zlib.decompress(self._file.read(start, end - start), 31)  # 31: with gzip's checksum
        return self._last[1]


def _blocks(file: Binary) -> list[list[int]]:
    """Where each block begins in the file, and in the unpacked text; then the ends of both."""
    if file.read(max(file.size - 28, 0), min(file.size, 28)) != END_OF_BGZIP:
        raise file.damaged("it lacks the empty block at its end")
    packed, unpacked = [0], [0]
    while packed[-1] < file.size:
        header = file.read(packed[-1], 18)
        size = int.from_bytes(header[16:18], "little") + 1
        if header[:4] != END_OF_BGZIP[:4] or header[12:14] != b"BC" or size < 28:
            raise file.damaged(f"no block at byte {packed[-1]:,}")
        unpacked.append(unpacked[-1] + int.from_bytes(file.read(packed[-1] + size - 4, 4), "little"))
        packed.append(packed[-1] + size)
    return [packed, unpacked]


def _unpacked(path: Path) -> Binary:
    """The text of a gzip file, in the cache folder or, where that cannot be written, in a temporary file.

    A text in the cache that is of another size or time than it was written with is damaged, and made again.
    """
    time, key = path.stat().st_mtime_ns, cache_key(path)
    try:
        folder = cache_home() / "genomes"
        for kept in folder.glob(f"{key}-*.fa"):
            status = kept.stat()
            if status.st_mtime_ns == time and kept.name == f"{key}-{status.st_size}.fa":
                return Binary(kept, "FASTA")
            kept.unlink()
        with workspace(folder, "unpack") as temporary:
            text = temporary / "text"
            _unpack(path, text)
            os.utime(text, ns=(time, time))
            kept = folder / f"{key}-{text.stat().st_size}.fa"
            os.replace(text, kept)
        return Binary(kept, "FASTA")
    except OSError as fault:
        reason = fault
    try:
        with tempfile.TemporaryDirectory(prefix="gfm-harness-") as temporary:
            _unpack(path, text := Path(temporary) / "text")
            return Binary(text, "FASTA")  # open, it outlives its name
    except OSError as error:
        raise UserError(
            f"{path}: cannot be unpacked into {cache_home()} ({reason.strerror}) or {tempfile.gettempdir()} ({error.strerror}); "
            "make room, or unpack it yourself"
        ) from None


def _unpack(path: Path, target: Path) -> None:
    with gzip_faults(path), gzip.open(path) as packed, target.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)


class _Reading:
    """The record whose lines are being read."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.line, self.length, self.offset, self.letters, self.width = name, number, 0, 0, 0, 0
        self._ended = False  # by a short line, or a blank one

    def add(self, letters: np.ndarray, widths: np.ndarray, number: int, offsets: np.ndarray) -> None:
        """Take up lines that follow each other: letters, bytes and offset of each; the first has this ``number``.

        Raises:
            ValueError: one of them is of another length than those before it.
        """
        filled = np.flatnonzero(letters)
        if len(filled):
            first, last = int(filled[0]), int(filled[-1])
            if not self.length:
                self.line, self.offset = number + first, int(offsets[first])
                self.letters, self.width = int(letters[first]), int(widths[first])
            elif self._ended or first:
                raise ValueError(f"line {number + first}: letters after a short or blank line of record {self.name!r:.80}")
            uneven = (letters[first:last] != self.letters) | (widths[first:last] != self.width)
            if uneven.any() or letters[last] > self.letters:
                place = first + int(uneven.argmax()) if uneven.any() else last
                raise ValueError(
                    f"line {number + place}: {letters[place]} letters and a line end of {widths[place] - letters[place]}, "
                    f"in a record that began with {self.letters} and {self.width - self.letters}"
                )
            self.length += int(letters.sum())
            self._ended = bool(letters[last] < self.letters or widths[last] != self.width or last + 1 < len(letters))
        elif self.length and len(letters):
            self._ended = True

    def fields(self) -> list[Any]:
        return [self.name, self.line, self.length, self.offset, self.letters, self.width]


def _index(path: Path, source: Binary | _Bgzip) -> list[list[Any]]:
    """The fields of every :class:`_Record`."""
    records: dict[str, _Reading] = {}
    try:
        for text, offset, number in _texts(source):
            _add_lines(records, text, offset, number)
        if not records:
            raise ValueError("no line begins with '>'")
    except ValueError as error:
        raise BadData(f"{path}: not a FASTA file that can be indexed ({error}); mend it, or write it anew") from None
    return [record.fields() for record in records.values()]


def _texts(source: Binary | _Bgzip) -> Iterator[tuple[bytes, int, int]]:
    """Pieces of whole lines, the offset of each, and the number of its first line."""
    start = 3 if source.size >= 3 and source.read(0, 3) == BOM else 0
    rest, at, number = b"", start, 1
    while at < source.size:
        more = source.read(at, min(max(_CHUNK, len(rest)), source.size - at))
        at += len(more)
        text, rest = rest + more, b""
        if at < source.size:
            end = text.rfind(b"\n") + 1
            text, rest = text[:end], text[end:]
        elif not text.endswith(b"\n"):
            text += b"\n"
        if text:
            yield text, start, number
            start, number = start + len(text), number + text.count(b"\n")


def _add_lines(records: dict[str, _Reading], text: bytes, offset: int, number: int) -> None:
    data = np.frombuffer(text, np.uint8)
    blanks = np.flatnonzero(data <= ord(" "))
    newline = data[blanks] == ord("\n")
    ends, blanks = blanks[newline], blanks[~newline]
    starts = np.append(0, ends[:-1] + 1)
    stops = ends.copy()
    for _ in range(MAX_TRAILING_BLANKS):
        trailing = (stops > starts) & np.isin(data[stops - 1], list(_BLANKS))
        if not trailing.any():
            break
        stops[trailing] -= 1
    title = data[starts] == ord(">")
    lines = np.searchsorted(ends, blanks)
    inside = ~title[lines] & (blanks < stops[lines])
    if inside.any():
        place = int(inside.argmax())
        raise ValueError(f"line {number + int(lines[place])}: {chr(data[blanks[place]])!r} among the letters")
    letters, widths = stops - starts, ends + 1 - starts
    edges = [*np.flatnonzero(title).tolist(), len(starts)]
    if edges[0]:  # lines of the record that the text before had begun
        part = slice(0, edges[0])
        if records:
            next(reversed(records.values())).add(letters[part], widths[part], number, starts[part] + offset)
        elif letters[part].any():
            raise ValueError(f"line {number + int(letters[part].argmax())}: text before the first line that begins with '>'")
    for line, following in pairwise(edges):
        name = (text[starts[line] + 1 : stops[line]].decode("utf-8", "replace").split() or [""])[0]
        if not name or name in records or not name.isprintable():
            raise ValueError(
                f"line {number + line}: {f'a second record {name!r:.80}' if name in records else f'no name: {name!r:.80}'}"
            )
        records[name] = _Reading(name, number + line + 1)
        part = slice(line + 1, following)
        records[name].add(letters[part], widths[part], number + line + 1, starts[part] + offset)
