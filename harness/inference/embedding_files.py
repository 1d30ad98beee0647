"""Files of embeddings: parquet and zarr, written as they come, and npz, which numpy reads without anything else."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UserError
from harness.files.atomic import atomic, check_writable

ABOUT = "harness"  # what the metadata are called in each format
ROWS = 1 << 20  # numbers in a chunk of a zarr array
PACKAGES = {".parquet": "pyarrow", ".npz": "", ".zarr": "zarr"}


class EmbeddingFile(ABC):
    """A file under way, which :func:`embedding_file` opens. ``bytes`` are those of the numbers so far.

    Pooled, each example has one row of numbers; ``per_base``, a row for each base.
    """

    def __init__(self, temporary: Path, about: str, per_base: bool, stack: ExitStack) -> None:
        self.temporary, self.about, self.per_base, self.stack = temporary, about, per_base, stack
        self.bytes = 0

    whole_or_not = staticmethod(atomic)

    def add(self, ids: Sequence[str], numbers: np.ndarray | Sequence[np.ndarray]) -> None:
        """Append examples: an array float32 (N, D), or with ``per_base`` one (length, D) for each."""
        self.bytes += sum(part.nbytes for part in numbers)
        with _writing(self.temporary):
            self.append(list(ids), numbers)

    @abstractmethod
    def append(self, ids: list[str], numbers: Any) -> None:
        """As :meth:`add`."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is left."""


class Parquet(EmbeddingFile):
    """Columns ``id`` and ``embedding``, a list of D float32, or per base a list of such lists; JSON in the schema's metadata."""

    writer: Any = None

    def append(self, ids: list[str], numbers: Any) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        flat = np.concatenate(numbers) if self.per_base else numbers
        column: Any = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
        if self.per_base:
            column = pa.ListArray.from_arrays(pa.array(_ends(numbers), pa.int32()), column)
        table = pa.table({"id": pa.array(ids, pa.string()), "embedding": column})
        table = table.replace_schema_metadata({ABOUT: self.about})
        if self.writer is None:
            self.writer = self.stack.enter_context(parquet.ParquetWriter(self.temporary, table.schema))
        self.writer.write_table(table)

    def finish(self) -> None:
        self.writer.close()


class Npz(EmbeddingFile):
    """Arrays ``ids`` (N,) and ``embeddings`` (N, D), or per base (bases, D) and ``offsets`` (N + 1,); JSON in ``harness``."""

    def __init__(self, temporary: Path, about: str, per_base: bool, stack: ExitStack) -> None:
        super().__init__(temporary, about, per_base, stack)
        self.ids, self.parts = list[str](), list[np.ndarray]()

    def append(self, ids: list[str], numbers: Any) -> None:
        self.ids += ids
        self.parts += list(numbers) if self.per_base else [numbers]

    def finish(self) -> None:
        arrays: dict[str, Any] = {"ids": np.array(self.ids), "embeddings": np.concatenate(self.parts)}
        arrays[ABOUT] = np.array(self.about)
        if self.per_base:
            arrays["offsets"] = _ends(self.parts)
        with self.temporary.open("wb") as file:
            np.savez(file, **arrays)


class Zarr(EmbeddingFile):
    """A group of the arrays of :class:`Npz`, in chunks; the metadata are its attributes."""

    group: Any = None

    @staticmethod
    @contextmanager
    def whole_or_not(path: Path) -> Iterator[Path]:
        """As :func:`atomic`, of a folder."""
        temporary, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{end}") for end in ("tmp", "old"))
        try:
            yield temporary
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
        finally:
            for left in (temporary, old):
                left.unlink(missing_ok=True) if left.is_file() else shutil.rmtree(left, ignore_errors=True)

    def append(self, ids: list[str], numbers: Any) -> None:
        import zarr

        flat = np.concatenate(numbers) if self.per_base else numbers
        if self.group is None:
            self.group = zarr.open_group(self.temporary, mode="w", zarr_format=2)
            self.group.attrs[ABOUT] = json.loads(self.about)
            shape, rows = (0, flat.shape[1]), max(ROWS // flat.shape[1], 1)
            self.group.create_array("embeddings", shape=shape, chunks=(rows, shape[1]), dtype="float32")
            self.group.create_array("ids", shape=(0,), chunks=(1 << 14,), dtype=str)
            if self.per_base:
                self.group.create_array("offsets", shape=(1,), chunks=(1 << 14,), dtype="int64")
        if self.per_base:
            offsets = self.group["offsets"]
            offsets.append(offsets[-1] + _ends(numbers)[1:])
        self.group["embeddings"].append(flat)
        self.group["ids"].append(np.array(ids, object))

    def finish(self) -> None:
        import zarr

        zarr.consolidate_metadata(self.group.store)


FORMATS: dict[str, type[EmbeddingFile]] = {".parquet": Parquet, ".npz": Npz, ".zarr": Zarr}


@contextmanager
def embedding_file(path: Path, about: Mapping[str, Any], per_base: bool) -> Iterator[EmbeddingFile]:
    """A file of the format that its name ends with; it appears whole when the block ends without an error, or not at all.

    ``about`` are its metadata, JSON values.
    """
    kind = FORMATS[path.suffix]
    with kind.whole_or_not(path) as temporary, ExitStack() as stack:
        file = kind(temporary, json.dumps(about, ensure_ascii=False), per_base, stack)
        yield file
        with _writing(path):
            file.finish()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(f"out {path.parent}: cannot be written ({reason}); nothing was kept, choose another place") from None


def check_out(out: Path, force: bool) -> None:
    """Refuse, before anything is computed, a file that could not be written.

    Raises:
        UserError: another ending, a package that is missing, a file that is there already, or a folder that is not.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"out {out}: expected a name that ends with {', '.join(FORMATS)}")
    package = PACKAGES[out.suffix]
    if package and find_spec(package) is None:
        raise UserError(f"out {out}: {package} is not installed; pip install 'gfm-harness[variants]', or write .npz")
    if out.exists() and not force:
        raise UserError(f"out {out}: exists; choose another name, or --force to replace it")
    if not out.parent.is_dir():
        raise UserError(f"out {out}: there is no folder {out.parent}; create it first")
    check_writable(out.parent, "out")


def _ends(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Where each part begins among all rows, and the end of the last: int64 (N + 1,)."""
    return np.cumsum([0, *(len(part) for part in parts)])
