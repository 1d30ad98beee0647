"""Tables from made-up records: one test for each rule."""

import io
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from harness.card import ModelCard
from harness.errors import BadData, UnknownName, UserError
from harness.evidence import tables
from harness.evidence.metrics import METRICS
from harness.evidence.records import Predictions, RunRecord, write
from harness.evidence.tables import Published, long, model_label, read_published, render, show, summary, wide
from harness.recipe import Recipe

PROBE = Recipe(tune="probe")


def record(model="msamamba", task="QKI", accuracy=0.9, seed=0, minute=0, **changes) -> RunRecord:
    floor = model in ("kmer", "gc", "cnn")
    usual = PROBE if model in ("kmer", "gc") else Recipe()
    recipe = changes.pop("recipe", usual)
    facts = {name: changes.pop(name) for name in ("checkpoint", "size", "options") if name in changes}
    split, files = changes.pop("split", "thesis"), changes.pop("files", {"train.csv": "aa"})
    card = ModelCard("", "", "", "DNA", floor=floor, checkpoint="msamamba.pt" if model == "msamamba" else None)
    simulated = task.endswith("(sample)")
    made = {
        "run_id": f"seed{seed}-{minute:010}",
        "task": {
            "name": task,
            "family": "rbp",
            "split": split,
            "default_split": "thesis",
            "simulated": simulated,
            "classes": ("unbound", "bound"),
            "files": files,
            "best_accuracy": 0.96 if simulated else None,
        },
        "model": {"name": model, "card": asdict(card), "recipe": asdict(usual)}
        | {"checkpoint": None, "size": "base", "options": {}}
        | facts,
        "recipe": asdict(recipe),
        "seed": seed,
        "code": "c0de",
        "metrics": {"accuracy": accuracy, "log_loss": 1 - accuracy, "auroc": None},
        "timing": {"seconds": {"total": 2.0}, "examples_per_second": 50.0, "peak_memory_bytes": 7},
        "created": f"2030-01-01T00:{minute:02}:00.000+00:00",
    }
    return RunRecord(**(made | changes))


def failed(**changes) -> RunRecord:
    return record(status="failed", error="RunFailed: loss is nan\nsecond line", metrics={}, **changes)


def cells(table) -> dict[tuple[str, str], str]:
    return {(row[0], column): cell for row in table.rows for column, cell in zip(table.columns, row) if column != "model"}


def cell(records, row="msamamba (from scratch)", column="QKI", metric="accuracy", **more) -> str:
    return cells(wide(records, metric, **more))[row, column]


def test_mean_and_sd_over_seeds():
    accuracies = [0.90, 0.94, 0.95]
    found = cell([record(accuracy=value, seed=seed) for seed, value in enumerate(accuracies)])
    assert found == f"{np.mean(accuracies):.4f} ± {np.std(accuracies, ddof=1):.4f} (n=3)" == "0.9300 ± 0.0265 (n=3)"
    assert cell([record(accuracy=0.94386)]) == "0.9439 (n=1)"


def test_n_counts_seeds_and_the_newest_run_of_a_seed_wins():
    records = [record(accuracy=0.8, minute=1), record(accuracy=0.9, minute=3, code="newer"), record(accuracy=0.7, minute=2)]
    assert cell(records) == "0.9000 (n=1)"
    assert summary(records).counted.tolist() == [False, True, False]


def test_real_and_simulated_data_never_share_a_column():
    table = wide([record(), record(task="QKI (sample)", accuracy=0.5, files={"generator": "1"})], "accuracy")
    assert table.columns == ("model", "QKI", "QKI (sample)")
    assert cells(table)["msamamba (from scratch)", "QKI"] == "0.9000 (n=1)"
    assert cells(table)["msamamba (from scratch)", "QKI (sample)"] == "0.5000 (n=1)"
    assert "(sample): simulated data, which says nothing about the real set" in table.notes


def test_best_possible_accuracy_of_simulated_data():
    records = [record(), record(task="QKI (sample)")]
    assert wide(records, "accuracy").rows[-1] == ("best possible", "", "0.9600")
    assert "best possible" not in dict(cells(wide(records, "log_loss")))
    assert all(row[0] != "best possible" for row in wide([record()], "accuracy").rows)


def test_columns_are_a_split_and_the_same_data():
    table = wide([record(split="published"), record(), record(task="PTBP1")], "accuracy")
    assert table.columns == ("model", "PTBP1", "QKI [published]", "QKI")
    changed = wide([record(), record(model="cnn", files={"train.csv": "bb"})], "accuracy")
    assert len(changed.columns) == 3
    assert all(name.startswith("QKI data ") for name in changed.columns[1:])


@pytest.mark.parametrize(
    ("facts", "label"),
    [
        ({"model": "kmer"}, "kmer (floor)"),
        ({"model": "cnn", "recipe": PROBE}, "cnn (floor, untrained, probe)"),
        ({}, "msamamba (from scratch)"),
        ({"recipe": PROBE}, "msamamba (untrained, probe)"),
        ({"checkpoint": {"name": "msamamba.pt", "sha256": "aa"}}, "msamamba (msamamba.pt)"),
        ({"size": "tiny", "options": {"attention": "raw_reshape"}}, "msamamba (from scratch, size tiny, attention=raw_reshape)"),
        ({"model": "mine"}, "mine"),
    ],
)
def test_row_labels(facts, label):
    assert model_label(record(**facts)) == label


def test_floors_come_first():
    table = wide([record(), record(model="mine"), record(model="kmer"), record(model="gc")], "accuracy")
    assert [row[0] for row in table.rows] == ["gc (floor)", "kmer (floor)", "mine", "msamamba (from scratch)"]


def test_worse_than_the_kmer_floor_is_marked_whichever_way_is_up():
    records = [record(model="kmer", accuracy=0.9), record(accuracy=0.8), record(model="cnn", accuracy=0.95), record(task="ILF3")]
    table = wide(records, "accuracy")
    assert cells(table)["msamamba (from scratch)", "QKI"] == "0.8000 (n=1) ↓"
    assert cells(table)["kmer (floor)", "QKI"] == "0.9000 (n=1)"
    assert cells(table)["cnn (floor)", "QKI"] == "0.9500 (n=1)"
    assert cells(table)["msamamba (from scratch)", "ILF3"] == "0.9000 (n=1)"
    assert table.notes == ("↓ worse than kmer (floor)",)
    assert cells(wide(records, "log_loss"))["msamamba (from scratch)", "QKI"] == "0.2000 (n=1) ↓"


def test_collapsed_seeds_are_flagged():
    table = wide([record(accuracy=0.5, collapsed=True, seed=2), record(accuracy=0.5)], "accuracy")
    assert table.rows[0][1] == "0.5000 ± 0.0000 (n=2) ! [1]"
    assert table.notes == ("[1] msamamba (from scratch), QKI: collapsed, every test example in one class (seed 2)",)


def test_failed_runs_are_cells():
    table = wide([failed()], "accuracy")
    assert table.rows == (("msamamba (from scratch)", "failed [1]"),)
    assert table.notes == ("[1] msamamba (from scratch), QKI: seed 0 failed: RunFailed: loss is nan",)
    assert cell([failed(), record(seed=1)]) == "0.9000 (n=1) [1]"


def test_undefined_metric():
    assert cell([record()], metric="auroc") == "undefined"


def test_the_newest_setting_is_shown_whatever_it_scores():
    low = Recipe(learning_rate=1e-5)
    table = wide([record(accuracy=0.95, minute=1), record(accuracy=0.85, minute=2, recipe=low)], "accuracy")
    assert table.rows[0][1] == "0.8500 (n=1) [1] [2]"
    assert table.notes == (
        "[1] msamamba (from scratch), QKI: not the model's own recipe: learning_rate 1e-05 (not 3e-05)",
        "[2] msamamba (from scratch), QKI: the newest setting; 1 more in summary.csv",
    )
    assert cell([record(accuracy=0.95, minute=1), failed(minute=2, recipe=low)]) == "0.9500 (n=1) [1]"


def test_summary_holds_every_run():
    records = [record(seed=1), failed(minute=1), record(model="kmer", task="QKI (sample)", collapsed=True)]
    frame = summary(records)
    assert len(frame) == 3
    assert set(METRICS) <= set(frame.columns)
    first = frame.iloc[0]
    assert (first.model, first.task, first.seed) == ("msamamba (from scratch)", "QKI", 1)
    assert (first.accuracy, first.status) == (0.9, "finished")
    assert (first.seconds_total, first.peak_memory_bytes, first.recipe_learning_rate) == (2.0, 7, 3e-5)
    assert first.folder == "QKI/msamamba/seed1-0000000000"
    assert frame.iloc[1].error.startswith("RunFailed")
    assert frame.iloc[2].simulated
    assert frame.iloc[2]["flags"].startswith("collapsed")


def test_long_never_pools_settings_or_simulated_data():
    records = [record(seed=seed, task=task, accuracy=0.9) for seed in (0, 1) for task in ("QKI", "ILF3")]
    records += [
        record(task="QKI (sample)", accuracy=0.1),
        record(recipe=Recipe(epochs=1), accuracy=0.2, minute=3),
        record(accuracy=0.9, minute=9),
    ]
    frame = long(records, "accuracy", ["model"])
    assert list(frame.columns) == ["model", "simulated", "setting", "mean", "sd", "runs", "seeds"]
    assert sorted(zip(frame["mean"].round(3), frame.runs, frame.seeds)) == [(0.1, 1, 1), (0.2, 1, 1), (0.9, 4, 2)]
    assert len(long(records, "accuracy", ["task", "seed"])) == 6
    assert long([failed()], "accuracy", ["model"]).runs.tolist() == [0]
    with pytest.raises(UnknownName, match=r"--by 'nothing': choose model,task or any of"):
        long(records, "accuracy", ["nothing"])


def published(**changes) -> Published:
    facts = {"source": "Doe 2020", "table": "Table 2", "model": "BERT", "task": "QKI", "metric": "accuracy"}
    return Published(**(facts | {"value": "0.80", "sd": "", "n": "", "split": "thesis", "note": ""} | changes))


def test_published_numbers_are_rows_of_their_own_in_the_same_column():
    numbers = [published(sd="0.01", n="3", note="100 nt")]
    numbers += [published(task="ILF3"), published(split="published"), published(metric="f1")]
    table = wide([record(), record(model="kmer", accuracy=0.85)], "accuracy", numbers)
    assert table.rows[-1] == ("BERT (published: Doe 2020)", "0.80 ± 0.01 (n=3) [1] ↓")
    assert table.notes == ("↓ worse than kmer (floor)", "[1] 100 nt")
    assert len(wide([record(task="QKI (sample)")], "accuracy", numbers).rows) == 2  # the model and the best possible


HEADER = ",".join(tables.PUBLISHED_COLUMNS)
GOOD = "Doe 2020,Table 2,BERT,QKI,accuracy,0.80,0.01,3,thesis,"


def test_published_files(tmp_path):
    (tmp_path / "doe.csv").write_text(f"{HEADER}\n{GOOD}\n")
    assert read_published(tmp_path) == [published(sd="0.01", n="3")]
    assert isinstance(read_published(), list)  # the project's own are valid
    assert (tables.published_folder() / "README.md").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,accuracy\nBERT,0.8\n", "expected the columns source,table"),
        (f"{HEADER}\n{GOOD},more\n", "line 2: has too many cells"),
        (f"{HEADER}\n{GOOD.replace('thesis', '')}\n", "line 2: split is empty"),
        (f"{HEADER}\n{GOOD.replace('accuracy', 'loss')}\n", "line 2: metric 'loss' is none of accuracy"),
        (f"{HEADER}\n{GOOD.replace('0.80', 'nan')}\n", "line 2: value 'nan' is no number"),
        (f"{HEADER}\n{GOOD}\n{GOOD}\n", "line 3: repeats Doe 2020, BERT, QKI"),
    ],
)
def test_bad_published_files(tmp_path, text, message):
    (tmp_path / "doe.csv").write_text(text)
    with pytest.raises(BadData, match=message):
        read_published(tmp_path)


def test_csv_and_markdown():
    table = tables.Table("accuracy", ("model", "QKI [published]"), (("a|b", "0.5 ↓"), ("c,d", "")), ("↓ worse",))
    text = render(table, "csv")
    assert text == 'model,QKI [published]\na|b,0.5 ↓\n"c,d",\n# ↓ worse\n'
    assert pd.read_csv(io.StringIO(text), comment="#").shape == (2, 2)
    assert render(table, "markdown").splitlines() == [
        "| model | QKI [published] |",
        "| --- | --- |",
        "| a\\|b | 0.5 ↓ |",
        "| c,d |  |",
        "",
        "↓ worse",
    ]


def test_terminal_keeps_brackets():
    console = Console(file=io.StringIO(), width=80)
    show(wide([record(split="published", collapsed=True)], "accuracy"), console)
    printed = console.file.getvalue()
    assert "QKI [published]" in printed
    assert "[1]" in printed


def test_intervals_stand_beside_the_score_and_are_the_widest_of_the_seeds():
    records = [
        record(accuracy=0.8, intervals={"accuracy": (0.75, 0.85)}),
        record(accuracy=0.9, seed=1, intervals={"accuracy": (0.7, 0.95)}),
    ]
    table = tables.wide(records, "accuracy")
    assert table.rows[0][1] == "0.8500 ± 0.0707 (n=2) [0.700, 0.950]"
    assert any("block-bootstrap" in note for note in table.notes)
    assert tables.wide(records[:1], "f1").notes == ()
    row = tables.summary(records).iloc[0]
    assert (row.accuracy_low, row.accuracy_high) == (0.75, 0.85)


@pytest.fixture
def results_dir(tmp_path):
    predictions = Predictions(("a",), np.array([1]), np.array([[0.1, 0.9]]), ("unbound", "bound"))
    for made in (record(), record(seed=1, accuracy=0.8), record(model="kmer")):
        write(made, predictions, tmp_path)
    return tmp_path


def test_write_tables(results_dir):
    paths = tables.write_tables(results_dir)
    assert [path.name for path in paths] == [*(f"{name}.csv" for name in tables.WIDE), "summary.csv"]
    assert sorted((results_dir / "tables").iterdir()) == sorted(paths)
    wide_file = pd.read_csv(paths[0], comment="#").set_index("model")
    assert wide_file.loc["msamamba (from scratch)", "QKI"] == "0.8500 ± 0.0707 (n=2) ↓"
    assert sorted(pd.read_csv(paths[-1]).accuracy) == [0.8, 0.9, 0.9]
    tables.write_tables(results_dir)  # tables/ is no task


def test_the_main_metric_of_the_tasks_is_shown_unless_they_differ(tmp_path, capsys):
    made = record(metrics={"accuracy": 0.9, "auroc": 0.75})
    write(replace(made, task={**made.task, "main_metric": "auroc"}), None, tmp_path)
    tables.print_table(tmp_path, None, "model,task", "csv")
    assert "0.7500" in capsys.readouterr().out
    write(record(task="PTBP1", metrics={"accuracy": 0.8, "auroc": 0.65}), None, tmp_path)
    tables.print_table(tmp_path, None, "model,task", "csv")
    assert "0.9000" in capsys.readouterr().out


@pytest.mark.parametrize("format", tables.FORMATS)
def test_print_table(results_dir, capsys, format):
    tables.print_table(results_dir, "accuracy", "model, task", format)
    printed = capsys.readouterr().out
    assert "kmer (floor)" in printed
    assert "0.8500 ± 0.0707 (n=2) ↓" in printed
    tables.print_table(results_dir, None, "task,seed", format)
    assert "0.9000" in capsys.readouterr().out


def test_print_table_refuses(tmp_path, results_dir):
    with pytest.raises(UnknownName, match="metric 'loss': choose one of accuracy"):
        tables.print_table(results_dir, "loss", "model,task", "csv")
    with pytest.raises(UnknownName, match="format 'html'"):
        tables.print_table(results_dir, "f1", "model,task", "html")
    with pytest.raises(UserError, match=r"no records in .*harness run"):
        tables.print_table(tmp_path / "none", "f1", "model,task", "csv")
