"""Files that are split already: which file holds which part and which class, and what of it is refused or said."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import BadData, UserError
from harness.task import Reading, Reference, Splits, Task
from harness.tasks import _layouts
from harness.tasks.files import from_files

PARTS = ("train", "validation", "test")
SIZES = {"train": 40, "validation": 12, "test": 14}
_rng = random.Random(7)
WINDOWS = {part: ["".join(_rng.choices("ACGT", k=30)) for _ in range(count)] for part, count in SIZES.items()}

Rows = list[tuple[str, int]]


def rows(part: str) -> Rows:
    return [(window, number % 2) for number, window in enumerate(WINDOWS[part])]


def csv(found: Rows, separator: str = ",", end: str = "\n") -> str:
    return "".join(separator.join(map(str, row)) + end for row in [("sequence", "label"), *found])


def fasta(found: Rows) -> str:
    return "".join(f">w{number} class:{label}\n{window}\n" for number, (window, label) in enumerate(found))


def records(found: Rows) -> list[dict]:
    return [{"sequence": window, "label": label} for window, label in found]


WRITERS: dict[str, Callable[[Rows], str]] = {
    "csv": csv,
    "tsv": lambda found: csv(found, "\t"),
    "txt": lambda found: csv(found, "\t", "\r\n"),
    "CSV": lambda found: "\ufeff" + csv(found, ";"),
    "jsonl": lambda found: "".join(json.dumps(record) + "\n" for record in records(found)),
    "json": lambda found: json.dumps(records(found)),
    "fa": fasta,
}


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def parts(task: Task, rule: str = "given") -> dict[str, list[str]]:
    splits = task.load(rule)
    found = zip(PARTS, (splits.train, splits.validation, splits.test), strict=True)
    return {name: [example.windows[0].sequence for example in part] for name, part in found}


def labels(splits: Splits) -> dict[str, object]:
    return {e.windows[0].sequence: e.label for part in (splits.train, splits.validation, splits.test) for e in part}


LABELS = {window: label for part in PARTS for window, label in rows(part)}


# --- files of parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "names", [("train", "dev", "test"), ("Train", "valid", "TEST"), ("my_train", "my_eval", "my_test")], ids=str
)
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_folder_with_a_file_for_each_part(kind: str, names: tuple[str, ...], packed: str, tmp_path: Path) -> None:
    for part, name in zip(PARTS, names, strict=True):
        write(tmp_path / "gue" / f"{name}.{kind}{packed}", WRITERS[kind](rows(part)))
    for other in ("README.md", ".cache/x", "._train.csv", ".DS_Store"):
        write(tmp_path / "gue" / other, "not data")
    task = from_files([tmp_path / "gue"])
    assert (task.name, task.split_rules, task.classes) == ("gue", ("given", "stratified", "shuffled"), ("0", "1"))
    assert parts(task) == WINDOWS
    assert labels(task.load("given")) == LABELS
    assert "the split is the one given: 40 train, 12 validation, 14 test" in task.load("given").notes
    by_name = from_files([tmp_path / "gue" / f"{name}.{kind}{packed}" for name in reversed(names)])
    assert (by_name.name, parts(by_name)) == ("gue", WINDOWS)
    assert by_name.load("given").files == task.load("given").files


def test_shards_of_an_export_are_joined_by_their_numbers(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `variants`")
    import pandas as pd

    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    for part, name in zip(PARTS, ("train", "validation", "test"), strict=True):
        frame = pd.DataFrame(records(rows(part)))
        for number, half in enumerate((frame[:10], frame[10:])):
            half.to_parquet(folder / f"{name}-0000{number}-of-00002-0a1b2c{number}.parquet")
    write(tmp_path / "set" / "README.md", "a card")
    assert parts(from_files([tmp_path / "set"])) == WINDOWS
    (folder / "train-00001-of-00002-0a1b2c1.parquet").unlink()
    with pytest.raises(BadData, match="the pieces of train are not one complete set"):
        from_files([tmp_path / "set"])


def test_the_hubs_numbered_files_in_folders(tmp_path: Path) -> None:
    for part in PARTS:
        for number in range(2):
            write(tmp_path / "default" / part / f"000{number}.jsonl", WRITERS["jsonl"](rows(part)[number::2]))
    found = parts(from_files([tmp_path]))
    assert {part: sorted(own) for part, own in found.items()} == {part: sorted(own) for part, own in WINDOWS.items()}


def test_names_of_classes_in_a_parquet_files_metadata(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra `variants`")
    import pyarrow.parquet as pq

    names = {"info": {"features": {"label": {"names": ["promoter", "enhancer"], "_type": "ClassLabel"}}}}
    table = pa.table({"seq": WINDOWS["train"], "label": [n % 2 for n in range(40)]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), tmp_path / "t.parquet")
    task = from_files([tmp_path / "t.parquet"])
    assert task.classes == ("enhancer", "promoter")
    assert labels(task.load("stratified"))[WINDOWS["train"][0]] == task.classes.index("promoter")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train.csv", "train.tsv", "test.csv"], r"several files for the part train \(train.csv and train.tsv\)"),
        (["train.csv", "dev.csv", "valid.csv", "test.csv"], "several files for the part validation"),
        (["train.csv", "train.csv.gz", "test.csv"], "several files for the part train"),
        (["train.csv", "train/0.csv", "test.csv"], r"the part train is there twice \(train.csv and train\)"),
        (["train.csv", "dev.csv"], "only train and validation are given, and no test; .*--split stratified"),
        (["test.csv"], "only test is given, and no train"),
        (["data.csv"], "no files for train and test; give the file itself: --task .*data.csv"),
        (["a/train.csv", "b/train.csv"], r"several sets \(a, b\); run them one by one, such as --task .*a"),
        (["notes.md"], "no files or folders for train and test; expected FOLDER/train.csv"),
        (["train/data-00000-of-00001.arrow", "test/data-00000-of-00001.arrow"], r"Arrow files are not read, .*to_parquet\(\)"),
    ],
    ids=str,
)
def test_folders_that_are_refused(files: list[str], message: str, tmp_path: Path) -> None:
    for name in files:
        write(tmp_path / name, csv(rows("train")))
    with pytest.raises(UserError, match=message) as caught:
        from_files([tmp_path]).load("given")
    assert "\n" not in str(caught.value)


def test_files_that_are_left_over_are_named(tmp_path: Path) -> None:
    for name, part in (("train.csv", "train"), ("dev.csv", "validation"), ("test.csv", "test"), ("extra.csv", "test")):
        write(tmp_path / name, csv(rows(part)))
    assert f"{tmp_path.name}: not read: extra.csv" in from_files([tmp_path]).load("given").notes


def test_one_part_alone_is_said_to_be_one(tmp_path: Path) -> None:
    for part in PARTS:
        write(tmp_path / f"{part}.csv", csv(rows(part)))
    said = from_files([tmp_path / "train.csv"]).load("stratified").notes
    assert any(
        "only train.csv is read, and divided anew; test.csv, validation.csv beside it are other parts" in note for note in said
    )


def test_parts_by_options_in_any_number_of_files(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    contents = (rows("train")[:25], rows("train")[25:], rows("validation"), rows("test"))
    paths = [write(tmp_path / f"{name}.csv", csv(found)) for name, found in zip(names, contents, strict=True)]
    task = from_files(paths, reading=Reading(("train", "train", "validation", "test")))
    assert parts(task) == WINDOWS
    assert len({e.id for part in (task.load("given").train, task.load("given").test) for e in part}) == 54
    digests = {
        json.dumps(list(from_files(paths, reading=Reading(given)).load("given").files.values()))
        for given in (("train", "train", "validation", "test"), ("train", "validation", "validation", "test"))
    }
    assert len(digests) == 2
    with pytest.raises(BadData, match="given as train and as test; each file belongs to one part"):
        from_files([paths[0], paths[0]], reading=Reading(("train", "test")))


@pytest.mark.parametrize("names", [("a.csv", "b.csv"), ("train_1.csv", "train_2.csv"), ("train.csv", "other.csv", "test.csv")])
def test_tables_that_are_no_parts_of_one_set(names: tuple[str, ...], tmp_path: Path) -> None:
    paths = [write(tmp_path / name, csv(rows("train"))) for name in names]
    with pytest.raises(UserError, match=r"one table is one task; .*name them with --train"):
        from_files(paths)
    with pytest.raises(UserError, match="a folder is one task; run it alone"):
        from_files([tmp_path, paths[0]])


def test_names_of_parts_are_no_positives_and_negatives(tmp_path: Path) -> None:
    bare = "".join(f">w{number}\n{window}\n" for number, window in enumerate(WINDOWS["train"]))
    for first, second in (("train.fa", "test.fa"), ("my_Training.fa", "my_Dev.fa"), ("train/a.fa", "valid/a.fa")):
        paths = [write(tmp_path / name, bare) for name in (first, second)]
        with pytest.raises(BadData, match=r"record 'w0' has no class in its header; expected class:… in each header"):
            from_files(paths)
    pair = [write(tmp_path / name, bare.replace("A", letter)) for name, letter in (("train_pos.fa", "A"), ("train_neg.fa", "C"))]
    assert from_files(pair).classes == ("negative", "positive")


# --- files of classes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["txt", "fa", "fa.gz", "csv.gz"])
def test_folders_of_classes(layout: str, tmp_path: Path) -> None:
    names = ("zebra", "ant")  # never the order of a listing
    for part in ("train", "test"):
        for label, name in enumerate(names):
            own = [window for window, number in rows(part) if number == label]
            for number, window in enumerate(own if layout == "txt" else []):
                write(tmp_path / part / name / f"{number}.txt", window[:20] + "\n" + window[20:] + "\n")
            if layout == "csv.gz":
                write(tmp_path / part / f"{name}.csv.gz", "sequence\n" + "".join(f"{window}\n" for window in own))
            elif layout != "txt":
                write(tmp_path / part / f"{name}.{layout}", "".join(f">{n}\n{w}\n" for n, w in enumerate(own)))
    task = from_files([tmp_path])
    assert task.classes == ("ant", "zebra")
    splits = task.load("given")
    assert sorted(parts(task)["test"]) == sorted(WINDOWS["test"])
    assert sorted(parts(task)["train"] + parts(task)["validation"]) == sorted(WINDOWS["train"])
    assert len(splits.validation) == 4
    assert "no validation part is given: 4 of 40 training windows are held out for it" in " ".join(splits.notes)
    assert all(label == 1 - LABELS[window] for window, label in labels(splits).items())


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("kind", ["csv.gz", "bed"])
def test_intervals_of_classes_need_a_genome(kind: str, tmp_path: Path) -> None:
    chromosome = "".join(random.Random(2).choices("ACGT", k=20_000))
    write(tmp_path / "genome.fa", f">chr1\n{chromosome}\n")
    place = 0
    for part, count in (("train", 30), ("test", 10)):
        for name in ("negative", "positive"):
            starts = [place + 100 * number for number in range(count)]
            place += 100 * count
            header = "id,region,start,end,strand\n" if kind == "csv.gz" else ""
            form = "{0},chr1,{1},{2},-\n" if kind == "csv.gz" else "chr1\t{1}\t{2}\tn\t0\t-\n"
            text = header + "".join(form.format(n, start, start + 50) for n, start in enumerate(starts))
            write(tmp_path / "set" / part / f"{name}.{kind}", text)
    task = from_files([tmp_path / "set"])
    with pytest.raises(UserError, match="intervals have no letters; give their genome with --genome"):
        task.load("given")
    assert task.bind is not None
    splits = task.bind(Reference(genome=tmp_path / "genome.fa")).load("given")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (54, 6, 20)
    example = splits.test[0]
    assert example.windows[0].locus is not None
    letters = chromosome[example.windows[0].locus.start : example.windows[0].locus.end]
    assert example.windows[0].sequence == letters[::-1].translate(str.maketrans("ACGT", "TGCA"))
    assert {e.label for e in splits.test if e.windows[0].locus and e.windows[0].locus.start < 7000} == {0}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train/a/1.txt": "ACGT", "train/b.fa": ">x\nACGT"}, r"files \(b.fa\) and folders \(a\); keep one of them"),
        ({"train/a/1.txt": "ACGT", "train/b/x/1.txt": "ACGT"}, "folders within the folder of a class"),
        ({"train/a/1.txt": "ACGT", "train/a/2.fa": ">x\nACGT"}, r"\.txt files and 2.fa; keep one kind"),
        ({"train/a/1.txt": ">x\nACGT", "train/b/1.txt": "ACGT"}, "FASTA in a .txt file; call it .fa"),
        ({"train/a/1.txt": "ACGT", "train/b/1.txt": ""}, "1.txt: the file is empty"),
        ({"train/a/1.txt": "ACGT", "train/b/1.md": "x"}, "no files in the folder of a class"),
        ({"train/a.fa": ">x\nAC", "train/a.csv": "sequence\nAC"}, "the class a is there twice"),
        ({"train/a.fa": ">x class:b\nAC", "train/b.fa": ">y class:a\nAC"}, "windows have the label 'b', and the file is 'a'"),
        ({"train/a.fa": ">x class:1\nAC\n>z class:0\nAC", "train/b.fa": ">y class:0\nAC"}, "headers name classes"),
        ({"train/positive.fa": ">x class:0\nAC", "train/negative.fa": ">y class:1\nAC"}, "the other way round"),
    ],
    ids=str,
)
def test_folders_of_classes_that_are_refused(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        write(tmp_path / name, content)
        write(tmp_path / name.replace("train", "test"), content)
    with pytest.raises(UserError, match=message):
        from_files([tmp_path])


# --- a column, headers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["split", "Set", "partition"])
def test_a_column_that_gives_the_split(column: str, tmp_path: Path) -> None:
    spelt = {"train": ("Train", "train"), "validation": ("dev", "VALID"), "test": ("TEST", "test set")}
    text = f"sequence,label,{column}\n" + "".join(
        f"{window},{label},{spelt[part][number % 2]}\n" for part in PARTS for number, (window, label) in enumerate(rows(part))
    )
    task = from_files([write(tmp_path / "t.csv", text)])
    assert parts(task) == WINDOWS
    assert task.split_rules == ("given", "stratified", "shuffled")
    pooled = task.load("stratified")
    assert len(pooled.train) == 39
    assert "the split of the files is not used: all windows are drawn anew" in pooled.notes


@pytest.mark.parametrize(("word", "message"), [("", "its split is empty"), ("extra", "the split says 'extra'")])
def test_rows_without_a_part_are_refused(word: str, message: str, tmp_path: Path) -> None:
    lines = [f"{window},{label},{word if number == 5 else 'train'}\n" for number, (window, label) in enumerate(rows("train"))]
    with pytest.raises(BadData, match=rf"t\.csv, line 7: {message}.* none of train, validation and test"):
        from_files([write(tmp_path / "t.csv", "sequence,label,split\n" + "".join(lines))])
    headers = "".join(f">w{n} class:{n % 2}{'' if n == 5 else ' split=train'}\n{w}\n" for n, w in enumerate(WINDOWS["train"]))
    with pytest.raises(BadData, match="record 'w5': its split is empty"):
        from_files([write(tmp_path / "t.fa", headers)])


def test_a_column_that_contradicts_the_files_name(tmp_path: Path) -> None:
    for part in PARTS:
        text = "sequence,label,split\n" + "".join(f"{window},{label},train\n" for window, label in rows(part))
        write(tmp_path / f"{part}.csv", text)
    with pytest.raises(BadData, match=r"validation\.csv, line 2: belongs to train, in a file for validation"):
        from_files([tmp_path])


def test_two_files_of_classes_whose_headers_give_the_split(tmp_path: Path) -> None:
    for name, first in (("pos.fa", 0), ("neg.fa", 20)):
        own = WINDOWS["train"][first : first + 20]
        write(tmp_path / name, "".join(f">w{n} split={'test' if n > 14 else 'train'}\n{w}\n" for n, w in enumerate(own)))
    splits = from_files([tmp_path / "pos.fa", tmp_path / "neg.fa"]).load("given")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (28, 2, 10)


# --- what the parts share -----------------------------------------------------------------------------------------------


def test_windows_that_leak_are_counted_and_not_moved(tmp_path: Path) -> None:
    leaking = [*rows("test"), *rows("train")[:3], (WINDOWS["train"][4][::-1].translate(str.maketrans("ACGT", "TGCA")), 0)]
    for part, found in (("train", rows("train")), ("dev", rows("validation")), ("test", leaking)):
        write(tmp_path / f"{part}.csv", csv(found))
    splits = from_files([tmp_path]).load("given")
    assert len(splits.test) == 18
    assert splits.changes["test_windows_repeating_train"] == 4
    assert "4 test windows repeat training windows; none is moved, and `harness audit` lists them" in splits.notes
    assert splits.block is not None


def test_classes_that_parts_lack(tmp_path: Path) -> None:
    def made(train: str, test: str) -> Splits:
        for name, words, own in (("train", train, WINDOWS["train"]), ("test", test, WINDOWS["test"])):
            found = [(window, words[number % len(words)]) for number, window in enumerate(own)]
            write(tmp_path / f"{name}.csv", csv(found))  # type: ignore[arg-type]
        return from_files([tmp_path]).load("given")

    with pytest.raises(BadData, match="class 'c' is in test and not in train; a model cannot learn it"):
        made("ab", "abc")
    assert "class 'c' is in train and not in test" in made("abc", "ab").notes
    with pytest.raises(BadData, match="'A' and 'a' are spellings of one label"):
        made("ab", "AB")
    with pytest.raises(BadData, match=r"labels mix numbers \('0'\) and names"):
        made("ab", "01")
    write(tmp_path / "test.csv", "sequence,label\n")
    with pytest.raises(BadData, match=r"test\.csv: a header and no rows"):
        from_files([tmp_path])


def test_a_class_of_one_training_window_stays_in_training(tmp_path: Path) -> None:
    found = [(window, str(number // 2 if number < 38 else number)) for number, window in enumerate(WINDOWS["train"])]
    write(tmp_path / "train.csv", csv(found))  # type: ignore[arg-type]
    write(tmp_path / "test.csv", csv(found[:10]))  # type: ignore[arg-type]
    task = from_files([tmp_path], reading=Reading(kind="classification"))
    splits = task.load("given")
    assert {example.label for example in splits.train} == set(range(len(task.classes)))
    assert 2 <= len(splits.validation) <= 6


def test_what_names_say_needs_no_file(tmp_path: Path) -> None:
    found = _layouts.find([tmp_path / "test.csv", tmp_path / "train.csv"])
    assert [(member.path.name, member.part) for member in found.members] == [("train.csv", "train"), ("test.csv", "test")]


def test_a_folder_is_not_called_like_a_task_of_the_project(tmp_path: Path) -> None:
    for name in ("QKI", "rbp"):
        for part in PARTS:
            write(tmp_path / name / f"{part}.csv", csv(rows(part)))
        assert from_files([tmp_path / name]).name == f"{name}.folder"


@pytest.mark.usefixtures("own_cache")
def test_parts_with_loci_in_their_headers_get_their_columns(tmp_path: Path) -> None:
    chromosome = "".join(random.Random(4).choices("ACGT", k=9000))
    write(
        tmp_path / "a.maf",
        "".join(f"a\ns {who}.chr1 0 9000 + 9000 {chromosome}\n" for who in ("me", "you")).replace("a\ns you", "s you"),
    )
    for part, first, count in (("train", 0, 40), ("test", 5000, 12)):
        places = [(first + 60 * number, first + 60 * number + 40) for number in range(count)]
        found = (f">chr1:{start}-{end}(+) class:{start % 120 // 60}\n{chromosome[start:end]}\n" for start, end in places)
        write(tmp_path / "set" / f"{part}.fa", "".join(found))
    task = from_files([tmp_path / "set"])
    assert task.bind is not None
    splits = task.bind(Reference(alignment=tmp_path / "a.maf")).load("given")
    assert splits.species == ("you",)
    window = splits.test[0].windows[0]
    assert window.alignment is not None
    assert [bytes(row).decode() for row in window.alignment] == [window.sequence] * 2
