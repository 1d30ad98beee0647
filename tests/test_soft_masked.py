"""Soft-masked letters of a genome: lower case in FASTA, the lists of stretches in 2bit."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from harness.data import Locus
from harness.errors import BadData
from harness.files.genome import Genome

CHR1 = "ACgtNNnnTTacgtacgtAAAACCCCggggTTn"
CHR2 = "acgtACGTNNNNNNNNNNNN"

pytestmark = pytest.mark.usefixtures("own_cache")


def fasta(**contigs: str) -> str:
    lines = []
    for name, letters in contigs.items():
        lines += [f">{name}", *(letters[start : start + 7] for start in range(0, len(letters), 7))]
    return "\n".join(lines) + "\n"


def two_bit(order: str = "<", version: int = 0, **contigs: str) -> bytes:
    """A 2bit file with the stretches of N, and those in lower case, of each record."""
    kind = "Q" if version else "I"
    records, index = b"", b""
    offset = 16 + sum(1 + len(name) + struct.calcsize(f"<{kind}") for name in contigs)
    for name, letters in contigs.items():
        index += struct.pack("<B", len(name)) + name.encode() + struct.pack(f"{order}{kind}", offset + len(records))
        codes = ["TCAG".find(letter) % 4 for letter in letters.upper()] + [0] * (-len(letters) % 4)
        packed = bytes(codes[i] << 6 | codes[i + 1] << 4 | codes[i + 2] << 2 | codes[i + 3] for i in range(0, len(codes), 4))
        numbers = [len(letters)]
        for pattern in ("[Nn]+", "[a-z]+"):
            spans = [found.span() for found in re.finditer(pattern, letters)]
            numbers += [len(spans), *(start for start, _ in spans), *(end - start for start, end in spans)]
        records += struct.pack(f"{order}{len(numbers) + 1}I", *numbers, 0) + packed
    return struct.pack(f"{order}IIII", 0x1A412743, version, len(contigs), 0) + index + records


def bgzipped(text: str, path: Path) -> Path:
    from Bio import bgzf

    with bgzf.open(str(path), "wb") as file:
        file.write(text.encode())
    return path


@pytest.fixture(params=["FASTA", "gzip", "bgzip", "2bit", "2bit >0", "2bit <1", "2bit >1"])
def genome(request, tmp_path) -> Genome:
    path, contigs = tmp_path / "genome", {"chr1": CHR1, "chr2": CHR2}
    if request.param == "bgzip":
        return Genome(bgzipped(fasta(**contigs), path))
    if request.param.startswith("2bit"):
        order, version = request.param[5:] or "<0"
        path.write_bytes(two_bit(order, int(version), **contigs))
    else:
        text = fasta(**contigs).encode()
        path.write_bytes(gzip.compress(text) if request.param == "gzip" else text)
    return Genome(path)


@pytest.mark.parametrize(("name", "letters"), [("chr1", CHR1), ("2", CHR2)])
def test_every_format_says_which_letters_are_in_lower_case(genome, name, letters):
    expected = np.array([letter.islower() for letter in letters])
    for start in range(len(letters)):
        for end in range(start + 1, len(letters) + 1):
            found = genome.soft_masked(Locus(name, start, end))
            assert found.dtype == bool
            np.testing.assert_array_equal(found, expected[start:end])
            np.testing.assert_array_equal(genome.soft_masked(Locus(name, start, end, "-")), expected[start:end][::-1])
    assert genome.sequence(Locus(name, 0, len(letters))) == letters.upper(), "letters are read as before"


def test_off_the_genome_nothing_is_masked(genome):
    found = genome.soft_masked(Locus("chr2", 2, 30))
    assert found.shape == (28,)
    np.testing.assert_array_equal(np.flatnonzero(found), [0, 1])
    np.testing.assert_array_equal(np.flatnonzero(genome.soft_masked(Locus("chr2", 2, 30, "-"))), [26, 27])


def test_parts_of_a_chromosome(tmp_path):
    (tmp_path / "part.fa").write_text(">chr3:100-108\nACgtACGT\n>chr3:110-114\nacGT\n")
    found = Genome(tmp_path / "part.fa").soft_masked(Locus("3", 98, 115))
    np.testing.assert_array_equal(np.flatnonzero(found) + 98, [102, 103, 110, 111])


def test_it_agrees_with_py2bit(tmp_path):
    """Which writes an N always in upper case."""
    py2bit = pytest.importorskip("py2bit", reason="compares with py2bit")
    rng = np.random.default_rng(0)
    letters = "".join("".join(rng.choice(list("ACGTN" if upper else "acgtn"), rng.integers(1, 40))) for upper in [1, 0] * 100)
    (tmp_path / "g.2bit").write_bytes(two_bit(chr1=letters))
    theirs = py2bit.open(str(tmp_path / "g.2bit"), True).sequence("chr1")
    found = Genome(tmp_path / "g.2bit").soft_masked(Locus("1", 0, len(letters)))
    assert [letter.islower() for letter in theirs if letter != "N"] == [
        bool(masked) for letter, masked in zip(theirs, found, strict=True) if letter != "N"
    ]
    np.testing.assert_array_equal(found, [letter.islower() for letter in letters])


def test_what_is_refused(genome):
    with pytest.raises(BadData, match="no chromosome '9'; it holds 1, 2"):
        genome.soft_masked(Locus("9", 0, 5))
    with pytest.raises(BadData, match="is empty"):
        genome.soft_masked(Locus("1", 5, 5))
    with pytest.raises(BadData, match="is longer than"):
        genome.soft_masked(Locus("1", 0, 1 << 40))


@pytest.mark.parametrize("size", [100, 2**31])
def test_a_list_of_stretches_that_is_damaged(size, tmp_path):
    content = two_bit(chr1="ACgtACgtAC")
    at = content.index(struct.pack("<5I", 2, 2, 6, 2, 2))
    (tmp_path / "g.2bit").write_bytes(content[: at + 12] + struct.pack("<I", size) + content[at + 16 :])
    genome = Genome(tmp_path / "g.2bit")
    assert genome.sequence(Locus("1", 0, 10)) == "ACGTACGTAC"
    with pytest.raises(BadData, match="record 'chr1' has stretches of lower case that overlap, or lie outside of it"):
        genome.soft_masked(Locus("1", 0, 10))
