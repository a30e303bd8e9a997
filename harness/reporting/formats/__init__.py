"""What a report can be written as: one file for each format, called as `--format` calls it.

    def render(tables: list[Table], images: int | None = None) -> Rendered: ...
    BESIDE = "report.html"      optional: where in the results directory the command writes it, unless told otherwise

`tables` are those of all runs, by path; `images` is how many of each pairing a page shows. What `render` returns is
text that ends in a newline, what rich renders, or files by name. There is no list to extend.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Union

from harness.errors import UserError, nearest

if TYPE_CHECKING:
    from rich.console import Group

Rendered = Union[str, "Group", Mapping[str, bytes]]


def names() -> list[str]:
    """Every format, in the order of names. Imports none of them.

    Example:
        >>> {"csv", "html", "md"} <= set(names())
        True
    """
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


def find(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        UserError: there is no such format.
    """
    if name not in names():
        raise UserError(f"there is no report format '{name}'", remedy=nearest(name, names()))
    return importlib.import_module(f"{__name__}.{name}")
