"""Columns, parts, the positive class and the kind, as options of `harness run` and in Python: in the plan, the id and the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import motif_examples

import harness
from harness.errors import BadData, UnknownName, UserError
from harness.files import readers
from harness.study.plan import Run, open_task, plan
from harness.study.run import execute
from harness.task import Reading
from harness.tasks.files import from_files

EXAMPLES = motif_examples(60, 30)


def rows(header: str, form: str, path: Path, separator: str = "\t") -> Path:
    lines = [form.format(n=n, s=e.windows[0].sequence, y=e.label) for n, e in enumerate(EXAMPLES)]
    path.write_text("".join(line.replace("|", separator) + "\n" for line in [*([header] if header else []), *lines]))
    return path


@pytest.fixture
def headerless(tmp_path: Path) -> Path:
    return rows("", "ENST{n}|{s}|0.1,0.2|x|{y}", tmp_path / "t.tsv")


def test_a_table_without_a_header_is_read_by_numbers(headerless: Path) -> None:
    with pytest.raises(BadData, match="or give their numbers: --sequence-column 2 --label-column 5"):
        from_files([headerless])
    task = from_files([headerless], reading=Reading(sequence_column="2", label_columns=("5",)))
    assert task.classes == ("0", "1")
    found = {e.id: (e.windows[0].sequence, e.label) for e in task.load("stratified").test}
    assert all(found[name] == (EXAMPLES[int(name) - 1].windows[0].sequence, EXAMPLES[int(name) - 1].label) for name in found)
    assert "t.tsv: columns not used: 1, 3, 4" in task.load("stratified").notes


@pytest.mark.parametrize(
    ("reading", "error", "message"),
    [
        (Reading(sequence_column="2", label_columns=("9",)), UnknownName, "label-column '9': .* the columns are 1, 2, 3, 4, 5"),
        (Reading(sequence_column="1", label_columns=("5",)), BadData, "line 1: letters .* is this line a header"),
        (Reading(sequence_column="2", label_columns=("2",)), BadData, "cannot be both sequence and label"),
        (Reading(label_columns=("5",)), UserError, "give --sequence-column and --label-column"),
    ],
)
def test_numbers_that_do_not_fit(reading: Reading, error: type, message: str, headerless: Path) -> None:
    with pytest.raises(error, match=message):
        from_files([headerless], reading=reading)


def test_columns_are_named_and_nearly_named(tmp_path: Path) -> None:
    path = rows("name,DNA,Bound,score", "w{n}|{s}|{y}|{n}.5", tmp_path / "t.csv", ",")
    task = from_files([path], reading=Reading(sequence_column="dna"))
    assert task.classes == ("0", "1")  # Bound is a usual name of labels
    scores = from_files([path], reading=Reading(sequence_column="DNA", label_columns=("score",)))
    assert (scores.kind, scores.classes) == ("regression", ("score",))
    with pytest.raises(UnknownName, match=r"label-column 'scores': .*t\.csv has no such column; did you mean score\?"):
        from_files([path], reading=Reading(sequence_column="DNA", label_columns=("scores",)))
    with pytest.raises(UserError, match="no column named sequence or seq; found name, DNA, Bound, score"):
        from_files([path])


def test_deepbind_and_prismnet(tmp_path: Path) -> None:
    path = rows("FoldID\tEventID\tseq\tBound", "A|seq_{n}|{s}|{y}", tmp_path / "a.seq")
    assert "a.seq: columns not used: FoldID, EventID" in from_files([path]).load("stratified").notes
    path = rows("Type\tname\tseq\ticshape\tscore\tlabel", "A|chr1:{n}|{s}|-1.0,-1.0|0.5|{y}", tmp_path / "b.tsv")
    assert "b.tsv: columns not used: Type, icshape, score" in from_files([path]).load("stratified").notes


@pytest.mark.parametrize(
    "header",
    ["Unnamed: 0,sequence,label,more", ",sequence,label,more", "sep=,\nnumber,Sequence,LABEL,more"],
)
def test_an_index_column_is_no_fact(header: str, tmp_path: Path) -> None:
    path = rows(header, "{n}|{s}|{y}|x", tmp_path / "t.csv", ",")
    assert len(readers.read(path, __import__("collections").Counter())) == 60


def parts(folder: Path) -> dict[str, str]:
    found = {}
    for name, first, last in (("train", 0, 40), ("validation", 40, 50), ("test", 50, 60)):
        lines = [f"{e.windows[0].sequence},{('off', 'on')[int(str(e.label))]}\n" for e in EXAMPLES[first:last]]
        (folder / f"set_{name[:2]}.csv").write_text("seq,class\n" + "".join(lines))
        found[name] = str(folder / f"set_{name[:2]}.csv")
    return found


class TestPlan:
    def test_holds_how_files_are_read_and_is_executed_from_its_json(self, tmp_path):
        given = parts(tmp_path)
        (run,) = plan("gc", **given, positive="off", device="cpu")
        assert run.split == "given"
        assert run.reading == {
            "parts": ["train", "validation", "test"],
            "sequence_column": "",
            "label_columns": [],
            "positive": "off",
            "kind": "",
        }
        again = Run.from_json(json.loads(json.dumps(run.to_json())))
        assert again == run
        task, splits = open_task(again)
        assert task.classes == ("on", "off")
        assert [len(splits.train), len(splits.validation), len(splits.test)] == [40, 10, 10]
        record = execute(again, tmp_path / "results")
        assert record.task["split"] == "given"
        assert record.task["counts"]["test"] == {"on": 5, "off": 5}
        assert plan("gc", "QKI")[0].reading is None

    def test_the_id_differs_with_what_is_read(self, tmp_path):
        given = parts(tmp_path)
        table = rows("seq,a,b", "{s}|{y}|" + "{n}", tmp_path / "t.csv", ",")
        swapped = given | {"validation": given["test"], "test": given["validation"]}
        runs = [
            *plan("gc", **given),
            *plan("gc", **given, positive="off"),
            *plan("gc", **swapped),
            *plan("gc", **given, split="stratified"),
            *plan("gc", str(table), label_column="a"),
            *plan("gc", str(table), label_column="b"),
            *plan("gc", str(table), label_column="a", kind="regression"),
        ]
        assert len({run.id for run in runs}) == len(runs)

    def test_the_same_files_by_other_paths_are_the_same_data(self, tmp_path, monkeypatch):
        given = parts(tmp_path)
        (tmp_path / "b").mkdir()
        moved = parts(tmp_path / "b")
        monkeypatch.chdir(tmp_path)
        ids = {plan("gc", **given, name="x")[0].id, plan("gc", **moved, name="x")[0].id}
        ids.add(plan("gc", name="x", **{name: Path(path).name for name, path in given.items()})[0].id)
        assert len(ids) == 1

    def test_sets_of_one_name_are_told_apart(self, tmp_path):
        for folder, letter in (("a", "A"), ("b", "C")):
            (tmp_path / folder / "gue").mkdir(parents=True)
            for name, path in parts(tmp_path).items():
                text = Path(path).read_text().replace("\nG", f"\n{letter}")
                (tmp_path / folder / "gue" / f"{name}.csv").write_text(text)
        runs = plan("gc", [str(tmp_path / "a/gue"), str(tmp_path / "b/gue")])
        assert [run.label for run in runs] == ["gue", "gue"]
        assert len({run.id for run in runs}) == len({run.data for run in runs}) == 2

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({}, "task: give a name, a family or files, or --train and --test"),
            ({"task": "QKI", "train": "a.csv"}, "task QKI and train: give the files of the parts alone"),
            ({"task": "QKI", "label_column": "x"}, "label-column: only for files of your own, which 'QKI' is not"),
            ({"task": "variants:v.tsv", "kind": "regression"}, "kind: only for files of your own"),
            ({"train": "none.csv", "test": "no.csv"}, r"none\.csv: no such file"),
        ],
        ids=str,
    )
    def test_mistakes(self, asked, message, tmp_path):
        with pytest.raises(UserError, match=message):
            plan("gc", **asked)

    def test_train_alone_is_refused(self, tmp_path):
        with pytest.raises(UserError, match=r"only train is given, and no test; add it \(--test FILE\)"):
            plan("gc", train=parts(tmp_path)["train"])

    def test_a_folder_called_like_a_task_is_the_task(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "QKI").mkdir()
        for name, path in parts(tmp_path).items():
            Path(path).rename(tmp_path / "QKI" / f"{name}.csv")
        with pytest.warns(UserWarning, match="QKI is a task and a folder here: the task is run; ./QKI is the folder"):
            assert plan("gc", "QKI")[0].label == "QKI (sample)"
        assert plan("gc", "./QKI")[0].label == "QKI.folder"


def test_in_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = parts(tmp_path)
    record = harness.run("gc", quiet=True, **given)
    assert record.finished
    assert harness.load_task(**given).load("given").notes[0].startswith("the positive class is 'on'")
    assert harness.load_task(given["train"], positive="off").classes == ("on", "off")


def test_on_the_command_line(harness, tmp_path):
    given = parts(tmp_path)
    done = harness(
        "run", "--model", "gc", "--train", given["train"], "--validation", given["validation"], "--test", given["test"]
    )
    assert done.returncode == 0, done.stderr
    assert "40 / 10 / 10 windows (train / validation / test, split 'given')" in done.stderr
    assert "the split is the one given: 40 train, 10 validation, 10 test" in done.stderr
    (tmp_path / "gue").mkdir()
    for name, path in parts(tmp_path).items():
        Path(path).rename(tmp_path / "gue" / f"{name}.csv")
    by_folder = harness("run", "--model", "gc", "--task", "gue", "--positive", "off")
    assert by_folder.returncode == 0, by_folder.stderr
    assert "the positive class is 'off', as asked for" in by_folder.stderr
    assert harness("run", "--model", "gc").returncode == 2
    wrong = harness("run", "--model", "gc", "--task", "gue", "--label-column", "clas")
    assert wrong.returncode == 2
    assert "did you mean class?" in wrong.stderr
