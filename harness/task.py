"""A task is a value: what is asked, which classes there are, where the data comes from, how it is split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.data import Example

# What is asked about each window: which one of the classes it belongs to, a number, or which of several labels it has.
CLASSIFICATION, REGRESSION, MULTILABEL = KINDS = ("classification", "regression", "multilabel")
MAIN_METRIC = {CLASSIFICATION: "accuracy", REGRESSION: "spearman", MULTILABEL: "auroc"}  # where a task does not say another
PART_NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Source:
    """A public file. ``path`` is where it lies below the data folder; ``size`` is in bytes.

    ``sha256`` is empty where the publisher moves the file; each record then has the one of the file that was read.
    """

    url: str
    sha256: str
    path: str
    size: int | None = None


@dataclass(frozen=True)
class Splits:
    """A task's examples and what is known about them.

    ``files`` maps each file that was read to its sha256 (a simulated set names its generator and parameters, with the
    sha256 of what was drawn); ``changes`` counts the letters that normalisation changed, and repeated windows in a
    user's own files; ``best_accuracy`` is the expected accuracy of the Bayes rule on ``test``, known only where the
    project itself drew the data. ``block`` maps an example's id to its block: examples of one
    block depend on each other, and intervals go by blocks. None where examples are independent. ``notes`` are
    sentences about how the files were read (the labels' grammar, columns that are not used), to be shown with the counts.
    ``species`` names the rows of the windows' alignments after the target, in order; empty without alignments. ``groups`` maps
    what the files say of examples (``consequence``, ``gene``) to words by the example's id; scores are broken down by them.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    files: Mapping[str, str]
    changes: Mapping[str, int] = field(default_factory=dict)
    best_accuracy: float | None = None
    block: Callable[[str], str] | None = None
    notes: Sequence[str] = ()
    species: tuple[str, ...] = ()
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Sequence[Example]]:
        """Each of PART_NAMES → its examples."""
        return dict(zip(PART_NAMES, (self.train, self.validation, self.test), strict=True))


@dataclass(frozen=True)
class Reference:
    """The reference data that a run brings for tasks that are made of loci.

    ``species`` selects the alignment's rows (see :func:`harness.files.alignments.open_alignment`); ``context`` is the window's
    length in nucleotides. ``source`` says where the letters come from, for tasks that can be read from several places: one of
    the names that the task gives, or a folder. ``negatives`` is one of the task's ``negatives_from``; empty for its own choice.
    """

    genome: Path | None = None
    alignment: Path | None = None
    species: str = ""
    context: int = 128
    source: str = ""
    negatives: str = ""


@dataclass(frozen=True)
class Reading:
    """How the user's own files are to be read, where they don't say so themselves.

    ``parts`` names the part of the split that each file holds (``train``, ``validation`` or ``test``); empty where no file is
    one part. ``sequence_column`` and ``label_columns`` are names of columns, or numbers from 1 where a table has no header;
    several label columns make a multi-label task. ``positive`` is the class that counts as positive. ``kind`` is one of KINDS.
    What is empty is found out from the files.
    """

    parts: tuple[str, ...] = ()
    sequence_column: str = ""
    label_columns: tuple[str, ...] = ()
    positive: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Task:
    """One question put to every model.

    ``name`` is what the command line and `harness data get` call it; :attr:`label` is what tables show. ``kind`` is one of
    KINDS. ``classes`` is ordered, so a label is an index that never depends on a folder listing; of a multi-label task they are
    its labels, of a regression the one name of what is measured. ``load`` takes the name of a split rule, one of
    ``split_rules`` (the first is the default); the runner never re-splits. ``simulated``: the project drew the data itself.
    ``sample`` is the simulated stand-in that is used, and shown as such, while ``sources`` are not on this machine.
    ``context`` is the length in nucleotides of windows that are cut out of a genome for this task, None where they come as
    they are. ``bind``, of tasks that read a genome or an alignment, gives the task with that reference data; unbound, they
    use their defaults. ``inputs`` lists the files that ``load`` reads: while they do not change, what it gives does not
    either; None where that is not known. ``readable_from`` names the places that its letters can be read from, the default
    first (see :attr:`Reference.source`); empty where there is only one. ``references`` are large public files, such as genomes,
    that ``load`` reads besides ``sources`` and that are fetched only when asked for. ``hub`` is the Hugging Face data set with
    ready sequences, of tasks that are readable from there. ``negatives`` says which examples the negative class was taken from,
    where that is a choice (``common`` or ``benign`` variants), and ``negatives_from`` what can be chosen.
    """

    name: str
    family: str
    summary: str
    classes: tuple[str, ...]
    load: Callable[[str], Splits]
    split_rules: tuple[str, ...]
    sources: tuple[Source, ...] = ()
    sample: Task | None = None
    simulated: bool = False
    context: int | None = None
    assembly: str | None = None
    main_metric: str = "accuracy"
    licence: str = "not stated"
    citation: str = ""
    bind: Callable[[Reference], Task] | None = None
    inputs: Callable[[], Sequence[Path]] | None = None
    kind: str = CLASSIFICATION
    readable_from: tuple[str, ...] = ()
    references: tuple[Source, ...] = ()
    hub: str = ""
    negatives: str = ""
    negatives_from: tuple[str, ...] = ()

    @property
    def positive(self) -> str | None:
        """The class that f1, precision, recall, AUROC and AUPRC are about; None if there are not exactly two classes."""
        return self.classes[1] if self.kind == CLASSIFICATION and len(self.classes) == 2 else None

    @property
    def label(self) -> str:
        """The name with what sets this form of the task apart: ``QKI (sample)``, ``clinvar[common]@512``."""
        return task_label(self.name, self.context, self.simulated, self.negatives)


def task_label(name: str, context: int | None, simulated: bool, negatives: str = "") -> str:
    """What tables and folders call a task.

    Its name, its choice of negatives in brackets, ``@`` a context other than the default one, and ``(sample)`` if simulated.
    """
    size = f"@{context}" if context not in (None, Reference.context) else ""
    return name + (f"[{negatives}]" if negatives else "") + size + (" (sample)" if simulated else "")
