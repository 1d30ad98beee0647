"""What the hub or the disk refuses: gated, private, absent, no room. One line with the remedy, and nothing that looks whole."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from test_cli import refused

from harness import registry
from harness.errors import DataMissing, UserError
from harness.files import hub

CARD = registry.model_cards()["dnabert1"]


class Answering(BaseHTTPRequestHandler):
    """A hub that answers every request with one status, or with a file of zeros."""

    status: ClassVar[int] = 200
    code: ClassVar[str] = ""
    content: ClassVar[bytes] = bytes(1 << 20)

    def do_GET(self):
        body = self.content if self.status == 200 else b""
        self.send_response(self.status)
        if self.code:
            self.send_header("X-Error-Code", self.code)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(Answering, "status", 200)
    monkeypatch.setattr(Answering, "code", "")
    monkeypatch.setattr("harness.files.sources.PAUSE", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        settings = {
            "HF_ENDPOINT": f"http://127.0.0.1:{running.server_port}",
            "HARNESS_WEIGHTS": str(tmp_path / "weights"),
            "HARNESS_OFFLINE": "0",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield settings
        running.shutdown()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "GatedRepo", "asks for consent: accept the terms at {endpoint}/owner/name, then set HF_TOKEN to a token of that"),
        (403, "GatedRepo", "asks for consent: accept the terms at {endpoint}/owner/name, then set HF_TOKEN"),
        (403, "", "asks for consent"),
        (401, "RepoNotFound", "no such repository or file, or a private one, which needs HF_TOKEN"),
        (404, "RepoNotFound", "no such repository or file, or a private one, which needs HF_TOKEN"),
        (404, "", "no such repository or file, or a private one"),
        (404, "EntryNotFound", "the repository lacks this file"),
        (404, "RevisionNotFound", "the repository has no such revision"),
        (400, "", "check the network"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_its_remedy(server, monkeypatch, tmp_path, status, code, words):
    monkeypatch.setattr(Answering, "status", status)
    monkeypatch.setattr(Answering, "code", code)
    with pytest.raises(DataMissing) as caught:
        hub.resolve("dnabert1", CARD, "owner/name")
    message = str(caught.value)
    assert words.format(endpoint=server["HF_ENDPOINT"]) in message
    assert f"HTTP {status}" in message
    assert code in message
    assert "\n" not in message
    assert not [path for path in (tmp_path / "weights").rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_an_account_without_access_is_told_apart_from_none(server, monkeypatch):
    monkeypatch.setattr(Answering, "status", 403)
    monkeypatch.setattr(Answering, "code", "GatedRepo")
    monkeypatch.setattr(hub, "_authorisation", lambda url: {"Authorization": "Bearer x"})
    with pytest.raises(DataMissing, match="try again; the account of HF_TOKEN has no access yet"):
        hub.resolve("dnabert1", CARD, "owner/name")
    monkeypatch.setattr(Answering, "status", 404)
    monkeypatch.setattr(Answering, "code", "RepoNotFound")
    with pytest.raises(DataMissing, match="a private one, which the account of HF_TOKEN may not read"):
        hub.resolve("dnabert1", CARD, "owner/name")


def test_a_gated_model_stops_a_run_before_anything_is_written(harness, server, monkeypatch, tmp_path):
    monkeypatch.setattr(Answering, "status", 401)
    monkeypatch.setattr(Answering, "code", "GatedRepo")
    done = harness("run", "--model", "dnabert1", "--task", "QKI", "--checkpoint", "owner/name", **server)
    refused(done, "checkpoint 'owner/name'", "accept the terms at", "HF_TOKEN")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing_that_looks_whole(harness, server, tmp_path):
    folder = tmp_path / "weights/owner--name/main"
    folder.mkdir(parents=True)
    for file in CARD.files:
        (folder / f"{file}.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"no space left on the disk; make room .*or set HARNESS_WEIGHTS") as caught:
        hub.fetch("dnabert1", CARD, "owner/name")
    assert "\n" not in str(caught.value)
    assert not any((folder / file).exists() for file in CARD.files)
    refused(
        harness("run", "--model", "dnabert1", "--task", "QKI", "--checkpoint", "owner/name", **server),
        "no space left on the disk",
    )
    for file in CARD.files:
        (folder / f"{file}.part").unlink()
    assert hub.fetch("dnabert1", CARD, "owner/name") == folder
    assert (folder / CARD.files[0]).read_bytes() == Answering.content
