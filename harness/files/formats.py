"""Whether a downloaded file is, by its first and last bytes and its own sizes, what its name says."""

from __future__ import annotations

import codecs
import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_TEXT = 4096  # bytes of a text file that are looked at


def fault(path: Path, name: str) -> str:
    """What is wrong with a file that is to be called ``name``; empty if nothing is seen to be.

    2bit, Parquet and gzip files are found out wherever they are cut, bigWig files at either end, text only by its beginning.
    """
    size = path.stat().st_size
    if not size:
        return "it is empty"
    with path.open("rb") as file:
        head = file.read(_TEXT)
        if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
            return "it is a web page"
        file.seek(0)
        check = _CHECKS.get(Path(name).suffix.lower(), _any)
        try:
            return check(file, size)
        except (struct.error, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            return f"it is damaged or cut ({error})"


def _any(file: BinaryIO, size: int) -> str:
    return ""


def _text(file: BinaryIO, size: int) -> str:
    head = file.read(_TEXT)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # which waits for the rest of a letter that is cut
    except UnicodeDecodeError:
        return "it is not text"
    return "it is not text" if b"\0" in head else ""


def _two_bit(file: BinaryIO, size: int) -> str:
    """https://genome.ucsc.edu/FAQ/FAQformat.html#format7; the last sequence must end where the file does."""
    magic = file.read(4)
    order = {b"\x43\x27\x41\x1a": "<", b"\x1a\x41\x27\x43": ">"}.get(magic)
    if order is None:
        return "it is not a 2bit file"

    def number(form: str = "I") -> int:
        return struct.unpack(order + form, file.read(struct.calcsize(form)))[0]

    version, count, _ = number(), number(), number()
    if version not in (0, 1) or count > size:
        return "it is not a 2bit file"
    last = 0
    for _ in range(count):
        file.seek(number("B"), 1)
        last = max(last, number("Q" if version else "I"))
    file.seek(last)
    length = number()
    for _ in range(2):  # blocks of N, and of lower case
        file.seek(8 * number(), 1)
    end = file.tell() + 4 + -(-length // 4)
    return "" if end == size else f"it has {size:,} bytes, but its last sequence ends at {end:,}"


def _big_wig(file: BinaryIO, size: int) -> str:
    """Kent et al. 2010, doi 10.1093/bioinformatics/btq351, table 5: the magic number stands at both ends."""
    magic = file.read(4)
    order = {b"\x26\xfc\x8f\x88": "<", b"\x88\x8f\xfc\x26": ">"}.get(magic)
    if order is None:
        return "it is not a bigWig file"
    _, _, *offsets = struct.unpack(order + "HHQQQ", file.read(28))
    file.seek(-4, 2)
    if file.read(4) != magic or any(offset >= size for offset in offsets):
        return f"it is cut after {size:,} bytes"
    return ""


def _parquet(file: BinaryIO, size: int) -> str:
    if file.read(4) != b"PAR1":
        return "it is not a Parquet file"
    file.seek(-8, 2)
    footer, magic = struct.unpack("<I4s", file.read(8))
    return "" if magic == b"PAR1" and footer + 12 <= size else f"it is cut after {size:,} bytes"


def _gzip(file: BinaryIO, size: int) -> str:
    with gzip.open(file) as content:
        while content.read(1 << 20):
            pass
    return ""


def _zip(file: BinaryIO, size: int) -> str:
    return "" if file.read(2) == b"PK" and zipfile.is_zipfile(file) else "it is not a zip archive, or cut"


_CHECKS: dict[str, Callable[[BinaryIO, int], str]] = {
    ".2bit": _two_bit,
    ".bw": _big_wig,
    ".bigwig": _big_wig,
    ".parquet": _parquet,
    ".gz": _gzip,
    ".bgz": _gzip,
    ".zip": _zip,
    ".npz": _zip,
    **dict.fromkeys((".csv", ".tsv", ".txt", ".json", ".bed", ".vcf", ".fa", ".fasta", ".maf"), _text),
}
