"""Files of scores in the layouts of their publishers: bedGraph, and tables with lists, one score a transcript."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from harness.adapters.phylop import PhyloP
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


@pytest.mark.parametrize("kind", ["bed graph", "table"])
def test_the_scores_of_a_stretch_are_those_of_its_positions(kind, tmp_path):
    if kind == "bed graph":
        (tmp_path / "x").write_text(BED_GRAPH)
        scores = PhyloP.open_scores(tmp_path / "x")
    else:
        rows = [
            f"{name}\t{place}\tA\tC\t{score}\n" for name, place, score in (("chr7", 9, 2), ("X", 2, 1), ("7", 6, 4), ("7", 7, ""))
        ]
        (tmp_path / "x.tsv").write_text("chrom\tpos\tref\talt\tphyloP\n" + "".join(rows))
        scores = PhyloP.open_scores(tmp_path / "x.tsv")
    assert set(scores.chromosomes) == {"7", "X"}
    for start, end in ((0, 20), (6, 12), (7, 8), (10, 30)):
        found = scores.values("7", start, end)
        known = {place: scores.score("7", place + 1, "A") for place in range(start, end) if not np.isnan(found[place - start])}
        assert found.dtype == np.float64
        assert known == {place: found[place - start] for place in known}
    assert np.isnan(scores.values("7", 0, 20)).sum() == (13 if kind == "bed graph" else 18)


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


# --- tables as dbNSFP and AlphaMissense publish them -----------------------------------------------------------------------


DBNSFP = "#chr\tpos(1-based)\tref\talt\taaref\tgenename\tREVEL_score\n"


def test_dbnsfp_has_its_own_name_for_positions(tmp_path):
    (tmp_path / "dbNSFP4.tsv").write_text(DBNSFP + "7\t10\tG\tA\tR\tX\t0.4;.;0.4\n7\t11\tG\tA\tR\tX\t.\n")
    adapter = model("cadd", tmp_path / "dbNSFP4.tsv", column="REVEL_score", missing="mean")
    assert score(adapter, "7", 10) == pytest.approx(0.4)


def test_alphamissense_is_read_as_published(tmp_path):
    text = "# Copyright 2023 DeepMind Technologies Limited\n#\n# Licensed under CC BY-NC-SA 4.0 license\n"
    text += "#CHROM\tPOS\tREF\tALT\tgenome\tuniprot_id\ttranscript_id\tprotein_variant\tam_pathogenicity\tam_class\n"
    text += "chr7\t10\tG\tA\thg38\tQ8NH21\tENST00000335137.4\tV2L\t0.2937\tlikely_benign\n"
    (tmp_path / "AlphaMissense_hg38.tsv.gz").write_bytes(gzip.compress(text.encode()))
    adapter = model("cadd", tmp_path / "AlphaMissense_hg38.tsv.gz")
    assert adapter.audit.facts["column"] == "am_pathogenicity"
    assert score(adapter, "7", 10) == pytest.approx(0.2937)


def test_rows_that_are_no_snv_are_counted(tmp_path):
    odd = ["7\t12\tGA\tG\tR\tX\t1", "7\t13\t-\tA\tR\tX\t1", "7\t14\tA\t-\tR\tX\tx", "7\t15\tA\t<DEL>\tR\tX\t1"]
    (tmp_path / "d.tsv").write_text(DBNSFP + "\n".join(["7\t10\tG\tA\tR\tX\t0.4", *odd]) + "\n")
    adapter = model("cadd", tmp_path / "d.tsv", column="revel_score")
    assert score(adapter, "7", 10) == pytest.approx(0.4)
    assert adapter.audit.warnings == ("4 rows of scores are skipped: they are no single-nucleotide variants",)
    (tmp_path / "e.tsv").write_text(DBNSFP + "7\t10\tG\tA\tR\tX\t0.4\n")
    assert model("cadd", tmp_path / "e.tsv", column="revel_score").audit.warnings == ()


@pytest.mark.parametrize(("several", "expected"), [("max", 0.9), ("min", 0.1)])
def test_one_of_several_scores_can_be_chosen(several, expected, tmp_path):
    """In a field, one a transcript, and in rows of their own."""
    rows = {10: ["0.1;.;0.9"], 11: ["0.1", "0.9"], 12: ["0.9;0.5", "0.1;0.5"]}
    lines = [f"7\t{position}\tG\tA\tR\tX\t{text}\n" for position, texts in rows.items() for text in texts]
    (tmp_path / "d.tsv").write_text(DBNSFP + "".join(lines))
    adapter = model("cadd", tmp_path / "d.tsv", column="REVEL_score", several=several)
    assert [score(adapter, "7", position) for position in rows] == pytest.approx([expected] * 3)
    for several_scores in (lines[:1], lines[1:3]):
        (tmp_path / "one.tsv").write_text(DBNSFP + "".join(several_scores))
        with pytest.raises(BadData, match=r"one\.tsv, line \d: REVEL_score .*--option several=max"):
            model("cadd", tmp_path / "one.tsv", column="REVEL_score")


def test_a_choice_among_scores_that_is_none_is_refused(tmp_path):
    (tmp_path / "d.tsv").write_text(DBNSFP + "7\t10\tG\tA\tR\tX\t0.4\n")
    with pytest.raises(UserError, match="option several='mean': expected refuse, max, min"):
        model("cadd", tmp_path / "d.tsv", column="REVEL_score", several="mean")
    (tmp_path / "x.bg").write_text(BED_GRAPH)
    with pytest.raises(UserError, match=r"several='max': .*x\.bg is a bedGraph, which has one score a position; leave it out"):
        model("phylop", tmp_path / "x.bg", several="max")
