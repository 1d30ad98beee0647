"""Embeddings kept on disk under a name made from their content, so that a probe never computes them twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from harness.data import Example
from harness.files.atomic import atomic
from harness.files.sources import cache_home


class EmbeddingCache:
    """A folder of arrays. ``key`` identifies everything besides the windows that determines an embedding.

    That is: weights, options, code, device and precision. Concurrent runs may share the folder: a file appears whole, and
    two runs that compute the same array write the same bytes.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.folder = cache_home() / "embeddings"

    def get(self, examples: Sequence[Example], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Embeddings (examples, D) of these examples in this order; ``compute`` is called only if they are not stored yet."""
        path = self.folder / f"{self._name(examples)}.npy"
        if path.is_file():
            return np.load(path)
        embeddings = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.save(file, embeddings)
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
