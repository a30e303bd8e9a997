"""The `dataset` section of a suite or a recipe: what its keys exclude, and where its paths lead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from harness.config.yaml_file import Document
from harness.datasets import by_name
from harness.datasets.spec import CHOICES, Dataset
from harness.errors import UserError

Section = TypeVar("Section", bound=Dataset)


def check_dataset(document: Document, dataset: Dataset) -> None:
    """Raises UserError if there is no such dataset, or one of the keys has no effect beside the others."""
    written = document.place("dataset", "name")
    try:
        by_name.find(dataset.name, written.file.parent)
    except UserError as error:
        raise error.at(written) from error
    chosen = [key for key in CHOICES if getattr(dataset, key) is not None]
    if len(chosen) > 1:
        raise UserError(
            f"the dataset has both '{chosen[0]}' and '{chosen[1]}'",
            remedy="Keep one of them",
            where=document.place("dataset", chosen[1]),
        )
    if dataset.interpolation is not None and dataset.resize is None:
        raise UserError(
            "the dataset's 'interpolation' has no effect without 'resize'",
            remedy="Add `resize:`, or remove the interpolation",
            where=document.place("dataset", "interpolation"),
        )
    if dataset.seed is not None and dataset.size is None:
        raise UserError(
            "the dataset's 'seed' has no effect without 'size'",
            remedy="Add `size:`, or remove the seed",
            where=document.place("dataset", "seed"),
        )


def from_here(document: Document, dataset: Section) -> Section:
    """The same section with paths from the current folder; in the file they are relative to it."""
    found = {
        key: document.place("dataset", key).file.parent / os.path.expanduser(path)
        for key in ("path", "classes")
        if isinstance(path := getattr(dataset, key), Path)
    }
    return dataset.model_copy(update=found)
