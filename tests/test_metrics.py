"""Scores agree with scikit-learn and with numbers computed by hand; bad input is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from harness.errors import RunFailed
from harness.evidence.metrics import collapsed, metrics_of, scores
from harness.task import CLASSIFICATION

# By hand: predicted 1, 0, 1, 0 for the labels 1, 0, 0, 1.
PROBABILITIES = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
LABELS = np.array([1, 0, 0, 1])


@st.composite
def predictions(draw):
    """Probabilities (N, K) and labels (N,) in which every class occurs."""
    k = draw(st.integers(2, 4))
    extra = draw(st.lists(st.integers(0, k - 1), max_size=30))
    labels = np.array([*range(k), *extra])
    raw = draw(arrays(np.float64, (len(labels), k), elements=st.floats(1e-6, 1)))
    return raw / raw.sum(axis=1, keepdims=True), labels


def test_hand_computed_case():
    found = scores(PROBABILITIES, LABELS)
    assert list(found) == metrics_of(CLASSIFICATION)
    assert [found[name] for name in ("accuracy", "precision", "recall", "f1", "mcc")] == [0.5, 0.5, 0.5, 0.5, 0.0]
    assert found["auroc"] == 0.75  # of four pairs, only 0.4 of a positive and 0.7 of a negative are in the wrong order
    assert found["auprc"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found["log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.3) + math.log(0.4)) / 4)
    assert found["brier"] == pytest.approx((0.01 + 0.04 + 0.49 + 0.36) / 4)
    assert found["ece"] == pytest.approx((0.1 + 0.2 + 0.7 + 0.6) / 4)  # each confidence is in a bin of its own


def test_calibration_bins_include_their_upper_border():
    third_bins = np.array([[0.2, 0.8], [0.25, 0.75]])  # 0.8 = 12/15 belongs to (11/15, 12/15], as 0.75 does
    assert scores(third_bins, np.array([1, 0]))["ece"] == pytest.approx(abs(1 - 0.8 - 0.75) / 2)


@given(predictions())
@settings(max_examples=60, deadline=None)
def test_agrees_with_scikit_learn(case):
    probabilities, labels = case
    k = probabilities.shape[1]
    predicted, one_hot = probabilities.argmax(axis=1), np.eye(k)[labels]
    mode = {"average": "binary" if k == 2 else "macro", "zero_division": 0}
    positive = probabilities[:, 1] if k == 2 else probabilities
    truth = labels if k == 2 else one_hot
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "precision": sk.precision_score(labels, predicted, **mode),
        "recall": sk.recall_score(labels, predicted, **mode),
        "f1": sk.f1_score(labels, predicted, **mode),
        "log_loss": sk.log_loss(labels, probabilities),
        "hard_log_loss": sk.log_loss(labels, np.eye(k)[predicted]),
        "mcc": sk.matthews_corrcoef(labels, predicted),
        "auroc": sk.roc_auc_score(labels, positive, multi_class="ovr"),
        "auprc": sk.average_precision_score(truth, positive),
        "brier": sk.brier_score_loss(labels, positive) if k == 2 else sk.mean_squared_error(one_hot, probabilities) * k,
    }
    found = scores(probabilities, labels)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert found["hard_log_loss"] == pytest.approx((1 - found["accuracy"]) * 36.04, abs=0.01)
    assert 0 <= found["ece"] <= 1


@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 1)), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_swapping_the_classes_keeps_what_is_symmetric(rows):
    positive, labels = np.array([(share / 64, label) for share, label in [*rows, (1, 0), (2, 1)]]).T  # 64ths: 1 - p is exact
    probabilities, labels = np.stack([1 - positive, positive], axis=1), labels.astype(int)
    here, there = scores(probabilities, labels), scores(probabilities[:, ::-1], 1 - labels)
    symmetric = ("log_loss", "auroc", "brier")  # the others take the first class of a tie
    assert {name: here[name] for name in symmetric} == pytest.approx({name: there[name] for name in symmetric}, abs=1e-12)


def test_one_class_in_the_labels():
    found = scores(PROBABILITIES, np.ones(4, int))
    assert math.isnan(found["auroc"])
    assert math.isnan(found["auprc"])
    assert (found["accuracy"], found["recall"], found["precision"], found["mcc"]) == (0.5, 0.5, 1.0, 0.0)
    assert scores(PROBABILITIES, np.zeros(4, int))["f1"] == 0


def test_one_class_in_labels_and_predictions_is_no_warning(recwarn):
    assert scores(np.array([[0.1, 0.9]]), np.array([1]))["mcc"] == 0.0
    assert not recwarn.list


def test_float32_rounding_is_no_fault(recwarn):
    raw = np.random.default_rng(0).random((50, 3), np.float32)
    scores(raw / raw.sum(axis=1, keepdims=True), np.arange(50) % 3)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("probabilities", "labels", "error", "message"),
    [
        ([[0.5, math.nan]], [0], RunFailed, "1 of 1 examples are not numbers"),
        ([[2.0, -1.0]], [0], ValueError, "logits"),
        ([[0.5, 0.4]], [0], ValueError, "sum to 1"),
        ([0.5, 0.5], [0, 1], ValueError, r"\(examples, classes\)"),
        (np.zeros((0, 2)), [], ValueError, "one or more"),
        ([[0.5, 0.5]], [0, 1], ValueError, r"expected whole numbers \(1,\)"),
        ([[0.5, 0.5]], [1.0], ValueError, "float64"),
        ([[0.5, 0.5]], [2], ValueError, "indices of 2 classes"),
    ],
)
def test_refuses(probabilities, labels, error, message):
    with pytest.raises(error, match=message):
        scores(np.array(probabilities), np.array(labels))


def test_collapsed():
    assert collapsed(np.array([[0.6, 0.4], [0.9, 0.1]]), np.array([0, 1]))
    assert not collapsed(PROBABILITIES, LABELS)
    assert not collapsed(PROBABILITIES[:1], LABELS[:1])
