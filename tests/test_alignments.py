"""Alignments by locus: every store gives the same columns, rows are chosen by name, and damage is told."""

from __future__ import annotations

import gzip
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from harness.data import Locus, reverse_complement
from harness.errors import BadData, UserError
from harness.files.alignments import MULTIZ, SPECIES, build_store, open_alignment

# Two blocks of chr1 with a gap of two columns between them (5-7), one of chrX; the human row has a gap of its own.
MAF = """##maf version=1 scoring=multiz
# a comment
a score=10.0
s hg38.chr1    2 3 + 100 AC-G
s panTro4.chrA 7 4 - 50  aCtn
q panTro4.chrA           9999
i panTro4.chrA C 0 C 0
s mm10.chr4    9 2 + 80  A--G
e rn6.chr2     5 9 + 70 I

a score=5
s hg38.chr1    7 2 + 100 TT
s rn6.chr2     1 1 - 70  -C
s rn6.chr2     9 2 - 70  GG

a score=5
s hg38.chrX    0 4 + 9   ACGT
s mm10.chrX    3 4 + 80  ACGT
"""
ROWS = {  # chr1, 0-9
    "hg38": "--ACG--TT",
    "panTro4": "--ACN----",
    "mm10": "--A-G----",
    "rn6": "--------C",
}


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def maf(tmp_path) -> Path:
    path = tmp_path / "two.maf"
    path.write_text(MAF)
    return path


def text(rows: np.ndarray) -> list[str]:
    assert rows.dtype == np.uint8
    return [row.tobytes().decode() for row in rows]


def write_zarr(path: Path, rows: list[str], chromosome: str = "1", version: int = 2) -> Path:
    zarr = pytest.importorskip("zarr", reason="needs the extra `variants`")
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    letters = np.array([list(row.encode()) for row in rows], np.uint8)
    array = group.create_array(chromosome, shape=letters.T.shape, chunks=(4, len(rows)), dtype="S1")
    array[:] = np.ascontiguousarray(letters.T).view("S1")
    return path


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


def write_fasta(path: Path, rows: dict[str, str], title: str = "") -> Path:
    path.write_text("".join(f">{name}{title}\n{row}\n" for name, row in rows.items()))
    return path


def small(rows: int = 4, length: int = 9) -> list[str]:
    rng = np.random.default_rng(rows)
    drawn = rng.choice(list("ACGT-"), (rows, length))
    drawn[0] = rng.choice(list("ACGT"), length)
    return ["".join(row) for row in drawn]


# --- one alignment, every store -----------------------------------------------------------------------------------------


def test_maf(maf):
    alignment = open_alignment(maf)
    assert alignment.species == ("hg38", *MULTIZ)  # a hg38 file of UCSC's species has their order, whichever come up first
    alignment = open_alignment(maf, "panTro4,mm10,rn6")
    assert alignment.species == ("hg38", "panTro4", "mm10", "rn6")
    assert alignment.extents == {"1": (2, 9), "X": (0, 4)}
    changes = Counter()
    assert text(alignment.columns(Locus("chr1", 0, 9), changes)) == list(ROWS.values())
    assert changes == {"columns_without_species": 5}  # four outside the blocks, and 7
    assert text(alignment.columns(Locus("X", 0, 5))) == ["ACGT-", "-----", "ACGT-", "-----"]


def test_a_gzipped_maf_is_read_once_and_kept(maf, tmp_path, monkeypatch):
    path = tmp_path / "two.maf.gz"
    path.write_bytes(gzip.compress(maf.read_bytes()))
    first = open_alignment(path).columns(Locus("1", 0, 9))
    monkeypatch.setattr("harness.files.alignments.maf.Maf", None)
    assert (open_alignment(path).columns(Locus("1", 0, 9)) == first).all()
    assert open_alignment(path).path == path


@pytest.mark.filterwarnings("ignore:The data type")  # zarr 3 has no final word on S1
def test_every_store_gives_the_same(tmp_path):
    rows = small()
    names = [f"s{number}" for number in range(4)]
    fasta = write_fasta(tmp_path / "msa.hg38_chr1_0_9.fa", dict(zip(names, rows, strict=True)))
    opened = {"fasta": open_alignment(fasta), "store": open_alignment(build_store(fasta, tmp_path / "store"))}
    zarr = write_zarr(tmp_path / "a.zarr", rows)
    opened["zarr"] = open_alignment(zarr, "s1,s2,s3")
    opened["zip"] = open_alignment(zipped(zarr), "s1,s2,s3")
    opened["zarr 3"] = open_alignment(write_zarr(tmp_path / "b.zarr", rows, version=3), "s1,s2,s3")
    for kind, alignment in opened.items():
        assert text(alignment.columns(Locus("chr1", 2, 7))) == [row[2:7] for row in rows], kind
        assert text(alignment.columns(Locus("1", -2, 11))) == [f"--{row}--" for row in rows], kind
        assert alignment.species[1:] == ("s1", "s2", "s3")
    store = opened["store"]
    assert store.species[0] == "s0"
    assert text(store.columns(Locus("1", 50, 52))) == ["--"] * 4


def test_the_other_strand(maf):
    alignment = open_alignment(maf, "panTro4,mm10,rn6")
    forward = text(alignment.columns(Locus("chr1", 1, 8)))
    backward = text(alignment.columns(Locus("chr1", 1, 8, "-")))
    assert backward == ["-".join(reverse_complement(part) for part in row.split("-")[::-1]) for row in forward]


def test_a_target_on_the_other_strand(tmp_path):
    path = tmp_path / "minus.maf"
    path.write_text("a\ns t.chr1 2 4 - 10 AACG\ns o.chr1 0 3 + 10 A-CC\n")
    assert text(open_alignment(path).columns(Locus("1", 4, 8))) == ["CGTT", "GG-T"]


def test_stores_from_several_files(maf, tmp_path):
    other = tmp_path / "chr2.maf"
    other.write_text("a score=1\ns hg38.chr2 4 2 + 50 AC\ns rn6.chr3 0 2 + 9 AG\n")
    alignment = open_alignment(build_store([maf, other], tmp_path / "store", "mm10,rn6"))
    assert alignment.species == ("hg38", "mm10", "rn6")
    assert text(alignment.columns(Locus("2", 4, 6))) == ["AC", "--", "AG"]
    assert text(alignment.columns(Locus("1", 0, 9))) == [ROWS[name] for name in alignment.species]
    with pytest.raises(UserError, match=r"store exists; remove it or choose another name"):
        build_store(maf, tmp_path / "store")
    other.write_text("a score=1\ns mm10.chr2 4 2 + 50 AC\n")
    with pytest.raises(BadData, match=r"chr2\.maf: its target is mm10, that of .*two\.maf hg38"):
        build_store([maf, other], tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_of_blocks_that_overlap_the_first_stays(tmp_path):
    path = tmp_path / "o.maf"
    path.write_text("a\ns t.chr1 0 3 + 9 AAA\ns o.chr1 0 3 + 9 CCC\n\na\ns t.chr1 2 2 + 9 AG\ns o.chr1 5 2 + 9 TT\n")
    assert text(open_alignment(path).columns(Locus("1", 0, 4))) == ["AAAG", "CCCT"]


# --- the real ones ------------------------------------------------------------------------------------------------------


def test_the_matrix_made_from_the_real_maf(shared):
    folder = shared / "data/msa"
    alignment = open_alignment(folder / "m100_chr1_149844498-149849024.maf.gz")
    lines = gzip.decompress((folder / "m100_chr1_149844498-149849024.matrix.fasta.gz").read_bytes()).decode().split()
    names, rows = [line[1:] for line in lines if line[0] == ">"], [line.upper() for line in lines if line[0] != ">"]
    assert alignment.species == tuple(names)
    locus = Locus("chr1", 149844497, 149849024)
    assert text(alignment.columns(locus)) == rows
    subset = open_alignment(folder / "m100_chr1_149844498-149849024.maf.gz", "89")
    assert text(subset.columns(locus)) == [rows[0], *rows[11:]]


def test_the_lists_are_those_of_the_multiz_alignment(shared, tmp_path):
    for name, species in SPECIES.items():
        assert species == tuple((shared / f"data/msa/species_multiz100way/{name}.txt").read_text().split())
    everything = open_alignment(shared / "data/msa/m100_chr1_149844498-149849024.maf.gz")
    by_file = open_alignment(everything.path, str(shared / "data/msa/species_multiz100way/all.txt"))
    assert by_file.species == everything.species == ("hg38", *MULTIZ)


def test_a_maf_of_another_genome(shared):
    alignment = open_alignment(shared / "data/msa/ucsc_mm9_chr10_big.maf.gz")
    assert alignment.species[0] == "mm9"
    assert len(alignment.species) == 30
    assert text(alignment.columns(Locus("chr10", 3134057, 3134070)))[:2] == ["CATCTCAAACCAA", "CATCTCCAACCAA"]


def test_the_real_locus_in_fasta(shared):
    alignment = open_alignment(shared / "data/variants/brca1_locus_msa.hg38_chr17_43044294_43125483.fasta.gz")
    assert alignment.extents == {"17": (43044294, 43125483)}
    assert alignment.columns(Locus("17", 43044294, 43044298)).shape == (73, 4)
    assert text(alignment.columns(Locus("17", 43044294, 43044298)))[0] == "TGGA"


# --- species --------------------------------------------------------------------------------------------------------------


def test_rows_are_chosen_by_name(maf, tmp_path):
    (tmp_path / "mine.txt").write_text("hg38\nrn6\n\nmm10\n")
    alignment = open_alignment(maf, str(tmp_path / "mine.txt"))
    assert alignment.species == ("hg38", "rn6", "mm10")
    assert text(alignment.columns(Locus("1", 0, 9))) == [ROWS[name] for name in alignment.species]
    with pytest.raises(UserError, match=r"species 'dodo' and 1 more: not in .*two\.maf, which has 100 rows: hg38, panTro4, "):
        open_alignment(maf, "mm10,dodo,emu")
    with pytest.raises(UserError, match="species 'mm10' is named twice"):
        open_alignment(maf, "mm10,rn6,mm10")
    with pytest.raises(UserError, match="species 'species 0' and 99 more: not in"):
        open_alignment(maf, ",".join(f"species {number}" for number in range(100)))  # longer than any file's name


def test_rows_of_zarr_stores_are_named_by_their_number(tmp_path):
    path = write_zarr(tmp_path / "89.zarr", small(90))
    assert open_alignment(path).species == ("target", *SPECIES["89"])
    assert open_alignment(path, "mm10,danRer10").columns(Locus("1", 0, 9)).shape == (3, 9)
    with pytest.raises(UserError, match=r"species 'panTro4' and 9 more: not in .*89\.zarr"):
        open_alignment(path, "99")
    path = write_zarr(tmp_path / "few.zarr", small(4))
    with pytest.raises(
        UserError, match=r"few\.zarr: 4 rows without names; --species FILE must name the 3 after the target, in order"
    ):
        open_alignment(path)


# --- bad input ------------------------------------------------------------------------------------------------------------


def test_loci_that_are_refused(maf):
    alignment = open_alignment(maf)
    with pytest.raises(BadData, match=r"two\.maf: no chromosome 'chr5'; it holds 1, X: is it another part"):
        alignment.columns(Locus("chr5", 0, 4))
    with pytest.raises(BadData, match="locus 1:4-4 is empty"):
        alignment.columns(Locus("1", 4, 4))


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (MAF.index("aCtn") + 2, r"line 5: 2 letters where 4 are announced; the file is cut or damaged"),
        (MAF.index("50  aCtn"), r"line 5: 's panTro4\.chrA 7 4 - ' is not 's species\.chromosome .* the file is cut"),
        (MAF.index("+ 70 I"), r"line 9: 'e rn6\.chr2     5 9 ' has 4 fields; the file is cut or damaged"),
        (20, "a MAF file without blocks"),
    ],
)
def test_a_maf_cut_in_the_middle(cut, message, maf, tmp_path):
    maf.write_text(MAF[:cut])
    with pytest.raises(BadData, match=message):
        open_alignment(maf)
    maf.with_suffix(".maf.gz").write_bytes(gzip.compress(MAF.encode())[:-30])
    with pytest.raises(BadData, match="the gzip stream is cut or damaged"):
        open_alignment(maf.with_suffix(".maf.gz"))
    assert not list((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("A--G", "A--*", r"line 8: '\*' are not letters of an alignment"),
        ("s hg38.chr1    7", "s mm10.chr1    7", "blocks begin with hg38 and with mm10; expected one target first"),
        ("9 2 + 80  A--G", "9 2 + 80  AG", "line 8: a row of another length than its block's"),
        ("hg38.chr1    2 3", "hg38 2 3", r"line 4: the target's name 'hg38' has no chromosome; write it as species\.chromosome"),
        ("hg38.chr1    2 3 +", "hg38.chr1 2 +", r"line 4: 's hg38\.chr1 2 \+ .*' is not 's species\.chromosome"),
    ],
)
def test_a_maf_that_is_wrong(old, new, message, maf):
    maf.write_text(MAF.replace(old, new))
    with pytest.raises(BadData, match=message):
        open_alignment(maf)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": "ACGT", "b": "ACG"}, r"row 'b' has 3 columns, the first 4; expected one width"),
        (
            {"a": "ACG-", "b": "ACGT"},
            r"chr1_0_4 spans 4 nt, but the first row \(a\) has 3: the target's row must come first",
        ),
        ({"a": "AC--", "b": "ACGT"}, r"chr1_0_4 spans 4 nt, but the first row \(a\) has 2: the target's row must come first"),
        ({"a": "ACGTA", "b": "ACGTA"}, r"spans 4 nt, but the first row \(a\) has 5: 1-based\? write start - 1"),
        ({"a": "AC!T"}, r"'!' are not letters of an alignment"),
    ],
)
def test_fasta_that_is_no_alignment(rows, message, tmp_path):
    with pytest.raises(BadData, match=message):
        open_alignment(write_fasta(tmp_path / "x.chr1_0_4.fa", rows))


def test_fasta_is_anchored_by_its_header_or_name(tmp_path):
    path = write_fasta(tmp_path / "x.fa", {"a": "ACGT", "b": "AC-T"}, title=" chr3:10-14 hg38")
    assert open_alignment(path).extents == {"3": (10, 14)}
    with pytest.raises(BadData, match=r"y\.fa: no locus; write chr17:100-200 \(0-based, half-open\) in the first header"):
        open_alignment(write_fasta(tmp_path / "y.fa", {"a": "ACGT"}))


def test_things_that_are_no_alignment(tmp_path):
    with pytest.raises(BadData, match=r"none: no such file; expected an alignment: a store"):
        open_alignment(tmp_path / "none")
    with pytest.raises(BadData, match=r"cannot be read \(File name too long\); expected an alignment"):
        open_alignment(Path("x" * 300))
    with pytest.raises(BadData, match=r"a folder with neither store\.json nor zarr's metadata"):
        open_alignment(tmp_path)
    (tmp_path / "t.csv").write_text("chrom,pos\n")
    with pytest.raises(BadData, match=r"t\.csv: begins with 'chrom,pos'; expected an alignment"):
        open_alignment(tmp_path / "t.csv")


def test_a_damaged_store(maf, tmp_path):
    store = build_store(maf, tmp_path / "store")
    (store / "1.npy").write_bytes((store / "1.npy").read_bytes()[:150])
    with pytest.raises(BadData, match=r"store: a damaged store .*; build it again"):
        open_alignment(store)
    (store / "store.json").write_text("{")
    with pytest.raises(BadData, match=r"store: a damaged store"):
        open_alignment(store)


def test_a_damaged_zarr_store(tmp_path):
    path = zipped(write_zarr(tmp_path / "a.zarr", small()))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadData, match=r"a\.zarr\.zip: not a readable zarr store"):
        open_alignment(path)
    wrong = write_zarr(tmp_path / "b.zarr", ["ACGT", "AC*T"])
    with pytest.raises(BadData, match=r"b\.zarr, chromosome 1: '\*' are not letters"):
        open_alignment(wrong, "s1").columns(Locus("1", 0, 4))
