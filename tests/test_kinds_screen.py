"""What a run of a regression or a multi-label task shows: its labels at the start, its loss an epoch, its scores at the end."""

import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import planned_run
from made_kinds import multilabel_task, regression_task, with_labels
from test_records import record

from harness.cli.screen import Screen, _without_alignment
from harness.engine.kinds import labels_of
from harness.study import run as run_module
from harness.study import work
from harness.task import MULTILABEL, Task


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys):
    """Runs a model on a made task, and gives what came to standard error and to standard output."""

    def show(model, task, splits, **recipe) -> tuple[list[str], list[str]]:
        for module in (run_module, work):
            monkeypatch.setattr(module, "open_task", lambda run: (task, splits))
        work.Worker(tmp_path, strict=True, reporter=Screen()).work([planned_run(model, task, splits, **recipe)])
        said = capsys.readouterr()
        return said.err.splitlines(), said.out.splitlines()

    return show


def test_a_regression(shown):
    task, splits = regression_task((60, 40, 40))
    err, out = shown("cnn", task, splits, epochs=1)
    assert err[0] == "expression: 60 / 40 / 40 windows (train / validation / test, split 'drawn') of 60 nt"
    number = r"-?[\d.]+"
    numbers = rf"mean {number}, sd {number}, {number} to {number}"
    assert re.fullmatch(rf"  expression: {numbers} / {numbers} / {numbers}", err[1])
    train = labels_of(splits.train)
    assert f"mean {train.mean():.4g}, sd {train.std():.4g}, {train.min():.4g} to {train.max():.4g} / " in err[1]
    assert any(re.fullmatch(r"  after epoch 1:  validation mse [\d.]+", line) for line in err)
    assert [line.split()[0] for line in out[1:8]] == ["spearman", "pearson", "r2", "rmse", "mae", "predicted", "record"]
    assert out[6] == "  predicted         expression"
    assert re.fullmatch(r"  rmse              [\d.]+   \[[\d.]+, [\d.]+\]", out[4])
    assert not any("class" in line for line in out)


def test_several_labels(shown):
    task, splits = multilabel_task((60, 40, 40))
    err, out = shown("cnn", task, splits, epochs=1)
    shares = [
        [f"{labels_of(part).mean(axis=0)[k]:.0%}" for part in (splits.train, splits.validation, splits.test)] for k in range(3)
    ]
    assert err[1:4] == [f"  {name}: {' / '.join(column)}" for name, column in zip(task.classes, shares)]
    assert any(re.fullmatch(r"  after epoch 1:  validation log_loss [\d.]+", line) for line in err)
    names = ["auroc", "auprc", "f1", "micro_auroc", "micro_auprc", "micro_f1", "log_loss", "exact_match"]
    assert [line.split()[0] for line in out[1:9]] == names
    assert out[9] == "  auroc, auprc, f1  means over 3 labels; micro: of all labels together"
    assert not any("class" in line for line in out)


def test_of_many_labels_the_first_ten_and_how_many_more(shown):
    _, splits = multilabel_task((40, 20, 20))
    rng = np.random.default_rng(0)
    parts = {
        name: with_labels(part, map(tuple, rng.integers(0, 2, (len(part), 12)).tolist()))
        for name, part in (("train", splits.train), ("validation", splits.validation), ("test", splits.test))
    }
    splits = replace(splits, **parts)
    task = Task("many", "made", "made here", tuple(f"l{k}" for k in range(12)), lambda rule: splits, ("drawn",), kind=MULTILABEL)
    err, _ = shown("gc", task, splits)
    assert [line.split(":")[0] for line in err[1:12]] == [*(f"  l{k}" for k in range(10)), "  and 2 more labels"]


def test_a_label_left_out_and_a_correlation_that_is_undefined_are_said(shown):
    task, splits = multilabel_task((40, 20, 20))
    splits = replace(splits, test=with_labels(splits.test, [(*label[:2], 1) for label in labels_of(splits.test).tolist()]))
    _, out = shown("gc", task, splits)
    assert "  ! auroc and auprc are means over 2 of 3 labels: all test examples have, or all lack, 'tata'" in out
    task, splits = regression_task((40, 20, 20))
    same = [replace(example, windows=splits.train[0].windows) for example in splits.test]
    _, out = shown("gc", task, replace(splits, test=same))
    assert "  ! collapsed: every test example was given the same number" in out
    assert not any(line.strip().startswith("spearman") for line in out)
    assert "  undefined         spearman, pearson   the test labels, or the predictions, vary too little" in out


def test_errors_of_a_small_unit_are_no_zeros(shown):
    task, splits = regression_task((60, 40, 40))
    small = [with_labels(part, labels_of(part) * 1e-9) for part in (splits.train, splits.validation, splits.test)]
    _, out = shown("gc", task, replace(splits, train=small[0], validation=small[1], test=small[2]))
    assert re.fullmatch(r"  rmse              [\d.]+e-\d\d   \[[\d.]+e-\d\d, [\d.]+e-\d\d\]", out[4])


def test_what_the_alignment_changes():
    def line(kind, classes, metric, intact, spoilt):
        ways = {name: {"mean_change": 1.25, metric: spoilt} for name in ("blanked", "shuffled")}
        return _without_alignment(
            record(
                task={**record().task, "kind": kind, "classes": classes},
                metrics={},
                alignment={"intact": {metric: intact}, **ways},
            )
        )

    assert line("regression", ("x",), "spearman", 0.5, 0.25).startswith(
        "blanked: a number changes by 1.250 sd, spearman 0.500 → 0.250;"
    )
    assert line("regression", ("x",), "spearman", 0.5, None).startswith("blanked: a number changes by 1.250 sd;")
