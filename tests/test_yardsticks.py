"""Yardsticks against slow definitions, on tokens and groups that were never seen, and on nothing at all."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from harness.adapter import IGNORED
from harness.data import Window
from harness.engine import yardsticks
from harness.engine.yardsticks import ORDER, Markov, Unigram, Vote, yardstick
from harness.objective import YARDSTICKS


def batch(targets, tokens=None, **more) -> dict[str, torch.Tensor]:
    made = {"targets": torch.tensor(targets)}
    return (
        made | ({} if tokens is None else {"tokens": torch.tensor(tokens)}) | {key: torch.tensor(it) for key, it in more.items()}
    )


def asked(made: dict[str, torch.Tensor]) -> list[int]:
    return [target for target in made["targets"].flatten().tolist() if target != IGNORED]


def random_chain(rows: int, length: int, tokens: int, seed: int, dtype=np.int64) -> dict[str, torch.Tensor]:
    """Tokens and the ones after them; one in five is not asked for."""
    rng = np.random.default_rng(seed)
    ids = (rng.integers(0, tokens, (rows, length)) * rng.integers(0, 2, (rows, length))).astype(dtype)
    targets = np.full((rows, length), IGNORED)
    targets[:, :-1] = ids[:, 1:]
    targets[rng.random(targets.shape) < 0.2] = IGNORED
    return {"tokens": torch.from_numpy(ids), "targets": torch.from_numpy(targets)}


def test_there_is_one_of_each_name():
    assert [yardstick(name).name for name in YARDSTICKS] == ["token unigram", "column vote", "order-3 Markov chain"]


class TestUnigram:
    def test_shares_by_hand(self):
        """Of three 7s, one 8, and one more for all others: 4/7, 2/7 and 1/7. The commonest is predicted."""
        made = Unigram()
        made.learn([], batch([[7, 7, IGNORED], [8, 7, IGNORED]]))
        logs, right = made.predict([], batch([[8, 7, IGNORED], [9, IGNORED, 7]]))
        assert logs == pytest.approx(np.log([2 / 7, 4 / 7, 1 / 7, 4 / 7]))
        assert right.tolist() == [False, True, False, True]

    def test_a_tie_goes_to_the_lower_id(self):
        made = Unigram()
        made.learn([], batch([[9, 4, 4, 9]]))
        assert made.predict([], batch([[4, 9]]))[1].tolist() == [True, False]

    def test_groups_are_judged_apart(self):
        made = Unigram()
        made.learn([], batch([[1, 1, 2, 5]], groups=[[0, 0, 0, 3]]))
        logs, right = made.predict([], batch([[1, 5, 5]], groups=[[0, 3, 0]]))
        assert logs == pytest.approx(np.log([3 / 6, 2 / 3, 1 / 6]))
        assert right.tolist() == [True, True, False]

    def test_a_group_that_was_never_seen_is_not_free(self):
        """It is judged by all targets of all groups."""
        made, other = Unigram(), Unigram()
        made.learn([], batch([[1, 1, 2, 5]], groups=[[0, 0, 0, 3]]))
        other.learn([], batch([[1, 1, 2, 5]]))
        unseen = batch([[1, 5, 6]], groups=[[8, 8, 8]])
        assert made.judge([], unseen) == other.judge([], batch([[1, 5, 6]]))
        assert made.judge([], unseen)[0] > 1

    def test_weights_weigh_the_loss_and_not_the_accuracy(self):
        made = Unigram()
        made.learn([], batch([[1, 1, 1, 2]]))
        loss, accuracy = made.judge([], batch([[1, 2, IGNORED]], weights=[[3.0, 1.0, 100.0]]))
        assert loss == pytest.approx(-(3 * math.log(4 / 7) + math.log(2 / 7)) / 4)
        assert accuracy == 0.5

    def test_probabilities_sum_to_one_over_what_was_seen_and_one_more(self):
        rng = np.random.default_rng(0)
        made = Unigram()
        made.learn([], batch(rng.integers(0, 9, (4, 30)).tolist()))
        logs, _ = made.predict([], batch([[*range(9), 99]]))
        assert np.exp(logs).sum() == pytest.approx(1)


def windows(*alignments: list[str]) -> list[Window]:
    """Of alignments as lists of rows; a single row is a window without one."""
    rows = [np.array([list(row.encode()) for row in alignment], np.uint8) for alignment in alignments]
    return [
        Window(alignment[0].replace("-", "N"), None, row if len(row) > 1 else None) for alignment, row in zip(alignments, rows)
    ]


class TestVote:
    def slow(self, frequencies: dict[str, float], column: str) -> tuple[float, bool]:
        """Log-probability of a column's first letter from the others and the target row's frequencies."""
        counts = {base: column[1:].count(base) + frequencies[base] for base in "ACGT"}
        best = max("ACGT", key=lambda base: (column[1:].count(base) + frequencies[base] / 2, -"ACGT".index(base)))
        return math.log(counts[column[0]] / sum(counts.values())), best == column[0]

    def test_against_its_definition(self):
        rng = np.random.default_rng(0)
        made = [["".join(rng.choice(list("ACGT" if row == 0 else "ACGT-N"), 30)) for row in range(5)] for _ in range(6)]
        made[0] = [row[:20] for row in made[0]]  # shorter than the others
        training, judged = windows(*made[3:]), windows(*made[:3])
        letters = Counter("".join(window.sequence for window in training))
        frequencies = {base: letters[base] / sum(letters.values()) for base in "ACGT"}
        places = rng.random((3, 30)) < 0.4
        places[0, 20:] = False
        vote = Vote()
        vote.learn(training, {})
        logs, right = vote.predict(judged, batch(np.where(places, 1, IGNORED).tolist()))
        slow = [self.slow(frequencies, "".join(row[at] for row in made[number])) for number, at in np.argwhere(places)]
        assert logs == pytest.approx([log for log, _ in slow])
        assert right.tolist() == [hit for _, hit in slow]

    def test_without_an_alignment_the_frequencies_are_left(self):
        vote = Vote()
        vote.learn(windows(["AAAC"]), {})
        logs, right = vote.predict(windows(["CA"]), batch([[1, 1]]))
        assert logs == pytest.approx(np.log([0.25, 0.75]))
        assert right.tolist() == [False, True]

    def test_a_base_that_nothing_tells_costs_much_but_not_everything(self):
        vote = Vote()
        vote.learn(windows(["AAAA"]), {})
        loss, accuracy = vote.judge(windows(["T"]), batch([[1]]))
        assert (loss, accuracy) == (pytest.approx(-math.log(1e-12)), 0)


class SlowMarkov:
    """Witten-Bell interpolation by dictionaries, one more token for all that were never seen."""

    def __init__(self, made: dict[str, torch.Tensor]) -> None:
        self.followers: dict[tuple[int, ...], Counter[int]] = {}
        for context, target in self.pairs(made):
            for order in range(ORDER + 1):
                self.followers.setdefault(context[:order], Counter())[target] += 1
        self.ids = sorted(self.followers[()])

    @staticmethod
    def pairs(made: dict[str, torch.Tensor]) -> list[tuple[tuple[int, ...], int]]:
        """What is asked for, and the tokens before it, the last first: that of the same place is the nearest."""
        return [
            (tuple(tokens[at - back] if at >= back else -1 for back in range(ORDER)), target)
            for tokens, targets in zip(made["tokens"].tolist(), made["targets"].tolist(), strict=True)
            for at, target in enumerate(targets)
            if target != IGNORED
        ]

    def share(self, context: tuple[int, ...], token: int) -> float:
        found = 1 / (len(self.ids) + 1)
        for order in range(ORDER + 1):
            counts = self.followers.get(context[:order])
            if counts:
                found = (counts[token] + len(counts) * found) / (counts.total() + len(counts))
        return found


class TestMarkov:
    @pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
    @pytest.mark.parametrize("at_once", [3, 1024])
    def test_against_its_definition(self, monkeypatch, at_once, dtype):
        monkeypatch.setattr(yardsticks, "MAX_CONTEXTS", at_once)
        training, judged = random_chain(6, 40, 5, seed=0, dtype=dtype), random_chain(4, 40, 7, seed=1, dtype=dtype)
        made, slow = Markov(), SlowMarkov(training)
        made.learn([], training)
        logs, right = made.predict([], judged)
        pairs = slow.pairs(judged)
        assert len(pairs) == len(logs) > 100
        assert {5, 6} & {target for _, target in pairs}, "some were never seen"
        assert np.exp(logs) == pytest.approx([slow.share(*pair) for pair in pairs])
        for hit, (context, target) in zip(right, pairs, strict=True):
            assert hit == (max(slow.ids, key=lambda token: (round(slow.share(context, token), 12), -token)) == target)

    def test_probabilities_sum_to_one(self):
        training = random_chain(6, 40, 5, seed=0)
        made = Markov()
        made.learn([], training)
        contexts = [row[:3] for row in random_chain(4, 8, 7, seed=1)["tokens"].tolist()]
        sums = np.zeros(len(contexts))
        for target in [*made._ids.tolist(), 99]:
            sums += np.exp(made.predict([], batch([[IGNORED, IGNORED, target]] * len(contexts), contexts))[0])
        assert sums == pytest.approx(1)

    def test_a_context_of_three_is_all_that_it_sees(self):
        """A period of 4 of three tokens is known after three; one of 8, whose half is repeated, is not."""
        for period, expected in (([1, 1, 1, 2], 1.0), ([1, 1, 1, 1, 1, 1, 1, 2], 7 / 8)):
            ids = np.tile(period, 40)[None].repeat(3, 0)
            chain = batch(
                np.where(np.arange(ids.shape[1]) < ids.shape[1] - 1, np.roll(ids, -1, axis=1), IGNORED).tolist(), ids.tolist()
            )
            made = Markov()
            made.learn([], chain)
            assert made.judge([], chain)[1] == pytest.approx(expected, abs=0.02)

    def test_large_vocabularies_keep_contexts_apart(self):
        """Tokens of 16 bits and more, three of which make one key."""
        ids = [[70_000, 1, 70_000, 2, 65_537, 1, 65_537, 3] * 20]
        chain = batch([[*ids[0][1:], IGNORED]], ids)
        made = Markov()
        made.learn([], chain)
        assert made.judge([], chain)[1] > 0.97
