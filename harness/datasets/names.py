"""What must be known without waiting for torch: the datasets and where they live, whether the network may be used."""

from __future__ import annotations

from typing import NamedTuple

DATASETS = {
    "digits": "handwritten digits, 8x8 grey, 10 classes, 1,297 train / 500 test; embedded, needs no network",
    "cifar10": "CIFAR-10, 32x32 colour, 10 classes, 50,000 train / 10,000 test; through torchvision",
    "cifar100": "CIFAR-100, 32x32 colour, 100 classes, 50,000 train / 10,000 test; through torchvision",
    "fashion_mnist": "Fashion-MNIST, 28x28 grey, 10 classes, 60,000 train / 10,000 test; through torchvision",
    "folder": "a folder or zip of images, <class>/<file>.png or .jpg, below train/ and test/ or not; give its path; "
    "label k is the k-th folder, 2 before 10, where `classes` does not say otherwise",
    "npz": "an .npz file with arrays images and labels, and num_classes or classes if it says so; give its path",
}


class Known(NamedTuple):
    """A dataset that need not be here to count its images. shape: (C, H, W)."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int


KNOWN = {
    "cifar10": Known((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": Known((3, 32, 32), 100, 50_000, 10_000),
    "fashion_mnist": Known((1, 28, 28), 10, 60_000, 10_000),
}
