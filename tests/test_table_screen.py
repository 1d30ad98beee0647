"""`harness table` on the screen: width, order, costs, the metric that is shown, and text that would steer a terminal."""

import csv
import io
from dataclasses import replace

import pytest
from made_records import failed, labels, published, record

from harness.cli.screen import Screen
from harness.errors import UnknownName, UserError
from harness.evidence import tables
from harness.evidence.cells import Costs
from harness.evidence.records import write
from harness.evidence.render import as_text, html, markdown
from harness.evidence.tables import wide

TASKS = ("QKI", "PTBP1", "ILF3", "GTF2F1", "a_task_with_quite_a_long_name_of_its_own")
SCORES = {"kmer": (0.8, 0.8, 0.8, 0.8, 0.8), "cnn": (0.7, 0.9, 0.6, 0.9, 0.9), "gc": (0.5, 0.5, 0.6, 0.5, 0.5)}


def costly(made, seconds=None, trainable=None, memory=None):
    """A record with its costs."""
    timing = {"seconds": {"train": seconds}, "peak_memory_bytes": memory}
    return replace(made, timing=timing, model=made.model | {"parameters": {"trainable": trainable, "total": 10}})


@pytest.fixture
def results(tmp_path):
    for model, accuracies in SCORES.items():
        for task, accuracy in zip(TASKS, accuracies):
            for seed in (0, 1):
                limits = {"accuracy": (accuracy - 0.1, accuracy + 0.1)}
                made = record(model, task=task, accuracy=accuracy, seed=seed, intervals=limits)
                write(costly(made, 2.0 + 2 * seed, 1000, 3 * 2**20), None, tmp_path)
    return tmp_path


def shown(harness, results, *arguments, **environment):
    done = harness("table", "--results", str(results), *arguments, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "arguments", [(), ("--costs",), ("--all-settings",), ("--by", "task,model,seed"), ("--by", "recipe_schedule")]
)
def test_a_table_fits_80_columns_and_leaves_no_task_out(harness, results, arguments):
    lines = shown(harness, results, *arguments, COLUMNS="80")
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert all(task in text for task in TASKS[:4])
    assert "a_task_with" in text


def test_a_table_that_is_too_wide_is_shown_in_blocks_with_narrow_columns_first(harness, results):
    lines = shown(harness, results, COLUMNS="80")
    headers = [line.split() for line in lines if line.startswith("model ")]
    assert headers[0][-1] == "rank"
    assert headers[-1][-1] == TASKS[-1]
    assert sorted(name for header in headers for name in header if name in TASKS) == sorted(TASKS)
    assert sum(line.startswith("kmer (floor)") for line in lines) == len(headers) > 1
    assert "[0.700, 0.900]" not in "\n".join(lines)
    assert "[low, high] intervals: see --wide" in lines
    whole = shown(harness, results, "--wide", COLUMNS="80")
    assert sum(line.startswith("kmer (floor)") for line in whole) == 1
    assert "[0.700, 0.900]" in "\n".join(whole)


def test_a_narrow_table_keeps_its_intervals(harness, tmp_path):
    write(record("kmer", accuracy=0.8, intervals={"accuracy": (0.7, 0.9)}), None, tmp_path)
    assert any("[0.700, 0.900]" in line for line in shown(harness, tmp_path, COLUMNS="80"))


def test_sort_puts_the_best_first_by_a_column_or_by_mean_rank(harness, results):
    def order(*arguments):
        lines = shown(harness, results, "--wide", *arguments)
        return [line.split()[0] for line in lines if "(floor)" in line and "worse" not in line]

    assert order() == ["cnn", "gc", "kmer"]
    assert order("--sort", "qki") == ["kmer", "cnn", "gc"]
    assert order("--sort", "QKI", "--metric", "log_loss") == ["kmer", "cnn", "gc"]
    assert order("--sort", "rank") == ["cnn", "kmer", "gc"]
    assert order("--sort", "mean rank") == ["cnn", "kmer", "gc"]
    lines = shown(harness, results, "--by", "model,task", "--sort", "rank", "--format", "csv")
    assert next(csv.reader(lines[1:]))[0] == "cnn (floor)"
    listed = shown(harness, results, "--by", "model,task,seed", "--sort", "mean", "--format", "csv")
    means = [float(line["mean"]) for line in csv.DictReader(listed)]
    assert means == sorted(means, reverse=True)
    with pytest.raises(UnknownName, match=r"sort 'QKJ': choose rank or one of GTF2F1, ILF3"):
        tables.make_table(results, None, sort="QKJ")
    with pytest.raises(UnknownName, match=r"sort 'QKJ': choose one of model, task, seed"):
        tables.make_table(results, None, "model,task,seed", sort="QKJ")


def test_rows_without_a_score_come_last_and_published_ones_are_sorted_too():
    records = [record("bob", accuracy=0.5), failed(model="alice"), record("eve", accuracy=0.9)]
    table = tables._sorted(wide(records, "accuracy", [published(value="0.7")]), "QKI")
    assert labels(table) == ["eve", "BERT (published: Doe 2020)", "bob", "alice"]


def test_mean_rank_is_over_the_columns_where_every_model_has_a_score():
    records = [
        record(model, task=task, accuracy=SCORES[model][place]) for model in SCORES for place, task in enumerate(TASKS[:3])
    ]
    records += [record("cnn", task="extra"), failed(model="eve", task="QKI"), record("gc", task="QKI (sample)", accuracy=0.99)]
    table = wide(records, "accuracy", [published(value="0.99")])
    ranks, shared = table.mean_ranks()
    assert shared == 3
    # QKI: kmer, cnn, gc; PTBP1: cnn, kmer, gc; ILF3: kmer, then cnn and gc with equal means
    assert {row.model: rank for row, rank in ranks.items()} == {
        "kmer": pytest.approx(4 / 3),
        "cnn": pytest.approx((2 + 1 + 2.5) / 3),
        "gc": pytest.approx((3 + 3 + 2.5) / 3),
    }
    assert "mean rank: over the 3 of 5 columns where every model has a score; 1 is best" in as_text(table).notes
    first = as_text(table)
    assert first.header[-1] == "mean rank"
    assert {row[0]: row[-1] for row in first.rows} | {"eve": ""} == {row[0]: row[-1] for row in first.rows}
    losses, _ = wide(records, "log_loss").mean_ranks()
    assert {row.model: rank for row, rank in losses.items()} == {row.model: rank for row, rank in ranks.items()}
    apart = wide([record("bob"), record("eve", task="PTBP1")], "accuracy")
    assert apart.mean_ranks() == ({}, 0)
    with pytest.raises(UserError, match="sort 'rank': there is no column where every model has a score"):
        tables._sorted(apart, "rank")


def test_costs_are_columns_of_the_table_and_of_the_csv(harness, results):
    records = [costly(record("bob"), 1.5, 4000, 2**21), costly(record("bob", seed=1), 2.5, 4000, 2**22), record("eve", timing={})]
    table = replace(wide(records, "accuracy"), costs=True)
    assert as_text(table).header[-3:] == ("train s", "trainable", "peak MiB")
    assert as_text(table).rows[0][-3:] == ("2.0", "4,000", "4")
    assert as_text(table).rows[1][-3:] == ("", "", "")
    assert "costs of a row, over its columns: train s is the mean of" in as_text(table).notes[-1]
    assert [cell.costs for cell in table.cells.values()] == [Costs(2.0, 4000, 2**22), Costs()]
    line = next(csv.DictReader(shown(harness, results, "--costs", "--format", "csv")))
    assert (line["train_seconds"], line["trainable_parameters"], line["peak_memory_bytes"]) == ("3.0", "1000", str(3 * 2**20))
    assert "train_seconds" not in shown(harness, results, "--format", "csv")[0]
    with pytest.raises(UserError, match=r"costs with --by model,seed: .*summary\.csv"):
        tables.make_table(results, None, "model,seed", costs=True)


@pytest.mark.parametrize(
    ("asked", "found"),
    [("AUROC", "auroc"), ("Accuracy", "accuracy"), (" log-loss ", "log_loss"), ("F1", "f1"), ("Matthews correlation", "mcc")],
)
def test_a_metric_may_be_spelt_in_any_case(asked, found):
    assert tables.metric_named(asked) == found


@pytest.mark.parametrize(("asked", "near"), [("auc", "auroc"), ("acuracy", "accuracy"), ("logloss", "log_loss")])
def test_an_unknown_metric_gets_the_nearest_names(asked, near):
    with pytest.raises(UnknownName, match=f"metric '{asked}': choose one of .*; did you mean .*{near}"):
        tables.metric_named(asked)


def test_accuracy_is_no_headline_where_most_of_a_test_split_is_one_class(tmp_path, harness):
    def counts(bound):
        return {"test": {"unbound": 100 - bound, "bound": bound}}

    metrics = {"accuracy": 0.9, "auroc": 0.625}
    write(record("bob", counts=counts(40), metrics=metrics), None, tmp_path)
    assert shown(harness, tmp_path)[0].strip() == "accuracy"
    write(record("bob", task="rare", counts=counts(10), metrics=metrics), None, tmp_path)
    lines = shown(harness, tmp_path, "--wide")
    assert lines[0].strip() == "area under the ROC curve"
    reason = "shown because accuracy says little where most of a test split is one class (90% of rare); --metric accuracy"
    assert reason in [line.strip() for line in lines]
    assert reason in [line.strip() for line in shown(harness, tmp_path, "--wide", "--by", "model,seed")]
    assert shown(harness, tmp_path, "--metric", "accuracy")[0].strip() == "accuracy"
    write(record("bob", task="variants", counts=counts(10), metrics=metrics, main_metric="auprc"), None, tmp_path)
    assert shown(harness, tmp_path)[0].strip() == "area under the ROC curve"  # the tasks' main metrics differ


def test_control_characters_of_names_reach_no_screen(harness, tmp_path):
    odd = "evil\x1b[2J\x07\u202e\rname\nline"
    made = record(odd, task=odd, classes=("no", odd), counts={"test": {"no": 1, odd: 9}}, options={"x": odd}, collapsed=True)
    write(made, None, tmp_path)
    write(failed(model="kmer", task=odd, seed=1), None, tmp_path)
    for arguments in ((), ("--wide",), ("--metric", "f1"), ("--by", "model,task"), ("--by", "task,model")):
        for format in tables.FORMATS:
            text = harness("table", "--results", str(tmp_path), *arguments, "--format", format).stdout
            assert not [letter for letter in text if not letter.isprintable() and letter != "\n"]
            assert "evil\\x1b[2J" in text.replace("\n", "")
    table = wide([made], "f1")
    assert "\x1b" not in str(table) + html(table) + markdown(table)
    assert all("\x1b" not in path.read_text() for path in (tmp_path / "tables").iterdir())


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_texts_that_a_spreadsheet_would_compute_are_marked_in_csv(tmp_path, start):
    name = f'{start}HYPERLINK("http://x")'
    write(record(name, task=name, metrics={"accuracy": 0.5, "mcc": -0.25}), None, tmp_path)
    tables.write_tables(tmp_path)
    for path in (tmp_path / "tables").iterdir():
        (line,) = csv.DictReader(io.StringIO(path.read_text()))
        assert line["model"] == line["task"] == f"'{name}"
        assert path.name != "summary.csv" or line["mcc"] == "-0.25"


def test_no_id_becomes_a_picture(capsys):
    screen = Screen()
    screen.conclude("human:train:negative:3 [bold]")
    screen.say("on human:train:negative:3 [bold]")
    screen.card({"name": "human:train:negative:3 [bold]"})
    shown = capsys.readouterr()
    assert shown.out == "human:train:negative:3 [bold]\nname  human:train:negative:3 [bold]\n"
    assert shown.err == "on human:train:negative:3 [bold]\n"
