"""``Task.inputs`` decides whether a task's content is computed again: it lists every file that ``load`` opens."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness import registry
from harness.files import sources
from harness.files.alignments import build_store
from harness.files.fingerprint import file_states
from harness.task import Reference, Source, Task
from harness.tasks import rbp, variants
from harness.tasks.files import from_files
from harness.tasks.variants import from_variants

pytestmark = pytest.mark.usefixtures("own_cache")

LENGTH = 3000
CHROMOSOMES = {str(number): "".join(np.random.default_rng(number).choice(list("ACGT"), LENGTH)) for number in range(1, 8)}
_opened: list[str] | None = None


def _listen(event: str, arguments: tuple) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str | os.PathLike):
        _opened.append(os.fspath(arguments[0]))


sys.addaudithook(_listen)  # cannot be taken back, and listens only within opened_by


def opened_by(task: Task, folder: Path) -> set[Path]:
    """The files below a folder, outside the cache, that the task's default load opens."""
    global _opened
    _opened = []
    try:
        task.load(task.split_rules[0])
        paths = {Path(name).resolve() for name in map(os.fsdecode, _opened)}
    finally:
        _opened = None
    return {
        path for path in paths if path.is_relative_to(folder) and not path.is_relative_to(folder / "cache") and path.is_file()
    }


def genome(folder: Path) -> Path:
    path = folder / "genome.fa.gz"
    path.write_bytes(gzip.compress("".join(f">chr{name}\n{letters}\n" for name, letters in CHROMOSOMES.items()).encode()))
    return path


def maf(folder: Path) -> Path:
    path = folder / "alignment.maf"
    blocks = (
        f"a\ns me.chr{n} 0 {LENGTH} + {LENGTH} {s}\ns you.chr{n} 0 {LENGTH} + {LENGTH} {s}\n" for n, s in CHROMOSOMES.items()
    )
    path.write_text("\n".join(blocks))
    return path


def species(folder: Path) -> str:
    (folder / "species.txt").write_text("you\n")
    return str(folder / "species.txt")


def table(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        f"{name}\t{position}\t{letters[position - 1]}\t{'CGTA'['ACGT'.index(letters[position - 1])]}\t{position // 50 % 2}\n"
        for name, letters in CHROMOSOMES.items()
        for position in range(100, LENGTH - 100, 50)
    )
    path.write_text("chrom\tpos\tref\talt\tlabel\n" + "".join(lines))
    return path


def protein(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    for file in rbp.FILES:
        path = sources.data_home() / "rbp" / f"{file}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("sequence,label\n" + "".join(f"{CHROMOSOMES['1'][i : i + 20]},{i % 2}\n" for i in range(40)))
    files = tuple(Source("", "", f"rbp/{file}.csv") for file in rbp.FILES)
    monkeypatch.setattr(rbp, "_sources", lambda protein: files)
    return rbp.tasks()[0]


def public(reference: Callable[[Path], Reference]) -> Callable[[Path, pytest.MonkeyPatch], Task]:
    def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
        monkeypatch.setattr("harness.files.table.is_parquet", lambda path: False)  # so that this needs no pyarrow
        task = variants.tasks()[0]
        assert task.bind is not None
        table(sources.locate(task.sources[0]))
        hg38 = sources.locate(variants.HG38)
        hg38.parent.mkdir(parents=True)
        genome(folder).rename(hg38)
        return task.bind(reference(folder))

    return make


def own(reference: Callable[[Path], Reference]) -> Callable[[Path, pytest.MonkeyPatch], Task]:
    def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
        bind = from_variants(table(folder / "v.tsv")).bind
        assert bind is not None
        return bind(reference(folder))

    return make


def beds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    for name, shift in (("pos", 0), ("neg", 30)):
        (folder / f"{name}.bed").write_text(
            "".join(f"chr1\t{start + shift}\t{start + shift + 25}\n" for start in range(0, 900, 60))
        )
    bind = from_files([folder / "pos.bed", folder / "neg.bed"]).bind
    assert bind is not None
    return bind(Reference(genome(folder), build_store(maf(folder), folder / "store"), species(folder)))


def folder_of_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    for part, first in (("train", 0), ("test", 900)):
        path = folder / "set" / f"{part}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("sequence,label\n" + "".join(f"{CHROMOSOMES['1'][first + i * 20 :][:20]},{i % 2}\n" for i in range(40)))
    return from_files([folder / "set"])


def folder_of_texts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    for part in ("train", "test"):
        for number in range(8):
            path = folder / "set" / part / "ab"[number % 2] / f"{part}{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(CHROMOSOMES["1" if part == "train" else "2"][number * 20 :][:20])
    return from_files([folder / "set"])


@pytest.fixture(
    params={
        "rbp": (protein, {"train.csv", "dev.csv", "test.csv"}),
        "public": (public(lambda folder: Reference()), {"clinvar.parquet", "hg38.2bit"}),
        "public, reference": (
            public(lambda folder: Reference(genome(folder), maf(folder), species(folder), context=32)),
            {"clinvar.parquet", "genome.fa.gz", "alignment.maf", "species.txt"},
        ),
        "own": (own(lambda folder: Reference(genome(folder))), {"v.tsv", "genome.fa.gz"}),
        "own, store": (
            own(lambda folder: Reference(alignment=build_store(maf(folder), folder / "store"))),
            {"v.tsv", "store.json", *(f"{number}.npy" for number in range(len(CHROMOSOMES)))},
        ),
        "intervals": (
            beds,
            {"pos.bed", "neg.bed", "genome.fa.gz", "species.txt", "store.json", "1.npy"},
        ),
        "parts": (folder_of_parts, {"train.csv", "test.csv"}),
        "texts": (folder_of_texts, {f"{part}{number}.txt" for part in ("train", "test") for number in range(8)}),
    }.items(),
    ids=lambda case: case[0],
)
def case(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Task, set[str], Path]:
    make, names = request.param[1]
    return make(tmp_path, monkeypatch), names, tmp_path


def test_every_file_that_load_opens_is_among_the_inputs(case: tuple[Task, set[str], Path]) -> None:
    task, names, folder = case
    assert task.inputs is not None
    listed = [path.resolve() for path in task.inputs()]
    found = opened_by(task, folder)
    assert names <= {path.name for path in found}
    for path in found:
        assert any(path == item or item in path.parents for item in listed), f"load reads {path}, which inputs does not list"


def test_a_change_of_any_of_them_is_noticed(case: tuple[Task, set[str], Path]) -> None:
    task, names, folder = case
    assert task.inputs is not None
    assert file_states(task.inputs()) == file_states(task.inputs())
    for name in sorted(names):
        (path,) = folder.rglob(name)
        before = file_states(task.inputs())
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        touched = file_states(task.inputs())
        path.write_bytes(path.read_bytes() + b" ")
        changed = file_states(task.inputs())
        path.unlink()
        assert len({str(states) for states in (before, touched, changed, file_states(task.inputs()))}) == 4, name


def test_the_data_folder_is_looked_up_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QKI", "clinvar"):
        task = registry.tasks()[name]
        assert task.inputs is not None
        monkeypatch.setenv("HARNESS_DATA", str(tmp_path / name))
        assert list(task.inputs()) == [sources.locate(source) for source in task.sources]
        assert all(path.is_relative_to(tmp_path / name) for path in task.inputs())


def test_simulated_samples_read_no_file(tmp_path: Path) -> None:
    for name in ("QKI", "clinvar"):
        sample = registry.tasks()[name].sample
        assert sample is not None
        assert sample.inputs is not None
        assert list(sample.inputs()) == []
        assert opened_by(sample, tmp_path) == set()
