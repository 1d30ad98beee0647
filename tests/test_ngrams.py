"""N-grams of genomes in every format, counted as a slow definition counts them, and what is refused."""

from __future__ import annotations

import gzip
import re
import tracemalloc
from itertools import product

import numpy as np
import pytest
from test_genome import made_two_bit

from harness.errors import BadData
from harness.files import ngrams
from harness.files.ngrams import Ngrams
from harness.files.pmi import SCORES, PmiTable, count_pmi, genome_pmi


def slow_counts(sequences: list[str], k: int) -> list[np.ndarray]:
    """The definition: a look at every place of every sequence."""
    found = []
    for n in range(1, k + 1):
        counts = dict.fromkeys(map("".join, product("ACGT", repeat=n)), 0)
        for sequence in sequences:
            letters = sequence.upper().replace("U", "T")
            for at in range(len(letters) - n + 1):
                if letters[at : at + n] in counts:
                    counts[letters[at : at + n]] += 1
        found.append(np.array(list(counts.values())))
    return found


def random_sequences(rng: np.random.Generator, count: int, letters: str = "ACGTACGTACGTACGTacgtNUuRy") -> list[str]:
    return ["".join(rng.choice(list(letters), rng.integers(0, 60))) for _ in range(count)]


def as_fasta(rng: np.random.Generator, sequences: list[str], end: str = "\n") -> str:
    """Lines of uneven lengths, some with blanks at their end, some blank."""
    lines = []
    for sequence in sequences:
        lines.append("> a title, with ACGT > N")
        while sequence:
            size = int(rng.integers(1, 20))
            lines.append(sequence[:size] + rng.choice(["", "", " ", " \t"]))
            sequence = sequence[size:]
        lines.append(rng.choice(["", " "]))
    return end.join(lines)


def counted(pieces: list[bytes], k: int) -> Ngrams:
    grams = Ngrams(k)
    for piece in pieces:
        grams.add(piece)
    grams.end()
    return grams


def assert_same(one: PmiTable, other: PmiTable) -> None:
    assert (one.k, one.ranked) == (other.k, other.ranked)
    np.testing.assert_array_equal(one.ranks, other.ranks)
    np.testing.assert_array_equal(one.counts[one.order()], other.counts[other.order()])
    for name in SCORES:
        np.testing.assert_array_equal(one.scores[name], other.scores[name])


@pytest.mark.parametrize("k", range(2, 9))
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_counts_are_those_of_the_definition_whatever_the_pieces(k, end):
    rng = np.random.default_rng(k)
    sequences = random_sequences(rng, 12)
    text = as_fasta(rng, sequences, end).encode()
    wanted = slow_counts(sequences, k)
    for size in (1, 2, 3, 7, 61, len(text)):
        grams = counted([text[at : at + size] for at in range(0, len(text), size)], k)
        for found, slow in zip(grams.counts(), wanted, strict=True):
            np.testing.assert_array_equal(found, slow)
        joined = "".join(sequences).upper()
        assert grams.records == 12
        assert grams.unknown == sum(joined.count(letter) for letter in "NRY")
        assert grams.runs == sum(len(re.findall("[ACGTU]+", sequence.upper())) for sequence in sequences)


def test_sequences_in_memory_count_like_a_file_of_them(tmp_path):
    rng = np.random.default_rng(1)
    sequences = random_sequences(rng, 40)
    (tmp_path / "g.fa").write_text(as_fasta(rng, sequences))
    assert_same(count_pmi(sequences, 3, 2), genome_pmi(tmp_path / "g.fa", 3, 2))
    np.testing.assert_array_equal(count_pmi(sequences, 3, 2).counts, slow_counts(sequences, 3)[-1])


@pytest.mark.parametrize("block", [5, 64, 1 << 22])
def test_every_format_gives_the_same_table(block, tmp_path, monkeypatch):
    from Bio import bgzf

    monkeypatch.setattr(ngrams, "BLOCK", block)
    rng = np.random.default_rng(2)
    sequences = random_sequences(rng, 30, "ACGTACGTACGTN")
    text = as_fasta(rng, sequences).encode()
    (tmp_path / "g.fa").write_bytes(b"\xef\xbb\xbf" + text)
    (tmp_path / "g.fa.gz").write_bytes(gzip.compress(text))
    with bgzf.open(str(tmp_path / "b.fa.gz"), "wb") as file:
        file.write(text)
    (tmp_path / "g.2bit").write_bytes(made_two_bit({f"chr{i}": sequence for i, sequence in enumerate(sequences)}))
    wanted = count_pmi(sequences, 4, 3)
    for path in sorted(tmp_path.iterdir()):
        assert_same(genome_pmi(path, 4, 3), wanted)


def test_a_folder_is_counted_like_one_file_of_all(tmp_path):
    rng = np.random.default_rng(3)
    sequences = random_sequences(rng, 30, "ACGT")
    (tmp_path / "parts").mkdir()
    for part in range(3):  # the files end without a line end
        (tmp_path / f"parts/{part}.fa").write_text("\n".join(f">x\n{sequence}" for sequence in sequences[part::3]))
    (tmp_path / "parts/notes.txt").write_text("not a sequence")
    assert_same(genome_pmi(tmp_path / "parts", 3, 2), count_pmi(sequences, 3, 2))


def test_memory_does_not_grow_with_the_genome(tmp_path, monkeypatch):
    monkeypatch.setattr(ngrams, "BLOCK", 1 << 16)
    peaks = []
    for size in (1 << 20, 1 << 23):
        (tmp_path / "g.fa").write_bytes(
            b">x\n" + np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(0).integers(0, 4, size)].tobytes()
        )
        genome_pmi(tmp_path / "g.fa", 6, 2)  # what is imported and compiled is no part of it
        tracemalloc.start()
        genome_pmi(tmp_path / "g.fa", 6, 2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 16)


def test_progress_ends_with_all_bytes(tmp_path):
    (tmp_path / "g.fa").write_text(">x\n" + "ACGT" * 100)
    told: list[tuple[int, int | None]] = []
    genome_pmi(tmp_path / "g.fa", 2, 2, lambda done, total: told.append((done, total)))
    assert told == [(403, 403)]


# --- Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">x\nACGT\nACXT\n", r"g\.fa, line 3: 'X' is not an IUPAC nucleotide code"),
        (b">x\nACGT\n>y\nAC GT\n", r"line 4: a blank within the sequence"),
        (b">x\nACGT\nAC-GT\n", r"line 3: '-' is not"),
        (b">x\nACGT\n >y\n", r"line 3: a blank within the sequence"),
        (gzip.compress(b"ACGT\n>y\nACGT\n"), r"line 1: text before the first line that begins with '>'"),
        (gzip.compress(b">y\n" + b"ACGT" * 100)[:-12], r"gzip stream is cut or damaged"),
        (b"ACGT\n", r"neither FASTA \(its first line does not begin with '>'\) nor 2bit"),
        (b"", r"the file is empty"),
        (b">x\n>y\n", r"no letters, so there is nothing to count"),
        (b">x\nNNNNNRY\n", r"7 N and other ambiguous letters only, so there is nothing to count"),
        (b">x\nACGTACGT\n", r"none of its 6-mers occurs 2 times \(the commonest: 1\)"),
        (made_two_bit({"chr1": "ACGTNACGT"})[:-2], r"the 2bit file is cut or damaged"),
    ],
)
def test_a_genome_that_cannot_be_counted_is_refused(content, message, tmp_path):
    (tmp_path / "g.fa").write_bytes(content)
    with pytest.raises(BadData, match=message):
        genome_pmi(tmp_path / "g.fa", 6, 2)


def test_a_bgzip_file_cut_between_two_blocks_is_refused(tmp_path):
    from Bio import bgzf

    with bgzf.open(str(tmp_path / "g.fa.gz"), "wb") as file:
        file.write(b">x\n" + b"ACGT" * 30_000)
    content = (tmp_path / "g.fa.gz").read_bytes()
    (tmp_path / "g.fa.gz").write_bytes(content[: content.index(content[:4], 4)])
    with pytest.raises(BadData, match="gzip stream is cut or damaged"):
        genome_pmi(tmp_path / "g.fa.gz", 2, 2)
