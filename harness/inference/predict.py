"""predict(): what trained models say of the user's sequences, as a table."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.data import Example, Window
from harness.errors import HarnessError, UserError
from harness.evidence.predictions import PREDICTION, PROBABILITY
from harness.files import bed, readers
from harness.files.readers import EXPECTED
from harness.files.table import Table
from harness.progress import Reporter
from harness.task import MULTILABEL, REGRESSION, Reference

from . import writing
from .answers import Part, Seeds, about, chunks, fill
from .inputs import VARIANTS, Entry, Input
from .labels import Scoring, predicted
from .variants import is_vcf

SPREAD = "sd_"  # what the column of a standard deviation over seeds begins with


@dataclass
class Outcome:
    """What :func:`predict` made: the number of ``entries``, and the ``scores`` of those with a label that was understood.

    ``scored`` is their number. ``notes`` are sentences for the user.
    """

    entries: int
    scored: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def predict(
    seeds: Seeds, found: Input, out: Path | None = None, reporter: Reporter | None = None, *, force: bool = False
) -> Outcome:
    """Write a row for each entry of an input: its id, its label if any entry has one, the outputs, and what they say.

    Outputs are ``probability_CLASS`` for each class or label, or the number ``prediction`` of a regression; of several seeds they
    are means, and ``sd_CLASS`` (or ``sd_prediction``) the standard deviations over the seeds. ``prediction`` is the class of the
    highest probability, or 0 and 1 for each label.

    The input is read through first, so that whatever is wrong with it is said before anything is predicted. ``out`` ends as
    :data:`.writing.ENDINGS` say, and appears whole at the end; a stopped run goes on (see :func:`.answers.fill`). A file that
    exists is replaced only if ``force``. None writes CSV to standard output, as it comes.

    Raises:
        UserError: the model cannot take the input, or ``out`` cannot be written.
        BadData: the input cannot be read.
    """
    reporter = reporter or Reporter()
    if out is not None:
        writing.check_table(out, found.files, force)
    check_kind(seeds, found)
    survey = look(seeds, found)
    for line in survey.lines(seeds, found):
        reporter.say(line)
    rows, scoring = _Rows(seeds, survey.labelled > 0), Scoring(seeds.first.kind, seeds.first.classes)
    if out is None:
        write = writing.lines(sys.stdout, rows.columns)
        for some in _some(found):
            for entry, row in zip(some, seeds.rows([entry.example for entry in some]).tolist(), strict=True):
                write(rows.row(entry, row, scoring))
            sys.stdout.flush()
        return _outcome(survey, scoring)
    facts = about(seeds, found, what="table")
    with Part(out, facts, seeds.width) as part:
        fill(part, seeds, (entry.example for entry in found), survey.entries, reporter.say)
        with writing.table(out, rows.columns) as write:
            first = 0
            for some in _some(found):
                for entry, row in zip(some, part.read(first, len(some)).tolist(), strict=True):
                    write(rows.row(entry, row, scoring))
                first += len(some)
    return _outcome(survey, scoring)


def check_kind(seeds: Seeds, found: Input) -> None:
    """Refuse what a model was not trained for.

    Raises:
        UserError: variants for a model of windows, windows for one of variants, or other columns of an alignment than it had.
    """
    run, path = seeds.first.run, found.paths[0]
    if seeds.first.windows_per_example == 2 and found.kind != VARIANTS:
        raise UserError(f"{path}: {run.name} was trained on variants ({run.label}), and these are {found.kind}; give a VCF")
    if seeds.first.windows_per_example == 1 and found.kind == VARIANTS:
        raise UserError(f"{path}: variants, but {run.name} was trained on windows ({run.label}); give sequences or intervals")
    species, here = seeds.first.kept.species, found.pairs.species if found.pairs else ()
    if species and found.kind != VARIANTS:
        raise UserError(
            f"{path}: {run.name} was trained on columns of an alignment ({run.label}), which {found.kind} alone do not have"
        )
    if species != here:
        raise UserError(
            f"{path}: {run.name} was trained on {f'{len(species)} species of an alignment' if species else 'no alignment'}, and "
            f"{len(here)} are given{' or in another order' * (len(species) == len(here))}; see --msa and --species"
        )


def reference_of(seeds: Seeds, genome: Path | None = None, alignment: Path | None = None, species: str = "") -> Reference:
    """What windows of variants are cut of: the run's own genome and alignment, where no others are given, at its own context."""
    own = seeds.first.run.reference or {}
    return Reference(
        genome or _path(own.get("genome")),
        alignment or _path(own.get("alignment")),
        species or own.get("species", ""),
        context=seeds.first.kept.lengths[1],
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def columns_of(seeds: Seeds, path: Path, sequence_column: str, label_columns: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The columns of a table to read: those named, else where present those of the run's own files, or called like its labels."""
    reading = seeds.first.run.reading or {}
    asked, labels = reading.get("sequence_column", ""), list(reading.get("label_columns", ()))
    labels = labels or (list(seeds.first.classes) if seeds.first.kind == MULTILABEL else [])
    if bed.is_bed(path) or is_vcf(path) or not path.is_file() or (not readers.is_parquet(path) and readers.is_fasta(path)):
        return sequence_column, label_columns
    table = Table(path, EXPECTED)

    def there(name: str) -> bool:
        return not name.isdecimal() and table.optional_column([name]) is not None

    if not sequence_column and asked and there(asked):
        sequence_column = asked
    if not label_columns and labels and all(map(there, labels)):
        label_columns = labels
    return sequence_column, label_columns


# --- the first reading --------------------------------------------------------------------------------------------------


@dataclass
class Survey:
    """What an input is like: how many entries it has, how many of them labelled, and how many shorter or longer than those that
    the model was trained on."""

    entries: int = 0
    labelled: int = 0
    shorter: int = 0
    longer: int = 0

    def lines(self, seeds: Seeds, found: Input) -> list[str]:
        """Sentences for the user."""
        low, high = seeds.first.kept.lengths
        trained = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        labelled = f", {self.labelled:,} with a label" if self.labelled else ""
        lines = [f"{self.entries:,} {found.kind} of {' and '.join(map(str, found.paths))}{labelled}"]
        for count, word in ((self.shorter, "shorter"), (self.longer, "longer")):
            if count:
                lines.append(f"  {count:,} are {word} than the windows of training ({trained} nt)")
        changed = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in found.changes.items() if count)
        return [*lines, *([f"  counted: {changed}"] if changed else []), *(f"  {note}" for note in found.notes)]


def look(seeds: Seeds, entries: Iterable[Entry]) -> Survey:
    """Read an input to its end, and check that the model takes all of it.

    Raises:
        UserError: a window is longer than the model takes, or it refuses the shortest or the longest one.
        BadData: the input cannot be read.
    """
    first, survey, adapter = seeds.first, Survey(), seeds.first.adapter
    low, high = first.kept.lengths
    limit, too_long = adapter.max_length, 0
    shortest: tuple[int, str, Window] | None = None
    longest: tuple[int, str, Window] | None = None
    over: tuple[int, str] | None = None
    for entry in entries:
        survey.entries += 1
        survey.labelled += entry.label is not None
        window = max(entry.windows, key=len)
        size = len(window)
        survey.shorter += size < low
        survey.longer += size > high
        if limit is not None and size > limit:
            too_long, over = too_long + 1, over or (size, entry.where)
        elif shortest is None or size < shortest[0]:
            shortest = (size, entry.where, window)
        if longest is None or size > longest[0]:
            longest = (size, entry.where, window)
    if over is not None:
        others = f" ({too_long:,} of {survey.entries:,} are longer)" if too_long > 1 else ""
        taken = f"{over[0]:,} nt, but {first.run.name} takes at most {limit:,}{others}"
        raise UserError(f"{over[1]}: {taken}; cut it, or slide along it with --scan")
    for extreme in (shortest, longest):
        if extreme is not None:
            try:
                adapter.collate([extreme[2]])
            except HarnessError as error:
                raise UserError(f"{extreme[1]}: {error}") from None
    return survey


# --- rows ---------------------------------------------------------------------------------------------------------------


class _Rows:
    """The columns of the table, and the row of an entry and its answer."""

    def __init__(self, seeds: Seeds, labelled: bool) -> None:
        self.seeds, self.labelled, first = seeds, labelled, seeds.first
        self.classes, self.kind = first.classes, first.kind
        names = [PREDICTION] if self.kind == REGRESSION else [PROBABILITY + name for name in self.classes]
        spread = [SPREAD + (PREDICTION if self.kind == REGRESSION else name) for name in self.classes]
        numbers = [*names, *(spread if len(seeds.runs) > 1 else [])]
        self.columns: list[tuple[str, type]] = [("id", str)]
        if labelled:
            self.columns.append(("labels" if self.kind == MULTILABEL else "label", str))
        self.columns += [(name, float) for name in numbers]
        if self.kind != REGRESSION:
            self.columns.append((PREDICTION, str))

    def row(self, entry: Entry, answer: Sequence[float], scoring: Scoring) -> list[Any]:
        outputs = answer[1 : 1 + len(self.classes)]
        row: list[Any] = [entry.id]
        if self.labelled:
            row.append(";".join(entry.label) if isinstance(entry.label, tuple) else entry.label)
        if entry.label is not None:
            scoring.add(entry.label, outputs)
        row += answer[1:]
        if self.kind != REGRESSION:
            row.append(predicted(self.kind, self.classes, outputs))
        return row


def _some(found: Input) -> Iterator[list[Entry]]:
    """Entries in the chunks in which they are asked about."""
    waiting: list[Entry] = []

    def examples() -> Iterator[Example]:
        for entry in found:
            waiting.append(entry)
            yield entry.example

    for chunk in chunks(examples()):
        yield waiting[: len(chunk)]
        del waiting[: len(chunk)]


def _outcome(survey: Survey, scoring: Scoring) -> Outcome:
    notes = []
    if scoring.as_bits:
        notes.append(f"labels 0 and 1 are read as {scoring.classes[0]!r} and {scoring.classes[1]!r}")
    if strange := scoring.strange:
        words = ", ".join(repr(word[:40]) for word, _ in strange.most_common(3))
        wanted = "no numbers" if scoring.kind == REGRESSION else f"none of the run's ({', '.join(scoring.classes)[:100]})"
        notes.append(f"{strange.total():,} labels, such as {words}, are {wanted}; not scored")
    return Outcome(survey.entries, scoring.count, scoring.scores(), notes)
