"""What a run reads, for a machine that shares no disk with the one where it was planned.

Public files and official weights are fetched there, into its own data and weights folders. The user's own files travel as bytes
where they are small; large ones have to lie at the same path there. A run's id does not depend on paths, and its execution
compares all content with what was planned.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import registry
from harness.errors import UserError
from harness.files import hub, sources
from harness.files.code import code_modules
from harness.task import Source

from .asked import VARIANTS
from .plan import Run, task_of

MAX_SHIPPED = 100 << 20  # bytes of a run's own files that travel with it
_PATHS = ("model", "task", "checkpoint", "options", "reference")  # the fields of a run that hold paths


@dataclass
class Parcel:
    """A run for another machine, as JSON values but for the bytes of its files.

    ``sources`` are public files (see :class:`harness.task.Source`), ``placed`` maps paths of the run to the one of ``sources``
    that lies there; ``data`` are other files, relative to the data folder; ``weights`` is the official weights' folder, relative
    to the weights folder. ``shipped`` are the user's own files that travel, ``expected`` those that are too large.
    """

    run: dict[str, Any]
    sources: list[dict[str, Any]] = field(default_factory=list)
    placed: dict[str, int] = field(default_factory=dict)
    data: list[str] = field(default_factory=list)
    weights: str | None = None
    shipped: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)


def pack(run: Run) -> Parcel:
    """What has to be done for a run before another machine can execute it."""
    parcel, task = Parcel(run.to_json()), task_of(run)
    scores = registry.model_facts(run.model).card.scores
    known = {str(sources.locate(source)): source for source in (*task.sources, *task.references, *sources.REFERENCES.values())}
    roots = dict.fromkeys(_paths(run))
    inputs = [str(path.absolute()) for path in (task.inputs() if task.inputs else [])]
    inputs += [str(sources.locate(source)) for source in task.sources if task.inputs is None and not run.sample]
    inputs += [str(sources.locate(sources.REFERENCES[scores]))] if scores else []
    own: list[tuple[int, str, list[str]]] = []
    for path in dict.fromkeys([*roots, *inputs]):
        if not os.path.exists(path) or (path not in roots and any(_below(path, root) for root in roots)):
            continue
        if path in known:
            parcel.placed[path] = len(parcel.sources)
            parcel.sources.append(asdict(known[path]))
        elif path == run.checkpoint and _below(path, str(hub.weights_home().absolute())):
            parcel.weights = os.path.relpath(path, hub.weights_home())
        elif _below(path, str(sources.data_home().absolute())):
            parcel.data.append(os.path.relpath(path, sources.data_home()))
        elif path not in roots or (path == run.model and len(_modules_beside(path)) > 1):
            parcel.expected.append(path)  # whoever opens it finds it at this path alone
        else:
            files = [str(file) for file in _files(Path(path), path == run.checkpoint)]
            own.append((sum(os.path.getsize(file) for file in files), path, files))
    room = MAX_SHIPPED
    for size, path, files in sorted(own):
        room -= size
        if room >= 0:
            parcel.shipped += files
        else:
            parcel.expected.append(path)
    return parcel


def unpack(parcel: Parcel, contents: Sequence[bytes], root: Path) -> Run:
    """The run, to be executed on this machine; its files are fetched, or put below ``root`` with the paths that they had.

    Raises:
        UserError: a file that should lie here does not.
        DownloadFailed: a public file cannot be fetched.
    """
    moved: dict[str, str] = {}
    for number, content in enumerate(parcel.sources):
        path = str(sources.fetch(Source(**content)))
        moved |= {old: path for old, place in parcel.placed.items() if place == number}
    for path in [*(str(sources.data_home() / path) for path in parcel.data), *parcel.expected]:
        if not os.path.exists(path):
            raise UserError(
                f"{path}: is not on {socket.gethostname()}, and not fetched or sent there; copy it there, to the same path"
            )
    for path, content in zip(parcel.shipped, contents, strict=True):
        file = root / os.path.relpath(path, os.path.sep)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    run = Run.from_json(parcel.run)
    if parcel.weights is not None:
        name, revision, *rest = Path(parcel.weights).parts
        facts = registry.model_facts(run.model)
        folder = hub.fetch(facts.name, facts.card, name.replace("--", "/"), None if revision == "main" else revision)
        moved[str(run.checkpoint)] = str(folder.joinpath(*rest))
    for path in _paths(run):
        new = root / os.path.relpath(path, os.path.sep)
        if new.exists():
            moved.setdefault(path, str(new))
    changed = {name: _replaced(getattr(run, name), moved) for name in _PATHS}
    return Run.from_json(run.to_json() | changed)


def _paths(run: Run) -> Iterator[str]:
    """The absolute paths in a run's fields."""
    for name in _PATHS:
        for text in _texts(getattr(run, name)):
            path = text.removeprefix(VARIANTS)
            if os.path.isabs(path):
                yield path


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _replaced(value: Any, moved: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        prefix = VARIANTS if value.startswith(VARIANTS) else ""
        path = value.removeprefix(prefix)
        return prefix + moved.get(path, path)
    if isinstance(value, Mapping):
        return {key: _replaced(item, moved) for key, item in value.items()}
    return [_replaced(item, moved) for item in value] if isinstance(value, list) else value


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.path.sep) + os.path.sep)


def _files(path: Path, weights: bool) -> list[Path]:
    """The files of a folder, or a file; with ``weights``, what lies beside it and may be read with it, too."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if not weights:
        return [path]
    parts = path.name.endswith(".index.json")  # the weights themselves lie beside it
    beside = (file for file in path.parent.iterdir() if file.is_file() and (parts or file.suffix in (".json", ".txt", ".model")))
    return sorted({path, *beside})


def _modules_beside(model: str) -> list[str]:
    """The modules of a model that is a file: its own and what it imports from beside it."""
    return [name for name in code_modules(Path(model)) if not name.startswith("harness.")]
