"""MNIST (LeCun, Cortes & Burges 1998)."""

from __future__ import annotations

from typing import ClassVar

from harness.datasets.dataset import Split
from harness.datasets.source import Known
from harness.datasets.torchvision import IDX


class MNIST(IDX):
    """Grey images of handwritten digits."""

    summary = "MNIST, 28x28 grey, 10 classes, 60,000 train / 10,000 test; through torchvision"
    name, torchvision = "mnist", "MNIST"
    known = Known((1, 28, 28), 10, 60_000, 10_000)
    begins: ClassVar[dict[Split, list[int]]] = {"train": [5, 0, 4, 1, 9, 2], "test": [7, 2, 1, 0, 4, 1]}
