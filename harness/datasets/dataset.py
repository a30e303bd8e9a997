"""A dataset from any source as labelled images, (N, C, H, W) float32 in [0, 1]."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.datasets.class_labels import ClassLabels
from harness.datasets.spec import Split
from harness.defense import Defense
from harness.errors import Place, UserError

__all__ = ["Dataset", "Split", "Whole", "fingerprint"]


@dataclass(frozen=True)
class Whole:
    """The split that images are a part of: how many it has, and its largest label."""

    size: int
    largest: int


@dataclass(frozen=True)
class Dataset:
    """A split of a dataset.

    Args:
        name, split: as requested.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64, indices into `classes`.
        classes: the names of the classes, or their numbers if there are no names.
        num_classes: the number of classes; None if it is not known: the largest label need not be the last class.
        folders: the label of each folder, for images in class folders.
        part_of: the whole split, where these are some of its images.
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    classes: list[str]
    num_classes: int | None
    folders: ClassLabels | None = None
    part_of: Whole | None = None

    @property
    def whole(self) -> Whole:
        """The split that these images are a part of, or all of."""
        return self.part_of or Whole(len(self), int(self.labels.max()))

    def disagreement(self, count: int) -> tuple[str, str] | None:
        """The reason why `count` classes do not fit the labels, and a remedy; None if they fit."""
        largest, remedy = self.whole.largest, "Choose weights that were trained on this dataset"
        if self.num_classes is None:
            found = f"dataset '{self.name}' has images of label {largest}"
            return None if count > largest else (found, remedy)
        if count == self.num_classes:
            return None
        if self.folders:
            remedy += "; if its folders are a part of their classes, give all of them with `classes:` under `dataset:`"
        return f"dataset '{self.name}' has {self.num_classes}", remedy

    def refuse_classes_of(self, defense: Defense, title: str, place: Place) -> None:
        """Raises UserError if a defense has another number of classes. title, place: those of the defense."""
        count = defense.num_classes
        if count is not None and (unfit := self.disagreement(count)):
            raise UserError(f"{title} has {count} classes, {unfit[0]}", remedy=unfit[1], where=place)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Sequence[int]) -> Dataset:
        """The images at these indices, in this order.

        Raises:
            UserError: an index lies outside the split.
        """
        outside = [index for index in indices if not 0 <= index < len(self)]
        if outside:
            raise UserError(
                f"index {outside[0]} is not in the {self.split} split of '{self.name}'",
                remedy=f"Valid indices: 0 to {len(self) - 1}",
            )
        rows = torch.as_tensor(indices, dtype=torch.int64)
        return replace(self, images=self.images[rows], labels=self.labels[rows], part_of=self.whole)


def fingerprint(images: Tensor, labels: Tensor) -> str:
    """sha256 of shape and content. images: (N, C, H, W) float32; labels: (N,) int64."""
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    digest.update(images.detach().cpu().contiguous().numpy().astype("<f4", copy=False).data)
    digest.update(labels.detach().cpu().contiguous().numpy().astype("<i8", copy=False).data)
    return digest.hexdigest()
