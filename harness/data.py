"""The values that pass from tasks to adapters (Locus, Window, Example), and the normalisation of letters.

Sequences are 5'→3' and in upper-case DNA letters ``ACGTN`` everywhere; adapters of RNA models convert them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import BadData

if TYPE_CHECKING:
    import numpy as np  # otherwise imported on use, so that listing tasks is quick

ALPHABET = "ACGTN"
AMBIGUITY_LETTERS = "RYSWKMBDHVN"

# What an example is labelled with, by the kind of its task (see :data:`harness.task.KINDS`): the index of its class, a number,
# or a 0 or 1 for each of the task's labels.
Label = int | float | tuple[int, ...]

_TO_DNA = str.maketrans("Uu" + AMBIGUITY_LETTERS + AMBIGUITY_LETTERS.lower(), "Tt" + "N" * 22)
_COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


@dataclass(frozen=True, slots=True)
class Locus:
    """An interval of a genome, 0-based and half-open. The assembly is a property of the task."""

    chromosome: str
    start: int
    end: int
    strand: str = "+"


def bare(chromosome: str) -> str:
    """A chromosome's name without ``chr``; the mitochondrion is M."""
    name = chromosome[3:] if chromosome[:3].lower() == "chr" else chromosome
    return "M" if name == "MT" else name


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A stretch of sequence that a model reads.

    ``alignment`` is a uint8 array (rows, length) of ASCII letters ``ACGTN-`` whose row 0 is ``sequence`` itself.

    Raises:
        BadData: the sequence is empty or has letters other than ``ACGTN`` (see :func:`normalise`), or the alignment has
            another dtype, shape or row 0.
    """

    sequence: str
    locus: Locus | None = None
    alignment: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.sequence or self.sequence.strip(ALPHABET):
            raise BadData(
                f"window {self.sequence[:20]!r}: expected one or more of the letters {ALPHABET}; normalise() makes them"
            )
        if self.alignment is not None:
            rows = self.alignment
            if rows.dtype != "uint8" or rows.ndim != 2 or rows[0].tobytes() != self.sequence.encode():
                raise BadData(
                    f"alignment {rows.dtype} {rows.shape}: expected uint8 (rows, {len(self.sequence)}) with the window as row 0"
                )

    def __len__(self) -> int:
        return len(self.sequence)


@dataclass(frozen=True, slots=True)
class Example:
    """One window, or two (reference, alternate) for a variant, and its label.

    ``changed`` holds the first and one past the last of the letters that a variant changes: as many as the longer allele has, at
    the same place in both windows. None where the windows differ in one letter, which says it.
    """

    id: str
    windows: tuple[Window, ...]
    label: Label
    changed: tuple[int, int] | None = None


def normalise(sequence: str, changes: Counter[str]) -> str:
    """A sequence in any usual spelling, as upper-case ``ACGTN``; the letters changed are counted in ``changes``.

    U becomes T (``u_to_t``), lower case becomes upper case (``lower_case``), IUPAC ambiguity letters become N
    (``ambiguity_to_n``).

    Raises:
        BadData: a letter that is not an IUPAC nucleotide code.
    """
    upper = sequence.upper()
    clean = upper.translate(_TO_DNA)
    if not sequence.isascii():  # upper() makes S, an IUPAC code, of some letters of other alphabets
        clean = "".join(letter for letter in sequence if not letter.isascii())
    if clean.strip(ALPHABET):
        bad = sorted(set(clean) - set(ALPHABET))
        raise BadData(f"letters {''.join(bad)[:20]!r} are not IUPAC nucleotide codes")
    if upper != sequence:
        changes["lower_case"] += sum(a != b for a, b in zip(sequence, upper, strict=True))
    if clean != upper:
        changes["u_to_t"] += upper.count("U")
        changes["ambiguity_to_n"] += sum(upper.count(letter) for letter in AMBIGUITY_LETTERS[:-1])
    return clean


def reverse_complement(sequence: str) -> str:
    """The opposite strand of an upper-case ``ACGTN`` sequence, 5'→3'."""
    return sequence.translate(_COMPLEMENT)[::-1]


def letter_table(codes: dict[str, int], default: int) -> np.ndarray:
    """An int64 array (256,) that maps ASCII letters to ``codes``: ``table[np.frombuffer(sequence.encode(), np.uint8)]``."""
    import numpy as np

    table = np.full(256, default, np.int64)
    for letter, code in codes.items():
        table[ord(letter)] = code
    return table


def letters(windows: Sequence[Window], fill: str = "N") -> np.ndarray:
    """The windows' letters as ASCII codes, uint8 (windows, longest length), right-padded with ``fill``."""
    import numpy as np

    longest = max(len(window) for window in windows)
    text = "".join(window.sequence.ljust(longest, fill) for window in windows)
    return np.frombuffer(text.encode(), np.uint8).reshape(len(windows), longest)
