"""Datasets of Hugging Face: from the hub, by the package `datasets`, or from local files, without it.

    dataset: {name: hf, repository: ylecun/mnist, split: test}              # pip install 'adversarial-harness[hf]'
    dataset: {name: hf, path: ./saved, image: img, label: fine_label}       # save_to_disk, Arrow or Parquet

Images are decoded from the stored PNG or JPEG as those of folders are (`harness.datasets.image_file`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from harness import settings
from harness.datasets.arrow_table import read_table
from harness.datasets.dataset import Dataset, Whole
from harness.datasets.image_file import decode
from harness.datasets.source import TRANSFORM, Request, Rows, Source
from harness.datasets.stack import refuse_outside, stack
from harness.errors import UserError, nearest

METADATA = b"huggingface"


class HF(Source):
    """A table with a column of images and a column of labels."""

    summary = (
        "Hugging Face: `repository: owner/name` of the hub (needs the extra [hf]), or the `path` of a saved dataset, a "
        ".parquet or .arrow file; `image` and `label` name the columns, `resize` and `crop` as in torchvision"
    )
    takes = ("path", "repository", "image", "label", "num_classes", *TRANSFORM)
    splits = ("train", "test", "validation")

    def load(self, request: Request) -> Dataset:
        return self.load_rows(request, range)

    def load_rows(self, request: Request, rows: Rows) -> Dataset:
        table = _table(request)
        columns = _columns(table, request)
        labels = _labels(table, columns.label)
        chosen = rows(len(labels))
        refuse_outside(chosen, len(labels), f"the {request.split} split of 'hf'")
        images = torch.from_numpy(_images(table, columns.image, request, chosen))
        whole = Whole(len(labels), int(labels.max()))
        count = len(columns.names) or request.num_classes
        names = columns.names or [str(label) for label in range(count or whole.largest + 1)]
        return Dataset("hf", request.split, images, torch.from_numpy(labels[list(chosen)]), names, count, part_of=whole)


@dataclass(frozen=True)
class _Columns:
    """The columns of images and labels, and the names of the classes, if the table has them."""

    image: str
    label: str
    names: list[str]


def _table(request: Request) -> pa.Table:
    if (request.path is None) == (request.repository is None):
        raise UserError(
            "dataset 'hf' needs either a repository of the hub or a path",
            remedy="Add `repository: owner/name`, or the `path:` of a saved dataset, a .parquet or .arrow file",
        )
    if request.repository is not None:
        return _downloaded(request.repository, request.split, request.offline or settings.offline())
    assert request.path is not None
    if not request.path.exists():
        raise UserError(
            f"dataset 'hf': there is no file or folder {request.path}",
            remedy="Check the path; for a dataset of the hub write `repository: owner/name` instead",
        )
    return read_table(request.path, request.split)


def _downloaded(repository: str, split: str, offline: bool) -> pa.Table:
    """A split of a repository, from the package's own cache where it has it."""
    try:
        import datasets as hf
    except ImportError as error:
        raise UserError(
            f"dataset 'hf': the repository {repository} is read by the package 'datasets', which is not installed",
            remedy="Install it: pip install 'adversarial-harness[hf]'; files on disk (`path:`) are read without it",
        ) from error
    name, _, revision = repository.partition("@")
    try:
        found = hf.load_dataset(
            name,
            split=split,
            revision=revision or None,
            download_config=hf.DownloadConfig(local_files_only=offline),
        )
    except Exception as error:  # the package raises errors of many libraries
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"dataset 'hf': the {split} split of the repository {name} cannot be loaded"
            f"{', and downloads are off' if offline else ''}: {type(error).__name__}: {reason}",
            remedy="Check the name and the network, or download it elsewhere and give the `path:` of its files",
        ) from error
    return found.data.table.replace_schema_metadata(found.features.arrow_schema.metadata)


def _columns(table: pa.Table, request: Request) -> _Columns:
    features = _features(table)
    kinds = {name: features.get(name, {}).get("_type") for name in table.column_names}
    images = [field.name for field in table.schema if kinds[field.name] == "Image" or _is_image(field.type)]
    labels = [name for name in kinds if kinds[name] == "ClassLabel"]
    labels = labels or [field.name for field in table.schema if pa.types.is_integer(field.type)]
    label = _chosen("label", request.label, labels, table.column_names)
    names = features.get(label, {}).get("names")
    return _Columns(
        _chosen("image", request.image, images, table.column_names),
        label,
        [str(name) for name in names] if isinstance(names, list) else [],
    )


def _features(table: pa.Table) -> dict[str, dict[str, Any]]:
    """What the metadata say of each column."""
    try:
        features = json.loads((table.schema.metadata or {})[METADATA])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}  # a table without metadata, or with another program's


def _is_image(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def _chosen(what: str, given: str | None, fitting: list[str], every: Sequence[str]) -> str:
    """The column of images or labels: the one that was given, or the only one that fits."""
    if given is not None:
        if given not in every:
            raise UserError(f"dataset 'hf' has no column '{given}'", remedy=nearest(given, every))
        return given
    if len(fitting) != 1:
        found = (
            f"several columns of {what}s: {', '.join(fitting)}" if fitting else f"no column of {what}s that is known"
        )
        message = f"dataset 'hf' has {found}"
        raise UserError(message, remedy=f"Set `{what}:` to one of its columns: {', '.join(every)}")
    return fitting[0]


def _labels(table: pa.Table, name: str) -> np.ndarray:
    """The labels, (N,) int64."""
    column = table.column(name)
    if not pa.types.is_integer(column.type) or column.null_count or not len(column):
        what = f"{column.type}, {column.null_count} of {len(column)} empty"
        raise UserError(f"the labels in column '{name}' are {what}", remedy="Set `label:` to a column of integers")
    labels = column.to_numpy().astype(np.int64)
    if labels.min() < 0:
        message = f"column '{name}' has the label {labels.min()}"
        raise UserError(message, remedy="The labels of this split are not published: choose another with `split:`")
    return labels


def _images(table: pa.Table, name: str, request: Request, chosen: Sequence[int]) -> np.ndarray:
    column = table.column(name)
    if not _is_image(column.type):
        message = f"column '{name}' holds {column.type}, no encoded images"
        raise UserError(message, remedy="Set `image:` to a column of the feature Image")

    def decoded(row: int) -> np.ndarray:
        content = column[row].as_py()
        encoded = content and content["bytes"]
        if not encoded:
            message = f"image {row} of column '{name}' is only named, by the path {content and content['path']}"
            raise UserError(message, remedy="Save the dataset with its images: cast them, or use save_to_disk")
        try:
            return decode(io.BytesIO(encoded), request.transform)
        except UserError as error:
            raise UserError(f"image {row} of column '{name}' {error.message}", remedy=error.remedy) from error

    return stack(len(column), chosen, decoded, lambda row: f"image {row}")
