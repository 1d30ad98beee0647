"""A training that is killed goes on from its last saved epoch and ends with the same bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import motif_examples
from safetensors import safe_open
from test_fit import build

import harness
from harness.engine import resume
from harness.engine.fit import fit
from harness.engine.predict import predict
from harness.engine.resume import StateFile
from harness.evidence.records import PREDICTIONS
from harness.progress import Progress, Reporter
from harness.recipe import Recipe
from harness.study.claims import state_path
from harness.study.run import execute

ACCELERATOR = Accelerator(cpu=True)
RECIPE = Recipe(epochs=4, patience=4, learning_rate=1e-3, dropout=0.2, precision="float32")
TRAIN, VALIDATION = motif_examples(64, (30, 50)), motif_examples(32, (30, 50), seed=1)


class Killed(BaseException):
    """What a signal does, at a place of our choice."""


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch):
    monkeypatch.setattr(resume, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(resume, "MAX_SHARE", 1e9)


def killer(epoch: int):
    """A report that kills the training in the middle of an epoch."""

    def report(news: Progress | str) -> None:
        if isinstance(news, Progress) and news.validation is None and news.epoch == epoch:
            raise Killed

    return report


def trained(keep: StateFile | None, name: str = "cnn", recipe: Recipe = RECIPE, **options):
    classifier = build(name, recipe)
    torch.manual_seed(7)
    return classifier, fit(classifier, TRAIN, VALIDATION, recipe, ACCELERATOR, seed=3, keep=keep, **options)


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


@pytest.mark.parametrize(("name", "schedule"), [("cnn", "cosine"), ("msamamba", "linear"), ("dnabert2", "constant")])
def test_ends_with_the_same_bits(tmp_path, name, schedule):
    recipe = RECIPE.override(schedule=schedule, accumulation=2)
    whole, undisturbed = trained(None, name, recipe)
    keep = StateFile(tmp_path / "state", "run")
    for epoch in (2, 4):
        with pytest.raises(Killed):
            trained(keep, name, recipe, report=killer(epoch))
    resumed, fitted = trained(keep, name, recipe)
    assert fitted.resumed == [1, 3]
    assert without_times(fitted.history) == without_times(undisturbed.history)
    for (key, expected), (_, found) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(expected, found), key
    assert np.array_equal(predict(whole, VALIDATION, ACCELERATOR), predict(resumed, VALIDATION, ACCELERATOR))


def test_the_best_weights_survive_when_they_are_not_the_last(tmp_path, monkeypatch):
    """Of labels that are noise, an early epoch's weights are the best."""
    rng = np.random.default_rng(0)
    monkeypatch.setitem(globals(), "VALIDATION", [replace(example, label=int(rng.integers(2))) for example in VALIDATION])
    recipe = RECIPE.override(learning_rate=1e-2, schedule="constant")
    whole, undisturbed = trained(None, recipe=recipe)
    losses = [epoch["validation_log_loss"] for epoch in undisturbed.history]
    assert int(np.argmin(losses)) < 3
    keep = StateFile(tmp_path / "state", "run")
    with pytest.raises(Killed):
        trained(keep, recipe=recipe, report=killer(4))
    resumed, _ = trained(keep, recipe=recipe)
    assert np.array_equal(predict(whole, VALIDATION, ACCELERATOR), predict(resumed, VALIDATION, ACCELERATOR))


def test_a_training_that_had_ended_is_not_trained_again(tmp_path):
    keep = StateFile(tmp_path / "state", "run")
    _, ended = trained(keep)
    _, again = trained(keep, report=killer(1))
    assert without_times(again.history) == without_times(ended.history)


def test_a_halved_batch_stays_halved(tmp_path, monkeypatch):
    from harness.engine import fit as fitting

    backward = fitting._backward

    def greedy(model, classifier, micro_batches, *rest):
        if max(len(target) for _, target in micro_batches) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return backward(model, classifier, micro_batches, *rest)

    monkeypatch.setattr(fitting, "_backward", greedy)
    whole, undisturbed = trained(None)
    keep = StateFile(tmp_path / "state", "run")
    with pytest.raises(Killed):
        trained(keep, report=killer(3))
    resumed, fitted = trained(keep)
    assert fitted.events == undisturbed.events
    assert "out of memory" in fitted.events[0]
    assert np.array_equal(predict(whole, VALIDATION, ACCELERATOR), predict(resumed, VALIDATION, ACCELERATOR))


class TestFile:
    def test_is_no_pickle(self, tmp_path):
        keep = StateFile(tmp_path / "state", "run")
        trained(keep)
        with safe_open(keep.path, "pt") as file:
            said = json.loads(file.metadata()["state"])
        assert said["run"] == "run"
        assert said["epoch"] == len(said["fitted"]["history"])

    @pytest.mark.parametrize(
        "damage", [lambda path: path.write_bytes(b"nonsense"), lambda path: path.write_bytes(path.read_bytes()[:-9])]
    )
    def test_a_damaged_one_is_not_used(self, tmp_path, damage):
        keep = StateFile(tmp_path / "state", "run")
        _, undisturbed = trained(keep)
        damage(keep.path)
        _, again = trained(keep)
        assert again.resumed == []
        assert without_times(again.history) == without_times(undisturbed.history)

    def test_one_of_another_run_or_other_libraries_is_not_used(self, tmp_path, monkeypatch):
        keep = StateFile(tmp_path / "state", "run")
        trained(keep)
        assert replace(keep, run="other").load() is None
        monkeypatch.setattr(resume.hardware, "versions", lambda: {"torch": "0.1"})
        assert keep.load() is None

    def test_a_full_disk_costs_the_state_and_not_the_run(self, tmp_path, monkeypatch):
        def full(self, *_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        keep = StateFile(tmp_path / "state", "run")
        _, fitted = trained(keep)
        assert fitted.history
        assert not list(tmp_path.iterdir())

    def test_saving_takes_a_fiftieth_of_the_time_at_most(self, tmp_path, monkeypatch):
        monkeypatch.setattr(resume, "MAX_SHARE", 0.02)
        now = [100.0]
        monkeypatch.setattr(resume.time, "perf_counter", lambda: now[0])
        keep = StateFile(tmp_path / "state", "run", saved=100.0, cost=0.1)
        now[0] += 4.9
        assert not keep.due
        now[0] += 0.2
        assert keep.due


class TestRun:
    """A planned run, killed in the middle and done again."""

    def killed(self, run, results, epoch):
        class Deadly(Reporter):
            report = staticmethod(killer(epoch))

        with pytest.raises(Killed):
            execute(run, results, reporter=Deadly())

    def test_the_record_is_that_of_an_undisturbed_run(self, tmp_path):
        (run,) = harness.plan("cnn", "QKI", epochs=4, device="cpu")
        expected = execute(run, tmp_path / "whole")
        self.killed(run, tmp_path / "killed", 3)
        assert state_path(tmp_path / "killed", run).is_file()
        found = execute(run, tmp_path / "killed")
        texts = [(tmp_path / name / found.folder / PREDICTIONS).read_bytes() for name in ("whole", "killed")]
        assert texts[0] == texts[1]
        assert (found.metrics, found.intervals, found.events) == (expected.metrics, expected.intervals, expected.events)
        assert found.timing["resumed"] == [2]
        assert "resumed" not in expected.timing
        assert not state_path(tmp_path / "killed", run).exists()

    def test_hours_that_are_over_end_the_training(self, tmp_path):
        (run,) = harness.plan("cnn", "QKI", max_hours=1e-9, device="cpu")
        record = execute(run, tmp_path)
        assert [epoch["epoch"] for epoch in record.history] == [1]
        assert record.events == ["stopped after epoch 1: its 1e-09 hours (--max-hours) are over"]
        assert run.id != harness.plan("cnn", "QKI", device="cpu")[0].id

    def test_a_trial_never_sees_the_test_split(self, tmp_path, monkeypatch):
        from harness.study.trial import Trial

        monkeypatch.setattr(Trial, "score", lambda self: pytest.fail("the test split was scored"))
        (run,) = harness.plan("cnn", "QKI", epochs=2, device="cpu")
        record = execute(replace(run, part="validation"), tmp_path)
        assert record.finished
        assert record.metrics == {}
        assert len(record.history) == 2
        assert not (tmp_path / record.folder / PREDICTIONS).exists()

    def test_a_hopeless_trial_is_pruned(self, tmp_path):
        (run,) = harness.plan("cnn", "QKI", epochs=3, device="cpu")
        pruned = replace(run, part="validation", stop_above=[9.0, 1e-6])
        record = execute(pruned, tmp_path)
        assert len(record.history) == 2
        assert record.events[0].startswith("pruned after epoch 2: its validation loss of")
        assert len({run.id, pruned.id, replace(pruned, stop_above=[]).id}) == 3
