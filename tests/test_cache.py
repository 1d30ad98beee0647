"""The cache of embeddings."""

from __future__ import annotations

import numpy as np
from conftest import motif_examples

from harness.engine.cache import EmbeddingCache


def test_embeddings_are_computed_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    examples, calls = motif_examples(10), []

    def compute():
        calls.append(1)
        return np.arange(20.0).reshape(10, 2)

    for key, part in (("a", examples), ("a", examples), ("b", examples), ("a", examples[::-1])):
        assert np.array_equal(EmbeddingCache(key).get(part, compute), compute())
    assert len(calls) == 3 + 4  # once for each key and order, and four times to compare with
    assert not list(tmp_path.rglob("*.tmp"))
