"""RNAErnie's masking: what upstream's code does to the bit, the described method in distribution, types, refusals."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, random_windows

from harness import registry
from harness.adapter import IGNORED
from harness.adapters._motif_masking import SPANS, choose, coded, of_row, released
from harness.adapters._words import Words
from harness.data import Locus, Window
from harness.engine.corpus import Corpus
from harness.errors import BadData, UserError
from harness.files.sequences import open_sequences

TRIMMED = Path(__file__).parent / "golden/pretraining/rnaernie_masking.json"
PRETRAINING = SHARED / "reference/pretraining"
STRATEGIES = ("bert", "ernie", "motif")
SIGMAS = 4.9  # a normal variable is further away in one of a million cases
RNAERNIE = registry.adapter_class("rnaernie")


@pytest.fixture(scope="module")
def model():
    return RNAERNIE.from_checkpoint(size="tiny", layout="paddle").eval()


def motif_goal(model, path: Path, **options):
    goal = model.objectives["motif"](motifs=str(path), **options)
    goal.attach(model)
    return goal


def listed(folder: Path, *motifs: str, name: str = "motifs.txt") -> Path:
    (folder / name).write_text("\n".join(motifs) + "\n")
    return folder / name


def fasta(folder: Path, *records: tuple[str, str], name: str = "rna.fa") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(f">{header}\n{letters}\n" for header, letters in records))
    return folder / name


def windows_of(path: Path) -> tuple[Corpus, list[Window]]:
    """The records of a file, whole and in order."""
    source = open_sequences(path)
    return Corpus(source, 600), [source.window(Locus(*stretch)) for stretch in source.stretches]


def as_codes(text: str) -> list[int]:
    return ["ACGT".find(letter) % 5 for letter in text]


def as_upstream(model, tokens: np.ndarray, trees) -> list[tuple[np.ndarray, np.ndarray]]:
    """The tokens and targets of a sequence by each strategy."""
    codes = coded(tokens[None], model.vocabulary)
    hits = [list(of_row(tree.find(codes), 0)) for tree in trees]
    return [released(tokens, model.vocabulary, strategy, *hits) for strategy in range(3)]


class TestUpstream:
    """Recorded outputs of upstream's rna_pretrainer.py, which made all three maskings of each sequence and chose one."""

    @pytest.fixture(params=["trimmed", "all"])
    def golden(self, request, model, tmp_path):
        """The cases, and the two trees of words of each: of its hits alone, or of the files."""
        if request.param == "trimmed":
            recorded = json.loads(TRIMMED.read_text())
            trees = [
                [Words([as_codes(case["sequence"])[at : at + size] for at, size in hits]) for hits in case["hits"]]
                for case in recorded["cases"]
            ]
            return recorded, trees
        if not PRETRAINING.is_dir():
            pytest.skip(f"needs {PRETRAINING}, which holds the databases and all cases; the trimmed ones are tested above")
        database, statistics = ("ATtRACT.txt", "SpliceAid.txt"), PRETRAINING / "data/Statistics.txt"
        files = ",".join(str(PRETRAINING / "data" / name) for name in database)
        goal = model.objectives["motif"](motifs=files, statistics=str(statistics), as_released=True)
        goal.attach(model)
        recorded = json.loads((PRETRAINING / "golden/rnaernie_masking.json").read_text())
        return recorded, [goal._trees] * len(recorded["cases"])

    def test_each_strategy_hides_the_same_and_asks_for_the_same(self, golden, model):
        recorded, trees = golden
        for case, words in zip(recorded["cases"], trees, strict=True):
            tokens = model.collate([Window(case["sequence"])])["tokens"].numpy()[0, 1:-1]
            for name, (changed, targets) in zip(STRATEGIES, as_upstream(model, tokens, words), strict=True):
                expected = case["stages"][name]
                assert changed.tolist() == expected["output_tokens"], (case["sequence"], name)
                assert np.flatnonzero(targets != IGNORED).tolist() == expected["positions"]
                assert targets[targets != IGNORED].tolist() == expected["labels"]

    def test_whole_inputs_and_the_batch(self, golden, model, tmp_path):
        """Of a sequence for which two strategies give the same, either may have been chosen."""
        recorded, trees = golden
        records = [(f"r{number} {case['type']}", case["sequence"]) for number, case in enumerate(recorded["cases"])]
        corpus, windows = windows_of(fasta(tmp_path / "data", *records))
        goal = motif_goal(model, listed(tmp_path, "ACGU"), as_released=True)
        goal.prepare(corpus)
        ids, labels, places = [], [], []
        for number, (case, window) in enumerate(zip(recorded["cases"], windows, strict=True)):
            goal._trees = trees[number]
            batch = goal.collate(model, [window], Chosen(STRATEGIES.index(case["chosen"][0])))
            targets = batch["targets"][0].numpy()
            assert batch["tokens"][0].tolist() == case["final"]["input_ids"]
            assert np.flatnonzero(targets != IGNORED).tolist() == case["final"]["masked_positions"]
            assert targets[targets != IGNORED].tolist() == case["final"]["labels"]
            assert batch["groups"][0].tolist() == [1] + [0] * (len(targets) - 1)
            ids.append(batch["tokens"][0].tolist())
            labels.append(targets[targets != IGNORED].tolist())
            places.append(np.flatnonzero(targets != IGNORED))
        together = recorded["collated_first4"]
        width = len(together["input_ids"][0])
        assert [row + [0] * (width - len(row)) for row in ids[:4]] == together["input_ids"]
        assert [[int(token != 0) for token in row] for row in together["input_ids"]] == together["attention_mask"]
        flat = [width * row + place for row in range(4) for place in places[row].tolist()]
        filled = len(together["labels"]) - len(flat)  # upstream fills up to a multiple of eight, which is not done here
        assert flat + [0] * filled == together["masked_positions"]
        assert [[label] for row in labels[:4] for label in row] + [[-1]] * filled == together["labels"]

    def test_defects_are_kept_only_as_released(self, model, tmp_path):
        """One state of the generator for all sequences, spans that avoid the end, U that matches N alone, types always shown."""
        path = listed(tmp_path, "GGUGG")
        old, new = motif_goal(model, path, as_released=True), motif_goal(model, path)
        pair = [Window("A" + window.sequence[1:]) for window in random_windows(2, 100)]
        for strategy in (0, 1):
            targets = old.collate(model, pair, Chosen(strategy, strategy))["targets"].numpy()
            assert ((targets[0] == IGNORED) == (targets[1] == IGNORED)).all(), "equal length and equal first base"
            assert strategy == 0 or (targets[:, -3 - 9 : -3] == IGNORED).all()
        assert not np.array_equal(_choice(new, model, pair[0], 0), _choice(new, model, pair[0], 1))
        unknown = [old.collate(model, [Window("A" * 40 + "GGNGG" + "A" * 40)], Chosen(2))["targets"][0, 41:46].tolist()]
        assert unknown == [[38, 38, 1, 38, 38]], "as released, U is the unknown letter, which is asked for"
        assert (old.collate(model, [Window("A" * 40 + "GGTGG" + "A" * 40)], Chosen(2))["targets"][0, 1:] == IGNORED).all()
        batch = old.collate(model, pair, Chosen(0, 0))
        assert batch["targets"][:, 0].tolist() == [1, 1], "an unknown type is asked for, as [UNK]"
        assert batch["tokens"][:, -2].tolist() == [1, 1]


def _choice(goal, model, window: Window, seed: int) -> np.ndarray:
    """Which bases of a window are asked for."""
    return goal.collate(model, [window], np.random.default_rng(seed))["targets"][0, 1:-3].numpy() != IGNORED


class Chosen:
    """Stands for a generator that draws these strategies."""

    def __init__(self, *strategies: int) -> None:
        self.strategies = list(strategies)

    def integers(self, below: int) -> int:
        assert below == 3
        return self.strategies.pop(0)


def binomial(count: int, total: int, share: float) -> bool:
    """Whether a count is no further from what is expected than one of a million would be, by the normal approximation."""
    return abs(count - total * share) <= SIGMAS * math.sqrt(total * share * (1 - share)) + 0.5


def runs(row: np.ndarray) -> list[int]:
    return [len(list(group)) for hidden, group in groupby(row.tolist()) if hidden]


class TestDescribedMethod:
    def chosen(self, count: int, length: int, words=(), seed: int = 0) -> np.ndarray:
        codes = np.random.default_rng(seed).integers(4, size=(count, length))
        return choose(codes, np.full(count, length), [Words(words), Words([])], np.random.default_rng(seed + 1))

    def test_each_strategy_is_as_likely(self):
        """Without a hit, a sequence of the motif level loses nothing; one of the span level has runs of 5 to 8. False alarms: 3e-6."""
        kinds = Counter()
        for row in self.chosen(6000, 100, words=[[0] * 60]):
            found = runs(row)
            assert sum(found) in (0, *range(11, 16))
            kinds["motif" if not found else "span" if min(found) >= 5 else "base"] += 1
        assert all(binomial(count, 6000, 1 / 3) for count in kinds.values())
        assert len(kinds) == 3

    def test_lengths_of_spans(self):
        """Of 53 nt, 8 may be hidden, so that one span is. Near the end it is cut. False alarms: 4e-6."""
        found = Counter(sum(runs(row)) for row in self.chosen(9000, 53, words=[[0] * 53]) if len(runs(row)) == 1)
        drawn = dict(zip(SPANS, (0.48, 0.24, 0.16, 0.12), strict=True))
        starts = range(53 - 5 + 1)
        share = {
            size: sum(drawn[width] for start in starts for width in SPANS if min(width, 53 - start) == size) / len(starts)
            for size in SPANS
        }
        total = sum(found.values())
        assert binomial(total, 9000, 1 / 3)
        assert set(found) == set(SPANS)
        assert all(binomial(found[size], total, share[size]) for size in SPANS)

    @pytest.mark.parametrize(("strategy", "share"), [(0, 0.15), (1, 0.147), (2, 0.146)])
    def test_shares_of_upstream_at_300_nt(self, model, strategy, share):
        """Upstream's shares were measured to a tenth of a percent, so half of that is allowed. False alarms: one in a million."""
        if not PRETRAINING.is_dir():
            pytest.skip(f"needs {PRETRAINING}, which holds the databases of motifs")
        files = ",".join(str(PRETRAINING / "data" / name) for name in ("ATtRACT.txt", "SpliceAid.txt"))
        statistics = str(PRETRAINING / "data/Statistics.txt")
        goal = model.objectives["motif"](motifs=files, statistics=statistics, as_released=True)
        goal.attach(model)
        tokens = model.collate(random_windows(300, 300))["tokens"].numpy()[:, 1:-1]
        shares = [(as_upstream(model, row, goal._trees)[strategy][1] != IGNORED).mean() for row in tokens]
        assert abs(np.mean(shares) - share) < 0.0005 + SIGMAS * np.std(shares) / len(shares) ** 0.5

    def test_shares(self):
        """Bases: 15 % to the letter; spans and motifs stay below by less than their shortest piece."""
        words = [list(word) for word in np.ndindex(4, 4, 4, 4)]
        total = Counter()
        for row in self.chosen(900, 300, words):
            found = runs(row)
            kind = "base" if min(found) < 4 else "span or motif"
            total[kind] += 1
            assert sum(found) == 45 if kind == "base" else 41 <= sum(found) <= 45
        assert binomial(total["base"], 900, 1 / 3)

    @pytest.mark.parametrize("length", [1, 2, 7, 20, 29, 30, 33])
    def test_short_sequences_lose_a_piece_too(self, length):
        """Also where 15 % are less than the shortest span; upstream takes one to four letters near the end, or none."""
        rows = self.chosen(300, length, words=[[0] * 40])
        assert {sum(runs(row)) for row in rows} == {0, max(1, round(0.15 * length))}

    def test_motifs_are_hidden_where_they_are(self, model, tmp_path):
        goal = motif_goal(model, listed(tmp_path, "UGUAAAUA"))
        sequence = "C" * 60 + "TGTAAATA" + "C" * 60
        found = [np.flatnonzero(_choice(goal, model, Window(sequence), seed)).tolist() for seed in range(60)]
        assert binomial(found.count(list(range(60, 68))), 60, 1 / 3), "false alarms: one in a million"

    def test_statistics_fill_what_is_left_from_left_to_right(self):
        codes = np.array([as_codes("AAAA" + "CCCC" * 10)])
        trees = [Words([as_codes("AAAA")]), Words([as_codes("CC")])]
        rows = [choose(codes, np.array([44]), trees, np.random.default_rng(seed))[0] for seed in range(60)]
        expected = [at < 6 for at in range(44)]  # 7 letters: the motif, and one word of two
        assert any(row.tolist() == expected for row in rows)

    def test_what_becomes_of_the_chosen(self, model, tmp_path):
        """80 % the mask; of the others half are one of the four bases; each is asked for. False alarms: 3e-6."""
        goal = motif_goal(model, listed(tmp_path, "ACGU"))
        windows = random_windows(200, 200)
        before = model.collate(windows)["tokens"][:, 1:-1]
        batch = goal.collate(model, windows, np.random.default_rng(0))
        tokens, targets = batch["tokens"][:, 1:-3], batch["targets"][:, 1:-3]
        asked = targets != IGNORED
        assert torch.equal(targets[asked], before[asked])
        assert torch.equal(tokens[~asked], before[~asked])
        total, masked = int(asked.sum()), asked & (tokens == model.vocabulary.mask)
        assert binomial(int(masked.sum()), total, 0.8)
        assert binomial(int((asked & ~masked & (tokens != before)).sum()), total, 0.1 * 3 / 4)
        assert set(tokens[asked & ~masked].tolist()) == set(model.vocabulary.bases)
        again = goal.collate(model, windows, np.random.default_rng(0))
        assert all(torch.equal(batch[name], again[name]) for name in batch)

    def test_letters_that_are_unknown_are_left_alone(self, model, tmp_path):
        goal = motif_goal(model, listed(tmp_path, "ACGU"))
        letters = np.array([list(window.sequence) for window in random_windows(60, 90)])
        letters[np.random.default_rng(1).random(letters.shape) < 0.2] = "N"
        windows = [Window("".join(row)) for row in letters]
        for seed in range(5):
            batch = goal.collate(model, windows, np.random.default_rng(seed))
            unknown = torch.from_numpy(letters == "N")
            assert (batch["targets"][:, 1:-3][unknown] == IGNORED).all()
            assert (batch["tokens"][:, 1:-3][unknown] == 1).all()
            assert (batch["targets"] != IGNORED).any(dim=1).sum() > 30
        assert (goal.collate(model, [Window("NNNN")], np.random.default_rng(0))["targets"] == IGNORED).all()


class TestTypes:
    def test_hidden_in_half_of_the_sequences_and_asked_for_only_there(self, model, tmp_path):
        """False alarms: one in a million."""
        letters = [window.sequence for window in random_windows(900, 40)]
        kinds = ("tRNA", "pre_miRNA", "", "mystery")
        path = fasta(tmp_path / "a", *((f"r{at} {kinds[at % 4]}", text) for at, text in enumerate(letters)))
        corpus, windows = windows_of(path)
        goal = motif_goal(model, listed(tmp_path, "ACGU"))
        goal.prepare(corpus)
        assert goal.notes == [
            "rna.fa: 450 of 900 records have no type that the model knows, such as 'mystery'; it is not asked for; a type is the "
            "second word of a header, such as lncRNA or tRNA"
        ]
        batch = goal.collate(model, windows, np.random.default_rng(0))
        slots, asked = batch["tokens"][:, 42], batch["targets"][:, 0]
        assert batch["tokens"][:, [0, 41, 43]].unique(dim=0).tolist() == [[2, 6, 3]]
        types = torch.tensor([{"tRNA": 31, "pre_miRNA": 21}.get(kinds[at % 4], 1) for at in range(900)])
        assert (asked[types == 1] == IGNORED).all()
        assert (slots[types == 1] == 1).all()
        known = types != 1
        hidden = slots == model.vocabulary.mask
        assert torch.equal(hidden, asked != IGNORED)
        assert torch.equal(asked[hidden], types[hidden])
        assert torch.equal(slots[known & ~hidden], types[known & ~hidden])
        assert binomial(int(hidden.sum()), int(known.sum()), 0.5)
        assert batch["groups"].tolist() == [[1] + [0] * 43] * 900

    def test_records_of_a_folder(self, model, tmp_path):
        fasta(tmp_path / "a", ("r1 tRNA", "ACGTACGT"), name="one.fa")
        fasta(tmp_path / "a", ("r1 snoRNA", "GGGGACGT"), name="two.fa")
        corpus, windows = windows_of(tmp_path / "a")
        goal = motif_goal(model, listed(tmp_path, "ACGU"), as_released=True)
        goal.prepare(corpus)
        assert goal.collate(model, windows, Chosen(0, 0))["targets"][:, 0].tolist() == [31, 30]
        assert goal.notes == []

    def test_windows_of_other_lengths_are_padded(self, model, tmp_path):
        goal = motif_goal(model, listed(tmp_path, "ACGU"))
        batch = goal.collate(model, [Window("ACGTAC"), Window("AC")], np.random.default_rng(0))
        assert batch["tokens"][1, 3:].tolist() == [6, 1, 3, 0, 0, 0, 0]
        with pytest.raises(UserError, match="context 510: with a type, rnaernie is pretrained on at most 509 nt"):
            goal.collate(model, random_windows(1, 510), np.random.default_rng(0))


class TestFiles:
    def test_several_files_and_what_the_record_says(self, model, tmp_path):
        one, two = listed(tmp_path, "ACGU", "NNNN", name="one.txt"), listed(tmp_path, "GGUGG", "ACGT", name="two.txt")
        goal = motif_goal(model, f"{one}, {two}", statistics=str(one))
        assert [entry["file"] for entry in goal.facts()["files"]] == ["one.txt", "two.txt", "one.txt"]
        assert [entry["motifs"] for entry in goal.facts()["files"]] == [1, 2, 1]
        assert all(len(entry["sha256"]) == 64 for entry in goal.facts()["files"])
        assert len(goal.notes) == 2
        hits = goal._trees[0].find(np.array([as_codes("ACGTGG")]))
        assert list(of_row(hits, 0)) == [(0, 4)]


class TestRefusals:
    def test_other_vocabularies(self, tmp_path):
        for layout in ("llm-eda", "multimolecule"):
            other = RNAERNIE.from_checkpoint(size="tiny", layout=layout)
            with pytest.raises(UserError, match=r"no tokens for types of RNA; .*--option layout=paddle.*--objective token"):
                motif_goal(other, listed(tmp_path, "ACGU"))

    def test_no_motifs(self, model):
        for nothing in ("", " , "):
            with pytest.raises(UserError, match="option motifs: name a file, --option motifs=FILE"):
                motif_goal(model, nothing)
        with pytest.raises(BadData, match="/nowhere: no such file; expected a list of motifs in letters of RNA"):
            motif_goal(model, Path("/nowhere"))
