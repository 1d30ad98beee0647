"""Embeddings kept on disk under a name made from their content, so that they are never computed twice.

A file that is damaged is made again, and where none can be written the cache is done without.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from harness import registry
from harness.data import Example
from harness.files.atomic import atomic
from harness.files.code import code_digest
from harness.files.fingerprint import digest
from harness.files.sources import cache_home

if TYPE_CHECKING:
    from harness.adapter import Adapter

    from .build import ModelRequest

# What embeddings depend on, besides the model's own code.
CODE = ("bases.py", "batches.py", "build.py", "classifier.py", "keep.py", "predict.py")
NOWHERE = -1
_DIGEST = hashlib.sha256().digest_size
_BLOCK = 1 << 24  # bytes that are read at once


class EmbeddingCache:
    """A folder of arrays. ``key`` identifies everything besides the windows that determines an embedding.

    That is: weights, options, code, device and precision. Each list of examples has a file of its embeddings, and one that says
    which examples these are. Files end with the sha256 of the rest. Concurrent runs may share the folder: a file appears whole,
    and two runs that compute the same array write the same bytes.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._arrays: dict[int, np.ndarray | None] = {}
        self.folder = cache_home() / "embeddings" / hashlib.sha256(key.encode()).hexdigest()[:32]

    @classmethod
    def of(cls, request: ModelRequest, adapter: Adapter, seed: int, device: str, precision: str, *more: object) -> Self:
        """The cache of a model that ``request`` built on a type of device; ``more`` is what else its numbers depend on.

        The seed counts if weights are random. Tasks and recipes do not count: whoever asks shares the same files.
        """
        drawn = adapter.audit is None or bool(adapter.audit.missing)
        engine = code_digest(*(Path(__file__).with_name(file) for file in CODE), follow=False)
        code = [engine, code_digest(registry.model_file(request.model))]
        name = registry.model_facts(request.model).name
        return cls(digest([name, request.identity(), seed if drawn else None, device, precision, code, *more]))

    def get(self, examples: Sequence[Example], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Embeddings (examples, D) of these examples in this order; ``compute`` is called only if they are not stored yet."""
        embeddings = _read(self._path(examples))
        if embeddings is not None and len(embeddings) == len(examples):
            return embeddings
        embeddings = compute()
        self._keep(examples, embeddings)
        return embeddings

    def gather(self, examples: Sequence[Example], compute: Callable[[Sequence[Example]], np.ndarray]) -> np.ndarray:
        """As :meth:`get`, from whatever lists the examples are stored in; ``compute`` gets those that are in none, in order.

        Rounding depends a little on what an example shared its batches with, so that a probe, whose numbers are recorded, uses
        :meth:`get`.
        """
        stored = _read(self._path(examples))
        if stored is not None and len(stored) == len(examples):
            return stored
        known, files, rows = self._known
        wanted = np.array([_identity(example) for example in examples], known.dtype)
        at = known.searchsorted(wanted).clip(max=len(known) - 1)
        source = np.where(known[at] == wanted, files[at], NOWHERE)
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        for number in sorted(set(source.tolist()) - {NOWHERE}):
            array, mine = self._array(number), np.flatnonzero(source == number)
            if array is None:
                source[mine] = NOWHERE
            else:
                parts.append((mine, array[rows[at[mine]]]))
        missing = np.flatnonzero(source == NOWHERE)
        if len(missing):
            rest = [examples[index] for index in missing.tolist()]
            parts.append((missing, compute(rest)))
            self._keep(rest, parts[-1][1])
        result = np.empty((len(examples), parts[0][1].shape[1]), np.float32)
        for mine, part in parts:
            result[mine] = part
        return result

    @cached_property
    def _known(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each stored example its identity, in order, the number of its file, and its row there; also an entry for none."""
        identities = [np.zeros(1, "S16"), *(listed for _, listed in self._lists)]
        lengths = [len(listed) for listed in identities]
        known = np.concatenate(identities)
        files = np.repeat(np.arange(NOWHERE, len(lengths) + NOWHERE), lengths)
        rows = np.concatenate([np.arange(length) for length in lengths])
        order = known.argsort(kind="stable")
        return known[order], files[order], rows[order]

    @cached_property
    def _lists(self) -> list[tuple[Path, np.ndarray]]:
        """The files that there are, and whose embeddings they hold."""
        found = ((path.with_suffix(".npy"), _read(path)) for path in sorted(self.folder.glob("*.rows")))
        return [(path, listed) for path, listed in found if listed is not None]

    def _array(self, number: int) -> np.ndarray | None:
        """A list's embeddings, not in memory; None where the file is damaged."""
        if number not in self._arrays:
            path, _ = self._lists[number]
            self._arrays[number] = np.load(path, mmap_mode="r", allow_pickle=False) if _intact(path) else None
        return self._arrays[number]

    def _path(self, examples: Sequence[Example]) -> Path:
        name = hashlib.sha256(self.key.encode())
        for example in examples:
            name.update(_identity(example))
        return self.folder / f"{name.hexdigest()}.npy"

    def _keep(self, examples: Sequence[Example], embeddings: np.ndarray) -> None:
        path = self._path(examples)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(path, embeddings)
            _write(path.with_suffix(".rows"), np.array([_identity(example) for example in examples], "S16"))
        except OSError as error:
            warnings.warn(  # shown once a process
                f"{self.folder.parent} cannot be written ({error.strerror or error}): embeddings are not kept",
                RuntimeWarning,
                stacklevel=3,
            )


def _identity(example: Example) -> bytes:
    """16 bytes of the sha256 of an example's windows."""
    found = hashlib.sha256()
    for window in example.windows:
        found.update(window.sequence.encode() + b"\n")
        if window.alignment is not None:
            found.update(window.alignment.tobytes())
    return found.digest()[:16]


def _intact(path: Path) -> bool:
    """Whether a file is there as :func:`_write` wrote it; read in blocks."""
    try:
        with path.open("rb") as file:
            left, found = path.stat().st_size - _DIGEST, hashlib.sha256()
            while left > 0 and (block := file.read(min(left, _BLOCK))):
                found.update(block)
                left -= len(block)
            return left == 0 and file.read() == found.digest()
    except OSError:
        return False


def _read(path: Path) -> np.ndarray | None:
    """The array that :func:`_write` wrote; None if there is none, or not as it was written."""
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return None
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    return np.load(io.BytesIO(body), allow_pickle=False) if hashlib.sha256(body).digest() == digest else None


def _write(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.write(hashlib.sha256(buffer.getbuffer()).digest())
