"""FASTA dialects and tables that load, and the one line that each bad file gets."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest

from harness.data import Locus
from harness.errors import BadData
from harness.files import readers
from harness.files.readers import Record

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the public files for development (../shared/data) are not here")


def read(path: Path, content: str | bytes) -> tuple[list[Record], Counter[str]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    changes: Counter[str] = Counter()
    return readers.read(path, changes), +changes


def plain(records: list[Record]) -> list[tuple[str, str, str | None]]:
    return [(record.id, record.window.sequence, record.label) for record in records]


@pytest.mark.parametrize(
    ("content", "changed"),
    [
        (">a\nACGTN\n>b\nGGGTT\n", {}),
        ("\ufeff>a some words\nACGTN\n>b\nGGGTT", {}),
        ("\n>a\r\nACG\r\nTN\r\n>b\r\nGGGTT\r\n", {}),
        (">a\nACG\n\nTN\n>b\nGGG \n TT\n", {}),
        (">a\nacGUN\n>b\nGGGUU\n", {"lower_case": 2, "u_to_t": 3}),
        (">a\nACGTR\n>b\nGGGTT\n", {"ambiguity_to_n": 1, "u_to_t": 0}),
    ],
    ids=["plain", "byte order mark", "wrapped CRLF", "blank lines", "RNA and lower case", "IUPAC"],
)
def test_fasta_dialects(tmp_path: Path, content: str, changed: dict[str, int]) -> None:
    for suffix, pack in (("fa", bytes), ("fa.gz", gzip.compress)):
        records, changes = read(tmp_path / f"x.{suffix}", pack(content.encode()))
        assert plain(records) == [("a", "ACGTN", None), ("b", "GGGTT", None)]
        assert changes == +Counter(changed)


def test_class_and_locus_in_the_header(tmp_path: Path) -> None:
    text = (
        "> chr1,+,100,105; class:0\nACGTA\n"
        ">chr2:10-15(-) label=bound\nACGTA\n"
        ">peak7::chrX:10-15\nACGTA\n"
        ">chr3:11-15\nACGTA\n"  # 1-based: one short, so no locus
        ">subclass:x\nACGTA\n"
    )
    records, _ = read(tmp_path / "x.fa", text)
    assert [record.label for record in records] == ["0", "bound", None, None, None]
    assert [record.window.locus for record in records] == [
        Locus("chr1", 100, 105, "+"),
        Locus("chr2", 10, 15, "-"),
        Locus("chrX", 10, 15, "+"),
        None,
        None,
    ]
    assert records[0].id == "chr1,+,100,105"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "sequence,label\nACGT,1\nGGTT,0\n"),
        ("x.tsv", "seq\tclass\r\nacgu\t1.0\r\nGGTT\t0.0\r\n"),
        ("x.txt", "Label\tother\tSequence\n1\t,\tACGT\n\n0\t?\tGGTT\n\n"),
        ("x.csv", "\nsequence,class,y\nACGT,1,9\nGGTT,0,9"),
        ("x.csv", '\ufeff"sequence","label"\n"ACGT","1"\n"GGTT","0"\n'),
    ],
)
def test_tables(tmp_path: Path, name: str, content: str) -> None:
    for suffix, pack in (("", bytes), (".gz", gzip.compress)):
        records, _ = read(tmp_path / (name + suffix), pack(content.encode()))
        assert plain(records) == [("1", "ACGT", "1"), ("2", "GGTT", "0")]


CSV = "sequence,label\n"
BAD = {
    "empty": ("x.fa", "", r"x\.fa: the file is empty; expected FASTA or a CSV/TSV table"),
    "blank": ("x.fa", " \n\n", r"x\.fa: the file is empty"),
    "binary": ("x.fa", b"\x89PNG\0\xff", r"x\.fa: a binary file; expected FASTA"),
    "spreadsheet": ("x.csv", b"PK\x03\x04\0\0", r"x\.csv: a binary file; .*save a spreadsheet as CSV"),
    "truncated gzip": ("x.fa.gz", gzip.compress(b">a\nACGT\n" * 99)[:-9], r"x\.fa\.gz: the gzip stream is cut.*download"),
    "damaged gzip": ("x.fa.gz", b"\x1f\x8bnonsense", r"x\.fa\.gz: the gzip stream is cut or damaged"),
    "not FASTA": ("x.fa", "hello\n", r"x\.fa: not FASTA .*does not begin with '>'.*\.csv or \.tsv"),
    "no sequence": ("x.fa", ">a\n>b\nACGT\n", r"x\.fa: record 'a': no sequence; delete the record"),
    "no name": ("x.fa", ">a\nACGT\n>\nACGT\n", r"x\.fa: record 2 has no name"),
    "duplicate ids": ("x.fa", ">a\nACGT\n>b\nAC\n>a 2\nGG\n", r"x\.fa: 2 records are named 'a'; give every record its own name"),
    "protein": ("x.fa", ">a\nMEFLIK\n", r"x\.fa: record 'a': letters 'EFIL' are not IUPAC.*expected DNA or RNA"),
    "gaps": ("x.fa", ">a\nAC-GT\n", r"x\.fa: record 'a': letters '-' .*without gaps"),
    "no sequence column": ("x.csv", "dna,label\nACGT,1\n", r"x\.csv: no column named sequence or seq; found dna, label"),
    "no label column": (
        "x.csv",
        "sequence,score\nACGT,1\n",
        r"x\.csv: no column named label or class or y or .*; found sequence, score; name it with --label-column",
    ),
    "no rows": ("x.csv", CSV, r"x\.csv: a header and no rows"),
    "empty label": ("x.csv", CSV + "ACGT,1\n\nACGT,\n", r"x\.csv, line 4: no label \(''\); fill it in or delete the line"),
    "NaN label": ("x.csv", CSV + "ACGT,NaN\n", r"x\.csv, line 2: no label \('NaN'\)"),
    "empty sequence": ("x.csv", CSV + "ACGT,1\n,1\n", r"x\.csv, line 3: no sequence"),
    "bad letters": ("x.csv", CSV + "ACGT,1\nACXT,1\n", r"x\.csv, line 3: letters 'X' are not IUPAC"),
    "ragged": ("x.csv", CSV + "ACGT,1\nACGT,1,2\n", r"x\.csv: not a table \(.*line 3.*\); quote fields"),
    "nameless fields": ("x.csv", CSV + "ACGT,1,2\nACGT,1,2\n", r"x\.csv: not a table"),
    "open quote": ("x.csv", CSV + '"ACGT,1\n', r"x\.csv: not a table"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_get_one_clear_line(tmp_path: Path, case: str) -> None:
    name, content, message = BAD[case]
    with pytest.raises(BadData, match=message) as caught:
        read(tmp_path / name, content)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"none\.fa: no such file; check the name"):
        readers.read(tmp_path / "none.fa", Counter())
    with pytest.raises(BadData, match="cannot be read"):
        readers.read(tmp_path, Counter())


@needs_shared
@pytest.mark.parametrize(
    ("name", "count", "length", "changed"),
    [
        ("PUM2_PARCLIP.positives.fa", 3000, 81, {"u_to_t": 93136}),
        ("PUM2_PARCLIP.negatives.fa", 3000, 81, {"u_to_t": 73020}),
        ("graphprot2.positives.fa", 1000, 61, {}),
        ("graphprot2.negatives.fa", 1000, None, {}),
        ("graphprot2.lowercase_context.positives.fa", 1000, None, {"lower_case": 100000}),
        ("ideeps_wrapped_dna_with_N.fa", 100, 101, {}),
    ],
)
def test_fasta_of_other_projects(name: str, count: int, length: int | None, changed: dict[str, int]) -> None:
    changes: Counter[str] = Counter()
    records = readers.read(SHARED / "fasta_formats" / name, changes)
    assert len(records) == count
    assert +changes == Counter(changed)
    if length is not None:
        assert {len(record.window) for record in records} == {length}
    if "ideeps" in name:
        assert Counter(record.label for record in records) == {"0": 89, "1": 11}


@needs_shared
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("human_nontata_promoters.test.tsv.gz", {"0": 4119, "1": 4915}),
        ("human_ensembl_regulatory.subset.tsv.gz", {"0": 500, "1": 500, "2": 500}),
        ("human_ocr_ensembl.subset.tsv.gz", {"0": 500, "1": 500}),
        ("gb_human_enhancers_ensembl.hg38chunks.csv", {"0": 97, "1": 91}),
    ],
)
def test_tables_of_other_projects(name: str, counts: dict[str, int]) -> None:
    records = readers.read(SHARED / "genomic_benchmarks" / name, Counter())
    assert Counter(record.label for record in records) == counts
