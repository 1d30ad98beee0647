"""Windows and intervals as files hold them, with the grammar of letters, labels, parts and loci that all formats share."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from harness.data import ALPHABET, AMBIGUITY_LETTERS, Locus, Window, normalise
from harness.errors import BadData

from .table import whole

PARTS = {  # how people call the parts of a split
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout", "heldout"), "test"),
}
MISSING = (".", "none", "nan", "na", "n/a", "#n/a", "<na>", "null")
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


def part_of(word: str) -> str:
    """The part of a split that a word means, in any of its usual spellings; empty for another word."""
    return PARTS.get(re.sub(r"[\W_]*(set|split)?$", "", word.strip().lower()), "")


def part_in(where: str, word: str) -> str:
    """The part that a record belongs to, in a file that says it of others."""
    if not (part := part_of(word)):
        said = f"the split says {word[:40]!r}, which is" if word else "its split is empty,"
        raise BadData(f"{where}: {said} none of train, validation and test; correct or delete it")
    return part


def label_in(where: str, label: str) -> str:
    if not label or label.lower() in MISSING:
        raise BadData(f"{where}: no label ({label!r}); fill it in or delete the line")
    if not label.isprintable():
        raise BadData(f"{where}: label {label[:40]!r} has control characters; remove them")
    return whole(unicodedata.normalize("NFC", label))  # one spelling of accents


class Letters:
    """Makes the windows of one file, which are all written alike: in one piece, or as k-mers, overlapping or not."""

    def __init__(self, path: Path, changes: Counter[str]) -> None:
        self.path, self.changes = path, changes
        self.forms: Counter[tuple[str, int]] = Counter()  # how the windows of k-mers are written, and k
        self.pieces: set[int] = set()  # lengths of the windows in one piece

    def window(self, where: str, letters: str, place: Locus | None) -> Window:
        words = letters.split()
        if not words:
            raise BadData(f"{where}: no sequence; delete the record or complete it")
        if words[0].lower() in MISSING:
            raise BadData(f"{where}: no sequence, but {words[0]!r}; delete the record or complete it")
        if len(words) == 1:
            self.pieces.add(len(letters))
        elif all(len(word) == len(words[0]) and last[1:] == word[:-1] for last, word in pairwise(words)):
            self.forms["overlapping", len(words[0])] += 1
            words = [words[0], *(word[-1] for word in words[1:])]
        elif len({len(word) for word in words[:-1]}) == 1 and len(words[-1]) <= len(words[0]):
            self.forms["adjoining", len(words[0])] += 1
        else:
            raise BadData(f"{where}: blanks within the sequence, which is not of k-mers in a row; remove them")
        text = "".join(words)
        try:
            sequence = normalise(text, self.changes)
        except BadData as error:
            raise BadData(f"{where}: {error}; expected DNA or RNA without gaps") from None
        if "N" in sequence and 2 * sum(map(text.upper().count, AMBIGUITY_LETTERS[:-1])) > len(text):
            raise BadData(f"{where}: most letters are ambiguity codes, neither {ALPHABET} nor U; is this a protein?")
        if len(text) > 1 and sequence.count(sequence[0]) == len(sequence):
            self.changes["without_letters" if sequence[0] == "N" else "one_letter"] += 1
        return Window(sequence, place if place is not None and place.end - place.start == len(sequence) else None)

    def check(self, notes: list[str]) -> None:
        """Refuse a file in which not all windows are written alike."""
        if not self.forms:
            return
        (form, length), count = self.forms.most_common(1)[0]
        alone = {length} if form == "overlapping" else set(range(1, length + 1))  # windows of a single k-mer
        if len(self.forms) > 1 or self.pieces - alone:
            raise BadData(f"{self.path}: some sequences are written as k-mers, some otherwise; write all of them in one piece")
        self.changes["kmers_undone"] += count
        notes.append(f"{self.path.name}: sequences of {form} {length}-mers are read as the windows that these were cut from")


def place_in(name: str) -> Locus | None:
    """The interval in a record's name: ``chr1:100-200(+)`` (+ if no strand is given) or ``chr1,+,100,200``.

    It is read as 0-based and half-open, and becomes the window's locus only if its length is the sequence's: a 1-based
    interval is one short, and nothing tells which end to move.
    """
    for pattern in _LOCUS:
        if (found := pattern.fullmatch(name)) and max(len(found["start"]), len(found["end"])) <= MAX_DIGITS:
            return Locus(found["chromosome"], int(found["start"]), int(found["end"]), found["strand"] or "+")
    return None
