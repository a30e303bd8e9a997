"""Handwritten digits, which come with scikit-learn."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
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
    table = _table()
    order = np.random.RandomState(0).permutation(len(table))  # NumPy promises never to change what it draws
    rows = table[order[:TEST] if split == "test" else order[TEST:]]
    images = torch.from_numpy(rows[:, :-1].reshape(-1, 1, 8, 8) / 16).float()
    return images, torch.from_numpy(rows[:, -1]).long()


def _table() -> NDArray[np.float64]:
    """A row for each digit, its 64 pixels in 0..16 and its label, read from scikit-learn's file.

    Its `load_digits` does the same, but importing it takes two seconds, as long as importing torch.
    """
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        if (file := Path(folder) / "datasets" / "data" / "digits.csv.gz").is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # of a release that keeps the file elsewhere

    data = load_digits()
    return np.column_stack([data.data, data.target])
