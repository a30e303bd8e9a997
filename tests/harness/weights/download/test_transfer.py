"""Downloads from a real server on this machine: whole, resumed after breaks, and told when they cannot be."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.weights import download, http, pace
from harness.weights.download import fetch
from helpers.site import CONTENT, HALF, SHA256, Site, files


def test_a_file_arrives_whole_and_tells_its_progress(site: Site, tmp_path: Path) -> None:
    site.pages["/a.pkl"] = site.file(CONTENT)
    seen: list[tuple[int, int | None]] = []
    path = fetch(
        site.url("/a.pkl"), "net/a.pkl", root=tmp_path, sha256=SHA256.upper(), size=len(CONTENT),
        progress=lambda have, total: seen.append((have, total)),
    )  # fmt: skip
    assert path == tmp_path / "net" / "a.pkl"
    assert path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert files(tmp_path) == ["net/a.pkl"]


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256}])
def test_after_a_cut_only_the_rest_is_sent(site: Site, tmp_path: Path, known: dict[str, str]) -> None:
    site.pages["/a"] = site.file(CONTENT, cuts=(100_000, 60_000))
    assert fetch(site.url("/a"), "a", root=tmp_path, **known).read_bytes() == CONTENT  # type: ignore[arg-type]
    assert site.ranges() == [None, "bytes=100000-", "bytes=160000-"]


def test_a_download_goes_on_in_a_later_call(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = site.in_turn(
        site.file(CONTENT, cuts=(HALF,)), *[lambda h: site.answer(h, 503)] * 3, site.file(CONTENT)
    )
    with pytest.raises(UserError, match=r"503 .*\(4 tries\)"):
        fetch(site.url("/a"), "a", root=tmp_path)
    assert not (tmp_path / "a").exists()
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT
    assert site.ranges()[1:] == [f"bytes={HALF}-"] * 4


def test_a_server_without_ranges_starts_again(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = site.file(CONTENT, ranges=False, cuts=(HALF,))
    assert fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert len(site.log) == 2


def test_a_server_that_cannot_name_the_file_is_asked_for_all_of_it(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = site.file(CONTENT, etag="", cuts=(HALF,))
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, None]


def test_parts_of_two_files_are_never_joined(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = site.in_turn(site.file(CONTENT, cuts=(HALF,)), site.file(CONTENT[::-1], etag='"two"'))
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT[::-1]
    site.pages["/b"] = site.in_turn(
        site.file(CONTENT, etag="", cuts=(HALF,)), site.file(CONTENT[::-1], etag=""), site.file(CONTENT)
    )
    assert fetch(site.url("/b"), "b", root=tmp_path, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize(("start", "etag"), [(7, "one"), (HALF, "two")])
def test_a_part_that_does_not_fit_is_thrown_away(site: Site, tmp_path: Path, start: int, etag: str) -> None:
    def misfit(handler: BaseHTTPRequestHandler) -> None:
        bounds = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        site.answer(handler, 206, CONTENT[::-1][start:], Content_Range=bounds, ETag=f'"{etag}"')

    site.pages["/a"] = site.in_turn(site.file(CONTENT, cuts=(HALF,)), misfit, site.file(CONTENT))
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT
    assert site.log == [("/a", None, None), ("/a", f"bytes={HALF}-", '"one"'), ("/a", None, None)]


def test_a_part_from_another_address_is_not_continued(site: Site, tmp_path: Path) -> None:
    busy = [lambda h: site.answer(h, 503)] * 4
    site.pages |= {"/old": site.in_turn(site.file(CONTENT[::-1], cuts=(HALF,)), *busy), "/new": site.file(CONTENT)}
    with pytest.raises(UserError, match="503"):
        fetch(site.url("/old"), "a", root=tmp_path)
    assert fetch(site.url("/new"), "a", root=tmp_path).read_bytes() == CONTENT


def test_a_crash_between_two_versions_leaves_no_mixture(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / ".a.part").write_bytes(CONTENT[::-1][:HALF])
    (tmp_path / ".a.part.json").write_text(json.dumps({"url": site.url("/a"), "validator": '"old"'}))
    site.pages["/a"] = site.file(CONTENT)
    with monkeypatch.context() as patched:
        patched.setattr(download._Job, "write", crash)
        with pytest.raises(KeyboardInterrupt):
            fetch(site.url("/a"), "a", root=tmp_path)
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT


def test_a_file_that_came_whole_before_a_crash_is_not_sent_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / ".a.part").write_bytes(CONTENT)
    (tmp_path / ".a.part.json").write_text(json.dumps({"url": site.url("/a"), "validator": '"one"'}))
    site.pages["/a"] = site.file(CONTENT)
    assert fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert site.ranges() == [f"bytes={len(CONTENT)}-"]


def test_a_part_longer_than_the_file_is_thrown_away(site: Site, tmp_path: Path) -> None:
    (tmp_path / ".a.part").write_bytes(CONTENT + b"more")
    (tmp_path / ".a.part.json").write_text(json.dumps({"url": site.url("/a"), "validator": '"one"'}))
    site.pages["/a"] = site.file(CONTENT)
    assert fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirections_are_followed(site: Site, tmp_path: Path, status: int) -> None:
    site.pages |= {"/old": site.redirect("/new", status), "/new": site.file(CONTENT, cuts=(HALF,))}
    assert fetch(site.url("/old"), "a", root=tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert site.log[-1] == ("/new", f"bytes={HALF}-", '"one"')


def test_redirections_in_a_circle_or_without_end_are_refused(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/a": site.redirect("/b"), "/b": site.redirect("/a")}
    site.pages |= {f"/{i}": site.redirect(f"/{i + 1}") for i in range(50)}
    for start in ("/a", "/0"):
        site.log.clear()
        with pytest.raises(UserError, match="infinite loop"):
            fetch(site.url(start), "a", root=tmp_path)
        assert len(site.log) <= 10


@pytest.mark.parametrize("to", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:text/plain,hello", "gopher://x/"])
def test_redirections_out_of_http_are_refused(site: Site, tmp_path: Path, to: str) -> None:
    site.pages["/a"] = site.redirect(to)
    with pytest.raises(UserError, match=rf"{re.escape(to)}.* not (followed|allowed)"):
        fetch(site.url("/a"), "a", root=tmp_path)
    assert len(site.log) == 1
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "/etc/hostname", "ftp://x/y", "http:///x", "http://[x/y", "http://a b/", "http://a/\nb",
     "http://é/", "", "http://a/\ud800"],
)  # fmt: skip
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="no http or https address"):
        fetch(url, root=tmp_path)
    assert files(tmp_path) == []


def test_https_is_not_given_up_for_http() -> None:
    asked = http.request.Request("https://a/b")
    with pytest.raises(http.Refused, match="http://a/b"):
        http._Redirects().redirect_request(asked, None, 302, "", None, "http://a/b")  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_file_that_is_not_there_is_told_at_once(site: Site, tmp_path: Path, status: int) -> None:
    site.pages["/a"] = lambda handler: site.answer(handler, status)
    with pytest.raises(UserError, match=rf"the server answers {status} .*put it at {tmp_path}/a"):
        fetch(site.url("/a"), "a", root=tmp_path)
    assert len(site.log) == 1


def test_a_server_that_is_busy_for_a_moment_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = site.in_turn(lambda h: site.answer(h, 503), lambda h: site.answer(h, 429), site.file(CONTENT))
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT


def test_a_web_page_is_no_checkpoint(site: Site, tmp_path: Path) -> None:
    page = b"<html>Too large to scan for viruses. Download anyway?</html>"
    site.pages["/a"] = lambda h: site.answer(h, 200, page, Content_Type="text/html; charset=utf-8")
    with pytest.raises(UserError, match="a web page, not the file"):
        fetch(site.url("/a"), "a", root=tmp_path)


def test_an_encoded_body_is_refused(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = lambda h: site.answer(h, 200, b"\x1f\x8b", Content_Encoding="gzip")
    with pytest.raises(UserError, match="encoded"):
        fetch(site.url("/a"), "a", root=tmp_path)


def test_nobody_listening_is_told(site: Site, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=r"no connection: .*refused.*\(4 tries\)"):
            fetch(f"http://127.0.0.1:{port}/a", "a", root=tmp_path)


def test_an_unknown_host_is_told(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, match=r"no connection: .*Name or service not known"):
        fetch("https://nowhere.invalid/a", "a", root=tmp_path)


def test_a_server_that_falls_silent_is_given_up(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.1)
    monkeypatch.setattr(download, "PAUSES", (0.0,))
    release = threading.Event()
    site.pages["/a"] = lambda handler: (handler.send_response(200), release.wait(5), None)[2]
    with pytest.raises(UserError, match=r"timed out.*\(2 tries\)"):
        fetch(site.url("/a"), "a", root=tmp_path)
    release.set()


def drip(body: bytes, head: bytes = b"", pause: float = 0.02) -> Any:
    """Sends a whole head and the body byte by byte, or only a head, byte by byte, that never ends."""

    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head or b'HTTP/1.0 200 OK\r\nETag: "one"\r\nContent-Length: %d\r\n\r\n' % len(CONTENT))
        with contextlib.suppress(OSError):
            for start in range(len(body)):
                handler.wfile.write(body[start : start + 1])
                handler.wfile.flush()
                time.sleep(pause)

    return page


def test_a_server_that_drips_is_given_up_and_what_came_is_kept(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "WINDOW", 0.2)
    monkeypatch.setattr(download, "PAUSES", (0.0,))
    site.pages["/a"] = site.in_turn(drip(CONTENT), lambda h: site.answer(h, 503), site.file(CONTENT))
    with pytest.raises(UserError, match=r"503 .*\(2 tries\)"):
        fetch(site.url("/a"), "a", root=tmp_path)
    held = (tmp_path / ".a.part").stat().st_size
    assert 0 < held < 100
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, f"bytes={held}-", f"bytes={held}-"]


def test_a_dripping_server_is_told_as_such(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WINDOW", 0.2)
    monkeypatch.setattr(download, "PAUSES", ())
    site.pages["/a"] = drip(CONTENT)
    with pytest.raises(UserError, match=r"sent no more than \d+ bytes in .* \(1 tries\)\. Try again later"):
        fetch(site.url("/a"), "a", root=tmp_path)
    site.pages["/a"] = drip(b"X-Header: and no end " * 100, head=b"HTTP/1.0 200 OK\r\n")
    with pytest.raises(UserError, match="did not come to the end of its answer's head"):
        fetch(site.url("/a"), "b", root=tmp_path)


def test_a_server_that_is_slow_but_comes_on_is_waited_for(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "WINDOW", 0.05)
    monkeypatch.setattr(pace, "SLOWEST", 10)

    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 20\r\n\r\n")
        for byte in range(20):
            handler.wfile.write(bytes([byte]))
            time.sleep(0.01)

    site.pages["/a"] = page
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == bytes(range(20))
    assert len(site.log) == 1


def test_the_body_of_a_redirection_is_not_waited_for(site: Site, tmp_path: Path) -> None:
    released = threading.Event()

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 302 Found\r\nLocation: /b\r\nContent-Length: 1000000\r\n\r\n")
        released.wait(20)

    site.pages |= {"/a": endless, "/b": site.file(CONTENT)}
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT
    released.set()


def test_a_server_that_promises_more_than_it_has_is_refused(site: Site, tmp_path: Path) -> None:
    def more(handler: BaseHTTPRequestHandler) -> None:
        site.answer(handler, 200, CONTENT, Content_Length=len(CONTENT) + 5)

    site.pages["/a"] = more
    with pytest.raises(UserError, match="the connection broke after 300,000 of 300,005 bytes"):
        fetch(site.url("/a"), "a", root=tmp_path)
    with pytest.raises(UserError, match="offers 300,005 bytes, the published file has 300,000"):
        fetch(site.url("/a"), "a", root=tmp_path, size=len(CONTENT))
    assert not (tmp_path / "a").exists()


def test_a_server_that_sends_more_than_it_promises_is_cut_off(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = lambda h: site.answer(h, 200, CONTENT, Content_Length=HALF)
    with pytest.raises(UserError, match="what came is not the file"):
        fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256)

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT)

    site.pages["/b"] = endless
    with pytest.raises(UserError, match="sends more than the 1,000 bytes"):
        fetch(site.url("/b"), "b", root=tmp_path, size=1000)
    assert fetch(site.url("/b"), "c", root=tmp_path, sha256=SHA256).read_bytes() == CONTENT
    site.pages["/d"] = lambda h: site.answer(h, 200, CONTENT[:1000], Content_Length="soon")
    with pytest.raises(UserError, match="it has 1,000 bytes, the published one 300,000"):
        fetch(site.url("/d"), "d", root=tmp_path, size=len(CONTENT))


def test_an_empty_file_is_a_file(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = lambda h: site.answer(h, 200)
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == b""
