"""Tables from made-up records: one test for each rule."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_records import PROBE, cells, checkpoint, failed, labels, published, record

from harness.errors import UnknownName, UserError
from harness.evidence import tables
from harness.evidence.cells import BELOW, Row
from harness.evidence.metrics import METRICS
from harness.evidence.records import Predictions, write
from harness.evidence.render import as_text
from harness.evidence.tables import long, model_label, summary, wide
from harness.recipe import Recipe


@pytest.fixture
def results_dir(tmp_path):
    predictions = Predictions(("a",), np.array([1]), np.array([[0.1, 0.9]]), ("unbound", "bound"))
    for made in (record(), record(seed=1, accuracy=0.8), record(model="kmer")):
        write(made, predictions, tmp_path)
    return tmp_path


def cell(records, row="msamamba (from scratch)", column="QKI", metric="accuracy", **more) -> str:
    return cells(wide(records, metric, **more))[row, column]


def test_mean_and_sd_over_seeds():
    accuracies = [0.90, 0.94, 0.95]
    found = cell([record(accuracy=value, seed=seed) for seed, value in enumerate(accuracies)])
    assert found == f"{np.mean(accuracies):.4f} ± {np.std(accuracies, ddof=1):.4f} (n=3)" == "0.9300 ± 0.0265 (n=3)"
    assert cell([record(accuracy=0.94386)]) == "0.9439 (n=1)"


def test_n_counts_seeds_and_the_newest_run_of_a_seed_wins():
    records = [record(accuracy=0.8, minute=1), record(accuracy=0.9, minute=3), record(accuracy=0.7, minute=2)]
    assert cell(records) == "0.9000 (n=1)"
    assert summary(records).counted.tolist() == [False, True, False]


def test_real_and_simulated_data_never_share_a_column():
    table = wide([record(), record(task="QKI (sample)", accuracy=0.5, files={"generator": "1"})], "accuracy")
    assert as_text(table).header == ("model", "QKI", "QKI (sample)")
    assert cells(table)["msamamba (from scratch)", "QKI"] == "0.9000 (n=1)"
    assert cells(table)["msamamba (from scratch)", "QKI (sample)"] == "0.5000 (n=1)"
    assert "(sample): simulated data, which says nothing about the real set" in table.notes


def test_best_possible_accuracy_of_simulated_data():
    records = [record(), record(task="QKI (sample)")]
    assert as_text(wide(records, "accuracy")).rows[-1] == ("best possible", "", "0.9600")
    assert "best possible" not in labels(wide(records, "log_loss"))
    assert "best possible" not in labels(wide([record()], "accuracy"))


def test_columns_are_a_split_and_the_same_data():
    table = wide([record(split="published"), record(), record(task="PTBP1")], "accuracy")
    assert list(table.columns.values()) == ["PTBP1", "QKI [published]", "QKI"]
    changed = wide([record(), record(model="cnn", files={"train.csv": "bb"})], "accuracy")
    assert len(changed.columns) == 2
    assert all(label == f"QKI data {column.data[:6]}" for column, label in changed.columns.items())


def test_columns_are_told_apart_by_fields_not_by_labels():
    odd = record(task="QKI@512")  # a file of somebody's own may be called so
    table = wide([odd, record(task="QKI", context=512), record(task="QKI", context=128), record()], "accuracy")
    assert {(column.name, column.context) for column in table.columns} == {
        ("QKI", None),
        ("QKI", 128),
        ("QKI", 512),
        ("QKI@512", None),
    }
    renamed = wide([record(), record(model="cnn", files={"renamed.csv": "aa"})], "accuracy")
    assert list(renamed.columns.values()) == ["QKI"]


def test_two_checkpoints_of_one_name_are_two_rows():
    one, two = checkpoint("/runs/one/pytorch_model.bin", "f1"), checkpoint("/runs/two/pytorch_model.bin", "f2")
    alone = wide([record(checkpoint=one)], "accuracy")
    assert labels(alone) == ["msamamba (pytorch_model.bin)"]
    records = [record(checkpoint=one, accuracy=0.7), record(checkpoint=two, accuracy=0.8, minute=1)]
    table = wide(records, "accuracy")
    assert labels(table) == ["msamamba (one/pytorch_model.bin)", "msamamba (two/pytorch_model.bin)"]
    assert [cell.mean for cell in table.cells.values()] == [0.7, 0.8]
    assert summary(records).model.tolist() == labels(table)
    assert long(records, "accuracy", ["model"])["mean"].tolist() == [0.7, 0.8]


def test_two_checkpoints_of_one_name_and_folder_name_show_a_piece_of_their_fingerprints():
    places = {"/a/run/model.safetensors": "1" * 64, "/b/run/model.safetensors": "2" * 64, "/b/other/model.safetensors": "3" * 64}
    table = wide([record(checkpoint=checkpoint(*place)) for place in places.items()], "accuracy")
    assert labels(table) == [
        "msamamba (model.safetensors 11111111)",
        "msamamba (model.safetensors 22222222)",
        "msamamba (other/model.safetensors)",
    ]
    retrained = [record(checkpoint=checkpoint("run/model.safetensors", number * 64)) for number in "12"]
    assert len(wide(retrained, "accuracy").rows) == 2  # one path, but not the same weights


def test_one_checkpoint_in_two_places_is_one_row():
    first = record(checkpoint=checkpoint("/here/model.pt", "f1"), accuracy=0.7)
    moved = record(checkpoint=checkpoint("/there/renamed.pt", "f1"), accuracy=0.8, minute=1, seed=1)
    table = wide([moved, first], "accuracy")
    assert cells(table) == {("msamamba (renamed.pt)", "QKI"): "0.7500 ± 0.0707 (n=2)"}
    assert summary([moved, first]).model.tolist() == ["msamamba (renamed.pt)"] * 2
    again = replace(moved, seed=0)
    assert cell([first, again], "msamamba (renamed.pt)") == "0.8000 (n=1)"  # it replaces the older run of that seed


def test_a_checkpoint_known_by_its_sha256_alone_joins_the_only_one_with_that_sha256():
    old = record(checkpoint=checkpoint(fingerprint="aa"), accuracy=0.7)
    new = record(checkpoint=checkpoint(fingerprint="f1"), accuracy=0.8, minute=1, seed=1)
    assert cell([old, new], "msamamba (msamamba.pt)") == "0.7500 ± 0.0707 (n=2)"
    other = record(checkpoint=checkpoint(fingerprint="f2"), accuracy=0.9, minute=2)  # another configuration beside it
    assert len(wide([old, new, other], "accuracy").rows) == 3


@pytest.mark.parametrize(
    ("facts", "label"),
    [
        ({"model": "kmer"}, "kmer (floor)"),
        ({"model": "cnn", "recipe": PROBE}, "cnn (floor, untrained, probe)"),
        ({}, "msamamba (from scratch)"),
        ({"recipe": PROBE}, "msamamba (untrained, probe)"),
        ({"checkpoint": checkpoint()}, "msamamba (msamamba.pt)"),
        ({"size": "tiny", "options": {"attention": "raw_reshape"}}, "msamamba (from scratch, size tiny, attention=raw_reshape)"),
        ({"model": "mine"}, "mine"),
    ],
)
def test_row_labels(facts, label):
    assert model_label(record(**facts)) == label


def test_floors_come_first():
    table = wide([record(), record(model="mine"), record(model="kmer"), record(model="gc")], "accuracy")
    assert labels(table) == ["gc (floor)", "kmer (floor)", "mine", "msamamba (from scratch)"]


def test_worse_than_the_kmer_floor_is_marked_whichever_way_is_up():
    records = [record(model="kmer", accuracy=0.9), record(accuracy=0.8), record(model="cnn", accuracy=0.95), record(task="ILF3")]
    table = wide(records, "accuracy")
    assert cells(table)["msamamba (from scratch)", "QKI"] == "0.8000 (n=1) ↓"
    assert cells(table)["kmer (floor)", "QKI"] == "0.9000 (n=1)"
    assert cells(table)["cnn (floor)", "QKI"] == "0.9500 (n=1)"
    assert cells(table)["msamamba (from scratch)", "ILF3"] == "0.9000 (n=1)"
    assert table.notes == ("↓ worse than kmer (floor)",)
    assert cells(wide(records, "log_loss"))["msamamba (from scratch)", "QKI"] == "0.2000 (n=1) ↓"
    larger = [record(accuracy=0.8), record(model="kmer", options={"k": 6}), record(model="kmer", size="tiny")]
    assert wide(larger, "accuracy").notes == ()  # only the published k-mer model is the floor


def test_collapsed_seeds_are_flagged():
    table = wide([record(accuracy=0.5, collapsed=True, seed=2), record(accuracy=0.5)], "accuracy")
    assert as_text(table).rows[0][1] == "0.5000 ± 0.0000 (n=2) ! [1]"
    assert as_text(table).notes == ("[1] msamamba (from scratch), QKI: collapsed, every test example in one class (seed 2)",)


def test_failed_runs_are_cells():
    table = wide([failed()], "accuracy")
    assert as_text(table).rows == (("msamamba (from scratch)", "failed [1]"),)
    assert as_text(table).notes == ("[1] msamamba (from scratch), QKI: seed 0 failed: RunFailed: loss is nan",)
    assert cell([failed(), record(seed=1)]) == "0.9000 (n=1) [1]"


def test_undefined_metric():
    assert cell([record()], metric="auroc") == "undefined"


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


def test_long_never_pools_tasks_settings_or_simulated_data():
    records = [record(seed=seed, task=task, accuracy=0.9) for seed in (0, 1) for task in ("QKI", "ILF3")]
    records += [
        record(task="QKI (sample)", accuracy=0.1),
        record(recipe=Recipe(epochs=1), accuracy=0.2, minute=3),
        record(accuracy=0.9, minute=9),
    ]
    frame = long(records, "accuracy", ["model"])
    assert list(frame.columns) == ["model", "task", "simulated", "data", "setting", "mean", "sd", "runs", "seeds"]
    found = sorted(zip(frame["mean"].round(3), frame.runs, frame.seeds))
    assert found == [(0.1, 1, 1), (0.2, 1, 1), (0.9, 2, 2), (0.9, 2, 2)]
    assert len(long(records, "accuracy", ["task", "seed"])) == 6
    assert long([failed()], "accuracy", ["model"]).runs.tolist() == [0]
    with pytest.raises(UnknownName, match=r"--by 'nothing': choose model,task or any of"):
        long(records, "accuracy", ["nothing"])


def test_published_numbers_are_rows_of_their_own_in_the_same_column():
    numbers = [published(sd="0.01", n="3", note="100 nt")]
    numbers += [published(task="ILF3"), published(split="published"), published(metric="f1")]
    table = wide([record(), record(model="kmer", accuracy=0.85)], "accuracy", numbers)
    assert as_text(table).rows[-1] == ("BERT (published: Doe 2020)", "0.80 ± 0.01 (n=3) [1] ↓")
    said = "published rows worse than the kmer floor: 1 of 1 in QKI (0.8500)"
    assert as_text(table).notes == ("↓ worse than kmer (floor)", said, "[1] 100 nt")
    assert len(wide([record(task="QKI (sample)")], "accuracy", numbers).rows) == 2  # the model and the best possible
    assert table.cells[Row("BERT", source="Doe 2020"), next(iter(table.columns))].mean == 0.8


def test_published_numbers_of_another_context():
    numbers = [published(task="clinvar", value="0.5"), published(task="clinvar@512", value="0.6")]
    table = wide([record(task="clinvar", context=128), record(task="clinvar", context=512)], "accuracy", numbers)
    assert as_text(table).rows[-1] == ("BERT (published: Doe 2020)", "0.5", "0.6")


def test_intervals_stand_beside_the_score_and_are_the_widest_of_the_seeds():
    records = [
        record(accuracy=0.8, intervals={"accuracy": (0.75, 0.85)}),
        record(accuracy=0.9, seed=1, intervals={"accuracy": (0.7, 0.95)}),
    ]
    table = wide(records, "accuracy")
    assert as_text(table).rows[0][1] == "0.8500 ± 0.0707 (n=2) [0.700, 0.950]"
    assert any("95 % interval" in note for note in table.notes)
    assert not any("95 % interval" in note for note in wide(records[:1], "f1").notes)
    row = summary(records).iloc[0]
    assert (row.accuracy_low, row.accuracy_high) == (0.75, 0.85)


def test_write_tables(results_dir):
    paths = tables.write_tables(results_dir)
    assert [path.name for path in paths] == [*(f"{name}.csv" for name in tables.WIDE), "summary.csv"]
    assert sorted((results_dir / "tables").iterdir()) == sorted(paths)
    line = pd.read_csv(paths[0]).set_index("model").loc["msamamba (from scratch)"]
    assert (line.task, line.metric, line["mean"], line.n, line.marks) == ("QKI", "accuracy", pytest.approx(0.85), 2, BELOW)
    assert line.sd == pytest.approx(0.1 / math.sqrt(2))
    assert sorted(pd.read_csv(paths[-1]).accuracy) == [0.8, 0.9, 0.9]
    tables.write_tables(results_dir)  # tables/ is no task


def test_the_main_metric_of_the_tasks_is_shown_unless_they_differ(tmp_path, capsys):
    made = record(metrics={"accuracy": 0.9, "auroc": 0.75})
    write(replace(made, task={**made.task, "main_metric": "auroc"}), None, tmp_path)
    tables.print_table(tmp_path, None, "model,task", "csv")
    assert ",auroc,0.75," in capsys.readouterr().out
    write(record(task="PTBP1", metrics={"accuracy": 0.8, "auroc": 0.65}), None, tmp_path)
    tables.print_table(tmp_path, None, "model,task", "csv")
    assert ",accuracy,0.9," in capsys.readouterr().out


@pytest.mark.parametrize("format", tables.FORMATS)
def test_print_table(results_dir, capsys, format):
    tables.print_table(results_dir, "accuracy", "model, task", format)
    printed = capsys.readouterr().out
    assert "kmer (floor)" in printed
    assert (",0.8500000000000001,0.0707" if format == "csv" else "0.8500 ± 0.0707 (n=2) ↓") in printed
    tables.print_table(results_dir, None, "task,seed", format)
    assert ("QKI,0,False," if format == "csv" else "0.9000") in capsys.readouterr().out


def test_print_table_refuses(tmp_path, results_dir):
    with pytest.raises(UnknownName, match="metric 'loss': choose one of accuracy"):
        tables.print_table(results_dir, "loss", "model,task", "csv")
    with pytest.raises(UnknownName, match="format 'html'"):
        tables.print_table(results_dir, "f1", "model,task", "html")
    with pytest.raises(UserError, match=r"no records in .*harness run"):
        tables.print_table(tmp_path / "none", "f1", "model,task", "csv")
