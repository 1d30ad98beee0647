"""Every reader of the user's own files, held to damaged files: only what was damaged may change, or the file is refused.

A valid file is mutated: a few bytes are flipped, deleted or inserted, lines are deleted, doubled or swapped, or the end is
cut off. The reader may refuse the file with an error of ours. Otherwise each edit may have touched only the records next to
it: no other record may be lost, be new, or read differently, and none may have become another silently.
"""

from __future__ import annotations

import gzip
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.files import readers
from harness.tasks import _bed, _variant_files

RECORDS = 12
FOLDER = Path(tempfile.mkdtemp(prefix="mutations-"))


def _windows() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices("ACGT", k=30)) for _ in range(RECORDS)]


def _variants() -> list[tuple[str, int, str, str, int]]:
    return [(f"chr{i % 3 + 1}", 1000 + 37 * i, "ACGT"[i % 4], "CGTA"[i % 4], i % 2) for i in range(RECORDS)]


VCF_HEADER = (
    '##fileformat=VCFv4.1\n##INFO=<ID=CLNSIG,Number=.,Type=String,Description="Clinical significance">\n'
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
)
FILES = {
    "fasta": (
        "w.fa",
        "".join(f">chr1:{100 * i}-{100 * i + 30}(+) class:{i % 2}\n{w[:20]}\n{w[20:]}\n" for i, w in enumerate(_windows())),
    ),
    "table": (
        "w.csv",
        "name,sequence,label\n" + "".join(f"w{i},{w},{'bound' if i % 2 else 'free'}\n" for i, w in enumerate(_windows())),
    ),
    "bed": (
        "w.bed",
        "".join(f"chr{i % 3 + 1}\t{1000 + 300 * i}\t{1101 + 300 * i}\tpeak{i}\t0\t{'+-'[i % 2]}\n" for i in range(RECORDS)),
    ),
    "vcf": (
        "v.vcf",
        VCF_HEADER
        + "".join(
            f"{c}\t{p}\trs{p}\t{r}\t{a}\t.\t.\tRS=1;CLNSIG={('Benign', 'Pathogenic')[y]}\n" for c, p, r, a, y in _variants()
        ),
    ),
    "variants": (
        "v.tsv",
        "chrom\tpos\tref\talt\tlabel\n" + "".join(f"{c}\t{p}\t{r}\t{a}\t{y}\n" for c, p, r, a, y in _variants()),
    ),
}


def read(kind: str, path: Path) -> list:
    """What a reader makes of a file, as values that can be compared; ids are left out, for a header names their column."""
    if kind in ("fasta", "table"):
        return [(record.window.sequence, record.label) for record in readers.read(path, Counter())]
    if kind == "bed":
        return list(_bed.read(path))
    return list(_variant_files.read(path, Counter()))


def read_or_refuse(kind: str, path: Path) -> list | str:
    """The values, or the message of our own error; any other exception is the reader's fault, and passes."""
    try:
        return read(kind, path)
    except UserError as error:
        return str(error)


EDITS = st.tuples(
    st.sampled_from(["flip", "delete", "insert", "double", "drop", "swap", "cut"]),
    st.integers(0, 10**6),
    st.one_of(st.sampled_from(b"\0\t\n\r ,;:\"'->@=+0159ANXn\x1b\x1f\x80\xff\xfe"), st.integers(0, 255)),
)


def mutated(content: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    for kind, place, byte in edits:
        if kind in ("flip", "delete", "insert", "cut"):
            place %= len(content) or 1
            middle = bytes([byte]) if kind in ("flip", "insert") else b""
            rest = b"" if kind == "cut" else content[place + (kind != "insert") :]
            content = content[:place] + middle + rest
        else:
            lines = content.splitlines(keepends=True) or [b""]
            place %= len(lines)
            other = (place + 1) % len(lines)
            if kind == "double":
                lines.insert(place, lines[place])
            elif kind == "drop":
                del lines[place]
            else:
                lines[place], lines[other] = lines[other], lines[place]
            content = b"".join(lines)
    return content


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_refused_or_only_its_damaged_records_differ(kind: str) -> None:
    name, text = FILES[kind]
    (FOLDER / name).write_bytes(text.encode())
    whole = Counter(read(kind, FOLDER / name))
    assert whole.total() == RECORDS

    @settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(EDITS, min_size=1, max_size=2), st.booleans())
    def check(edits: list[tuple[str, int, int]], packed: bool) -> None:
        content = mutated(text.encode(), edits)
        path = FOLDER / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content, 1) if packed else content)
        outcome = read_or_refuse(kind, path)
        if isinstance(outcome, str):
            assert outcome.isprintable(), repr(outcome)
            return
        found = Counter(outcome)
        cut = any(edit[0] == "cut" for edit in edits)
        touched = 2 * len(edits)  # an edit at a line end, or a swap, touches two records
        assert (found - whole).total() <= touched
        assert cut or (whole - found).total() <= touched

    check()


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_gzip_stream_is_refused_or_read_the_same(kind: str) -> None:
    name, text = FILES[kind]
    packed = gzip.compress(text.encode(), mtime=0)
    path = FOLDER / f"{name}.gz"
    path.write_bytes(packed)
    whole = read(kind, path)

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(EDITS.filter(lambda edit: edit[0] in ("flip", "delete", "insert", "cut")))  # a stream twice is two files in one
    def check(edit: tuple[str, int, int]) -> None:
        path.write_bytes(mutated(packed, [edit]))
        outcome = read_or_refuse(kind, path)
        assert outcome == whole or (isinstance(outcome, str) and outcome.isprintable())  # the stream has a checksum

    check()


def test_a_damaged_parquet_file_is_refused_or_keeps_its_rows() -> None:
    """Parquet has no checksum of its values, so a letter may differ; but no row is lost, and no error is pyarrow's."""
    pytest.importorskip("pyarrow", reason="needs the extra `variants`")
    import pandas as pd

    pd.DataFrame({"sequence": _windows(), "label": [i % 2 for i in range(RECORDS)]}).to_parquet(FOLDER / "w.parquet")
    content = (FOLDER / "w.parquet").read_bytes()

    @settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(EDITS, min_size=1, max_size=2))
    def check(edits: list[tuple[str, int, int]]) -> None:
        (FOLDER / "w.parquet").write_bytes(mutated(content, edits))
        outcome = read_or_refuse("table", FOLDER / "w.parquet")
        assert outcome.isprintable() if isinstance(outcome, str) else len(outcome) == RECORDS

    check()


def test_the_mutations_find_a_reader_that_guesses() -> None:
    """The oracle itself: a reader that takes the first column for the sequence whatever the header says is found out."""
    guess: Callable[[bytes], list[bytes]] = lambda content: [line.split(b",")[1] for line in content.splitlines()[1:]]  # noqa: E731
    text = FILES["table"][1].encode()
    dropped = mutated(text, [("drop", 0, 0)])
    assert len(guess(dropped)) == RECORDS - 1  # it lost a record that was not touched
    (FOLDER / "w.csv").write_bytes(dropped)
    assert "no column named sequence" in read_or_refuse("table", FOLDER / "w.csv")
