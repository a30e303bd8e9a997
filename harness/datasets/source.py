"""Sources of datasets: one file with one class for each dataset, found by its name.

digits              the file harness/datasets/sources/digits.py, its class spelt like the file
./mine.py:MyData    a user's file, relative to the suite; also package.module:Class
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from harness.datasets.class_labels import Classes, ClassLabels
from harness.datasets.dataset import Dataset, Split


@dataclass(frozen=True)
class Request:
    """A request for a split of a dataset.

    Args:
        split: "train" or "test".
        path: the folder or file that the suite names, if any.
        offline: whether downloading is forbidden, in addition to the settings of the process.
        classes, num_classes: the values in the suite, see `harness.datasets.class_labels`.
    """

    split: Split
    path: Path | None = None
    offline: bool = False
    classes: Classes | None = None
    num_classes: int | None = None


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
        takes: which of "path", "classes" and "num_classes" a suite may give.
        needs_path: whether a suite must give the path.
    """

    summary: ClassVar[str] = ""
    known: ClassVar[Known | None] = None
    fixed: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ()
    needs_path: ClassVar[bool] = False

    @abstractmethod
    def load(self, request: Request) -> Dataset:
        """Loads the images of a split, (N, C, H, W) float32 in [0, 1], and their labels.

        Raises:
            UserError: they are missing and cannot be downloaded, or are malformed.
        """

    def class_labels(self, request: Request) -> ClassLabels | None:
        """The labels of class folders, or None for other datasets; opens no image. Raises the errors of `load`."""
        return None

    def presence(self) -> tuple[bool, str] | None:
        """Whether it can be loaded without a network, and its place; None for a dataset without a fixed place."""
        return None
