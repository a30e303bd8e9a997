"""Finds the 50,000 validation images of ImageNet (ILSVRC 2012), and their labels, in their usual layouts.

The images are ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_00050000.JPEG, and lie

    in folders by class     n01440764/ILSVRC2012_val_00000293.JPEG; label k is the k-th of the 1,000 classes, sorted
    or all in one folder    with their labels in the development kit (ILSVRC2012_devkit_t12/data), or in Kaggle's
                            LOC_val_solution.csv

The development kit numbers classes in an order of its own, which its meta.mat translates.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from harness.datasets.look_around import holds, near
from harness.errors import Place, UserError

COUNT = 50_000
IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.(jpeg|jpg|png)", re.IGNORECASE)
CLASS = re.compile(r"n\d{8}")

PLACES = ("", "val", "validation", "ILSVRC2012_img_val", "Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC/val")
"""Where the images lie below the folder that is called ImageNet's."""

KITS = ("ILSVRC2012_devkit_t12/data", "devkit/data", "data", "")
TRUTH, META, SOLUTION = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "LOC_val_solution.csv"
FEW = 5
"""So many files of a class folder tell whether it holds validation images."""

ABOVE = 4
"""So many folders above the images are searched for the files with their labels."""


@dataclass(frozen=True)
class ImageNetFiles:
    """The images that are there, by their numbers, which start at 1, and their labels."""

    root: Path
    images: dict[int, Path]
    labels: dict[int, int]


@cache
def classes() -> list[str]:
    """The WordNet identifiers of the 1,000 classes, in the order of their labels."""
    return resources.files("harness.datasets").joinpath("imagenet_classes.txt").read_text().split()


def find_files(path: Path) -> ImageNetFiles:
    """Finds the images at or below a path, which may be that of one of the images or classes.

    Raises:
        UserError: there are none in a known layout, or nothing says which labels they have.
    """
    given = path.parent if path.is_file() else path
    given = given.parent if CLASS.fullmatch(given.name) else given
    root = _root(given)
    if root is None:
        better = near(given, lambda folder: _root(folder) is not None)
        raise UserError(
            f"dataset 'imagenet' is not in {path}: {holds(path)}",
            remedy=f"Give {better or 'the folder that has the validation images'}: val/n01440764/*.JPEG and the other "
            f"classes, or all images in one folder, named ILSVRC2012_val_00000001.JPEG and so on, with the folder "
            f"ILSVRC2012_devkit_t12 beside it; images of other names are read by the dataset 'folder'",
        )
    sorted_by_class = dict(_sorted_by_class(root))
    if sorted_by_class:
        images = {number: file for number, (file, _) in sorted_by_class.items()}
        return ImageNetFiles(root, images, {number: label for number, (_, label) in sorted_by_class.items()})
    return ImageNetFiles(root, dict(_images(root)), _labels(root))


def _root(path: Path) -> Path | None:
    """The folder with the images, or with their class folders, that is meant by a path."""
    folders = [path / place for place in PLACES] if path.is_dir() else []
    return next((folder for folder in folders if folder.is_dir() and _is_root(folder)), None)


def _is_root(folder: Path) -> bool:
    """Whether a folder holds validation images, or class folders of which the first ones that hold files hold them."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if IMAGE.fullmatch(entry.name):
                return True
            if CLASS.fullmatch(entry.name) and entry.is_dir() and (names := os.listdir(entry.path)):
                return any(IMAGE.fullmatch(name) for name in names[:FEW])
    return False


def _images(folder: Path) -> Iterator[tuple[int, Path]]:
    """The images in a folder, by their numbers."""
    for name in sorted(os.listdir(folder)):
        if found := IMAGE.fullmatch(name):
            yield int(found[1]), folder / name


def _sorted_by_class(root: Path) -> Iterator[tuple[int, tuple[Path, int]]]:
    """The images in class folders with their labels, by their numbers."""
    labels = {name: label for label, name in enumerate(classes())}
    for folder in sorted(entry for entry in root.iterdir() if CLASS.fullmatch(entry.name)):
        if folder.name not in labels:
            raise UserError(f"the folder {folder.name} is none of the 1,000 classes of ImageNet", where=Place(root))
        yield from ((number, (file, labels[folder.name])) for number, file in _images(folder))


# --- labels of images that lie in one folder


def _labels(root: Path) -> dict[int, int]:
    above = [root, *list(root.absolute().parents)[:ABOVE]]
    for folder in above:
        if (folder / SOLUTION).is_file():
            return _kaggle(folder / SOLUTION)
        for kit in (folder / place for place in KITS):
            if (kit / TRUTH).is_file() and (kit / META).is_file():
                return _development_kit(kit)
    raise UserError(
        f"the validation images in {root} lie in no folders by class, and nothing says which classes they have: "
        f"neither {TRUTH} with {META} nor {SOLUTION} was found in {above[0]} and the {len(above) - 1} folders above it",
        remedy="Unpack ILSVRC2012_devkit_t12.tar.gz beside the images, or sort them into val/n01440764 and so on",
    )


def _development_kit(kit: Path) -> dict[int, int]:
    """The labels by the development kit: its class of each image, in the order of the images, and its classes."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(kit / META, squeeze_me=True)["synsets"]
        own = {int(number): str(name) for number, name in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
        numbers = [int(line) for line in (kit / TRUTH).read_text().split()]
        order = {name: label for label, name in enumerate(classes())}
        labels = {image: order[own[number]] for image, number in enumerate(numbers, start=1)}
    except Exception as error:  # SciPy may raise anything for a damaged file
        message = f"{META} and {TRUTH} cannot be read: {type(error).__name__}: {error}"
        raise UserError(message, remedy="Unpack ILSVRC2012_devkit_t12.tar.gz again", where=Place(kit)) from error
    return labels


def _kaggle(file: Path) -> dict[int, int]:
    """The labels by Kaggle's table: ImageId,PredictionString; the second begins with the class."""
    order = {name: label for label, name in enumerate(classes())}
    try:
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        return {
            int(row["ImageId"].removeprefix("ILSVRC2012_val_")): order[row["PredictionString"].split()[0]]
            for row in rows
        }
    except (OSError, ValueError, KeyError, IndexError, AttributeError, csv.Error) as error:
        raise UserError(f"it cannot be read: {type(error).__name__}: {error}", where=Place(file)) from error
