"""The split rules of the GenomicBenchmarks tasks: the authors', by chromosome, and by locus."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from harness.data import Example, Locus, bare
from harness.task import Splits

from ._gb_facts import SETS
from ._near import near_groups
from ._splits import HELD_OUT, SEED, dependent, hold_out, stratified_groups

MAX_LETTERS = 200_000_000  # of the largest task with room; two cores compare these in some minutes, once
PUBLISHED, CHROMOSOME, LOCUS = RULES = ("published", "chromosome", "locus")


def split(
    name: str,
    rule: str,
    examples: Sequence[Example],
    parts: Sequence[str],
    places: Sequence[Locus | None],
    files: dict[str, str],
    changes: Counter[str],
    notes: list[str],
    species: tuple[str, ...] = (),
) -> Splits:
    """The examples under a split rule; ``parts`` says which are the authors' ``train`` and which their ``test``.

    ``published`` keeps these, and holds a tenth of train out for validation. ``chromosome`` takes the chromosomes of the task's
    facts for validation and test. ``locus`` pools all examples and draws 60/20/20. Where examples are drawn, the seed is 42, and
    those of one sequence (or its reverse complement) and those whose ``places`` overlap stay in one part; under ``locus``, near
    duplicates too.
    """
    facts = SETS[name]
    sequences, labels = [example.windows[0].sequence for example in examples], [_class(example) for example in examples]
    groups = dependent(sequences, places, changes)
    labelled = Counter(sequence for sequence, _ in set(zip(sequences, labels, strict=True)) if sequence.strip("N"))
    changes["in_both_classes"] = sum(count > 1 for count in labelled.values())
    if rule == LOCUS:
        groups = near_groups(sequences, groups, changes, notes, MAX_LETTERS)
        chosen = stratified_groups(name, labels, groups)
        kept = "overlapping windows and near duplicates stay in one part"
        notes = [f"train, validation and test are drawn 60/20/20 from all windows with seed {SEED}; {kept}", *notes]
    elif rule == CHROMOSOME:
        assigned = [_by_chromosome(place, facts.held_out) for place in places]
        chosen = tuple([n for n, part in enumerate(assigned) if part == index] for index in range(3))
        validation, test = (" ".join(names) for names in facts.held_out)
        notes = [f"test: {test}; validation: {validation}; train: the other chromosomes", *notes]
        if "coding_seqs" in facts.classes and any(_is_transcript(place) for place in places):
            notes.append("transcripts of unknown place are dealt out by a hash of their names: 82 % train, 9 % and 9 % held out")
    else:
        train, test = ([n for n, part in enumerate(parts) if part == wanted] for wanted in ("train", "test"))
        stay, held = hold_out(name, [labels[n] for n in train], [groups[n] for n in train])
        chosen = ([train[n] for n in stay], [train[n] for n in held], test)
        drawn = f"validation is {HELD_OUT:.0%} of the authors' train part, drawn by locus with seed {SEED}"
        notes = [drawn, *([facts.leak] if facts.leak else []), *notes]
    sizes = Counter(groups)
    block = None
    if any(sizes[groups[n]] > 1 for n in chosen[2]):  # intervals of test scores go by groups
        block = {examples[n].id: str(groups[n]) for n in chosen[2]}.__getitem__
    return Splits(
        *([examples[n] for n in part] for part in chosen),
        files=files,
        changes=+changes,
        block=block,
        notes=notes,
        species=species,
    )


def _class(example: Example) -> int:
    assert isinstance(example.label, int)
    return example.label


def _is_transcript(place: Locus | None) -> bool:
    return place is not None and place.chromosome.startswith("ENST")


def _by_chromosome(place: Locus | None, held_out: tuple[Sequence[str], Sequence[str]]) -> int:
    """0 for train, 1 for validation, 2 for test."""
    assert place is not None
    if _is_transcript(place):
        lot = int(hashlib.sha256(place.chromosome.encode()).hexdigest(), 16) % 100
        return 2 if lot < 9 else 1 if lot < 18 else 0
    validation, test = ({bare(chromosome) for chromosome in names} for names in held_out)
    return 2 if bare(place.chromosome) in test else 1 if bare(place.chromosome) in validation else 0
