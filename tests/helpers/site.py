"""A web server on this machine whose answers are written by the tests, and a file for it to send."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONTENT = bytes(i * 7919 % 251 for i in range(300_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = 150_000

Page = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """A server on 127.0.0.1. pages: what answers to each path. log: path, Range and If-Range of each request."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.log: list[tuple[str, str | None, str | None]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.log.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
                site.pages[self.path](self)

            def log_message(self, *arguments: object) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def ranges(self) -> list[str | None]:
        return [wanted for _, wanted, _ in self.log]

    @staticmethod
    def answer(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: object) -> None:
        """Sends one answer. headers: with _ for -; a Content-Length here may lie."""
        handler.send_response(status)
        sent = {"Content-Length": len(body)} | {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in sent.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(body)

    @classmethod
    def file(cls, content: bytes, *, etag: str = '"one"', ranges: bool = True, cuts: tuple[int, ...] = ()) -> Page:
        """A file. cuts: how many bytes of its body each of the first answers really sends."""
        left = list(cuts)

        def page(handler: BaseHTTPRequestHandler) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
            unchanged = handler.headers.get("If-Range") in (None, etag)
            start = int(wanted[1]) if wanted and ranges and unchanged else 0
            headers: dict[str, object] = {"ETag": etag} if etag else {}
            if start >= len(content):
                cls.answer(handler, 416, Content_Range=f"bytes */{len(content)}", **headers)
                return
            cut = left.pop(0) if left else len(content)
            headers["Content-Length"] = len(content) - start
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            cls.answer(handler, 206 if start else 200, content[start:][:cut], **headers)

        return page

    @staticmethod
    def in_turn(*pages: Page) -> Page:
        """Each answers once, the last for ever."""
        left = list(pages)
        return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)

    @classmethod
    def redirect(cls, to: str, status: int = 302) -> Page:
        return lambda handler: cls.answer(handler, status, Location=to)


def files(root: Path) -> list[str]:
    """What a cache shows, without its locks."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.suffix != ".lock")
