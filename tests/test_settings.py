"""What is averaged and what is not: settings, versions of the code, devices, questions and what a model may read."""

from dataclasses import replace

import pytest
from made_records import PROBE, cells, computed, failed, labels, record

from harness.evidence.render import as_text
from harness.evidence.tables import long, summary, wide
from harness.recipe import Recipe

LOW, SHORT = Recipe(learning_rate=1e-5), Recipe(epochs=1)


def rows(records, **more) -> dict[str, str]:
    """Label → the cell of the only column."""
    return {row: cell for (row, _), cell in cells(wide(records, "accuracy", **more)).items()}


def notes(records) -> list[str]:
    """The numbered notes, without the place."""
    return [note.split(": ", 1)[1] for note in as_text(wide(records, "accuracy")).notes if note.startswith("[")]


# --- versions of the code, devices, precisions ---------------------------------------------------------------------------


def test_runs_of_two_versions_of_the_code_are_never_averaged():
    records = [record("bob", accuracy=0.5, code="v1"), record("bob", accuracy=0.75, seed=1, code="v2", minute=1)]
    assert rows(records) == {"bob": "0.7500 (n=1) [1]"}
    assert notes(records) == ["not counted, run with another version of the code: seed 0"]
    assert summary(records).counted.tolist() == [False, True]
    assert long(records, "accuracy", ["model"])["mean"].tolist() == [0.75]
    again = [*records, record("bob", accuracy=0.65, code="v2", minute=2)]
    assert rows(again) == {"bob": "0.7000 ± 0.0707 (n=2)"}  # every seed was run again, so there is nothing to say


def test_the_newest_code_that_finished_counts():
    records = [record("bob", accuracy=0.5, code="v1"), failed(model="bob", code="v2", minute=1, seed=1)]
    assert rows(records) == {"bob": "0.5000 (n=1) [1]"}
    assert notes(records) == ["not counted, run with another version of the code: seed 1"]


@pytest.mark.parametrize("other", [computed("cuda", "bf16"), computed("cpu", "float32")])
def test_runs_on_another_device_or_in_another_precision_are_another_setting(other):
    records = [record("bob", accuracy=0.5, seed=seed, **computed()) for seed in (0, 1)]
    records.append(record("bob", accuracy=0.9, seed=2, minute=5, **other))
    device, precision = other["environment"].values()
    assert rows(records) == {"bob": "0.5000 ± 0.0000 (n=2) [1]"}  # the one with more seeds, though the other is newer
    assert notes(records) == [f"1 other setting, see --all-settings: on {device} in {precision}"]
    assert rows(records, all_settings=True) == {
        "bob (on cpu in bf16)": "0.5000 ± 0.0000 (n=2)",
        f"bob (on {device} in {precision})": "0.9000 (n=1)",
    }
    assert summary(records).setting.nunique() == len(long(records, "accuracy", ["model"])) == 2


def test_a_precision_that_came_of_itself_is_the_same_as_one_asked_for():
    asked = record("bob", accuracy=0.7, seed=1, recipe=Recipe(precision="bf16"), minute=1, **computed())
    assert rows([record("bob", accuracy=0.7, **computed()), asked]) == {"bob": "0.7000 ± 0.0000 (n=2)"}
    assert notes([asked]) == ["not the model's own recipe: precision bf16 (not auto)"]


# --- settings ------------------------------------------------------------------------------------------------------------


def test_a_quick_experiment_never_replaces_the_models_own_recipe():
    own = [record("bob", accuracy=0.8, seed=seed) for seed in range(3)]
    records = [*own, record("bob", accuracy=0.95, minute=8, recipe=LOW), record("bob", accuracy=0.9, minute=9, recipe=SHORT)]
    assert rows(records) == {"bob": "0.8000 ± 0.0000 (n=3) [1]"}
    assert notes(records) == ["2 other settings, see --all-settings: learning_rate 1e-05; epochs 1"]
    assert rows(records, all_settings=True) == {
        "bob": "0.8000 ± 0.0000 (n=3)",
        "bob (epochs 1)": "0.9000 (n=1) [1]",
        "bob (learning_rate 1e-05)": "0.9500 (n=1) [2]",
    }


def test_the_own_recipe_stays_the_main_row_when_it_failed():
    records = [failed(model="bob"), record("bob", minute=1, recipe=LOW)]
    assert rows(records) == {"bob": "failed [1] [2]"}
    assert notes(records)[1] == "1 other setting, see --all-settings: learning_rate 1e-05"


def test_without_the_own_recipe_the_newest_setting_that_finished_is_shown_whatever_it_scores():
    records = [record("bob", accuracy=0.95, recipe=LOW), record("bob", accuracy=0.85, minute=1, recipe=SHORT)]
    assert rows(records) == {"bob": "0.8500 (n=1) [1] [2]"}
    assert notes(records) == [
        "not the model's own recipe: epochs 1 (not 20)",
        "1 other setting, see --all-settings: learning_rate 1e-05",
    ]
    assert rows([records[0], failed(model="bob", minute=2, recipe=SHORT)])["bob"].startswith("0.9500")


def test_the_own_recipe_is_the_one_that_the_newest_run_knows():
    outdated = record("bob", accuracy=0.9, minute=0)
    outdated = replace(outdated, model=outdated.model | {"recipe": outdated.model["recipe"] | {"learning_rate": 1e-5}})
    outdated = replace(outdated, recipe=outdated.model["recipe"])
    assert rows([outdated, record("bob", accuracy=0.8, minute=1)]) == {"bob": "0.8000 (n=1) [1]"}


@pytest.mark.parametrize("minute", [0, 2])  # an older version may run last
def test_a_setting_that_an_older_version_did_not_have_is_no_difference(minute):
    older, newer = record("bob", accuracy=0.8, minute=minute), record("bob", accuracy=0.9, seed=1, minute=1)
    for section in (older.recipe, older.model["recipe"]):
        del section["clip"]
    assert rows([older, newer]) == {"bob": "0.8500 ± 0.0707 (n=2)"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (PROBE, Recipe(tune="probe", learning_rate=5.0, epochs=7, batch_size=3, head="tanh", lora_rank=2), True),
        (Recipe(tune="zero"), Recipe(tune="zero", dropout=0.5, schedule="constant"), True),
        (Recipe(), Recipe(lora_rank=2, lora_alpha=4), True),
        (Recipe(), LOW, False),
        (Recipe(tune="lora"), Recipe(tune="lora", lora_rank=2), False),
    ],
)
def test_settings_that_a_way_of_tuning_does_not_use_are_no_part_of_it(one, other, same):
    records = [record("bob", recipe=one), record("bob", recipe=other, seed=1, minute=1)]
    (cell,) = rows(records).values()
    assert ("(n=2)" in cell) == same
    assert (summary(records).setting.nunique() == 1) == same


def test_the_floor_is_the_k_mer_models_own_setting_in_every_table():
    records = [record("kmer", accuracy=0.8, **computed()), record("bob", accuracy=0.75, **computed())]
    records.append(record("kmer", accuracy=0.1, minute=3, seed=7, options={"k": 3}, **computed()))
    for all_settings in (False, True):
        assert rows(records, all_settings=all_settings)["bob"] == "0.7500 (n=1) ↓"


# --- questions -----------------------------------------------------------------------------------------------------------


def test_two_data_sets_of_one_task_name_are_never_averaged():
    one, two = (
        record("gc", task="data.csv", files={"data.csv": name}, accuracy=value) for name, value in (("aa", 1.0), ("bb", 0.4))
    )
    frame = long([one, two], "accuracy", ["model", "task", "seed"])
    assert sorted(zip(frame["mean"], frame.runs)) == [(0.4, 1), (1.0, 1)]
    assert len(long([one, two], "accuracy", ["model"])) == len(long([one, two], "accuracy", ["seed"])) == 2
    by_another_path = replace(one, task=one.task | {"files": {"/abs/data.csv": "aa"}}, created="2031-01-01T00:00:00+00:00")
    assert sorted(long([one, two, by_another_path], "accuracy", ["model", "task", "seed"]).runs) == [1, 1]


def test_models_of_alignments_and_of_sequences_share_the_column_of_a_question():
    plain, aligned = {"variants.csv": "aa"}, {"variants.csv": "aa", "alignment.maf": "bb"}
    scores = {"mean_change": 0.1, "auroc": 0.5}
    read = {"intact": {"auroc": 0.9}, "blanked": scores, "shuffled": scores}
    records = [
        record("kmer", accuracy=0.8, files=plain, question="q1"),
        record("bob", accuracy=0.9, files=aligned, question="q1", reads="alignment", alignment=read),
        record("eve", accuracy=0.7, files=aligned, question="q1", reads="alignment", alignment=read),
        record("mallory", accuracy=0.7, files=plain, question="q2"),
    ]
    table = wide(records, "accuracy")
    assert cells(table) == {
        ("kmer (floor)", "QKI data q1"): "0.8000 (n=1)",
        ("bob", "QKI data q1"): "0.9000 (n=1) ≡",
        ("eve", "QKI data q1"): "0.7000 (n=1) ↓ ≡",
        ("mallory", "QKI data q2"): "0.7000 (n=1)",
        **{(name, "QKI data q2"): "" for name in ("kmer (floor)", "bob", "eve")},
        ("mallory", "QKI data q1"): "",
    }
    assert "≡ read an alignment of each window; other models read the sequence alone" in table.notes
    assert summary(records).alignment.tolist() == [False, True, True, False]


def test_a_model_with_two_alignments_is_two_settings_but_a_model_of_sequences_is_one():
    files = [{"v.csv": "aa", "a.maf": name} for name in ("bb", "cc")]
    aligned = [record("bob", files=each, question="q", reads="alignment", seed=seed) for seed, each in enumerate(files)]
    assert list(rows(aligned).values()) == ["0.9000 (n=1) [1]"]
    assert notes(aligned) == ["1 other setting, see --all-settings: input a.maf bb"]  # one name, and a piece of each sha256
    assert len(rows(aligned, all_settings=True)) == 2
    sequences = [record("bob", files=each, question="q", seed=seed) for seed, each in enumerate(files)]
    assert list(rows(sequences).values()) == ["0.9000 ± 0.0000 (n=2)"]


def test_an_alignment_is_called_by_its_file_where_the_others_lack_it():
    files = [
        {"v.csv": "aa", "columns of 3 rows, a.maf": "bb"},
        {"v.csv": "aa", "columns of 90 rows, b.zarr": "cc"},
        {"v.csv": "aa"},
    ]
    aligned = [record("bob", files=each, question="q", reads="alignment", minute=minute) for minute, each in enumerate(files)]
    named = {"bob (input columns of 90 rows, b.zarr)", "bob (input columns of 3 rows, a.maf)"}
    found = set(rows(aligned, all_settings=True))
    (other,) = found - named
    assert named < found
    assert len(other) == len("bob (input 325040)")  # no file of its own: a piece of the digest of all


def test_an_older_record_gets_the_question_that_newer_ones_hold_for_its_data():
    older, newer = record("bob", accuracy=0.8), record("eve", question="q1", minute=1)
    assert len(wide([older, newer], "accuracy").columns) == 1
    assert len(wide([older, newer, record("eve", question="q2", minute=2)], "accuracy").columns) == 3  # which of the two?
    elsewhere = record("eve", question="q1", files={"train.csv": "bb"})
    assert len(wide([older, elsewhere], "accuracy").columns) == 2


def test_a_note_says_which_class_a_metric_is_about():
    binary, other = record("bob"), record("bob", task="clinvar", classes=("benign", "pathogenic"))
    several = record("bob", task="cells", classes=("a", "b", "c"))
    for metric in ("precision", "recall", "f1", "auroc", "auprc", "brier"):
        assert any(note.endswith(": of the class bound") for note in wide([binary], metric).notes), metric
    assert wide([binary], "f1").notes == ("F1: of the class bound",)
    found = wide([binary, other, several], "f1").notes
    means = "of all classes, each against the rest (mean) (cells)"
    assert found == (f"F1: of the class bound (QKI); {means}; of the class pathogenic (clinvar)",)
    for metric in ("accuracy", "mcc", "log_loss"):
        assert wide([binary], metric).notes == ()


def test_all_settings_keep_one_order_and_label_for_each_setting():
    records = [record("bob", task=task, recipe=recipe) for task in ("QKI", "ILF3") for recipe in (Recipe(), LOW)]
    table = wide(records, "accuracy", all_settings=True)
    assert labels(table) == ["bob", "bob (learning_rate 1e-05)"]
    assert len(table.cells) == 4
