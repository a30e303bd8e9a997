"""Reads files from untrusted sources, with limits that are checked before reading.

A results directory, a suite or a diagnosis may come from someone else. A file is opened only if it is a regular one (a
pipe would block, /dev/zero never ends), and read only if it does not exceed the limit for its kind. JSON is rejected if
Python's own reader would fill the memory, overflow, or silently choose between two meanings.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from harness.files import digest_of

CONTAINERS, VALUES = 200_000, 1_500_000
"""The largest numbers of objects and lists, and of values, in a JSON file: about 200 MB in Python with the text."""

DEEPEST = 60
"""The largest number of nested levels in a JSON file."""

INT64 = 2**63
"""Whole numbers must lie in [-INT64, INT64), the range of 64-bit integers."""


class Unreadable(Exception):
    """A file exists and is not read; the message gives the reason, without the name of the file."""


@contextmanager
def opened(path: Path, most: int) -> Iterator[IO[bytes]]:
    """Opens a regular file of at most `most` bytes for reading.

    Raises:
        FileNotFoundError: the file does not exist.
        Unreadable: it is a folder, a pipe, a device or a loop of links, is too large, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise Unreadable(_reason(error)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("it is not a regular file")
        if status.st_size > most:
            raise Unreadable(f"it has {status.st_size:,} bytes, more than the limit of {most:,}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    except OSError as error:
        raise Unreadable(_reason(error)) from error
    finally:
        os.close(descriptor)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def contents(path: Path, most: int) -> bytes:
    """The bytes of a file. Raises the errors of `opened`."""
    with opened(path, most) as file:
        data = file.read(most + 1)
    if len(data) > most:  # it has grown, or its file system does not know its size
        raise Unreadable(f"it has more than {most:,} bytes")
    return data


def digest(path: Path, most: int) -> str:
    """The sha256 of a file, which is read block by block. Raises the errors of `opened`."""
    with opened(path, most) as file:
        return digest_of(file)


def parse_json(data: bytes) -> Any:
    """Parses a JSON text.

    Raises:
        ValueError: it is not UTF-8, not JSON, nested too deeply or too large, has a key twice, or has a number that is
            not finite or, if whole, exceeds 64 bits.
    """
    if data.count(b"[") + data.count(b"{") > CONTAINERS or data.count(b",") > VALUES:
        raise ValueError(f"it contains more than {CONTAINERS:,} objects and lists, or {VALUES:,} values")
    try:
        found = json.loads(
            data.decode(), object_pairs_hook=_object, parse_int=_whole, parse_float=_real, parse_constant=_constant
        )
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    _check_depth(found)
    if b"\\ud" in data or b"\\uD" in data:
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text, and could not be written
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key '{twice[:60]}' appears twice")
    return found


def _whole(text: str) -> int:
    if len(text) > len(str(INT64)) + 1 or not -INT64 <= int(text) < INT64:
        raise ValueError(f"the number {text[:30]}… has more than 64 bits" if len(text) > 30 else f"{text} is too large")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:30]} is too large")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")


def _check_depth(found: Any) -> None:
    level, depth = [found], 0
    while level:
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(item for item in value.values() if isinstance(item, dict | list))
            elif isinstance(value, list):
                below.extend(item for item in value if isinstance(item, dict | list))
        level, depth = below, depth + 1
