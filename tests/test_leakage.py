"""Leaks of test examples, by kind and with the right training example, and the scores without them."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import motif_examples, planned_run, random_windows, variant_examples

from harness.data import Example, Locus, Window, reverse_complement
from harness.evidence.leakage import Part, compare, find_leaks, judged
from harness.evidence.records import Predictions, read_predictions
from harness.evidence.schema import LEAKS
from harness.files.loci import overlaps, touching
from harness.study.run import execute
from harness.task import MULTILABEL, REGRESSION, Splits, Task


def example(name: str, sequence: str, label=0, locus: Locus | None = None) -> Example:
    return Example(name, (Window(sequence, locus),), label)


def unrelated(count: int, length: int = 101, seed: int = 0) -> list[Example]:
    return [
        example(f"t{number}", window.sequence, number % 2) for number, window in enumerate(random_windows(count, length, seed))
    ]


def splits_of(train, test, validation=()) -> Splits:
    return Splits(train, list(validation) or unrelated(4, seed=99), test, files={"made": "00"})


def test_each_kind_of_leak_names_the_training_example_that_it_comes_from():
    train = unrelated(50)
    train[7] = example("here", train[7].windows[0].sequence, 1, Locus("chr1", 1000, 1101))
    other = unrelated(5, seed=5)
    copy = train[3].windows[0].sequence
    changed = copy[:50] + reverse_complement(copy[50]) + copy[51:]
    test = [
        example("same", copy),
        example("opposite", reverse_complement(train[4].windows[0].sequence)),
        example("alike", reverse_complement(changed)),
        example("beside", other[0].windows[0].sequence, 0, Locus("chr1", 1100, 1201, "-")),
        example("next", other[1].windows[0].sequence, 0, Locus("chr1", 1101, 1202)),
        example("elsewhere", other[2].windows[0].sequence, 0, Locus("ce11.chr1", 1000, 1101)),
        example("spelt otherwise", other[4].windows[0].sequence, 0, Locus("1", 1050, 1151)),
        example("new", other[3].windows[0].sequence),
    ]
    found = find_leaks(splits_of(train, test))
    assert found["leaks"] == [
        ["exact", "t3"], ["exact", "t4"], ["near", "t3"], ["overlap", "here"], ["none", ""], ["none", ""],
        ["overlap", "here"], ["none", ""],
    ]  # fmt: skip
    assert found["counts"] == {"none": 3, "near": 1, "overlap": 2, "exact": 2}
    assert found["validation"] == {"none": 4, "near": 0, "overlap": 0, "exact": 0}
    assert found["parameters"]["identity"] == 0.8


def test_the_worst_leak_counts_and_facts_are_told_apart():
    train = [example("a", unrelated(1)[0].windows[0].sequence, 0, Locus("chr1", 0, 101))]
    same = compare(Part.of(train), Part.of([replace(train[0], id="b")]))
    assert LEAKS[same.worst[0]] == "exact"
    assert {name for name, mask in same.facts.items() if mask[0]} == {"exact", "overlap", "half", "same_interval"}
    other = example("c", unrelated(1, seed=1)[0].windows[0].sequence, 0, Locus("chr1", 40, 141))
    assert {name for name, mask in compare(Part.of(train), Part.of([other])).facts.items() if mask[0]} == {"overlap", "half"}


def test_random_windows_do_not_leak():
    found = find_leaks(splits_of(unrelated(300), unrelated(100, seed=1)))
    assert found["counts"] == {"none": 100, "near": 0, "overlap": 0, "exact": 0}


def test_unknown_letters_and_short_windows_are_like_themselves_only():
    train = [example("n", "N" * 101), example("half", "N" * 60 + "ACGTTGCATT"), example("ac", "AC"), *unrelated(20)]
    test = [
        example("n2", "N" * 101),
        example("half2", "N" * 60 + "ACGTTGCATT"),
        example("gt", "GT"),
        example("a", "A"),
        example("c", "CC"),
    ]
    assert find_leaks(splits_of(train, test))["leaks"] == [
        ["none", ""],
        ["none", ""],
        ["exact", "ac"],
        ["none", ""],
        ["none", ""],
    ]


def test_variants_are_exact_as_pairs_and_near_by_their_reference():
    train = variant_examples(20, length=128)
    reference = train[4].windows[0].sequence
    other = Window(reference[:10] + ("A" if reference[10] != "A" else "C") + reference[11:])
    test = [
        replace(train[3], id="same"),
        Example("other change", (train[4].windows[0], other), 0),
        Example("turned", tuple(Window(reverse_complement(window.sequence)) for window in train[5].windows), 0),
    ]
    found = find_leaks(splits_of(train, test, variant_examples(4, length=128, seed=9)))
    assert [leak for leak, _ in found["leaks"]] == ["exact", "near", "exact"]
    assert found["leaks"][1][1] == train[4].id


def test_overlaps_are_those_of_a_plain_search():
    rng = np.random.default_rng(3)
    train, test = (
        [
            Locus(f"chr{rng.integers(3)}", int(start), int(start + rng.integers(1, 300)))
            for start in rng.integers(0, 20_000, count)
        ]
        for count in (300, 200)
    )
    train[5], test[7] = None, None
    train[6] = Locus("chr1", 0, 50_000)  # one long locus must not hide the others
    best, half, same = overlaps(train, test)
    for number, place in enumerate(test):
        shares = {}
        for other, theirs in enumerate(train):
            if place and theirs and place.chromosome == theirs.chromosome:
                common = min(place.end, theirs.end) - max(place.start, theirs.start)
                if common > 0:
                    lengths = place.end - place.start, theirs.end - theirs.start
                    shares[other] = (common / (sum(lengths) - common), 2 * common >= max(lengths), place == theirs)
        assert (best[number] >= 0) == bool(shares)
        if shares:
            most = max(share for share, *_ in shares.values())
            assert best[number] == next(other for other, (share, *_) in shares.items() if share == most)
        assert half[number] == any(it[1] for it in shares.values())
        assert same[number] == any(it[2] for it in shares.values())


def test_touching_loci_are_joined_through_others():
    loci = [Locus("1", 0, 10), Locus("1", 5, 8), Locus("1", 9, 20), Locus("1", 20, 30), Locus("2", 0, 10), None]
    assert {frozenset(pair) for pair in zip(*(side.tolist() for side in touching(loci)))} == {
        frozenset((0, 1)),
        frozenset((0, 2)),
    }


# Test intervals that overlap training intervals: any, half of both, the same interval; per class; different ones left.
TABLE = {
    "dummy_mouse_enhancers_ensembl": (0.0041, 0.0, 0, {"negative": 0.0, "positive": 0.008}, 241),
    "demo_coding_vs_intergenomic_seqs": (0.0066, 0.0032, 0, {"coding_seqs": 0.0, "intergenomic_seqs": 0.013}, 24_835),
    "demo_human_or_worm": (0.0754, 0.0379, 4, {"human": 0.006, "worm": 0.145}, 23_114),
    "human_enhancers_cohn": (0.0068, 0.0030, 0, {"negative": 0.014, "positive": 0.0}, 6_901),
    "human_enhancers_ensembl": (0.385, 0.380, 11_694, {"negative": 0.013, "positive": 0.757}, 17_603),
    "human_ensembl_regulatory": (0.0, 0.0, 0, {"enhancer": 0.0, "ocr": 0.0, "promoter": 0.0}, 57_713),
    "human_nontata_promoters": (0.4925, 0.475, 0, {"negative": 0.996, "positive": 0.071}, 4_585),
    "human_ocr_ensembl": (0.0154, 0.0059, 0, {"negative": 0.023, "positive": 0.008}, 34_414),
}


@pytest.mark.parametrize("name", TABLE)
def test_overlaps_of_genomic_benchmarks_are_the_published_ones(shared, name):
    parts = {}
    for part in ("train", "test"):
        parts[part] = []
        for path in sorted((shared / "data/genomic_benchmarks/coordinates" / name / part).glob("*.csv.gz")):
            kind = path.name.removesuffix(".csv.gz")
            with gzip.open(path, "rt") as file:
                parts[part] += [
                    (kind, Locus(("ce11 " if kind == "worm" else "") + row["region"], int(row["start"]), int(row["end"])))
                    for row in csv.DictReader(file)
                ]
    if not parts["test"]:
        pytest.skip(f"the intervals of {name} are not at hand")
    best, half, same = overlaps(*([locus for _, locus in parts[part]] for part in ("train", "test")))
    kinds = np.array([kind for kind, _ in parts["test"]])
    share, reciprocal, identical, classes, left = TABLE[name]
    assert (best >= 0).mean() == pytest.approx(share, abs=6e-4)
    assert half.mean() == pytest.approx(reciprocal, abs=6e-4)
    assert same.sum() == identical
    assert {kind: round(float((best[kinds == kind] >= 0).mean()), 3) for kind in classes} == classes
    assert len({row for row, found in zip(parts["test"], best) if found < 0}) == left


@pytest.mark.parametrize(("name", "near"), [("QKI", 40), ("GTF2F1", 78), ("HNRNPL", 93), ("HNRNPM", 283), ("PTBP1", 284)])
def test_near_duplicates_of_the_rbp_sets(shared, name, near):
    (folder,) = (shared / "data/rbp").glob(f"{name}_*_IDR")
    parts = []
    for part in ("train", "dev", "test"):
        with open(folder / f"{part}.csv") as file:
            parts.append(
                [
                    example(f"{part}{number}", row["sequence"], int(row["label"]))
                    for number, row in enumerate(csv.DictReader(file))
                ]
            )
    counts = find_leaks(Splits(*parts, files={}))["counts"]
    assert (counts["exact"], counts["overlap"]) == (0, 0)
    assert counts["near"] == near


def predictions(labels, outputs, classes=("a", "b"), kind="classification") -> Predictions:
    return Predictions(
        tuple(f"e{number}" for number in range(len(labels))), np.array(labels), np.array(outputs, float), classes, kind=kind
    )


def leaks(*kinds: str) -> dict:
    counts = {name: kinds.count(name) for name in LEAKS}
    return {"leaks": [[kind, "" if kind == "none" else "t0"] for kind in kinds], "counts": counts, "parameters": {}}


def test_scores_are_those_of_novel_and_of_leaking_examples():
    found = judged(
        predictions([0, 1, 0, 1], [[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]), leaks("none", "none", "exact", "near")
    )
    assert found["subsets"]["novel"]["examples"] == 2
    assert found["subsets"]["novel"]["metrics"]["accuracy"] == 0.5
    assert found["subsets"]["leaking"]["metrics"]["accuracy"] == 1.0
    assert found["counts"] == {"none": 2, "near": 1, "overlap": 0, "exact": 1}
    assert "leaks" not in found


def test_a_subset_of_one_class_or_of_nothing_has_no_auroc_and_does_not_crash():
    found = judged(predictions([0, 0, 1], [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]]), leaks("none", "none", "exact"))
    assert np.isnan(found["subsets"]["novel"]["metrics"]["auroc"])
    assert found["subsets"]["novel"]["metrics"]["accuracy"] == 1.0
    empty = judged(predictions([0, 1], [[0.9, 0.1], [0.8, 0.2]]), leaks("none", "none"))["subsets"]["leaking"]
    assert empty == {"examples": 0, "metrics": dict.fromkeys(empty["metrics"]), "intervals": {}}


@pytest.mark.parametrize(
    ("kind", "labels", "outputs", "classes"),
    [
        (REGRESSION, [0.5, 1.5, 2.5], [[0.4], [1.0], [2.0]], ("value",)),
        (MULTILABEL, [[0, 1], [1, 0], [1, 1]], [[0.2, 0.8], [0.5, 0.5], [0.9, 0.4]], ("x", "y")),
    ],
)
def test_one_example_is_judged_in_every_kind_of_task(kind, labels, outputs, classes):
    found = judged(predictions(labels, outputs, classes, kind), leaks("none", "exact", "exact"))
    assert found["subsets"]["novel"]["examples"] == 1
    assert set(found["subsets"]["novel"]["metrics"]) == set(found["subsets"]["leaking"]["metrics"])


def test_a_run_records_its_leaks(tmp_path):
    train, test = motif_examples(60, seed=1), motif_examples(30, seed=2)
    test[:5] = [replace(item, id=f"copy {item.id}") for item in train[:5]]
    splits = Splits(train, motif_examples(20, seed=3), test, files={"made": "00"})
    task = Task("motif", "made", "", ("without", "with"), lambda rule: splits, ("given",))
    record = execute(planned_run("kmer", task, splits), tmp_path, opened=(task, splits))
    assert record.leakage["counts"] == {"none": 25, "near": 0, "overlap": 0, "exact": 5}
    assert record.leakage["subsets"]["leaking"]["examples"] == 5
    stored = read_predictions(tmp_path / record.folder)
    assert stored.leaks[:6] == (*(("exact", f"w{number}") for number in range(5)), ("none", ""))
    novel = sum((stored.outputs[5:].argmax(axis=1) == stored.labels[5:]).tolist()) / 25
    assert record.leakage["subsets"]["novel"]["metrics"]["accuracy"] == pytest.approx(novel)


def test_the_screen_shows_the_leaks_of_a_run(harness, tmp_path):
    train, test = motif_examples(60, seed=1), motif_examples(30, seed=2)
    for name, part in (("train", train), ("dev", motif_examples(20, seed=3)), ("test", [*train[:6], *test])):
        rows = "".join(f"{item.windows[0].sequence},{item.label}\n" for item in part)
        (tmp_path / f"{name}.csv").write_text(f"sequence,label\n{rows}")
    done = harness("run", "--model", "gc", "--task", "train.csv", "dev.csv", "test.csv")
    assert "leaks: 16.7% of test windows match training windows (the same letters: 6)" in done.stderr
    assert "accuracy on the 30 test windows with no match in train" in done.stdout
    (path,) = tmp_path.glob("results/*/gc/*/record.json")
    assert json.loads(path.read_text())["leakage"]["counts"]["exact"] == 6
