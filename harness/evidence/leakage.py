"""Leaks: what the examples of one part of a split have of another's, and the scores on those that have nothing.

An example is ``exact`` where another one has the same letters on either strand, ``overlap`` where their loci share a nucleotide
or more, and ``near`` where they are near duplicates (:class:`harness.files.neighbours.Similarity`). Of variants, which have two
windows, exact ones have both in common, and near duplicates are looked for among the reference windows.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data import Example, Locus, reverse_complement
from harness.files import neighbours
from harness.files.fingerprint import remembered
from harness.files.loci import overlaps
from harness.files.neighbours import DEFAULT, Similarity, near_pairs_between
from harness.task import CLASSIFICATION, MULTILABEL, Splits, Task

from .schema import LEAKS, SUBSETS

if TYPE_CHECKING:
    from .records import Predictions

VERSION = 2  # of what is found; counted up when this changes
NONE, NEAR, OVERLAP, EXACT = range(len(LEAKS))
FACTS = ("exact", "near", "overlap", "half", "same_interval")
MAX_LETTERS = 200_000_000  # of a run's windows up to which near duplicates are looked for; two cores take some two minutes


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a split, in lists (examples,): ids, windows' letters, loci (None where not known) and labels."""

    ids: list[str]
    windows: list[tuple[str, ...]]
    loci: list[Locus | None]
    labels: list[Any]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Part:
        """The examples' part."""
        rows = [
            (example.id, tuple(window.sequence for window in example.windows), example.windows[0].locus, example.label)
            for example in examples
        ]
        return cls(*map(list, zip(*rows))) if rows else cls([], [], [], [])

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: Part) -> Part:
        return Part(self.ids + other.ids, self.windows + other.windows, self.loci + other.loci, self.labels + other.labels)

    def rows(self, numbers: Sequence[int] | np.ndarray) -> Part:
        """The part of the examples of these numbers."""
        return Part(*([column[number] for number in numbers] for column in vars(self).values()))

    @property
    def references(self) -> list[str]:
        """The window of each example, or the reference one of two."""
        return [windows[0] for windows in self.windows]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What each of a part's examples (N) has of another part.

    ``facts`` maps each of FACTS to a mask (N,): ``half`` is an overlap of at least half of both windows. ``worst`` (N,) is a
    number of LEAKS, ``source`` (N,) the number of the other part's example that it comes from, or -1; ``identity`` and
    ``coverage`` (N,) are those of a near duplicate, else NaN. ``limits`` are those of :class:`harness.files.neighbours.Pairs`.
    """

    facts: dict[str, np.ndarray]
    worst: np.ndarray
    source: np.ndarray
    identity: np.ndarray
    coverage: np.ndarray
    limits: dict[str, int]

    def __getitem__(self, rows: slice) -> Comparison:
        columns = (self.worst[rows], self.source[rows], self.identity[rows], self.coverage[rows])
        return Comparison({name: mask[rows] for name, mask in self.facts.items()}, *columns, self.limits)

    @property
    def counts(self) -> dict[str, int]:
        """Each of LEAKS → examples of which it is the worst."""
        return dict(zip(LEAKS, np.bincount(self.worst, minlength=len(LEAKS)).tolist(), strict=True))


def content_key(windows: tuple[str, ...]) -> tuple[str, ...]:
    """What two examples have in common that have the same letters, on either strand."""
    return min(windows, tuple(map(reverse_complement, windows)))


def has_letters(windows: tuple[str, ...], similarity: Similarity = DEFAULT) -> bool:
    """Whether enough letters are known for a copy to be like it: N is equal to nothing."""
    return all(len(window) - window.count("N") >= similarity.identity * len(window) for window in windows)


def compare(train: Part, test: Part, similarity: Similarity = DEFAULT, near: bool = True) -> Comparison:
    """What test examples have of training examples; without ``near``, near duplicates are not looked for."""
    known: dict[tuple[str, ...], int] = {}
    for number, windows in enumerate(train.windows):
        known.setdefault(content_key(windows), number)
    exact = np.array([known.get(content_key(it), -1) if has_letters(it, similarity) else -1 for it in test.windows], np.int64)
    overlap, half, same = overlaps(train.loci, test.loci)
    alike, identity, coverage, limits = np.full(len(test), -1, np.int64), np.zeros(len(test)), np.zeros(len(test)), {}
    if near:
        pairs = near_pairs_between(train.references, test.references, similarity)
        limits = pairs.limits
        order = np.lexsort((-pairs.first, pairs.identity * pairs.coverage, pairs.second))  # the most alike one is last
        alike[pairs.second[order]] = pairs.first[order]
        identity[pairs.second[order]], coverage[pairs.second[order]] = pairs.identity[order], pairs.coverage[order]
    alike[exact >= 0] = -1
    identity[alike < 0], coverage[alike < 0] = np.nan, np.nan
    masks = (exact >= 0, alike >= 0, overlap >= 0, half, same)
    worst, source = np.full(len(test), NONE), np.full(len(test), -1, np.int64)
    for rank, found in ((NEAR, alike), (OVERLAP, overlap), (EXACT, exact)):
        worst, source = np.where(found >= 0, rank, worst), np.where(found >= 0, found, source)
    return Comparison(dict(zip(FACTS, masks, strict=True)), worst, source, identity, coverage, limits)


def find_leaks(splits: Splits, similarity: Similarity = DEFAULT) -> dict[str, Any]:
    """What a run's test examples have of its training data, as JSON values, remembered by the examples' content.

    ``leaks``: (leak, training example's id) of each test example; ``counts``, each of LEAKS → test examples; ``validation`` and
    ``test_in_validation``, the same counts of validation examples in train, and of test examples in validation; ``parameters``;
    ``limits`` of the search. Near duplicates are looked for up to MAX_LETTERS; ``parameters["near"]`` says whether.
    """
    train, validation, test = map(Part.of, splits.parts.values())
    letters = sum(len(window) for part in (train, validation, test) for windows in part.windows for window in windows)
    near = letters <= MAX_LETTERS
    parameters = {
        **asdict(similarity),
        "near": near,
        "version": VERSION,
        "neighbours_version": neighbours.VERSION,
        "strands": "both",
        "of": "train",
    }

    def compute() -> dict[str, Any]:
        found = compare(train, validation + test, similarity, near)
        of_validation, of_test = found[: len(validation)], found[len(validation) :]
        return {
            "leaks": [
                [LEAKS[worst], train.ids[source] if source >= 0 else ""] for worst, source in zip(of_test.worst, of_test.source)
            ],
            "counts": of_test.counts,
            "validation": of_validation.counts,
            "test_in_validation": compare(validation, test, similarity, near).counts,
            "parameters": parameters,
            "limits": found.limits,
        }

    return remembered("leaks", [], [content(train, validation, test), parameters], compute)


def content(*parts: Part) -> str:
    """sha256 of the parts' ids, letters, loci (with strands) and labels."""
    total = hashlib.sha256()
    for part in parts:
        for id, windows, locus, label in zip(part.ids, part.windows, part.loci, part.labels, strict=True):
            place = "" if locus is None else f"{locus.chromosome}:{locus.start}-{locus.end}{locus.strand}"
            total.update(f"{id}\t{' '.join(windows)}\t{place}\t{label}\n".encode())
        total.update(b"\n")
    return total.hexdigest()


def judged(predictions: Predictions, leaks: dict[str, Any]) -> dict[str, Any]:
    """A record's ``leakage``: what :func:`find_leaks` counted, and the scores on novel and on leaking test examples.

    A metric that a subset does not define, or that an empty subset has, is None.
    """
    leaking = np.array([leak != LEAKS[NONE] for leak, _ in leaks["leaks"]], bool)
    rows = zip(SUBSETS, map(np.flatnonzero, (~leaking, leaking)), strict=True)
    subsets = {name: judged_on(predictions, chosen) for name, chosen in rows}
    return {**{name: value for name, value in leaks.items() if name != "leaks"}, "subsets": subsets}


def judged_on(predictions: Predictions, rows: np.ndarray) -> dict[str, Any]:
    """The number of the examples at the indices ``rows``, and the metrics and intervals on them; None where undefined."""
    from .metrics import metrics_of
    from .records import judge

    metrics: dict[str, float | None] = dict.fromkeys(metrics_of(predictions.kind))
    intervals: dict[str, Any] = {}
    if len(rows):
        with warnings.catch_warnings(action="ignore"):  # scikit-learn's, of subsets that lack a class
            found, intervals = judge(_subset(predictions, rows))
        metrics |= found
    return {"examples": len(rows), "metrics": metrics, "intervals": intervals}


def _subset(predictions: Predictions, rows: np.ndarray) -> Predictions:
    def of(column: tuple) -> tuple:
        return tuple(column[row] for row in rows) if column else ()

    return replace(
        predictions,
        ids=of(predictions.ids),
        labels=predictions.labels[rows],
        outputs=predictions.outputs[rows],
        blocks=of(predictions.blocks),
        leaks=of(predictions.leaks),
        groups={name: of(words) for name, words in predictions.groups.items()},
    )


def by_class(task: Task, part: Part, masks: dict[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """Class → its examples and those that each mask (examples,) marks; by label of a multi-label task; none of a regression."""
    labels = np.array(part.labels)
    if task.kind == CLASSIFICATION:
        members = [labels == number for number in range(len(task.classes))]
    elif task.kind == MULTILABEL:
        members = [labels[:, number] == 1 for number in range(len(task.classes))] if len(labels) else []
    else:
        return {}
    return {
        name: {"examples": int(member.sum()), **{fact: int((mask & member).sum()) for fact, mask in masks.items()}}
        for name, member in zip(task.classes, members)
    }


def sentence(task: Task, leaks: dict[str, Any]) -> str:
    """A line on the leaks of a run's test examples, for the screen; empty where there are none and all were looked for."""
    counts = leaks["counts"]
    total = sum(counts.values())
    found = {name: counts[name] for name in reversed(LEAKS[1:]) if counts[name]}
    unsearched = (
        "" if leaks["parameters"]["near"] else "near duplicates were not looked for: too many letters (`harness audit` does)"
    )
    if not found:
        return unsearched
    words = {"exact": "the same letters", "overlap": "overlapping loci", "near": "nearly the same letters"}
    kinds = ", ".join(f"{words[name]}: {count:,}" for name, count in found.items())
    text = f"leaks: {sum(found.values()) / total:.1%} of test windows match training windows ({kinds}); see `harness audit`"
    return text + (f"\n  {unsearched}" if unsearched else "")
