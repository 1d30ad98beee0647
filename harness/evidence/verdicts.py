"""What the numbers of a comparison say, in words: a sentence for each pair, and what a reader must know beside it.

The verdict goes by the adjusted p alone. Where the interval of the pair seems to say otherwise, the sentence says that too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .answers import Answers, Test
from .cells import Column, Row
from .compare import MAX_NAMED, Difference, Rank
from .metrics import METRICS
from .notes import listed, search_of
from .pairs import Pair
from .records import RunRecord
from .statistics import LEVEL, MAX_SWAPS, MIN_SEEDS, MIN_TASKS, holm

POINTS = ("accuracy", "precision", "recall", "f1", "micro_f1", "auroc", "micro_auroc", "auprc", "micro_auprc", "exact_match")
SIMULATED = "simulated data, which says nothing about the real set"
ONE_SEED = "one seed: nothing is known of the variance between seeds, so the verdict is about these two runs alone"
TWO_SEEDS = "two seeds: too few for an interval over seeds, so interval and verdict are about these runs alone"
INVISIBLE = "invisible"
NO_SEED = "neither model depends on the seed, so there is no variance between seeds"


@dataclass(frozen=True, eq=False)
class Found:
    """A pair's numbers, the test set that they are of, its column's label, and every run that counts, finished or not."""

    pair: Pair
    test: Test
    label: str
    counted: Mapping[tuple[Row, Column], Sequence[RunRecord]]


def judged(found: Sequence[Found], metric: str, names: Mapping[Row, str], swaps: int) -> list[Difference]:
    """The differences with their verdicts, adjusted for one another."""
    adjusted = holm([one.pair.p for one in found])
    return [_judged(one, value, len(found), metric, names) for one, value in zip(found, adjusted, strict=True)]


def _judged(one: Found, adjusted: float | None, comparisons: int, metric: str, names: Mapping[Row, str]) -> Difference:
    pair, test = one.pair, one.test
    first, second = (names[row] for row in pair.models)
    difference = pair.difference
    sign = difference if METRICS[metric].higher_is_better else -difference
    better = None
    if adjusted is not None and adjusted < LEVEL and sign:
        better = first if sign > 0 else second
    interval = pair.spread.interval(difference) if pair.spread else None
    detectable = pair.spread.detectable if pair.spread and pair.spread.error > 0 else None
    made = Difference(
        metric=metric,
        column=test.column,
        task=test.column.task,
        label=one.label,
        models=pair.models,
        names=(first, second),
        scores=pair.scores,
        difference=difference,
        interval=interval,
        p=pair.p,
        adjusted=adjusted,
        mcnemar=pair.mcnemar,
        examples=test.examples,
        blocks=test.sample.blocks,
        seeds=pair.seeds,
        detectable=detectable,
        better=better,
        sentence="",
        notes=tuple(_notes(one, names)),
    )
    records = test.of[pair.models[0]].records
    thing = "variant" if records[0].task["family"] == "variants" else "window"
    return replace(made, sentence=_sentence(made, thing, comparisons, pair.why))


def amount(metric: str, value: float, signed: bool = False) -> str:
    """A difference in words: points of a share, else the metric's own unit."""
    sign = "+" if signed and value > 0 else "-" if value < 0 else ""
    value = abs(value)
    if metric not in POINTS:
        return sign + (f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.2g}")
    return sign + (f"{100 * value:.1f}" if value >= 0.001 or value == 0 else f"{100 * value:.1g}")


def unit(metric: str) -> str:
    """What :func:`amount` counts, with a space before it; empty for the metric's own unit."""
    return " points" if metric in POINTS else ""


def many(number: int, thing: str) -> str:
    """How many of what, in the singular or plural."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def p_text(p: float | None, sign: str = "") -> str:
    """A p value to three places; ``sign`` stands before it where it is not one that is too small to print."""
    return "" if p is None else "< 0.001" if p < 0.001 else f"{sign}{p:.3f}"


def _sentence(found: Difference, thing: str, comparisons: int, why: str) -> str:
    first, second = found.names
    metric, interval = found.metric, found.interval
    if why:
        return f"{first} and {second} cannot be compared: {why}"
    excludes = interval is not None and not interval[0] <= 0 <= interval[1]
    if found.better is not None:
        word = "better" if found.better == first else "worse"
        said = f"{first} is {word} than {second} by {amount(metric, abs(found.difference))}{unit(metric)}"
        return said + ("" if excludes or interval is None else ", by the permutation test, though the interval reaches 0")
    if found.difference == 0 and interval is not None and interval[0] == interval[1]:
        return f"{first} and {second} cannot be told apart: their {metric} is the same, whatever examples are drawn"
    if found.p is not None and found.p < LEVEL:
        correction = f"after Holm's correction for {comparisons} comparisons"
        return f"{first} and {second} cannot be told apart {correction} (alone, p {p_text(found.p, sign='= ')})"
    counted = many(found.examples, thing) + (f" in {many(found.blocks, 'block')}" if found.blocks < found.examples else "")
    said = f"{first} and {second} cannot be told apart: with {counted} "
    if found.detectable is None:
        return said + "the spread of a difference is not known"
    said += f"a difference below {amount(metric, found.detectable)}{unit(metric)} is {INVISIBLE}"
    return said + (", by the permutation test, though the interval excludes 0" if excludes else "")


# --- beside one pair -----------------------------------------------------------------------------------------------------


def _notes(one: Found, names: Mapping[Row, str]) -> Iterator[str]:
    pair, test = one.pair, one.test
    models = [test.of[row] for row in pair.models]
    if test.column.simulated:
        yield SIMULATED
    if pair.constant:
        yield NO_SEED
    elif len(pair.seeds) < MIN_SEEDS:
        yield ONE_SEED if len(pair.seeds) == 1 else TWO_SEEDS
    for model in models:
        name = names[model.row]
        if model.repeats and not pair.constant:
            yield f"{name} does not depend on the seed: one run stands for every seed of the other model"
        elif not model.repeats and (unused := sorted(set(model.runs) - set(pair.seeds))):
            yield f"{name}: not compared where the other model lacks the seed ({listed(unused)})"
        if collapsed := sorted(run.seed for run in model.records if run.collapsed):
            yield f"{name} collapsed to one answer for every example (seed {listed(collapsed)})"
    yield from _searched(models, names)
    if pair.spread is None and not pair.why:
        yield f"{many(test.sample.blocks, test.sample.units[:-1])}, or draws that lack a class: too few for an interval"


def _searched(models: Sequence[Answers], names: Mapping[Row, str]) -> Iterator[str]:
    """Where settings were searched for one model and not for the other, or with another budget."""
    searches = [search_of(model.records) for model in models]
    if searches[0] == searches[1]:
        return
    said = [f"{names[model.row]}: {search or 'no search'}" for model, search in zip(models, searches, strict=True)]
    yield f"searched for settings unequally, which may be the difference ({'; '.join(said)})"


# --- below the whole comparison ------------------------------------------------------------------------------------------


def notes(
    differences: Sequence[Difference], ranks: Mapping[str, Rank], swaps: int, left_out: Sequence[str], failed: Sequence[str]
) -> Iterator[str]:
    """Sentences on how to read all differences, and on what is not in them."""
    tested = [one for one in differences if one.adjusted is not None]
    if tested:
        adjusted = f", Holm-adjusted over all {len(tested)} comparisons shown" if len(tested) > 1 else ""
        yield f"p: permutation test{adjusted}; below {LEVEL} it decides the verdict"
    if any(one.interval for one in tested):
        yield "[low, high]: 95 % interval of one difference alone, not adjusted"
    if any(INVISIBLE in one.sentence for one in tested):
        yield f"{INVISIBLE}: a true difference that a single test at {LEVEL:.0%} finds in fewer than four cases of five"
    if any(one.mcnemar is not None for one in differences):
        yield "McNemar: exact p of the first seed compared, as if there were no other, not adjusted"
    if swaps == MAX_SWAPS and len(tested) * 2 / LEVEL > MAX_SWAPS:
        least = len(tested) / (MAX_SWAPS + 1)
        yield f"{len(tested)} comparisons: adjusted p are no smaller than {least:.2g}; name models or tasks for a sharper test"
    tasks = max((rank.tasks for rank in ranks.values()), default=0)
    if tasks and tasks < MIN_TASKS and len({one.column for one in differences}) > 1:
        of = "task describe this task" if tasks == 1 else "tasks describe these tasks"
        yield f"mean ranks over {tasks} {of}; no claim about others is made from fewer than {MIN_TASKS}"
    elif tasks >= MIN_TASKS:
        yield f"mean rank: over the {tasks} tasks where every model has a score, with a 95 % bootstrap interval over tasks"
    simulated = {one.column for one in differences if one.column.simulated}
    if simulated and any(one.column not in simulated for one in differences):
        yield "mean ranks, wins, ties and losses: of real data alone"
    yield from _some("failed, so not compared", failed)
    yield from _some("left out", left_out)


def _some(what: str, items: Sequence[str]) -> Iterator[str]:
    """Items by name as far as MAX_NAMED, and how many there are."""
    if items:
        more = f"; and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else ""
        yield f"{what} ({len(items)}): {'; '.join(items[:MAX_NAMED])}{more}"
