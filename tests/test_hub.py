"""Official weights: fetched from a hub on this machine, verified, found again, and never replaced by random ones unasked."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from test_cli import refused

from harness import registry
from harness.errors import UserError
from harness.files.hub import resolve

PRETRAINED = [name for name, card in registry.model_cards().items() if card.checkpoint]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download needs: /owner/name/resolve/revision/file, with its headers."""

    content = b"weights" * 1000
    broken: ClassVar[set[str]] = set()
    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        Hub.asked.append(self.path)
        if "/resolve/" not in self.path or self.path.rsplit("/", 1)[-1] in Hub.broken:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        if body:
            self.wfile.write(self.content[start:])

    def log_message(self, format, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    Hub.broken, Hub.asked = set(), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "HARNESS_WEIGHTS": str(tmp_path / "weights"),
    }
    server.shutdown()


def test_get_path_verify(harness, hub, tmp_path):
    name = "dnabert1"
    card = registry.model_cards()[name]
    refused(harness("weights", "path", name, **hub), "harness weights get dnabert1", "--init random")
    done = harness("weights", "get", name, **hub)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "weights" / card.checkpoint.replace("/", "--") / (card.revision or "main")
    assert done.stdout.strip() == str(folder)
    assert all((folder / file).read_bytes() == Hub.content for file in card.files)
    resolved = [path for path in Hub.asked if "/resolve/" in path]
    assert all(f"/{card.checkpoint}/resolve/{card.revision or 'main'}/" in path for path in resolved)
    assert harness("weights", "verify", name, **hub).returncode == 0
    assert harness("weights", "path", name, **hub, HARNESS_OFFLINE="1").stdout.strip() == str(folder)
    (folder / card.files[-1]).write_bytes(b"changed")
    verified = harness("weights", "verify", name, **hub)
    assert verified.returncode == 1
    assert "wrong checksum" in verified.stdout


def test_a_published_checksum_that_does_not_match(harness, hub, tmp_path):
    known = [name for name in PRETRAINED if registry.model_cards()[name].sha256]
    if not known:
        pytest.skip("no card states a checksum")
    done = harness("weights", "get", known[0], **hub)
    assert done.returncode == 2
    assert "not the published" in done.stderr
    assert list((tmp_path / "weights").rglob("*.bad"))
    refused(harness("weights", "path", known[0], **hub), "harness weights get")


def test_offline_and_missing_files_say_what_to_do(harness, hub):
    done = harness("weights", "get", "dnabert1", **hub, HARNESS_OFFLINE="1")
    assert done.returncode == 1
    assert "HARNESS_OFFLINE" in done.stderr
    assert "by hand" in done.stderr
    Hub.broken = set(registry.model_cards()["dnabert1"].files)
    done = harness("weights", "get", "dnabert1", **hub)
    assert done.returncode == 1
    assert "cannot be fetched" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pretrained_model_never_trains_from_scratch_unasked(harness, tmp_path):
    done = harness("run", "--model", "dnabert1", "--task", "QKI", HARNESS_WEIGHTS=str(tmp_path / "none"))
    refused(done, "harness weights get dnabert1", "--init random")
    assert not (tmp_path / "results").exists()


def test_what_checkpoint_names(tmp_path):
    card = registry.model_cards()["dnabert1"]
    assert resolve("dnabert1", card, str(tmp_path)) == tmp_path
    with pytest.raises(UserError, match="no such file or folder"):
        resolve("dnabert1", card, "not/a/hub/id")
