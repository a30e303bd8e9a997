"""Ends a connection to a server that sends too slowly, as the option --speed-limit of curl does.

A timeout of the socket starts again with every byte, so a server that sends one byte a second could keep a download
waiting for ever. This module counts the bytes of the answer's headers and of its body over a window of time.
"""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any
from urllib import request

WINDOW = 60.0
"""The number of seconds over which the speed is measured, and within which the headers must be complete."""

SLOWEST = 1024
"""The lowest speed at which a download continues, in bytes per second."""


class Slow(Exception):
    """The server sends fewer than `SLOWEST` bytes per second, or its headers take longer than `WINDOW`."""


class _Watched(request.AbstractHTTPHandler):
    """Makes the connections of a handler raise `Slow`."""

    def do_open(self, http_class: Any, req: request.Request, **options: Any) -> HTTPResponse:
        watched: Any = type(http_class.__name__, (http_class,), {"response_class": _Response})
        response: HTTPResponse = super().do_open(watched, req, **options)
        return response


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
    """Reads from a connection and counts the bytes.

    Attributes:
        since: the time at which the current window began.
        received: the number of bytes in the current window.
        finish: the time until which the headers must be complete, or None while the body is read.
    """

    def __init__(self, inner: io.RawIOBase) -> None:
        self.inner, self.since, self.received = inner, time.monotonic(), 0
        self.finish: float | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self.inner.readinto(buffer)
        now = time.monotonic()
        self.received += count or 0
        if self.finish is not None and now > self.finish:
            raise Slow(f"the server did not come to the end of its answer's head in {WINDOW:.3g} s")
        if count and now - self.since > WINDOW:
            if self.received < SLOWEST * (now - self.since):
                raise Slow(f"the server sent no more than {self.received:,} bytes in {now - self.since:.0f} s")
            self.since, self.received = now, 0
        return count

    def close(self) -> None:
        self.inner.close()
        super().close()


class HTTP(_Watched, request.HTTPHandler):
    """Opens http connections as the handler of urllib does, and raises `Slow`."""


class HTTPS(_Watched, request.HTTPSHandler):
    """Opens https connections as the handler of urllib does, and raises `Slow`."""
