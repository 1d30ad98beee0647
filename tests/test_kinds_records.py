"""Records and predictions of regressions and multi-label tasks, and of leaks: what is written is what is read."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_records import PREDICTIONS, record

from harness.errors import BadData
from harness.evidence import records
from harness.evidence.metrics import metrics_of
from harness.evidence.records import Predictions, judge, read, read_predictions, write
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
LEAKS = st.tuples(st.sampled_from(["none", "near", "overlap", "exact"]), st.text())


def regression(labels=(0.1, -2.0, 1e-7), predicted=(0.2, 1 / 3, 5.0), **columns) -> Predictions:
    ids = tuple(map(str, range(len(labels))))
    return Predictions(ids, np.array(labels, float), np.array(predicted)[:, None], ("expression",), kind=REGRESSION, **columns)


def multilabel(labels=((0, 1, 0), (1, 1, 0)), outputs=((0.1, 0.9, 1 / 3), (0.6, 0.2, 0.0)), **columns) -> Predictions:
    ids = tuple(map(str, range(len(labels))))
    return Predictions(ids, np.array(labels), np.array(outputs), ("a", "b;c", "d"), kind=MULTILABEL, **columns)


def same(here: Predictions, there: Predictions) -> bool:
    columns = ("ids", "blocks", "leaks", "kind")
    bits = [(part.labels.tobytes(), part.labels.dtype, part.outputs.tobytes(), part.outputs.dtype) for part in (here, there)]
    return bits[0] == bits[1] and all(getattr(here, name) == getattr(there, name) for name in columns)


def test_a_regression_is_read_back_to_the_last_bit(tmp_path_factory):
    @given(st.lists(st.tuples(NUMBERS, NUMBERS, st.text(), LEAKS), min_size=1, max_size=8), st.booleans(), st.booleans())
    @settings(max_examples=40, deadline=None)
    def check(rows, blocked, audited):
        labels, predicted, blocks, leaks = zip(*rows, strict=True)
        made = regression(labels, predicted, blocks=blocks if blocked else (), leaks=leaks if audited else ())
        folder = tmp_path_factory.mktemp("run")
        records._write_predictions(made, folder / "predictions.csv")
        assert same(read_predictions(folder), made)

    check()


def test_whole_numbers_are_numbers(tmp_path):
    made = Predictions(("a", "b"), np.array([3, 4]), np.array([[3.5], [4.0]]), ("count",), kind=REGRESSION)
    records._write_predictions(made, tmp_path / "predictions.csv")
    assert same(read_predictions(tmp_path), made)
    assert made.labels.dtype == np.float64


def test_labels_are_read_back_to_the_last_bit(tmp_path_factory):
    pairs = st.tuples(st.integers(0, 1), st.floats(0, 1))

    @given(st.lists(st.tuples(pairs, pairs, pairs, st.text(), LEAKS), min_size=1, max_size=8), st.booleans(), st.booleans())
    @settings(max_examples=40, deadline=None)
    def check(rows, blocked, audited):
        *columns, blocks, leaks = zip(*rows, strict=True)
        labels, outputs = np.moveaxis(np.array(columns), 2, 0).swapaxes(1, 2)
        made = multilabel(labels.astype(int), outputs, blocks=blocks if blocked else (), leaks=leaks if audited else ())
        folder = tmp_path_factory.mktemp("run")
        records._write_predictions(made, folder / "predictions.csv")
        assert same(back := read_predictions(folder), made)
        assert back.classes == made.classes

    check()


def test_columns_are_as_stated(tmp_path):
    def lines(predictions):
        records._write_predictions(predictions, tmp_path / "predictions.csv")
        return (tmp_path / "predictions.csv").read_text().splitlines()[:2]

    leaks = (("near", "t7"), ("none", ""), ("exact", "t1"))
    assert lines(regression(leaks=leaks)) == ['"id","label","leak","leak_from","prediction"', '"0",0.1,"near","t7",0.2']
    assert lines(regression(blocks=("x", "x", "y")))[0] == '"id","label","block","prediction"'
    assert lines(multilabel()) == [
        '"id","labels","probability_a","probability_b;c","probability_d"',
        '"0","0;1;0",0.1,0.9,0.3333333333333333',
    ]
    assert lines(replace(PREDICTIONS, leaks=leaks, blocks=("x", "x", "y"))) == [
        '"id","label","block","leak","leak_from","probability_unbound","probability_bound"',
        '"a","bound","x","near","t7",0.1,0.9',
    ]
    assert same(read_predictions(tmp_path), replace(PREDICTIONS, leaks=leaks, blocks=("x", "x", "y")))


@pytest.mark.parametrize("predictions", [PREDICTIONS, regression(), multilabel()], ids=lambda made: made.kind)
def test_scores_follow_from_stored_predictions(tmp_path, predictions):
    metrics, intervals = judge(predictions)
    assert list(metrics) == metrics_of(predictions.kind)
    task = {**record().task, "kind": predictions.kind, "classes": predictions.classes}
    written = record(task=task, metrics=metrics, intervals=intervals)
    folder = write(written, predictions, tmp_path)
    assert read(folder) == written
    assert judge(read_predictions(folder)) == (metrics, intervals)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match=r"labels \(2, 3\), outputs \(2, 3\): expected \(2,\), \(2, 3\)"):
        replace(multilabel(), kind=CLASSIFICATION)
    with pytest.raises(ValueError, match="1 leaks: expected 3"):
        regression(leaks=(("none", ""),))
    with pytest.raises(ValueError, match=r"leaks \['bad'\]: expected none, near, overlap, exact"):
        regression(leaks=(("none", ""), ("bad", "x"), ("none", "")))


@pytest.mark.parametrize(
    "text",
    [
        '"id","label","prediction"\n"a","much",0.5\n',
        '"id","labels","probability_a","probability_b"\n"a","0;2",0.5,0.5\n',
        '"id","labels","probability_a","probability_b"\n"a","0",0.5,0.5\n',
        '"id","label","leak","leak_from","prediction"\n"a",0.5,"odd","",0.5\n',
        '"id","label"\n"a","b"\n',
    ],
)
def test_damaged_predictions_are_reported(tmp_path, text):
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(BadData, match=r"predictions\.csv: not readable"):
        read_predictions(tmp_path)


class TestSchema:
    @staticmethod
    def of(kind, classes, **changes):
        return record(task={**record().task, "kind": kind, "classes": classes}, **changes)

    def test_a_record_without_a_kind_is_a_classification(self, tmp_path):
        assert record().kind == CLASSIFICATION
        path = write(record(), PREDICTIONS, tmp_path) / "record.json"
        content = json.loads(path.read_text())
        del content["leakage"]
        path.write_text(json.dumps(content | {"schema": 2}))
        assert read(path.parent) == record(created=content["created"])

    def test_classes_by_kind(self):
        assert self.of(REGRESSION, ("expression",)).kind == REGRESSION
        assert self.of(MULTILABEL, ("open",)).kind == MULTILABEL
        for kind, classes, words in (
            (CLASSIFICATION, ("bound",), "two or more different names"),
            (REGRESSION, ("a", "b"), "a list of one name"),
            (MULTILABEL, (), "one or more different names"),
            (MULTILABEL, ("a", "a"), "one or more different names"),
        ):
            with pytest.raises(ValueError, match=rf"task\.classes is .*: expected {words}"):
                self.of(kind, classes)
        with pytest.raises(ValueError, match=r"task\.kind is 'ranking': expected one of classification, regression, multilabel"):
            self.of("ranking", ("a", "b"))

    def test_ranges_of_the_metrics(self):
        assert self.of(REGRESSION, ("x",), metrics={"r2": -70.0, "spearman": None, "rmse": 3e4}).metrics["r2"] == -70
        for metrics in ({"spearman": 1.5}, {"rmse": -1}, {"r2": 1.5}, {"micro_auroc": 2}, {"exact_match": -0.1}):
            with pytest.raises(ValueError, match=rf"metrics\.{next(iter(metrics))} is"):
                self.of(REGRESSION, ("x",), metrics=metrics)

    def test_alignments_by_kind(self):
        spoilt = {"mean_change": 3.5, "spearman": -0.2}
        alignment = {"intact": {"spearman": 0.5}, "blanked": spoilt, "shuffled": spoilt}
        assert self.of(REGRESSION, ("x",), metrics={}, alignment=alignment).alignment["blanked"]["mean_change"] == 3.5
        with pytest.raises(ValueError, match=r"alignment\.intact lacks auroc"):
            self.of(MULTILABEL, ("x",), metrics={}, alignment=alignment)

    def test_leakage(self, tmp_path):
        subset = {
            "examples": 2,
            "metrics": {"accuracy": 0.5, "auroc": None},
            "intervals": {"accuracy": [0.1, 0.9], "auroc": None},
        }
        counts = {"none": 2, "near": 0, "overlap": 1, "exact": 0}
        leakage = {"counts": counts, "parameters": {"identity": 0.8}, "subsets": {"novel": subset, "leaking": subset}}
        written = record(leakage=leakage)
        assert read(write(written, PREDICTIONS, tmp_path)).leakage == leakage
        for damage, message in (
            ({"counts": {"none": 3}}, r"leakage\.counts is"),
            ({"subsets": {"novel": subset}}, r"leakage\.subsets lacks leaking"),
            ({"subsets": {"novel": {**subset, "metrics": {"accuracy": 3}}, "leaking": subset}}, r"novel\.metrics\.accuracy is 3"),
            ({"parameters": 5}, r"leakage\.parameters is 5"),
        ):
            with pytest.raises(ValueError, match=message):
                record(leakage={**leakage, **damage})


def test_a_collapse_is_said_in_the_kinds_words():
    words = {
        kind: record(task={**record().task, "kind": kind, "classes": classes}, metrics={}, collapsed=True).flags[0]
        for kind, classes in ((CLASSIFICATION, ("a", "b")), (REGRESSION, ("x",)), (MULTILABEL, ("a", "b")))
    }
    assert words == {
        CLASSIFICATION: "collapsed: every test example was put into one class",
        REGRESSION: "collapsed: every test example was given the same number",
        MULTILABEL: "collapsed: every test example was given the same labels",
    }
