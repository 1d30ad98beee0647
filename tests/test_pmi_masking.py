"""GeneMask's masking by mutual information: upstream's recorded masks, a plain definition, ranks by letters and by place."""

from __future__ import annotations

import csv
import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, random_windows
from made_masks import columns, drawn, pretrained, recorded, write_runs
from test_pretrain import Listener

from harness import registry
from harness.adapter import IGNORED
from harness.adapters._kmer_bert import MASK, KmerBert, lexicographic, vocabulary
from harness.adapters._masking import hide
from harness.adapters._pmi import Pmi, segments
from harness.data import Window
from harness.errors import BadData, UserError
from harness.files.pmi import PmiTable, count_pmi, read_pmi, write_pmi

pytestmark = pytest.mark.usefixtures("quick_pretraining")

PUBLISHED = SHARED / "reference/checkpoints/genemask_pmi_rank.csv"
PARITY = SHARED / "parity/genemask"


def tiny(**options) -> KmerBert:
    torch.manual_seed(0)
    return registry.adapter_class("genemask").from_checkpoint(size="tiny", **options).eval()


def published_ranks(unknown: int) -> np.ndarray:
    """Ranks by token id, read here from the published file's own columns."""
    if not PUBLISHED.is_file():
        pytest.skip(f"needs {PUBLISHED}, the published table")
    with PUBLISHED.open(newline="") as file:
        ranks = {row["ngram"]: int(row["norm_pmi_rank_rel"]) for row in csv.DictReader(file)}
    return np.array([ranks.get(token, unknown) for token in vocabulary(6)])


def plainly(centres: list[int], end: int, rank: list[int], k: int) -> set[int]:
    """What is hidden of a row whose tokens are at 1 to ``end``, word by word as the method is described."""
    hidden, best = set(centres), []
    for centre in centres:
        found = centre
        for offset in [*range(-((k - 1) // 2), 0), *range(1, k // 2 + 1)]:
            if 1 <= centre + offset <= end:
                hidden.add(centre + offset)
                if rank[centre + offset] < rank[found]:
                    found = centre + offset
        best.append(found)
    half = math.ceil(len(centres) / 2)
    if half >= 5:
        best = sorted(best, key=lambda place: rank[place])[:half]
    for place in best:
        hidden |= {there for there in range(place - k + 1, place + k) if 1 <= there <= end}
    return hidden


class TestGolden:
    def test_upstreams_draws_give_upstreams_masks(self):
        (case,) = recorded("trimmed", "genemask_masking")
        tokens, ranks = np.array(case["input_ids"]), np.array(case["ranks"])
        eligible, centres, fates = drawn(case["seed"], tokens, case["mlm_probability"], 4101)
        assert columns(centres) == case["centres"]
        chosen = segments(centres, eligible, ranks, 6)
        assert columns(chosen) == case["masked_positions"]
        targets = hide(tokens, chosen, fates, MASK)
        assert tokens.tolist() == case["masked_inputs"]
        assert (targets[chosen] == np.array(case["input_ids"])[chosen]).all()

    @pytest.mark.parametrize("unknown", [4000, 0])
    def test_with_the_published_ranks_of_places(self, unknown):
        """An id without a rank has 4000 in the code, and 0 in what it pickles."""
        ranks = published_ranks(unknown)
        cases = recorded("complete", "genemask_masking")
        for case in cases:
            tokens = np.array(case["input_ids"])
            eligible, centres, fates = drawn(case["seed"], tokens, case["mlm_probability"], 4101)
            chosen = segments(centres, eligible, ranks[: tokens.shape[1]], 6)
            hide(tokens, chosen, fates, MASK)
            assert columns(chosen) == case[f"unknown_{unknown}"]["masked_positions"]
            assert tokens.tolist() == case[f"unknown_{unknown}"]["masked_inputs"]
        assert len(cases) == 3

    def test_parity_cases(self):
        """Among them rows of more than eight centres, of which half get a segment."""
        ranks = published_ranks(4000)
        arrays = np.load(PARITY / "arrays.npz")
        cases = json.loads((PARITY / "cases.json").read_text())["cases"]
        most = 0
        for case in (case for case in cases if case["kind"] == "genemask_masking"):
            expected = {name: arrays[key] for name, key in case["arrays"].items()}
            tokens = expected["input_ids"].copy()
            eligible, centres, fates = drawn(case["seed"], tokens, case["mlm_probability"], 4101)
            assert (centres == expected["mask_centers"]).all()
            targets = hide(tokens, segments(centres, eligible, ranks[: tokens.shape[1]], 6), fates, MASK)
            assert (targets == expected["labels"]).all()
            assert (tokens == expected["masked_inputs"]).all()
            most = max(most, int(centres.sum(axis=1).max()))
        assert most > 8


class TestSegments:
    @pytest.mark.parametrize("k", [3, 4, 5, 6])
    @pytest.mark.parametrize("ranks", [5, 4000], ids=["many ties", "few ties"])
    def test_the_plain_definition(self, k, ranks):
        rng = np.random.default_rng(k)
        ends = rng.integers(1, 118, size=60)
        eligible = (np.arange(120) >= 1) & (np.arange(120) <= ends[:, None])
        centres = eligible & (rng.random(eligible.shape) < rng.uniform(0.01, 0.2, (60, 1)))
        rank = rng.integers(0, ranks, eligible.shape)
        expected = [
            sorted(plainly(np.flatnonzero(row).tolist(), int(end), row_ranks.tolist(), k))
            for row, end, row_ranks in zip(centres, ends, rank, strict=True)
        ]
        assert columns(segments(centres, eligible, rank, k)) == expected
        assert centres.sum(axis=1).max() > 12
        assert centres.sum(axis=1).min() == 0

    def test_the_best_half_of_more_than_eight(self):
        """Centres 20 apart: of nine, the five of the best ranks hide 11 tokens in place of 6, of eight all do."""
        eligible = (np.arange(202) >= 1) & (np.arange(202) <= 200) & np.ones((2, 1), bool)
        centres = np.isin(np.arange(202), np.arange(10, 190, 20)) & np.ones((2, 1), bool)
        centres[1, 170] = False
        ranks = np.where(np.isin(np.arange(202), [30, 70, 110, 130, 170]), 1, 2)
        chosen = segments(centres, eligible, ranks, 6)
        runs = [[int(row[at - 10 : at + 10].sum()) for at in range(10, 190, 20)] for row in chosen]
        assert runs[0] == [6, 11, 6, 11, 6, 11, 11, 6, 11]
        assert runs[1] == [11] * 8 + [0]

    def test_no_centres(self):
        eligible = np.ones((3, 10), bool)
        assert not segments(np.zeros_like(eligible), eligible, np.zeros(10, int), 6).any()


def table_of(k: int, letters: int = 60_000) -> PmiTable:
    return count_pmi([window.sequence for window in random_windows(3, letters // 3, seed=9)], k, 2)


def attached(model: KmerBert, **options) -> Pmi:
    objective = Pmi(**options)
    objective.attach(model)
    return objective


def write_ranks(path: Path, first: str, k: int, leave_out: str = "") -> Path:
    """A table in which one k-mer comes first, and the others in the order of their letters."""
    kmers = [first, *(kmer for kmer in map("".join, product("ACGT", repeat=k)) if kmer not in (first, leave_out))]
    path.write_text("ngram,rank\n" + "".join(f"{kmer},{rank}\n" for rank, kmer in enumerate(kmers, start=1)))
    return path


class TestRanks:
    def test_letters_of_tokens(self):
        """Ids count A, T, C, G, and tables A, C, G, T."""
        kmers = ["".join(kmer) for kmer in product("ACGT", repeat=3)]
        assert [kmers[number] for number in lexicographic(3)] == vocabulary(3)[5:]

    def test_content_is_the_rank_of_the_kmer_that_stands_there(self, tmp_path):
        """Wherever a centre falls within reach of the best k-mer, what shares a letter with that is hidden."""
        model, table = tiny(k=4), write_ranks(tmp_path / "pmi.csv", "CGTC", 4)
        objective = attached(model, pmi=str(table))
        (tokens,) = model.collate([Window("T" * 12 + "CGTC" + "T" * 12)])["tokens"][0].numpy()
        best = tokens.tolist().index(vocabulary(4).index("CGTC"))
        eligible = tokens > MASK
        for centre in (best - 2, best - 1, best, best + 1):  # k = 4: a span reaches from -1 to +2
            (hidden,) = columns(objective.choose(tokens[None], (np.arange(len(tokens)) == centre)[None], eligible[None]))
            assert set(range(best - 3, best + 4)) <= set(hidden)
        (hidden,) = columns(objective.choose(tokens[None], (np.arange(len(tokens)) == best + 5)[None], eligible[None]))
        assert best not in hidden

    def test_a_kmer_without_a_rank_comes_last(self, tmp_path):
        model, table = tiny(k=3), write_ranks(tmp_path / "pmi.csv", "AAA", 3, leave_out="TTT")
        objective = attached(model, pmi=str(table))
        tokens = model.collate([Window("T" * 9 + "GG" + "T" * 9)])["tokens"][0].numpy()
        (hidden,) = columns(objective.choose(tokens, np.arange(20)[None] == 7, tokens > MASK))
        assert hidden == [6, 7, 8, 9, 10]  # around TTG at 8, which has one
        assert objective.facts()["ranked"] == 63

    def test_position_takes_the_number_of_the_place_for_an_id(self, tmp_path):
        model, table = tiny(k=3), write_ranks(tmp_path / "pmi.csv", "AAG", 3)
        objective = attached(model, pmi=str(table), ranks="position")
        tokens = model.collate(random_windows(2, 80))["tokens"][:, 0].numpy()
        at = vocabulary(3).index("AAG")
        centres = np.arange(80)[None] == np.array([[at + 1], [75]])
        first, second = columns(objective.choose(tokens, centres, tokens > MASK))
        assert first == list(range(at - 2, at + 3))  # what stands there does not matter
        assert second == [73, 74, 75, 76, 77]  # no ids: equal ranks, so the centre's own
        centres = np.arange(80)[None] == np.array([[5], [1]])
        first, second = columns(objective.choose(tokens, centres, tokens > MASK))
        assert first == [2, 3, 4, 5, 6]  # [MASK]'s id has no rank, and comes before AAA's and AAT's
        assert second == [1, 2, 3]

    def test_position_with_the_published_table(self):
        ranks = published_ranks(0)
        model = tiny()
        objective = attached(model, pmi=str(PUBLISHED), ranks="position")
        tokens = model.collate(random_windows(30, 515))["tokens"][:, 0].numpy()
        eligible = tokens > MASK
        centres = eligible & (np.random.default_rng(0).random(tokens.shape) < 0.0176)
        assert (objective.choose(tokens, centres, eligible) == segments(centres, eligible, ranks[:512], 6)).all()

    def test_a_table_as_it_was_computed(self, tmp_path):
        table = table_of(4)
        write_pmi(table, tmp_path / "pmi.csv")
        facts = attached(tiny(k=4), pmi=str(tmp_path / "pmi.csv")).facts()
        assert facts["ranks"] == table.ranks.tolist() == read_pmi(tmp_path / "pmi.csv").ranks.tolist()
        assert len(facts["sha256"]) == 64

    def test_a_table_of_another_k(self, tmp_path):
        table = write_ranks(tmp_path / "pmi.csv", "AAAA", 4)
        with pytest.raises(BadData, match=r"pmi\.csv: a table of 4-mers, not 6-mers"):
            attached(tiny(), pmi=str(table))

    def test_a_table_that_is_not_there(self):
        with pytest.raises(UserError, match=r"nowhere\.csv"):
            attached(tiny(), pmi="nowhere.csv")


class TestShare:
    @pytest.mark.parametrize("ranks", ["content", "position"])
    def test_of_512_tokens(self, tmp_path, ranks):
        """Upstream's code hid 15.4 % in 1,000 windows, with a standard error of 0.12 %, as large as that of 1,000 windows here.

        Windows are independent, so that the difference is normal: 4.9 of its standard errors for a false alarm of 1e-6.
        """
        write_pmi(table_of(6), tmp_path / "pmi.csv")
        model = tiny()
        objective = attached(model, pmi=str(tmp_path / "pmi.csv"), ranks=ranks)
        batch = objective.collate(model, random_windows(1000, 515), np.random.default_rng(0))
        hidden = (batch["targets"] != IGNORED)[:, 1:-1].double().mean(dim=1)
        assert float(hidden.mean()) == pytest.approx(0.154, abs=4.9 * math.hypot(0.0012, float(hidden.std()) / 1000**0.5))

    def test_in_proportion(self):
        assert [attached(tiny(), share=share).rate(None) for share in (0.15, 0.3)] == pytest.approx([0.0176, 0.0352])

    @pytest.mark.parametrize("k", [3, 4, 5])
    def test_of_other_k_mers(self, tmp_path, k):
        """Spans that overlap hide a little less than 15 %; the standard error of the mean is 0.1 %."""
        write_pmi(table_of(k), tmp_path / "pmi.csv")
        model = tiny(k=k)
        objective = attached(model, pmi=str(tmp_path / "pmi.csv"))
        batch = objective.collate(model, random_windows(300, 509 + k), np.random.default_rng(0))
        assert float((batch["targets"] != IGNORED)[:, 1:-1].double().mean()) == pytest.approx(0.15, abs=0.015)


@pytest.fixture
def genome(tmp_path):
    return write_runs(tmp_path / "genome.fa")


class TestRun:
    @pytest.mark.slow
    def test_it_learns_what_token_frequencies_cannot_tell(self, genome, tmp_path):
        settings = {"learning_rate": 5e-3, "batch_size": 32}
        folder = pretrained(
            "genemask", genome, tmp_path / "out", steps=40, evaluate_every=40, tokens_per_step=1280, settings=settings
        )
        record = json.loads((folder / "pretrain.json").read_text())
        assert record["settings"]["objective"] == "pmi"
        assert record["scores"]["validation_loss"] < 0.5 * record["scores"]["yardstick_loss"]

    def test_ranks_that_are_computed_stand_in_the_record_and_are_said(self, genome, tmp_path):
        listener = Listener()
        folder = pretrained("genemask", genome, tmp_path / "out", reporter=listener)
        record = json.loads((folder / "pretrain.json").read_text())
        facts, letters = record["objective"], record["data"]["training_letters"]
        assert facts["source"] == "the letters trained on"
        assert facts["letters"] == letters < 12_000
        assert facts["min_count"] == letters // 256
        assert sorted(facts["ranks"][number] for number in (0, 21, 42, 63)) == [1, 2, 3, 4]  # AAA, CCC, GGG, TTT
        assert sum(facts["ranks"]) == 1 + 2 + 3 + 4 + 60 * 64  # where runs meet, no 3-mer is frequent
        (said,) = [message for message in listener.said if "no PMI table is given" in message]
        assert f"rank 4 of 64 3-mers, those that occur {letters // 256} times or more" in said

    def test_ranks_that_differ_are_another_run(self, genome, tmp_path):
        pretrained("genemask", genome, tmp_path / "out")
        table = write_ranks(tmp_path / "pmi.csv", "AAA", 3)
        for options, said in (
            ({"ranks": "position"}, r"\(objective_options ranks content there, position here"),
            ({"pmi": str(table)}, r"objective_options pmi  there, pmi\.csv here"),
            ({"share": "0.2"}, r"\(objective_options share 0.15 there, 0.2 here"),
        ):
            with pytest.raises(UserError, match=said):
                pretrained("genemask", genome, tmp_path / "out", options={"k": "3", **options})
        with pytest.raises(UserError, match="objective pmi there, span here"):
            pretrained("genemask", genome, tmp_path / "out", objective="span")

    def test_a_table_without_some_kmers_says_how_many(self, genome, tmp_path):
        table = write_ranks(tmp_path / "pmi.csv", "AAA", 3)
        rows = table.read_text().splitlines()
        table.write_text("\n".join([rows[0], *(row for row in rows[1:] if int(row.split(",")[-1]) <= 9)]) + "\n")
        for ranks, place in (("content", "last"), ("position", "first")):
            listener = Listener()
            options = {"k": "3", "pmi": str(table), "ranks": ranks}
            pretrained("genemask", genome, tmp_path / ranks, options=options, reporter=listener)
            assert f"pmi.csv: ranks 9 of 64 3-mers; the others come {place}" in "\n".join(listener.said)

    def test_a_table_that_changed_is_another_run(self, genome, tmp_path):
        table = write_ranks(tmp_path / "pmi.csv", "AAA", 3)
        pretrained("genemask", genome, tmp_path / "out", options={"k": "3", "pmi": str(table)})
        write_ranks(table, "CCC", 3)
        with pytest.raises(UserError, match="objective_facts"):
            pretrained("genemask", genome, tmp_path / "out", options={"k": "3", "pmi": str(table)})

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"objective": "token"}, "objective 'token': genemask has pmi, span"),
            ({"options": {"ranks": "letters"}}, "option ranks='letters': choose one of content, position"),
            ({"options": {"share": "0"}}, "option share=0.0: must be above 0 and below 1"),
            ({"objective": "span", "options": {"ranks": "content"}}, "ranks"),
            ({"options": {}, "context": 10}, "context 10: objective pmi needs windows of at least 11 nt"),
        ],
    )
    def test_what_is_refused(self, genome, tmp_path, change, words):
        with pytest.raises(UserError, match=words):
            pretrained("genemask", genome, tmp_path / "out", **change)
        assert not (tmp_path / "out").exists()

    def test_a_genome_of_n_only(self, tmp_path):
        path = tmp_path / "genome.fa"
        path.write_text(f">chr1\n{'N' * 200_000}\n")
        with pytest.raises(BadData, match=r"genome\.fa: in what is trained on, every letter is N; give more sequence"):
            pretrained("genemask", path, tmp_path / "out")
        assert not (tmp_path / "out").exists()
