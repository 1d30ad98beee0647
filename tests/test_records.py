"""Records: what is written is what is read, whole or not at all."""

import json
import multiprocessing
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.card import ModelCard
from harness.errors import BadData, HarnessError
from harness.evidence import records
from harness.evidence.metrics import scores
from harness.evidence.records import (
    Predictions,
    RunRecord,
    find,
    folder_name,
    judge,
    read,
    read_all,
    read_predictions,
    write,
)
from harness.recipe import Recipe

PROBABILITIES = np.array([[0.1, 0.9], [0.8, 0.2], [1 / 3, 2 / 3]])
PREDICTIONS = Predictions(("a", "b", "c"), np.array([1, 0, 0]), PROBABILITIES, ("unbound", "bound"))


def _recompute(folder):
    return judge(read_predictions(folder))


def record(**changes) -> RunRecord:
    card = ModelCard("counts k-mers", "none", "Apache-2.0", "DNA", floor=True)
    facts = {
        "run_id": "seed0-0123456789",
        "task": {
            "name": "QKI",
            "context": None,
            "family": "rbp",
            "split": "thesis",
            "default_split": "thesis",
            "simulated": True,
            "classes": ("unbound", "bound"),
            "files": {"generator": "v1"},
        },
        "model": {
            "name": "kmer",
            "card": asdict(card),
            "recipe": asdict(Recipe()),
            "checkpoint": None,
            "size": "base",
            "options": {},
        },
        "recipe": asdict(Recipe()),
        "seed": 0,
        "code": "c0de",
        "metrics": scores(PROBABILITIES, PREDICTIONS.labels),
        "history": [{"epoch": 1, "train_loss": np.float32(0.1), "validation_log_loss": float("nan")}],
    }
    return RunRecord(**(facts | changes))


def test_round_trip(tmp_path):
    written = record(events=["out of memory: batch 16 → 8"])
    folder = write(written, PREDICTIONS, tmp_path)
    assert folder == tmp_path / "QKI-sample" / "kmer" / "seed0-0123456789"
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.csv", "record.json"]
    assert read(folder) == written
    assert read_all(tmp_path) == [written]
    assert find(tmp_path, "QKI (sample)", "kmer", written.run_id) == written
    assert find(tmp_path, "QKI (sample)", "kmer", "seed1-0123456789") is None
    assert _recompute(folder) == (written.metrics, {})
    first_line = (folder / "predictions.csv").read_text().splitlines()[1]
    assert first_line == '"a","bound",0.1,0.9'


@given(
    st.lists(st.tuples(st.text(), st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=10),
    st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True),
)
@settings(max_examples=50, deadline=None)
def test_predictions_read_back_to_the_last_bit(tmp_path_factory, rows, classes):
    probabilities = np.array([[1 - p, p] for *_, p in rows])
    ids, labels = tuple(name for name, *_ in rows), np.array([label for _, label, _ in rows])
    folder = tmp_path_factory.mktemp("run")
    records._write_predictions(Predictions(ids, labels, probabilities, tuple(classes)), folder / "predictions.csv")
    back = read_predictions(folder)
    assert (back.ids, back.classes) == (ids, tuple(classes))
    assert back.labels.tolist() == labels.tolist()
    assert back.outputs.tobytes() == probabilities.tobytes()


def test_a_record_holds_json_values_only():
    made = record(timing={"seconds": {"total": np.float64(1.5)}, "bytes": np.int64(3), "where": Path("a")})
    assert made.timing == {"seconds": {"total": 1.5}, "bytes": 3, "where": "a"}
    assert made.recipe["betas"] == [0.9, 0.999]
    assert made.history[0]["validation_log_loss"] is None
    assert json.loads(json.dumps(asdict(made))) == asdict(made)
    with pytest.raises(TypeError, match="has no place in a record"):
        record(timing={"seconds": object()})
    with pytest.raises(ValueError, match="task lacks family"):
        record(task={"name": "QKI"})
    with pytest.raises(ValueError, match="failed with an error"):
        record(status="failed")


def test_flags():
    assert record(collapsed=True, events=["halved"]).flags == [records.COLLAPSED, "halved"]


def test_failed_run_needs_no_predictions(tmp_path):
    failed = record(status="failed", error="RunFailed: loss is nan", metrics={})
    folder = write(failed, None, tmp_path)
    assert read(folder) == failed
    assert not read(folder).finished
    with pytest.raises(BadData, match=r"predictions\.csv"):
        _recompute(folder)


def test_failing_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(HarnessError, match=r"QKI-sample/kmer/seed0-0123456789: the record was not written \(disk full\)"):
        write(record(), PREDICTIONS, tmp_path)
    assert read_all(tmp_path) == []
    assert list((tmp_path / "QKI-sample" / "kmer").iterdir()) == []


def test_replaces(tmp_path):
    write(record(status="failed", error="killed"), None, tmp_path)
    write(record(), PREDICTIONS, tmp_path)
    assert [found.status for found in read_all(tmp_path)] == ["finished"]


def test_a_young_temporary_folder_is_left_to_its_writer(tmp_path):
    young = tmp_path / "QKI-sample" / "kmer" / ".tmp-seed1-1"
    young.mkdir(parents=True)
    write(record(), PREDICTIONS, tmp_path)
    assert young.is_dir()


def _write_seed(results_dir: str, seed: int) -> None:
    write(record(run_id=f"seed{seed}-0123456789", seed=seed), PREDICTIONS, Path(results_dir))


def test_concurrent_runs(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write_seed, args=(str(tmp_path), seed)) for seed in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [found.seed for found in read_all(tmp_path)] == list(range(6))


def test_predictions_in_blocks_keep_them_and_give_their_intervals(tmp_path):
    rng = np.random.default_rng(0)
    second = rng.random(60)
    blocks = tuple(f"17:{number // 5}" for number in range(60))
    predictions = Predictions(
        tuple(map(str, range(60))), rng.integers(0, 2, 60), np.stack([1 - second, second], 1), ("a", "b"), blocks
    )
    folder = write(record(), predictions, tmp_path)
    assert read_predictions(folder).blocks == blocks
    metrics, intervals = _recompute(folder)
    low, high = intervals["auroc"]
    assert low < metrics["auroc"] < high
    with pytest.raises(ValueError, match="2 blocks: expected 3"):
        replace(PREDICTIONS, blocks=("17:0", "17:1"))


def test_records_from_before_a_field_was_added_are_read(tmp_path):
    path = write(record(), PREDICTIONS, tmp_path) / "record.json"
    content = json.loads(path.read_text())
    del content["intervals"], content["alignment"]
    path.write_text(json.dumps(content))
    assert read(path.parent) == record(created=content["created"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:100], "not a readable record"),
        (lambda text: "[]", "not a readable record"),
        (lambda text: text.replace('"seed": 0', '"sead": 0'), "lacks seed"),
        (lambda text: text.replace('"schema": 3', '"schema": 4'), "has schema 4, this version reads 1 to 3"),
    ],
)
def test_damaged_record_is_reported(tmp_path, damage, message):
    path = write(record(), PREDICTIONS, tmp_path) / "record.json"
    path.write_text(damage(path.read_text()))
    for reader in (lambda: read(path.parent), lambda: find(tmp_path, "QKI (sample)", "kmer", path.parent.name)):
        with pytest.raises(BadData, match=message) as caught:
            reader()
        assert str(path) in str(caught.value)
    said = []
    assert read_all(tmp_path, said.append) == []
    assert [re.search(message, line) is not None for line in said] == [True]
    assert str(path) in said[0]


def test_damaged_predictions_are_reported(tmp_path):
    folder = write(record(), PREDICTIONS, tmp_path)
    for text in ("", "id,label,probability_unbound,probability_bound\na,other,0.5,0.5\n", "id,label,probability_a\nx,a,zero\n"):
        (folder / "predictions.csv").write_text(text)
        with pytest.raises(BadData, match=r"predictions\.csv: not readable"):
            read_predictions(folder)
    for damage in (lambda path: path.write_bytes(b"id,label,probability_a\n\xff\xfe,a,1\n"), os.mkfifo):
        (folder / "predictions.csv").unlink()
        damage(folder / "predictions.csv")
        with pytest.raises(BadData, match=r"predictions\.csv: not readable"):
            read_predictions(folder)


def test_shapes_of_predictions():
    with pytest.raises(ValueError, match=r"expected \(3,\), \(3, 2\)"):
        replace(PREDICTIONS, outputs=PROBABILITIES[:2])


def test_folder_names():
    assert [folder_name(name) for name in ("QKI", "QKI (sample)", "GM12878_v1.2")] == ["QKI", "QKI-sample", "GM12878_v1.2"]
    for name in ("../up", "tables", "published", "a/b", "", "...", "x" * 200):
        folder = folder_name(name)
        assert folder not in ("", "tables", "published")
        assert Path(folder).name == folder
        assert not folder.startswith(".")
        assert len(folder) < 80


@given(st.lists(st.text(st.sampled_from("Qa-. (sample)/")), min_size=2, unique=True))
@example(["QKI (sample)", "QKI-sample", "QKI -sample"])
def test_two_names_never_share_a_folder(names):
    assert len({folder_name(name) for name in names}) == len(names)
