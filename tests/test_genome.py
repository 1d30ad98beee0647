"""Genomes by locus: every format gives the same letters, off a contig is N, and what cannot be read is refused."""

from __future__ import annotations

import gzip
import struct
import sys
from collections import Counter
from pathlib import Path

import pytest

from harness.data import Locus, bare, reverse_complement
from harness.errors import BadData, UserError
from harness.files.genome import Genome
from harness.files.text import optional

pyfaidx = pytest.importorskip("pyfaidx", reason="needs the extra `variants`")

CHR1 = "ACGTNNacgtRYACGGATTACAGATTACA"
CHR2 = "TTTTGGGGCCCC"
UPPER = "ACGTNNACGTNNACGGATTACAGATTACA"


pytestmark = pytest.mark.usefixtures("own_cache")


def fasta_text(**contigs: str) -> str:
    lines = []
    for name, letters in contigs.items():
        lines += [f">{name} a title", *(letters[start : start + 10] for start in range(0, len(letters), 10))]
    return "\n".join(lines) + "\n"


def plain(folder: Path) -> Path:
    (folder / "g.fa").write_text(fasta_text(chr1=CHR1, chr2=CHR2))
    return folder / "g.fa"


def gzipped(folder: Path) -> Path:
    (folder / "g.fa.gz").write_bytes(gzip.compress(fasta_text(chr1=CHR1, chr2=CHR2).encode()))
    return folder / "g.fa.gz"


def bgzipped(folder: Path) -> Path:
    from Bio import bgzf

    with bgzf.open(str(folder / "b.fa.gz"), "wb") as file:
        file.write(fasta_text(chr1=CHR1, chr2=CHR2).encode())
    return folder / "b.fa.gz"


def two_bit(folder: Path) -> Path:
    pytest.importorskip("py2bit", reason="needs the extra `variants`")
    contigs = {"chr1": UPPER, "chr2": CHR2}
    records, index, offset = b"", b"", 16 + sum(5 + len(name) for name in contigs)
    for name, letters in contigs.items():
        index += struct.pack("<B", len(name)) + name.encode() + struct.pack("<I", offset + len(records))
        unknown = [place for place, letter in enumerate(letters) if letter == "N"]
        codes = ["TCAG".index(letter) if letter != "N" else 0 for letter in letters] + [0] * (-len(letters) % 4)
        packed = bytes(codes[i] << 6 | codes[i + 1] << 4 | codes[i + 2] << 2 | codes[i + 3] for i in range(0, len(codes), 4))
        blocks = struct.pack("<I", len(unknown)) + b"".join(struct.pack("<I", place) for place in unknown)
        blocks += struct.pack("<I", 1) * len(unknown)
        records += struct.pack("<I", len(letters)) + blocks + struct.pack("<II", 0, 0) + packed
    (folder / "g.2bit").write_bytes(struct.pack("<IIII", 0x1A412743, 0, 2, 0) + index + records)
    return folder / "g.2bit"


@pytest.mark.parametrize("write", [plain, gzipped, bgzipped, two_bit])
def test_every_format_gives_the_same(write, tmp_path):
    genome = Genome(write(tmp_path))
    assert genome.chromosomes == ("1", "2")
    for start, end in ((0, 29), (3, 17), (28, 29)):
        assert genome.sequence(Locus("chr1", start, end)) == UPPER[start:end]
    assert genome.sequence(Locus("2", 2, 6)) == "TTGG"
    assert genome.sequence(Locus("chr1", 3, 17, "-")) == reverse_complement(UPPER[3:17])
    again = Genome(genome.path)  # from the index that was kept
    assert again.sequence(Locus("1", 10, 20)) == UPPER[10:20]
    assert {path.name for path in tmp_path.iterdir()} == {genome.path.name, *(["cache"] if write is not two_bit else [])}


def test_off_a_contig_is_n_and_counted(tmp_path):
    genome, changes = Genome(plain(tmp_path)), Counter()
    assert genome.sequence(Locus("chr2", -3, 4), changes) == "NNNTTTT"
    assert genome.sequence(Locus("chr2", 10, 15, "-"), changes) == "NNNGG"
    assert genome.sequence(Locus("chr2", 50, 52), changes) == "NN"
    assert changes == {"outside_genome": 8}


def test_part_of_a_chromosome(tmp_path):
    path = tmp_path / "part.fa"
    path.write_text(">chr7:100-112 of hg38\n" + CHR2 + "\n>chr7:200-204\nACGT\n>chr8:5-6\nACGT\n")
    genome, changes = Genome(path), Counter()
    assert genome.sequence(Locus("chr7", 100, 104)) == "TTTT"
    assert genome.sequence(Locus("7", 198, 206), changes) == "NNACGTNN"
    assert changes == {"outside_genome": 4}
    assert genome.chromosomes == ("7", "chr8:5-6".removeprefix("chr"))  # of another length: a name like any other


def test_names_of_chromosomes():
    assert [bare(name) for name in ("chr17", "17", "Chr17", "chrX", "MT", "chrM", "chr1_KI270706v1_random")] == [
        "17", "17", "17", "X", "M", "M", "1_KI270706v1_random"
    ]  # fmt: skip


def test_real_part_of_chromosome_17(shared):
    genome = Genome(shared / "data/variants/hg38_chr17_42424999_43600000.fa.gz")
    assert genome.chromosomes == ("17",)
    assert genome.sequence(Locus("chr17", 42424999, 42425009)) == "ATTTGACAGA"
    assert genome.sequence(Locus("17", 43599999, 43600001))[1] == "N"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"g\.fa: the file is empty; expected a genome"),
        (b"chrom\tpos\n1\t2\n", r"g\.fa: neither FASTA .* nor 2bit"),
        (gzip.compress(fasta_text(chr1=CHR1 * 500).encode())[:-20], r"g\.fa: the gzip stream is cut or damaged"),
        (b">chr1\nACGT\n>chr1\nACGT\n", r"g\.fa: not a FASTA file that can be indexed"),
        (b">chr1\nACGT\nAC\nACGT\n", r"g\.fa: not a FASTA file that can be indexed"),
    ],
)
def test_files_that_are_no_genome(content, message, tmp_path):
    (tmp_path / "g.fa").write_bytes(content)
    with pytest.raises(BadData, match=message):
        Genome(tmp_path / "g.fa")


def test_a_two_bit_file_cut_in_the_middle(tmp_path):
    path = two_bit(tmp_path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(BadData, match=r"g\.2bit: the 2bit file is cut or damaged"):
        Genome(path)


def test_loci_that_are_refused(tmp_path):
    genome = Genome(plain(tmp_path))
    with pytest.raises(BadData, match=r"g\.fa: no chromosome 'chr5'; it holds 1, 2: is it another part, or another assembly\?"):
        genome.sequence(Locus("chr5", 0, 4))
    with pytest.raises(BadData, match="locus chr1:4-4 is empty"):
        genome.sequence(Locus("chr1", 4, 4))
    with pytest.raises(BadData, match=r"none\.fa: no such file"):
        Genome(tmp_path / "none.fa")


def test_a_package_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyfaidx", None)
    with pytest.raises(UserError, match=r"a FASTA genome needs the package pyfaidx: pip install 'gfm-harness\[variants\]'"):
        Genome(plain(tmp_path))
    with pytest.raises(UserError, match="a test needs the package no_such_package"):
        optional("no_such_package", "a test")
