"""Songlab's zarr stores: one array (length, rows) of single letters for each chromosome, column 0 the target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness.data import bare
from harness.errors import BadData, HarnessError

from ..text import optional
from .columns import Alignment, clean

_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


def open_zarr(path: Path) -> Alignment:
    """A zarr store, a folder or a zip; the species of its rows are empty strings, because it does not name them.

    Raises:
        BadData: it is damaged, its arrays have another shape, or two of them are of one chromosome. A chunk that is missing
            is told when its columns are read.
        UserError: the package zarr is not installed.
    """
    zarr = optional("zarr", "a zarr store")

    class Complete(zarr.storage.WrapperStore):
        """A store that refuses a chunk that is not there, which zarr reads as its fill value, so as gaps."""

        async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
            found = await super().get(key, *arguments, **options)
            if found is None and key.rpartition("/")[2] not in _METADATA:
                raise BadData(f"{path}: lacks the chunk {key!r}, whose columns are unknown; download or copy the store again")
            return found

    with _faults(path, "not a readable zarr store"):
        store = zarr.storage.LocalStore(path, read_only=True) if path.is_dir() else zarr.storage.ZipStore(path, mode="r")
        # The metadata of each array itself: what is consolidated may be out of date.
        group = zarr.open_group(Complete(store), mode="r", use_consolidated=False)
        found = sorted(group.arrays())
    arrays = {}
    for name, array in found:
        if bare(name) in arrays:
            raise BadData(f"{path}: chromosome {bare(name)!r} is there twice, with and without 'chr'; rename or remove one")
        arrays[bare(name)] = array
    widths = {array.shape[-1] if array.ndim == 2 else 0 for array in arrays.values()}
    if len(widths) != 1 or 0 in widths or any(str(array.dtype) not in ("|S1", "uint8") for array in arrays.values()):
        raise BadData(f"{path}: expected one array (length, rows) of single letters for each chromosome, all with the same rows")

    def read(chromosome: str, start: int, end: int) -> np.ndarray:
        with _faults(path, f"chromosome {chromosome} is damaged"):
            letters = np.ascontiguousarray(arrays[chromosome][start:end]).view(np.uint8)
            if letters.shape != (end - start, len(species)):
                raise ValueError(f"columns of shape {letters.shape}")
        return clean(letters, f"{path}, chromosome {chromosome}")

    extents = {name: (0, array.shape[0]) for name, array in arrays.items()}
    species = ("target", *[""] * (widths.pop() - 1))
    return Alignment(path, species, extents, read)


@contextmanager
def _faults(path: Path, what: str) -> Iterator[None]:
    """Report whatever zarr and its codecs raise within the block; they have no exceptions in common."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise BadData(f"{path}: {what} ({reason[:200]}); download it again") from None
