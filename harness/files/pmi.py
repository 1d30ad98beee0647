"""Tables of pointwise mutual information (PMI): how much more often the letters of a k-mer stand together than their parts would.

GeneMask (Roy et al., ECAI 2023, https://doi.org/10.3233/FAI230492) masks k-mers by the ranks of such a table. Its own is under
the GPL; here is the formula that all its 4,096 rows follow, to the last digits that the counts allow:

* f(g): how often the n-gram g occurs, overlaps included; T: all letters A, C, G, T. log p(g) = ln(f(g) / 2T), whatever n.
* naive = log p(w) - the sum of log p of its letters.
* true = the least log p(w) - log p(w[:i]) - log p(w[i:]) for i = 1 … k - 2; the split before the last letter is left out.
* dp = the least PMI over all ways to cut w into parts of one or two letters.
* norm = dp times the discount ln f / (ln f + ln min_count). The largest has rank 1.

A word of two letters has only one cut, so that all three are the same.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import BadData, UserError

from .atomic import atomic
from .fingerprint import file_digest
from .sequences import sequence_files
from .sources import Transferred
from .table import Table

if TYPE_CHECKING:
    from .ngrams import Ngrams

SHORTEST, LONGEST = 2, 8  # letters of a k-mer
MIN_COUNT = 101  # of the published table
TIE = 9  # decimals beyond which scores that the formula makes equal may differ by rounding
SCORES = ("discount", "naive", "true", "dp", "norm")
EXPECTED = "a PMI table, as `harness data pmi` writes it"

# Of each column, the names that are read: ours, and those of the published table.
_COLUMNS = {
    "ngram": ("ngram",),
    "frequency": ("frequency",),
    "discount": ("discount",),
    "naive": ("naive", "naive.pmi"),
    "true": ("true", "true.pmi"),
    "dp": ("dp", "dp.true.pmi"),
    "norm": ("norm", "norm_dp_true_pmi"),
    "rank": ("rank", "norm_pmi_rank_rel"),
}


@dataclass(frozen=True, eq=False)
class PmiTable:
    """PMI of all k-mers; each array is (4^k,), in lexicographic order: A, C, G, T are the digits 0 to 3, the first the highest.

    ``counts`` are int64, 0 where a file does not say them. ``scores`` maps each of SCORES to float64, NaN where a k-mer has no
    rank or the file lacks the column. ``ranks`` are int64: 1 for the largest norm, 4^k for every k-mer without a rank, of which
    ``ranked`` have one. ``made`` says what the table was made of.
    """

    k: int
    counts: np.ndarray
    scores: dict[str, np.ndarray]
    ranks: np.ndarray
    ranked: int
    made: dict[str, Any]

    def order(self) -> np.ndarray:
        """The numbers of the k-mers that have a rank, in lexicographic order."""
        return np.flatnonzero(self.ranks <= self.ranked)


def count_pmi(texts: Iterable[str], k: int, min_count: int = MIN_COUNT) -> PmiTable:
    """The table of sequences in memory, each in any usual spelling; n-grams do not reach from one into the next.

    Raises:
        UserError: ``k`` is not SHORTEST to LONGEST, or ``min_count`` below 2.
        BadData: a letter that is none, or no k-mer that occurs often enough.
    """
    from .ngrams import Ngrams

    check_request(k, min_count)
    grams = Ngrams(k)
    for number, text in enumerate(texts, start=1):
        try:
            grams.add(b">\n" + text.encode("ascii", "replace") + b"\n")
        except ValueError as error:
            raise BadData(f"sequence {number:,}: {str(error).partition(': ')[2]}") from None
    grams.end()
    return _table(grams, min_count, "the sequences")


def genome_pmi(path: Path, k: int, min_count: int = MIN_COUNT, progress: Transferred = lambda done, total: None) -> PmiTable:
    """The table of a genome: FASTA (plain, gzip or bgzip), 2bit, or a folder of such files. Memory does not grow with it.

    Raises:
        UserError: ``k`` is not SHORTEST to LONGEST, or ``min_count`` below 2.
        BadData: a file is none of these or damaged, they hold N only, or no k-mer occurs often enough.
    """
    from .ngrams import count_genome

    check_request(k, min_count)
    return _table(count_genome(sequence_files(path), k, progress), min_count, str(path))


def check_request(k: int, min_count: int) -> None:
    """Refuse what cannot be counted.

    Raises:
        UserError: ``k`` is not SHORTEST to LONGEST, or ``min_count`` below 2.
    """
    if not SHORTEST <= k <= LONGEST:
        raise UserError(f"k {k}: k-mers of {SHORTEST} to {LONGEST} letters can be counted; choose another --k")
    if min_count < 2:
        raise UserError(f"min-count {min_count}: must be 2 or more, as the discount is ln f / (ln f + ln min-count)")


def _table(grams: Ngrams, min_count: int, source: str) -> PmiTable:
    counts = grams.counts()
    letters, k = int(counts[0].sum()), grams.k
    if not letters:
        held = f"{grams.unknown:,} N and other ambiguous letters only" if grams.unknown else "no letters"
        raise BadData(f"{source}: {held}, so there is nothing to count; give a sequence with A, C, G and T")
    scores, ranks = pmi(counts, min_count)
    ranked = int((~np.isnan(scores["norm"])).sum())
    if not ranked:
        raise BadData(
            f"{source}: none of its {k}-mers occurs {min_count} times (the commonest: {counts[-1].max():,}); "
            "give more sequence, or a smaller --k or --min-count"
        )
    made = {"letters": letters, "unknown": grams.unknown, "stretches": grams.runs, "records": grams.records}
    return PmiTable(k, counts[-1], scores, ranks, ranked, {"source": source, **made, "min_count": min_count})


def pmi(counts: Sequence[np.ndarray], min_count: int = MIN_COUNT) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """SCORES and ranks of k-mers, as a :class:`PmiTable` has them.

    ``counts[n - 1]`` (4^n,) says for n = 1 to k how often each n-gram occurs. Of equal scores the lexicographically first k-mer
    ranks first.
    """
    k = len(counts)
    words = np.flatnonzero(counts[-1] >= min_count)
    with np.errstate(divide="ignore"):
        logs = [np.log(np.asarray(of, np.float64) / (2 * counts[0].sum())) for of in counts]

    def log_p(start: int, end: int) -> np.ndarray:
        """Of the part from one letter to another of each word."""
        return logs[end - start - 1][(words >> 2 * (k - end)) & (4 ** (end - start) - 1)]

    whole, letters = log_p(0, k), [log_p(at, at + 1) for at in range(k)]
    likeliest = [np.zeros(len(words)), letters[0]]  # log p of the best cut of the first letters
    for end in range(2, k + 1):
        pair = likeliest[end - 2] + log_p(end - 2, end) if k > 2 else -np.inf
        likeliest.append(np.maximum(likeliest[end - 1] + letters[end - 1], pair))
    frequency = np.log(counts[-1][words])
    discount = frequency / (frequency + math.log(min_count))
    dp = whole - likeliest[k]
    found = {
        "discount": discount,
        "naive": whole - np.sum(letters, axis=0),
        "true": np.min([whole - log_p(0, cut) - log_p(cut, k) for cut in range(1, max(k - 1, 2))], axis=0),
        "dp": dp,
        "norm": dp * discount,
    }
    scores = {name: np.full(4**k, np.nan) for name in SCORES}
    for name in SCORES:
        scores[name][words] = found[name]
    ranks = np.full(4**k, 4**k, np.int64)
    ranks[words[np.argsort(-found["norm"].round(TIE), kind="stable")]] = np.arange(1, len(words) + 1)
    return scores, ranks


def spelled(number: int, k: int) -> str:
    """The letters of a k-mer."""
    return "".join("ACGT"[number >> 2 * (k - 1 - at) & 3] for at in range(k))


def write_pmi(table: PmiTable, path: Path) -> None:
    """Write the k-mers that have a rank as CSV, in lexicographic order; :func:`read_pmi` gives the same numbers again."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for word in table.order().tolist():
            scores = [repr(float(table.scores[name][word])) for name in SCORES]
            writer.writerow([spelled(word, table.k), table.counts[word], *scores, table.ranks[word]])


def read_pmi(path: Path, k: int | None = None) -> PmiTable:
    """The table of a file that :func:`write_pmi` made, or of one like GeneMask's published table.

    Read are k-mers and ranks, and what the file has of counts and scores. With ``k``, no other is taken.

    Raises:
        BadData: the file is no such table, has k-mers of another length, or is damaged; the message names the line.
    """
    file = Table(path, EXPECTED)
    columns = {name: file.optional_column(names) for name, names in _COLUMNS.items()}
    if columns["ngram"] is None or columns["rank"] is None:
        raise BadData(f"{path}: lacks the columns ngram and rank; expected {EXPECTED}")
    known = [name for name in _COLUMNS if columns[name] is not None]
    rows = dict[str, list[float]]()
    for where, (ngram, *fields) in file.rows([column for column in columns.values() if column is not None]):
        word = _word(where, ngram)
        if word in rows:
            raise BadData(f"{where}: {word} for the second time; write the table anew with `harness data pmi`")
        if rows and len(word) != len(next(iter(rows))):
            raise BadData(f"{where}: {word} has {len(word)} letters, those before it {len(next(iter(rows)))}")
        rows[word] = [_number(where, name, field) for name, field in zip(known[1:], fields, strict=True)]
    if not rows:
        raise BadData(f"{path}: has no rows; expected {EXPECTED}")
    return _read(path, rows, known[1:], k)


def _word(where: str, ngram: str) -> str:
    word = ngram.upper().replace("U", "T")
    if not SHORTEST <= len(word) <= LONGEST or word.strip("ACGT"):
        raise BadData(f"{where}: {ngram[:40]!r} is no word of {SHORTEST} to {LONGEST} letters A, C, G, T; expected {EXPECTED}")
    return word


def _number(where: str, name: str, field: str) -> float:
    try:
        value = float(field)
        if not math.isfinite(value) or (name in ("rank", "frequency") and (value < 1 or value != int(value))):
            raise ValueError
    except ValueError:
        raise BadData(f"{where}: {name} {field[:40]!r} is damaged; write the table anew with `harness data pmi`") from None
    return value


def _read(path: Path, rows: dict[str, list[float]], known: Sequence[str], expected: int | None) -> PmiTable:
    k = len(next(iter(rows)))
    if expected is not None and k != expected:
        raise BadData(f"{path}: a table of {k}-mers, not {expected}-mers; `harness data pmi --k {expected}` makes one")
    words = np.array([int(word.translate(str.maketrans("ACGT", "0123")), 4) for word in rows])
    values = dict(zip(known, np.array(list(rows.values())).T, strict=True))
    given = values["rank"].astype(np.int64)
    if (np.sort(given) != np.arange(1, len(rows) + 1)).any():
        raise BadData(
            f"{path}: the ranks of its {len(rows):,} rows are not 1 to {len(rows):,}, each once: is it cut? "
            "Write it anew with `harness data pmi`"
        )
    counts, ranks = np.zeros(4**k, np.int64), np.full(4**k, 4**k, np.int64)
    scores = {name: np.full(4**k, np.nan) for name in SCORES}
    ranks[words] = given
    counts[words] = values.get("frequency", 0)
    for name in SCORES:
        scores[name][words] = values.get(name, np.nan)
    return PmiTable(k, counts, scores, ranks, len(rows), {"file": path.name, "sha256": file_digest(path)})
