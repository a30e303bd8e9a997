"""Image files in folders by class; see `harness.datasets.image_folder`."""

from __future__ import annotations

import torch

from harness.datasets.class_labels import ClassLabels
from harness.datasets.dataset import Dataset
from harness.datasets.image_folder import read_folder, read_labels
from harness.datasets.source import TRANSFORM, Request, Rows, Source


class Folder(Source):
    """A folder or a zip archive of images."""

    summary = (
        "a folder or zip of images, <class>/<file>.png or .jpg, below train/ and test/ or not; give its path; "
        "label k is the k-th folder, 2 before 10, unless `classes` sets the labels; `resize`, `crop` as in torchvision"
    )
    takes = ("path", "classes", "num_classes", *TRANSFORM)
    needs_path = True

    def load(self, request: Request) -> Dataset:
        return self._read(request)

    def load_rows(self, request: Request, rows: Rows) -> Dataset:
        return self._read(request, rows)

    def class_labels(self, request: Request) -> ClassLabels | None:
        if request.path is None:
            return None
        return read_labels(request)

    def _read(self, request: Request, rows: Rows | None = None) -> Dataset:
        found = read_folder(request, rows)
        images, labels, known = torch.from_numpy(found.images), torch.from_numpy(found.labels), found.classes
        names, count = known.names, known.num_classes
        return Dataset("folder", request.split, images, labels, names, count, known, found.whole)
