"""`harness explain`, from a run's folder to files, tables and refusals."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import planned_run, random_windows, variant_examples
from made_kinds import regression_task
from made_runs import put

from harness.evidence.attribution import write_attribution
from harness.evidence.records import read
from harness.evidence.tables import make_table
from harness.inference.explain import Settings, explain
from harness.inference.inputs import open_input
from harness.inference.trained import load_run
from harness.study.run import execute
from harness.task import Splits, Task

MEME = "MEME version 4\n\nMOTIF site\nletter-probability matrix: alength= 4 w= 6\n" + "0.7 0.1 0.1 0.1\n0.1 0.1 0.1 0.7\n" * 3


@pytest.fixture(scope="module")
def kmer(tmp_path_factory):
    """A k-mer model that ran on QKI's simulated sample, in a results folder: quick, and good enough to explain."""
    from typer.testing import CliRunner

    from harness.cli.main import app

    results = tmp_path_factory.mktemp("made") / "results"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HARNESS_DATA", str(results.parent / "data"))
        done = CliRunner().invoke(app, ["run", "--model", "kmer", "--task", "QKI", "--results", str(results), "--quiet"])
    assert done.exit_code == 0, done.output
    (folder,) = (results / "QKI-sample" / "kmer").iterdir()
    return folder


@pytest.fixture
def run(kmer, tmp_path):
    """A copy of its own for a test, in ``results`` of the folder that the test runs in."""
    folder = tmp_path / "results" / "QKI-sample" / "kmer" / kmer.name
    shutil.copytree(kmer, folder)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_sample_is_explained_and_becomes_a_column(harness, run, tmp_path):
    done = harness("explain", str(run), "--windows", "20", "--logo", "1")
    assert done.returncode == 0, done.stderr
    assert "explains the class 'bound' by mutagenesis: 20 of 391 windows" in done.stderr
    assert "attribution_auroc  0." in done.stdout
    out = tmp_path / "explained" / "QKI-sample" / "kmer" / run.name
    assert {path.name for path in out.iterdir()} == {
        "attribution.csv",
        "attribution.npz",
        "explain.json",
        "logos",
        "matches.csv",
        "motifs.meme",
        "seqlets.csv",
    }
    arrays = np.load(out / "attribution.npz")
    assert arrays["changes"].shape == arrays["hypothetical"].shape == (20, 101, 4)
    rows = rows_of(out / "attribution.csv")
    assert len(rows) == 20 * 101
    assert list(rows[0]) == ["id", "position", "base", "A", "C", "G", "T", "attribution"]
    first = rows[:101]
    assert "".join(row["base"] for row in first) == str(arrays["sequences"][0])
    assert all(float(row[row["base"]]) == 0 for row in first), "its own letter changes nothing"
    assert [float(row["attribution"]) for row in first] == pytest.approx(arrays["actual"][0].tolist(), rel=1e-4, abs=1e-6)
    (logo, _) = sorted((out / "logos").glob("01_*"))
    assert logo.read_bytes().startswith(b"\x89PNG")
    facts = json.loads((out / "explain.json").read_text())
    assert (facts["model"], facts["task"], facts["run_id"]) == ("kmer", "QKI (sample)", run.name)
    table = harness("table", "--metric", "attribution_auroc")
    value = facts["attribution_auroc"]["attribution_auroc"]
    assert 0.55 < value < 0.95
    assert f"{value:.4f}" in table.stdout
    assert harness("verify", "results").returncode == 0
    again = harness("explain", str(run), "--windows", "20")
    assert again.returncode == 2
    assert "exists; choose another folder with --out, or replace it with --force" in again.stderr


@pytest.mark.slow
def test_motifs_are_compared_with_known_ones(harness, run, tmp_path):
    """Tomtom is compiled on first use, which takes longer than anything else here."""
    Path("known.meme").write_text(MEME)
    done = harness("explain", str(run), "--windows", "100", "--logo", "0", "--motifs", "known.meme")
    assert done.returncode == 0, done.stderr
    (out,) = (tmp_path / "explained" / "QKI-sample" / "kmer").iterdir()
    matches = rows_of(out / "matches.csv")
    assert matches
    assert matches[0]["known"] in done.stdout


def test_an_input_is_explained_without_the_metric_and_counted(harness, run, tmp_path):
    text = "".join(f">w{number}\n{window.sequence.lower()}\n" for number, window in enumerate(random_windows(3, 30)))
    Path("new.fa").write_text(text + ">long\n" + random_windows(1, 300)[0].sequence + "\n")
    done = harness("explain", str(run), "new.fa", "--out", "out", "--top", "2", "--logo", "2", "--control")
    assert done.returncode == 0, done.stderr
    assert "2 of 4 windows, those with the highest score" in done.stderr
    assert "counted: 90 lower case" in done.stderr
    assert "control: only simulated samples know where motifs were planted; left out" in done.stderr
    assert not (run / "attribution.json").exists()
    arrays = np.load("out/attribution.npz")
    assert arrays["scores"][0] >= arrays["scores"][1]
    assert json.loads(Path("out/explain.json").read_text())["attribution_auroc"] is None


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--class", "nothing"], "class 'nothing': choose one of unbound, bound"),
            (["--method", "magic"], "method 'magic': choose one of mutagenesis, gradients"),
            (["--method", "gradients"], "kmer has no embedding layer for its letters or tokens; use --method mutagenesis"),
            (["--motifs", "none.meme"], "none.meme"),
            (["--genome", "hg38.fa"], "genome and sequence-column are of an INPUT"),
            (["empty.fa"], "empty"),
            (["--out", "mine", "--force"], "was not written by harness explain"),
        ],
    )
    def test_say_what_is_wrong_in_one_line_and_write_nothing(self, harness, run, arguments, message):
        Path("empty.fa").write_text("")
        Path("mine").mkdir()
        Path("mine/thesis.tex").write_text("precious")
        done = harness("explain", str(run), *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not Path("explained").exists()
        assert Path("mine/thesis.tex").read_text() == "precious"
        assert not (run / "attribution.json").exists()

    def test_no_run(self, harness, tmp_path):
        done = harness("explain", str(tmp_path))
        assert done.returncode == 2
        assert str(tmp_path) in done.stderr

    def test_a_missing_package_is_named(self, harness, run, monkeypatch):
        monkeypatch.setitem(sys.modules, "logomaker", None)
        done = harness("explain", str(run))
        assert done.returncode == 2
        assert "explaining needs the package logomaker: pip install 'gfm-harness[explain]'" in done.stderr

    def test_a_run_on_variants(self, harness, tmp_path):
        examples = variant_examples(60)
        splits = Splits(examples[:40], examples[40:50], examples[50:], {"made": "0" * 64})
        task = Task("made", "made", "harmful?", ("no", "yes"), lambda rule: splits, ("drawn",))
        record = execute(planned_run("cnn", task, splits, epochs=1), tmp_path / "results", opened=(task, splits))
        done = harness("explain", str(tmp_path / "results" / record.folder))
        assert done.returncode == 2
        assert "cnn was trained on pairs of windows (made), reference and alternate" in done.stderr


def test_force_replaces_an_earlier_explanation_whole(harness, run):
    assert harness("explain", str(run), "--windows", "2", "--logo", "1").returncode == 0
    out = Path("explained", "QKI-sample", "kmer", run.name)
    (out / "logos" / "old.png").write_text("")
    assert harness("explain", str(run), "--windows", "3", "--logo", "0", "--force").returncode == 0
    assert not (out / "logos").exists()
    assert len(np.load(out / "attribution.npz")["scores"]) == 3
    assert not list(out.parent.glob(".tmp*")), "nothing is left beside it"


def test_a_regression_is_explained_in_the_unit_of_its_number(tmp_path):
    task, splits = regression_task()
    record = execute(planned_run("kmer", task, splits), tmp_path / "results", opened=(task, splits))
    trained = load_run(tmp_path / "results" / record.folder, device="cpu")
    explained, _ = explain(trained, None, tmp_path / "out", Settings(windows=2, logos=0), opened=(task, splits))
    window = explained.windows[0].window
    mutant = window.sequence[:5] + "C" + window.sequence[6:]
    before, after = trained.predict([window.sequence, mutant])[:, 0]
    assert explained.found.changes is not None
    assert explained.found.changes[0, 5, 1] == pytest.approx(after - before, abs=1e-4)


def test_bed_without_a_genome_is_refused_as_everywhere(harness, run):
    Path("some.bed").write_text("chr1\t0\t101\n")
    done = harness("explain", str(run), "some.bed")
    assert done.returncode == 2
    assert "give their genome with --genome" in done.stderr
    with pytest.raises(Exception, match="--genome"):
        open_input([Path("some.bed")])


# --- tables --------------------------------------------------------------------------------------------------------------


def two_runs(folder):
    labels = np.array([0, 1] * 20)
    outputs = np.stack([1 - labels * 0.8 - 0.1, labels * 0.8 + 0.1], axis=1)
    return [put(folder, outputs, labels, model=model, task="QKI (sample)") for model in ("kmer", "cnn")]


class TestTables:
    def test_show_the_metric_where_it_is_and_nothing_elsewhere(self, tmp_path, capsys):
        one, _ = two_runs(tmp_path)
        write_attribution(tmp_path / one.folder, one.run_id, [0.7, 0.8, 0.9, 0.8, 0.8], {})
        text = str(make_table(tmp_path, "attribution_auroc"))
        assert "0.8000 (n=1) [0.712, 0.888]" in text
        assert "undefined" not in text
        assert "blank: simulated samples have it after `harness explain RUN`" in text
        assert "0.8" not in str(make_table(tmp_path, "accuracy")).split("cnn")[0]
        frame = make_table(tmp_path, "attribution_auroc").to_frame()
        assert frame["mean"].tolist() == [pytest.approx(0.8)]
        listed = make_table(tmp_path, "attribution_auroc", by="model").to_frame().set_index("model")["mean"]
        assert listed["kmer (floor)"] == pytest.approx(0.8)
        assert np.isnan(listed["cnn (floor)"])
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                '{"format": 1, "run_id": "seed0-other", "metrics": {"attribution_auroc": 0.8}, "intervals": {}}',
                "is of run 'seed0-other', not of this one",
            ),
            (
                '{"format": 1, "run_id": "RUN", "metrics": {"attribution_auroc": 8}, "intervals": {}}',
                "8 is no number from 0 to 1",
            ),
            ('{"format": 9, "run_id": "RUN"}', "format 9, this version reads 1"),
            ("not json", "cannot be read"),
        ],
    )
    def test_ignore_a_file_of_another_run_or_damaged_and_say_so(self, tmp_path, capsys, content, message):
        one, _ = two_runs(tmp_path)
        (tmp_path / one.folder / "attribution.json").write_text(content.replace("RUN", one.run_id))
        assert "0.8" not in str(make_table(tmp_path, "attribution_auroc"))
        assert message in capsys.readouterr().err

    def test_of_records_are_not_changed_by_it(self, tmp_path):
        one, _ = two_runs(tmp_path)
        write_attribution(tmp_path / one.folder, one.run_id, [0.7], {})
        assert "attribution_auroc" not in read(tmp_path / one.folder).metrics
        assert read(tmp_path / one.folder) == one

    def test_cannot_compare_it(self, harness, tmp_path):
        one, _ = two_runs(tmp_path / "results")
        write_attribution(tmp_path / "results" / one.folder, one.run_id, [0.7], {})
        done = harness("compare", "--metric", "attribution_auroc")
        assert done.returncode == 2
        assert "no prediction has it, so it cannot be compared" in done.stderr
