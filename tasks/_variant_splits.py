"""How variants are split: whole chromosomes or whole blocks of positions are held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BadData

from ._splits import SEED
from ._variant_files import Variant

if TYPE_CHECKING:
    import numpy as np

CLASSES = ("benign", "pathogenic")
CHROMOSOME, POSITION = "chromosome", "position"
BLOCK = 1024  # nucleotides of a position block; fixed, so that every context has the same split
GENE = 1_000_000  # nucleotides; closer variants of a held-out chromosome may depend on each other, mostly by sharing a gene
PARTS = 5  # a fifth for test, a fifth for validation
# A test split of few variants has few blocks. With the other four folds, each variant is tested once.
POSITIONS = (POSITION, *(f"{POSITION}-{fold}" for fold in range(2, PARTS + 1)))


def block(example_id: str, length: int = BLOCK) -> str:
    """The block of ``length`` positions that an example lies in, by its id."""
    chromosome, position, *_ = example_id.rsplit(":", 3)  # the name of an HLA contig has colons too
    return f"{chromosome}:{int(position) // length}"


def parts(path: Path, variants: Sequence[Variant], rule: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the train, validation and test variants: whole chromosomes or position blocks, 60/20/20, seed 42.

    Scikit-learn's StratifiedGroupKFold deals the groups to five folds of about the same class balance. One fold is for
    test (the first, unless the rule names another), the next for validation.

    Raises:
        BadData: there are too few groups or variants, or a part lacks one of the classes.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    groups = [variant.chromosome if rule == CHROMOSOME else block(variant.id) for variant in variants]
    labels = np.array([variant.label for variant in variants])
    kind = "chromosomes" if rule == CHROMOSOME else f"blocks of {BLOCK:,} positions"
    remedy = f"choose --split {POSITION if rule == CHROMOSOME else CHROMOSOME}, or give more variants"
    if len(set(groups)) < PARTS or min(np.bincount(labels, minlength=2)) < PARTS:
        counts = " and ".join(f"{(labels == label).sum()} {name}" for label, name in enumerate(CLASSES))
        raise BadData(f"{path}: {counts} variants on {len(set(groups))} {kind}; each needs to be at least {PARTS}; {remedy}")
    folds = [fold for _, fold in StratifiedGroupKFold(PARTS, shuffle=True, random_state=SEED).split(labels, labels, groups)]
    number = 0 if rule == CHROMOSOME else POSITIONS.index(rule)
    test, validation = folds[number], folds[(number + 1) % PARTS]
    train = np.setdiff1d(np.arange(len(variants)), np.concatenate([test, validation]))
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        if len(set(labels[part])) < 2:
            held = ", ".join(sorted({groups[index] for index in part})[:5])
            only = CLASSES[labels[part][0]]
            raise BadData(f"{path}: split {rule!r} leaves {name} with {only} variants only ({kind} {held}); {remedy}")
    return train, validation, test


def near_others(variants: Sequence[Variant], split: tuple[np.ndarray, np.ndarray, np.ndarray], context: int) -> int:
    """How many test variants have a window, of ``context`` nucleotides, that overlaps with one of train or validation."""
    import numpy as np

    train, validation, test = split
    places: dict[str, list[int]] = {}
    for index in np.concatenate([train, validation]):
        places.setdefault(variants[index].chromosome, []).append(variants[index].position)
    arrays = {chromosome: np.sort(positions) for chromosome, positions in places.items()}
    count = 0
    for index in test:
        position, others = variants[index].position, arrays.get(variants[index].chromosome)
        if others is not None:
            near = np.searchsorted(others, [position - context + 1, position + context])
            count += int(near[0] < near[1])
    return count
