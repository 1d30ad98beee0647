"""`harness compare`: which runs are compared, what is said of them, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_records import PROBE, failed, record
from made_runs import answers, put, runs

from harness.cli.main import main
from harness.errors import UnknownName, UserError
from harness.evidence.compare import compare
from harness.evidence.records import write
from harness.recipe import Recipe

LABELS = np.random.default_rng(0).integers(0, 2, 300)
FULL = Recipe()


def only(found):
    (difference,) = found.differences
    return difference


def text(found) -> str:
    return repr(found)


def test_a_stronger_model_is_better_and_order_turns_the_sign(tmp_path):
    runs(tmp_path, {"caduceus": 2.0, "cnn": 0.3})
    one, other = only(compare(tmp_path, ["caduceus", "cnn"])), only(compare(tmp_path, ["cnn", "caduceus"]))
    assert one.better == other.better == "caduceus"
    assert one.difference == -other.difference > 0
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))
    assert one.p == other.p
    assert one.sentence.startswith("caduceus is better than cnn (floor) by ")
    assert other.sentence.startswith("cnn (floor) is worse than caduceus by ")
    assert one.seeds == (0, 1, 2)


def test_a_lower_loss_is_better(tmp_path):
    runs(tmp_path, {"caduceus": 2.0, "cnn": 0.3})
    one = only(compare(tmp_path, metric="log-loss"))
    assert one.metric == "log_loss"
    assert one.difference < 0
    assert one.better == "caduceus"


def test_equal_models_cannot_be_told_apart_and_it_says_what_is_invisible(tmp_path):
    runs(tmp_path, {"caduceus": 1.0, "cnn": 1.0}, examples=807)
    one = only(compare(tmp_path))
    assert one.better is None
    assert one.interval[0] < 0 < one.interval[1]
    assert f"with 807 windows a difference below {100 * one.detectable:.1f} points is invisible" in one.sentence


def test_scores_are_those_of_the_records(tmp_path):
    runs(tmp_path, {"caduceus": 1.0, "cnn": 0.5})
    one = only(compare(tmp_path, metric="auroc"))
    records = [put(tmp_path, answers(LABELS, 1, 0), LABELS, model="kmer", task="other", seed=0)]
    assert records[0].metrics["auroc"] > 0.5
    from harness.evidence.records import read_all

    for name, score in zip(("caduceus", "cnn"), one.scores):
        found = [run.metrics["auroc"] for run in read_all(tmp_path) if run.model["name"] == name]
        assert score == pytest.approx(np.mean(found))


def test_examples_are_paired_by_id_whatever_their_order(tmp_path):
    found, order = answers(LABELS, 1.0, 0), np.random.default_rng(1).permutation(300)
    ids = [f"w{number}" for number in range(300)]
    put(tmp_path, found, LABELS, ids=ids, model="caduceus")
    put(tmp_path, found[order], LABELS[order], ids=[ids[place] for place in order], model="cnn")
    one = only(compare(tmp_path))
    assert one.difference == 0
    assert one.mcnemar == 1
    assert "their accuracy is the same, whatever examples are drawn" in one.sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": [f"x{number}" for number in range(300)]}, "its test examples (600 ids differ)"),
        ({"labels": np.r_[1 - LABELS[:7], LABELS[7:]]}, "its labels (7 of 300 differ)"),
        ({"blocks": [str(number // 10) for number in range(300)]}, "its blocks"),
    ],
    ids=["ids", "labels", "blocks"],
)
def test_runs_on_other_examples_are_left_out_and_named(tmp_path, changes, words):
    for model in ("caduceus", "kmer"):
        put(tmp_path, answers(LABELS, 1.0, 0), LABELS, model=model)
    put(tmp_path, answers(LABELS, 1.0, 0), **({"labels": LABELS} | changes), model="cnn", question=None)
    found = compare(tmp_path)
    assert only(found).names == ("caduceus", "kmer (floor)")
    note = next(note for note in found.notes if note.startswith("left out (1)"))
    assert "cnn (floor), seed 0" in note
    assert words in note


def test_only_shared_seeds_are_compared(tmp_path):
    for seed in range(4):
        put(tmp_path, answers(LABELS, 1.0, seed), LABELS, model="caduceus", seed=seed)
    for seed in (2, 3, 9):
        put(tmp_path, answers(LABELS, 0.5, 10 + seed), LABELS, model="cnn", seed=seed)
    one = only(compare(tmp_path))
    assert one.seeds == (2, 3)
    assert any("two seeds" in note for note in one.notes)
    assert any("lacks the seed (0, 1)" in note for note in one.notes)
    assert any("lacks the seed (9)" in note for note in one.notes)


def test_no_shared_seed_is_refused(tmp_path):
    put(tmp_path, answers(LABELS, 1.0, 0), LABELS, model="caduceus", seed=0)
    put(tmp_path, answers(LABELS, 1.0, 1), LABELS, model="cnn", seed=1)
    with pytest.raises(UserError, match="no seed in common"):
        compare(tmp_path)


def test_one_seed_says_that_nothing_is_known_of_seeds(tmp_path):
    runs(tmp_path, {"caduceus": 1.0, "cnn": 0.5}, seeds=[0])
    assert any(note.startswith("one seed") for note in only(compare(tmp_path)).notes)


def test_a_probe_without_drawn_weights_stands_for_every_seed(tmp_path):
    for seed in range(3):
        put(tmp_path, answers(LABELS, 1.0, seed), LABELS, model="caduceus", seed=seed)
    put(tmp_path, answers(LABELS, 0.2, 50), LABELS, model="kmer", seed=7)
    one = only(compare(tmp_path))
    assert one.seeds == (0, 1, 2)
    assert any("kmer (floor) does not depend on the seed" in note for note in one.notes)


def test_an_untrained_probe_depends_on_the_seed(tmp_path):
    for seed in range(2):
        put(tmp_path, answers(LABELS, 1.0, seed), LABELS, model="caduceus", seed=seed)
    put(tmp_path, answers(LABELS, 0.2, 50), LABELS, model="dnabert2", seed=0, recipe=PROBE)
    assert only(compare(tmp_path)).seeds == (0,)


def test_holm_covers_all_pairs_and_tasks(tmp_path):
    runs(tmp_path, {"caduceus": 1.2, "cnn": 0.8, "kmer": 0.5}, tasks=("QKI", "PUM2"))
    found = compare(tmp_path)
    assert len(found.differences) == 6
    ordered = sorted(found.differences, key=lambda one: one.p)
    assert ordered[0].adjusted == pytest.approx(min(1, 6 * ordered[0].p))
    assert compare(tmp_path, ["caduceus", "cnn"], "QKI").differences[0].adjusted < 6 * ordered[0].p + 1


def test_blocks_are_drawn_whole(tmp_path):
    labels, blocks = np.repeat(LABELS[:30], 10), [f"gene{number // 10}" for number in range(300)]
    for place, model in enumerate(("caduceus", "cnn")):
        found = np.repeat(answers(LABELS[:30], 0.7, place), 10, axis=0)
        put(tmp_path / "blocked", found, labels, blocks, model=model)
        put(tmp_path / "alone", found, labels, model=model)
    blocked, alone = (only(compare(tmp_path / name)) for name in ("blocked", "alone"))
    assert blocked.blocks == 30
    assert blocked.mcnemar is None
    assert alone.mcnemar is not None
    assert np.diff(blocked.interval) > 2.5 * np.diff(alone.interval)
    assert "in 30 blocks" in blocked.sentence or blocked.better


def test_ranks_make_no_claim_from_five_tasks(tmp_path):
    tasks = ["A", "B", "C", "D", "E", "F"]
    runs(tmp_path, {"caduceus": 1.5, "cnn": 0.5}, tasks=tasks, seeds=[0], examples=100)
    six = compare(tmp_path)
    assert six.ranks["caduceus"].mean == 1
    assert six.ranks["caduceus"].interval == (1, 1)
    five = compare(tmp_path, task=tasks[:5])
    assert five.ranks["caduceus"].interval is None
    assert any("fewer than 6" in note for note in five.notes)
    rank = six.ranks["cnn (floor)"]
    assert rank.wins + rank.ties + rank.losses == 6


def test_simulated_data_failed_collapsed_and_searched_runs_are_said(tmp_path):
    search = {"search": {"trials": 20, "epochs": 5}}
    made = record(model="caduceus", task="QKI (sample)")
    searched = made.model | search
    put(tmp_path, answers(LABELS, 1.0, 0), LABELS, model="cnn", task="QKI (sample)", collapsed=True)
    from dataclasses import replace

    from harness.evidence.records import Predictions

    predictions = Predictions(tuple(f"test:{n}" for n in range(300)), LABELS, answers(LABELS, 1, 1), ("unbound", "bound"))
    write(replace(made, model=searched), predictions, tmp_path)
    write(failed(model="caduceus", task="QKI (sample)", seed=1), None, tmp_path)
    found = compare(tmp_path)
    notes = "\n".join(only(found).notes)
    assert "simulated data" in notes
    assert "cnn (floor) collapsed" in notes
    assert "caduceus: 20 trials of 5 epochs; cnn (floor): no search" in notes
    assert any(note.startswith("failed, so not compared (1)") for note in found.notes)


def test_damaged_and_missing_predictions_are_named_and_counted(tmp_path):
    runs(tmp_path, {"caduceus": 1.0, "cnn": 0.5, "kmer": 0.4}, seeds=[0, 1])
    paths = sorted(tmp_path.glob("QKI/cnn/*/predictions.csv"))
    paths[0].unlink()
    paths[1].write_text("id,label\n1,2\n")
    found = compare(tmp_path)
    note = next(note for note in found.notes if note.startswith("left out (2)"))
    assert "cnn (floor), seed 0" in note
    assert "cnn (floor), seed 1" in note
    assert only(found).names == ("caduceus", "kmer (floor)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"models": ["caduceos", "cnn"]}, "did you mean caduceus"),
        ({"task": "QKJ"}, "did you mean QKI"),
        ({"split": "thesi"}, "did you mean thesis"),
        ({"metric": "acuracy"}, "did you mean accuracy"),
    ],
    ids=["model", "task", "split", "metric"],
)
def test_unknown_names_get_near_ones(tmp_path, arguments, words):
    runs(tmp_path, {"caduceus": 1.0, "cnn": 0.5}, seeds=[0], examples=40)
    with pytest.raises(UnknownName, match=words):
        compare(tmp_path, **arguments)


def test_models_of_different_tasks_are_refused_with_what_each_has(tmp_path):
    put(tmp_path, answers(LABELS, 1.0, 0), LABELS, model="caduceus", task="QKI")
    put(tmp_path, answers(LABELS, 1.0, 0), LABELS, model="cnn", task="PUM2", files={"train.csv": "bb"})
    with pytest.raises(UserError, match=r"cnn \(floor\): PUM2"):
        compare(tmp_path)


def test_one_model_alone_is_refused(tmp_path):
    put(tmp_path, answers(LABELS, 1.0, 0), LABELS, model="caduceus")
    with pytest.raises(UserError, match="records are of one model, caduceus"):
        compare(tmp_path)


def test_several_folders_are_one(tmp_path):
    runs(tmp_path / "a", {"caduceus": 1.0}, seeds=[0, 1, 2])
    labels = np.random.default_rng(100).integers(0, 2, 300)
    for seed in range(3):
        put(tmp_path / "b", answers(labels, 0.5, 70 + seed), labels, model="cnn", seed=seed, files={"train.csv": "QKI"})
    assert only(compare([tmp_path / "a", tmp_path / "b"])).seeds == (0, 1, 2)


def test_command_prints_every_format_and_fits_the_terminal(tmp_path, capsys, monkeypatch):
    runs(tmp_path, {"caduceus": 2.0, "cnn": 0.3})
    monkeypatch.setenv("COLUMNS", "80")

    def printed(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["compare", "--results", str(tmp_path), *arguments])
        assert not stopped.value.code
        return capsys.readouterr().out

    assert all(len(line) <= 80 for line in printed().splitlines())
    assert "| models | scores | difference |" in printed("--format", "markdown")
    header, line = printed("--format", "csv").splitlines()
    assert dict(zip(header.split(","), line.split(",")))["better"] == "caduceus"
    found = json.loads(printed("--format", "json", "--task", "rbp", "caduceus", "cnn"))
    assert found["differences"][0]["better"] == "caduceus"
    assert found["ranks"]["caduceus"]["wins"] == 1


def test_command_refuses_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--results", str(tmp_path / "nothing")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_predictions_that_are_no_numbers_are_damaged_and_nothing_to_train_again(tmp_path):
    runs(tmp_path, {"caduceus": 1.0, "cnn": 0.5})
    path = next(path for path in sorted(tmp_path.rglob("predictions.csv")) if "cnn" in path.parts)
    head, first, *rest = path.read_text().splitlines()
    fields = first.split(",")
    path.write_text("\n".join([head, ",".join([*fields[:-2], "nan", "nan"]), *rest]) + "\n")
    (note,) = [note for note in compare(tmp_path).notes if note.startswith("left out (1)")]
    assert f"{path}: damaged (probabilities of 1 of 300 examples are not numbers); delete the folder and run again" in note


def test_a_folder_that_is_not_there_is_refused_beside_one_that_is(tmp_path):
    runs(tmp_path / "a", {"caduceus": 1.0, "cnn": 0.5}, seeds=[0])
    with pytest.raises(UserError, match=r"results .*b: no such folder"):
        compare([tmp_path / "a", tmp_path / "b"])


def test_one_model_named_twice_is_refused_as_such(tmp_path):
    runs(tmp_path, {"caduceus": 1.0, "cnn": 0.5}, seeds=[0])
    with pytest.raises(UserError, match="the models named are one and the same"):
        compare(tmp_path, ["cnn", "cnn"])


def test_equal_scores_of_other_answers_are_not_called_equal_answers(tmp_path):
    labels = np.zeros(300, int)
    for model, strength in (("caduceus", 1.0), ("cnn", 0.5)):
        put(tmp_path, answers(labels, strength, 0), labels, model=model)
    one = only(compare(tmp_path, metric="mcc"))
    assert one.sentence == "caduceus and cnn (floor) cannot be told apart: their mcc is the same, whatever examples are drawn"


def test_pairs_that_cannot_be_compared_are_no_ties(tmp_path):
    runs(tmp_path, {"caduceus": 2.0, "cnn": 0.3})
    for model in ("caduceus", "cnn"):
        put(tmp_path, answers(LABELS * 0, 1.0, 0), LABELS * 0, model=model, task="PUM2")
    rank = compare(tmp_path, metric="auroc").ranks["caduceus"]
    assert (rank.wins, rank.ties, rank.losses) == (1, 0, 0)


def test_simulated_data_wins_nothing_beside_real_data(tmp_path):
    runs(tmp_path, {"caduceus": 2.0, "cnn": 0.3}, tasks=("QKI", "QKI (sample)"))
    found = compare(tmp_path)
    assert [one.better for one in found.differences] == ["caduceus", "caduceus"]
    assert (found.ranks["caduceus"].wins, found.ranks["cnn (floor)"].losses) == (1, 1)
    assert "mean ranks, wins, ties and losses: of real data alone" in found.notes
    assert "mean ranks over 1 task describe this task; no claim about others is made from fewer than 6" in found.notes


def test_only_what_is_there_is_explained(tmp_path):
    for model in ("caduceus", "cnn"):
        put(tmp_path, answers(LABELS[:1], 1.0, 0), LABELS[:1], model=model)
    found = compare(tmp_path)
    assert "with 1 window the spread of a difference is not known" in only(found).sentence
    assert "p: permutation test; below 0.05 it decides the verdict" in found.notes
    assert not [note for note in found.notes if note.startswith(("[low, high]", "invisible"))]
