"""A split that the user's files have already: used as it is, with what is missing drawn and what leaks counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.data import Label, reverse_complement
from harness.errors import BadData
from harness.task import CLASSIFICATION, MULTILABEL, PART_NAMES

from ._near import MAX_LETTERS, near_groups
from ._splits import HELD_OUT, SEED, hold_out_of_train

GIVEN = "given"
MAX_LISTED = 5  # classes in a message

Parts = tuple[list[int], list[int], list[int]]


def given_parts(
    name: str,
    kind: str,
    classes: Sequence[str],
    labels: Sequence[Label],
    given: Sequence[str],
    sequences: Sequence[str],
    groups: Sequence[int],
    changes: Counter[str],
    notes: list[str],
) -> Parts:
    """Indices of the windows of train, validation and test.

    ``given`` is the part of each window, and ``groups`` are those of :func:`harness.tasks._splits.dependent`. Without a
    validation part, HELD_OUT of train is drawn for it (see :func:`harness.tasks._splits.hold_out`). No window is moved between
    the parts given: ``changes`` counts those of validation and test that repeat or overlap training windows,
    and those of test that do so with validation windows.

    Raises:
        BadData: there is no train or test part, or a class is in validation or test and not in train.
    """
    train, validation, test = ([index for index, own in enumerate(given) if own == part] for part in PART_NAMES)
    for part, own, option in (("train", train, "--train"), ("test", test, "--test")):
        if not own:
            found = " and ".join(one for one in PART_NAMES if one in set(given))
            only = f"only {found} {'are' if ' ' in found else 'is'} given"
            raise BadData(
                f"{name}: {only}, and no {part}; add it ({option} FILE), or pool all windows and draw anew: --split stratified"
            )
    sizes = ", ".join(f"{len(own):,} {part}" for part, own in zip(PART_NAMES, (train, validation, test), strict=True) if own)
    notes.append(f"the split is the one given: {sizes}")
    _count_leaks("test", test, "train", train, sequences, groups, changes, notes)
    _count_leaks("validation", validation, "train", train, sequences, groups, changes, notes)
    _count_leaks("test", test, "validation", validation, sequences, groups, changes, notes)
    if not validation:
        pool = len(train)
        near = near_groups([sequences[index] for index in train], [groups[index] for index in train], changes, notes, MAX_LETTERS)
        kept, drawn = hold_out_of_train(name, kind, [labels[index] for index in train], near)
        train, validation = [train[index] for index in kept], [train[index] for index in drawn]
        notes.append(
            f"no validation part is given: {len(validation):,} of {pool:,} training windows are held out for it "
            f"({HELD_OUT:.0%}, seed {SEED}, windows that overlap or repeat together)"
        )
    if kind == MULTILABEL:
        held = [any(column) for column in zip(*(labels[index] for index in train), strict=True)]  # type: ignore[arg-type]
        if never := [repr(name[:40]) for name, there in zip(classes, held, strict=True) if not there]:
            notes.append(
                f"labels that no training window has: {', '.join(never[:MAX_LISTED])}{', …' * (len(never) > MAX_LISTED)}"
            )
    if kind == CLASSIFICATION:
        _check_classes(name, classes, labels, (train, validation, test), notes)
    return train, validation, test


def _count_leaks(
    part: str,
    own: Sequence[int],
    source: str,
    seen: Sequence[int],
    sequences: Sequence[str],
    groups: Sequence[int],
    changes: Counter[str],
    notes: list[str],
) -> None:
    letters, linked = {sequences[index] for index in seen}, {groups[index] for index in seen}
    repeats = sum(sequences[index] in letters or reverse_complement(sequences[index]) in letters for index in own)
    overlaps = sum(groups[index] in linked for index in own) - repeats
    changes[f"{part}_windows_repeating_{source}"] += repeats
    changes[f"{part}_windows_overlapping_{source}"] += overlaps
    said = [
        f"{count:,} {part} windows {verb} {'training' if source == 'train' else source} windows"
        for count, verb in ((repeats, "repeat"), (overlaps, "overlap"))
        if count
    ]
    if said:
        notes.append(f"{' and '.join(said)}; none is moved, and `harness audit` lists them")


def _check_classes(name: str, classes: Sequence[str], labels: Sequence[Label], parts: Parts, notes: list[str]) -> None:
    train, validation, test = ({labels[index] for index in part} for part in parts)
    for part, own in (("validation", validation), ("test", test)):
        if unseen := sorted(own - train, key=str):
            raise BadData(
                f"{name}: {_named(classes, unseen)} in {part} and not in train; a model cannot learn it. Correct or "
                "delete these windows, or pool all and draw anew: --split stratified"
            )
    if only := sorted(train - test, key=str):
        notes.append(f"{_named(classes, only)} in train and not in test")


def _named(classes: Sequence[str], labels: Sequence[Label]) -> str:
    names = [repr(classes[int(label)][:40]) for label in labels[:MAX_LISTED]]  # type: ignore[arg-type]
    more = f" and {len(labels) - MAX_LISTED:,} more" if len(labels) > MAX_LISTED else ""
    return f"class {names[0]} is" if len(labels) == 1 else f"the classes {', '.join(names)}{more} are"
