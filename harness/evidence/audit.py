"""The audit of a task's split: leaks within and across its parts, contradicting labels, shortcuts, and what to do about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.data import bare
from harness.files.fingerprint import plain, remembered
from harness.files.loci import touching
from harness.files.neighbours import DEFAULT, Similarity, components, near_pairs
from harness.task import PART_NAMES, REGRESSION, Splits, Task

from .leakage import FACTS, VERSION, Comparison, Part, by_class, compare, content, content_key, has_letters
from .schema import LEAKS
from .shortcuts import shortcuts

EITHER = "test in train or validation"  # the published training part, where validation was drawn from it
PLACES = ("strand", "chromosome", "position")  # shortcuts that are not in a window's letters
MAX_WORST = 10  # examples that are shown
SERIOUS = 0.01  # share of leaking test examples from which scores are called upper bounds
TELLING = 0.7  # AUROC of a shortcut from which it is pointed out
ONE_SIDED = 0.4  # of a class's share of the test part: with less of it among novel examples, dropping the others is no repair
WORDS = {"exact": "same letters", "near": "nearly the same", "overlap": "overlapping loci"}


@dataclass(frozen=True)
class Audit:
    """What was found, as JSON values.

    ``examples``: part → examples, with their classes. ``within``: part → examples that repeat an earlier one of the same part
    (exact, near), or overlap another. ``across``: ``test in train`` and the like, and EITHER → ``counts`` (each of LEAKS),
    ``facts`` (each of :data:`.leakage.FACTS`) and ``by_class``. ``conflicts``: part → examples whose letters have another label
    elsewhere. ``shortcuts``: see :mod:`.shortcuts`. ``novel``: class → test examples left without leaks, each set of letters
    once. ``worst``: some leaking test examples. ``limits``: where the search was cut short. ``verdict``: sentences.
    """

    task: str
    split: str
    kind: str
    parameters: dict[str, Any]
    examples: dict[str, Any]
    within: dict[str, dict[str, int]]
    across: dict[str, dict[str, Any]]
    conflicts: dict[str, int]
    shortcuts: dict[str, float | None]
    novel: dict[str, int]
    worst: list[dict[str, Any]]
    limits: dict[str, int]
    verdict: list[str]

    def to_json(self) -> dict[str, Any]:
        """The audit as a JSON object."""
        return plain(asdict(self))

    @property
    def leaking(self) -> int:
        """Test examples that match training examples."""
        counts = self.across["test in train"]["counts"]
        return sum(counts.values()) - counts["none"]

    @property
    def clean(self) -> bool:
        """Whether no part has anything of another, and no letters have two labels."""
        return all(found["counts"]["none"] == sum(found["counts"].values()) for found in self.across.values()) and not any(
            self.conflicts.values()
        )


def audit(task: Task, splits: Splits, split: str, similarity: Similarity = DEFAULT, floor: bool = True) -> Audit:
    """Look for leaks, contradicting labels and shortcuts in a task's split, unless that is remembered.

    ``floor``: also fit the k-mer floor.
    """
    parts = {name: Part.of(part) for name, part in splits.parts.items()}
    asked = [task.label, task.kind, task.classes, task.split_rules, split, asdict(similarity), floor, VERSION]
    key = [content(*parts.values()), asked]
    return Audit(**remembered("audit", [], key, lambda: asdict(_audit(task, parts, split, similarity, floor))))


def _audit(task: Task, parts: dict[str, Part], split: str, similarity: Similarity, floor: bool) -> Audit:
    train, validation, test = parts.values()
    found = compare(train, validation + test, similarity)
    compared = {
        "test in train": found[len(validation) :],
        "validation in train": found[: len(validation)],
        "test in validation": compare(validation, test, similarity),
    }
    compared[EITHER] = _either(compared["test in train"], compared["test in validation"])
    within, limits = {}, dict[str, Counter[str]]()
    for name, part in parts.items():
        within[name], cut_short = _within(part, similarity)
        limits[name] = Counter(cut_short)
    of_test = compared["test in train"]
    novel = _novel(task, test, of_test)
    tells = shortcuts(task, train, test, floor)
    return Audit(
        task=task.label,
        split=split,
        kind=task.kind,
        parameters={**asdict(similarity), "version": VERSION},
        examples={name: {"examples": len(part), "classes": _classes(task, part)} for name, part in parts.items()},
        within=within,
        across={name: _summary(task, parts[name.split()[0]], own) for name, own in compared.items()},
        conflicts=_conflicts(parts, similarity),
        shortcuts=tells,
        novel=novel,
        worst=_worst(test, train, of_test),
        # A window that two searches cut short counts once.
        limits=dict(limits["train"] + (limits["validation"] + limits["test"] | Counter(found.limits))),
        verdict=_verdict(task, split, test, of_test, novel, tells),
    )


def clusters(splits: Splits, similarity: Similarity = DEFAULT) -> tuple[Part, np.ndarray]:
    """All examples of a split, and a group's number for each (examples,): exact, near and overlapping ones are in one group."""
    whole = Part.of([example for part in splits.parts.values() for example in part])
    pairs = near_pairs(whole.references, similarity)
    return whole, components(len(whole), (pairs.first, pairs.second), touching(whole.loci))


def by_chromosome(splits: Splits) -> tuple[Part, np.ndarray] | None:
    """All examples of a split, and their chromosomes' numbers (examples,); None where an example has no locus."""
    whole = Part.of([example for part in splits.parts.values() for example in part])
    if any(locus is None for locus in whole.loci):
        return None
    return whole, np.unique([bare(locus.chromosome) for locus in whole.loci if locus is not None], return_inverse=True)[1]


def _within(part: Part, similarity: Similarity) -> tuple[dict[str, int], dict[str, int]]:
    """How many examples repeat an earlier one of their part, or overlap another; and where the search was cut short."""
    seen, exact = set[tuple[str, ...]](), np.zeros(len(part), bool)
    for number, windows in enumerate(part.windows):
        if has_letters(windows, similarity):
            exact[number] = (key := content_key(windows)) in seen
            seen.add(key)
    pairs = near_pairs(part.references, similarity)
    near = np.zeros(len(part), bool)
    near[pairs.second] = True
    first, second = touching(part.loci)
    counts = {"exact": exact, "near": near & ~exact}
    overlapping = len(set(first.tolist()) | set(second.tolist()))
    return {**{name: int(mask.sum()) for name, mask in counts.items()}, "overlap": overlapping}, pairs.limits


def _either(one: Comparison, other: Comparison) -> Comparison:
    """The same examples compared with two parts; sources are not kept."""
    facts = {name: one.facts[name] | other.facts[name] for name in FACTS}
    nothing = np.full(len(one.worst), np.nan)
    return Comparison(facts, np.maximum(one.worst, other.worst), np.full(len(one.worst), -1), nothing, nothing, {})


def _summary(task: Task, part: Part, found: Comparison) -> dict[str, Any]:
    masks = {**found.facts, "any": found.worst > 0}
    return {
        "counts": found.counts,
        "facts": {name: int(found.facts[name].sum()) for name in FACTS},
        "by_class": by_class(task, part, masks),
    }


def _conflicts(parts: Mapping[str, Part], similarity: Similarity) -> dict[str, int]:
    """Part → examples of which an example of any part has the same letters, on either strand, and another label."""
    labels: dict[tuple[str, ...], set[Any]] = {}
    for part in parts.values():
        for windows, label in zip(part.windows, part.labels, strict=True):
            if has_letters(windows, similarity):
                labels.setdefault(content_key(windows), set()).add(label)
    torn = {key for key, found in labels.items() if len(found) > 1}
    return {name: sum(content_key(windows) in torn for windows in part.windows) for name, part in parts.items()}


def _classes(task: Task, part: Part) -> dict[str, int]:
    return {name: row["examples"] for name, row in by_class(task, part, {}).items()}


def _novel(task: Task, test: Part, found: Comparison) -> dict[str, int]:
    """Class → test examples that have nothing of train, each set of letters and loci once."""
    kept, seen = [], set()
    for number in np.flatnonzero(found.worst == 0).tolist():
        key = test.loci[number] or content_key(test.windows[number]), test.labels[number]
        if key not in seen:
            seen.add(key)
            kept.append(number)
    left = test.rows(kept)
    return _classes(task, left) or {"all": len(left)}


def _worst(test: Part, train: Part, found: Comparison) -> list[dict[str, Any]]:
    """Some leaking test examples, the most alike ones of each kind first, kinds in turn."""
    rows = []
    for rank in range(len(LEAKS) - 1, 0, -1):
        numbers = np.flatnonzero(found.worst == rank)
        likeness = np.nan_to_num(found.identity[numbers] * found.coverage[numbers])
        rows += [(place, -rank, number) for place, number in enumerate(numbers[np.argsort(-likeness, kind="stable")].tolist())]
    return [
        {
            "id": test.ids[number],
            "leak": LEAKS[found.worst[number]],
            "from": train.ids[found.source[number]],
            "same_label": test.labels[number] == train.labels[found.source[number]],
            "identity": found.identity[number],
            "coverage": found.coverage[number],
        }
        for _, _, number in sorted(rows)[:MAX_WORST]
    ]


def _verdict(
    task: Task, split: str, test: Part, found: Comparison, novel: Mapping[str, int], tells: Mapping[str, float | None]
) -> list[str]:
    """What follows, in sentences."""
    leaking, sentences = int((found.worst > 0).sum()), []
    remedy = _remedy(task, split)
    if not leaking:
        sentences.append("no test window matches a training window")
    elif leaking < SERIOUS * len(test):
        sentences.append(
            f"{leaking:,} of {len(test):,} test windows ({leaking / len(test):.2%}) match training windows: few enough to drop"
        )
    else:
        sentences.append(
            f"scores on this test split are upper bounds: {leaking / len(test):.1%} of its windows match training windows; "
            f"{remedy}"
        )
    if leaking and (lacking := _lacking(task, test, novel)):
        name, left = lacking
        sentences.append(
            f"dropping the leaking windows is no repair: of the {sum(novel.values()):,} different ones that are left, "
            f"{left:,} are {name!r}; {remedy}"
        )
    if any(len(windows) == 2 for windows in test.windows[:1]):
        sentences.append("windows of variants overlap wherever variants are near each other, so that flanks are shared")
    unit = "|Spearman|" if task.kind == REGRESSION else "AUROC"
    told = {name: value for name, value in tells.items() if value is not None and value >= TELLING and "mer" not in name}
    for name, value in told.items():
        so = "no model is shown it, but sequences may tell it" if name in PLACES else "a model may learn no more than that"
        sentences.append(f"{name} alone reaches {unit} {value:.2f}: {so}")
    return sentences


def _lacking(task: Task, test: Part, novel: Mapping[str, int]) -> tuple[str, int] | None:
    """A class, and its examples among the novel ones, where these have hardly any of it."""
    if task.kind == REGRESSION or not sum(novel.values()):
        return None
    before = _classes(task, test)
    shares = {name: (novel[name] / sum(novel.values())) / (count / len(test)) for name, count in before.items() if count}
    name = min(shares, key=lambda name: shares[name], default="")
    return (name, novel[name]) if shares and shares[name] < ONE_SIDED else None


def _remedy(task: Task, split: str) -> str:
    for rule in ("locus", "chromosome"):
        if split == rule:  # it has left these
            break
        if rule in task.split_rules:
            return f"split by {rule} instead: --split {rule}"
    return "split by groups of like windows instead: --fix cluster --out FOLDER"


def described(found: Audit) -> list[str]:
    """The audit in lines of text."""
    unit = "|Spearman|" if found.kind == REGRESSION else "AUROC"
    sizes = " / ".join(f"{found.examples[part]['examples']:,}" for part in PART_NAMES)
    alike = f"{found.parameters['identity']:.0%} identity over {found.parameters['coverage']:.0%} of the shorter window"
    lines = [f"{found.task}, split {found.split!r}: {sizes} windows (train / validation / test); nearly the same: {alike}"]
    for name, row in found.across.items():
        if name == EITHER and row["counts"] in [other["counts"] for key, other in found.across.items() if key != EITHER]:
            continue  # nothing new
        lines += _across(name, row, sum(row["counts"].values()), name in ("test in train", EITHER))
    repeated = {part: {name: count for name, count in row.items() if count} for part, row in found.within.items()}
    for part, counts in repeated.items():
        if counts:
            lines.append(f"within {part}: " + ", ".join(f"{count:,} {WORDS[name]}" for name, count in counts.items()))
    if any(found.conflicts.values()):
        counts = ", ".join(f"{count:,} in {part}" for part, count in found.conflicts.items() if count)
        lines.append(f"contradicting labels: windows whose letters have another label elsewhere: {counts}")
    for row in found.worst[:3]:
        alike = "" if row["identity"] is None else f", {row['identity']:.0%} over {row['coverage']:.0%}"
        label = "" if row["same_label"] else ", with another label"
        lines.append(f"  {row['id']}: {WORDS[row['leak']]} as {row['from']}{alike}{label}")
    told = ", ".join(f"{name} {value:.2f}" for name, value in found.shortcuts.items() if value is not None)
    lines.append(
        f"{unit} on test of one feature alone: {told or 'none has one'} (soft-masking: not known, letters are read in upper case)"
    )
    lines += [f"not searched to the end: {count:,} {reason}" for reason, count in found.limits.items()]
    return lines + [f"→ {sentence}" for sentence in found.verdict]


def _across(name: str, row: Mapping[str, Any], total: int, classes: bool) -> list[str]:
    facts, leaking = row["facts"], total - row["counts"]["none"]
    if not leaking:
        return [f"{name}: nothing"]
    kinds = [f"{WORDS[fact]} {facts[fact]:,} ({facts[fact] / total:.1%})" for fact in ("exact", "overlap", "near") if facts[fact]]
    if facts["overlap"]:
        kinds.append(f"by half or more {facts['half']:,}, same interval {facts['same_interval']:,}")
    lines = [f"{name}: {leaking:,} of {total:,} ({leaking / total:.1%}): " + ", ".join(kinds)]
    if classes and row["by_class"]:
        shares = [
            f"{name} {found['any'] / found['examples']:.1%}" for name, found in row["by_class"].items() if found["examples"]
        ]
        lines.append("  by class: " + ", ".join(shares[:10]) + (", …" if len(shares) > 10 else ""))
    return lines
