"""Bytes of a binary file by offset: all that are asked for, or an error. A size read from a file is never trusted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from harness.errors import BadData


class Binary:
    """An open binary file of a known size. Reads carry their own offset, so forked processes may share it.

    ``kind`` names the format in messages. ``order`` is ``<`` or ``>``, the order of the bytes in numbers.

    Raises:
        BadData: the file cannot be opened.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind
        self.order: Literal["<", ">"] = "<"
        try:
            self._file = path.open("rb")
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise BadData(f"{path}: cannot be read ({error.strerror}); expected {kind}") from None

    def read(self, start: int, size: int) -> bytes:
        """The ``size`` bytes from ``start`` on.

        Raises:
            BadData: they are not all in the file, or cannot be read.
        """
        if start < 0 or size < 0 or start + size > self.size:
            raise self.damaged(f"bytes {start:,} to {start + size:,} of a file of {self.size:,}")
        found, at = [], start
        try:
            while at < start + size:  # one call gives at most 2 GiB
                piece = os.pread(self._file.fileno(), start + size - at, at)
                if not piece:
                    raise self.damaged("it became shorter while it was read")
                found.append(piece)
                at += len(piece)
        except OSError as error:
            raise BadData(f"{self.path}: cannot be read ({error.strerror})") from None
        return b"".join(found)

    def numbers(self, start: int, kind: str, count: int = 1) -> np.ndarray:
        """``count`` numbers from ``start`` on, as int64 or, of a float ``kind``, float64; ``kind`` is NumPy's, like ``u4``.

        Raises:
            BadData: they are not all in the file, or do not fit.
        """
        data = np.frombuffer(self.read(start, count * np.dtype(kind).itemsize), self.order + kind)
        if kind == "u8" and (data > 2**62).any():
            raise self.damaged("an offset beyond any file")
        return data.astype(np.float64 if kind[0] == "f" else np.int64)

    def damaged(self, what: str) -> BadData:
        """The error to raise for content that contradicts itself."""
        return BadData(f"{self.path}: {self.kind} is cut or damaged ({what}); download it again")
