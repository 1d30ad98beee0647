"""Reads the columns of a multiple alignment at a locus, whatever it is stored in.

* our own store: a folder with ``store.json`` and one memory-mapped ``.npy`` (length, rows) a chromosome, 0 where nothing aligns;
* songlab's zarr stores, a folder or a zip: one array (length, rows) of ``S1`` a chromosome, column 0 the target;
* UCSC MAF, plain or gzipped: written once as a store in the cache folder, and read from there;
* an aligned FASTA file of one locus, target first; the locus stands in its first header (``chr17:100-200``) or in the
  file's name (``my_msa.hg38_chr17_100_200.fa.gz``), 0-based and half-open.

Only what a window touches is read, so a whole genome's alignment never has to fit in memory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.data import AMBIGUITY_LETTERS, Locus
from harness.errors import BadData, UserError
from harness.files.genome import bare, cache_key, no_chromosome, optional, text_lines
from harness.files.sources import Progress, cache_home

GAP = ord("-")
EXPECTED = "an alignment: a store, zarr (folder or zip), MAF or aligned FASTA"
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
SPECIES = {"99": MULTIZ, "89": MULTIZ[10:]}  # GPN-MSA leaves out the ten primates next to us

_HEADER = "store.json"
_FORMAT = "gfm-harness alignment 1"
_COPIED = 1 << 16  # columns copied at a time
_ANCHOR = re.compile(r"(?P<chromosome>chr[A-Za-z0-9]+|(?<![\w.])[\w.]+(?=:))[:_](?P<start>\d+)[-_](?P<end>\d+)")


def _table(pairs: dict[str, str]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for letters, to in pairs.items():
        table[list(letters.encode())] = ord(to)
    return table


# Any usual spelling → ACGTN-, 0 for what is no letter of an alignment; no byte at all is a gap.
_LETTERS = _table({"Aa": "A", "Cc": "C", "Gg": "G", "TtUu": "T", AMBIGUITY_LETTERS + AMBIGUITY_LETTERS.lower(): "N", "-.\0": "-"})
_COMPLEMENT = _table({"A": "T", "C": "G", "G": "C", "T": "A", "N": "N", "-": "-"})


@dataclass(frozen=True)
class Alignment:
    """Columns by locus.

    ``species`` names the rows, the target first; ``extents`` gives the stretch that each chromosome's columns span, as
    (start, end), 0-based and half-open; ``read(chromosome, start, end)`` the stored columns within it, (columns, stored
    rows) uint8 of ``ACGTN-`` or 0; ``order`` the stored rows that are shown, None for all.
    """

    path: Path
    species: tuple[str, ...]
    extents: dict[str, tuple[int, int]]
    read: Callable[[str, int, int], np.ndarray]
    order: np.ndarray | None = None

    def columns(self, locus: Locus, changes: Counter[str] | None = None) -> np.ndarray:
        """The alignment at a locus, (rows, length) uint8 of ASCII letters ``ACGTN-``, row 0 the target.

        On strand ``-``: the reverse complement of every row. A column outside every block is all gaps, row 0 too;
        columns in which nothing aligns to the target are counted in ``changes["columns_without_species"]``.

        Raises:
            BadData: no such chromosome, an empty locus, or a damaged store.
        """
        extent = self.extents.get(bare(locus.chromosome))
        if extent is None:
            raise BadData(no_chromosome(self.path, locus.chromosome, self.extents))
        if locus.end <= locus.start:
            raise BadData(f"locus {locus.chromosome}:{locus.start}-{locus.end} is empty; start must be below end")
        rows = np.full((len(self.species), locus.end - locus.start), GAP, np.uint8)
        start, end = max(locus.start, extent[0]), min(locus.end, extent[1])
        if start < end:
            found = self.read(bare(locus.chromosome), start, end)
            inside = rows[:, start - locus.start : end - locus.start]
            np.maximum(inside, (found if self.order is None else found[:, self.order]).T, out=inside)  # 0 stays a gap
        if changes is not None:
            changes["columns_without_species"] += int((rows[1:].max(axis=0, initial=GAP) == GAP).sum())
        return _COMPLEMENT[rows[:, ::-1]] if locus.strand == "-" else rows


def open_alignment(path: Path, species: str = "") -> Alignment:
    """The alignment in a file or folder, recognised by its content.

    ``species`` selects and orders the rows after the target: ``99`` or ``89`` (UCSC's 100-way alignment without the
    target; without the ten nearest primates as well), names separated by commas, or a file with one name a line. Zarr
    stores name no species: 90 and 100 rows are taken for 89 and 99, and for others ``species`` names all rows.

    Raises:
        BadData: the file is missing, damaged or no alignment.
        UserError: a species that the alignment does not have; a package that is not installed.
    """
    path = Path(path)
    opened = _recognise(path)(path)
    names = _names(species)
    if opened.species[1:] and not opened.species[1]:
        opened = replace(opened, species=(opened.species[0], *_names_of_rows(path, len(opened.species) - 1, names)))
    return _select(opened, names) if names else opened


def build_store(sources: Path | Sequence[Path], path: Path, species: str = "", progress: Progress | None = None) -> Path:
    """Write alignments (any kind; such as UCSC's MAF of each chromosome) as one store, the fastest to read.

    The store is the folder ``path``, one byte a row and column; it appears whole or not at all. ``species`` as in
    :func:`open_alignment`; ``progress`` is called with the bytes of columns so far, and those of all that the sources span.
    Returns ``path``.

    Raises:
        BadData: a source that cannot be read, or sources of different targets.
        UserError: ``path`` exists, or a species that no source has.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists; remove it or choose another name for the store")
    files = [Path(sources)] if isinstance(sources, str | Path) else [Path(source) for source in sources]
    parts = [_Maf(file) if _recognise(file) is _open_maf else _Opened(open_alignment(file)) for file in files]
    _write_store(parts, path, _names(species), progress)
    return path


# --- which rows ---------------------------------------------------------------------------------------------------------


def _names(species: str) -> tuple[str, ...]:
    if species in SPECIES or not species:
        return SPECIES.get(species, ())
    if os.path.isfile(species):  # unlike pathlib's, false for a list of names too long for a file's
        return tuple(name for line in text_lines(Path(species), "species, one a line") if (name := line.strip()))
    return tuple(name.strip() for name in species.split(","))


def _select(alignment: Alignment, names: Sequence[str]) -> Alignment:
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


def _names_of_rows(path: Path, count: int, names: Sequence[str]) -> Sequence[str]:
    """The species of a zarr store's rows after the target, which the store does not tell."""
    known = SPECIES.get(str(count), names)
    if len(known) != count:
        raise UserError(
            f"{path}: {count + 1} rows without names; --species FILE must name the {count} after the target, in order"
        )
    return known


# --- kinds of files -----------------------------------------------------------------------------------------------------


def _recognise(path: Path) -> Callable[[Path], Alignment]:
    if path.is_dir():
        if (path / _HEADER).is_file():
            return _open_store
        if any((path / name).is_file() for name in (".zgroup", "zarr.json")):
            return _open_zarr
        raise BadData(f"{path}: a folder with neither {_HEADER} nor zarr's metadata; expected {EXPECTED}")
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                return _open_zarr
    first = next((line for line in text_lines(path, EXPECTED) if line.strip()), "")
    if first.startswith(">"):
        return _open_fasta
    if re.match(r"##maf|track |#|a( |$)", first):
        return _open_maf
    raise BadData(f"{path}: begins with {first[:30]!r}; expected {EXPECTED}")


def _open_store(path: Path) -> Alignment:
    try:
        header = json.loads((path / _HEADER).read_text())
        if header["format"] != _FORMAT:
            raise BadData(f"{path}: format {header['format']!r}, expected {_FORMAT!r}; build the store again")
        extents = {chromosome: (start, end) for chromosome, (start, end) in header["chromosomes"].items()}
        arrays = {chromosome: np.load(path / f"{chromosome}.npy", mmap_mode="r") for chromosome in extents}
        species = tuple(header["species"])
        if any(arrays[name].shape != (end - start, len(species)) for name, (start, end) in extents.items()):
            raise ValueError("an array of another size")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path}: a damaged store ({error}); build it again") from None

    def read(chromosome: str, start: int, end: int) -> np.ndarray:
        origin = extents[chromosome][0]
        return arrays[chromosome][start - origin : end - origin]

    return Alignment(path, species, extents, read)


def _open_zarr(path: Path) -> Alignment:
    import zipfile

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
        return _clean(found, f"{path}, chromosome {chromosome}")

    extents = {name: (0, array.shape[0]) for name, array in arrays.items()}
    return Alignment(path, ("target", *[""] * (widths.pop() - 1)), extents, read)


def _open_fasta(path: Path) -> Alignment:
    names, titles, rows = [], [], []
    for line in text_lines(path, EXPECTED):
        if line.startswith(">"):
            titles.append(line[1:].strip())
            names.append((titles[-1].split() or [""])[0])
            rows.append([])
        elif line.strip():
            rows[-1].append(line.strip())
    sequences = ["".join(row) for row in rows]
    for name, sequence in zip(names, sequences, strict=True):
        if len(sequence) != len(sequences[0]):
            raise BadData(
                f"{path}: row {name!r} has {len(sequence):,} columns, the first {len(sequences[0]):,}; expected one width"
            )
        if names.count(name) > 1 or not name:
            raise BadData(f"{path}: several rows are named {name!r}; give every row its own name")
    letters = _clean(np.array([np.frombuffer(sequence.encode(), np.uint8) for sequence in sequences]), path)
    letters = np.ascontiguousarray(letters[:, letters[0] != GAP].T)  # (length, rows), the target's gaps dropped
    chromosome, start = _anchor(path, titles[0], names[0], len(letters))
    extents = {chromosome: (start, start + len(letters))}
    return Alignment(path, tuple(names), extents, lambda _, first, last: letters[first - start : last - start])


def _anchor(path: Path, title: str, target: str, length: int) -> tuple[str, int]:
    """The chromosome and start of an aligned FASTA file."""
    found = _ANCHOR.search(title) or _ANCHOR.search(path.name)
    if found is None:
        raise BadData(
            f"{path}: no locus; write chr17:100-200 (0-based, half-open) in the first header or chr17_100_200 in the name"
        )
    start, end = int(found["start"]), int(found["end"])
    if end - start != length:
        hint = "1-based? write start - 1" if end - start == length - 1 else "the target's row must come first"
        raise BadData(f"{path}: {found[0]} spans {end - start:,} nt, but the first row ({target}) has {length:,}: {hint}")
    return bare(found["chromosome"]), start


def _open_maf(path: Path) -> Alignment:
    store = cache_home() / "alignments" / f"{path.name.partition('.')[0]}-{cache_key(path)}"
    if not store.is_dir():
        _write_store([_Maf(path)], store, ())
    return replace(_open_store(store), path=path)


def _clean(letters: np.ndarray, where: object) -> np.ndarray:
    clean = _LETTERS[letters]
    if not clean.all():
        bad = bytes(np.unique(letters[clean == 0])[:10]).decode("latin-1")
        raise BadData(f"{where}: {bad!r} are not letters of an alignment (ACGTN and -)")
    return clean


# --- what a store is made from ------------------------------------------------------------------------------------------

Block = tuple[str, int, Sequence[str], np.ndarray]  # chromosome, start, species of the rows, letters (length, rows)


class _Opened:
    """An alignment of another kind, as blocks."""

    def __init__(self, alignment: Alignment) -> None:
        self.path, self.species, self.extents = alignment.path, list(alignment.species), alignment.extents
        self._alignment = alignment

    def blocks(self) -> Iterator[Block]:
        for chromosome, (start, end) in self.extents.items():
            for first in range(start, end, _COPIED):
                yield chromosome, first, self.species, self._alignment.read(chromosome, first, min(first + _COPIED, end))


class _Maf:
    """A MAF file as blocks; the first pass, here, finds species and extents. Lines ``i``, ``e`` and ``q`` hold no letters.

    The target is the first row of every block. Its gap columns are dropped, so that columns are its positions. Of
    several rows of one species in a block the first counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.extents: dict[str, tuple[int, int]] = {}
        seen: dict[str, None] = {}
        for rows in self._rows():
            seen.update(dict.fromkeys(row.species for row in rows))
            if rows[0].species != next(iter(seen)):
                raise BadData(
                    f"{path}: blocks begin with {next(iter(seen))} and with {rows[0].species}; expected one target first"
                )
            chromosome, start, end = rows[0].interval()
            lowest, highest = self.extents.get(chromosome, (start, end))
            self.extents[chromosome] = min(lowest, start), max(highest, end)
        if not seen:
            raise BadData(f"{path}: a MAF file without blocks")
        target, *others = seen
        # Which species come up first depends on the stretch; the official order does not.
        self.species = [target, *(MULTIZ if target == "hg38" and set(others) <= set(MULTIZ) else others)]

    def blocks(self) -> Iterator[Block]:
        for rows in self._rows():
            letters = {}
            for row in reversed(rows):
                letters[row.species] = self._letters(row)
                if len(letters[row.species]) != len(rows[0].text):
                    raise BadData(f"{self.path}, line {row.line}: a row of another length than its block's; {_CUT}")
            chromosome, start, _ = rows[0].interval()
            block = np.array([letters[name] for name in letters]).T
            block = block[_LETTERS[np.frombuffer(rows[0].text.encode(), np.uint8)] != GAP]
            yield chromosome, start, list(letters), _COMPLEMENT[block[::-1]] if rows[0].strand == "-" else block

    def _letters(self, row: _Row) -> np.ndarray:
        letters = _clean(np.frombuffer(row.text.encode(), np.uint8), f"{self.path}, line {row.line}")
        if (letters != GAP).sum() != row.size:
            raise BadData(
                f"{self.path}, line {row.line}: {(letters != GAP).sum()} letters where {row.size} are announced; {_CUT}"
            )
        return letters

    def _rows(self) -> Iterator[list[_Row]]:
        """The ``s`` lines of each block."""
        rows: list[_Row] = []
        number, line = 0, ""
        for number, line in enumerate(text_lines(self.path, EXPECTED), start=1):
            if line.startswith("s") and line[1:2].isspace():
                rows.append(_row(f"{self.path}, line {number}", number, line))
            elif rows and (not line.strip() or line[0] == "a"):
                yield rows
                rows = []
        if rows:  # the file ends inside a block, maybe inside a line
            fields = line.split()
            if len(fields) != _FIELDS.get(fields[0], len(fields)):
                raise BadData(f"{self.path}, line {number}: {line[:40]!r} has {len(fields)} fields; {_CUT}")
            yield rows


_FIELDS = {"i": 6, "e": 7, "q": 3}  # of a MAF file's lines other than rows
_CUT = "the file is cut or damaged"


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    species: str
    chromosome: str
    start: int  # 0-based, on the row's own strand
    size: int
    strand: str
    chromosome_size: int
    text: str

    def interval(self) -> tuple[str, int, int]:
        """Chromosome, start and end on the plus strand."""
        start = self.start if self.strand == "+" else self.chromosome_size - self.start - self.size
        return bare(self.chromosome), start, start + self.size


def _row(where: str, number: int, line: str) -> _Row:
    try:
        _, source, start, size, strand, total, text = line.split()
        species, dot, chromosome = source.partition(".")
        if not dot or strand not in "+-":
            raise ValueError
        return _Row(number, species, chromosome, int(start), int(size), strand, int(total), text)
    except ValueError:
        raise BadData(f"{where}: {line[:40]!r} is not 's species.chromosome start size strand length letters'; {_CUT}") from None


def _write_store(parts: Sequence[_Maf | _Opened], path: Path, names: Sequence[str], progress: Progress | None = None) -> None:
    species, extents = _union(parts)
    everything = Alignment(parts[0].path, tuple(species), extents, read=lambda *_: np.empty(0))
    species = list((_select(everything, names) if names else everything).species)
    places = {name: row for row, name in enumerate(species)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".store-"))
    try:
        arrays = {  # a new file reads as zeros, and takes no room where nothing is written
            name: np.lib.format.open_memmap(temporary / f"{name}.npy", "w+", np.uint8, (end - start, len(species)))
            for name, (start, end) in extents.items()
        }
        done, total = 0, sum(array.size for array in arrays.values())
        for part in parts:
            for chromosome, start, rows, letters in part.blocks():
                first = start - extents[chromosome][0]
                _put(arrays[chromosome][first : first + len(letters)], [places.get(row, -1) for row in rows], letters)
                done += len(letters) * len(species)
                if progress is not None:
                    progress(done, total)
        for array in arrays.values():
            array.flush()
        header = {"format": _FORMAT, "species": species, "chromosomes": extents, "sources": [part.path.name for part in parts]}
        (temporary / _HEADER).write_text(json.dumps(header, indent=1))
        temporary.chmod(0o755)
        os.rename(temporary, path)
    except OSError:
        if not (path / _HEADER).is_file():  # unless another process has written the same store meanwhile
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(stored: np.ndarray, places: Sequence[int], letters: np.ndarray) -> None:
    """Fill columns (length, rows) of a store; where blocks overlap, the first one stays."""
    kept = [row for row, place in enumerate(places) if place >= 0]
    free = stored[:, 0] == 0
    stored[np.ix_(free, [places[row] for row in kept])] = letters[np.ix_(free, kept)]


def _union(parts: Sequence[_Maf | _Opened]) -> tuple[list[str], dict[str, tuple[int, int]]]:
    """The species and the extents of all parts together."""
    species: dict[str, None] = {}
    extents: dict[str, tuple[int, int]] = {}
    for part in parts:
        species.update(dict.fromkeys(part.species))
        if part.species[0] != next(iter(species)):
            raise BadData(f"{part.path}: its target is {part.species[0]}, that of {parts[0].path} {next(iter(species))}")
        for name, (start, end) in part.extents.items():
            lowest, highest = extents.get(name, (start, end))
            extents[name] = min(lowest, start), max(highest, end)
    return list(species), extents
