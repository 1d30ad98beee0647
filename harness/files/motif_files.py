"""Files of known motifs: MEME, JASPAR and ATtRACT; or plain lists of their letters."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from harness.errors import BadData

from .text import text_lines

EXPECTED = "motifs in MEME or JASPAR format, or ATtRACT's pwm.txt"
EXPECTED_WORDS = "a list of motifs in letters of RNA, one a line, or matrices in MEME or JASPAR format"
ATTRACT_NAMES = "ATtRACT_db.txt"  # beside pwm.txt; says which protein a matrix is of
SHORTEST_WORD = 4  # nt that are left of a matrix; no motif of ATtRACT's and SpliceAid's lists is shorter
MAX_SUM_ERROR = 0.05  # by which a column of probabilities may miss 1: files print two or three digits
Numbered = tuple[int, str]
_MATRICES = ("MEME version", ">", "Gene_name\t")  # how a file begins that is no list of words


@dataclass(frozen=True, eq=False)
class Motif:
    """A position weight matrix: ``pwm`` (width, 4) has the probabilities of A, C, G and T. ``sites`` it was made of, if known."""

    name: str
    pwm: np.ndarray
    sites: int | None = None

    @property
    def consensus(self) -> str:
        """Its most probable letters; lower case where none has half of the probability."""
        best = self.pwm.argmax(axis=1)
        return "".join("ACGT"[i] if row[i] >= 0.5 else "acgt"[i] for i, row in zip(best, self.pwm, strict=True))

    @property
    def information(self) -> np.ndarray:
        """Bits of each column (width,), against equally frequent letters."""
        logs = np.log2(np.where(self.pwm > 0, self.pwm, 1))
        return 2 + (self.pwm * logs).sum(axis=1)


def read_motifs(path: Path) -> list[Motif]:
    """The motifs of a file, in its order; which format it has is found out from its content.

    MEME: ``MOTIF`` lines with a ``letter-probability matrix`` of ACGT or ACGU. JASPAR: ``>ID name``, and four lines of counts,
    with or without ``A [ ]``. ATtRACT: ``pwm.txt``; with ``ATtRACT_db.txt`` beside it, motifs are named by their protein and
    organism. Of a JASPAR matrix, counts become probabilities.

    Raises:
        BadData: it is none of these, or damaged; the message names the line.
    """
    lines = [(number, line) for number, line in enumerate(text_lines(path, EXPECTED), start=1) if line.strip()]
    first = lines[0][1]
    if first.startswith("MEME version"):
        motifs = list(_meme(path, lines))
    elif first.startswith("Gene_name\t"):
        raise BadData(f"{path}: the table of ATtRACT's proteins; give the matrices, pwm.txt, and leave it beside them")
    elif first.startswith(">"):
        names = _attract_names(path.with_name(ATTRACT_NAMES))
        motifs = [_matrix(path, record, names) for record in _records(lines)]
    else:
        raise BadData(f"{path}, line {lines[0][0]}: {first[:40]!r}; expected {EXPECTED}")
    if not motifs:
        raise BadData(f"{path}: holds no motif; expected {EXPECTED}")
    return motifs


def read_words(path: Path) -> tuple[list[str], list[str]]:
    """The motifs of a file as distinct words over ACGUT, upper case, in its order; and sentences on what was left out.

    A file of matrices is as for :func:`read_motifs`; any other is a list, one word a line, without lines that begin with #. A
    matrix becomes its consensus: the letters that have at least half of the probability. Where positions have no such letter,
    the longest stretch between them is taken. A motif is left out if this has fewer than SHORTEST_WORD letters, or if a word
    has a letter that is none of ACGUT.

    Raises:
        BadData: the file cannot be read, or no motif is left; the message counts the letters that are none of ACGUT.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text_lines(path, EXPECTED_WORDS), start=1) if line.strip()]
    lines = [it for it in lines if not it[1].startswith("#")] or lines
    words, notes = _consensuses(path) if lines[0][1].startswith(_MATRICES) else _listed(path, lines)
    return list(dict.fromkeys(words)), [f"{path.name}: {note}" for note in notes]


def _consensuses(path: Path) -> tuple[list[str], list[str]]:
    motifs, notes = read_motifs(path), []
    found = [max(re.split("[a-z]+", motif.consensus), key=len) for motif in motifs]
    words = [word for word in found if len(word) >= SHORTEST_WORD]
    clear = f"{SHORTEST_WORD} neighbouring positions with a letter of probability 0.5 or more"
    if not words:
        raise BadData(f"{path}: none of its {len(motifs):,} matrices has {clear}; give others, or a list of motifs, one a line")
    if left_out := len(found) - len(words):
        notes.append(f"{left_out:,} of {len(found):,} matrices are left out: they lack {clear}")
    if shortened := sum(SHORTEST_WORD <= len(word) < len(motif.pwm) for word, motif in zip(found, motifs, strict=True)):
        notes.append(f"{shortened:,} of {len(found):,} matrices are shortened to their longest stretch of such positions")
    return words, notes


def _listed(path: Path, lines: Sequence[Numbered]) -> tuple[list[str], list[str]]:
    found = [line.upper() for _, line in lines]
    words = [word for word in found if not word.strip("ACGUT")]
    wrong = Counter(letter for word in found for letter in word if letter not in "ACGUT")
    if not words:
        raise BadData(
            f"{path}: none of its {len(found):,} lines is a motif: {wrong.total():,} of {sum(map(len, found)):,} letters clash "
            f"with ACGU and T (line {lines[0][0]}: {lines[0][1][:40]!r}); expected {EXPECTED_WORDS}"
        )
    if left_out := len(found) - len(words):
        shown = "".join(sorted(wrong))[:20]
        return words, [
            f"{left_out:,} of {len(found):,} motifs are left out: {wrong.total():,} letters clash with ACGU and T ({shown})"
        ]
    return words, []


def write_meme(path: Path, motifs: Iterable[Motif]) -> None:
    """Write motifs in MEME's minimal format, version 4."""
    parts = ["MEME version 4\n\nALPHABET= ACGT\n\nstrands: + -\n\nBackground letter frequencies\nA 0.25 C 0.25 G 0.25 T 0.25\n"]
    for motif in motifs:
        rows = "".join(" ".join(f"{value:.6f}" for value in row) + "\n" for row in motif.pwm)
        sites = "" if motif.sites is None else f" nsites= {motif.sites}"
        parts.append(f"MOTIF {motif.name}\nletter-probability matrix: alength= 4 w= {len(motif.pwm)}{sites}\n{rows}")
    path.write_text("\n".join(parts), encoding="utf-8")


# --- MEME ----------------------------------------------------------------------------------------------------------------


def _meme(path: Path, lines: Sequence[Numbered]) -> Iterator[Motif]:
    rest = iter(lines)
    name, named = "", 0
    for number, line in rest:
        if line.startswith("ALPHABET"):
            letters = line.partition("=")[2].strip()
            if letters and letters not in ("ACGT", "ACGU"):
                raise BadData(f"{path}, line {number}: alphabet {letters[:30]!r}; expected ACGT or ACGU")
        elif line.startswith("MOTIF"):
            name, named = " ".join(line.split()[1:]), number
            if not name:
                raise BadData(f"{path}, line {number}: a motif without a name")
        elif line.startswith("letter-probability matrix"):
            if not name:
                raise BadData(f"{path}, line {number}: a matrix without a MOTIF line before it")
            if (width := re.search(r"\bw=\s*(\d+)", line)) is None:
                raise BadData(f"{path}, line {number}: the matrix of {name[:40]!r} does not say its width, as w= 8")
            rows = [(at, _numbers(path, at, row)) for at, row in islice(rest, int(width[1]))]
            sites = re.search(r"\bnsites=\s*(\d+)", line)
            yield _motif(path, number, name, rows, int(width[1]), int(sites[1]) if sites else None)
            name = ""
    if name:
        raise BadData(f"{path}, line {named}: motif {name[:40]!r} has no letter-probability matrix")


# --- JASPAR and ATtRACT --------------------------------------------------------------------------------------------------


def _records(lines: Iterable[Numbered]) -> Iterator[list[Numbered]]:
    """The lines of each record, of which the first begins with ``>``."""
    record: list[Numbered] = []
    for number, line in lines:
        if line.startswith(">") and record:
            yield record
            record = []
        record.append((number, line))
    yield record


def _matrix(path: Path, record: Sequence[Numbered], names: dict[str, str]) -> Motif:
    """A record of either format: ATtRACT's header ends with the number of rows of four; else four rows are four letters."""
    (number, header), *rows = record
    fields = header[1:].split()
    if not fields:
        raise BadData(f"{path}, line {number}: a matrix without a name")
    if len(fields) == 2 and fields[1] == str(len(rows)) and all(len(row.split()) == 4 for _, row in rows):
        name = names.get(fields[0], fields[0])
        return _motif(path, number, name, [(at, _numbers(path, at, row)) for at, row in rows], len(rows), None)
    if len(rows) != 4:
        raise BadData(
            f"{path}, line {number}: {len(rows)} lines below {header[:40]!r}; expected four, of the counts of A, C, G, T"
        )
    counts = []
    for letter, (at, row) in zip("ACGT", rows, strict=True):
        found = re.fullmatch(r"\s*(?:([A-Za-z])\s*)?\[?([^\[\]]*)\]?\s*", row)
        if found is None or (found[1] and found[1].upper().replace("U", "T") != letter):
            raise BadData(f"{path}, line {at}: {row[:40]!r}; expected the counts of {letter}")
        counts.append(_numbers(path, at, found[2]))
    if len({len(row) for row in counts}) > 1 or not counts[0]:
        raise BadData(f"{path}, line {number}: the four lines below {header[:40]!r} have {[len(row) for row in counts]} numbers")
    matrix = np.array(counts).T
    if (matrix < 0).any() or not (matrix.sum(axis=1) > 0).all():
        raise BadData(f"{path}, line {number}: counts of {header[:40]!r} are negative, or a column has none")
    return Motif(" ".join(fields), matrix / matrix.sum(axis=1, keepdims=True))


def _attract_names(path: Path) -> dict[str, str]:
    """Matrix → ``protein matrix (organism)`` of ATtRACT's table; empty where it is not there."""
    if not path.exists():
        return {}
    names = dict[str, str]()
    table = csv.DictReader(text_lines(path, "ATtRACT's table of proteins"), delimiter="\t", quoting=csv.QUOTE_NONE)
    if missing := {"Gene_name", "Organism", "Matrix_id"} - set(table.fieldnames or ()):
        raise BadData(f"{path}: has no column {sorted(missing)[0]}; expected ATtRACT's table of proteins")
    for row in table:
        matrix = (row["Matrix_id"] or "").strip()
        names.setdefault(matrix, f"{row['Gene_name']} {matrix} ({row['Organism']})")
    return names


def _numbers(path: Path, number: int, line: str) -> list[float]:
    try:
        found = [float(word) for word in line.split()]
        if not all(map(math.isfinite, found)):
            raise ValueError
    except ValueError:
        raise BadData(f"{path}, line {number}: {line.strip()[:40]!r}; expected numbers") from None
    return found


def _motif(path: Path, number: int, name: str, rows: Sequence[tuple[int, list[float]]], width: int, sites: int | None) -> Motif:
    """A motif of rows of probabilities."""
    if len(rows) != width or width < 1:
        raise BadData(f"{path}, line {number}: {name[:40]!r} has {len(rows)} rows of the {width} that it announces")
    for at, row in rows:
        if len(row) != 4 or min(row) < 0 or abs(sum(row) - 1) > MAX_SUM_ERROR:
            raise BadData(f"{path}, line {at}: {row[:5]}; expected the probabilities of A, C, G and T, whose sum is 1")
    matrix = np.array([row for _, row in rows])
    return Motif(name, matrix / matrix.sum(axis=1, keepdims=True), sites)
