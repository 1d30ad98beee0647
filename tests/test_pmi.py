"""PMI tables: scored as GeneMask's published table was, written and read, and the command that makes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SHARED
from scipy.stats import spearmanr
from test_ngrams import assert_same, slow_counts

from harness.errors import BadData, UserError
from harness.files.pmi import SCORES, PmiTable, count_pmi, genome_pmi, pmi, read_pmi, spelled, write_pmi

GOLDEN = json.loads((ROOT / "tests/golden/pretraining/genemask_pmi.json").read_text())
PUBLISHED = SHARED / "reference/checkpoints/genemask_pmi_rank.csv"
CHR2 = SHARED / "data/genomic_benchmarks/hg38_chr2_1-2333275.fa.gz"


def number(word: str) -> int:
    return int(word.translate(str.maketrans("ACGT", "0123")), 4)


# --- Scores ---------------------------------------------------------------------------------------------------------------


def test_the_golden_table_of_a_toy_corpus():
    toy = GOLDEN["toy"]
    table = count_pmi(toy["sequences"], 6, toy["min_occurrence"])
    assert (table.ranked, table.made["letters"]) == (toy["n_rows"], toy["T"])
    for row in toy["rows"]:
        word = number(row["ngram"])
        assert (table.counts[word], table.ranks[word]) == (row["frequency"], row["rank"])
        for name in SCORES:
            assert table.scores[name][word] == pytest.approx(row[name], rel=1e-12)


def test_golden_rows_of_the_published_table():
    """Counts of two to five letters are not among the golden rows; what needs none of them agrees."""
    genome = GOLDEN["genome"]
    counts = [np.ones(4**n, np.int64) for n in range(1, 7)]
    counts[0] = np.array(list(genome["unigram_counts"].values()))
    for row in GOLDEN["genome_rows"]:
        counts[5][number(row["ngram"])] = row["frequency"]
    scores, _ = pmi(counts, genome["min_occurrence"])
    for row in GOLDEN["genome_rows"]:
        word = number(row["ngram"])
        assert scores["naive"][word] == pytest.approx(row["naive"], abs=genome["tolerance_of_formula"]["naive"])
        assert scores["discount"][word] == pytest.approx(row["discount"], rel=1e-9)
        assert row["dp"] * scores["discount"][word] == pytest.approx(row["norm"], rel=1e-9)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs ../shared, with the published table")
def test_all_rows_of_the_published_table():
    """Its discounts say the counts of the 6-mers, and these, but for the ends of chromosomes, the shorter ones'. Tolerances have four places."""
    genome, tolerance = GOLDEN["genome"], GOLDEN["genome"]["tolerance_of_formula"]
    published = read_pmi(PUBLISHED)
    discount = published.scores["norm"] / published.scores["dp"]
    frequency = np.rint(np.exp(discount * np.log(genome["min_occurrence"]) / (1 - discount))).astype(np.int64)
    counts = [frequency.reshape(4**n, -1).sum(axis=1) for n in range(1, 7)]
    counts[0] = np.array(list(genome["unigram_counts"].values()))
    scores, ranks = pmi(counts, genome["min_occurrence"])
    assert published.ranked == 4096
    for name in ("naive", "true", "dp"):
        assert round(abs(scores[name] - published.scores[name]).max(), 4) <= tolerance[name]
    assert abs(ranks - published.ranks).max() <= tolerance["rank"]
    for row in GOLDEN["genome_rows"]:
        assert published.ranks[number(row["ngram"])] == row["rank"]


@pytest.mark.parametrize("k", [2, 3, 5])
def test_scores_are_those_of_the_definition(k):
    rng = np.random.default_rng(k)
    sequences = ["".join(rng.choice(list("ACGT"), 400, p=(0.4, 0.1, 0.2, 0.3)))]
    counts = slow_counts(sequences, k)
    table = count_pmi(sequences, k, 2)

    def log_p(gram: str) -> float:
        return float(np.log(counts[len(gram) - 1][number(gram)] / (2 * 400)))

    def cuts(word: str) -> list[float]:
        """The sum of log p of the parts of each way to cut the word into one or two letters."""
        if not word:
            return [0.0]
        return [log_p(word[:size]) + rest for size in (1, 2) if size <= len(word) for rest in cuts(word[size:])]

    for number_of, count in enumerate(counts[-1]):
        word, scores = spelled(number_of, k), {name: table.scores[name][number_of] for name in SCORES}
        assert number(word) == number_of
        if count < 2:
            assert np.isnan(list(scores.values())).all()
            assert table.ranks[number_of] == 4**k
            continue
        naive = log_p(word) - sum(map(log_p, word))
        dp = log_p(word) - max(cuts(word)) if k > 2 else naive  # two letters are not cut into themselves
        true = min(log_p(word) - log_p(word[:i]) - log_p(word[i:]) for i in range(1, k - 1)) if k > 2 else naive
        discount = np.log(count) / (np.log(count) + np.log(2))
        wanted = {"discount": discount, "naive": naive, "true": true, "dp": dp, "norm": dp * discount}
        assert scores == pytest.approx(wanted, abs=1e-12)
    order = sorted(table.order(), key=lambda word: -table.scores["norm"][word].round(9))
    assert table.ranks[order].tolist() == list(range(1, table.ranked + 1))


@pytest.mark.skipif(not (PUBLISHED.exists() and CHR2.exists()), reason="needs ../shared, with a stretch of chr2")
def test_a_stretch_of_chr2_ranks_words_much_like_the_whole_genome():
    table, published = genome_pmi(CHR2, 6), read_pmi(PUBLISHED)
    assert (table.made["letters"], table.made["unknown"], table.ranked) == (2_323_275, 10_000, 3661)
    assert spearmanr(table.ranks[table.order()], published.ranks[table.order()]).statistic > 0.92
    with_cpg = np.array(["CG" in spelled(word, 6) for word in range(4096)])
    assert np.median(table.ranks[with_cpg]) > 3400 > 1600 > np.median(table.ranks[~with_cpg])


# --- Files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table() -> PmiTable:
    return count_pmi(["".join(np.random.default_rng(4).choice(list("ACGT"), 300, p=(0.4, 0.3, 0.2, 0.1)))], 3, 4)


def test_a_table_that_is_written_is_read_as_the_same(table, tmp_path):
    assert 0 < table.ranked < 64
    write_pmi(table, tmp_path / "t.csv")
    read = read_pmi(tmp_path / "t.csv", 3)
    assert_same(read, table)
    assert read.ranks[table.counts < 4].tolist() == [64] * (64 - table.ranked)
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == "ngram,frequency,discount,naive,true,dp,norm,rank"
    assert [line.split(",")[0] for line in lines[1:]] == sorted(line.split(",")[0] for line in lines[1:])


def test_columns_of_the_published_table_are_read(tmp_path):
    (tmp_path / "t.csv").write_text(
        "ngram,naive.pmi,true.pmi,dp.true.pmi,norm_dp_true_pmi,ngram_size,norm_dp_true_pmi_rank,norm_pmi_rank_rel\n"
        "GGA,5.5,1.5,2.5,2.0,3,900,1\nACU,-0.5,-1,-1.5,-1.25,3,1200,2\n"
    )
    read = read_pmi(tmp_path / "t.csv")
    assert (read.k, read.ranked, read.ranks[number("GGA")], read.ranks[number("ACT")], read.ranks[0]) == (3, 2, 1, 2, 64)
    assert [read.scores[name][number("ACT")] for name in ("naive", "true", "dp", "norm")] == [-0.5, -1, -1.5, -1.25]
    assert not read.counts.any()
    assert read.order().tolist() == [number("ACT"), number("GGA")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("rank", "place"), "lacks the columns ngram and rank"),
        (lambda text: text.splitlines()[0], "has no rows"),
        (lambda text: "", "the file is empty"),
        (lambda text: text[: len(text) // 2].rpartition("\n")[0], "are not 1 to .*, each once: is it cut"),
        (lambda text: text + text.splitlines()[-1], "for the second time"),
        (lambda text: re.sub(r"\nAAC", "\nAAN", text), "line 3: 'AAN' is no word of 2 to 8 letters"),
        (lambda text: re.sub(r"\nAAC", "\nAACC", text), "line 3: AACC has 4 letters, those before it 3"),
        (lambda text: re.sub(r"\nAAC,\d+", "\nAAC,1.5", text), "line 3: frequency '1.5' is damaged"),
        (lambda text: re.sub(r"\n(AAC.*),\d+\n", "\n\\1,first\n", text), "line 3: rank 'first' is damaged"),
        (lambda text: re.sub(r"\n(AAC.*),\d+\n", "\n\\1\n", text), "line 3: 7 fields, fewer than"),
        (lambda text: re.sub(r"\n(AAC,\d+),[^,]+", "\n\\1,nan", text), "line 3: discount 'nan' is damaged"),
    ],
)
def test_damaged_tables_are_refused(table, change, message, tmp_path):
    write_pmi(table, tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text()
    (tmp_path / "t.csv").write_text(changed := change(text))
    assert changed != text
    with pytest.raises(BadData, match=message):
        read_pmi(tmp_path / "t.csv")


def test_a_table_of_another_k_is_refused(table, tmp_path):
    write_pmi(table, tmp_path / "t.csv")
    with pytest.raises(BadData, match=r"t\.csv: a table of 3-mers, not 6-mers; `harness data pmi --k 6` makes one"):
        read_pmi(tmp_path / "t.csv", 6)


def test_a_bad_letter_in_memory_names_the_sequence():
    with pytest.raises(BadData, match="sequence 2: 'X' is not an IUPAC nucleotide code"):
        count_pmi(["ACGT", "AXGT"], 2, 2)


@pytest.mark.parametrize(("k", "least", "message"), [(1, 101, "k 1: "), (9, 101, "k 9: "), (6, 1, "min-count 1: ")])
def test_settings_out_of_range_are_refused(k, least, message):
    with pytest.raises(UserError, match=message):
        count_pmi(["ACGT"], k, least)


# --- The command ----------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_counted(harness, tmp_path):
    rng = np.random.default_rng(5)
    letters = "".join(rng.choice(list("ACGT"), 900, p=(0.4, 0.3, 0.2, 0.1)))
    (tmp_path / "g.fa").write_text(f">x\n{letters[:400]}NNRy{letters[400:500]}\n>y\n{letters[500:]}\n")
    done = harness("data", "pmi", "g.fa", "--k", "3", "--min-count", "6", "--out", "t.csv")
    assert done.returncode == 0
    read = read_pmi(tmp_path / "t.csv")
    assert_same(read, count_pmi([letters[:400], letters[400:500], letters[500:]], 3, 6))
    assert "g.fa: 900 letters A, C, G, T; 4 N and other ambiguous letters" in done.stderr
    assert "records: 2, stretches without N: 3" in done.stderr
    assert 0 < read.ranked < 64
    assert f"{64 - read.ranked} of 64 3-mers occur less than 6 times: they are left out" in done.stderr
    assert f"t.csv: {read.ranked} 3-mers; the highest rank has {spelled(int(read.ranks.argmin()), 3)}" in done.stderr
    assert harness("data", "pmi", "g.fa", "--k", "3", "--min-count", "6", "--out", "t.csv", "--force", "--quiet").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["g.fa", "--out", "there.csv"], "out there.csv: exists"),
        (["g.fa", "--out", "t.txt"], "out t.txt: the name must end in .csv"),
        (["g.fa", "--out", "no/t.csv"], "there is no folder no"),
        (["g.fa"], "Missing option '--out'"),
        (["g.fa", "--out", "t.csv", "--k", "9"], "k 9: k-mers of 2 to 8 letters"),
        (["g.fa", "--out", "t.csv", "--min-count", "1"], "min-count 1: must be 2 or more"),
        (["g.fa", "--out", "t.csv", "--k", "5", "--k", "6"], "--k is given 2 times"),
        (["n.fa", "--out", "t.csv"], "n.fa: 8 N and other ambiguous letters only"),
        (["none.fa", "--out", "t.csv"], "none.fa: no such file"),
        (["empty", "--out", "t.csv"], "no file in this folder ends in"),
    ],
)
def test_the_command_refuses_in_two_lines_and_writes_nothing(harness, arguments, message, tmp_path):
    (tmp_path / "g.fa").write_text(">x\n" + "ACGTTGCA" * 200)
    (tmp_path / "n.fa").write_text(">x\nNNNNNNNN\n")
    (tmp_path / "there.csv").write_text("kept")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = harness("data", "pmi", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if "Missing" not in message:  # which typer says with the usage
        assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert Path("there.csv").read_text() == "kept"
