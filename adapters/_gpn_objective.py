"""GPN-MSA's objective (Benegas et al. 2025): conserved positions weigh more, and windows are drawn where conservation is high.

Upstream's ``gpn/msa/train.py`` weighs; ``analysis/gpn-msa_human/workflow/rules/training.smk`` selects the windows.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from harness.adapter import IGNORED, Batch
from harness.data import Locus, Window, bare
from harness.errors import BadData, DataMissing, UserError
from harness.files.fingerprint import file_digest, remembered
from harness.files.genome import Genome
from harness.objective import Source, Stretch, Training

from ._masking import Vote
from ._score_files import Lookup
from ._scores import Scores
from .phastcons import PhastCons
from .phylop import PhyloP

REACH = 3  # positions on either side whose highest phastCons counts
FLOOR = 0.1  # of a weight by phastCons
REPEAT = 0.1  # weight of soft-masked positions
UNCONSERVED, NOISE = 0.1, 0.5  # phastCons below which labels are noise, and how often they are
QUANTILE = 0.75  # of phastCons in a window, by which windows are selected
PIECE = 1 << 20  # positions whose scores are in memory at once
SAMPLE = 200  # windows at which a genome of repeats is compared with what is learned from
LEAST_ALIKE = 0.9  # of their letters
SEED = 42  # of the choice among the other windows


def smoothed(phastcons: np.ndarray) -> np.ndarray:
    """The highest phastCons within REACH positions of each, float64 (B, T); missing ones (nan), and those outside, are 0."""
    width = phastcons.shape[1]
    padded = np.pad(np.nan_to_num(phastcons, nan=0.0), ((0, 0), (REACH, REACH)))
    return reduce(np.maximum, (padded[:, at : at + width] for at in range(2 * REACH + 1)))


def loss_weights(conserved: np.ndarray, phylop: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """The weight of each position's loss, float64 (B, T), from :func:`smoothed` phastCons, phyloP (nan: 1) and repeats (bool)."""
    return np.where(repeats, REPEAT, 1.0) * np.fmax(phylop, 1.0) * (FLOOR + conserved)


def noise_probability(conserved: np.ndarray) -> np.ndarray:
    """How likely a position's label is replaced by a random base, float64 (B, T), from :func:`smoothed` phastCons."""
    return NOISE * (conserved < UNCONSERVED)


def relabel(targets: np.ndarray, noisy: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The targets (B, T), with ``ids`` (B, T) in place of those that are ``noisy`` (B, T)."""
    return np.where(noisy & (targets != IGNORED), ids, targets)


def upper_quartiles(values: np.ndarray, context: int, step: int) -> np.ndarray:
    """The 75th percentile of each window of ``context`` values, one every ``step``: float64, nan where one of the values is."""
    windows = np.sort(sliding_window_view(values, context)[::step], axis=1)  # nan comes last
    place = QUANTILE * (context - 1)
    below, above = windows[:, int(place)], windows[:, int(np.ceil(place))]
    return np.where(np.isnan(windows[:, -1]), np.nan, below + (above - below) * (place % 1))


class Plain(Vote):
    """Hides bases of the target row; the other rows stay. Upstream asks for gaps, too; here a gap or N is never asked for.

    A model that takes any number of species is set to that of the alignment.
    """

    def attach(self, adapter: Any) -> None:
        self._adapter = adapter

    def prepare(self, training: Training) -> None:
        species = len(training.source.facts().get("species", (None,))) - 1
        if species and self._adapter.species is None:
            self._adapter.species = species


class Weighted(Plain):
    """The published objective: 15 % of the bases are hidden, and the loss of one weighs more where it is conserved.

    The weight is max(phyloP, 1) x (0.1 + s), where s is the highest phastCons within 3 positions, and a tenth of that in repeats.
    Where s < 0.1, half of the labels become a random base, which may be the true one; those of held-out windows do not, unlike
    upstream's. Both strands are learned from.

    ``phastcons`` and ``phylop`` are bigWigs, bedGraphs or tables (default: what ``harness data get`` downloads), ``repeats`` is a
    genome with repeats in lower case (default: none weighs less). Windows begin every half context; those are drawn whose 75th
    percentile of phastCons is among the highest ``conserved`` share, ties included, and a share ``others`` of the rest, to which
    windows belong that have a position without phastCons. With ``conserved=1`` windows begin anywhere.
    """

    both_strands = True

    def __init__(
        self,
        *,
        share: float = 0.15,
        phastcons: str = "",
        phylop: str = "",
        repeats: str = "",
        conserved: float = 0.05,
        others: float = 0.001,
    ) -> None:
        super().__init__(share=share)
        if not 0 < conserved <= 1:
            raise UserError(f"option conserved={conserved}: must be above 0, and at most 1 (all windows)")
        if not 0 <= others <= 1:
            raise UserError(f"option others={others}: must be from 0 to 1")
        self.phastcons, self.phylop, self.repeats, self.conserved, self.others = phastcons, phylop, repeats, conserved, others
        self.notes: list[str] = []
        self._counts: dict[str, int] = {}

    def attach(self, adapter: Any) -> None:
        super().attach(adapter)
        self._lookups = _open(PhastCons, self.phastcons), _open(PhyloP, self.phylop)
        self._genome = Genome(Path(self.repeats).expanduser()) if self.repeats else None

    def regions(self, source: Source, context: int) -> Mapping[str, np.ndarray] | None:
        """As :meth:`Objective.regions`.

        Raises:
            BadData: scores or repeats are of another assembly, or do not cover what is learned from.
        """
        for lookup, probabilities in zip(self._lookups, (True, False), strict=True):
            self.notes += _check_scores(lookup, source, probabilities)
        if self._genome is None:
            self.notes.append("no repeats are down-weighted: --option repeats=GENOME takes a soft-masked one")
        else:
            _check_repeats(self._genome, source, context)
        stretches = [stretch for stretch in source.stretches if stretch[2] - stretch[1] >= context]
        if self.conserved == 1 or not stretches:
            return None
        key = [1, stretches, context, self.conserved, self.others]  # the first is a version
        paths = [self._lookups[0].path]
        found = remembered("conserved windows", paths, key, lambda: self._select(source, stretches, context))
        self._counts = found["counts"]
        self.notes.append(
            "of {windows:,} windows, {conserved:,} are drawn from because they are the most conserved, and {others:,} others; "
            "{unscored:,} have a position without phastCons".format(**self._counts)
        )
        chosen = np.unpackbits(np.frombuffer(base64.b64decode(found["chosen"]), np.uint8)).astype(bool)
        starts: dict[str, list[np.ndarray]] = {}
        for name, first, last in stretches:
            every = np.arange(first, last - context + 1, _step(context))
            starts.setdefault(name, []).append(every[chosen[: len(every)]])
            chosen = chosen[len(every) :]
        return {name: np.sort(np.concatenate(parts)) for name, parts in starts.items()}

    def _select(self, source: Source, stretches: Sequence[Stretch], context: int) -> dict[str, Any]:
        """Of all windows those to draw, as packed bits, and how many they are."""
        scores = np.concatenate([self._window_scores(*stretch, context) for stretch in stretches])
        known = scores[~np.isnan(scores)]
        if not len(known):
            raise BadData(
                f"{self._lookups[0].path}: no window of {context} nt of {source.path} has a score at each of its positions; give "
                "a file that covers more, a shorter --context, or --option conserved=1"
            )
        chosen = scores >= np.quantile(known, 1 - self.conserved)
        conserved, rest = int(chosen.sum()), np.flatnonzero(~chosen)
        others = round(self.others * len(rest))
        chosen[np.random.default_rng(SEED).choice(rest, others, replace=False)] = True
        counts = {"windows": len(scores), "unscored": len(scores) - len(known), "conserved": conserved, "others": others}
        return {"chosen": base64.b64encode(np.packbits(chosen).tobytes()).decode(), "counts": counts}

    def _window_scores(self, name: str, first: int, last: int, context: int) -> np.ndarray:
        """The 75th percentile of phastCons in each window of a stretch, float32 (windows,), as the files have it."""
        step = _step(context)
        starts = np.arange(first, last - context + 1, step)
        found = np.empty(len(starts), np.float32)
        for at in range(0, len(starts), PIECE // step + 1):
            part = starts[at : at + PIECE // step + 1]
            values = _values(self._lookups[0], Locus(_chromosome(name), int(part[0]), int(part[-1]) + context))
            found[at : at + len(part)] = upper_quartiles(values, context, step)
        return found

    def facts(self) -> dict[str, Any]:
        names = ("phastcons", "phylop")
        files: dict[str, Any] = {
            name: {"sha256": lookup.fingerprint, "sha256_of": lookup.hashed}
            for name, lookup in zip(names, self._lookups, strict=True)
        }
        if self._genome is not None:
            files["repeats"] = {"sha256": file_digest(self._genome.path), "sha256_of": "the file"}
        return {**files, "windows": self._counts}

    def collate(self, adapter: Any, windows: Sequence[Window], rng: np.random.Generator, progress: float | None = None) -> Batch:
        batch = super().collate(adapter, windows, rng, progress)
        targets = batch["targets"].numpy()
        phastcons, phylop, repeats = self._tracks(windows, targets.shape[1])
        conserved = smoothed(phastcons)
        weights = loss_weights(conserved, phylop, repeats)
        if progress is not None:
            noisy = rng.random(targets.shape, dtype=np.float32) < noise_probability(conserved)
            ids = adapter.random_ids
            targets = relabel(targets, noisy, ids[rng.integers(len(ids), size=targets.shape)])
        return batch | {"targets": torch.from_numpy(targets), "weights": torch.from_numpy(weights.astype(np.float32))}

    def _tracks(self, windows: Sequence[Window], width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """phastCons and phyloP (float64, nan where there is none) and repeats (bool) of the windows, (B, T) each."""
        phastcons, phylop = np.full((2, len(windows), width), np.nan)
        repeats = np.zeros((len(windows), width), bool)
        for row, window in enumerate(windows):
            locus, length = window.locus, len(window)
            if locus is None or locus.end - locus.start != length:
                raise UserError(
                    "objective weighted: scores are looked up by locus, and a window has none; give an alignment or a genome, or "
                    "--objective token"
                )
            phastcons[row, :length], phylop[row, :length] = (_values(lookup, locus) for lookup in self._lookups)
            if self._genome is not None:
                repeats[row, :length] = self._genome.soft_masked(locus)
        return phastcons, phylop, repeats


def _step(context: int) -> int:
    return max(context // 2, 1)


def _chromosome(stretch: str) -> str:
    """The chromosome that a stretch of a source is named after; in a folder of files, FILE/CHROMOSOME."""
    return bare(stretch.rpartition("/")[2])


def _values(lookup: Lookup, locus: Locus) -> np.ndarray:
    """The scores of a locus on its strand, float64 (length,); nan where there is none, and on chromosomes without any."""
    chromosome = bare(locus.chromosome)
    if chromosome not in lookup.chromosomes:
        return np.full(locus.end - locus.start, np.nan)
    found = lookup.values(chromosome, locus.start, locus.end)
    return found[::-1] if locus.strand == "-" else found


def _open(kind: type[Scores], given: str) -> Lookup:
    path = Path(given).expanduser() if given else kind.published()
    assert path is not None
    if not given and not path.is_file():
        raise DataMissing(
            f"objective weighted: {path} is missing; `harness data get {kind.card.scores}` downloads it, or give scores with "
            f"--option {kind.name}=FILE; --objective token needs none"
        )
    return kind.open_scores(path)


def _check_scores(lookup: Lookup, source: Source, probabilities: bool) -> list[str]:
    """What to say of chromosomes without scores.

    Raises:
        BadData: nothing that is learned from has a score, a chromosome is shorter in the file, or scores are no probabilities.
    """
    names = {_chromosome(name) for name, _, _ in source.stretches}
    lacking = sorted(names - set(lookup.chromosomes))
    if len(lacking) == len(names):
        raise BadData(
            f"{lookup.path}: holds chromosomes {_some(lookup.chromosomes)}, and {source.path} {_some(names)}: none in common; "
            "give scores of its assembly, or --objective token, which needs none"
        )
    here = [(_chromosome(name), start, end) for name, start, end in source.stretches if _chromosome(name) not in lacking]
    for name, _, end in here:
        lookup.values(name, end - 1, end)  # refuses what is off the chromosome
    pieces = (
        _values(lookup, Locus(name, at, min(at + PIECE, end))) for name, start, end in here for at in range(start, end, PIECE)
    )
    known = next((piece[~np.isnan(piece)] for piece in pieces if not np.isnan(piece).all()), None)
    if known is None:
        raise BadData(
            f"{lookup.path}: has no score at any position of {source.path}; is it of another part, or another assembly? "
            "--objective token needs none"
        )
    if probabilities and not 0 <= known.min() <= known.max() <= 1:
        raise BadData(
            f"{lookup.path}: scores from {known.min():g} to {known.max():g}, where phastCons are probabilities; if it is phyloP, "
            "give it with --option phylop"
        )
    return [f"{lookup.path.name}: no scores of chromosomes {_some(lacking)}, which count as unconserved"] if lacking else []


def _check_repeats(genome: Genome, source: Source, context: int) -> None:
    """Look at windows in equal distances.

    Raises:
        BadData: the genome lacks a chromosome, has other letters than the source, or none in lower case.
    """
    sizes = np.cumsum([max(end - start - context + 1, 0) for _, start, end in source.stretches])
    places = np.unique(np.linspace(0, max(sizes[-1] - 1, 0), SAMPLE).astype(int)) if sizes[-1] else np.zeros(0, int)
    masked, known, alike = False, 0, 0
    for place, number in zip(places.tolist(), np.searchsorted(sizes, places, "right").tolist(), strict=True):
        name, _, end = source.stretches[number]
        start = end - context + 1 - int(sizes[number]) + place
        window = source.window(Locus(name, start, start + context))
        assert window.locus is not None
        pairs = [pair for pair in zip(window.sequence, genome.sequence(window.locus), strict=True) if "N" not in pair]
        known, alike = known + len(pairs), alike + sum(a == b for a, b in pairs)
        masked = masked or bool(genome.soft_masked(window.locus).any())
    if alike < LEAST_ALIKE * known:
        raise BadData(
            f"{genome.path}: only {alike / known:.0%} of its letters are those of {source.path}; is it of another assembly?"
        )
    if len(places) and not masked:
        raise BadData(
            f"{genome.path}: no letter is in lower case in the {len(places):,} windows looked at, so it marks no repeats; give a "
            "soft-masked genome, or leave the option repeats out"
        )


def _some(names: Collection[str]) -> str:
    shown = sorted(names)
    return ", ".join(name[:40] for name in shown[:6]) + (", …" if len(shown) > 6 else "")
