"""Names that a package hands on from its modules, imported when they are first used.

A package's `__init__.py` would otherwise import torch for everyone who wants one light module beside the heavy ones.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def lazy(package: str, places: dict[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` (PEP 562).

    Args:
        package: the module's own name.
        places: the module that defines each name.

    Example:
        >>> find = lazy("example", {"sqrt": "math"})
        >>> find("sqrt")(16.0)
        4.0
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(places[name]), name)

    return find
