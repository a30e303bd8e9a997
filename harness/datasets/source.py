"""Sources of datasets: one file with one class for each dataset, found by its name.

digits              the file harness/datasets/sources/digits.py, its class spelt like the file
./mine.py:MyData    a user's file, relative to the suite; also package.module:Class
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from harness.datasets.class_labels import Classes, ClassLabels
from harness.datasets.dataset import Dataset, Split
from harness.datasets.transform import UNCHANGED, Transform

TRANSFORM = ("resize", "crop", "interpolation")
"""The keys of a suite's `dataset` that describe a `Transform`."""

Rows = Callable[[int], Sequence[int]]
"""Chooses images of a split: from their number to distinct indices, in the order wanted."""


@dataclass(frozen=True)
class Request:
    """A request for a split of a dataset.

    Args:
        split: "train", "test" or "validation".
        path: the folder or file that the suite names, if any.
        offline: whether downloading is forbidden, in addition to the settings of the process.
        classes, num_classes: the values in the suite, see `harness.datasets.class_labels`.
        transform: how image files are resized and cropped.
        repository, image, label: of a dataset of Hugging Face, see `harness.datasets.sources.hf`.
    """

    split: Split
    path: Path | None = None
    offline: bool = False
    classes: Classes | None = None
    num_classes: int | None = None
    transform: Transform = UNCHANGED
    repository: str | None = None
    image: str | None = None
    label: str | None = None

    def given_keys(self) -> list[str]:
        """The keys of a suite's `dataset` that only some sources take, as far as they are given."""
        own = ("path", "classes", "num_classes", "repository", "image", "label")
        written = [key for key in own if getattr(self, key) is not None]
        return written + [key for key in TRANSFORM if getattr(self.transform, key) != getattr(UNCHANGED, key)]


@dataclass(frozen=True)
class Presence:
    """Whether a dataset can be loaded without a network, and its place, where it is or would be stored."""

    name: str
    present: bool
    place: str


class Known(NamedTuple):
    """Facts about a dataset that are the same in every copy. shape: (C, H, W); train, test: numbers of images."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int


class Source(ABC):
    """A dataset that can be loaded. Class attributes state the facts that are known in advance.

    Example:
        >>> import torch
        >>> class Noise(Source):
        ...     summary = "random images of two classes"
        ...
        ...     def load(self, request):
        ...         images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])
        ...         return Dataset("noise", request.split, images, labels, ["day", "night"], 2)
        >>> len(Noise().load(Request("test")))
        4

    Attributes:
        summary: one line for `harness list datasets`; a literal string, because listing imports nothing.
        known: facts for counting evaluations and making random images if the dataset is missing; None if they vary.
        fixed: whether name, split and index identify an image on every machine.
        takes: which keys a suite may give: "path", "classes", "num_classes", those in `TRANSFORM`, ...
        needs_path: whether a suite must give the path.
        splits: the splits that a suite may name.
        how_to_get: what to do if it is missing, as a clause.
    """

    summary: ClassVar[str] = ""
    known: ClassVar[Known | None] = None
    fixed: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ()
    needs_path: ClassVar[bool] = False
    splits: ClassVar[tuple[Split, ...]] = ("train", "test")
    how_to_get: ClassVar[str] = "the first run downloads it"

    @abstractmethod
    def load(self, request: Request) -> Dataset:
        """Loads the images of a split, (N, C, H, W) float32 in [0, 1], and their labels.

        Raises:
            UserError: they are missing and cannot be downloaded, or are malformed.
        """

    def load_rows(self, request: Request, rows: Rows) -> Dataset:
        """Loads only some images of a split, in the order of `rows`. A source that opens a file for each overrides it.

        Raises:
            UserError: the split does not have these images, or for the reasons of `load`.
        """
        whole = self.load(request)
        return whole.select(rows(len(whole)))

    def class_labels(self, request: Request) -> ClassLabels | None:
        """The labels of class folders, or None for other datasets; opens no image. Raises the errors of `load`."""
        return None

    def presence(self) -> tuple[bool, str] | None:
        """Whether it can be loaded without a network, and its place; None for a dataset without a fixed place."""
        return None
