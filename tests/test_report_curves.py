"""Curves of a report: their areas are the metrics, and thinning leaves them where they were."""

import numpy as np
import pytest
from made_reports import answers

from harness.evidence.metrics import scores
from harness.evidence.records import Predictions
from harness.evidence.report import curves
from harness.evidence.report.draw import svg
from harness.task import CLASSIFICATION, MULTILABEL, REGRESSION


def area(points):
    return float(np.trapezoid(points[:, 1], points[:, 0]))


@pytest.mark.parametrize(("kind", "classes"), [(CLASSIFICATION, 2), (CLASSIFICATION, 3), (MULTILABEL, 3)])
def test_areas_are_the_metrics(kind, classes):
    made = answers(kind, 1.0, 0, 2000, classes)
    found = scores(made.outputs, made.labels, kind)
    assert area(curves.roc(made)) == pytest.approx(found["auroc"], abs=0.003)
    assert area(curves.precision_recall(made)) == pytest.approx(found["auprc"], abs=0.004)


def test_curves_are_thin_and_within_tolerance():
    made = answers(CLASSIFICATION, 1.0, 0, 5000)
    whole = curves._roc(made.labels, made.outputs[:, 1])
    thin = curves.thinned(whole)
    assert len(thin) <= curves.GRID < len(whole)
    assert thin[0].tolist() == [0, 0]
    assert thin[-1].tolist() == [1, 1]
    starts, along = thin[:-1], np.diff(thin, axis=0)
    share = ((whole[:, None] - starts) * along).sum(axis=2) / (along**2).sum(axis=1)
    nearest = starts + share.clip(0, 1)[..., None] * along
    assert np.linalg.norm(whole[:, None] - nearest, axis=2).min(axis=1).max() <= curves.TOLERANCE


def test_without_both_classes_there_is_no_curve():
    made = Predictions(("a", "b"), np.array([1, 1]), np.array([[0.2, 0.8], [0.6, 0.4]]), ("unbound", "bound"))
    assert len(curves.roc(made)) == len(curves.precision_recall(made)) == 0


def test_equal_scores_are_one_step():
    made = Predictions(tuple("abcd"), np.array([0, 1, 0, 1]), np.full((4, 2), 0.5), ("unbound", "bound"))
    assert curves.roc(made).tolist() == [[0, 0], [1, 1]]
    assert curves.precision_recall(made).tolist() == [[0, 0.5], [1, 0.5]]


def test_reliability_is_what_happened_in_each_bin():
    outputs = np.repeat([0.05, 0.55, 0.95], [20, 10, 5])
    labels = np.concatenate([np.zeros(20), np.arange(10) % 2, np.ones(5)]).astype(int)
    made = Predictions(tuple(map(str, range(35))), labels, np.column_stack([1 - outputs, outputs]), ("unbound", "bound"))
    assert curves.reliability([made]) == pytest.approx(np.array([[0.05, 0, 20], [0.55, 0.5, 10]]))
    assert curves.reliability([made, made])[-1].tolist() == pytest.approx([0.95, 1, 10])


def test_of_more_classes_reliability_is_of_the_predicted_one():
    outputs = np.tile([0.1, 0.7, 0.2], (20, 1))
    made = Predictions(tuple(map(str, range(20))), np.array([1, 2] * 10), outputs, ("a", "b", "c"))
    assert curves.reliability([made]).tolist() == [pytest.approx([0.7, 0.5, 20])]


def test_a_scatter_has_few_points():
    points = curves.observed(answers(REGRESSION, 2.0, 0, 1000))
    assert points.shape == (curves.POINTS, 2)


def test_a_figure_takes_its_colours_and_font_from_the_page():
    def draw(canvas):
        axes = canvas.axes()
        (line,) = axes.plot([0, 1], [0, 1], marker="o")
        canvas.mark(line, 'k" onload="x', "<b>tip</b>")
        axes.set_title("$a_1$ <i>")

    text = svg(200, 150, 'a "title"', "words & numbers", draw)
    assert text.startswith('<svg role="img" viewBox="0 0 200 150"')
    assert "var(--ink)" in text or 'class="ink"' in text
    assert "font-family" not in text
    assert "$a_1$ &lt;i&gt;" in text
    assert "<b>" not in text
    assert 'onload="' not in text
    assert text == svg(200, 150, 'a "title"', "words & numbers", draw)
