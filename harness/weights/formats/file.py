"""Opens a file if it is a regular one, and describes a file that is not a checkpoint."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError

HEAD = 512
"""The number of bytes by which a format is recognised."""

FETCH_AGAIN = "Fetch it again, and compare its size with the published one"

PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
OTHERS = {
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7-zip archive",
    b"Rar!": "a rar archive",
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x93NUMPY": "a NumPy array",
}


@dataclass(frozen=True)
class Source:
    """A file that is not empty, and its bytes as a memory map. Slices of the map are copies that end with the file."""

    path: Path
    data: mmap.mmap

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return len(self.data)

    @property
    def head(self) -> bytes:
        """The first bytes of the file, by which a format is recognised."""
        return self.data[:HEAD]


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Opens a file for the duration of the block.

    Raises:
        UserError: the file is absent, empty, unreadable, or not a regular file (a folder, a pipe, a device).
    """
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would block.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise UserError(f"The file cannot be opened: {error.strerror}", remedy="Check the path") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UserError("This is not a regular file", remedy="Name the checkpoint file itself")
        if not status.st_size:
            raise UserError("The file is empty", remedy=FETCH_AGAIN)
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
            yield Source(path, data)
    finally:
        os.close(descriptor)


def unrecognised(source: Source) -> UserError:
    """Returns the error for a file that has no supported format. The message says what the file seems to be."""
    head = source.head
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.lower().startswith(PAGES):
        return UserError(
            "This is a web page, not a checkpoint: most likely the page that asks to log in or to confirm the download",
            remedy="Open its address in a browser, fetch the file itself, and put it here",
        )
    if start.startswith(b"version https://git-lfs"):
        return UserError("This is a Git LFS pointer, not the file it points to", remedy="Run `git lfs pull`")
    for magic, kind in OTHERS.items():
        if head.startswith(magic):
            return UserError(f"This is {kind}, not a checkpoint", remedy="Unpack or convert it first")
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return UserError(f"This is a text, not a checkpoint; it begins {start[:60].decode()!r}", remedy=FETCH_AGAIN)
    return UserError(
        f"This is not a checkpoint of a known format; its first bytes are {head[:8].hex(' ')}",
        remedy="Supported are safetensors, torch.save files and the published .pkl files of EDM",
    )
