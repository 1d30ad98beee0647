"""One way to read a table, whether it holds windows, variants or scores: the same dialects, the same refusals."""

from __future__ import annotations

import gzip
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.adapters import _scores
from harness.errors import BadData, UserError
from harness.files import readers
from harness.files.table import Table, is_table, whole
from harness.tasks import _variant_files

HEADER = ["sequence", "label", "chrom", "pos", "ref", "alt", "phylop", "note"]
ROWS = [
    ["ACGT", "1", "7", "10", "A", "C", "0.5", "x"],
    ["GGTT", "0", "7", "11", "G", "T", "-2.25", ""],
]


def windows(path: Path) -> list:
    return [(record.id, record.window.sequence, record.label) for record in readers.read(path, Counter())]


def variants(path: Path) -> list:
    return list(_variant_files.read(path, Counter()))


def scores(path: Path) -> dict:
    table = _scores.ScoreTable(path, "", ("phylop",), of_alleles=False)
    return {position: table.score("7", position, "A") for position in (10, 11)} | {"mean": table.mean}


EXPECTED = {
    windows: [("1", "ACGT", "1"), ("2", "GGTT", "0")],
    variants: [_variant_files.Variant("7", 10, "A", "C", 1), _variant_files.Variant("7", 11, "G", "T", 0)],
    scores: {10: 0.5, 11: -2.25, "mean": -0.875},
}
every_user = pytest.mark.parametrize("user", [windows, variants, scores], ids=lambda user: user.__name__)


def text(separator: str = ",", end: str = "\n", rows: list[list[str]] = ROWS) -> str:
    return "".join(separator.join(row) + end for row in [HEADER, *rows])


def bgzip(content: bytes, path: Path) -> None:
    from Bio import bgzf

    with bgzf.open(str(path), "wb") as file:
        file.write(content)


# --- dialects -----------------------------------------------------------------------------------------------------------


@every_user
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", text()),
        ("t.tsv", text("\t")),
        ("t.txt", text("\t", "\r\n")),
        ("t.tab", text("\t").rstrip("\n")),
        ("t.csv", "\ufeff" + text()),
        ("t.csv", "\n  \n" + text(end="\n\n") + ",,,,,,,\n"),
        ("t.csv", "## a remark\n##another\n" + text()),
        ("t.csv", text().replace(",", '","').replace("\n", '"\n"').join('""')[:-2]),
        ("t.csv", text().replace("sequence,label,chrom", ' Sequence ,"LABEL",#Chrom')),
        ("t.csv", text().replace(",10,", ", 10.0 ,").replace("ACGT,1,", "ACGT ,1.00,").replace(",0,", ",0.0,")),
        ("t.csv", text().replace(",x\n", ',"a ""quoted"", field\nof two lines"\n')),
    ],
    ids=[
        "csv",
        "tsv",
        "CRLF",
        "no last line end",
        "byte order mark",
        "blank lines",
        "remarks",
        "quotes",
        "names",
        "1.0",
        "two lines",
    ],
)
def test_every_dialect_reads_the_same(user: Callable, name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert user(tmp_path / name) == EXPECTED[user]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    assert user(tmp_path / f"{name}.gz") == EXPECTED[user]
    bgzip(content.encode(), tmp_path / f"{name}.bgz")
    assert user(tmp_path / f"{name}.bgz") == EXPECTED[user]


@every_user
def test_parquet_reads_the_same(user: Callable, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `variants`")
    import pandas as pd

    table = pd.DataFrame(ROWS, columns=HEADER).astype({"pos": int, "label": float, "phylop": "float32"})
    table.to_parquet(tmp_path / "t.parquet")
    assert user(tmp_path / "t.parquet") == EXPECTED[user]
    table.astype({"label": "Int64"}).set_index("note").to_parquet(tmp_path / "t.PQ")
    assert user(tmp_path / "t.PQ") == EXPECTED[user]


def test_missing_values_of_parquet_are_empty(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `variants`")
    import pandas as pd

    pd.DataFrame({"a": [1, None, 3], "b": ["x", None, "z"], "c": [True, False, None]}).to_parquet(tmp_path / "t.parquet")
    rows = list(Table(tmp_path / "t.parquet", "a table").rows([0, 1, 2]))
    assert rows == [
        (f"{tmp_path / 't.parquet'}, row 1", ["1.0", "x", "True"]),
        (f"{tmp_path / 't.parquet'}, row 2", ["", "", "False"]),
        (f"{tmp_path / 't.parquet'}, row 3", ["3.0", "z", ""]),
    ]


def test_columns_are_found_by_priority_and_rows_told_by_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n## remark\nSeq,y,Class\n\nA,1,2\n\n\nC,3,4\n")
    table = Table(path, "a table")
    assert table.header == ["Seq", "y", "Class"]
    assert [table.column(names) for names in (("sequence", "seq"), ("label", "class", "y"))] == [0, 2]
    assert list(table.rows([2, 0])) == [(f"{path}, line 5", ["2", "A"]), (f"{path}, line 8", ["4", "C"])]


def test_names_of_tables() -> None:
    for name in ("a.csv", "a.TSV.gz", "a.txt", "a.tab.bgz", "a.parquet", "a.pq"):
        assert is_table(Path(name)), name
    for name in ("csv", "a.fa", "a.csv.zip", "a.parquet.gz", "a.vcf"):
        assert not is_table(Path(name)), name


def test_whole_numbers() -> None:
    assert [whole(word) for word in ("1.0", "-3.00", "10", "0.5", "1.", "1.0x", "")] == ["1", "-3", "10", "0.5", "1.", "1.0x", ""]


# --- what is refused ----------------------------------------------------------------------------------------------------

SHORT, LONG = [["ACGT", "1", "7"]], [[*ROWS[0], "y"]]


BAD = {
    "short": (text(rows=[*ROWS, *SHORT]), r"t\.csv, line 4: 3 fields, fewer than the header names; complete or delete the line"),
    "one short": (text(rows=[ROWS[0], ROWS[0][:-1]]), r"t\.csv, line 3: 7 fields, fewer than the header names"),
    "long": (
        text("\t", rows=[*ROWS, *LONG]),
        r"not a table \(line 4 has 9 fields, the header 8\); quote fields that hold a '\\t'",
    ),
    "all long": (text(rows=[*LONG, *LONG]), r"not a table \(line 2 has 9 fields, the header 8\); quote fields that hold a ','"),
    "quote": (
        text().replace(",x\n", ',"x\n'),
        r"not a table \(a quote in line 2 is never closed\); quote fields that hold a ','",
    ),
    "header's quote": (text().replace("sequence,", '"sequence,'), r"not a table \(a quote in line 1 is never closed\)"),
    "names": (
        text().replace("sequence", "s").replace("ref", "r"),
        r"t\.csv: no column named (sequence or seq|ref or reference|ref or reference or referenceallelevcf); found s",
    ),
    "empty": ("", r"t\.csv: the file is empty; expected "),
    "blank": ("\n \n\n", r"t\.csv: the file is empty; expected "),
    "remark": ("## only a remark\n", r"t\.csv: remarks and no header; expected "),
    "zip": (b"PK\x03\x04\0\0", r"t\.csv: a binary file; expected "),
    "Latin": (b"sequence,label\n\xff\xfe", r"t\.csv: a binary file; expected "),
    "cut": (
        gzip.compress(text(rows=ROWS * 99).encode())[:-9],
        r"t\.csv: the gzip stream is cut or damaged; copy or download the file again",
    ),
}


@every_user
@pytest.mark.parametrize("case", BAD)
def test_every_user_refuses_the_same(user: Callable, case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    (tmp_path / "t.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(BadData, match=message) as caught:
        user(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


@every_user
def test_parquet_that_cannot_be_read(user: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 and no more")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(UserError, match=r"a parquet file needs the package pyarrow: pip install 'gfm-harness\[variants\]'"):
            user(path)
    pytest.importorskip("pyarrow", reason="needs the extra `variants`")
    with pytest.raises(BadData, match=r"t\.parquet: not a readable parquet file \(.*\); download it again"):
        user(path)


# --- size ---------------------------------------------------------------------------------------------------------------


def test_a_window_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    long = "ACGT" * 50_000
    (tmp_path / "t.csv").write_text(f'sequence,label\n"{long}",1\n{long},0\n')
    assert windows(tmp_path / "t.csv") == [("1", long, "1"), ("2", long, "0")]


def test_rows_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(("chrom,pos\n" + "".join(f"7,{number}\n" for number in range(100_000)) + "7\n").encode()))
    rows = Table(path, "a table").rows([1])
    assert next(rows)[1] == ["0"]
    tracemalloc.start()
    with pytest.raises(BadData, match="line 100002: 1 fields"):
        for _ in rows:
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # bytes, where the text has 0.8 MB and its rows tens of times as much
