"""GeneMask's objective: besides spans of k-mers, what lies around the neighbours of highest mutual information is hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.adapter import Adapter
from harness.errors import BadData, UserError
from harness.objective import Training

from ._kmer_bert import SPECIALS, lexicographic
from ._options import checked
from ._span import Contiguous, reach, span_offsets, spans, spread

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


def ranks_by_token(by_letters: np.ndarray, k: int) -> np.ndarray:
    """Ranks (4^k,) of k-mers in the order of A, C, G, T by token id, (5 + 4^k,) int64; 0 for special tokens."""
    return np.concatenate([np.zeros(len(SPECIALS), np.int64), by_letters[lexicographic(k)]])


class Pmi(Contiguous):
    """GeneMask's: spans as DNABERT's, and segments of up to 2k - 1 tokens around their k-mers of highest mutual information.

    ``ranks`` ``content``, as the paper describes it, takes the rank of the k-mer that stands at a place; one without a rank comes
    last. ``position`` is the released code, which takes the number of the place in its row for a token's id: ranks do not depend
    on the sequence, and an id without a rank comes first. ``pmi`` is a table of ``harness data pmi``, or the published one; by
    default the ranks are computed from the letters trained on. About ``share`` of the tokens are hidden, 15.4 % at 512 tokens and
    more in shorter windows, because the authors' rate of centres, 0.0176, is for 15 %.
    """

    def __init__(self, *, ranks: str = "content", pmi: str = "", share: float = SHARE, lengths: str = "full") -> None:
        super().__init__(lengths)
        if not 0 < share < 1:
            raise UserError(f"option share={share}: must be above 0 and below 1")
        self.ranks, self.pmi, self.share = checked("ranks", ranks, RANKS), pmi, share

    def attach(self, adapter: Adapter) -> None:
        super().attach(adapter)
        if self.pmi:
            from harness.files.pmi import read_table

            table = read_table(Path(self.pmi))
            if table.k != self.k:
                raise UserError(f"option pmi={self.pmi}: a table of {table.k}-mers, and {adapter.name} reads {self.k}-mers")
            self._take(table.ranks, {"sha256": table.sha256})

    def prepare(self, training: Training) -> None:
        """Compute the ranks, unless a table is given.

        Raises:
            BadData: no k-mer is frequent enough to have a rank.
        """
        if self.pmi:
            return
        from harness.files.pmi import count

        table = count(training.texts(), self.k)
        if not table.ranks.any():
            raise BadData(f"{training.source.path}: too short to rank its {self.k}-mers; give a table with --option pmi=FILE")
        self._take(table.ranks, {"computed": "from the letters trained on"})
        self.notes = [
            f"{np.count_nonzero(table.ranks):,} {self.k}-mers are ranked by the letters to train on, as no table is given"
        ]

    def _take(self, ranks: np.ndarray, origin: dict[str, Any]) -> None:
        """Use the ranks of k-mers (4^k,) in the order of A, C, G, T, 0 where there is none."""
        self._facts = {"k": self.k, **origin, "ranks": ranks.tolist()}
        self._by_token = ranks_by_token(ranks, self.k)
        if self.ranks == "content":
            self._by_token[self._by_token == 0] = ranks.max() + 1

    def facts(self) -> dict[str, Any]:
        """``ranks`` of all k-mers in the order of A, C, G, T, 0 where there is none, and where they are from."""
        return self._facts

    def rate(self, progress: float | None) -> float:
        return CENTRES * self.share / SHARE

    def choose(self, tokens: np.ndarray, centres: np.ndarray, eligible: np.ndarray) -> np.ndarray:
        if self.ranks == "content":
            return segments(centres, eligible, self._by_token[tokens], self.k)
        places = self._by_token[: tokens.shape[1]]
        return segments(centres, eligible, np.pad(places, (0, tokens.shape[1] - len(places))), self.k)
