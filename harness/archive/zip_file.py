"""Zip files whose bytes depend on their content alone, and reading of zip files from strangers.

Nothing is compressed: the images hardly shrink, compressed bytes would depend on the version of zlib, and a file that
is not compressed cannot unpack to more than its own size.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from harness.errors import Place, UserError
from harness.files import BLOCK

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file: the earliest that a zip file can state."""

_END, _LARGE_END, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), 20
"""The records at the end of a zip file: the last one, the one for large files, and the size of what lies between."""

_ENTRY = 600
"""More than the bytes that an entry of the table of contents takes, whose name has at most 200 characters."""


def add(archive: zipfile.ZipFile, name: str, size: int, blocks: Iterable[bytes]) -> str:
    """Adds a file of this size, and returns its sha256."""
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.create_system, entry.external_attr, entry.file_size = 3, 0o644 << 16, size
    sha256 = hashlib.sha256()
    with archive.open(entry, "w") as file:
        for block in blocks:
            sha256.update(block)
            file.write(block)
    return sha256.hexdigest()


def entries(file: IO[bytes], path: Path, limit_of: Callable[[str], int | None], most: int) -> zipfile.ZipFile:
    """Opens a zip file that anybody may have made.

    Args:
        file: the open file; path: its name, for messages.
        limit_of: the largest size of a file by its name; None for a name that must not occur.
        most: the largest number of files in it.

    Raises:
        UserError: it is no zip file, or has files that are compressed, encrypted, too large, of other names, in it
            twice, or that overlap.
    """
    size = file.seek(0, 2)
    try:
        if _contents_size(file, size) > most * _ENTRY:
            raise _refused(path, f"it holds more than {most:,} files")
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, struct.error, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _refused(path, f"it is not a zip file, or is damaged ({error})") from error
    seen, total = set[str](), 0
    for entry in archive.infolist():
        limit, shown = limit_of(entry.filename), f"'{entry.filename[:100]}'"
        total += entry.file_size
        if limit is None:
            raise _refused(path, f"it holds the file {shown}, which no exported run has")
        if entry.filename in seen:
            raise _refused(path, f"it holds the file {shown} twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise _refused(path, f"the file {shown} is compressed or encrypted; `harness export` writes plain files")
        if entry.file_size > limit:
            raise _refused(path, f"the file {shown} has {entry.file_size:,} bytes, more than the limit of {limit:,}")
        seen.add(entry.filename)
    if total > size:
        raise _refused(path, f"its files have {total:,} bytes, more than the archive itself")
    return archive


def copy(archive: zipfile.ZipFile, name: str, to: IO[bytes], path: Path) -> str:
    """Copies a file of an archive, and returns its sha256. Raises UserError if it is damaged."""
    sha256 = hashlib.sha256()
    try:
        with archive.open(name) as file:
            while block := file.read(BLOCK):
                sha256.update(block)
                to.write(block)
    except (zipfile.BadZipFile, EOFError, struct.error, NotImplementedError, RuntimeError) as error:
        raise _refused(path, f"the file '{name}' is damaged ({error})") from error
    return sha256.hexdigest()


def _contents_size(file: IO[bytes], size: int) -> int:
    """The size of the table of contents, in bytes. It is read as a whole, so it must be known before."""
    file.seek(max(0, size - _END.size))
    mark, *_, contents, _, _ = _END.unpack(file.read(_END.size))
    if mark != b"PK\5\6":
        raise ValueError("it does not end as one")
    file.seek(max(0, size - _END.size - _LOCATOR - _LARGE_END.size))
    mark, *_, large, _ = _LARGE_END.unpack(file.read(_LARGE_END.size).ljust(_LARGE_END.size))
    return int(max(contents, large) if mark == b"PK\6\6" else contents)


def _refused(path: Path, reason: str) -> UserError:
    return UserError(reason, remedy="Ask for the file that `harness export` wrote", where=Place(path))
