"""Windows and intervals as files hold them, with the grammar of letters, labels, parts and loci that all formats share."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from harness.data import ALPHABET, AMBIGUITY_LETTERS, Locus, Window, normalise
from harness.errors import BadData

from .parts import part_of
from .table import whole

MISSING = (".", "none", "nan", "na", "n/a", "#n/a", "<na>", "null")
MIN_SHARED = 4  # letters that k-mers of a window share, from which on they overlap and do not only seem to
MAX_DIGITS = 15  # of whole numbers: labels and positions

_LOCUS = (
    re.compile(r"(?:.*::)?(?P<chromosome>[\w.]+):(?P<start>\d+)-(?P<end>\d+)(?:\((?P<strand>[+-])\))?"),  # bedtools getfasta
    re.compile(r"(?P<chromosome>[\w.]+),(?P<strand>[+-]),(?P<start>\d+),(?P<end>\d+)"),  # iDeepS, DeepBind-style lists
)


class Record(NamedTuple):
    """A window as the file has it. ``label`` is the file's own word, or one for each of several label columns; None where the
    file has no label.

    ``place`` is the interval that the file gives it, even where that is not as long as the sequence (1-based, say), and so
    is no locus: it shows which windows overlap. ``part`` is ``train``, ``validation`` or ``test`` where the file says so, and
    ``where`` is the record's place in the file, for messages.
    """

    id: str
    window: Window
    label: str | tuple[str, ...] | None
    place: Locus | None = None
    part: str = ""
    where: str = ""


class Interval(NamedTuple):
    """A row of a table that has a locus and no letters; otherwise as :class:`Record`."""

    id: str
    locus: Locus
    label: str | tuple[str, ...] | None
    part: str = ""
    where: str = ""


Row = TypeVar("Row", Record, Interval)


class Found(NamedTuple, Generic[Row]):
    """The records of a file, and the names of the columns that hold their labels (none in FASTA)."""

    records: list[Row]
    label_columns: tuple[str, ...]


def part_in(where: str, word: str) -> str:
    """The part that a record belongs to, in a file that says it of others."""
    if not (part := part_of(word)):
        said = f"the split says {word[:40]!r}, which is" if word else "its split is empty,"
        raise BadData(f"{where}: {said} none of train, validation and test; correct or delete it")
    return part


def is_missing(label: str) -> bool:
    """Whether a field for a label holds none."""
    return not label or label.lower() in MISSING


def label_in(where: str, label: str) -> str:
    if is_missing(label):
        raise BadData(f"{where}: no label ({label!r}); fill it in or delete the line")
    if not label.isprintable():
        raise BadData(f"{where}: label {label[:40]!r} has control characters; remove them")
    return whole(unicodedata.normalize("NFC", label))  # one spelling of accents


class Letters:
    """Makes the windows of one file, which are all written alike: in one piece, or as k-mers cut at every so many letters.

    What k-mers overlap by is decided by the first window that is written so, and holds for all others.
    """

    def __init__(self, path: Path, changes: Counter[str]) -> None:
        self.path, self.changes = path, changes
        self.k = self.stride = 0  # of windows that are written as k-mers
        self.fitting: set[int] = set()  # strides that undo every window so far
        self.undone = 0
        self.mixed = False
        self.pieces: set[int] = set()  # lengths of the windows in one piece

    def window(self, where: str, letters: str, place: Locus | None) -> Window:
        words = letters.split()
        if not words:
            raise BadData(f"{where}: no sequence; delete the record or complete it")
        if words[0].lower() in MISSING:
            raise BadData(f"{where}: no sequence, but {words[0]!r}; delete the record or complete it")
        if len(words) == 1:
            self.pieces.add(len(letters))
        text = self._joined(where, words) if len(words) > 1 else words[0]
        try:
            sequence = normalise(text, self.changes)
        except BadData as error:
            raise BadData(f"{where}: {error}; expected DNA or RNA without gaps") from None
        if "N" in sequence and 2 * sum(map(text.upper().count, AMBIGUITY_LETTERS[:-1])) > len(text):
            raise BadData(f"{where}: most letters are ambiguity codes, neither {ALPHABET} nor U; is this a protein?")
        if len(text) > 1 and sequence.count(sequence[0]) == len(sequence):
            self.changes["without_letters" if sequence[0] == "N" else "one_letter"] += 1
        return Window(sequence, place if place is not None and place.end - place.start == len(sequence) else None)

    def _joined(self, where: str, words: Sequence[str]) -> str:
        k = len(words[0])
        alike = all(len(word) == k for word in words[:-1])
        fitting = {
            stride
            for stride in range(1, k)
            if alike and len(words[-1]) == k and all(last[stride:] == word[: k - stride] for last, word in pairwise(words))
        }
        fitting |= {k} if alike and len(words[-1]) <= k else set()
        if not fitting:
            raise BadData(f"{where}: blanks within the sequence, which is not of k-mers at even distances; remove them")
        if not self.k:
            self.k, self.fitting = k, fitting
            shared = (len(words) - 1) * (k - min(fitting))
            self.stride = min(fitting) if shared >= MIN_SHARED else max(fitting)
        self.mixed = self.mixed or k != self.k or self.stride not in fitting
        self.fitting &= fitting
        self.undone += 1
        return words[0] + "".join(word[k - self.stride :] if k >= self.stride else word for word in words[1:])

    def check(self, notes: list[str]) -> None:
        """Refuse a file in which not all windows are written alike."""
        if not self.k:
            return
        alone = {self.k} if self.stride < self.k else set(range(1, self.k + 1))  # windows of a single k-mer
        if self.mixed or self.pieces - alone:
            raise BadData(f"{self.path}: some sequences are written as k-mers, some otherwise; write all of them in one piece")
        if min(self.fitting) < self.stride:
            raise BadData(f"{self.path}: k-mers that may or may not overlap; write the sequences in one piece")
        form = {self.k: f"adjoining {self.k}-mers", 1: f"overlapping {self.k}-mers"}
        written = form.get(self.stride, f"{self.k}-mers at every {self.stride} letters")
        self.changes["kmers_undone"] += self.undone
        notes.append(f"{self.path.name}: sequences of {written} are read as the windows that these were cut from")


def place_in(name: str) -> Locus | None:
    """The interval in a record's name: ``chr1:100-200(+)`` (+ if no strand is given) or ``chr1,+,100,200``.

    It is read as 0-based and half-open, and becomes the window's locus only if its length is the sequence's: a 1-based
    interval is one short, and nothing tells which end to move.
    """
    for pattern in _LOCUS:
        if (found := pattern.fullmatch(name)) and max(len(found["start"]), len(found["end"])) <= MAX_DIGITS:
            return Locus(found["chromosome"], int(found["start"]), int(found["end"]), found["strand"] or "+")
    return None
