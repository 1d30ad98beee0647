"""Which rows of an alignment are shown, chosen by the names of their species."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.errors import UserError

from ..text import text_lines
from .columns import Alignment

# The species of UCSC's 100-way alignment of hg38 after the human, in the order of songlab's stores.
_MULTIZ = """
    panTro4 gorGor3 ponAbe2 nomLeu3 rheMac3 macFas5 papAnu2 chlSab2 calJac3 saiBol1 otoGar3 tupChi1 speTri2 jacJac1 micOch1
    criGri1 mesAur1 mm10 rn6 hetGla2 cavPor3 chiLan1 octDeg1 oryCun2 ochPri3 susScr3 vicPac2 camFer1 turTru2 orcOrc1 panHod1
    bosTau8 oviAri3 capHir1 equCab2 cerSim1 felCat8 canFam3 musFur1 ailMel1 odoRosDiv1 lepWed1 pteAle1 pteVam1 eptFus1 myoDav1
    myoLuc2 eriEur2 sorAra2 conCri1 loxAfr3 eleEdw1 triMan1 chrAsi1 echTel2 oryAfe1 dasNov3 monDom5 sarHar1 macEug2 ornAna1
    colLiv1 falChe1 falPer1 ficAlb2 zonAlb1 geoFor1 taeGut2 pseHum1 melUnd1 amaVit1 araMac1 anaPla1 galGal4 melGal1 allMis1
    cheMyd1 chrPic2 pelSin1 apaSpi1 anoCar2 xenTro7 latCha1 tetNig2 fr3 takFla1 oreNil2 neoBri1 hapBur1 mayZeb1 punNye1
    oryLat2 xipMac1 gasAcu1 gadMor1 danRer10 astMex1 lepOcu1 petMar2
"""
MULTIZ = tuple(_MULTIZ.split())
MAX_NAMED = 12  # species that a message lists
SPECIES = {"99": MULTIZ, "89": MULTIZ[10:]}  # GPN-MSA leaves out the ten closest primates


def species_names(species: str) -> tuple[str, ...]:
    """The names that ``species`` stands for.

    ``99``, ``89``, a file with one name a line, the ``pretrain.json`` of a model, or names separated by commas.

    Raises:
        UserError: the file cannot be read, or names no species.
    """
    if species in SPECIES or not species:
        return SPECIES.get(species, ())
    if species.endswith(".json") and os.path.isfile(species):
        return _trained(Path(species))
    if os.path.isfile(species):  # Path.is_file raises for a list longer than any file name
        return tuple(name for line in text_lines(Path(species), "species, one a line") if (name := line.strip()))
    return tuple(name.strip() for name in species.split(","))


def select(alignment: Alignment, names: Sequence[str]) -> Alignment:
    """The alignment with the target's row and those of ``names``, in that order.

    Raises:
        UserError: it has no row of that name, or a name occurs twice.
    """
    target, rows = alignment.species[0], {name: row for row, name in enumerate(alignment.species)}
    names = [name for name in names if name != target]
    if unknown := [name for name in names if name not in rows]:
        raise UserError(
            f"species {unknown[0]!r}{f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''}: not in {alignment.path}, "
            f"which has {len(rows)} rows: {', '.join(list(rows)[:5])}, …; give names of its rows"
        )
    if len(set(names)) < len(names):
        raise UserError(f"species {Counter(names).most_common(1)[0][0]!r} is named twice")
    return replace(alignment, species=(target, *names), order=np.array([0, *(rows[name] for name in names)]))


def check_order(path: Path, given: Sequence[str], trained: Sequence[str], model: str) -> None:
    """Hold an alignment to the species that a model was trained on: the same, in the same order.

    ``given`` are the alignment's species with the target, as in :attr:`Alignment.species`; ``trained`` those of the model,
    without the target. A model that reads any rows in any order has none, and takes every alignment.

    Raises:
        UserError: they differ.
    """
    rows = given[1:]
    if not trained or tuple(rows) == tuple(trained):
        return
    remedy = (
        f"--species {','.join(trained)}" if len(trained) <= MAX_NAMED else "--species with the path of the model's pretrain.json"
    )
    remedy = "--species 89" if tuple(trained) == SPECIES["89"] else remedy
    if len(rows) != len(trained):
        raise UserError(
            f"{path}: {len(rows)} rows after the target, and {model} was trained on {len(trained)}, in a fixed order; "
            f"give {remedy}"
        )
    row = next(row for row, (have, want) in enumerate(zip(rows, trained, strict=True), start=1) if have != want)
    raise UserError(f"{path}: row {row} is {rows[row - 1]!r}, where {model} was trained with {trained[row - 1]!r}; give {remedy}")


def _trained(path: Path) -> tuple[str, ...]:
    """The species after the target in the record of `harness pretrain`."""
    try:
        _, *species = json.loads(path.read_text(encoding="utf-8"))["settings"]["species"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"species {str(path)!r}: not the pretrain.json of a model that names its species") from None
    return tuple(str(name) for name in species)


def names_of_rows(path: Path, count: int, names: Sequence[str]) -> Sequence[str]:
    """The species of the ``count`` rows after the target of a zarr store, which does not name them.

    Raises:
        UserError: neither the number of rows nor ``names`` tells.
    """
    known = SPECIES.get(str(count), names)
    if len(known) != count:
        raise UserError(
            f"{path}: {count + 1} rows without names; --species FILE must name the {count} after the target, in order"
        )
    return known
