"""A small simulated world to pretrain on, in the formats of the real one, whose structure is known because it was planted.

``genome.fa`` has chromosomes of background letters (a first-order Markov chain with few CpG) in which a family of repeats and
tandem repeats were planted. As UCSC does, repeats are in lower case. ``alignment.chr1_0_N.fa`` aligns simulated
species to the first chromosome: stretches of it evolve slowly, and most species form one distant clade, so that to count votes
is not enough. ``phastcons.bedGraph`` and ``phylop.bedGraph`` say which, as
the published tracks would. ``rna.fa`` has RNAs of several types, each type a family that descends from one ancestor and
carries its own motif; the type is the second word of a header. ``motifs.txt`` lists these motifs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.errors import UserError

from .atomic import atomic, check_writable

GENOME, RNA, MOTIFS = "genome.fa", "rna.fa", "motifs.txt"
ALIGNMENT, PHASTCONS, PHYLOP = "alignment.chr1_0_{}.fa", "phastcons.bedGraph", "phylop.bedGraph"
MIN_LETTERS = 10_000
SHARES = {"chr1": 0.5, "chr2": 0.3, "chr3": 0.2}  # of all letters
REPEAT, REPEAT_SHARE, DIVERGENCE = 300, 0.3, 0.08  # length of the family's consensus; share of the genome; of a copy's letters
TANDEM_SHARE = 0.05
SPECIES, DISTANT = 20, 12  # rows besides the target; of these, how many form a distant clade, which outvotes the others
CONSERVED, CONSERVED_SHARE = 60, 0.2  # length of a stretch; share of the columns
SLOW, FAST, GAPS = 0.1, 1.0, 0.08  # how fast letters change where conserved, and elsewhere; share of gaps elsewhere
CLADE, WITHIN, NEAR = 0.5, 0.05, 0.25  # share of letters that change on the way to the clade, within it, to each other species
TYPES = ("miRNA", "snoRNA", "tRNA", "rRNA")
RNAS_PER_TYPE, RNA_DIVERGENCE = 150, 0.15
RNA_MOTIFS = ("UGUAAAUA", "ACUAAC", "GCAUGCAU", "UUUAUUUU")  # one a type

_BASES = np.frombuffer(b"ACGT", np.uint8)
_NEXT = np.array([[0.31, 0.17, 0.26, 0.26], [0.33, 0.26, 0.06, 0.35], [0.27, 0.21, 0.26, 0.26], [0.21, 0.19, 0.26, 0.34]])


def simulate(folder: Path, letters: int = 200_000, seed: int = 0) -> list[Path]:
    """Write the files into ``folder``, which is made if needed, and return their paths. The genome has about ``letters``.

    Raises:
        UserError: too few letters, or the folder is not empty, or cannot be written.
    """
    folder = Path(folder)
    if letters < MIN_LETTERS:
        raise UserError(f"letters {letters}: must be at least {MIN_LETTERS:,}")
    check_writable(folder, "folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"folder {folder}: exists, and is not empty; name one that is new")
    rng = np.random.default_rng(seed)
    family = _background(rng, REPEAT)
    chromosomes = {name: _chromosome(rng, round(share * letters), family) for name, share in SHARES.items()}
    first, _ = chromosomes["chr1"]
    conserved = _stretches(rng, len(first), CONSERVED, CONSERVED_SHARE)
    motifs = [_codes(motif.replace("U", "T")) for motif in RNA_MOTIFS]
    texts = {
        GENOME: "".join(_fasta(name, _spelled(*found)) for name, found in chromosomes.items()),
        ALIGNMENT.format(len(first)): "".join(
            _fasta("target" if not row else f"species{row}", text) for row, text in enumerate(_alignment(rng, first, conserved))
        ),
        PHASTCONS: "".join(_bed_graph("chr1", np.where(conserved, 0.95, 0.02))),
        PHYLOP: "".join(_bed_graph("chr1", np.where(conserved, 4.0, -0.3))),
        RNA: "".join(
            _fasta(f"{kind}{number} {kind}", _spelled(codes).replace("T", "U"))
            for kind, motif in zip(TYPES, motifs, strict=True)
            for number, codes in enumerate(_rnas(rng, motif))
        ),
        MOTIFS: "\n".join(RNA_MOTIFS) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with atomic(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _background(rng: np.random.Generator, length: int) -> np.ndarray:
    """Codes 0 to 3 of ACGT (length,), a first-order Markov chain."""
    steps, codes = _NEXT.cumsum(axis=1), np.empty(length, np.int64)
    state, draws = int(rng.integers(4)), rng.random(length)
    for at in range(length):
        state = min(int(np.searchsorted(steps[state], draws[at], side="right")), 3)
        codes[at] = state
    return codes


def _chromosome(rng: np.random.Generator, length: int, family: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes (length,), and where a repeat lies."""
    codes, repeats = _background(rng, length), np.zeros(length, bool)
    for _ in range(round(REPEAT_SHARE * length / REPEAT)):
        copy = _mutated(rng, family, DIVERGENCE)
        at = int(rng.integers(max(length - REPEAT, 1)))
        codes[at : at + REPEAT] = (copy if rng.random() < 0.5 else 3 - copy[::-1])[: length - at]
        repeats[at : at + REPEAT] = True
    done = 0
    while done < TANDEM_SHARE * length:
        unit, times = rng.integers(4, size=int(rng.integers(2, 7))), int(rng.integers(8, 30))
        run = np.tile(unit, times)
        at = int(rng.integers(max(length - len(run), 1)))
        codes[at : at + len(run)] = run[: length - at]
        repeats[at : at + len(run)] = True
        done += len(run)
    return codes, repeats


def _stretches(rng: np.random.Generator, length: int, size: int, share: float) -> np.ndarray:
    """True (length,) in stretches of ``size`` that take up about this share."""
    inside = np.zeros(length, bool)
    for start in np.flatnonzero(rng.random(length // size) < share) * size:
        inside[start : start + size] = True
    return inside


def _mutated(rng: np.random.Generator, codes: np.ndarray, share: float | np.ndarray) -> np.ndarray:
    """The codes with a share of them replaced by another one."""
    changed = rng.random(len(codes)) < share
    return np.where(changed, (codes + rng.integers(1, 4, len(codes))) % 4, codes)


def _alignment(rng: np.random.Generator, target: np.ndarray, conserved: np.ndarray) -> Iterator[str]:
    """The target and its relatives; gaps lie outside of what is conserved."""
    yield _spelled(target)
    rate = np.where(conserved, SLOW, FAST)
    clade = _mutated(rng, target, CLADE * rate)
    for number in range(SPECIES):
        codes = _mutated(rng, clade, WITHIN * rate) if number < DISTANT else _mutated(rng, target, NEAR * rate)
        row = _BASES[codes]
        row[~conserved & (rng.random(len(target)) < GAPS)] = ord("-")
        yield row.tobytes().decode()


def _rnas(rng: np.random.Generator, motif: np.ndarray) -> Iterator[np.ndarray]:
    """The members of one family."""
    ancestor = _background(rng, int(rng.integers(80, 200)))
    for _ in range(RNAS_PER_TYPE):
        member = _mutated(rng, ancestor, RNA_DIVERGENCE)[int(rng.integers(10)) : len(ancestor) - int(rng.integers(10))]
        at = int(rng.integers(len(member) - len(motif)))
        member[at : at + len(motif)] = motif
        yield member


def _codes(text: str) -> np.ndarray:
    return np.searchsorted(_BASES, np.frombuffer(text.encode(), np.uint8))


def _spelled(codes: np.ndarray, lower: np.ndarray | None = None) -> str:
    text = _BASES[codes]
    return (text if lower is None else text + 32 * lower.astype(np.uint8)).tobytes().decode()


def _fasta(title: str, text: str) -> str:
    return f">{title}\n" + "".join(text[at : at + 80] + "\n" for at in range(0, len(text), 80))


def _bed_graph(chromosome: str, values: np.ndarray) -> Iterator[str]:
    edges = np.append(np.append(0, np.flatnonzero(np.diff(values)) + 1), len(values))
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield f"{chromosome}\t{start}\t{end}\t{values[start]:g}\n"
