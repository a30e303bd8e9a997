"""One file over HTTP, from any byte on. Knows nothing of where the bytes go.

A request names the byte to start from and what the server called the file when the bytes before it came (RFC 9110,
sections 13.1.5 and 14.2). The server sends the rest of the very same file, or the whole of another one.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from typing import IO, Any, cast
from urllib import request
from urllib.error import HTTPError
from urllib.parse import urlsplit

from harness import __version__
from harness.weights import pace

SCHEMES = ("http", "https")
BLOCK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""

TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""What servers answer when asking again may help."""


class Refused(Exception):
    """Asking again will not help. remedy: what else to do."""

    def __init__(self, reason: str, remedy: str | None = None) -> None:
        super().__init__(reason)
        self.remedy = remedy


class Broken(Exception):
    """Worth another try."""


class Misfit(Broken):
    """What the server has does not continue what is here."""


class Stalled(Broken):
    """The server is too slow to wait for."""


@dataclass(frozen=True)
class Answer:
    """What a server sends.

    Args:
        start: the byte of the file that its body starts at.
        total: bytes of the whole file, if the server says so.
        validator: what the server calls this state of the file, if it does.
        body: where the bytes come from, or None if none are missing.
    """

    start: int
    total: int | None
    validator: str | None
    body: HTTPResponse | None

    def blocks(self) -> Iterator[bytes]:
        """The bytes from `start` on.

        Raises:
            Broken: the connection ended too early, or next to nothing came.
        """
        have = self.start
        while self.body and have != self.total:
            try:
                block = self.body.read1(BLOCK if self.total is None else min(BLOCK, self.total - have))
            except pace.Slow as error:
                raise Stalled(f"{error}, and {have:,} bytes in all") from error
            except (OSError, HTTPException) as error:
                raise Broken(f"the connection broke after {have:,} bytes: {error}") from error
            if not block:
                break
            have += len(block)
            yield block
        if self.total not in (None, have):
            raise Broken(f"the connection broke after {have:,} of {self.total:,} bytes")


@contextmanager
def asked(url: str, start: int = 0, validator: str | None = None) -> Iterator[Answer]:
    """The answer to a request for the bytes from `start` on, of the file that the server called `validator`.

    Raises:
        Refused: the address, or what it gives, is of no use.
        Broken: nothing came, or nothing that fits.
    """
    headers = {"User-Agent": f"adversarial-harness/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
    try:
        response = cast(HTTPResponse, _opener().open(request.Request(url, headers=headers), timeout=TIMEOUT))
    except HTTPError as error:
        with closing(error):
            yield _without_body(error, start, validator)
        return
    except pace.Slow as error:
        raise Stalled(str(error)) from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        kind = Refused if isinstance(reason, ssl.SSLCertVerificationError) else Broken
        raise kind(f"no connection: {reason}") from error
    with response:
        yield _with_body(response, start, validator)


def check_address(url: str) -> None:
    """Raises Refused for what is no http or https address."""
    plain = url.isascii() and url.isprintable() and " " not in url
    with suppress(ValueError):  # of urlsplit, for malformed hosts
        if plain and (parts := urlsplit(url)).scheme in SCHEMES and parts.hostname:
            return
    raise Refused("that is no http or https address")


def _without_body(error: HTTPError, start: int, validator: str | None) -> Answer:
    if error.code == 416 and start:
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return Answer(start, start, validator, None)
        raise Misfit("the file shrank on the server")
    kind = Broken if error.code in TRANSIENT else Refused
    raise kind(f"the server answers {error.code} {' '.join(str(error.reason).split())}") from error


def _with_body(response: HTTPResponse, start: int, validator: str | None) -> Answer:
    headers = response.headers
    named, length = _validator(headers), headers.get("Content-Length", "")
    if headers.get_content_type() == "text/html":
        raise Refused("the address gives a web page, not the file")
    if (encoding := headers.get("Content-Encoding", "identity")) != "identity":
        raise Refused(f"the server sends the file encoded ({encoding}), though it was asked not to")
    if response.status == 200:
        return Answer(0, int(length) if length.isdecimal() else None, named, response)
    if response.status != 206:
        raise Refused(f"the server answers {response.status} {response.reason}")
    bounds = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+)", headers.get("Content-Range", ""))
    if not bounds or int(bounds[1]) != start or int(bounds[2]) <= start or named not in (None, validator):
        raise Misfit("the server sends another part than the one asked for")
    return Answer(start, int(bounds[2]), validator, response)


def _validator(headers: Message) -> str | None:
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


class _Redirects(request.HTTPRedirectHandler):
    max_redirections = 5

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> request.Request:
        scheme = urlsplit(newurl).scheme
        if scheme not in SCHEMES or (scheme == "http" and req.type == "https"):
            raise Refused(f"the server sends on to {newurl}, which is not followed")
        fp.close()  # or else the body of the answer would be read to its end, which it may not have
        return request.Request(newurl, headers=req.headers)

    http_error_308 = request.HTTPRedirectHandler.http_error_302  # Python 3.10 lacks it


def _opener() -> request.OpenerDirector:
    """Without the handlers of file:, ftp: and data: that the usual one has."""
    opener = request.OpenerDirector()
    connections = (request.ProxyHandler, pace.HTTP, pace.HTTPS, request.UnknownHandler)
    for handler in (*connections, request.HTTPDefaultErrorHandler, _Redirects, request.HTTPErrorProcessor):
        opener.add_handler(handler())
    return opener
