"""MNIST (LeCun, Cortes & Burges 1998)."""

from __future__ import annotations

from harness.datasets.source import Known
from harness.datasets.sources.fashion_mnist import FashionMNIST


class MNIST(FashionMNIST):
    """Grey images of handwritten digits, in four files of the same form as Fashion-MNIST's."""

    summary = "MNIST, 28x28 grey, 10 classes, 60,000 train / 10,000 test; through torchvision"
    name, torchvision = "mnist", "MNIST"
    known = Known((1, 28, 28), 10, 60_000, 10_000)
