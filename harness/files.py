"""Hashes of the contents of files and folders, independent of their location; and atomic writing."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from harness.errors import UserError

MOST_BYTES, MOST_FILES = 1 << 30, 100_000
"""Limits for hashing a folder: beyond so many bytes, files count by name and size only; further files are ignored."""

BLOCK = 1 << 20


def digest(file: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return digest_of(stream)


def digest_of(stream: IO[bytes]) -> str:
    """The sha256 of the rest of a stream, which is read block by block."""
    sha256 = hashlib.sha256()
    while block := stream.read(BLOCK):
        sha256.update(block)
    return sha256.hexdigest()


def content(path: str | Path) -> str | None:
    """The sha256 of a file, or of a folder's files with their names; None if the path is neither."""
    if os.path.isfile(path):
        return digest(Path(path))
    if not os.path.isdir(path):
        return None
    sha256, left = hashlib.sha256(), MOST_BYTES
    for file in itertools.islice(_files(Path(path)), MOST_FILES):
        size = file.stat().st_size
        identity = digest(file) if size <= left else f"{size} bytes"
        left -= size if size <= left else 0
        sha256.update(f"{identity} {file.relative_to(path).as_posix()}\n".encode(errors="surrogateescape"))
    return sha256.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """The regular files below a folder, sorted by name."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (path for name in sorted(names) if os.path.isfile(path := Path(place, name)))


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Writes a file so that it is either complete or absent, even after a crash. Raises the errors of `replacing`."""
    with replacing(path) as file:
        file.write(data)


def refuse_unwritable(path: Path, remedy: str | None = None) -> None:
    """Raises UserError if a file could not be written to a path, of which nothing is made yet.

    Args:
        remedy: instead of the usual one.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=next(above for above in path.absolute().parents if os.path.lexists(above))):
            pass
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror})", remedy=remedy or _remedy(error)) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file to write to, which takes the place of the one at `path` when the block ends without an exception.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror})", remedy=_remedy(error)) from error
    finally:
        _discard(temporary)


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free some space and run the same command again: finished shards are kept"
    return "Choose a directory that you may write with --out"


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the folder itself is not writable, so no temporary file was created in it


def sync_folder(folder: Path) -> None:
    """Waits until the disk has what was created, renamed or removed in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
