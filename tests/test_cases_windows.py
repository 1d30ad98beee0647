"""The handed cases of windows and intervals (../shared/cases): each gives the right value, a refusal or a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.task import Reference, Splits
from harness.tasks.files import from_files

CASES = Path(__file__).parents[2] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the handed cases (../shared/cases) are not here")


def load(*names: str, reference: Reference | None = None) -> Splits:
    task = from_files([CASES / name for name in names])
    if reference is not None:
        assert task.bind is not None
        task = task.bind(reference)
    return task.load("stratified")


def sequences(splits: Splits) -> list[str]:
    return [example.windows[0].sequence for part in (splits.train, splits.validation, splits.test) for example in part]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["C05_train_test_fasta/train.fa", "C05_train_test_fasta/test.fa"], "these names say train and test"),
        (["C18_multilabel/table.csv"], "label '0,0,0' looks like several labels of one window"),
        (["C18_multilabel/list.csv"], r"label '\[0, 0\]' looks like several labels of one window"),
        (["C30_regression/regression.csv"], r"label '0\.\d+' looks like a regression target"),
        (["C31_json_parquet/json_records.json"], "JSON, which is not read; save it as CSV"),
        (["C31_json_parquet/lines.jsonl"], "JSON, which is not read; save it as CSV"),
        (["C32_gue_gb_layouts/gue"], "cannot be read"),
        (
            [f"C32_gue_gb_layouts/gue/{part}.csv" for part in ("train", "dev", "test")],
            "3 files given: .* several files is not read",
        ),
        (["C33_deepbind_prismnet/deepbind.tsv"], "no column named label or class or y; found FoldID, EventID, seq, Bound"),
        (
            ["C33_deepbind_prismnet/prismnet_headerless.tsv"],
            "no column named sequence or seq; .*the first line must name the columns",
        ),
    ],
)
def test_refused(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(*names)


def test_the_classes_of_headers_are_read_where_a_file_is_given_alone(tmp_path: Path) -> None:
    """The remedy of the refusal: both files in one; and under other names the headers contradict a pair all the same."""
    contents = [(CASES / "C05_train_test_fasta" / name).read_text() for name in ("train.fa", "test.fa")]
    (tmp_path / "all.fa").write_text("".join(contents))
    assert from_files([tmp_path / "all.fa"]).classes == ("0", "1")
    for name, content in zip(("a.fa", "b.fa"), contents, strict=True):
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"the headers name classes \('0', '1'\), but two files are positives and negatives"):
        from_files([tmp_path / "a.fa", tmp_path / "b.fa"])


def test_kmers_are_the_windows_they_were_cut_from() -> None:
    splits = load("C06_kmer_tsv/train.tsv")
    assert sequences(splits) == sequences(load("C06_kmer_tsv/plain.tsv"))
    assert splits.changes == {"kmers_undone": 120}


def test_a_strand_in_column_5() -> None:
    with pytest.raises(UserError, match=r"pos\.bed, line 1: the strand '\+' stands in column 5; BED has it in column 6"):
        load("C07_bed5_strand/pos.bed", "C07_bed5_strand/neg.bed")


@pytest.mark.usefixtures("own_cache")
def test_a_strand_in_column_6() -> None:
    genome = Reference(genome=CASES / "_shared" / "mini_genome.fa")
    splits = load("C07_bed5_strand/pos6.bed", "C07_bed5_strand/neg6.bed", reference=genome)
    strands = [example.windows[0].locus.strand for example in splits.train if example.windows[0].locus]
    assert set(strands) == {"+", "-"}
    assert "pos6.bed: columns not used: name, score" in splits.notes


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["C12_split_column/table.csv"], "column 'split' says 70 train, 15 validation, 15 test; this split is not used"),
        (["C17_bound_unbound/table.csv"], "the positive class is 'unbound'"),
        (["C19_neg_pos_order/negatives.fa", "C19_neg_pos_order/positives.fa"], "the names say the opposite"),
        (["C29_88_classes/88classes.csv"], "88 classes: RF00000, "),
        (["C33_deepbind_prismnet/prismnet.tsv"], "columns not used: Type, icshape, score"),
    ],
)
def test_said(names: list[str], said: str) -> None:
    assert said in " | ".join(load(*names).notes)


def test_parquet() -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `variants`")
    assert len(sequences(load("C31_json_parquet/windows.parquet"))) == 40
