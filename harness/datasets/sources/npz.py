"""Arrays in an .npz file; see `harness.datasets.arrays`."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.datasets.arrays import read_npz
from harness.datasets.dataset import Dataset
from harness.datasets.source import Request, Source


class NPZ(Source):
    """Images and labels that NumPy saved."""

    summary = "an .npz file with arrays images and labels, and optionally num_classes or classes; give its path"
    takes = ("path", "num_classes")
    needs_path = True

    def load(self, request: Request) -> Dataset:
        found = read_npz(request.path or Path(), request.num_classes)
        images, labels = torch.from_numpy(found.images), torch.from_numpy(found.labels)
        return Dataset("npz", request.split, images, labels, found.names, found.num_classes)
