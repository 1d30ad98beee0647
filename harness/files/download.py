"""One file over HTTP: resumed where it was cut, unless the server's file has changed, and as long as the server said.

Only ``http`` and ``https`` are spoken, and no redirect leads elsewhere.
"""

from __future__ import annotations

import errno
import json
import re
import socket
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from pathlib import Path
from ssl import SSLError
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from harness.errors import DownloadFailed, UserError

Transferred = Callable[[int, int | None], None]  # called with the bytes so far and in total, None if unknown

ATTEMPTS = 3
CONNECT = 5.0  # seconds that a server may take to answer at all
TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_HOPELESS = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)


class _Refused(HTTPException):
    """What no further attempt mends."""


class _Prompt:
    """A connection that is given up after CONNECT seconds, unless it stands."""

    timeout: float | None
    sock: socket.socket

    def connect(self) -> None:
        given, self.timeout = self.timeout, CONNECT
        super().connect()  # type: ignore[misc]
        self.timeout = given
        self.sock.settimeout(given)


class _HTTP(_Prompt, HTTPConnection):
    pass


class _HTTPS(_Prompt, HTTPSConnection):
    pass


class _Plain(HTTPHandler):
    def http_open(self, req: Request) -> Any:
        return self.do_open(_HTTP, req)


class _Secure(HTTPSHandler):
    def https_open(self, req: Request) -> Any:
        return self.do_open(_HTTPS, req)


class _Redirects(HTTPRedirectHandler):
    """Follows a redirect to the same scheme or to https. A token is for one host only."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in (old.scheme, "https"):
            raise _Refused(f"redirected to {newurl[:80]!r}, which is not followed")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and new.netloc != old.netloc:
            request.headers.pop("Authorization", None)
        return request


def _opener() -> OpenerDirector:
    opener = OpenerDirector()
    for handler in (ProxyHandler, _Plain, _Secure, HTTPDefaultErrorHandler, _Redirects, HTTPErrorProcessor):
        opener.add_handler(handler())
    return opener


def check_address(url: str, setting: str) -> None:
    """Make sure that ``url``, the value of an environment variable, is the address of a web server.

    Raises:
        UserError: it is not.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return
    except ValueError:
        pass
    raise UserError(f"{url[:100]!r}: not an address of a web server; check {setting}, expected http://HOST or https://HOST")


def download(
    url: str,
    part: Path,
    progress: Transferred | None = None,
    *,
    checked: bool,
    remedy: str,
    pause: float = 1.0,
    headers: Mapping[str, str] | None = None,
) -> HTTPMessage:
    """Download ``url`` into ``part``, resuming where that file ends; the headers of the server's last answer.

    A file without a checksum to compare it with (not ``checked``) is resumed only while the server's entity tag or date of
    change are those of its beginning. ``pause`` is the number of seconds before the second attempt, doubled before the third.

    Raises:
        DownloadFailed: there is no network, or the server does not give the file; the message ends with ``remedy``.
    """
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            return _stream(url, part, progress, checked, headers or {})
        except HTTPError as error:
            error.close()
            reason = f"HTTP {error.code} {error.reason}"
            if code := error.headers.get("X-Error-Code"):  # the hub's own, such as GatedRepo
                reason += f", {code[:40]}"
            if error.code == 416:  # the server has nothing after our last byte, and the file is not complete: start over
                discard(part)
            elif error.code not in _TRANSIENT:
                break
        except (URLError, HTTPException, SSLError, TimeoutError, ConnectionError) as error:
            cause = getattr(error, "reason", "") or error
            reason = str(cause) or type(error).__name__
            unreachable = isinstance(cause, socket.gaierror) or (isinstance(error, URLError) and isinstance(cause, TimeoutError))
            if isinstance(error, _Refused) or unreachable or getattr(cause, "errno", None) in _HOPELESS:
                break
        except ValueError as error:  # not an address
            reason = str(error)
            break
    raise DownloadFailed(f"{url}: {reason}; {remedy}") from None


def _stream(url: str, part: Path, progress: Transferred | None, checked: bool, headers: Mapping[str, str]) -> HTTPMessage:
    have, kept = part.stat().st_size if part.is_file() else 0, _kept(part)
    same = kept.get("validator") if kept.get("url") == url else None
    if not (same or checked):
        have = 0
    asked = {"User-Agent": "gfm-harness", **headers}
    if have:
        asked |= {"Range": f"bytes={have}-"} | ({"If-Range": same} if same else {})
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("only http and https are spoken")
    with _opener().open(Request(url, headers=asked), timeout=TIMEOUT) as response:
        validator = _validator(response.headers)
        if response.status == 206:
            there = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range") or "")
            lasting = validator == same or not same or (validator is None and not same.startswith('"'))
            if not there or int(there[1]) != have or not lasting or there[2] not in ("*", str(kept.get("total", there[2]))):
                discard(part)
                raise ConnectionError("the server sent another part than was asked for")
        else:
            have = 0  # the server sends the whole file, since it has changed or ranges are unknown there
        if "html" in (response.headers.get_content_type() or ""):
            raise _Refused("the server sent a web page instead of the file")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        if not have:
            kept = {"url": url, "validator": validator} | ({} if total is None else {"total": total})
            _memory(part).write_text(json.dumps(kept))
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have:,} of {total:,} bytes")
    return response.headers


def read_small(url: str, limit: int = 1 << 20) -> bytes | None:
    """The content at an address, None where it cannot be had; at most ``limit`` bytes."""
    try:
        with _opener().open(Request(url, headers={"User-Agent": "gfm-harness"}), timeout=TIMEOUT) as response:
            return response.read(limit)
    except (OSError, HTTPException, ValueError):
        return None


def finish(part: Path, path: Path) -> None:
    """Give a complete download its name."""
    part.replace(path)
    _memory(part).unlink(missing_ok=True)


def discard(part: Path) -> None:
    """Start over."""
    part.unlink(missing_ok=True)
    _memory(part).unlink(missing_ok=True)


def _memory(part: Path) -> Path:
    return part.with_name(f".{part.name}.json")


def _kept(part: Path) -> dict[str, Any]:
    """What is known of the server's file whose beginning ``part`` holds."""
    try:
        found = json.loads(_memory(part).read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _validator(headers: HTTPMessage) -> str | None:
    """What tells two versions of a file apart (RFC 9110, section 13.1.5): a strong entity tag, else the date of change."""
    tag = headers.get("ETag") or ""
    return tag if tag.startswith('"') else headers.get("Last-Modified")
