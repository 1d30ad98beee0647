"""Tables of predictions: every format, several seeds, labels and scores, stopped runs, and what is refused before anything runs."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from conftest import ROOT
from made_trained import Adapter, Heard, Made, gc, seeds
from sklearn.metrics import roc_auc_score

from harness.errors import HarnessError, UserError
from harness.inference import answers
from harness.inference.answers import PART, Seeds
from harness.inference.inputs import open_input
from harness.inference.predict import columns_of, predict

SEQUENCES = ["ACGTACGTAA", "GGGGGCCCCC", "ATATATATAT", "GCGCATATGG"]


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text("".join(f">s{number}\n{sequence}\n" for number, sequence in enumerate(SEQUENCES)))
    return path


@pytest.fixture
def many(tmp_path, monkeypatch):
    """A FASTA of 50 sequences, which are asked about 8 at a time."""
    monkeypatch.setattr(answers, "CHUNK", 8)
    rng = np.random.default_rng(0)
    path = tmp_path / "many.fa"
    path.write_text("".join(f">w{number} class:{number % 2}\n{''.join(rng.choice(list('ACGT'), 10))}\n" for number in range(50)))
    return path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_sequence_in_the_files_order(tmp_path, fasta):
    outcome = predict(seeds(), open_input([fasta]), tmp_path / "x.csv")
    found = rows(tmp_path / "x.csv")
    assert list(found[0]) == ["id", "probability_unbound", "probability_bound", "prediction"]
    assert [row["id"] for row in found] == ["s0", "s1", "s2", "s3"]
    assert [float(row["probability_bound"]) for row in found] == [gc(sequence) for sequence in SEQUENCES]
    assert [row["prediction"] for row in found] == ["unbound", "bound", "unbound", "bound"]
    assert (outcome.entries, outcome.scores) == (4, {})
    assert os.listdir(tmp_path).count("x.csv") == 1
    assert not (tmp_path / f"x.csv{PART}").exists()


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.csv.gz", "x.jsonl", "x.jsonl.gz", "x.parquet"])
def test_every_format_holds_the_same_numbers(tmp_path, fasta, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    import pandas

    predict(seeds(Made(), Made(seed=3)), open_input([fasta]), tmp_path / name)
    if name.endswith("parquet"):
        found = pandas.read_parquet(tmp_path / name)
    elif "json" in name:
        found = pandas.read_json(tmp_path / name, lines=True, precise_float=True)
    else:
        found = pandas.read_csv(tmp_path / name, sep="\t" if "tsv" in name else ",")
    expected = [np.mean([gc(sequence), gc(sequence) + (1 - gc(sequence)) * 3 / 10]) for sequence in SEQUENCES]
    assert found["probability_bound"].tolist() == expected
    assert found["id"].tolist() == ["s0", "s1", "s2", "s3"]


def test_seeds_are_averaged_and_their_spread_is_shown(tmp_path, fasta):
    predict(seeds(Made(), Made(seed=5), Made(seed=10)), open_input([fasta]), tmp_path / "x.csv")
    for row, sequence in zip(rows(tmp_path / "x.csv"), SEQUENCES, strict=True):
        of_seeds = [gc(sequence) + (1 - gc(sequence)) * share for share in (0, 0.5, 1)]
        assert float(row["probability_bound"]) == pytest.approx(np.mean(of_seeds), abs=1e-15)
        assert float(row["sd_bound"]) == pytest.approx(np.std(of_seeds, ddof=1), abs=1e-15)
        assert float(row["sd_unbound"]) == pytest.approx(np.std(of_seeds, ddof=1), abs=1e-15)


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged():
    with pytest.raises(UserError, match="differ in more than the seed"):
        seeds(Made(), Made(seed=1, label="PUM2"))


def test_labels_are_shown_and_scored(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,sequence,label\na,ACGTACGTAA,unbound\nb,GGGGGCCCCC,bound\nc,GGGGGGGGAA,unbound\nd,GCGCATATGG,\n")
    outcome = predict(seeds(), open_input([path]), tmp_path / "out.csv")
    assert [row["label"] for row in rows(tmp_path / "out.csv")] == ["unbound", "bound", "unbound", ""]
    assert outcome.scored == 3
    assert outcome.scores["accuracy"] == pytest.approx(2 / 3)
    assert outcome.scores["auroc"] == roc_auc_score([0, 1, 0], [0.4, 1.0, 0.8])


def test_labels_of_fasta_headers_may_be_0_and_1_and_others_are_said(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text(">a class:0\nACGTACGTAA\n>b class:1\nGGGGGCCCCC\n>c class:liver\nGGGGGCCCCC\n")
    outcome = predict(seeds(), open_input([path]), tmp_path / "out.csv")
    assert outcome.scored == 2
    assert outcome.scores["accuracy"] == 1
    assert outcome.notes == [
        "labels 0 and 1 are read as 'unbound' and 'bound'",
        "1 labels, such as 'liver', are none of the run's (unbound, bound); not scored",
    ]


def test_a_regression_predicts_a_number(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("sequence,te\nACGTACGTAA,41\nGGGGGCCCCC,99\nATATATATAT,0\nATATATATAT,low\nATATATATAT,inf\n")
    made = seeds(Made(kind="regression", classes=("te",), reading={"sequence_column": "", "label_columns": ["te"]}))
    sequence, labels = columns_of(made, path, "", ())
    outcome = predict(made, open_input([path], sequence_column=sequence, label_columns=labels), tmp_path / "out.csv")
    found = rows(tmp_path / "out.csv")
    assert [(row["label"], float(row["prediction"])) for row in found[:3]] == [("41", 40.0), ("99", 100.0), ("0", 0.0)]
    assert outcome.notes == ["2 labels, such as 'low', 'inf', are no numbers; not scored"]
    assert outcome.scores["mae"] == pytest.approx(2 / 3)
    assert list(found[0]) == ["id", "label", "prediction"]


def test_several_labels_are_read_from_columns_called_like_them(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("sequence,a,b\nACGTACGTAA,1,0\nGGGGGCCCCC,0,1\n")
    made = seeds(Made(kind="multilabel", classes=("a", "b")))
    sequence, labels = columns_of(made, path, "", ())
    outcome = predict(made, open_input([path], sequence_column=sequence, label_columns=labels), tmp_path / "out.csv")
    found = rows(tmp_path / "out.csv")
    assert [(row["labels"], row["prediction"]) for row in found] == [("1;0", "1;0"), ("0;1", "0;1")]
    assert outcome.scores["exact_match"] == 1


@pytest.mark.parametrize(("lost", "left"), [(3, 23), (0, 24)])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(tmp_path, many, lost, left):
    predict(seeds(Made(), Made(seed=1)), open_input([many]), tmp_path / "undisturbed.csv")
    stopped, heard = Made(stop_after=3), Heard()
    with pytest.raises(KeyboardInterrupt):
        predict(seeds(stopped, Made(seed=1)), open_input([many]), tmp_path / "x.csv", heard)
    assert stopped.asked == [8, 8, 8]
    assert heard.lines[-1] == "stopped after 24 of 50 answers; the same command goes on there"
    assert not (tmp_path / "x.csv").exists()
    part = tmp_path / f"x.csv{PART}"
    with part.open("r+b") as file:
        file.truncate(part.stat().st_size - lost)  # killed in the middle of a row, or between two
    again, heard = Made(), Heard()
    outcome = predict(seeds(again, Made(seed=1)), open_input([many]), tmp_path / "x.csv", heard)
    assert again.asked == [8] * (6 - left // 8) + [2]
    assert f"{part}: goes on after {left} answers of a run that was stopped" in heard.lines
    assert (tmp_path / "x.csv").read_bytes() == (tmp_path / "undisturbed.csv").read_bytes()
    assert outcome.scored == 50
    assert not part.exists()


def test_what_was_begun_with_another_input_is_not_gone_on_with(tmp_path, many):
    with pytest.raises(KeyboardInterrupt):
        predict(seeds(Made(stop_after=3)), open_input([many]), tmp_path / "x.csv")
    many.write_text(many.read_text().replace(">w0 ", ">first "))
    again, heard = Made(), Heard()
    predict(seeds(again), open_input([many]), tmp_path / "x.csv", heard)
    assert again.asked == [8] * 6 + [2]
    assert any("was begun with another input; begun anew" in line for line in heard.lines)
    assert rows(tmp_path / "x.csv")[0]["id"] == "first"


def test_two_processes_do_not_write_one_file(tmp_path, many):
    with answers.Part(tmp_path / "x.csv", {}, 3), pytest.raises(UserError, match="another process is writing it"):
        predict(seeds(), open_input([many]), tmp_path / "x.csv")


def test_a_window_longer_than_the_model_is_refused_before_anything_is_predicted(tmp_path, fasta):
    fasta.write_text(fasta.read_text() + ">long\nACGTACGTACGTACGT\n>longer\nACGTACGTACGTACGTACGT\n")
    made = Made(adapter=Adapter(max_length=12))
    with pytest.raises(UserError) as caught:
        predict(seeds(made), open_input([fasta]), tmp_path / "x.csv")
    message = (
        f"{fasta}: record 'long': 16 nt, but cnn takes at most 12 (2 of 6 are longer); cut it, or slide along it with --scan"
    )
    assert str(caught.value) == message
    assert made.asked == []
    assert os.listdir(tmp_path) == ["x.fa"]
    fasta.write_text(">a\nACGTACGT\n>short\nAC\n")
    with pytest.raises(UserError, match=r"record 'short': a window of 2 nt, below 6"):
        predict(seeds(Made(adapter=Adapter(shortest=6))), open_input([fasta]), tmp_path / "x.csv")


def test_lengths_that_training_did_not_have_are_counted(tmp_path, fasta):
    fasta.write_text(fasta.read_text() + ">long\nACGTACGTACGTACGT\n>u\nacgu\n")
    heard = Heard()
    predict(seeds(Made(lengths=(10, 12))), open_input([fasta]), tmp_path / "x.csv", heard)
    assert heard.lines == [
        f"6 sequences of {fasta}",
        "  1 are shorter than the windows of training (10 to 12 nt)",
        "  1 are longer than the windows of training (10 to 12 nt)",
        "  counted: 4 lower case, 1 u to t",
    ]


def test_what_the_model_was_not_trained_for_is_refused(tmp_path, fasta):
    with pytest.raises(UserError, match=r"was trained on variants \(QKI\), and these are sequences; give a VCF"):
        predict(seeds(Made(windows_per_example=2)), open_input([fasta]), tmp_path / "x.csv")
    with pytest.raises(UserError, match="was trained on columns of an alignment"):
        predict(seeds(Made(species=("mouse",))), open_input([fasta]), tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.xlsx", r"the name must end in \.csv"),
        ("none/x.csv", "there is no folder"),
        (".", "the name must end in"),
        ("x.fa", r"the name must end in \.csv"),
    ],
)
def test_files_that_cannot_be_written_are_refused_before_anything_is_predicted(tmp_path, fasta, name, message):
    made = Made()
    with pytest.raises(UserError, match=message):
        predict(seeds(made), open_input([fasta]), tmp_path / name)
    assert made.asked == []


def test_the_input_itself_is_never_overwritten(tmp_path):
    (tmp_path / "x.csv").write_text("sequence\nACGT\n")
    with pytest.raises(UserError, match="is another file of this command"):
        predict(seeds(), open_input([tmp_path / "x.csv"]), tmp_path / "x.csv")


def test_a_file_that_exists_is_replaced_only_if_asked(tmp_path, fasta):
    made = Made()
    (tmp_path / "x.csv").write_text("precious")
    with pytest.raises(UserError, match=r"x\.csv: exists; choose another name, or --force to replace it"):
        predict(seeds(made), open_input([fasta]), tmp_path / "x.csv")
    assert made.asked == []
    assert (tmp_path / "x.csv").read_text() == "precious"
    predict(seeds(made), open_input([fasta]), tmp_path / "x.csv", force=True)
    assert len(rows(tmp_path / "x.csv")) == 4


def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path, many, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.inference.writing.lines", full)
    with pytest.raises(HarnessError, match=r"x\.csv: was not written \(No space left on device\); make room"):
        predict(seeds(), open_input([many]), tmp_path / "x.csv")
    monkeypatch.undo()
    assert not (tmp_path / "x.csv").exists()


def test_memory_does_not_grow_with_the_number_of_sequences(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "CHUNK", 512)
    peaks = []
    for count in (5_000, 20_000):
        path = tmp_path / f"{count}.fa"
        path.write_text("".join(f">w{number}\n{SEQUENCES[number % 4] * 10}\n" for number in range(count)))
        tracemalloc.start()
        predict(seeds(Made(lengths=(100, 100))), open_input([path]), tmp_path / f"{count}.csv")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1_000_000


# --- the command ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model with two seeds, trained in a process of its own."""
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(1)
    with (folder / "mine.csv").open("w") as file:
        print("sequence,label", file=file)
        for number in range(60):
            print(f"{''.join(rng.choice(list('ACGT'), 20))}{'ACTAACT' * (number % 2)},{('no', 'yes')[number % 2]}", file=file)
    words = ["run", "--model", "cnn", "--task", "mine.csv", "--seed", "0..1", "--epochs", "1", "--quiet", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    subprocess.run([sys.executable, "-m", "harness", *words], cwd=folder, env=environment, check=True, capture_output=True)
    return folder / "results" / "mine.csv" / "cnn"


def test_the_command_averages_the_seeds_of_a_models_folder(harness, tmp_path, model):
    (tmp_path / "new.csv").write_text("id,sequence,label\na,ACGTACGTACGTACGT,yes\nb,GGGGGCCCCCGGGGG,no\n")
    done = harness("predict", str(model), "new.csv", "--out", "both.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("both.csv: 2 rows\nscores of 2 entries with a label\n  accuracy ")
    assert "2 are shorter than the windows of training" in done.stderr
    runs = sorted(model.iterdir())
    for run in runs:
        assert harness("predict", str(run), "new.csv", "--out", f"{run.name}.csv").returncode == 0
    single = [[float(row["probability_yes"]) for row in rows(tmp_path / f"{run.name}.csv")] for run in runs]
    found = rows(tmp_path / "both.csv")
    assert [float(row["probability_yes"]) for row in found] == np.mean(single, axis=0).tolist()
    assert [float(row["sd_yes"]) for row in found] == pytest.approx(np.std(single, axis=0, ddof=1).tolist())
    named = harness("predict", *map(str, runs), "new.csv", "--out", "named.csv")
    assert named.returncode == 0
    assert (tmp_path / "named.csv").read_bytes() == (tmp_path / "both.csv").read_bytes()


def test_the_test_split_is_predicted_as_the_run_predicted_it(harness, tmp_path, model):
    run = sorted(model.iterdir())[0]
    kept = {row["id"]: row for row in rows(run / "predictions.csv")}
    with (model.parents[2] / "mine.csv").open() as file:
        lines = list(csv.DictReader(file))
    with (tmp_path / "test.csv").open("w") as file:
        print("id,sequence,label", file=file)
        for name in kept:
            print(f"{name},{lines[int(name.rpartition(':')[2]) - 1]['sequence']},{kept[name]['label']}", file=file)
    assert harness("predict", str(run), "test.csv", "--out", "again.csv").returncode == 0
    again = rows(tmp_path / "again.csv")
    record = json.loads((run / "record.json").read_text())
    for row in again:
        assert float(row["probability_yes"]) == pytest.approx(float(kept[row["id"]]["probability_yes"]), abs=1e-6)
    assert len(again) == len(kept) == sum(record["task"]["counts"]["test"].values())


def test_rows_go_to_standard_output_without_out(harness, tmp_path, model):
    (tmp_path / "x.fa.gz").write_bytes(gzip.compress(b">a\nACGTACGTACGTACGTAC\n>b\nGGGGGCCCCCGGGGGCC\n"))
    done = harness("predict", str(model), "x.fa.gz", "-q")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "id,probability_no,probability_yes,sd_no,sd_yes,prediction"
    assert [line.split(",")[0] for line in lines[1:]] == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL", "none.fa"], "none.fa: no such file; expected FASTA"),
        (["MODEL", "empty.fa"], "empty.fa: the file is empty"),
        (["nowhere", "x.fa"], "run nowhere: no such folder"),
        ([".", "x.fa"], "run .: not the folder of a run"),
        (["MODEL", "x.fa", "--out", "x.xls"], "out x.xls: the name must end in"),
        (["MODEL", "x.bed", "--out", "x.csv"], "intervals have no letters"),
        (["MODEL", "x.fa", "--batch-size", "0"], "batch-size 0"),
        (["MODEL", "x.fa", "--peaks", "p.bed"], "peaks, threshold and class are of scans"),
        (["MODEL", "x.fa", "--scan", "10:2"], "scan: say where to with --out"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(harness, tmp_path, model, words, message):
    (tmp_path / "x.fa").write_text(">a\nACGTACGTACGTACGTAC\n")
    (tmp_path / "x.bed").write_text("1\t0\t10\n")
    (tmp_path / "empty.fa").touch()
    before = sorted(os.listdir(tmp_path))
    done = harness("predict", *[str(model) if word == "MODEL" else word for word in words])
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_a_run_of_another_version_is_refused(harness, tmp_path, model):
    import shutil

    run = tmp_path / "old"
    shutil.copytree(sorted(model.iterdir())[0], run)
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, "format": 99}))
    (tmp_path / "x.fa").write_text(">a\nACGTACGTACGTACGTAC\n")
    done = harness("predict", "old", "x.fa", "--out", "x.csv")
    assert done.returncode == 2
    assert "has format '99', and this version reads 1; use the version that wrote it" in done.stderr
    assert not (tmp_path / "x.csv").exists()


def test_seeds_need_runs_of_one_kind():
    assert Seeds([Made()]).width == 3  # type: ignore[list-item]
    assert Seeds([Made(), Made(seed=1)]).width == 5  # type: ignore[list-item]


def test_a_file_of_the_users_own_is_not_taken_for_unfinished_answers(tmp_path, fasta):
    own = tmp_path / f"x.csv{PART}"
    own.write_text("my notes\n")
    with pytest.raises(UserError, match="holds something else; move it"):
        predict(seeds(), open_input([fasta]), tmp_path / "x.csv")
    assert own.read_text() == "my notes\n"
