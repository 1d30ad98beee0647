"""Motifs as words: how files are read, where words occur in sequences, and which occurrences fit a budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.adapters._motif_masking import first, fitting, of_row, spans
from harness.adapters._words import UNKNOWN, Words
from harness.errors import BadData
from harness.files.motif_files import Motif, read_words, write_meme


def listed(folder: Path, *motifs: str) -> Path:
    (folder / "motifs.txt").write_text("\n".join(motifs) + "\n")
    return folder / "motifs.txt"


class TestWords:
    def test_all_occurrences_by_end_and_the_longest_first(self):
        rng = np.random.default_rng(0)
        words = {tuple(rng.integers(3, size=size).tolist()) for size in rng.integers(1, 8, 60)}
        codes = rng.choice(UNKNOWN + 2, size=(7, 50), p=[0.3, 0.3, 0.3, 0, 0.05, 0.05])
        hits = Words(words).find(codes)
        for row, sequence in enumerate(codes):
            expected = [
                (end - size, size)
                for end in range(51)
                for size in range(7, 0, -1)
                if end >= size and tuple(sequence[end - size : end].tolist()) in words
            ]
            assert list(of_row(hits, row)) == expected
        assert len(hits.rows) > 100

    def test_no_words_and_no_hits(self):
        for words in ([], [[0, 1, 2]]):
            assert len(Words(words).find(np.zeros((2, 9), int)).rows) == 0

    def test_what_fits(self):
        hits = [(0, 4), (2, 4), (6, 9), (4, 4), (20, 2), (30, 2)]
        assert list(fitting(hits, 10, 2)) == [range(4), range(4, 8), range(20, 22)]

    def test_spans(self):
        widths = iter([8, 5, 8, 8, 8])
        found = spans([0, 4, 10, 20, 40], 43, 17, widths.__next__, 5)
        assert list(found) == [range(8), range(10, 18)]
        widths = iter([8, 8, 8])
        assert list(spans([40, 0, 20], 43, 9, widths.__next__, 5, least=1)) == [range(40, 43), range(6)]
        assert list(spans([0, 9], 20, 5, lambda: 5, 5, taken=0b10000)) == [range(9, 14)]

    def test_first(self):
        order = np.array([[2, 0, 1], [1, 2, 0]])
        assert first(order, np.array([1, 2])).tolist() == [[False, False, True], [False, True, True]]


class TestFiles:
    def test_a_list(self, tmp_path):
        words, notes = read_words(listed(tmp_path, "UGUAAAUA", "", " acuaac ", "ACTAAC", "ACNGU", "UGUAAAUA", "R2D2"))
        assert words == ["UGUAAAUA", "ACUAAC", "ACTAAC"]
        assert notes == ["motifs.txt: 2 of 6 motifs are left out: 5 letters clash with ACGU and T (2DNR)"]

    def test_matrices_become_their_consensus(self, tmp_path):
        sure, unsure = np.eye(4) * 0.7 + 0.075, np.full(4, 0.25)
        motifs = [
            Motif("whole", sure[[3, 2, 3, 0]]),
            Motif("split", np.array([*sure[[0, 0, 0]], unsure, *sure[[3, 2, 3, 0, 1]]])),
            Motif("short", np.array([*sure[[0, 1, 2]], unsure])),
        ]
        write_meme(tmp_path / "motifs.meme", motifs)
        words, notes = read_words(tmp_path / "motifs.meme")
        assert words == ["TGTA", "TGTAC"]
        clear = "4 neighbouring positions with a letter of probability 0.5 or more"
        assert notes == [
            f"motifs.meme: 1 of 3 matrices are left out: they lack {clear}",
            "motifs.meme: 1 of 3 matrices are shortened to their longest stretch of such positions",
        ]
        write_meme(tmp_path / "motifs.meme", motifs[2:])
        with pytest.raises(BadData, match=f"none of its 1 matrices has {clear}"):
            read_words(tmp_path / "motifs.meme")

    def test_a_file_without_a_motif_says_how_many_letters_clash(self, tmp_path):
        with pytest.raises(
            BadData, match=r"none of its 2 lines is a motif: 10 of 11 letters clash with ACGU and T \(line 2: 'PEPTI"
        ):
            read_words(listed(tmp_path, "", "PEPTIDE", "QQQQ"))
