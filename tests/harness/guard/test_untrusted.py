"""What may be read of a file that somebody else made."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.guard.untrusted import CONTAINERS, DEEPEST, VALUES, Unreadable, contents, digest, parse_json

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.slow
@settings(deadline=None)
@given(JSON)
def test_json_is_read_as_python_writes_it(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "b": {"c": 2, "c": 3}}', "the key 'c' appears twice"),
        ("[1, NaN]", "NaN is not a finite number"),
        ("-Infinity", "-Infinity is not a finite number"),
        ("[1e999]", "1e999 is too large"),
        (str(2**63), "is too large"),
        (str(-(2**63) - 1), "is too large"),
        ("9" * 100_000, "has more than 64 bits"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), "nested more than"),
        ("[" * 150_000, "nested more than"),
        ("[" + "[]," * CONTAINERS + "[]]", "more than"),
        ("[" + "1," * (VALUES + 1) + "1]", "more than"),
        ('"\\ud800"', "surrogates not allowed"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
    ],
)
def test_json_that_means_nothing_certain_or_takes_too_much_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_json(text.encode())


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match="codec"):
        parse_json(b"\xff\xfe[]")


def test_numbers_at_the_edge_of_64_bits_are_read() -> None:
    assert parse_json(f"[{2**63 - 1}, {-(2**63)}]".encode()) == [2**63 - 1, -(2**63)]


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert contents(path, 100) == b"x" * 100 and digest(path, 100) == hashlib.sha256(b"x" * 100).hexdigest()
    for read in (contents, digest):
        with pytest.raises(Unreadable, match="100 bytes, more than the limit of 99"):
            read(path, 99)


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    assert contents(tmp_path / "link", 10) == b"x"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "below a file", "a zero byte"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to("file")
    elif kind == "below a file":
        path.write_text("x")
        path /= "inner"
    else:
        path = Path("a\0b")
    for read in (contents, digest):
        with pytest.raises(Unreadable):
            read(path, 1 << 20)


def test_an_absent_file_is_absent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        contents(tmp_path / "nothing", 10)
