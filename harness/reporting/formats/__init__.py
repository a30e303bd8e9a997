"""The formats of a report: one file for each, with the name that `--format` takes.

    def render(tables: list[Table], images: int | None = None) -> Rendered: ...
    BESIDE = "report.html"      optional: the place in the results directory that the command writes by default
    JUDGES = True               optional: `render` takes `judgements`, too: what `--fail-under` requires, and what came
    LINKS = True                optional: `render` takes `folder`, too: where the file will lie, to link what lies below

`tables` are the tables of all runs, in the order of their paths; `images` is the number of images of each pairing that
a page shows. `render` returns text that ends in a newline, an object that rich renders, or files by name. Formats are
found by the names of their files: there is no list to extend.
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
    """The names of all formats, sorted. Imports none of them.

    Example:
        >>> {"csv", "html", "md"} <= set(names())
        True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        UserError: there is no such format.
    """
    if name not in names():
        raise UserError(f"there is no report format '{name}'", remedy=nearest(name, names()))
    return importlib.import_module(f"{__name__}.{name}")
