"""What makes reading thousands of records fast gives the same as what is slow."""

import gc
import json
from dataclasses import asdict, replace

import pytest
from made_records import PROBE, checkpoint, computed, failed, record
from test_damaged import full_record

from harness.evidence import render, schema
from harness.evidence.comparison import wide
from harness.evidence.identity import Arranged, column_of, grouped, identified, row_of
from harness.evidence.metrics import METRICS
from harness.evidence.records import RunRecord, read_all, write
from harness.evidence.summary import WHOLE, columns, long, summary


def many() -> list[RunRecord]:
    """Records that differ in whatever a column of the summary may lack or hold."""
    return [
        record(),
        record(seed=1, minute=1, accuracy=1),
        record(model="kmer", minute=2, timing={}),
        record(task="QKI (sample)", minute=3, checkpoint=checkpoint(), environment=computed()["environment"]),
        failed(seed=2, minute=4),
        full_record(minute=5),
        record(task="=1+1", model="-x", minute=6, events=["a\tb", "c\x1b[31m"], options={"k": 3}),
        record(task="PUM2", minute=7, recipe=PROBE, intervals={"accuracy": [0, 1]}),
        record(
            task="expression",
            kind="regression",
            classes=("level",),
            minute=8,
            metrics={"spearman": 0, "r2": None},
            main_metric="spearman",
        ),
    ]


def test_the_summary_as_csv_is_that_of_its_data_frame():
    records = many()
    assert render.columns_as_csv(columns(records), METRICS, WHOLE) == render.frame_as_csv(summary(records))
    assert render.columns_as_csv(columns(records[:1]), METRICS, WHOLE) == render.frame_as_csv(summary(records[:1]))


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "auroc"])
def test_a_table_as_csv_is_that_of_its_data_frame(metric):
    for shown in (wide(many()[:-1], metric), replace(wide(many()[:-1], metric), costs=True), wide([failed()], metric)):
        assert render.csv(shown) == render.frame_as_csv(shown.to_frame())


def test_records_are_arranged_once_for_all_tables():
    records = many()
    arranged = Arranged.of(records)
    assert Arranged.of(arranged) is arranged
    assert arranged.found == grouped(identified(records))
    assert list(arranged.by_kind()) == ["classification", "regression"]
    of_kind = arranged.by_kind()["classification"]
    assert str(wide(of_kind, "accuracy")) == str(wide(records[:-1], "accuracy"))
    assert long(arranged, "accuracy", ["model"]).equals(long(records, "accuracy", ["model"]))


def test_what_follows_from_a_record_is_not_carried_over_to_a_changed_one():
    one = record()
    assert (row_of(one).model, column_of(one).task) == ("msamamba", "QKI")
    other = replace(one, model=one.model | {"name": "cnn"}, task=one.task | {"name": "PUM2"})
    assert (row_of(other).model, column_of(other).task) == ("cnn", "PUM2")
    assert asdict(one) == asdict(record(created=one.created))
    assert one == record(created=one.created)


def test_json_makes_the_record_that_its_fields_make():
    for made in many():
        content = json.loads(json.dumps(asdict(made)))
        unknown = content.pop("unknown")
        assert RunRecord.from_json(content | {"gpu_hours": 3}) == replace(made, unknown=unknown | {"gpu_hours": 3})
        del content["history"], content["created"]
        assert RunRecord.from_json(content).history == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"seed": None}, "seed is None"),
        ({"status": "failed"}, "status 'failed', error None: expected finished, or failed with an error"),
        ({"metrics": {"accuracy": 1.5}}, r"metrics.accuracy is 1.5: expected a number from 0 to 1, or null"),
    ],
)
def test_json_is_refused_as_the_fields_are(fields, words):
    content = {name: value for name, value in asdict(record()).items() if name != "unknown"} | fields
    for make in (RunRecord.from_json, lambda it: RunRecord(**it)):
        with pytest.raises(ValueError, match=words):
            make(content)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("NaN", "it holds the number nan"),
        ("-Infinity", "it holds the number -inf"),
        ("1e999", "it holds the number inf"),
        ("[" * 40 + "-1e999" + "]" * 40, "it is nested deeper than 32"),
        ('{"a": [{"b": -1e999}]}', "it holds the number -inf"),
        (r'"\ud800"', "surrogates not allowed"),
        (r'{"\udfff": 1}', "surrogates not allowed"),
    ],
)
def test_values_that_no_record_holds(value, words):
    with pytest.raises(ValueError, match=words):
        schema.parse('{"schema": 3, "extra": ' + value + "}")
    assert schema.parse(r'{"schema": 3, "extra": "\ud83d\ude00 \u00e9"}')["extra"] == "😀 é"


def test_garbage_collection_is_as_it_was(tmp_path):
    write(record(), None, tmp_path)
    assert gc.isenabled()
    assert len(read_all(tmp_path)) == 1
    assert gc.isenabled()
    gc.disable()
    try:
        read_all(tmp_path)
        assert not gc.isenabled()
    finally:
        gc.enable()
