"""What a run reads, taken to a machine that has nothing of it: another data folder, another weights folder, other paths."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, random_windows
from safetensors.numpy import save_file
from test_sources import Server, server  # noqa: F401

from harness.errors import DownloadFailed, UserError
from harness.files import sources
from harness.study import on_ray, transport
from harness.study.on_ray import perform
from harness.study.plan import Run, open_task, plan
from harness.study.transport import pack, unpack
from harness.study.work import Worker


def write_table(path: Path, seed: int = 0) -> Path:
    """A user's table of 60 windows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    windows = random_windows(60, 30, seed)
    lines = [f"{window.sequence},{'yes' if number % 2 else 'no'}" for number, window in enumerate(windows)]
    path.write_text("\n".join(["sequence,label", *lines]) + "\n")
    return path


def sent(run: Run, root: Path) -> Run:
    parcel = pack(run)
    return unpack(parcel, [Path(path).read_bytes() for path in parcel.shipped], root)


def test_a_users_own_files_are_executed_elsewhere_as_the_same_run(tmp_path):
    (run,) = plan("gc", str(write_table(tmp_path / "here" / "mine.csv")), device="cpu")
    parcel = pack(run)
    assert (parcel.shipped, parcel.expected, parcel.sources) == ([str(tmp_path / "here" / "mine.csv")], [], [])
    contents = [Path(path).read_bytes() for path in parcel.shipped]
    (wanted,) = Worker(tmp_path / "near").work([run])
    shutil.rmtree(tmp_path / "here")  # the other machine does not have it
    outcome = perform(parcel, *contents)
    assert outcome.refused == ""
    assert wanted is not None
    assert outcome.predictions == (tmp_path / "near" / wanted.folder / "predictions.csv").read_bytes()


def test_the_record_names_the_paths_that_the_user_knows(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(on_ray, "unpack", lambda parcel, contents, root: seen.append(root) or unpack(parcel, contents, root))
    (run,) = plan("gc", str(write_table(tmp_path / "mine.csv")), device="cpu")
    outcome = perform(pack(run), (tmp_path / "mine.csv").read_bytes())
    assert str(seen[0]).encode() not in outcome.record
    assert not seen[0].exists()  # nothing is left on the node


@pytest.mark.parametrize("kind", ["folder", "parts", "variants"])
def test_folders_parts_and_variants_keep_their_id_and_their_content(tmp_path, kind):
    here = tmp_path / "here"
    if kind == "folder":
        for number, part in enumerate(("train", "dev", "test")):
            write_table(here / "set" / f"{part}.csv", number)
        (run,) = plan("gc", str(here / "set"), device="cpu")
    elif kind == "parts":
        files = {part: str(write_table(here / f"{part}.csv", number)) for number, part in enumerate(("train", "test"))}
        (run,) = plan("gc", **files, device="cpu")
    else:
        genome = "".join(window.sequence for window in random_windows(1, 40_000))
        here.mkdir()
        (here / "genome.fa").write_text(f">chr17\n{genome}\n")
        rows = ["chrom,pos,ref,alt,label"]
        for number in range(80):
            position = 200 + 450 * number
            reference = genome[position - 1]
            rows.append(f"17,{position},{reference},{'CGTA'['ACGT'.index(reference)]},{number % 2}")
        (here / "snvs.csv").write_text("\n".join(rows) + "\n")
        (run,) = plan("gc", f"variants:{here / 'snvs.csv'}", genome=here / "genome.fa", device="cpu")
    parcel = pack(run)
    contents = [Path(path).read_bytes() for path in parcel.shipped]
    sequences = [window.sequence for example in open_task(run)[1].test for window in example.windows]
    shutil.move(here, tmp_path / "elsewhere")
    moved = unpack(parcel, contents, tmp_path / "node")
    assert moved.task != run.task
    assert moved.id == run.id
    assert [window.sequence for example in open_task(moved)[1].test for window in example.windows] == sequences
    assert perform(parcel, *contents).refused == ""


def test_a_checkpoint_travels_with_what_lies_beside_it(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    save_file({"weight": np.zeros(3, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "notes.md").write_text("not read")
    (run,) = plan("gc", "QKI", device="cpu")
    run = Run.from_json(run.to_json() | {"checkpoint": str(folder / "model.safetensors")})
    assert sorted(Path(path).name for path in pack(run).shipped) == ["config.json", "model.safetensors"]
    before = run.model_request().fingerprint()
    moved = sent(run, tmp_path / "node")
    assert moved.checkpoint == str(tmp_path / "node") + str(folder / "model.safetensors")
    assert moved.model_request().fingerprint() == before


def test_what_is_too_large_has_to_lie_at_the_same_path(tmp_path, monkeypatch):
    path = write_table(tmp_path / "here" / "mine.csv")
    (run,) = plan("gc", str(path), device="cpu")
    monkeypatch.setattr(transport, "MAX_SHIPPED", 100)
    parcel = pack(run)
    assert (parcel.shipped, parcel.expected) == ([], [str(path)])
    assert perform(parcel).refused == ""  # it does lie there
    path.unlink()
    refused = perform(parcel).refused
    assert refused.startswith(f"{path}: is not on ")
    assert "copy it there" in refused


def test_other_content_at_the_same_path_is_not_taken_for_what_was_planned(tmp_path, monkeypatch):
    path = write_table(tmp_path / "mine.csv")
    (run,) = plan("gc", str(path), device="cpu")
    monkeypatch.setattr(transport, "MAX_SHIPPED", 100)
    parcel = pack(run)
    write_table(path, seed=1)
    assert "the data changed since the run was planned" in perform(parcel).refused


def test_other_code_on_a_node_is_refused(tmp_path):
    (run,) = plan("gc", "QKI", device="cpu")
    other = Run.from_json(run.to_json() | {"code": "0" * 64})
    assert "the code changed since the run was planned" in perform(pack(other)).refused


def test_a_model_that_is_a_file_travels_unless_it_imports_what_lies_beside_it(tmp_path):
    model = tmp_path / "mine.py"
    model.write_text(
        (Path(on_ray.__file__).parents[2] / "adapters" / "gc.py").read_text().replace("from ._", "from harness.adapters._")
    )
    (run,) = plan("gc", "QKI", device="cpu")
    run = Run.from_json(run.to_json() | {"model": str(model)})
    assert pack(run).shipped == [str(model)]
    (tmp_path / "helper.py").write_text("X = 1\n")
    model.write_text(model.read_text() + "\nimport helper\n")
    assert (pack(run).shipped, pack(run).expected) == ([], [str(model)])


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs {SHARED}, which holds real data")
def test_a_public_set_is_fetched_into_the_nodes_own_data_folder(server: Server, tmp_path, monkeypatch):  # noqa: F811
    (source, *_) = files = sources.find_sources("QKI")
    for one in files:
        sources.locate(one).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SHARED / "data" / "rbp" / "QKI_K562_IDR" / Path(one.path).name, sources.locate(one))
        server.files["/" + one.url.split("://", 1)[1]] = sources.locate(one).read_bytes()
    (run,) = plan("gc", "QKI", device="cpu")
    parcel = pack(run)
    assert (len(parcel.sources), parcel.shipped) == (3, [])
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "node"))
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    with pytest.raises(DownloadFailed, match="HARNESS_OFFLINE"):
        unpack(parcel, [], tmp_path / "root")
    assert "HARNESS_OFFLINE" in perform(parcel).refused
    monkeypatch.delenv("HARNESS_OFFLINE")
    monkeypatch.setenv("HARNESS_MIRROR", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert unpack(parcel, [], tmp_path / "root").id == run.id
    assert sources.locate(source).is_relative_to(tmp_path / "node")
    assert len(server.requests) == 3
    assert perform(parcel).refused == ""


def test_a_data_file_that_nobody_can_fetch_is_named(tmp_path, monkeypatch):
    path = write_table(sources.data_home() / "mine.csv")
    (run,) = plan("gc", str(path), device="cpu")
    parcel = pack(run)
    assert parcel.data == ["mine.csv"]
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "node"))
    with pytest.raises(UserError, match=r"node/mine\.csv: is not on "):
        unpack(parcel, [], tmp_path / "root")
