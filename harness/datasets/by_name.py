"""Finds, loads and checks datasets by name, as in the `dataset` section of a suite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from harness.config import registry
from harness.datasets.class_labels import MOST, Classes, ClassLabels
from harness.datasets.dataset import Dataset, Split
from harness.datasets.source import Known, Presence, Request, Rows, Source
from harness.datasets.spec import Dataset as Section
from harness.errors import UserError, one_line
from harness.process.foreign_code import is_theirs


def load(
    name: str,
    split: Split = "test",
    path: str | Path | None = None,
    *,
    offline: bool = False,
    classes: Classes | None = None,
    num_classes: int | None = None,
    base: Path | None = None,
    rows: Rows | None = None,
) -> Dataset:
    """Loads a dataset by name, see `harness.datasets.source`.

    Args:
        path: the folder, zip or npz file; for a torchvision dataset, a folder to use instead of the cache.
        offline: forbid downloads.
        classes: for class folders, the names in the order of their labels, see `harness.datasets.class_labels`.
        num_classes: for class folders or an npz file, the number of labels, if the images do not have all of them.
        base: the folder that a name such as `./mine.py:MyData` is relative to; without it, only datasets of this
            package can be loaded.
        rows: chooses the images to load, by default all.

    Example:
        >>> len(load("digits", "test"))
        500

    Raises:
        UserError: the name or split is unknown, or the files are missing and cannot be downloaded, are malformed, or do
            not fit `classes` and `num_classes`.
    """
    request = Request(split, Path(path).expanduser() if path else None, offline, classes, num_classes)
    return load_request(name, request, base, rows)


def load_section(section: Section, base: Path | None, rows: Rows | None = None, *, offline: bool = False) -> Dataset:
    """Loads what the `dataset` section of a suite names. base, rows, offline, errors: as for `load`."""
    return load_request(section.name, request_of(section, offline=offline), base, rows)


def request_of(section: Section, *, offline: bool = False) -> Request:
    """What the `dataset` section of a suite asks of its source."""
    return Request(
        section.split,
        section.path,
        offline,
        section.classes,
        section.num_classes,
        section.transform,
        section.repository,
        section.image,
        section.label,
    )


def load_request(name: str, request: Request, base: Path | None, rows: Rows | None = None) -> Dataset:
    """Loads a dataset by name. base, rows, errors: as for `load`."""
    source = find(name, base)
    _check(name, source, request)
    try:
        found = source.load(request) if rows is None else source.load_rows(request, rows)
        return replace(_sound(name, found), name=name, split=request.split)
    except UserError:
        raise
    except Exception as error:
        if not is_theirs(error):
            raise
        raise UserError(f"dataset '{name}' cannot be loaded: {one_line(error)}") from error


def find(name: str, base: Path | None = None) -> Source:
    """Finds the source of a dataset. base: as for `load`.

    Raises:
        UserError: there is no such source, or it cannot be imported or created.
    """
    if base is not None:
        cls = registry.find("datasets", name, base)
    else:
        try:
            with registry.built_in_only():
                cls = registry.find("datasets", name)
        except registry.Foreign as error:
            raise UserError(
                f"dataset '{name}' is code that does not come with this package", remedy="Name it in a suite"
            ) from error
    try:
        source: Source = cls()
    except Exception as error:
        if not is_theirs(error):
            raise
        raise UserError(f"dataset '{name}' cannot be loaded: {one_line(error)}") from error
    return source


def class_labels(name: str, request: Request, base: Path | None = None) -> ClassLabels | None:
    """The labels of class folders, or None for other datasets; opens no image. base, errors: as for `load`."""
    return find(name, base).class_labels(request)


def state() -> list[Presence]:
    """Which of this package's datasets are available, for those with a fixed place."""
    return list(_state())


def _state() -> Iterator[Presence]:
    for entry in registry.entries("datasets"):
        with suppress(registry.Foreign), registry.built_in_only():
            source: Source = registry.find("datasets", entry.name)()
            if presence := source.presence():
                yield Presence(entry.name, *presence)


def absent_dataset(name: str, request: Request | None = None) -> Known | None:
    """Facts about a dataset that is missing; None if it is available or has no known facts.

    Args:
        request: what a suite asks of it; a dataset at a path that the suite gives counts as available.
    """
    with suppress(UserError):
        source = find(name)
        if (presence := source.presence()) and not presence[0] and (request is None or request.path is None):
            size = request.transform.size if request else None
            return source.known and (
                source.known._replace(shape=(source.known.shape[0], *size)) if size else source.known
            )
    return None


def how_to_get(name: str) -> str:
    """What to do if a dataset of this package is missing, as a clause."""
    return find(name).how_to_get


def fixed(name: str) -> bool:
    """Whether name, split and index identify an image on every machine. Imports no code of a user."""
    with suppress(UserError):
        return find(name).fixed
    return False


def _check(name: str, source: Source, request: Request) -> None:
    """Raises UserError if this source does not accept the request."""
    if request.split not in source.splits:
        message = f"dataset '{name}' has no split that is called '{request.split}'"
        raise UserError(message, remedy=f"Valid names: {', '.join(source.splits)}")
    for key in request.given_keys():
        if key not in source.takes:
            what = "defines its own classes" if key in ("classes", "num_classes") else f"has no use for `{key}:`"
            raise UserError(f"dataset '{name}' {what}", remedy=f"Remove `{key}:`")
    if not source.needs_path:
        return
    if request.path is None:
        raise UserError(f"dataset '{name}' needs a path", remedy=f"Add `path:`, {source.summary}")
    if not request.path.exists():
        raise UserError(f"dataset '{name}': there is no file or folder {request.path}", remedy="Check the path")
    if not (request.path.is_file() or request.path.is_dir()):  # reading a pipe would never end
        raise UserError(f"dataset '{name}': {request.path} is neither a file nor a folder", remedy="Check the path")


def _sound(name: str, found: Dataset) -> Dataset:
    """A dataset, if it is what attacks and defenses rely on. Raises a UserError, which a user's own source may earn."""
    if not isinstance(found, Dataset):
        raise UserError(
            f"dataset '{name}': its source gives a {type(found).__name__}", remedy="Return a harness.datasets.Dataset"
        )
    images, labels = found.images, found.labels
    if images.dtype != torch.float32 or images.dim() != 4 or not images.numel():
        message = f"dataset '{name}': its images are {images.dtype} {tuple(images.shape)}"
        raise UserError(message, remedy="Give float32 (N, C, H, W) in [0, 1]")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        message = f"dataset '{name}': its labels are {labels.dtype} {tuple(labels.shape)}"
        raise UserError(message, remedy="Give one int64 per image, (N,)")
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise UserError(f"dataset '{name}': its images range from {low:g} to {high:g}", remedy="Give values in [0, 1]")
    most = MOST if found.num_classes is None else found.num_classes
    if labels.min() < 0 or labels.max() >= most:
        raise UserError(
            f"dataset '{name}': its labels range from {labels.min()} to {labels.max()}, and it has {most} classes",
            remedy="Labels count from 0",
        )
    return found
