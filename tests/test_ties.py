"""The mark of `harness table` on models that cannot be told from the best of their column."""

from __future__ import annotations

import pytest
from made_records import cells, record
from made_runs import runs

from harness.evidence import records, ties
from harness.evidence.cells import TIED
from harness.evidence.compare import compare
from harness.evidence.tables import make_table


def marked(table) -> set[str]:
    return {table.rows[row] for (row, _), cell in table.cells.items() if TIED in cell.marks}


def test_models_like_the_best_are_marked_and_others_are_not(tmp_path):
    runs(tmp_path / "results", {"caduceus": 1.3, "dnabert2": 1.25, "cnn": 0.1})
    table = make_table(tmp_path / "results", published=False)
    means = {table.rows[row]: cell.mean for (row, _), cell in table.cells.items()}
    best = max(means, key=lambda name: means[name])
    assert marked(table) == {"caduceus", "dnabert2"} - {best}
    found = compare(tmp_path / "results", [best])
    assert marked(table) == {name for one in found.differences if one.better is None for name in one.names if name != best}
    assert any("≈ cannot be told from the best" in note and "over 2 comparisons" in note for note in table.notes)
    assert "≈" in cells(table)[next(iter(marked(table))), "QKI"]


def test_predictions_are_read_once(tmp_path, monkeypatch):
    runs(tmp_path / "results", {"caduceus": 1.3, "dnabert2": 1.25})
    first = marked(make_table(tmp_path / "results", published=False))
    monkeypatch.setattr(ties, "_p", lambda *_: pytest.fail("read again"))
    assert marked(make_table(tmp_path / "results", published=False)) == first
    with pytest.raises(pytest.fail.Exception):
        make_table(tmp_path / "results", "log_loss", published=False)


def test_runs_whose_predictions_are_damaged_are_counted(tmp_path):
    runs(tmp_path / "results", {"caduceus": 1.3, "dnabert2": 1.25})
    path = sorted((tmp_path / "results").rglob("predictions.csv"))[0]
    path.write_text(path.read_text()[:500])
    (note,) = [note for note in make_table(tmp_path / "results", published=False).notes if "≈" in note]
    assert "without 1 run whose predictions are missing, damaged or of other examples" in note


def test_of_too_many_runs_none_are_read_and_it_says_so(tmp_path, monkeypatch):
    runs(tmp_path / "results", {"caduceus": 1.3, "dnabert2": 1.25})
    monkeypatch.setattr(ties, "MAX_RUNS", 5)
    monkeypatch.setattr(ties, "_p", lambda *_: pytest.fail("read"))
    table = make_table(tmp_path / "results", published=False)
    assert not marked(table)
    assert any("see harness compare" in note for note in table.notes)


def test_records_without_predictions_have_no_marks(tmp_path):
    for model, accuracy in (("caduceus", 0.91), ("cnn", 0.9)):
        records.write(record(model=model, accuracy=accuracy), None, tmp_path / "results")
    table = make_table(tmp_path / "results", published=False)
    assert not marked(table)
    assert not any("best of its column" in note for note in table.notes)


def test_table_says_which_models_were_searched(tmp_path):
    searched = record(model="caduceus").model | {"search": {"trials": 20, "epochs": 5}}
    records.write(record(model="caduceus", **{}), None, tmp_path / "plain")
    for place, made in enumerate((record(model="cnn"), record(model="caduceus"))):
        changed = made if place == 0 else type(made)(**(vars(made) | {"model": searched}))
        records.write(changed, None, tmp_path / "results")
    note = next(note for note in make_table(tmp_path / "results", published=False).notes if "searched" in note)
    assert note.endswith("caduceus (20 trials of 5 epochs)")
    assert not any("searched" in note for note in make_table(tmp_path / "plain", published=False).notes)
