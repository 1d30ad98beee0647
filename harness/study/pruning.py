"""Which trials of a search are not worth more epochs: limits that are fixed before a trial begins, so that it can be repeated."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence

from .journal import FINISHED, PRUNED, Tried

ANY = sys.float_info.max  # a limit that every loss is below; JSON has no infinity
MIN_TRIALS = 4  # finished ones before the median prunes
GRACE = 0.2  # share of the epochs that the median leaves to every trial
ETA = 3  # hyperband: of so many trials one goes on


def median(number: int, earlier: Sequence[Tried], epochs: int) -> list[float]:
    """After each epoch, the median of what the finished trials had reached by then (after Golovin et al. 2017, Vizier)."""
    finished = [trial for trial in earlier if trial.state == FINISHED]
    if len(finished) < MIN_TRIALS:
        return []
    first = max(2, math.ceil(GRACE * epochs))
    return [ANY if epoch < first else statistics.median(_by(trial, epoch) for trial in finished) for epoch in range(1, epochs)]


def hyperband(number: int, earlier: Sequence[Tried], epochs: int) -> list[float]:
    """Successive halving without waiting (Li et al. 2020, ASHA), in brackets that begin later and later (Li et al. 2018).

    The trials of a bracket are compared after 1, 3, 9, … epochs, or after 3, 9, …, and so on: the best third goes on. As in
    Optuna, a trial goes on if it is among the best third, or the best, of those that came so far, itself included.
    """
    rungs = [ETA**power for power in range(epochs.bit_length()) if ETA**power < epochs]
    if not rungs:
        return []
    brackets = len(rungs)
    limits = [ANY] * rungs[-1]
    for rung in rungs[number % brackets :]:
        reached = sorted(
            _by(trial, rung)
            for trial in earlier
            if trial.number % brackets == number % brackets
            and (trial.state == FINISHED or (trial.state == PRUNED and trial.epochs >= rung))
        )
        if reached:
            limits[rung - 1] = reached[max((len(reached) + 1) // ETA, 1) - 1]
    return limits


def none(number: int, earlier: Sequence[Tried], epochs: int) -> list[float]:
    """No limits."""
    return []


# Each gives the limits (see Run.stop_above) of trial ``number`` after ``earlier`` ones.
PRUNERS: Mapping[str, Callable[[int, Sequence[Tried], int], list[float]]] = {
    "median": median,
    "hyperband": hyperband,
    "none": none,
}


def _by(trial: Tried, epoch: int) -> float:
    """The lowest loss that a trial had reached by an epoch; one that stopped early stays where it was."""
    return trial.lowest[min(epoch, trial.epochs) - 1]
