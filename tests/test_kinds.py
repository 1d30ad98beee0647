"""Regression and multi-label tasks go through the same loop and the same prober: what they learn, stop by, refuse and say."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from conftest import motif_examples, planned_run, variant_examples
from made_kinds import (
    multilabel_examples,
    multilabel_task,
    regression_examples,
    regression_task,
    with_labels,
)
from scipy import sparse
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression, Ridge
from test_fit import ACCELERATOR

from harness import registry
from harness.engine.classifier import Classifier
from harness.engine.fit import fit
from harness.engine.kinds import kind_of, labels_of
from harness.engine.predict import embed, predict
from harness.engine.probe import probe
from harness.errors import BadData, RunFailed, UserError
from harness.evidence.metrics import scores
from harness.evidence.records import judge, read, read_predictions
from harness.evidence.sensitivity import alignment_sensitivity, insensitive
from harness.progress import Progress
from harness.recipe import Recipe
from harness.study.run import execute
from harness.task import MULTILABEL, REGRESSION, Splits, Task

CNN = registry.adapter_class("cnn").recipe.override(epochs=12, patience=4, learning_rate=3e-3, precision="float32")
PROBE = Recipe(tune="probe")


def build(name: str, recipe: Recipe, kind: str, classes: int = 1) -> Classifier:
    torch.manual_seed(0)
    return Classifier(registry.adapter_class(name).from_checkpoint(None, size="tiny"), classes, recipe, kind=kind)


class TestFit:
    def test_a_planted_regression_is_learnt_in_the_unit_of_its_labels(self):
        train, validation, test = (regression_examples(n, seed) for seed, n in enumerate((400, 100, 100)))
        classifier = build("cnn", CNN, REGRESSION)
        fitted = fit(classifier, train, validation, CNN, ACCELERATOR)
        predicted, numbers = predict(classifier, test, ACCELERATOR), labels_of(test)
        assert predicted.shape == (100, 1)
        assert predicted.dtype == np.float64
        assert 0.5 < scores(predicted, numbers, REGRESSION)["r2"] < 1
        kept = sk.mean_squared_error(labels_of(validation), predict(classifier, validation, ACCELERATOR)[:, 0])
        assert kept == pytest.approx(min(row["validation_mse"] for row in fitted.history), rel=1e-6)
        assert set(fitted.history[0]) == {"epoch", "train_loss", "validation_mse", "learning_rate", "seconds"}

    def test_planted_labels_are_learnt(self):
        train, validation, test = (multilabel_examples(n, seed) for seed, n in enumerate((400, 100, 100)))
        classifier = build("cnn", CNN, MULTILABEL, 3)
        fitted = fit(classifier, train, validation, CNN, ACCELERATOR)
        probabilities, labels = predict(classifier, test, ACCELERATOR), labels_of(test)
        assert probabilities.shape == (100, 3)
        assert scores(probabilities, labels, MULTILABEL)["auroc"] > 0.9
        assert not np.allclose(probabilities.sum(axis=1), 1)
        kept = np.mean(
            [sk.log_loss(column, p) for column, p in zip(labels_of(validation).T, predict(classifier, validation, ACCELERATOR).T)]
        )
        assert kept == pytest.approx(min(row["validation_log_loss"] for row in fitted.history), rel=1e-6)

    @pytest.mark.parametrize(("kind", "measure"), [(REGRESSION, "mse"), (MULTILABEL, "log_loss")])
    def test_training_stops_by_the_validation_loss_of_its_kind(self, kind, measure):
        """Labels of the validation split are noise, so its loss soon rises."""
        rng = np.random.default_rng(0)
        if kind == REGRESSION:
            train, held_out = regression_examples(64), regression_examples(64, 1)
            noise = with_labels(held_out, rng.normal(1050, 40, 64).tolist())
        else:
            train, held_out = multilabel_examples(64), multilabel_examples(64, 1)
            noise = with_labels(held_out, map(tuple, rng.integers(0, 2, (64, 3)).tolist()))
        recipe, said = CNN.override(epochs=50, learning_rate=1e-2), []
        history = fit(
            build("cnn", recipe, kind, 1 if kind == REGRESSION else 3), train, noise, recipe, ACCELERATOR, report=said.append
        ).history
        losses = [row[f"validation_{measure}"] for row in history]
        assert len(history) < 50
        assert len(history) - 1 - int(np.argmin(losses)) == 4
        ends = [news for news in said if isinstance(news, Progress) and news.validation is not None]
        assert [(news.validation, news.measure) for news in ends] == [(loss, measure) for loss in losses]

    def test_the_unit_of_the_numbers_does_not_change_what_is_learnt(self):
        train, validation = regression_examples(80), regression_examples(40, 1)
        found = []
        for factor, shift in ((1.0, 0.0), (1e-6, 0.0), (1e4, 1e6)):
            parts = [with_labels(part, (labels_of(part) * factor + shift).tolist()) for part in (train, validation)]
            recipe = CNN.override(epochs=2)
            classifier = build("cnn", recipe, REGRESSION)
            fit(classifier, *parts, recipe, ACCELERATOR)
            found.append((predict(classifier, validation, ACCELERATOR) - shift) / factor)
        np.testing.assert_allclose(found[1], found[0], rtol=1e-3)
        np.testing.assert_allclose(found[2], found[0], rtol=1e-3)

    def test_mean_and_scale_are_part_of_the_classifiers_state(self):
        train = regression_examples(40)
        recipe = CNN.override(epochs=1)
        classifier, other = (build("cnn", recipe, REGRESSION) for _ in range(2))
        fit(classifier, train, train, recipe, ACCELERATOR)
        numbers = labels_of(train)
        assert classifier.kind.mean.item() == pytest.approx(numbers.mean())
        assert classifier.kind.scale.item() == pytest.approx(numbers.std())
        other.load_state_dict(classifier.state_dict())
        assert np.array_equal(predict(other, train, ACCELERATOR), predict(classifier, train, ACCELERATOR))

    @pytest.mark.parametrize("tune", ["full", "probe"])
    @pytest.mark.parametrize("number", [3.5, 1e9, 0.0])
    def test_numbers_that_are_all_equal_are_refused(self, tune, number):
        examples = with_labels(regression_examples(20), [number] * 20)
        recipe = CNN.override(tune=tune)
        with pytest.raises(UserError, match=re.escape(f"every number of the training split is {number:g}: nothing")):
            (fit if tune == "full" else probe)(build("cnn", recipe, REGRESSION), examples, examples, recipe, ACCELERATOR)


@pytest.mark.parametrize("numbers", [[1e-45, 2e-45], [1e39, 2e39]])
def test_numbers_that_float32_cannot_hold_are_refused(numbers):
    with pytest.raises(UserError, match="in the training split: use another unit"):
        kind_of(REGRESSION).learn(np.array(numbers))


def test_losses_by_hand():
    """The loss of a batch is summed over examples, and over labels averaged."""
    logits = torch.tensor([[0.0, 2.0], [-1.0, 0.0]])
    several = kind_of(MULTILABEL)
    labels = np.array([[1, 0], [0, 0]])
    p = 1 / (1 + np.exp(-logits.numpy().astype(float)))
    expected = -(np.log(p[0, 0]) + np.log(1 - p[0, 1]) + np.log(1 - p[1, 0]) + np.log(1 - p[1, 1])) / 2
    assert several.loss(logits, torch.from_numpy(several.target(labels))).item() == pytest.approx(expected)
    np.testing.assert_allclose(several.outputs(logits.numpy()), p)
    assert several.judge(p, labels)["log_loss"] == pytest.approx(expected / 2)
    number = kind_of(REGRESSION)
    number.learn(np.array([10.0, 14.0]))  # mean 12, sd 2
    target = torch.from_numpy(number.target(np.array([10.0, 14.0])))
    assert target.tolist() == [-1, 1]
    assert number.loss(torch.tensor([[0.0], [3.0]]), target).item() == 1 + 4
    assert number.outputs(np.float32([[0], [3]])).tolist() == [[12], [18]]
    assert number.judge(np.array([[12.0], [18.0]]), np.array([10.0, 14.0])) == {"mse": (4 + 16) / 2}


class TestProbe:
    @pytest.mark.parametrize("name", ["gc", "kmer", "cnn"])
    def test_a_regression_is_scikit_learns_ridge(self, name):
        train, held_out = regression_examples(150), regression_examples(60, 1)
        classifier = build(name, PROBE, REGRESSION)
        fitted = probe(classifier, train, held_out, PROBE, ACCELERATOR)
        chosen = min(fitted.history, key=lambda row: row["validation_mse"])
        assert [row["strength"] for row in fitted.history] == [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100]
        features, other = (np.float64(embed(classifier, part, ACCELERATOR)) for part in (train, held_out))
        if name != "kmer":
            mean, scale = features.mean(axis=0), features.std(axis=0)
            features, other = (features - mean) / np.where(scale > 0, scale, 1), (other - mean) / np.where(scale > 0, scale, 1)
        numbers = labels_of(train)
        standard = (numbers - numbers.mean()) / numbers.std()
        reference = Ridge(alpha=1 / chosen["strength"]).fit(features, standard).predict(other) * numbers.std() + numbers.mean()
        predicted = predict(classifier, held_out, ACCELERATOR)[:, 0]
        np.testing.assert_allclose(predicted, reference, atol=2e-3 * numbers.std())
        assert chosen["validation_mse"] == pytest.approx(sk.mean_squared_error(labels_of(held_out), reference), rel=1e-3)

    def test_counts_stay_sparse(self, monkeypatch):
        seen = []
        monkeypatch.setattr(Ridge, "fit", lambda self, x, y, fit=Ridge.fit: seen.append(sparse.issparse(x)) or fit(self, x, y))
        examples = regression_examples(60)
        probe(build("kmer", PROBE, REGRESSION), examples, examples, PROBE, ACCELERATOR)
        assert seen == [True] * 8

    @pytest.mark.parametrize("name", ["gc", "kmer"])
    def test_labels_have_scikit_learns_logistic_regression_each(self, name):
        train, held_out = multilabel_examples(150), multilabel_examples(60, 1)
        classifier = build(name, PROBE, MULTILABEL, 3)
        fitted = probe(classifier, train, held_out, PROBE, ACCELERATOR)
        chosen = min(fitted.history, key=lambda row: row["validation_log_loss"])
        features, other = (np.float64(embed(classifier, part, ACCELERATOR)) for part in (train, held_out))
        if name == "gc":
            mean, scale = features.mean(axis=0), features.std(axis=0)
            features, other = (features - mean) / scale, (other - mean) / scale
        columns = [
            LogisticRegression(C=chosen["strength"], max_iter=2000).fit(features, column).predict_proba(other)[:, 1]
            for column in labels_of(train).T
        ]
        np.testing.assert_allclose(predict(classifier, held_out, ACCELERATOR), np.stack(columns, axis=1), atol=1e-4)

    def test_labels_that_do_not_vary_get_their_share_and_it_is_said(self):
        labels = [(label[0], 0, 1) for label in labels_of(multilabel_examples(60)).tolist()]
        examples = with_labels(multilabel_examples(60), labels)
        classifier = build("gc", PROBE, MULTILABEL, 3)
        fitted = probe(classifier, examples, examples, PROBE, ACCELERATOR)
        assert "2 of 3 labels do not vary in the training split; their share is predicted" in fitted.events
        predicted = predict(classifier, examples, ACCELERATOR)
        assert predicted[:, 1] == pytest.approx(0.5 / 61)
        assert predicted[:, 2] == pytest.approx(60.5 / 61)
        assert np.ptp(predicted[:, 0]) > 0.01
        constant = with_labels(examples, [(1, 0, 1)] * 60)
        with pytest.raises(RunFailed, match="no label varies in the training split"):
            probe(classifier, constant, examples, PROBE, ACCELERATOR)


class TestSensitivity:
    def test_the_change_of_a_number_is_in_standard_deviations_of_the_labels(self):
        examples = with_labels(variant_examples(40, alignment=True), np.linspace(0, 300, 40).tolist())

        def agreement(examples):
            rows = [example.windows[0].alignment for example in examples]
            return np.array([[1000.0 * (row[1:, 20] == row[0, 20]).mean()] for row in rows])

        found = alignment_sensitivity(examples, agreement(examples), agreement, REGRESSION)
        spread = labels_of(examples).std()
        assert found["blanked"]["mean_change"] == pytest.approx(agreement(examples).mean() / spread)
        assert set(found["intact"]) == {"spearman", "rmse"}
        assert np.isnan(found["blanked"]["spearman"])
        assert not insensitive(found)
        assert insensitive(alignment_sensitivity(examples, np.ones((40, 1)), lambda part: np.ones((len(part), 1)), REGRESSION))

    def test_all_labels_count(self):
        examples = with_labels(variant_examples(40, alignment=True), [(i % 2, (i // 2) % 2) for i in range(40)])

        def first_alone(examples):
            gaps = np.array([(example.windows[0].alignment[1:] == ord("-")).mean() for example in examples])
            return np.stack([gaps, np.full(len(gaps), 0.3)], axis=1)

        found = alignment_sensitivity(examples, first_alone(examples), first_alone, MULTILABEL)
        assert found["blanked"]["mean_change"] == pytest.approx(0.5)
        assert set(found["intact"]) == {"exact_match", "auroc"}


class TestRun:
    @pytest.mark.parametrize("model", ["gc", "kmer", "cnn"])
    @pytest.mark.parametrize("make", [regression_task, multilabel_task])
    def test_floors_run_on_both(self, tmp_path, make, model):
        task, splits = make((120, 40, 40), block=lambda name: str(int(name[1:]) // 4))
        asked = {"epochs": 1} if model == "cnn" else {}
        record = execute(planned_run(model, task, splits, **asked), tmp_path, opened=(task, splits))
        assert record.finished, record.error
        folder = tmp_path / record.folder
        assert read(folder) == record
        assert record.task["kind"] == task.kind
        assert record.task["main_metric"] == {REGRESSION: "spearman", MULTILABEL: "auroc"}[task.kind]
        predictions = read_predictions(folder)
        assert predictions.kind == task.kind
        assert np.array_equal(predictions.labels, labels_of(splits.test))
        metrics, intervals = judge(predictions)
        assert metrics == record.metrics
        assert {name: list(limits) for name, limits in intervals.items()} == record.intervals
        assert record.intervals[record.task["main_metric"]]

    def test_counts_and_question(self, tmp_path):
        task, splits = multilabel_task((40, 20, 20))
        record = execute(planned_run("gc", task, splits), tmp_path, opened=(task, splits))
        held = labels_of(splits.train).sum(axis=0)
        assert list(record.task["counts"]["train"].items()) == list(zip(task.classes, held.tolist()))
        other, splits = regression_task((40, 20, 20))
        assert execute(planned_run("gc", other, splits), tmp_path, opened=(other, splits)).task["counts"] == {
            "train": {"expression": 40},
            "validation": {"expression": 20},
            "test": {"expression": 20},
        }

    def test_a_label_that_the_test_split_lacks_is_said(self, tmp_path):
        task, splits = multilabel_task((60, 40, 40))
        labels = [(*label[:2], 0) for label in labels_of(splits.test).tolist()]
        splits.test[:] = with_labels(splits.test, labels)
        record = execute(planned_run("gc", task, splits), tmp_path, opened=(task, splits))
        assert "auroc and auprc are means over 2 of 3 labels: all test examples have, or all lack, 'tata'" in record.flags
        assert "0 examples with label 2: too few" in record.without_interval["f1"]
        assert record.intervals["auroc"]

    def test_equal_predictions_are_a_collapse_without_a_correlation(self, tmp_path):
        task, splits = regression_task((40, 20, 20))
        same = splits.train[0].windows
        splits.test[:] = [type(example)(example.id, same, example.label) for example in splits.test]
        record = execute(planned_run("gc", task, splits), tmp_path, opened=(task, splits))
        assert record.flags[0] == "collapsed: every test example was given the same number"
        assert record.metrics["spearman"] is record.metrics["pearson"] is None
        assert record.metrics["rmse"] > 0
        assert record.without_interval["spearman"] == "all predictions are equal"

    def test_zero_shot_is_refused(self, tmp_path):
        labels = np.linspace(0, 1, 20).tolist()
        splits = Splits(*(with_labels(variant_examples(20, seed=seed), labels) for seed in range(3)), files={"made": "here"})
        task = Task("effects", "variants", "made here", ("effect",), lambda rule: splits, ("position",), kind=REGRESSION)
        with pytest.raises(UserError, match="tune 'zero': it tells two classes apart, but effects is a regression"):
            execute(planned_run("dnabert1", task, splits, tune="zero"), tmp_path, opened=(task, splits))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("kind", "classes", "label", "message"),
        [
            (REGRESSION, ("x",), float("nan"), "train: not the labels of a regression .*1 of 20 labels: expected finite numbers"),
            (REGRESSION, ("x",), "much", "train: not the labels of a regression"),
            (MULTILABEL, ("x", "y"), (0, 2), "train: not the labels of a multilabel .*expected 0 and 1"),
            (MULTILABEL, ("x", "y"), (0, 1, 1), "train: not the labels of a multilabel"),
            ("classification", ("x", "y"), 2, "train: not the labels of a classification .*indices of 2 classes"),
            ("classification", ("x", "y"), 0.5, "train: not the labels of a classification .*whole numbers"),
        ],
    )
    def test_labels_of_another_kind_are_refused(self, tmp_path, kind, classes, label, message):
        usual = {REGRESSION: 1.5, MULTILABEL: (0, 1)}.get(kind, 1)
        parts = [with_labels(motif_examples(20), [usual] * 20) for _ in range(3)]
        parts[0][3:4] = with_labels(parts[0][3:4], [label])
        splits = Splits(*parts, files={"made": "here"})
        task = Task("made", "made", "made here", classes, lambda rule: splits, ("drawn",), kind=kind)
        with pytest.raises(BadData, match=message):
            execute(planned_run("gc", task, splits), tmp_path, opened=(task, splits))
        assert not list(tmp_path.iterdir())
