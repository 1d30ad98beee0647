"""Papers' numbers in a table: their rows, what the floors and other sources say of them, and how to leave them out."""

import csv

import pytest
from made_records import cells, labels, published, record

import harness
from harness.evidence import tables
from harness.evidence.published import read_published
from harness.evidence.records import write
from harness.evidence.tables import wide

THESIS = ("GTF2F1", "HNRNPL", "HNRNPM", "PTBP1", "ILF3", "MATR3", "KHSRP", "QKI")
REGULATORY = "human_ensembl_regulatory"


def of_task(task, model="kmer", split="published", **more):
    made = record(model, task=task, split=split, **more)
    made.task["default_split"] = split
    return made


def note(table, start: str) -> str:
    (found,) = (text for text in table.notes if text.startswith(start))
    return found


# --- rows ----------------------------------------------------------------------------------------------------------------


def test_rows_of_one_adapter_stand_together_and_below_our_own_when_sorted_by_model(tmp_path):
    numbers = [
        published(model="Zeta (9k)", source="B", adapter="cnn"),
        published(model="CNN", source="A", adapter="cnn"),
        published(model="Alpha", source="A"),
        published(model="Caduceus-PS (470k)", source="C", adapter="caduceus"),
    ]
    records = [record("cnn"), record("kmer"), record("caduceus"), record("msamamba")]
    table = wide(records, "accuracy", numbers)
    apart = ["cnn (floor)", "kmer (floor)", "caduceus", "msamamba (from scratch)"]
    printed = [f"{name} (published: {source})" for name, source in (("CNN", "A"), ("Zeta (9k)", "B"))]
    caduceus, alpha = "Caduceus-PS (470k) (published: C)", "Alpha (published: A)"
    assert labels(table) == [*apart, caduceus, *printed, alpha]
    beside = labels(tables._sorted(table, "model"))
    assert beside == [apart[0], *printed, apart[1], apart[2], caduceus, apart[3], alpha]
    frame = table.to_frame().set_index("model").adapter
    assert frame[beside].tolist() == ["cnn", "cnn", "cnn", "kmer", "caduceus", "caduceus", "msamamba", ""]


def test_what_is_printed_after_plus_minus_is_no_sd_where_it_is_a_range():
    table = wide(
        [record()], "accuracy", [published(value="0.715", n="5", spread="range 0.087"), published(model="x", spread="se 0.1")]
    )
    assert cells(table)["BERT (published: Doe 2020)", "QKI"] == "0.715 (range 0.087, n=5)"
    assert cells(table)["x (published: Doe 2020)", "QKI"] == "0.80 (se 0.1)"
    assert table.to_frame().sd.isna().all()


def test_they_can_be_left_out(tmp_path, cli):
    write(of_task("QKI", split="thesis"), None, tmp_path)
    shown, hidden = cli("table", "--results", str(tmp_path)), cli("table", "--results", str(tmp_path), "--no-published")
    assert "DNABERT-2 (published: Sharma thesis)" in shown
    assert "published" not in hidden
    assert len(harness.table(results=tmp_path).rows) == 7
    assert len(harness.table(results=tmp_path, published=False).rows) == 1
    with open(tmp_path / "tables" / "accuracy.csv", newline="", encoding="utf-8") as file:
        assert {line["adapter"] for line in csv.DictReader(file)} == {
            *("kmer", "caduceus", "dnabert1", "dnabert2", "genemask", "rnaernie", "rnafm")
        }


@pytest.fixture
def cli(harness):
    def shown(*arguments: str) -> str:
        done = harness(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return shown


# --- notes ---------------------------------------------------------------------------------------------------------------


def test_what_the_floor_says_of_a_papers_task_is_one_line():
    records = [of_task("QKI", split="thesis", accuracy=0.9393), of_task("PTBP1", split="thesis", accuracy=0.9299)]
    table = wide(records, "accuracy", read_published())
    start = "published rows worse than the kmer floor: "
    assert note(table, start) == f"{start}5 of 6 in PTBP1 (0.9299); 6 of 6 in QKI (0.9393)"
    without = wide([of_task("QKI", "gc", split="thesis")], "accuracy", read_published())
    assert not any(text.startswith(start) for text in without.notes)


def test_sources_that_differ_on_one_task_and_architecture_are_named():
    table = wide([of_task(REGULATORY, classes=("promoter", "enhancer", "ocr"))], "accuracy", read_published())
    found = note(table, "published scores of one architecture that differ by more than 0.05 between sources")
    assert (
        f"{REGULATORY}, hyenadna 0.869 (HyenaDNA (436k), Caduceus paper) to 0.938 (HyenaDNA, HyenaDNA paper, secondary)" in found
    )
    assert "msamamba" not in found


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"value": "0.86"}, True),
        ({"value": "0.85"}, False),  # by 0.05, no more
        ({"value": "0.86", "source": "Doe 2020", "model": "another size"}, False),
        ({"value": "0.86", "adapter": "dnabert1"}, False),
    ],
)
def test_a_difference_counts_between_sources_of_one_architecture(other, differs):
    numbers = [published(adapter="dnabert2"), published(**({"source": "Roe 2021", "adapter": "dnabert2"} | other))]
    notes = wide([record()], "accuracy", numbers).notes
    assert any("differ by more than 0.05" in text for text in notes) == differs


def test_the_loss_of_the_thesis_follows_from_its_accuracy_in_all_48_cells(tmp_path, cli):
    for task in THESIS:
        metrics = {"accuracy": 0.9, "hard_log_loss": 3.604}
        write(of_task(task, split="thesis", metrics=metrics), None, tmp_path)
    said = (
        "Sharma thesis: the loss is (1 - accuracy) × 36.04 in all 48 cells that it prints, so it says no more than accuracy does"
    )
    assert said in cli("table", "--results", str(tmp_path), "--metric", "hard_log_loss", "--wide")
    assert said not in cli("table", "--results", str(tmp_path), "--wide")
    loss = harness.table("hard_log_loss", results=tmp_path).to_frame().set_index(["model", "task"])["mean"]
    accuracy = harness.table("accuracy", results=tmp_path).to_frame().set_index(["model", "task"])["mean"]
    printed = [key for key in loss.index if "published" in key[0]]
    assert len(printed) == 48
    assert loss[printed].tolist() == pytest.approx([(1 - value) * 36.04 for value in accuracy[printed]], abs=0.004)


def test_a_loss_that_does_not_follow_from_the_accuracy_gets_no_such_note():
    numbers = [published(), published(metric="hard_log_loss", value="0.5")]
    made = record(metrics={"accuracy": 0.9, "hard_log_loss": 3.604})
    assert wide([made], "hard_log_loss", numbers).notes == ()


def test_every_task_of_genomic_benchmarks_has_its_papers_and_their_notes_are_numbered_once():
    tasks = {item.task for item in read_published() if item.source == "MSAMamba paper"}
    table = wide([of_task(task) for task in tasks], "accuracy", read_published())
    counts = [sum(column == at and bool(row.source) for row, at in table.cells) for column in table.columns]
    assert sorted(counts) == [22, 22, 22, 22, 22, 28, 28, 28]
    numbered = [text for text in str(table).splitlines() if text.startswith("[") and not text.startswith("[low")]
    assert len(numbered) == 11
    aurocs = wide([of_task(task, metrics={"auroc": 0.9}) for task in tasks], "auroc", read_published())
    assert sum(bool(row.source) for row, _ in aurocs.cells) == 25
