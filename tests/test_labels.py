"""What labels mean: classes, numbers, or several a window; which class is positive; and how such windows are drawn."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data import Label
from harness.errors import BadData, UserError
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION, Reading, Task
from harness.tasks._labels import class_names
from harness.tasks._names import negative_first
from harness.tasks._splits import hold_out_of_train, strata
from harness.tasks.files import from_files

_rng = random.Random(3)
WINDOWS = ["".join(_rng.choices("ACGT", k=30)) for _ in range(200)]


USUAL = Reading()


def made(
    tmp_path: Path, label: Callable[[int], object], count: int = 60, reading: Reading = USUAL, column: str = "label"
) -> Task:
    quoted = (f'{window},"{label(number)}"\n' for number, window in enumerate(WINDOWS[:count]))
    (tmp_path / "t.csv").write_text(f"sequence,{column}\n" + "".join(quoted))
    return from_files([tmp_path / "t.csv"], reading=reading)


def labels(task: Task) -> list[Label]:
    splits = task.load("stratified")
    found = {e.id: e.label for part in (splits.train, splits.validation, splits.test) for e in part}
    return [found[str(number + 1)] for number in range(len(found))]


def notes(task: Task) -> str:
    return " | ".join(task.load("stratified").notes)


# --- one class ----------------------------------------------------------------------------------------------------------


def test_class_names_are_ordered_by_value_or_by_name() -> None:
    assert class_names("x.csv", ["10", "2", "-1"]) == ("-1", "2", "10")
    assert class_names("x.csv", ["ocr", "enhancer", "promoter", "ocr"]) == ("enhancer", "ocr", "promoter")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("bound", "unbound"), ("unbound", "bound")),
        (("enhancer", "non-enhancer"), ("non-enhancer", "enhancer")),
        (("not_TSS", "TSS"), ("not_TSS", "TSS")),
        (("promoter", "Nonpromoter"), ("Nonpromoter", "promoter")),
        (("active", "inactive"), ("inactive", "active")),
        (("neg", "pos"), ("neg", "pos")),
        (("case", "control"), ("control", "case")),
        (("background", "peaks"), ("background", "peaks")),
        (("enhancer", "random"), ("random", "enhancer")),
        (("CTCF+", "CTCF-"), ("CTCF-", "CTCF+")),
        (("enhancer", "promoter"), None),
        (("donor", "nondonors"), None),
    ],
)
def test_names_that_say_which_class_is_positive(names: tuple[str, str], expected: tuple[str, str] | None) -> None:
    assert negative_first(names) == expected
    assert negative_first(names[::-1]) == expected


def test_the_positive_class_is_chosen_by_name_or_option_and_said(tmp_path: Path) -> None:
    bound = lambda number: ("unbound", "bound")[number % 5 == 0]  # noqa: E731
    task = made(tmp_path, bound)
    assert (task.classes, task.positive) == (("unbound", "bound"), "bound")
    assert "the positive class is 'bound', by its name; --positive chooses the other: f1, precision" in notes(task)
    other = made(tmp_path, bound, reading=Reading(positive="unbound"))
    assert other.classes == ("bound", "unbound")
    assert "the positive class is 'unbound', as asked for" in notes(other)
    parts = [[e.id for e in found.load("stratified").test] for found in (task, other)]
    assert parts[0] == parts[1]  # what counts as positive moves no window
    assert made(tmp_path, lambda n: n % 2, reading=Reading(positive="0")).classes == ("1", "0")
    assert "the positive class is '1', the second: f1, precision, recall, auroc and auprc are about it" in notes(
        made(tmp_path, lambda n: n % 2)
    )
    assert made(tmp_path, lambda n: "abc"[n % 3]).positive is None
    for reading, message in (
        (Reading(positive="bond"), "positive 'bond': no such class; did you mean bound"),
        (Reading(positive="x"), "positive 'x': no such class; the classes are bound and unbound"),
    ):
        with pytest.raises(UserError, match=message):
            made(tmp_path, bound, reading=reading)
    with pytest.raises(UserError, match="positive 'a': there are 3 classes"):
        made(tmp_path, lambda n: "abc"[n % 3], reading=Reading(positive="a"))


def test_whole_numbers_are_classes_or_measurements(tmp_path: Path) -> None:
    numbered = made(tmp_path, lambda n: n % 60, 200)
    assert (numbered.kind, len(numbered.classes)) == (CLASSIFICATION, 60)
    assert "60 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … (--kind regression takes them for measurements)" in notes(numbered)
    measured = made(tmp_path, lambda n: 3 * (n % 60), 200)
    assert (measured.kind, measured.classes) == (REGRESSION, ("label",))
    assert "60 different whole numbers (--kind classification takes them for classes)" in notes(measured)
    forced = made(tmp_path, lambda n: 3 * (n % 60), 200, Reading(kind=CLASSIFICATION))
    assert (forced.kind, len(forced.classes)) == (CLASSIFICATION, 60)
    assert made(tmp_path, lambda n: n % 2, reading=Reading(kind=REGRESSION)).kind == REGRESSION


# --- one number ---------------------------------------------------------------------------------------------------------


def test_numbers_with_decimals_are_a_regression(tmp_path: Path) -> None:
    spelt = ["-1.5", "2e-3", "+.5", "7", "1E2", "0.0"]
    task = made(tmp_path, lambda n: spelt[n % 6], column="y")
    assert (task.kind, task.classes, task.main_metric, task.positive) == (REGRESSION, ("y",), "spearman", None)
    assert labels(task)[:6] == [-1.5, 0.002, 0.5, 7.0, 100.0, 0.0]
    assert all(isinstance(label, float) for label in labels(task))
    assert "a regression: the labels (y) are numbers from -1.5 to 1E2; they have decimals, such as -1.5" in notes(task)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("inf", r"t\.csv, line 6: label 'inf' is not finite"),
        ("-Infinity", "line 6: label '-Infinity' is not finite"),
        ("1e999", "line 6: label '1e999' is not finite"),
        ("-1e31", "line 6: label '-1e31' is larger than models compute with; use another unit"),
        ("nan", r"line 6: no label \('nan'\)"),
        ("", r"line 6: no label \(''\)"),
    ],
)
def test_what_is_no_number_is_refused_with_its_line(word: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=message):
        made(tmp_path, lambda n: word if n == 4 else n / 7)
    with pytest.raises(BadData, match="line 6: label 'high' is no number, and others are"):
        made(tmp_path, lambda n: "high" if n == 4 else n / 7, reading=Reading(kind=REGRESSION))
    with pytest.raises(BadData, match="line 2: label 'a' is no number; leave --kind regression out, or name another column"):
        made(tmp_path, lambda n: "ab"[n % 2], reading=Reading(kind=REGRESSION))
    with pytest.raises(BadData, match=r"t\.csv: every window has the value 0\.5; there is nothing to predict"):
        made(tmp_path, lambda n: 0.5)


def test_decimal_commas_are_read_only_where_they_are_meant(tmp_path: Path) -> None:
    comma = lambda n: f"{n},{n % 7}5"  # noqa: E731
    with pytest.raises(BadData, match="may be a number with a decimal comma or several labels; write a point, or say which"):
        made(tmp_path, comma)
    task = made(tmp_path, comma, reading=Reading(kind=REGRESSION))
    assert labels(task)[8] == 8.15
    assert "decimal commas are read as points" in notes(task)


def test_one_window_with_two_values_is_counted(tmp_path: Path) -> None:
    rows = [(window, number / 3) for number, window in enumerate(WINDOWS[:40])]
    rows += [(WINDOWS[0], 9.5), (WINDOWS[1], 1 / 3)]
    (tmp_path / "t.csv").write_text("sequence,label\n" + "".join(f"{w},{y}\n" for w, y in rows))
    assert from_files([tmp_path / "t.csv"]).load("stratified").changes == {"duplicates": 2, "with_different_values": 1}


# --- several labels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["{};{};{}", "{},{},{}", "[{}, {}, {}]", "({}, {}, {})", "{} {} {}", "[{} {} {}]", "{}|{}|{}", "{}.0;{}.0;{}.0"]
)
def test_rows_of_zeros_and_ones(form: str, tmp_path: Path) -> None:
    task = made(tmp_path, lambda n: form.format(n % 2, n // 2 % 2, n // 4 % 2))
    assert (task.kind, task.classes, task.main_metric) == (MULTILABEL, ("label_1", "label_2", "label_3"), "auroc")
    assert labels(task) == [(n % 2, n // 2 % 2, n // 4 % 2) for n in range(60)]
    assert "several labels a window: 3 (label_1, label_2, label_3)" in notes(task)


@pytest.mark.parametrize("form", ["{0};{1}", "{0}|{1}", "['{0}', '{1}']", "{1};{0}"])
def test_lists_of_names(form: str, tmp_path: Path) -> None:
    places = ("nucleus", "cytoplasm", "exosome")
    task = made(tmp_path, lambda n: form.format(places[n % 3], places[(n + 1) % 3]) if n % 4 else places[n % 3])
    assert (task.kind, task.classes) == (MULTILABEL, ("cytoplasm", "exosome", "nucleus"))
    assert labels(task)[:2] == [(0, 0, 1), (1, 1, 0)]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda n: "0;1;0" if n != 4 else "0;1", r"t\.csv, line 6: 2 labels, where .*line 2 has 3"),
        (lambda n: "0;1" if n != 4 else "0;", "line 6: an empty label in '0;'"),
        (lambda n: "a;b" if n != 4 else "a;a", "line 6: a label stands there twice"),
        (lambda n: "[0.1, 0.9]", "line 2: several numbers of one window"),
        (lambda n: "0;1", "every window has the same labels"),
        (lambda n: ("{'a': 1}", "b")[n % 2], "looks like several labels of one window; write 0;1;0 or name;name"),
    ],
)
def test_lists_that_are_refused(label: Callable[[int], str], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=message):
        made(tmp_path, label)


def test_several_columns_are_labels_of_their_names(tmp_path: Path) -> None:
    text = "seq,DNase,CTCF,note\n" + "".join(
        f"{w},{n % 2},{('True', 'False')[n // 2 % 2]},x\n" for n, w in enumerate(WINDOWS[:60])
    )
    (tmp_path / "t.csv").write_text(text)
    task = from_files([tmp_path / "t.csv"], reading=Reading(label_columns=("DNase", "ctcf")))
    assert (task.kind, task.classes) == (MULTILABEL, ("DNase", "CTCF"))
    assert labels(task)[:3] == [(0, 1), (1, 1), (0, 0)]
    (tmp_path / "t.csv").write_text(text.replace(f"{WINDOWS[3]},1", f"{WINDOWS[3]},2"))
    with pytest.raises(BadData, match=r"line 5: label '2' in a column of several; each holds 0 or 1"):
        from_files([tmp_path / "t.csv"], reading=Reading(label_columns=("DNase", "CTCF")))
    with pytest.raises(UserError, match="2 columns are the labels of one window, not a regression; name one column"):
        from_files([tmp_path / "t.csv"], reading=Reading(label_columns=("DNase", "CTCF"), kind=REGRESSION))


def test_kinds_that_are_asked_for_wrongly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kind 'ranking': choose one of classification, regression, multilabel"):
        made(tmp_path, lambda n: n % 2, reading=Reading(kind="ranking"))
    with pytest.raises(UserError, match="positive '1': a regression has no positive class"):
        made(tmp_path, lambda n: n / 7, reading=Reading(positive="1"))
    with pytest.raises(BadData, match=r"label '0\.01' looks like a measurement"):
        made(tmp_path, lambda n: n / 10 if n else "0.01", reading=Reading(kind=CLASSIFICATION))
    words = made(tmp_path, lambda n: ("a;b", "c")[n % 2], reading=Reading(kind=CLASSIFICATION))
    assert words.classes == ("a;b", "c")


# --- how they are drawn -------------------------------------------------------------------------------------------------


def test_numbers_are_drawn_by_their_quantiles() -> None:
    values = [random.Random(n).gauss(0, 1) for n in range(400)]
    found = strata(REGRESSION, values)
    assert sorted(Counter(found).values()) == [40] * 10
    assert all(found[a] <= found[b] for a in range(50) for b in range(50) if values[a] <= values[b])
    assert len(set(strata(REGRESSION, [1.0] * 30 + [2.0] * 30))) == 2
    assert set(strata(REGRESSION, values[:19])) == {0}


def test_combinations_are_strata_and_rare_ones_are_one() -> None:
    combinations: list[Label] = [(0, 1)] * 50 + [(1, 1)] * 30 + [(1, 0)] * 6 + [(0, 0)] * 5
    assert sorted(Counter(strata(MULTILABEL, combinations)).values()) == [11, 30, 50]
    assert sorted(Counter(strata(MULTILABEL, combinations[:-5])).values()) == [30, 56]


def test_every_kind_is_drawn_whole(tmp_path: Path) -> None:
    for label in (lambda n: n / 7, lambda n: f"{n % 2};{n % 3 == 0:d};{n % 7 == 0:d}"):
        splits = made(tmp_path, label, 200).load("stratified")
        assert [len(splits.train), len(splits.validation), len(splits.test)] == [120, 40, 40]


def test_validation_is_held_out_of_train_for_every_kind() -> None:
    numbers = [n / 7 for n in range(200)]
    train, validation = hold_out_of_train("x", REGRESSION, numbers, range(200))
    assert (len(train), len(validation)) == (180, 20)
    classes: list[Label] = [n // 2 for n in range(40)] + [20]
    train, validation = hold_out_of_train("x", CLASSIFICATION, classes, range(41))
    assert sorted(train + validation) == list(range(41))
    assert {classes[position] for position in train} == set(range(21))
    assert 2 <= len(validation) <= 6
