"""One record, held against its predictions: whatever follows from them is computed again and compared with what it says."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import BadData, HarnessError
from harness.files.fingerprint import plain
from harness.files.sources import sha256
from harness.recipe import TRAINED
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION

from . import schema
from .classification import SUM_TOLERANCE
from .folders import PREDICTIONS, RECORD, id_of
from .predictions import Predictions, read_predictions
from .records import RunRecord, content_digest, folder_name, read

# Other processors and versions of NumPy, SciPy and scikit-learn round otherwise, in the last digits of a sum.
TOLERANCE = 1e-9  # relative
NEARLY_ZERO = 1e-12
OTHER_FILE = "it is not the file that was written with the record: its sha256 is another one"
LARGEST_STRENGTH = "is the largest tried"  # words of an event of a probe


@dataclass
class Examined:
    """What came of one record. All of it can be sent between processes.

    ``problems`` are (file name, sentence). ``exact`` and ``close`` count the numbers that agree to the last bit, and within
    TOLERANCE only. ``not_stated`` counts what an older version's record lacks, ``uncompared`` what cannot be computed again.
    ``ids`` and ``labels`` are digests of the predictions' columns, ``predictions`` is that of the file.
    """

    folder: Path
    record: RunRecord | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)
    exact: int = 0
    close: int = 0
    not_stated: int = 0
    uncompared: int = 0
    sealed: bool = False
    ids: str = ""
    labels: str = ""
    predictions: str = ""

    def problem(self, what: str, file: str = RECORD) -> None:
        """Note that something is wrong."""
        self.problems.append((file, what))

    def compare(self, what: str, stated: Any, found: Any, partly: bool = False) -> None:
        """Compare a JSON value with what was computed again; ``partly``: what an older version did not state is let pass."""
        if isinstance(found, Mapping):
            stated = stated if isinstance(stated, Mapping) else {}
            for name in dict.fromkeys([*stated, *found]):
                if name in stated and name in found:
                    self.compare(f"{what}.{name}", stated[name], found[name], partly)
                elif name in stated:
                    self.problem(f"{what}.{name} is stated as {schema.shortened(stated[name])}, and does not follow")
                elif partly:
                    self.not_stated += 1
                else:
                    self.problem(f"{what}.{name} is not stated, recomputed {schema.shortened(found[name])}")
        elif isinstance(found, list) and isinstance(stated, list) and len(found) == len(stated):
            for end, one, other in zip(("low", "high"), stated, found):
                self.compare(f"{what} ({end})", one, other)
        elif stated == found:
            self.exact += 1
        elif _close(stated, found):
            self.close += 1
        else:
            self.problem(f"{what} is stated as {schema.shortened(stated)}, recomputed {schema.shortened(found)}")


def examine(folder: Path) -> Examined:
    """The record of a run's folder, held against its own place, its checksums and its predictions."""
    done = Examined(folder)
    try:
        record = done.record = read(folder)
        content = schema.parse((folder / RECORD).read_text(encoding="utf-8"), upgrade=False)
    except BadData as error:
        done.problem(str(error).removeprefix(f"{folder / RECORD}: "))
        return done
    _place(done, record)
    _checksums(done, record, content)
    _history(done, record, content["schema"] == schema.SCHEMA)
    there = (folder / PREDICTIONS).exists()
    if not record.finished:
        if there:
            done.problem("a failed run has predictions", PREDICTIONS)
        if stated := [name for name in ("metrics", "intervals", "leakage", "groups", "alignment") if getattr(record, name)]:
            done.problem(f"a failed run states {', '.join(stated)}")
        return done
    if not there:
        done.problem("a finished run without predictions: its scores cannot be computed again", PREDICTIONS)
        return done
    try:
        predictions = read_predictions(folder)
    except BadData as error:
        done.problem(str(error).removeprefix(f"{folder / PREDICTIONS}: "), PREDICTIONS)
        return done
    done.ids, done.labels = _digest(predictions.ids), _digest(predictions.labels.tolist())
    if _fits(done, record, predictions):
        _scores(done, record, predictions, content)
    return done


def _place(done: Examined, record: RunRecord) -> None:
    run, model, task = id_of(done.folder), done.folder.parent.name, done.folder.parent.parent.name
    for what, found, name in (
        ("task", task, folder_name(record.task_label)),
        ("model", model, folder_name(record.model["name"])),
        ("run", run, record.run_id),
    ):
        if found != name:
            done.problem(f"it does not belong here: its {what}'s folder would be {name}, not {found}")
    if not record.run_id.startswith(f"seed{record.seed}-"):
        done.problem(f"seed is {record.seed}, but the run id {record.run_id} is another seed's")


def _checksums(done: Examined, record: RunRecord, content: Mapping[str, Any]) -> None:
    path = done.folder / PREDICTIONS
    done.predictions = sha256(path) if path.is_file() else ""
    stated = content.get("checksums")
    if not stated:
        return
    done.sealed = True
    if stated.get("record") != content_digest(dict(content)):
        done.problem("it was edited after it was written: its checksum is that of another content")
    if record.finished and done.predictions and stated.get("predictions") != done.predictions:
        done.problem(OTHER_FILE, PREDICTIONS)
    for name in stated.keys() - {"record", "predictions"}:
        kept = done.folder / Path(name).name
        if kept.is_file() and sha256(kept) != stated[name]:  # who needs the room may delete weights
            done.problem(OTHER_FILE, name)


# --- what belongs together -----------------------------------------------------------------------------------------------


def _fits(done: Examined, record: RunRecord, predictions: Predictions) -> bool:
    """Whether predictions are such that scores can be computed, and those of the record's task."""
    before = len(done.problems)
    classes, kind = record.task["classes"], record.kind
    if predictions.kind != kind:
        done.problem(f"these are predictions of a {predictions.kind}, but the record's task is a {kind}", PREDICTIONS)
    elif kind != REGRESSION and list(predictions.classes) != classes:
        done.problem(f"classes {list(predictions.classes)} are not the record's, {classes}", PREDICTIONS)
    if not predictions.ids:
        done.problem("it has no examples", PREDICTIONS)
    if repeated := [name for name, count in Counter(predictions.ids).items() if count > 1]:
        done.problem(f"id {schema.shortened(repeated[0])} is there more than once (of {len(repeated)} such ids)", PREDICTIONS)
    for what in _odd_values(predictions):
        done.problem(what, PREDICTIONS)
    fits = len(done.problems) == before
    counts = record.task.get("counts", {}).get("test")
    if counts is None:
        done.not_stated += 1
    elif fits:
        done.compare("task.counts.test", counts, _counts(predictions, record))
    audited, columns = bool(record.leakage), bool(predictions.leaks)
    if audited != columns:
        has, lacks = ("the record", PREDICTIONS) if audited else (PREDICTIONS, "the record")
        done.problem(f"{has} says which test examples leak, {lacks} does not")
    return fits


def _odd_values(predictions: Predictions) -> Iterator[str]:
    """Outputs and labels that are none, by the first example that has them."""
    import numpy as np

    outputs, kind = predictions.outputs, predictions.kind
    rows = outputs.reshape(len(outputs), -1)
    checks = [("an output that is no finite number", ~np.isfinite(rows).all(axis=1))]
    if kind == REGRESSION:
        checks.append(("a label that is no finite number", ~np.isfinite(predictions.labels)))
    else:
        checks.append(("a probability below 0 or above 1", ((rows < 0) | (rows > 1 + SUM_TOLERANCE)).any(axis=1)))
    if kind == CLASSIFICATION:
        checks.append(("probabilities that do not sum to 1", abs(rows.sum(axis=1) - 1) > SUM_TOLERANCE))
    for what, marked in checks:
        if marked.any():
            first, count = schema.shortened(predictions.ids[int(marked.argmax())]), int(marked.sum())
            yield f"1 example has {what}: {first}" if count == 1 else f"{count} examples have {what}, the first is {first}"
            return


def _counts(predictions: Predictions, record: RunRecord) -> dict[str, int]:
    names, labels = record.task["classes"], predictions.labels
    if predictions.kind == REGRESSION:
        return {names[0]: len(labels)}
    if predictions.kind == MULTILABEL:
        return dict(zip(names, labels.sum(axis=0).tolist()))
    return {name: int((labels == number).sum()) for number, name in enumerate(names)}


def _digest(values: Sequence[Any]) -> str:
    return hashlib.sha256(repr(values).encode(errors="surrogatepass")).hexdigest()


# --- scores --------------------------------------------------------------------------------------------------------------


def _scores(done: Examined, record: RunRecord, predictions: Predictions, content: Mapping[str, Any]) -> None:
    import sklearn

    from .groups import judged_groups
    from .metrics import collapsed, left_out, limits, scores

    outputs, labels, kind = predictions.outputs, predictions.labels, predictions.kind
    older = content["schema"] != schema.SCHEMA
    try:
        # Checks of arguments take a third of the time, and change no number.
        with sklearn.config_context(skip_parameter_validation=True), warnings.catch_warnings(action="ignore"):
            done.compare("metrics", record.metrics, plain(scores(outputs, labels, kind)), older)
            found, without = limits(outputs, labels, predictions.blocks, kind)
            if content["schema"] == 1:  # of a percentile bootstrap, which is no longer computed
                done.uncompared += len(content.get("intervals", {}))
            else:
                done.compare("intervals", record.intervals, plain(found), older)
            if "without_interval" in content or not older:
                done.compare("without_interval", record.without_interval, plain(without), older)
            if "collapsed" in content or not older:
                done.compare("collapsed", record.collapsed, collapsed(outputs, labels, kind))
            if record.leakage and predictions.leaks:
                _leakage(done, record, predictions)
            if record.groups or predictions.groups:
                done.compare("groups", record.groups, plain(judged_groups(predictions)))
            if record.alignment:
                _alignment(done, record, predictions, older)
    except (HarnessError, ValueError) as error:
        done.problem(f"no scores can be computed ({error})", PREDICTIONS)
        return
    for sentence in left_out(labels, predictions.classes, kind):
        if sentence not in record.events and not older:
            done.problem(f"events lack what the scores leave out: {sentence}")


def _leakage(done: Examined, record: RunRecord, predictions: Predictions) -> None:
    from .leakage import judged

    counted = Counter(leak for leak, _ in predictions.leaks)
    done.compare("leakage.counts", record.leakage.get("counts"), {name: counted[name] for name in schema.LEAKS})
    found = judged(predictions, {"leaks": predictions.leaks})
    done.compare("leakage.subsets", record.leakage.get("subsets"), plain(found["subsets"]))
    counts = record.task.get("counts", {})
    for name, part in (("validation", "validation"), ("test_in_validation", "test")):
        if record.kind != MULTILABEL and name in record.leakage and part in counts:
            total, examples = sum(record.leakage[name].values()), sum(counts[part].values())
            if total != examples:
                done.problem(f"leakage.{name} is of {total} examples, but {part} has {examples}")


def _alignment(done: Examined, record: RunRecord, predictions: Predictions, older: bool) -> None:
    """What the alignment's effect is compared with; the predictions without it are not kept."""
    import numpy as np

    from .metrics import scores
    from .sensitivity import COMPARED, MAX_EXAMPLES

    number = len(predictions.ids)
    chosen = np.linspace(0, number - 1, min(number, MAX_EXAMPLES)).round().astype(int)
    found = scores(predictions.outputs[chosen], predictions.labels[chosen], record.kind)
    done.compare("alignment.examples", record.alignment.get("examples"), len(chosen))
    stated = record.alignment.get("intact")
    done.compare("alignment.intact", stated, plain({name: found[name] for name in COMPARED[record.kind]}), older)
    done.uncompared += sum(len(record.alignment[name]) for name in ("blanked", "shuffled"))


# --- history -------------------------------------------------------------------------------------------------------------


def _history(done: Examined, record: RunRecord, present: bool) -> None:
    """A history that training cannot have left, or that the events contradict; of ``present`` records, or that they lack."""
    history, recipe = record.history, record.recipe
    if recipe["tune"] in TRAINED:
        epochs = [entry.get("epoch") for entry in history]
        if epochs != list(range(1, len(history) + 1)):
            done.problem(f"history has epochs {schema.shortened(epochs)}: expected 1, 2, … without a gap")
        elif record.finished and not history:
            done.problem("history is empty, but the run finished and trains by epochs")
        elif len(history) > recipe.get("epochs", math.inf):
            done.problem(f"history has {len(history)} epochs, more than the recipe's {recipe['epochs']}")
    elif recipe["tune"] == "probe" and record.finished and history:
        losses = [next((value for name, value in it.items() if name.startswith("validation_")), None) for it in history]
        said = any(LARGEST_STRENGTH in event for event in record.events)
        known = [loss for loss in losses if isinstance(loss, schema.NUMBER)]
        if len(known) == len(losses) and (said or present) and said != (min(known) == losses[-1]):
            word = "say" if said else "do not say"
            done.problem(f"events {word} that the best strength is the largest tried, which history contradicts")


def _close(one: Any, other: Any) -> bool:
    if not isinstance(one, schema.NUMBER) or not isinstance(other, schema.NUMBER) or bool in (type(one), type(other)):
        return False
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=NEARLY_ZERO)
