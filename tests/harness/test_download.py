"""Downloads from a real server on this machine: whole, verified, resumed, never outside the cache, mishaps told."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import download, transfer
from harness.download import fetch, safe_name, verified, weights_root
from harness.errors import UserError

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


def answer(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: object) -> None:
    handler.send_response(status)
    sent = {"Content-Length": len(body)} | {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in sent.items():
        handler.send_header(name, str(value))
    handler.end_headers()
    handler.wfile.write(body)


def file(content: bytes = CONTENT, *, etag: str = '"one"', ranges: bool = True, cuts: tuple[int, ...] = ()) -> Page:
    """Serves content. cuts: how many bytes of its body each of the first answers really sends."""
    left = list(cuts)

    def page(handler: BaseHTTPRequestHandler) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        unchanged = handler.headers.get("If-Range") in (None, etag)
        start = int(wanted[1]) if wanted and ranges and unchanged else 0
        named = {"ETag": etag} if etag else {}
        if start >= len(content):
            answer(handler, 416, Content_Range=f"bytes */{len(content)}", **named)
            return
        cut = left.pop(0) if left else len(content)
        headers = {"Content-Length": len(content) - start, **named}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        answer(handler, 206 if start else 200, content[start:][:cut], **headers)

    return page


def in_turn(*pages: Page) -> Page:
    left = list(pages)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def redirect(to: str, status: int = 302) -> Page:
    return lambda handler: answer(handler, status, Location=to)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HARNESS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    found = Site()
    yield found
    found.server.shutdown()
    found.server.server_close()


def files(root: Path) -> list[str]:
    """What a cache shows, without its locks."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_a_file_arrives_whole_and_tells_its_progress(site: Site, tmp_path: Path) -> None:
    site.pages["/a.pkl"] = file()
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


def test_what_is_there_is_verified_and_not_fetched_again(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = file()
    for _ in range(2):
        path = fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256)
    assert len(site.log) == 1
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=rf"not the right one: its sha256 is .* published one {SHA256}"):
        fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256)
    with pytest.raises(UserError, match=r"it has 299,999 bytes, the published one 300,000"):
        fetch(site.url("/a"), "a", root=tmp_path, size=len(CONTENT))


def test_another_content_than_the_published_is_refused_and_not_kept(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = file(CONTENT[::-1])
    with pytest.raises(UserError) as caught:
        fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256)
    told = str(caught.value)
    for part in (site.url("/a"), str(tmp_path / "a"), SHA256, hashlib.sha256(CONTENT[::-1]).hexdigest()):
        assert part in told
    assert "Download it yourself and put it at" in told
    assert files(tmp_path) == []


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256}])
def test_after_a_cut_only_the_rest_is_sent(site: Site, tmp_path: Path, known: dict[str, str]) -> None:
    site.pages["/a"] = file(cuts=(100_000, 60_000))
    assert fetch(site.url("/a"), "a", root=tmp_path, **known).read_bytes() == CONTENT  # type: ignore[arg-type]
    assert site.ranges() == [None, "bytes=100000-", "bytes=160000-"]


def test_a_download_goes_on_in_a_later_call(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = in_turn(file(cuts=(HALF,)), *[lambda h: answer(h, 503)] * 3, file())
    with pytest.raises(UserError, match=r"503 .*\(4 tries\)"):
        fetch(site.url("/a"), "a", root=tmp_path)
    assert not (tmp_path / "a").exists()
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT
    assert site.ranges()[1:] == [f"bytes={HALF}-"] * 4


def test_a_server_without_ranges_starts_again(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = file(ranges=False, cuts=(HALF,))
    assert fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert len(site.log) == 2


def test_a_server_that_cannot_name_the_file_is_asked_for_all_of_it(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = file(etag="", cuts=(HALF,))
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, None]


def test_parts_of_two_files_are_never_joined(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = in_turn(file(cuts=(HALF,)), file(CONTENT[::-1], etag='"two"'))
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT[::-1]
    site.pages["/b"] = in_turn(file(etag="", cuts=(HALF,)), file(CONTENT[::-1], etag=""), file())
    assert fetch(site.url("/b"), "b", root=tmp_path, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize(("start", "etag"), [(7, "one"), (HALF, "two")])
def test_a_part_that_does_not_fit_is_thrown_away(site: Site, tmp_path: Path, start: int, etag: str) -> None:
    def misfit(handler: BaseHTTPRequestHandler) -> None:
        bounds = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        answer(handler, 206, CONTENT[::-1][start:], Content_Range=bounds, ETag=f'"{etag}"')

    site.pages["/a"] = in_turn(file(cuts=(HALF,)), misfit, file())
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT
    assert site.log == [("/a", None, None), ("/a", f"bytes={HALF}-", '"one"'), ("/a", None, None)]


def test_a_part_from_another_address_is_not_continued(site: Site, tmp_path: Path) -> None:
    busy = [lambda h: answer(h, 503)] * 4
    site.pages |= {"/old": in_turn(file(CONTENT[::-1], cuts=(HALF,)), *busy), "/new": file()}
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
    site.pages["/a"] = file()
    with monkeypatch.context() as patched:
        patched.setattr(download._Job, "pour", crash)
        with pytest.raises(KeyboardInterrupt):
            fetch(site.url("/a"), "a", root=tmp_path)
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT


def test_a_file_that_came_whole_before_a_crash_is_not_sent_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / ".a.part").write_bytes(CONTENT)
    (tmp_path / ".a.part.json").write_text(json.dumps({"url": site.url("/a"), "validator": '"one"'}))
    site.pages["/a"] = file()
    assert fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert site.ranges() == [f"bytes={len(CONTENT)}-"]


def test_a_part_longer_than_the_file_is_thrown_away(site: Site, tmp_path: Path) -> None:
    (tmp_path / ".a.part").write_bytes(CONTENT + b"more")
    (tmp_path / ".a.part.json").write_text(json.dumps({"url": site.url("/a"), "validator": '"one"'}))
    site.pages["/a"] = file()
    assert fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirections_are_followed(site: Site, tmp_path: Path, status: int) -> None:
    site.pages |= {"/old": redirect("/new", status), "/new": file(cuts=(HALF,))}
    assert fetch(site.url("/old"), "a", root=tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert site.log[-1] == ("/new", f"bytes={HALF}-", '"one"')


def test_redirections_in_a_circle_or_without_end_are_refused(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/a": redirect("/b"), "/b": redirect("/a")}
    site.pages |= {f"/{i}": redirect(f"/{i + 1}") for i in range(50)}
    for start in ("/a", "/0"):
        site.log.clear()
        with pytest.raises(UserError, match="infinite loop"):
            fetch(site.url(start), "a", root=tmp_path)
        assert len(site.log) <= 10


@pytest.mark.parametrize("to", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:text/plain,hello", "gopher://x/"])
def test_redirections_out_of_http_are_refused(site: Site, tmp_path: Path, to: str) -> None:
    site.pages["/a"] = redirect(to)
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
    asked = transfer.request.Request("https://a/b")
    with pytest.raises(transfer.Refused, match="http://a/b"):
        transfer._Redirects().redirect_request(asked, None, 302, "", None, "http://a/b")  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_file_that_is_not_there_is_told_at_once(site: Site, tmp_path: Path, status: int) -> None:
    site.pages["/a"] = lambda handler: answer(handler, status)
    with pytest.raises(UserError, match=rf"the server answers {status} .*put it at {tmp_path}/a"):
        fetch(site.url("/a"), "a", root=tmp_path)
    assert len(site.log) == 1


def test_a_server_that_is_busy_for_a_moment_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = in_turn(lambda h: answer(h, 503), lambda h: answer(h, 429), file())
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT


def test_a_web_page_is_no_checkpoint(site: Site, tmp_path: Path) -> None:
    page = b"<html>Too large to scan for viruses. Download anyway?</html>"
    site.pages["/a"] = lambda h: answer(h, 200, page, Content_Type="text/html; charset=utf-8")
    with pytest.raises(UserError, match="a web page, not the file"):
        fetch(site.url("/a"), "a", root=tmp_path)


def test_an_encoded_body_is_refused(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = lambda h: answer(h, 200, b"\x1f\x8b", Content_Encoding="gzip")
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
    monkeypatch.setattr(transfer, "TIMEOUT", 0.1)
    monkeypatch.setattr(download, "PAUSES", (0.0,))
    release = threading.Event()
    site.pages["/a"] = lambda handler: (handler.send_response(200), release.wait(5), None)[2]
    with pytest.raises(UserError, match=r"timed out.*\(2 tries\)"):
        fetch(site.url("/a"), "a", root=tmp_path)
    release.set()


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_uses_what_is_there_and_no_network(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    site.pages["/a"] = file()
    fetch(site.url("/a"), "a", root=tmp_path)
    if how == "environment":
        monkeypatch.setenv("HARNESS_OFFLINE", "1")
    offline = how == "argument"
    assert fetch(site.url("/a"), "a", root=tmp_path, offline=offline).read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"switched off.*put it at .*/b"):
        fetch(site.url("/a"), "b", root=tmp_path, offline=offline)
    assert len(site.log) == 1


def test_without_a_published_hash_the_first_content_is_the_one(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = file()
    path = fetch(site.url("/a"), "a", root=tmp_path)
    record = tmp_path / "a.origin.json"
    assert json.loads(record.read_text()) == {"url": site.url("/a"), "size": len(CONTENT), "sha256": SHA256}
    path.unlink()
    site.pages["/a"] = file(CONTENT[::-1], etag='"two"')
    changed = hashlib.sha256(CONTENT[::-1]).hexdigest()
    with pytest.raises(UserError, match=rf"{changed}, it was {SHA256} when first seen.*remove {record}"):
        fetch(site.url("/a"), "a", root=tmp_path)
    assert not path.exists()
    record.unlink()
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT[::-1]


def test_a_file_put_there_by_hand_is_held_to_the_same_rules(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it is not there"):
        verified("https://a/page", "x/a.pt", root=tmp_path)
    path = tmp_path / "x" / "a.pt"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert verified("https://a/page", "x/a.pt", root=tmp_path) == path
    assert fetch("https://a/a.pt", "x/a.pt", root=tmp_path) == path
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(UserError, match=f"it was {SHA256} when first seen"):
        verified("https://a/page", "x/a.pt", root=tmp_path)


def test_a_damaged_note_is_told(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = file()
    record = tmp_path / "a.origin.json"
    for damaged in ("{", "[]", "\xff"):
        record.write_text(damaged, encoding="latin-1")
        with pytest.raises(UserError, match=f"{record} is damaged"):
            fetch(site.url("/a"), "a", root=tmp_path)


def test_a_server_that_promises_more_than_it_has_is_refused(site: Site, tmp_path: Path) -> None:
    def more(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, 200, CONTENT, Content_Length=len(CONTENT) + 5)

    site.pages["/a"] = more
    with pytest.raises(UserError, match="the connection broke after 300,000 of 300,005 bytes"):
        fetch(site.url("/a"), "a", root=tmp_path)
    with pytest.raises(UserError, match="offers 300,005 bytes, the published file has 300,000"):
        fetch(site.url("/a"), "a", root=tmp_path, size=len(CONTENT))
    assert not (tmp_path / "a").exists()


def test_a_server_that_sends_more_than_it_promises_is_cut_off(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = lambda h: answer(h, 200, CONTENT, Content_Length=HALF)
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
    site.pages["/d"] = lambda h: answer(h, 200, CONTENT[:1000], Content_Length="soon")
    with pytest.raises(UserError, match="it has 1,000 bytes, the published one 300,000"):
        fetch(site.url("/d"), "d", root=tmp_path, size=len(CONTENT))


def test_an_empty_file_is_a_file(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = file(b"")
    site.pages["/a"] = lambda h: answer(h, 200)
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == b""


def start_fetch(url: str, root: Path) -> subprocess.Popen[bytes]:
    code = (
        f"from pathlib import Path; from harness.download import fetch; fetch({url!r}, 'a', root=Path({str(root)!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_of_two_processes_one_downloads_and_the_other_waits(site: Site, tmp_path: Path) -> None:
    waiting = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, 200, CONTENT[:HALF], Content_Length=len(CONTENT))
        waiting.wait(20)
        handler.wfile.write(CONTENT[HALF:])

    site.pages["/a"] = slow
    first = start_fetch(site.url("/a"), tmp_path)
    until(lambda: bool(site.log))
    second = start_fetch(site.url("/a"), tmp_path)
    time.sleep(0.3)  # the second comes to the lock, or comes late and finds the file: it holds either way
    waiting.set()
    assert (first.wait(20), second.wait(20)) == (0, 0)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert len(site.log) == 1


def test_a_killed_download_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    killed = threading.Event()

    def halting(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, 200, CONTENT[:HALF], Content_Length=len(CONTENT), ETag='"one"')
        killed.wait(20)

    site.pages["/a"] = in_turn(halting, file())
    part = tmp_path / ".a.part"
    process = start_fetch(site.url("/a"), tmp_path)
    until(lambda: part.exists() and part.stat().st_size >= HALF // 2)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    killed.set()
    held = part.stat().st_size
    assert fetch(site.url("/a"), "a", root=tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, f"bytes={held}-"]
    assert files(tmp_path) == ["a", "a.origin.json"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_cache_that_cannot_be_written_is_told(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    site.pages["/a"] = file()

    def failing(*arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(download.os, "fsync" if code == errno.ENOSPC else "open", failing)
    with pytest.raises(UserError, match=f"{os.strerror(code)}.*Download it yourself"):
        fetch(site.url("/a"), "a", root=tmp_path)


@pytest.mark.parametrize("target", ["../a", "x/../../a", "/etc/a", ".", "", "x/..", "a\0b"])
def test_a_target_outside_the_cache_is_refused(tmp_path: Path, target: str) -> None:
    root = tmp_path / "cache"
    with pytest.raises(UserError, match="leads out of the cache"):
        fetch("http://127.0.0.1:9/a", target, root=root)
    assert files(tmp_path) == []


def test_links_are_not_followed_out_of_the_cache(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = file()
    root, outside = tmp_path / "cache", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "folder").symlink_to(outside)
    (root / "absent").symlink_to(tmp_path / "absent")
    (root / "circle").symlink_to(root / "circle")
    (root / "file").symlink_to(outside / "file")
    for target in ("folder/a", "absent/a", "circle/a", "file"):
        with pytest.raises(UserError, match="leads out of the cache"):
            fetch(site.url("/a"), target, root=root)
    (root / ".a.part.json").write_text(json.dumps({"url": site.url("/a"), "validator": '"one"'}))
    for hidden in (".a.lock", ".a.part"):
        (root / hidden).symlink_to(outside / hidden)
        with pytest.raises(UserError, match="symbolic links"):
            fetch(site.url("/a"), "a", root=root)
        (root / hidden).unlink()
    assert files(outside) == []


def test_the_cache_itself_and_folders_in_it_may_be_links(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = file()
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "alias").symlink_to(tmp_path / "disk" / "real")
    path = fetch(site.url("/a"), "alias/a", root=tmp_path / "cache")
    assert path == tmp_path / "disk" / "real" / "a"


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="something that is no file is in its place"):
        fetch("https://127.0.0.1/a", "a", root=tmp_path)


def test_files_of_one_name_from_two_addresses_are_kept_apart(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/x/model.pt": file(), "/y/model.pt": file(CONTENT[::-1])}
    x, y = (fetch(site.url(path), root=tmp_path) for path in ("/x/model.pt", "/y/model.pt"))
    assert x.name == y.name == "model.pt"
    assert (x.read_bytes(), y.read_bytes()) == (CONTENT, CONTENT[::-1])


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a/b/model.pt?download=true#top", "model.pt"),
        ("https://a/%2e%2e%2fetc%2fpasswd", "_etc_passwd"),
        ("https://a/..%5C..%5Cx", "_.._x"),
        ("https://a/.bashrc", "bashrc"),
        ("https://a/", "download"),
        ("https://a/b%00c%0a", "b_c_"),
        ("https://a/" + "x" * 500 + ".safetensors", "x" * 108 + ".safetensors"),
    ],
)
def test_names_of_addresses_are_made_harmless(url: str, name: str) -> None:
    assert safe_name(url) == name


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=200))
def test_every_address_has_a_harmless_name(url: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*", safe_name(url))
    assert len(safe_name(url)) <= download.LONGEST_NAME


def test_the_cache_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path / "w"))
    assert weights_root() == tmp_path / "w"
    monkeypatch.delenv("HARNESS_WEIGHTS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights_root() == tmp_path / ".cache" / "adversarial-harness" / "weights"
