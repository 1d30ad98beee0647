"""What is known of the published GenomicBenchmarks files, checked against the real ones where they are at hand."""

from __future__ import annotations

import csv
import gzip
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from harness import registry
from harness.data import Locus, bare
from harness.errors import BadData
from harness.files.genome import Genome
from harness.task import Reference
from harness.tasks import _gb_hub, _gb_intervals, _simulate
from harness.tasks._gb_facts import FILES, PARTS, SETS
from harness.tasks._gb_samples import MOTIFS
from harness.tasks._gb_splits import _by_chromosome

SHARED = Path(__file__).parents[2] / "shared"
REAL, NOTES = SHARED / "data/genomic_benchmarks", SHARED / "reference/genomic_benchmarks"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real intervals (../shared/data/genomic_benchmarks) are not here")
needs_notes = pytest.mark.skipif(not NOTES.is_dir(), reason="the notes (../shared/reference/genomic_benchmarks) are not here")
STRETCH = 2_333_275  # nucleotides of chromosome 2 that are at hand

# Task: windows of each class in train and test, as the paper and the files have them.
COUNTS = {
    "dummy_mouse_enhancers_ensembl": {"negative": (484, 121), "positive": (484, 121)},
    "demo_coding_vs_intergenomic_seqs": {"coding_seqs": (37_500, 12_500), "intergenomic_seqs": (37_500, 12_500)},
    "demo_human_or_worm": {"human": (37_500, 12_500), "worm": (37_500, 12_500)},
    "human_enhancers_cohn": {"negative": (10_422, 3_474), "positive": (10_421, 3_474)},
    "human_enhancers_ensembl": {"negative": (61_936, 15_485), "positive": (61_936, 15_485)},
    "human_ensembl_regulatory": {"enhancer": (85_512, 21_378), "ocr": (69_902, 17_476), "promoter": (75_934, 18_859)},
    "human_nontata_promoters": {"negative": (12_355, 4_119), "positive": (14_742, 4_915)},
    "human_ocr_ensembl": {"negative": (69_902, 17_476), "positive": (69_902, 17_476)},
}
LENGTHS = {
    "dummy_mouse_enhancers_ensembl": (331, 4776),
    "demo_coding_vs_intergenomic_seqs": (200, 200),
    "demo_human_or_worm": (200, 200),
    "human_enhancers_cohn": (500, 500),
    "human_enhancers_ensembl": (2, 573),
    "human_ensembl_regulatory": (71, 802),
    "human_nontata_promoters": (251, 251),
    "human_ocr_ensembl": (71, 593),
}


@pytest.fixture(autouse=True)
def real_intervals(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/genomic_benchmarks").symlink_to(REAL / "coordinates")


def rows(task: str) -> list[_gb_intervals.Row]:
    return _read(task)


@cache
def _read(task: str) -> list[_gb_intervals.Row]:
    return _gb_intervals.read(task)


def tsv(name: str) -> list[dict[str, str]]:
    with gzip.open(REAL / name, "rt") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def chunks(task: str) -> list[dict[str, str]]:
    with (REAL / f"gb_{task}.hg38chunks.csv").open() as file:
        return list(csv.DictReader(file))


# --- the facts of the files ---------------------------------------------------------------------------------------------


def test_eight_tasks():
    tasks = registry.find_tasks("genomic_benchmarks")
    assert [task.name for task in tasks] == list(COUNTS)
    for task in tasks:
        assert task.classes == SETS[task.name].classes
        assert task.split_rules == ("published", "chromosome", "locus")
        assert task.main_metric == "accuracy"
        assert all(source.sha256 and source.size for source in task.sources)
        assert {source.path.split("/")[2] for source in task.sources} == {"train", "test"}
        assert sorted(SETS[task.name].hub) == sorted(task.classes)
    positives = {task.name: task.positive for task in tasks}
    assert positives.pop("demo_coding_vs_intergenomic_seqs") == "coding_seqs"
    assert positives.pop("demo_human_or_worm") == "worm"
    assert positives.pop("human_ensembl_regulatory") is None
    assert set(positives.values()) == {"positive"}


@needs_notes
def test_files_are_those_of_the_pinned_commit():
    with (NOTES / "files.csv").open() as file:
        published = {row["path"].removeprefix("datasets/"): row for row in csv.DictReader(file) if row["cls"]}
    sources = {source.path.removeprefix("genomic_benchmarks/"): source for task in COUNTS for source in _gb_intervals.files(task)}
    assert len(sources) == 34
    for path, source in sources.items():
        row = published[path]
        assert (source.url, source.sha256, source.size) == (row["url"], row["sha256"], int(row["bytes"]))
        task, part, name = path.split("/")
        assert FILES[task][name.removesuffix(".csv.gz")][PARTS.index(part)].rows == float(row["rows"])


@needs_real
@pytest.mark.parametrize("task", COUNTS)
def test_counts_and_lengths(task):
    found = Counter((SETS[task].classes[row.label], row.part) for row in rows(task))
    assert found == {(label, part): n for label, both in COUNTS[task].items() for part, n in zip(PARTS, both, strict=True)}
    lengths = [row.locus.end - row.locus.start for row in rows(task)]
    assert (min(lengths), max(lengths)) == LENGTHS[task]
    assert len({row.id for row in rows(task)}) == len(rows(task))


@needs_real
@pytest.mark.parametrize("task", COUNTS)
def test_chromosomes_that_are_held_out_keep_every_class(task):
    placed = [row for row in rows(task) if not row.locus.chromosome.startswith("ENST")]
    whole = Counter(row.label for row in placed)
    parts = Counter((_by_chromosome(row.locus, SETS[task].held_out), row.label) for row in placed)
    for label, count in whole.items():
        for part in (1, 2):
            assert 0.05 < parts[part, label] / count < 0.16


@needs_real
def test_what_is_known_of_rows():
    """No strand is shown that a class alone lacks; the worm's X is no human one; ocr rows stand in two tasks."""
    strands = {row.locus.strand for task in ("human_ocr_ensembl", "human_ensembl_regulatory") for row in rows(task)}
    assert strands == {"+"}
    names = {(row.label, bare(row.locus.chromosome)) for row in rows("demo_human_or_worm")}
    assert {name for label, name in names if label == 1} == {
        f"ce11.chr{name}" for name in ("I", "II", "III", "IV", "V", "X", "M")
    }
    assert (0, "M") in names
    places = [
        {(row.part, row.locus) for row in rows(task) if SETS[task].classes[row.label] == label}
        for task, label in (("human_ocr_ensembl", "positive"), ("human_ensembl_regulatory", "ocr"))
    ]
    assert places[0] == places[1]


@needs_real
@pytest.mark.parametrize(
    ("task", "windows", "tested"),
    [("demo_human_or_worm", 41, 6), ("human_enhancers_ensembl", 76, 10), ("human_ocr_ensembl", 73, 11)],
)
def test_windows_in_pseudoautosomal_regions(task, windows, tested):
    inside = [
        row
        for row in rows(task)
        if row.locus.chromosome == "chrY"
        and "N" in _gb_intervals._without_pseudoautosomal(row.locus, "A" * (row.locus.end - row.locus.start))
    ]
    assert (len(inside), sum(row.part == "test" for row in inside)) == (windows, tested)


# --- what the published split leaks -------------------------------------------------------------------------------------


def leak(task: str) -> dict[str, tuple[int, float, float, int]]:
    """By class: test windows, % that overlap a window of train, % that share half of both with one, and the same intervals.

    Either strand counts.
    """
    train: dict[str, list[Locus]] = defaultdict(list)
    for row in rows(task):
        if row.part == "train":
            train[row.locus.chromosome].append(row.locus)
    sorted_by = {}
    for chromosome, loci in train.items():
        bounds = np.array(sorted((locus.start, locus.end) for locus in loci))
        sorted_by[chromosome] = bounds, int((bounds[:, 1] - bounds[:, 0]).max())
    counts: dict[str, list[int]] = {label: [0, 0, 0, 0] for label in SETS[task].classes}
    for row in rows(task):
        if row.part == "train":
            continue
        count, locus = counts[SETS[task].classes[row.label]], row.locus
        count[0] += 1
        if locus.chromosome not in sorted_by:
            continue
        bounds, longest = sorted_by[locus.chromosome]
        first, last = np.searchsorted(bounds[:, 0], [locus.start - longest, locus.end])
        near = bounds[first:last]
        shared = np.minimum(near[:, 1], locus.end) - np.maximum(near[:, 0], locus.start)
        count[1] += bool((shared > 0).any())
        widest = np.maximum(near[:, 1] - near[:, 0], locus.end - locus.start)
        count[2] += bool((2 * shared >= widest).any())
        count[3] += bool(((near[:, 0] == locus.start) & (near[:, 1] == locus.end)).any())
    return {label: (n, 100 * any_ / n, 100 * half / n, same) for label, (n, any_, half, same) in counts.items()}


@needs_real
@needs_notes
@pytest.mark.parametrize("task", COUNTS)
def test_leaks_of_the_published_split(task):
    with (NOTES / "leak_per_class.csv").open() as file:
        known = {row["cls"]: row for row in csv.DictReader(file) if row["task"] == task}
    found = leak(task)
    assert found.keys() == known.keys()
    for label, (windows, overlap, half, same) in found.items():
        row = known[label]
        assert (windows, same) == (int(row["n_test"]), int(row["ident"]))
        assert overlap == pytest.approx(float(row["any_pct"]), abs=0.006)
        assert half == pytest.approx(float(row["rec50_pct"]), abs=0.006)


@needs_real
@pytest.mark.parametrize(
    ("task", "share"), [("human_enhancers_ensembl", 38.5), ("human_nontata_promoters", 49.2), ("demo_human_or_worm", 7.5)]
)
def test_leaks_that_users_are_told_of(task, share):
    found = leak(task)
    overlap = sum(n * percent for n, percent, _, _ in found.values()) / sum(n for n, *_ in found.values())
    assert round(overlap, 1) == share
    text = registry.tasks()[task].summary
    assert f"{share} % of the published test windows overlap train" in text
    assert f"{max(percent for _, percent, _, _ in found.values()):.1f} % of the" in text


# --- letters ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def chromosome_2():
    return Genome(REAL / "hg38_chr2_1-2333275.fa.gz")


def windows_there(task: str, genome: Genome) -> list[tuple[_gb_intervals.Row, str]]:
    there = [row for row in rows(task) if row.locus.chromosome == "chr2" and row.locus.end <= STRETCH]
    return list(zip(there, genome.sequences([row.locus for row in there]), strict=True))


@needs_real
@pytest.mark.parametrize(
    "task", ["human_nontata_promoters", "human_enhancers_ensembl", "human_ensembl_regulatory", "human_ocr_ensembl"]
)
def test_windows_equal_the_published_ones_letter_by_letter(task, chromosome_2):
    published = [row for row in chunks(task) if row["chrom"] == "chr2"]
    cut = {(row.part, row.label, row.locus): text for row, text in windows_there(task, chromosome_2)}
    known = {(row.part, row.label, row.locus) for row in rows(task)}
    compared = 0
    for row in published:
        strand = row["strand"] or "+"
        key = (
            row["split"],
            SETS[task].classes.index(row["class"]),
            Locus(row["chrom"], int(row["start"]), int(row["end"]), strand),
        )
        assert key in known
        if key in cut:
            assert cut[key] == row["sequence"].upper()
            compared += 1
    assert compared > 5


@needs_real
def test_labels_of_the_hub_are_the_classes(chromosome_2):
    """0 negative and 1 positive in nontata; 0 promoter, 1 enhancer and 2 ocr in regulatory, of which parts are at hand."""
    hub = {row["seq"]: int(row["label"]) for row in tsv("human_nontata_promoters.test.tsv.gz")}
    found = [(hub[text], row.label) for row, text in windows_there("human_nontata_promoters", chromosome_2) if row.part == "test"]
    assert found == [(1, 1)] * 5
    for task, least in (("human_ensembl_regulatory", 1), ("human_ocr_ensembl", 1)):
        hub = {row["seq"]: int(row["label"]) for row in tsv(f"{task}.subset.tsv.gz")}
        found = [
            (SETS[task].hub[hub[text]], SETS[task].classes[row.label])
            for row, text in windows_there(task, chromosome_2)
            if text in hub
        ]
        assert len(found) >= least
        assert all(ours == theirs for ours, theirs in found)


@needs_real
def test_lengths_tell_the_classes_of_the_hub():
    """78 % of enhancers, and few others, have 200, 400, 600 or 800 nt; the hub's label 1 has them."""
    hub = SETS["human_ensembl_regulatory"].hub
    lengths: dict[str, list[int]] = defaultdict(list)
    for row in tsv("human_ensembl_regulatory.subset.tsv.gz"):
        lengths[hub[int(row["label"])]].append(len(row["seq"]))
    round_ones = {label: sum(n in (200, 400, 600, 800) for n in own) / len(own) for label, own in lengths.items()}
    assert round_ones["enhancer"] > 0.7 > 0.2 > max(round_ones["promoter"], round_ones["ocr"])


@needs_real
def test_the_whole_test_part_of_nontata_is_read_as_the_hub_has_it(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "test.tsv.gz").symlink_to(REAL / "human_nontata_promoters.test.tsv.gz")
    changes = Counter()
    (path,) = _gb_hub.find("human_nontata_promoters", _with_train(folder))["test"]
    read = _gb_hub._rows(path, 2, changes)
    assert Counter(label for _, label in read) == {0: 4119, 1: 4915}
    assert {len(text) for text, _ in read} == {251}
    assert sum("N" in text for text, _ in read) == 1
    with pytest.raises(
        BadData, match=r"2 of train labelled 0, .*the published human_nontata_promoters has 12,355 of train negative"
    ):
        registry.tasks()["human_nontata_promoters"].bind(Reference(source=str(folder))).load("published")


def _with_train(folder: Path) -> Path:
    (folder / "train.tsv").write_text("seq\tlabel\nACGT\t0\nACGA\t0\nTTTT\t1\n")
    return folder


@needs_real
def test_a_stretch_of_one_chromosome_is_no_genome():
    bound = registry.tasks()["human_nontata_promoters"].bind(Reference(REAL / "hg38_chr2_1-2333275.fa.gz"))
    with pytest.raises(BadData, match=r"2333275\.fa\.gz: lacks 2[23] of the 24 chromosomes .*`harness data get hg38`"):
        bound.load("published")


# --- samples ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", COUNTS)
def test_samples_have_the_shape_of_the_tasks(task):
    sample = registry.tasks()[task].sample
    assert sample is not None
    assert sample.label == f"{task} (sample)"
    assert sample.classes == registry.tasks()[task].classes
    splits = sample.load("drawn")
    sizes = (240, 80, 80) if "mouse" in task else (1200, 400, 400)
    assert tuple(map(len, (splits.train, splits.validation, splits.test))) == sizes
    examples = [*splits.train, *splits.validation, *splits.test]
    lengths = [len(example.windows[0]) for example in examples]
    assert (min(lengths), max(lengths)) == LENGTHS[task]
    by_length = Counter((length, example.label) for length, example in zip(lengths, examples, strict=True))
    for length in set(lengths):  # the length says nothing about the class
        counts = [by_length[length, label] for label in range(len(sample.classes))]
        assert max(counts) - min(counts) <= 1
    assert splits.best_accuracy == pytest.approx(0.84 if task == "human_enhancers_ensembl" else 0.965, abs=0.02)
    assert sample.summary.startswith(f"SIMULATED, not real windows of {task}")


@pytest.mark.parametrize("task", COUNTS)
@pytest.mark.parametrize("length", [2, 9, 71, 251])
def test_the_bayes_rule_of_a_sample_is_as_accurate_as_it_says(task, length):
    motif = MOTIFS[task]
    count, planted = 6000, len(motif.planted)
    letters, labels = _simulate.draw(motif, count, length)
    p = _simulate.posterior(motif, letters)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    best = p.max(axis=1)
    assert abs((p.argmax(axis=1) == labels).mean() - best.mean()) < 4 * np.sqrt((best * (1 - best)).sum()) / count + 1e-9
    if length < len(motif.consensus):  # nothing can be planted
        np.testing.assert_allclose(p, 1 / planted)


@pytest.mark.parametrize("task", COUNTS)
def test_composition_of_a_sample_tells_nothing(task):
    planted = MOTIFS[task].planted
    assert len(set(planted)) == len(planted) == len(SETS[task].classes)
    assert len({"".join(sorted(one)) + one[-1] for one in planted}) == 1
