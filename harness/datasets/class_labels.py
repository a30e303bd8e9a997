"""Assigns labels to class folders.

By default, label k is the k-th folder, and numbers in names are sorted as numbers: 2 comes before 10, and class_2
before class_10. `classes` overrides this with the names in the order of the labels (folders may be missing, as in a
subset of ImageNet), with the label of each folder, or with a file of names, one per line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from harness.errors import Place, UserError, nearest

Classes = Sequence[str] | Mapping[str, int] | Path
"""Names in the order of the labels, or the label of each name, or a file of names, one per line."""

NUMBER = r"[-+]?[0-9]+(\.[0-9]+)?"
MOST = 2**20
"""The largest number of classes."""

LARGEST_FILE = 2**24
"""The largest size of a file of names in bytes."""


@dataclass(frozen=True)
class ClassLabels:
    """The label of each class folder.

    Args:
        of: the label of each existing folder, in the order of the labels.
        num_classes: the number of all labels; None if it is not known.
        how: how the labels were assigned, to complete the sentence "folders became labels ...".
        remark: a remark for the user, or "".
    """

    of: dict[str, int]
    num_classes: int | None
    how: str
    remark: str = ""

    @property
    def names(self) -> list[str]:
        """The name of each label; its number if it has no folder."""
        count = self.num_classes or max(self.of.values()) + 1
        folders = {label: folder for folder, label in reversed(self.of.items())}
        return [folders.get(label, str(label)) for label in range(count)]


def label_folders(folders: Sequence[str], classes: Classes | None, num_classes: int | None) -> ClassLabels:
    """The labels of class folders.

    Args:
        folders: the names of the folders, each once.
        classes: the user's assignment, if any.
        num_classes: the number of labels, of which the folders may have only some.

    Raises:
        UserError: `classes` does not name a folder, names and labels do not fit each other, or the labels of the
            folders cannot be determined.
    """
    if classes is None:
        return _in_order(folders, num_classes)
    if isinstance(classes, Path):
        classes = _read(classes)
    labels = dict(classes) if isinstance(classes, Mapping) else _positions(classes)
    if num_classes is None and not isinstance(classes, Mapping):
        num_classes = len(labels)
    for name, label in labels.items():
        if not 0 <= label < (num_classes or MOST):
            message = f"'classes' gives '{name}' the label {label}, of at most {num_classes or MOST:,} classes"
            raise UserError(message, remedy="Labels count from 0; set `num_classes:`")
    for folder in folders:
        if folder not in labels:
            raise UserError(f"'classes' does not name the folder '{folder}'", remedy=nearest(folder, labels))
    return ClassLabels(_sorted({folder: labels[folder] for folder in folders}), num_classes, "as `classes` says")


def _in_order(folders: Sequence[str], num_classes: int | None) -> ClassLabels:
    """Assigns label k to the k-th folder."""
    if num_classes not in (None, len(folders)):
        raise UserError(
            f"there are {len(folders)} class folders, and num_classes is {num_classes}",
            remedy="State the labels: add `classes:`, with the names of all classes in the order of their labels, "
            "or a mapping such as {cat: 3, dog: 5}",
        )
    numbers = all(re.fullmatch(NUMBER, folder) for folder in folders)
    order = _by_number(folders) if numbers else sorted(folders, key=_natural)
    how = f"in the order of their {'numbers' if numbers else 'names'}"
    return ClassLabels({folder: label for label, folder in enumerate(order)}, len(order), how, _remark(order))


def _by_number(folders: Sequence[str]) -> list[str]:
    order = sorted(folders, key=Decimal)
    for one, other in pairwise(order):
        if Decimal(one) == Decimal(other):
            raise UserError(f"the class folders '{one}' and '{other}' are the same number", remedy="Rename one")
    return order


def _natural(name: str) -> tuple[object, ...]:
    """A sort key in which runs of digits of any length count as numbers."""
    key: list[object] = []
    for at, part in enumerate(re.split("([0-9]+)", name)):
        key.append((len(part.lstrip("0")), part.lstrip("0")) if at % 2 else part)
    return (*key, name)


def _remark(order: list[str]) -> str:
    """A remark for the user if sorting the names as text gives a different order."""
    for one, other in zip(order, sorted(order), strict=True):
        if one != other:
            return (
                f"numbers in the names of class folders count as numbers: '{one}' has label {order.index(one)} and "
                f"'{other}' label {order.index(other)}. torchvision's ImageFolder sorts names as text; if the defenses "
                f"were trained with that order, state it with `classes:` under `dataset:`"
            )
    return ""


def _positions(names: Sequence[str]) -> dict[str, int]:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UserError(f"'{twice[0]}' appears twice among the classes", remedy="Remove one of them")
    return {name: label for label, name in enumerate(names)}


def _read(path: Path) -> list[str]:
    """Reads a file of names, one per line."""
    place = Place(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}", remedy="Give names, one per line, in the order of their labels")
    if path.stat().st_size > LARGEST_FILE:
        raise UserError("the file is too large for a file of class names", where=place)
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the names of classes cannot be read: {error}", where=place) from error
    if "" in names:
        line = names.index("") + 1
        raise UserError("the line is empty", remedy="Give one name per line", where=Place(path, line))
    return names


def _sorted(labels: dict[str, int]) -> dict[str, int]:
    return dict(sorted(labels.items(), key=lambda item: (item[1], item[0])))
