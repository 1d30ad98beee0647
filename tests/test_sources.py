"""Downloads against a server on this machine: checksum, resume, mirror, offline, and what goes wrong."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.errors import ChecksumMismatch, DataMissing, DownloadFailed, UserError
from harness.files import sources
from harness.task import Source

CONTENT = bytes(range(256)) * 5000  # 1.28 MB: several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Gives CONTENT at every path; the attributes make it misbehave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.statuses: list[int] = []  # answered first, one a request
        self.cuts: list[int] = []  # the connection ends after so many bytes, one a request
        self.ranges = True
        self.etag: str | None = None
        self.careless = False  # If-Range is not read
        self.length: int | None = None  # what Content-Length says instead of the truth
        self.type = "application/octet-stream"
        self.redirect = ""
        self.files: dict[str, bytes] = {}  # the content at these paths instead
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        if self.server.statuses:
            return self.send_error(self.server.statuses.pop(0))
        if self.server.redirect:
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body, start = self.server.files.get(self.path, self.server.content), 0
        changed = not self.server.careless and self.headers.get("If-Range") not in (None, self.server.etag)
        if wanted and self.server.ranges and not changed:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        length = len(body) - start if self.server.length is None else self.server.length
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", self.server.type)
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.end_headers()
        end = self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.wfile.write(body[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    for name in ("HARNESS_MIRROR", "HARNESS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(sources, "PAUSE", 0.01)
    return tmp_path / "data"


@pytest.fixture
def source(server: Server) -> Source:
    return Source(f"{server.url}/some/set.csv", SHA256, "family/set.csv")


def test_data_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert sources.data_home() == home
    monkeypatch.delenv("HARNESS_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert sources.data_home() == Path("/caches/gfm-harness/data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert sources.data_home() == Path.home() / ".cache/gfm-harness/data"


def test_fetch_verifies_and_reports_progress(server: Server, source: Source, home: Path) -> None:
    assert sources.verify(source) == "missing"
    assert sources.missing([source]) == [source]
    seen: list[tuple[int, int | None]] = []
    path = sources.fetch(source, lambda done, total: seen.append((done, total)))
    assert path == sources.locate(source) == home / "family/set.csv"
    assert path.read_bytes() == CONTENT
    assert sources.verify(source) == "ok"
    assert sources.missing([source]) == []
    assert sources.intact([source], "SET") == [path]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert sources.fetch(source) == path
    assert len(server.requests) == 1  # an intact file is not asked for again
    assert not list(home.rglob("*.part"))


def test_a_cut_download_is_resumed_within_one_fetch(server: Server, source: Source) -> None:
    server.cuts = [500_000]
    assert sources.fetch(source).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=500000-"]


def test_a_partial_file_of_an_earlier_process_is_resumed(server: Server, source: Source) -> None:
    part = sources.locate(source).with_name("set.csv.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    assert sources.verify(source) == "partial"
    assert sources.fetch(source).read_bytes() == CONTENT
    assert server.requests == [("/some/set.csv", "bytes=1000-")]


def test_a_server_without_ranges_starts_over(server: Server, source: Source) -> None:
    server.ranges, server.cuts = False, [500_000]
    assert sources.fetch(source).read_bytes() == CONTENT


def test_a_whole_partial_file_needs_no_server(server: Server, source: Source) -> None:
    part = sources.locate(source).with_name("set.csv.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert sources.fetch(source).read_bytes() == CONTENT
    assert server.requests == []


def test_a_partial_file_longer_than_the_file_starts_over(server: Server, source: Source) -> None:
    part = sources.locate(source).with_name("set.csv.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * (len(CONTENT) + 5))
    assert sources.fetch(source).read_bytes() == CONTENT


def test_a_wrong_download_is_kept_aside_and_never_used(server: Server, source: Source) -> None:
    server.content = CONTENT + b"tampered"
    with pytest.raises(ChecksumMismatch, match=r"set\.csv: sha256 .* kept as .*set\.csv\.bad, not used") as caught:
        sources.fetch(source)
    assert caught.value.exit_code == 2
    path = sources.locate(source)
    assert not path.exists()
    assert path.with_name("set.csv.bad").read_bytes() == CONTENT + b"tampered"
    assert sources.verify(source) == "missing"
    server.content = CONTENT
    assert sources.fetch(source).read_bytes() == CONTENT  # the bad bytes are not resumed


def test_a_damaged_file_is_refused_then_replaced(source: Source) -> None:
    path = sources.locate(source)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"sequence,label\n")
    assert sources.verify(source) == "wrong checksum"
    with pytest.raises(ChecksumMismatch, match=r"set\.csv: .*`harness data get SET`"):
        sources.intact([source], "SET")
    assert sources.fetch(source).read_bytes() == CONTENT
    assert path.with_name("set.csv.bad").read_bytes() == b"sequence,label\n"


def test_missing_data_says_how_to_get_it(source: Source) -> None:
    with pytest.raises(DataMissing, match=r"SET: 1 of 1 files are missing, .*`harness data get SET`"):
        sources.intact([source], "SET")


def test_mirror(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_MIRROR", f"{server.url}/mirror/")
    source = Source("https://raw.example.org/a/b.csv", SHA256, "b.csv")
    assert sources.fetch(source).read_bytes() == CONTENT
    assert server.requests == [("/mirror/raw.example.org/a/b.csv", None)]


@pytest.mark.parametrize("mirror", ["my-mirror", "file:///etc", "ftp://127.0.0.1/x", "http://", "http://[", "javascript:1"])
def test_a_mirror_that_is_no_web_address_is_refused_at_once(
    source: Source, home: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    monkeypatch.setenv("HARNESS_MIRROR", mirror)
    with pytest.raises(UserError, match="check HARNESS_MIRROR") as caught:
        sources.fetch(source)
    assert caught.value.exit_code == 2
    assert not home.exists()


def test_offline_touches_no_network(server: Server, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    with pytest.raises(DownloadFailed, match=r"HARNESS_OFFLINE .*family/set\.csv .*copy the file there from http"):
        sources.fetch(source)
    assert server.requests == []


@pytest.mark.parametrize("elsewhere", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_leads_to_no_other_scheme(server: Server, source: Source, elsewhere: str) -> None:
    server.redirect = elsewhere
    with pytest.raises(DownloadFailed, match=r"(?i)redirect.*(file|ftp|data):"):
        sources.fetch(source)
    assert len(server.requests) == 1


def test_not_found_fails_at_once(server: Server, source: Source) -> None:
    server.statuses = [404]
    remedy = r"set https_proxy or HARNESS_MIRROR, or copy the file by hand to .*family/set\.csv"
    with pytest.raises(DownloadFailed, match=r"/some/set\.csv: HTTP 404 .*" + remedy):
        sources.fetch(source)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server: Server, source: Source) -> None:
    server.statuses = [503, 500]
    assert sources.fetch(source).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_no_server_there() -> None:
    source = Source("http://127.0.0.1:9/set.csv", SHA256, "set.csv")
    with pytest.raises(DownloadFailed, match=r"http://127\.0\.0\.1:9/set\.csv: .*refused.*check the network"):
        sources.fetch(source)


def test_a_host_that_does_not_exist_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PAUSE", 60.0)
    with pytest.raises(DownloadFailed, match="check the network"):
        sources.fetch(Source("http://no-such-host.invalid/set.csv", SHA256, "set.csv"))


def test_two_fetches_at_once_give_one_whole_file(server: Server, source: Source, home: Path) -> None:
    threads = [threading.Thread(target=sources.fetch, args=(source,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sources.verify(source) == "ok"
    assert len(server.requests) == 1
    assert sorted(path.name for path in (home / "family").iterdir()) == [".lock", "set.csv"]


def test_a_data_folder_that_cannot_be_written(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written .*set HARNESS_DATA"):
        sources.fetch(source)
