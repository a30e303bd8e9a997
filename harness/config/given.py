"""A defense or an attack that was passed as a Python object instead of being described by a suite."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from harness.config.component import Component
from harness.config.yaml_file import Node
from harness.errors import Place, UserError, one_line

PREFIX = "Python object "
"""The beginning of the type of such a component in records. No type in a suite can begin like this."""


@dataclass(frozen=True)
class Given(Component):
    """An object in the place of an entry. It has no arguments: its identity consists of its code and its state.

    Args:
        instance: the object. Every `build` copies it, so that a run never changes it.
    """

    instance: Any = field(repr=False)

    @classmethod
    def of(cls, kind: str, name: str, instance: Any, title: str, place: Place) -> Given:
        """Creates the component for an object.

        Args:
            kind: "defenses" or "attacks".
            name: its name in the run.
            title: its name in reports, and the name of its class or function in records.
            place: the line of the call that it was passed to.
        """
        return cls(kind, name, f"{PREFIX}{title}", type(instance), {}, None, place, Node.of({}, place), instance)

    def build(self) -> Any:
        """A copy of the object, on the CPU.

        Raises:
            UserError: it cannot be copied.
        """
        try:
            built = copy.deepcopy(self.instance)
        except Exception as error:  # copying a user's object may raise anything
            raise UserError(
                f"{self.title} cannot be copied: {one_line(error)}",
                remedy="Remove what it keeps from earlier calls, such as tensors with a gradient, open files or locks",
                where=self.place,
            ) from error
        return built.cpu() if isinstance(built, nn.Module) else built


def is_given(written: str) -> bool:
    """Whether a type in a record names an object that was passed in Python, which cannot be built from the record."""
    return written.startswith(PREFIX)
