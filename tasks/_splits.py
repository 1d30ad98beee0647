"""The seeded, stratified split that several families of tasks share, and which windows it may not part."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from harness.data import Label, Locus, reverse_complement
from harness.errors import BadData, UnknownName
from harness.files.loci import touching
from harness.files.neighbours import components
from harness.task import CLASSIFICATION, MULTILABEL, PART_NAMES, REGRESSION

SEED = 42
SHARES = (0.6, 0.2, 0.2)  # of train, validation and test
HELD_OUT = 0.1  # of a published training part, for validation
BINS = 10  # of the numbers of a regression
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


def stratified_groups(name: str, labels: Sequence[int], groups: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """As :func:`stratified`, with the examples of each group (a number for each example) in one part.

    The groups are dealt out from the largest to the smallest, each to the part that it brings nearest to its share of every
    class (the least chi-square); groups of one size are in the order of the same shuffle. Without groups of more than one
    example, this is :func:`stratified` itself. ``name`` is the data's, for messages.

    Raises:
        BadData: the groups are so large that a part lacks a class.
    """
    if len(set(groups)) == len(groups):
        return stratified(labels)
    import pandas as pd

    members: dict[int, list[int]] = defaultdict(list)
    for position in pd.Series(range(len(labels))).sample(frac=1, random_state=SEED).tolist():
        members[groups[position]].append(position)
    totals = Counter(labels)
    held = [Counter[int]() for _ in SHARES]
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for group in sorted(members.values(), key=len, reverse=True):
        counts = Counter(labels[position] for position in group)
        costs = []
        for share, have in zip(SHARES, held, strict=True):
            lacks = {label: share * totals[label] - have[label] for label in counts}
            cost = sum(n * (n - 2 * lacks[label]) / (share * totals[label]) for label, n in counts.items())
            costs.append((round(cost, 9), sum(have[label] for label in counts) / share))
        chosen = costs.index(min(costs))
        held[chosen] += counts
        parts[chosen].extend(group)
    for part, have in zip(PART_NAMES, held, strict=True):
        if len(have) < len(totals):
            raise BadData(
                f"{name}: windows that overlap or repeat each other must stay in one part, and {part} would lack a class; "
                f"the largest of {len(members):,} such groups has {max(map(len, members.values())):,} of {len(labels):,} windows"
            )
    return parts


def hold_out(name: str, strata: Sequence[int], groups: Sequence[int], share: float = HELD_OUT) -> tuple[list[int], list[int]]:
    """Indices of the examples that stay for training, and of those held out for validation: a ``share`` of every stratum.

    For sets that come with a training and a test part only. Groups (a number for each example) are held out whole, in the order
    of a shuffle with seed 42, as long as they bring the held-out part nearer to its share of their strata. ``name`` is the
    data's, for messages.

    Raises:
        BadData: one of the two parts would lack a stratum.
    """
    import pandas as pd

    members: dict[int, list[int]] = defaultdict(list)
    for position in pd.Series(range(len(strata))).sample(frac=1, random_state=SEED).tolist():
        members[groups[position]].append(position)
    wanted = {stratum: max(1.0, share * count) for stratum, count in Counter(strata).items()}
    train, validation, have = list[int](), list[int](), Counter[int]()
    for group in members.values():
        counts = Counter(strata[position] for position in group)
        gain = sum(
            (abs(wanted[stratum] - have[stratum]) - abs(wanted[stratum] - have[stratum] - count)) / wanted[stratum]
            for stratum, count in counts.items()
        )
        if gain > 0:
            validation += group
            have += counts
        else:
            train += group
    for part, chosen in (("train", train), ("validation", validation)):
        if lacking := wanted.keys() - {strata[position] for position in chosen}:
            raise BadData(
                f"{name}: no validation part is given, and drawing one from train would leave {part} without class number "
                f"{min(lacking)}; windows that overlap or repeat each other stay together. Give a validation part of your own"
            )
    return train, validation


def dependent(sequences: Sequence[str], places: Sequence[Locus | None], changes: Counter[str]) -> list[int]:
    """A group for each window: windows that share letters, directly or through others, are in one.

    Those are windows of one sequence or of its reverse complement, and windows whose places overlap by a nucleotide or more,
    on either strand. Counted in ``changes``: ``duplicates`` (windows whose sequence occurred before),
    ``reverse_complements`` (sequences whose reverse complement occurred before) and ``overlapping_windows`` (windows that
    overlap another one of another sequence).
    """
    import numpy as np

    first: dict[str, int] = {}
    repeats: list[tuple[int, int]] = []
    for number, sequence in enumerate(sequences):
        if not sequence.strip("N"):  # no letters, which repeat nothing
            continue
        if sequence in first:
            changes["duplicates"] += 1
            repeats.append((first[sequence], number))
            continue
        first[sequence] = number
        opposite = first.get(reverse_complement(sequence), number)
        if opposite != number:
            changes["reverse_complements"] += 1
            repeats.append((opposite, number))
    one, other = touching(places)
    pairs = zip(one.tolist(), other.tolist(), strict=True)
    unlike = {number for pair in pairs if sequences[pair[0]] != sequences[pair[1]] for number in pair}
    changes["overlapping_windows"] += len(unlike)
    same = np.array(repeats, np.int64).reshape(-1, 2).T
    return components(len(sequences), (same[0], same[1]), (one, other)).tolist()


def strata(kind: str, labels: Sequence[Label]) -> list[int]:
    """What to keep the shares of when windows are drawn: a number for each label, by the kind of the task.

    Classes are their own strata. Numbers fall into at most BINS bins of about equally many windows, equal ones into one.
    Combinations of several labels are strata where at least MIN_STRATIFIED windows have them; the others are one together, or
    join the commonest combination if they are fewer.
    """
    if kind == REGRESSION:
        bins = max(1, min(BINS, len(labels) // (2 * MIN_STRATIFIED)))
        values = list(map(float, labels))  # type: ignore[arg-type]
        ranks = {value: rank for rank, value in reversed(list(enumerate(sorted(values))))}
        numbers = [ranks[value] * bins // len(values) for value in values]
    elif kind == MULTILABEL:
        order = [label for label, _ in Counter(sorted(labels, key=str)).most_common()]
        numbers = list(map({label: number for number, label in enumerate(order)}.__getitem__, labels))
    else:
        return [int(label) for label in labels]  # type: ignore[arg-type]
    counts = Counter(numbers)
    rare = {number for number, count in counts.items() if count < MIN_STRATIFIED}
    together = -1 if sum(counts[number] for number in rare) >= MIN_STRATIFIED else counts.most_common(1)[0][0]
    return [together if number in rare else number for number in numbers]


def hold_out_of_train(name: str, kind: str, labels: Sequence[Label], groups: Sequence[int]) -> tuple[list[int], list[int]]:
    """As :func:`hold_out`, with the strata of the task's kind.

    Classes of fewer than MIN_STRATIFIED windows are one stratum, in which a class of a single group stays in training.
    """
    numbers = strata(kind, labels)
    if kind != CLASSIFICATION:
        return hold_out(name, numbers, groups)
    counts, groups_of = Counter(numbers), defaultdict[int, set[int]](set)
    for number, group in zip(numbers, groups, strict=True):
        groups_of[number].add(group)
    rare = {number for number, count in counts.items() if count < MIN_STRATIFIED}
    if sum(counts[number] for number in rare) < MIN_STRATIFIED:
        return hold_out(name, numbers, groups)
    fixed = {group for number in rare if len(groups_of[number]) == 1 for group in groups_of[number]}
    free = [position for position, group in enumerate(groups) if group not in fixed]
    merged = [-1 if numbers[position] in rare else numbers[position] for position in free]
    train, validation = hold_out(name, merged, [groups[position] for position in free])
    kept = [position for position, group in enumerate(groups) if group in fixed]
    train, validation = kept + [free[number] for number in train], [free[number] for number in validation]
    for number in sorted(rare - {numbers[position] for position in train}):  # all of it was held out: one group comes back
        group = next(groups[position] for position in validation if numbers[position] == number)
        train += [position for position in validation if groups[position] == group]
        validation = [position for position in validation if groups[position] != group]
    return train, validation


def check_rule(rule: str, rules: Sequence[str]) -> None:
    """Refuse a split rule that the task does not have.

    Raises:
        UnknownName: ``rule`` is not one of ``rules``.
    """
    if rule not in rules:
        raise UnknownName(f"unknown split {rule!r}: choose one of {', '.join(rules)}")
