"""What an experiment tracker must do to record a run."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import ModuleType

from harness.errors import UserError


class Recorder(ABC):
    """A place that keeps the numbers of one run. Its methods are called in this order, `record` many times."""

    @abstractmethod
    def begin(self, name: str, facts: Mapping[str, str]) -> None:
        """A run starts, or goes on. name: of its suite; facts: what it is, by name."""

    @abstractmethod
    def record(self, numbers: Mapping[str, float], step: int) -> None:
        """Numbers by name. All of one call begin alike, up to the last "/". step: it never falls for one name."""

    @abstractmethod
    def end(self, text: str) -> None:
        """The run has ended. text: its table, in Markdown."""


def required(package: str, extra: str) -> ModuleType:
    """Imports a package that only this recorder needs.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"the package '{package}' is not installed ({error})",
            remedy=f"Install it: pip install 'adversarial-harness[{extra}]'",
        ) from error
