"""Values along sequences: from windows to positions, and into bedGraph, bigWig and BED files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.errors import HarnessError, UserError
from harness.files.bigwig import BigWigFile

from . import writing

ENDINGS = ".bedgraph, .bdg or .bg (each also with .gz), .bigwig or .bw"
ROWS = 4096  # windows that are looked at together

_TRACK = re.compile(r"\.(bedgraph|bdg|bg)(\.gz)?$|\.(bigwig|bw)$", re.IGNORECASE)
_BED = re.compile(r"\.bed(\.gz)?$", re.IGNORECASE)
_BIG_WIG = re.compile(r"\.(bigwig|bw)$", re.IGNORECASE)


class Stretch(NamedTuple):
    """What is scanned: part of a track, in its coordinates (0-based, half-open). ``strand`` as of :class:`Segment`."""

    name: str
    start: int
    end: int
    strand: str
    where: str


class Segment(NamedTuple):
    """Positions (0-based, half-open) of a track that share a value. ``strand`` is + or -, or . where it has no meaning."""

    name: str
    start: int
    end: int
    value: float
    strand: str


def check(out: Path, inputs: Sequence[Path], force: bool) -> None:
    """Refuse a track that cannot be written.

    Raises:
        UserError: it cannot, has another ending, or the package for bigWig files is not installed.
    """
    writing.check_out(out, inputs, _TRACK, ENDINGS, force)
    if _BIG_WIG.search(out.name):
        _writer()


def check_peaks(peaks: Path, others: Sequence[Path], force: bool) -> None:
    """Refuse a BED file that cannot be written.

    Raises:
        UserError: it cannot, or has another ending.
    """
    writing.check_out(peaks, others, _BED, ".bed or .bed.gz", force, "peaks")


def segments(place: Stretch, starts: np.ndarray, window: int, values: Callable[[int, int], np.ndarray]) -> Iterator[Segment]:
    """The mean value at each position of a stretch, from one end of a window to the next.

    ``starts`` are those of its windows, int64, ascending; they are ``window`` long, but none goes beyond the stretch.
    ``values(first, count)`` gives the windows' values, NaN for those that have none, which do not count.
    """
    open_ = np.zeros((0, 3))  # start, end and value of windows that go on beyond what was given out
    low = int(starts[0])
    for first in range(0, len(starts), ROWS):
        some = starts[first : first + ROWS]
        found = values(first, len(some))
        made = np.stack([some, np.minimum(some + window, place.end), found], axis=1)
        open_ = np.concatenate([open_, made[~np.isnan(found)]])
        high = int(starts[first + ROWS]) if first + ROWS < len(starts) else place.end
        yield from _means(place, open_, low, high)
        open_, low = open_[open_[:, 1] > high], high


def _means(place: Stretch, windows: np.ndarray, low: int, high: int) -> Iterator[Segment]:
    """Segments between two positions; windows (N, 3) are sorted by start and, then, by end."""
    starts, ends, values = windows[:, 0], windows[:, 1], windows[:, 2]
    inner = np.concatenate([starts, ends])
    edges = np.unique(np.concatenate([[low, high], inner[(inner > low) & (inner < high)]])).astype(np.int64)
    first, last = np.searchsorted(ends, edges[:-1], "right"), np.searchsorted(starts, edges[:-1], "right")
    counts, totals = last - first, np.zeros(len(first))
    for number in range(int(counts.max(initial=0))):  # at most as many as cover a position, added in the windows' order
        more = number < counts
        totals[more] += values[first[more] + number]
    for index in np.flatnonzero(counts):
        yield Segment(place.name, int(edges[index]), int(edges[index + 1]), float(totals[index] / counts[index]), place.strand)


def peaks(found: Iterable[Segment], threshold: float) -> Iterator[Segment]:
    """Adjoining segments of one strand whose values are at least ``threshold``, each as one with the highest value."""
    peak: Segment | None = None
    for segment in found:
        goes_on = peak is not None and (segment.name, segment.start, segment.strand) == (peak.name, peak.end, peak.strand)
        if peak is not None and not (goes_on and segment.value >= threshold):
            yield peak
            peak = None
        if segment.value >= threshold:
            peak = segment if peak is None else peak._replace(end=segment.end, value=max(peak.value, segment.value))
    if peak is not None:
        yield peak


def write(out: Path, lengths: Mapping[str, int], found: Iterable[Segment]) -> None:
    """Write a track whole or not at all; ``lengths`` maps the names of tracks to theirs.

    Raises:
        HarnessError: it cannot be written, or has no value at all and is a bigWig, which cannot be empty.
    """
    with writing.whole(out) as temporary:
        if _BIG_WIG.search(out.name):
            _big_wig(out, temporary, lengths, found)
            return
        with writing.text_file(temporary, out.suffix.lower() == ".gz") as file:
            for segment in found:
                file.write(f"{segment.name}\t{segment.start}\t{segment.end}\t{segment.value:.7g}\n")


def write_peaks(path: Path, found: Iterable[Segment]) -> int:
    """Write peaks as BED with a seventh column, the highest value, and return their number."""
    count = 0
    with writing.whole(path) as temporary, writing.text_file(temporary, path.suffix.lower() == ".gz") as file:
        for peak in found:
            count += 1
            score = round(1000 * min(max(peak.value, 0.0), 1.0))
            fields = (peak.name, peak.start, peak.end, f"peak_{count}", score, peak.strand, f"{peak.value:.7g}")
            file.write("\t".join(map(str, fields)) + "\n")
    return count


def _writer() -> Callable[[str], object]:
    try:
        import pybigtools
    except ImportError:
        raise UserError("a bigWig file needs the package pybigtools: pip install 'gfm-harness[bigwig]'; or write .bedgraph") from None
    return lambda path: pybigtools.open(path, "w")


def _big_wig(out: Path, temporary: Path, lengths: Mapping[str, int], found: Iterable[Segment]) -> None:
    made, count, fault = temporary.with_name(temporary.name + ".bw"), 0, list[BaseException]()

    def counted() -> Iterator[Segment]:
        nonlocal count
        try:
            for segment in found:
                count += 1
                yield segment
        except BaseException as error:  # which the writer would print, and forget
            fault.append(error)
            raise

    def nothing() -> HarnessError:
        return HarnessError(f"{out}: no window has a value, and a bigWig cannot be empty; write .bedgraph")

    try:
        _writer()(str(made)).write(dict(lengths), (segment[:4] for segment in counted()))  # type: ignore[attr-defined]
        if fault:
            raise fault[0]
        if not count:
            raise nothing()
        BigWigFile(made)  # it reports no errors of its own
        os.replace(made, temporary)
    except FileNotFoundError:
        raise nothing() from None
    finally:
        made.unlink(missing_ok=True)
