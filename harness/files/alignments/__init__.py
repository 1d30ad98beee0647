"""Reads the columns of a multiple alignment at a locus, whatever the alignment is stored in:

* our own store (:mod:`.store`), the fastest to read;
* songlab's zarr stores, a folder or a zip (:mod:`.zarr`);
* UCSC MAF, plain or gzipped (:mod:`.maf`), written once as a store in the cache folder and read from there;
* an aligned FASTA file of one locus, target first (:mod:`.fasta`). The locus is in its first header (``chr17:100-200``) or
  in the file's name (``my_msa.hg38_chr17_100_200.fa.gz``), 0-based and half-open.

Only the columns of a window are read, so the alignment of a whole genome need not fit in memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.errors import BadData, UserError

from ..sources import Transferred
from ..text import head, text_lines
from .columns import EXPECTED, GAP, Alignment
from .fasta import open_fasta
from .maf import Maf, open_maf
from .species import MULTIZ, SPECIES, check_order, names_of_rows, select, species_names
from .store import HEADER, AlignmentBlocks, open_store, write_store
from .zarr import open_zarr

__all__ = ["GAP", "MULTIZ", "SPECIES", "Alignment", "build_store", "check_order", "open_alignment"]


def open_alignment(path: Path, species: str = "") -> Alignment:
    """The alignment in a file or folder, recognised by its content.

    ``species`` selects and orders the rows after the target: ``99`` (the other species of UCSC's 100-way alignment of
    hg38), ``89`` (the same without the ten closest primates), names separated by commas, a file with one name a line, or the
    ``pretrain.json`` of a model.
    Zarr stores do not name their species: 90 rows are taken for the target and ``89``, 100 rows for the target and
    ``99``; of other stores, ``species`` must name all rows after the target.

    Raises:
        BadData: the file is missing, damaged or not an alignment.
        UserError: the alignment does not have one of the species, or a package is not installed.
    """
    path = Path(path)
    opened = _recognise(path)(path)
    names = species_names(species)
    if opened.species[1:] and not opened.species[1]:
        opened = replace(opened, species=(opened.species[0], *names_of_rows(path, len(opened.species) - 1, names)))
    return select(opened, names) if names else opened


def build_store(sources: Path | Sequence[Path], path: Path, species: str = "", progress: Transferred | None = None) -> Path:
    """Write alignments of any kind (such as UCSC's MAF files, one per chromosome) as one store and return its ``path``.

    The store is a folder with one byte per row and column; it appears whole or not at all. ``species`` is that of
    :func:`open_alignment`. ``progress`` is told the bytes of columns written, and the bytes that all sources span.

    Raises:
        BadData: a source cannot be read, or the sources have different targets.
        UserError: ``path`` exists, or no source has one of the species.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists; remove it or choose another name for the store")
    files = [Path(sources)] if isinstance(sources, str | Path) else [Path(source) for source in sources]
    parts = [Maf(file) if _recognise(file) is open_maf else AlignmentBlocks(open_alignment(file)) for file in files]
    write_store(parts, path, species_names(species), progress)
    return path


def _recognise(path: Path) -> Callable[[Path], Alignment]:
    if os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        if (path / HEADER).is_file():
            return open_store
        if any((path / name).is_file() for name in (".zgroup", "zarr.json")):
            return open_zarr
        raise BadData(f"{path}: a folder with neither {HEADER} nor zarr's metadata; expected {EXPECTED}")
    if head(path, EXPECTED).startswith(b"PK\x03\x04"):
        return open_zarr
    first = next(line for line in text_lines(path, EXPECTED) if line.strip())
    if first.startswith(">"):
        return open_fasta
    if re.match(r"##maf|track |#|a( |$)", first):
        return open_maf
    raise BadData(f"{path}: begins with {first[:30]!r}; expected {EXPECTED}")
