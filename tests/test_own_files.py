"""What the user's own files say besides letters: labels, names, parts, strands. It is used, said or refused, never dropped."""

from __future__ import annotations

import gzip
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data import Locus
from harness.errors import BadData, UserError
from harness.files import readers, text
from harness.files.text import text_lines
from harness.task import Task
from harness.tasks import _bed
from harness.tasks.files import from_files

COUNT = 40
_rng = random.Random(1)
WINDOWS = ["".join(_rng.choices("ACGT", k=30)) for _ in range(COUNT)]


def table(path: Path, label: Callable[[int], object] = lambda i: i % 2, windows: list[str] = WINDOWS, **columns) -> Path:
    path.write_text(
        ",".join(["sequence", "label", *columns]) + "\n"
        + "".join(",".join([w, str(label(i)), *(str(c(i)) for c in columns.values())]) + "\n" for i, w in enumerate(windows))
    )  # fmt: skip
    return path


def fasta(path: Path, windows: list[str], header: Callable[[int], str] = lambda i: "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">w{i}{header(i)}\n{w}\n" for i, w in enumerate(windows)))
    return path


def notes(task: Task) -> str:
    return " | ".join(task.load("stratified").notes)


def ids(task: Task) -> set[str]:
    splits = task.load("stratified")
    return {example.id for part in (splits.train, splits.validation, splits.test) for example in part}


# --- labels -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("Bound", "bound", "free"), "'Bound' and 'bound' are spellings of one label"),
        (("likely benign", "likely_benign", "x"), "'likely benign' and 'likely_benign' are spellings of one label"),
        (("0", "1", "01"), "'01' and '1' are spellings of one label"),
        (("0", "+1", "1"), r"'\+1' and '1' are spellings of one label"),
        (("0", "1", "unknown"), r"labels mix numbers \('0'\) and names \('unknown'\)"),
        (("010", "110"), "label '010' looks like several labels of one window; write 0;1;0, or say that these are classes"),
        (("0/1", "1/1"), "label '0/1' looks like several labels of one window; write 0;1;0 or name;name"),
        (("9" * 5000, "1"), "label '9{40}'… has 5,000 digits"),
        (("\x1b[2Jx", "y"), r"label '\\x1b\[2Jx' has control characters"),
        (("nan", "1"), r"line 2: no label \('nan'\)"),
        (("N/A", "1"), r"line 2: no label \('N/A'\)"),
    ],
)
def test_labels_have_one_grammar_a_file(labels: tuple[str, ...], message: str, tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", lambda i: labels[i % len(labels)])
    with pytest.raises(BadData, match=message) as caught:
        from_files([path])
    assert str(caught.value).isprintable()


def test_many_names_are_classes_and_ids_or_numbers_are_not(tmp_path: Path) -> None:
    windows = ["".join(random.Random(i).choices("ACGT", k=30)) for i in range(88 * 4)]
    task = from_files([table(tmp_path / "t.csv", lambda i: f"RF{i % 88:05}", windows)])
    assert len(task.classes) == 88
    assert "88 classes: RF00000, RF00001, " in notes(task)
    with pytest.raises(BadData, match="40 different labels of 40 windows: are these ids"):
        from_files([table(tmp_path / "t.csv", lambda i: f"id{i}")])
    assert from_files([table(tmp_path / "t.csv", lambda i: i)]).kind == "regression"


def test_labels_that_differ_in_their_signs_are_classes(tmp_path: Path) -> None:
    for labels in (("A-", "A+"), ("-", "+"), ("*", "?"), ("CTCF-1", "CTCF-2")):
        assert from_files([table(tmp_path / "t.csv", lambda i: labels[i % 2])]).classes == labels  # noqa: B023


def test_classes_in_headers(tmp_path: Path) -> None:
    for header, message in (
        (lambda i: " class:0 label=1", "'w0': the header has the classes '0' and '1'; keep one"),
        (lambda i: " class:0,1,1", "every window has the same labels"),
    ):
        with pytest.raises(BadData, match=message):
            from_files([fasta(tmp_path / "t.fa", WINDOWS, header)])
    task = from_files([fasta(tmp_path / "t.fa", WINDOWS, lambda i: f"|{i % 2}|{('training', 'testing')[i > 29]}")])
    assert "the split is the one given: 30 train, 10 test" in task.load("given").notes
    assert "the split of the files is not used: all windows are drawn anew" in notes(task)


# --- two files ----------------------------------------------------------------------------------------------------------


def test_names_in_the_other_order_are_said(tmp_path: Path) -> None:
    def said(first: str, second: str) -> str:
        return notes(from_files([fasta(tmp_path / first, WINDOWS[:20]), fasta(tmp_path / second, WINDOWS[20:])]))

    for names in (
        ("negatives.fa", "positives.fa"),
        ("unbound.fa", "bound.fa"),
        ("x/neg/a.fa", "x/pos/a.fa"),
        ("q.fa", "peaks.fa"),
    ):
        assert "the names say the opposite, but the first file holds the positives" in said(*names)
    for names in (("pos.fa", "neg.fa"), ("train_pos.fa", "train_neg.fa"), ("a.fa", "b.fa"), ("bound.fa", "unbound.fa")):
        assert said(*names) == ""


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (lambda i: f" class:{i % 2}", lambda i: f" label={i % 2}", r"headers name classes \('0', '1'\), but two files are"),
        (lambda i: f" class:{i % 2}", lambda i: "", r"headers name classes \('0', '1'\)"),
        (lambda i: " class:1", lambda i: " class:1", r"headers name classes \('1'\)"),
        (lambda i: " class:0", lambda i: " class:1", "the headers name the classes the other way round"),
        (lambda i: " class:1", lambda i: " class:0", None),
        (lambda i: " class:site", lambda i: "", None),
    ],
)
def test_headers_that_contradict_the_pair(first: Callable, second: Callable, message: str | None, tmp_path: Path) -> None:
    paths = [fasta(tmp_path / "a.fa", WINDOWS[:20], first), fasta(tmp_path / "b.fa", WINDOWS[20:], second)]
    if message is None:
        assert from_files(paths).classes == ("negative", "positive")
        return
    with pytest.raises(BadData, match=message):
        from_files(paths)


def test_one_file_given_twice(tmp_path: Path) -> None:
    path = fasta(tmp_path / "a.fa", WINDOWS)
    with pytest.raises(BadData, match="the same file twice"):
        from_files([path, path])
    with pytest.raises(BadData, match="every window is in more than one class; are these copies"):
        from_files([path, fasta(tmp_path / "b.fa", WINDOWS)]).load("stratified")


# --- columns ------------------------------------------------------------------------------------------------------------


def test_columns_that_are_not_used_are_said(tmp_path: Path) -> None:
    said = notes(from_files([table(tmp_path / "t.csv", strand=lambda i: "+", score=lambda i: 0.5)]))
    assert "columns not used: strand, score" in said
    said = notes(from_files([table(tmp_path / "t.csv", fold=lambda i: i % 5)]))
    assert "column 'fold' holds numbers of folds, not the words train, validation and test; it is not used, and no split" in said


def test_ids_travel_where_each_window_has_its_own(tmp_path: Path) -> None:
    assert ids(from_files([table(tmp_path / "t.csv", ID=lambda i: f"peak{i}")])) == {f"peak{i}" for i in range(COUNT)}
    repeated = from_files([table(tmp_path / "t.csv", name=lambda i: f"peak{i // 2}")])
    assert ids(repeated) == {str(i + 1) for i in range(COUNT)}
    assert "column 'name' has gaps or repeats: windows are numbered instead" in notes(repeated)


def test_columns_of_a_locus_are_used(tmp_path: Path) -> None:
    place = {"chrom": lambda i: "chr1", "start": lambda i: 100 * i, "end": lambda i: 100 * i + 30, "strand": lambda i: "-"}
    records = readers.read(table(tmp_path / "t.csv", **place), Counter())
    assert records[3].window.locus == Locus("chr1", 300, 330, "-")
    assert "not used" not in notes(from_files([tmp_path / "t.csv"]))
    records = readers.read(table(tmp_path / "t.csv", **{**place, "start": lambda i: 100 * i + 1}), Counter())
    assert records[3].window.locus is None  # 1-based
    assert records[3].place == Locus("chr1", 301, 330, "-")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("label", "LABEL"):
        (tmp_path / "t.csv").write_text(f"sequence,label,{name}\n" + "".join(f"{w},0,1\n" for w in WINDOWS))
        with pytest.raises(BadData, match="2 columns are named 'label'; rename or delete all but one"):
            from_files([tmp_path / "t.csv"])


# --- letters ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 6])
def test_overlapping_kmers_are_undone(k: int, tmp_path: Path) -> None:
    kmers = [" ".join(w[j : j + k] for j in range(len(w) - k + 1)) for w in WINDOWS]
    changes: Counter[str] = Counter()
    said: list[str] = []
    records = readers.read(table(tmp_path / "t.csv", windows=kmers), changes, said)
    assert [record.window.sequence for record in records] == WINDOWS
    assert changes == {"kmers_undone": COUNT}
    assert said == [f"t.csv: sequences of overlapping {k}-mers are read as the windows that these were cut from"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, w: " ".join([w[:6], w[3:9], w[7:13]]) + " " + w, "line 2: blanks within the sequence"),
        (lambda i, w: w[:10] + " " + w[10:], "line 2: blanks within the sequence"),
        (lambda i, w: " ".join(w[j : j + 6] for j in range(25)) if i % 2 else w, "some sequences are written as k-mers"),
        (lambda i, w: " ".join(w[j : j + 3 + i % 2] for j in range(25)), "some sequences are written as k-mers"),
        (lambda i, w: w[:10] + "-" + w[10:], "line 2: letters '-' are not IUPAC"),
        (lambda i, w: "QUNHVA==" + w, "line 2: letters '=Q' are not IUPAC"),
        (lambda i, w: "MKVSDGHRWYVKMSDB", r"line 2: most letters are ambiguity codes.*is this a protein"),
        (lambda i, w: "nan" if i == 4 else w, "line 6: no sequence, but 'nan'"),
        (lambda i, w: "NA" if i == 4 else w, "line 6: no sequence, but 'NA'"),
        (lambda i, w: w + "ß", "line 2: letters 'ß' are not IUPAC"),
        (lambda i, w: w + "ſ", "line 2: letters 'ſ' are not IUPAC"),
    ],
)
def test_what_is_no_sequence_is_refused(change: Callable, message: str, tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", windows=[change(i, w) for i, w in enumerate(WINDOWS)])
    with pytest.raises(BadData, match=message):
        from_files([path])


def test_windows_that_say_nothing_are_counted(tmp_path: Path) -> None:
    odd = {3: "NNNNN", 4: "NNNN", 5: "AAAA"}
    splits = from_files([table(tmp_path / "t.csv", windows=[odd.get(i, w) for i, w in enumerate(WINDOWS)])]).load("stratified")
    assert splits.changes == {"without_letters": 2, "one_letter": 1}


# --- BED ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr1\t0\t50\t+", r"line 1: the strand '\+' stands in column 4; BED has it in column 6"),
        ("chr1\t0\t50\tpeak\tminus", "the strand 'minus' stands in column 5"),
        ("chr1\t0\t50\tpeak\t-", "the strand '-' stands in column 5"),
        ("chr1\t0\t50\tpeak\t-\t7", "the strand '-' stands in column 5"),
        ("chr1 0 50 peak 0 . -", "the strand '-' stands in column 7"),
        ("chr1\t0\t50\tn\t0\t+\t0\t50\t0,0,0\t2\t10,10,\t0,40,", r"2 blocks \(BED12\), with introns between"),
        ("chr1\t0\t1000000000000", "chr1:0-1000000000000.* has more than 10,000,000 nucleotides"),
        ("chr1\t0\t" + "9" * 5000, "is no interval"),
        ("chr1\t-5\t50", "is no interval"),
        ("chr1\t\t50", "is no interval"),
        ("\t0\t50", "is no interval"),
        ("chr1\t١\t٢", "is no interval"),
        ("chr1\t0\t50\n1\t0\t50", r"line 2: 1:0-50\(\+\) stands in line 1 too"),
    ],
)
def test_intervals_that_are_refused(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.bed").write_text(line + "\n")
    with pytest.raises(BadData, match=message) as caught:
        _bed.read(tmp_path / "x.bed")
    assert str(caught.value).isprintable()


def test_columns_of_intervals(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "x.bed").write_text("chr1\t0\t50\tn\t0\t-\t0\t50\t0\t1\t50,\t0,\nchr1\t100\t150\tn\t0\t.\n")
    assert _bed.read(tmp_path / "x.bed", said) == [Locus("chr1", 0, 50, "-"), Locus("chr1", 100, 150, "+")]
    assert said == ["x.bed: columns not used: name, score, column 7, column 8, column 9, column 10, column 11, column 12"]


# --- what is no text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sequence,label\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"sequence,label\nAC\0GT,1\n", "a binary file"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (gzip.compress(gzip.compress(b"sequence,label\nACGT,1\n", mtime=0), mtime=0), "a binary file"),
        (b"ACGTACGTACGT,1\n", "the first line must name the columns"),
        (b'sequence,label,note\nAC,0,"x\nAC,1,z\nGG,0,y"\nGT,1,z\n', "a quote in line 2 is closed in line 4, with rows between"),
        (b'sequence,label\n"AC"GT,1\n', "line 2: a quote within a field"),
        (b"\x1b]0;x,label\nACGT,1\n", r"no column named sequence or seq; found \\x1b\]0;x, label"),
    ],
)
def test_files_that_are_no_table(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(BadData, match=message) as caught:
        from_files([tmp_path / "t.csv"])
    assert str(caught.value).isprintable()


def test_line_ends_of_every_system(tmp_path: Path) -> None:
    plain = readers.read(table(tmp_path / "t.csv"), Counter())
    content = (tmp_path / "t.csv").read_text()
    for end in ("\r", "\r\n"):
        (tmp_path / "t.csv").write_bytes(content.replace("\n", end).encode("utf-8-sig"))
        assert [tuple(record)[2:] for record in readers.read(tmp_path / "t.csv", Counter())] == [tuple(r)[2:] for r in plain]


def test_pipes_folders_and_impossible_names(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.fa")
    for path, message in (
        (tmp_path / "pipe.fa", "a pipe or device"),
        (Path("/dev/zero"), "a pipe or device"),
        (tmp_path, "no files for train and test; give the file itself"),
        (Path("a" * 5000), "no such file"),
        (Path("a\0b.fa"), "no such file"),
    ):
        with pytest.raises(BadData, match=message):
            from_files([path])


def test_a_line_without_end_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "LONGEST_LINE", 1000)
    (tmp_path / "x").write_text("A" * 999 + "\n" + "A" * 10_000_000)
    lines = text_lines(tmp_path / "x", "short lines")
    assert len(next(lines)) == 999
    with pytest.raises(BadData, match="a line of more than 1,000 characters; expected short lines"):
        next(lines)


# --- names of tasks -----------------------------------------------------------------------------------------------------


def test_a_task_can_be_named(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv")
    assert from_files([path], "my-peaks_2.0").name == "my-peaks_2.0"
    for name in ("", ".x", "-x", "../x", "a b", "é", "a\x1b", "x" * 101):
        with pytest.raises(UserError, match="begin with a letter or digit"):
            from_files([path], name)
    for name in ("QKI", "qki", "clinvar", "rbp", "all"):
        with pytest.raises(UserError, match=f"name '{name}': a task or family of the project has it"):
            from_files([path], name)
    long = table(tmp_path / f"{'x' * 200}.csv")
    assert len(from_files([long]).name) == 100


@pytest.mark.parametrize("header", ["{} [label={}]", "{} CLASS = {}", "{} (class:{})"])
def test_classes_in_brackets_or_with_blanks_are_classes(tmp_path, header):
    lines = [
        f">{header.format(f's{number}', number % 2)}\n{'ACGT' * 5}{'ACGT'[number % 4]}{'A' * number}\n" for number in range(12)
    ]
    (tmp_path / "own.fa").write_text("".join(lines))
    assert from_files([tmp_path / "own.fa"]).classes == ("0", "1")


def test_one_spelling_of_accents(tmp_path):
    spellings = ("n\u00e9g", "ne\u0301g", "pos")
    rows = [f"{'ACGT' * 5}{'A' * number},{spellings[number % 3]}\n" for number in range(18)]
    (tmp_path / "t.csv").write_text("sequence,label\n" + "".join(rows), encoding="utf-8")
    assert from_files([tmp_path / "t.csv"]).classes == (spellings[0], "pos")
