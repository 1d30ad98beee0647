"""The search for near-duplicate sequences: what it must find, what it must not, and that it never blows up."""

from __future__ import annotations

import time

import numpy as np
import pytest

from harness.data import reverse_complement
from harness.errors import UserError
from harness.files.neighbours import CROWDED, TOO_SHORT, Similarity, canonical, components, near_pairs, near_pairs_between


def letters(length: int, rng: np.random.Generator) -> str:
    return "".join(rng.choice(list("ACGT"), length))


def mutated(sequence: str, changes: int, rng: np.random.Generator) -> str:
    """Exactly so many letters differ."""
    copy = list(sequence)
    for place in rng.choice(len(copy), changes, replace=False):
        copy[place] = rng.choice([letter for letter in "ACGT" if letter != copy[place]])
    return "".join(copy)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def others(rng) -> list[str]:
    """A hundred unrelated windows."""
    return [letters(101, rng) for _ in range(100)]


def only(pairs) -> tuple[int, int, float, float, bool, bool]:
    assert len(pairs) == 1
    return tuple(
        column[0].item() for column in (pairs.first, pairs.second, pairs.identity, pairs.coverage, pairs.reverse, pairs.exact)
    )


def test_unrelated_windows_have_no_neighbours(others):
    assert len(near_pairs(others)) == 0
    assert len(near_pairs_between(others[:50], others[50:])) == 0


def test_a_copy_and_a_reverse_complement_are_exact_duplicates(others):
    assert only(near_pairs([*others, others[3]])) == (3, 100, 1.0, 1.0, False, True)
    assert only(near_pairs([*others, reverse_complement(others[3])])) == (3, 100, 1.0, 1.0, True, True)
    assert only(near_pairs_between(others, [reverse_complement(others[5])])) == (5, 0, 1.0, 1.0, True, True)


def test_a_shifted_window_is_covered_by_what_it_shares(others, rng):
    shifted = others[4][7:] + letters(7, rng)
    first, second, identity, coverage, reverse, exact = only(near_pairs([*others, reverse_complement(shifted)]))
    assert (first, second, reverse, exact) == (4, 100, True, False)
    assert coverage >= 94 / 101
    assert identity >= 0.97


def test_a_window_inside_a_longer_one_is_covered_wholly(others):
    assert only(near_pairs([*others, others[6][20:90]])) == (6, 100, 1.0, 1.0, False, False)


@pytest.mark.parametrize("changes", [10, 15, 20])
def test_a_mutated_copy_is_found_up_to_a_fifth(others, rng, changes):
    test = [mutated(sequence, changes, rng) for sequence in others]
    pairs = near_pairs_between(others, test)
    found = dict(zip(pairs.second.tolist(), zip(pairs.first.tolist(), pairs.identity.tolist())))
    assert len(found) >= 98
    assert all(train == number for number, (train, _) in found.items())
    assert all(identity >= 1 - changes / 101 - 1e-9 for _, identity in found.values())


def test_a_copy_with_more_differences_is_none(others, rng):
    assert len(near_pairs_between(others, [mutated(sequence, 30, rng) for sequence in others])) <= 2


def test_insertions_and_deletions_cost_a_column_each(others):
    sequence = others[8]
    changed = sequence[:30] + sequence[32:60] + "A" + sequence[60:]
    first, _, identity, coverage, *_ = only(near_pairs([*others, changed]))
    assert first == 8
    assert coverage == 1.0
    assert identity == pytest.approx(99 / 102)


def test_a_shared_repeat_of_less_than_the_coverage_is_none(rng):
    repeat = letters(300, rng)
    assert len(near_pairs([letters(50, rng) + repeat[:90] + letters(10, rng) for _ in range(20)])) == 0
    assert len(near_pairs([letters(50, rng) + mutated(repeat[:51], 3, rng) for _ in range(20)])) == 0
    assert len(near_pairs([letters(30, rng) + mutated(repeat[:200], 10, rng) for _ in range(20)])) == 20 * 19 / 2


def test_the_thresholds_are_those_that_are_asked_for(others, rng):
    copy = mutated(others[0], 10, rng)
    assert len(near_pairs([others[0], copy])) == 1
    assert len(near_pairs([others[0], copy], Similarity(identity=0.95))) == 0
    with pytest.raises(UserError, match=r"identity 80: must be from 0.5 to 1"):
        Similarity(identity=80)


def test_n_is_equal_to_nothing(others):
    assert len(near_pairs(["N" * 101, "N" * 101, "N" * 50 + others[0][:51], "N" * 50 + others[1][:51]])) == 0
    few = others[0][:40] + "NNNNN" + others[0][45:]
    _, _, identity, _, _, exact = only(near_pairs([others[0], few]))
    assert identity == pytest.approx(96 / 101)
    assert not exact
    assert only(near_pairs([few, few]))[-1] is True


def test_short_windows_are_exact_copies_or_nothing(rng):
    pairs = near_pairs(["A", "AC", "GT", "ACGT", "C", letters(24, rng), letters(101, rng) + "AC"])
    assert only(pairs) == (1, 2, 1.0, 1.0, True, True)
    assert pairs.limits == {TOO_SHORT: 6}
    assert len(near_pairs([])) == 0
    assert len(near_pairs_between([], ["AC"])) == 0


def test_the_copies_of_a_test_window_all_have_their_pair(others):
    pairs = near_pairs_between([*others, others[0]], [others[0], reverse_complement(others[0]), "ACGT", others[0][:90]])
    found = list(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.reverse.tolist(), pairs.exact.tolist()))
    assert found == [(0, 0, False, True), (0, 1, True, True), (0, 3, False, False)]


def test_a_family_of_thousands_is_one_component_in_linear_time(rng):
    original = letters(101, rng)
    family = [mutated(original, 5, rng) for _ in range(3000)]
    near_pairs(family[:2])  # compiled
    begun = time.process_time()
    pairs = near_pairs(family)
    assert time.process_time() - begun < 20
    assert pairs.limits[CROWDED] > 2000
    groups = components(len(family), (pairs.first, pairs.second))
    assert set(groups.tolist()) == {0}


def test_windows_of_one_repeated_letter_end_quickly(rng):
    windows = (
        ["A" * length for length in range(50, 150)] + ["CA" * 60, "AC" * 60, "GT" * 70] + [letters(100, rng) for _ in range(20)]
    )
    pairs = near_pairs(windows)
    groups = components(len(windows), (pairs.first, pairs.second))
    assert len(set(groups[:100].tolist())) == 1
    assert len(set(groups[100:103].tolist())) == 1
    assert len(set(groups.tolist())) == 22


def test_what_is_found_does_not_depend_on_the_number_of_threads(others, rng, monkeypatch):
    from harness.files import neighbours

    windows = [mutated(sequence, 8, rng) for sequence in others for _ in range(5)]
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(neighbours, "_processors", lambda threads=threads: threads)
        pairs = near_pairs(windows)
        found.append([column.tolist() for column in (pairs.first, pairs.second, pairs.identity, pairs.coverage)])
    assert found[0] == found[1]


def test_components_join_what_edges_join():
    edges = (np.array([3, 0]), np.array([4, 4])), (np.array([1]), np.array([2]))
    assert components(6, *edges).tolist() == [0, 1, 1, 0, 0, 2]


def test_a_sequence_and_its_reverse_complement_have_one_name():
    assert canonical("AACG") == canonical("CGTT") == "AACG"
