"""Motifs of a model: stretches of letters that raise its score, put together where they are alike, and compared with known ones.

Stretches are tangermeme's recursive seqlets. Two are alike where memelite's Tomtom (after Gupta et al. 2007, Genome Biol 8:R24)
says so of the letters that the model would accept there. A motif is a seqlet with all that are like it and in no motif yet, the
seqlet with most of them first; it counts the letters of the windows. Only stretches that raise the score are called: explain
another class for those that lower it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.files.motif_files import Motif

from .attribution import Attribution, N, explaining

MAX_SEQLETS = 1000  # those with the smallest p; each is compared with each
FLANK = 2  # letters beside a seqlet that are compared, too: seqlets are called short
ALIKE = 1e-3  # Tomtom's p of two seqlets below which they belong together
MIN_SITES = 10  # seqlets of a motif
MIN_BITS = 0.3  # information of a motif's first and last column
MAX_LENGTH = 25  # of a seqlet
FEW_KNOWN = 25  # columns of fewer known motifs are a poor background
MAX_MATCHES = 5  # known motifs that are listed for each of the model's


@dataclass(frozen=True)
class Seqlet:
    """A stretch [start, end) of a window that raises the score; ``attribution`` is its sum. p ranks, and is no error rate."""

    window: int
    start: int
    end: int
    attribution: float
    p: float


@dataclass(frozen=True)
class Match:
    """How alike a motif and a known one are: Tomtom's p of the best alignment, and q by Benjamini and Hochberg over all pairs.

    ``overlap`` columns are aligned, the motif's first one at column ``offset`` of the known one, which is reverse-complemented on
    ``strand`` -.
    """

    motif: str
    known: str
    p: float
    q: float
    offset: int
    overlap: int
    strand: str


def seqlets(found: Attribution) -> list[Seqlet]:
    """The seqlets of all windows, by p. None where all attributions are equal."""
    import torch

    call = explaining("tangermeme.seqlet").recursive_seqlets
    values = np.nan_to_num(found.actual)
    if values.shape[1] < 4 or values.max() <= 0:
        return []
    rows = call(torch.from_numpy(values), max_seqlet_len=min(MAX_LENGTH, values.shape[1]))
    called = [Seqlet(*map(int, row[:3]), *map(float, row[3:])) for row in rows.itertuples(index=False, name=None)]
    return [one for one in called if one.attribution > 0 and one.end <= len(found.windows[one.window])]


def aggregate(found: Attribution, called: Sequence[Seqlet]) -> list[Motif]:
    """The motifs that the seqlets make, named ``motif_1`` and so on; those with most sites first."""
    chosen = sorted(called, key=lambda one: one.p)[:MAX_SEQLETS]
    if len(chosen) < MIN_SITES:
        return []
    accepted = _accepted(found, chosen)
    starts = [max(0, one.start - FLANK) for one in chosen]
    ends = [min(len(found.windows[one.window]), one.end + FLANK) for one in chosen]
    columns = [accepted[one.window, start:end].T for one, start, end in zip(chosen, starts, ends, strict=True)]
    p, _, offsets, *_ = _tomtom(columns, columns, both_strands=False)
    codes, left, made = found.codes, np.ones(len(chosen), bool), list[tuple[np.ndarray, int]]()
    while True:
        alike = (p < ALIKE) & left & left[:, None]
        number = alike.sum(axis=1)
        centre = int(number.argmax())
        if number[centre] < MIN_SITES:
            break
        members = np.flatnonzero(alike[centre])
        left[members] = False
        firsts = [(chosen[one].window, starts[one] + int(offsets[centre, one])) for one in members]
        counts = _counted(codes, firsts, -FLANK, columns[centre].shape[1] + FLANK)
        if (pwm := _trimmed(counts)) is not None:
            made.append((pwm, len(members)))
    return [Motif(f"motif_{place}", pwm, sites) for place, (pwm, sites) in enumerate(made, start=1)]


def compare(motifs: Sequence[Motif], known: Sequence[Motif], both_strands: bool = True) -> tuple[list[Match], list[str]]:
    """The MAX_MATCHES most similar known motifs of each, most similar first; and what is to be known of them, as sentences."""
    from scipy.stats import false_discovery_control

    if not motifs or not known:
        return [], []
    p, _, offsets, overlaps, strands = _tomtom([one.pwm.T for one in motifs], [one.pwm.T for one in known], both_strands)
    few = f"known motifs: {len(known)}, fewer than {FEW_KNOWN}, so that Tomtom's p-values depend on which these are"
    notes = [few] if len(known) < FEW_KNOWN else []
    p = np.clip(p, 0, 1)
    q = false_discovery_control(p.ravel()).reshape(p.shape)
    matches = []
    for row, motif in enumerate(motifs):
        for column in np.argsort(p[row], kind="stable")[:MAX_MATCHES]:
            place = row, int(column)
            strand = "-" if strands[place] else "+"
            whole = int(offsets[place]), int(overlaps[place])
            matches.append(Match(motif.name, known[column].name, float(p[place]), float(q[place]), *whole, strand))
    return matches, notes


def _tomtom(queries: Sequence[np.ndarray], targets: Sequence[np.ndarray], both_strands: bool) -> Any:
    tomtom = explaining("memelite").tomtom
    given = ([np.ascontiguousarray(one, np.float64) for one in group] for group in (queries, targets))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few targets, which compare() says
        return tomtom(*given, reverse_complement=both_strands)


def _accepted(found: Attribution, chosen: Sequence[Seqlet]) -> np.ndarray:
    """What letters the model would accept at each position (N, L, 4): the softmax of changes, in units of their spread."""
    values = np.nan_to_num(found.hypothetical if found.changes is None else found.changes).astype(np.float64)
    unit = np.concatenate([values[one.window, one.start : one.end].ravel() for one in chosen]).std() or 1.0
    scaled = np.exp((values - values.max(axis=2, keepdims=True)) / unit)
    return scaled / scaled.sum(axis=2, keepdims=True)


def _counted(codes: np.ndarray, firsts: Sequence[tuple[int, int]], before: int, after: int) -> np.ndarray:
    """How often each letter (columns, 4) stands from ``before`` to ``after`` a site, which begins at (window, position)."""
    windows, positions = np.array(firsts).T
    at = positions[:, None] + np.arange(before, after)  # (sites, columns)
    inside = (at >= 0) & (at < codes.shape[1])
    letters = np.where(inside, codes[windows[:, None], at.clip(0, codes.shape[1] - 1)], N)
    return np.stack([(letters == letter).sum(axis=0) for letter in range(4)], axis=1)


def _trimmed(counts: np.ndarray) -> np.ndarray | None:
    """Counts as probabilities, without columns at the ends that say little; None where all do, or fewer than 4 are left."""
    counts = counts[counts.sum(axis=1) > 0]
    pwm = counts / counts.sum(axis=1, keepdims=True)
    telling = np.flatnonzero(Motif("", pwm).information >= MIN_BITS)
    if not len(telling) or telling[-1] - telling[0] < 3:
        return None
    return pwm[telling[0] : telling[-1] + 1]
