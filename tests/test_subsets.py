"""Scores on novel and on leaking test examples, and what a table says where these differ from those on all."""

import csv

import pandas as pd
import pytest
from made_records import cells, failed, labels, published, record

import harness
from harness.errors import UnknownName
from harness.evidence import tables
from harness.evidence.cells import NO_AUDIT
from harness.evidence.records import read_all, write
from harness.evidence.tables import long, summary, wide

COUNTS = {"none": 60, "near": 5, "overlap": 25, "exact": 10}


def part(examples: int, **metrics: float | None) -> dict:
    intervals = {name: None if value is None else (value - 0.125, value + 0.125) for name, value in metrics.items()}
    return {"examples": examples, "metrics": metrics, "intervals": intervals}


def audited(model="msamamba", accuracy=0.9, novel: float | None = 0.75, leaking: float | None = 0.95, counts=COUNTS, **more):
    leaks = sum(counts.values()) - counts["none"]
    subsets = {"novel": part(counts["none"], accuracy=novel), "leaking": part(leaks, accuracy=leaking)}
    leakage = {"counts": counts, "parameters": {"identity": 0.8}, "subsets": subsets}
    intervals = {"accuracy": (accuracy - 0.0625, accuracy + 0.0625)}
    return record(model, accuracy=accuracy, leakage=leakage, intervals=intervals, **more)


# --- a table of a subset -------------------------------------------------------------------------------------------------


def test_cells_have_the_scores_and_intervals_of_the_subset():
    records = [audited(), audited(seed=1, accuracy=0.8, novel=0.5), audited("kmer", accuracy=0.7, novel=0.7, leaking=0.96)]
    found = {subset: cells(wide(records, "accuracy", subset=subset)) for subset in ("all", "novel", "leaking")}
    place, column = "msamamba (from scratch)", "QKI"
    assert found["all"][place, f"{column} ‡"] == "0.8500 ± 0.0707 (n=2) [0.738, 0.963]"
    assert found["novel"][place, column] == "0.6250 ± 0.1768 (n=2) [0.375, 0.875] ↓"  # its floor is that of the subset
    assert found["leaking"][place, column] == "0.9500 ± 0.0000 (n=2) [0.825, 1.075] ↓"
    novel = wide(records, "accuracy", subset="novel")
    assert str(novel).splitlines()[0].strip() == "accuracy, novel test examples"
    assert set(novel.to_frame().subset) == {"novel"}
    assert "scored on novel test examples alone: QKI 60 of 100" in novel.notes
    assert "scored on leaking test examples alone: QKI 40 of 100" in wide(records, "accuracy", subset="leaking").notes
    assert any(text.endswith("over the novel examples of the test split; of several seeds, the widest") for text in novel.notes)


def test_a_cell_without_an_audit_says_so():
    records = [record("bob"), audited("eve"), failed(model="mallory"), audited("kmer", seed=0), record("kmer", seed=1)]
    table = wide(records, "accuracy", subset="novel")
    found = {row: cell for (row, _), cell in cells(table).items()}
    assert found == {
        "kmer (floor)": "0.7500 (n=1) [0.625, 0.875] [1]",
        "bob": "no audit",
        "eve": "0.7500 (n=1) [0.625, 0.875]",
        "mallory": "failed [2]",
    }
    assert "no audit: the record does not say which test examples leak; run it again with --force" in table.notes
    assert "[1] kmer (floor), QKI: no audit, so not counted: seed 1" in str(table)
    assert table.to_frame().set_index("model").marks["bob"] == NO_AUDIT
    assert "scored on novel test examples alone: QKI no audit" in wide([record()], "accuracy", subset="novel").notes


def test_a_subset_without_examples_is_undefined():
    clean = audited(counts={"none": 100, "near": 0, "overlap": 0, "exact": 0}, novel=0.9, leaking=None)
    table = wide([clean], "accuracy", subset="leaking")
    assert cells(table) == {("msamamba (from scratch)", "QKI"): "undefined"}
    assert "scored on leaking test examples alone: QKI 0 of 100" in table.notes


def test_published_rows_and_the_best_possible_score_are_of_all_examples():
    records = [audited(), audited(task="QKI (sample)")]
    table = wide(records, "accuracy", [published()], subset="novel")
    assert labels(table) == ["msamamba (from scratch)"]
    said = "published rows are not shown: their papers score all test examples, not the novel ones"
    assert said in table.notes
    assert said not in wide(records, "accuracy", subset="novel").notes
    assert len(wide(records, "accuracy", [published()]).rows) == 3


def test_audits_with_other_counts_are_both_said():
    other = audited("bob", counts={"none": 80, "near": 0, "overlap": 20, "exact": 0})
    assert (
        "scored on novel test examples alone: QKI 60 of 100 or 80 of 100"
        in wide([audited(), other], "accuracy", subset="novel").notes
    )


# --- what the table of all examples says ---------------------------------------------------------------------------------


def test_columns_of_which_many_examples_leak_are_marked():
    few = audited(task="PTBP1", counts={"none": 95, "near": 5, "overlap": 0, "exact": 0})
    table = wide([audited(), few, record(task="ILF3")], "accuracy")
    assert [column.name for column in table.leaking] == ["QKI"]
    assert "‡ many test examples repeat, overlap or resemble training examples (40.0% in QKI); see --subset novel" in table.notes
    header = str(table).splitlines()[1].split()
    assert header[header.index("QKI") + 1] == "‡"
    assert header.count("‡") == 1
    assert list(table.columns.values()) == ["ILF3", "PTBP1", "QKI"]  # what --sort takes
    assert "‡" not in str(wide([audited()], "accuracy", subset="novel"))


def test_a_changed_order_is_said_where_models_swap_places():
    records = [audited(novel=0.6), audited("kmer", accuracy=0.8, novel=0.7), audited("gc", accuracy=0.5, novel=0.5)]
    said = "order changes without leaking examples in QKI: msamamba (from scratch) 1 → 2, kmer (floor) 2 → 1"
    assert said in wide(records, "accuracy").notes
    assert said not in wide(records, "accuracy", subset="novel").notes
    swapped = [audited(novel=0.6, metrics={"log_loss": 0.1}), audited("kmer", accuracy=0.8, novel=0.7, metrics={"log_loss": 0.2})]
    assert not any("order changes" in text for text in wide(swapped, "log_loss").notes)  # no novel log-loss is known


@pytest.mark.parametrize(
    ("others", "swap"),
    [
        ([audited("kmer", accuracy=0.8, novel=0.74)], False),
        ([audited("kmer", accuracy=0.9, novel=0.76)], False),  # equal on all examples: no order to change
        ([record("kmer", accuracy=0.8)], False),  # not audited
        ([audited("kmer", accuracy=0.8, novel=0.76)], True),
        ([audited("kmer", accuracy=0.8, novel=0.76), record("kmer", accuracy=1.0, seed=1)], True),  # by the audited seed
    ],
)
def test_only_a_swap_among_audited_runs_is_a_changed_order(others, swap):
    assert any("order changes" in text for text in wide([audited(), *others], "accuracy").notes) == swap


def test_losses_are_ranked_the_other_way_round():
    def lossy(model, both, novel):
        made = audited(model)
        made.metrics["log_loss"] = both
        made.leakage["subsets"]["novel"]["metrics"]["log_loss"] = novel
        return made

    table = wide([lossy("a", 0.1, 0.4), lossy("b", 0.2, 0.3)], "log_loss")
    assert "order changes without leaking examples in QKI: a 1 → 2, b 2 → 1" in table.notes


# --- lists, files and the command ----------------------------------------------------------------------------------------


def test_summary_and_lists_have_the_subsets(tmp_path):
    records = [audited(), audited(seed=1, novel=0.25), record("bob")]
    frame = summary(records).set_index("seed")
    assert frame.novel_examples.tolist() == [60, 60, pd.NA]
    assert frame.leaking_examples.dtype == "Int64"
    assert frame.loc[1].novel_accuracy == 0.25
    assert "novel_auroc" in frame
    assert not [name for name in summary([record()]) if name.startswith(("novel", "leaking"))]
    listed = long(records, "accuracy", ["model"], "novel")
    assert listed.set_index("model")["mean"].dropna().to_dict() == {"msamamba (from scratch)": 0.5}
    assert listed.runs.tolist() == [0, 2]


def test_the_command_and_its_python_face(harness, tmp_path):
    for made in (audited(), audited("kmer", accuracy=0.8, novel=0.7)):
        write(made, None, tmp_path)
    assert read_all(tmp_path)[0].leakage["counts"] == COUNTS
    done = harness("table", "--results", str(tmp_path), "--subset", "novel", "--format", "csv")
    lines = list(csv.DictReader(done.stdout.splitlines()))
    assert [(line["model"], line["mean"], line["subset"]) for line in lines] == [
        ("kmer (floor)", "0.7", "novel"),
        ("msamamba (from scratch)", "0.75", "novel"),
    ]
    with open(tmp_path / "tables" / "accuracy.csv", newline="", encoding="utf-8") as file:
        assert {line["subset"] for line in csv.DictReader(file)} == {"all"}  # the files are those of all examples
    refused = harness("table", "--results", str(tmp_path), "--subset", "new")
    assert refused.returncode == 2
    assert "subset 'new': choose one of all, novel, leaking" in refused.stderr
    assert len(refused.stderr.splitlines()) <= 2


def test_a_table_in_python_takes_a_subset(tmp_path):
    write(audited(), None, tmp_path)
    assert harness.table(results=tmp_path, subset="novel").to_frame()["mean"].tolist() == [0.75]
    with pytest.raises(UnknownName, match="subset 'old': choose one of all, novel, leaking"):
        tables.make_table(tmp_path, subset="old")
