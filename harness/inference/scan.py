"""scan(): a model's answers along transcripts and chromosomes, window by window, as tracks and peaks.

Windows begin every so many nucleotides; one more is flush with the end where these do not reach it, and a sequence that is
shorter than a window is one window. A position's value is the mean over the windows that cover it. Windows of N alone are
not asked about; positions that no other window covers have no value.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.data import Example, Locus, Window, bare, reverse_complement
from harness.errors import BadData, HarnessError, UnknownName, UserError
from harness.files.genome import LONGEST_LOCUS, Genome, check_outside
from harness.progress import Reporter
from harness.task import CLASSIFICATION, REGRESSION

from . import tracks
from .answers import Part, Question, Seeds, about, fill
from .inputs import INTERVALS, VARIANTS, Input, Placed
from .predict import check_kind
from .tracks import Segment, Stretch

if TYPE_CHECKING:
    from collections.abc import Sequence

WITHOUT_LETTERS = 1  # the reason why a window is not asked about
TOGETHER = 1024  # windows whose letters are read from a genome together
THRESHOLD = 0.5  # of peaks, where the model gives probabilities


@dataclass(frozen=True)
class Layout:
    """Windows of ``window`` nucleotides, every ``step`` of which one begins."""

    window: int
    step: int

    @classmethod
    def of(cls, text: str) -> Layout:
        """``101:10`` as given with --scan.

        Raises:
            UserError: it is something else.
        """
        found = re.fullmatch(r"([1-9]\d{0,8}):([1-9]\d{0,8})", text)
        if found is None:
            raise UserError(f"scan {text!r}: expected WINDOW:STEP in nucleotides, such as 101:10")
        window, step = int(found[1]), int(found[2])
        if step > window:
            raise UserError(f"scan {text!r}: a step longer than the window would leave gaps; give WINDOW:STEP")
        return cls(window, step)

    def starts(self, stretch: Stretch) -> np.ndarray:
        """Where the windows of a stretch begin, int64, in order."""
        last = stretch.end - self.window
        if last <= stretch.start:
            return np.array([stretch.start], np.int64)
        starts = np.arange(stretch.start, last + 1, self.step, dtype=np.int64)
        return starts if starts[-1] == last else np.append(starts, last)

    def count(self, stretch: Stretch) -> int:
        """How many windows a stretch has."""
        return 1 + max(-(-(stretch.end - stretch.start - self.window) // self.step), 0)

    def flush(self, stretch: Stretch) -> bool:
        """Whether the last window begins less than a step after the one before it."""
        rest = stretch.end - stretch.start - self.window
        return rest > 0 and rest % self.step > 0


@dataclass
class Scanned:
    """What :func:`scan` made: numbers of ``windows`` asked, of those ``skipped``, and of ``peaks``; ``notes`` for the user."""

    windows: int
    skipped: int
    peaks: int
    notes: list[str]


def scan(
    seeds: Seeds,
    found: Input,
    layout: Layout,
    out: Path,
    *,
    of_class: str = "",
    peaks: Path | None = None,
    threshold: float | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
) -> Scanned:
    """Slide along the sequences of an input, or along intervals of its genome, and write a bedGraph or a bigWig.

    A track holds the outputs of one class: the second of two, else ``of_class``; or the number of a regression. Tracks are in
    alphabetical order of their names. Letters of intervals are those of their strand; windows are laid out from the lower
    coordinate on either strand, and intervals of one strand that overlap are joined. ``peaks`` is a BED file: stretches of
    positions with at least ``threshold`` (default THRESHOLD), whose score is 1000 times the highest value. A stopped scan is
    resumed, and files that exist are replaced only if ``force``.

    Raises:
        UserError: the model cannot take such windows, intervals of both strands overlap, two sequences have one name, or a file
            cannot be written.
        BadData: the input cannot be read.
    """
    reporter = reporter or Reporter()
    read = found.files
    tracks.check(out, read, force)
    column = _column(seeds, of_class)
    if peaks is not None:
        tracks.check_peaks(peaks, [*read, out], force)
    if threshold is not None and (peaks is None or not math.isfinite(threshold)):
        raise UserError(f"threshold {threshold:g}: a number from which on positions are peaks, with --peaks FILE")
    if threshold is None:
        threshold = THRESHOLD
        if peaks is not None and seeds.first.kind == REGRESSION:
            raise UserError("peaks: the model predicts a number; say from which one on with --threshold")
    check_kind(seeds, found)
    if found.kind == VARIANTS:
        raise UserError(f"{found.paths[0]}: variants have no places to slide along; leave --scan out")
    _check_window(seeds, layout)
    places, lengths, notes = _places(found)
    reader = _From(found, places, layout)
    _check_shortest(seeds, layout, places, reader)
    total = sum(map(layout.count, places))
    for note in [f"{total:,} windows of {len(places):,} {found.kind}", *notes, *_lengths(seeds, layout, places)]:
        reporter.say(note)
    facts = about(seeds, found, what="scan", layout=[layout.window, layout.step])
    with Part(out, facts, seeds.width) as part:
        fill(part, seeds, reader, total, reporter.say)
        skipped = part.reasons()[WITHOUT_LETTERS]
        first_rows = np.cumsum([0, *map(layout.count, places)])
        order = sorted(range(len(places)), key=lambda number: (places[number].name, places[number].start))

        def values(number: int) -> Callable[[int, int], np.ndarray]:
            return lambda first, count: part.read(int(first_rows[number]) + first, count)[:, 1 + column]

        def segments() -> Iterator[Segment]:
            for number in order:
                place = places[number]
                yield from tracks.segments(place, layout.starts(place), layout.window, values(number))

        tracks.write(out, dict(sorted(lengths.items())), segments())
        count = 0
        if peaks is not None:
            count = tracks.write_peaks(peaks, tracks.peaks(segments(), threshold))
    said = [f"{skipped:,} windows of N alone were skipped"] if skipped else []
    return Scanned(total - skipped, skipped, count, said)


def _column(seeds: Seeds, of_class: str) -> int:
    classes = seeds.first.classes
    if of_class:
        if of_class not in classes:
            raise UnknownName(f"class {of_class!r}: the run's are {', '.join(classes)[:200]}; name one of them")
        return classes.index(of_class)
    if len(classes) > 2 or (len(classes) == 2 and seeds.first.kind != CLASSIFICATION):
        raise UserError(f"scan: a track holds one of {', '.join(classes)[:200]}; say which with --class")
    return len(classes) - 1


def _check_window(seeds: Seeds, layout: Layout) -> None:
    limit = seeds.first.adapter.max_length
    if limit is not None and layout.window > limit:
        raise UserError(f"scan: windows of {layout.window:,} nt, but {seeds.first.run.name} takes at most {limit:,}")


def _check_shortest(seeds: Seeds, layout: Layout, places: Sequence[Stretch], reader: _From) -> None:
    """Ask the model to take a window of the usual length, and the shortest one that there is."""
    shortest = min(places, key=lambda place: place.end - place.start)
    for size in {layout.window, min(layout.window, shortest.end - shortest.start)}:
        try:
            seeds.first.adapter.collate([Window("ACGT" * (size // 4) + "ACGT"[: size % 4])])
        except HarnessError as error:
            raise UserError(f"{shortest.where if size < layout.window else 'scan'}: {error}") from None


def _lengths(seeds: Seeds, layout: Layout, places: Sequence[Stretch]) -> list[str]:
    """Sentences on windows unlike those of training, and on what does not fit the layout."""
    low, high = seeds.first.kept.lengths
    short = sum(place.end - place.start < layout.window for place in places)
    flush = sum(map(layout.flush, places))
    notes = [f"the last window of {flush:,} is flush with the end, less than a step after the one before"] if flush else []
    if not low <= layout.window <= high:
        trained = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        notes.insert(0, f"windows of {layout.window:,} nt, but those of training had {trained}")
    return [*notes, *([f"{short:,} are shorter than a window, and are one window each"] if short else [])]


# --- what is scanned ----------------------------------------------------------------------------------------------------


def _places(found: Input) -> tuple[list[Stretch], dict[str, int], list[str]]:
    """The stretches in the order of the input, the lengths of their tracks, and sentences for the user."""
    if found.kind == INTERVALS:
        assert found.genome is not None
        found.notes.clear()
        places, lengths, notes = _joined(found.intervals(LONGEST_LOCUS), Genome(found.genome))
        return places, lengths, [*notes, *found.notes]
    places = [Stretch(entry.id, 0, len(entry.windows[0]), ".", entry.where) for entry in found]
    lengths = {place.name: place.end for place in places}
    if len(lengths) < len(places):
        name, count = Counter(place.name for place in places).most_common(1)[0]
        raise BadData(f"{found.paths[0]}: {count} sequences are named {name[:80]!r}; a track needs a name of its own")
    if odd := next((place for place in places if re.search(r"\s", place.name)), None):
        raise BadData(f"{odd.where}: a track's name has no blanks; change {odd.name[:80]!r}")
    changed = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in found.changes.items() if count)
    return places, lengths, [*([f"counted: {changed}"] if changed else []), *found.notes]


def _joined(intervals: Iterable[Placed], genome: Genome) -> tuple[list[Stretch], dict[str, int], list[str]]:
    """Intervals without overlaps, in the order of the genome's coordinates, under the first name of their chromosome."""
    ends, names = genome.ends, dict[str, str]()
    places, outside, nucleotides = list[Stretch](), 0, 0
    for interval in intervals:
        locus, chromosome = interval.locus, bare(interval.locus.chromosome)
        name, end = names.setdefault(chromosome, locus.chromosome), ends.get(chromosome)
        if end is None:
            raise BadData(f"{interval.where}: {genome.path} has no chromosome {locus.chromosome!r:.80}; is it another assembly?")
        nucleotides, outside = nucleotides + locus.end - locus.start, outside + max(locus.end - max(end, locus.start), 0)
        if locus.start < end:
            places.append(Stretch(name, locus.start, min(locus.end, end), locus.strand, interval.where))
    check_outside(genome, outside, nucleotides)
    places.sort(key=lambda place: (place.name, place.start, place.end))
    joined: list[Stretch] = []
    for place in places:
        last = joined[-1] if joined else None
        if last is None or last.name != place.name or last.end <= place.start:
            joined.append(place)
        elif last.strand != place.strand:
            raise UserError(
                f"{place.where}: overlaps with {last.where.rpartition(', ')[2]} on the other strand; a track has one value a "
                "position, so give each strand a file of its own"
            )
        else:
            joined[-1] = last._replace(end=max(last.end, place.end))
    notes = [f"{len(places) - len(joined):,} intervals overlap with others, and are joined"] if len(joined) < len(places) else []
    notes += [f"{outside:,} nucleotides of the intervals lie off the genome, and are left out"] if outside else []
    return joined, {name: ends[chromosome] for chromosome, name in names.items()}, notes


class _From:
    """The questions of all stretches, in their order: letters from the input itself, or from its genome."""

    def __init__(self, found: Input, places: Sequence[Stretch], layout: Layout) -> None:
        self.found, self.places, self.layout = found, places, layout

    def __iter__(self) -> Iterator[Question]:
        if self.found.kind == INTERVALS:
            assert self.found.genome is not None
            genome = Genome(self.found.genome)
            for place in self.places:
                yield from self._of_genome(genome, place)
        else:
            for place, entry in zip(self.places, self.found, strict=True):
                letters = entry.windows[0].sequence
                for start in self.layout.starts(place).tolist():
                    yield self._question(place, start, letters[start : start + self.layout.window], None)

    def _of_genome(self, genome: Genome, place: Stretch) -> Iterator[Question]:
        starts = self.layout.starts(place)
        for some in np.split(starts, range(TOGETHER, len(starts), TOGETHER)):
            first, last = int(some[0]), min(int(some[-1]) + self.layout.window, place.end)
            letters = genome.sequence(Locus(place.name, first, last))
            for start in some.tolist():
                text = letters[start - first : start - first + self.layout.window]
                locus = Locus(place.name, start, start + len(text), place.strand)
                yield self._question(place, start, reverse_complement(text) if place.strand == "-" else text, locus)

    @staticmethod
    def _question(place: Stretch, start: int, letters: str, locus: Locus | None) -> Question:
        if not letters.strip("N"):
            return WITHOUT_LETTERS
        return Example(f"{place.name}:{start}", (Window(letters, locus),), 0)
