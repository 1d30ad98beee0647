"""attribution_auroc: do a model's attributions lie on the letters that were planted?

A simulated sample knows the positions of its planted motifs (:attr:`harness.task.Splits.planted`). The AUROC of a window is
the chance that a planted position has a larger |attribution| than another one, ties counted half; the metric is the mean over
windows. Attributions that know nothing have 0.5. A good model need not have 1: where a window has several copies of a motif, it
can do without some, and planted letters that disagree with the motif count as planted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.data import Example
from harness.progress import Reporter
from harness.task import Splits, Task

from .attribution import Attribution
from .trained import Trained


def aurocs(found: Attribution, planted: Sequence[Sequence[int]]) -> list[float]:
    """The AUROC of each window that has planted positions, 0-based, and others."""
    values = []
    for window, row, positions in zip(found.windows, np.abs(found.actual), planted, strict=True):
        is_planted = np.zeros(len(window), bool)
        is_planted[list(positions)] = True
        if 0 < is_planted.sum() < len(window):
            values.append(auroc(row[: len(window)], is_planted))
    return values


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The chance that a positive one of the scores (N,) is larger than another, ties counted half (Mann and Whitney)."""
    from scipy.stats import rankdata

    count = int(positive.sum())
    return float((rankdata(scores)[positive].sum() - count * (count + 1) / 2) / (count * (len(scores) - count)))


def with_shuffled_labels(splits: Splits, seed: int) -> Splits:
    """Splits whose training and validation labels are shuffled, each among themselves."""
    rng = np.random.default_rng(seed)

    def shuffled(part: Sequence[Example]) -> list[Example]:
        order = rng.permutation(len(part))
        return [replace(example, label=part[other].label) for example, other in zip(part, order.tolist(), strict=True)]

    return replace(splits, train=shuffled(splits.train), validation=shuffled(splits.validation))


def train_control(trained: Trained, task: Task, splits: Splits, reporter: Reporter) -> Any:
    """The same run once more, on shuffled labels, in memory alone: the classifier, with what the true labels taught left out.

    Raises:
        HarnessError: it cannot be trained.
    """
    import torch

    from harness.study.trial import Trial

    run = trained.run
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        trial = Trial.prepare(run, task, with_shuffled_labels(splits, run.seed), str(trained.accelerator.device))
        reporter.say(f"control: {run.name} learns {task.label} with shuffled labels, seed {run.seed}")
        trial.fit(reporter)
    return trial.classifier.eval()
