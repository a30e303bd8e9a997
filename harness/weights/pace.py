"""A server that keeps a connection open without getting anywhere: curl's --speed-limit, at the socket.

A timeout of the socket starts afresh with every byte, so a byte a second would hold a download for ever. Here the bytes
that come, of the answer's head and of its body, are counted over a window of time.
"""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any
from urllib import request

WINDOW = 60.0
"""Seconds over which the pace is measured, and which the head of an answer may take."""

SLOWEST = 1024
"""Bytes a second that are worth waiting for."""


class Slow(Exception):
    """A server sends next to nothing."""


class _Watched(request.AbstractHTTPHandler):
    """Has a handler's connections raise `Slow`."""

    def do_open(self, http_class: Any, req: request.Request, **options: Any) -> HTTPResponse:
        watched: Any = type(http_class.__name__, (http_class,), {"response_class": _Response})
        found: HTTPResponse = super().do_open(watched, req, **options)
        return found


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.pace = _Pace(self.fp.detach())
        self.fp = io.BufferedReader(self.pace)

    def begin(self) -> None:
        self.pace.finish = time.monotonic() + WINDOW
        super().begin()
        self.pace.finish = None


class _Pace(io.RawIOBase):
    """The bytes of a connection, counted. finish: when they must be complete, if they must."""

    def __init__(self, inner: io.RawIOBase) -> None:
        self.inner, self.since, self.came = inner, time.monotonic(), 0
        self.finish: float | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self.inner.readinto(buffer)
        now = time.monotonic()
        self.came += count or 0
        if self.finish is not None and now > self.finish:
            raise Slow(f"the server did not come to the end of its answer's head in {WINDOW:.3g} s")
        if count and now - self.since > WINDOW:
            if self.came < SLOWEST * (now - self.since):
                raise Slow(f"the server sent no more than {self.came:,} bytes in {now - self.since:.0f} s")
            self.since, self.came = now, 0
        return count

    def close(self) -> None:
        self.inner.close()
        super().close()


class HTTP(_Watched, request.HTTPHandler):
    """Opens connections by http, as the usual handler does."""


class HTTPS(_Watched, request.HTTPSHandler):
    """Likewise by https."""
