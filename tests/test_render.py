"""Tables as Markdown, CSV and HTML, on a terminal and in a notebook."""

import io
import math

import pandas as pd
import pytest
from made_records import failed, published, record
from rich.console import Console

from harness.evidence.cells import BELOW, COLLAPSED, FAILED, Cell, Column, CrossTable, Listing, Row
from harness.evidence.render import csv, html, markdown, plain_text, show
from harness.evidence.tables import long, wide


def test_csv_and_markdown():
    rows, column = {Row("a", weights="f1"): "a|b", Row("c"): "c,d"}, Column("QKI", None, False, "published", "d1")
    found = {(Row("a", weights="f1"), column): Cell(0.5, 0.25, 3, (0.125, 0.75), (COLLAPSED, BELOW), ("one", "two"))}
    table = CrossTable("accuracy", rows, {column: "QKI [published]"}, found, ("↓ worse",))
    assert csv(table) == (
        "model,fingerprint,source,task,split,simulated,data,metric,mean,sd,n,low,high,marks,notes,adapter,kind,subset\n"
        "a|b,f1,,QKI,published,False,d1,accuracy,0.5,0.25,3,0.125,0.75,collapsed; below floor,one; two,a,classification,all\n"
    )
    assert markdown(table).splitlines() == [
        "| model | QKI [published] |",
        "| --- | --- |",
        "| a\\|b | 0.5000 ± 0.2500 (n=3) [0.125, 0.750] ! [1] [2] ↓ |",
        "| c,d |  |",
        "",
        "↓ worse",
        "",
        "[1] a|b, QKI [published]: one",
        "",
        "[2] a|b, QKI [published]: two",
    ]


def test_tidy_frames_have_numbers_for_numbers():
    records = [record(accuracy=0.8, intervals={"accuracy": (0.75, 0.85)}), failed(model="mine"), record(task="QKI (sample)")]
    table = wide(records, "accuracy", [published(value="0.80", n="3")])
    frame = table.to_frame()
    assert frame.dtypes[["mean", "sd", "n", "low", "high"]].astype(str).tolist() == [
        "float64",
        "float64",
        "Int64",
        "float64",
        "float64",
    ]
    lines = frame.set_index(["model", "task"])
    first, broken = lines.loc["msamamba (from scratch)", "QKI"], lines.loc["mine", "QKI"]
    assert (first["mean"], first.n, first.low, first.high, first.marks) == (0.8, 1, 0.75, 0.85, "")
    assert (broken.n, broken.marks, broken.notes) == (0, FAILED, "seed 0 failed: RunFailed: loss is nan")
    assert math.isnan(broken["mean"])
    assert lines.loc["BERT (published: Doe 2020)", "QKI"].source == "Doe 2020"
    assert pd.isna(lines.loc["best possible", "QKI (sample)"].n)
    read = pd.read_csv(io.StringIO(csv(table)), keep_default_na=False, na_values={"mean": "", "sd": "", "low": "", "high": ""})
    assert read["mean"].tolist() == pytest.approx(frame["mean"].tolist(), nan_ok=True)


def test_tables_show_themselves_in_notebooks():
    records = [record(), record(seed=1, accuracy=0.8), record(model="kmer")]
    table = wide(records, "accuracy")
    assert str(table) == plain_text(table)
    assert str(table).splitlines()[0] == "accuracy"
    assert "0.8500 ± 0.0707 (n=2) ↓" in str(table)
    assert "<td>0.8500 ± 0.0707 (n=2) ↓</td>" in table._repr_html_()
    assert "<p><small>↓ worse than kmer (floor)</small></p>" in table._repr_html_()
    assert "<th>a&lt;b</th>" in html(wide([record(task="a<b")], "accuracy"))
    listed = Listing("accuracy", long(records, "accuracy", ["seed"]))
    assert listed.to_frame().runs.tolist() == [1, 1, 1]
    assert "<th>seeds</th>" in listed._repr_html_()


def test_terminal_keeps_brackets():
    console = Console(file=io.StringIO(), width=80)
    show(wide([record(split="published", collapsed=True)], "accuracy"), console)
    printed = console.file.getvalue()
    assert "QKI [published]" in printed
    assert "[1]" in printed
