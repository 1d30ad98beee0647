"""Scores looked up by locus, and scores of an alignment column: against files written here, and as models in a run."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import harness
from harness import registry
from harness.check import clauses, contract
from harness.check.candidate import random_windows, with_rows
from harness.data import Locus, Window, reverse_complement
from harness.errors import BadData, DataMissing, UserError
from harness.files import sources
from harness.task import Reference
from harness.tasks.variants import from_variants

CHROMOSOME = "".join(np.random.default_rng(0).choice(list("ACGT"), 300))
RNG = np.random.default_rng(1)
OF_POSITIONS = RNG.normal(size=300).astype(np.float32)
OF_ALLELES = RNG.normal(size=(300, 4)).astype(np.float32)
HEADER = "chrom\tpos\tref\talt\tPhyloP\tRawScore\tPHRED\n"


def model(name: str, **options: str):
    return registry.adapter_class(name).from_checkpoint(None, **options).eval()


def embed(adapter, windows) -> list[list[float]]:
    with torch.inference_mode():
        return adapter(adapter.collate(windows)).tolist()


def window(position: int, strand: str = "+", length: int = 21, letter: str = "", chromosome: str = "chr7") -> Window:
    """The window with a 1-based position of the chromosome at its centre; ``letter`` on the plus strand is put there."""
    before = length // 2 if strand == "+" else length - 1 - length // 2
    start = position - 1 - before
    text = CHROMOSOME[start : position - 1] + (letter or CHROMOSOME[position - 1]) + CHROMOSOME[position : start + length]
    return Window(text if strand == "+" else reverse_complement(text), Locus(chromosome, start, start + length, strand))


@pytest.fixture
def table(tmp_path) -> Path:
    """All alleles of positions 1 to 300; position 50 has no score, and 200 stands in the table twice."""
    lines = [
        f"7\t{position}\t{ref}\t{alt}\t{'NA' if position == 50 else OF_POSITIONS[position - 1]}\t"
        f"{'' if position == 50 else OF_ALLELES[position - 1, 'ACGT'.index(alt)]}\t1.5\n"
        for position, ref in enumerate(CHROMOSOME, start=1)
        for alt in "ACGT"
        if alt != ref
    ]
    path = tmp_path / "scores.tsv"
    path.write_text(HEADER + "".join([*lines, lines[3 * 199], "7\t9\tAC\tA\t9\t9\t9\n"]))
    return path


@pytest.fixture
def big_wig(tmp_path) -> Path:
    package = pytest.importorskip("pyBigWig", reason="needs the extra `variants`")
    path = tmp_path / "scores.bw"
    file = package.open(str(path), "w")
    file.addHeader([("chr7", 400)])
    file.addEntries("chr7", 0, values=[float(value) for value in OF_POSITIONS], span=1, step=1)
    file.close()
    return path


# --- positions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["phylop", "phastcons"])
@pytest.mark.parametrize("kind", ["table", "big_wig"])
def test_score_of_the_position_at_the_centre(name, kind, request):
    options = {"column": "PhyloP"} if kind == "table" else {}
    adapter = model(name, scores=str(request.getfixturevalue(kind)), **options)
    windows = [
        window(position, strand, length, letter, chromosome)
        for position, strand, length, letter, chromosome in [
            (100, "+", 21, "", "chr7"),
            (100, "+", 20, "", "7"),
            (101, "-", 21, "", "chr7"),
            (102, "-", 20, "", "chr7"),
            (103, "+", 1, "", "chr7"),
            (103, "-", 1, "", "chr7"),
            (104, "+", 128, "A", "chr7"),
            (104, "+", 128, "C", "chr7"),
        ]
    ]
    expected = OF_POSITIONS[[99, 99, 100, 101, 102, 102, 103, 103]]
    np.testing.assert_array_equal(embed(adapter, windows), expected[:, None])


def test_places_without_a_score(table, big_wig):
    adapter = model("phylop", scores=str(table))
    with pytest.raises(
        BadData, match=r"scores\.tsv: 1 of 2 windows at hand have no score, the first 7:50 [ACGT]; --option missing=mean"
    ):
        adapter.collate([window(49), window(50)])
    filled = model("phylop", scores=str(table), missing="mean")
    values = embed(filled, [window(49), window(50), window(50)])
    rows = [value for position, value in enumerate(OF_POSITIONS, start=1) if position != 50 for _ in "123"]
    mean = np.mean([*rows, OF_POSITIONS[199]])
    np.testing.assert_allclose(values, [[OF_POSITIONS[48]], [mean], [mean]], rtol=1e-5)
    assert filled.unknown_tokens(filled.collate([window(49), window(50), window(50)])) == (2, 3)
    assert "gets the mean of the file" in filled.audit.warnings[0]
    beyond = Window("ACG", Locus("chr7", 349, 352))
    with pytest.raises(BadData, match=r"does not list 7:351 C; is it of another assembly\?"):
        filled.collate([beyond])
    with pytest.raises(BadData, match=r"scores\.bw: 1 of 1 windows at hand have no score"):
        model("phylop", scores=str(big_wig)).collate([beyond])
    for chromosome, start in (("chr7", 399), ("chr8", 10)):
        with pytest.raises(BadData, match=r"scores\.bw: holds no \d:\d+; is it of another assembly\?"):
            model("phylop", scores=str(big_wig), missing="mean").collate([Window("ACG", Locus(chromosome, start, start + 3))])


# --- alleles --------------------------------------------------------------------------------------------------------------


def test_score_of_the_alternate_and_0_for_the_reference(table):
    adapter = model("cadd", scores=str(table))
    assert adapter.audit.facts["column"] == "RawScore"
    for strand in "+-":
        windows = [window(120, strand, 16, letter) for letter in "ACGT"]
        expected = [0.0 if letter == CHROMOSOME[119] else OF_ALLELES[119, i] for i, letter in enumerate("ACGT")]
        np.testing.assert_array_equal(embed(adapter, windows), np.array(expected)[:, None])
    assert embed(model("cadd", scores=str(table), column="phred"), [window(107)]) == [[0.0]]
    with pytest.raises(BadData, match="does not list 7:120 N"):
        adapter.collate([window(120, letter="N")])


def test_a_reference_beside_an_alternate_without_a_score(table):
    """The mean goes to the alternate alone: filled into both, the difference would call the variant harmless."""
    adapter = model("cadd", scores=str(table), missing="mean")
    alternate = next(letter for letter in "ACGT" if letter != CHROMOSOME[49])
    reference, filled = embed(adapter, [window(50), window(50, letter=alternate)])
    assert reference == [0.0]
    assert filled == pytest.approx([adapter.audit.facts["mean"]], rel=1e-5)


def test_cadds_own_file_and_other_spellings(tmp_path):
    rows = "".join(f"7\t{i}\t{ref}\t{'ACGT'[('ACGT'.index(ref) + 1) % 4]}\t{i / 10}\t{i}\n" for i, ref in enumerate("ACGT", 1))
    text = "## CADD GRCh38-v1.7 (c) remark\n#Chrom\tPos\tRef\tAlt\tRawScore\tPHRED\n" + rows
    windows = [Window("C", Locus("7", 0, 1)), Window("A", Locus("chr7", 3, 4)), Window("G", Locus("7", 2, 3))]
    expected = [[pytest.approx(0.1)], [pytest.approx(0.4)], [0.0]]
    (tmp_path / "cadd.tsv.gz").write_bytes(gzip.compress(text.encode()))
    assert embed(model("cadd", scores=str(tmp_path / "cadd.tsv.gz")), windows) == expected
    lines = text.splitlines()[1:]
    (tmp_path / "c.csv").write_text("\r\n".join('"' + line.replace("\t", '","') + '"' for line in lines))
    assert embed(model("cadd", scores=str(tmp_path / "c.csv")), windows) == expected
    pytest.importorskip("pyarrow", reason="needs the extra `variants`")
    import pandas as pd

    pd.read_csv(tmp_path / "c.csv").to_parquet(tmp_path / "c.parquet")
    assert embed(model("cadd", scores=str(tmp_path / "c.parquet")), windows) == expected


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chrom\tpos\tref\tPhyloP\n", r"no column named alt or alternate; found chrom, pos, ref, PhyloP$"),
        ("chrom\tpos\tref\talt\tGERP\n", r"no column named phylop or .*; found .*GERP; --option column=NAME says which"),
        (HEADER + "7\t1\tA\tC\thigh\t\t\n", r"line 2: PhyloP 'high' is no finite number; leave it empty"),
        (HEADER + "7\t1\tA\tC\tinf\t\t\n", r"line 2: PhyloP 'inf' is no finite number"),
        (HEADER + "7\t0\tA\tC\t1\t\t\n", r"line 2: position '0'; expected a whole number, 1-based"),
        (HEADER + "7\t1\tA\n", r"line 2: 3 fields, fewer than the header names"),
        (HEADER + "7\t1\tA\tC\t1\t\t\n7\t1\tA\tG\t2\t\t\n", r"line 3: PhyloP of 7:1 is 2, and was 1 above; expected one score"),
        (HEADER + "7\t1\tA\tC\t\t\t\n", r"column PhyloP has no score of a single-nucleotide variant"),
        ("", r"the file is empty; expected scores: a bigWig, or a CSV"),
    ],
)
def test_tables_that_cannot_be_used(text, message, tmp_path):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(BadData, match=rf"t\.tsv.*{message}"):
        model("phylop", scores=str(tmp_path / "t.tsv"))


def test_options_and_windows_that_are_refused(table, big_wig, tmp_path):
    with pytest.raises(UserError, match=r"missing='zero': expected refuse or mean"):
        model("phylop", scores=str(table), missing="zero")
    with pytest.raises(UserError, match=r"checkpoint 'w\.pt': phylop has no weights; give its scores with --option scores"):
        registry.adapter_class("phylop").from_checkpoint(Path("w.pt"))
    with pytest.raises(UserError, match=r"column='x': .*scores\.bw is a bigWig, which has no columns"):
        model("phylop", scores=str(big_wig), column="x")
    with pytest.raises(UserError, match=r"scores\.bw: a bigWig has one score a position; cadd needs a table"):
        model("cadd", scores=str(big_wig))
    with pytest.raises(BadData, match=r"none\.bw: cannot be read \(No such file or directory\)"):
        model("phylop", scores=str(tmp_path / "none.bw"))
    (tmp_path / "cut.bw").write_bytes(big_wig.read_bytes()[:100])
    with pytest.raises(BadData, match=r"cut\.bw: the bigWig file is cut or damaged"):
        model("phylop", scores=str(tmp_path / "cut.bw"))
    with pytest.raises(UserError, match=r"phylop: scores are looked up by locus, and 1 of 1 windows at hand have none"):
        model("phylop", scores=str(table)).collate(random_windows([20]))
    with pytest.raises(DataMissing, match=r"hg38\.phyloP100way\.bw is missing; `harness data get phylop` downloads it, or give"):
        model("phylop").collate([window(100)])
    with pytest.raises(UserError, match=r"cadd: no scores; give a table of them with --option scores=FILE"):
        model("cadd").collate([window(100)])
    with pytest.raises(UserError, match=r"column_conservation: a window without an alignment of two rows or more; .*--msa"):
        model("column_conservation").collate(random_windows([20]))


def test_the_published_file_is_the_default(big_wig):
    path = sources.locate(sources.REFERENCES["phylop"])
    path.parent.mkdir(parents=True)
    path.write_bytes(big_wig.read_bytes())
    assert embed(model("phylop"), [window(100)]) == [[OF_POSITIONS[99]]]


def test_the_fingerprint_is_of_the_content(table, big_wig, tmp_path):
    for path in (table, big_wig):
        same, other = tmp_path / f"same{path.suffix}", tmp_path / f"other{path.suffix}"
        content = path.read_bytes()
        same.write_bytes(content)
        other.write_bytes(content.replace(b"1.5", b"2.5") if path is table else content[:-4] + b"\0" + content[-4:])
        first, second, third = (model("phylop", scores=str(file)).audit.sha256 for file in (path, same, other))
        assert first == second != third
    assert model("phylop", scores=str(table)).audit.facts["sha256_of"] == "the file"
    assert model("phylop", scores=str(big_wig)).audit.facts["sha256_of"] == "its size and first MiB"


# --- a column -------------------------------------------------------------------------------------------------------------


def column(*letters: str) -> list[float]:
    """The embedding of windows whose centre column, own letter first, holds these letters."""
    rows = np.full((len(letters), 5), ord("A"), np.uint8)
    rows[:, 2] = [ord(letter) for letter in letters]
    return embed(model("column_conservation"), [Window(rows[0].tobytes().decode(), alignment=rows)])[0]


def test_column_by_hand():
    sure = (np.log2(1 / 0.625) + 0.25 * np.log2(0.25 / 0.625) + 0.75 * np.log2(0.25 / 0.125)) / 2  # one letter in all rows
    assert column("A", *"AAAA") == pytest.approx([sure, np.log(4.25 / 5), 1.0])
    assert column("C", *"AAAA") == pytest.approx([sure, np.log(0.25 / 5), 1.0])
    assert column("N", *"AAAA") == pytest.approx([sure, np.log(0.25), 1.0])
    assert column("A", *"AA--") == pytest.approx([sure / 2, np.log(2.25 / 3), 0.5])
    assert column("A", *"AANN") == column("A", *"AA--")
    assert column("A", *"ACGT") == pytest.approx([0.0, np.log(0.25), 1.0], abs=1e-6)
    assert column("A", *"----") == pytest.approx([0.0, np.log(0.25), 0.0])


def test_divergence_against_its_definition():
    from scipy.spatial.distance import jensenshannon

    counts = np.random.default_rng(0).integers(0, 9, (50, 4)) + np.eye(4, dtype=int)[0]
    for row in counts:
        letters = [letter for letter, count in zip("ACGT", row, strict=True) for _ in range(count)]
        expected = jensenshannon(row / row.sum(), np.full(4, 0.25), base=2) ** 2
        assert column("A", *letters)[0] == pytest.approx(expected, rel=1e-5, abs=1e-7)


# --- as models ------------------------------------------------------------------------------------------------------------


class Asked(contract.Candidate):
    """A candidate with windows that have what its scores need."""

    def _skip_scores(self) -> None:
        pass

    def windows(self, *lengths: int) -> list[Window]:
        if self.adapter.name == "column_conservation":
            return [with_rows(item, 9, seed) for seed, item in enumerate(random_windows(lengths))]
        return [window(70 + 7 * number, "+-"[number % 2], length) for number, length in enumerate(lengths)]


@pytest.mark.parametrize("name", ["phylop", "cadd", "column_conservation"])
def test_contract(name, table):
    """The clauses that check-adapter skips because it has no file of scores."""
    adapter = model(name) if name == "column_conservation" else model(name, scores=str(table))
    for clause in (
        clauses.shapes,
        clauses.batches,
        clauses.no_trace,
        clauses.padding,
        clauses.order,
        clauses.determinism,
    ):
        verdict = contract.judge(clause, Asked(adapter))
        assert verdict.state == "ok", f"{verdict.statement}: {verdict.detail}"


def test_scores_survive_pickling(table, big_wig):
    for path in (table, big_wig):
        adapter = model("phylop", scores=str(path))
        assert embed(pickle.loads(pickle.dumps(adapter)), [window(100)]) == embed(adapter, [window(100)])


def test_check_adapter_says_what_it_cannot_ask():
    verdicts = {verdict.clause: verdict for verdict in contract.check("phylop")}
    assert verdicts["facts"].state == "ok"
    assert verdicts["whole_window"].state == "skipped"
    assert "random windows have none" in verdicts["whole_window"].detail


def test_scores_run_beside_models(tmp_path):
    """A score that separates the classes does so in a record, whose id depends on the file's content, not on its name."""
    rng = np.random.default_rng(0)
    genome = {str(number): "".join(rng.choice(list("ACGT"), 2000)) for number in range(1, 8)}
    (tmp_path / "genome.fa").write_text("".join(f">chr{name}\n{letters}\n" for name, letters in genome.items()))
    lines = ["#CHROM,POS,REF,ALT,Label,PhyloP,Mine\n"]
    for name, letters in genome.items():
        for position in range(100, 1900, 100):
            label, ref = int(rng.integers(2)), letters[position - 1]
            alt = "CGTA"["ACGT".index(ref)]
            lines.append(f"{name},{position},{ref},{alt},{label},{label + rng.normal() / 9},{-label}\n")
    (tmp_path / "v.csv").write_text("".join(lines))
    (tmp_path / "other.csv").write_text("".join([*lines, "1,1999,A,C,0,3,3\n"]))

    def run(model: str, file: str, **options: str):
        return harness.run(
            model,
            f"variants:{tmp_path / 'v.csv'}",
            genome=tmp_path / "genome.fa",
            context=16,
            option={"scores": str(tmp_path / file), **options},
            results=tmp_path / "results",
            device="cpu",
            quiet=True,
        )

    first = run("phylop", "v.csv")
    assert first.finished
    assert first.metrics["auroc"] > 0.98
    assert first.model["checkpoint"]["name"] == "v.csv"
    assert first.model["checkpoint"]["sha256"] == sources.sha256(tmp_path / "v.csv")
    assert run("phylop", "other.csv").run_id != first.run_id
    assert run("cadd", "v.csv", column="mine").metrics["auroc"] == 1.0  # whatever its sign
    splits = from_variants(tmp_path / "v.csv").bind(Reference(tmp_path / "genome.fa")).load("chromosome")
    reference, alternate = splits.test[0].windows
    assert (
        embed(model("phylop", scores=str(tmp_path / "v.csv")), [reference, alternate])[0]
        == embed(model("phylop", scores=str(tmp_path / "v.csv")), [alternate])[0]
    )
