"""Intervals cover what they say, agree with published formulas, and are left out with a reason where they mean nothing."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from scipy.stats import binom, binomtest
from sklearn import metrics as sk

from harness.evidence import intervals as rules
from harness.evidence.metrics import intervals, missing_intervals, scores

BOUNDED = ("accuracy", "f1", "auroc", "auprc")


def two(second) -> np.ndarray:
    """Probabilities (N, 2) from those of class 1."""
    return np.stack([1 - np.asarray(second, float), second], axis=1)


def sample(probabilities, labels, blocks=None) -> rules.Sample:
    member = np.arange(len(labels)) if blocks is None else np.unique(blocks, return_inverse=True)[1]
    return rules.Sample(member, member.max() + 1, probabilities, labels)


def genes(number: int, separation: float, share: float, rng: np.random.Generator):
    """Blocks of 5 to 60 examples that share a shift of their scores and of their odds."""
    member = np.repeat(np.arange(number), rng.integers(5, 61, number))
    odds = np.log(share / (1 - share)) + rng.normal(size=number)[member]
    labels = (rng.random(len(member)) < expit(odds)).astype(int)
    score = separation * labels + 0.5 * rng.normal(size=number)[member] + rng.normal(size=len(member))
    return two(expit(separation * score - separation**2 / 2)), labels, member.astype(str)


def independent(number: int, separation: float, share: float, rng: np.random.Generator):
    labels = (rng.random(number) < share).astype(int)
    return two(expit(separation * (separation * labels + rng.normal(size=number)) - separation**2 / 2)), labels, ()


def three_classes(number: int, separation: float, rng: np.random.Generator):
    labels = rng.choice(3, number, p=(0.6, 0.3, 0.1))
    return softmax(separation * (separation * np.eye(3)[labels] + rng.normal(size=(number, 3))), axis=1), labels, ()


@st.composite
def predictions(draw, least: int = 5):
    """Probabilities in 64ths (ties are common), labels and blocks."""
    rows = draw(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 1), st.integers(0, 7)), min_size=least, max_size=60))
    second, labels, blocks = map(np.array, zip(*rows, strict=True))
    return two(second / 64), labels, blocks.astype(str)


class TestCoverage:
    """With 600 draws, a coverage of 93 % falls below the lower bound, and one of 98 % above the upper, once in 10,000 times.

    The percentile block bootstrap, which covers 85 to 90 % of the first and third design, does not pass.
    """

    DRAWS = 600
    LEAST, MOST = binom.ppf(1e-4, DRAWS, 0.93), binom.ppf(1 - 1e-4, DRAWS, 0.98)

    @pytest.mark.parametrize(
        ("draw", "size", "metrics"),
        [
            (partial(genes, separation=1.466, share=0.5), 10, ("accuracy", "f1", "log_loss", "auroc", "auprc")),
            (partial(genes, separation=1.466, share=0.1), 24, ("accuracy", "f1", "log_loss", "auroc", "auprc")),
            (partial(genes, separation=3.29, share=0.5), 10, ("accuracy", "f1", "log_loss", "auroc", "auprc")),
            (partial(independent, separation=1.466, share=0.1), 100, ("accuracy", "f1", "log_loss", "auroc", "auprc")),
            (partial(independent, separation=1.466, share=0.5), 20, ("accuracy", "f1", "log_loss")),
            (partial(three_classes, separation=1.466), 100, ("accuracy", "f1", "log_loss")),
        ],
    )
    def test_near_what_is_stated(self, draw, size, metrics):
        rng = np.random.default_rng(5)
        population = scores(*draw(10_000 if draw.func is genes else 400_000, rng=rng)[:2])
        held, given = dict.fromkeys(metrics, 0), dict.fromkeys(metrics, 0)
        for _ in range(self.DRAWS):
            found = intervals(*draw(size, rng=rng))
            for name in metrics:
                if name in found:
                    given[name] += 1
                    held[name] += found[name][0] <= population[name] <= found[name][1]
        assert min(given.values()) > 0.9 * self.DRAWS
        for name in metrics:
            missed = given[name] - held[name]
            assert self.DRAWS - self.MOST <= missed <= self.DRAWS - self.LEAST, (name, missed)

    def test_the_bounds_are_meaningful(self):
        assert 0.88 < self.LEAST / self.DRAWS < 0.90
        assert 0.99 < self.MOST / self.DRAWS < 1


class TestReferences:
    @pytest.mark.parametrize(("right", "total"), [(7, 10), (431, 600), (20, 20), (0, 5)])
    def test_accuracy_of_independent_examples_is_scipys_wilson_interval(self, right, total):
        labels = np.arange(total) % 2
        second = np.where(np.arange(total) < right, labels, 1 - labels) * 0.8 + 0.1
        expected = binomtest(right, total).proportion_ci(method="wilson")
        assert intervals(two(second), labels)["accuracy"] == pytest.approx((expected.low, expected.high), abs=1e-12)

    def test_f1_of_independent_examples_is_a_function_of_a_proportion(self):
        probabilities, labels, _ = independent(200, 1.5, 0.3, np.random.default_rng(1))
        predicted = probabilities.argmax(axis=1)
        true, false = int((predicted & labels).sum()), int((predicted != labels).sum())
        share = binomtest(true, true + false).proportion_ci(method="wilson")
        low, high = intervals(probabilities, labels)["f1"]
        assert (low, high) == pytest.approx([2 * p / (1 + p) for p in share], abs=1e-12)
        assert low < sk.f1_score(labels, predicted) < high

    def test_auroc_has_delongs_variance_with_one_example_less_in_each_class(self):
        probabilities, labels, _ = independent(70, 1.2, 0.3, np.random.default_rng(2))
        score, positive = probabilities[:, 1], labels == 1
        above = (score[positive][:, None] > score[~positive]).astype(float)
        placed, n = (above.mean(axis=1), above.mean(axis=0)), len(labels)
        closed = sum(values.var(ddof=1) / (len(values) - 1) for values in placed) * (n - 1) / n
        whole, without = rules.auroc_without(sample(probabilities, labels), score, positive)
        assert whole == pytest.approx(above.mean())
        assert rules.variance(without, whole) == pytest.approx(closed)

    @given(predictions(), st.booleans())
    @settings(max_examples=80, deadline=None)
    def test_ranking_metrics_without_a_block_are_scikit_learns(self, case, apart):
        probabilities, labels, blocks = case
        here = sample(probabilities, labels, None if apart else blocks)
        kept = [here.member != block for block in range(here.blocks)]
        if any(len(set(labels[rest])) < 2 for rest in [labels >= 0, *kept]):
            return
        for measure, reference in (
            (rules.auroc_without, sk.roc_auc_score),
            (rules.auprc_without, sk.average_precision_score),
        ):
            whole, without = measure(here, probabilities[:, 1], labels == 1)
            assert whole == pytest.approx(reference(labels, probabilities[:, 1]))
            assert without == pytest.approx([reference(labels[rest], probabilities[rest, 1]) for rest in kept])

    def test_many_large_blocks_have_nearly_the_same_spread_of_average_precision(self, monkeypatch):
        probabilities, labels, blocks = genes(60, 1.5, 0.2, np.random.default_rng(3))
        here, score, positive = sample(probabilities, labels, blocks), probabilities[:, 1], labels == 1
        whole, exact = rules.auprc_without(here, score, positive)
        monkeypatch.setattr(rules, "MAX_CELLS", 0)
        _, summed = rules.auprc_without(here, score, positive)
        assert rules.variance(summed, whole) == pytest.approx(rules.variance(exact, whole), rel=0.03)
        assert not np.array_equal(summed, exact)


class TestProperties:
    @given(predictions())
    @settings(max_examples=80, deadline=None)
    def test_an_interval_holds_its_score_and_stays_in_range(self, case):
        probabilities, labels, blocks = case
        measured = scores(probabilities, labels)
        for grouping in (blocks, ()):
            found, reasons = intervals(probabilities, labels, grouping), missing_intervals(probabilities, labels, grouping)
            assert found.keys() | reasons.keys() == {*BOUNDED, "log_loss"}
            assert not found.keys() & reasons.keys()
            for name, (low, high) in found.items():
                assert low - 1e-12 <= measured[name] <= high + 1e-12
                assert 0 <= low < high
                assert name == "log_loss" or high <= 1

    @pytest.mark.parametrize("apart", [True, False])
    def test_order_of_examples_and_names_of_blocks_do_not_matter(self, apart):
        rng = np.random.default_rng(4)
        probabilities, labels, blocks = genes(12, 1.0, 0.4, rng)
        renamed = np.array([f"chr{name}" for name in blocks])
        order = rng.permutation(len(labels))
        here = intervals(probabilities, labels, () if apart else blocks)
        there = intervals(probabilities[order], labels[order], () if apart else renamed[order])
        assert len(here) == 5
        assert there == {name: pytest.approx(limits, abs=1e-12) for name, limits in here.items()}

    def test_swapping_the_classes_keeps_what_is_symmetric(self):
        probabilities, labels, blocks = genes(12, 1.0, 0.4, np.random.default_rng(5))
        here, there = intervals(probabilities, labels, blocks), intervals(probabilities[:, ::-1], 1 - labels, blocks)
        for name in ("accuracy", "log_loss", "auroc"):
            assert there[name] == pytest.approx(here[name], abs=1e-12)

    def test_renaming_three_classes_changes_nothing(self):
        probabilities, labels, _ = three_classes(150, 1.5, np.random.default_rng(6))
        other = np.array([2, 0, 1])
        here, there = intervals(probabilities, labels), intervals(probabilities[:, np.argsort(other)], other[labels])
        assert len(here) == 5
        assert there == {name: pytest.approx(limits, abs=1e-12) for name, limits in here.items()}

    def test_blocks_of_one_are_independent_examples(self):
        probabilities, labels, _ = independent(80, 1.0, 0.5, np.random.default_rng(7))
        here, there = intervals(probabilities, labels), intervals(probabilities, labels, np.arange(80).astype(str))
        assert there == {name: pytest.approx(limits, abs=1e-12) for name, limits in here.items()}

    def test_what_depends_on_each_other_counts_once(self):
        """Blocks of 25 identical examples, so that only the number of blocks carries information."""
        probabilities, labels, _ = independent(40, 1.0, 0.5, np.random.default_rng(8))
        copies, truth, blocks = probabilities.repeat(25, axis=0), labels.repeat(25), np.arange(40).repeat(25).astype(str)
        together, apart = intervals(copies, truth, blocks), intervals(copies, truth)
        for name, (low, high) in together.items():
            assert low < scores(copies, truth)[name] < high
            assert high - low == pytest.approx(5 * (apart[name][1] - apart[name][0]), rel=0.4)  # a 25th of the examples
        assert len(together) == 5


class TestBorders:
    def test_equal_scores_of_all_examples_are_at_chance(self):
        low, high = intervals(two(np.full(20, 0.3)), np.array([0, 1] * 10))["auroc"]
        assert low < 0.5 < high
        assert low + high == pytest.approx(1)

    @pytest.mark.parametrize("blocks", [(), np.arange(40).repeat(5).astype(str)])
    def test_perfect_separation_has_a_width(self, blocks):
        labels = np.tile([0, 1, 1, 0, 0], 40)
        for second, whole in ((labels * 0.8 + 0.1, 1.0), (0.9 - labels * 0.8, 0.0)):
            found = intervals(two(second), labels, blocks)
            for name in ("accuracy", "f1", "auroc"):
                low, high = found[name]
                assert (low, high)[int(whole)] == whole
                assert 0.01 < high - low < 0.18
        assert intervals(two(labels * 0.8 + 0.1), labels, blocks)["auprc"][1] == 1

    def test_perfect_separation_is_as_uncertain_as_its_rarer_class(self):
        """Without a mistake in m positives, three in m may be mistaken: the exact bound of Clopper and Pearson."""
        for rare in (5, 30):
            labels = np.r_[np.zeros(200, int), np.ones(rare, int)]
            low = intervals(two(labels * 0.8 + 0.1), labels)["auroc"][0]
            exact = binomtest(rare, rare).proportion_ci(method="exact").low
            assert exact - 0.1 < low < exact + 0.02

    def test_blocks_of_equal_accuracy_are_no_certainty(self):
        """Every block has accuracy 1/2, so the spread between blocks is 0."""
        labels, blocks = np.tile([0, 0, 1, 1], 10), np.arange(10).repeat(4).astype(str)
        found = intervals(two(np.tile([0.1, 0.9, 0.1, 0.9], 10)), labels, blocks)
        reference = binomtest(20, 40).proportion_ci(method="wilson")
        assert found["accuracy"][1] - found["accuracy"][0] > reference.high - reference.low
        assert found["auroc"][1] - found["auroc"][0] > 0.05

    @pytest.mark.parametrize(
        ("labels", "second", "blocks", "reasons"),
        [
            (
                [0, 1, 1, 0],
                [0.1, 0.2, 0.8, 0.9],
                (),
                {"accuracy": "4 examples: fewer than 5", "auroc": "4 examples: fewer than 5"},
            ),
            ([0, 1] * 20, [0.6, 0.4] * 20, np.arange(4).repeat(10), {"accuracy": "4 blocks: fewer than 5"}),
            ([0, 1] * 20, [0.6, 0.4] * 20, [*range(4), *[9] * 36], {"auprc": "most examples are in one or two of the 5 blocks"}),
            ([0] * 20, [0.6, 0.4] * 10, (), {"auroc": "0 examples of class 1: too few", "auprc": "0 examples of class 1"}),
            ([0] * 18 + [1] * 2, [0.6, 0.4] * 10, (), {"auroc": "2 examples of class 1: too few"}),
            (
                [0] * 20 + [1] * 10,
                np.linspace(0.1, 0.9, 30),
                [*range(20), *[20] * 10],
                {"auroc": "nearly all of them in one or two"},
            ),
            ([0] * 20, [0.1] * 20, (), {"f1": "the positive class neither occurs nor is predicted"}),
            ([0, 1] * 10, [0.1, 0.9] * 10, (), {"log_loss": "0 of 20 examples misclassified: fewer than 2"}),
            (
                [0, 1] * 20,
                [0.1, 0.9] * 19 + [0.9, 0.1],
                np.arange(8).repeat(5),
                {"log_loss": "1 of 8 blocks with examples misclassified"},
            ),
            ([0, 1] * 10, [0.5] * 20, (), {"log_loss": "all examples have the same loss"}),
        ],
    )
    def test_none_and_why_where_it_means_nothing(self, labels, second, blocks, reasons):
        arguments = two(second), np.array(labels), [str(block) for block in blocks]
        found, why = intervals(*arguments), missing_intervals(*arguments)
        for name, reason in reasons.items():
            assert name not in found
            assert reason in why[name]

    def test_three_classes_need_each_class(self):
        probabilities, labels, _ = three_classes(60, 1.5, np.random.default_rng(9))
        assert len(intervals(probabilities, labels)) == 5
        few = np.where(labels == 2, 0, labels)
        assert "0 examples of class 2" in missing_intervals(probabilities, few)["f1"]
        assert set(intervals(probabilities, few)) == {"accuracy", "log_loss"}

    def test_blocks_are_one_for_each_example(self):
        with pytest.raises(ValueError, match="3 blocks: expected one for each of 2 examples"):
            intervals(two([0.1, 0.9]), np.array([0, 1]), ["a", "b", "c"])
