"""Papers' numbers are read from their files, and faults in these are refused."""

import csv
from collections import Counter

import pytest
from conftest import ROOT

from harness.errors import BadData
from harness.evidence.metrics import METRICS
from harness.evidence.notes import hard_losses
from harness.evidence.published import COLUMNS, OPTIONAL, Published, published_folder, read_published

HEADER = ",".join(COLUMNS)
WHOLE = ",".join([*COLUMNS, *OPTIONAL])
GOOD = "Doe 2020,Table 2,BERT,QKI,accuracy,0.80,0.01,3,thesis,"
TRANSCRIBED = ROOT.parent / "shared" / "reference" / "published"
GENOMIC_BENCHMARKS = {
    "dummy_mouse_enhancers_ensembl",
    "demo_coding_vs_intergenomic_seqs",
    "demo_human_or_worm",
    "human_enhancers_cohn",
    "human_enhancers_ensembl",
    "human_ensembl_regulatory",
    "human_nontata_promoters",
    "human_ocr_ensembl",
}
RBP = {"GTF2F1", "HNRNPL", "HNRNPM", "PTBP1", "ILF3", "MATR3", "KHSRP", "QKI"}


def lines(name: str) -> list[dict[str, str]]:
    with open(published_folder() / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_published_files(tmp_path):
    (tmp_path / "doe.csv").write_text(f"{HEADER}\n{GOOD}\n")
    expected = Published("Doe 2020", "Table 2", "BERT", "QKI", "accuracy", "0.80", "0.01", "3", "thesis", "")
    assert read_published(tmp_path) == [expected]
    assert expected.label == "BERT (published: Doe 2020)"
    assert isinstance(read_published(), list)  # the project's own are valid
    assert (published_folder() / "README.md").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,accuracy\nBERT,0.8\n", "expected the columns source,table"),
        (f"{HEADER}\n{GOOD},more\n", "line 2: has too many cells"),
        (f"{HEADER}\n{GOOD.replace('thesis', '')}\n", "line 2: split is empty"),
        (f"{HEADER}\n{GOOD.replace('accuracy', 'loss')}\n", "line 2: metric 'loss' is none of accuracy"),
        (f"{HEADER}\n{GOOD.replace('0.80', 'nan')}\n", "line 2: value 'nan' is no number"),
        (f"{HEADER}\n{GOOD}\n{GOOD}\n", "line 3: repeats Doe 2020, BERT, QKI"),
        (f"{HEADER},adapter\n{GOOD},bert\n", "expected the columns source,.*note, perhaps with adapter,spread after them"),
        (f"{WHOLE}\n{GOOD},bert,0.087\n", "line 2: spread '0.087' is neither range nor se with a number"),
        (
            f"{WHOLE}\n{GOOD},bert,\n{GOOD.replace('QKI', 'ILF3')},dnabert2,\n",
            r"line 3: adapter 'dnabert2', but 'bert' in an earlier line of BERT \(published: Doe 2020\)",
        ),
    ],
)
def test_bad_published_files(tmp_path, text, message):
    (tmp_path / "doe.csv").write_text(text)
    with pytest.raises(BadData, match=message):
        read_published(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", HEADER.encode() + b"\n" + b"x" * 200_000 + b"\n"])
def test_a_published_file_that_is_no_csv_text_is_named(tmp_path, content):
    (tmp_path / "doe.csv").write_bytes(content)
    with pytest.raises(BadData, match=r"doe\.csv(: not a readable CSV file|, line 2: )"):
        read_published(tmp_path)


def test_the_folder_is_found_in_a_checkout_and_in_a_wheel(tmp_path):
    package, checkout = tmp_path / "harness", tmp_path / "results" / "published"
    assert published_folder(package) == checkout
    (package / "published").mkdir(parents=True)
    assert published_folder(package) == package / "published"


def test_a_file_may_name_our_adapter_and_a_spread_that_is_no_sd(tmp_path):
    (tmp_path / "doe.csv").write_text(f"{WHOLE}\n{GOOD.replace('0.01', '')},dnabert2,range 0.087\n")
    (found,) = read_published(tmp_path)
    assert (found.adapter, found.spread, found.sd) == ("dnabert2", "range 0.087", "")


# --- the project's own files ---------------------------------------------------------------------------------------------


def test_every_number_that_was_transcribed_is_there():
    files = {path.name for path in published_folder().glob("*.csv")}
    counts = {name: len(lines(name)) for name in files}
    assert counts == {
        "thesis.csv": 144,
        "msamamba.csv": 40,
        "genomic_benchmarks.csv": 199,
        "variants.csv": 22,
        "variants_elsewhere.csv": 316,
    }
    assert len(read_published()) == sum(counts.values())


@pytest.mark.skipif(not TRANSCRIBED.is_dir(), reason="needs ../shared/reference/published")
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("thesis.csv", "thesis_rbp.csv"),
        ("msamamba.csv", "msamamba_genomic_benchmarks.csv"),
        ("genomic_benchmarks.csv", "genomic_benchmarks.csv"),
    ],
)
def test_the_values_are_those_of_the_transcription(ours, theirs):
    with open(TRANSCRIBED / theirs, newline="", encoding="utf-8") as file:
        expected = Counter((row["task"], row["metric"], float(row["value"]), row["n"]) for row in csv.DictReader(file))
    assert Counter((row["task"], row["metric"], float(row["value"]), row["n"]) for row in lines(ours)) == expected


@pytest.mark.skipif(not TRANSCRIBED.is_dir(), reason="needs ../shared/reference/published")
def test_the_facts_on_variants_are_all_kept_but_those_of_a_metric_that_is_not_ours():
    with open(TRANSCRIBED / "variants_facts.csv", newline="", encoding="utf-8") as file:
        facts = list(csv.DictReader(file))
    expected = {(row["model"], row["metric"], round(float(row["value"]), 6)) for row in facts if row["metric"] in METRICS}
    found = [*lines("variants.csv"), *lines("variants_elsewhere.csv")]
    assert {(row["model"], row["metric"], round(float(row["value"]), 6)) for row in found} == expected
    assert len(facts) - len(found) == 4 + 8  # weighted by chromosome; printed twice


def test_the_tasks_are_ours_where_a_column_is_meant():
    assert {row["task"] for row in lines("thesis.csv")} == RBP
    assert {row["task"] for row in lines("msamamba.csv")} == GENOMIC_BENCHMARKS
    assert {row["task"] for row in lines("genomic_benchmarks.csv")} == GENOMIC_BENCHMARKS | {"drosophila_enhancers_stark"}
    assert {(row["task"], row["split"]) for row in lines("variants.csv")} == {
        ("clinvar[common]", "chromosome"), ("omim[common]", "chromosome")
    }  # fmt: skip
    assert not {row["task"] for row in lines("variants_elsewhere.csv")} & {"clinvar", "omim", "clinvar[common]", "omim[common]"}
    assert {row["split"] for row in lines("genomic_benchmarks.csv") + lines("msamamba.csv")} == {"published"}


def test_every_adapter_that_a_number_stands_for_is_one_of_ours():
    named = {item.adapter for item in read_published()} - {""}
    assert named <= {path.stem for path in (ROOT / "adapters").glob("*.py")}
    assert {"cnn", "hyenadna", "caduceus", "dnabert1", "dnabert2", "gpn_msa", "msamamba", "genemask", "rnafm"} <= named


def test_largest_minus_smallest_is_no_sd_and_a_test_set_used_for_validation_is_said():
    for item in read_published():
        assert not (item.sd and item.spread)
        if item.spread.startswith("range"):
            assert "range is largest minus smallest" in item.note
        if "secondary" in item.source:
            assert item.note.startswith("secondary: ")
    chosen = {(item.source, item.model) for item in read_published() if "test split as validation" in item.note}
    assert chosen == {("HyenaDNA paper, secondary", "HyenaDNA")}


def test_the_loss_that_the_thesis_prints_says_what_its_accuracy_says():
    thesis = [item for item in read_published() if item.source == "Sharma thesis"]
    assert hard_losses(thesis) == (48, 48)
    accuracy = {(item.model, item.task): float(item.value) for item in thesis if item.metric == "accuracy"}
    losses = {(item.model, item.task): float(item.value) for item in thesis if item.metric == "hard_log_loss"}
    assert len(losses) == 48
    assert losses == {key: pytest.approx((1 - accuracy[key]) * 36.04, abs=0.004) for key in losses}
    f1 = [item for item in thesis if item.metric == "f1"]
    assert hard_losses([*f1, *(item for item in thesis if item.metric == "accuracy")]) == (0, 0)
