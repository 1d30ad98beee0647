"""Windows that depend on each other stay in one part of the split; where none do, the split is the usual one."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from harness.data import Locus, reverse_complement
from harness.errors import BadData
from harness.task import Splits
from harness.tasks._splits import dependent, stratified, stratified_groups
from harness.tasks.files import from_files

CASE = Path(__file__).parents[2] / "shared" / "cases" / "C13_overlapping_windows"


def windows(count: int, seed: int = 0, length: int = 40) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("ACGT", k=length)) for _ in range(count)]


def parts(splits: Splits) -> dict[str, int]:
    return {
        example.windows[0].sequence: number
        for number, part in enumerate((splits.train, splits.validation, splits.test))
        for example in part
    }


def test_windows_that_share_letters_are_in_one_group() -> None:
    a, b, c, d, e = windows(5)
    places = [
        *(None, None, None),
        *(Locus("chr1", 100, 140), Locus("1", 139, 179, "-"), Locus("chr1", 179, 219), Locus("chr2", 100, 140)),
        Locus("chrM", 5, 45),
        Locus("MT", 30, 70),
    ]
    changes: Counter[str] = Counter()
    groups = dependent([a, a, reverse_complement(a), b, c, d, e, *windows(2, 9)], places, changes)
    assert groups[0] == groups[1] == groups[2]
    assert groups[3] == groups[4]  # by one nucleotide, on the other strand, under the other name
    assert groups[7] == groups[8]
    assert len({groups[i] for i in (0, 3, 5, 6, 7)}) == 5
    assert +changes == {"duplicates": 1, "reverse_complements": 1, "overlapping_windows": 4}


def test_chains_of_windows_are_one_group() -> None:
    """A long window reaches over short ones; what overlaps its far end belongs to it too."""
    places = [Locus("1", 0, 1000), Locus("1", 10, 50), Locus("1", 990, 1030), Locus("1", 1029, 1069), Locus("1", 1069, 1109)]
    changes: Counter[str] = Counter()
    groups = dependent(windows(5), places, changes)
    assert len(set(groups[:4])) == 1
    assert groups[4] != groups[0]
    assert changes["overlapping_windows"] == 4


def test_groups_against_their_definition() -> None:
    """Connected components of all pairs that overlap, of random intervals."""
    rng = random.Random(3)
    places = [
        Locus(rng.choice(["1", "chr1", "2"]), start := rng.randrange(3000), start + rng.randrange(1, 40)) for _ in range(150)
    ]
    groups = dependent(windows(150), places, Counter())
    expected = list(range(150))
    for _ in range(150):
        for i, one in enumerate(places):
            for j, other in enumerate(places):
                if one.chromosome[-1] == other.chromosome[-1] and one.start < other.end and other.start < one.end:
                    expected[i] = expected[j] = min(expected[i], expected[j])
    assert len(set(zip(groups, expected, strict=True))) == len(set(groups)) == len(set(expected))


def test_without_dependent_windows_the_split_is_the_usual_one() -> None:
    labels = [i % 3 for i in range(100)]
    assert stratified_groups("x", labels, list(range(100))) == stratified(labels)


@pytest.mark.parametrize("sizes", [(1, 2), (5, 5), (1, 30), (2, 3, 40)])
def test_no_group_is_cut_and_classes_keep_their_shares(sizes: tuple[int, ...]) -> None:
    rng = random.Random(0)
    groups, labels = [], []
    for group in range(300):
        for _ in range(rng.choice(sizes)):
            groups.append(group)
            labels.append(int(group % 4 == 0) if group % 10 else rng.randrange(2))
    split = stratified_groups("x", labels, groups)
    assert sorted(i for part in split for i in part) == list(range(len(labels)))
    held = [{groups[i] for i in part} for part in split]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]
    for part, share in zip(split, (0.6, 0.2, 0.2), strict=True):
        for label in (0, 1):
            count = sum(labels[i] == label for i in part)
            assert count / labels.count(label) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("size", [3, 4, 5, 7])
def test_small_classes_reach_every_part(size: int) -> None:
    labels = [0] * size + [1] * 50
    groups = [*range(size + 49), size + 48]
    for part in stratified_groups("x", labels, groups):
        assert {labels[i] for i in part} == {0, 1}


def test_windows_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(
        BadData, match=r"x: windows that overlap .* would lack a class; the largest of 2 such groups has 30 of 40 windows"
    ):
        stratified_groups("x", [i % 2 for i in range(40)], [0] * 30 + [1] * 10)


def test_a_file_with_reverse_complements(tmp_path: Path) -> None:
    half = windows(100)
    rows = [(w, i % 2) for i, w in enumerate(half)] + [(reverse_complement(w), i % 2) for i, w in enumerate(half)]
    (tmp_path / "t.csv").write_text("sequence,label\n" + "".join(f"{w},{y}\n" for w, y in rows))
    splits = from_files([tmp_path / "t.csv"]).load("stratified")
    assert splits.changes == {"reverse_complements": 100}
    assert "100 windows overlap or repeat others, and are kept in one part of the split with them" in splits.notes
    found = parts(splits)
    assert all(found[w] == found[reverse_complement(w)] for w in half)
    assert splits.block is not None
    assert len({splits.block(example.id) for example in splits.test}) == len(splits.test) // 2  # what intervals resample


@pytest.mark.parametrize("shift", [0, 1], ids=["0-based", "1-based"])
def test_files_whose_headers_overlap(shift: int, tmp_path: Path) -> None:
    genome = "".join(random.Random(5).choices("ACGT", k=20_000))
    for name, first in (("pos.fa", 0), ("neg.fa", 10_000)):
        starts = [first + 200 * locus + 9 * step for locus in range(40) for step in range(4)]
        (tmp_path / name).write_text("".join(f">chr1:{s + shift}-{s + 40}\n{genome[s : s + 40]}\n" for s in starts))
    splits = from_files([tmp_path / "pos.fa", tmp_path / "neg.fa"]).load("stratified")
    assert splits.changes == {"overlapping_windows": 320}
    found = parts(splits)
    for start in range(0, 16_000, 200):
        if start < 8000 or start >= 10_000:
            assert len({found[genome[start + 9 * step : start + 9 * step + 40]] for step in range(4)}) == 1
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [192, 64, 64]


@pytest.mark.skipif(not CASE.is_dir(), reason="the handed cases (../shared/cases) are not here")
def test_the_handed_case() -> None:
    splits = from_files([CASE / "pos.fa", CASE / "neg.fa"]).load("stratified")
    assert splits.changes == {"overlapping_windows": 500}
    places = [
        {example.windows[0].locus.start // 1000 * 1000 for example in part if example.windows[0].locus}
        for part in (splits.train, splits.validation, splits.test)
    ]
    assert not places[0] & places[2]
    splits = from_files([CASE / "reverse_complement.csv"]).load("stratified")
    assert splits.changes == {"reverse_complements": 250}


def test_near_copies_stay_in_one_part_and_are_counted(tmp_path: Path) -> None:
    """Without loci: windows of 100 places, each cut five times at a distance of 7 nt."""
    genome = "".join(random.Random(11).choices("ACGT", k=50_000))
    rows = [(genome[500 * n + 7 * step :][:101], random.Random(n).randrange(2)) for n in range(100) for step in range(5)]
    (tmp_path / "t.csv").write_text("sequence,label\n" + "".join(f"{w},{y}\n" for w, y in rows))
    splits = from_files([tmp_path / "t.csv"]).load("stratified")
    assert splits.changes == {"near_duplicates": 500}
    found = parts(splits)
    assert all(len({found[rows[5 * n + step][0]] for step in range(5)}) == 1 for n in range(100))
    assert splits.block is not None
    assert len({splits.block(example.id) for example in splits.test}) * 5 == len(splits.test)


def test_near_copies_that_cannot_stay_together_are_said(tmp_path: Path) -> None:
    """Families, each of which is a class: kept whole, no part would have all of them."""
    rng = random.Random(12)
    families = ["".join(rng.choices("ACGT", k=100)) for _ in range(4)]
    rows = []
    for number in range(80):
        letters = list(families[number % 4])
        letters[rng.randrange(100)] = "N"
        rows.append(("".join(letters), f"RF{number % 4}"))
    (tmp_path / "t.csv").write_text("sequence,label\n" + "".join(f"{w},{y}\n" for w, y in rows))
    splits = from_files([tmp_path / "t.csv"]).load("stratified")
    assert "near duplicates are drawn apart, since a part would lack a class without: scores may rest on them" in splits.notes
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [48, 16, 16]


def test_large_sets_are_not_compared_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.tasks.files.MAX_LETTERS", 1000)
    (tmp_path / "t.csv").write_text("sequence,label\n" + "".join(f"{w},{i % 2}\n" for i, w in enumerate(windows(100))))
    said = from_files([tmp_path / "t.csv"]).load("stratified").notes
    assert any("near duplicates were not looked for" in note and "`harness audit` finds them" in note for note in said)
