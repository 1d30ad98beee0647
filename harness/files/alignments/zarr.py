"""Songlab's zarr stores: one array (length, rows) of single letters for each chromosome, column 0 the target."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from harness.data import bare
from harness.errors import BadData

from ..text import optional
from .columns import Alignment, clean


def open_zarr(path: Path) -> Alignment:
    """A zarr store, a folder or a zip; the species of its rows are empty strings, because it does not name them.

    Raises:
        BadData: it is damaged, or its arrays have another shape.
        UserError: the package zarr is not installed.
    """
    zarr = optional("zarr", "a zarr store")
    try:
        store = str(path) if path.is_dir() else zarr.storage.ZipStore(path, mode="r")
        group = zarr.open_group(store, mode="r")
        arrays = {bare(name): array for name, array in sorted(group.arrays())}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BadData(f"{path}: not a readable zarr store ({error}); download it again") from None
    widths = {array.shape[-1] for array in arrays.values()}
    if len(widths) != 1 or any(array.ndim != 2 or array.dtype.itemsize != 1 for array in arrays.values()):
        raise BadData(f"{path}: expected one array (length, rows) of single letters for each chromosome, all with the same rows")

    def read(chromosome: str, start: int, end: int) -> np.ndarray:
        try:
            found = np.asarray(arrays[chromosome][start:end]).view(np.uint8)
        except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
            raise BadData(f"{path}: chromosome {chromosome} is damaged ({error}); download it again") from None
        return clean(found, f"{path}, chromosome {chromosome}")

    extents = {name: (0, array.shape[0]) for name, array in arrays.items()}
    return Alignment(path, ("target", *[""] * (widths.pop() - 1)), extents, read)
