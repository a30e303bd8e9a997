"""ImageNet's validation images (Russakovsky et al. 2015, arXiv:1409.0575); see `harness.datasets.imagenet_files`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from harness.datasets.dataset import Dataset, Whole
from harness.datasets.image_file import decode
from harness.datasets.imagenet_files import COUNT, ImageNetFiles, classes, find_files
from harness.datasets.source import TRANSFORM, Known, Request, Rows, Source
from harness.datasets.stack import refuse_outside, stack
from harness.errors import Place, UserError
from harness.settings import data_root

HOW_TO_GET = (
    "register at https://www.image-net.org, and unpack ILSVRC2012_img_val.tar, and beside it "
    "ILSVRC2012_devkit_t12.tar.gz, or give `path:`"
)


class ImageNet(Source):
    """Photographs of 1,000 classes. Index i is ILSVRC2012_val_{i+1}; label k is the k-th class by its identifier.

    An index means the same image in every layout, even if others are missing. Only the images that a suite chooses are
    read, and converted to RGB.
    """

    summary = (
        "ImageNet (ILSVRC 2012), 1,000 classes, 50,000 validation images as split test, in class folders or with the "
        "development kit; needs `resize: 256` and `crop: 224`, or other sizes; never downloaded"
    )
    known = Known((3, 224, 224), 1000, 0, COUNT)
    fixed = True
    takes = ("path", *TRANSFORM)
    splits = ("test",)
    how_to_get = HOW_TO_GET

    def load(self, request: Request) -> Dataset:
        return self.load_rows(request, range)

    def load_rows(self, request: Request, rows: Rows) -> Dataset:
        found, chosen = self._files(request), rows(COUNT)
        refuse_outside(chosen, COUNT, "the test split of 'imagenet'")
        numbers = [row + 1 for row in chosen]
        _refuse_missing(found, numbers)
        with_numbers = [found.images[number] for number in numbers]
        images = _read(with_numbers, request)
        labels = torch.tensor([found.labels[number] for number in numbers], dtype=torch.int64)
        whole = Whole(COUNT, len(classes()) - 1)
        return Dataset("imagenet", "test", images, labels, classes(), len(classes()), part_of=whole)

    def presence(self) -> tuple[bool, str]:
        root = data_root() / "imagenet"
        return root.is_dir(), str(root)

    def _files(self, request: Request) -> ImageNetFiles:
        root = data_root() / "imagenet"
        if request.path is None and not root.is_dir():
            raise UserError(f"dataset 'imagenet' is not in {root}", remedy=HOW_TO_GET[0].upper() + HOW_TO_GET[1:])
        return find_files(request.path or root)


def _refuse_missing(found: ImageNetFiles, numbers: Sequence[int]) -> None:
    for number in numbers:
        if number not in found.images:
            first = min(found.images)
            raise UserError(
                f"ILSVRC2012_val_{number:08d}.JPEG is missing: {len(found.images):,} of {COUNT:,} images are here",
                remedy=f"Complete them, or give `indices:`; that of ILSVRC2012_val_{first:08d} is {first - 1}",
                where=Place(found.root),
            )
        if number not in found.labels:
            message = f"nothing says which class ILSVRC2012_val_{number:08d}.JPEG has"
            raise UserError(message, remedy="Unpack ILSVRC2012_devkit_t12.tar.gz again", where=Place(found.root))


def _read(files: Sequence[Path], request: Request) -> torch.Tensor:
    """The images, (N, 3, H, W) float32 in [0, 1]."""

    def decoded(row: int) -> np.ndarray:
        try:
            with files[row].open("rb") as stream:
                image = decode(stream, request.transform, any_orientation=True)
        except UserError as error:
            raise UserError(f"{files[row]} {error.message}", remedy=error.remedy) from error
        except OSError as error:
            raise UserError(f"{files[row]} cannot be read: {error.strerror}") from error
        return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)

    return torch.from_numpy(stack(len(files), range(len(files)), decoded, lambda row: str(files[row])))
