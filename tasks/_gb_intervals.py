"""The rows of GenomicBenchmarks' interval files, and their letters, cut from genomes and transcripts."""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.data import Locus, bare
from harness.errors import BadData, DataMissing
from harness.files import sources
from harness.task import Reference, Source

from ._gb_facts import FILES, PARTS, SETS, URL

if TYPE_CHECKING:
    from harness.files.genome import Genome

FAMILY = "genomic_benchmarks"
WORM, TRANSCRIPTS = "ce11", "cdna97"
# The length of each assembly's first chromosome, in nucleotides, which tells its versions apart.
LENGTHS = {"hg38": ("chr1", 248_956_422), "mm10": ("chr1", 195_471_971), WORM: ("chrI", 15_072_434)}
# Where chromosome Y of hg38 repeats X, 0-based and half-open. The original genome, Ensembl's, is N there; UCSC's has letters.
PSEUDOAUTOSOMAL = ((10_000, 2_781_479), (56_887_902, 57_217_415))


class Row(NamedTuple):
    """An interval. ``part`` is the authors' ``train`` or ``test``.

    The locus of a worm's interval is on ``ce11.chrX``, say, which is never taken for a human chromosome; that of a transcript's
    is on ``ENST00000217185``. An interval without a strand is on the plus strand: it is always one class that has none.
    """

    id: str
    part: str
    label: int
    locus: Locus


def files(name: str) -> tuple[Source, ...]:
    """The task's interval files: the classes in their order, train and test of each."""
    return tuple(
        Source(f"{URL}/{path}", file.sha256, f"{FAMILY}/{path}", file.size)
        for label in SETS[name].classes
        for part, file in zip(PARTS, FILES[name][label], strict=True)
        for path in [f"{name}/{part}/{label}.csv.gz"]
    )


def references(name: str) -> dict[str, Source]:
    """The genomes and transcripts that the task's windows are cut from, by name; the main one first."""
    facts = SETS[name]
    return {key: sources.REFERENCES[key] for key in dict.fromkeys((facts.genome, *facts.others.values()))}


def read(name: str) -> list[Row]:
    """The rows of the interval files, class by class, train before test, each compared with its published checksum.

    Raises:
        DataMissing: a file is not on this machine.
        ChecksumMismatch: a file is not the published one.
    """
    facts, rows, paths = SETS[name], list[Row](), iter(sources.intact(files(name), name))
    for label, class_name in enumerate(facts.classes):
        genome = facts.others.get(class_name, facts.genome)
        for part in PARTS:
            lines = gzip.decompress(next(paths).read_bytes()).decode("ascii").splitlines()
            for number, line in enumerate(lines[1:], start=1):  # id,region,start,end,strand
                _, region, start, end, strand = line.split(",")
                locus = Locus(_chromosome(genome, region), int(start), int(end), "-" if strand == "-" else "+")
                rows.append(Row(f"{name}:{part}:{class_name}:{number}", part, label, locus))
    return rows


def _chromosome(genome: str, region: str) -> str:
    if genome == WORM:
        return f"{WORM}.chr{'M' if region == 'MtDNA' else region}"
    return "chrM" if region == "chrMT" else region


def cut(
    name: str, rows: Sequence[Row], reference: Reference, changes: Counter[str], notes: list[str]
) -> tuple[list[str], dict[str, str]]:
    """The letters of every row, 5'→3' on its strand, as the authors have them, and the entries of ``Splits.files`` for these.

    Letters of chromosome Y's pseudoautosomal regions become N, counted in ``changes["pseudoautosomal_to_n"]``.

    Raises:
        DataMissing: a genome is not on this machine.
        BadData: it cannot be read, is another assembly, or lacks a part of the intervals.
    """
    facts, sequences, digests = SETS[name], [""] * len(rows), dict[str, str]()
    for key, source in references(name).items():
        own = reference.genome if key == facts.genome else None
        genome = _open(name, key, source, own)
        chosen = [n for n, row in enumerate(rows) if facts.others.get(facts.classes[row.label], facts.genome) == key]
        found = _letters(name, key, genome, [rows[n].locus for n in chosen])
        digest = hashlib.sha256()
        for number, sequence in zip(chosen, found, strict=True):
            masked = _without_pseudoautosomal(rows[number].locus, sequence) if key == "hg38" else sequence
            if masked != sequence:
                changes["pseudoautosomal_to_n"] += masked.count("N") - sequence.count("N")
            sequences[number] = masked
            digest.update(masked.encode() + b"\n")
        digests[f"windows cut from {key}"] = digest.hexdigest()
    if changes["pseudoautosomal_to_n"]:
        notes.append(
            "the pseudoautosomal regions of chromosome Y are written as N, as they are in the genome that the authors used"
        )
    return sequences, digests


def _open(name: str, key: str, source: Source, own: Path | None) -> Genome:
    from harness.files.genome import Genome

    path = own or sources.locate(source)
    if own is None and sources.missing([source]):
        ways = f", --genome FILE takes {key} from elsewhere" if key == SETS[name].genome else ""
        raise DataMissing(
            f"{name}: its intervals are here, but not what they are cut from, {path}; `harness data get {key}` fetches it{ways}, "
            "--option source=hub reads ready sequences instead"
        )
    genome = Genome(path)
    first, length = LENGTHS.get(key, ("", 0))
    found = genome.ends.get(bare(first), length)
    if found != length:
        raise BadData(
            f"{path}: {first} ends at {found:,}, that of {key} at {length:,}: another assembly, or a part of it? {name} needs "
            f"the whole of {key}; `harness data get {key}` fetches it"
        )
    return genome


def _letters(name: str, key: str, genome: Genome, loci: Sequence[Locus]) -> list[str]:
    """The letters of intervals, all of which must be in the genome."""
    known = _transcripts(genome) if key == TRANSCRIPTS else {chromosome: chromosome for chromosome in genome.chromosomes}
    names = {locus.chromosome: bare(locus.chromosome.removeprefix(f"{WORM}.")) for locus in loci}
    if lacking := [chromosome for chromosome in names if names[chromosome] not in known]:
        what = "transcripts" if key == TRANSCRIPTS else "chromosomes"
        without = sum(names[locus.chromosome] not in known for locus in loci)
        raise BadData(
            f"{genome.path}: lacks {len(lacking):,} of the {len(names):,} {what} of {name}, such as {lacking[0]}, and so "
            f"{without:,} of {len(loci):,} windows; `harness data get {key}` fetches all of {key}"
        )
    places = [Locus(known[names[locus.chromosome]], locus.start, locus.end, locus.strand) for locus in loci]
    outside = Counter[str]()
    found = genome.sequences(places, outside)
    if outside:
        raise BadData(
            f"{genome.path}: {outside.total():,} nucleotides of the windows of {name} lie off it; is it {key}, and the whole of "
            f"it? `harness data get {key}` fetches it"
        )
    return found


def _transcripts(genome: Genome) -> dict[str, str]:
    """The names of transcripts in a FASTA file, by name without version."""
    names: dict[str, str] = {}
    for name in genome.chromosomes:
        plain = name.partition(".")[0]
        if names.setdefault(plain, name) != name:
            raise BadData(f"{genome.path}: {names[plain]} and {name} are versions of one transcript; give one release alone")
    return names


def _without_pseudoautosomal(locus: Locus, sequence: str) -> str:
    """A window's letters with N in place of the pseudoautosomal ones."""
    if bare(locus.chromosome) != "Y":
        return sequence
    letters = sequence[::-1] if locus.strand == "-" else sequence
    for first, last in PSEUDOAUTOSOMAL:
        start, end = max(first - locus.start, 0), min(last, locus.end) - locus.start
        if start < end:
            letters = letters[:start] + "N" * (end - start) + letters[end:]
    return letters[::-1] if locus.strand == "-" else letters


def unknown_letters(classes: Sequence[str], labels: Sequence[int], sequences: Sequence[str]) -> list[str]:
    """A sentence about windows with N, by class, if there are any."""
    windows = Counter(labels)
    having = Counter(label for label, sequence in zip(labels, sequences, strict=True) if "N" in sequence)
    if not having:
        return []
    shares = [having[label] / windows[label] for label in range(len(classes))]
    text = ", ".join(f"{share:.2%} of {name}" for share, name in zip(shares, classes, strict=True))
    unlike = max(shares) - min(shares) > 0.01
    return [f"windows with N: {text}" + ("; a model can tell the classes apart by that" if unlike else "")]
