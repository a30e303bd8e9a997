"""Files that are none, in the place of each of a directory's."""

from __future__ import annotations

import os
from pathlib import Path

from helpers.hostile.places import Spoil

GIGABYTE = 1 << 30


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def sparse(path: Path) -> None:
    """Ten gigabytes of nothing, which take no space on disk."""
    with path.open("r+b") as file:
        file.truncate(10 * GIGABYTE)


def empty(path: Path) -> None:
    path.write_bytes(b"")


FILES: dict[str, Spoil] = {
    "a pipe": pipe,
    "/dev/zero": endless,
    "a loop of links": loop,
    "a folder": folder,
    "ten sparse gigabytes": sparse,
    "empty": empty,
}


def instead(place: str, make: Spoil) -> Spoil:
    def spoil(root: Path) -> None:
        path = root / place
        path.parent.mkdir(exist_ok=True)
        path.touch()
        make(path)

    return spoil
