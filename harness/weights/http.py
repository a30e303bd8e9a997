"""Requests a file over HTTP, from a given byte to its end. This module does not store the bytes.

A request states the first byte that is wanted, and the validator (the ETag or the date) that the server sent with the
earlier bytes (RFC 9110, sections 13.1.5 and 14.2). If the file on the server is still the same, the server sends the
rest of it. Otherwise, it sends the whole of the new file.
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
"""The largest number of bytes that are read at once."""

TIMEOUT = 30.0
"""The number of seconds without a byte after which a connection counts as broken."""

TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""The status codes after which another request may succeed."""


class Refused(Exception):
    """Another request would fail too. `remedy` says what the user can do instead."""

    def __init__(self, reason: str, remedy: str | None = None) -> None:
        super().__init__(reason)
        self.remedy = remedy


class Broken(Exception):
    """The request failed, but another one may succeed."""


class Misfit(Broken):
    """The answer does not continue the bytes that were downloaded before."""


class Stalled(Broken):
    """The server is so slow that the download was given up."""


@dataclass(frozen=True)
class Answer:
    """A server's answer.

    Args:
        start: the position in the file of the first byte of the body.
        total: the number of bytes of the whole file, or None if the server does not state it.
        validator: the ETag of the file or the date of its last change, or None if the server sent neither.
        body: the response to read from, or None if there are no further bytes.
    """

    start: int
    total: int | None
    validator: str | None
    body: HTTPResponse | None

    def blocks(self) -> Iterator[bytes]:
        """Yields the bytes from `start` to the end of the file, block by block.

        Raises:
            Broken: the connection ended too early, or the server was too slow.
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
def request_bytes(url: str, start: int = 0, validator: str | None = None) -> Iterator[Answer]:
    """Requests a file from byte `start` on, and yields the answer. The connection is closed after the block.

    Args:
        url: the http or https address of the file.
        start: the first byte that is wanted.
        validator: the validator that the server sent with the bytes before `start`, if it sent one.

    Raises:
        Refused: the server does not send the file, and another request would fail too.
        Broken: the server sent nothing, or nothing that continues the earlier bytes.
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
    """Raises `Refused` if `url` is not an http or https address."""
    plain = url.isascii() and url.isprintable() and " " not in url
    with suppress(ValueError):  # urlsplit raises it for malformed hosts
        if plain and (parts := urlsplit(url)).scheme in SCHEMES and parts.hostname:
            return
    raise Refused("that is no http or https address")


def _without_body(error: HTTPError, start: int, validator: str | None) -> Answer:
    """Interprets an error status. Status 416 for a request after the last byte means that the file is complete."""
    if error.code == 416 and start:
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return Answer(start, start, validator, None)
        raise Misfit("the file shrank on the server")
    kind = Broken if error.code in TRANSIENT else Refused
    raise kind(f"the server answers {error.code} {' '.join(str(error.reason).split())}") from error


def _with_body(response: HTTPResponse, start: int, validator: str | None) -> Answer:
    """Interprets a successful response, after checking that it is the requested part of the file."""
    headers = response.headers
    received, length = _validator(headers), headers.get("Content-Length", "")
    if headers.get_content_type() == "text/html":
        raise Refused("the address gives a web page, not the file")
    if (encoding := headers.get("Content-Encoding", "identity")) != "identity":
        raise Refused(f"the server sends the file encoded ({encoding}), though it was asked not to")
    if response.status == 200:
        return Answer(0, int(length) if length.isdecimal() else None, received, response)
    if response.status != 206:
        raise Refused(f"the server answers {response.status} {response.reason}")
    bounds = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+)", headers.get("Content-Range", ""))
    if not bounds or int(bounds[1]) != start or int(bounds[2]) <= start or received not in (None, validator):
        raise Misfit("the server sends another part than the one asked for")
    return Answer(start, int(bounds[2]), validator, response)


def _validator(headers: Message) -> str | None:
    """Returns the ETag, or the date of the last change if there is no ETag or a weak one."""
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
        fp.close()  # otherwise urllib reads the body of this answer to its end, and it may be endless
        return request.Request(newurl, headers=req.headers)

    http_error_308 = request.HTTPRedirectHandler.http_error_302  # Python 3.10 does not follow 308


def _opener() -> request.OpenerDirector:
    """Returns an opener for http and https only: unlike the default one, it opens no file:, ftp: or data: address."""
    opener = request.OpenerDirector()
    connections = (request.ProxyHandler, pace.HTTP, pace.HTTPS, request.UnknownHandler)
    for handler in (*connections, request.HTTPDefaultErrorHandler, _Redirects, request.HTTPErrorProcessor):
        opener.add_handler(handler())
    return opener
