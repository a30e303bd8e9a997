"""What must be known without waiting for torch: the datasets and where they live, whether the network may be used."""

from __future__ import annotations

import os
from pathlib import Path

DATASETS = {
    "digits": "handwritten digits, 8x8 grey, 10 classes, 1,297 train / 500 test; embedded, needs no network",
    "cifar10": "CIFAR-10, 32x32 colour, 10 classes, 50,000 train / 10,000 test; through torchvision",
    "cifar100": "CIFAR-100, 32x32 colour, 100 classes, 50,000 train / 10,000 test; through torchvision",
    "fashion_mnist": "Fashion-MNIST, 28x28 grey, 10 classes, 60,000 train / 10,000 test; through torchvision",
    "folder": "a folder or zip of images, <class>/<file>.png or .jpg, below train/ and test/ or not; give its path; "
    "label k is the k-th folder, 2 before 10, where `classes` does not say otherwise",
    "npz": "an .npz file with arrays images and labels, and num_classes or classes if it says so; give its path",
}


def data_root() -> Path:
    """Where downloaded datasets live: $HARNESS_DATA, or a folder of the user's cache."""
    chosen = os.environ.get("HARNESS_DATA")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "adversarial-harness" / "data"


def offline() -> bool:
    """Whether downloads are switched off: `harness --offline`, or the environment variable HARNESS_OFFLINE."""
    return os.environ.get("HARNESS_OFFLINE", "") not in ("", "0")
