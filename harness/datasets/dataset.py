"""Labelled images, (N, C, H, W) float32 in [0, 1], whatever they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from harness import settings
from harness.datasets.arrays import read_npz
from harness.datasets.class_labels import Classes, ClassLabels
from harness.datasets.image_folder import read_folder
from harness.datasets.names import DATASETS
from harness.defense import Defense
from harness.errors import Place, UserError, nearest
from harness.settings import data_root

Split = Literal["train", "test"]

DIGITS_TEST = 500
TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion_mnist": "FashionMNIST"}


@dataclass(frozen=True)
class Dataset:
    """A split of a dataset.

    Args:
        name, split: as asked for.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64, indices into `classes`.
        classes: the classes' names, their numbers where nobody named them.
        num_classes: how many there are; None where nobody said, since the largest label here need not be the last.
        folders: which label each folder has, of images that lie in class folders.
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    classes: list[str]
    num_classes: int | None
    folders: ClassLabels | None = None

    def disagreement(self, count: int) -> tuple[str, str] | None:
        """Why so many classes cannot be those of the labels, and what to do about it, or None."""
        largest, remedy = int(self.labels.max()), "Choose weights that were trained on this dataset"
        if self.num_classes is None:
            found = f"dataset '{self.name}' has images of label {largest}"
            return None if count > largest else (found, remedy)
        if count == self.num_classes:
            return None
        if self.folders:
            remedy += "; if its folders are a part of their classes, give all of them with `classes:` under `dataset:`"
        return f"dataset '{self.name}' has {self.num_classes}", remedy

    def refuse_classes_of(self, defense: Defense, title: str, place: Place) -> None:
        """Raises a UserError if a defense says that it tells other classes apart. title, place: of the defense."""
        count = defense.num_classes
        if count is not None and (unfit := self.disagreement(count)):
            raise UserError(f"{title} tells {count} classes apart, {unfit[0]}", remedy=unfit[1], where=place)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Sequence[int]) -> Dataset:
        """The images at these indices, in this order.

        Raises:
            UserError: an index outside the split.
        """
        outside = [index for index in indices if not 0 <= index < len(self)]
        if outside:
            raise UserError(
                f"index {outside[0]} is not in the {self.split} split of '{self.name}'",
                remedy=f"Valid indices: 0 to {len(self) - 1}",
            )
        rows = torch.as_tensor(indices, dtype=torch.int64)
        return replace(self, images=self.images[rows], labels=self.labels[rows])


@dataclass(frozen=True)
class Presence:
    """Whether a dataset can be loaded now, without a network, and where it lies or would."""

    name: str
    present: bool
    place: str


def load(
    name: str,
    split: Split = "test",
    path: str | Path | None = None,
    *,
    offline: bool = False,
    classes: Classes | None = None,
    num_classes: int | None = None,
) -> Dataset:
    """A dataset by name, see `harness.datasets.names`.

    Args:
        path: the folder, zip or npz file; for a torchvision dataset, its folder in place of the cache.
        offline: refuse to download.
        classes: of class folders, the names in the order of their labels, see `harness.datasets.class_labels`.
        num_classes: of class folders or an npz file, how many labels there are, where more than those of the images.

    Raises:
        UserError: an unknown name or split, files that are absent and cannot be fetched, that are malformed, or that
            `classes` and `num_classes` do not fit.
    """
    if name not in DATASETS:
        raise UserError(f"no dataset is called '{name}'", remedy=nearest(name, DATASETS))
    if split not in ("train", "test"):
        raise UserError(f"no split is called '{split}'", remedy="Valid names: train, test")
    if (classes is not None and name != "folder") or (num_classes is not None and name not in ("folder", "npz")):
        which = "classes" if classes is not None else "num_classes"
        raise UserError(f"dataset '{name}' says itself which classes it has", remedy=f"Remove `{which}:`")
    if name == "digits":
        return _digits(split)
    if name in TORCHVISION:
        return _torchvision(name, split, Path(path).expanduser() if path else data_root() / name, offline)
    if path is None:
        raise UserError(f"dataset '{name}' needs a path", remedy=f"Add `path:`, {DATASETS[name]}")
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(f"dataset '{name}': there is no file or folder {place}", remedy="Check the path")
    if not (place.is_file() or place.is_dir()):  # reading a pipe would never end
        raise UserError(f"dataset '{name}': {place} is neither a file nor a folder", remedy="Check the path")
    return _folder(place, split, classes, num_classes) if name == "folder" else _npz(place, split, num_classes)


def fingerprint(images: Tensor, labels: Tensor) -> str:
    """sha256 of shape and content. images: (N, C, H, W) float32; labels: (N,) int64."""
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    digest.update(images.detach().cpu().contiguous().numpy().astype("<f4", copy=False).data)
    digest.update(labels.detach().cpu().contiguous().numpy().astype("<i8", copy=False).data)
    return digest.hexdigest()


def state() -> list[Presence]:
    """Which of the datasets that have a fixed place are there."""
    found = [Presence("digits", True, "in scikit-learn")]
    for name in TORCHVISION:
        root = data_root() / name
        found.append(Presence(name, _is_there(name, root), str(root)))
    return found


def _digits(split: Split) -> Dataset:
    """Handwritten digits of scikit-learn. NumPy promises never to change what RandomState draws."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.target))
    rows = order[:DIGITS_TEST] if split == "test" else order[DIGITS_TEST:]
    images = torch.from_numpy(data.images[rows] / 16).float()[:, None]
    return Dataset("digits", split, images, torch.from_numpy(data.target[rows]).long(), [str(d) for d in range(10)], 10)


def _torchvision(name: str, split: Split, root: Path, offline: bool) -> Dataset:
    open_split = partial(_torchvision_class(name), str(root), train=split == "train")
    try:
        if not _is_there(name, root):
            _download(name, root, offline)
        data = open_split(download=False)
    except RuntimeError as error:
        raise UserError(
            f"dataset '{name}' in {root} is damaged: {error}", remedy=f"Delete {root} and run the same command again"
        ) from error
    pixels = torch.as_tensor(np.asarray(data.data))
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    labels = torch.as_tensor(np.asarray(data.targets), dtype=torch.int64)
    return Dataset(name, split, _scaled(pixels), labels, list(data.classes), len(data.classes))


def _torchvision_class(name: str) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, TORCHVISION[name])


def _is_there(name: str, root: Path) -> bool:
    if name == "fashion_mnist":
        return all((root / "FashionMNIST" / "raw" / Path(file).stem).is_file() for file in _sources(name))
    return (root / _torchvision_class(name).base_folder).is_dir()


def _sources(name: str) -> dict[str, str]:
    """The files that torchvision downloads, with their addresses."""
    source = _torchvision_class(name)
    if name == "fashion_mnist":
        return {file: source.mirrors[0] + file for file, _ in source.resources}
    return {source.filename: source.url}


def _download(name: str, root: Path, offline: bool) -> None:
    sources = _sources(name)
    folder = root / "FashionMNIST" / "raw" if name == "fashion_mnist" else root
    by_hand = f"Download {' and '.join(sources.values())} into {folder} and run the same command again"
    if (offline or settings.offline()) and not all((folder / file).is_file() for file in sources):
        raise UserError(f"dataset '{name}' is not in {root}, and downloads are off", remedy=by_hand)
    try:
        _torchvision_class(name)(str(root), download=True)
    except (OSError, RuntimeError) as error:
        cause = str(error).strip().splitlines()[-1]
        raise UserError(f"dataset '{name}' is not in {root} and cannot be fetched: {cause}", remedy=by_hand) from error


def _folder(path: Path, split: Split, classes: Classes | None, num_classes: int | None) -> Dataset:
    found = read_folder(path, split, classes, num_classes)
    images, labels, known = torch.from_numpy(found.images), torch.from_numpy(found.labels), found.classes
    return Dataset("folder", split, images, labels, known.names, known.num_classes, known)


def _npz(path: Path, split: Split, num_classes: int | None) -> Dataset:
    found = read_npz(path, num_classes)
    images, labels = torch.from_numpy(found.images), torch.from_numpy(found.labels)
    return Dataset("npz", split, images, labels, found.names, found.num_classes)


def _scaled(pixels: Tensor) -> Tensor:
    """uint8 of any layout -> float32 in [0, 1], contiguous."""
    return pixels.contiguous().float() / 255
