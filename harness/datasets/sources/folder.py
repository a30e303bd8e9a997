"""Image files in folders by class; see `harness.datasets.image_folder`."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.datasets.class_labels import ClassLabels
from harness.datasets.dataset import Dataset
from harness.datasets.image_folder import read_folder, read_labels
from harness.datasets.source import Request, Source


class Folder(Source):
    """A folder or a zip archive of images."""

    summary = (
        "a folder or zip of images, <class>/<file>.png or .jpg, below train/ and test/ or not; give its path; "
        "label k is the k-th folder, 2 before 10, unless `classes` sets the labels"
    )
    takes = ("path", "classes", "num_classes")
    needs_path = True

    def load(self, request: Request) -> Dataset:
        found = read_folder(request.path or Path(), request.split, request.classes, request.num_classes)
        images, labels, known = torch.from_numpy(found.images), torch.from_numpy(found.labels), found.classes
        return Dataset("folder", request.split, images, labels, known.names, known.num_classes, known)

    def class_labels(self, request: Request) -> ClassLabels | None:
        if request.path is None:
            return None
        return read_labels(request.path, request.split, request.classes, request.num_classes)
