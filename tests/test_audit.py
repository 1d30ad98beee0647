"""`harness audit`: what it says of a split, and the split that it writes instead."""

from __future__ import annotations

import csv
import gzip
import json
import random
import zlib
from dataclasses import replace

import numpy as np
import pytest

import harness as face
from harness.data import Example, Locus, Window, reverse_complement
from harness.errors import UserError
from harness.evidence.audit import audit, described
from harness.files.neighbours import TOO_SHORT, near_pairs
from harness.study.audit import repair
from harness.task import MULTILABEL, REGRESSION, Splits, Task


def letters(length: int, generator: random.Random) -> str:
    return "".join(generator.choices("ACGT", k=length))


def made_task(kind: str = "classification", classes: tuple[str, ...] = ("no", "yes"), rules=("given",)) -> Task:
    return Task("made", "made", "", classes, lambda rule: None, rules, kind=kind)  # type: ignore[arg-type, return-value]


def example(name, sequence, label, locus=None) -> Example:
    return Example(name, (Window(sequence, locus),), label)


def part(name: str, count: int, seed: int, label=lambda number: number % 2) -> list[Example]:
    generator = random.Random(seed)
    return [example(f"{name}{number}", letters(80, generator), label(number)) for number in range(count)]


def write(path, examples) -> None:
    path.write_text("id,sequence,label\n" + "".join(f"{it.id},{it.windows[0].sequence},{it.label}\n" for it in examples))


@pytest.fixture
def leaky(tmp_path):
    """train.csv, dev.csv and test.csv, of whose 40 test windows 6 are in train and 2 contradict it."""
    train, dev, test = part("t", 200, 1), part("d", 40, 2), part("e", 40, 3)
    for number in range(6):
        copy = train[number].windows[0].sequence
        test[number] = example(
            f"copy{number}", copy if number % 2 else reverse_complement(copy), (train[number].label + (number > 3)) % 2
        )
    for name, rows in (("train", train), ("dev", dev), ("test", test)):
        write(tmp_path / f"{name}.csv", rows)
    return "train.csv", "dev.csv", "test.csv"


def test_a_summary_counts_leaks_by_kind_and_class_and_names_examples(harness, leaky):
    done = harness("audit", *leaky)
    assert done.returncode == 0
    assert "test in train: 6 of 40 (15.0%): same letters 6 (15.0%)" in done.stdout
    assert "contradicting labels: windows whose letters have another label elsewhere: 2 in train, 2 in test" in done.stdout
    assert "validation in train: nothing" in done.stdout
    assert "scores on this test split are upper bounds: 15.0% of its windows match training windows" in done.stdout
    assert len(done.stdout.splitlines()) <= 12


def test_strict_fails_on_leaks_only(harness, leaky, tmp_path):
    assert harness("audit", *leaky, "--strict").returncode == 1
    write(tmp_path / "test.csv", part("e", 40, 3))
    assert harness("audit", *leaky, "--strict").returncode == 0


def test_json_holds_all_of_it(harness, leaky, tmp_path):
    harness("audit", *leaky, "--json", "audit.json")
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["across"]["test in train"]["counts"] == {"none": 34, "near": 0, "overlap": 0, "exact": 6}
    assert found["parameters"]["identity"] == 0.8
    assert found["worst"][0]["leak"] == "exact"
    on_screen = harness("audit", *leaky, "--json", "-", "--identity", "0.9")
    assert json.loads(on_screen.stdout)["parameters"]["identity"] == 0.9


def test_the_python_face_gives_the_same(harness, leaky):
    assert face.audit(list(leaky)).across["test in train"]["facts"]["exact"] == 6
    with pytest.raises(UserError, match="identity 2"):
        face.audit(list(leaky), identity=2)


def test_mistakes_are_one_line(harness, leaky, tmp_path):
    for arguments, words in (
        (("--identity", "80"), "identity 80.0: must be from 0.5 to 1"),
        (("--fix", "cluster"), "give both or neither"),
        (("--fix", "locus", "--out", "new"), "fix 'locus': choose one of cluster, chromosome"),
        (("--fix", "chromosome", "--out", "new"), "not all windows of"),
        (("--fix", "cluster", "--out", "."), "exists already"),
        (("--option", "size=1"), "takes source=NAME and negatives=KIND only"),
    ):
        done = harness("audit", *leaky, *arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()
    assert harness("audit").returncode == 2


def test_a_repaired_split_has_no_leaks_and_is_read_back(harness, tmp_path):
    """Windows of one family, shifted by 7 nt, drawn apart at random."""
    generator, rows = random.Random(5), []
    for family in range(100):
        stretch = letters(101 + 28, generator)
        rows += [example(f"f{family}_{shift}", stretch[7 * shift : 7 * shift + 101], family % 2) for shift in range(5)]
    generator.shuffle(rows)
    for name, chosen in (("train", rows[:300]), ("dev", rows[300:400]), ("test", rows[400:])):
        write(tmp_path / f"{name}.csv", chosen)
    before = harness("audit", "train.csv", "dev.csv", "test.csv", "--fix", "cluster", "--out", "better")
    assert before.returncode == 0
    assert "better: 500 windows in 100 groups by cluster, the largest of 5" in before.stdout
    assert "train: 300 windows: 0 50.0%, 1 50.0%" in before.stdout
    after = harness("audit", "better", "--strict", "--json", "after.json")
    assert after.returncode == 0, after.stdout + after.stderr
    found = json.loads((tmp_path / "after.json").read_text())
    assert [found["examples"][name]["examples"] for name in ("train", "validation", "test")] == [300, 100, 100]
    assert harness("run", "--model", "gc", "--task", "better").returncode == 0


def located(count: int, seed: int, chromosomes: int = 8) -> list[Example]:
    generator, found = random.Random(seed), []
    for number in range(count):
        start = generator.randrange(10**6)
        locus = Locus(f"chr{generator.randrange(chromosomes) + 1}", start, start + 60, generator.choice("+-"))
        found.append(example(f"s{seed}_{number}", letters(60, generator), number % 2, locus))
    return found


def test_a_split_by_chromosome_keeps_loci(tmp_path):
    splits = Splits(located(300, 1), located(60, 2), located(60, 3), files={})
    lines = repair(made_task(), splits, "chromosome", tmp_path / "parts")
    assert "in 8 groups by chromosome" in lines[0]
    held = {}
    for name in ("train", "validation", "test"):
        with open(tmp_path / "parts" / f"{name}.csv") as file:
            rows = list(csv.DictReader(file))
        held[name] = {row["chrom"] for row in rows}
        assert all(int(row["end"]) - int(row["start"]) == len(row["sequence"]) for row in rows)
    assert sum(map(len, held.values())) == len(set().union(*held.values())) == 8


@pytest.mark.parametrize(
    ("kind", "classes", "label"),
    [(REGRESSION, ("value",), lambda number: number / 7), (MULTILABEL, ("a", "b"), lambda number: (number % 2, number % 3 // 2))],
)
def test_other_kinds_of_tasks_are_audited_and_repaired(tmp_path, kind, classes, label):
    train, test = part("t", 120, 1, label), part("e", 40, 2, label)
    test[0] = example("copy", train[5].windows[0].sequence, label(6))
    task, splits = made_task(kind, classes), Splits(train, part("v", 40, 3, label), test, files={})
    found = audit(task, splits, "given")
    assert found.across["test in train"]["counts"]["exact"] == 1
    assert found.conflicts == {"train": 1, "validation": 0, "test": 1}
    assert described(found)
    repair(task, splits, "cluster", tmp_path / "parts")
    assert len((tmp_path / "parts/train.csv").read_text().splitlines()) == pytest.approx(121, abs=2)


def test_shortcuts_are_found_by_what_they_are():
    """Labels that length, GC, N, strand or place tells, one at a time."""

    def features(length=60, gc=0.5, unknown=0, strand="+", chromosome="chr1", start=0) -> tuple:
        return length, gc, unknown, strand, chromosome, start

    told = {
        "length": lambda label: features(length=random.randrange(50, 60) + 20 * label),
        "GC share": lambda label: features(gc=(0.3, 0.7)[label]),
        "N share": lambda label: features(unknown=(0, 8)[label]),
        "strand": lambda label: features(strand="+-"[label]),
        "chromosome": lambda label: features(chromosome=("chr1", "chr2")[label]),
        "position": lambda label: features(start=(0, 50_000_000)[label]),
    }
    for name, make in told.items():
        generator = random.Random(1)

        def draw(number: int, label: int, generator=generator, make=make) -> Example:
            length, gc, unknown, strand, chromosome, start = make(label)
            text = "".join(generator.choices("ACGT", [1 - gc, gc, gc, 1 - gc], k=length - unknown)) + "N" * unknown
            start += generator.randrange(1_000_000)
            return example(f"{number}", text, label, Locus(chromosome, start, start + length, strand))

        parts = [[draw(number, number % 2) for number in range(count)] for count in (400, 40, 200)]
        found = audit(made_task(), Splits(*parts, files={}), "given", floor=False)
        best = max((value, feature) for feature, value in found.shortcuts.items() if value is not None)
        assert best[0] > 0.95
        assert found.shortcuts[name] == best[0]
        others = {feature for feature, value in found.shortcuts.items() if value is not None and value > 0.7}
        assert others <= {name, *(("position",) if name == "chromosome" else ()), *(("GC share",) if name == "N share" else ())}
        (sentence,) = [sentence for sentence in found.verdict if sentence.startswith(f"{name} alone reaches AUROC")]
        assert ("no model is shown it" in sentence) == (name in ("strand", "chromosome", "position"))


def test_strands_that_change_alone_are_audited_anew():
    def split(strand) -> Splits:
        rows = [[*part(name, count, seed)] for name, count, seed in (("t", 100, 1), ("v", 20, 2), ("e", 50, 3))]
        located = [
            [replace_locus(row, Locus("chr1", 1000 * n, 1000 * n + 80, strand(row.label))) for n, row in enumerate(rows_of)]
            for rows_of in rows
        ]
        return Splits(*located, files={})

    def replace_locus(row: Example, locus: Locus) -> Example:
        return replace(row, windows=(replace(row.windows[0], locus=locus),))

    assert audit(made_task(), split(lambda label: "+"), "given", floor=False).shortcuts["strand"] is None
    assert audit(made_task(), split(lambda label: "+-"[label]), "given", floor=False).shortcuts["strand"] == 1.0


def test_a_window_that_cannot_be_searched_counts_once():
    train, validation, test = part("t", 60, 1), part("v", 20, 2), part("e", 20, 3)
    test += [example(f"short{number}", "ACGTTGCATT"[number:], 0) for number in range(3)]
    train.append(example("unknown", "N" * 60 + "ACGTACCATGGTACAAGTCA", 0))
    found = audit(made_task(), Splits(train, validation, test, files={}), "given", floor=False)
    assert found.limits == {TOO_SHORT: 4}


def test_leaks_of_train_and_of_validation_are_also_counted_together():
    train, validation, test = part("t", 60, 1), part("v", 20, 2), part("e", 20, 3)
    for number in range(5):
        test[number] = replace(train[number], id=f"of train {number}")
    for number in range(3, 10):  # two of which are in both
        source = validation[number] if number > 4 else train[number]
        validation[number] = replace(source, id=f"v{number}")
        test[number] = replace(source, id=f"e{number}")
    found = audit(made_task(), Splits(train, validation, test, files={}), "given", floor=False)
    exact = {name: row["facts"]["exact"] for name, row in found.across.items()}
    assert exact == {
        "test in train": 5,
        "validation in train": 2,
        "test in validation": 7,
        "test in train or validation": 10,
    }
    assert "test in train or validation: 10 of 20 (50.0%)" in "\n".join(described(found))


@pytest.mark.parametrize(
    ("split", "remedy"), [("published", "--split locus"), ("chromosome", "--split locus"), ("locus", "--fix cluster")]
)
def test_the_remedy_is_not_the_split_that_leaks(split, remedy):
    train, validation, test = part("t", 60, 1), part("v", 20, 2), part("e", 20, 3)
    test[0] = replace(train[0], id="copy")
    found = audit(made_task(rules=("published", "chromosome", "locus")), Splits(train, validation, test, files={}), split)
    assert any("match training windows; split by" in sentence and remedy in sentence for sentence in found.verdict)


def test_gc_alone_tells_gtf2f1(shared):
    parts = []
    for name in ("train", "dev", "test"):
        with open(shared / f"data/rbp/GTF2F1_K562_IDR/{name}.csv") as file:
            parts.append(
                [
                    example(f"{name}{number}", row["sequence"], int(row["label"]))
                    for number, row in enumerate(csv.DictReader(file))
                ]
            )
    found = audit(made_task(), Splits(*parts, files={}), "published")
    assert found.shortcuts["GC share"] == pytest.approx(0.89, abs=0.005)
    assert found.shortcuts["6-mer counts"] > 0.93
    assert found.across["test in train"]["counts"] == {"none": 1212, "near": 78, "overlap": 0, "exact": 0}


def genome(locus: Locus) -> str:
    """Letters of a made-up genome: each place of each chromosome has its own."""
    places = np.arange(locus.start, locus.end, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(
        zlib.crc32(locus.chromosome.encode())
    )
    mixed = (places ^ (places >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.frombuffer(b"ACGT", np.uint8)[(mixed >> np.uint64(62)).astype(int)].tobytes().decode()


@pytest.mark.slow
def test_dropping_windows_is_no_repair_of_nontata_promoters(shared):
    parts = {}
    for name in ("train", "test"):
        rows = []
        for label, kind in enumerate(("negative", "positive")):
            with gzip.open(
                shared / f"data/genomic_benchmarks/coordinates/human_nontata_promoters/{name}/{kind}.csv.gz", "rt"
            ) as file:
                for number, row in enumerate(csv.DictReader(file)):
                    locus = Locus(row["region"], int(row["start"]), int(row["end"]), row["strand"])
                    rows.append(example(f"{kind}{number}", genome(locus), label, locus))
        parts[name] = rows
    splits = Splits(parts["train"][:-50], parts["train"][-50:], parts["test"], files={})
    found = audit(made_task(classes=("negative", "positive"), rules=("published", "locus")), splits, "published", floor=False)
    row = found.across["test in train"]
    assert row["facts"]["overlap"] / 9034 == pytest.approx(0.4925, abs=0.001)
    assert row["by_class"]["negative"]["overlap"] / 4119 == pytest.approx(0.996, abs=0.001)
    assert found.novel["negative"] == 18
    assert any(
        "dropping the leaking windows is no repair" in sentence and "18 are 'negative'" in sentence for sentence in found.verdict
    )
    assert any("split by locus instead: --split locus" in sentence for sentence in found.verdict)
    assert "  by class: negative 99.6%" in "\n".join(described(found))


def test_a_chromosome_has_one_name_with_and_without_chr(tmp_path):
    def row(id, start, chromosome) -> Example:
        text = letters(60, random.Random(id))
        return example(id, text, int(id[1:]) % 2, Locus(chromosome, start, start + 60))

    train = [row(f"t{n}", 1000 * n, "chr1") for n in range(40)]
    validation = [row(f"v{n}", 100_000 + 1000 * n, "chr2") for n in range(20)]
    test = [row(f"e{n}", 1000 * n + 30, "1") for n in range(5)] + [row(f"e{n}", 1000 * n, "3") for n in range(5, 20)]
    splits = Splits(train, validation, test, files={})
    found = audit(made_task(), splits, "given", floor=False)
    assert found.across["test in train"]["facts"]["overlap"] == 5
    repair(made_task(), splits, "chromosome", tmp_path / "parts")
    texts = [(tmp_path / f"parts/{name}.csv").read_text().splitlines() for name in ("train", "validation", "test")]
    parts = [{row["chrom"] for row in csv.DictReader(text)} for text in texts]
    assert [{"chr1", "1"} <= part or not {"chr1", "1"} & part for part in parts] == [True] * 3


def test_json_is_written_into_a_new_folder_and_not_over_one(harness, leaky, tmp_path):
    assert harness("audit", *leaky, "--json", "new/folder/audit.json").returncode == 0
    assert json.loads((tmp_path / "new/folder/audit.json").read_text())["across"]["test in train"]["facts"]["exact"] == 6
    done = harness("audit", *leaky, "--json", "new/folder")
    assert (done.returncode, done.stdout) == (2, "")
    assert "a folder; name a file in it" in done.stderr


def test_a_repair_is_refused_before_the_audit(harness, leaky, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for asked, reason in ((("cluster", "full"), "exists already"), (("nothing", "new"), "choose one of cluster, chromosome")):
        done = harness("audit", *leaky, "--fix", asked[0], "--out", asked[1])
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr


def test_near_duplicates_that_the_search_among_all_windows_misses_are_not_parted(tmp_path, monkeypatch):
    rows = part("t", 100, 1)
    for number in range(0, 100, 4):  # every fourth window has a near duplicate beside it
        text = rows[number].windows[0].sequence
        rows[number + 1] = example(f"near{number}", text[:40] + reverse_complement(text[40]) + text[41:], number % 2)
    splits = Splits(rows[:60], rows[60:80], rows[80:], files={})
    monkeypatch.setattr("harness.evidence.audit.near_pairs", lambda sequences, similarity: near_pairs([], similarity))
    repair(made_task(), splits, "cluster", tmp_path / "parts")
    found = {}
    for name in ("train", "validation", "test"):
        for row in csv.DictReader((tmp_path / f"parts/{name}.csv").read_text().splitlines()):
            found[row["id"]] = name
    assert len(found) == 100
    assert all(found[f"t{number}"] == found[f"near{number}"] for number in range(0, 100, 4))
