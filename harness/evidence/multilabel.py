"""Scores of a classifier of several labels, each of which an example has or not, from probabilities and labels alone.

Definitions are scikit-learn's. A label is predicted where its probability is above 0.5. auroc, auprc and f1 are unweighted means
over the labels (macro); micro_auroc, micro_auprc and micro_f1 are those of all pairs of an example and a label together.
log_loss is the mean binary log-loss of all pairs, exact_match the share of examples whose labels are all predicted right.

Undefined cases: labels that all test examples have, or none, are left out of the means auroc and auprc (:func:`left_out` names
them); these, and micro_auroc and micro_auprc, are NaN (``null`` in a record) where nothing is left. f1 of a label that neither
occurs nor is predicted is 0.

Intervals are made of those for two classes (see :mod:`.intervals`). Those of log_loss and the micro metrics are of all pairs as
examples of two classes, where the pairs of one example are in one block; that of exact_match is accuracy's. Those of the macro
means are of the mean over labels without each block. Over many labels with few examples each, average precision is biased by more
than its mean varies: the intervals of auroc and auprc are extended by the jackknife's estimate of the bias.

``benchmarks/intervals.py --kind multilabel`` measures the coverage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from harness.errors import RunFailed

from . import intervals
from .intervals import Limits, NoInterval, Sample, members

if TYPE_CHECKING:
    import numpy as np

MAX_NAMED = 10  # labels that are named one by one


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of a multi-label task from checked probabilities (N, K) and labels (N, K)."""
    import numpy as np
    from sklearn.metrics import average_precision_score, roc_auc_score

    predicted, varied = probabilities > 0.5, varies(labels)
    both, marked = (predicted & (labels == 1)).sum(axis=0), predicted.sum(axis=0) + labels.sum(axis=0)
    rounding = np.finfo(np.float64).eps
    clipped = np.clip(probabilities, rounding, 1 - rounding)
    found = {
        "f1": (2 * both / np.maximum(marked, 1)).mean(),
        "micro_f1": 2 * both.sum() / max(marked.sum(), 1),
        "log_loss": -np.log(np.where(labels == 1, clipped, 1 - clipped)).mean(),
        "exact_match": (predicted == labels).all(axis=1).mean(),
    }
    mixed = np.unique(labels).size == 2
    for name, measure in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        found[name] = measure(labels[:, varied], probabilities[:, varied], average="macro") if varied.any() else np.nan
        found[f"micro_{name}"] = measure(labels.ravel(), probabilities.ravel()) if mixed else np.nan
    return found


def varies(labels: np.ndarray) -> np.ndarray:
    """Which labels (K,) some of the examples have and some have not; labels are (N, K)."""
    import numpy as np

    return np.ptp(labels, axis=0) > 0


def left_out(labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Sentences on what the scores leave out; labels are (N, K), of the names ``classes`` (K)."""
    names = [name for name, varied in zip(classes, varies(labels), strict=True) if not varied]
    if not names:
        return []
    said = ", ".join(map(repr, names[:MAX_NAMED])) + (", …" if len(names) > MAX_NAMED else "")
    return [
        f"auroc and auprc are means over {len(classes) - len(names)} of {len(classes)} labels: "
        f"all test examples have, or all lack, {said}"
    ]


def checked(outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) as float64 and labels (N, K) as whole numbers.

    Raises:
        RunFailed: a probability is not a number.
        ValueError: shapes do not fit, or a value is out of range.
    """
    import numpy as np

    outputs, labels = np.asarray(outputs, np.float64), np.asarray(labels)
    if outputs.ndim != 2 or 0 in outputs.shape:
        raise ValueError(f"probabilities {outputs.shape}: expected (examples, labels), one or more by one or more")
    if not np.isfinite(outputs).all():
        bad = int((~np.isfinite(outputs)).any(axis=1).sum())
        raise RunFailed(f"probabilities of {bad} of {len(outputs)} examples are not numbers: lower the learning rate")
    if outputs.min() < 0 or outputs.max() > 1:
        raise ValueError("probabilities: expected numbers from 0 to 1; were logits given?")
    check_labels(labels, outputs.shape)
    return outputs, labels


def check_labels(labels: np.ndarray, shape: tuple[int, int]) -> None:
    """Check the labels of predictions of a shape (N, K).

    Raises:
        ValueError: they are not 0 and 1 (N, K).
    """
    import numpy as np

    if labels.shape != shape or labels.dtype.kind not in "iu" or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels {labels.dtype} {labels.shape}: expected 0 and 1 {shape}")


def collapsed(probabilities: np.ndarray, labels: np.ndarray) -> bool:
    """Whether all examples were given the same labels."""
    predicted = probabilities > 0.5
    return bool((predicted == predicted[0]).all())


def limits(probabilities: np.ndarray, labels: np.ndarray, blocks: Sequence[str]) -> tuple[dict[str, Limits], dict[str, str]]:
    """Intervals, and the reasons of metrics without one (see :func:`.intervals.limits`)."""
    return intervals.limits(RULES, Sample(*members(len(labels), blocks), probabilities, labels))


def _macro_f1(sample: Sample) -> Limits:
    weakest = min(_effective(sample, range(sample.classes)))
    predicted = sample.probabilities > 0.5
    counts = [
        [sample.per_block(mark) for mark in (t & p, t | p)]
        for k in range(sample.classes)
        for t, p in [(sample.labels[:, k] == 1, predicted[:, k])]
    ]
    return intervals.mean_f1(sample, counts, weakest, predicted.size)


def _macro(measure: intervals.Measure) -> Callable[[Sample], Limits]:
    """Rule of the mean of a ranking metric over the labels that vary."""

    def rule(sample: Sample) -> Limits:
        import numpy as np

        ranked = np.flatnonzero(varies(sample.labels))
        if not len(ranked):
            raise NoInterval("no label varies among the examples")
        effective, positive = np.mean(_effective(sample, ranked)), sample.labels == 1
        found = [measure(sample, sample.probabilities[:, k], positive[:, k]) for k in ranked]
        values = np.array([whole for whole, _ in found])
        rarest = np.minimum(positive.sum(axis=0), (~positive).sum(axis=0))[ranked]
        unseen = ((values * (1 - values)) ** 0.5 / rarest).mean() ** 2  # if all labels lack their worst examples together
        low, high = intervals.mean_ranked(found, float(effective), float(unseen))
        bias = (sample.blocks - 1) * float(np.mean([parts.mean() - whole for whole, parts in found]))
        return max(low - max(bias, 0.0), 0.0), min(high - min(bias, 0.0), 1.0)

    return rule


def _micro(rule: Callable[[Sample], Limits]) -> Callable[[Sample], Limits]:
    """The rule for two classes, of all pairs of an example and a label; those of an example are in one block."""

    def of_pairs(sample: Sample) -> Limits:
        labels, k = sample.labels.ravel(), sample.classes
        pairs = Sample(sample.member.repeat(k), sample.blocks, _two(sample.probabilities.ravel()), labels, rows=k)
        for value, words in ((1, "labels that an example has"), (0, "labels that an example lacks")):
            pairs.enough(labels == value, words)
        return rule(pairs)

    return of_pairs


def _exact_match(sample: Sample) -> Limits:
    import numpy as np

    right = ((sample.probabilities > 0.5) == sample.labels).all(axis=1)
    return intervals.accuracy(Sample(sample.member, sample.blocks, _two(right), np.ones(len(right), int)))


RULES: dict[str, Callable[[Sample], Limits]] = {
    "auroc": _macro(intervals.auroc_without),
    "auprc": _macro(intervals.auprc_without),
    "f1": _macro_f1,
    **{f"micro_{name}": _micro(intervals.RULES[name]) for name in ("auroc", "auprc", "f1")},
    "log_loss": _micro(intervals.RULES["log_loss"]),
    "exact_match": _exact_match,
}


def _effective(sample: Sample, columns: Iterable[int]) -> list[float]:
    """For each label, the effective number of blocks that have it, or that lack it if these are fewer; both must be enough."""
    return [
        min(
            sample.enough(sample.labels[:, k] == value, f"examples {word} label {k}")
            for value, word in ((1, "with"), (0, "without"))
        )
        for k in columns
    ]


def _two(second: np.ndarray) -> np.ndarray:
    """Probabilities (N, 2) of two classes from those of the second."""
    import numpy as np

    return np.stack([1 - second, np.asarray(second, np.float64)], axis=1)
