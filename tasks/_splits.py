"""The seeded split rule that several families share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.errors import UnknownName

SEED = 42
FEWEST = 10  # windows of the rarest class below which scikit-learn may leave a part without that class


def stratified(labels: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Positions of the train, validation and test examples: shuffled, then 60/20/20 of every class, seed 42.

    The steps are those of the published RBP comparison: ``pandas`` shuffles, ``train_test_split`` sets 40 % aside and
    halves it. Where a class has fewer than FEWEST (and at least 3) examples, each class gives a fifth, and at least one,
    to test and to validation instead.
    """
    import pandas as pd
    from sklearn.model_selection import train_test_split

    def classes(positions: Sequence[int]) -> list[int]:
        return [labels[position] for position in positions]

    order = pd.Series(range(len(labels))).sample(frac=1, random_state=SEED).tolist()
    if min(Counter(labels).values()) < FEWEST:
        return _by_class([[position for position in order if labels[position] == label] for label in sorted(set(labels))])
    train, rest = train_test_split(order, test_size=0.4, stratify=classes(order), random_state=SEED)
    validation, test = train_test_split(rest, test_size=0.5, stratify=classes(list(rest)), random_state=SEED)
    return list(train), list(validation), list(test)


def _by_class(groups: list[list[int]]) -> tuple[list[int], list[int], list[int]]:
    train, validation, test = [], [], []
    for group in groups:
        fifth = max(1, round(len(group) / 5))
        test += group[:fifth]
        validation += group[fifth : 2 * fifth]
        train += group[2 * fifth :]
    return train, validation, test


def check_rule(rule: str, rules: Sequence[str]) -> None:
    """Refuses a split rule that the task does not have.

    Raises:
        UnknownName: ``rule`` is not one of ``rules``.
    """
    if rule not in rules:
        raise UnknownName(f"unknown split {rule!r}: choose one of {', '.join(rules)}")
