"""explain(): which letters a trained model's answers rest on, as arrays, a table, logos and motifs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import BadData, UserError
from harness.evidence.attribution import METRIC, mean_and_interval, read_attribution, write_attribution
from harness.evidence.records import data_digest, folder_name
from harness.files.atomic import check_writable
from harness.files.motif_files import read_motifs
from harness.progress import Reporter
from harness.task import CLASSIFICATION, MULTILABEL, Splits, Task

from .attribution import Attribution, Score, explaining, mutagenesis
from .explanation import FACTS, Explained, Named, write
from .inputs import Input
from .motifs import aggregate, compare, seqlets
from .planted import aurocs, train_control
from .trained import Trained

MUTAGENESIS, GRADIENTS = METHODS = ("mutagenesis", "gradients")
WINDOWS, LOGOS = 100, 10  # by default
SAY_EVERY = 15  # seconds
PACKAGES = {MUTAGENESIS: "tangermeme.saturation_mutagenesis", GRADIENTS: "captum.attr"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is to be explained, and how.

    ``of_class`` is the class or label whose log-odds are explained; by default the second of two, else the last. ``windows``
    are explained, evenly spaced (0: all); or, with ``top``, as many with the highest score. ``logos`` is the number of logos.
    ``motifs`` is a file of known motifs; ``both_strands``: compare with their reverse complements, too. ``control``: train the
    run once more on shuffled labels.
    """

    method: str = MUTAGENESIS
    of_class: str = ""
    windows: int = WINDOWS
    top: int = 0
    logos: int = LOGOS
    motifs: Path | None = None
    both_strands: bool = True
    control: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"method {self.method!r}: choose one of {', '.join(METHODS)}")


def explain(
    trained: Trained,
    source: Input | None,
    out: Path | None,
    settings: Settings,
    *,
    force: bool = False,
    opened: tuple[Task, Splits] | None = None,
    reporter: Reporter | None = None,
) -> tuple[Explained, Path]:
    """Explain a run's answers to the windows of ``source``, by default of its own test split, and write a folder of files.

    ``out`` is by default ``explained/<task>/<model>/<run id>``. What it holds is written whole or not at all; ``force`` replaces
    an earlier explanation. For its test split, windows of the class that is explained are taken. Of a simulated sample, they are
    those with planted letters, and attribution_auroc (see :mod:`.planted`) is written beside the run's record, unless another
    class, method or choice of windows is asked for than usual. ``opened`` are the run's task and examples, if at hand.

    Raises:
        UserError: the run is on variants, a package is not installed, nothing is left to explain, or ``out`` exists.
        BadData: the motifs or the input cannot be read, or the data changed since the run.
    """
    reporter = reporter or Reporter()
    out = out or Path("explained", folder_name(trained.run.label), folder_name(trained.run.name), trained.folder.name)
    _check(trained, source, out, settings, force)
    known = read_motifs(settings.motifs) if settings.motifs is not None else []
    score = Score(trained.kind, index_of(trained, settings.of_class))
    if source is None:
        opened = opened or _opened(trained)
        windows = _of_test_split(trained, opened[1], score)
    else:
        windows = [Named(entry.id, entry.windows[0]) for entry in source]
        for note in source.notes:
            reporter.say(note)
        if changed := ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in source.changes.items() if count):
            reporter.say(f"counted: {changed}")
    for one in windows:
        trained.check((one.window,), one.id)
    chosen = choose(trained, windows, score, settings)
    what = {CLASSIFICATION: "class", MULTILABEL: "label"}.get(trained.kind, "number")
    reporter.say(
        f"explains the {what} {trained.classes[score.index]!r} by {settings.method}: {len(chosen):,} of {len(windows):,} windows"
        + (", those with the highest score" if settings.top else "")
        + (", evenly spaced; --windows 0 explains all" if len(chosen) < len(windows) and not settings.top else "")
    )
    attribute = _attribute(trained, settings.method, score, reporter)
    explained = Explained(trained.classes[score.index], chosen, attribute(trained.classifier, chosen))
    explained.seqlets = seqlets(explained.found)
    explained.motifs = aggregate(explained.found, explained.seqlets)
    explained.matches, notes = compare(explained.motifs, known, settings.both_strands)
    for note in notes:
        reporter.say(note)
    if opened is not None and any(one.planted is not None for one in chosen):
        positions = [one.planted or () for one in chosen]
        explained.metrics = _summary(aurocs(explained.found, positions))
        if settings.control:
            control = train_control(trained, *opened, reporter)
            explained.control = _summary(aurocs(attribute(control, chosen), positions))
    elif settings.control:
        reporter.say("control: only simulated samples know where motifs were planted; left out")
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}
    about = {"run": str(trained.folder), "run_id": trained.record.run_id, "model": trained.run.name, "task": trained.run.label}
    write(explained, out, about | {"settings": asked, "known_motifs": len(known)}, settings.logos)
    if explained.metrics:
        _write_metrics(trained, explained, settings, force, reporter)
    return explained, out


# --- what is explained ---------------------------------------------------------------------------------------------------


def _check(trained: Trained, source: Input | None, out: Path, settings: Settings, force: bool) -> None:
    run = trained.run
    if trained.windows_per_example != 1:
        raise UserError(
            f"run {trained.folder}: {run.name} was trained on pairs of windows ({run.label}), reference and alternate; "
            "a letter belongs to both, so explain a run on single windows"
        )
    if source is not None and source.kind == "variants":
        raise UserError(f"{source.paths[0]}: variants, but windows are explained; give sequences or intervals")
    if source is not None and trained.kept.species:
        raise UserError(
            f"{source.paths[0]}: {run.name} was trained on columns of an alignment ({run.label}), which {source.kind} alone do "
            "not have; leave the input out to explain the test split"
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not force:
            raise UserError(f"out {out}: exists; choose another folder with --out, or replace it with --force")
        if not (out / FACTS).is_file():
            raise UserError(
                f"out {out}: was not written by harness explain (it has no {FACTS}); choose another folder with --out"
            )
    check_writable(out, "out")
    for module in (PACKAGES[settings.method], "tangermeme.seqlet", "memelite", *(["logomaker"] if settings.logos else [])):
        explaining(module)


def index_of(trained: Trained, of_class: str) -> int:
    """The column of the outputs that is explained.

    Raises:
        UserError: there is no class or label of this name.
    """
    classes = trained.classes
    if not of_class:
        return len(classes) - 1
    if of_class not in classes:
        raise UserError(f"class {of_class!r}: choose one of {', '.join(classes)}")
    return classes.index(of_class)


def _opened(trained: Trained) -> tuple[Task, Splits]:
    """The run's task and examples.

    Raises:
        BadData: they are not those of the run.
    """
    from harness.study.plan import open_task

    task, splits = open_task(trained.run)
    if data_digest(splits.files) != trained.run.data:
        raise BadData(f"{task.label}: its data changed since the run; run it again, or give windows to explain as INPUT")
    return task, splits


def _of_test_split(trained: Trained, splits: Splits, score: Score) -> list[Named]:
    """The test windows that have the class or label, or all of a regression; of a sample, those with planted letters."""
    has: Callable[[Any], bool] = {
        CLASSIFICATION: lambda label: label == score.index,
        MULTILABEL: lambda label: label[score.index] == 1,
    }.get(trained.kind, lambda label: True)
    examples = [example for example in splits.test if has(example.label)]
    if splits.planted is None:
        return [Named(example.id, example.windows[0]) for example in examples]
    named = [Named(example.id, example.windows[0], splits.planted(example.id)) for example in examples]
    return [one for one in named if one.planted]


def choose(trained: Trained, windows: Sequence[Named], score: Score, settings: Settings) -> list[Named]:
    """Those to be explained, in their order; with ``top``, the highest score first.

    Raises:
        UserError: there are none.
    """
    if not windows:
        raise UserError(f"nothing to explain: no window of class {trained.classes[score.index]!r}; choose another with --class")
    if settings.top:
        scores = score.of_outputs(trained.outputs([trained.example(one.window, one.id) for one in windows]))
        return [windows[place] for place in np.argsort(-scores, kind="stable")[: settings.top]]
    count = min(settings.windows or len(windows), len(windows))
    return [windows[place] for place in np.linspace(0, len(windows) - 1, count).round().astype(int)]


def _attribute(trained: Trained, method: str, score: Score, reporter: Reporter) -> Callable[[Any, Sequence[Named]], Attribution]:
    """Attributions of windows by a classifier, which is the trained one or the control."""

    def attribute(classifier: Any, chosen: Sequence[Named]) -> Attribution:
        asked, windows, said = replace(trained, classifier=classifier), [one.window for one in chosen], time.monotonic()

        def step(done: int) -> None:
            nonlocal said
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                reporter.say(f"  explained {done:,} of {len(windows):,} windows")

        if method == MUTAGENESIS:
            return mutagenesis(asked.outputs, windows, score, step)
        from .gradients import gradients

        return gradients(classifier, windows, score, trained.accelerator.device, trained.run.precision, step)

    return attribute


# --- the metric ----------------------------------------------------------------------------------------------------------


def _summary(values: Sequence[float]) -> dict[str, Any]:
    mean, interval = mean_and_interval(values)
    return {METRIC: mean, "interval": interval, "windows": len(values), "values": list(values)}


def _write_metrics(trained: Trained, explained: Explained, settings: Settings, force: bool, reporter: Reporter) -> None:
    """Write attribution.json beside the record, unless the question was another than usual, or it is there already."""
    usual = settings.method == MUTAGENESIS and not settings.top and explained.name == trained.classes[-1]
    if not usual:
        reporter.say(
            f"{METRIC}: not recorded; tables show it by mutagenesis, of the usual class and of evenly spaced windows alone"
        )
        return
    parameters = {
        "method": settings.method,
        "class": explained.name,
        "windows": settings.windows,
        "control": settings.control,
    }
    try:
        earlier = read_attribution(trained.folder, trained.record.run_id)
    except BadData:  # damaged, or of another run
        earlier = {}
    if earlier and earlier["parameters"] != parameters and not force:
        reporter.say(f"{trained.folder}: its attribution.json, of other settings, is kept; --force replaces it")
        return
    control = explained.control and {name: explained.control[name] for name in (METRIC, "interval", "windows")}
    write_attribution(trained.folder, trained.record.run_id, explained.metrics["values"], parameters, control)
