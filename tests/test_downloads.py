"""Downloads without a published checksum: what is cut, changed, lied about or something else is never taken for the file."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import zipfile
from pathlib import Path

import pytest
from test_sources import Server, home, server  # noqa: F401

from harness.errors import BadData, ChecksumMismatch, DownloadFailed
from harness.files import sources
from harness.files.formats import fault
from harness.task import Source

PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"


def two_bit(bases: int = 4000, order: str = "<", version: int = 0) -> bytes:
    """A 2bit file of one sequence of T, with a block of N."""
    offset = 16 + 1 + 4 + (8 if version else 4)
    head = struct.pack(f"{order}4IB4s{'Q' if version else 'I'}", 0x1A412743, version, 1, 0, 4, b"chr1", offset)
    return head + struct.pack(f"{order}6I", bases, 1, 10, 20, 0, 0) + bytes(-(-bases // 4))


def parquet() -> bytes:
    import pandas

    buffer = io.BytesIO()
    pandas.DataFrame({"position": range(500)}).to_parquet(buffer)
    return buffer.getvalue()


def big_wig(folder: Path) -> bytes:
    import pyBigWig

    file = pyBigWig.open(str(folder / "made.bw"), "w")
    file.addHeader([("chr1", 10_000)])
    file.addEntries(["chr1"], [0], ends=[100], values=[1.5])
    file.close()
    return (folder / "made.bw").read_bytes()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a", b"0" * 100)
    return buffer.getvalue()


def whole(name: str, folder: Path) -> bytes:
    made = {
        "hg38.2bit": two_bit,
        "big.2bit": lambda: two_bit(order=">", version=1),
        "set.parquet": parquet,
        "set.csv.gz": lambda: gzip.compress(bytes(range(256)) * 20),
        "set.zip": archive,
        "set.csv": lambda: "sequence,label\nACGÜ,1\n".encode(),
    }
    return big_wig(folder) if name.endswith(".bw") else made[name]()


@pytest.fixture
def hg38(server: Server) -> Source:  # noqa: F811
    server.content = two_bit()
    return Source(f"{server.url}/hg38.2bit", "", "genomes/hg38.2bit")


NAMES = ["hg38.2bit", "big.2bit", "phylop.bw", "set.parquet", "set.csv.gz", "set.zip", "set.csv"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_told_from_what_is_cut_or_something_else(tmp_path: Path, name: str) -> None:
    content, path = whole(name, tmp_path), tmp_path / "part"
    wrong = [b"", PAGE, b"  " + PAGE.lower(), b"\0" + content[1:]]
    if name != "set.csv":  # of text, only the beginning can be judged
        wrong += [content[: len(content) * percent // 100] for percent in (5, 20, 50, 90, 99)] + [content[:-1]]
    for bad in wrong:
        path.write_bytes(bad)
        assert fault(path, name), bad[:40]
    path.write_bytes(content)
    assert not fault(path, name)


@pytest.mark.parametrize("wrong", [b"", PAGE, two_bit()[:500]])
def test_what_is_no_genome_is_neither_fetched_nor_verified(server: Server, hg38: Source, wrong: bytes) -> None:  # noqa: F811
    good, server.content = server.content, wrong
    with pytest.raises(BadData, match=r"hg38\.2bit: it .*kept as .*hg38\.2bit\.bad, not used"):
        sources.fetch(hg38)
    path = sources.locate(hg38)
    assert not path.exists()
    path.write_bytes(wrong)  # as an earlier version would have left it
    assert sources.verify(hg38) == "wrong format"
    with pytest.raises(BadData, match=r"hg38\.2bit: it .*`harness data get hg38` sets the file aside"):
        sources.intact([hg38], "hg38")
    server.content = good
    assert sources.fetch(hg38).read_bytes() == good
    assert sources.verify(hg38) == "ok"


def test_a_web_page_said_to_be_one_is_refused_before_a_byte_is_kept(server: Server, hg38: Source) -> None:  # noqa: F811
    server.type = "text/html; charset=utf-8"
    with pytest.raises(DownloadFailed, match="sent a web page"):
        sources.fetch(hg38)
    assert len(server.requests) == 1
    assert not list(sources.data_home().rglob("*.part"))


def test_the_first_downloads_checksum_is_kept_and_compared(server: Server, hg38: Source) -> None:  # noqa: F811
    path = sources.fetch(hg38)
    kept = json.loads(path.with_name(".hg38.2bit.json").read_text())
    assert kept["sha256"] == hashlib.sha256(server.content).hexdigest()
    assert sources.verify(hg38) == "ok"
    path.write_bytes(server.content[:-1] + b"\x01")  # of the right format
    assert sources.verify(hg38) == "wrong checksum"
    with pytest.raises(ChecksumMismatch, match="is not the downloaded"):
        sources.intact([hg38], "hg38")
    assert sources.fetch(hg38).read_bytes() == server.content
    path.with_name(".hg38.2bit.json").write_text("{")  # a damaged memory: as if there were none, and made again
    assert sources.verify(hg38) == "no checksum"
    sources.fetch(hg38)
    assert sources.verify(hg38) == "ok"


def test_an_intact_file_is_read_once_a_change(hg38: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sources.fetch(hg38)
    with monkeypatch.context() as changed:
        changed.setattr(sources, "sha256", lambda path: pytest.fail("read again"))
        assert sources.intact([hg38], "hg38") == [path]
    path.write_bytes(path.read_bytes()[:-1] + b"\x02")
    with pytest.raises(ChecksumMismatch):
        sources.intact([hg38], "hg38")


def test_force_downloads_what_is_here(server: Server, hg38: Source) -> None:  # noqa: F811
    sources.fetch(hg38)
    server.content = two_bit(8000)
    assert sources.fetch(hg38).read_bytes() == two_bit()
    assert sources.fetch(hg38, force=True).read_bytes() == two_bit(8000)
    assert sources.verify(hg38) == "ok"
    server.content = PAGE
    with pytest.raises(BadData, match="a web page"):
        sources.fetch(hg38, force=True)
    assert sources.verify(hg38) == "ok"  # the good file is still there


def test_a_file_copied_there_by_hand_is_accepted_and_remembered(hg38: Source, server: Server) -> None:  # noqa: F811
    path = sources.locate(hg38)
    path.parent.mkdir(parents=True)
    path.write_bytes(two_bit())
    assert sources.verify(hg38) == "no checksum"
    sources.fetch(hg38)
    assert (sources.verify(hg38), server.requests) == ("ok", [])


@pytest.mark.parametrize(("etag", "resumed"), [('"one"', "bytes=700-"), ('W/"weak"', None), (None, None)])
def test_a_cut_download_is_resumed_only_if_the_file_can_be_recognised(
    server: Server,  # noqa: F811
    hg38: Source,
    etag: str | None,
    resumed: str | None,
) -> None:
    server.etag, server.cuts = etag, [700]
    assert sources.fetch(hg38).read_bytes() == server.content
    assert [wanted for _, wanted in server.requests] == [None, resumed]


@pytest.mark.parametrize(("careless", "tag"), [(False, '"two"'), (True, '"two"'), (True, None), (True, '"one"')])
def test_two_versions_are_never_joined(
    server: Server,  # noqa: F811
    hg38: Source,
    monkeypatch: pytest.MonkeyPatch,
    careless: bool,
    tag: str | None,
) -> None:
    server.etag, server.cuts, server.content = '"one"', [700], two_bit(9000)
    with monkeypatch.context() as changed:
        changed.setattr("harness.files.download.ATTEMPTS", 1)
        with pytest.raises(DownloadFailed, match="ended after 700 of"):
            sources.fetch(hg38)
    part = sources.locate(hg38).with_name("hg38.2bit.part")
    assert part.stat().st_size == 700
    server.content, server.etag, server.careless = two_bit(8000), tag, careless  # the publisher's new version
    assert sources.fetch(hg38).read_bytes() == two_bit(8000)
    assert not part.exists()


def test_a_server_that_sends_another_part_is_asked_from_the_start(server: Server, hg38: Source) -> None:  # noqa: F811
    server.etag = '"one"'
    part = sources.locate(hg38).with_name("hg38.2bit.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"old")
    part.with_name(".hg38.2bit.part.json").write_text(json.dumps({"url": hg38.url, "validator": '"other"'}))
    assert sources.fetch(hg38).read_bytes() == server.content


@pytest.mark.parametrize("lie", [500, 100_000])
def test_a_length_that_is_not_the_files_is_noticed(server: Server, hg38: Source, lie: int) -> None:  # noqa: F811
    server.length = lie
    with pytest.raises((BadData, DownloadFailed), match=r"ends at|ended after"):
        sources.fetch(hg38)
    assert not sources.locate(hg38).exists()


@pytest.mark.parametrize("line", ["{} *hg38.2bit\n", "0" * 32 + "  other\n{}  ./hg38.2bit\n"])
def test_the_publishers_md5_is_compared(server: Server, monkeypatch: pytest.MonkeyPatch, line: str) -> None:  # noqa: F811
    monkeypatch.setenv("HARNESS_MIRROR", server.url)
    source = sources.REFERENCES["hg38"]
    listing = "/hgdownload.soe.ucsc.edu/goldenPath/hg38/bigZips/md5sum.txt"
    server.content = two_bit()
    server.files = {listing: line.format("f" * 32).encode()}
    with pytest.raises(ChecksumMismatch, match=r"md5 .* is not the published ffffffffffff…"):
        sources.fetch(source)
    server.files = {listing: line.format(hashlib.md5(two_bit()).hexdigest()).encode()}
    assert sources.fetch(source).read_bytes() == two_bit()
    assert [path for path, _ in server.requests].count(listing) == 2


def test_a_set_that_was_fetched_in_part_says_so(server: Server) -> None:  # noqa: F811
    three = [Source(f"{server.url}/{name}.csv", "", f"set/{name}.csv") for name in "abc"]
    assert sources.presence(three) == "none"
    for number, source in enumerate(three):
        sources.locate(source).parent.mkdir(parents=True, exist_ok=True)
        sources.locate(source).write_text("sequence,label\n")
        assert sources.presence(three) == ("all" if number == 2 else "some")


def test_verify_and_get_in_words(harness, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    environment = {"HARNESS_MIRROR": server.url}
    server.content = PAGE
    done = harness("data", "get", "hg38", **environment)
    assert (done.returncode, done.stderr.count("a web page")) == (2, 1)
    assert "Traceback" not in done.stderr
    path = Path(harness("data", "path", "hg38").stdout.strip())
    path.write_bytes(PAGE)
    verified = harness("data", "verify", "hg38")
    assert verified.returncode == 1
    assert "wrong format" in verified.stdout
    server.content = two_bit()
    assert harness("data", "get", "hg38", "--force", **environment).returncode == 0
    assert harness("data", "verify", "hg38").returncode == 0
