"""Paired statistics against closed forms, scipy and enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.evidence import statistics
from harness.evidence.intervals import Grouped, members
from harness.evidence.metrics import OF_KIND, metrics_of, scores
from harness.evidence.resampling import measured, redrawn


def predictions(kind: str, examples: int = 200):
    rng = np.random.default_rng(3)
    if kind == "regression":
        labels = (rng.normal(size=examples) + 7).round(1)
        return (labels + rng.normal(size=examples)).round(1)[:, None], labels
    if kind == "multilabel":
        return rng.random((examples, 3)).round(2), rng.integers(0, 2, (examples, 3))
    classes = 3 if kind == "three classes" else 2
    second = rng.random(examples).round(2)  # rounded, so that scores are tied
    found = np.stack([1 - second, second], axis=1) if classes == 2 else rng.dirichlet(np.ones(3), examples)
    return found, rng.integers(0, classes, examples)


KINDS = ("classification", "three classes", "regression", "multilabel")
CELLS = [(kind, metric) for kind in KINDS for metric in metrics_of("classification" if kind == "three classes" else kind)]


@pytest.mark.parametrize("blocked", [False, True], ids=["independent", "blocks"])
@pytest.mark.parametrize(("kind", "metric"), CELLS)
def test_value_and_draws_are_those_of_scores_on_the_drawn_examples(kind, metric, blocked):
    outputs, labels = predictions(kind)
    kind = "classification" if kind == "three classes" else kind
    member, blocks = members(len(labels), [str(number % 30) for number in range(len(labels))] if blocked else ())
    found = measured(metric, kind, outputs, labels, Grouped(member, blocks))
    assert found.value == pytest.approx(scores(outputs, labels, kind)[metric], abs=1e-12)
    weights = statistics.drawn_blocks(blocks, 3)
    (values,) = redrawn([found], weights)
    for draw, value in zip(weights.T, values, strict=True):
        chosen = np.repeat(np.arange(len(labels)), draw.astype(int)[member])
        assert value == pytest.approx(scores(outputs[chosen], labels[chosen], kind)[metric], rel=1e-5, abs=1e-6)
    assert found.influence.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("kind", "metric"), CELLS)
def test_influence_has_the_spread_of_the_draws(kind, metric):
    if metric == "ece":
        pytest.skip("absolute values have no influence function")
    outputs, labels = predictions(kind, 600)
    kind = "classification" if kind == "three classes" else kind
    found = measured(metric, kind, outputs, labels, Grouped(*members(len(labels), ())))
    (values,) = redrawn([found], statistics.drawn_blocks(len(labels), 2_000))
    assert (found.influence**2).sum() ** 0.5 == pytest.approx(values.std(), rel=0.1)


def test_rank_metrics_are_undefined_where_a_draw_lacks_a_class():
    labels = np.array([1, 0, 0, 0])
    found = measured("auroc", "classification", np.full((4, 2), 0.5), labels, Grouped(*members(4, ())))
    weights = np.array([[0.0, 2], [2, 1], [1, 1], [1, 0]], np.float32)
    (values,) = redrawn([found], weights)
    assert np.isnan(values[0])
    assert values[1] == 0.5
    assert OF_KIND["classification"]


def paired(examples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which of the same examples two models have right, a little more often the first."""
    rng = np.random.default_rng(seed)
    hard = rng.random(examples)
    return hard + 0.2 * rng.random(examples) < 0.85, hard + 0.2 * rng.random(examples) < 0.83


def accuracy(right: np.ndarray):
    second = np.where(right, 0.9, 0.1)
    return measured(
        "accuracy",
        "classification",
        np.stack([1 - second, second], axis=1),
        np.ones(len(right), int),
        Grouped(*members(len(right), ())),
    )


def test_one_seed_gives_the_paired_t_interval_and_its_p():
    right = paired(3_000)
    difference = right[0].astype(float) - right[1]
    first, second = map(accuracy, right)
    draws = redrawn([first, second], statistics.drawn_blocks(3_000, 4_000))
    found = statistics.spread((draws[0] - draws[1])[:, None], difference.mean()[None], 3_000, 3_000)
    expected = stats.ttest_1samp(difference, 0)
    assert found.interval(difference.mean()) == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=6e-4)
    shares = difference / len(difference)
    sums, exact = statistics.swapped(shares[:, None], 9_999)
    assert not exact
    influence = (first.influence - second.influence)[:, None]
    p = statistics.permutation_p(sums[:, 0], exact, shares, influence, difference.mean()[None], 3_000)
    assert p == pytest.approx(expected.pvalue, abs=0.02)


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=9))
def test_permutation_p_of_few_blocks_is_that_of_all_swaps(values):
    shares = np.array(values, float)
    sums, exact = statistics.swapped(shares[:, None])
    p = statistics.permutation_p(sums[:, 0], exact, shares, shares[:, None], shares.sum()[None], len(shares))
    swaps = [abs(sum(sign * value for sign, value in zip(signs, values))) for signs in product((1, -1), repeat=len(values))]
    assert exact
    assert p == pytest.approx(np.mean([found >= abs(sum(values)) for found in swaps]))


def test_random_swaps_find_the_p_of_all_swaps():
    shares = np.random.default_rng(1).normal(0.3, 1, 12)
    exact = statistics.swapped(shares[:, None], 4_096)
    drawn = statistics.swapped(np.repeat(shares, 2)[:, None] / 2, 20_000)  # 24 blocks: too many for all patterns
    assert exact[1]
    assert not drawn[1]
    p = [
        statistics.permutation_p(found[0][:, 0], found[1], each, each[:, None], each.sum()[None], len(each))
        for found, each in ((exact, shares), (drawn, np.repeat(shares, 2) / 2))
    ]
    assert 0.0 < p[1] < p[0] + 0.05


def test_seeds_that_differ_widen_the_interval_and_raise_p():
    rng = np.random.default_rng(0)
    influence = np.repeat((rng.normal(size=500) / 500)[:, None], 5, axis=1)
    influence -= influence.mean(axis=0)
    shares = statistics.shares_of(influence, np.zeros(5), np.ones(500))
    sums, exact = statistics.swapped(shares[:, None])
    weights = statistics.drawn_blocks(500)
    found = {}
    for name, differences in (("alike", np.full(5, 0.1)), ("apart", 0.1 + np.array([-0.2, -0.1, 0.0, 0.1, 0.2]))):
        draws = differences + weights.T.astype(float) @ influence
        spread = statistics.spread(draws, differences, 500, 500)
        p = statistics.permutation_p(sums[:, 0], exact, shares, influence, differences, 500)
        found[name] = spread, p
    assert found["apart"][0].error == pytest.approx((found["alike"][0].error ** 2 + 0.025 / 5) ** 0.5, rel=0.01)
    assert found["alike"][0].freedom == pytest.approx(499)
    assert 4 < found["apart"][0].freedom < 20
    assert found["apart"][1] > found["alike"][1]


def test_seeds_alone_give_students_interval_and_p():
    differences = np.array([0.02, 0.05, 0.01, 0.04, 0.03])
    flat = np.zeros((200, 5))
    found = statistics.spread(np.repeat(differences[None], 99, axis=0), differences, 200, 200)
    expected = stats.ttest_1samp(differences, 0)
    assert found.interval(differences.mean()) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    shares = statistics.shares_of(flat, differences, np.ones(200))
    sums, exact = statistics.swapped(shares[:, None])
    p = statistics.permutation_p(sums[:, 0], exact, shares, flat, differences, 200)
    assert p == pytest.approx(expected.pvalue)


def test_two_seeds_say_nothing_of_seeds():
    draws = np.random.default_rng(0).normal(size=(999, 1)) + np.zeros((1, 2))
    near, far = (statistics.spread(draws, np.array(pair), 50, 50) for pair in ((0.1, 0.1), (-5.0, 5.0)))
    assert near == far
    assert near.error == pytest.approx(1, rel=0.05)


def test_mcnemar_is_the_binomial_test_of_discordant_examples():
    first, second = np.array([1, 1, 1, 1, 1, 0, 1, 0], bool), np.array([0, 0, 0, 0, 0, 1, 1, 0], bool)
    assert statistics.mcnemar(first, second) == pytest.approx(2 * (1 + 6) / 2**6)
    assert statistics.mcnemar(first, first) == 1


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert statistics.holm([0.6, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(p):
    adjusted = statistics.holm(p)
    assert all(low <= value <= min(1, low * len(p)) for low, value in zip(p, adjusted))
    assert [adjusted[place] for place in np.argsort(p, kind="stable")] == sorted(adjusted)


def test_detectable_difference_has_the_power_it_says():
    spread = statistics.Spread(0.01, 30)
    true = spread.detectable / 0.01  # noncentrality of Student's t
    assert stats.nct.sf(stats.t.ppf(0.975, 30), 30, true) == pytest.approx(0.8, abs=0.01)


def test_mean_ranks_have_intervals_from_six_tasks_on():
    ranks = np.array([[1.0, 2, 3]] * 4 + [[2.0, 1, 3]] * 2)
    first, second, third = statistics.mean_ranks(ranks)
    assert first[0] == pytest.approx(8 / 6)
    assert first[1] is not None
    assert first[1][0] == 1
    assert 1.5 < first[1][1] <= 2
    assert second[1] is not None
    assert third == (3.0, (3.0, 3.0))
    assert all(interval is None for _, interval in statistics.mean_ranks(ranks[:5]))


def test_smallest_p_survives_holm_for_many_comparisons():
    swaps = statistics.swaps_for(360)
    assert 360 / (swaps + 1) < statistics.LEVEL
