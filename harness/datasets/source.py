"""Where the images of a dataset come from: one file with one class for each dataset, found by its name.

digits              the file harness/datasets/sources/digits.py, its class spelt like the file
./mine.py:MyData    a file of the user's, relative to the suite; also package.module:Class
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
    """What is wanted of a dataset.

    Args:
        split: "train" or "test".
        path: the folder or file that the suite names, if it does.
        offline: whether downloading is forbidden, beside what the settings say.
        classes, num_classes: what the suite says of the classes, see `harness.datasets.class_labels`.
    """

    split: Split
    path: Path | None = None
    offline: bool = False
    classes: Classes | None = None
    num_classes: int | None = None


@dataclass(frozen=True)
class Presence:
    """Whether a dataset can be loaded now, without a network, and where it lies or would."""

    name: str
    present: bool
    place: str


class Known(NamedTuple):
    """What is the same in every copy of a dataset. shape: (C, H, W); train, test: how many images there are."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int


class Source(ABC):
    """A dataset that can be loaded. What is known of it before, its class says.

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
        summary: one line for `harness list datasets`; a string in the source, since listing imports nothing.
        known: what counts evaluations, and makes random images, where the dataset is not here; None where that differs.
        fixed: whether name, split and index settle the image, on every machine.
        takes: which of "path", "classes" and "num_classes" a suite may give.
        needs_path: whether it must give the path.
    """

    summary: ClassVar[str] = ""
    known: ClassVar[Known | None] = None
    fixed: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ()
    needs_path: ClassVar[bool] = False

    @abstractmethod
    def load(self, request: Request) -> Dataset:
        """The images of a split, (N, C, H, W) float32 in [0, 1], and their labels.

        Raises:
            UserError: they are absent and cannot be fetched, or malformed.
        """

    def class_labels(self, request: Request) -> ClassLabels | None:
        """The labels of class folders, of a dataset that has such; opens no image. Raises as `load` does."""
        return None

    def presence(self) -> tuple[bool, str] | None:
        """Whether it can be loaded now without a network, and where it lies or would; None without a fixed place."""
        return None
