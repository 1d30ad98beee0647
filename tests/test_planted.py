"""Where motifs were planted, and the metric that asks whether attributions lie there."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from conftest import planned_run

from harness.data import Window
from harness.errors import BadData
from harness.evidence.attribution import MIN_WINDOWS, mean_and_interval, read_attribution
from harness.inference.attribution import Attribution
from harness.inference.explain import Settings, explain
from harness.inference.planted import auroc, aurocs, with_shuffled_labels
from harness.inference.trained import load_run
from harness.study.run import execute
from harness.task import Task
from harness.tasks import _simulate, rbp

EASY = _simulate.Motif("ACUAACUA", "CAAUCAUA", 1.0, (0.0, 1.0), "", seed=5, lengths=(40,), sizes=(600, 100, 100))


class TestPositions:
    def test_hold_the_letters_of_the_motif(self):
        splits = _simulate.load("easy", EASY, "drawn")
        assert splits.planted is not None
        for example in splits.test:
            letters = "".join(example.windows[0].sequence[place] for place in splits.planted(example.id))
            assert letters == EASY.planted[example.label].replace("U", "T")

    def test_of_several_copies_leave_out_columns_that_choose_no_letter(self):
        splits, motif = rbp.tasks()[-1].sample.load("drawn"), rbp.MOTIFS["QKI"]
        assert splits.planted is not None
        width = len(motif.consensus.replace("N", ""))
        counts = np.array([len(splits.planted(example.id)) for example in splits.train])
        assert set(counts % width) == {0}
        shares = np.bincount(counts // width) / len(counts)
        np.testing.assert_allclose(shares, motif.copies, atol=0.03)
        agree = [
            example.windows[0].sequence[place] in _simulate._IUPAC[code]
            for example in splits.train
            for place, code in zip(splits.planted(example.id), 3 * motif.planted[example.label].replace("N", ""))
        ]
        assert np.mean(agree) == pytest.approx(motif.fidelity, abs=0.01)

    def test_change_no_letter_of_the_samples(self):
        """The digests are those from before the positions were known."""
        digests = [next(iter(task.sample.load("drawn").files.values()))[:12] for task in rbp.tasks()]
        known = "1752fff8585b a95e0f84c336 4551ea05baca 8845515f4bb6 df58175fac00 9037657adbf8 23d3a8fa794c 885ed854d8f7"
        assert digests == known.split()

    def test_travel_with_the_splits(self):
        splits = pickle.loads(pickle.dumps(_simulate.load("easy", EASY, "drawn")))
        assert len(splits.planted("test:1")) == 8


class TestAuroc:
    def test_counts_ties_half(self):
        positive = np.array([True, True, False, False])
        assert auroc(np.array([4.0, 3.0, 2.0, 1.0]), positive) == 1
        assert auroc(np.array([4.0, 2.0, 3.0, 1.0]), positive) == 0.75
        assert auroc(np.zeros(4), positive) == 0.5

    def test_is_of_the_size_of_attributions_and_skips_windows_without_planted_letters(self):
        hypothetical = np.zeros((2, 4, 4), np.float32)
        hypothetical[0, 1, 1], hypothetical[0, 2, 2] = -3, 1
        found = Attribution((Window("ACGT"), Window("ACGT")), np.zeros(2), hypothetical)
        assert aurocs(found, [[1], []]) == [1.0]
        assert aurocs(found, [[2], [0, 1, 2, 3]]) == [pytest.approx(2 / 3)]

    def test_has_an_interval_over_windows_from_five_on(self):
        mean, interval = mean_and_interval([0.8, 0.9, 1.0, 0.9, 0.9])
        assert mean == pytest.approx(0.9)
        assert interval == pytest.approx([0.9 - 0.0878, 0.9 + 0.0878], abs=1e-4)  # 2.7764 · 0.0707 / √5
        assert mean_and_interval([0.8] * (MIN_WINDOWS - 1)) == (pytest.approx(0.8), None)
        assert mean_and_interval([]) == (None, None)


def test_shuffled_labels_keep_the_windows_the_test_split_and_the_share_of_each_class():
    splits = _simulate.load("easy", EASY, "drawn")
    shuffled = with_shuffled_labels(splits, seed=3)
    assert [one.windows for one in shuffled.train] == [one.windows for one in splits.train]
    assert shuffled.test is splits.test
    labels, others = ([one.label for one in part] for part in (splits.train, shuffled.train))
    assert sum(labels) == sum(others)
    assert 0.4 < np.mean(np.array(labels) == np.array(others)) < 0.6
    assert [one.label for one in with_shuffled_labels(splits, seed=3).train] == others


@pytest.fixture(scope="module")
def easy(tmp_path_factory):
    """A cnn that has learned an easy sample, and what it is of."""
    results = tmp_path_factory.mktemp("results")
    splits = _simulate.load("easy", EASY, "drawn")
    task = Task("easy", "made", "is the motif planted?", ("no", "yes"), lambda rule: splits, ("drawn",), simulated=True)
    run = planned_run("cnn", task, splits, epochs=15, learning_rate=3e-3)
    record = execute(run, results, opened=(task, splits))
    assert record.metrics["auroc"] > 0.99
    return results / record.folder, (task, splits)


def test_a_model_that_learned_finds_the_planted_letters_and_one_of_shuffled_labels_does_not(easy, tmp_path):
    folder, opened = easy
    settings = Settings(windows=40, logos=0, control=True)
    explained, out = explain(load_run(folder, device="cpu"), None, tmp_path / "out", settings, opened=opened)
    assert explained.metrics["attribution_auroc"] >= 0.9
    assert explained.control is not None
    assert abs(explained.control["attribution_auroc"] - 0.5) < 0.15
    assert explained.motifs[0].consensus.upper() == "ACTAACTA"
    written = json.loads((folder / "attribution.json").read_text())
    assert written["metrics"]["attribution_auroc"] == explained.metrics["attribution_auroc"]
    assert written["control"]["attribution_auroc"] == explained.control["attribution_auroc"]
    assert written["windows"] == 40
    assert json.loads((out / "explain.json").read_text())["attribution_auroc"]["windows"] == 40


def test_only_the_usual_question_is_recorded_and_other_settings_replace_it_when_told_to(easy, tmp_path):
    folder, opened = easy
    trained, say = load_run(folder, device="cpu"), []

    class Listens:
        def say(self, message):
            say.append(message)

    def asked(name, force=False, **settings):
        settings = Settings(**({"windows": 6, "logos": 0} | settings))
        explain(trained, None, tmp_path / name, settings, opened=opened, force=force, reporter=Listens())
        return read_attribution(folder, trained.record.run_id).get("parameters", {}).get("windows")

    (folder / "attribution.json").unlink(missing_ok=True)
    assert asked("top", top=3) is None
    assert asked("other", of_class="no") is None
    assert any("not recorded; tables show" in line for line in say)
    assert asked("usual") == 6
    assert asked("more", windows=7) == 6
    assert any("is kept; --force replaces it" in line for line in say)
    assert asked("again", windows=7, force=True) == 7


def test_a_changed_sample_is_refused(easy, tmp_path, monkeypatch):
    folder, (task, splits) = easy
    changed = replace(splits, files={"other": "1" * 64})
    monkeypatch.setattr("harness.study.plan.open_task", lambda run: (task, changed))
    with pytest.raises(BadData, match=r"easy .sample.: its data changed since the run"):
        explain(load_run(folder, device="cpu"), None, tmp_path / "out", Settings(logos=0))
    assert not (tmp_path / "out").exists()
