"""Reads images and labels from an .npz file written by numpy.savez. Nothing is unpickled.

images         uint8 (N, H, W, C), or floating point (N, C, H, W) in [0, 1], with C = 1 or 3
labels         integers (N,), counted from 0
classes        optional: the names of the classes in the order of the labels
num_classes    optional: the number of classes
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
from harness.datasets.look_around import holds
from harness.errors import Place, UserError

KEYS = ("images", "labels", "classes", "num_classes")
LAYOUTS = "Give uint8 (N, H, W, C), or floating point (N, C, H, W) in [0, 1], with C = 1 or 3"

LARGE, SWELLS = 1 << 26, 200
"""An array larger than LARGE bytes and compressed by more than the factor SWELLS is rejected, to protect the memory."""

Refuse = Callable[..., UserError]
"""Creates a UserError that names the file."""


@dataclass(frozen=True)
class Arrays:
    """Images (N, C, H, W) float32 in [0, 1]; labels (N,) int64; names of classes; their number, None if unknown."""

    images: np.ndarray
    labels: np.ndarray
    names: list[str]
    num_classes: int | None


def read_npz(path: Path, num_classes: int | None = None) -> Arrays:
    """Reads a file.

    Args:
        num_classes: the number of classes stated by the user. It is not derived from the largest label, because images
            of further classes may be missing from the file.

    Raises:
        UserError: it is not an .npz file, an array is missing, or its arrays do not fit each other.
    """
    return read_arrays(_arrays(path), num_classes, partial(UserError, where=Place(path)))


def read_arrays(arrays: dict[str, np.ndarray], num_classes: int | None, refuse: Refuse) -> Arrays:
    """Checks and converts arrays, given by name.

    Args:
        num_classes: as for `read_npz`.
        refuse: creates an error that names the origin of the arrays.

    Raises:
        UserError: an array is missing, or they do not fit each other.
    """
    absent = [key for key in ("images", "labels") if key not in arrays]
    if absent:
        raise refuse(f"has no array '{absent[0]}'", remedy=f"It contains: {', '.join(arrays) or 'nothing'}")
    images = _images(arrays["images"], refuse)
    labels = _labels(arrays["labels"], len(images), refuse)
    names, count = _classes(arrays, num_classes, refuse)
    largest = int(labels.max())
    if count is not None and largest >= count:
        raise refuse(f"label {largest} does not belong to {count} classes", remedy="Labels count from 0")
    return Arrays(images, labels, names or [str(label) for label in range(count or largest + 1)], count)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Loads the arrays in `KEYS`; of other arrays only the names are read."""
    try:
        if not path.is_file():
            raise OSError(f"it is a folder; {holds(path)}")
        _refuse_swelling(path)
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] if key in KEYS else np.empty(0) for key in file.files}
    except Exception as error:  # NumPy and zipfile may raise anything for a damaged file
        raise UserError(
            f"not a readable .npz file: {error}",
            remedy="Write it with numpy.savez(path, images=..., labels=...)",
            where=Place(path),
        ) from error


def _refuse_swelling(path: Path) -> None:
    """Raises ValueError for an array that is large and so strongly compressed that it cannot contain images."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.file_size > LARGE and info.file_size > SWELLS * info.compress_size:
                raise ValueError(
                    f"'{info.filename[:60]}' expands from {info.compress_size:,} to {info.file_size:,} bytes"
                )


def _images(images: np.ndarray, refuse: Refuse) -> np.ndarray:
    if images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in (1, 3):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
    if images.dtype.kind != "f" or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise refuse(f"images are {images.dtype} {images.shape}", remedy=LAYOUTS)
    try:
        return unit_range(images)
    except UserError as error:
        raise refuse(f"images {error.message}", remedy=error.remedy) from error


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
    """The names of the classes and their number, as far as the file or the user states them."""
    stated = {} if given is None else {"'num_classes' of the dataset": given}
    names: list[str] = []
    if "classes" in arrays:
        if arrays["classes"].ndim != 1 or not len(arrays["classes"]):
            raise refuse("'classes' is not a list", remedy="Give the classes' names in the order of their labels")
        names = [str(name) for name in arrays["classes"]]
        stated["'classes' in the file"] = len(names)
    if "num_classes" in arrays:
        count = arrays["num_classes"]
        if count.size != 1 or count.dtype.kind not in "iu" or not 0 < count.item() <= MOST:
            raise refuse("'num_classes' is not a number of classes", remedy="Give one positive integer")
        stated["'num_classes' in the file"] = int(count.item())
    if len(set(stated.values())) > 1:
        counts = ", ".join(f"{count} classes by {where}" for where, count in stated.items())
        raise refuse(f"there are {counts}", remedy="Correct the wrong one")
    return names, next(iter(stated.values()), None)
