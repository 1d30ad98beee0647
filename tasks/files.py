"""Tasks made of the user's own files: a folder with the parts of a split, tables, FASTA and BED files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.data import Example, Label, Window
from harness.errors import BadData, UserError
from harness.files.fingerprint import digest
from harness.task import CLASSIFICATION, MAIN_METRIC, MULTILABEL, REGRESSION, Reading, Reference, Splits, Task

from . import _aligned, _bed, _layouts, _windows
from ._given import GIVEN, given_parts
from ._labels import class_names, read_labels
from ._names import check_name, pair_notes, task_name
from ._near import MAX_LETTERS, near_groups
from ._splits import check_rule, dependent, strata, stratified_groups

MIN_WINDOWS = 3  # of each class: one for each part
STRATIFIED, SHUFFLED = DRAWN = ("stratified", "shuffled")
CONFLICTS = {CLASSIFICATION: "in_both_classes", REGRESSION: "with_different_values", MULTILABEL: "with_different_labels"}


@dataclass(frozen=True)
class _Own:
    """What is known about a task of the user's own files. ``told``: the files alone do not say how they are read."""

    name: str
    paths: tuple[Path, ...]
    layout: _layouts.Layout
    windows: Sequence[_windows.Own]
    kind: str
    classes: tuple[str, ...]
    labels: Sequence[Label]
    changes: Mapping[str, int]
    notes: tuple[str, ...]
    told: bool

    @property
    def split_rules(self) -> tuple[str, ...]:
        return (GIVEN, *DRAWN) if self.windows[0].part else DRAWN

    @property
    def intervals(self) -> bool:
        """Whether a genome holds the letters."""
        return self.windows[0].window is None


def tasks() -> tuple[Task, ...]:
    """No task: these exist only for given files, see :func:`from_files`."""
    return ()


def from_files(paths: Sequence[Path], name: str | None = None, reading: Reading = Reading()) -> Task:  # noqa: B008 - frozen
    """The task that the user's files make. The files are read and checked here. ``name`` replaces the one after the files.

    What files and folders hold is found out by :mod:`harness.tasks._layouts`, and what their labels mean by
    :mod:`harness.tasks._labels`; ``reading`` says what they do not say themselves.

    Where the files have a split of their own, its rule is ``given``: the parts as they are, and a validation part drawn from
    train if there is none (see :mod:`harness.tasks._given`). Under ``stratified``, the default of other files, all windows are
    drawn 60/20/20, by class, with seed 42 and with windows that overlap, repeat or nearly repeat each other in one part (see
    :func:`harness.tasks._splits.dependent` and :func:`harness.tasks._near.near_groups`, also for what is counted); under
    ``shuffled``, as in the thesis, windows that nearly repeat each other may be apart.

    Besides these and changed letters, ``Splits.changes`` counts ``in_both_classes`` (sequences with more than one label;
    ``with_different_values`` or ``with_different_labels`` where labels are no classes); none is removed. ``Splits.notes`` says
    which class is the positive one, which columns are not used, and what the files' names contradict.

    ``bind`` gives windows the columns of an alignment, if each has a locus (in FASTA headers ``chr1:100-200(-)``, 0-based
    and half-open). Intervals need a genome, which ``bind`` gives too.

    Raises:
        BadData: a file cannot be used (see :func:`harness.files.readers.read_as`), labels cannot be understood, there is only
            one class, a class has fewer than MIN_WINDOWS windows, or headers contradict the order of the files.
        UserError: another number or mixture of files, a name that cannot be used, or a package that reads the files is not
            installed.
    """
    paths = tuple(Path(path) for path in paths)
    layout = _layouts.find(paths, reading.parts)
    name = task_name(paths) if name is None else check_name(name)
    changes: Counter[str] = Counter()
    pair = len(layout.members) == 2 and all(member.label and not member.part for member in layout.members)
    notes = [*layout.notes, *(pair_notes(paths) if pair else ())]
    windows, columns = _windows.read(layout, reading, changes, notes)
    said = _joined(paths)
    labels = read_labels(said, [window.word for window in windows], [window.where for window in windows], columns, reading)
    notes += labels.notes if not pair or reading != Reading() else []
    told = reading != Reading() or bool(windows[0].part)
    own = _Own(name, paths, layout, windows, labels.kind, labels.classes, labels.values, +changes, tuple(notes), told)
    if not windows[0].part:
        _check_counts(own)
    return _task(own, Reference())


def _task(own: _Own, reference: Reference) -> Task:
    _check_reference(own, reference)
    return Task(
        name=own.name,
        family="files",
        summary=f"{len(own.windows):,} windows of your own: {_joined(own.paths)}",
        classes=own.classes,
        load=partial(_load, own, reference),
        split_rules=own.split_rules,
        main_metric=MAIN_METRIC[own.kind],
        licence="yours",
        bind=partial(_task, own),
        inputs=partial(_inputs, own.layout, reference),
        kind=own.kind,
    )


def _inputs(layout: _layouts.Layout, reference: Reference) -> list[Path]:
    return [*(member.path for member in layout.members), *_aligned.reference_files(reference)]


def _joined(paths: Sequence[Path]) -> str:
    return " and ".join(map(str, paths))


def _check_reference(own: _Own, reference: Reference) -> None:
    said = _joined(own.paths)
    if reference.context != Reference.context:
        raise UserError(f"{said}: the windows have lengths of their own; leave --context out")
    if reference.species and reference.alignment is None:
        raise UserError(f"species {reference.species!r}: they select rows of an alignment; give it with --msa")
    if own.intervals:
        return
    if reference.genome is not None:
        raise UserError(f"{said}: the windows have letters of their own; leave --genome out")
    without = next((one for one in own.windows if one.window is not None and one.window.locus is None), None)
    if reference.alignment is not None and without is not None:
        raise UserError(
            f"{said}: --msa needs the locus of every window, and {without.id[:80]!r} has none; write it into FASTA "
            "headers as chr1:100-200(+), 0-based, half-open and as long as the window"
        )


def _check_counts(own: _Own) -> None:
    """Refuse classes of which a part could have no window when all are drawn anew."""
    said = _joined(own.paths)
    if own.kind != CLASSIFICATION:
        if len(own.windows) < MIN_WINDOWS:
            raise BadData(f"{said}: {len(own.windows)} windows; at least {MIN_WINDOWS} are needed, one for each split")
        return
    counts = Counter(own.labels)
    for label, name in enumerate(own.classes):
        if counts[label] < MIN_WINDOWS:
            raise BadData(f"{said}: class {name!r} has {counts[label]} windows; it needs {MIN_WINDOWS}, one for each split")


def _load(own: _Own, reference: Reference, rule: str) -> Splits:
    check_rule(rule, own.split_rules)
    changes, said, notes = Counter(own.changes), _joined(own.paths), list(own.notes)
    examples, files = _examples(own, reference, changes)
    sequences = [example.windows[0].sequence for example in examples]
    groups = dependent(sequences, [one.place for one in own.windows], changes)
    conflicts = sum(count > 1 for count in Counter(sequence for sequence, _ in set(zip(sequences, own.labels))).values())
    if conflicts == len(set(sequences)):
        raise BadData(f"{said}: every window is in more than one class; are these copies of one file?")
    changes[CONFLICTS[own.kind]] = conflicts
    species: tuple[str, ...] = ()
    if reference.alignment is not None:
        classes = own.classes if own.kind == CLASSIFICATION else ()
        examples, columns, species = _aligned.align(examples, classes, reference, changes, notes)
        files |= columns
    if rule == GIVEN:
        given = [one.part for one in own.windows]
        parts = given_parts(said, own.kind, own.classes, own.labels, given, sequences, groups, changes, notes)
    else:
        parts, groups = _drawn(own, rule, sequences, groups, changes, notes)
    block = None
    if len(set(groups)) < len(groups):
        block = {example.id: str(group) for example, group in zip(examples, groups, strict=True)}.__getitem__
    train, validation, test = ([examples[position] for position in part] for part in parts)
    return Splits(train, validation, test, files=files, changes=+changes, block=block, notes=tuple(notes), species=species)


def _drawn(
    own: _Own, rule: str, sequences: Sequence[str], groups: Sequence[int], changes: Counter[str], notes: list[str]
) -> tuple[tuple[list[int], list[int], list[int]], Sequence[int]]:
    """The parts of all windows drawn anew, and the groups of windows that were kept in one part."""
    _check_counts(own)
    if own.windows[0].part:
        notes.append("the split of the files is not used: all windows are drawn anew")
    said, shares = _joined(own.paths), strata(own.kind, _in_order_of_names(own))
    near = near_groups(sequences, groups, changes, notes, MAX_LETTERS) if rule == STRATIFIED else groups
    try:
        parts = stratified_groups(said, shares, near)
        groups = near
    except BadData:
        if len(set(near)) == len(set(groups)):
            raise
        parts = stratified_groups(said, shares, groups)
        notes.append("near duplicates are drawn apart, since a part would lack a class without: scores may rest on them")
    if (kept := len(groups) - len(set(groups))) > 0:
        notes.append(f"{kept:,} windows overlap or repeat others, and are kept in one part of the split with them")
    return parts, groups


def _in_order_of_names(own: _Own) -> Sequence[Label]:
    """The labels as numbers that do not depend on which class is the positive one, and nor does then what is drawn."""
    if own.kind != CLASSIFICATION or len(own.classes) != 2:
        return own.labels
    first = class_names(own.name, own.classes)[0]
    return own.labels if own.classes[0] == first else [1 - label for label in own.labels if isinstance(label, int)]


def _examples(own: _Own, reference: Reference, changes: Counter[str]) -> tuple[list[Example], dict[str, str]]:
    """The labelled windows, with letters from the genome where the files have none, and the checksums of what was read."""
    files = _windows.checksums(own.layout)
    windows = [one.window for one in own.windows if one.window is not None]
    if own.intervals:
        from harness.files.genome import Genome

        if reference.genome is None:
            raise UserError(f"{_joined(own.paths)}: intervals have no letters; give their genome with --genome, FASTA or 2bit")
        genome, loci = Genome(reference.genome), [one.place for one in own.windows if one.place is not None]
        sequences = _bed.sequences(genome, loci, changes)
        windows = [Window(sequence, locus) for sequence, locus in zip(sequences, loci, strict=True)]
        letters = hashlib.sha256("\n".join(sequences).encode()).hexdigest()
        files |= {f"windows of genome {genome.path.name}": letters}
    examples = [Example(one.id, (window,), label) for one, window, label in zip(own.windows, windows, own.labels, strict=True)]
    if own.told:
        rows = [[one.id, one.part, window.sequence] for one, window in zip(own.windows, windows, strict=True)]
        files["windows as they were read"] = digest([own.kind, own.classes, own.labels, rows])
    return examples, files
