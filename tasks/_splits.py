"""The seeded, stratified split that several families of tasks share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.errors import UnknownName

SEED = 42
MIN_STRATIFIED = 10  # examples of the rarest class; with fewer, scikit-learn may leave a part without that class


def stratified(labels: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Indices of the train, validation and test examples: shuffled with seed 42, then 60/20/20 of every class.

    The steps are those of the published RBP comparison: ``pandas`` shuffles, ``train_test_split`` sets 40 % aside and
    halves it. If a class has fewer than MIN_STRATIFIED examples (it needs at least 3), a fifth of each class, but at least
    one example, goes to test and as many to validation instead.
    """
    import pandas as pd
    from sklearn.model_selection import train_test_split

    def classes(positions: Sequence[int]) -> list[int]:
        return [labels[position] for position in positions]

    order = pd.Series(range(len(labels))).sample(frac=1, random_state=SEED).tolist()
    if min(Counter(labels).values()) < MIN_STRATIFIED:
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
    """Refuse a split rule that the task does not have.

    Raises:
        UnknownName: ``rule`` is not one of ``rules``.
    """
    if rule not in rules:
        raise UnknownName(f"unknown split {rule!r}: choose one of {', '.join(rules)}")
