"""How often each n-gram of 1 to k letters occurs in a genome: one pass over blocks of its text, in memory that does not grow.

Numba is imported with this module, so import it on use.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from harness.data import AMBIGUITY_LETTERS
from harness.errors import BadData

from .indexed_fasta import END_OF_BGZIP
from .seeds import compiled
from .sources import Transferred
from .text import BOM, GZIP, gzip_faults, head, may_be_fasta
from .two_bit import SIGNATURES, TwoBit

EXPECTED = "a genome: FASTA (plain, bgzip or gzip) or 2bit"
BLOCK = 1 << 22  # bytes

_NEWLINE, _BLANK, _TITLE, _UNKNOWN, _BAD = range(4, 9)  # what a byte is, if none of the letters 0 to 3
_AT_START, _IN_LETTERS, _IN_TITLE, _AFTER_BLANK = range(4)  # where in a line
_WORD, _RUN, _MODE, _LINES, _TITLED, _RECORDS, _UNKNOWNS, _RUNS = range(8)  # of the state


def _kinds() -> np.ndarray:
    """(256,) uint8: the code of a byte that is a letter, A 0 to T 3, or what else it is."""
    kinds = np.full(256, _BAD, np.uint8)
    for letters, kind in (*((f"{letter}{letter.lower()}", code) for code, letter in enumerate("ACGT")), ("Uu", 3)):
        kinds[list(letters.encode())] = kind
    kinds[list((AMBIGUITY_LETTERS + AMBIGUITY_LETTERS.lower()).encode())] = _UNKNOWN
    kinds[list(b" \t\r")], kinds[ord("\n")], kinds[ord(">")] = _BLANK, _NEWLINE, _TITLE
    return kinds


_KINDS = _kinds()


class Ngrams:
    """Counts the overlapping n-grams of 1 to ``k`` letters A, C, G, T in FASTA text that comes in pieces of any size.

    Lower case counts as upper case and U as T; N and the other ambiguous letters break n-grams, and so do the ends of records.
    An n-gram is numbered by its letters as digits to the base 4, the first letter the highest. Each k-gram is counted where it
    ends; shorter ones are the beginnings of k-grams, besides those within the last k - 1 letters of a run without N, which are
    counted when it ends.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._whole = np.zeros(4**k, np.int64)
        self._tails = np.zeros(_first(k), np.int64)  # of 1 to k - 1 letters, one length after the other
        self._state = np.zeros(8, np.int64)

    def add(self, text: bytes) -> None:
        """Count on in the next piece of the text.

        Raises:
            ValueError: letters that are none, blanks among letters, or text before the first title; the message names the line.
        """
        data = np.frombuffer(text, np.uint8)
        at = _count(data, _KINDS, self.k, self._whole, self._tails, self._state)
        if at >= 0:
            raise ValueError(self._fault(chr(data[at])))

    def end(self) -> None:
        """The text is over; what is added next is another one, with lines from 1."""
        _end_run(self.k, self._tails, self._state)
        self._state[[_MODE, _LINES, _TITLED]] = 0

    def counts(self) -> list[np.ndarray]:
        """For n = 1 to k, how often each n-gram occurs in the texts that ended, int64 (4^n,), in lexicographic order."""
        found = []
        for n in range(1, self.k):
            first = _first(n)
            found.append(self._whole.reshape(4**n, -1).sum(axis=1) + self._tails[first : first + 4**n])
        return [*found, self._whole]

    @property
    def records(self) -> int:
        return int(self._state[_RECORDS])

    @property
    def runs(self) -> int:
        """Stretches without N."""
        return int(self._state[_RUNS])

    @property
    def unknown(self) -> int:
        """N and other ambiguous letters."""
        return int(self._state[_UNKNOWNS])

    def _fault(self, letter: str) -> str:
        line = f"line {self._state[_LINES] + 1}"
        if not self._state[_TITLED]:
            return f"{line}: text before the first line that begins with '>'"
        if self._state[_MODE] == _AFTER_BLANK:
            return f"{line}: a blank within the sequence"
        return f"{line}: {letter!r} is not an IUPAC nucleotide code"


@compiled
def _first(n):
    """Where the counts of n-grams begin in the array of the shorter ones."""
    return (4**n - 4) // 3


@compiled
def _end_run(k, tails, state):
    """Count the n-grams below k letters that no k-gram begins with: those within the last k - 1 letters."""
    if state[_RUN]:
        state[_RUNS] += 1
    length = min(state[_RUN], k - 1)
    for n in range(1, length + 1):
        for start in range(length - n + 1):
            gram = (state[_WORD] >> 2 * (length - n - start)) & (4**n - 1)
            tails[_first(n) + gram] += 1
    state[_RUN] = 0


@compiled
def _count(data, kinds, k, whole, tails, state):
    """Count the k-grams of a piece of text; where it must be refused, or -1. ``state`` takes it to the next piece."""
    mask = 4**k - 1
    word, run, mode = state[_WORD], state[_RUN], state[_MODE]
    refused = -1
    for at in range(len(data)):
        kind = kinds[data[at]]
        if mode == _IN_TITLE:
            if kind == _NEWLINE:
                state[_LINES] += 1
                mode = _AT_START
        elif kind < 4:
            if mode != _IN_LETTERS:
                if mode == _AFTER_BLANK or state[_TITLED] == 0:
                    refused = at
                    break
                mode = _IN_LETTERS
            word = ((word << 2) | kind) & mask
            run += 1
            if run >= k:
                whole[word] += 1
        elif kind == _NEWLINE:
            state[_LINES] += 1
            mode = _AT_START
        elif kind == _BLANK:
            mode = _AFTER_BLANK
        else:
            state[_WORD], state[_RUN] = word, run
            _end_run(k, tails, state)
            run = 0
            if kind == _UNKNOWN and mode != _AFTER_BLANK and state[_TITLED]:
                state[_UNKNOWNS] += 1
                mode = _IN_LETTERS
            elif kind == _TITLE and mode == _AT_START:
                state[_RECORDS] += 1
                state[_TITLED] = 1
                mode = _IN_TITLE
            else:
                refused = at
                break
    state[_WORD], state[_RUN], state[_MODE] = word, run, mode
    return refused


def count_genome(files: Sequence[Path], k: int, progress: Transferred) -> Ngrams:
    """The n-grams of the files of a genome, which are read, and unpacked, in a thread beside the counting.

    Raises:
        BadData: a file is missing, cut, neither FASTA nor 2bit, or has letters that are none.
    """
    grams, blocks = Ngrams(k), _blocks(files, progress)
    with ThreadPoolExecutor(1, thread_name_prefix="harness-ngrams") as reader:
        ahead = reader.submit(next, blocks, None)
        while found := ahead.result():
            ahead = reader.submit(next, blocks, None)
            file, block = found
            try:
                grams.add(block) if block else grams.end()
            except ValueError as error:
                raise BadData(f"{file}, {error}; mend the line, or leave it out") from None
    return grams


def _blocks(files: Sequence[Path], progress: Transferred) -> Iterator[tuple[Path, bytes]]:
    """The files as pieces of FASTA text, an empty one at the end of each."""
    done, total = 0, sum(file.stat().st_size for file in files if file.is_file())
    for file in files:
        for block, read in _text(file):
            yield file, block
            progress(done + read, total)
        yield file, b""
        done += file.stat().st_size


def _text(path: Path) -> Iterator[tuple[bytes, int]]:
    """Pieces of FASTA text, none of them empty, and how many bytes of the file were read until then."""
    start = head(path, EXPECTED)
    if start[:4] in SIGNATURES:
        yield from _two_bit(TwoBit(path))
        return
    packed = start.startswith(GZIP)
    if not may_be_fasta(start):
        raise BadData(f"{path}: neither FASTA (its first line does not begin with '>') nor 2bit")
    with gzip_faults(path), path.open("rb") as file:
        if packed and start[12:14] == b"BC":  # a bgzip file that is cut between blocks is whole gzip, but lacks its last block
            file.seek(max(path.stat().st_size - len(END_OF_BGZIP), 0))
            if file.read() != END_OF_BGZIP:
                raise EOFError
            file.seek(0)
        text = gzip.GzipFile(fileobj=file) if packed else file
        block = text.read(BLOCK).removeprefix(BOM)
        while block:
            yield block, file.tell()
            block = text.read(BLOCK)


def _two_bit(genome: TwoBit) -> Iterator[tuple[bytes, int]]:
    read = 0
    for name, length in genome.lengths.items():
        yield b">\n", read
        for start in range(0, length, BLOCK):
            end = min(start + BLOCK, length)
            read += (end - start) // 4
            yield genome.sequence(name, start, end).encode(), read
        yield b"\n", read
