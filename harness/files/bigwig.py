"""UCSC's bigWig files (Kent et al. 2010, Bioinformatics 26:2204, supplement): one number per position, in either byte order.

Everything that is followed is checked first, so that "no value here" is never a block that could not be read: offsets and
counts against the file's size, blocks against the index, and values against the file's own totals (files below
MAX_TOTALLED bytes) or against a few of its zoom records.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .binary import Binary

SIGNATURES = (b"\x26\xfc\x8f\x88", b"\x88\x8f\xfc\x26")
MAX_TOTALLED = 1 << 22  # bytes of a file whose values are all added up when it is opened

_CHROMOSOMES, _INDEX = 0x78CA8C91, 0x2468ACE0  # signatures of the two kinds of trees
_SECTIONS = {1: 12, 2: 8, 3: 4}  # bytes of an item: start, end and value; start and value; value
_MAX_DEPTH = 32
MAX_ENTRIES = 1 << 12  # of a node of an index
_LEAF = np.dtype([("place", "u4", 4), ("offset", "u8"), ("size", "u8")])  # chromosome and position of the start, and of the end
_BRANCH = np.dtype([("place", "u4", 4), ("offset", "u8")])
_ZOOM = np.dtype([("place", "u4", 4), ("summary", "f4", 4)])  # chromosome, start, end, bases; minimum, maximum, sum, squares


class _Entry(NamedTuple):
    """Part of an index: the (chromosome, position) at which it begins and ends, and where it is: bytes if it is a block."""

    start: tuple[int, int]
    end: tuple[int, int]
    offset: int
    size: int


class _Block(NamedTuple):
    """Stretches with a value, in order; int64 (stretches,) each but the values, which are float64."""

    chromosome: int
    starts: np.ndarray
    ends: np.ndarray
    values: np.ndarray


def spread(found: np.ndarray, start: int, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
    """Write the values of stretches, which are in order and do not overlap, into the positions from ``start`` on (length,)."""
    part = slice(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(starts, start + len(found))))
    first, last = np.maximum(starts[part] - start, 0), np.minimum(ends[part] - start, len(found))
    sizes = last - first
    if len(sizes) and sizes.sum() == last[-1] - first[0]:  # without gaps
        found[first[0] : last[-1]] = np.repeat(values[part], sizes)
    elif len(sizes):
        places = np.arange(sizes.sum()) + np.repeat(first - np.cumsum(sizes) + sizes, sizes)
        found[places] = np.repeat(values[part], sizes)


class BigWigFile:
    """A bigWig whose header and trees are whole.

    ``lengths`` maps its chromosomes to their lengths. ``mean`` is the mean over all positions with a value, nan if the file
    does not say.

    Raises:
        BadData: the file is cut or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._file = file = Binary(path, "the bigWig file")
        signature = file.read(0, 4)
        file.order = "<" if signature == SIGNATURES[0] else ">"
        if signature not in SIGNATURES or file.read(file.size - 4, 4) != signature:
            raise file.damaged("it does not end with its signature")
        version, zooms = (int(value) for value in file.numbers(4, "u2", 2))
        tree, _, self._index = file.numbers(8, "u8", 3).tolist()
        totals, (buffer,) = int(file.numbers(44, "u8")[0]), file.numbers(52, "u4")
        self._buffer = int(buffer)
        if not 1 <= version <= 4:
            raise file.damaged(f"version {version}")
        self._chromosomes = dict(self._leaves(tree))
        self.lengths = dict(self._chromosomes.values())
        self._numbers = {name: number for number, (name, _) in self._chromosomes.items()}
        if len(self.lengths) < len(self._chromosomes):
            raise file.damaged("two chromosomes of one name")
        self._blocks, self._nodes = lru_cache(256)(self._read_block), lru_cache(4096)(self._read_node)
        self._zooms = [file.numbers(64 + 24 * level + 8, "u8", 2).tolist() for level in range(zooms)]
        for root in (self._index, *(index for _, index in self._zooms)):
            self._nodes(self._root(root))
        self.mean = self._mean(totals) if totals else math.nan

    def value(self, name: str, position: int) -> float:
        """The value at a 0-based position inside a chromosome; nan if it has none.

        Raises:
            BadData: the file is damaged there.
        """
        number = self._numbers[name]
        for block in self._overlapping(self._index, (number, position), (number, position + 1)):
            place = int(np.searchsorted(block.starts, position, "right")) - 1
            if block.chromosome == number and place >= 0 and position < block.ends[place]:
                return float(block.values[place])
        return math.nan

    def values(self, name: str, start: int, end: int) -> np.ndarray:
        """The values of an interval inside a chromosome, 0-based and half-open: float64 (end - start,), nan where there is none.

        Raises:
            BadData: the file is damaged there.
        """
        number, found = self._numbers[name], np.full(end - start, math.nan)
        for block in self._overlapping(self._index, (number, start), (number, end)):
            if block.chromosome == number:
                spread(found, start, block.starts, block.ends, block.values)
        return found

    # --- trees ----------------------------------------------------------------------------------------------------------

    def _leaves(self, tree: int) -> Iterator[tuple[int, tuple[str, int]]]:
        """Number, name and length of each chromosome."""
        file = self._file
        signature, _, key, value = file.numbers(tree, "u4", 4).tolist()
        (count,) = file.numbers(tree + 16, "u8").tolist()
        if signature != _CHROMOSOMES or value != 8 or not 0 < key < 1 << 12 or count > file.size // (key + value):
            raise file.damaged("no list of chromosomes where its header says")
        todo, found = [(tree + 32, 0)], 0
        while todo:
            node, depth = todo.pop()
            leaf, items = file.read(node, 1)[0], int(file.numbers(node + 2, "u2")[0])
            if depth > _MAX_DEPTH or leaf > 1 or not items:
                raise file.damaged("a list of chromosomes that leads nowhere")
            for at in range(node + 4, node + 4 + items * (key + 8), key + 8):
                if not leaf:
                    todo.append((int(file.numbers(at + key, "u8")[0]), depth + 1))
                    continue
                name = file.read(at, key).rstrip(b"\0").decode("latin-1")
                number, length = file.numbers(at + key, "u4", 2).tolist()
                found += 1
                if found > count or not name.isprintable() or not name:
                    raise file.damaged(f"a chromosome {name[:40]!r}, the {found:,}th of {count:,}")
                yield number, (name, length)
            if len(todo) > count:
                raise file.damaged("a list of chromosomes that leads nowhere")
        if found != count:
            raise file.damaged(f"{found:,} chromosomes, and {count:,} in the header of their list")

    def _root(self, index: int) -> int:
        """The first node of an index."""
        if self._file.numbers(index, "u4")[0] != _INDEX:
            raise self._file.damaged("no index where its header says")
        return index + 48

    def _read_node(self, offset: int) -> list[_Entry]:
        file = self._file
        leaf, count = file.read(offset, 1)[0], int(file.numbers(offset + 2, "u2")[0])
        if leaf > 1 or count > MAX_ENTRIES:
            raise file.damaged(f"no node of an index at byte {offset:,}")
        kind = (_LEAF if leaf else _BRANCH).newbyteorder(file.order)
        found = np.frombuffer(file.read(offset + 4, count * kind.itemsize), kind)
        sizes = found["size"].tolist() if leaf else [0] * count
        entries = [
            _Entry((first, start), (last, end), where, size)
            for (first, start, last, end), where, size in zip(
                found["place"].tolist(), found["offset"].tolist(), sizes, strict=True
            )
        ]
        if any(following.start < entry.start for entry, following in pairwise(entries)):
            raise file.damaged(f"an index out of order at byte {offset:,}")
        for entry in entries:
            if entry.start >= entry.end or (leaf and not entry.size):
                raise file.damaged(f"an empty part of an index at byte {offset:,}")
            known = [self._chromosomes.get(number) for number in (entry.start[0], entry.end[0])]
            if None in known or entry.end[1] > known[1][1]:  # type: ignore[index]
                raise file.damaged(f"an index of chromosomes that it lacks at byte {offset:,}")
            file.read(entry.offset + entry.size, 0)
        return entries

    def _overlapping(self, index: int, start: tuple[int, int], end: tuple[int, int]) -> Iterator[_Block]:
        """The blocks of an index that may hold a part of an interval."""
        for entry in self._entries(index, start, end):
            yield self._blocks(entry)

    def _entries(self, index: int, start: tuple[int, int], end: tuple[int, int]) -> Iterator[_Entry]:
        todo: list[tuple[int, _Entry | None]] = [(self._root(index), None)]
        seen: set[int] = set()
        while todo:
            offset, parent = todo.pop()
            if offset in seen:
                raise self._file.damaged("an index that leads nowhere")
            seen.add(offset)
            for entry in reversed(self._nodes(offset)):
                if parent is not None and (entry.start < parent.start or entry.end > parent.end):
                    raise self._file.damaged(f"an index whose part at byte {offset:,} is not what is said of it")
                if entry.start < end and start < entry.end:
                    if entry.size:
                        yield entry
                    else:
                        todo.append((entry.offset, entry))

    # --- values ---------------------------------------------------------------------------------------------------------

    def _unpack(self, entry: _Entry) -> bytes:
        packed = self._file.read(entry.offset, entry.size)
        if not self._buffer:
            return packed
        try:
            stream = zlib.decompressobj()
            data = stream.decompress(packed, self._buffer + 1)
        except zlib.error as error:
            raise self._file.damaged(f"the block at byte {entry.offset:,}: {error}") from None
        if not stream.eof or len(data) > self._buffer:
            raise self._file.damaged(f"the block at byte {entry.offset:,} is of another size than announced")
        return data

    def _read_block(self, entry: _Entry) -> _Block:
        data, order = self._unpack(entry), self._file.order
        fault = self._file.damaged(f"the block at byte {entry.offset:,} is not what the index says of it")
        if len(data) < 24:
            raise fault
        chromosome, start, end, step, span = np.frombuffer(data, order + "u4", 5).astype(np.int64).tolist()
        kind, count = data[20], int(np.frombuffer(data, order + "u2", 1, 22)[0])
        if kind not in _SECTIONS or len(data) != 24 + count * _SECTIONS[kind]:
            raise fault
        fields = np.frombuffer(data, order + "u4", offset=24).reshape(count, _SECTIONS[kind] // 4)  # some writers have empty ones
        values = fields[:, -1].copy().view(order + "f4").astype(np.float64)
        starts = start + step * np.arange(count) if kind == 3 else fields[:, 0].astype(np.int64)
        ends = fields[:, 1].astype(np.int64) if kind == 1 else starts + span
        if (entry.start, entry.end) != ((chromosome, start), (chromosome, end)):
            raise fault
        if (starts >= ends).any() or (starts[1:] < ends[:-1]).any() or (starts < start).any() or (ends > end).any():
            raise fault
        return _Block(chromosome, starts, ends, values)

    # --- totals ---------------------------------------------------------------------------------------------------------

    def _mean(self, offset: int) -> float:
        """The mean of all values, from the totals in the header, which are compared with the values."""
        (bases,) = self._file.numbers(offset, "u8").tolist()
        lowest, highest, total = self._file.numbers(offset + 8, "f8", 3).tolist()
        mean = total / max(bases, 1)
        slack = 1e-5 * max(abs(lowest), abs(highest))
        everything = (0, 0), (1 << 32, 1 << 32)
        if (
            not math.isfinite(total)
            or bases > sum(self.lengths.values())
            or (bases and not lowest - slack <= mean <= highest + slack)
        ):
            raise self._file.damaged(f"its totals: {bases:,} positions with values from {lowest:g} to {highest:g}, sum {total:g}")
        if self._file.size <= MAX_TOTALLED:
            found = list(self._overlapping(self._index, *everything))
            covered = sum(int((block.ends - block.starts).sum()) for block in found)
            added = sum(float(((block.ends - block.starts) * block.values).sum()) for block in found)
            if covered != bases or not math.isclose(added, total, rel_tol=1e-3, abs_tol=slack * max(bases, 1)):
                raise self._file.damaged(
                    f"values at {covered:,} positions with the sum {added:g}, and its totals: {bases:,}, {total:g}"
                )
        elif self._zooms:
            for share in (0.0, 0.35, 0.7, 1.0):
                self._check_zoom(share)
        return mean

    def _check_zoom(self, share: float) -> None:
        """Compare the values with a record of the finest zoom level, at this share of the way through its index."""
        node = self._root(self._zooms[0][1])
        for _ in range(_MAX_DEPTH):
            entries = self._nodes(node)
            if not entries:
                return
            entry = entries[int(share * (len(entries) - 1))]
            if entry.size:
                break
            node = entry.offset
        else:
            raise self._file.damaged("an index that leads nowhere")
        data = self._unpack(entry)
        if not data or len(data) % _ZOOM.itemsize:
            raise self._file.damaged(f"the zoom records at byte {entry.offset:,}")
        records = np.frombuffer(data, _ZOOM.newbyteorder(self._file.order))
        record = records[int(share * (len(records) - 1))]
        chromosome, start, end, _ = (int(value) for value in record["place"])
        lowest, highest = (float(value) for value in record["summary"][:2])
        values = []
        for block in self._overlapping(self._index, (chromosome, start), (chromosome, end)):
            values.append(block.values[(block.starts < end) & (block.ends > start)])
        found = np.concatenate(values) if values else np.empty(0)
        slack = 1e-5 * max(abs(lowest), abs(highest), 1e-30)
        if not len(found) or found.min() < lowest - slack or found.max() > highest + slack:
            name = self._chromosomes.get(chromosome, ("?", 0))[0]
            raise self._file.damaged(f"values of {name}:{start:,}-{end:,} that are not those of its own summary")
