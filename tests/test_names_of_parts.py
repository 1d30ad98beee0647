"""Files of one class of one part, by their names, and names and columns that contradict each other or go unused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import harness
from harness.errors import BadData, UserError
from harness.task import Reading, Reference
from harness.tasks.files import from_files

_rng = random.Random(11)
WINDOWS = ["".join(_rng.choices("ACGT", k=40)) for _ in range(60)]
FLAT = [f"{part}_{label}" for part in ("train", "test") for label in ("neg", "pos")]


def fasta(windows: list[str], header: str = "w{n}") -> str:
    return "".join(f">{header.format(n=n)}\n{window}\n" for n, window in enumerate(windows))


def table(header: str, row: str, path: Path) -> Path:
    rows = [row.format(n=n, s=window, y=n % 2, part="train" if n < 40 else "test") for n, window in enumerate(WINDOWS)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def pair(folder: Path, first: str, second: str, headers: tuple[str, str] = ("p{n}", "n{n}")) -> list[Path]:
    paths = [folder / first, folder / second]
    for path, windows, header in zip(paths, (WINDOWS[:30], WINDOWS[30:]), headers, strict=True):
        path.write_text(fasta(windows, header))
    return paths


def notes(paths: list[Path]) -> str:
    task = from_files(paths)
    return "\n".join(task.load(task.split_rules[0]).notes)


@pytest.mark.parametrize("form", ["{0}_{1}.fa", "{1}.{0}.fa", "{0}{1}.fa"])
def test_a_file_for_each_class_of_each_part(form: str, tmp_path: Path) -> None:
    for number, name in enumerate(FLAT):
        words = [word.capitalize() if form == "{0}{1}.fa" else word for word in name.split("_")]
        (tmp_path / form.format(*words)).write_text(fasta(WINDOWS[15 * number : 15 * number + 15]))
    for paths in ([tmp_path], sorted(tmp_path.iterdir())):
        task = from_files(paths)
        assert [name.lower() for name in task.classes] == ["neg", "pos"]
        splits = task.load("given")
        assert len(splits.test) == 30
        assert {e.windows[0].sequence: e.label for e in splits.test} == dict(zip(WINDOWS[30:], [0] * 15 + [1] * 15, strict=True))


def test_bed_files_of_classes_and_parts(tmp_path: Path) -> None:
    (tmp_path / "g.fasta").write_text(">chr1\n" + "".join(WINDOWS) + "\n")
    folder = tmp_path / "beds"
    folder.mkdir()
    for number, name in enumerate(FLAT):
        starts = range(600 * number, 600 * number + 600, 40)
        (folder / f"{name}.bed").write_text("".join(f"chr1\t{start}\t{start + 40}\n" for start in starts))
    task = from_files([folder]).bind(Reference(genome=tmp_path / "g.fasta"))  # type: ignore[misc]
    assert [len(part) for part in (task.load("given").test, task.load("given").train)] == [30, 28]


@pytest.mark.parametrize(
    "names", [["train_a", "train_b", "test_a"], ["train_a", "train_b", "test_a", "test_c"], ["train", "train_b", "test"]]
)
def test_parts_whose_files_are_not_of_the_same_classes(names: list[str], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        (tmp_path / f"{name}.fa").write_text(fasta(WINDOWS[15 * number : 15 * number + 15]))
    with pytest.raises(BadData, match="several files for the part train"):
        from_files([tmp_path])


def test_folders_of_classes_with_the_parts_inside(tmp_path: Path) -> None:
    for label in ("positive", "negative"):
        (tmp_path / label).mkdir()
        for part in ("train", "test"):
            (tmp_path / label / f"{part}.fa").write_text(fasta(WINDOWS[:5]))
    with pytest.raises(UserError, match=r"several sets .* if these are classes, the parts come first: FOLDER/train/CLASS.fa"):
        from_files([tmp_path])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("non_binding.fa", "binding.fa"),
        ("nonenhancers.fa", "enhancers.fa"),
        ("RBP_nonbinding.fa", "RBP_binding.fa"),
        ("0.fa", "1.fa"),
        ("class0.fa", "class1.fa"),
    ],
)
def test_names_that_deny_each_other_in_the_other_order(first: str, second: str, tmp_path: Path) -> None:
    assert "the names say the opposite" in notes(pair(tmp_path, first, second))
    assert "the names say the opposite" not in notes(pair(tmp_path, second, first))


def test_words_of_headers_are_said_where_the_files_are_the_classes(tmp_path: Path) -> None:
    said = notes(pair(tmp_path, "pos.fa", "neg.fa", ("p{n} class:enhancer", "n{n} class:intron")))
    assert "pos.fa: its windows have the label 'enhancer', and the class 'positive' here" in said
    assert "neg.fa: its windows have the label 'intron', and the class 'negative' here" in said
    assert "its windows" not in notes(pair(tmp_path, "pos.fa", "neg.fa", ("p{n} class:1", "n{n} class:0")))


def test_headers_of_class_files_the_other_way_round(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        pair(tmp_path / part, "pos.fa", "neg.fa", ("p{n} class:0", "n{n} class:1"))
    with pytest.raises(BadData, match="the headers name the classes the other way round"):
        from_files([tmp_path])


def test_intervals_with_a_column_of_labels(tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_text(">chr1\n" + "".join(WINDOWS) + "\n")
    path = tmp_path / "t.csv"
    rows = [f"chr1,{40 * n},{40 * n + 40},{'+-'[n // 2 % 2]},{n % 2}" for n in range(60)]
    path.write_text("\n".join(["chrom,start,end,strand,label", *rows]) + "\n")
    with pytest.raises(UserError, match="intervals have no letters; give their genome"):
        from_files([path]).load("stratified")
    splits = from_files([path]).bind(Reference(genome=tmp_path / "g.fa")).load("stratified")  # type: ignore[misc]
    first = next(e for part in (splits.train, splits.validation, splits.test) for e in part if e.id == "2")
    assert (first.windows[0].sequence, first.label) == (WINDOWS[1], 1)


def test_columns_of_files_that_have_none(tmp_path: Path) -> None:
    paths = pair(tmp_path, "pos.fa", "neg.fa")
    for reading, said in (
        (Reading(sequence_column="seq"), "sequence-column 'seq'"),
        (Reading(label_columns=("y",)), "label-column 'y'"),
    ):
        with pytest.raises(UserError, match=f"{said}: .*pos.fa is no table; leave it out"):
            from_files(paths, reading=reading)


def test_one_column_of_labels_named_twice(tmp_path: Path) -> None:
    path = table("sequence,a", "{s},{y}", tmp_path / "t.csv")
    with pytest.raises(UserError, match="label-column a,A: a column is named twice"):
        from_files([path], reading=Reading(label_columns=("a", "A")))


def test_numbers_for_columns_that_have_names(tmp_path: Path) -> None:
    path = table("DNA,label", "{s},c{y}", tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"the first line is a header \(DNA, label\); name the columns instead"):
        from_files([path], reading=Reading(sequence_column="1", label_columns=("2",)))


def test_two_columns_of_parts(tmp_path: Path) -> None:
    agreeing = table("sequence,label,split,set", "{s},{y},{part},{part}ing", tmp_path / "a.csv")
    assert len(from_files([agreeing]).load("given").test) == 20
    contradicting = table("sequence,label,split,set", "{s},{y},{part},test", tmp_path / "t.csv")
    with pytest.raises(BadData, match="line 2: columns 'split' and 'set' name different parts; keep one of them"):
        from_files([contradicting])


def test_a_column_of_parts_in_unknown_words_is_said(tmp_path: Path) -> None:
    path = table("sequence,label,split", "{s},{y},fold{y}", tmp_path / "t.csv")
    assert "column 'split' holds words such as 'fold0', not the words train, validation and test; it is not used" in notes([path])


def test_empty_and_lone_parts_of_json(tmp_path: Path) -> None:
    rows = [{"sequence": window, "label": n % 2} for n, window in enumerate(WINDOWS)]
    for content in ({"train": rows, "test": []}, {"train": rows, "version": 1}):
        path = tmp_path / "t.json"
        path.write_text(json.dumps(content))
        with pytest.raises(BadData, match="only train is given, and no test"):
            from_files([path]).load("given")
    path.write_text(json.dumps({"data": rows, "errors": []}))
    assert from_files([path]).split_rules == ("stratified", "shuffled")


def test_a_file_named_twice(tmp_path: Path) -> None:
    path = table("sequence,label", "{s},{y}", tmp_path / "t.csv")
    with pytest.raises(UserError, match="the same file twice; give each file once"):
        harness.load_task([str(path), str(path)])


def test_a_test_part_that_is_the_validation_part(tmp_path: Path) -> None:
    names = {"train": WINDOWS[:30], "valid": WINDOWS[30:50], "test": [*WINDOWS[30:35], *WINDOWS[50:]]}
    for name, windows in names.items():
        rows = [f"{window},{n % 2}" for n, window in enumerate(windows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["sequence,label", *rows]) + "\n")
    splits = from_files([tmp_path]).load("given")
    assert splits.changes["test_windows_repeating_validation"] == 5
    assert "5 test windows repeat validation windows; none is moved, and `harness audit` lists them" in splits.notes


def test_labels_that_only_the_test_part_has_are_said(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [f"{w},{'A;B' if n % 2 else 'A'}{';C' * (n > 50)},{'train' if n < 40 else 'test'}" for n, w in enumerate(WINDOWS)]
    path.write_text("\n".join(["sequence,label,split", *rows]) + "\n")
    assert "labels that no training window has: 'C'" in notes([path])
