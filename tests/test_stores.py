"""Stores of alignments: no text becomes a path, what is damaged is refused or made again, and nothing is left half-written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_alignments import MAF, ROWS, text

from harness.data import Locus
from harness.errors import BadData, UserError
from harness.files.alignments import build_store, open_alignment
from harness.files.workspace import MAX_AGE, reserved, workspace

pytestmark = pytest.mark.usefixtures("own_cache")

LOCUS = Locus("1", 0, 9)
SPECIES = "panTro4,mm10,rn6"


@pytest.fixture
def maf(tmp_path) -> Path:
    path = tmp_path / "two.maf"
    path.write_text(MAF)
    return path


def columns(path: Path) -> list[str]:
    return text(open_alignment(path, SPECIES).columns(LOCUS))


# --- paths --------------------------------------------------------------------------------------------------------------

HOSTILE = (
    "../../escaped",
    "../" * 40 + "tmp/escaped",
    "/tmp/escaped",
    "a/b/c",
    "chr" + "x" * 300,
    "..",
    ".hidden",
    "store.json",
    "C:\\escaped",
    "chr1;rm",
)

_LISTENING = """
import json, os, sys
from pathlib import Path
written = []
def listen(event, arguments):
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        flags = arguments[2] or 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
            written.append(os.fsdecode(arguments[0]))
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree", "os.utime"):
        written.append(os.fsdecode(arguments[0]))
        if event == "os.rename":
            written.append(os.fsdecode(arguments[1]))
sys.dont_write_bytecode = True
sys.addaudithook(listen)
"""


def written_by(code: str, *arguments: object) -> set[Path]:
    """The absolute paths that Python code writes to, makes, renames or removes, in a process of its own."""
    ending = "\nprint(json.dumps([os.path.realpath(path) for path in written]))"
    found = subprocess.run(
        [sys.executable, "-c", _LISTENING + code + ending, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert found.returncode == 0, found.stderr
    return {Path(path) for path in json.loads(found.stdout.splitlines()[-1])}


def test_every_file_that_is_written_lies_where_it_was_asked_for(tmp_path):
    """Names of chromosomes, species, records and rows lead out of no folder, whichever file they come from."""
    given = tmp_path / "given"
    given.mkdir()
    chromosomes = [f"a\ns hg38.{name} 0 4 + 9 ACGT\ns mm99.{name} 0 4 + 9 ACGT\n\n" for name in HOSTILE]
    (given / "names.maf").write_text("##maf version=1\n" + "".join(chromosomes))
    (given / "species.maf").write_text(
        "##maf version=1\na\ns t.chr1 0 4 + 9 ACGT\n"
        + "".join(f"s {name.replace('.', '_')}.1 0 4 + 9 ACGT\n" for name in HOSTILE)
    )
    (given / "genome.fa").write_text("".join(f">{name}\nACGT\n" for name in HOSTILE))
    (given / "rows.chr1_0_4.fa").write_text("".join(f">{name}\nACGT\n" for name in HOSTILE))
    import gzip

    (given / "genome.fa.gz").write_bytes(gzip.compress((given / "genome.fa").read_bytes()))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    wrote = written_by(
        """
from harness.data import Locus
from harness.errors import UserError
from harness.files.alignments import build_store, open_alignment
from harness.files.genome import Genome
given, out = map(Path, sys.argv[1:])
for number, file in enumerate(sorted(given.iterdir())):
    if ".fa" in file.name and "rows" not in file.name:
        genome = Genome(file)
        for name in genome.chromosomes:
            assert genome.sequence(Locus(name, 0, 4)) == "ACGT"
    else:
        for alignment in (open_alignment(file), open_alignment(build_store(file, out / str(number)))):
            for name in alignment.extents:
                assert alignment.columns(Locus(name, 0, 4)).tobytes() == b"ACGT" * len(alignment.species), name
""",
        given,
        tmp_path / "out",
    )
    assert len(wrote) > 10
    allowed = [tmp_path / "out", tmp_path / "cache"]
    assert [path for path in wrote if not any(path.is_relative_to(folder) for folder in allowed)] == []
    assert all(
        path in before or path.is_relative_to(tmp_path / "out") or path.is_relative_to(tmp_path / "cache")
        for path in tmp_path.rglob("*")
        if path.is_file()
    )
    stored = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert stored == {"store.json", *(f"{number}.npy" for number in range(len(HOSTILE)))}
    assert not list(tmp_path.rglob("*escaped*"))


def test_the_places_that_write_are_these():
    """Whoever opens another file for writing here must add it, and a hostile name to the test above."""
    root = Path(__file__).parents[1]
    signs = (".write_text(", ".write_bytes(", ".mkdir(", "os.rename(", "os.replace(", '"wb"', '"r+b"', "mkdtemp(", "TemporaryDirectory(", "open_memmap", "np.save")  # fmt: skip
    rooms = ["alignments/*", "genome", "indexed_fasta", "two_bit", "binary", "bigwig", "workspace"]
    files = [path for room in rooms for path in (root / "harness/files").glob(f"{room}.py")]
    files += [root / f"adapters/{name}.py" for name in ("_scores", "cadd", "phylop", "phastcons", "column_conservation")]
    found = {}
    for path in files:
        lines = [line.split("#")[0] for line in path.read_text().splitlines()]
        if count := sum(sign in line for line in lines for sign in signs):
            found[path.name] = count
    assert found == {"maf.py": 2, "store.py": 4, "indexed_fasta.py": 3, "workspace.py": 3}


# --- the two formats ----------------------------------------------------------------------------------------------------


def first_format(store: Path, path: Path) -> Path:
    """A copy of a store in the format whose arrays are named by chromosome."""
    header = json.loads((store / "store.json").read_text())
    path.mkdir()
    for number, name in enumerate(header["chromosomes"]):
        shutil.copy(store / f"{number}.npy", path / f"{name}.npy")
    (path / "store.json").write_text(json.dumps(header | {"format": "gfm-harness alignment 1"}))
    return path


def test_a_store_of_the_first_format_still_opens(maf, tmp_path):
    store = first_format(build_store(maf, tmp_path / "store"), tmp_path / "first")
    assert columns(store) == list(ROWS.values())
    assert open_alignment(store).extents == {"1": (2, 9), "X": (0, 4)}


@pytest.mark.parametrize("name", ["../store/0", "/etc/passwd", "a/b", ".x", "", "x" * 300, "a\0b"])
def test_names_of_the_first_format_that_lead_out_of_the_store_are_refused(name, maf, tmp_path):
    store = first_format(build_store(maf, tmp_path / "store"), tmp_path / "first")
    header = json.loads((store / "store.json").read_text())
    header["chromosomes"] = {name: [2, 9]}
    (store / "store.json").write_text(json.dumps(header))
    with pytest.raises(BadData, match=r"first: a damaged store \(chromosome"):
        open_alignment(store)


# --- damage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"format": 7},
        {"format": "gfm-harness alignment 9"},
        {"species": 5},
        {"species": ["hg38", "hg38", "mm10", "rn6"]},
        {"species": ["hg38", 3, "mm10", "rn6"]},
        {"species": []},
        {"chromosomes": []},
        {"chromosomes": {}},
        {"chromosomes": {"1": 5}},
        {"chromosomes": {"1": [2]}},
        {"chromosomes": {"1": ["2", "9"]}},
        {"chromosomes": {"1": [2.0, 9.0]}},
        {"chromosomes": {"1": [9, 2]}},
        {"chromosomes": {"1": [-2, 5]}},
        {"chromosomes": {"1": [0, 10**30]}},
        {"chromosomes": {"1": [2, 10]}},
        {"chromosomes": {"1": [True, 8]}},
        {"chromosomes": {"X": [0, 4], "1": [2, 9]}},
        {"notes": 3},
        {"notes": ["\x1b[31m"]},
    ],
)
def test_headers_that_do_not_fit_are_refused(change, maf, tmp_path):
    store = build_store(maf, tmp_path / "store", SPECIES)
    header = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps(header | change))
    with pytest.raises(BadData, match=r"store: (a damaged store|format)[^\n]*; build"):
        open_alignment(store)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b"{}"])
def test_a_header_that_is_no_header_is_refused(content, maf, tmp_path):
    store = build_store(maf, tmp_path / "store")
    (store / "store.json").write_bytes(content)
    with pytest.raises(BadData, match=r"store: a damaged store"):
        open_alignment(store)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_arrays_that_do_not_fit_are_refused_and_never_unpickled(maf, tmp_path):
    store = build_store(maf, tmp_path / "store", SPECIES)
    array, evil = store / "0.npy", tmp_path / "evil"
    whole = array.read_bytes()
    objects = np.empty((7, 4), object)
    objects[:] = Evil(evil)
    right = np.load(array)
    for bad in (
        objects,
        right.astype(np.int64),
        right.astype(np.int8),
        right.T.copy(),
        np.asfortranarray(right),
        right[:-1],
        right.ravel(),
        right.astype("S1"),
    ):
        np.save(array, bad, allow_pickle=True)
        with pytest.raises(
            BadData, match=r"store: a damaged store \(0\.npy is no array of 7 columns of 4 rows\); build it again"
        ):
            open_alignment(store)
    for size in (0, 5, 20, len(whole) - 1):
        array.write_bytes(whole[:size])
        with pytest.raises(BadData, match="0\\.npy is no array"):
            open_alignment(store)
    array.write_bytes(whole[:-3] + b"\x07!z")
    with pytest.raises(BadData, match=r"chromosome 1 has bytes that are no letters"):
        open_alignment(store).columns(LOCUS)
    assert not evil.exists()


def test_a_damaged_store_in_the_cache_is_made_again(maf, tmp_path):
    expected = columns(maf)
    (store,) = (tmp_path / "cache/gfm-harness/alignments").iterdir()
    for file in store.iterdir():
        for size in (0, 100):
            file.write_bytes(file.read_bytes()[:size])
            assert columns(maf) == expected
            file = store / file.name
    (store / "store.json").unlink()
    assert columns(maf) == expected


def test_a_cache_that_cannot_be_written_is_done_without(maf, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert columns(maf) == list(ROWS.values())


def test_columns_beyond_memory_are_refused_before_memory_is_touched(maf):
    with pytest.raises(BadData, match=r"two\.maf: 100 rows of 200,000,000 columns at once are more than 2 GiB"):
        open_alignment(maf).columns(Locus("1", 0, 200_000_000))
    with pytest.raises(BadData, match=r"is longer than 268,435,456 nt"):
        open_alignment(maf).columns(Locus("1", 0, 10**12))


# --- writing ------------------------------------------------------------------------------------------------------------


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_folders_of_killed_builds_are_swept(maf, tmp_path):
    with workspace(tmp_path, "store") as mine:
        host = mine.name.split("-")[1]
        left = [tmp_path / f".store-{host}-{dead_process()}-abc", tmp_path / ".store-elsewhere-7-abc", tmp_path / ".store-old"]
        kept = [
            tmp_path / ".store-elsewhere-8-abc",
            tmp_path / f".store-{host}-{os.getppid()}-abc",
            mine,
            tmp_path / ".storehouse",
        ]
        for folder in (*left, *kept):
            folder.mkdir(exist_ok=True)
            (folder / "0.npy").write_text("x")
        for folder in left[1:]:
            os.utime(folder, (time.time() - MAX_AGE - 9,) * 2)
        build_store(maf, tmp_path / "store")
        assert [folder.exists() for folder in left] == [False] * 3
        assert [folder.exists() for folder in kept] == [True] * 4
    assert not mine.exists()


def test_a_build_that_is_killed_leaves_nothing_for_the_next(maf, tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from harness.files.alignments import build_store
build_store(Path(sys.argv[1]), Path(sys.argv[2]), progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""
    command = [sys.executable, "-c", code, str(maf), str(tmp_path / "store")]
    assert subprocess.run(command, cwd=Path(__file__).parents[1], check=False).returncode == -9
    assert len(list(tmp_path.glob(".store-*"))) == 1
    build_store(maf, tmp_path / "store")
    assert not list(tmp_path.glob(".store-*"))


def test_no_room_is_one_line_with_the_path_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for a full disk: growing a file fails either way."""
    path = tmp_path / "big.maf"
    path.write_text("a\ns t.chr1 0 4 + 999999999 ACGT\n\na\ns t.chr1 90000000 4 + 999999999 ACGT\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(
            UserError, match=r"store: the store cannot be written \(File too large\); make room, or choose another"
        ):
            build_store(path, tmp_path / "store")
        with pytest.raises(UserError, match=r"alignments/big-\w+-2: the store cannot be written \(File too large\); make room"):
            open_alignment(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [*tmp_path.glob("*store*"), *tmp_path.glob(".store*"), *(tmp_path / "cache").rglob("*.npy")]


def test_a_full_disk_is_an_error_and_not_a_signal(tmp_path):
    """/dev/full takes the place of the array, so that every write finds no room."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    from harness.files.alignments.store import _Array

    array = _Array(tmp_path / "0.npy", 10, 2)
    (tmp_path / "0.npy").unlink()
    (tmp_path / "0.npy").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        array.put(0, [0, 1], np.full((10, 2), 65, np.uint8))


def test_reserved_room_is_allocated_or_refused(tmp_path, monkeypatch):
    array = reserved(1 << 16)
    array[:] = 7
    assert array.sum() == 7 << 16
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(UserError, match=r"gfm-harness: no room for 2,097,152 bytes \(File too large\); free some"):
            reserved(1 << 21)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"no room for 9 bytes \(Not a directory\)"):
        reserved(9)


def test_what_is_left_out_is_noted(maf, tmp_path):
    alignment = open_alignment(maf)
    repeated = "two.maf: 1 rows are left out, each of a species that its block has already"
    assert alignment.notes == (repeated,)
    path = tmp_path / "o.maf"
    path.write_text("a\ns t.chr1 0 3 + 9 AAA\ns o.chr1 0 3 + 9 CCC\n\na\ns t.chr1 2 2 + 9 AG\ns o.chr1 5 2 + 9 TT\n")
    overlap = "1 columns are left out, each of a position that an earlier block has already"
    assert open_alignment(path).notes == (overlap,)
    assert open_alignment(build_store(path, tmp_path / "one")).notes == (overlap,)
    assert open_alignment(build_store(maf, tmp_path / "two", SPECIES), "rn6").notes == (repeated,)
    assert open_alignment(build_store(tmp_path / "two", tmp_path / "again")).notes == (repeated,)
