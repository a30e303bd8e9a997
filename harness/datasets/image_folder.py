"""Reads image files from a folder or zip archive with a folder per class: <class>/<file> or <split>/<class>/<file>."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from harness.datasets.class_labels import ClassLabels, label_folders
from harness.datasets.dataset import Whole
from harness.datasets.image_file import decode
from harness.datasets.look_around import holds
from harness.datasets.source import Request, Rows
from harness.datasets.stack import refuse_outside, stack
from harness.datasets.transform import Transform
from harness.errors import Place, UserError

READING = 2
"""To be raised when the same files are read as different images or labels; it is part of the identity of results."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
UNREAD = (".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".heic")
"""Suffixes of images that are rejected: ignoring them silently would change the dataset."""

SPLITS = ("train", "test")
LARGEST_FILE = 2**28
"""The largest size of an image file in bytes."""


@dataclass(frozen=True)
class Found:
    """The chosen images of a split.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1], with C = 1 if all images of the split are grey.
        labels: (N,) int64.
        classes: the origin of the labels.
        whole: the split.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: ClassLabels
    whole: Whole


def read_folder(request: Request, rows: Rows | None = None) -> Found:
    """Reads images of a split, ordered by label, then by file name. Without split folders, all images are used.

    Args:
        request: with a path; its classes are those of `harness.datasets.class_labels.label_folders`.
        rows: chooses images, of which alone the pixels are read; by default all.

    Raises:
        UserError: the path is not a folder or zip, there are no images, an image is unreadable, images have different
            sizes, class folders are in several places or without images, or `classes` does not fit the folders.
    """
    path = request.path or Path()
    with _opened(path) as tree:
        members, folders = _members(tree, path, request.split, complete=request.classes is None)
        known = label_folders(folders, request.classes, request.num_classes)
        members.sort(key=lambda file: (known.of[file.parent.name], file.parent.name, file.name))
        labels = np.array([known.of[member.parent.name] for member in members], dtype=np.int64)
        chosen = range(len(members)) if rows is None else rows(len(members))
        with _at(path):
            refuse_outside(chosen, len(members), f"the {request.split} split")
            images = stack(
                len(members),
                chosen,
                lambda row: _decoded(tree, members[row], request.transform),
                lambda row: str(members[row]),
            )
    return Found(images, labels[list(chosen)], known, Whole(len(labels), int(labels.max())))


def read_labels(request: Request) -> ClassLabels:
    """The labels of class folders, as in `read_folder`, without opening an image."""
    path = request.path or Path()
    with _opened(path) as tree:
        folders = _members(tree, path, request.split, complete=request.classes is None)[1]
        return label_folders(folders, request.classes, request.num_classes)


def content_hash(path: Path) -> str:
    """The sha256, in hexadecimal, of `READING` and of the names and bytes of all files in a folder or archive."""
    digest = hashlib.sha256(f"reading {READING}\n".encode())
    with _opened(path) as tree:
        for name in sorted(tree.files):
            with tree.open(name) as stream:
                content = hashlib.sha256(stream.read()).hexdigest()
            digest.update(f"{content} {name}\n".encode())
    return digest.hexdigest()


@contextmanager
def _at(path: Path) -> Iterator[None]:
    """Adds the path to errors about the files."""
    try:
        yield
    except UserError as error:
        raise error.at(Place(path)) from error


# --- the files


@dataclass(frozen=True)
class _Tree:
    """The content of a folder or an archive. files: sizes in bytes, by relative path; folders: relative paths."""

    files: dict[PurePosixPath, int]
    folders: frozenset[PurePosixPath]
    open: Callable[[PurePosixPath], IO[bytes]]


@contextmanager
def _opened(path: Path) -> Iterator[_Tree]:
    if path.is_dir():
        yield _walked(path)
        return
    with _archive(path) as archive:
        infos = {PurePosixPath(info.filename): info for info in archive.infolist()}
        files = {name: info.file_size for name, info in infos.items() if not info.is_dir()}
        folders = frozenset(name for name, info in infos.items() if info.is_dir())
        yield _Tree(files, folders.union(*(name.parents for name in files)), lambda name: archive.open(infos[name]))


def _archive(path: Path) -> zipfile.ZipFile:
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise UserError("neither a folder nor a zip file", remedy="Give a folder of images", where=Place(path))
    try:
        return zipfile.ZipFile(path)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UserError(f"not a readable zip file: {error}", where=Place(path)) from error


def _walked(root: Path) -> _Tree:
    """Lists a folder, following links."""
    files: dict[PurePosixPath, int] = {}
    folders: set[PurePosixPath] = set()
    waiting: list[tuple[Path, tuple[str, ...]]] = [(root, ())]
    try:
        while waiting:
            folder, above = waiting.pop()
            inside = (*above, os.path.realpath(folder))
            for entry in os.scandir(folder):
                name = PurePosixPath(Path(entry.path).relative_to(root))
                if entry.is_dir():
                    folders.add(name)
                    waiting.append((Path(entry.path), inside))
                elif entry.is_file():
                    files[name] = entry.stat().st_size
                if entry.is_symlink() and (not os.path.exists(entry.path) or os.path.realpath(entry.path) in inside):
                    raise UserError(
                        f"the link {name} is broken or forms a circle", remedy="Remove it", where=Place(root)
                    )
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}", where=Place(root)) from error
    return _Tree(files, frozenset(folders), lambda name: open(root / name, "rb"))


# --- the classes


def _members(tree: _Tree, path: Path, split: str, complete: bool) -> tuple[list[PurePosixPath], list[str]]:
    """The images of a split, and the names of all class folders, those of other splits included.

    Args:
        path: the path of the tree; complete: whether every folder beside class folders must be a class folder too.
    """
    with _at(path):
        return _chosen(tree, path, split, complete)


def _chosen(tree: _Tree, path: Path, split: str, complete: bool) -> tuple[list[PurePosixPath], list[str]]:
    visible = [file for file in tree.files if _visible(file) and len(file.parts) > 1]
    images = [file for file in visible if file.suffix.lower() in SUFFIXES]
    divided = any(_split(file) for file in images)
    images = [file for file in images if _split(file) or not divided]
    chosen = [file for file in images if not divided or _split(file) == split]
    if not chosen:
        raise _no_images(tree, path, split, divided)
    places: dict[str | None, set[PurePosixPath]] = defaultdict(set)
    for file in images:
        places[_split(file)].add(file.parent.parent)
    for found in places.values():
        if len(found) > 1:
            one, other = sorted(found)[:2]
            raise UserError(
                f"there are class folders in {_describe(one)} and in {_describe(other)}",
                remedy="Put all folders of classes, and nothing else with images, into one folder",
            )
    folders = {file.parent.name for file in images}
    roots = {root for found in places.values() for root in found}
    if complete:
        _refuse_empty(tree, roots, folders)
    for file in visible:
        if file.suffix.lower() in UNREAD and file.parent.parent in roots:
            raise UserError(f"{file} has an unsupported image format", remedy=f"Use one of {', '.join(SUFFIXES)}")
    return chosen, sorted(folders)


def _no_images(tree: _Tree, path: Path, split: str, divided: bool) -> UserError:
    """Why there are no images of a split, and where they may be. divided: whether there are folders of splits."""
    remedy = f"Expected <class>/<file> or {split}/<class>/<file>"
    if any(len(file.parts) == 1 and file.suffix.lower() in SUFFIXES for file in tree.files):
        remedy = f"Its images lie in no class folder. {remedy}: give the folder above it if it is the folder of a class"
    elif divided:
        remedy = f"It has images of another split alone. {remedy}, or give the folder of the classes itself"
    return UserError(f"contains no {split} images: {holds(path)}", remedy=remedy)


def _refuse_empty(tree: _Tree, roots: set[PurePosixPath], folders: set[str]) -> None:
    """Raises UserError for a folder without images: it may be a class that counts in the labels elsewhere."""
    for folder in sorted(tree.folders):
        if folder.parent in roots and folder not in roots and _visible(folder) and folder.name not in folders:
            raise UserError(
                f"the folder {folder} beside the class folders contains no images ({', '.join(SUFFIXES)})",
                remedy="Remove it, or name the classes in the order of their labels with `classes:`",
            )


def _visible(name: PurePosixPath) -> bool:
    return not any(part == "__MACOSX" or part.startswith(".") for part in name.parts)


def _split(file: PurePosixPath) -> str | None:
    above = file.parts[:-2]
    return above[-1] if above and above[-1] in SPLITS else None


def _describe(folder: PurePosixPath) -> str:
    return "the top folder" if folder == PurePosixPath(".") else f"{folder}/"


# --- the pixels


def _decoded(tree: _Tree, member: PurePosixPath, transform: Transform) -> np.ndarray:
    if tree.files[member] > LARGEST_FILE:
        raise UserError(f"{member} has {tree.files[member]:,} bytes, too many for an image")
    try:
        with tree.open(member) as stream:
            return decode(stream, transform)
    except UserError as error:
        raise UserError(f"{member} {error.message}", remedy=error.remedy) from error
    except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:  # the archive's
        raise UserError(f"{member} is not a readable image: {error}") from error
