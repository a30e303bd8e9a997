"""Image files in a folder or a zip archive, one folder per class: <class>/<file>, or <split>/<class>/<file>."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from harness.errors import Place, UserError

SUFFIXES = (".png", ".jpg", ".jpeg")
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Found:
    """Images (N, C, H, W) uint8, C = 1 only if all are grey; labels (N,) int64; classes in alphabetical order."""

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]


def read_folder(path: Path, split: str) -> Found:
    """All images of a split, ordered by class, then by file name. Without split folders, everything is that split.

    Raises:
        UserError: not a folder or zip, no images, an unreadable image, or images of several sizes.
    """
    with _opened(path) as (names, stream):
        members = _members(path, names, split)
        classes = sorted({member.parent.name for member in members})
        images = [_decode(stream / str(member), path, member) for member in members]
    labels = [classes.index(member.parent.name) for member in members]
    return Found(_stack(path, members, images), np.array(labels, dtype=np.int64), classes)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Path | zipfile.Path]]:
    """The names of the files inside, relative and with slashes, and the root to open them from."""
    if path.is_dir():
        yield [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()], path
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield [info.filename for info in archive.infolist() if not info.is_dir()], zipfile.Path(archive)
    else:
        raise UserError("neither a folder nor a zip file", remedy="Give a folder of images", where=Place(path))


def _members(path: Path, names: list[str], split: str) -> list[PurePosixPath]:
    files = [PurePosixPath(name) for name in names]
    files = [file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    files = [file for file in files if "__MACOSX" not in file.parts and len(file.parts) > 1]
    if any(_split(file) for file in files):
        files = [file for file in files if _split(file) == split]
    if not files:
        raise UserError(
            f"holds no {split} images", remedy=f"Expected <class>/<file> or {split}/<class>/<file>", where=Place(path)
        )
    return sorted(files, key=lambda file: (file.parent.name, file.name))


def _split(file: PurePosixPath) -> str | None:
    above = file.parts[:-2]
    return above[-1] if above and above[-1] in SPLITS else None


def _decode(file: Path | zipfile.Path, path: Path, member: PurePosixPath) -> np.ndarray:
    """(H, W) where the file is grey, else (H, W, 3)."""
    try:
        stream: IO[bytes]
        with file.open("rb") as stream, Image.open(stream) as image:
            return np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except (OSError, UnidentifiedImageError, zipfile.BadZipFile) as error:
        raise UserError(f"{member} is not a readable image: {error}", where=Place(path)) from error


def _stack(path: Path, members: list[PurePosixPath], images: list[np.ndarray]) -> np.ndarray:
    colour = any(image.ndim == 3 for image in images)
    height, width = images[0].shape[:2]
    stacked = np.empty((len(images), 3 if colour else 1, height, width), dtype=np.uint8)
    for row, (member, image) in enumerate(zip(members, images, strict=True)):
        if image.shape[:2] != (height, width):
            raise UserError(
                f"{member} is {image.shape[1]}x{image.shape[0]} and {members[0]} is {width}x{height}",
                remedy="Resize the images to one size",
                where=Place(path),
            )
        stacked[row] = image if image.ndim == 2 else image.transpose(2, 0, 1)
    return stacked
