"""Readers of reference data on 250 mutations of a valid file each: they give a result or our own error, soon, and nothing else.

Where a format has checksums, the result must be the original's. Elsewhere a changed letter is a letter like any other, so
that only the result's form can be asked for; but a file that was cut is never read with anything missing in it.
"""

from __future__ import annotations

import gzip
import io
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from test_alignments import MAF, small, write_zarr
from test_bigwig import made as made_big_wig
from test_genome import CHR1, CHR2, UPPER, fasta_text, made_two_bit

from harness.adapters._scores import BedGraph, ScoreTable
from harness.data import Locus
from harness.errors import BadData, UserError
from harness.files.alignments import build_store, open_alignment
from harness.files.bigwig import BigWigFile
from harness.files.genome import Genome

pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.filterwarnings("ignore")]

MUTATIONS = 250
SECONDS = 2.5  # of one mutation, at most
EVIL = (
    b"\0",
    b"\xff" * 8,
    b"\n\n",
    b">",
    b"../../x",
    b"9" * 400,
    b"-1",
    b"\xef\xbb\xbf",
    b"\x1b[31m",
    b" ",
    b"\t",
    b"nan",
    b"[" * 2000,
)


class Reader(NamedTuple):
    """``read`` gives letters as text or numbers, after it has checked their form. ``cuts`` tells whether every cut is noticed."""

    content: Callable[[], bytes]
    read: Callable[[Path], object]
    suffix: str = ""
    checksums: bool = False
    cuts: bool = False


def read_genome(path: Path) -> object:
    genome, changes = Genome(path), Counter()
    found = [genome.sequence(Locus("1", 0, 29), changes), genome.sequence(Locus("2", 3, 11), changes)]
    assert [len(text) for text in found] == [29, 8]
    assert not set("".join(found)) - set("ACGTN")
    assert sum(text.count("N") for text in found) >= changes["outside_genome"]
    return found, changes["outside_genome"]


def read_alignment(path: Path) -> object:
    alignment = open_alignment(path)
    rows = alignment.columns(Locus("1", 0, 9))
    assert rows.dtype == np.uint8
    assert rows.shape == (len(alignment.species), 9)
    assert np.isin(rows, list(b"ACGTN-")).all()
    assert all(isinstance(name, str) and name for name in alignment.species)
    return alignment.species, rows.tobytes()


def read_zarr(path: Path) -> object:
    rows = open_alignment(path, "a,b,c").columns(Locus("1", 0, 9))
    assert rows.shape == (4, 9)
    assert np.isin(rows, list(b"ACGTN-")).all()
    return rows.tobytes()


def read_big_wig(path: Path) -> object:
    file = BigWigFile(path)
    if min(file.lengths.get(name, 0) for name in ("chr1", "chr2")) < 100:
        raise BadData("as the adapter refuses a position that the file does not hold")
    return [str(file.value(name, place)) for name in ("chr1", "chr2") for place in range(100)]


def read_table(path: Path) -> object:
    table = ScoreTable(path, "", ("phred",), True)
    found = [table.score("7", position, "C") for position in range(1, 12)]
    assert all(isinstance(value, float) for value in found)
    return found


def read_bed_graph(path: Path) -> object:
    found = [BedGraph(path).score("7", position, "") for position in range(1, 60, 5)]
    assert all(isinstance(value, float) for value in found)
    return found


def table_text() -> bytes:
    return ("#Chrom\tPos\tRef\tAlt\tPHRED\n" + "".join(f"7\t{i}\tA\tC\t{i / 8}\n" for i in range(1, 12))).encode()


def bed_graph_text() -> bytes:
    return "".join(f"chr7\t{start}\t{start + 5}\t{start / 8}\n" for start in range(0, 60, 5)).encode()


def bgzip_text() -> bytes:
    from Bio import bgzf

    packed = io.BytesIO()
    with bgzf.BgzfWriter(fileobj=packed) as file:
        file.write(fasta_text(chr1=CHR1, chr2=CHR2).encode())
        file.flush()
        content = packed.getvalue() + bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
    return content


READERS = {
    "two_bit": Reader(lambda: made_two_bit({"chr1": UPPER, "chr2": CHR2}), read_genome, ".2bit", cuts=True),
    "two_bit_1": Reader(lambda: made_two_bit({"chr1": UPPER, "chr2": CHR2}, ">", 1), read_genome, ".2bit", cuts=True),
    "fasta": Reader(lambda: fasta_text(chr1=CHR1, chr2=CHR2).encode(), read_genome, ".fa"),
    "gzip": Reader(lambda: gzip.compress(fasta_text(chr1=CHR1, chr2=CHR2).encode(), mtime=0), read_genome, ".fa.gz", True, True),
    "bgzip": Reader(bgzip_text, read_genome, ".fa.gz", True, True),
    "maf": Reader(MAF.encode, read_alignment, ".maf"),
    "maf_gz": Reader(lambda: gzip.compress(MAF.encode(), mtime=0), read_alignment, ".maf.gz", True, True),
    "aligned_fasta": Reader(lambda: b">hg38 chr1:0-9\nACGTACGTA\n>mm10\nAC--ACGTA\n>rn6\nACGTACNNA\n", read_alignment, ".fa"),
    "big_wig": Reader(made_big_wig, read_big_wig, ".bw", True, True),
    "big_wig_2": Reader(lambda: made_big_wig(">", depth=2), read_big_wig, ".bw", True, True),
    "big_wig_plain": Reader(lambda: made_big_wig(packed=False), read_big_wig, ".bw", cuts=True),
    "table": Reader(table_text, read_table, ".tsv"),
    "bed_graph": Reader(bed_graph_text, read_bed_graph, ".bg"),
}


def mutate(content: bytes, rng: random.Random) -> bytes:
    """The content with one to three bits turned, bytes overwritten, left out, doubled or put in."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice((1, 1, 2, 4, 8, 30)))
        kind = rng.randrange(7)
        if kind == 0 and start < len(content):
            content = content[:start] + bytes([content[start] ^ 1 << rng.randrange(8)]) + content[start + 1 :]
        elif kind == 1:
            content = content[:start] + rng.randbytes(end - start) + content[end:]
        elif kind == 2:
            content = content[:start] + rng.choice((b"\0", b"\xff", b"\x7f")) * (end - start) + content[end:]
        elif kind == 3:
            content = content[:start] + content[end:]
        elif kind == 4:
            content = content[:end] + content[start:end] + content[end:]
        elif kind == 5:
            content = content[:start] + rng.choice(EVIL) + content[start:]
        else:
            content = content[:start] + content[start:end][::-1] + content[end:]
    return content


def outcome(read: Callable[[Path], object], path: Path) -> object:
    """The result, or None for an error of ours, which is short and has no control characters."""
    begun = time.perf_counter()
    try:
        return read(path)
    except UserError as error:
        message = str(error)
        assert message
        assert len(message) < 1500
        assert "\x1b" not in message
        assert message.count("\n") < 2
        return None
    finally:
        assert time.perf_counter() - begun < SECONDS


@pytest.mark.parametrize("name", READERS)
def test_mutations_give_a_result_or_an_error_of_ours(name, tmp_path):
    reader, rng = READERS[name], random.Random(name)
    content = reader.content()
    first = tmp_path / f"first{reader.suffix}"
    first.write_bytes(content)
    original, refused = reader.read(first), 0
    for number in range(MUTATIONS):
        path = tmp_path / f"{number}{reader.suffix}"
        mutated = mutate(content, rng)
        if name == "table":  # what its messages show of a header is tested with the reader of tables
            mutated = mutated.replace(b"\x1b", b"?")
        path.write_bytes(mutated)
        found = outcome(reader.read, path)
        refused += found is None
        if reader.checksums:
            assert found in (None, original), (number, mutated)
        path.unlink()
    assert refused > MUTATIONS / 10


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.cuts])
def test_files_cut_anywhere_are_refused_or_whole(name, tmp_path):
    reader = READERS[name]
    content = reader.content()
    first = tmp_path / f"first{reader.suffix}"
    first.write_bytes(content)
    original = reader.read(first)
    for size in range(0, len(content), max(1, len(content) // 200)):
        path = tmp_path / f"{size}{reader.suffix}"
        path.write_bytes(content[:size])
        assert outcome(reader.read, path) in (None, original), size


@pytest.mark.parametrize("signature", [b"\x43\x27\x41\x1a", b"\x1a\x41\x27\x43", b"\x26\xfc\x8f\x88", b"\x88\x8f\xfc\x26"])
def test_random_bytes_behind_a_signature_are_refused(signature, tmp_path):
    rng = random.Random(0)
    read = read_genome if b"A" in signature else read_big_wig
    for number in range(MUTATIONS):
        path = tmp_path / str(number)
        path.write_bytes(signature + rng.randbytes(rng.randrange(400)) + signature)
        assert outcome(read, path) is None


def folder_of(kind: str, folder: Path) -> tuple[Path, Callable[[Path], object]]:
    if kind == "store":
        (folder / "a.maf").write_text(MAF)
        return build_store(folder / "a.maf", folder / "store", "panTro4,mm10,rn6"), read_alignment
    pytest.importorskip("zarr", reason="needs the extra `variants`")
    return write_zarr(folder / "a.zarr", small(), version=2 if kind == "zarr" else 3), read_zarr


@pytest.mark.parametrize("kind", ["store", "zarr", "zarr 3"])
def test_mutations_of_one_file_of_a_folder(kind, tmp_path):
    folder, read = folder_of(kind, tmp_path)
    original, rng, refused = read(folder), random.Random(kind), 0
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    mutations = MUTATIONS // 4 if kind == "zarr 3" else MUTATIONS  # slow to open, and the same reader as zarr
    for number in range(mutations):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(folder, copy)
        chosen = copy / files[number % len(files)]
        if number % 10 == 0:
            chosen.unlink()
        else:
            chosen.write_bytes(mutate(chosen.read_bytes(), rng))
        found = outcome(read, copy)
        refused += found is None
        if number % 10 == 0:
            assert found in (None, original), chosen
        shutil.rmtree(copy)
    assert refused > mutations / 10


def test_a_zip_of_zarr_is_held_by_its_checksums(tmp_path):
    pytest.importorskip("zarr", reason="needs the extra `variants`")
    folder, read = folder_of("zarr", tmp_path)
    archive = Path(shutil.make_archive(str(folder), "zip", folder))
    content, original, rng = archive.read_bytes(), read(archive), random.Random(0)
    for number in range(MUTATIONS):
        path = tmp_path / f"{number}.zip"
        path.write_bytes(mutate(content, rng))
        assert outcome(read, path) in (None, original)
