"""The handed cases of windows and intervals (../shared/cases): each gives the right value, a refusal or a word."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness
from harness.errors import UserError
from harness.task import Reading, Reference, Splits, Task
from harness.tasks.files import from_files

USUAL = Reading()
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
        (
            ["C33_deepbind_prismnet/prismnet_headerless.tsv"],
            "no column named sequence or seq; .*the first line must name the columns, or give their numbers: --sequence-column 2 "
            "--label-column 5",
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
        (["C17_bound_unbound/table.csv"], "the positive class is 'bound', by its name"),
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


def sizes(splits: Splits) -> list[int]:
    return [len(splits.train), len(splits.validation), len(splits.test)]


def given(*names: str, reading: Reading = USUAL) -> tuple[Task, Splits]:
    task = from_files([CASES / name for name in names], reading=reading)
    return task, task.load(task.split_rules[0])


def test_a_training_and_a_test_file_with_classes_in_their_headers() -> None:
    for names in (("train.fa", "test.fa"), ("test.fa", "train.fa")):
        task, splits = given(*(f"C05_train_test_fasta/{name}" for name in names))
        assert (task.classes, sizes(splits)) == (("0", "1"), [82, 8, 60])
        assert all(example.id.split(",")[2] >= "101000" for example in splits.test)
        assert "the split is the one given: 90 train, 60 test" in splits.notes


def test_a_column_that_gives_the_split() -> None:
    _, splits = given("C12_split_column/table.csv")
    assert sizes(splits) == [70, 15, 15]
    assert [example.id for example in splits.train][:3] == ["1", "2", "3"]


def test_labels_of_several_and_of_numbers() -> None:
    task, _ = given("C18_multilabel/table.csv")
    assert (task.kind, task.classes) == ("multilabel", ("label_1", "label_2", "label_3"))
    task, _ = given("C18_multilabel/list.csv")
    assert (task.kind, task.classes) == ("multilabel", ("label_1", "label_2"))
    task, _ = given("C30_regression/regression.csv")
    assert (task.kind, task.classes) == ("regression", ("label",))


def test_json_of_either_form_reads_the_same() -> None:
    found = [sequences(given(f"C31_json_parquet/{name}")[1]) for name in ("json_records.json", "lines.jsonl")]
    assert found[0] == found[1]
    assert len(found[0]) == 40


def test_the_layouts_of_gue_and_genomic_benchmarks() -> None:
    task, splits = given("C32_gue_gb_layouts/gue")
    assert (task.name, sizes(splits)) == ("gue", [120, 40, 40])
    _, named = given(*(f"C32_gue_gb_layouts/gue/{part}.csv" for part in ("train", "dev", "test")))
    assert sequences(named) == sequences(splits)
    task, splits = given("C32_gue_gb_layouts/gb")
    assert (task.classes, sizes(splits)) == (("negative", "positive"), [72, 8, 40])
    assert sum(example.label == 1 for example in splits.test) == 20
    motif = [("ACTAACGGGG" in example.windows[0].sequence) == (example.label == 1) for example in splits.test]
    assert all(motif)


def test_columns_of_deepbind_and_prismnet() -> None:
    for name in ("deepbind.seq", "deepbind.tsv"):
        assert len(sequences(given(f"C33_deepbind_prismnet/{name}")[1])) == 40
    reading = Reading(sequence_column="2", label_columns=("5",))
    with pytest.raises(UserError, match="is this line a header"):
        given("C33_deepbind_prismnet/prismnet_headerless.tsv", reading=Reading(sequence_column="1", label_columns=("5",)))
    task, splits = given("C33_deepbind_prismnet/prismnet_headerless.tsv", reading=reading)
    assert len(sequences(splits)) == sum(sizes(splits))
    assert task.classes


def test_scores_are_of_bound_windows(tmp_path: Path) -> None:
    record = harness.run("gc", str(CASES / "C17_bound_unbound/table.csv"), results=tmp_path, quiet=True, device="cpu")
    assert record.metrics is not None
    assert round(record.metrics["f1"], 3) == 0.857
    assert round(record.metrics["auprc"], 3) == 0.95
