"""Text files, plain or gzipped, and optional packages: one message for each way in which reading can fail."""

from __future__ import annotations

import gzip
import importlib
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from harness.errors import BadData, UserError

GZIP = b"\x1f\x8b"  # the first bytes of gzip and bgzip files
BOM = b"\xef\xbb\xbf"  # the byte order mark of UTF-8
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # its byte order marks
LONGEST_LINE = 1 << 28  # characters; the longest human chromosome has fewer


def text_lines(path: Path, expected: str) -> Iterator[str]:
    """The lines of a UTF-8 text file, plain, gzipped or bgzipped, without line ends and byte order mark.

    ``expected`` says in messages what the file should have been. The file is read line by line.

    Raises:
        BadData: the file is missing, blank or binary, its gzip stream is cut, or a line is longer than LONGEST_LINE.
    """
    start = head(path, expected)
    if start.startswith(UTF_16):
        raise BadData(f"{path}: UTF-16 text; save it as UTF-8; expected {expected}")
    opener = gzip.open if start.startswith(GZIP) else open
    blank = True
    try:
        with gzip_faults(path), opener(path, "rt", encoding="utf-8-sig") as file:
            while line := file.readline(LONGEST_LINE):
                if "\0" in line:
                    raise _binary(path, expected)
                if len(line) == LONGEST_LINE and not line.endswith("\n"):
                    raise BadData(f"{path}: a line of more than {LONGEST_LINE:,} characters; expected {expected}")
                blank = blank and line.isspace()
                yield line.rstrip("\r\n")
    except UnicodeDecodeError:
        raise _binary(path, expected) from None
    if blank:
        raise _empty(path, expected)


def head(path: Path, expected: str) -> bytes:
    """The first 64 bytes of a file.

    Raises:
        BadData: the file is missing, empty, a pipe or a device, or cannot be read.
    """
    try:
        mode = os.stat(path).st_mode  # to open a pipe could wait for ever
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise BadData(f"{path}: a pipe or device, which cannot be read twice; save it as a file")
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        raise BadData(f"{path}: no such file; expected {expected}") from None
    except ValueError:  # a NUL in the name
        raise BadData(f"{str(path)!r}: no file can have this name; expected {expected}") from None
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror}); expected {expected}") from None
    if not start:
        raise _empty(path, expected)
    return start


def may_be_fasta(start: bytes) -> bool:
    """Whether a file that begins like this (see :func:`head`) is gzipped, or FASTA as far as its first line tells."""
    return start.startswith(GZIP) or start.removeprefix(BOM).lstrip().startswith(b">")


@contextmanager
def gzip_faults(path: Path) -> Iterator[None]:
    """Report a gzip stream that turns out to be damaged within the block as BadData."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise BadData(f"{path}: the gzip stream is cut or damaged; copy or download the file again") from None


def fasta_records(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Title (without ``>``) and letters of each FASTA record; lines before the first one are skipped."""
    title, letters = None, []
    for line in lines:
        if line.startswith(">"):
            if title is not None:
                yield title, "".join(letters)
            title, letters = line[1:].strip(), []
        else:
            letters.append(line.strip())
    if title is not None:
        yield title, "".join(letters)


def printable(text: str) -> str:
    """The text with control characters escaped, so that a terminal shows it and does not obey it."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def optional(module: str, reads: str) -> ModuleType:
    """Import a package of the extra ``variants``; ``reads`` names in the message what needs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{reads} needs the package {module}: pip install 'gfm-harness[variants]'") from None


def _empty(path: Path, expected: str) -> BadData:
    return BadData(f"{path}: the file is empty; expected {expected}")


def _binary(path: Path, expected: str) -> BadData:
    return BadData(f"{path}: a binary file; expected {expected}")
