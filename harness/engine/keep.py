"""What a run trained, kept in its folder: run.json says how to build the model again, model.safetensors holds its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness.errors import BadData, CheckpointMismatch, DataMissing, UserError
from harness.files.fingerprint import digest, file_digest
from harness.recipe import TRAINED as BY_GRADIENT
from harness.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from harness.adapter import Adapter

    from .build import ModelRequest
    from .classifier import Classifier, ZeroShot

PLAN, WEIGHTS = "run.json", "model.safetensors"
FORMAT = 1  # of run.json
SMALL = 32 << 20  # bytes of weights that are kept unasked
ALL, TRAINED, NOTHING = "all", "trained", "nothing"


@dataclass(frozen=True)
class Kept:
    """The model of a run, as its folder keeps it: how it was built, for which task, and which of its weights are there.

    ``run`` is the run as JSON (see :class:`harness.study.plan.Run`), ``recipe`` its whole settings. ``windows`` counts those of
    an example, ``lengths`` is the shortest and the longest of the training split in nucleotides, ``species`` names the rows of
    its alignments. ``code`` is the sha256 of the engine's and the model's code. ``kept`` is ``all`` weights, those that were
    ``trained``, or ``nothing``.
    """

    run: dict[str, Any]
    recipe: dict[str, Any]
    task: str
    kind: str
    classes: tuple[str, ...]
    windows: int
    lengths: tuple[int, int]
    species: tuple[str, ...]
    code: str
    kept: str
    version: str = harness.__version__

    def request(self, checkpoint: str | None = None) -> ModelRequest:
        """What the model was built from; ``checkpoint`` is another place of the weights that it started from."""
        from .build import ModelRequest

        names = ("model", "size", "options", "allow_partial")
        return ModelRequest(checkpoint=checkpoint or self.run["checkpoint"], **{name: self.run[name] for name in names})

    def fingerprint(self, folder: Path) -> str:
        """sha256 of all that makes the trained model: what it was built from, and what was trained."""
        return digest([self.run["name"], self.run["origin"], self.run["seed"], file_digest(folder / WEIGHTS)])


def is_kept(folder: Path) -> bool:
    """Whether a folder is that of a run which tells how its model is built."""
    return (folder / PLAN).is_file()


def run_of(checkpoint: Path) -> Path:
    """The run's folder that a checkpoint is, whose weights it is, or the only one in it; else the checkpoint itself.

    Raises:
        DataMissing: there are several in it.
    """
    if checkpoint.name == WEIGHTS and is_kept(checkpoint.parent):
        return checkpoint.parent
    runs = [] if is_kept(checkpoint) else sorted(path.parent for path in checkpoint.glob(f"*/{PLAN}"))
    if len(runs) > 1:
        names = ", ".join(run.name for run in runs[:4]) + (", …" if len(runs) > 4 else "")
        raise DataMissing(f"checkpoint {checkpoint}: holds {len(runs)} runs ({names}); give the folder of one")
    return runs[0] if runs else checkpoint


def has_weights(folder: Path) -> bool:
    """Whether a run's folder holds what was trained."""
    try:
        return read(folder).kept != NOTHING and (folder / WEIGHTS).is_file()
    except (BadData, DataMissing):
        return False


def check(folder: Path, model: str, options: Mapping[str, Any]) -> None:
    """Refuse a run's folder as the checkpoint of a model.

    Raises:
        CheckpointMismatch: it is another model's.
        UserError: ``options`` are given, but the run's own hold.
        DataMissing: it kept no weights.
    """
    kept = read(folder)
    if kept.run["name"].partition(":")[0] != model:  # of a generic adapter, what follows names the weights
        raise CheckpointMismatch(f"checkpoint {folder}: is a run of {kept.run['name']}, not of {model}")
    if options:
        raise UserError(f"option {next(iter(options))!r}: the run in {folder} has options of its own; leave it out")
    if not has_weights(folder):
        raise DataMissing(f"checkpoint {folder}: the run's weights were not kept; run it again with --keep")


def write(classifier: Classifier | ZeroShot, about: Kept, folder: Path, everything: bool) -> Kept:
    """Keep a classifier in a folder: heads and low-rank additions always, whole models up to SMALL bytes or if ``everything``.

    Of a model that began with random weights, all count as trained, because there is no other copy of them. ``about.kept`` is
    replaced by what was kept.
    """
    from safetensors.torch import save_file

    tensors, kept = _chosen(classifier, Recipe(**about.recipe), everything)
    about = replace(about, kept=kept)
    _write_plan(about, folder)
    if kept != NOTHING:
        # Copies, because safetensors refuses tensors that share memory, as tied weights do.
        save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
        shutil.copymode(folder / PLAN, folder / WEIGHTS)  # safetensors lets nobody else read it
    return about


def _write_plan(about: Kept, folder: Path) -> None:
    text = json.dumps({"format": FORMAT, **asdict(about)}, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / PLAN).write_text(text + "\n", encoding="utf-8")


def moved(folder: Path, run: dict[str, Any]) -> None:
    """Give what was kept on another machine the paths that its run has on this one."""
    _write_plan(replace(read(folder), run=run), folder)


def _chosen(classifier: Classifier | ZeroShot, recipe: Recipe, everything: bool) -> tuple[dict[str, Tensor], str]:
    state = classifier.state_dict()
    audit, small = classifier.adapter.audit, size(state) <= SMALL
    drawn = audit is None or bool(audit.missing)
    if recipe.tune == "full" and not (small or everything):
        return {}, NOTHING
    if recipe.tune == "full" or (drawn and small and recipe.tune != "zero"):
        return state, ALL
    trained = _trained(classifier, recipe)
    return {name: state[name] for name in trained}, TRAINED


def _trained(classifier: Classifier | ZeroShot, recipe: Recipe) -> list[str]:
    """The names in the classifier's state of what such a recipe trains, heads and what is learned of the labels included.

    They are found by the memory that state and parameters share: a model may call its parameters otherwise in its state.
    """
    of_adapter = classifier.adapter.parameters() if recipe.tune in BY_GRADIENT else ()
    memory = {item.untyped_storage().data_ptr() for item in of_adapter if item.requires_grad}
    state = classifier.state_dict()
    own = {name for name in state if not name.startswith("adapter.")}
    shared = {name for name, tensor in state.items() if tensor.untyped_storage().data_ptr() in memory} - own
    assert {state[name].untyped_storage().data_ptr() for name in shared} >= memory, "a trained weight is not in the state"
    return sorted(own | shared)


def size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of these tensors."""
    return sum(tensor.nbytes for tensor in tensors.values())


def read(folder: Path) -> Kept:
    """What a run's folder says of its model.

    Raises:
        DataMissing: it is not the folder of a run, or of one that kept nothing of its model.
        BadData: it was written by another version, or is damaged.
    """
    path = folder / PLAN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (found := content.pop("format")) != FORMAT:
            what = f"has format {str(found)[:20]!r}, and this version reads {FORMAT}"
            raise BadData(f"{path}: {what}; use the version that wrote it")
        for name in ("classes", "lengths", "species"):
            content[name] = tuple(content[name])
        kept = Kept(**content)
        Recipe(**kept.recipe)
        kept.request()
        shortest, longest = kept.lengths
        if not 0 < shortest <= longest or kept.kept not in (ALL, TRAINED, NOTHING):
            raise ValueError(f"lengths {kept.lengths}, kept {kept.kept!r}")
        return kept
    except FileNotFoundError:
        what = f"has no {PLAN}: not the folder of a run, or of one before models were kept"
        raise DataMissing(f"run {folder}: {what if folder.is_dir() else 'no such folder'}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, UserError) as error:
        if isinstance(error, BadData):
            raise
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
        raise BadData(f"{path}: cannot be read ({reason}); run again, or use the version that wrote it") from None


def build(folder: Path, checkpoint: str | None = None) -> tuple[Kept, Classifier | ZeroShot]:
    """The classifier that a run trained, on the CPU and in evaluation mode; see :meth:`Kept.request` for ``checkpoint``.

    Raises:
        DataMissing: the weights were not kept, or those that the run started from are not here.
        CheckpointMismatch: these are others, or what was kept does not fit them.
    """
    kept = read(folder)
    return kept, _filled(folder, kept, _model(folder, kept, checkpoint))


def _model(folder: Path, kept: Kept, checkpoint: str | None) -> Adapter:
    """The model as it was before the run. Random weights that were not kept are drawn as the run did."""
    import torch

    request = kept.request(checkpoint)
    if request.checkpoint is not None and not Path(request.checkpoint).exists():
        raise DataMissing(
            f"run {folder}: was trained from {request.checkpoint}, which is not here; give its place with --checkpoint"
        )
    if request.fingerprint() != kept.run["weights"]:
        raise CheckpointMismatch(f"run {folder}: was not trained from {request.checkpoint}, whose content is another one")
    if kept.kept == NOTHING:
        raise DataMissing(f"run {folder}: its weights were not kept, because there are too many; run again with --keep")
    with torch.random.fork_rng():
        torch.manual_seed(kept.run["seed"])
        return request.build()


def _filled(folder: Path, kept: Kept, adapter: Adapter) -> Classifier | ZeroShot:
    from .classifier import Classifier, ZeroShot

    recipe, path = Recipe(**kept.recipe), folder / WEIGHTS
    if recipe.tune == "zero":
        return ZeroShot(adapter).eval()
    classifier = Classifier(adapter, len(kept.classes), recipe, kept.windows, kept.kind)
    tensors, state = _tensors(path), classifier.state_dict()
    odd = [name for name, tensor in tensors.items() if name not in state or state[name].shape != tensor.shape]
    missing = [name for name in (state if kept.kept == ALL else _trained(classifier, recipe)) if name not in tensors]
    if odd or missing:
        what = f"{len(odd)} of its tensors do not fit, {len(missing)} are missing, such as {(odd or missing)[0]}"
        raise CheckpointMismatch(f"{path}: is not what this run trained ({what}); run again")
    classifier.load_state_dict(tensors, strict=False)
    return classifier.eval()


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise DataMissing(f"{path}: no such file; it was deleted since the run") from None
    except (OSError, SafetensorError) as error:
        raise BadData(f"{path}: cannot be read as weights ({str(error)[:100]}); run again") from None


def backbone(folder: Path) -> Adapter:
    """The model that a run trained, without its head; low-rank additions are added to the weights for good.

    Its audit counts all tensors as matched, from the run's own file. Raises as :func:`build`.
    """
    from harness.adapter import LoadAudit

    kept = read(folder)
    adapter = _model(folder, kept, None)
    before, trainable = adapter.audit, {name for name, item in adapter.named_parameters() if item.requires_grad}
    _filled(folder, kept, adapter)
    note = f"trained before, by {kept.run['name']} on {kept.task}, seed {kept.run['seed']}"
    if merged := _merge_lora(adapter):
        note += f"; {merged} LoRA layers merged"
    for name, parameter in adapter.named_parameters():
        parameter.requires_grad_(name in trainable)
    count = len(adapter.state_dict())
    adapter.audit = LoadAudit(
        str(folder / WEIGHTS),
        file_digest(folder / WEIGHTS),
        expected=count,
        matched=count,
        facts=before.facts if before else {},
        warnings=(*(before.warnings if before else ()), note),
    )
    return adapter


def _merge_lora(adapter: Adapter) -> int:
    """Replace every layer with low-rank additions by a plain one that computes the same; how many there were."""
    from peft.tuners.lora import LoraLayer

    layers: list[tuple[str, Any]] = [(name, layer) for name, layer in adapter.named_modules() if isinstance(layer, LoraLayer)]
    for name, layer in layers:
        parent, _, own = name.rpartition(".")
        layer.merge()
        setattr(adapter.get_submodule(parent), own, layer.get_base_layer())
    return len(layers)


def head_of(folder: Path) -> dict[str, Tensor]:
    """The tensors of the head that a run trained, named as in :class:`.classifier.Classifier`, with those of its kind.

    Raises:
        DataMissing: there are none, or they were not kept.
    """
    tensors = _tensors(folder / WEIGHTS) if has_weights(folder) else {}
    head = {name: tensor for name, tensor in tensors.items() if not name.startswith("adapter.")}
    if not head:
        raise DataMissing(f"run {folder}: has no head, or its weights were not kept; run again with --keep")
    return head
