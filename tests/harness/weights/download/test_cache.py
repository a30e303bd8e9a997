"""What is downloaded lies in the cache, verified, once, and nothing lies anywhere else."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.settings import weights_root
from harness.weights import download
from harness.weights.download import fetch, safe_name, verified
from helpers.examples import examples
from helpers.site import CONTENT, HALF, SHA256, Site, files


def test_what_is_there_is_verified_and_not_fetched_again(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = site.file(CONTENT)
    for _ in range(2):
        path = fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256)
    assert len(site.log) == 1
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=rf"not the right one: its sha256 is .* published one {SHA256}"):
        fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256)
    with pytest.raises(UserError, match=r"it has 299,999 bytes, the published one 300,000"):
        fetch(site.url("/a"), "a", root=tmp_path, size=len(CONTENT))


def test_another_content_than_the_published_is_refused_and_not_kept(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = site.file(CONTENT[::-1])
    with pytest.raises(UserError) as caught:
        fetch(site.url("/a"), "a", root=tmp_path, sha256=SHA256)
    told = str(caught.value)
    for part in (site.url("/a"), str(tmp_path / "a"), SHA256, hashlib.sha256(CONTENT[::-1]).hexdigest()):
        assert part in told
    assert "Download it yourself and put it at" in told
    assert files(tmp_path) == []


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_uses_what_is_there_and_no_network(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    site.pages["/a"] = site.file(CONTENT)
    fetch(site.url("/a"), "a", root=tmp_path)
    if how == "environment":
        monkeypatch.setenv("HARNESS_OFFLINE", "1")
    offline = how == "argument"
    assert fetch(site.url("/a"), "a", root=tmp_path, offline=offline).read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"switched off.*put it at .*/b"):
        fetch(site.url("/a"), "b", root=tmp_path, offline=offline)
    assert len(site.log) == 1


def test_without_a_published_hash_the_first_content_is_the_one(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = site.file(CONTENT)
    path = fetch(site.url("/a"), "a", root=tmp_path)
    record = tmp_path / "a.origin.json"
    assert json.loads(record.read_text()) == {"url": site.url("/a"), "size": len(CONTENT), "sha256": SHA256}
    path.unlink()
    site.pages["/a"] = site.file(CONTENT[::-1], etag='"two"')
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
    site.pages["/a"] = site.file(CONTENT)
    record = tmp_path / "a.origin.json"
    for damaged in ("{", "[]", "\xff"):
        record.write_text(damaged, encoding="latin-1")
        with pytest.raises(UserError, match=f"{record} is damaged"):
            fetch(site.url("/a"), "a", root=tmp_path)


def start_fetch(url: str, root: Path) -> subprocess.Popen[bytes]:
    code = "from pathlib import Path; from harness.weights.download import fetch; "
    code += f"fetch({url!r}, 'a', root=Path({str(root)!r}))"
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[4])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_of_two_processes_one_downloads_and_the_other_waits(site: Site, tmp_path: Path) -> None:
    waiting = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        site.answer(handler, 200, CONTENT[:HALF], Content_Length=len(CONTENT))
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
        site.answer(handler, 200, CONTENT[:HALF], Content_Length=len(CONTENT), ETag='"one"')
        killed.wait(20)

    site.pages["/a"] = site.in_turn(halting, site.file(CONTENT))
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
    site.pages["/a"] = site.file(CONTENT)

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
    site.pages["/a"] = site.file(CONTENT)
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
    site.pages["/a"] = site.file(CONTENT)
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
    site.pages |= {"/x/model.pt": site.file(CONTENT), "/y/model.pt": site.file(CONTENT[::-1])}
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


@settings(deadline=None, max_examples=examples(100))
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
