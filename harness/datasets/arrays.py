"""Images and labels in an .npz file, as numpy.savez writes it. Nothing in it is unpickled.

images         uint8 (N, H, W, C), or floating point (N, C, H, W) in [0, 1], with C = 1 or 3
labels         integers (N,), counted from 0
classes        the classes' names in the order of the labels, if they are known
num_classes    how many classes there are, likewise
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from harness.datasets.class_labels import MOST
from harness.datasets.image_file import unit_range
from harness.errors import Place, UserError

KEYS = ("images", "labels", "classes", "num_classes")
LAYOUTS = "Give uint8 (N, H, W, C), or floating point (N, C, H, W) in [0, 1], with C = 1 or 3"

LARGE, SWELLS = 1 << 26, 200
"""An array of more bytes than that, compressed by more than that factor, would only fill the memory."""

Refuse = Callable[..., UserError]
"""A UserError that names the file."""


@dataclass(frozen=True)
class Arrays:
    """Images (N, C, H, W) float32 in [0, 1]; labels (N,) int64; names of classes; their number, None if unknown."""

    images: np.ndarray
    labels: np.ndarray
    names: list[str]
    num_classes: int | None


def read_npz(path: Path, num_classes: int | None = None) -> Arrays:
    """The content of a file.

    Args:
        num_classes: what the user says. The largest label says nothing: its successors may be missing here.

    Raises:
        UserError: the file is none, lacks an array, or its arrays do not fit each other.
    """
    return read_arrays(_arrays(path), num_classes, partial(UserError, where=Place(path)))


def read_arrays(arrays: dict[str, np.ndarray], num_classes: int | None, refuse: Refuse) -> Arrays:
    """The content of such a file, from its arrays by name.

    Args:
        num_classes: as for `read_npz`.
        refuse: makes an error that names where the arrays come from.

    Raises:
        UserError: one is lacking, or they do not fit each other.
    """
    absent = [key for key in ("images", "labels") if key not in arrays]
    if absent:
        raise refuse(f"has no array '{absent[0]}'", remedy=f"It holds: {', '.join(arrays) or 'nothing'}")
    images = _images(arrays["images"], refuse)
    labels = _labels(arrays["labels"], len(images), refuse)
    names, count = _classes(arrays, num_classes, refuse)
    largest = int(labels.max())
    if count is not None and largest >= count:
        raise refuse(f"label {largest} is none of {count} classes", remedy="Labels count from 0")
    return Arrays(images, labels, names or [str(label) for label in range(count or largest + 1)], count)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Those that are ours. Of others the name alone is read."""
    try:
        if not path.is_file():
            raise OSError("it is no file")
        _refuse_swelling(path)
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] if key in KEYS else np.empty(0) for key in file.files}
    except Exception as error:  # of a damaged file, NumPy and zipfile raise whatever they came across
        raise UserError(
            f"not a readable .npz file: {error}",
            remedy="Write it with numpy.savez(path, images=..., labels=...)",
            where=Place(path),
        ) from error


def _refuse_swelling(path: Path) -> None:
    """Raises ValueError where an array is large and was compressed so far that it can hold no images."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.file_size > LARGE and info.file_size > SWELLS * info.compress_size:
                raise ValueError(
                    f"'{info.filename[:60]}' swells from {info.compress_size:,} to {info.file_size:,} bytes"
                )


def _images(images: np.ndarray, refuse: Refuse) -> np.ndarray:
    if images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in (1, 3):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
    if images.dtype.kind != "f" or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise refuse(f"images are {images.dtype} {images.shape}", remedy=LAYOUTS)
    try:
        return unit_range(images)
    except UserError as error:
        raise refuse(f"images {error.message}", remedy=LAYOUTS) from error


def _labels(labels: np.ndarray, count: int, refuse: Refuse) -> np.ndarray:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise refuse(f"labels are {labels.dtype} {labels.shape}", remedy=f"Give one integer per image, ({count},)")
    if not count:
        raise refuse("there are no images")
    if labels.min() < 0 or labels.max() >= MOST:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise refuse(f"label {wrong} is {'negative' if wrong < 0 else 'too large'}")
    return labels.astype(np.int64)


def _classes(arrays: dict[str, np.ndarray], given: int | None, refuse: Refuse) -> tuple[list[str], int | None]:
    """The names of the classes, and their number, as far as the file or the user says."""
    said = {} if given is None else {"'num_classes' of the dataset": given}
    names: list[str] = []
    if "classes" in arrays:
        if arrays["classes"].ndim != 1 or not len(arrays["classes"]):
            raise refuse("'classes' is no list", remedy="Give the classes' names in the order of their labels")
        names = [str(name) for name in arrays["classes"]]
        said["'classes' in the file"] = len(names)
    if "num_classes" in arrays:
        count = arrays["num_classes"]
        if count.size != 1 or count.dtype.kind not in "iu" or not 0 < count.item() <= MOST:
            raise refuse("'num_classes' is no number of classes", remedy="Give one integer")
        said["'num_classes' in the file"] = int(count.item())
    if len(set(said.values())) > 1:
        told = ", ".join(f"{count} classes by {where}" for where, count in said.items())
        raise refuse(f"there are {told}", remedy="Correct what is wrong")
    return names, next(iter(said.values()), None)
