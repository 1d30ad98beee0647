"""A search: trials by the validation split, the same budget for all, and the test split once, by runs with other seeds."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from made_search import QUICK, SPACE, made_files, summary

from harness.errors import UserError
from harness.evidence.records import read_all, read_predictions
from harness.progress import Board
from harness.study.plan import plan
from harness.study.search import search


class Said(Board):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return made_files(tmp_path)


def test_a_search_tries_the_published_setting_first_and_keeps_what_is_best(files, tmp_path):
    board = Said()
    (found,) = search("cnn", **files, **QUICK, space=SPACE, trials=5, board=board)
    content = summary(tmp_path / "results")
    first = content["trials"][0]
    assert first["settings"] == content["baseline"]["settings"] == {"batch_size": 32, "learning_rate": 1e-3}
    values = {trial["number"]: trial["value"] for trial in content["trials"] if trial["state"] == "finished"}
    assert content["trials"][content["chosen"]]["value"] == min(values.values()) <= first["value"]
    assert content["space"] == {
        "batch_size": {"choices": [8, 16]},
        "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True, "step": None},
    }
    assert content["budget"] == {"trials": 5, "epochs": 3, "pruner": "median"}
    assert content["objective"] == "log_loss"
    assert content["importance"] is None  # of five trials nothing can be said
    (record,) = found.records
    assert record.recipe | content["trials"][content["chosen"]]["settings"] == record.recipe
    assert record.model["search"] == {
        "id": found.id,
        "trials": 5,
        "epochs": 3,
        "epochs_run": sum(trial["epochs"] for trial in content["trials"]),
        "seconds": sum(trial["seconds"] for trial in content["trials"]),
        "objective": "log_loss",
    }
    assert sum("trial " in line and " of 5)" in line for line in board.lines) == 5
    assert any("seed 1000000" in line for line in board.lines)


def test_a_trial_s_value_is_the_lowest_loss_of_its_history(files, tmp_path):
    (found,) = search("cnn", **files, **QUICK, space=SPACE, trials=2)
    records = {record.run_id: record for record in read_all(found.folder)}
    for trial in summary(tmp_path / "results")["trials"]:
        record = records[trial["run"]]
        assert trial["value"] == min(entry["validation_log_loss"] for entry in record.history)
        assert trial["epochs"] == len(record.history)
        assert record.recipe | trial["settings"] == record.recipe
        assert (record.metrics, record.seed) == ({}, 1_000_000)


def test_only_the_final_runs_see_the_test_split_and_each_sees_it_once(files, monkeypatch):
    from harness.engine import fit as fitting
    from harness.study import trial as trials

    asked, predict, test = [], fitting.predict, set()

    def watched(classifier, examples, *more, **options):
        asked.append({example.id for example in examples})
        return predict(classifier, examples, *more, **options)

    monkeypatch.setattr(fitting, "predict", watched)
    monkeypatch.setattr(trials, "predict", watched)
    search("cnn", **files, **QUICK, space=SPACE, trials=3, pruner="none")
    (record,) = read_all(files["test"].parent / "results")
    test = set(read_predictions(files["test"].parent / "results" / record.folder).ids)
    seen = [bool(ids & test) for ids in asked]
    assert len(test) == 24
    assert seen.count(True) == 1
    assert seen.index(True) == len(seen) - 1
    assert len(seen) == 3 * 3 + 3 + 1  # epochs of the trials and of the final run, and its test


def test_the_same_line_again_does_nothing_and_more_trials_amend_the_search(files, tmp_path, monkeypatch):
    asked = {**files, **QUICK, "space": {"space": {"learning_rate": [1e-3, 1e-9]}}}
    results = tmp_path / "results"
    (first,) = search("cnn", **asked, trials=1)
    before = summary(results)
    predictions = read_predictions(results / first.records[0].folder)

    def refuse(*_, **__):
        raise AssertionError("nothing was to be trained")

    with monkeypatch.context() as patched:
        patched.setattr("harness.study.trial.fit", refuse)
        (again,) = search("cnn", **asked, trials=1)
    assert summary(results) == before
    assert again.records == first.records
    (longer,) = search("cnn", **asked, trials=2)
    assert longer.id == first.id
    assert summary(results)["trials"][:1] == before["trials"]
    # The hopeless rate changes nothing but the cost of the search, which the record of the same run now says.
    assert longer.records[0].run_id == first.records[0].run_id
    assert longer.records[0].model["search"]["trials"] == 2
    (record,) = read_all(results)
    assert record == longer.records[0]
    for part in ("ids", "labels", "outputs", "classes", "blocks", "leaks"):
        assert np.array_equal(getattr(read_predictions(results / record.folder), part), getattr(predictions, part))
    (shorter,) = search("cnn", **asked, trials=1)  # with the budget of one, only one counts
    assert len(shorter.tried) == 1
    assert read_all(results)[0].model["search"]["trials"] == 2


def test_a_space_of_choices_is_tried_once_and_no_longer(files, tmp_path):
    (found,) = search("cnn", **files, **QUICK, preset="msamamba-paper", trials=20, pruner="none")
    rates = [trial.settings["learning_rate"] for trial in found.tried]
    assert rates[0] == 1e-3  # the published one, outside the preset
    assert sorted(rates[1:]) == [8e-6, 3e-5, 3e-4, 2e-3, 8e-3]
    assert found.cost["trials"] == 6


def test_given_settings_are_fixed(files, tmp_path):
    (found,) = search("cnn", **files, **QUICK, trials=2, learning_rate=0.01, head="tanh")
    assert set(found.space.settings) == {"batch_size", "weight_decay", "warmup", "dropout"}
    for record in [*read_all(found.folder), *found.records]:
        assert (record.recipe["learning_rate"], record.recipe["head"], record.recipe["epochs"]) == (0.01, "tanh", 3)


def test_importance_names_the_setting_that_matters(files):
    space = {"space": {"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}, "clip": {"low": 0.9, "high": 1.1}}}
    (found,) = search("cnn", **files, **QUICK, space=space, trials=9, pruner="none")
    assert found.importance is not None
    assert found.importance["learning_rate"] > 0.7
    assert sum(found.importance.values()) == pytest.approx(1)


def test_pruned_trials_have_fewer_epochs_and_are_not_chosen(files):
    asked = {**QUICK, "epochs": 6}
    space = {"space": {"learning_rate": {"low": 1e-6, "high": 1e-1, "log": True}}}
    (found,) = search("cnn", **files, **asked, space=space, trials=9, patience=6)
    pruned = [trial for trial in found.tried if trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        assert trial.epochs < 6
        assert trial.value > trial.stop_above[trial.epochs - 1]
    assert found.chosen.state == "finished"
    assert found.chosen.epochs == 6


def test_failed_trials_count_and_the_search_goes_on(files, tmp_path, monkeypatch):
    from harness.study.trial import Trial

    prepare, number = Trial.fit, iter(range(100))

    def sometimes(self, *arguments):
        if next(number) == 1:
            raise MemoryError("12 GiB")
        return prepare(self, *arguments)

    monkeypatch.setattr(Trial, "fit", sometimes)
    (found,) = search("cnn", **files, **QUICK, space=SPACE, trials=3)
    assert [trial.state for trial in found.tried] == ["finished", "failed", "finished"]
    assert "12 GiB" in found.tried[1].error
    assert summary(tmp_path / "results")["trials"][1]["value"] is None
    assert found.records[0].finished


def test_a_search_whose_first_trials_all_fail_tries_no_more(files, harness, monkeypatch):
    def never(*_):
        raise MemoryError

    monkeypatch.setattr("harness.study.trial.Trial.fit", never)
    done = harness("search", "--model", "cnn", *words(files), "--trials", "9")
    content = summary(files["test"].parent / "results")
    assert done.returncode == 1
    assert [trial["state"] for trial in content["trials"]] == ["failed"] * 3
    assert content["chosen"] is None
    assert "nothing is chosen: out of memory" in done.stdout


def test_every_model_has_the_same_budget_and_those_with_nothing_to_search_are_left_out(files, tmp_path):
    board = Said()
    found = search(["cnn", "kmer", "hyenadna"], **files, **QUICK, trials=2, board=board)
    assert [one.run.name for one in found] == ["cnn", "hyenadna"]
    assert "kmer: tuned by 'probe', which has no settings to search; it is left out" in board.lines
    budgets = [summary(tmp_path / "results", model)["budget"] for model in ("cnn", "hyenadna")]
    assert budgets == [{"trials": 2, "epochs": 3, "pruner": "median"}] * 2
    assert len(read_all(tmp_path / "results")) == 2


def test_an_ordinary_run_with_the_chosen_settings_is_the_final_run(files):
    (found,) = search("cnn", **files, **QUICK, space=SPACE, trials=2)
    asked = {name: value for name, value in QUICK.items() if name != "epochs"}
    (run,) = plan("cnn", **files, **asked, epochs=3, **found.chosen.settings)
    assert run.id == found.records[0].run_id


def test_the_objective_is_the_loss_of_the_task_s_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = made_files(tmp_path)
    for path in files.values():
        header, *rows = path.read_text().splitlines()
        path.write_text("\n".join([header, *(f"{row}.{number}5" for number, row in enumerate(rows))]) + "\n")
    (found,) = search("cnn", **files, **QUICK, space=SPACE, trials=1, kind="regression")
    assert found.objective == "mse"
    assert found.tried[0].value == min(entry["validation_mse"] for entry in read_all(found.folder)[0].history)


@pytest.mark.slow
def test_two_processes_do_the_trials_of_one_search(files, tmp_path):
    (found,) = search("cnn", **files, **QUICK, space=SPACE, trials=4, jobs=2)
    assert [trial.state for trial in found.tried].count("running") == 0
    assert {trial.number for trial in found.tried} == {0, 1, 2, 3}
    assert found.records[0].finished


def words(files) -> list[str]:
    own = [word for part, path in files.items() for word in (f"--{part}", str(path))]
    return [*own, "--init", "random:tiny", "--epochs", "2", "--seed", "0"]


def test_the_command_says_what_was_found_and_that_it_is_optimistic(files, harness):
    done = harness("search", "--model", "cnn", *words(files), "--trials", "3", "--pruner", "none")
    assert done.returncode == 0
    first, baseline, best, *_ = done.stdout.splitlines()
    assert first.startswith("cnn on ")
    assert ": 3 trials of at most 2 epochs (3 finished); 6 epochs were run in" in first
    assert baseline.split()[:3] == ["baseline", "validation", "log_loss"]
    assert "optimistic, for it was chosen by this very number" in best
    assert "all are trained with seed 1000000" in done.stderr
    assert "no trial was trained with their seeds 0" in done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--trials", "0"], "trials 0: must be a whole number, at least 1"),
        (["--pruner", "mean"], "pruner 'mean': choose one of median, hyperband, none"),
        (["--sampler-seed", "-1"], "sampler-seed -1"),
        (["--epochs", "0"], "epochs 0: must be a whole number, at least 1"),
        (["--seed", "1000000"], "seed 1000000: is what the trials are trained with"),
        (["--model", "kmer"], "kmer: tuned by 'probe', which has no settings to search"),
        (["--preset", "mine"], "preset 'mine': choose msamamba-paper"),
        (["--preset", "msamamba-paper", "--lr", "1e-3"], "cnn: no setting of the space is left to search (learning_rate)"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(files, harness, given, message):
    own = words(files)
    own = own[: own.index("--epochs")] + own[own.index("--epochs") + 2 :] if "--epochs" in given else own
    own = own[: own.index("--seed")] if "--seed" in given else own
    model = [] if "--model" in given else ["--model", "cnn"]
    done = harness("search", *model, *own, *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert not (files["test"].parent / "results").exists()


def test_one_process_leads_a_search(files, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without accelerate launch"):
        search("cnn", **files, **QUICK)


def test_optuna_is_imported_by_a_search_only():
    code = (
        "import harness.cli, harness.study.search, json, sys; print(json.dumps(sorted({'optuna', 'torch'} & set(sys.modules))))"
    )
    assert json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) == []
