"""Genomes by locus: every format gives the same letters, off a contig is N, and what cannot be read is refused."""

from __future__ import annotations

import gzip
import random
import re
import struct
from collections import Counter
from pathlib import Path

import pytest

from harness.data import Locus, bare, reverse_complement
from harness.errors import BadData, UserError
from harness.files.binary import Binary
from harness.files.genome import Genome
from harness.files.indexed_fasta import IndexedFasta
from harness.files.text import optional

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


def made_two_bit(contigs: dict[str, str], order: str = "<", version: int = 0) -> bytes:
    """A 2bit file, each stretch of N a block, and a masked block in each record."""
    offset_kind = "Q" if version else "I"
    records, index = b"", b""
    offset = 16 + sum(1 + len(name) + struct.calcsize(f"<{offset_kind}") for name in contigs)
    for name, letters in contigs.items():
        index += struct.pack("<B", len(name)) + name.encode() + struct.pack(f"{order}{offset_kind}", offset + len(records))
        unknown = [found.span() for found in re.finditer("N+", letters)]
        codes = ["TCAG".index(letter) if letter != "N" else 0 for letter in letters] + [0] * (-len(letters) % 4)
        packed = bytes(codes[i] << 6 | codes[i + 1] << 4 | codes[i + 2] << 2 | codes[i + 3] for i in range(0, len(codes), 4))
        numbers = [len(letters), len(unknown), *(start for start, _ in unknown), *(end - start for start, end in unknown)]
        records += struct.pack(f"{order}{len(numbers) + 4}I", *numbers, 1, 0, 2, 0) + packed
    return struct.pack(f"{order}IIII", 0x1A412743, version, len(contigs), 0) + index + records


def two_bit(folder: Path) -> Path:
    (folder / "g.2bit").write_bytes(made_two_bit({"chr1": UPPER, "chr2": CHR2}))
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


def test_a_package_that_is_not_installed():
    with pytest.raises(UserError, match=r"a test needs the package no_such_package: pip install 'gfm-harness\[variants\]'"):
        optional("no_such_package", "a test")


# --- text as editors leave it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        ">chr1\nACGTA\nCGT\n\n\n>chr2\nTTTT\n",
        "\ufeff>chr1\nACGTA\nCGT\n>chr2\nTTTT",
        ">chr1 \nACGTA  \nCGT\t \n>chr2\nTTTT  \n",
        ">chr1\r\nACGTA\r\nCGT\r\n\r\n>chr2\r\nTTTT\r\n",
        "\n\n>chr1 a title\twith blanks\n\nACGTA\nCGT\n>chr2\nTTTT\n\n\n",
    ],
)
def test_blank_lines_blanks_at_line_ends_and_marks_are_no_letters(content, tmp_path):
    path = tmp_path / "g.fa"
    path.write_bytes(content.encode())
    genome = Genome(path)
    assert genome.sequence(Locus("1", 0, 8)) == "ACGTACGT"
    assert [genome.sequence(Locus("1", place, place + 1)) for place in range(8)] == list("ACGTACGT")
    assert genome.sequence(Locus("2", 1, 5), changes := Counter()) == "TTTN"
    assert changes == {"outside_genome": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">chr1\nACGT\n\nACGT\n", r"line 4: letters after a short or blank line|line 3: 0 letters"),
        (b">chr1\nACGT\nAC\nACGT\n", r"line 3: 2 letters"),
        (b">chr1\nACGT\nACGT \nACGT\n", r"line 3: 4 letters and a line end of 2, in a record that began with 4 and 1"),
        (b">chr1\nAC GT\n", r"line 2: ' ' among the letters"),
        (b">chr1\nACGT\nAC\0T\n", r"line 3: '\\x00' among the letters"),
        (b">chr1\nACGT\n>chr1 again\nACGT\n", r"line 3: a second record 'chr1'"),
        (b">chr1\nACGT\n>\nACGT\n", r"line 3: no name: ''"),
        (b">chr\x1b[31m1\nACGT\n", r"line 1: no name: 'chr\\x1b\[31m1'"),
    ],
)
def test_a_fasta_file_that_cannot_be_indexed_is_told_by_line(content, message, tmp_path):
    (tmp_path / "g.fa").write_bytes(content)
    with pytest.raises(BadData, match=rf"g\.fa: not a FASTA file that can be indexed \(({message})"):
        Genome(tmp_path / "g.fa")


def test_a_letter_that_is_none_is_told_by_line(tmp_path):
    (tmp_path / "g.fa").write_text(">chr1\nACGT\nACGT\nAC*T\n")
    genome = Genome(tmp_path / "g.fa")
    assert genome.sequence(Locus("1", 0, 10)) == "ACGTACGTAC"
    with pytest.raises(BadData, match=r"g\.fa, line 4, record 'chr1': letters '\*' are not IUPAC"):
        genome.sequence(Locus("1", 3, 12))


def test_an_index_of_many_pieces_is_that_of_one(tmp_path, monkeypatch):
    from harness.files import indexed_fasta

    path = plain(tmp_path)
    whole = IndexedFasta(path)
    for size in (1, 2, 7, 30):
        monkeypatch.setattr(indexed_fasta, "_CHUNK", size)
        assert indexed_fasta._index(path, Binary(path, "FASTA")) == [list(record) for record in whole._records.values()]


def test_the_index_is_that_of_pyfaidx(tmp_path):
    pyfaidx = pytest.importorskip("pyfaidx", reason="compares with pyfaidx")
    path = tmp_path / "many.fa"
    rng = random.Random(0)
    lines = []
    for number in range(40):
        width, letters = rng.randrange(1, 70), "".join(rng.choices("ACGTNacgt", k=rng.randrange(1, 400)))
        lines += [f">c{number} title", *(letters[start : start + width] for start in range(0, len(letters), width))]
    path.write_text("\n".join(lines) + "\n")
    ours, theirs = Genome(path), pyfaidx.Fasta(str(path), indexname=str(tmp_path / "i.fai"), as_raw=True)
    for number in range(40):
        length = len(theirs[f"c{number}"])
        for _ in range(10):
            start = rng.randrange(length)
            end = rng.randrange(start + 1, length + 1)
            assert ours.sequence(Locus(f"c{number}", start, end)) == theirs[f"c{number}"][start:end].upper()


# --- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("chr1", "1"), ("chrM", "chrMT"), ("MT", "chrM"), ("chr7:0-4", "7:2-6")])
def test_two_records_of_one_chromosome_are_refused_when_asked_for(first, second, tmp_path):
    (tmp_path / "g.fa").write_text(f">{first}\nACGT\n>{second}\nTTTT\n>chr9\nGGGG\n")
    genome = Genome(tmp_path / "g.fa")
    assert genome.sequence(Locus("9", 0, 4)) == "GGGG"
    with pytest.raises(BadData, match=rf"g\.fa: chromosome '\w+' may be '{first}' or '{second}'"):
        genome.sequence(Locus(bare(first.partition(":")[0]), 0, 2))


def test_loci_of_impossible_length_are_refused_before_memory_is_touched(tmp_path):
    genome = Genome(plain(tmp_path))
    for end in (10**9, 10**12, 10**30):
        with pytest.raises(BadData, match=r"is longer than 268,435,456 nt"):
            genome.sequence(Locus("1", 0, end))


# --- 2bit ---------------------------------------------------------------------------------------------------------------


def test_two_bit_of_either_byte_order_and_version(tmp_path):
    path = two_bit(tmp_path)
    first = Genome(path)
    for order, version in ((">", 0), ("<", 1), (">", 1)):
        other = tmp_path / f"g{version}{'b' if order == '>' else ''}.2bit"
        other.write_bytes(made_two_bit({"chr1": UPPER, "chr2": CHR2}, order, version))
        for start, end in ((0, 29), (3, 17), (5, 6), (28, 29)):
            assert Genome(other).sequence(Locus("1", start, end)) == first.sequence(Locus("1", start, end)) == UPPER[start:end]
        assert Genome(other).sequence(Locus("2", 0, 12)) == CHR2


def test_two_bit_is_read_like_py2bit(tmp_path):
    py2bit = pytest.importorskip("py2bit", reason="compares with py2bit")
    rng = random.Random(1)
    letters = "".join(letter * rng.randrange(1, 30) for letter in rng.choices("ACGTN", k=300))
    path = tmp_path / "r.2bit"
    path.write_bytes(made_two_bit({"chr1": letters, "chr2": "N" * 50, "chr3": "ACG"}))
    ours, theirs = Genome(path), py2bit.open(str(path))
    for name, length in theirs.chroms().items():
        for _ in range(60):
            start = rng.randrange(length)
            end = rng.randrange(start + 1, length + 1)
            assert ours.sequence(Locus(name, start, end)) == theirs.sequence(name, start, end)


def test_a_two_bit_file_cut_anywhere_is_refused(tmp_path):
    content = two_bit(tmp_path).read_bytes()
    for size in range(4, len(content)):
        path = tmp_path / f"{size}.2bit"
        path.write_bytes(content[:size])
        with pytest.raises(BadData, match=r"the 2bit file is cut or damaged"):
            Genome(path)


# --- the cache ----------------------------------------------------------------------------------------------------------


def test_what_is_damaged_in_the_cache_is_made_again(tmp_path):
    path, expected = gzipped(tmp_path), UPPER[3:17]
    assert Genome(path).sequence(Locus("1", 3, 17)) == expected
    kept = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert {file.suffix for file in kept} == {".fa", ".json"}
    for size in (0, 11):
        for file in kept:
            file.write_bytes(file.read_bytes()[:size])
            assert Genome(path).sequence(Locus("1", 3, 17)) == expected
    text = next(file for file in kept if file.suffix == ".fa")
    text.write_bytes(text.read_bytes().replace(b"ACGG", b"TTTT"))
    assert Genome(path).sequence(Locus("1", 3, 17)) == expected


@pytest.mark.parametrize("write", [plain, gzipped, bgzipped])
def test_a_cache_that_cannot_be_written_is_done_without(write, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    genome = Genome(write(tmp_path))
    assert genome.sequence(Locus("1", 0, 29)) == UPPER
    assert genome.sequence(Locus("1", 20, 29)) == UPPER[20:]


def test_bgzip_without_its_end_or_with_a_damaged_block_is_refused(tmp_path):
    content = bgzipped(tmp_path).read_bytes()
    (tmp_path / "cut.fa.gz").write_bytes(content[:-28])
    with pytest.raises(BadData, match=r"cut\.fa\.gz: the bgzip file is cut or damaged \(it lacks the empty block at its end\)"):
        Genome(tmp_path / "cut.fa.gz")
    (tmp_path / "bad.fa.gz").write_bytes(content[:40] + bytes([content[40] ^ 255]) + content[41:])
    with pytest.raises(BadData, match=r"bad\.fa\.gz: the gzip stream is cut or damaged"):
        Genome(tmp_path / "bad.fa.gz")


@pytest.mark.parametrize("form", [plain, gzipped, bgzipped])
def test_many_loci_come_in_their_order(tmp_path, form):
    genome, changes, one_by_one = Genome(form(tmp_path)), Counter(), Counter()
    draw = random.Random(1)
    loci = []
    for _ in range(200):
        start = draw.randrange(-3, 25)
        loci.append(Locus(draw.choice(["chr1", "2", "chr2"]), start, start + draw.randrange(1, 9), draw.choice("+-")))
    assert genome.sequences(loci, changes) == [genome.sequence(locus, one_by_one) for locus in loci]
    assert changes == one_by_one
    assert genome.sequences([]) == []


def test_where_chromosomes_end(tmp_path):
    (tmp_path / "parts.fa").write_text(">chr1:100-104\nACGT\n>chr1:10-12\nAC\n>X\nACG\n")
    assert Genome(tmp_path / "parts.fa").ends == {"1": 104, "X": 3}
