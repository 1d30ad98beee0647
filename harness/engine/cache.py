"""Embeddings kept on disk under a name made from their content, so that a probe never computes them twice.

A file that is damaged is made again, and where none can be written the cache is done without.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from harness.data import Example
from harness.files.atomic import atomic
from harness.files.sources import cache_home

_DIGEST = hashlib.sha256().digest_size


class EmbeddingCache:
    """A folder of arrays. ``key`` identifies everything besides the windows that determines an embedding.

    That is: weights, options, code, device and precision. Each file ends with the sha256 of the rest. Concurrent runs may
    share the folder: a file appears whole, and two runs that compute the same array write the same bytes.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.folder = cache_home() / "embeddings"

    def get(self, examples: Sequence[Example], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Embeddings (examples, D) of these examples in this order; ``compute`` is called only if they are not stored yet."""
        path = self.folder / f"{self._name(examples)}.npy"
        embeddings = _read(path)
        if embeddings is not None and len(embeddings) == len(examples):
            return embeddings
        embeddings = compute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(path, embeddings)
        except OSError as error:
            warnings.warn(  # shown once a process
                f"{self.folder} cannot be written ({error.strerror or error}): embeddings are not kept",
                RuntimeWarning,
                stacklevel=2,
            )
        return embeddings

    def _name(self, examples: Sequence[Example]) -> str:
        digest = hashlib.sha256(self.key.encode())
        for example in examples:
            for window in example.windows:
                digest.update(window.sequence.encode() + b"\n")
                if window.alignment is not None:
                    digest.update(window.alignment.tobytes())
            digest.update(b"\n")
        return digest.hexdigest()


def _read(path: Path) -> np.ndarray | None:
    """The array that :func:`_write` wrote; None if there is none, or not as it was written."""
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return None
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    return np.load(io.BytesIO(body), allow_pickle=False) if hashlib.sha256(body).digest() == digest else None


def _write(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.write(hashlib.sha256(buffer.getbuffer()).digest())
