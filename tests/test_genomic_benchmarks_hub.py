"""Ready sequences of the hub: where they lie, what their labels stand for, and their download."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas
import pytest
from made_genomic_benchmarks import genome, intervals, letters, tiles
from test_sources import Server, server  # noqa: F401

from harness import registry
from harness.errors import BadData, DataMissing, DownloadFailed, UserError
from harness.files.hub import dataset_files
from harness.files.sources import data_home, fetch, locate
from harness.task import Reference, Splits, Task
from harness.tasks._gb_facts import FILES, PARTS, SETS, File

COHN, REGULATORY, OCR = "human_enhancers_cohn", "human_ensembl_regulatory", "human_ocr_ensembl"
WORM, NONTATA = "demo_human_or_worm", "human_nontata_promoters"
pytestmark = pytest.mark.usefixtures("own_cache")


def counts(monkeypatch: pytest.MonkeyPatch, task: str, **rows: tuple[int, int]) -> None:
    """Say that the published set has so many windows of each class, in train and test."""
    files = {label: tuple(File(n, 0, "0" * 64) for n in rows[label]) for label in SETS[task].classes}
    monkeypatch.setitem(FILES, task, files)


def sequences(task: str, part: str, label: str, count: int) -> list[str]:
    seed = int(hashlib.sha256(f"{task}{part}{label}".encode()).hexdigest()[:8], 16)
    text = letters(count * 120, seed)
    return [text[start : start + 120] for start in range(0, len(text), 120)]


def hub(folder: Path, rows: dict[str, Sequence[tuple[str, int]]], form: str = "parquet") -> Path:
    """A folder in the hub's layout."""
    data = folder / "data"
    data.mkdir(parents=True)
    for part in PARTS:
        frame = pandas.DataFrame(rows[part], columns=["seq", "label"])
        if form == "parquet":
            frame.to_parquet(data / f"{part}-00000-of-00001-0123456789abcdef.parquet")
        else:
            frame.to_csv(data / f"{part}.csv.gz", index=False)
    return folder


def mixed(task: str, order: Sequence[str], **sizes: tuple[int, int]) -> dict[str, list[tuple[str, int]]]:
    """Rows of every class with the labels 0, 1, … of this order, shuffled."""
    found = {}
    for index, part in enumerate(PARTS):
        rows = [(text, order.index(label)) for label in order for text in sequences(task, part, label, sizes[label][index])]
        found[part] = sorted(rows, key=lambda row: row[0])
    return found


def bound(task: str, source: str | Path = "hub") -> Task:
    bind = registry.tasks()[task].bind
    assert bind is not None
    return bind(Reference(source=str(source)))


def labels(splits: Splits, task: str) -> dict[str, str]:
    return {
        example.windows[0].sequence: SETS[task].classes[example.label]
        for part in (splits.train, splits.validation, splits.test)
        for example in part
    }


@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize("where", ["the data folder", "a folder", "a folder of several tasks"])
def test_regulatory_is_promoter_enhancer_ocr(monkeypatch, tmp_path, form, where):
    sizes = {"enhancer": (30, 10), "ocr": (20, 10), "promoter": (40, 10)}
    counts(monkeypatch, REGULATORY, **sizes)
    rows = mixed(REGULATORY, ("promoter", "enhancer", "ocr"), **sizes)
    folder = {"the data folder": data_home() / "genomic_benchmarks/hub" / REGULATORY, "a folder": tmp_path / "mine"}
    hub(folder.get(where, tmp_path / "several" / REGULATORY), rows, form)
    source = {"the data folder": "hub", "a folder": tmp_path / "mine"}.get(where, tmp_path / "several")
    splits = bound(REGULATORY, source).load("published")
    for text, label in labels(splits, REGULATORY).items():
        assert any(text in sequences(REGULATORY, part, label, 40) for part in PARTS)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [81, 9, 30]
    assert Counter(example.label for example in splits.validation) == {0: 3, 1: 2, 2: 4}
    assert {name.split("/")[0] for name in splits.files} == {REGULATORY}
    assert len(splits.files) == 2


@pytest.mark.parametrize("order", [("negative", "positive"), ("positive", "negative")])
def test_numbers_of_windows_tell_the_order(monkeypatch, tmp_path, order):
    """As of the real human_enhancers_cohn, which has one negative more than positives."""
    sizes = {"negative": (21, 7), "positive": (20, 7)}
    counts(monkeypatch, COHN, **sizes)
    splits = bound(COHN, hub(tmp_path / "mine", mixed(COHN, order, **sizes))).load("published")
    found = labels(splits, COHN)
    assert all(found[text] == "positive" for text in sequences(COHN, "train", "positive", 20))
    assert any(note.startswith(f"labels 0, 1, … are {', '.join(order)}, as the numbers") for note in splits.notes)


@pytest.mark.parametrize("order", [("human", "worm"), ("worm", "human")])
def test_letters_of_the_intervals_tell_the_order(monkeypatch, tmp_path, order):
    human, worm = tiles("chr1", 40, 120, 150), tiles("I", 40, 120, 150)
    intervals(monkeypatch, WORM, human=(human[:30], human[30:]), worm=(worm[:30], worm[30:]))
    texts = {"human": letters(6000, 1), "worm": letters(6000, 2)}
    genome("hg38", {"chr1": texts["human"]})
    genome("ce11", {"chrI": texts["worm"]})
    rows = {
        part: [(texts[label][start:end], order.index(label)) for label in order for _, start, end, _ in chosen]
        for part, chosen in (("train", human[:30]), ("test", human[30:]))
    }
    splits = bound(WORM, hub(tmp_path / "mine", rows)).load("published")
    found = labels(splits, WORM)
    assert (found[texts["human"][:120]], found[texts["worm"][:120]]) == ("human", "worm")
    assert any(note.startswith(f"labels 0, 1, … are {', '.join(order)}, as the letters") for note in splits.notes)


def test_labels_that_contradict_the_letters_are_refused(monkeypatch, tmp_path):
    human, worm = tiles("chr1", 40, 120, 150), tiles("I", 40, 120, 150)
    intervals(monkeypatch, WORM, human=(human[:30], human[30:]), worm=(worm[:30], worm[30:]))
    genome("hg38", {"chr1": letters(6000, 1)})
    genome("ce11", {"chrI": letters(6000, 2)})
    rows = mixed(WORM, ("human", "worm"), human=(30, 10), worm=(30, 10))  # of other genomes
    with pytest.raises(BadData, match="label 0 cannot be told: 0 of 0 intervals"):
        bound(WORM, hub(tmp_path / "mine", rows)).load("published")


def test_an_order_that_nothing_tells_is_assumed_and_said(monkeypatch, tmp_path):
    sizes = {"human": (20, 10), "worm": (20, 10)}
    counts(monkeypatch, WORM, **sizes)
    splits = bound(WORM, hub(tmp_path / "mine", mixed(WORM, ("human", "worm"), **sizes))).load("published")
    assert "the order of the labels is assumed to be alphabetical (human, worm), and not verified" in splits.notes
    assert any("overlaps are not seen" in note for note in splits.notes)


def test_the_real_counts_are_wanted(tmp_path):
    rows = mixed(NONTATA, ("negative", "positive"), negative=(20, 10), positive=(20, 10))
    with pytest.raises(BadData, match=r"20 of train labelled 0, .*the published human_nontata_promoters has 12,355 of train neg"):
        bound(NONTATA, hub(tmp_path / "mine", rows)).load("published")
    reversed_rows = mixed(OCR, ("positive", "negative"), negative=(1, 1), positive=(2, 2))
    with pytest.raises(BadData, match="2 of train labelled 0"):
        bound(OCR, hub(tmp_path / "other", reversed_rows)).load("published")


def test_a_checked_order_is_not_turned_round(monkeypatch, tmp_path):
    sizes = {"negative": (20, 10), "positive": (30, 10)}
    counts(monkeypatch, NONTATA, **sizes)
    rows = mixed(NONTATA, ("positive", "negative"), **sizes)
    with pytest.raises(BadData, match="30 of train labelled 0"):
        bound(NONTATA, hub(tmp_path / "mine", rows)).load("published")


def test_rows_that_are_no_examples(monkeypatch, tmp_path):
    counts(monkeypatch, NONTATA, negative=(1, 1), positive=(1, 1))
    good = [("ACGT", 0), ("ACGA", 1)]
    for number, (wrong, message) in enumerate(
        [(("ACGT", 2), "row 2: label '2', expected a number from 0 to 1"), (("ACXT", 1), "row 2: letters 'X'")]
    ):
        folder = hub(tmp_path / str(number), {"train": [good[0], wrong], "test": good})
        with pytest.raises(BadData, match=message):
            bound(NONTATA, folder).load("published")


def test_what_is_not_there_or_does_not_fit(harness, tmp_path):
    with pytest.raises(DataMissing, match=r"no .*hub/human_nontata_promoters/data/train-.*`harness data get .* --source hub`"):
        bound(NONTATA).load("published")
    with pytest.raises(UserError, match="letters of their own; leave --genome or source out"):
        registry.tasks()[NONTATA].bind(Reference(Path("x.fa"), source="hub"))
    with pytest.raises(UserError, match="whose places in the genome are not known; leave --msa or source out"):
        registry.tasks()[NONTATA].bind(Reference(None, Path("x.maf"), source="hub"))
    done = harness("run", "--model", "gc", "--task", NONTATA, "--option", "source=hub")
    assert done.returncode == 2
    assert "--source hub` fetches them" in done.stderr
    done = harness("run", "--model", "gc", "--task", "QKI", "--option", "source=hub")
    assert done.returncode == 2


def test_a_run_from_the_hub(monkeypatch, harness, tmp_path):
    sizes = {"negative": (40, 20), "positive": (40, 20)}
    counts(monkeypatch, NONTATA, **sizes)
    folder = hub(tmp_path / "mine", mixed(NONTATA, ("negative", "positive"), **sizes))
    done = harness("run", "--model", "gc", "--task", NONTATA, "--option", f"source={folder}")
    assert done.returncode == 0, done.stderr
    assert "72 / 8 / 40 windows" in done.stdout + done.stderr


# --- the download -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hosted(server: Server, monkeypatch) -> dict[str, bytes]:  # noqa: F811
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    files = {}
    for part in PARTS:
        buffer = io.BytesIO()
        pandas.DataFrame({"seq": ["ACGT"], "label": [0]}).to_parquet(buffer)
        files[f"data/{part}-00000-of-00001-ab.parquet"] = buffer.getvalue()
    listing = {
        "sha": "c0ffee",
        "siblings": [
            {"rfilename": ".gitattributes"},
            {"rfilename": "README.md"},
            *(
                {"rfilename": name, "size": len(content), "lfs": {"sha256": hashlib.sha256(content).hexdigest()}}
                for name, content in files.items()
            ),
        ],
    }
    repository = f"katarinagresova/Genomic_Benchmarks_{NONTATA}"
    server.files[f"/api/datasets/{repository}/revision/main?blobs=true"] = json.dumps(listing).encode()
    for name, content in files.items():
        server.files[f"/datasets/{repository}/resolve/c0ffee/{name}"] = content
    return files


def test_the_hub_is_asked_for_names_and_checksums(hosted, harness):
    done = harness("data", "get", NONTATA, "--source", "hub")
    assert done.returncode == 0, done.stderr
    for name, content in hosted.items():
        assert (data_home() / "genomic_benchmarks/hub" / NONTATA / name).read_bytes() == content


def test_a_changed_file_of_the_hub_is_refused(hosted, server, harness):  # noqa: F811
    for path in list(server.files):
        if path.endswith(".parquet"):
            server.files[path] += b"x"
    done = harness("data", "get", NONTATA, "--source", "hub")
    assert done.returncode == 2
    assert "is not the published" in done.stderr


def test_a_hub_that_cannot_be_asked(hosted, server, harness, monkeypatch):  # noqa: F811
    for listing in (b"<html>", b"{}", b'{"sha": "c0ffee", "siblings": [{"rfilename": "../x.parquet"}]}', b"[]"):
        server.files[f"/api/datasets/katarinagresova/Genomic_Benchmarks_{NONTATA}/revision/main?blobs=true"] = listing
        with pytest.raises(DownloadFailed, match="does not list its parquet files; check the network, or copy"):
            dataset_files(f"katarinagresova/Genomic_Benchmarks_{NONTATA}", "x")
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    with pytest.raises(DownloadFailed, match="HARNESS_OFFLINE is set"):
        dataset_files("a/b", "x")
    assert harness("data", "get", "QKI", "--source", "hub").returncode == 2
    assert harness("data", "get", NONTATA, "--source", "zenodo").returncode == 2


def test_files_fetched_are_found(hosted):
    for file in dataset_files(f"katarinagresova/Genomic_Benchmarks_{NONTATA}", f"genomic_benchmarks/hub/{NONTATA}"):
        assert fetch(file) == locate(file)
    with pytest.raises(BadData, match="1 of train labelled 0"):
        bound(NONTATA).load("published")
