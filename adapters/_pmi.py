"""GeneMask's objective: besides spans of k-mers, what lies around the neighbours of highest mutual information is hidden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.adapter import Adapter
from harness.errors import BadData, UserError
from harness.objective import Training

from ._kmer_bert import SPECIALS, lexicographic
from ._options import checked
from ._span import Contiguous, reach, span_offsets, spans, spread

if TYPE_CHECKING:
    from harness.files.pmi import PmiTable

RANKS = ("content", "position")
SHARE, CENTRES = 0.15, 0.0176  # the authors' rate of centres (0.15 / 8.5)
FEW = 5  # segments; where half of the centres are fewer, each has one


def segments(centres: np.ndarray, eligible: np.ndarray, ranks: np.ndarray, k: int) -> np.ndarray:
    """The tokens (B, T) that GeneMask's ``mask_tokens`` hides, of those that are eligible, around the ``centres`` (B, T).

    These are the span of each centre, and around the token of smallest rank in a span all tokens that share a letter with it:
    for half of a row's spans, those of the smallest ranks, or for all of them where half are fewer than five. Of equal ranks
    the centre's own counts, then the leftmost; of equal spans the leftmost.

    ``ranks`` (B, T) are integers of any kind, broadcast; 1 is the largest mutual information.
    """
    rows, columns = np.nonzero(centres)
    reached = reach(columns, span_offsets(k), centres.shape[1])  # (N, k)
    rank = np.broadcast_to(ranks, centres.shape)[rows[:, None], reached].astype(np.int64)
    rank[~eligible[rows[:, None], reached]] = np.iinfo(np.int64).max
    best = rank.argmin(axis=1)[:, None]
    best_column, best_rank = (np.take_along_axis(it, best, axis=1)[:, 0] for it in (reached, rank))
    counts = np.bincount(rows, minlength=len(centres))
    kept = (counts + 1) // 2
    kept[kept < FEW] = counts[kept < FEW]
    order = np.lexsort((best_rank, rows))  # stable; rows stay as they are
    top = order[np.arange(len(rows)) - (counts.cumsum() - counts)[rows] < kept[rows]]
    return spans(centres, eligible, k) | spread(rows[top], best_column[top], np.arange(1 - k, k), eligible)


class Pmi(Contiguous):
    """GeneMask's: spans as DNABERT's, and segments of up to 2k - 1 tokens around their k-mers of highest mutual information.

    ``ranks`` ``content``, as the paper describes it, takes the rank of the k-mer that stands at a place; one without a rank comes
    last. ``position`` is the released code, which takes the number of the place in its row for a token's id: ranks do not depend
    on the sequence, and an id without a rank comes first. ``pmi`` is a table of ``harness data pmi``, or the published one; by
    default the ranks are computed from the letters trained on. About ``share`` of the tokens are hidden: the authors' rate of
    centres, 0.0176 for 15 %, hides 15.2 % of 512 tokens and 17.2 % of 128; for k other than 6 it is adapted to the shorter spans.
    """

    def __init__(self, *, ranks: str = "content", pmi: str = "", share: float = SHARE, lengths: str = "full") -> None:
        super().__init__(lengths)
        if not 0 < share < 1:
            raise UserError(f"option share={share}: must be above 0 and below 1")
        self.ranks, self.pmi, self.share = checked("ranks", ranks, RANKS), pmi, share

    def attach(self, adapter: Adapter) -> None:
        """Reads the table, if one is given.

        Raises:
            BadData: it cannot be read, or is of another k.
        """
        super().attach(adapter)
        if self.pmi:
            from harness.files.pmi import read_pmi

            table = read_pmi(Path(self.pmi), self.k)
            if table.ranked < len(table.ranks):
                self.notes = [
                    f"{Path(self.pmi).name}: ranks {table.ranked:,} of {len(table.ranks):,} {self.k}-mers; the others come "
                    + ("last" if self.ranks == "content" else "first")
                ]
            self._take(table)

    def prepare(self, training: Training) -> None:
        """Computes the ranks, if no table is given. Few letters rank k-mers that are a quarter as frequent as the average.

        Raises:
            BadData: no k-mer is frequent enough to have a rank.
        """
        if self.pmi:
            return
        from harness.files.pmi import MIN_COUNT, count_pmi

        least = max(2, min(MIN_COUNT, training.letters // 4 ** (self.k + 1)))
        try:
            table = count_pmi(training.texts(), self.k, least)
        except BadData as error:
            what = (
                f"no {self.k}-mer occurs {least} times"
                if any(text.strip("N") for text in training.texts())
                else "every letter is N"
            )
            raise BadData(
                f"{training.source.path}: in what is trained on, {what}; give more sequence, or a table with --option pmi=FILE"
            ) from error
        self._take(replace(table, made=table.made | {"source": "the letters trained on"}))
        self.notes = [
            f"no PMI table is given: the letters trained on rank {table.ranked:,} of {4**self.k:,} {self.k}-mers, "
            f"those that occur {least} times or more"
        ]

    def _take(self, table: PmiTable) -> None:
        self._facts = {"k": self.k, **table.made, "ranked": table.ranked, "ranks": table.ranks.tolist()}
        absent = len(table.ranks) if self.ranks == "content" else 0
        ranks = np.where(table.ranks <= table.ranked, table.ranks, absent)[lexicographic(self.k)]
        self._by_token = np.concatenate([np.full(len(SPECIALS), absent), ranks])

    def facts(self) -> dict[str, Any]:
        """The ``ranks`` of all k-mers in lexicographic order (see :class:`PmiTable`), and what they were computed from."""
        return self._facts

    def rate(self, progress: float | None) -> float:
        return CENTRES * self.share / SHARE * (3 * 6 - 1) / (3 * self.k - 1)  # a centre hides k to 2k - 1 tokens, 8.5 on average

    def choose(self, tokens: np.ndarray, centres: np.ndarray, eligible: np.ndarray) -> np.ndarray:
        if self.ranks == "content":
            return segments(centres, eligible, self._by_token[tokens], self.k)
        places = self._by_token[: tokens.shape[1]]
        return segments(centres, eligible, np.pad(places, (0, tokens.shape[1] - len(places))), self.k)
