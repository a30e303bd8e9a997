"""Handwritten digits, which come with scikit-learn."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from harness.datasets.dataset import Dataset
from harness.datasets.source import Known, Request, Source

TEST = 500


class Digits(Source):
    """The digits of scikit-learn, with a fixed random split."""

    summary = "handwritten digits, 8x8 grey, 10 classes, 1,297 train / 500 test; embedded, needs no network"
    known = Known((1, 8, 8), 10, 1297, TEST)
    fixed = True

    def load(self, request: Request) -> Dataset:
        images, labels = (tensor.clone() for tensor in _read(request.split))
        return Dataset("digits", request.split, images, labels, [str(digit) for digit in range(10)], 10)

    def presence(self) -> tuple[bool, str]:
        return True, "in scikit-learn"


@cache
def _read(split: str) -> tuple[Tensor, Tensor]:
    """The images and labels of a split, parsed once: that takes longer than a small network takes for all of them."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.target))  # NumPy promises never to change what it draws
    rows = order[:TEST] if split == "test" else order[TEST:]
    return torch.from_numpy(data.images[rows] / 16).float()[:, None], torch.from_numpy(data.target[rows]).long()
