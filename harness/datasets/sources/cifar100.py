"""CIFAR-100 (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images")."""

from __future__ import annotations

from harness.datasets.source import Known
from harness.datasets.torchvision import Unpacked


class CIFAR100(Unpacked):
    """Small colour images of 100 classes of things."""

    summary = "CIFAR-100, 32x32 colour, 100 classes, 50,000 train / 10,000 test; through torchvision"
    name, torchvision = "cifar100", "CIFAR100"
    known = Known((3, 32, 32), 100, 50_000, 10_000)
