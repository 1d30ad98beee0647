"""load_run(): the model that a run trained, with its head, ready to be asked about new sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.engine import hardware, keep
from harness.engine.keep import Kept
from harness.errors import BadData, DataMissing, UserError
from harness.evidence import records
from harness.evidence.folders import run_folders
from harness.study.plan import Run, model_code

if TYPE_CHECKING:
    from accelerate import Accelerator

    from harness.adapter import Adapter
    from harness.data import Example, Window
    from harness.engine.classifier import Classifier, ZeroShot
    from harness.evidence.records import RunRecord


@dataclass
class Trained:
    """A run's model, as :func:`load_run` gives it: in evaluation mode, on a device.

    ``kept`` says for which task it was trained. ``notes`` are sentences for the user.
    """

    folder: Path
    run: Run
    kept: Kept
    record: RunRecord
    classifier: Classifier | ZeroShot
    accelerator: Accelerator
    notes: list[str] = field(default_factory=list)

    @property
    def adapter(self) -> Adapter:
        """The model without its head."""
        return self.classifier.adapter

    @property
    def classes(self) -> tuple[str, ...]:
        """The task's classes, its labels, or the one name of what is measured."""
        return self.kept.classes

    @property
    def kind(self) -> str:
        """The task's kind, one of :data:`harness.task.KINDS`."""
        return self.kept.kind

    @property
    def windows_per_example(self) -> int:
        """1, or 2 of a variant task: reference and alternate."""
        return self.kept.windows

    def outputs(self, examples: Sequence[Example], batch_size: int | None = None) -> np.ndarray:
        """Class probabilities (N, K) as float64, in the order of ``examples``, whose labels are not read.

        Of a regression they are numbers (N, 1) in the task's unit, of a multi-label task the labels' probabilities. Computed
        as the run computed its test split.

        Raises:
            UserError: a window is longer than the model takes.
        """
        from harness.engine.predict import PREDICT_BATCH, predict

        if not len(examples):
            return np.empty((0, len(self.classes)))
        size = PREDICT_BATCH if batch_size is None else batch_size
        return predict(self.classifier, examples, self.accelerator, precision=self.run.precision, batch_size=size)

    def predict(self, sequences: Sequence[str | Window | tuple[str | Window, ...]], batch_size: int | None = None) -> np.ndarray:
        """:meth:`outputs` of sequences in any usual spelling, or of windows; of a variant task, of pairs of these.

        Raises:
            BadData: a sequence is empty or has letters that are no nucleotide codes.
            UserError: one is longer than the model takes, no pair where pairs are needed, or a sequence alone, not in a list.
        """
        from harness.data import Window

        if isinstance(sequences, str | Window):
            raise UserError("sequences: one alone; give a list of them")
        return self.outputs([self.example(item, str(number)) for number, item in enumerate(sequences)], batch_size)

    def embed(self, sequences: Sequence[str | Window], *, per_base: bool = False, layer: int | None = None) -> Any:
        """What the trained model makes of sequences, without its head; see :func:`harness.inference.embed.embed`."""
        from .embed import embed

        return embed(self.adapter, sequences, per_base=per_base, layer=layer)

    def example(self, item: str | Window | tuple[str | Window, ...], name: str) -> Example:
        """A sequence, or a pair of them, as an example without a label."""
        from harness.data import Example

        from .inputs import as_window

        windows = tuple(as_window(one, f"sequence {name}") for one in (item if isinstance(item, tuple) else (item,)))
        if len(windows) != self.windows_per_example:
            wanted = "pairs of sequences, reference and alternate" if self.windows_per_example == 2 else "single sequences"
            raise UserError(
                f"sequence {name}: {self.run.name} was trained on {wanted}; give {'' if len(windows) == 1 else 'no '}pairs"
            )
        self.check(windows, name)
        return Example(name, windows, 0)

    def check(self, windows: Sequence[Window], name: str) -> None:
        """Refuse windows that are longer than the model takes.

        Raises:
            UserError: one is; the message has the model's own remedy.
        """
        limit = self.adapter.max_length
        for window in windows:
            if limit is not None and len(window) > limit:
                raise UserError(
                    f"sequence {name}: {len(window):,} nt, but {self.run.name} takes at most {limit:,}; cut it, or use --scan"
                )


def load_run(folder: str | Path, *, checkpoint: str | Path | None = None, device: str = "auto") -> Trained:
    """The model that a run trained, from the run's folder. ``checkpoint`` is another place of the weights that it started from.

    Computes in the run's precision; ``device`` may be another one than the run's.

    Raises:
        DataMissing: no run, one that kept no weights, or the weights that it started from are not here.
        BadData: the folder was written by another version, or is damaged.
        CheckpointMismatch: the weights are others than those that the run had.
    """
    folder = Path(folder)
    kept = keep.read(folder)
    try:
        run = Run.from_json(kept.run)
    except UserError as error:
        raise BadData(f"{folder / keep.PLAN}: {error}") from None
    record = records.read(folder)
    if (record.task_label, record.model["name"], record.seed) != (run.label, run.name, run.seed):
        raise BadData(f"{folder}: {keep.PLAN} is of another run than the record; delete the folder and run again")
    kept, classifier = keep.build(folder, None if checkpoint is None else str(checkpoint))
    accelerator, here = hardware.accelerator(device), hardware.pick_device(device)
    trained = Trained(folder, run, kept, record, classifier.to(accelerator.device), accelerator)
    if here.type != run.device:
        trained.notes.append(f"trained on {run.device}, asked on {here.type}: probabilities may differ in their last digits")
    if kept.request(None if checkpoint is None else str(checkpoint)).identity() != run.origin:
        trained.notes.append(f"files that {run.name} reads, such as scores, have changed since the run: its answers may, too")
    if kept.code != model_code(run.model):
        trained.notes.append(f"the code of {run.name} or of the engine has changed since the run: its answers may have, too")
    return trained


def run_folders_of(path: str | Path) -> list[Path]:
    """The folders of runs that a path names: that of one run, or of a model (``results/QKI/cnn``), whose runs differ in the seed.

    Raises:
        DataMissing: neither.
        UserError: the model's runs differ in more than the seed.
    """
    path = Path(path)
    if keep.is_kept(path) or not path.is_dir():
        return [path]
    folders = [folder for folder in run_folders(path) if keep.is_kept(folder)]
    if not folders:
        raise DataMissing(f"run {path}: not the folder of a run, nor of a model with runs whose model was kept")
    settings = {folder: _but_seed(keep.read(folder)) for folder in folders}
    if len({str(content) for content in settings.values()}) > 1:
        names = ", ".join(folder.name for folder in folders[:4])
        raise UserError(f"run {path}: its runs ({names}) differ in more than the seed; name one of them, or several of one kind")
    return folders


def _but_seed(kept: Kept) -> dict[str, Any]:
    apart = ("seed", "keep", "checkpoint", "device")
    run = {name: value for name, value in kept.run.items() if name not in apart}
    return {"run": run, "recipe": kept.recipe, "classes": kept.classes}
