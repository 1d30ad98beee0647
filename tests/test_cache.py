"""The cache of embeddings: computed once, made again when damaged, done without where it cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import motif_examples

from harness.engine import cache
from harness.engine.cache import EmbeddingCache
from harness.files.sources import cache_home, data_home

EMBEDDINGS = np.arange(20.0).reshape(10, 2)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


class Counted:
    """Embeddings that count how often they were computed."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return EMBEDDINGS.copy()


def test_embeddings_are_computed_once(tmp_path):
    examples, compute = motif_examples(10), Counted()
    for key, part in (("a", examples), ("a", examples), ("b", examples), ("a", examples[::-1])):
        assert np.array_equal(EmbeddingCache(key).get(part, compute), EMBEDDINGS)
    assert compute.calls == 3  # once for each key and order
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_file_that_is_cut_or_changed_anywhere_is_made_again(tmp_path):
    examples, compute = motif_examples(10), Counted()
    EmbeddingCache("a").get(examples, compute)
    (path,) = tmp_path.rglob("*.npy")
    whole = path.read_bytes()
    other = np.lib.format.magic(1, 0) + whole[8:]
    changed = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 7)]
    damaged = [b"", whole[:100], whole[:-1], whole + b"\0", other[:-40] + bytes(40), *changed]
    for number, content in enumerate(damaged, start=2):
        path.write_bytes(content)
        assert np.array_equal(EmbeddingCache("a").get(examples, compute), EMBEDDINGS)
        assert compute.calls == number
        assert path.read_bytes() == whole
    path.unlink()
    path.mkdir()  # nor does a folder of that name stop anything
    with pytest.warns(RuntimeWarning, match="embeddings are not kept"):
        assert np.array_equal(EmbeddingCache("a").get(examples, compute), EMBEDDINGS)


def test_rows_of_any_list_serve():
    examples, asked = motif_examples(10), []

    def compute(some):
        asked.append([example.id for example in some])
        return np.array([[float(example.id[1:]), 1.0] for example in some], np.float32)

    EmbeddingCache("a").get(examples[:4], lambda: compute(examples[:4]))
    EmbeddingCache("a").get(examples[3:6], lambda: compute(examples[3:6]))
    asked.clear()
    for _ in range(2):
        found = EmbeddingCache("a").gather([examples[at] for at in (5, 9, 0, 3, 8, 9)], compute)
        assert found.tolist() == [[5, 1], [9, 1], [0, 1], [3, 1], [8, 1], [9, 1]]
        assert asked == [["w9", "w8", "w9"]]  # once, in their order
    EmbeddingCache("b").gather(examples[:2], compute)
    assert asked[1:] == [["w0", "w1"]]  # another model's
    whole = EmbeddingCache("a")
    assert whole.gather(examples[:4], compute).tolist() == [[number, 1] for number in range(4)]
    assert len(asked) == 2


def test_a_damaged_list_serves_no_rows(tmp_path):
    examples = motif_examples(6)
    EmbeddingCache("a").get(examples, lambda: np.full((6, 2), 5, np.float32))
    for ending in (".npy", ".rows"):
        (path,) = (file for file in tmp_path.rglob(f"*{ending}") if file.stat().st_size > 200)
        whole = path.read_bytes()
        path.write_bytes(whole[:-40] + bytes(8) + whole[-32:])
        found = EmbeddingCache("a").gather(examples[1:2], lambda some: np.ones((len(some), 2), np.float32))
        assert found.tolist() == [[1, 1]]
        path.write_bytes(whole)
        for file in tmp_path.rglob("*"):
            if file.is_file() and file.stem != path.stem:
                file.unlink()


def test_as_before_numpy_reads_the_files(tmp_path):
    EmbeddingCache("a").get(motif_examples(10), Counted())
    (path,) = tmp_path.rglob("*.npy")
    assert np.array_equal(np.load(path), EMBEDDINGS)


@pytest.mark.parametrize("place", ["a file", "/proc/none", "full"])
def test_without_a_cache_that_can_be_written_a_run_goes_on(monkeypatch, tmp_path, place):
    if place == "full":

        def full(path, array):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(cache, "_write", full)
    else:
        (tmp_path / "a file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    compute = Counted()
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="embeddings are not kept"):
            assert np.array_equal(EmbeddingCache("a").get(motif_examples(10), compute), EMBEDDINGS)
    assert compute.calls == 2


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HARNESS_DATA")

    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    assert cache_home() == Path(os.devnull, "gfm-harness")
    assert data_home().is_relative_to(os.devnull)
    with pytest.warns(RuntimeWarning, match="embeddings are not kept"):
        EmbeddingCache("a").get(motif_examples(10), Counted())
