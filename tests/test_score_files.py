"""Files of scores in the layouts of their publishers: bedGraph, and tables with lists, one score a transcript."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest

from harness.data import Locus, Window
from harness.errors import BadData, UserError
from harness.registry import adapter_class

BED_GRAPH = """browser position chr7
track type=bedGraph name=x
# a remark
chr7\t10\t13\t0.5
chr7\t13\t14\t-2
chr7\t5\t8\t4
chrX 0 2 1
"""


def model(name: str, path: Path, **options: str):
    return adapter_class(name).from_checkpoint(None, scores=str(path), **options).eval()


def score(adapter, chromosome: str, position: int) -> float:
    return float(adapter.collate([Window("A", Locus(chromosome, position - 1, position))])["scores"])


@pytest.mark.parametrize("suffix", [".bedGraph", ".bedGraph.gz", ".tsv", ""])
def test_a_bed_graph_is_read_whatever_its_name(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(BED_GRAPH.encode()) if suffix.endswith("gz") else BED_GRAPH.encode())
    adapter = model("phylop", path)
    places = {6: 4.0, 8: 4.0, 11: 0.5, 13: 0.5, 14: -2.0}
    assert {place: score(adapter, "7", place) for place in places} == places
    assert score(adapter, "X", 2) == 1.0
    for place in (5, 9, 10, 15, 10**9):
        with pytest.raises(BadData, match=rf"1 of 1 windows at hand have no score, the first 7:{place} A; --option missing=mean"):
            score(adapter, "chr7", place)
    filled = model("phylop", path, missing="mean")
    assert score(filled, "7", 9) == pytest.approx((3 * 0.5 - 2 + 3 * 4 + 2 * 1) / 9)
    with pytest.raises(BadData, match=r"holds no 8:3; is it of another assembly\?"):
        score(filled, "8", 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr7 10 11 7", r"two lines hold 7:11; leave one of them out"),
        ("chr7 20 20 7", r"line 8: 'chr7 20 20 7' is not 'chromosome start end score' with start below end"),
        ("chr7 20 21", r"line 8: 'chr7 20 21' is not"),
        ("chr7 20 21 high", r"line 8: the score 'high' is no finite number"),
        ("chr7 20 21 inf", r"line 8: the score 'inf' is no finite number"),
        ("7 30 31 1", r"chromosome '7' may be '7' or 'chr7'"),
        ("chr7 " + "9" * 5000 + " 1 1", r"line 8: 'chr7 9+' is not"),
    ],
)
def test_a_bed_graph_that_cannot_be_used(line, message, tmp_path):
    (tmp_path / "x.bg").write_text(BED_GRAPH + line + "\n")
    with pytest.raises(BadData, match=rf"x\.bg.*{message}"):
        model("phylop", tmp_path / "x.bg")


def test_a_bed_graph_has_no_columns_and_no_alleles(tmp_path):
    (tmp_path / "x.bg").write_text(BED_GRAPH)
    with pytest.raises(UserError, match=r"x\.bg: a bedGraph has one score a position; cadd needs a table"):
        model("cadd", tmp_path / "x.bg")
    with pytest.raises(UserError, match=r"column='c': .*x\.bg is a bedGraph, which has no columns"):
        model("phylop", tmp_path / "x.bg", column="c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.05;.;0.05", 0.05), ("0.05;0.050", 0.05), (".;.;NA;0.7", 0.7), ("0.7", 0.7), (".;.", math.nan), ("", math.nan)],
)
def test_a_list_of_one_score_is_that_score(text, expected, tmp_path):
    path = tmp_path / "d.tsv"
    path.write_text(f"#chrom\tpos\tref\talt\tREVEL_score\n1\t4\tA\tC\t{text}\n1\t9\tA\tC\t1\n")
    adapter = model("cadd", path, column="revel_score")
    assert adapter.lookup is not None
    found = adapter.lookup.score("1", 4, "C")
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.05;.;0.2", r"REVEL_score '0\.05;\.;0\.2' lists several scores; write one, such as the highest, into a column"),
        ("0.05;x", r"REVEL_score '0\.05;x' is no finite number"),
        ("1_000", r"REVEL_score '1_000' is no finite number"),
        ("-nan", r"REVEL_score '-nan' is no finite number"),
        ("9" * 5000, r"REVEL_score '9+' is no finite number"),
    ],
)
def test_lists_and_numbers_that_are_refused(text, message, tmp_path):
    path = tmp_path / "d.tsv"
    path.write_text(f"#chrom\tpos\tref\talt\tREVEL_score\n1\t4\tA\tC\t{text}\n")
    with pytest.raises(BadData, match=rf"d\.tsv, line 2: {message}"):
        model("cadd", path, column="REVEL_score")


def test_a_position_of_thousands_of_digits_is_one_line(tmp_path):
    path = tmp_path / "d.tsv"
    path.write_text(f"chrom\tpos\tref\talt\tcadd\n1\t{'9' * 5000}\tA\tC\t1\n")
    with pytest.raises(BadData, match=r"d\.tsv, line 2: position '9{40}'; expected a whole number, 1-based") as caught:
        model("cadd", path)
    assert len(str(caught.value)) < 300
