"""The experiment trackers: one file for each, with the name that `--log NAME:WHERE` takes.

WHERE = "a folder"                      what WHERE is
def recorder(where: str) -> Recorder    raises UserError if its package is not installed
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from harness.errors import UserError, nearest


def names() -> list[str]:
    """The names of all trackers, sorted. Imports none of them.

    Example:
        >>> names()
        ['mlflow', 'tensorboard', 'wandb']
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> ModuleType:
    """The module of a tracker. Raises UserError if there is none of this name."""
    if name not in names():
        raise UserError(f"there is no experiment tracker '{name}'", remedy=nearest(name, names()))
    return importlib.import_module(f"{__name__}.{name}")
