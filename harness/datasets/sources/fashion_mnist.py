"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747)."""

from __future__ import annotations

from typing import ClassVar

from harness.datasets.dataset import Split
from harness.datasets.source import Known
from harness.datasets.torchvision import IDX


class FashionMNIST(IDX):
    """Grey images of clothes."""

    summary = "Fashion-MNIST, 28x28 grey, 10 classes, 60,000 train / 10,000 test; through torchvision"
    name, torchvision = "fashion_mnist", "FashionMNIST"
    known = Known((1, 28, 28), 10, 60_000, 10_000)
    begins: ClassVar[dict[Split, list[int]]] = {"train": [9, 0, 0, 3, 0, 2], "test": [9, 2, 1, 1, 6, 1]}
