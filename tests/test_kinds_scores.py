"""Scores and intervals of regressions and multi-label tasks: SciPy's, scikit-learn's, and numbers computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit
from scipy.stats import binom, binomtest
from sklearn import metrics as sk

from harness.errors import RunFailed
from harness.evidence import regression
from harness.evidence.metrics import METRICS, collapsed, intervals, left_out, metrics_of, missing_intervals, scores
from harness.task import CLASSIFICATION, KINDS, MAIN_METRIC, MULTILABEL, REGRESSION


def numbers(predicted, labels) -> dict[str, float]:
    return scores(np.array(predicted, float)[:, None], np.array(labels), REGRESSION)


def several(probabilities, labels) -> dict[str, float]:
    return scores(np.array(probabilities), np.array(labels), MULTILABEL)


def test_each_kind_has_its_metrics_and_a_main_one():
    assert metrics_of(REGRESSION) == ["spearman", "pearson", "r2", "rmse", "mae"]
    assert metrics_of(MULTILABEL) == ["f1", "log_loss", "auroc", "auprc", "micro_auroc", "micro_auprc", "micro_f1", "exact_match"]
    assert metrics_of(CLASSIFICATION)[0] == "accuracy"
    assert set(MAIN_METRIC) == set(KINDS)
    assert all(kind in METRICS[name].kinds for kind, name in MAIN_METRIC.items())


class TestRegression:
    def test_by_hand(self):
        found = numbers([1, 2, 3, 6], [2, 1, 3, 4])
        assert found["spearman"] == pytest.approx(1 - 6 * (1 + 1) / (4 * 15))  # rank differences 1, 1, 0, 0
        assert found["rmse"] == pytest.approx(math.sqrt((1 + 1 + 0 + 4) / 4))
        assert found["mae"] == 1
        assert found["r2"] == pytest.approx(1 - 6 / 5)  # labels vary by 2.25 + 0.25 + 0.25 + 2.25 about 2.5
        assert found["pearson"] == pytest.approx(7 / math.sqrt(14 * 5))

    @given(st.lists(st.tuples(st.integers(-8, 8), st.integers(-8, 8)), min_size=3, max_size=40))
    @settings(max_examples=60, deadline=None)
    def test_agrees_with_scipy_and_scikit_learn(self, rows):
        predicted, labels = np.array([*rows, (0, 0), (1, 3)], float).T
        found = numbers(predicted, labels)
        expected = {
            "spearman": stats.spearmanr(predicted, labels)[0],
            "pearson": stats.pearsonr(predicted, labels)[0],
            "r2": sk.r2_score(labels, predicted),
            "rmse": math.sqrt(sk.mean_squared_error(labels, predicted)),
            "mae": sk.mean_absolute_error(labels, predicted),
        }
        assert found == pytest.approx(expected, abs=1e-12)

    def test_undefined_where_predictions_or_labels_are_equal(self, recwarn):
        flat = numbers([7, 7, 7], [1, 2, 3])
        assert math.isnan(flat["spearman"])
        assert math.isnan(flat["pearson"])
        assert flat["r2"] == pytest.approx(1 - 77 / 2)
        rounding = numbers([0.1 + 0.2, 0.3, 0.3], [1, 2, 3])  # differ in the last bit
        assert math.isnan(rounding["spearman"])
        same = numbers([1, 2, 3], [5, 5, 5])
        assert [name for name, value in same.items() if math.isnan(value)] == ["spearman", "pearson", "r2"]
        assert not recwarn.list

    def test_collapse_is_measured_by_the_labels(self):
        labels = np.array([1e6, 1e6 + 1, 1e6 + 2])
        assert collapsed(np.full((3, 1), 5.0), labels, REGRESSION)
        assert collapsed(np.array([[5.0], [5.0], [5.0 + 1e-9]]), labels, REGRESSION)
        assert not collapsed(np.array([[1e6], [1e6], [1e6 + 0.5]]), labels, REGRESSION)
        assert not collapsed(np.array([[5.0]]), labels[:1], REGRESSION)

    @pytest.mark.parametrize(
        ("outputs", "labels", "error", "message"),
        [
            ([[math.nan], [1.0]], [1, 2], RunFailed, "predictions of 1 of 2 examples are not numbers"),
            ([1.0, 2.0], [1, 2], ValueError, r"\(examples, 1\)"),
            ([[1.0], [2.0]], [1], ValueError, r"expected numbers \(2,\)"),
            ([[1.0], [2.0]], [1, math.inf], ValueError, "1 of 2 labels: expected finite numbers"),
        ],
    )
    def test_refuses(self, outputs, labels, error, message):
        with pytest.raises(error, match=message):
            scores(np.array(outputs), np.array(labels), REGRESSION)


class TestMultilabel:
    # By hand: predicted (1, 0), (0, 1), (1, 1), (0, 0).
    PROBABILITIES = np.array([[0.9, 0.2], [0.4, 0.8], [0.6, 0.7], [0.3, 0.5]])
    LABELS = np.array([[1, 0], [1, 1], [0, 1], [0, 0]])

    def test_by_hand(self):
        found = several(self.PROBABILITIES, self.LABELS)
        assert found["exact_match"] == 0.5
        assert found["f1"] == pytest.approx((2 * 1 / 4 + 2 * 2 / 4) / 2)
        assert found["micro_f1"] == pytest.approx(2 * 3 / 8)
        assert found["auroc"] == pytest.approx((3 / 4 + 1) / 2)
        assert found["auprc"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
        right = [0.9, 0.8, 0.4, 0.8, 0.4, 0.7, 0.7, 0.5]
        assert found["log_loss"] == pytest.approx(-np.log(right).mean())

    @given(
        st.integers(1, 4).flatmap(
            lambda k: st.lists(
                st.lists(st.tuples(st.integers(0, 64), st.integers(0, 1)), min_size=k, max_size=k), min_size=1, max_size=20
            )
        )
    )
    @settings(max_examples=60, deadline=None)
    def test_agrees_with_scikit_learn(self, rows):
        k = len(rows[0])
        table = np.array([*rows, [(5, 0)] * k, [(60, 1)] * k])
        probabilities, labels = table[..., 0] / 64, table[..., 1]
        predicted, found = np.int64(probabilities > 0.5), several(probabilities, labels)
        columns = [(labels[:, i], probabilities[:, i], predicted[:, i]) for i in range(k)]
        flat = labels.ravel(), probabilities.ravel(), predicted.ravel()
        expected = {
            "auroc": np.mean([sk.roc_auc_score(y, p) for y, p, _ in columns]),
            "auprc": np.mean([sk.average_precision_score(y, p) for y, p, _ in columns]),
            "f1": np.mean([sk.f1_score(y, q, zero_division=0) for y, _, q in columns]),
            "micro_auroc": sk.roc_auc_score(*flat[:2]),
            "micro_auprc": sk.average_precision_score(*flat[:2]),
            "micro_f1": sk.f1_score(flat[0], flat[2]),
            "log_loss": np.mean([sk.log_loss(y, p, labels=[0, 1]) for y, p, _ in columns]),
            "exact_match": (predicted == labels).all(axis=1).mean(),
        }
        assert found == pytest.approx(expected, abs=1e-12)

    def test_a_label_that_does_not_vary_is_left_out_of_ranking_means_and_named(self, recwarn):
        labels = np.column_stack([self.LABELS, np.zeros(4, int), np.ones(4, int)])
        probabilities = np.column_stack([self.PROBABILITIES, np.full((4, 2), 0.4)])
        found, alone = several(probabilities, labels), several(self.PROBABILITIES, self.LABELS)
        assert (found["auroc"], found["auprc"]) == (alone["auroc"], alone["auprc"])
        assert found["f1"] == alone["f1"] / 2  # both are 0: one label never occurs, the other is never predicted
        assert left_out(labels, ("a", "b", "c", "d"), MULTILABEL) == [
            "auroc and auprc are means over 2 of 4 labels: all test examples have, or all lack, 'c', 'd'"
        ]
        assert left_out(self.LABELS, ("a", "b"), MULTILABEL) == left_out(np.array([0, 1]), ("a", "b")) == []
        many = left_out(np.zeros((4, 12), int), tuple("abcdefghijkl"), MULTILABEL)
        assert many[0].endswith("'i', 'j', …")
        nothing = several(np.full((4, 2), 0.4), np.zeros((4, 2), int))
        assert [name for name, value in nothing.items() if math.isnan(value)] == ["auroc", "auprc", "micro_auroc", "micro_auprc"]
        assert not recwarn.list

    def test_collapse_is_one_set_of_labels_for_all(self):
        assert collapsed(np.array([[0.6, 0.1], [0.9, 0.4]]), self.LABELS[:2], MULTILABEL)
        assert not collapsed(self.PROBABILITIES, self.LABELS, MULTILABEL)

    @pytest.mark.parametrize(
        ("outputs", "labels", "error", "message"),
        [
            ([[math.nan, 0.5]], [[0, 1]], RunFailed, "probabilities of 1 of 1 examples are not numbers"),
            ([[1.5, 0.5]], [[0, 1]], ValueError, "logits"),
            ([[0.5, 0.5]], [[0, 2]], ValueError, r"expected 0 and 1 \(1, 2\)"),
            ([[0.5, 0.5]], [0], ValueError, r"expected 0 and 1 \(1, 2\)"),
            (np.zeros((0, 2)), np.zeros((0, 2), int), ValueError, "one or more"),
        ],
    )
    def test_refuses(self, outputs, labels, error, message):
        with pytest.raises(error, match=message):
            scores(np.array(outputs), np.array(labels), MULTILABEL)


def drawn(rng, size, slope=0.7, blocks=False, shift=0.5):
    """Predictions and labels that depend on each other, and blocks of 5 to 60 examples that share a shift of both."""
    member = np.repeat(np.arange(size), rng.integers(5, 61, size)) if blocks else np.arange(size)
    common = rng.normal(size=(size, 2))[member] * shift * blocks
    predicted = rng.normal(size=len(member)) + common[:, 0]
    labels = slope * predicted + rng.normal(size=len(member)) + common[:, 1]
    return slope * predicted[:, None], labels, member.astype(str) if blocks else ()


def drawn_labels(rng, size, blocks=False):
    """Three labels, of half, a fifth and a tenth of the examples, that depend on each other."""
    member = np.repeat(np.arange(size), rng.integers(5, 61, size)) if blocks else np.arange(size)
    common = rng.normal(size=(size, 3))[member] * blocks
    odds = np.log([1, 1 / 4, 1 / 9]) + rng.normal(size=(len(member), 1)) + common
    labels = (rng.random(odds.shape) < expit(odds)).astype(int)
    return expit(1.5 * labels + rng.normal(size=odds.shape) - 1), labels, member.astype(str) if blocks else ()


class TestIntervals:
    def test_influence_on_spearman_is_what_leaving_out_an_example_does(self):
        rng = np.random.default_rng(0)
        x, y = np.round(rng.normal(size=(2, 300)), 1)  # with ties
        y += x
        value, influence = regression.spearman_influence(x, y)
        assert value == pytest.approx(stats.spearmanr(x, y)[0])
        moved = [299 * (value - stats.spearmanr(np.delete(x, i), np.delete(y, i))[0]) for i in range(300)]
        assert influence == pytest.approx(moved, abs=0.1)
        assert influence.std() == pytest.approx(np.std(moved), rel=0.02)
        assert influence.mean() == pytest.approx(0, abs=1e-9)

    def test_pearson_and_r2_without_each_block_are_scipys_and_scikit_learns(self):
        outputs, labels, groups = drawn(np.random.default_rng(1), 8, blocks=True, shift=3)
        predicted, kept = outputs[:, 0] + 50, [groups != name for name in np.unique(groups)]
        without = {
            "pearson": [np.arctanh(stats.pearsonr(predicted[rest], labels[rest])[0]) for rest in kept],
            "r2": [np.log(1 - sk.r2_score(labels[rest], predicted[rest])) for rest in kept],
        }
        whole = numbers(predicted, labels)
        found = intervals(predicted[:, None], labels, groups, REGRESSION)
        effective = len(labels) ** 2 / (np.unique(groups, return_counts=True)[1] ** 2).sum()
        times = stats.t.ppf(0.975, effective - 1)
        for name, scale, back in (
            ("pearson", np.arctanh, np.tanh),
            ("r2", lambda r2: np.log(1 - r2), lambda rest: 1 - np.exp(rest)),
        ):
            value = scale(whole[name])
            half = times * np.sqrt(((without[name] - value) ** 2).sum() * 7 / 8)
            assert found[name] == pytest.approx(sorted(back([value - half, value + half])))

    def test_pearson_of_normal_data_has_fishers_interval(self):
        x, y = np.random.default_rng(1).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 20_000).T
        low, high = intervals(x[:, None], y, (), REGRESSION)["pearson"]
        expected = stats.pearsonr(x, y).confidence_interval()
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=5e-4)

    def test_exact_match_has_wilsons_interval(self):
        probabilities, labels, _ = drawn_labels(np.random.default_rng(2), 200)
        right = int(((probabilities > 0.5) == labels).all(axis=1).sum())
        expected = binomtest(right, 200).proportion_ci(method="wilson")
        assert intervals(probabilities, labels, (), MULTILABEL)["exact_match"] == pytest.approx((expected.low, expected.high))

    def test_one_label_has_the_intervals_of_two_classes(self):
        """Of a single label, macro, micro and a classification of two classes are the same."""
        probabilities, labels, blocks = drawn_labels(np.random.default_rng(3), 12, blocks=True)
        one, truth = probabilities[:, :1], labels[:, :1]
        as_classes = intervals(np.hstack([1 - one, one]), truth[:, 0], blocks)
        found = intervals(one, truth, blocks, MULTILABEL)
        for name in ("auroc", "auprc", "f1"):
            assert found[f"micro_{name}"] == pytest.approx(as_classes[name])
        assert found["f1"] == pytest.approx(as_classes["f1"], abs=0.1)  # a macro mean is not taken for a proportion
        assert found["auroc"] == pytest.approx(as_classes["auroc"], abs=1e-3)  # extended by its bias
        assert found["log_loss"] == pytest.approx(as_classes["log_loss"])
        assert found["exact_match"] == pytest.approx(as_classes["accuracy"])

    @pytest.mark.parametrize(("kind", "draw"), [(REGRESSION, drawn), (MULTILABEL, drawn_labels)])
    @pytest.mark.parametrize("blocks", [False, True])
    def test_an_interval_holds_its_score_whatever_the_order(self, kind, draw, blocks):
        rng = np.random.default_rng(4)
        outputs, labels, groups = draw(rng, 30 if blocks else 200, blocks=blocks)
        found, score = intervals(outputs, labels, groups, kind), scores(outputs, labels, kind)
        assert set(found) == set(metrics_of(kind))
        for name, (low, high) in found.items():
            assert low < score[name] < high
        order = rng.permutation(len(labels))
        again = intervals(outputs[order], labels[order], np.array(groups)[order] if blocks else (), kind)
        assert again == {name: pytest.approx(limits, abs=1e-9) for name, limits in found.items()}

    @pytest.mark.parametrize(("kind", "draw"), [(REGRESSION, drawn), (MULTILABEL, drawn_labels)])
    def test_what_depends_on_each_other_counts_once(self, kind, draw):
        outputs, labels, _ = draw(np.random.default_rng(5), 60)
        copies = outputs.repeat(25, axis=0), labels.repeat(25, axis=0)
        together, apart = intervals(*copies, np.arange(60).repeat(25).astype(str), kind), intervals(*copies, (), kind)
        for name, (low, high) in together.items():
            assert high - low > 3 * (apart[name][1] - apart[name][0])  # a 25th of the examples

    def test_blocks_that_agree_are_no_certainty(self):
        """Every block is the same, so the spread between blocks is 0."""
        outputs, labels, _ = drawn(np.random.default_rng(6), 20)
        groups = np.arange(10).repeat(20).astype(str)
        found = intervals(np.tile(outputs, (10, 1)), np.tile(labels, 10), groups, REGRESSION)
        assert all(high - low > 0.05 for low, high in (found["spearman"], found["pearson"], found["r2"]))

    @pytest.mark.parametrize(
        ("kind", "outputs", "labels", "reasons"),
        [
            (REGRESSION, [[1.0], [2.0], [4.0]], [1, 2, 3], {"spearman": "3 examples: fewer than 5", "rmse": "3 examples"}),
            (
                REGRESSION,
                [[1.0]] * 20,
                np.arange(20),
                {"spearman": "all predictions are equal", "pearson": "all predictions are equal"},
            ),
            (REGRESSION, np.arange(20.0)[:, None], [3] * 20, {"r2": "all labels are equal", "spearman": "all labels are equal"}),
            (
                REGRESSION,
                np.arange(20.0)[:, None],
                np.arange(20) + 1,
                {"spearman": "without exception", "rmse": "the same error"},
            ),
            (REGRESSION, np.arange(20.0)[:, None], np.arange(20), {"r2": "without exception", "mae": "the same error"}),
            (MULTILABEL, np.full((20, 2), 0.3), [[0, 1], [0, 0]] * 10, {"f1": "0 examples with label 0: too few"}),
            (
                MULTILABEL,
                np.full((20, 2), 0.3),
                [[0, 0]] * 20,
                {"auroc": "no label varies", "micro_auroc": "0 labels that an example has"},
            ),
            (MULTILABEL, [[0.9, 0.1], [0.1, 0.9]] * 10, [[1, 0], [0, 1]] * 10, {"log_loss": "0 of 20 examples misclassified"}),
        ],
    )
    def test_none_and_why_where_it_means_nothing(self, kind, outputs, labels, reasons):
        arguments = np.array(outputs), np.array(labels), (), kind
        found, why = intervals(*arguments), missing_intervals(*arguments)
        assert found.keys() | why.keys() == set(metrics_of(kind))
        for name, reason in reasons.items():
            assert name not in found
            assert reason in why[name]


class TestCoverage:
    """With 400 draws, a coverage of 93 % falls below the lower bound, and one of 98 % above the upper, once in 10,000 times."""

    DRAWS = 400
    LEAST, MOST = binom.ppf(1e-4, DRAWS, 0.93), binom.ppf(1 - 1e-4, DRAWS, 0.98)

    @pytest.mark.parametrize(
        ("kind", "draw", "size", "blocks"),
        [
            (REGRESSION, drawn, 100, False),
            (REGRESSION, drawn, 24, True),
            (MULTILABEL, drawn_labels, 100, False),
            (MULTILABEL, drawn_labels, 24, True),
        ],
    )
    def test_near_what_is_stated(self, kind, draw, size, blocks):
        rng = np.random.default_rng(7)
        population = scores(*draw(rng, 10_000 if blocks else 300_000, blocks=blocks)[:2], kind)
        held, given = dict.fromkeys(population, 0), dict.fromkeys(population, 0)
        for _ in range(self.DRAWS):
            for name, (low, high) in intervals(*draw(rng, size, blocks=blocks), kind).items():
                given[name] += 1
                held[name] += low <= population[name] <= high
        assert min(given.values()) > 0.9 * self.DRAWS
        shares = {name: round(held[name] / given[name], 3) for name in held}
        print(shares)
        for name in held:
            missed = given[name] - held[name]
            assert missed <= self.DRAWS - self.LEAST, shares
            assert missed >= self.DRAWS - self.MOST, shares
