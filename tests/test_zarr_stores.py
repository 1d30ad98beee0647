"""Zarr stores: what is missing or of another kind is refused, and never read as gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_alignments import small, write_zarr

from harness.data import Locus
from harness.errors import BadData
from harness.files.alignments import open_alignment

pytest.importorskip("zarr", reason="needs the extra `variants`")


def zarr_store(folder: Path, version: int) -> Path:
    return write_zarr(folder / f"{version}.zarr", small(length=12), version=version)


@pytest.mark.filterwarnings("ignore:The data type")
@pytest.mark.parametrize("version", [2, 3])
def test_a_missing_chunk_is_an_error_and_never_a_gap(version, tmp_path):
    path = zarr_store(tmp_path, version)
    whole = open_alignment(path, "a,b,c").columns(Locus("1", 0, 12))
    chunk = path / ("1/1.0" if version == 2 else "1/c/1/0")
    if not chunk.exists():
        chunk = path / "1/1/0"
    chunk.unlink()
    alignment = open_alignment(path, "a,b,c")
    assert (alignment.columns(Locus("1", 0, 4)) == whole[:, :4]).all()
    assert (alignment.columns(Locus("1", 8, 12)) == whole[:, 8:]).all()
    for start, end in ((4, 8), (0, 5), (7, 8), (0, 12)):
        with pytest.raises(BadData, match=rf"{version}\.zarr: lacks the chunk '1/.*', whose columns are unknown"):
            alignment.columns(Locus("1", start, end))


def test_consolidated_metadata_that_is_out_of_date_is_not_read(tmp_path):
    import zarr

    path = zarr_store(tmp_path, 2)
    zarr.consolidate_metadata(str(path))
    stale = path / ".zmetadata"
    stale.write_text(stale.read_text().replace("12,", "400,").replace('"|S1"', '"<f8"'))
    assert open_alignment(path, "a,b,c").extents == {"1": (0, 12)}


@pytest.mark.parametrize("dtype", ["<f8", "|b1", "|i1", "<u2", "|S2"])
def test_zarr_arrays_of_another_dtype_are_refused(dtype, tmp_path):
    import zarr

    group = zarr.open_group(str(tmp_path / "d.zarr"), mode="w", zarr_format=2)
    array = group.create_array("1", shape=(8, 4), chunks=(4, 4), dtype=dtype)
    array[:] = np.zeros((8, 4), dtype)
    with pytest.raises(BadData, match=r"d\.zarr: expected one array \(length, rows\) of single letters"):
        open_alignment(tmp_path / "d.zarr", "a,b,c")


def test_zarr_arrays_of_one_chromosome_are_refused(tmp_path):
    import zarr

    path = write_zarr(tmp_path / "two.zarr", small())
    group = zarr.open_group(str(path), mode="a", zarr_format=2)
    group.create_array("chr1", shape=(9, 4), chunks=(4, 4), dtype="S1")[:] = np.full((9, 4), b"A")
    with pytest.raises(BadData, match=r"two\.zarr: chromosome '1' is there twice, with and without 'chr'"):
        open_alignment(path, "a,b,c")
