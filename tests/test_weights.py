"""What ``--checkpoint`` names, weights that were copied by hand, and what happens without a network."""

from __future__ import annotations

import hashlib
import socket
import time
from dataclasses import replace

import pytest
from test_cli import refused
from test_hub import Hub, hub  # noqa: F401

from harness import registry
from harness.errors import BadData, ChecksumMismatch, DataMissing, DownloadFailed
from harness.files import hub as weights
from harness.files.hub import SUMS

CARD = registry.model_cards()["dnabert1"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("HARNESS_OFFLINE", raising=False)
    monkeypatch.setattr("harness.files.sources.PAUSE", 0.0)
    return tmp_path / "weights"


@pytest.fixture
def endpoint(hub, monkeypatch):  # noqa: F811
    for name, value in hub.items():
        monkeypatch.setenv(name, value)


def copied(card=CARD, content=b"weights"):
    folder = weights.locate(card.checkpoint, card.revision)
    folder.mkdir(parents=True)
    for file in card.files:
        (folder / file).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "given",
    [
        "./none",
        "../none/x",
        "/none",
        "~/none",
        "~nobody-of-this-name/x",
        "dir/model.pt",
        "owner/weights.safetensors",
        "a/last.ckpt",
        "x.npz",
        "owner/name/more",
        "name",
        "owner/..",
        "own er/name",
        "owner/name@../up",
        "/dev/zero",
        "x" * 5000,
        "a\x00b",
    ],
)
def test_what_is_no_hub_id_is_never_asked_of_the_hub(given, monkeypatch):
    monkeypatch.setattr(weights, "fetch", lambda *given: pytest.fail("asked"))
    with pytest.raises(DataMissing, match=r"checkpoint .*(no such file or folder|not a path)") as caught:
        weights.resolve("dnabert1", CARD, given)
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 400


def test_what_exists_is_a_path_whatever_it_looks_like(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/name").mkdir(parents=True)
    assert str(weights.resolve("dnabert1", CARD, "owner/name")) == "owner/name"


@pytest.mark.usefixtures("endpoint")
def test_an_unknown_repository_is_one_line_at_once():
    Hub.broken = set(CARD.files)
    with pytest.raises(DataMissing, match=r"checkpoint 'owner/none': .*HTTP 404.*no such repository or file") as caught:
        weights.resolve("dnabert1", CARD, "owner/none")
    assert caught.value.exit_code == 2
    assert len(Hub.asked) == 1
    Hub.broken = set()
    assert weights.resolve("dnabert1", CARD, "owner/other@v1.0").parts[-2:] == ("owner--other", "v1.0")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_without_a_network_nothing_is_tried_again(harness, address):
    begun = time.monotonic()
    done = harness("run", "--model", "dnabert1", "--task", "QKI", "--checkpoint", "owner/none", HF_ENDPOINT=address)
    refused(done, "checkpoint 'owner/none': no such file or folder here", "check the network")
    assert len(done.stderr.splitlines()) == 1  # nothing of other libraries
    assert time.monotonic() - begun < 5


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr("harness.files.download.CONNECT", 0.2)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:  # fill the queue: further connections are not answered
            one.setblocking(False)
            one.connect_ex(busy.getsockname())
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{busy.getsockname()[1]}")
        begun = time.monotonic()
        with pytest.raises(DownloadFailed, match="timed out"):
            weights.fetch("dnabert1", CARD)
        assert time.monotonic() - begun < 3
        for one in waiting:
            one.close()


@pytest.mark.usefixtures("endpoint")
def test_a_cut_download_is_resumed_or_begun_anew():
    folder = weights.locate(CARD.checkpoint, CARD.revision)
    folder.mkdir(parents=True)
    (folder / f"{CARD.files[0]}.part").write_bytes(b"half")  # of who knows what
    assert (weights.fetch("dnabert1", CARD) / CARD.files[0]).read_bytes() == Hub.content
    assert not list(folder.glob("*.part*"))


def test_files_copied_by_hand_are_accepted_and_remembered(harness):
    folder = copied()
    assert weights.official("dnabert1", CARD) == folder == weights.fetch("dnabert1", CARD)
    assert len((folder / SUMS).read_text().splitlines()) == len(CARD.files)
    assert set(weights.verify(CARD).values()) == {"ok"}
    (folder / CARD.files[0]).write_bytes(b"changed")
    assert weights.verify(CARD)[folder / CARD.files[0]] == "wrong checksum"
    assert harness("weights", "verify", "dnabert1").returncode == 1


def test_files_copied_by_hand_are_compared_with_the_card():
    right = hashlib.sha256(b"weights").hexdigest()
    folder = copied()
    with pytest.raises(ChecksumMismatch, match=r"is not the published 000000000000….*delete it and fetch it"):
        weights.official("dnabert1", replace(CARD, sha256={CARD.files[0]: "0" * 64}))
    assert not (folder / SUMS).exists()
    assert weights.official("dnabert1", replace(CARD, sha256={CARD.files[0]: right})) == folder


def test_some_of_the_files_are_not_the_weights():
    folder = copied()
    (folder / CARD.files[-1]).unlink()
    with pytest.raises(DataMissing, match=rf"dnabert1: {CARD.files[-1]} of its weights .*`harness weights get dnabert1`"):
        weights.official("dnabert1", CARD)
    (folder / CARD.files[-1]).write_bytes(b"")
    with pytest.raises(BadData, match="is empty"):
        weights.official("dnabert1", CARD)


@pytest.mark.usefixtures("endpoint")
@pytest.mark.parametrize("damage", [b"", b"half a li", b"\xff\xfe", b"0" * 64 + b"  other.bin\n"])
def test_damaged_checksums_of_another_fetch_block_nothing(damage):
    folder = weights.locate(CARD.checkpoint, CARD.revision)
    folder.mkdir(parents=True)
    (folder / SUMS).write_bytes(damage)
    assert weights.fetch("dnabert1", CARD) == folder
    assert set(weights.verify(CARD).values()) == {"ok"}


@pytest.mark.usefixtures("endpoint")
def test_a_failed_fetch_leaves_nothing_that_looks_like_success():
    Hub.broken = set(CARD.files)
    with pytest.raises(DownloadFailed):
        weights.fetch("dnabert1", CARD)
    Hub.broken = set()
    with pytest.raises(DataMissing):
        weights.official("dnabert1", CARD)
    weights.fetch("dnabert1", CARD)
    assert weights.official("dnabert1", CARD)


def test_an_address_of_another_kind_is_refused(harness):
    done = harness("weights", "get", "dnabert1", HF_ENDPOINT="file:///etc")
    assert done.returncode == 2
    assert "check HF_ENDPOINT" in done.stderr


def test_a_folder_that_cannot_be_written(harness, tmp_path):
    (tmp_path / "file").write_text("")
    done = harness("weights", "get", "dnabert1", HARNESS_WEIGHTS=str(tmp_path / "file"))
    assert done.returncode == 2
    assert "set HARNESS_WEIGHTS" in done.stderr


@pytest.mark.usefixtures("endpoint")
def test_a_token_is_sent_over_https_only(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    assert weights._authorisation("http://127.0.0.1/x") == {}
    assert weights._authorisation("https://huggingface.co/x") == {"Authorization": "Bearer hf_made_up"}
