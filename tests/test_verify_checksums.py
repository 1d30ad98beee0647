"""harness verify: published checksums, searches, and what the command says."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import ROOT
from made_records import checkpoint, record
from test_records import PREDICTIONS
from test_records import record as scored

from harness import registry
from harness.evidence.records import content_digest, read, write
from harness.evidence.registered import data_faults, weights_faults
from harness.evidence.searches import search_faults
from harness.evidence.verify import verify
from harness.recipe import Recipe

OLD = Path(__file__).parent / "golden/records_0_1_0"
BERT = registry.model_cards()["dnabert2"]
SOURCE = f"/weights/{str(BERT.checkpoint).replace('/', '--')}/{BERT.revision}/pytorch_model.bin"


def good(results: Path, **changes) -> Path:
    """A record whose scores are those of its predictions."""
    return write(scored(history=[], recipe={**scored().recipe, "tune": "probe"}, **changes), PREDICTIONS, results)


def published_files() -> dict[str, str]:
    return {source.path: source.sha256 for source in registry.tasks()["QKI"].sources}


class TestData:
    def test_the_published_files_are_recognised(self):
        counts = Counter()
        assert data_faults(record(files=published_files()), counts) == []
        assert counts == {"data": 3, "data_unknown": 0}

    def test_another_file_of_a_published_name_is_named_with_both_checksums(self):
        files = published_files()
        first = next(iter(files))
        (fault,) = data_faults(record(files=files | {first: "0" * 64}), Counter())
        assert fault == f"task.files: {first} has sha256 000000000000…, the published file of QKI has {files[first][:12]}…"

    @pytest.mark.parametrize("odd", ["QKI (sample)", "my own"])
    def test_simulated_and_own_data_are_no_faults(self, odd):
        counts = Counter()
        assert data_faults(record(task=odd, files={"train.csv": "aa"}), counts) == []
        assert sum(counts.values()) == 1


class TestWeights:
    def found(self, source: str, sha256: str) -> tuple[list[str], Counter]:
        counts: Counter[str] = Counter()
        made = record(model="dnabert2", checkpoint=checkpoint(source, sha256=sha256))
        return weights_faults(made, counts), counts

    def test_the_published_weights_are_recognised_wherever_they_lie(self):
        for source in (SOURCE, "/home/me/bert.bin"):
            assert self.found(source, BERT.sha256["pytorch_model.bin"]) == ([], {"weights": 1})

    def test_others_in_the_official_folder_are_named(self):
        (fault,), _ = self.found(SOURCE, "0" * 64)
        assert fault.startswith(
            "model.checkpoint: pytorch_model.bin has sha256 000000000000…, but 7ff39ec77a48… is published at zhihan"
        )

    def test_weights_of_ones_own_are_no_fault(self):
        assert self.found("/home/me/bert.bin", "0" * 64) == ([], {"weights_unknown": 1})

    def test_checkpoint_and_audit_must_agree(self):
        made = record(checkpoint=checkpoint())
        made.model["audit"] = {"sha256": "bb", "source": made.model["checkpoint"]["source"]}
        assert weights_faults(made, Counter()) == ["model.checkpoint.sha256 is 'aa', but model.audit.sha256 is 'bb'"]


class TestChecksums:
    def test_a_record_and_its_predictions_have_one_each(self, tmp_path):
        folder = good(tmp_path)
        content = json.loads((folder / "record.json").read_text())
        assert content["checksums"]["record"] == content_digest(content)
        assert all(re.fullmatch("[0-9a-f]{64}", value) for value in content["checksums"].values())
        assert read(folder).checksums == content["checksums"]
        again = write(read(folder), PREDICTIONS, tmp_path)
        assert json.loads((again / "record.json").read_text()) == content

    def test_the_order_of_fields_and_spaces_do_not_matter(self, tmp_path):
        path = good(tmp_path) / "record.json"
        path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
        assert not [problem for problem in verify(tmp_path).problems if "edited" in problem.what]

    def test_fields_of_a_newer_version_count(self, tmp_path):
        path = good(tmp_path) / "record.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"energy": 3}))
        assert any("it was edited after it was written" in problem.what for problem in verify(tmp_path).problems)


def search(results: Path, **changes) -> Path:
    folder = results / "search" / "QKI-sample" / "kmer" / "ab12"
    folder.mkdir(parents=True, exist_ok=True)
    trials = [
        {"number": 0, "settings": {"learning_rate": 1e-3}, "value": 0.4, "epochs": 3, "state": "finished"},
        {"number": 1, "settings": {"learning_rate": 1e-4}, "value": 0.3, "epochs": 3, "state": "finished"},
        {"number": 2, "settings": {"learning_rate": 1e-5}, "value": 0.2, "epochs": 1, "state": "pruned"},
    ]
    content = {"model": "kmer", "task": "QKI", "budget": {"trials": 3}, "trials": trials, "chosen": 1} | changes
    (folder / "search.json").write_text(json.dumps(content))
    return folder


class TestSearches:
    def test_a_search_whose_best_finished_trial_was_chosen(self, tmp_path):
        folder = search(tmp_path)
        trial = write(scored(metrics={}), None, folder / "trials")
        assert search_faults(tmp_path) == (1, [])
        assert verify(tmp_path).counts["searches"] == 1
        assert trial.is_relative_to(folder)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"chosen": 0}, "trial 0 (0.4) was chosen, but trial 1 (0.3) is better"),
            ({"chosen": 2}, "trial 2 was chosen, which is no finished trial with a value"),
            ({"budget": {"trials": 2}}, "3 trials, more than the budget's 2"),
            ({"trials": None}, "not a readable search"),
            ({"chosen": None}, "no trial was chosen, though 2 of them finished"),
        ],
    )
    def test_an_odd_search_is_named(self, tmp_path, changes, words):
        path = search(tmp_path, **changes) / "search.json"
        (problem,) = verify(tmp_path).problems
        assert (problem.path, problem.what[: len(words)]) == (path, words)

    def test_trials_have_not_seen_the_test_split(self, tmp_path):
        trial = write(scored(), PREDICTIONS, search(tmp_path) / "trials")
        assert search_faults(tmp_path)[1] == [
            (trial / "record.json", "a trial states metrics: the test split is not for trials"),
            (trial / "predictions.csv", "a trial has predictions of the test split"),
        ]

    def recorded(self, results, value=0.3, used=1e-4, **changes):
        """A search of one trial that has a record, and a run with what it chose."""
        folder = results / "search" / "QKI-sample" / "kmer" / "ab12"
        history = [{"epoch": epoch, "validation_log_loss": loss} for epoch, loss in ((1, 0.3), (2, 0.4))]
        recipe = Recipe(epochs=2, learning_rate=1e-4)
        trial = scored(metrics={}, recipe=asdict(recipe), history=history)
        write(trial, None, folder)
        tried = {"number": 0, "settings": {"learning_rate": 1e-4}, "value": value, "state": "finished", "run": trial.run_id}
        search(results, objective="log_loss", budget={"trials": 1}, trials=[tried | changes], chosen=0)
        recipe = asdict(recipe) | {"learning_rate": used}
        model = scored().model | {"search": {"id": "ab12", "trials": 1}}
        write(scored(model=model, recipe=recipe, history=history), PREDICTIONS, results)
        return [
            problem.what for problem in verify(results).problems if "learning_rate" in problem.what or "trial" in problem.what
        ]

    def test_trials_and_the_runs_that_were_scored_are_what_their_records_say(self, tmp_path):
        assert self.recorded(tmp_path) == []

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"value": 0.2}, "trial 0: its value is stated as 0.2, its record's lowest loss is 0.3"),
            ({"settings": {"learning_rate": 1e-3}}, "trial 0: learning_rate is stated as 0.001, its record has 0.0001"),
            ({"run": "seed0-ffffffffff"}, "trial 0 has no record: 'seed0-ffffffffff' is not there"),
            ({"used": 1e-3}, "recipe.learning_rate is 0.001, but search ab12 chose 0.0001 (trial 0)"),
        ],
    )
    def test_what_contradicts_the_records_of_a_search_is_named_and_nothing_else(self, tmp_path, changes, words):
        assert self.recorded(tmp_path, **changes) == [words]

    def test_a_run_whose_search_is_gone_is_noted(self, tmp_path):
        made = scored()
        write(scored(model=made.model | {"search": {"id": "ab12", "trials": 3}}), PREDICTIONS, tmp_path)
        assert any(
            note.startswith("search ab12, which chose the settings of 1 record, is not in") for note in verify(tmp_path).notes
        )


class TestCommand:
    def test_old_records_are_compared_as_far_as_that_goes(self, harness, tmp_path):
        shutil.copytree(OLD, tmp_path / "results")
        done = harness("verify")
        assert done.returncode == 0, done.stdout
        lines = done.stdout.splitlines()
        assert lines[-1] == "3 records: all scores recomputed, 45 numbers agree to the last bit"
        assert lines[0].startswith("note: 3 records without checksums, as older versions wrote them")

    def test_problems_stand_on_a_line_each_and_the_exit_code_is_1(self, harness, tmp_path):
        shutil.copytree(OLD, tmp_path / "old")
        (path,) = tmp_path.glob("old/QKI-sample/kmer/*/record.json")
        content = json.loads(path.read_text())
        accuracy = content["metrics"]["accuracy"]
        content["metrics"]["accuracy"] = 0.999
        path.write_text(json.dumps(content))
        done = harness("verify", "old")
        assert done.returncode == 1
        place = path.relative_to(tmp_path)
        assert done.stdout.splitlines()[0] == f"{place}: metrics.accuracy is stated as 0.999, recomputed {accuracy!r}"
        assert done.stdout.splitlines()[-1] == "1 problem in 1 folder; 3 records in all"
        printed = json.loads(harness("verify", "old", "--json").stdout)
        assert printed["problems"] == [
            {"path": str(place), "what": f"metrics.accuracy is stated as 0.999, recomputed {accuracy!r}"}
        ]
        assert printed["counts"]["records"] == 3

    def test_a_folder_without_records_is_refused(self, harness, tmp_path):
        done = harness("verify", "nowhere")
        assert done.returncode == 2
        assert done.stderr.strip() == "error: results nowhere: no such folder; name the one that `harness run` wrote to"

    def test_control_characters_are_shown_as_escapes(self, harness, tmp_path):
        folder = good(tmp_path / "results")
        path = folder / "predictions.csv"
        path.write_text(path.read_text().replace('"a"', '"\x1b[31m"').replace('"b"', '"\x1b[31m"'))
        done = harness("verify")
        assert done.returncode == 1
        assert "\x1b" not in done.stdout

    def test_it_imports_no_torch(self, harness, tmp_path):
        shutil.copytree(OLD, tmp_path / "results")
        code = "import sys; from harness.evidence.verify import verify; verify('results'); print('torch' in sys.modules)"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == "False", done.stderr
