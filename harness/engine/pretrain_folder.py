"""The folder that pretraining writes, and reads again to resume a run.

It holds ``model.safetensors``, the weights that ``harness run --checkpoint FOLDER`` fine-tunes; ``pretrain.json``, the record
of settings, data, environment and scores; ``config.json`` and the like, where the model needs them; ``loss.csv`` and
``loss.png``, the learning curve; and, until the last step, ``state.pt``, from which the run is resumed exactly.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from harness.adapter import Adapter
from harness.errors import BadData, UserError
from harness.files.atomic import atomic, check_writable

try:
    import fcntl
except ImportError:  # Windows has no flock: there, do not pretrain in one folder twice at the same time
    fcntl = None

LOCK = ".lock"
RECORD, STATE, WEIGHTS, CURVE, PICTURE = "pretrain.json", "state.pt", "model.safetensors", "loss.csv", "loss.png"
SCORES: Sequence[str] = ("validation_loss", "validation_accuracy", "yardstick_loss", "yardstick_accuracy")
COLUMNS: Sequence[str] = ("step", "train_loss", "learning_rate", "seconds", "wait_seconds", *SCORES)  # of the curve


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While it lasts, no other process pretrains in the folder, which is created; the lock ends with the process.

    Raises:
        UserError: another one does, or the folder cannot be written.
    """
    check_writable(folder, "out")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("wb") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"out {folder}: another process is pretraining there; choose another --out, or wait") from None
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def read_record(folder: Path, settings: Mapping[str, Any], force: bool) -> dict[str, Any] | None:
    """The record of an earlier run with the same settings; None if there is none, or none worth resuming.

    Raises:
        UserError: the folder holds a run with other settings, or something else.
        BadData: the record is damaged.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if force or record["step"] == 0:  # before its first save there is nothing to lose
            return None
        there, timing = record["settings"], record["timing"]
        if "reading_seconds" in timing:  # as earlier versions say
            timing["wait"] = timing.pop("reading_seconds")
    except (FileNotFoundError, NotADirectoryError):
        if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
            raise UserError(f"out {folder}: holds files but no {RECORD}; choose an empty folder with --out") from None
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if force:
            return None
        raise BadData(f"{path}: not a readable record ({error}); choose another --out, or --force to start over") from None
    old, new = _flat(there), _flat(settings)
    if different := [name for name in {**old, **new} if old.get(name) != new.get(name)]:
        shown = [f"{name} {str(old.get(name))[:40]} there, {str(new.get(name))[:40]} here" for name in different]
        raise UserError(f"out {folder}: holds another run ({', '.join(shown)}); choose another --out, or --force to start over")
    return record


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which each option of a model or an objective is a setting of its own."""
    flat = dict[str, Any]()
    for name, value in settings.items():
        flat |= {f"{name} {inner}": item for inner, item in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def read_state(folder: Path, device: torch.device) -> dict[str, Any]:
    """The state that :func:`save` stored, its tensors on ``device``.

    Raises:
        BadData: the file is missing or damaged.
    """
    path = folder / STATE
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        for row in state["history"]:
            if "reading_seconds" in row:  # as earlier versions say
                row["wait_seconds"] = row.pop("reading_seconds")
        return state
    except Exception as error:  # torch, zipfile and pickle each raise their own kinds for a damaged file
        raise BadData(f"{path}: cannot be resumed from ({str(error).splitlines()[0]}); --force starts over") from None


def prepare(folder: Path, resuming: bool) -> None:
    """Delete what killed writes left behind and, unless ``resuming``, the files of an earlier run."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
    if not resuming:
        for name in (STATE, WEIGHTS, CURVE, PICTURE, *_of_model(folder)):
            (folder / name).unlink(missing_ok=True)


def _of_model(folder: Path) -> list[str]:
    """The files that an earlier run wrote because its model needs them: another model would take them for its own."""
    try:
        return [Path(name).name for name in json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``pretrain.json``."""
    with atomic(folder / RECORD) as path:
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")


def save(
    folder: Path,
    record: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    adapter: Adapter,
    state: Mapping[str, Any] | None,
) -> None:
    """Bring every file of the folder up to date; ``state`` is None after the last step. The record is written last."""
    from safetensors.torch import save as to_bytes

    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    weights = adapter.checkpoint_tensors()  # type: ignore[operator]
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    if state is not None:
        with atomic(folder / STATE) as path:
            torch.save(state, path)
    with atomic(folder / WEIGHTS) as path:
        path.write_bytes(to_bytes(tensors))
    for name, text in adapter.checkpoint_files().items():  # type: ignore[operator]
        with atomic(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    with atomic(folder / CURVE) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
    with atomic(folder / PICTURE) as path:
        plot(path, {record["settings"]["model"]: history})
    write_record(folder, record)
    if state is None:
        (folder / STATE).unlink(missing_ok=True)


def plot(path: Path, histories: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Draw loss and accuracy against the step as a PNG, one colour per history.

    Lines are training, dots validation, and the dashed lines are the yardstick.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5))
    losses, accuracies = figure.subplots(1, 2)
    for number, (name, history) in enumerate(histories.items()):
        colour, judged = f"C{number}", [row for row in history if "validation_loss" in row]
        steps = [row["step"] for row in judged]
        losses.plot([row["step"] for row in history], [row["train_loss"] for row in history], colour, alpha=0.5)
        losses.plot(steps, [row["validation_loss"] for row in judged], f"{colour}o-", markersize=3, label=name)
        accuracies.plot(steps, [row["validation_accuracy"] for row in judged], f"{colour}o-", markersize=3, label=name)
        if judged:
            losses.axhline(judged[-1]["yardstick_loss"], color="grey", linestyle="--")
            accuracies.axhline(judged[-1]["yardstick_accuracy"], color="grey", linestyle="--")
    losses.set(xlabel="step", ylabel="cross-entropy of what is asked (nats)")
    accuracies.set(xlabel="step", ylabel="accuracy on held-out windows")
    losses.legend()
    figure.tight_layout()
    figure.savefig(path, format="png", dpi=120)
