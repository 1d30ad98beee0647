"""GPN-MSA's objective: the weights of windows, which of them are drawn, that it learns, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pretrain import Listener, write_alignment

from harness.adapter import IGNORED
from harness.adapters import _gpn_objective
from harness.adapters._gpn_objective import Weighted, smoothed, upper_quartiles
from harness.adapters.gpn_msa import GPNMSA
from harness.data import Locus, Window
from harness.engine.corpus import Corpus
from harness.engine.pretrain import pretrain
from harness.errors import BadData, DataMissing, UserError
from harness.files.alignments import open_alignment
from harness.files.sequences import Columns
from harness.progress import Reporter

pytestmark = pytest.mark.usefixtures("quick_pretraining")

BASES = np.frombuffer(b"ACGT", np.uint8)
LENGTH, START = 6000, 1000  # of the simulated alignment of chr1
FALSE_ALARM = 5.0  # standard deviations: a sound program fails once in 1.7 million runs


# --- scores and repeats of windows --------------------------------------------------------------------------------------


def bed_graph(path: Path, values: np.ndarray, start: int = START, chromosome: str = "chr1") -> Path:
    """Values (length,) from ``start`` on, nan where the file has none."""
    edges = np.append(0, np.flatnonzero(np.diff(values)) + 1)
    ends = np.append(edges[1:], len(values))
    lines = [
        f"{chromosome}\t{start + a}\t{start + b}\t{values[a]}\n"
        for a, b in zip(edges, ends, strict=True)
        if values[a] == values[a]
    ]
    path.write_text("".join(lines))
    return path


class World:
    """An alignment of five species, equal to the target in conserved stretches of 60 nt and unrelated elsewhere."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.rows = rng.choice(BASES, (6, LENGTH))
        self.conserved = np.zeros(LENGTH, bool)
        for start in range(40, LENGTH - 60, 240):
            self.conserved[start : start + 60] = True
        self.rows[:, self.conserved] = self.rows[0, self.conserved]
        self.repeats = np.zeros(LENGTH, bool)
        self.repeats[2000:2500] = True
        self.msa = write_alignment(folder / "msa", self.rows, START)
        self.phastcons = np.where(self.conserved, 0.9, 0.01)
        self.phylop = np.where(self.conserved, 4.0, -0.5)
        letters = self.rows[0].tobytes().decode()
        text = "".join(letter.lower() if masked else letter for letter, masked in zip(letters, self.repeats, strict=True))
        (folder / "genome.fa").write_text(f">chr1:{START}-{START + LENGTH}\n{text}\n")
        self.options = {
            "phastcons": str(bed_graph(folder / "c.bedGraph", self.phastcons)),
            "phylop": str(bed_graph(folder / "p.bedGraph", self.phylop)),
            "repeats": str(folder / "genome.fa"),
        }

    def source(self) -> Columns:
        return Columns(open_alignment(self.msa))

    def objective(self, **options) -> Weighted:
        goal = Weighted(**self.options | options)
        goal.attach(GPNMSA.from_checkpoint(size="tiny"))
        return goal

    def windows(self, *starts: int, length: int = 128, strand: str = "+") -> list[Window]:
        return [self.source().window(Locus("1", START + start, START + start + length, strand)) for start in starts]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def collated(goal: Weighted, windows: list[Window], progress: float | None = None, seed: int = 0):
    model = GPNMSA.from_checkpoint(size="tiny")
    return goal.collate(model, windows, np.random.default_rng(seed), progress)


def test_weights_by_hand(world):
    """Windows of two lengths; repeats are the 500 nt from 2000 on, and only scores inside the window are seen."""
    windows = [*world.windows(1940), *world.windows(100, length=20), *world.windows(2200)]
    weights = collated(world.objective(), windows)["weights"].numpy()
    assert weights.dtype == np.float32
    for row, (window, start) in enumerate(zip(windows, (1940, 100, 2200), strict=True)):
        for place in range(len(window)):
            near = world.phastcons[start + max(place - 3, 0) : start + min(place + 4, len(window))]
            expected = max(world.phylop[start + place], 1) * (0.1 + near.max()) * (0.1 if world.repeats[start + place] else 1)
            assert weights[row, place] == np.float32(expected)
    assert weights.max() == np.float32(4.0)


def test_positions_without_scores_count_least(world, tmp_path):
    nowhere = np.full(LENGTH, np.nan)
    nowhere[5000:] = 0.5
    options = {"phastcons": str(bed_graph(tmp_path / "c", nowhere)), "phylop": str(bed_graph(tmp_path / "p", nowhere))}
    weights = collated(world.objective(**options), world.windows(100, 2100))["weights"]
    assert weights[0].unique().tolist() == [np.float32(0.1)]
    assert weights[1].unique().tolist() == [np.float32(0.1 * 0.1)]


def test_the_other_strand_has_the_same_weights_reversed(world):
    goal, starts = world.objective(), (30, 1950, 2450)
    forward, reverse = (collated(goal, world.windows(*starts, strand=strand))["weights"] for strand in "+-")
    assert torch.equal(forward, reverse.flip(1))
    assert not torch.equal(forward, reverse)
    assert Weighted.both_strands


def test_only_bases_of_the_target_row_are_asked_and_held_out_labels_are_true(world):
    windows = world.windows(*range(0, 4000, 128))
    clean = GPNMSA.from_checkpoint(size="tiny").collate(windows)["tokens"]
    for window in windows:
        window.alignment[0, :9] = ord("N")
    gaps = [Window("N" * 9 + window.sequence[9:], window.locus, window.alignment) for window in windows]
    batch = collated(world.objective(), gaps)
    asked = batch["targets"] != IGNORED
    assert torch.equal(batch["tokens"][..., 1:], clean[..., 1:])
    assert torch.equal(batch["targets"][asked], clean[..., 0][asked].long())
    assert not asked[:, :9].any()
    deviation = (0.15 * 0.85 / asked[:, 9:].numel()) ** 0.5
    assert abs(float(asked[:, 9:].float().mean()) - 0.15) < FALSE_ALARM * deviation


def test_half_of_the_unconserved_labels_are_noise_in_training(world):
    """Three eighths of them are wrong, as a random base may be the true one. False alarms: FALSE_ALARM."""
    goal, windows = world.objective(repeats=""), world.windows(*range(0, 5800, 60))
    truth = GPNMSA.from_checkpoint(size="tiny").collate(windows)["tokens"][..., 0].long()
    low = torch.from_numpy(np.stack([smoothed(world.phastcons[None, at : at + 128])[0] < 0.1 for at in range(0, 5800, 60)]))
    wrong = total = 0
    for seed in range(10):
        targets = collated(goal, windows, progress=0.0, seed=seed)["targets"]
        asked = targets != IGNORED
        assert torch.equal(targets[asked & ~low], truth[asked & ~low])
        assert targets[asked].unique().tolist() == [1, 2, 3, 4]
        wrong, total = wrong + int((targets != truth)[asked & low].sum()), total + int((asked & low).sum())
    assert abs(wrong / total - 3 / 8) < FALSE_ALARM * (3 / 8 * 5 / 8 / total) ** 0.5


# --- which windows are drawn --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("context", "step"), [(128, 64), (10, 5), (1, 1), (7, 3)])
def test_quartiles_are_numpys(context, step):
    values = np.random.default_rng(context).random(1000)
    values[300:310] = np.nan
    found = upper_quartiles(values, context, step)
    expected = [np.quantile(values[at : at + context], 0.75) for at in range(0, 1000 - context + 1, step)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("piece", [1 << 20, 300])
def test_the_most_conserved_windows_and_a_few_others_are_drawn(tmp_path, monkeypatch, piece, world):
    monkeypatch.setattr(_gpn_objective, "PIECE", piece)
    monkeypatch.setattr(_gpn_objective, "remembered", lambda what, paths, key, compute: compute())
    values = np.random.default_rng(1).random(LENGTH)
    values[700] = np.nan
    goal = world.objective(phastcons=str(bed_graph(tmp_path / "c", values)), conserved=0.1, others=0.2)
    ((name, starts),) = goal.regions(world.source(), 128).items()
    every = np.arange(0, LENGTH - 127, 64)
    scores = np.array([np.quantile(values[at : at + 128], 0.75) for at in every])
    top = every[scores >= np.nanquantile(scores, 0.9)] + START
    unscored = every[np.isnan(scores)] + START
    assert name == "1"
    assert starts.dtype == np.int64
    assert (np.diff(starts) > 0).all()
    assert set(top) <= set(starts)
    assert set(starts) <= set(every + START)
    others = round(0.2 * (len(every) - len(top)))
    assert len(starts) == len(top) + others
    assert len(unscored) == 2
    assert not set(unscored) & set(top)
    assert goal.facts()["windows"] == {"windows": 93 - 1, "unscored": 2, "conserved": len(top), "others": others}
    assert f"of 92 windows, {len(top)} are drawn from" in goal.notes[-1]
    again = world.objective(phastcons=str(tmp_path / "c"), conserved=0.1, others=0.2)
    np.testing.assert_array_equal(again.regions(world.source(), 128)["1"], starts)


def test_all_windows(world):
    assert world.objective(conserved=1).regions(world.source(), 128) is None


def test_what_was_selected_is_remembered_for_these_settings_alone(world, monkeypatch):
    first = world.objective().regions(world.source(), 128)
    monkeypatch.setattr(Weighted, "_window_scores", None)
    np.testing.assert_array_equal(world.objective().regions(world.source(), 128)["1"], first["1"])
    with pytest.raises(TypeError):
        world.objective(conserved=0.5).regions(world.source(), 128)


def test_training_windows_are_those(world):
    goal = world.objective(others=0)
    corpus = Corpus(world.source(), 128, both_strands=True, regions=goal.regions(world.source(), 128))
    windows = corpus.draw(np.random.default_rng(0), 200)
    shares = [world.conserved[window.locus.start - START : window.locus.end - START].mean() for window in windows]
    assert min(shares) > 0.25, "the 75th percentile of phastCons is high only there"
    assert {window.locus.strand for window in windows} == {"+", "-"}


# --- runs ---------------------------------------------------------------------------------------------------------------


def train(world: World, out: Path, options: dict | None = None, **changes) -> Path:
    arguments = {"context": 32, "steps": 6, "tokens_per_step": 256, "evaluate_every": 2, "device": "cpu", "reporter": Reporter()}
    settings = {"batch_size": 16, "precision": "float32"} | changes.pop("settings", {})
    options = world.options | (options or {})
    arguments |= {
        "model": "gpn_msa",
        "init": "random:tiny",
        "msa": world.msa,
        "out": out,
        "settings": settings,
        "options": options,
    }
    return pretrain(**arguments | changes)


@pytest.mark.slow
def test_it_learns_the_conserved_columns(world, tmp_path):
    """There the species tell the base, and there the weights are; the column vote trusts the others alike."""
    folder = train(world, tmp_path / "out", steps=15, evaluate_every=15, settings={"learning_rate": 1e-3})
    scores = json.loads((folder / "pretrain.json").read_text())["scores"]
    assert scores["validation_loss"] < 0.5 * scores["yardstick_loss"]
    assert scores["validation_accuracy"] > 0.9


def test_the_record_and_the_screen_say_what_was_used(world, tmp_path):
    heard = Listener()
    folder = train(world, tmp_path / "out", {"repeats": ""}, steps=1, reporter=heard)
    record = json.loads((folder / "pretrain.json").read_text())
    assert record["settings"]["objective"] == "weighted"
    assert record["settings"]["objective_options"]["conserved"] == 0.05
    assert set(record["objective"]) == {"phastcons", "phylop", "windows"}
    assert record["objective"]["phastcons"]["sha256_of"] == "the file"
    assert "no repeats are down-weighted: --option repeats=GENOME" in heard.said[0]
    loaded = GPNMSA.from_checkpoint(folder)
    assert (loaded.species, loaded.species_names) == (5, ("s1", "s2", "s3", "s4", "s5"))
    assert json.loads((folder / "config.json").read_text())["n_aux_features"] == 25
    bed_graph(tmp_path / "other", world.phylop + 1)
    with pytest.raises(UserError, match="objective_facts"):
        train(world, folder, {"repeats": "", "phylop": str(tmp_path / "other")}, steps=1)


def test_a_genome_without_an_alignment(world, tmp_path):
    (tmp_path / "genome.fa").write_text(f">chr1\n{'N' * START}{world.rows[0].tobytes().decode()}\n")
    folder = train(world, tmp_path / "out", msa=None, data=tmp_path / "genome.fa", steps=1)
    assert json.loads((folder / "pretrain.json").read_text())["data"]["regions"] > 0
    assert GPNMSA.from_checkpoint(folder).species is None


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_missing_scores_are_one_line_with_the_remedy(world, tmp_path):
    with pytest.raises(
        DataMissing, match=r"hg38.phastCons100way.bw is missing; `harness data get phastcons` .*--objective token"
    ):
        train(world, tmp_path / "out", {"phastcons": ""})
    with pytest.raises(DataMissing, match=r"`harness data get phylop` downloads it, or give scores with --option phylop=FILE"):
        train(world, tmp_path / "out", {"phylop": ""})
    with pytest.raises(BadData, match=r"none.bw: cannot be read \(No such file"):
        train(world, tmp_path / "out", {"phylop": str(tmp_path / "none.bw")})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"conserved": "0"}, "conserved=0"), ({"conserved": "1.5"}, "conserved=1.5"), ({"others": "-1"}, "others=-1"), ({"share": "1"}, "share")],
)  # fmt: skip
def test_options_out_of_range(world, tmp_path, options, words):
    with pytest.raises(UserError, match=f"option {words}"):
        train(world, tmp_path / "out", options)


def test_scores_of_another_assembly(world, tmp_path):
    bed_graph(tmp_path / "names", world.phastcons, chromosome="chrUn_1")
    with pytest.raises(BadData, match=r"names: holds chromosomes Un_1, and .* 1: none in common; .*--objective token"):
        train(world, tmp_path / "out", {"phastcons": str(tmp_path / "names")})
    bed_graph(tmp_path / "elsewhere", world.phastcons, start=10_000_000)
    with pytest.raises(BadData, match=r"elsewhere: has no score at any position of .*another assembly"):
        train(world, tmp_path / "out", {"phylop": str(tmp_path / "elsewhere")})
    package = pytest.importorskip("pyBigWig", reason="writes a bigWig")
    file = package.open(str(tmp_path / "short.bw"), "w")
    file.addHeader([("chr1", 5000)])
    file.addEntries("chr1", 0, values=[0.5] * 5000, span=1, step=1)
    file.close()
    with pytest.raises(BadData, match=r"short.bw: holds no 1:7000; is it of another assembly\?"):
        train(world, tmp_path / "out", {"phastcons": str(tmp_path / "short.bw")})


def test_phylop_in_place_of_phastcons(world, tmp_path):
    with pytest.raises(BadData, match=r"p.bedGraph: scores from -0.5 to 4, where phastCons are probabilities.*--option phylop"):
        train(world, tmp_path / "out", {"phastcons": world.options["phylop"]})


def test_scores_that_cover_no_window(world, tmp_path):
    holes = world.phastcons.copy()
    holes[::20] = np.nan
    bed_graph(tmp_path / "holes", holes)
    with pytest.raises(BadData, match=r"no window of 32 nt .* has a score at each .*--option conserved=1"):
        train(world, tmp_path / "out", {"phastcons": str(tmp_path / "holes")})
    train(world, tmp_path / "out", {"phastcons": str(tmp_path / "holes"), "conserved": "1"}, steps=1)


def test_regions_that_leave_nothing_to_train_on_or_to_hold_out(world, tmp_path):
    corpus = Corpus(world.source(), 32)
    held_out = np.concatenate([np.arange(window.locus.start, window.locus.end) for window in corpus.held_out(1000)]) - START
    for kept, words in ((held_out, "blocks that are trained on"), (np.setdiff1d(np.arange(LENGTH), held_out), "held-out blocks")):
        values = np.full(LENGTH, 0.01)
        values[kept] = 0.9
        track = bed_graph(tmp_path / "c", values)
        with pytest.raises(BadData, match=f"none of the regions to draw from lies in the .*{words}"):
            train(world, tmp_path / "out", {"phastcons": str(track), "others": "0", "conserved": "0.01"})


def test_chromosomes_without_scores_are_said(world, tmp_path):
    bed_graph(tmp_path / "c", world.phastcons, chromosome="2")
    with (tmp_path / "genome.fa").open("w") as file:
        letters = world.rows[0].tobytes().decode()
        file.write(f">chr2\n{'N' * START}{letters}\n>chr3\n{letters}\n")
    heard, tracks = Listener(), {"phastcons": str(tmp_path / "c"), "phylop": str(tmp_path / "c"), "repeats": ""}
    train(world, tmp_path / "out", tracks, msa=None, data=tmp_path / "genome.fa", steps=1, reporter=heard)
    assert "c: no scores of chromosomes 3, which count as unconserved" in heard.said[0]


def test_a_genome_that_marks_no_repeats_or_is_another(world, tmp_path):
    text = Path(world.options["repeats"]).read_text()
    head, letters = text.splitlines()
    (tmp_path / "upper.fa").write_text(f"{head}\n{letters.upper()}\n")
    with pytest.raises(BadData, match=r"upper.fa: no letter is in lower case in the 200 windows looked at.*option repeats out"):
        train(world, tmp_path / "out", {"repeats": str(tmp_path / "upper.fa")})
    (tmp_path / "other.fa").write_text(f"{head}\n{letters[::-1]}\n")
    with pytest.raises(BadData, match=r"other.fa: only 2\d% of its letters are those of .*another assembly"):
        train(world, tmp_path / "out", {"repeats": str(tmp_path / "other.fa")})
    (tmp_path / "elsewhere.fa").write_text(f">chr7\n{letters}\n")
    with pytest.raises(BadData, match=r"elsewhere.fa: no chromosome '1'"):
        train(world, tmp_path / "out", {"repeats": str(tmp_path / "elsewhere.fa")})


def test_windows_without_a_place_in_a_genome(world, tmp_path):
    with pytest.raises(UserError, match=r"looked up by locus, and a window has none.*--objective token"):
        collated(world.objective(), [Window("ACGT")])
    (tmp_path / "rna.fa").write_text("".join(f">rna{number} tRNA\n{'ACGTTGCA' * 20}{'A' * number}\n" for number in range(9)))
    with pytest.raises(BadData, match=r"none in common"):
        train(world, tmp_path / "out", msa=None, data=tmp_path / "rna.fa")
