"""What lies at a path and near it, for messages about a path at which a dataset was not found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from harness.errors import UserError
from harness.settings import data_root

DEEP, MANY = 3, 1000
"""Folders below a path are searched for a better one to name: so deep, and so many of them."""

ABOVE = 3
"""So many folders above a path are searched too."""

SHOWN = 5
"""The largest number of files and folders to name."""


def not_there(
    dataset: str, path: Path, missing: str, fits: Callable[[Path], bool], completed: str | None = None
) -> UserError:
    """The error of a dataset that downloads itself and is not at the path that a suite gives.

    Args:
        dataset: its name.
        missing: what the path does not hold.
        fits: whether a folder holds all of it.
        completed: how the path gets the rest, if it holds a part of it: the beginning of a sentence.
    """
    what = f"it does not hold {missing}; " if path.exists() else ""
    better = near(path, fits)
    give = f"Give {better}" if better else completed or "Give the folder that does"
    return UserError(
        f"dataset '{dataset}' is not in {path}: {what}{holds(path)}",
        remedy=f"{give}, or leave `path:` out: it is then downloaded to {data_root() / dataset}",
    )


def holds(path: Path) -> str:
    """What a path holds, to complete a sentence about it: "it holds a.txt, b/ and 3 more", "it is an empty folder"."""
    if path.is_file():
        return "it is a file"
    if not path.is_dir():
        return "there is no such file or folder"
    try:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in islice(os.scandir(path), MANY))
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if not names:
        return "it is an empty folder"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"it holds {', '.join(names[:SHOWN])}{more}"


def near(path: Path, fits: Callable[[Path], bool]) -> Path | None:
    """The first folder below a path, or above it, that fits; below in the order of names, above the nearest."""
    above = list(path.absolute().parents)[:ABOVE]
    return next((folder for folder in (*below(path), *above) if fits(folder)), None)


def below(path: Path) -> Iterator[Path]:
    """Folders from a path downwards, in the order of their names, as many as `DEEP` and `MANY` allow."""
    start = len(path.parts)
    for place, folders, _ in islice(os.walk(path), MANY):
        folders[:] = sorted(folders) if len(Path(place).parts) - start < DEEP else []
        yield Path(place)
