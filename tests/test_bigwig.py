"""bigWig files: read like pyBigWig reads them, in every layout; cut or damaged ones are refused, never read as gaps."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from harness.data import Locus, Window
from harness.errors import BadData
from harness.files import bigwig
from harness.files.bigwig import BigWigFile
from harness.registry import adapter_class

VALUES = np.random.default_rng(0).normal(size=40).astype(np.float32)
NAMES = ("chr1", "chr2")
LENGTH = 100


def stretches() -> dict[tuple[int, int], float]:
    """What :func:`made` holds: the value of each (chromosome's number, position)."""
    found = {}
    for number, (chromosome, start) in enumerate([(0, 0), (0, 30), (1, 10), (1, 60)]):
        for item in range(10):
            position = start + 2 * item if number % 2 else start + item
            found[chromosome, position] = float(VALUES[10 * number + item])
    return found


def made(order: str = "<", packed: bool = True, depth: int = 1, totals: bool = True) -> bytes:
    """A bigWig of four blocks, one of each kind and one more; ``depth`` is that of its index."""

    def pack(kind: str, *numbers) -> bytes:
        return struct.pack(order + kind, *numbers)

    blocks, places = [], []
    for number, (chromosome, start) in enumerate([(0, 0), (0, 30), (1, 10), (1, 60)]):
        values = [float(value) for value in VALUES[10 * number : 10 * number + 10]]
        if number == 0:
            kind, step, items = 3, 1, b"".join(pack("f", value) for value in values)
        elif number == 2:
            kind, step, items = 1, 0, b"".join(pack("IIf", start + i, start + i + 1, value) for i, value in enumerate(values))
        else:
            kind, step, items = 2, 0, b"".join(pack("If", start + 2 * i, value) for i, value in enumerate(values))
        end = start + (19 if number % 2 else 10)
        data = pack("IIIIIBBH", chromosome, start, end, step, 1, kind, 0, 10) + items
        blocks.append(zlib.compress(data) if packed else data)
        places.append((chromosome, start, chromosome, end))
    tree = pack("IIIIQQ", 0x78CA8C91, 2, 4, 8, 2, 0) + pack("BBH", 1, 0, 2)
    tree += b"".join(name.encode() + pack("II", number, LENGTH) for number, name in enumerate(NAMES))
    total = struct.pack(order + "Qdddd", 40, VALUES.min(), VALUES.max(), VALUES.astype(float).sum(), 1.0)
    tree_at = 64
    total_at = tree_at + len(tree)
    data_at = total_at + len(total)
    index_at = data_at + 4 + sum(map(len, blocks))
    offsets = np.cumsum([data_at + 4, *map(len, blocks)])[:4].tolist()
    leaves = [pack("IIIIQQ", *place, offset, len(block)) for place, offset, block in zip(places, offsets, blocks, strict=True)]
    index = pack("IIQIIIIQII", 0x2468ACE0, 4, 4, 0, 0, 1, 79, index_at, 1, 0)
    if depth == 1:
        index += pack("BBH", 1, 0, 4) + b"".join(leaves)
    else:
        first = index_at + 48 + 4 + 2 * 24
        index += pack("BBH", 0, 0, 2)
        index += pack("IIIIQ", 0, 0, 0, 49, first) + pack("IIIIQ", 1, 10, 1, 79, first + 68)
        index += b"".join(pack("BBH", 1, 0, 2) + b"".join(leaves[part : part + 2]) for part in (0, 2))
    header = pack("IHHQQQHHQQIQ", 0x888FFC26, 4, 0, tree_at, data_at, index_at, 0, 0, 0, total_at if totals else 0, 4096 if packed else 0, 0)  # fmt: skip
    assert len(header) == 64
    return header + tree + total + pack("I", 4) + b"".join(blocks) + index + pack("I", 0x888FFC26)


def check(path: Path) -> None:
    file, expected = BigWigFile(path), stretches()
    assert file.lengths == dict.fromkeys(NAMES, LENGTH)
    for number, name in enumerate(NAMES):
        found = [file.value(name, position) for position in range(LENGTH)]
        np.testing.assert_array_equal(found, [expected.get((number, position), math.nan) for position in range(LENGTH)])
        for start, end in ((0, LENGTH), (5, 33), (41, 42), (7, 7)):
            np.testing.assert_array_equal(file.values(name, start, end), found[start:end])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("depth", [1, 2])
def test_every_layout(order, packed, depth, tmp_path):
    path = tmp_path / "a.bw"
    path.write_bytes(made(order, packed, depth))
    check(path)
    assert BigWigFile(path).mean == pytest.approx(VALUES.astype(float).mean())


def test_without_totals_there_is_no_mean(tmp_path):
    (tmp_path / "a.bw").write_bytes(made(totals=False))
    check(tmp_path / "a.bw")
    assert math.isnan(BigWigFile(tmp_path / "a.bw").mean)


def written(path: Path, blocks: int = 600, zooms: int = 10) -> Path:
    """A file of pyBigWig's with every kind of section, and an index of several levels."""
    package = pytest.importorskip("pyBigWig", reason="compares with pyBigWig")
    rng = np.random.default_rng(1)
    file = package.open(str(path), "w")
    file.addHeader([("chr1", 2_000_000), ("chr2", 5000), ("chrM", 300)], maxZooms=zooms)
    file.addEntries("chr1", 0, values=rng.normal(size=3000).tolist(), span=1, step=1)
    starts = np.sort(rng.choice(np.arange(4000, 60000, 7), 1500, replace=False))
    file.addEntries("chr1", starts.tolist(), values=rng.normal(size=1500).tolist(), span=5)
    starts = np.arange(60000, 90000, 23)
    ends = starts + rng.integers(1, 22, len(starts))
    file.addEntries(["chr1"] * len(starts), starts.tolist(), ends=ends.tolist(), values=rng.normal(size=len(starts)).tolist())
    for block in range(blocks):
        file.addEntries("chr1", 100_000 + 2000 * block, values=rng.normal(size=9).tolist(), span=1 + block % 3, step=5)
    file.addEntries("chr2", 100, values=rng.normal(size=700).tolist(), span=2, step=5)
    file.close()
    return path


@pytest.mark.parametrize("totalled", [True, False])
def test_values_are_those_of_pybigwig(totalled, tmp_path, monkeypatch):
    if not totalled:
        monkeypatch.setattr(bigwig, "MAX_TOTALLED", 0)
    path = written(tmp_path / "w.bw")
    import pyBigWig

    ours, theirs = BigWigFile(path), pyBigWig.open(str(path))
    assert ours.lengths == theirs.chroms()
    header = theirs.header()
    assert ours.mean == pytest.approx(header["sumData"] / header["nBasesCovered"], abs=1 / header["nBasesCovered"])
    rng = np.random.default_rng(2)
    for name, length in theirs.chroms().items():
        places = rng.integers(0, min(length, 95_000), 1500)
        if length > 100_000:
            places = np.append(places, 100_000 + 2000 * rng.integers(0, 600, 500) + rng.integers(0, 50, 500))
        found = [ours.value(name, int(place)) for place in places]
        np.testing.assert_array_equal(found, [theirs.values(name, int(place), int(place) + 1)[0] for place in places])
        for start in (0, 50, *(int(place) for place in places[:20])):
            end = min(start + 30_000, length)
            np.testing.assert_array_equal(ours.values(name, start, end), theirs.values(name, start, end, numpy=True))


def test_a_file_cut_anywhere_is_refused(tmp_path):
    content = made()
    for size in range(1, len(content)):
        (tmp_path / "cut.bw").write_bytes(content[:size])
        with pytest.raises(BadData, match=r"cut\.bw: the bigWig file is cut or damaged \(.*\); download it again"):
            BigWigFile(tmp_path / "cut.bw")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_large_file_cut_or_overwritten_in_the_middle(share, tmp_path, monkeypatch):
    content = written(tmp_path / "w.bw").read_bytes()
    monkeypatch.setattr(bigwig, "MAX_TOTALLED", 0)
    place = int(share * len(content))
    (tmp_path / "cut.bw").write_bytes(content[:place])
    with pytest.raises(BadData, match=r"does not end with its signature"):
        BigWigFile(tmp_path / "cut.bw")
    (tmp_path / "bad.bw").write_bytes(content[:place] + bytes(2000) + content[place + 2000 :])
    whole = BigWigFile(tmp_path / "w.bw")

    def compare() -> None:
        bad = BigWigFile(tmp_path / "bad.bw")
        for position in range(0, 1_300_000, 50):
            assert bad.value("chr1", position) == pytest.approx(whole.value("chr1", position), nan_ok=True)

    with pytest.raises(BadData, match=r"bad\.bw: the bigWig file is cut or damaged"):
        compare()


def test_values_that_contradict_the_files_own_totals_are_refused(tmp_path):
    """A file without compression has no checksums; its totals are what tells."""
    content = made(packed=False)
    value = struct.pack("<f", VALUES[4])
    assert content.count(value) == 1
    (tmp_path / "a.bw").write_bytes(content.replace(value, struct.pack("<f", 77.0)))
    with pytest.raises(BadData, match=r"values at 40 positions with the sum .*, and its totals: 40, "):
        BigWigFile(tmp_path / "a.bw")


def test_two_records_of_one_chromosome_are_refused_when_asked_for(tmp_path):
    path = tmp_path / "a.bw"
    path.write_bytes(made().replace(b"chr1", b"chrM").replace(b"chr2", b"MT\0\0"))
    adapter = adapter_class("phylop").from_checkpoint(None, scores=str(path))
    with pytest.raises(BadData, match=r"a\.bw: chromosome 'M' may be 'chrM' or 'MT'"):
        adapter.collate([Window("A", Locus("chrM", 3, 4))])
