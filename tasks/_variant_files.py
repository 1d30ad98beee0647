"""Reads labelled variants from VCF, CSV, TSV (plain or gzipped) and parquet files.

Positions are 1-based. Every error is one line that names the file, the line, and what was expected. Labels have one grammar
a file (see :mod:`harness.tasks._variant_labels`), so a file is read twice.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from harness.data import bare
from harness.errors import BadData
from harness.files.readers import MISSING, PART_COLUMNS, PARTS
from harness.files.table import VARIANT_COLUMNS, Table, is_table, whole
from harness.files.text import printable, text_lines

from ._variant_alleles import Change, Variant
from ._variant_labels import OPEN, WORDS, negatives_of, plain, understand
from ._variant_words import CONSEQUENCE_COLUMNS, GENE_COLUMNS, INFO, consequence, declared_format, gene, of_info

EXPECTED = "a VCF, CSV, TSV or parquet file with chrom, pos (1-based), ref, alt, label"
# Names of the columns in dbNSFP and in ClinVar's variant_summary.txt, after the usual ones.
COLUMNS = tuple(zip(VARIANT_COLUMNS, ((), ("pos(1-based)", "positionvcf"), ("referenceallelevcf",), ("alternateallelevcf",))))
LABEL_COLUMNS = ("label", "clinvar_label", "clnsig", "clinicalsignificance", "clinvar_clnsig", "class")
ASSEMBLY_COLUMNS = ("assembly", "genome_build", "build")

NO_ALLELE = ("-", ".", "NA")  # of insertions and deletions, and of records without alleles
MAX_DIGITS = 11  # of a position

_VCF = re.compile(r"\.vcf(\.b?gz)?$", re.IGNORECASE)
_ALLELE = re.compile("[ACGT]+")
_NAMED = re.compile(rf"({'|'.join(sorted((*WORDS, *OPEN), key=len, reverse=True))})(?=_|$)", re.IGNORECASE)


class _Line(NamedTuple):
    """A record as the file has it: its place in the file, the variant, and the words that may be its label, by field.

    ``groups`` are words for each of :data:`._variant_alleles.GROUPS`.
    """

    where: str
    chromosome: str
    position: str
    reference: str
    alternate: str
    labels: dict[str, str]
    groups: tuple[str, ...]
    assembly: str = ""


def read(path: Path, changes: Counter[str], notes: list[str] | None = None) -> Iterator[Variant]:
    """The variants of a file, which is read twice; what is skipped is counted in ``changes``.

    ``notes`` gains sentences: how the labels were read, which columns were not, and which chromosomes have two names.

    Raises:
        BadData: the file cannot be read, a line is not a variant, the labels mix grammars or most of them are unknown, or
            two names of a chromosome contradict each other.
        UserError: the package that reads parquet is not installed.
    """
    notes = [] if notes is None else notes
    lines = _lines(path)
    label_of = _grammar(path, lines(notes), notes)
    names: dict[str, set[str]] = defaultdict(set)
    for line in lines([]):
        reference, alternate = line.reference.upper(), line.alternate.upper()
        if not line.chromosome or not line.chromosome.isprintable() or not reference or not alternate:
            raise _no_variant(line)
        if not {reference, alternate}.isdisjoint(NO_ALLELE):
            changes["not_snv"] += 1
            continue
        if not re.fullmatch(r"[A-Z]+", reference) or not re.fullmatch(rf"[1-9][0-9]{{0,{MAX_DIGITS - 1}}}", line.position):
            raise _no_variant(line)
        word, label = label_of(line)
        if label is None:
            changes["unlabelled"] += 1
        elif "," in alternate:
            changes["multi_allelic"] += 1
        elif not _ALLELE.fullmatch(reference) or not _ALLELE.fullmatch(alternate) or reference == alternate:
            changes["not_snv"] += 1
        else:
            names[bare(line.chromosome)].add(line.chromosome)
            place = (bare(line.chromosome), int(line.position), reference, alternate)
            yield Variant(*place, label, "" if label else negatives_of(word), line.groups, line.assembly)
    _check_chromosomes(path, names, lines, notes)


def unique(variants: Iterable[Variant], changes: Counter[str]) -> list[Variant]:
    """Each variant once, in order, without those that occur with both labels; what is dropped is counted in ``changes``.

    Of several spellings of a variant, such as ``CA>C`` and ``CAT>CT``, the first is kept.
    """
    variants = list(variants)
    apart = len({variant.assembly for variant in variants} - {""}) > 1
    first: dict[tuple[str, str, Change], Variant] = {}
    labels: dict[tuple[str, str, Change], set[int]] = defaultdict(set)
    copies: Counter[tuple[str, str, Change]] = Counter()
    for variant in variants:
        key = (variant.assembly if apart else "", variant.chromosome, variant.change)
        first.setdefault(key, variant)
        labels[key].add(variant.label)
        copies[key] += 1
    changes["conflicting"] += sum(copies[key] for key, seen in labels.items() if len(seen) > 1)
    changes["duplicates"] += sum(copies[key] - 1 for key, seen in labels.items() if len(seen) == 1)
    return [first[key] for key, seen in labels.items() if len(seen) == 1]


def _no_variant(line: _Line) -> BadData:
    found = " ".join(repr(field[:40]) for field in line[1:5])
    return BadData(f"{line.where}: {found} is no variant; expected {EXPECTED}")


# --- labels -------------------------------------------------------------------------------------------------------------


def _grammar(path: Path, lines: Iterable[_Line], notes: list[str]) -> Callable[[_Line], tuple[str, int | None]]:
    """How this file says benign and pathogenic: a line's word, and its label, None if it is neither.

    One field holds the labels of the whole file. Of a VCF it is LABEL, else CLNSIG, else a word at the beginning of every ID.
    """
    found: dict[str, Counter[str]] = defaultdict(Counter)
    first: dict[tuple[str, str], str] = {}  # where a field has a word first
    total = 0
    for line in lines:
        total += 1
        for field, text in line.labels.items():
            word = plain(text)
            found[field][word] += 1
            first.setdefault((field, word), line.where)
    if not found:
        return lambda line: ("", None)
    field = min(found, key=lambda name: ("LABEL", "CLNSIG", "ID").index(name) if len(found) > 1 else 0)
    counts = found[field]
    if field == "ID" and counts.total() < total:
        raise BadData(
            f"{path}: {counts.total():,} of {total:,} IDs begin with a class, the others do not; write LABEL=… into INFO instead"
        )
    classes, how = understand(counts, field, partial(_declares_codes, path), lambda word: first[field, word], total)
    notes.append(how)

    def label_of(line: _Line) -> tuple[str, int | None]:
        word = plain(line.labels.get(field, ""))
        return word, classes.get(word)

    return label_of


def _declares_codes(path: Path) -> bool:
    """Whether a VCF's header explains CLNSIG as numbers: 5 - Pathogenic."""
    if not _VCF.search(path.name):
        return False
    header = takewhile(lambda line: line.startswith("#"), text_lines(path, EXPECTED))
    return any(re.match(r"##INFO=<ID=CLNSIG,.*\b5\W+pathogenic", line, re.IGNORECASE) for line in header)


def _check_chromosomes(
    path: Path, names: dict[str, set[str]], lines: Callable[[list[str]], Iterator[_Line]], notes: list[str]
) -> None:
    """Say which chromosomes have two names (``chr1`` and ``1``), and refuse those that are not one and the same."""
    twice = {name: sorted(spelled) for name, spelled in names.items() if len(spelled) > 1}
    if not twice:
        return
    if {spelled.upper().removeprefix("CHR") for spelled in names.get("M", ())} == {"M", "MT"}:
        raise BadData(f"{path}: {' and '.join(twice['M'])} in one file: these differ in hg19; keep one of them")
    references: dict[tuple[str, str], tuple[str, str]] = {}
    for line in lines([]):
        name, letter = bare(line.chromosome), line.reference.upper()
        if name in twice and len(letter) == 1:
            spelled, earlier = references.setdefault((name, line.position), (line.chromosome, letter))
            if earlier != letter and spelled != line.chromosome:
                raise BadData(
                    f"{line.where}: the reference allele is {letter} at {line.chromosome}:{line.position}, and {earlier} at "
                    f"{spelled}:{line.position}; variants of two assemblies?"
                )
    some = "; ".join(" and ".join(spelled) for spelled in twice.values())
    notes.append(f"chromosomes with two names, each read as one: {printable(some)[:100]}")


# --- files --------------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Callable[[list[str]], Iterator[_Line]]:
    """Reads the file's records, each time anew; sentences about it go to the list that is given."""
    if _VCF.search(path.name):
        return lambda notes: _vcf(path)
    if is_table(path):
        return lambda notes: _table(path, notes)
    raise BadData(f"{path}: expected {EXPECTED}, with the usual ending (.vcf, .csv, .tsv, .parquet)")


def _vcf(path: Path) -> Iterator[_Line]:
    formats: dict[str, list[str]] = {}
    for number, line in enumerate(text_lines(path, EXPECTED), start=1):
        if line.startswith("##INFO=") and (declared := declared_format(line)):
            formats |= [declared]
        if line.startswith("#") or not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 5:
            raise BadData(f"{path}, line {number}: {line[:40]!r} is no VCF record: CHROM POS ID REF ALT …, separated by tabs")
        chromosome, position, name, reference, alternate, *more = fields
        labels, info = {}, {}
        for item in more[2].split(";") if len(more) > 2 else ():
            key, _, value = item.partition("=")
            if key in ("LABEL", "CLNSIG"):
                labels[key] = value if labels.get(key, value) == value else f"{labels[key]}|{value}"
            elif key in INFO:
                info[key] = value
        if word := _NAMED.match(name):
            labels["ID"] = word.group()
        groups = of_info(info, formats)
        yield _Line(f"{path}, line {number}", chromosome, position, reference, alternate, labels, groups)


def _table(path: Path, notes: list[str]) -> Iterator[_Line]:
    table = Table(path, EXPECTED)
    columns = [table.column((*usual, *more)) for usual, more in COLUMNS] + [table.column(LABEL_COLUMNS)]
    field = table.header[columns[-1]]
    optional = [table.optional_column(names) for names in (PART_COLUMNS, ASSEMBLY_COLUMNS, CONSEQUENCE_COLUMNS, GENE_COLUMNS)]
    if unused := table.unused([*columns, *optional]):
        notes.append(f"columns not used: {', '.join(unused)[:200]}")
    parts: Counter[str] = Counter()
    present = [column for column in optional if column is not None]
    for where, (chromosome, position, reference, alternate, label, *more) in table.rows([*columns, *present]):
        part, assembly, effect, name = ("" if at is None else more[present.index(at)] for at in optional)
        parts[part] += 1
        assembly = "" if assembly.lower() in MISSING else assembly
        groups = (consequence(effect), gene(name))
        alleles = (whole(chromosome), whole(position), reference, alternate)
        yield _Line(where, *alleles, {field: label}, groups, assembly)
    if optional[0] is None:
        return
    heading = table.header[optional[0]]
    given = Counter({word: count for word, count in parts.items() if word.lower() in PARTS})
    if not given:
        notes.append(f"column not used: {printable(heading)}")
    else:
        said = ", ".join(f"{count:,} {word}" for word, count in given.items())
        notes.append(f"column {heading!r} says {said}; this split is not used, for the harness draws its own")
