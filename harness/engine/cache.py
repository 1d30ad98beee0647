"""Embeddings kept on disk, named by their content: what a probe computes once is not computed again."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence

import numpy as np

from harness.data import Example
from harness.files.sources import cache_home


class EmbeddingCache:
    """A folder of arrays. ``key`` names all that determines an embedding besides the windows: weights, options, code, precision.

    Safe for runs at the same time: a file appears whole, and two that compute the same array write the same bytes.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.folder = cache_home() / "embeddings"

    def get(self, examples: Sequence[Example], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The embeddings (examples, D) of these windows in this order, computed only where they are not kept yet."""
        path = self.folder / f"{self._name(examples)}.npy"
        if path.is_file():
            return np.load(path)
        embeddings = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tmp", delete=False) as file:
            np.save(file, embeddings)
        os.replace(file.name, path)
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
