"""The `dataset` section of a suite."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from harness.datasets.class_labels import MOST
from harness.datasets.transform import Interpolation, Transform
from harness.errors import UserError

Split = Literal["train", "test", "validation"]
"""Which of them a dataset has, its source says; most have "train" and "test"."""

CHOICES = ("size", "first", "indices")
"""Ways to choose images, of which a suite may use one; without any, all images of the split are used."""


def _distinct(indices: tuple[int, ...]) -> tuple[int, ...]:
    [(index, times)] = Counter(indices).most_common(1)
    if times > 1:
        raise ValueError(f"image {index} appears {times} times")
    return indices


Count = Annotated[int, Field(ge=1, lt=2**31)]


Seed = Annotated[int, Field(ge=0, lt=2**32)]


Index = Annotated[int, Field(ge=0, lt=2**31)]


Repository = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$", max_length=200)]


Names = Annotated[tuple[str, ...], Field(min_length=1)]


Labels = Annotated[dict[str, Annotated[int, Field(ge=0, lt=MOST)]], Field(min_length=1)]


Side = Annotated[int, Field(ge=1, le=4096)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Dataset(_Section):
    name: str = Field(description="digits, cifar10, ...; see `harness list datasets`")
    split: Split = "test"
    size: Count | None = Field(default=None, description="number of images to draw without replacement")
    seed: Seed | None = Field(default=None, description="seed of that draw; by default 0")
    first: Count | None = Field(default=None, description="number of images to take from the start")
    indices: Annotated[tuple[Index, ...], Field(min_length=1), AfterValidator(_distinct)] | None = Field(
        default=None, description="these images, in this order"
    )
    limit: Count | None = Field(
        default=None, description="largest number of the chosen images; the first ones are kept"
    )
    path: Path | None = Field(default=None, description="the folder, zip or .npz file, relative to the suite file")
    classes: Names | Labels | Path | None = Field(
        default=None,
        description="names of class folders in the order of their labels, of which some may be missing on disk; or the "
        "label of each folder; or a file of names, one per line",
    )
    num_classes: Annotated[int, Field(ge=1, le=MOST)] | None = Field(
        default=None, description="number of labels, if the images do not have all of them"
    )
    resize: Side | tuple[Side, Side] | None = Field(
        default=None, description="new length of the shorter side of each image, or [height, width]"
    )
    crop: Side | tuple[Side, Side] | None = Field(
        default=None, description="side of the square that is cut from the centre, or [height, width]; after `resize`"
    )
    interpolation: Interpolation | None = Field(
        default=None, description="how `resize` computes pixels; by default bilinear, as torchvision does"
    )
    repository: Repository | None = Field(
        default=None, description="for hf: owner/name on Hugging Face's hub, or owner/name@revision"
    )
    image: str | None = Field(default=None, description="for hf: the column of the images")
    label: str | None = Field(default=None, description="for hf: the column of the labels")

    @property
    def transform(self) -> Transform:
        """How images are resized and cropped."""
        return Transform(self.resize, self.crop, self.interpolation or "bilinear")

    def choose(self, available: int) -> list[int]:
        """Chooses images from a split of `available` images. A smaller `size` gives the start of a larger one.

        Raises:
            UserError: the split does not have enough images.
        """
        most = max(self.size or 0, self.first or 0, max(self.indices or (-1,)) + 1)
        if most > available:
            raise UserError(
                f"the suite asks for image {most} of the {available} in the {self.split} split of '{self.name}'",
                remedy="Request fewer images",
            )
        if self.indices is not None:
            chosen = list(self.indices)
        elif self.size is not None:  # NumPy promises never to change what RandomState draws
            chosen = np.random.RandomState(self.seed or 0).permutation(available)[: self.size].tolist()
        else:
            chosen = list(range(self.first or available))
        return chosen[: self.limit]
