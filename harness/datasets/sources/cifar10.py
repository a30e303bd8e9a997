"""CIFAR-10 (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images")."""

from __future__ import annotations

from harness.datasets.source import Known
from harness.datasets.torchvision import Unpacked


class CIFAR10(Unpacked):
    """Small colour images of 10 classes of things."""

    summary = "CIFAR-10, 32x32 colour, 10 classes, 50,000 train / 10,000 test; through torchvision"
    name, torchvision = "cifar10", "CIFAR10"
    known = Known((3, 32, 32), 10, 50_000, 10_000)
