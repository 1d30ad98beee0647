"""Species and chromosome in the names of a MAF file's rows, ``species.chromosome``, where both parts may hold dots.

A name is split by the first of these rules that fits: at the dot after an assembly of UCSC (``hg38.chrUn.1``,
``mm10.v1.chr1``) or an accession of a genome (``GCA_028858775.2.chr1``); before a word for a sequence
(``T.koksaghyz.Chr1``, ``Lsat.scaffold.7``); before the accession of a sequence (``homo_sapiens.KI270706.1``); at the last
dot. Then all names of the file must agree: see :meth:`Names.check`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from harness.data import bare
from harness.errors import BadData

_SEQUENCE = (
    "chr|chromosome|scaf|scaffold|contig|ctg|utg|ptg|tig|super|supercontig|superscaffold|lg|linkage_?group|group|un|unplaced"
)
_RULES = tuple(
    re.compile(rule)
    for rule in (
        r"(?P<species>[a-z]{2,3}(?:[A-Z][a-z]{2}){0,2}\d{1,3}(?:\.v\d+)?)\.(?P<chromosome>.+)",
        r"(?P<species>GC[AF]_\d+\.\d+[^.]*)\.(?P<chromosome>.+)",
        rf"(?P<species>GC[AF]_\d{{9}}\.\d+|[A-Z]\.(?!(?:{_SEQUENCE})$)[a-z]{{3,}})",  # without a chromosome
        rf"(?P<species>.+?)\.(?P<chromosome>(?i:{_SEQUENCE})(?![a-z]).*)",
        r"(?P<species>.+?)\.(?P<chromosome>[A-Z]{1,6}_?[A-Z]{0,6}\d{3,}\.\d{1,2})",
    )
)
_LAST_DOT = re.compile(r"(?P<species>.+)\.(?P<chromosome>[^.]+)")


class Name(NamedTuple):
    """What a row's source says. ``chromosome`` is empty if it has none; ``guessed`` is set if only the last dot decided."""

    species: str
    chromosome: str
    guessed: bool = False


def split(source: str) -> Name:
    """The species and chromosome of one name."""
    for rule in _RULES:
        if found := rule.fullmatch(source):
            return Name(found["species"], found.groupdict().get("chromosome") or "")
    if found := _LAST_DOT.fullmatch(source):
        return Name(found["species"], found["chromosome"], "." in found["species"])
    return Name(source, "")


class Names:
    """The names of a file's rows, split; :meth:`check` holds them to each other when all were seen."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, Name] = {}
        self._sources: dict[str, str] = {}  # by species: the first name that gave it
        self._targets: dict[str, str] = {}  # by chromosome of the target, without chr: as the file spells it
        self._together: set[tuple[str, str]] = set()  # guessed species of one block, so different ones

    def __getitem__(self, source: str) -> Name:
        if source not in self._names:
            self._names[source] = name = split(source)
            self._sources.setdefault(name.species, source)
        return self._names[source]

    def see(self, sources: Iterable[str]) -> None:
        """Take up the names of one block, the target's first.

        Raises:
            BadData: two chromosomes of the target have one name without ``chr``.
        """
        target, *others = sources
        chromosome = self[target].chromosome
        if self._targets.setdefault(bare(chromosome), chromosome) != chromosome:
            raise BadData(
                f"{self._path}: chromosomes {self._targets[bare(chromosome)]!r:.80} and {chromosome!r:.80} of the target are one "
                "without 'chr'; rename or leave out one"
            )
        guessed = sorted({name.species for source in (target, *others) if (name := self[source]).guessed})
        self._together |= {pair for pair in pairwise(guessed) if _genus(pair[0]) == _genus(pair[1])}

    def check(self) -> None:
        """Whether no name could as well have been split elsewhere.

        Raises:
            BadData: a species' name is the beginning of another one's (``L`` and ``L.sativa``), or the last dot alone makes
                two species of names that begin alike, and no block has both.
        """
        guessed = sorted({name.species for name in self._names.values() if name.guessed})
        for species in self._sources:
            parts = species.split(".")
            for count in range(1, len(parts)):
                if (shorter := ".".join(parts[:count])) in self._sources:
                    raise self._ambiguous(shorter, species)
        for first, second in pairwise(guessed):
            alike = _genus(first) == _genus(second) and not re.match(r"[A-Z]\.", first)
            if alike and (first, second) not in self._together:
                raise self._ambiguous(first, second)

    def _ambiguous(self, first: str, second: str) -> BadData:
        return BadData(
            f"{self._path}: are {self._sources[first]!r:.80} and {self._sources[second]!r:.80} of one species or of two? "
            "Write the names as species.chromosome, without dots in the species"
        )


def _genus(species: str) -> str:
    return species.partition(".")[0]
