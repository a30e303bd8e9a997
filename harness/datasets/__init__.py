"""Labelled images: named datasets, and folders and files of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.process.lazy import lazy

if TYPE_CHECKING:
    from harness.datasets.by_name import load, state
    from harness.datasets.dataset import Dataset, Split, fingerprint

__all__ = ["Dataset", "Split", "fingerprint", "load", "state"]

__getattr__ = lazy(
    __name__,
    {
        "Dataset": "harness.datasets.dataset",
        "Split": "harness.datasets.dataset",
        "fingerprint": "harness.datasets.dataset",
        "load": "harness.datasets.by_name",
        "state": "harness.datasets.by_name",
    },
)
