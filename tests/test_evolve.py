"""The simulated samples of variants: they are the same everywhere, and their posterior is what the model defines."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from harness.tasks import _evolve
from harness.tasks._evolve import CONSERVED, FREE, FREQUENCIES, Evolution
from harness.tasks.variants import tasks

EVOLUTION = Evolution(rate=0.2, stretch=20, swapped=0.1, seed=3)


@pytest.mark.parametrize(
    ("name", "best", "digest"),
    [
        ("clinvar", 0.949, "f3a41a549a756a70add0f74b345e323716511a03cf214de11e2e08bfe785697a"),
        ("omim", 0.898, "16b4729aeaa7f42eb8dbce9cb29a7a6d0c5cde0c40c68dd3d3e5ee0789f5fea3"),
    ],
)
def test_the_sample_is_the_same_everywhere(name, best, digest):
    (task,) = (task for task in tasks() if task.name == name)
    splits = task.sample.load("chromosome")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [720, 240, 240]
    assert splits.best_accuracy == pytest.approx(best, abs=0.001)
    assert list(splits.files.values()) == [digest]
    held = [{example.id.split(":")[0] for example in part} for part in (splits.train, splits.validation, splits.test)]
    assert held == [{f"sim{n}" for n in range(1, 7)}, {"sim7", "sim8"}, {"sim9", "sim10"}]
    assert len({example.id for example in [*splits.train, *splits.validation, *splits.test]}) == 1200
    window = splits.train[0].windows[0]
    assert window.locus is None
    assert window.alignment is not None
    assert window.alignment.shape == (90, 128)


@pytest.fixture(scope="module")
def drawn() -> _evolve.Drawn:
    return _evolve.draw(EVOLUTION, 1500, 24)


def test_the_bayes_rule_is_as_accurate_as_it_says(drawn):
    p = _evolve.posterior(EVOLUTION, drawn.alignments)
    assert ((p > 0.5) == drawn.labels).mean() == pytest.approx((abs(p - 0.5) + 0.5).mean(), abs=0.02)
    for low in np.arange(0.1, 0.9, 0.2):  # calibrated
        some = (p >= low) & (p < low + 0.2)
        if some.sum() > 50:
            assert drawn.labels[some].mean() == pytest.approx(p[some].mean(), abs=0.12)


def test_the_draw(drawn):
    assert np.isin(drawn.alignments[:, 0], list(b"ACGT")).all()  # the target is never missing
    assert 0.02 < (drawn.alignments == ord("-")).mean() < 0.3
    assert drawn.labels.mean() == pytest.approx(0.5, abs=0.05)
    assert (drawn.alternates != drawn.alignments[:, 0, 12]).all()
    same = (drawn.alignments == drawn.alignments[:, :1]).mean(axis=(0, 2))
    assert same[1:30].mean() > same[60:].mean() + 0.05  # rows are in the order of their kinship to row 0


def test_the_tree():
    tree = _evolve.tree(EVOLUTION.seed)
    assert len(tree.leaves) == len(set(tree.leaves)) == 90
    for leaf in tree.leaves:
        height, node = 0.0, leaf
        while node > 0:
            height, node = height + tree.lengths[node], tree.parents[node]
        assert height == pytest.approx(_evolve.DEPTH)


@pytest.mark.parametrize("state", [FREE, CONSERVED])
def test_transitions(state):
    """They compose (Chapman-Kolmogorov), keep the frequencies, are reversible and substitute at the stated rate."""
    p = np.array(FREQUENCIES[state])
    a, b, both = (_evolve._transitions(EVOLUTION, state, length) for length in (0.3, 0.5, 0.8))
    np.testing.assert_allclose(a @ b, both)
    np.testing.assert_allclose(p @ a, p)
    np.testing.assert_allclose(p[:, None] * a, (p[:, None] * a).T)
    tiny = _evolve._transitions(EVOLUTION, state, 1e-6)
    expected = EVOLUTION.rate if state == CONSERVED else 1.0
    assert 1 - (p * np.diag(tiny)).sum() == pytest.approx(expected * 1e-6, rel=1e-3)
    assert a[0, 2] > a[0, 1]  # transitions are more frequent than transversions


def test_letters_follow_the_transitions():
    states = np.repeat([[FREE], [CONSERVED]], 40_000, axis=1)
    for start in range(4):
        letters = np.full(states.shape, start, np.uint8)
        found = _evolve._along(EVOLUTION, states, letters, 0.4, _evolve.Uniform(start))
        for state in (FREE, CONSERVED):
            shares = np.bincount(found[state], minlength=4) / 40_000
            np.testing.assert_allclose(shares, _evolve._transitions(EVOLUTION, state, 0.4)[start], atol=0.01)


def test_likelihood_against_the_sum_over_all_histories(monkeypatch):
    """Felsenstein's recursion against its definition: every letter at every inner node of a tree of three leaves."""
    from itertools import product

    tree = _evolve.Tree((-1, 0, 0, 1, 1), (0.0, 0.2, 0.5, 0.3, 0.3), (3, 4, 2))
    monkeypatch.setattr(_evolve, "tree", lambda seed: tree)
    for column in (b"ACA", b"GG-", b"T-C"):
        found = _evolve._column_likelihoods(EVOLUTION, np.frombuffer(column, np.uint8).reshape(1, 3, 1))[0, 0]
        for state in (FREE, CONSERVED):
            step = [_evolve._transitions(EVOLUTION, state, length) for length in tree.lengths]
            known = {node: "ACGT".find(chr(letter)) for node, letter in zip(tree.leaves, column, strict=True)}
            total = 0.0
            for history in product(range(4), repeat=5):
                if all(letter in (-1, history[node]) for node, letter in known.items()):
                    term = FREQUENCIES[state][history[0]]
                    for node in range(1, 5):
                        term *= step[node][history[tree.parents[node]], history[node]]
                    total += term
            assert np.exp(found[state]) == pytest.approx(total)


def test_the_centre_against_the_sum_over_all_paths():
    """The forward-backward recursion against its definition: every path of hidden states."""
    from itertools import pairwise, product

    logs = np.log(np.random.default_rng(0).random((2, 6, 2)))
    found = _evolve._centre(EVOLUTION, logs)
    turn = 1 / EVOLUTION.stretch
    for window, p in zip(np.exp(logs), found, strict=True):
        weight = Counter()
        for path in product((FREE, CONSERVED), repeat=6):
            chance = np.prod([turn if a != b else 1 - turn for a, b in pairwise(path)])
            weight[path[3]] += chance * np.prod([window[place, state] for place, state in enumerate(path)])
        assert p == pytest.approx(weight[CONSERVED] / weight.total())
