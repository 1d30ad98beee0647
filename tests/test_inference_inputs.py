"""The user's files as a stream of entries: read as for training, but unlabelled, and any number of times."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest

from harness.data import Locus, reverse_complement
from harness.errors import BadData, UserError
from harness.inference.inputs import INTERVALS, SEQUENCES, Entry, Input, open_input

CHROMOSOME = "ACGTTGCAAT" * 30


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text(f">1\n{CHROMOSOME}\n>2\n{CHROMOSOME[::-1]}\n")
    return path


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode())) if name.endswith(".gz") else path.write_text(text)
    return path


def letters(found: Input) -> list[tuple[str, str, object]]:
    return [(entry.id, entry.windows[0].sequence, entry.label) for entry in found]


@pytest.mark.parametrize("name", ["x.fa", "x.fa.gz", "x.txt"])
def test_fasta_with_and_without_labels(tmp_path, name):
    path = written(tmp_path, name, ">a some words\nACGU\nacgn\n>b class:1\nTTR\n>b\nGG\n")
    found = open_input([path])
    assert letters(found) == [("a", "ACGTACGN", None), ("b", "TTN", "1"), ("b", "GG", None)]
    assert found.kind == SEQUENCES
    assert dict(found.changes) == {"u_to_t": 1, "lower_case": 4, "ambiguity_to_n": 1, "repeated_ids": 1, "one_letter": 1}
    assert found.notes == ["1 of 3 entries have an id that others have, too; ids are kept as they are"]
    assert letters(found) == letters(found)
    assert found.changes["lower_case"] == 4


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "name,sequence,label\nfirst,ACGT,1\nsecond,GGCC,\n"),
        ("x.tsv.gz", "label\tname\tsequence\n1\tfirst\tACGT\nNA\tsecond\tGGCC\n"),
        ("x.jsonl", '{"id": "first", "sequence": "ACGT", "label": 1}\n{"sequence": "GGCC", "id": "second"}\n'),
        ("x.json", '[{"id": "first", "sequence": "ACGT", "label": 1}, {"sequence": "GGCC", "id": "second"}]'),
    ],
)
def test_tables_with_some_labels(tmp_path, name, text):
    assert letters(open_input([written(tmp_path, name, text)])) == [("first", "ACGT", "1"), ("second", "GGCC", None)]


def test_a_parquet_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"seq": ["ACGT", "GGCC"], "id": ["a", "b"]}).to_parquet(tmp_path / "x.parquet")
    assert letters(open_input([tmp_path / "x.parquet"])) == [("a", "ACGT", None), ("b", "GGCC", None)]


def test_tables_without_ids_are_numbered_and_other_columns_are_named(tmp_path):
    found = open_input([written(tmp_path, "x.csv", "sequence,tissue\nACGT,liver\nGGCC,brain\n")])
    assert letters(found) == [("1", "ACGT", None), ("2", "GGCC", None)]
    assert found.notes == ["x.csv: columns not used: tissue"]


def test_columns_by_name_by_number_and_several_labels(tmp_path):
    path = written(tmp_path, "x.csv", "utr,a,b\nACGT,0,1\nGGCC,1,\n")
    assert letters(open_input([path], sequence_column="utr", label_columns=["a", "b"])) == [
        ("1", "ACGT", ("0", "1")),
        ("2", "GGCC", None),
    ]
    path = written(tmp_path, "y.csv", "p,ACGT\nq,GGCC\n")
    assert letters(open_input([path], sequence_column="2")) == [("1", "ACGT", None), ("2", "GGCC", None)]


def test_kmers_are_undone(tmp_path):
    found = open_input([written(tmp_path, "x.csv", "sequence\nACGT CGTA GTAC\nGGGT GGTT GTTT\n")])
    assert letters(found) == [("1", "ACGTAC", None), ("2", "GGGTTT", None)]
    assert found.changes["kmers_undone"] == 2
    path = written(tmp_path, "y.csv", "sequence\nACGT CGTA GTAC\nGGGTTTGGG\n")
    with pytest.raises(BadData, match="some sequences are written as k-mers, some otherwise"):
        letters(open_input([path]))


def test_intervals_on_both_strands(tmp_path, genome):
    path = written(tmp_path, "x.bed", "track name=x\nchr1\t3\t13\tfirst\t7\t-\n1\t10\t14\n2\t0\t3\t.\t0\t+\n2\t0\t3\t.\t0\t+\n")
    found = open_input([path], genome=genome)
    entries = list(found)
    assert found.kind == INTERVALS
    assert [entry.id for entry in entries] == ["first", "1:10-14(+)", "2:0-3(+)", "2:0-3(+)"]
    assert entries[0].windows[0].sequence == reverse_complement(CHROMOSOME[3:13])
    assert entries[0].windows[0].locus == Locus("chr1", 3, 13, "-")
    assert entries[1].windows[0].sequence == CHROMOSOME[10:14]
    assert found.changes["repeated_ids"] == 1
    assert found.notes[0] == "x.bed: columns not used: score"


def test_intervals_of_a_table(tmp_path, genome):
    path = written(tmp_path, "x.tsv", "chrom\tstart\tend\tstrand\tid\nchr2\t5\t9\t-\tp\n")
    assert letters(open_input([path], genome=genome)) == [("p", reverse_complement(CHROMOSOME[::-1][5:9]), None)]


def test_intervals_off_the_genome_are_refused_at_the_end(tmp_path, genome):
    found = iter(open_input([written(tmp_path, "x.bed", "1\t0\t300\n1\t295\t305\n")], genome=genome))
    assert isinstance(next(found), Entry)
    with pytest.raises(BadData, match=r"1\.6% of the intervals' nucleotides lie off it"):
        list(found)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.fa", "", "the file is empty; expected FASTA"),
        ("x.fa", "\n\n", "the file is empty"),
        ("x.fa", ">a\n>b\nAC\n", "record 'a': no sequence"),
        ("x.csv", "sequence\n", "a header and no rows"),
        ("x.csv", "sequence\nACGT\nAC-T\n", "line 3: letters '-' are not IUPAC"),
        ("x.csv", "name\nACGT\n", "no column named sequence or seq"),
        ("x.bed", "1\t3\t2\n", "is empty; start must be below end"),
        ("x.doc", "hello", "not FASTA"),
    ],
)
def test_bad_files_are_refused_with_their_place(tmp_path, genome, name, text, message):
    path = written(tmp_path, name, text)
    with pytest.raises(BadData, match=message) as caught:
        list(open_input([path], genome=genome if name.endswith("bed") else None))
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_options_that_do_not_fit_the_file(tmp_path, genome):
    fasta, bed = written(tmp_path, "x.fa", ">a\nAC\n"), written(tmp_path, "x.bed", "1\t0\t3\n")
    with pytest.raises(UserError, match="give their genome with --genome"):
        open_input([bed])
    with pytest.raises(UserError, match="leave --genome out"):
        open_input([fasta], genome=genome)
    with pytest.raises(UserError, match=r"sequence-column 'seq': .* is no table"):
        open_input([fasta], sequence_column="seq")
    with pytest.raises(UserError, match=r"x\.fa holds sequences and .*x\.bed does not"):
        open_input([fasta, bed])
    with pytest.raises(BadData, match="no such file"):
        open_input([tmp_path / "none.fa"])


@pytest.mark.parametrize("kind", ["fa", "csv", "jsonl", "bed"])
def test_memory_does_not_grow_with_the_number_of_entries(tmp_path, genome, kind):
    line = {
        "fa": f">w%d\n{CHROMOSOME[:100]}\n",
        "csv": f"w%d,{CHROMOSOME[:100]}\n",
        "jsonl": f'{{"id": "w%d", "sequence": "{CHROMOSOME[:100]}"}}\n',
        "bed": "1\t0\t100\tw%d\n",
    }[kind]
    peaks = []
    for count in (5_000, 20_000):
        text = "".join(line % number for number in range(count))
        path = written(tmp_path, f"{count}.{kind}", "id,sequence\n" * (kind == "csv") + text)
        found = open_input([path], genome=genome if kind == "bed" else None)
        tracemalloc.start()
        assert sum(1 for _ in found) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 15_000 * 60  # of which an id's hash takes 8, and sorting them 16 more for a moment
