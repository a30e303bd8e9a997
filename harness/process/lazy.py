"""Names that a package re-exports from its modules, imported when they are first used.

Otherwise a package's `__init__.py` would import torch even for users of a module that does not need it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def lazy(package: str, places: dict[str, str]) -> Callable[[str], Any]:
    """Makes a `__getattr__` for a module (PEP 562).

    Args:
        package: the name of the module that gets the `__getattr__`.
        places: for each name, the module that defines it.

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
