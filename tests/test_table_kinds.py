"""Tables of several kinds of task: a table each, and nothing of one kind in another's."""

import csv
import io
import shutil

import pandas as pd
import pytest
from made_records import cells, record

import harness
from harness.errors import UnknownName, UserError
from harness.evidence import tables
from harness.evidence.records import write
from harness.evidence.tables import long, summary, wide
from harness.task import MULTILABEL, REGRESSION


def regression(model="bob", task="activity", spearman=0.5, **more):
    metrics = {"spearman": spearman, "pearson": 0.6, "r2": 0.3, "rmse": 1.25, "mae": 1.0}
    intervals = {"spearman": (spearman - 0.125, spearman + 0.125)}
    asked = {"kind": REGRESSION, "classes": ("activity",), "main_metric": "spearman"}
    return record(model, task=task, metrics=metrics, intervals=intervals, **asked | more)


def multilabel(model="bob", task="tissues", auroc=0.7, **more):
    metrics = {"auroc": auroc, "auprc": 0.6, "f1": 0.5, "log_loss": 0.4, "exact_match": 0.3}
    return record(model, task=task, metrics=metrics, kind=MULTILABEL, classes=("liver", "brain", "lung"), **more)


@pytest.fixture
def results(tmp_path):
    for made in (record("bob", accuracy=0.75), regression(), regression("kmer", spearman=0.625), multilabel()):
        write(made, None, tmp_path)
    return tmp_path


def shown(harness, results, *arguments):
    done = harness("table", "--results", str(results), "--wide", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.strip() for line in done.stdout.splitlines()]


def test_each_kind_has_a_table_of_its_own_with_its_main_metric(harness, results):
    lines = shown(harness, results)
    titles = ["accuracy", "Spearman correlation", "area under the ROC curve"]
    headings = ["classification tasks", "regression tasks", "multilabel tasks"]
    assert [line for line in lines if line in headings + titles] == [
        text for pair in zip(headings, titles, strict=True) for text in pair
    ]
    headers = [line.split() for line in lines if line.startswith("model ")]
    assert [header[1] for header in headers] == ["QKI", "activity", "tissues"]
    assert not any(line.startswith("not shown") for line in lines)
    markdown = shown(harness, results, "--format", "markdown")
    assert [line for line in markdown if line.startswith("## ")] == [f"## {heading}" for heading in headings]


def test_one_kind_has_no_heading(harness, tmp_path):
    write(regression(), None, tmp_path)
    assert shown(harness, tmp_path)[0] == "Spearman correlation"
    assert not any("regression" in line for line in shown(harness, tmp_path, "--format", "markdown"))


def test_with_a_metric_the_other_kinds_are_counted(harness, results):
    lines = shown(harness, results, "--metric", "rmse")
    assert lines[0] == "root mean squared error"
    assert lines[-1] == "not shown: 1 column of classification (--metric accuracy), 1 column of multilabel (--metric auroc)"
    both = shown(harness, results, "--metric", "auroc")  # two kinds have it, and they share no table
    assert [line for line in both if line.endswith(" tasks")] == ["classification tasks", "multilabel tasks"]
    assert "not shown: 1 column of regression (--metric spearman)" in both
    refused = harness("table", "--results", str(results / "QKI"), "--metric", "spearman")
    assert refused.returncode == 2


def test_a_metric_that_no_kind_at_hand_has_is_refused(tmp_path):
    write(record(), None, tmp_path)
    message = "metric spearman: only regression has it, and the records are of classification; try accuracy"
    with pytest.raises(UserError, match=message):
        tables.make_table(tmp_path, "spearman")


def test_in_python_the_first_kind_is_given_and_the_others_are_named(results):
    table = harness.table(results=results)
    assert list(table.columns.values()) == ["QKI"]
    assert table.notes[-1] == "not shown: 1 column of regression (--metric spearman), 1 column of multilabel (--metric auroc)"
    assert list(harness.table("rmse", results=results).columns.values()) == ["activity"]


def test_lower_is_better_for_errors_and_the_floor_is_held_against(results):
    table = harness.table("spearman", results=results)
    assert cells(table) == {
        ("kmer (floor)", "activity"): "0.6250 (n=1) [0.500, 0.750]",
        ("bob", "activity"): "0.5000 (n=1) [0.375, 0.625] ↓",
    }
    worse = [regression("kmer"), regression("bob")]
    worse[1].metrics["rmse"] = 1.5
    assert cells(wide(worse, "rmse"))["bob", "activity"] == "1.5000 (n=1) ↓"


def test_a_note_on_the_positive_class_is_for_classes_only():
    assert not any("of the class" in text or "each against" in text for text in wide([multilabel()], "auroc").notes)


def test_a_collapsed_regression_has_no_classes_to_speak_of():
    assert "[1] bob, activity: collapsed, one answer to every test example (seed 0)" in str(
        wide([regression(collapsed=True)], "rmse")
    )


def test_one_question_read_as_two_kinds_is_two_columns():
    number, label = regression(task="mine.csv", question="q1"), record("bob", task="mine.csv", question="q1")
    frame = summary([number, label])
    assert frame.task.nunique() == 2
    assert frame.kind.tolist() == ["regression", "classification"]
    assert sorted(long([number, label], "accuracy", ["model"])["runs"]) == [0, 1]
    assert len(wide([label, number], "accuracy").columns) == 2


def test_a_column_to_sort_by_may_be_of_one_kind(harness, results):
    write(regression("eve", spearman=0.9375), None, results)
    lines = shown(harness, results, "--sort", "activity")
    start = lines.index("regression tasks")
    assert [line.split()[0] for line in lines[start + 3 : start + 6]] == ["eve", "kmer", "bob"]
    with pytest.raises(UnknownName, match="sort 'nothing': choose rank or one of QKI"):
        tables.make_table(results, sort="nothing")


def test_csv_has_the_lines_of_every_kind(harness, results):
    text = "\n".join(shown(harness, results, "--format", "csv", "--no-published"))
    found = [(line["kind"], line["metric"], line["model"], line["mean"]) for line in csv.DictReader(io.StringIO(text))]
    assert found == [
        ("classification", "accuracy", "bob", "0.75"),
        ("regression", "spearman", "kmer (floor)", "0.625"),
        ("regression", "spearman", "bob", "0.5"),
        ("multilabel", "auroc", "bob", "0.7"),
    ]
    listed = csv.DictReader(io.StringIO("\n".join(shown(harness, results, "--by", "model", "--format", "csv"))))
    assert [(line["metric"], line["mean"]) for line in listed] == [
        ("accuracy", "0.75"),
        ("spearman", "0.5"),
        ("spearman", "0.625"),
        ("auroc", "0.7"),
    ]


def test_files_are_written_for_the_kinds_at_hand(results):
    paths = tables.write_tables(results)
    names = {path.name for path in paths}
    assert {"accuracy.csv", "regression_spearman.csv", "multilabel_auroc.csv", "summary.csv"} <= names
    assert set((results / "tables").iterdir()) == set(paths)
    assert pd.read_csv(results / "tables" / "regression_rmse.csv")["mean"].tolist() == [1.25, 1.25]
    assert pd.read_csv(results / "tables" / "auroc.csv").task.tolist() == ["QKI"]
    frame = pd.read_csv(results / "tables" / "summary.csv").set_index(["task", "model"])
    assert frame.loc[("activity", "bob"), "spearman"] == 0.5
    assert frame.loc[("QKI", "bob"), "kind"] == "classification"
    shutil.rmtree(results / "activity")
    tables.write_tables(results)
    assert not list((results / "tables").glob("regression_*"))
