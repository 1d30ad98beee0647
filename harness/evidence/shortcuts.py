"""Shortcuts: how well a window's length, composition, strand or place alone tells its label, without reading the sequence.

Each is fitted to the training part and measured on the test part: by AUROC for classes (the best class against the rest), its
mean over labels for several labels, and by the absolute Spearman correlation for a number.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from harness.data import bare
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION, Task

if TYPE_CHECKING:
    from .leakage import Part

MAX_BINS = 25  # of a feature's values, each with the training label's mean in it
PRIOR = 5  # training examples' worth of the overall mean that each bin's mean begins with
REGION = 1_000_000  # nucleotides of a chromosome that are one bin
LARGEST_K = 6  # of the k-mer floor
MAX_CLASSES = 20  # of more, the commonest in the training part
MAX_TRAIN = 20_000  # evenly spaced training windows that the k-mer floor is fitted to
KMERS = f"{LARGEST_K}-mer counts"


def shortcuts(task: Task, train: Part, test: Part, floor: bool = True) -> dict[str, float | None]:
    """Feature → its score on the test part; None where it does not vary, is not known, or the test part does not define it."""
    classes = [label for label, _ in Counter(train.labels).most_common(MAX_CLASSES)] if task.kind == CLASSIFICATION else []
    if task.kind == CLASSIFICATION and len(task.classes) == 2:
        classes = [1]
    targets, wanted = _targets(task, train, classes), _targets(task, test, classes)
    found: dict[str, float | None] = {}
    numbers = {
        "length": [[sum(map(len, windows)) for windows in part.windows] for part in (train, test)],
        "GC share": [[_share(windows, "GC") for windows in part.windows] for part in (train, test)],
        "N share": [[_share(windows, "N") for windows in part.windows] for part in (train, test)],
    }
    for name, (known, asked) in numbers.items():
        # A share's exact value would tell the length: its bins are wide.
        bins = _bins(np.array(known, float), np.array(asked, float), exact=name == "length")
        found[name] = None if len(set(known)) < 2 else _score(task, wanted, _means(targets, *bins))
    if all(locus is not None for part in (train, test) for locus in part.loci):
        for name, bins in (("strand", _strands(train, test)), ("chromosome", _chromosomes(train, test))):
            found[name] = None if len(set(bins[0].tolist())) < 2 else _score(task, wanted, _means(targets, *bins))
        found["position"] = _score(task, wanted, _positions(targets, train, test))
    if floor:
        found[KMERS] = _kmer_floor(task, targets, wanted, train, test)
    return found


def _share(windows: tuple[str, ...], letters: str) -> float:
    return sum(window.count(letter) for window in windows for letter in letters) / sum(map(len, windows))


def _targets(task: Task, part: Part, classes: list[int]) -> np.ndarray:
    """What is predicted, float64 (examples, K): whether it is of each of the classes, its labels, or its number."""
    labels = np.array(part.labels)
    if task.kind == CLASSIFICATION:
        return (labels[:, None] == np.array(classes)).astype(float)
    return labels.astype(float).reshape(len(labels), -1)


def _score(task: Task, wanted: np.ndarray, scores: np.ndarray) -> float | None:
    """How well scores rank what is wanted, both (examples, K)."""
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    if task.kind == REGRESSION:
        with warnings.catch_warnings(action="ignore"):  # of constant input, whose correlation is NaN
            value = abs(spearmanr(wanted[:, 0], scores[:, 0])[0])  # type: ignore[arg-type]
        return None if np.isnan(value) else float(value)
    columns = [column for column in range(wanted.shape[1]) if 0 < wanted[:, column].sum() < len(wanted)]
    if not columns:
        return None
    found = [float(roc_auc_score(wanted[:, column], scores[:, column])) for column in columns]
    return float(np.mean(found)) if task.kind == MULTILABEL else max(found)


def _bins(known: np.ndarray, asked: np.ndarray, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """Bins of about equally many training values; ``exact``: a frequent value has a bin of its own."""
    edges = np.unique(np.quantile(known, np.linspace(0, 1, MAX_BINS + 1)[1:-1]))
    if exact:
        edges = np.unique(np.concatenate([edges, np.nextafter(edges, np.inf)]))
    elif len(edges) == 1:  # nearly all have the same share, such as no N
        edges = np.nextafter(edges, np.inf)
    return np.searchsorted(edges, known, side="right"), np.searchsorted(edges, asked, side="right")


def _numbered(known: list[str], asked: list[str]) -> tuple[np.ndarray, np.ndarray]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(known))}
    return np.array([numbers[name] for name in known]), np.array([numbers.get(name, len(numbers)) for name in asked])


def _strands(train: Part, test: Part) -> tuple[np.ndarray, np.ndarray]:
    return _numbered(*([locus.strand for locus in part.loci if locus] for part in (train, test)))


def _chromosomes(train: Part, test: Part) -> tuple[np.ndarray, np.ndarray]:
    return _numbered(*([bare(locus.chromosome) for locus in part.loci if locus] for part in (train, test)))


def _means(targets: np.ndarray, known: np.ndarray, asked: np.ndarray, prior: np.ndarray | None = None) -> np.ndarray:
    """The training labels' mean in the bin of each example asked about; ``prior`` (bins, K) is what bins begin with."""
    count = max(int(known.max()), int(asked.max())) + 1
    sizes = np.bincount(known, minlength=count)[:, None]
    sums = np.stack([np.bincount(known, column, count) for column in targets.T], axis=1)
    start = targets.mean(axis=0) if prior is None else prior
    return ((sums + PRIOR * start) / (sizes + PRIOR))[asked]


def _positions(targets: np.ndarray, train: Part, test: Part) -> np.ndarray:
    """The training labels' mean in the same region, where few are known drawn to the chromosome's."""
    names = [[f"{bare(it.chromosome)}:{it.start // REGION}" for it in part.loci if it] for part in (train, test)]
    known, asked = _numbered(*names)
    chromosomes = _chromosomes(train, test)
    count = max(int(known.max()), int(asked.max())) + 1
    prior = np.tile(targets.mean(axis=0), (count, 1))
    prior[known] = _means(targets, chromosomes[0], chromosomes[0])
    found = _means(targets, known, asked, prior)
    new = asked == len(set(names[0]))  # regions without training examples
    found[new] = _means(targets, *chromosomes)[new]
    return found


def _kmer_floor(task: Task, targets: np.ndarray, wanted: np.ndarray, train: Part, test: Part) -> float | None:
    """Logistic regression, or ridge regression of numbers, on each window's k-mer counts, scaled to unit length."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    chosen = np.linspace(0, len(train) - 1, min(len(train), MAX_TRAIN)).round().astype(int)
    known, asked = _kmers([train.windows[row] for row in chosen]), _kmers(test.windows)
    targets = targets[chosen]
    if task.kind == REGRESSION:
        return _score(task, wanted, Ridge().fit(known, targets[:, 0]).predict(asked)[:, None])
    scores = np.zeros_like(wanted)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        for column in range(wanted.shape[1]):
            if 0 < targets[:, column].sum() < len(targets):
                model = LogisticRegression(C=10.0, max_iter=200).fit(known, targets[:, column])
                scores[:, column] = model.decision_function(asked)
    return _score(task, wanted, scores)


def _kmers(windows: list[tuple[str, ...]]):
    """Counts of each k-mer of LARGEST_K letters and of 3, each scaled to unit length: sparse (examples, 4^k + 4^3)."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.preprocessing import normalize

    from harness.data import letter_table

    text = np.frombuffer("N".join("N".join(own) for own in windows).encode(), np.uint8)
    digits = letter_table({"A": 0, "C": 1, "G": 2, "T": 3}, default=-1)[text]
    sizes = [sum(map(len, own)) + len(own) for own in windows]
    rows = np.repeat(np.arange(len(windows), dtype=np.int32), sizes)[: len(text)]
    blocks = []
    for k in (3, LARGEST_K):
        count = max(len(text) - k + 1, 0)
        index, valid = np.zeros(count, np.int32), np.ones(count, bool)
        for offset in range(k):
            digit = digits[offset : offset + count]
            index, valid = index * 4 + digit.astype(np.int32), valid & (digit >= 0)
        ones = np.ones(int(valid.sum()), np.float32)
        counts = csr_matrix((ones, (rows[:count][valid], index[valid])), shape=(len(windows), 4**k))
        blocks.append(normalize(counts))
    return hstack(blocks, format="csr")
