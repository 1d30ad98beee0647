"""JSON as a table: its shapes read the same, and what is none of them is one clear line."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from harness.errors import BadData
from harness.files import readers
from harness.files.table import Table

RECORDS = [{"sequence": "ACGT", "label": 1, "note": None}, {"sequence": "GGTT", "label": 0, "note": {"deep": [1]}}]
COLUMNS = {name: [record[name] for record in RECORDS] for name in RECORDS[0]}
ROWS = [("1", "ACGT", "1"), ("2", "GGTT", "0")]


def read(path: Path, content: str) -> list[tuple]:
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return [(record.id, record.window.sequence, record.label) for record in readers.read(path, Counter())]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.json", json.dumps(RECORDS)),
        ("t.json", json.dumps(RECORDS, indent=2)),
        ("t.json", "\ufeff\n" + json.dumps({"version": 1, "data": RECORDS})),
        ("t.json", json.dumps(COLUMNS)),
        ("t.json", json.dumps({name: dict(zip("01", values, strict=True)) for name, values in COLUMNS.items()})),
        (
            "t.json",
            json.dumps({"columns": list(COLUMNS), "index": [0, 1], "data": [list(record.values()) for record in RECORDS]}),
        ),
        ("t.json", "".join(json.dumps(record) + "\r\n" for record in RECORDS)),
        ("t.jsonl", "".join(json.dumps(record) + "\n\n" for record in RECORDS)),
        ("t.ndjson", '{"sequence": "ACGT", "label": 1}\n{"label": 0.0, "sequence": "GGTT", "more": "x"}'),
        ("t.csv", json.dumps(RECORDS)),
    ],
    ids=["records", "indented", "one list", "columns", "pandas columns", "pandas split", "lines", "jsonl", "fields", "in a .csv"],
)
def test_every_shape_reads_the_same(name: str, content: str, tmp_path: Path) -> None:
    assert read(tmp_path / name, content) == ROWS
    assert read(tmp_path / f"{name}.gz", content) == ROWS


def test_records_by_name_and_by_part(tmp_path: Path) -> None:
    by_name = json.dumps({"w7": {"sequence": "ACGT", "label": 1}, "w8": {"sequence": "GGTT", "label": 0}})
    assert read(tmp_path / "t.json", by_name) == [("w7", "ACGT", "1"), ("w8", "GGTT", "0")]
    read(tmp_path / "t.json", json.dumps({"train": RECORDS[:1], "test": RECORDS[1:]}))
    assert [record.part for record in readers.read(tmp_path / "t.json", Counter())] == ["train", "test"]


def test_fields_are_text_and_places_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": true, "b": [0, 1]}\n\n{"a": "é", "b": ["x"], "c": 1.5}\n')
    table = Table(path, "a table")
    assert table.header == ["a", "b", "c"]
    assert list(table.rows([0, 1, 2])) == [
        (f"{path}, line 1", ["True", "[0, 1]", ""]),
        (f"{path}, line 3", ["é", '["x"]', "1.5"]),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", '[{"sequence": "ACGT", "label": null}]', r"t\.json, record 1: no label \(''\)"),
        ("t.json", '[{"sequence": "ACGT", "label": NaN}]', r"t\.json, record 1: no label \('nan'\)"),
        ("t.json", '[{"sequence": "ACGT"}, {"sequence": "AC", "label": 1}]', "record 1: no label"),
        ("t.jsonl", '{"sequence": "ACGT", "label": 1}\n{"sequence": "AC", "label": }', r"t\.jsonl, line 2: not JSON"),
        ("t.json", '[{"sequence": "ACGT", "label": 1},\n{"sequence": ]', r"t\.json, line 2: not JSON"),
        ("t.json", '[{"sequence": "ACGT", "label": 1, "label": 0}]', "a record has 'label' twice; keep one"),
        ("t.json", '["ACGT", "GGTT"]', "record 1: not an object with named fields"),
        ("t.json", "[]", "no records; expected a list of records"),
        ("t.json", '{"sequence": ["ACGT"], "label": [1, 0]}', r"columns of different lengths \(sequence 1, label 2\)"),
        ("t.json", '{"meta": {"x": 1}, "n": 2}', "an object of meta, n; expected a list of records"),
        ("t.json", '[{"features": {"sequence": "ACGT"}, "label": 1}]', "no column named sequence or seq; found features, label"),
        ("t.json", '[{"sequence": {"a": "ACGT"}, "label": 1}]', "record 1: (letters|blanks within)"),
        ("t.json", "[" * 100_000, "JSON"),
        ("t.json", '[{"sequence": "ACGT", "label": ' + "9" * 5000 + "}]", "not JSON"),
    ],
)
def test_what_is_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=message) as caught:
        read(tmp_path / name, content)
    assert "\n" not in str(caught.value)
