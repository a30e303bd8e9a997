"""Data that were given in Python, as the `dataset` section of a run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from harness import datasets
from harness.datasets.arrays import Arrays, read_arrays
from harness.datasets.image_file import IN_RANGE
from harness.datasets.spec import Dataset as DatasetSection
from harness.errors import Place, UserError, nearest
from harness.files import write_atomically
from harness.results.store import KEPT_IMAGES

if TYPE_CHECKING:
    from torch.utils.data import Dataset as TorchDataset

    Data = str | Path | TorchDataset[Any] | tuple[Tensor | ArrayLike, Tensor | ArrayLike]

NORMALISED = "Leave normalisation out of the data, and give `mean` and `std` of the model"


@dataclass(frozen=True)
class GivenData:
    """What a call attacks.

    Args:
        section: the keys of a suite's `dataset`.
        name: of a dataset that has one.
        arrays: the chosen images, where they came as an object; they are kept beside the results.
    """

    section: dict[str, Any]
    name: str
    arrays: Arrays | None = None

    def shape(self) -> tuple[int, ...]:
        """Of one image, (C, H, W). Loads a dataset that lies elsewhere."""
        if self.arrays is not None:
            return tuple(self.arrays.images.shape[1:])
        name, split, path = self.section["name"], self.section["split"], self.section.get("path")
        found = datasets.load(name, split, path, rows=lambda _: [0])
        return tuple(found.images.shape[1:])

    def keep(self, root: Path, place: Place) -> None:
        """Writes images that came as an object into a results directory, so that whoever has it can check it.

        Raises:
            UserError: it has other images already, or cannot be written.
        """
        if self.arrays is None:
            return
        file = root / KEPT_IMAGES
        if file.exists():
            there = datasets.load("npz", path=file)
            here = torch.from_numpy(self.arrays.images), torch.from_numpy(self.arrays.labels)
            same = datasets.fingerprint(there.images, there.labels) == datasets.fingerprint(*here)
            if same and there.num_classes == self.arrays.num_classes:
                return
            raise UserError(
                f"the data are not those that the results in {root} were made with",
                remedy="Give the same data again, or choose another directory with `out`",
                where=place,
            )
        root.mkdir(parents=True, exist_ok=True)
        write_atomically(file, _npz(self.arrays))


def data_of(data: Data, split: str, size: int | None, num_classes: int | None, place: Place) -> GivenData:
    """What a call means by its data.

    Args:
        data: a dataset's name; the path of a folder, a zip or an .npz file; a dataset of PyTorch, whose items are
            (image, label); or images and labels.
        size: so many images, drawn without replacement by the seed 0; all if left out.
        num_classes: how many classes there are, where the data do not say.

    Raises:
        UserError: there are no such data, or they are no images in [0, 1] with labels; with the line of the call.
    """
    if size is not None and size < 1:
        raise UserError(f"size is {size}", remedy="Give at least 1", where=place)
    if isinstance(data, str | Path):
        return _named(data, split, size, num_classes, place)
    if isinstance(data, tuple | list) and len(data) == 2:
        images, labels, names = *_pair(*data, size, place), None
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        images, labels, names = _items(data, size, place)
    else:
        raise UserError(
            f"the data are of type {type(data).__name__}",
            remedy="Give a dataset's name, a path, (images, labels), or a torch.utils.data.Dataset with a length",
            where=place,
        )

    def refuse(message: str, remedy: str | None = None) -> UserError:
        return UserError(f"the data: {message}", remedy=NORMALISED if remedy == IN_RANGE else remedy, where=place)

    given = {"images": images, "labels": labels}
    if names and num_classes is None:
        given["classes"] = np.array(names)
    return GivenData({"name": "npz", "split": split}, "npz", read_arrays(given, num_classes, refuse))


def _named(data: str | Path, split: str, size: int | None, num_classes: int | None, place: Place) -> GivenData:
    section: dict[str, Any] = {"split": split} | ({"size": size} if size is not None else {})
    path = Path(data).expanduser()
    named = [found.name for found in datasets.state()]  # those that need no path
    if str(data) in named:
        if num_classes is not None:
            raise UserError(
                f"dataset '{data}' says itself which classes it has", remedy="Leave out `num_classes`", where=place
            )
        return GivenData({"name": str(data), **section}, str(data))
    if not path.exists():
        raise UserError(
            f"there is no dataset '{data}', and no such file or folder",
            remedy=nearest(str(data), named),
            where=place,
        )
    name = "npz" if path.suffix == ".npz" else "folder"
    classes = {} if num_classes is None else {"num_classes": num_classes}
    return GivenData({"name": name, "path": str(path.resolve()), **section, **classes}, name)


def _pair(images: Any, labels: Any, size: int | None, place: Place) -> tuple[np.ndarray, np.ndarray]:
    x, y = _array(images), _array(labels)
    if len(x) != len(y):
        raise UserError(f"there are {len(x)} images and {len(y)} labels", remedy="Give one label each", where=place)
    if isinstance(images, Tensor) and x.dtype == np.uint8 and x.ndim == 4:
        x = x.transpose(0, 2, 3, 1)  # PyTorch puts channels first, whatever the type
    rows = _chosen(len(x), size, place)
    return x[rows], y[rows]


def _items(data: Any, size: int | None, place: Place) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """The chosen items of a PyTorch dataset. Its transforms are applied; nothing else of it is loaded."""
    images, labels = [], []
    for index in _chosen(len(data), size, place):
        item = data[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UserError(f"item {index} of the data is no pair of image and label", where=place)
        images.append(_image(item[0]))
        labels.append(int(item[1]))
        if images[-1].shape != images[0].shape:
            raise UserError(
                f"item {index} of the data has the shape {images[-1].shape}, the first one {images[0].shape}",
                remedy="Let the dataset's transform give all images one size",
                where=place,
            )
    names = getattr(data, "classes", None)
    return np.stack(images), np.array(labels), names if _are_names(names) else None


def _chosen(available: int, size: int | None, place: Place) -> Sequence[int]:
    if not available or (size or 0) > available:
        raise UserError(f"there are {available} images, and {size or 'some'} are asked for", where=place)
    return DatasetSection(name="npz", size=size).choose(available)


def _image(image: Any) -> np.ndarray:
    """(C, H, W) float32 in [0, 1], from a tensor (C, H, W), or a picture of PIL or NumPy (H, W) or (H, W, C)."""
    found = _array(image)
    if not isinstance(image, Tensor):
        found = found[:, :, None] if found.ndim == 2 else found
        found = found.transpose(2, 0, 1) if found.dtype == np.uint8 and found.ndim == 3 else found
    return found.astype(np.float32) / np.float32(255) if found.dtype == np.uint8 else found


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _are_names(names: Any) -> TypeGuard[list[str]]:
    return isinstance(names, list | tuple) and len(names) > 0 and all(isinstance(name, str) for name in names)


def _npz(arrays: Arrays) -> bytes:
    sink = io.BytesIO()
    classes = {} if arrays.num_classes is None else {"classes": np.array(arrays.names)}
    np.savez(sink, images=arrays.images, labels=arrays.labels, **classes)  # type: ignore[arg-type]
    return sink.getvalue()
